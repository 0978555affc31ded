"""What the examples share: options, many threads for a while, and the table of results.

Nothing here is needed to use nogil_sync: read the programs, not this.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from nogil_sync import Event, TaskGroup, backend

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def options(
    description: str | None, *, threads: int, seconds: float | None = None, **numbers: int
) -> argparse.Namespace:
    """Read the command line, and print on what the program runs.

    There is ``--threads``, an option for each further number, and perhaps ``--seconds``.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    numbers = {"threads": threads, **numbers}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    if seconds is not None:
        told = f"for each row, default: {seconds}"
        parser.add_argument("--seconds", type=float, default=seconds, help=told)
    chosen = parser.parse_args()
    for name in numbers:
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if seconds is not None and not chosen.seconds > 0:
        parser.error("--seconds must be more than 0")

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gil = "with the GIL" if GIL else "free-threaded"
    sizes = ", ".join(f"{getattr(chosen, name)} {name}" for name in numbers)
    print(f"Python {platform.python_version()} ({gil}), {backend} backend, {cores} processors")
    print(sizes)
    if GIL:
        print("With the GIL threads take turns: here ours is safer than the naive version,")
        print("but not faster.")
    elif backend == "threading":
        print("The pure backend is meant for interpreters with the GIL: here it is slow.")
    print(flush=True)
    return chosen


class Rate(NamedTuple):
    """How often something was done by all threads together."""

    done: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds


Over = Callable[[], bool]  # whether it is time to stop


def rate_of(
    work: Callable[[Over], int],
    threads: int,
    seconds: float,
    meanwhile: Callable[[Over], object] | None = None,
) -> Rate:
    """Call ``work(over)`` in so many threads; return how often they did what they do.

    `work` goes on until ``over()`` is true, and returns how often it did it. One more thread calls
    ``meanwhile(over)``, from before the others begin. A thread looks at the clock itself, since a
    thousand busy threads keep any other from telling them in time.
    """
    go, stop = Event(), Event()
    started = 0.0

    def begin() -> tuple[int, float]:
        go.wait()
        end, clock, stopped = started + seconds, time.perf_counter, stop.is_set
        done = work(lambda: clock() >= end or stopped())
        return done, clock()

    with TaskGroup() as group:
        try:
            if meanwhile is not None:
                group.go(meanwhile, stop.is_set)
            tasks = [group.go(begin) for _ in range(threads)]
            started = time.perf_counter()
            go.set()
            group.wait_cancelled(seconds)  # sooner, if a thread fails
        finally:
            go.set()
            stop.set()
    results = [task.result() for task in tasks]
    return Rate(sum(done for done, _ in results), max(end for _, end in results) - started)


def seconds_for(work: Callable[[], object], threads: int) -> float:
    """Call ``work()`` in so many threads at once; return the seconds until the last is done."""
    go = Event()

    def begin() -> float:
        go.wait()
        work()
        return time.perf_counter()

    with TaskGroup() as group:
        try:
            ends = [group.go(begin) for _ in range(threads)]
            started = time.perf_counter()
        finally:
            go.set()
    return max(end.result() for end in ends) - started


def compare(what: str, *rows: tuple[str, float, str], multiples: bool = True) -> None:
    """Print a table of (name, rate, remark); each rate also as a multiple of the first row's."""
    print(f"{'':36}{what:>22}")
    first = rows[0][1]
    for name, rate, remark in rows:
        times = f"{rate / first:8.2f} x" if multiples and first else ""
        print(f"{name:36}{rate:22,.0f}{times}   {remark}".rstrip(), flush=True)


def run(program: Callable[[], object]) -> NoReturn:
    """Run the program and end the process: with status 130 after a Ctrl-C, as shells expect."""
    try:
        program()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit()
