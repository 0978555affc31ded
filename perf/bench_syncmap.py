"""One map for all threads: `SyncMap` beside `dict`, alone and under a lock.

Each thread looks up key objects of its own, which equal the stored ones (mapkeys.py). A few
operations are in the quick preset; the rest, with the mixes of Go's `map_bench_test.go`, need
`--full` or `--only`.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mapkeys import FIRST, KINDS, fresh, stored, values
from rows import LOOP_ALONE, Kind, Operation, Row, pinned
from suite import main

import nogil_sync
from nogil_sync import SyncMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[[], Any]

# The tests of the benchmarks divide the sizes of maps by this.
SHRINK = int(os.environ.get("NOGIL_SYNC_BENCH_SHRINK", "1"))
SPREAD = 16_384 // SHRINK
SIZES = (100, 10_000, 1_000_000)

# Each thread looks up at most this many different keys.
SAMPLE = 1 << 16


def contenders(peers: list[str]) -> Iterator[tuple[str, Kind, Make]]:
    """All that have dict's interface."""
    yield "dict", "stdlib", dict
    if "ft_utils" in peers:
        ft_utils = importlib.import_module("ft_utils.concurrency")
        yield "ft_utils ConcurrentDict", "peer", ft_utils.ConcurrentDict
    if "cereggii" in peers:
        yield "cereggii AtomicDict", "peer", importlib.import_module("cereggii").AtomicDict
    yield "SyncMap", "ours", SyncMap


def filled(make: Make, kind: str, count: int, kept: list[object] | None = None) -> Any:
    m = make()
    for key, value in zip(stored(kind, count), kept or values(count), strict=True):
        m[key] = value
    return m


@functools.cache
def kept(make: Make, kind: str, count: int) -> Any:
    """A map that is only read: made once for all rows."""
    return filled(make, kind, count)


@functools.cache
def pinned_values(count: int) -> list[object]:
    return [nogil_sync.pin(object()) for _ in range(count)]


def variants(body: str, rows: Callable[[Make], Row], peers: list[str]) -> Iterator[Row]:
    """A row with this body for each kind of map; `rows` makes a row without body for one kind."""
    for name, kind, make in contenders(peers):
        row = replace(rows(make), name=name, kind=kind, body=body)
        if name == "dict":
            yield row
            yield under_lock(row)
            continue
        yield row
        if name == "SyncMap" and nogil_sync.backend == "native":
            yield pinned(row, "m")


def under_lock(row: Row, body: str | None = None) -> Row:
    """The dict's row with each operation under one lock that all threads share."""
    lines = (body or row.body).strip().splitlines()
    return replace(
        row,
        name="dict and Lock",
        body="with lock:\n" + "\n".join(f"    {line}" for line in lines),
        sized=lambda threads: {"lock": threading.Lock()},  # noqa: ARG005
    )


# ---- Lookups, and stores over existing keys ----

# Hashes are computed, and keys are in the processor's caches, before the clock starts.
OWN_KEYS = "keys = fresh(kind, count, of)\nfor k in keys: m[k]\nv = object()"


def existing(
    kind: str, size: int, *, count: int = 0, read_only: bool = False
) -> Callable[[Make], Row]:
    """Rows that use existing keys, `count` of them if it is given."""
    how: dict[str, object] = {"fresh": fresh, "kind": kind, "count": count or size, "of": size}

    def row(make: Make) -> Row:
        fill = kept if read_only else filled
        return Row(
            "",
            "ours",
            "",
            lambda: {"m": fill(make, kind, size), **how},
            OWN_KEYS,
            through="keys",
        )

    return row


def keys_alone(row: Row) -> Row:
    """The loop over the keys alone, without an operation."""
    return replace(row, name="loop alone", kind="floor", body="pass")


def with_values_pinned(row: Row, kind: str, size: int) -> Iterator[Row]:
    """The same with the values pinned as well: a lookup then writes to nothing shared."""
    if nogil_sync.backend == "native":

        def shared() -> dict[str, object]:
            m = nogil_sync.pin(filled(SyncMap, kind, size, pinned_values(size)))
            return {**row.shared(), "m": m}

        yield replace(row, name="SyncMap, pinned like its values", kind="ours", shared=shared)


