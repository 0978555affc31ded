"""The memory of a map, filled and emptied again: `SyncMap` beside `dict`.

Two figures: the map's own bytes by `sys.getsizeof`, and the bytes of the whole process.
"""

from __future__ import annotations

import argparse
import gc
import sys
from typing import TYPE_CHECKING, Any

import apart
from mapkeys import KINDS, int_key

from nogil_sync import SyncMap

if TYPE_CHECKING:
    from collections.abc import Callable

MAPS: dict[str, Callable[..., Any]] = {"dict": dict, "SyncMap": SyncMap}
SIZES, EMPTIED = "sizes", "emptied "
CLEARED = ", by clear()"

# Sizes between two growths of a dict, which grows at 2/3 of powers of two.
PARTS_OF_ENTRIES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def bytes_each(make: Callable[[], Any], kind: str, counts: list[int]) -> list[float]:
    """Bytes per entry of one map as it grows, at these numbers of entries."""
    m, found, key = make(), [], KINDS[kind]
    for number in range(counts[-1]):
        m[key(number)] = None
        if number + 1 in counts:
            found.append(sys.getsizeof(m) / (number + 1))
    return found


def sizes(args: argparse.Namespace) -> apart.Result:
    small = [0, 1, 8, 64, 512]
    counts = sorted({max(1, round(args.entries * part)) for part in PARTS_OF_ENTRIES})
    found: apart.Result = {"small": small, "counts": counts}
    for name, make in MAPS.items():
        found[f"{name} small"] = [sys.getsizeof(make((i, i) for i in range(n))) for n in small]
        for kind in ("str", "int"):
            found[f"{name} {kind}"] = bytes_each(make, kind, counts)
    return found


def emptied(name: str, entries: int) -> apart.Result:
    m = MAPS[name.removesuffix(CLEARED)]()
    gc.collect()
    found: apart.Result = {"before": apart.resident(), "empty": sys.getsizeof(m)}
    for number in range(entries):
        m[int_key(number)] = None
    found |= {"full": apart.resident(), "peak": sys.getsizeof(m)}
    if name.endswith(CLEARED):
        m.clear()
    else:
        for number in range(entries):
            del m[int_key(number)]
    assert not m
    gc.collect()
    return found | {"after": apart.resident(), "left": sys.getsizeof(m)}


def measure(name: str, args: argparse.Namespace) -> apart.Result:
    return sizes(args) if name == SIZES else emptied(name.removeprefix(EMPTIED), args.emptied)


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    of = found[SIZES][0]
    print("Bytes an entry of the map itself\n")
    rows = []
    for kind in ("str", "int"):
        mine, theirs = of[f"SyncMap {kind}"], of[f"dict {kind}"]
        rows += [
            [f"{name} of {kind}", *(f"{b:.1f}" for b in of[f"{name} {kind}"])] for name in MAPS
        ]
        rows.append(["  ratio", *(f"{a / b:.2f}" for a, b in zip(mine, theirs, strict=True))])
    apart.table(["entries", *of["counts"]], rows)
    print("\nBytes of small maps\n")
    apart.table(["entries", *of["small"]], [[name, *of[f"{name} small"]] for name in MAPS])
    print(f"\n{args.emptied} entries of int stored, then deleted: bytes, and MiB of the process\n")
    rows = []
    for name, rounds in found.items():
        if name != SIZES:
            r = min(rounds, key=lambda r: r["after"])
            part = f"{r['left'] / r['peak'] * 100:.3f} %"
            memory = [f"{r[key] / 2**20:.1f}" for key in ("before", "full", "after")]
            rows.append([name.removeprefix(EMPTIED), r["peak"], r["left"], part, *memory])
    apart.table(["", "full", "left", "of full", "before", "full", "after"], rows)


def names(args: argparse.Namespace) -> list[str]:  # noqa: ARG001
    return [SIZES, *(EMPTIED + name + how for how in ("", CLEARED) for name in MAPS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000, help="for bytes an entry")
    parser.add_argument("--emptied", type=int, default=10_000_000, help="to store and delete")
    apart.main(parser, names, measure, show)
