"""Locking from many threads: `Mutex` beside `threading`'s locks, and `Event`.

`python perf/bench_mutex.py --fairness FILE` measures, instead of throughput, how evenly each lock
serves its threads and how long the longest wait was.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import fairness
from rows import LOOP_ALONE, Operation, Row, both_ways, ours, pinned
from suite import main

import nogil_sync
from nogil_sync import Event, Mutex, RLock, RWMutex, Semaphore

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = Row("threading.Lock", "stdlib", "", lambda: {"m": threading.Lock()})
RLOCK = Row("threading.RLock", "stdlib", "", lambda: {"m": threading.RLock()})
MUTEX = Row("Mutex", "ours", "", lambda: {"m": Mutex()})
REENTRANT = Row("RLock", "ours", "", lambda: {"m": RLock()})

WITH = "with m:\n    pass"
ACQUIRE_RELEASE = "m.acquire()\nm.release()"
WITH_WORK = "with m:\n    cell[0] += 1"
ACQUIRE_RELEASE_WORK = "m.acquire()\ncell[0] += 1\nm.release()"


def peer_locks(peers: list[str]) -> Iterator[Row]:
    if "ft_utils" in peers:
        module = importlib.import_module("ft_utils.synchronization")
        yield Row("ft_utils IntervalLock", "peer", "", lambda: {"m": module.IntervalLock()})


def locking(lock: Row, body: str) -> Row:
    """The row `lock` with this body; the cell that the body changes is shared as well."""
    if "cell" in body:
        return replace(lock, body=body, shared=lambda: {**lock.shared(), "cell": [0]})
    return replace(lock, body=body)


def with_statement(name: str, body: str, peers: list[str]) -> Operation:
    locks = (LOCK, RLOCK, *peer_locks(peers))
    return Operation(
        name,
        LOCK.name,
        (
            LOOP_ALONE,
            *(locking(lock, body) for lock in locks),
            *pinned_lock(body),
            *ours(locking(MUTEX, body), "m"),
            locking(REENTRANT, body),
        ),
    )


def calls(name: str, body: str) -> Operation:
    methods = {"acquire": "m.acquire", "release": "m.release"}
    return Operation(
        name,
        LOCK.name,
        (
            LOOP_ALONE,
            *both_ways(locking(LOCK, body), **methods),
            *pinned_lock(body),
            locking(RLOCK, body),
            *ours(locking(MUTEX, body), "m", **methods),
            locking(REENTRANT, body),
        ),
        quick=body == ACQUIRE_RELEASE,  # `with` is measured with work inside
    )


def pinned_lock(body: str) -> Iterator[Row]:
    """Anything can be pinned, so this is what pinning alone gives."""
    if nogil_sync.backend == "native":
        yield pinned(locking(LOCK, body), "m")


def event(name: str, body: str, peers: list[str], method: str) -> Operation:
    def set_event(made: threading.Event | Event) -> dict[str, object]:
        made.set()
        return {"e": made}

    stdlib = Row("threading.Event", "stdlib", body, lambda: set_event(threading.Event()))
    theirs: list[Row] = []
    if "cereggii" in peers:
        module = importlib.import_module("cereggii")
        row = Row("cereggii AtomicEvent", "peer", body, lambda: set_event(module.AtomicEvent()))
        theirs = list(both_ways(row, call=method))
    mine = Row("Event", "ours", body, lambda: set_event(Event()))
    return Operation(
        name,
        stdlib.name,
        (LOOP_ALONE, *both_ways(stdlib, call=method), *theirs, *ours(mine, "e", call=method)),
        quick=method == "e.wait",
    )


def operations(peers: list[str]) -> list[Operation]:
    return [
        with_statement("Mutex, with m: pass", WITH, peers),
        with_statement("Mutex, with m: x += 1", WITH_WORK, peers),
        calls("Mutex, acquire and release", ACQUIRE_RELEASE),
        calls("Mutex, acquire, x += 1, release", ACQUIRE_RELEASE_WORK),
        event("Event.is_set of a set event", "e.is_set()", peers, "e.is_set"),
        event("Event.wait on a set event", "e.wait()", peers, "e.wait"),
    ]


def contenders() -> list[Row]:
    """The locks whose fairness is measured."""
    return [
        locking(LOCK, WITH_WORK),
        *ours(locking(MUTEX, WITH_WORK), "m"),
        locking(Row("RWMutex.write", "ours", "", lambda: {"m": RWMutex().write}), WITH_WORK),
        locking(Row("Semaphore(1)", "ours", "", lambda: {"m": Semaphore(1)}), WITH_WORK),
    ]


if __name__ == "__main__":
    fairness.main(contenders)
    main(operations)
