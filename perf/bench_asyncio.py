"""From threads to an event loop, and from task to task: `Channel` and `Mutex`, awaited.

*Latency*: a thread sends one item to a task that waits for it; what is measured is the time from
just before the send until the task has the item. The reference is what asyncio has for this: a
future for each item, which the thread sets by ``loop.call_soon_threadsafe``.

*Stream*: a thread sends as fast as it can through a bounded queue, and one task receives. One loop
is one item.

*Tasks of one loop*: what asyncio's own queue and lock, which no thread may touch, do better.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from rows import Operation, Row
from suite import main

from nogil_sync import Channel, Mutex

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from rows import Kind

CAPACITY = 1000
PAUSE = 0.0001  # seconds that the task surely waits before the thread sends


class Link(Protocol):
    """A queue from a thread to a task. It is made in the loop of the task."""

    def send(self, item: float) -> object: ...

    def receive(self) -> Awaitable[float]: ...


class Futures:
    """One item at a time, by a future that the thread sets."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def receive(self) -> Awaitable[float]:
        self.future: asyncio.Future[float] = self.loop.create_future()
        return self.future

    def send(self, item: float) -> None:
        self.loop.call_soon_threadsafe(self.future.set_result, item)


class Puts:
    """An asyncio.Queue into which the thread has the loop put, as many do: it has no bound."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[float] = asyncio.Queue()
        self.receive = self.queue.get

    def send(self, item: float) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, item)


class Ours:
    def __init__(self) -> None:
        channel: Channel[float] = Channel(CAPACITY)
        self.send, self.receive = channel.send, channel.recv_async


class TwoSided:
    """janus.Queue and culsans.Queue have one interface."""

    def __init__(self, module: Any) -> None:
        queue = module.Queue(CAPACITY)
        self.send, self.receive = queue.sync_q.put, queue.async_q.get


class Aiologic:
    def __init__(self, module: Any) -> None:
        queue = module.Queue(CAPACITY)
        self.send, self.receive = queue.green_put, queue.async_get


def peer(name: str) -> Callable[[], Link]:
    module = importlib.import_module(name)
    return lambda: Aiologic(module) if name == "aiologic" else TwoSided(module)


def latency(make: Callable[[], Link]) -> Callable[[int, int], float]:
    async def measure(loops: int) -> float:
        link = make()
        turn = threading.Semaphore(0)

        def produce() -> None:
            for _ in range(loops):
                turn.acquire()
                time.sleep(PAUSE)
                link.send(time.perf_counter())

        thread = threading.Thread(target=produce)
        thread.start()
        total = 0.0
        for _ in range(loops):
            item = link.receive()
            turn.release()
            sent = await item
            total += time.perf_counter() - sent
        thread.join()
        return total

    return lambda _threads, loops: asyncio.run(measure(loops))


def stream(make: Callable[[], Link]) -> Callable[[int, int], float]:
    async def measure(loops: int) -> float:
        link = make()
        begun: list[float] = []

        def produce() -> None:
            send = link.send
            begun.append(time.perf_counter())
            for _ in range(loops):
                send(0.0)

        thread = threading.Thread(target=produce)
        thread.start()
        receive = link.receive
        for _ in range(loops):
            await receive()
        end = time.perf_counter()
        thread.join()
        return end - begun[0]

    return lambda _threads, loops: asyncio.run(measure(loops))


def between_tasks(
    make: Callable[[], tuple[Callable[[float], Awaitable[object]], Callable[[], Awaitable[float]]]],
) -> Callable[[int, int], float]:
    async def measure(loops: int) -> float:
        send, receive = make()

        async def produce() -> None:
            for _ in range(loops):
                await send(0.0)

        begun = time.perf_counter()
        task = asyncio.ensure_future(produce())
        for _ in range(loops):
            await receive()
        await task
        return time.perf_counter() - begun

    return lambda _threads, loops: asyncio.run(measure(loops))


def holding(
    make: Callable[[], AbstractAsyncContextManager[object]], tasks: int
) -> Callable[[int, int], float]:
    async def measure(loops: int) -> float:
        lock = make()

        async def work() -> None:
            for _ in range(loops // tasks + 1):
                async with lock:
                    if tasks > 1:
                        await asyncio.sleep(0)

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(tasks)))
        return time.perf_counter() - begun

    return lambda _threads, loops: asyncio.run(measure(loops))


def queue_of_asyncio() -> Any:
    queue: asyncio.Queue[float] = asyncio.Queue(CAPACITY)
    return queue.put, queue.get


def our_channel() -> Any:
    channel: Channel[float] = Channel(CAPACITY)
    return channel.send_async, channel.recv_async


def queue_of_aiologic() -> Any:
    queue = importlib.import_module("aiologic").Queue(CAPACITY)
    return queue.async_put, queue.async_get


def lock_of_aiologic() -> Any:
    return importlib.import_module("aiologic").Lock()


def operations(peers: list[str]) -> list[Operation]:
    def row(name: str, kind: Kind, run: Callable[[int, int], float]) -> Row:
        return Row(name, kind, "", run=run)

    there = [name for name in ("janus", "culsans", "aiologic") if name in peers]
    links: list[tuple[str, Kind, Callable[[], Link]]] = [
        *((f"{name}.Queue", "peer", peer(name)) for name in there),
        ("Channel", "ours", Ours),
    ]
    futures = row("call_soon_threadsafe, future", "stdlib", latency(Futures))
    puts = row("call_soon_threadsafe, asyncio.Queue", "stdlib", stream(Puts))
    ops = [
        Operation(
            "asyncio, thread to task, latency",
            futures.name,
            (futures, *(row(name, kind, latency(make)) for name, kind, make in links)),
            threads=(2,),
        ),
        Operation(
            "asyncio, thread to task, stream",
            "janus.Queue" if "janus" in there else puts.name,
            (puts, *(row(name, kind, stream(make)) for name, kind, make in links)),
            threads=(2,),
        ),
    ]
    queue = row("asyncio.Queue", "stdlib", between_tasks(queue_of_asyncio))
    queues = [queue]
    if "aiologic" in there:
        queues.append(row("aiologic.Queue", "peer", between_tasks(queue_of_aiologic)))
    queues.append(row("Channel", "ours", between_tasks(our_channel)))
    ops.append(Operation("asyncio, task to task", queue.name, tuple(queues), threads=(1,)))
    for tasks in (1, 4):
        lock = row("asyncio.Lock", "stdlib", holding(asyncio.Lock, tasks))
        locks = [lock]
        if "aiologic" in there:
            locks.append(row("aiologic.Lock", "peer", holding(lock_of_aiologic, tasks)))
        locks.append(row("Mutex", "ours", holding(Mutex, tasks)))
        which = "one task" if tasks == 1 else f"{tasks} tasks that fight"
        ops.append(
            Operation(f"asyncio, async with, {which}", lock.name, tuple(locks), threads=(1,))
        )
    return ops


if __name__ == "__main__":
    main(operations)
