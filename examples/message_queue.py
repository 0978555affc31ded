"""A queue of messages whose reader sleeps while it is empty: with a Cond, then with a Channel.

Use a Channel for messages between threads: it is bounded, so that a fast sender waits for a slow
receiver, and it has an end: ``for message in channel`` stops once it is closed and drained. Use a
Cond where what a thread waits for is a state of your own.

The naive version looks, and sleeps a little, and looks again: it wakes up for nothing a thousand
times a second, and still a message lies there for up to a millisecond.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator

from measure import Over, compare, options, rate_of, run

from nogil_sync import Channel, Cond, TaskGroup, pin


class Polling:
    def __init__(self) -> None:
        self.messages: deque[float] = deque()
        self.closed = False

    def send(self, message: float) -> None:
        self.messages.append(message)

    def close(self) -> None:
        self.closed = True

    def __iter__(self) -> Iterator[float]:
        while self.messages or not self.closed:
            while self.messages:
                yield self.messages.popleft()
            time.sleep(0.001)


class Waiting(Polling):
    def __init__(self) -> None:
        super().__init__()
        self.changed = Cond()

    def send(self, message: float) -> None:
        with self.changed:
            super().send(message)
            self.changed.notify()

    def close(self) -> None:
        with self.changed:
            super().close()
            self.changed.notify_all()

    def __iter__(self) -> Iterator[float]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.messages or self.closed)
                if not self.messages:
                    return
                message = self.messages.popleft()
            yield message


Queue = Polling | Channel[float]


def idle(queue: Queue, seconds: float) -> str:
    """Send ten messages with pauses; say how late they came, and what the waiting cost."""

    def receive() -> list[float]:
        return [time.perf_counter() - sent for sent in queue]

    with TaskGroup() as group:
        try:
            late = group.go(receive)
            before = time.process_time()
            for _ in range(10):
                group.wait_cancelled(seconds / 10)  # a pause that ends early if a task fails
                queue.send(time.perf_counter())
            used = time.process_time() - before
        finally:
            queue.close()
    delay = sorted(late.result())[5] * 1e6
    return f"{delay:5,.0f} us late, {used / seconds:5.1%} of a core while idle"


def busy(queue: Queue, senders: int, seconds: float) -> float:
    """Let many threads send and one receive; return messages a second."""

    def send(over: Over) -> int:
        put, sent = queue.send, 0
        while not over():
            for _ in range(20):
                put(0.0)
            sent += 20
        return sent

    begin = time.perf_counter()
    with TaskGroup() as group:
        try:
            received = group.go(lambda: sum(1 for _ in queue))
            rate = rate_of(send, senders, seconds)
        finally:
            queue.close()
    assert received.result() == rate.done  # none is lost
    return rate.done / (time.perf_counter() - begin)


def main() -> None:
    chosen = options(__doc__, threads=2, seconds=0.2)
    queues: dict[str, Callable[[], Queue]] = {
        "deque and time.sleep, naive": Polling,
        "deque and Cond": Waiting,
        "Channel": lambda: pin(Channel[float](1024)),  # pin: needed on 3.13t, see counting.py
    }
    rows = []
    for name, make in queues.items():
        remark = idle(make(), chosen.seconds)
        rows.append((name, busy(make(), chosen.threads, chosen.seconds), remark))
    compare("messages a second", *rows)
    print("\nOnly the Channel is bounded: it makes the senders wait while its reader is behind.")


if __name__ == "__main__":
    run(main)
