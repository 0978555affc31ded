"""Event loops in tests: asyncio's own and uvloop's, and loops that run in other threads."""

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Self

import pytest
from support import TIMEOUT
from waits import WaitTrial, counting, unbroken

from nogil_sync import Channel, Event, after, select_async

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
no_uvloop = pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed")
# On debug builds each loop of uvloop 0.23 leaves some 130 references behind, whatever runs in it.
leaks_itself = pytest.mark.leaks(reason="uvloop itself leaves references behind")
LOOPS = ["asyncio", pytest.param("uvloop", marks=[no_uvloop, leaks_itself])]


def new_loop(kind: str = "asyncio") -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()  # type: ignore[no-any-return]
    return asyncio.new_event_loop()


def run(coroutine: Coroutine[Any, Any, Any], kind: str = "asyncio") -> Any:
    """Run it to its end in a loop of its own, as ``asyncio.run``, but not for ever."""

    async def limited() -> Any:
        async with asyncio.timeout(TIMEOUT):
            return await coroutine

    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        return runner.run(limited())


class LoopThread:
    """A loop that runs in a thread of its own until the end of the ``with`` block."""

    def __init__(self, kind: str = "asyncio") -> None:
        self.loop = new_loop(kind)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.loop.is_closed():
            return
        self.submit(self._cancel_all()).result(TIMEOUT)
        self.stop()
        self.loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        """Have the loop run no longer."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()

    def abandon(self) -> None:
        """Stop and close the loop with all its tasks as they are."""
        if self.thread.is_alive():
            self.stop()
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Have a task of this loop run it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def settle(self) -> None:
        """Wait until the loop has run all that it can run now."""
        for _ in range(5):
            self.submit(asyncio.sleep(0)).result(TIMEOUT)


@contextmanager
def loop_threads(count: int, kind: str = "asyncio") -> Iterator[list[LoopThread]]:
    threads = [LoopThread(kind) for _ in range(count)]
    for each in threads:
        each.__enter__()
    try:
        yield threads
    finally:
        for each in threads:
            each.__exit__()


async def started_task(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """A task that waits in the coroutine by now."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done(), task
    return task


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition comes true."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.001)


def select_among_others_async(case: Any, timeout: float | None) -> Coroutine[Any, Any, Any]:
    """`select_async` of this case beside idle ones of each kind."""
    idle: Channel[int] = Channel()
    cases = (idle, idle.sending(1), Event(), case, counting(1), after(3600))
    return select_async(*cases, timeout=timeout)


# The awaited twin of each call in WAITS, with a time-out.
TWINS: dict[str, Callable[[Any, float | None], Coroutine[Any, Any, Any]]] = {
    "Mutex.acquire": lambda m, timeout: m.acquire_async(timeout),
    "Event.wait": lambda e, timeout: e.wait_async(timeout),
    "RWMutex.read.acquire": lambda rw, timeout: rw.read.acquire_async(timeout),
    "RWMutex.write.acquire beside a reader": lambda rw, timeout: rw.write.acquire_async(timeout),
    "RWMutex.write.acquire beside two readers": lambda rw, timeout: rw.write.acquire_async(timeout),
    "RWMutex.write.acquire beside a writer": lambda rw, timeout: rw.write.acquire_async(timeout),
    "Semaphore.acquire": lambda s, timeout: s.acquire_async(timeout),
    "Semaphore.acquire of many": lambda s, timeout: s.acquire_async(timeout, n=4),
    "Semaphore.acquire of an unbounded one": lambda s, timeout: s.acquire_async(timeout, n=4),
    "Semaphore.acquire where there is none": lambda s, timeout: s.acquire_async(timeout),
    "Semaphore.hold": lambda s, timeout: s.hold_async(2, timeout).__aenter__(),
    "WaitGroup.wait": lambda g, timeout: g.wait_async(timeout),
    "Barrier.wait": lambda b, timeout: unbroken(b).wait_async(timeout),
    "Channel.send": lambda c, timeout: c.send_async(1, timeout),
    "Channel.recv": lambda c, timeout: c.recv_async(timeout),
    "Cond.wait": lambda c, timeout: c.wait_async(timeout),
    "Cond.wait_for": lambda x, timeout: x.cond.wait_for_async(x.ready.__len__, timeout),
    "select of one channel": lambda c, timeout: select_async(c, timeout=timeout),
    "select to receive": lambda c, timeout: select_among_others_async(c, timeout),
    "select to send": lambda c, timeout: select_among_others_async(c.sending(1), timeout),
    "Event in a select": lambda e, timeout: select_among_others_async(e, timeout),
    "WaitGroup in a select": lambda g, timeout: select_among_others_async(g, timeout),
    "SyncMap.load_or_compute": lambda x, timeout: x.map.load_or_compute_async(
        "k", _never, timeout=timeout
    ),
    "Cache.load_or_compute": lambda x, timeout: x.map.load_or_compute_async(
        "k", _never, timeout=timeout
    ),
}


async def _never() -> Any:
    raise AssertionError("the other thread computes the value")


class AwaitTrial(WaitTrial):
    """A call that waits and its twin, with an object of its own."""

    def twin(self, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
        return TWINS[self.name](self.x, timeout)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    async def awaited(self, timeout: float | None = None) -> Any:
        """Await it; the error, as text, if that is how the call says how it ended."""
        try:
            return await self.twin(timeout)
        except TimeoutError as error:
            return type(error).__name__
        except threading.BrokenBarrierError as error:
            return f"{type(error).__name__}: {error}"
