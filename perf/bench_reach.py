"""How a program reaches an object of ours, and whether that scales: pinned, and as it comes.

Each operation is one of ours that lets threads scale. Its rows reach the same object as a local, a
global, an attribute of a shared `self` and a variable of a closure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench_syncmap import SPREAD, filled
from mapkeys import fresh, stored
from rows import LOOP_ALONE, REACH, Operation, Row, Way, pinned
from suite import main

import nogil_sync
from nogil_sync import (
    AtomicInt64,
    AtomicRef,
    Event,
    Mutex,
    Pool,
    RWMutex,
    Semaphore,
    ShardedCounter,
    SyncMap,
    once,
    pin,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAYS: tuple[Way, ...] = ("local", "global", "self", "closure")


def one(name: str, body: str, make: Callable[[], object], prologue: str = "") -> Row:
    """A row with one shared object, `it`; `name` is the operation's."""
    return Row(name, "ours", body, lambda: {"it": make()}, prologue)


def set_event() -> Event:
    event = Event()
    event.set()
    return event


def settled() -> Any:
    value = pin(object())
    function = once(lambda: value)
    function()
    return function


def spread_map() -> SyncMap[Any, Any]:
    made: SyncMap[Any, Any] = filled(SyncMap, "int", SPREAD)
    return made


def hot_map() -> SyncMap[Any, Any]:
    (key,) = stored("int", 1)
    return SyncMap({key: pin(object())})


def lookup(name: str, make: Callable[[], object], count: int) -> Row:
    """Each thread looks up its own key objects, which equal the stored ones."""
    own = f"keys = fresh('int', {count}, {count})\nfor k in keys: it[k]"
    row = one(name, "it[k]", make, own)
    return replace(row, shared=lambda: {"it": make(), "fresh": fresh}, through="keys")


OPERATIONS = (
    one("ShardedCounter.add", "it.add(1)", ShardedCounter),
    one("AtomicInt64.load", "it.load()", lambda: AtomicInt64(10**9)),
    one("AtomicRef.load, its value pinned", "it.load()", lambda: AtomicRef(pin(object()))),
    one("with rw.read: pass", "with it.read:\n    pass", RWMutex),
    one("rw.read.acquire, release", "it.read.acquire()\nit.read.release()", RWMutex),
    one("Event.is_set", "it.is_set()", set_event),
    one("Event.wait, set", "it.wait()", set_event),
    # Each thread puts an item that it made: the count of a stolen item would be shared.
    one("Pool.get, put", "item = it.get()\nit.put(item)", lambda: Pool(list), "it.put([])"),
    one("with pool.use(): pass", "with it.use():\n    pass", lambda: Pool(list)),
    lookup("m[k], 16 k keys", spread_map, SPREAD),
    lookup("m[k], one key, its value pinned", hot_map, 1),
    one("once, after the first call", "it()", settled),
    one("Mutex()", "it()", lambda: Mutex),
    one("sem.hold()", "it.hold()", lambda: Semaphore(1_000)),
    one("iter(m)", "iter(it)", lambda: filled(SyncMap, "int", 100)),
)


def ways(row: Row) -> Iterator[Row]:
    for way in WAYS:
        reached = replace(row, name=way, way=way)
        yield reached
        if nogil_sync.backend == "native":  # elsewhere pin() changes nothing
            yield pinned(reached, "it")
            if way == "self":
                yield replace(pinned(reached, "it"), name="pinned self, pinned", self_pinned=True)


def operations(peers: list[str]) -> list[Operation]:
    del peers  # they do not defer their counts
    return [
        Operation(REACH + row.name, "local", (LOOP_ALONE, *ways(row)), quick=False)
        for row in OPERATIONS
    ]


if __name__ == "__main__":
    main(operations)
