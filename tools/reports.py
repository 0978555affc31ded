"""Sums up the sanitizers' reports in a folder; fails if there are any.

A report without a frame of ours may still be our fault: a lock that does not order accesses shows as a race on the data
that it guards.
"""

import re
import sys
from collections import Counter
from pathlib import Path

# A line of a stack, and the marks of our frames in it: the extension's file or its sources.
FRAME = re.compile(r"^\s+#\d+ (?:0x[0-9a-f]+ in )?(.*)$")
OURS = re.compile(r"nogil_sync/_native|_native/_core\b|_core\.cpython-")
BEGIN = re.compile(r"WARNING: ThreadSanitizer|ERROR: AddressSanitizer|runtime error:")


def reports(text: str) -> list[list[str]]:
    found: list[list[str]] = []
    for line in text.splitlines():
        if BEGIN.search(line):
            found.append([])
        if found:
            found[-1].append(line)
    return found


def main() -> int:
    ours: list[list[str]] = []
    others: Counter[str] = Counter()
    for path in sorted(Path(sys.argv[1]).iterdir()):
        for report in reports(path.read_text(errors="replace")):
            frames = [match[1] for line in report if (match := FRAME.match(line))]
            if any(OURS.search(line) for line in [report[0], *frames]):
                ours.append(report)
            else:
                own = [f for f in frames if not re.search(r"lib[a-z]+san|\.\./sysdeps", f)]
                what = re.sub(r"==\d+==|\(pid=\d+\)", "", report[0]).strip()
                others[f"{what}: {own[0] if own else '?'}"] += 1
    for report in ours[:10]:
        print("\n".join(report))
    for what, count in others.most_common(20):
        print(f"  {count:5} times, no frame of ours: {what}")
    print(
        f"sanitizer reports: {len(ours)} with a frame of ours, {others.total()} without ({sys.argv[1]})"
    )
    return 1 if ours or others else 0


if __name__ == "__main__":
    sys.exit(main())
