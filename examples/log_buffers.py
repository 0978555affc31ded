"""Lines of a log are put together in buffers that are used again.

Use a Pool for objects that are costly to make and that each task needs for a moment: large buffers,
parsers, compressors, connections. Do not use it for small objects: CPython makes those faster than
any pool can recycle them.

The naive version makes a buffer of 64 KiB for each line, and its memory is cleared each time. One
queue of spare buffers does as well for a few threads, but all meet in it, and it keeps for ever
what a busy moment needed. In a Pool each thread has spare items of its own, `max_idle` bounds them,
and the garbage collector has those dropped that nobody needs.
"""

import io
import os
import queue
from collections.abc import Callable
from pathlib import Path

from measure import Over, compare, options, rate_of, run

from nogil_sync import Pool, pin

SIZE = 65536


def new_buffer() -> bytearray:
    return bytearray(SIZE)


def write_line(log: io.RawIOBase, buffer: bytearray, number: int) -> None:
    line = b"request %d served\n" % number
    buffer[: len(line)] = line
    with memoryview(buffer) as view:
        log.write(view[: len(line)])


def measure(
    write: Callable[[io.RawIOBase, int], object], threads: int, seconds: float
) -> tuple[float, str]:
    def serve(over: Over) -> int:
        with Path(os.devnull).open("wb", buffering=0) as log:
            lines = 0
            while not over():
                for _ in range(10):
                    write(log, lines)
                    lines += 1
            return lines

    return rate_of(serve, threads, seconds).per_second, ""


def main() -> None:
    chosen = options(__doc__, threads=4, seconds=0.2)
    buffers = pin(Pool(new_buffer, max_idle=2 * chosen.threads))  # pin: see counting.py
    spare: queue.SimpleQueue[bytearray] = queue.SimpleQueue()

    def write_naively(log: io.RawIOBase, number: int) -> None:
        write_line(log, new_buffer(), number)

    def write_queued(log: io.RawIOBase, number: int) -> None:
        try:
            buffer = spare.get_nowait()
        except queue.Empty:
            buffer = new_buffer()
        write_line(log, buffer, number)
        spare.put(buffer)

    def write_pooled(log: io.RawIOBase, number: int) -> None:
        with buffers.use() as buffer:
            write_line(log, buffer, number)

    sizes = chosen.threads, chosen.seconds
    compare(
        "lines a second",
        ("a new buffer each time, naive", *measure(write_naively, *sizes)),
        ("a queue.SimpleQueue of buffers", *measure(write_queued, *sizes)),
        ("Pool", *measure(write_pooled, *sizes)),
    )
    print(f"\nThe pool holds {buffers.idle()} buffers now.")


if __name__ == "__main__":
    run(main)
