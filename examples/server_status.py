"""Status of a server: flags that all threads read, and counts that all threads change.

Use an AtomicBool for a flag, an AtomicInt64 for a number whose new value is needed (how many
requests are in flight, and the most that ever were), a ShardedCounter for what is only added up.

The naive version has plain attributes and says ``+= 1``: without the GIL threads overwrite each
other's work, so the number in flight never returns to 0. A threading.Lock makes it right, and every
request takes it twice.
"""

import threading
from typing import Protocol

from measure import Over, compare, options, rate_of, run

from nogil_sync import AtomicBool, AtomicInt64, ShardedCounter, pin


class Status(Protocol):
    def begin(self) -> bool: ...
    def end(self) -> None: ...
    def numbers(self) -> tuple[int, int, int]: ...


class Naive:
    def __init__(self) -> None:
        self.accepting = True
        self.in_flight = self.peak = self.served = 0

    def begin(self) -> bool:
        if not self.accepting:
            return False
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        return True

    def end(self) -> None:
        self.in_flight -= 1
        self.served += 1

    def numbers(self) -> tuple[int, int, int]:
        return self.in_flight, self.peak, self.served


class Locked(Naive):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def begin(self) -> bool:
        with self.lock:
            return super().begin()

    def end(self) -> None:
        with self.lock:
            super().end()


class Atomic:
    def __init__(self) -> None:
        # pin: needed on 3.13t, see counting.py
        self.accepting = pin(AtomicBool(True))
        self.in_flight, self.peak = pin(AtomicInt64()), pin(AtomicInt64())
        self.served = pin(ShardedCounter())

    def begin(self) -> bool:
        if not self.accepting.load():
            return False
        now = self.in_flight.add()
        if now > self.peak.load():  # mostly it is not, and reading is cheaper than changing
            self.peak.fetch_max(now)
        return True

    def end(self) -> None:
        self.in_flight.sub()
        self.served.add()

    def numbers(self) -> tuple[int, int, int]:
        return self.in_flight.load(), self.peak.load(), self.served.value()


def measure(status: Status, threads: int, seconds: float) -> tuple[float, str]:
    def serve(over: Over) -> int:
        begin, end, requests = status.begin, status.end, 0
        while not over():
            for _ in range(10):
                if begin():
                    end()
            requests += 10
        return requests

    rate = rate_of(serve, threads, seconds)
    in_flight, peak, served = status.numbers()
    assert type(status) is Naive or (in_flight, served) == (0, rate.done)
    told = f"in flight {in_flight:,}, peak {peak:,}, {rate.done - served:,} not counted"
    return rate.per_second, told


def main() -> None:
    chosen = options(__doc__, threads=8, seconds=0.2)
    ways: dict[str, Status] = {
        "plain attributes, naive": Naive(),
        "threading.Lock": Locked(),
        "atomics and a counter": pin(Atomic()),
    }
    rows = [
        (name, *measure(status, chosen.threads, chosen.seconds)) for name, status in ways.items()
    ]
    compare("requests a second", *rows)


if __name__ == "__main__":
    run(main)
