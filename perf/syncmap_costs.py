"""The cost of each operation of `SyncMap` beside `dict`, also on a machine that others use.

In one thread: the median of its processor time, in rounds of one map after the other. In several
threads: by the clock, but only of batches during which the system preempted none of the threads.
All keys are equal to the stored keys, and none is the same object.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

import apart
from mapkeys import fresh, stored

import nogil_sync
from nogil_sync import SyncMap

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    # A batch: its begin, its end, and how often the thread had been preempted by its end.
    Span = tuple[int, int, int]

MAPS: dict[str, Callable[[], Any]] = {"dict": dict, "SyncMap": SyncMap}
STEPS = ("insert", "load", "store", "delete")
ALONE = "one thread, "
TOGETHER = "loads of "
MIN_LOADS = 50_000
BATCH = 500
GAP = 2_000  # ns between two batches, at most
ENOUGH = 1000  # batches; if there are fewer, up to MORE times as many rounds are run
MORE = 4


def insert(m: Any, keys: list[Hashable]) -> None:
    for key in keys:
        m[key] = keys


def load(m: Any, keys: list[Hashable]) -> None:
    for key in keys:
        m[key]


def delete(m: Any, keys: list[Hashable]) -> None:
    for key in keys:
        del m[key]


def pass_over(m: Any, keys: list[Hashable]) -> None:  # noqa: ARG001
    for _ in keys:
        pass


def cost(step: Callable[[Any, list[Hashable]], None], m: Any, keys: list[Hashable]) -> float:
    """Nanoseconds of processor time per operation."""
    times = 1 if step is delete else max(1, MIN_LOADS // len(keys))
    began = time.thread_time_ns()
    for _ in range(times):
        step(m, keys)
    return (time.thread_time_ns() - began) / times / len(keys)


def life(make: Callable[[], Any], kind: str, size: int) -> dict[str, float]:
    """The cost of each step of maps that are filled, read, overwritten and emptied."""
    keys, own = stored(kind, size), fresh(kind, size, size)
    few = max(1, MIN_LOADS // size // 4)
    maps = [make() for _ in range(few)]
    load(dict.fromkeys(keys), own)  # computes the keys' hashes
    found = {"loop alone": cost(pass_over, None, own)}
    began = time.thread_time_ns()
    for m in maps:
        insert(m, keys)
    found["insert"] = (time.thread_time_ns() - began) / few / size
    found["load"] = cost(load, maps[0], own)
    found["store"] = cost(insert, maps[0], own)
    began = time.thread_time_ns()
    for m in maps:
        delete(m, own)
    found["delete"] = (time.thread_time_ns() - began) / few / size
    return found


def run_together(m: Any, kind: str, size: int, threads: int, seconds: float) -> list[list[Span]]:
    """The batches of loads of each thread, all at the same time."""
    barrier = threading.Barrier(threads)
    spans: list[list[Span]] = []

    def work() -> None:
        keys = fresh(kind, size, size)
        load(m, keys)
        keys *= max(1, BATCH // len(keys))
        batches = [keys[i : i + BATCH] for i in range(0, len(keys) - BATCH + 1, BATCH)]
        clock, switches, mine = time.perf_counter_ns, apart.switches, []
        barrier.wait()
        end = clock()
        deadline = end + round(seconds * 1e9)
        while end < deadline:
            for batch in batches:
                began = clock()
                load(m, batch)
                end = clock()
                mine.append((began, end, switches()))
        spans.append(mine)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return spans


def undisturbed(spans: list[Span]) -> list[Span]:
    """The batches during which the system did not preempt the thread."""
    return [now for before, now in itertools.pairwise(spans) if now[2] == before[2]]


def covers(spans: list[Span], began: int, end: int) -> bool:
    """Whether undisturbed batches of the thread cover all the time from `began` to `end`."""
    first = bisect.bisect_right(spans, began, key=lambda span: span[0]) - 1
    last = bisect.bisect_right(spans, end, key=lambda span: span[0]) - 1
    if first < 0 or spans[last][1] < end - GAP:
        return False
    chain = spans[first : last + 1]
    return all(b[0] - a[1] < GAP for a, b in itertools.pairwise(chain))


def side_by_side(spans: list[list[Span]]) -> list[float]:
    """Nanoseconds per load, of the batches during which no thread was preempted."""
    clean = [undisturbed(mine) for mine in spans]
    return [
        (end - began) / BATCH
        for mine in clean
        for began, end, _ in mine
        if all(other is mine or covers(other, began, end) for other in clean)
    ]


def shared_map(name: str, size: int) -> Any:
    m = MAPS[name.split(",", maxsplit=1)[0]]()
    pins = name.partition(", ")[2]
    for key in stored("str", size):
        value = object()
        m[key] = nogil_sync.pin(value) if pins.endswith("values pinned") else value
    return nogil_sync.pin(m) if pins else m


def measure(name: str, args: argparse.Namespace) -> apart.Result:
    if name.startswith(ALONE):
        kind, entries = name.removeprefix(ALONE).split()
        lives: dict[str, list[dict[str, float]]] = {m: [] for m in MAPS}
        for _ in range(args.rounds):
            for m, make in MAPS.items():
                lives[m].append(life(make, kind, int(entries)))
        return {
            m: {step: statistics.median(each[step] for each in all_) for step in all_[0]}
            for m, all_ in lives.items()
        }
    size = int(name.removeprefix(TOGETHER))
    ours = ["SyncMap", "SyncMap, pinned", "SyncMap, it and values pinned"]
    maps = {which: shared_map(which, size) for which in ["dict", *ours]}
    batches: dict[str, list[float]] = {
        f"{which}: {threads}": [] for which in maps for threads in (1, args.threads)
    }
    for turn in range(args.rounds * MORE):
        for key, done in batches.items():
            if turn < args.rounds or len(done) < ENOUGH:
                which, count = key.split(": ")
                spans = run_together(maps[which], "str", size, int(count), args.seconds)
                done.extend(side_by_side(spans))
    return {
        key: {"count": len(ns), "ns": statistics.fmean(ns) if ns else math.nan}
        for key, ns in batches.items()
    }


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    print("ns of processor time an operation, all in one thread; the loop included\n")
    rows: list[list[object]] = []
    for name, (first, *_) in found.items():
        if name.startswith(ALONE):
            theirs, mine = first["dict"], first["SyncMap"]
            rows.append(
                [f"{name.removeprefix(ALONE)}, dict", *(f"{ns:.1f}" for ns in theirs.values())]
            )
            rows.append(["  SyncMap", *(f"{ns:.1f}" for ns in mine.values())])
            rows.append(["  ratio", *(f"{mine[step] / theirs[step]:.2f}" for step in mine)])
    apart.table(["keys", "loop alone", *STEPS], rows)
    print(
        f"\nns a load in 1 thread, and in {args.threads} while all of them run, str keys and "
        f"ordinary values:\nthe mean of batches of {BATCH}\n"
    )
    rows = []
    for name, (first, *_) in found.items():
        if name.startswith(TOGETHER):
            for key, one in first.items():
                which, threads = key.split(": ")
                if threads == "1":
                    many = first[f"{which}: {args.threads}"]
                    scaling = args.threads * one["ns"] / many["ns"]
                    costs = [f"{one['ns']:.1f}", f"{many['ns']:.1f}", f"{scaling:.2f}"]
                    rows.append([name, which, *costs, many["count"]])
    apart.table(["keys", "map", "1", str(args.threads), "scaling", "batches"], rows)


def names(args: argparse.Namespace) -> list[str]:
    alone = [f"{ALONE}{kind} {n}" for kind in ("str", "int") for n in (args.few, args.many)]
    return [*alone, f"{TOGETHER}1", f"{TOGETHER}{args.many}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=1000, help="entries of a small map")
    parser.add_argument("--many", type=int, default=100_000, help="entries of a large one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2, help="of loads in threads, a round")
    apart.main(parser, names, measure, show)
