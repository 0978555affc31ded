"""Many readers and few writers: `RWMutex` beside locks that let one thread in at a time.

The mixes are those of Go's `BenchmarkRWMutex`: every tenth or hundredth operation writes; readers
do some work inside the lock, or none.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import bench_mutex
from rows import LOOP_ALONE, Operation, Row, both_ways, hoisted, ours, pinned
from suite import main

import nogil_sync
from nogil_sync import RWMutex

if TYPE_CHECKING:
    from collections.abc import Iterator


def either_side(lock: Row) -> Row:
    """An exclusive lock as both sides: `read` and `write` are the same object."""

    def shared() -> dict[str, object]:
        made = dict(lock.shared())["m"]
        return {"read": made, "write": made}

    return replace(lock, shared=shared)


LOCK = either_side(bench_mutex.LOCK)
MUTEX = either_side(bench_mutex.MUTEX)
RWMUTEX = Row("RWMutex", "ours", "", lambda: {"rw": RWMutex()})
# The two sides are fetched once per thread.
SIDES = replace(RWMUTEX, prologue="read, write = rw.read, rw.write")

CALLS = {
    "read_acquire": "read.acquire",
    "read_release": "read.release",
    "write_acquire": "write.acquire",
    "write_release": "write.release",
}


def peer_locks(peers: list[str]) -> Iterator[Row]:
    """The peers' locks, with the contexts `read` and `write` for all threads."""
    if "ft_utils" in peers:
        ft_utils = importlib.import_module("ft_utils.synchronization")
        yield Row(
            "ft_utils RWLock",
            "peer",
            "",
            lambda: {"rw": ft_utils.RWLock(), "lib": ft_utils},
            "read, write = lib.RWReadContext(rw), lib.RWWriteContext(rw)",
        )
    if "readerwriterlock" in peers:
        theirs = importlib.import_module("readerwriterlock.rwlock")
        yield Row(
            "readerwriterlock RWLockFair",
            "peer",
            "",
            lambda: {"rw": theirs.RWLockFair()},
            "read, write = rw.gen_rlock(), rw.gen_wlock()",
        )


def bound(row: Row) -> Row:
    return hoisted(row, **{name: call for name, call in CALLS.items() if call in row.body})


def pinned_lock(row: Row) -> Iterator[Row]:
    """An exclusive lock, which is both sides, pinned."""
    if nogil_sync.backend == "native":
        yield pinned(row, "read write")


def with_statement(side: str, peers: list[str]) -> Operation:
    body = f"with {side}:\n    pass"
    mine = replace(RWMUTEX, body=f"with rw.{side}:\n    pass")
    lock, mutex = replace(LOCK, body=body), replace(MUTEX, body=body)
    return Operation(
        f"RWMutex, with rw.{side}: pass",
        LOCK.name,
        (
            LOOP_ALONE,
            lock,
            *pinned_lock(lock),
            *(replace(peer, body=body) for peer in peer_locks(peers)),
            mutex,
            *pinned_lock(mutex),
            *ours(mine, "rw"),
        ),
        quick=side == "write",
    )


def calls(side: str, peers: list[str]) -> Operation:
    body = f"{side}.acquire()\n{side}.release()"
    lock, mutex = replace(LOCK, body=body), replace(MUTEX, body=body)
    theirs: list[Row] = []
    if "ft_utils" in peers:
        rwlock = importlib.import_module("ft_utils.synchronization").RWLock
        row = Row(
            "ft_utils RWLock",
            "peer",
            f"rw.lock_{side}()\nrw.unlock_{side}()",
            lambda: {"rw": rwlock()},
        )
        theirs += both_ways(row, acquire=f"rw.lock_{side}", release=f"rw.unlock_{side}")
    return Operation(
        f"RWMutex, rw.{side}.acquire and release",
        LOCK.name,
        (
            LOOP_ALONE,
            lock,
            bound(lock),
            *pinned_lock(lock),
            *theirs,
            mutex,
            bound(mutex),
            *ours(replace(SIDES, body=body), "rw"),
            bound(replace(SIDES, body=body)),
        ),
        quick=side == "read",
    )


# A reader's work inside the lock, on its own objects: Go's `localWork`, for half a microsecond.
WORK = "for _ in work: x *= 2; x //= 2"
OWN = "turn = 0\nx = 1\nwork = [None] * 10"

WITH = """\
turn += 1
if turn % {every}:
    with read:
        {work}
else:
    with write:
        pass
"""
ACQUIRE_RELEASE = """\
turn += 1
if turn % {every}:
    read.acquire()
    {work}
    read.release()
else:
    write.acquire()
    write.release()
"""
NEVER = 1 << 62


def mix(name: str, every: int, work: str, peers: list[str], *, quick: bool = False) -> Operation:
    """Every `every`-th operation of each thread writes."""

    def row(lock: Row, template: str) -> Row:
        body = template.format(every=every, work=work)
        return replace(lock, body=body, prologue=f"{lock.prologue}\n{OWN}")

    return Operation(
        name,
        LOCK.name,
        (
            LOOP_ALONE,
            row(LOCK, WITH),
            bound(row(LOCK, ACQUIRE_RELEASE)),
            *(row(peer, WITH) for peer in peer_locks(peers)),
            row(MUTEX, WITH),
            *pinned_lock(row(MUTEX, WITH)),
            bound(row(MUTEX, ACQUIRE_RELEASE)),
            *ours(row(SIDES, WITH), "rw"),
            bound(row(SIDES, ACQUIRE_RELEASE)),
        ),
        quick=quick,
    )


def uncontended() -> Operation:
    """Each thread has its own lock: the threads share nothing but the library."""
    body = "with read, read:\n    pass\nwith write:\n    pass"
    own_rlock = Row(
        "threading.RLock",
        "stdlib",
        body,
        lambda: {"make": threading.RLock},
        "read = write = make()",
    )
    mine = Row(
        "RWMutex",
        "ours",
        body,
        lambda: {"make": RWMutex},
        "rw = make()\nread, write = rw.read, rw.write",
    )
    return Operation(
        "RWMutex of each thread's own, two reads, one write",
        own_rlock.name,
        (LOOP_ALONE, own_rlock, mine),
        quick=False,
    )


def operations(peers: list[str]) -> list[Operation]:
    return [
        with_statement("read", peers),
        with_statement("write", peers),
        calls("read", peers),
        calls("write", peers),
        mix("RWMutex, work in reads, no writes", NEVER, WORK, peers),
        mix("RWMutex, work in reads, 1 % writes", 100, WORK, peers, quick=True),
        mix("RWMutex, work in reads, 10 % writes", 10, WORK, peers, quick=True),
        mix("RWMutex, 1 % writes", 100, "pass", peers, quick=True),
        mix("RWMutex, 10 % writes", 10, "pass", peers),
        uncontended(),
    ]


if __name__ == "__main__":
    main(operations)
