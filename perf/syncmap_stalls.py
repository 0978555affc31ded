"""How long lookups take while another thread makes the map large: `SyncMap` beside `dict`.

The control is a thread that reads the clock as often, beside the same growth, but looks nothing up:
its delays come from the machine and the interpreter. A lookup counts as *preempted* if the system
preempted its thread during its batch.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import TYPE_CHECKING, Any

import apart
from mapkeys import fresh, int_key, stored

from nogil_sync import SyncMap

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAPS: dict[str, Callable[[], Any]] = {"dict": dict, "SyncMap": SyncMap}
CONTROL = "control beside "

LOOKED_UP = 4096  # keys, which are in the map from the beginning
BATCH = 64
SLOW = 20_000  # ns


class Latencies:
    """A histogram by powers of two of nanoseconds, and a list of the slow lookups."""

    def __init__(self) -> None:
        self.counts = [0] * 64
        self.slow: list[tuple[int, bool]] = []

    def look_up(self, m: Any, keys: list[Hashable]) -> None:
        clock, counts = time.perf_counter_ns, self.counts
        before, slow = apart.switches(), []
        for key in keys:
            began = clock()
            m[key]
            took = clock() - began
            counts[took.bit_length()] += 1
            if took > SLOW:
                slow.append(took)
        self._add(slow, before)

    def look_nothing_up(self, m: Any, keys: list[Hashable]) -> None:  # noqa: ARG002
        clock, counts = time.perf_counter_ns, self.counts
        before, slow = apart.switches(), []
        for _ in keys:
            began = clock()
            took = clock() - began
            counts[took.bit_length()] += 1
            if took > SLOW:
                slow.append(took)
        self._add(slow, before)

    def _add(self, slow: list[int], before: int) -> None:
        if slow:
            preempted = apart.switches() != before
            self.slow += [(took, preempted) for took in slow]


def measure(name: str, args: argparse.Namespace) -> apart.Result:
    control = name.startswith(CONTROL)
    m = MAPS[name.removeprefix(CONTROL)]()
    first = min(LOOKED_UP, args.entries)
    for key in stored("int", first):
        m[key] = key
    latencies, ready, done = Latencies(), threading.Event(), threading.Event()

    def look() -> None:
        keys = fresh("int", first, first)
        batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
        step = latencies.look_nothing_up if control else latencies.look_up
        ready.set()
        while not done.is_set():
            for batch in batches:
                step(m, batch)

    reader = threading.Thread(target=look)
    reader.start()
    ready.wait()
    began = time.perf_counter()
    for number in range(first, args.entries):
        m[int_key(number)] = number
    seconds = time.perf_counter() - began
    done.set()
    reader.join()
    return {"counts": latencies.counts, "slow": latencies.slow, "seconds": seconds}


class Merged:
    """The sum of all rounds of one measurement."""

    def __init__(self, rounds: list[apart.Result]) -> None:
        self.counts = [sum(column) for column in zip(*(r["counts"] for r in rounds), strict=True)]
        self.total: int = sum(self.counts)
        self.slow: list[tuple[int, bool]] = sorted(
            (took, preempted) for r in rounds for took, preempted in r["slow"]
        )
        self.seconds = min(r["seconds"] for r in rounds)

    def share_slower(self, limit: int, *, undisturbed: bool = False) -> float:
        assert limit >= SLOW
        slower = sum(took >= limit and not (undisturbed and hit) for took, hit in self.slow)
        return slower / max(1, self.total)

    def slowest(self, *, undisturbed: bool = False) -> str:
        took = [took for took, hit in self.slow if not (undisturbed and hit)]
        return f"{max(took) / 1e6:.2f}" if took else f"< {SLOW / 1e6}"


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    merged = {name: Merged(rounds) for name, rounds in found.items()}
    print(f"Lookups while another thread stores {args.entries} entries, by how long they took\n")
    used = [any(m.counts[bit] for m in merged.values()) for bit in range(64)]
    rows: list[list[object]] = [
        [f"< {(1 << bit) / 1000:g} µs", *(m.counts[bit] for m in merged.values())]
        for bit in range(used.index(True), 64 - used[::-1].index(True))
    ]
    for title, undisturbed in (("", False), (", not preempted", True)):
        shares = (m.share_slower(50_000, undisturbed=undisturbed) for m in merged.values())
        rows.append([f"% of 50 µs or more{title}", *(f"{share * 100:.4f}" for share in shares)])
        slowest = (m.slowest(undisturbed=undisturbed) for m in merged.values())
        rows.append([f"slowest, ms{title}", *slowest])
    rows.append(["the growth, s", *(f"{m.seconds:.2f}" for m in merged.values())])
    apart.table(["", *merged], rows)


def names(args: argparse.Namespace) -> list[str]:  # noqa: ARG001
    return [*MAPS, *(CONTROL + name for name in MAPS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=4_000_000)
    apart.main(parser, names, measure, show)
