"""What lies at an address of a program: the file that is mapped there, and the symbol."""

from __future__ import annotations

import bisect
import struct
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

LARGE = 4096


class Mapping(NamedTuple):
    """A line of /proc/…/maps."""

    begin: int
    end: int
    offset: int
    path: str


def read_maps(lines: Iterable[str]) -> list[Mapping]:
    """The mappings of a process, from the lines of its /proc/…/maps."""
    maps = []
    for line in lines:
        parts = line.split()
        begin, end = (int(part, 16) for part in parts[0].split("-"))
        maps.append(Mapping(begin, end, int(parts[2], 16), parts[5] if len(parts) > 5 else ""))
    return maps


class Symbols:
    """Names for the addresses of one process."""

    def __init__(self, maps: list[Mapping]) -> None:
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        for each in sorted(maps):
            if each.path.startswith("/"):
                begins.setdefault(each.path, each.begin)
                ends[each.path] = each.end
        self.images = []
        for path, begin in begins.items():
            _, size = image(path)
            # What is zero at the start follows the file's own pages, and is mapped without a name.
            self.images.append((begin, max(begin + size, ends[path]), path))
        self.images.sort()

    def image(self, address: int) -> tuple[int, str]:
        """Where the file's image begins that the address lies in, and its path; or 0 and ""."""
        at = bisect.bisect_right(self.images, (address, sys.maxsize, "")) - 1
        if at >= 0 and address < self.images[at][1]:
            return self.images[at][0], self.images[at][2]
        return 0, ""

    def file(self, address: int) -> str:
        """The path of the file whose image the address lies in; empty for other memory."""
        return self.image(address)[1]

    def name(self, address: int, *, offset: bool = True) -> str:
        """The symbol there, and the bytes from its beginning."""
        begin, path = self.image(address)
        if not path:
            return hex(address)
        starts, sizes, names = table(path)
        movable, _ = image(path)
        relative = address - (begin if movable else 0)
        at = bisect.bisect_right(starts, relative) - 1
        # A stripped file has no names for what it keeps to itself.
        if at < 0 or relative >= starts[at] + max(sizes[at], 1):
            return f"{Path(path).name}+{relative:#x}" if offset else Path(path).name
        beyond = relative - starts[at]
        # Places in a large array are one.
        offset = offset and sizes[at] <= LARGE
        return names[at] + (f"+{beyond}" if offset and beyond else "")


@cache
def image(path: str) -> tuple[bool, int]:
    """Whether a program's or library's addresses count from its beginning, and its size there."""
    with Path(path).open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return True, 0
        (kind,) = struct.unpack_from("<H", head, 16)
        (offset,) = struct.unpack_from("<Q", head, 32)
        each, count = struct.unpack_from("<HH", head, 54)
        file.seek(offset)
        parts = file.read(each * count)
    begins, ends = [], []
    for at in range(0, len(parts), each):
        what, _, _, address, _, _, size = struct.unpack_from("<IIQQQQQ", parts, at)
        if what == 1:  # PT_LOAD
            begins.append(address & ~0xFFF)
            ends.append(address + size)
    return kind == 3, max(ends) - min(begins)  # 3: ET_DYN


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
