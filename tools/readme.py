"""Print README.md as a package index shows it: its links lead to the repository.

    python tools/readme.py [--at REVISION] > README.md

An index shows the text and none of the files beside it, so a relative link would lead nowhere.
The repository's address is `Source` under `project.urls` in pyproject.toml, and nowhere else.
Without it a link becomes its text, and a picture is left out with its caption, the paragraph in
emphasis below it. `./dev wheels` does this to the sdist (`convert`), of which it builds the wheels.
"""

import argparse
import io
import re
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
# A picture; the definition of a link; a link.
PART = re.compile(
    r"!\[(?P<title>[^\]]*)\]\((?P<picture>[^)]+)\)(?P<caption>\n\n\*[^*]+\*$)?"
    r"|^\[(?P<name>[^\]]+)\]: (?P<defined>\S+)$"
    r"|\[(?P<text>[^\]]+)\](?:\((?P<target>[^)]+)\)|\[(?P<reference>[^\]]+)\])",
    re.MULTILINE,
)
ABSOLUTE = re.compile(r"[a-z]+:|#")


def for_an_index(text: str, repository: str = "", at: str = "HEAD") -> str:
    """The text with links into the repository's files as they are at that revision."""
    base = repository.rstrip("/")

    def address(path: str, kind: str) -> str:
        return path if ABSOLUTE.match(path) else f"{base}/{kind}/{at}/{path}"

    def kept(path: str) -> bool:
        return bool(base or ABSOLUTE.match(path))

    definitions = {m["name"]: m["defined"] for m in PART.finditer(text) if m["name"]}

    def part(found: re.Match[str]) -> str:
        if path := found["picture"]:
            caption = found["caption"] or ""
            return f"![{found['title']}]({address(path, 'raw')}){caption}" if kept(path) else ""
        if path := found["defined"]:
            return f"[{found['name']}]: {address(path, 'blob')}" if kept(path) else ""
        if path := found["target"]:
            return f"[{found['text']}]({address(path, 'blob')})" if kept(path) else found["text"]
        return found[0] if kept(definitions[found["reference"]]) else found["text"]

    pieces = CODE.split(text)  # every second one is a block of code, which stays as it is
    pieces[::2] = [re.sub(r"\n{3,}", "\n\n", PART.sub(part, piece)) for piece in pieces[::2]]
    return "".join(pieces).rstrip() + "\n"


def repository() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project.get("urls", {}).get("Source", "")


def convert(sdist: Path, address: str, at: str) -> None:
    """Give the archive such a README.md, and its metadata the same description."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
        contents = {m.name: archive.extractfile(m).read() for m in members if m.isfile()}
    top = members[0].name.partition("/")[0]
    old = contents[f"{top}/README.md"]
    new = for_an_index(old.decode(), address, at).encode()
    metadata = contents[f"{top}/PKG-INFO"]
    if old not in metadata:
        raise ValueError(f"PKG-INFO of {sdist.name} does not have README.md as its description")
    contents[f"{top}/README.md"] = new
    contents[f"{top}/PKG-INFO"] = metadata.replace(old, new)
    with tarfile.open(sdist, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if member.isfile():
                member.size = len(contents[member.name])
                archive.addfile(member, io.BytesIO(contents[member.name]))
            else:
                archive.addfile(member)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--at", default="HEAD", help="the revision that links lead to")
    chosen = parser.parse_args()
    print(for_an_index((ROOT / "README.md").read_text(), repository(), chosen.at), end="")


if __name__ == "__main__":
    main()
