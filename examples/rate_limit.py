"""A rate limit that many threads share: so many calls a second, and no more.

The next moment at which a call may begin is one number. Each thread moves it on by one interval
with ``compare_and_swap``, and so has a turn that no other thread has; then it sleeps until that
turn comes. It holds no lock while it sleeps, and sleeps at an Event, so that a shutdown wakes it.

The naive version looks at the time of the last call, sleeps, and notes the new time: several
threads see the same last call and go together. A lock that is held during the sleep makes it right,
but then a thread that gives up, or a shutdown, waits behind all others.
"""

import time
from collections.abc import Callable

from measure import Over, compare, options, rate_of, run

from nogil_sync import AtomicInt64, Event


class NaiveLimit:
    def __init__(self, per_second: int) -> None:
        self.interval = 1 / per_second
        self.last = 0.0

    def wait(self) -> bool:
        time.sleep(max(0.0, self.last + self.interval - time.monotonic()))
        self.last = time.monotonic()
        return True


class RateLimit:
    def __init__(self, per_second: int) -> None:
        self.interval = 1_000_000_000 // per_second
        self.next = AtomicInt64(time.monotonic_ns())
        self.stopped = Event()

    def wait(self) -> bool:
        """Wait for a turn; return whether it came: it does not once the limit was stopped."""
        while True:
            first, now = self.next.load(), time.monotonic_ns()
            turn = max(first, now)  # turns that nobody took are not saved up
            if self.next.compare_and_swap(first, turn + self.interval):
                return not self.stopped.wait((turn - now) / 1e9)

    def stop(self) -> None:
        self.stopped.set()


def measure(limit: NaiveLimit | RateLimit, threads: int, seconds: float) -> float:
    def call(over: Over) -> int:
        calls = 0
        while not over() and limit.wait():
            calls += 1
        return calls

    def end(over: Over) -> None:
        try:
            while not over():
                time.sleep(0.01)
        finally:
            if isinstance(limit, RateLimit):
                limit.stop()

    return rate_of(call, threads, seconds, meanwhile=end).per_second


def main() -> None:
    chosen = options(__doc__, threads=8, limit=200, seconds=0.4)
    limits: dict[str, Callable[[int], NaiveLimit | RateLimit]] = {
        "the time of the last call, naive": NaiveLimit,
        "RateLimit": RateLimit,
    }
    rows = []
    for name, make in limits.items():
        rate = measure(make(chosen.limit), chosen.threads, chosen.seconds)
        rows.append((name, rate, f"{rate / chosen.limit:.0%} of the limit"))
    compare("calls a second", *rows, multiples=False)


if __name__ == "__main__":
    run(main)
