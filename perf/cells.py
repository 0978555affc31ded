"""What sharding costs: memory of shared counters and locks, writers among readers, thread starts.

`--cpus` sets how many processors the library believes in. Each measurement has its own process.
Memory: the growth of the process while objects are made and then used by two threads alternately, a
few times each (`touched`), or so often that threads get cells (`fought over`). Times: those of one
thread after the others have ended, or of a thread's start, use of a counter and end; they need a
quiet machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import apart

from nogil_sync import RWMutex, ShardedCounter, SyncMap

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS = 10_000
TOUCHES, FIGHTS = 4, 200
READERS = (2, 8, 64)
STARTS = 400
MIX_ROUNDS = 30_000
MEGA = 1e6


def by_turns(threads: int, use: Callable[[], None], turns: int) -> None:
    """Let living threads call `use` in rotation, so that each follows another thread's use."""
    batons = [threading.Semaphore(0) for _ in range(threads)]

    def run(i: int) -> None:
        for _ in range(turns):
            batons[i].acquire()
            use()
            batons[(i + 1) % threads].release()

    workers = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    batons[0].release()
    for worker in workers:
        worker.join()


def overlapping(threads: int, rw: RWMutex, turns: int) -> None:
    """All threads hold the read side at the same time, `turns` times."""
    met = threading.Barrier(threads)

    def run() -> None:
        for _ in range(turns):
            with rw.read:
                met.wait()
            met.wait()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def memory(make: Callable[[], Any], use: Callable[[Any], object], rounds: int) -> apart.Result:
    """Bytes that many objects take once made, and after two threads have used them."""
    by_turns(2, lambda: None, 2)
    start = apart.resident()
    objects = [make() for _ in range(OBJECTS)]
    made = apart.resident()

    def use_all() -> None:
        for it in objects:
            use(it)

    by_turns(2, use_all, rounds)
    return {
        "made": made - start,
        "used": apart.resident() - start,
        "sizeof": sum(map(sys.getsizeof, objects)),
    }


def read_with_another(rw: RWMutex) -> None:
    """Read while another read is held: a nested one stands for another reader."""
    with rw.read, rw.read:
        pass


def nanoseconds(call: Callable[[], object], loops: int) -> float:
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter_ns()
        for _ in range(loops):
            call()
        best = min(best, (time.perf_counter_ns() - begin) / loops)
    return best


def after_readers(threads: int) -> apart.Result:
    """The cost of `value()` and of a write after that many threads have used the objects."""
    counter, rw = ShardedCounter(), RWMutex()
    by_turns(threads, counter.add, 60)
    overlapping(threads, rw, 40)

    def write() -> None:
        with rw.write:
            pass

    def write_after_spreading() -> float:
        """The first write after readers used their cells: it has to close the cells."""
        total = 0
        for _ in range(20):
            overlapping(threads, rw, 40)
            begin = time.perf_counter_ns()
            write()
            total += time.perf_counter_ns() - begin
        return total / 20

    first = write_after_spreading()
    return {
        "value": nanoseconds(counter.value, 2000),
        "first": first,
        "write": nanoseconds(write, 2000),
        "bytes": sys.getsizeof(counter),
    }


def mix(threads: int) -> apart.Result:
    """All threads read, and write once in a hundred operations: operations a second."""
    rw = RWMutex()
    start = threading.Barrier(threads + 1)

    def run() -> None:
        read, write = rw.read, rw.write
        start.wait()
        for n in range(MIX_ROUNDS // threads):
            with write if n % 100 == 99 else read:
                pass

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.join()
    return {"rate": MIX_ROUNDS / (time.perf_counter() - begin)}


def starts() -> apart.Result:
    """The time of a thread's start and end: of one without the library, and of one that uses it.

    "After a deletion": the main thread has deleted a key, so that it may be alone in its use of the
    library when the new thread comes. Then the newcomer has to fence all threads. The kinds are
    measured by turns, and the lower quartile of each is taken.
    """
    counter, m = ShardedCounter(), SyncMap[int, None]()
    counter.add()

    def delete() -> None:
        m[0] = None
        del m[0]

    kinds: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "without": (int, int),
        "using": (int, counter.add),
        "after a deletion": (delete, counter.add),
    }
    took: dict[str, list[int]] = {name: [] for name in kinds}
    for _ in range(STARTS):
        for name, (before, use) in kinds.items():
            before()
            thread = threading.Thread(target=use)
            begin = time.perf_counter_ns()
            thread.start()
            thread.join()
            took[name].append(time.perf_counter_ns() - begin)
    return {name: statistics.quantiles(times)[0] for name, times in took.items()}


MEASUREMENTS: dict[str, Callable[[], apart.Result]] = {
    "counters, touched": lambda: memory(ShardedCounter, ShardedCounter.add, TOUCHES),
    "counters, fought over": lambda: memory(ShardedCounter, ShardedCounter.add, FIGHTS),
    "RWMutexes, touched": lambda: memory(RWMutex, read_with_another, TOUCHES),
    "RWMutexes, fought over": lambda: memory(RWMutex, read_with_another, FIGHTS),
    "starting threads": starts,
    **{f"after {n} threads": lambda n=n: after_readers(n) for n in READERS},  # type: ignore[misc]
    **{f"99/1, {n} threads": lambda n=n: mix(n) for n in READERS},  # type: ignore[misc]
}


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    print(f"{args.cpus} processors\n")
    for name, results in found.items():
        print(f"{name:26}", end="")
        for key in results[0]:
            best = min(result[key] for result in results)
            if key in ("made", "used", "sizeof"):
                print(f"  {key} {best / MEGA:8.2f} MB", end="")
            elif key == "bytes":
                print(f"  counter's size {best:6,}", end="")
            elif key == "rate":
                print(f"  {max(r[key] for r in results) / MEGA:6.2f} M/s", end="")
            else:
                print(f"  {key} {best:8.0f} ns", end="")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpus", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--only", default="", help="measurements whose name has this in it")
    known, _ = parser.parse_known_args()
    if os.environ.get("NOGIL_SYNC_CPU_COUNT") != str(known.cpus):
        environ = {**os.environ, "NOGIL_SYNC_CPU_COUNT": str(known.cpus)}
        os.execve(sys.executable, [sys.executable, *sys.argv], environ)
    apart.main(
        parser,
        lambda args: [name for name in MEASUREMENTS if args.only in name],
        lambda name, _: MEASUREMENTS[name](),
        show,
    )


if __name__ == "__main__":
    main()
