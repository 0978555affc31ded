"""New keys all the time, few of them alive: the cost and memory of `SyncMap` beside `dict`.

Each thread stores a key that never was in the map and deletes its oldest key: two operations.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import apart

from nogil_sync import SyncMap

if TYPE_CHECKING:
    from collections.abc import Callable

MAPS: dict[str, Callable[[], Any]] = {"dict": dict, "SyncMap": SyncMap}
PARTS = 10


def churn(m: Any, thread: int, live: int, first: int, pairs: int) -> float:
    """Processor time in seconds, as far as possible without the making of keys."""
    spent = 0.0
    step = 1000
    for begin in range(first, first + pairs, step):
        steps = range(begin, min(begin + step, first + pairs))
        new = [f"{thread}:{number}" for number in steps]
        old = [f"{thread}:{number - live}" for number in steps]
        began = time.thread_time()
        for store, delete in zip(new, old, strict=True):
            m[store] = store
            del m[delete]
        spent += time.thread_time() - began
    return spent


def measure(name: str, args: argparse.Namespace) -> apart.Result:
    kind, threads = name.split(", ")
    m, count = MAPS[kind](), int(threads.split()[0])
    live = max(1, args.live // count)
    for thread in range(count):
        for number in range(live):
            m[f"{thread}:{number - live}"] = None
    pairs = max(1, args.operations // 2 // count // PARTS)
    parts: list[apart.Result] = []
    costs = [0.0] * count
    # The workers meet after each part, so that all figures are read at the same time.
    barrier = threading.Barrier(count, action=lambda: parts.append(look(m, costs, pairs * count)))

    def work(thread: int) -> None:
        for part in range(PARTS):
            costs[thread] = churn(m, thread, live, part * pairs, pairs)
            barrier.wait()

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(m) == live * count
    return {"parts": parts}


def look(m: Any, costs: list[float], pairs: int) -> apart.Result:
    return {
        "ns": sum(costs) / pairs / 2 * 1e9,
        "own": sys.getsizeof(m),
        "resident": apart.resident(),
    }


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    print(
        f"{args.operations} stores and deletions of new keys, {args.live} live, in {PARTS} parts\n"
    )
    for name, rounds in found.items():
        best = [min(r["parts"][part]["ns"] for r in rounds) for part in range(PARTS)]
        last = rounds[-1]["parts"]
        apart.table(
            [name, *(str(part + 1) for part in range(PARTS))],
            [
                ["ns of processor time an operation", *(f"{ns:.0f}" for ns in best)],
                ["sys.getsizeof", *(part["own"] for part in last)],
                ["resident, MiB", *(f"{part['resident'] / 2**20:.1f}" for part in last)],
            ],
        )
        print()


def names(args: argparse.Namespace) -> list[str]:
    counts = [int(part) for part in args.threads.split(",")]
    return [f"{name}, {n} thread{'s' * (n > 1)}" for n in counts for name in MAPS]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000_000)
    parser.add_argument("--live", type=int, default=100)
    parser.add_argument("--threads", default="1,2", help="(default: %(default)s)")
    apart.main(parser, names, measure, show)
