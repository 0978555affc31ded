"""A pipeline of threads that shuts down gracefully: nothing that it accepted is lost.

Use Channels between the stages. To stop, stop the source alone: its channel is closed, the next
stage goes on until that is drained, then the next channel is closed, and so on. Ctrl-C stops this
program in that way: it finishes what it has accepted, and then ends with status 130.

The naive version has queues, and one flag that all stages look at. Each stops at once, and what
lies in the queues is lost.
"""

import queue
import signal
import time
from collections.abc import Callable

from measure import compare, options, run

from nogil_sync import Channel, Event, ShardedCounter, TaskGroup

Pipeline = Callable[[int, float, Event], tuple[int, int]]


def billed(order: int) -> int:
    time.sleep(0.001)  # whatever the work is
    return order


def graceful(workers: int, seconds: float, stop: Event) -> tuple[int, int]:
    orders, bills = Channel[int](64), Channel[int](64)
    accepted, stored = ShardedCounter(), ShardedCounter()

    # Each stage closes what it reads as well: if it fails, those before it do not wait for ever.
    def accept() -> None:
        with orders:
            while not stop.is_set():
                orders.send(1)
                accepted.add()

    def work() -> None:
        with orders:
            for order in orders:
                bills.send(billed(order))

    def store() -> None:
        with bills:
            for bill in bills:
                stored.add(bill)

    with TaskGroup() as group:
        group.go(store)
        with bills, TaskGroup() as crew:  # bills is closed when the last worker has ended
            for stage in (accept, *[work] * workers):
                crew.go(stage)
            stop.wait(seconds)
            stop.set()
    return accepted.value(), stored.value()


def naive(workers: int, seconds: float, stop: Event) -> tuple[int, int]:
    orders: queue.Queue[int] = queue.Queue(64)
    bills: queue.Queue[int] = queue.Queue(64)
    accepted, stored = ShardedCounter(), ShardedCounter()

    def accept() -> None:
        while not stop.is_set():
            try:
                orders.put(1, timeout=0.05)
                accepted.add()
            except queue.Full:
                pass

    def work() -> None:
        while not stop.is_set():
            try:
                bills.put(billed(orders.get(timeout=0.05)), timeout=0.05)
            except (queue.Empty, queue.Full):
                pass

    def store() -> None:
        while not stop.is_set():
            try:
                stored.add(bills.get(timeout=0.05))
            except queue.Empty:
                pass

    with TaskGroup() as group:
        for stage in (accept, *[work] * workers, store):
            group.go(stage)
        stop.wait(seconds)
        stop.set()
    return accepted.value(), stored.value()


def main() -> None:
    chosen = options(__doc__, threads=3, seconds=0.2)
    stop, interrupted = Event(), Event()

    def interrupt(*_: object) -> None:
        stop.set()
        interrupted.set()

    usual = signal.signal(signal.SIGINT, interrupt)
    try:
        rows = []
        pipelines: dict[str, Pipeline] = {"Channels": graceful, "queues and a flag, naive": naive}
        for name, pipeline in pipelines.items():
            stop.clear()  # before the question, so that no interrupt between them is lost
            if interrupted.is_set():
                break
            begin = time.perf_counter()
            accepted, stored = pipeline(chosen.threads, chosen.seconds, stop)
            rate = stored / (time.perf_counter() - begin)
            rows.append((name, rate, f"{accepted - stored:,} of {accepted:,} lost"))
            assert accepted == stored or pipeline is naive
        compare("orders a second", *rows, multiples=False)
    finally:
        signal.signal(signal.SIGINT, usual)
    if interrupted.is_set():
        raise KeyboardInterrupt


if __name__ == "__main__":
    run(main)
