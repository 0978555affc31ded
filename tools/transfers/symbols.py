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
        starts, sizes, names = table(path)
        relative = address - (self.bases.get(path, 0) if is_movable(path) else 0)
        at = bisect.bisect_right(starts, relative) - 1
        # A stripped file has no names for what it keeps to itself.
        if at < 0 or relative >= starts[at] + max(sizes[at], 1):
            return f"{Path(path).name}+{relative:#x}" if offset else Path(path).name
        beyond = relative - starts[at]
        return names[at] + (f"+{beyond}" if offset and beyond else "")


@cache
def is_movable(path: str) -> bool:
    """Whether the file's addresses count from where it is mapped."""
    with Path(path).open("rb") as file:
        return file.read(18)[16] == 3  # ET_DYN


@cache
def table(path: str) -> tuple[list[int], list[int], list[str]]:
    """The file's symbols in their order, where they begin and how long they are.

    All of them; of a stripped file those for the linker.
    """
    entries: list[tuple[int, int, str]] = []
    for options in ((), ("-D",)):
        command = ["nm", "-S", "--defined-only", *options, path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        entries = sorted(
            (int(parts[0], 16), int(parts[1], 16), parts[3].split("@")[0])
            for line in done.stdout.splitlines()
            if len(parts := line.split()) == 4
        )
        if entries:
            break
    return [e[0] for e in entries], [e[1] for e in entries], [e[2] for e in entries]
