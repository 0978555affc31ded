"""Locks whose holders sleep: acquisitions a second, and the processor time of each.

    ./dev python perf/sleepers.py [--threads 32] [--locks 8] [--hold 200] [--seconds 1]

A holder that waits for a disk or a socket keeps others waiting for long, and threads that wait
awake for it take the processors from those that have work. Each thread takes a lock, sleeps `hold`
microseconds in it, and lets it go: always the same lock, and then each lock in turn. All locks are
measured one after the other, twice, and their figures are comparable within one run.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import check_gil, describe_build

from nogil_sync import Mutex, RWMutex, Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable

LOCKS: dict[str, Callable[[], Any]] = {
    "threading.Lock": threading.Lock,
    "Mutex": Mutex,
    "RWMutex.write": lambda: RWMutex().write,
    "Semaphore(1)": lambda: Semaphore(1),
}


@dataclass
class Result:
    """The result of one run."""

    rate: float  # acquisitions a second
    cost: float  # processor time of each, in seconds


def processor_time() -> float:
    """Processor time of all threads of this process, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(make: Callable[[], Any], options: argparse.Namespace, in_turn: bool) -> Result:
    """Run all threads for a while."""
    locks = [make() for _ in range(options.locks)]
    counts = [0] * options.threads
    start = threading.Barrier(options.threads + 1)
    stop = threading.Event()
    hold = options.hold / 1e6

    def work(me: int) -> None:
        count, place, sleep, is_over = 0, me, time.sleep, stop.is_set
        start.wait()
        while not is_over():
            with locks[place % len(locks)]:
                sleep(hold)
            count += 1
            place += in_turn
        counts[me] = count

    threads = [threading.Thread(target=work, args=(i,)) for i in range(options.threads)]
    for thread in threads:
        thread.start()
    start.wait()
    began, used = time.perf_counter(), processor_time()
    time.sleep(options.seconds)
    stop.set()
    for thread in threads:
        thread.join()
    total = sum(counts)
    return Result(total / (time.perf_counter() - began), (processor_time() - used) / max(total, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--locks", type=int, default=8)
    parser.add_argument("--hold", type=float, default=200, help="microseconds")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    check_gil()
    print(describe_build())
    print(f"{options.threads} threads, {options.locks} locks, held for {options.hold:g} us")
    for in_turn in (False, True):
        print("each lock in turn" if in_turn else "each thread its lock")
        for _ in range(2):
            reference: Result | None = None
            for name, make in LOCKS.items():
                result = measure(make, options, in_turn)
                reference = reference or result
                print(
                    f"  {name:16}{result.rate / 1e3:8.1f} k/s ({result.rate / reference.rate:4.2f})"
                    f"{result.cost * 1e6:8.1f} us CPU each ({result.cost / reference.cost:4.2f})"
                )
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it at once
    sys.exit(main())
