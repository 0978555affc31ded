"""A thousand threads count to one total: with a lock, an atomic and a sharded counter.

Use a ShardedCounter where only the sum matters: requests served, bytes sent. Use an AtomicInt64
where each thread needs the new number: a ticket, an id. Use a Mutex where several values change
together.

The naive version says ``total += 1``. That reads, adds and writes, so threads overwrite each
other's work: without the GIL most of it is lost. A threading.Lock makes it exact, and slower with
each processor that joins in.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from measure import Over, compare, options, rate_of, run

from nogil_sync import AtomicInt64, Mutex, ShardedCounter, pin


class Total:
    """A number behind a lock, or behind none."""

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self.total = 0

    def add(self) -> None:
        with self.lock:
            self.total += 1

    def value(self) -> int:
        return self.total


def main() -> None:
    chosen = options(__doc__, threads=1000, seconds=0.2)

    # pin() keeps threads from contending for an object's reference count. On 3.13t that is needed;
    # from 3.14 on our own objects do without. It is for what lives as long as the program.
    naive, locked = Total(nullcontext()), Total(threading.Lock())
    mutexed = pin(Total(pin(Mutex())))
    atomic, sharded = pin(AtomicInt64()), pin(ShardedCounter())

    counters: list[tuple[str, Any, Callable[[], int]]] = [
        ("total += 1, naive", naive, naive.value),
        ("the same under a threading.Lock", locked, locked.value),
        ("the same under a Mutex", mutexed, mutexed.value),
        ("AtomicInt64", atomic, atomic.load),
        ("ShardedCounter", sharded, sharded.value),
    ]
    rows = []
    for name, counter, value in counters:

        def count(over: Over, counter: Any = counter) -> int:
            add = counter.add  # fetched by each thread: the uses of a shared one would be counted
            done = 0
            while not over():
                for _ in range(20):
                    add()
                done += 20
            return done

        rate = rate_of(count, chosen.threads, chosen.seconds)
        lost = rate.done - value()
        rows.append((name, rate.per_second, f"lost {lost:,}" if lost else "exact"))
        assert not lost or counter is naive
    compare("adds a second", *rows)


if __name__ == "__main__":
    run(main)
