"""A bounded cache for all threads: `Cache` and `cached` beside `functools.lru_cache` and peers.

Each thread asks with key objects of its own, which equal the stored ones (mapkeys.py). What a
policy is worth in hits is another question: cache_policies.py.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mapkeys import FIRST, fresh, str_key
from rows import LOOP_ALONE, Operation, Row, pinned
from suite import main
from traces import zipf

import nogil_sync
from nogil_sync import Cache, cached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# The tests of the benchmarks divide the sizes by this.
SHRINK = int(os.environ.get("NOGIL_SYNC_BENCH_SHRINK", "1"))
SIZE = 4096 // SHRINK
KEYS = 4 * SIZE
REQUESTS = 8192 // SHRINK
WORK = 2000 // SHRINK

numbers = itertools.count(1)


def load(key: object) -> object:
    """What a miss costs at the least."""
    del key
    return object()


def load_slowly(key: object) -> object:
    """A load that takes some tens of microseconds of a processor."""
    return (sum(range(WORK)), key)


# ---- Contenders ----


def lru_cache(fn: Callable[[Any], Any], size: int) -> Any:
    return functools.lru_cache(size)(fn)


def cachetools_cached(fn: Callable[[Any], Any], size: int) -> Any:
    cachetools = importlib.import_module("cachetools")
    return cachetools.cached(cachetools.LRUCache(size), lock=threading.Lock())(fn)


def cachebox_cached(fn: Callable[[Any], Any], size: int) -> Any:
    cachebox = importlib.import_module("cachebox")
    return cachebox.cached(cachebox.LRUCache(size))(fn)


def ours_cached(fn: Callable[[Any], Any], size: int) -> Any:
    return cached(maxsize=size)(fn)


def functions(fn: Callable[[Any], Any], size: int, peers: list[str]) -> Iterator[Row]:
    """A row ``f(k)`` for each decorator."""

    def row(name: str, kind: Any, make: Any) -> Row:
        return Row(name, kind, "f(k)", lambda: {"f": make(fn, size)}, through="keys")

    yield row("functools.lru_cache", "stdlib", lru_cache)
    if "cachetools" in peers:
        yield row("cachetools and Lock, cached", "peer", cachetools_cached)
    if "cachebox" in peers:
        yield row("cachebox, cached", "peer", cachebox_cached)
    ours = row("cached", "ours", ours_cached)
    yield ours
    if nogil_sync.backend == "native":
        yield pinned(ours, "f")


def mappings(size: int, filled: int, peers: list[str], body: str) -> Iterator[Row]:
    """A row for each cache that is used as a mapping `m`; with a lock if it needs one."""

    def row(name: str, kind: Any, make: Callable[[], Any], text: str = body) -> Row:
        def shared() -> Mapping[str, object]:
            m = make()
            for number in range(filled):
                m[str_key(number)] = object()
            return {"m": m, "lock": threading.Lock()}

        return Row(name, kind, text, shared, through="keys")

    locked = "with lock:\n" + "\n".join(f"    {line}" for line in body.splitlines())
    yield row("dict, which grows, and Lock", "stdlib", dict, locked)
    if "cachetools" in peers:
        lru = importlib.import_module("cachetools").LRUCache
        yield row("cachetools and Lock", "peer", lambda: lru(size), locked)
    if "cachebox" in peers:
        own = importlib.import_module("cachebox").LRUCache
        yield row("cachebox", "peer", lambda: own(size))
    if "theine" in peers:
        yield row("theine", "peer", lambda: _Theine(size))
    ours = row("Cache", "ours", lambda: Cache(size))
    yield ours
    if nogil_sync.backend == "native":
        yield pinned(ours, "m")


class _Theine:
    """theine's cache as a mapping."""

    def __init__(self, size: int) -> None:
        cache = importlib.import_module("theine").Cache(size)
        self.get = cache.get
        self.set = cache.set

    def __setitem__(self, key: object, value: object) -> None:
        self.set(key, value)

    def __getitem__(self, key: object) -> object:
        return self.get(key)


