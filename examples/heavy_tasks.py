"""At most three heavy tasks at a time, however many threads ask.

Use a Semaphore where threads that exist anyway share something scarce: memory, connections, a
licence. ``acquire(n=...)`` and ``hold(n)`` take several units at once, for tasks that weigh more.
If the tasks are all that the threads do, ``TaskGroup(limit=3)`` is simpler.

The naive version counts the tasks that run, and looks before it begins one. Between looking and
counting other threads look too, so more than three run. And while it waits, it polls.
"""

import time

from measure import Over, compare, options, rate_of, run

from nogil_sync import AtomicInt64, Semaphore, TaskGroup

AT_ONCE = 3


class Heavy:
    """A task that takes 5 ms, and notes how many ran at the same time."""

    def __init__(self) -> None:
        self.running, self.peak, self.done = AtomicInt64(), AtomicInt64(), AtomicInt64()

    def __call__(self) -> None:
        self.peak.fetch_max(self.running.add())
        time.sleep(0.005)
        self.running.sub()
        self.done.add()


class Naive:
    running = 0

    def ask(self, heavy: Heavy, over: Over) -> None:
        while self.running >= AT_ONCE:
            if over():
                return
            time.sleep(0.001)
        time.sleep(0)  # here another thread may run, and it does
        self.running += 1
        heavy()
        self.running -= 1  # without the GIL this may get lost, and then it waits for ever


def main() -> None:
    chosen = options(__doc__, threads=12, seconds=0.2)
    naive, permits = Naive(), Semaphore(AT_ONCE)
    unlimited, limited, grouped = Heavy(), Heavy(), Heavy()

    def ask_naively(over: Over) -> int:
        while not over():
            naive.ask(unlimited, over)
        return 0

    def ask(over: Over) -> int:
        while not over():
            with permits:
                limited()
        return 0

    def report(name: str, heavy: Heavy, took: float) -> tuple[str, float, str]:
        return name, heavy.done.load() / took, f"at most {heavy.peak.load()} at a time"

    rows = []
    took = rate_of(ask_naively, chosen.threads, chosen.seconds).seconds
    rows.append(report("a count of running tasks, naive", unlimited, took))
    took = rate_of(ask, chosen.threads, chosen.seconds).seconds
    rows.append(report("Semaphore(3)", limited, took))
    begin = time.perf_counter()
    with TaskGroup(limit=AT_ONCE) as group:
        for _ in range(limited.done.load()):
            group.go(grouped)
    rows.append(report("TaskGroup(limit=3)", grouped, time.perf_counter() - begin))

    assert max(limited.peak.load(), grouped.peak.load()) <= AT_ONCE
    compare("tasks a second", *rows, multiples=False)


if __name__ == "__main__":
    run(main)
