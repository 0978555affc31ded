"""A pipeline of threads that shuts down gracefully: nothing that it accepted is lost.

Use Channels between the stages. They are bounded, so a slow stage slows down those before it and
not the memory. To stop, stop the source alone: its channel is closed, the next stage goes on until
that is drained, then the next channel is closed, and so on. Each thread of a stage has a `sender()`
of the next channel, which closes when the last of them is left. If a stage fails, the TaskGroup
ends the others, also those that wait. Ctrl-C stops this program in the graceful way: it finishes
what it has accepted, and then ends with status 130.

The naive version has queues, and one flag that all stages look at. Each stops at once, and what
lies in the queues is lost.
"""

import queue
import signal
import time
from collections.abc import Callable

from measure import compare, options, run

from nogil_sync import Channel, ChannelSender, Event, ShardedCounter, TaskGroup

Pipeline = Callable[[int, float, Event], tuple[int, int]]


def billed(order: int) -> int:
    time.sleep(0.001)  # whatever the work is
    return order


def packed(bill: int) -> int:
    time.sleep(0.001)
    return bill


def graceful(workers: int, seconds: float, stop: Event) -> tuple[int, int]:
    orders, bills, parcels = Channel[int](64), Channel[int](64), Channel[int](64)
    accepted, stored = ShardedCounter(), ShardedCounter()

    def accept() -> None:
        with orders:
            while not stop.is_set():
                orders.send(1)
                accepted.add()

    def stage(work: Callable[[int], int], source: Channel[int], output: ChannelSender[int]) -> None:
        with output as sink:
            for item in source:
                sink.send(work(item))

    def store() -> None:
        for parcel in parcels:
            stored.add(parcel)

    with TaskGroup() as group:
        group.go(accept)
        for _ in range(workers):
            group.go(stage, billed, orders, bills.sender())
            group.go(stage, packed, bills, parcels.sender())
        group.go(store)
        stop.wait(seconds)
        stop.set()
    return accepted.value(), stored.value()


def naive(workers: int, seconds: float, stop: Event) -> tuple[int, int]:
    orders: queue.Queue[int] = queue.Queue(64)
    bills: queue.Queue[int] = queue.Queue(64)
    parcels: queue.Queue[int] = queue.Queue(64)
    accepted, stored = ShardedCounter(), ShardedCounter()

    def accept() -> None:
        while not stop.is_set():
            try:
                orders.put(1, timeout=0.05)
                accepted.add()
            except queue.Full:
                pass

    def stage(
        work: Callable[[int], int], source: "queue.Queue[int]", output: "queue.Queue[int]"
    ) -> None:
        while not stop.is_set():
            try:
                output.put(work(source.get(timeout=0.05)), timeout=0.05)
            except (queue.Empty, queue.Full):
                pass

    def store() -> None:
        while not stop.is_set():
            try:
                stored.add(parcels.get(timeout=0.05))
            except queue.Empty:
                pass

    with TaskGroup() as group:
        group.go(accept)
        for _ in range(workers):
            group.go(stage, billed, orders, bills)
            group.go(stage, packed, bills, parcels)
        group.go(store)
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
