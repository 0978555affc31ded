"""Judge what Sphinx's linkcheck found: dead links, and links that could not be asked.

    python tools/links.py FOLDER/linkcheck/output.json

A link is dead if its host answered that there is no such page, or if the page lacks the heading.
A host that did not answer (no network, a time-out, a limit on requests, a server's own error) says
nothing of the link: it is listed, to be asked again, and is no failure.
"""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

# 404 and 410 and the like; but 401, 403, 405, 408 and 429 are the host's way with programs that ask.
DEAD = re.compile(r"^4(?!01|03|05|08|29)\d\d |^Anchor '")


def judged(found: Iterable[dict[str, str]]) -> dict[str, list[str]]:
    """The links under "alive", "moved", "not asked" and "dead", each with its place."""
    result: dict[str, list[str]] = {"alive": [], "moved": [], "not asked": [], "dead": []}
    for link in found:
        status, info = link["status"], link["info"]
        if status in ("unchecked", "local", "ignored"):
            continue
        if status == "working":
            verdict = "alive"
        elif status == "redirected":
            verdict = "moved"
        else:
            verdict = "dead" if DEAD.match(info) else "not asked"
        place = f"{link['filename']}:{link['lineno']}: {link['uri']}"
        result[verdict].append(f"{place}  {info}".rstrip())
    return result


def main() -> int:
    lines = Path(sys.argv[1]).read_text().splitlines()
    result = judged(json.loads(line) for line in lines)
    for verdict, links in result.items():
        print(f"{len(links)} {verdict}")
        if verdict != "alive":
            print(*(f"  {link}" for link in links), sep="\n", end="\n" if links else "")
    return bool(result["dead"])


if __name__ == "__main__":
    sys.exit(main())
