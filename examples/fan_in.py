"""Many producers, one reader: it ends when the last producer has ended.

Use one Channel, and give each producer a `sender()` of it: the channel closes when the last of them
is left, whatever the end of its producer, and the reader's ``for`` loop ends after the last item.
Or give each producer a channel of its own, where the reader must know whose item it is, and select
among them: a channel that is closed and empty says so. Neither way counts anything.

The naive version lets each producer put None at its end, and its reader stops at the first None:
what the others still send is lost. Counting the Nones helps until a producer fails without one.
"""

import queue
import time
from collections.abc import Callable, Iterator

from measure import compare, options, run

from nogil_sync import Channel, ChannelSender, TaskGroup, select


def sizes(producers: int, items: int) -> list[int]:
    """How many items each producer has: the first has the fewest."""
    return [items * (n + 1) // producers for n in range(producers)]


def produced(size: int, group: TaskGroup) -> Iterator[int]:
    """The items of one producer; fewer after a Ctrl-C, which cancels the group."""
    for item in range(size):
        if item % 16 == 0 and group.cancelled():
            return
        yield item


def queued(producers: int, items: int, enough: int) -> int:
    """Read until so many Nones have come."""
    output: queue.Queue[int | None] = queue.Queue()

    def produce(size: int) -> None:
        try:
            for item in produced(size, group):
                output.put(item)
        finally:
            output.put(None)

    # Not in the main thread: a Ctrl-C in the middle of get() could leave the queue locked.
    def read() -> int:
        received = ended = 0
        while ended < enough and not group.cancelled():
            try:
                if output.get(timeout=0.1) is None:
                    ended += 1
                else:
                    received += 1
            except queue.Empty:
                pass
        return received

    with TaskGroup() as group:
        for size in sizes(producers, items):
            group.go(produce, size)
        reader = group.go(read)
    return reader.result()


def naive(producers: int, items: int) -> int:
    return queued(producers, items, enough=1)


def counted(producers: int, items: int) -> int:
    return queued(producers, items, enough=producers)


def one_channel(producers: int, items: int) -> int:
    output = Channel[int](1024)

    def produce(sender: ChannelSender[int], size: int) -> None:
        with sender as channel:
            for item in produced(size, group):
                channel.send(item)

    with TaskGroup() as group:
        with output.sender():  # or the first could be the last before the others begin
            for size in sizes(producers, items):
                group.go(produce, output.sender(), size)
        return sum(1 for _ in output)


def many_channels(producers: int, items: int) -> int:
    channels = [Channel[int](1024) for _ in range(producers)]
    received = 0

    def produce(channel: Channel[int], size: int) -> None:
        with channel:
            for item in produced(size, group):
                channel.send(item)

    with TaskGroup() as group:
        for channel, size in zip(channels, sizes(producers, items), strict=True):
            group.go(produce, channel, size)
        while channels:
            selected = select(*channels)
            if selected.closed:
                channels.remove(selected.case)
            else:
                received += 1
    return received


def main() -> None:
    chosen = options(__doc__, threads=10, items=5000)
    expected = sum(sizes(chosen.threads, chosen.items))
    ways: dict[str, Callable[[int, int], int]] = {
        "a Queue up to the first None, naive": naive,
        "a Queue, as many Nones as threads": counted,
        "one Channel with senders": one_channel,
        "a Channel for each, and select": many_channels,
    }
    rows = []
    for name, way in ways.items():
        begin = time.perf_counter()
        received = way(chosen.threads, chosen.items)
        remark = f"{received:,} of {expected:,} received"
        rows.append((name, expected / (time.perf_counter() - begin), remark))
        assert received == expected or way is naive
    compare("items sent a second", *rows)


if __name__ == "__main__":
    run(main)