def lookups(
    name: str, kind: str, size: int, peers: list[str], *, count: int = 0, quick: bool = False
) -> Operation:
    rows = existing(kind, size, count=count, read_only=size > SPREAD)
    shown = [*variants("m[k]", rows, peers)]
    if size > SPREAD:  # a kept map is in all rows, so pinning it would pin it in all
        shown = [row for row in shown if not row.name.endswith("pinned")]
    else:
        shown += with_values_pinned(replace(rows(SyncMap), body="m[k]"), kind, size)
    ours = replace(
        rows(SyncMap),
        name="SyncMap.get, bound method",
        body="get(k)",
        prologue=f"{OWN_KEYS}\nget = m.get",
    )
    return Operation(name, "dict", (keys_alone(rows(dict)), *shown, ours), quick=quick)


STORES = """\
turn += 1
if turn % {every}:
    m[k]
else:
    m[k] = v
"""


def stores(name: str, every: int, peers: list[str], *, quick: bool = False) -> Operation:
    rows = existing("str", SPREAD)
    body = "m[k] = v" if every == 1 else STORES.format(every=every)
    prologue = f"{OWN_KEYS}\nturn = 0"

    def counting(make: Make) -> Row:
        return replace(rows(make), prologue=prologue)

    shown = variants(body, counting, peers)
    return Operation(name, "dict", (keys_alone(rows(dict)), *shown), quick=quick)


# ---- Keys of each thread's own: insertion, deletion, and what iterates meanwhile ----

# Each thread has a million numbers to itself.
OWN_RANGE = f"first = {FIRST} + 1_000_000 * (1 + next(numbers))\nv = object()"
OWN_CHURN = (
    f"{OWN_RANGE}\nkeys = [f'key:{{first + i}}' for i in range(1024)]\nfor k in keys: hash(k)"
)


def churning(size: int, prologue: str = OWN_CHURN) -> Callable[[Make], Row]:
    """Rows in which each thread inserts and deletes its own keys; others stay in the map."""

    def row(make: Make) -> Row:
        return Row(
            "",
            "ours",
            "",
            lambda: {"m": filled(make, "str", size), "numbers": itertools.count()},
            prologue,
            through="keys",
        )

    return row


def churn(name: str, size: int, peers: list[str], *, quick: bool = False) -> Operation:
    rows = churning(size)
    shown = variants("m[k] = v\ndel m[k]", rows, peers)
    return Operation(name, "dict", (keys_alone(rows(dict)), *shown), quick=quick)


ITERATING = """\
m[k] = v
del m[k]
turn += 1
if not turn % 1024:
    for _ in {items}:
        pass
"""


def iteration() -> Operation:
    """One iteration over 1024 items for every 1024 insertions and deletions."""
    rows = churning(1024, f"{OWN_CHURN}\nturn = 0")
    dicts = replace(
        rows(dict), name="dict, a list of its items", body=ITERATING.format(items="list(m.items())")
    )
    locked = under_lock(dicts, "m[k] = v\ndel m[k]")
    listed = "\nturn += 1\nif not turn % 1024:\n    with lock:\n        items = list(m.items())"
    locked = replace(
        locked, kind="stdlib", body=f"{locked.body}{listed}\n    for _ in items:\n        pass"
    )
    body = ITERATING.format(items="m.items()")
    ours = [row for row in variants(body, rows, []) if row.kind == "ours"]
    shown = (keys_alone(dicts), replace(dicts, kind="stdlib"), locked, *ours)
    return Operation(
        "SyncMap, iteration while all threads insert and delete", dicts.name, shown, quick=False
    )


# ---- load_or_compute ----


def compute(hit: bool) -> Operation:
    """load_or_compute beside a dict and a lock, which computes under the lock."""
    rows = existing("str", SPREAD) if hit else churning(SPREAD)
    after, locked_after = ("", "") if hit else ("\ndel m[k]", "\n    del m[k]")
    locked = replace(
        rows(dict),
        name="dict and Lock",
        kind="stdlib",
        body="with lock:\n    if k not in m:\n        m[k] = object()\n    m[k]" + locked_after,
        sized=lambda threads: {"lock": threading.Lock()},  # noqa: ARG005
    )
    setdefault = replace(
        rows(dict), name="dict.setdefault", kind="stdlib", body=f"m.setdefault(k, object()){after}"
    )
    mine = replace(rows(SyncMap), name="SyncMap", body=f"m.load_or_compute(k, object){after}")
    native = nogil_sync.backend == "native"
    shown = [keys_alone(locked), locked, setdefault, mine, *([pinned(mine, "m")] if native else [])]
    what = "hit" if hit else "miss, then deleted"
    return Operation(f"SyncMap.load_or_compute, {what}", locked.name, tuple(shown), quick=False)


# ---- The mixes of Go's map_bench_test.go ----


