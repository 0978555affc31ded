"""What lies at an address of a program: the file that is mapped there, and the symbol."""

from __future__ import annotations

import bisect
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Mapping(NamedTuple):
    """A line of /proc/…/maps."""

    begin: int
    end: int
    offset: int
    path: str


class Symbols:
    """Names for the addresses of one process."""

    def __init__(self, maps: list[Mapping]) -> None:
        self.maps = sorted(maps)
        self.begins = [each.begin for each in self.maps]
        self.bases: dict[str, int] = {}
        for each in self.maps:
            if each.path.startswith("/") and each.offset == 0:
                self.bases.setdefault(each.path, each.begin)

    def file(self, address: int) -> str:
        """The path of the file that is mapped there; empty for other memory."""
        at = bisect.bisect_right(self.begins, address) - 1
        found = at >= 0 and address < self.maps[at].end and self.maps[at].path.startswith("/")
        return self.maps[at].path if found else ""

    def name(self, address: int, *, offset: bool = True) -> str:
        """The symbol there, and the bytes from its beginning."""
        path = self.file(address)
        if not path:
            return hex(address)
        starts, names = table(path)
        relative = address - (self.bases.get(path, 0) if is_movable(path) else 0)
        at = bisect.bisect_right(starts, relative) - 1
        if at < 0:
            return f"{Path(path).name}+{relative:#x}"
        beyond = relative - starts[at]
        return names[at] + (f"+{beyond}" if offset and beyond else "")


@cache
def is_movable(path: str) -> bool:
    """Whether the file's addresses count from where it is mapped."""
    with open(path, "rb") as f:
        return f.read(18)[16] == 3  # ET_DYN


@cache
def table(path: str) -> tuple[list[int], list[str]]:
    """The file's symbols in their order: all, or if it is stripped those for the linker."""
    entries: list[tuple[int, str]] = []
    for options in ((), ("-D",)):
        command = ["nm", "--defined-only", *options, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            address, *kind, name = line.split()
            if kind and kind[0] not in "aAn":
                entries.append((int(address, 16), name.split("@")[0]))
        if entries:
            break
    entries.sort()
    return [address for address, _ in entries], [name for _, name in entries]