# ---- Operations ----

OWN_KEYS = f"keys = fresh('str', {SIZE}, {SIZE})\nfor k in keys: hash(k)"
ZIPF_KEYS = "keys = asked()\nv = object()\nturn = 0"
NEW_KEYS = "i = next(numbers) << 40"


def asked() -> list[str]:
    """The keys that one thread asks for: Zipf 0.99 over four times what the cache holds."""
    return [str_key(n) for n in zipf(0.99, KEYS, REQUESTS, seed=next(numbers))]


def prepared(row: Row, prologue: str, **names: object) -> Row:
    shared = row.shared
    return replace(row, prologue=prologue, shared=lambda: {**shared(), **names})


def alone(prologue: str, **names: object) -> Row:
    """The loop over the keys alone."""
    return replace(LOOP_ALONE, prologue=prologue, shared=lambda: names, through="keys")


def warm(row: Row) -> Row:
    """The same with all keys in the cache."""
    shared = row.shared

    def filled() -> Mapping[str, object]:
        made = shared()
        f: Any = made["f"]
        for number in range(SIZE):
            f(str_key(number))
        return made

    return replace(row, shared=filled)


def hits(peers: list[str]) -> Operation:
    rows = [
        *map(warm, functions(load, 2 * SIZE, peers)),
        *mappings(2 * SIZE, SIZE, peers, "m[k]"),
    ]
    shown = [prepared(row, OWN_KEYS, fresh=fresh) for row in rows]
    return Operation(
        "Cache, hits",
        "functools.lru_cache",
        (alone(OWN_KEYS, fresh=fresh), *shown),
    )


def misses(peers: list[str]) -> Operation:
    """Each call asks for a key that nobody has asked for."""
    rows = functions(load, SIZE, peers)
    new = [replace(row, body="i += 1\nf(i)", through="") for row in rows]
    shown = [prepared(row, NEW_KEYS, numbers=numbers) for row in new]
    floor = replace(LOOP_ALONE, body="i += 1", prologue=NEW_KEYS)
    floor = replace(floor, shared=lambda: {"numbers": numbers})
    return Operation("Cache, misses", "functools.lru_cache", (floor, *shown))


def loads(peers: list[str]) -> Operation:
    shown = [prepared(row, ZIPF_KEYS, asked=asked) for row in functions(load, SIZE, peers)]
    return Operation(
        "Cache, Zipf, loads on a miss",
        "functools.lru_cache",
        (alone(ZIPF_KEYS, asked=asked), *shown),
        quick=False,
    )


MIXED = """\
turn += 1
if turn % {every}:
    m.get(k)
else:
    m[k] = v"""


def mixed(puts: int, peers: list[str]) -> Operation:
    body = MIXED.format(every=100 // puts)
    rows = mappings(SIZE, SIZE, peers, body)
    shown = [prepared(row, ZIPF_KEYS, asked=asked) for row in rows]
    return Operation(
        f"Cache, Zipf, {100 - puts} % gets and {puts} % puts",
        "dict, which grows, and Lock",
        (alone(ZIPF_KEYS, asked=asked), *shown),
        quick=puts < 50,
    )


def stampede(peers: list[str]) -> Operation:
    """All threads ask for the same keys in the same order, more of them than the cache holds."""
    prologue = f"keys = list(range({FIRST}, {FIRST + KEYS}))"
    rows = functions(load_slowly, SIZE // 4, peers)
    shown = [replace(row, prologue=prologue) for row in rows]
    return Operation(
        "Cache, stampede",
        "functools.lru_cache",
        (alone(prologue), *shown),
        threads=(2, 8),
        quick=False,
    )


def operations(peers: list[str]) -> list[Operation]:
    return [
        hits(peers),
        misses(peers),
        loads(peers),
        mixed(5, peers),
        mixed(50, peers),
        stampede(peers),
    ]


if __name__ == "__main__":
    main(operations)