def go_mix(
    name: str,
    body: str,
    peers: list[str],
    *,
    size: int = 0,
    prologue: str = "",
    ours: str | None = None,
    locked: str | None = None,
) -> Operation:
    """Int keys; the map holds the first `size`. In each thread `i` counts up from a far-off start.

    `body` is the operation on a dict. If dict has no such operation, `locked` does it under the
    lock, `ours` is SyncMap's, and there is no row without a lock.
    """
    more = {"few": values(2)}

    def rows(make: Make) -> Row:
        return Row(
            "",
            "ours",
            "",
            lambda: {"m": filled(make, "int", size), "numbers": itertools.count(1), **more},
            f"i = next(numbers) << 40\n{prologue}",
        )

    def step(text: str) -> str:
        return f"i += 1\nj = i % {max(size, 1)} + {FIRST}\n{text}"

    dict_row = replace(rows(dict), name="dict", kind="stdlib", body=step(body))
    shown = [] if locked else [dict_row]
    shown.append(under_lock(dict_row, step(locked or body)))
    shown += [
        row
        for row in variants(step(ours or body), rows, peers if ours is None else [])
        if row.kind != "stdlib"
    ]
    reference = shown[0].name
    return Operation(f"SyncMap, Go's {name}", reference, (LOOP_ALONE, *shown), quick=False)


def go_mixes(peers: list[str]) -> Iterator[Operation]:
    # Go: Load(i % 1024), of which one misses; or one hits.
    few = f"m.get(j if j < {FIRST + 1} else i)"
    yield go_mix("load, mostly hits", f"m.get(j if j > {FIRST} else i)", peers, size=1024)
    yield go_mix("load, mostly misses", few, peers, size=1024)
    half = f"(j, i) if j < {FIRST + 128} else (i, i)"
    yield go_mix(
        "load or store, half hits",
        f"a, b = {half}\nm.setdefault(a, b)",
        [],
        size=256,
    )
    yield go_mix("load or store, all new", "m.setdefault(i, i)", [])
    yield go_mix("load or store, one key", "m.setdefault(j, i)", [], size=1)
    yield go_mix(
        "load and delete, half hits",
        f"if j < {FIRST + 128}:\n    m.pop(j, None)\n    m[j] = i\nelse:\n    m.pop(i, None)",
        [],
        size=256,
    )
    yield go_mix(
        "swap, mostly hits",
        "",
        [],
        size=1024,
        locked="old = m.get(j)\nm[j] = i",
        ours="m.swap(j, i)",
    )
    yield go_mix(
        "compare and swap, one key",
        "",
        [],
        size=1,
        prologue=f"a, b = few\nm[{FIRST}] = a",
        locked="if m[j] is a:\n    m[j] = b\nif m[j] is b:\n    m[j] = a",
        ours="if m.compare_and_swap(j, a, b):\n    m.compare_and_swap(j, b, a)",
    )
    # Against maps that copy themselves after many reads: stores whenever a copy may be due.
    yield go_mix(
        "adversarial allocation",
        "m.get(i)\nloads += 1\nif loads > stores:\n    m[i] = i\n    loads = 0\n    stores += 1",
        peers,
        size=1024,
        prologue="loads = stores = 0",
    )
    # In addition, every 1024 operations it deletes some key and stores a new one.
    yield go_mix(
        "adversarial deletion",
        "m.get(j)\nif not i % 1024:\n    m.popitem()\n    m[i] = i",
        [],
        size=1024,
    )


def operations(peers: list[str]) -> list[Operation]:
    return [
        lookups("SyncMap, loads of one hot key", "str", 1, peers, quick=True),
        lookups("SyncMap, loads of 16 k keys", "str", SPREAD, peers, quick=True),
        stores("SyncMap, 16 k keys, 1 % stores", 100, peers, quick=True),
        stores("SyncMap, 16 k keys, 10 % stores", 10, peers),
        stores("SyncMap, stores over 16 k keys", 1, peers),
        churn("SyncMap, insert then delete", 0, peers, quick=True),
        churn("SyncMap, insert then delete among 16 k keys", SPREAD, peers),
        iteration(),
        compute(hit=True),
        compute(hit=False),
        *(
            lookups(f"SyncMap, loads of 16 k {kind} keys", kind, SPREAD, peers)
            for kind in KINDS
            if kind != "str"
        ),
        *(
            lookups(
                f"SyncMap, loads of {size} keys",
                "str",
                max(1, size // SHRINK),
                peers,
                count=max(1, min(size, SAMPLE) // SHRINK),
            )
            for size in SIZES
        ),
        *go_mixes(peers),
    ]


if __name__ == "__main__":
    main(operations)
