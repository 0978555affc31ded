"""An asyncio server whose requests need the processor: one thread does all, then a pool of threads.

A server in asyncio holds thousands of connections in one thread. A request that computes keeps that
thread busy, and all others wait: that is the naive version. The other one hands the work to threads
through a `Channel` and awaits the answer in another; the channel is bounded, so a full pool makes
the server wait with ``send_async``, and not pile up requests. On a free-threaded build the threads
use all cores.

``send_async`` and ``recv_async`` keep no thread busy while they wait, and threads and tasks stand
in one line. A `TaskGroup` runs the workers; when the server stops, it closes the channel, and they
end.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from measure import compare, options, run

from nogil_sync import Channel, TaskGroup

Handler = Callable[[int], Awaitable[int]]


def count_primes(below: int) -> int:
    """Something to compute."""
    sieve = bytearray([1]) * below
    for n in range(2, int(below**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return sum(sieve[2:])


class Job(NamedTuple):
    number: int
    answer: Channel[int]


async def in_the_loop(number: int) -> int:
    return count_primes(number)


class Pool:
    """Threads that take jobs from one channel, and send each answer into the job's own."""

    def __init__(self, jobs: Channel[Job]) -> None:
        self.jobs = jobs

    def work(self) -> None:
        for job in self.jobs:
            job.answer.try_send(count_primes(job.number))

    async def __call__(self, number: int) -> int:
        job = Job(number, Channel(1))
        await self.jobs.send_async(job)
        return await job.answer.recv_async()


async def serve(handler: Handler, clients: int, seconds: float) -> tuple[int, str]:
    """Serve clients on this machine for a while; return how many requests, and how it felt."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # (Python 3.11 would report the cancellation by a Ctrl-C as an error.)
        with suppress(ConnectionError, asyncio.CancelledError):
            try:
                while line := await reader.readline():
                    writer.write(b"%d\n" % await handler(int(line)))
                    await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()  # else asyncio may report a client that is gone

    async def ask(port: int, end: float) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = 0
        try:
            while time.monotonic() < end:
                writer.write(b"20000\n")
                assert int(await reader.readline()) == 2262
                answers += 1
        finally:
            writer.close()
        return answers

    async def look(end: float) -> float:
        """How late the loop is at worst, for what has nothing to do with the requests."""
        worst = 0.0
        while (before := time.monotonic()) < end:
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - before - 0.001)
        return worst

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        end = time.monotonic() + seconds
        worst, *answers = await asyncio.gather(look(end), *(ask(port, end) for _ in range(clients)))
    return sum(map(int, answers)), f"the loop up to {worst * 1000:5.1f} ms late"


def in_one_thread(clients: int, seconds: float) -> tuple[int, str]:
    return asyncio.run(serve(in_the_loop, clients, seconds))


def with_a_pool(clients: int, seconds: float, threads: int) -> tuple[int, str]:
    with TaskGroup() as group, Channel[Job](2 * threads) as jobs:  # left first, it is closed first
        pool = Pool(jobs)
        for _ in range(threads):
            group.go(pool.work)
        return asyncio.run(serve(pool, clients, seconds))


def main() -> None:
    chosen = options(__doc__, threads=4, seconds=0.5)
    clients = 4 * chosen.threads
    served, remark = in_one_thread(clients, chosen.seconds)
    rows = [("in the loop, naive", served / chosen.seconds, remark)]
    served, remark = with_a_pool(clients, chosen.seconds, chosen.threads)
    rows.append((f"{chosen.threads} threads, Channel", served / chosen.seconds, remark))
    compare("requests a second", *rows)


if __name__ == "__main__":
    run(main)
