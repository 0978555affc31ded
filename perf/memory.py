"""Are objects freed at once? The peak of memory while a million are made and dropped.

The collector is off: objects that only it would free stay. One thread makes, uses and drops
objects of each type. Then two threads use each object a few times, as they would share a lock or a
WaitGroup for one request. At most a hundred objects are alive at a time.
"""

from __future__ import annotations

import argparse
import gc
import sys
import threading
from typing import TYPE_CHECKING, Any

import apart

import nogil_sync
from nogil_sync import (
    AtomicInt64,
    AtomicRef,
    Barrier,
    Cache,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RLock,
    RWMutex,
    Semaphore,
    ShardedCounter,
    SyncMap,
    WaitGroup,
    once,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 100
ALONE, SHARED = "one thread: ", "two threads: "


def locked(lock: Any) -> None:
    with lock:
        pass


def both_sides(rw: Any) -> None:
    with rw.read:
        pass
    with rw.write:
        pass


def add_and_done(group: WaitGroup) -> None:
    group.add()
    group.done()


def put_and_get(pool: Pool[Any]) -> None:
    pool.put(pool.get())


def send_and_receive(channel: Channel[None]) -> None:
    channel.send(None)
    channel.recv()


def store(m: SyncMap[int, None] | Cache[int, None]) -> None:
    m[0] = None
    m[0]


# How an object of each type is made and used. No use leaves anything behind.
USES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "Mutex": (Mutex, locked),
    "RLock": (RLock, locked),
    "RWMutex": (RWMutex, both_sides),
    "WaitGroup": (WaitGroup, add_and_done),
    "Barrier": (lambda: Barrier(1), Barrier.wait),
    "ShardedCounter": (ShardedCounter, lambda c: c.add()),
    "AtomicInt64": (AtomicInt64, lambda a: a.add()),
    "AtomicRef": (AtomicRef, lambda a: a.store(None)),
    "Cond": (Cond, locked),
    "Semaphore": (Semaphore, locked),
    "Event": (Event, lambda e: e.set()),
    "Channel": (lambda: Channel(1), send_and_receive),
    "Once": (Once, lambda o: o.do(int)),
    "once": (lambda: once(int), lambda f: f()),
    "Pool": (lambda: Pool(list), put_and_get),
    "SyncMap": (SyncMap, store),
    "Cache": (lambda: Cache(100), store),
}
OF_TWO_THREADS = ("WaitGroup", "Mutex", "RWMutex")


def alone(name: str, count: int, used: int) -> int:
    """One thread makes, uses and drops objects; return the peak of memory."""
    make, use = USES[name]
    peak = 0
    for _ in range(count // BATCH):
        batch = [make() for _ in range(BATCH)]
        for obj in batch:
            for _ in range(used):
                use(obj)
        del batch, obj
        peak = max(peak, apart.resident())
    return peak


def shared(name: str, count: int, used: int) -> int:
    """This thread makes the objects, and two threads use each; return the peak of memory."""
    make, use = USES[name]
    peak = 0
    meet = threading.Barrier(2)
    batches: list[list[Any]] = []

    def turn(batch: list[Any]) -> None:
        for obj in batch:
            for _ in range(used):
                use(obj)

    def other() -> None:
        for _ in range(count // BATCH):
            meet.wait()
            turn(batches[0])
            meet.wait()

    thread = threading.Thread(target=other)
    thread.start()
    for _ in range(count // BATCH):
        batches[:] = [[make() for _ in range(BATCH)]]
        meet.wait()
        turn(batches[0])
        meet.wait()
        batches.clear()
        peak = max(peak, apart.resident())
    thread.join()
    return peak


def measure(name: str, args: argparse.Namespace) -> apart.Result:
    run, cls = (alone, name.removeprefix(ALONE))
    if name.startswith(SHARED):
        run, cls = shared, name.removeprefix(SHARED)
    gc.disable()
    run(cls, min(args.objects, 20 * BATCH), args.used)  # warm up: arenas, lazy initialization
    before = apart.resident()
    peak = run(cls, args.objects, args.used)
    of_type = type(USES[cls][0]())
    alive = sum(type(obj) is of_type for obj in gc.get_objects())
    return {"grown": max(0, peak - before), "alive": alive}


# Bytes of the smallest object: each object that is not freed takes at least that much.
MIN_BYTES = 48
# The part of all objects that may be alive at the end: the last batches, the process's own.
MAX_ALIVE = 0.02


def names(args: argparse.Namespace) -> list[str]:
    del args
    return [*(ALONE + name for name in USES), *(SHARED + name for name in OF_TWO_THREADS)]


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    print(f"CPython {sys.version.split()[0]}, backend {nogil_sync.backend}")
    print(f"{args.objects} objects of each, used {args.used} times by each thread, collector off\n")
    rows = []
    for name, results in found.items():
        grown = min(result["grown"] for result in results)
        alive = max(result["alive"] for result in results)
        late = grown > args.objects * MIN_BYTES / 4 or alive > max(BATCH, args.objects * MAX_ALIVE)
        rows.append([name, f"{grown / 2**20:.1f}", alive, "LATER" if late else "at once"])
    apart.table(["", "MiB grown", "alive at the end", "freed"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--used", type=int, default=5, help="uses by each thread (%(default)s)")
    apart.main(parser, names, measure, show)
