"""The awaited twins of the calls that wait, for both backends.

Each public class whose calls wait has a private base here with the coroutine functions. `install`
puts them into the classes of a backend, as functions of their own. There they find two private
attributes: ``_plain``, the public class itself, whose methods they call and not those of a
subclass, and ``_AsyncWaiter``, the backend's place in line for a task.

A twin first tries what needs no wait, by reading an attribute that makes the call which does not
wait: after a call the interpreter looks for signals, and what a handler raises then would leave the
lock taken, or lose the item; after it has read an attribute it does not. Then no loop is needed and
the task is not suspended. Else it stands in line (see `loops`). Whatever ends the wait but being
served (a cancellation, a time-out, the end of the coroutine) is passed to ``AsyncWaiter.cancel``:
the waiter leaves its line, and what it was given in the last moment goes to the next one. A send
that was accepted cannot be undone. What the waiter was given is collected by reading an attribute,
too; no function of Python begins from there to the end of the call.

A task is not in the scope of a task group (see `cancelled`): asyncio cancels tasks itself.
"""

import operator
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from itertools import starmap
from math import inf
from time import monotonic
from types import FrameType
from typing import Any, ClassVar, Generic, Self, SupportsIndex, TypeVar, final

from .cases import Case
from .channel_closed import ChannelClosed
from .frames import is_ours
from .loops import NOT_SERVED, Call, TaskWait, settle, wait_in_line
from .object import Part, adopt
from .once import ABSENT
from .originals import BrokenBarrierError
from .performance import Unraisable
from .selected import Selected
from .timeouts import lock_timeout, wait_timeout

__all__ = ["SemaphoreHoldAsync", "select_async"]

T = TypeVar("T")


class Awaited:
    """The base of all."""

    __slots__ = ()

    _plain: ClassVar[Any]
    _AsyncWaiter: ClassVar[Any]


class AwaitedLock(Awaited):
    """For Mutex and the views of RWMutex."""

    __slots__ = ()

    @property
    def _taken_at_once(self) -> bool:
        """Take it if that needs no wait; whether it was. The native backend has its own."""
        taken: bool = self._plain.acquire(self, False)
        return taken

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Take the lock as ``acquire`` does, while the event loop goes on; return whether.

        Threads and tasks stand in one line. Waits for ever by default, or with a `timeout` of -1,
        else at most so many seconds, as ``acquire``; ``asyncio.timeout`` does as well. A task
        that is cancelled has not taken the lock. A task of one loop may release what a task of
        another, or a thread, has acquired.
        """
        seconds = None if timeout is None else lock_timeout(True, timeout)
        if self._taken_at_once:
            return True
        if seconds == 0:
            return False
        outcome = await wait_in_line(self._AsyncWaiter, self, "acquire", None, seconds)
        return outcome is None

    async def __aenter__(self) -> bool:
        """Take the lock; return True."""
        if not self._taken_at_once:
            await wait_in_line(self._AsyncWaiter, self, "acquire", None, None)
        return True

    async def __aexit__(self, *exc_info: object) -> None:
        """Let the lock go."""
        self._plain.release(self)


class AwaitedSemaphore(Awaited):
    """For Semaphore."""

    __slots__ = ()

    @property
    def _taken_at_once(self) -> bool:
        """Take it if that needs no wait; whether it was. The native backend has its own."""
        taken: bool = self._plain.acquire(self, False)
        return taken

    async def acquire_async(self, timeout: float | None = None, *, n: SupportsIndex = 1) -> bool:
        """Take `n` units as :meth:`acquire` does, while the event loop goes on; return whether.

        Threads and tasks stand in one line. `timeout` and `n` are those of :meth:`acquire`. A
        task that is cancelled has taken nothing.

        >>> import asyncio
        >>> from nogil_sync import Semaphore
        >>> async def work(memory):
        ...     async with memory:
        ...         return await memory.acquire_async(timeout=0.01, n=100)
        >>> asyncio.run(work(Semaphore(100)))
        False
        """
        seconds = wait_timeout(timeout)
        number = int.__index__(operator.index(n))
        if number == 1:
            taken = self._taken_at_once
        else:  # as an iterator's item, since no interrupt comes after that either
            (taken,) = starmap(partial(self._plain.acquire, self, False, n=number), ((),))
        if taken:
            return True
        if seconds == 0:
            return False
        outcome = await wait_in_line(self._AsyncWaiter, self, "acquire", number, seconds)
        return outcome is None

    def hold_async(
        self, n: SupportsIndex = 1, timeout: float | None = None
    ) -> "SemaphoreHoldAsync":
        """Return an asynchronous context manager that holds `n` units: a weighted ``async with``.

        Its arguments and errors are those of :meth:`hold`.

        >>> import asyncio
        >>> from nogil_sync import Semaphore
        >>> async def work(memory):
        ...     async with memory.hold_async(70):
        ...         return memory.available()
        >>> asyncio.run(work(Semaphore(100)))
        30
        """
        self._plain.hold(self, n, timeout)  # checks the arguments
        hold = object.__new__(SemaphoreHoldAsync)
        hold._semaphore = self
        hold._n = int.__index__(operator.index(n))
        hold._seconds = wait_timeout(timeout)
        return hold

    async def __aenter__(self) -> bool:
        """Take one unit; return True."""
        if not self._taken_at_once:
            await wait_in_line(self._AsyncWaiter, self, "acquire", 1, None)
        return True

    async def __aexit__(self, *exc_info: object) -> None:
        """Give one unit back."""
        self._plain.release(self)


@final
class SemaphoreHoldAsync(Part):
    """What :meth:`Semaphore.hold_async` returns: holds units in an ``async with``.

    It can be entered again and again, also by several tasks at the same time.

    >>> import asyncio
    >>> from nogil_sync import Semaphore, SemaphoreHoldAsync
    >>> async def work(memory):
    ...     half: SemaphoreHoldAsync = memory.hold_async(50)
    ...     async with half, half:
    ...         return memory.available()
    >>> asyncio.run(work(Semaphore(100)))
    0
    """

    __module__ = "nogil_sync"
    __slots__ = ("_n", "_seconds", "_semaphore")
    _semaphore: AwaitedSemaphore
    _n: int
    _seconds: float | None

    async def __aenter__(self) -> None:
        """Take the units, or raise ``TimeoutError`` when the time is over."""
        semaphore = self._semaphore
        if not await semaphore._plain.acquire_async(semaphore, self._seconds, n=self._n):
            raise TimeoutError("timed out waiting for the semaphore")

    async def __aexit__(self, *exc_info: object) -> None:
        """Give the units back."""
        semaphore = self._semaphore
        semaphore._plain.release(semaphore, self._n)


class AwaitedEvent(Awaited):
    """For Event and WaitGroup."""

    __slots__ = ()

    async def wait_async(self, timeout: float | None = None) -> bool:
        """Wait as :meth:`wait` does, while the event loop goes on; return whether it came.

        `timeout` is that of :meth:`wait`.
        """
        seconds = wait_timeout(timeout)
        if self._plain.wait(self, 0):
            return True
        if seconds == 0:
            return False
        outcome = await wait_in_line(self._AsyncWaiter, self, "wait", None, seconds)
        return outcome is None


class AwaitedBarrier(Awaited):
    """For Barrier."""

    __slots__ = ()

    @property
    def _default_timeout(self) -> float | None:
        raise NotImplementedError

    async def wait_async(self, timeout: float | None = None) -> int:
        """Wait as :meth:`wait` does, while the event loop goes on; return how many came before.

        Threads and tasks are parties alike. `timeout` and errors are those of :meth:`wait`. The
        action is an ordinary function: if a task comes last, it runs in that task, and so blocks
        the loop. A task that is cancelled while it waits breaks the barrier, unless all have come.

        >>> import asyncio
        >>> from nogil_sync import Barrier
        >>> async def main():
        ...     barrier = Barrier(3)
        ...     return await asyncio.gather(*(barrier.wait_async() for _ in range(3)))
        >>> asyncio.run(main())
        [0, 1, 2]
        """
        seconds = wait_timeout(self._default_timeout if timeout is None else timeout)
        index: int | None = None
        while index is None:  # it came while the action of the round before was running
            index = await _arrive(self, seconds)
        return index


async def _arrive(barrier: AwaitedBarrier, seconds: float | None) -> int | None:
    call = Call()
    waiter = barrier._AsyncWaiter(barrier, "wait", None, call)
    timed_out = False
    try:
        if not waiter.served:
            with TaskWait(barrier, "wait"):
                if seconds != 0:
                    await call.sleep(seconds)
                if not waiter.served:
                    timed_out = waiter.time_out()
                while not (timed_out or waiter.served):  # all have come: it is up to the action
                    await call.sleep_again()
        if timed_out:
            raise BrokenBarrierError("timed out waiting for the other threads")
        index: int | None = waiter.outcome
    except BaseException:
        waiter.cancel()
        raise
    return index


class AwaitedCond(Awaited):
    """For Cond."""

    __slots__ = ()

    _lock: Any

    async def acquire_async(self, *args: Any, **kwargs: Any) -> Any:
        """Take the lock; arguments and result are those of the lock's ``acquire_async``.

        ``TypeError`` if it has none: a :class:`Mutex` and the sides of an :class:`RWMutex` have.
        """
        return await _acquire_of(self)(*args, **kwargs)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """Wait as :meth:`wait` does, while the event loop goes on; return whether notified.

        The lock must be held, and have an ``acquire_async`` (``TypeError`` otherwise): a
        :class:`Mutex` and the sides of an :class:`RWMutex` have. `timeout` is that of
        :meth:`wait`. The lock is held again when this returns or raises, also when the task is
        cancelled, however long that takes; a notification that a cancelled task left unused
        goes to the next waiter.

        >>> import asyncio
        >>> from nogil_sync import Cond
        >>> async def consume(changed, items):
        ...     async with changed:
        ...         return await changed.wait_for_async(lambda: items)
        >>> async def main():
        ...     changed, items = Cond(), []
        ...     consumer = asyncio.create_task(consume(changed, items))
        ...     await asyncio.sleep(0)
        ...     async with changed:
        ...         items.append(42)
        ...         changed.notify()
        ...     return await consumer
        >>> asyncio.run(main())
        [42]
        """
        seconds = wait_timeout(timeout)
        plain = self._plain
        if not plain._is_owned(self):
            raise RuntimeError("cannot wait on un-acquired lock")
        acquire = _acquire_of(self)
        call = Call()
        waiter = self._AsyncWaiter(self, "wait", None, call)
        try:
            plain.release(self)
        except BaseException:
            waiter.cancel()
            raise
        try:
            with TaskWait(self, "wait"):
                outcome = await settle(waiter, call, seconds)
        finally:
            await _acquire_again(acquire)
        return outcome is None

    async def wait_for_async(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait as :meth:`wait_for` does, while the event loop goes on.

        `predicate` is an ordinary function, called with the lock held. `timeout` is for all waits
        together.
        """
        seconds = wait_timeout(timeout)
        deadline = None if seconds is None else monotonic() + seconds
        plain = self._plain
        _acquire_of(self)  # an error before __init__, whatever the predicate says
        result = predicate()
        over = False
        while not result and not over:
            await plain.wait_async(self, seconds)
            if deadline is not None:
                seconds = deadline - monotonic()
                over = seconds <= 0
            result = predicate()
        return result

    async def __aenter__(self) -> Any:
        """Take the lock; return what its ``acquire_async`` returns."""
        return await _acquire_of(self)()

    async def __aexit__(self, *exc_info: object) -> None:
        """Let the lock go."""
        self._plain.release(self)


def _acquire_of(cond: AwaitedCond) -> Callable[..., Coroutine[Any, Any, Any]]:
    lock = cond._lock
    acquire: Any = getattr(lock, "acquire_async", None)
    if acquire is None:
        raise TypeError(f"a Cond over {type(lock).__name__!r} object cannot be awaited")
    return acquire  # type: ignore[no-any-return]


async def _acquire_again(acquire: Callable[..., Coroutine[Any, Any, Any]]) -> None:
    """Acquire, even if the task is cancelled meanwhile; it is then cancelled at the end."""
    from asyncio import CancelledError

    cancelled: BaseException | None = None
    while True:
        try:
            await acquire()
            break
        except CancelledError as error:
            cancelled = error
    if cancelled is not None:
        try:
            raise cancelled
        finally:
            cancelled = None  # this frame is in its traceback


class AwaitedChannel(Awaited, Generic[T]):
    """For Channel."""

    __slots__ = ()

    @property
    def _received_at_once(self) -> Any:
        """The next item, or ABSENT if that needs a wait. The native backend has its own."""
        return self._plain.try_recv(self, ABSENT)

    async def send_async(self, value: T, timeout: float | None = None) -> None:
        """Send an item as :meth:`send` does, while the event loop goes on.

        Threads and tasks stand in one line. `timeout` and errors are those of :meth:`send`. A
        task that is cancelled has sent nothing, unless the item was accepted in that very moment:
        then it stays sent.
        """
        seconds = wait_timeout(timeout)
        if self._plain.try_send(self, value):
            return
        if seconds != 0:
            outcome = await wait_in_line(self._AsyncWaiter, self, "send", value, seconds)
            if outcome is None:
                return
        raise TimeoutError("timed out waiting to send")

    async def recv_async(self, timeout: float | None = None) -> T:
        """Receive the next item as :meth:`recv` does, while the event loop goes on.

        Threads and tasks stand in one line. `timeout` and errors are those of :meth:`recv`. A
        task that is cancelled has received nothing: the item that it was given in that moment
        goes to the next receiver, or back to the front of the channel (what others have received
        meanwhile has overtaken it). As in ``asyncio.Queue.get``, the task goes on at once while
        there are items: other tasks of its loop run when it waits.

        >>> import asyncio, threading
        >>> from nogil_sync import Channel
        >>> async def total(numbers):
        ...     result = await numbers.recv_async()
        ...     async for number in numbers:
        ...         result += number
        ...     return result
        >>> def produce(numbers):
        ...     with numbers:
        ...         for number in range(100):
        ...             numbers.send(number)
        >>> numbers = Channel(10)
        >>> thread = threading.Thread(target=produce, args=(numbers,))
        >>> thread.start()
        >>> asyncio.run(total(numbers))
        4950
        >>> thread.join()
        """
        seconds = wait_timeout(timeout)
        item = self._received_at_once
        if item is ABSENT:
            item = NOT_SERVED
            if seconds != 0:
                item = await wait_in_line(self._AsyncWaiter, self, "recv", None, seconds)
            if item is NOT_SERVED:
                raise TimeoutError("timed out waiting to receive")
        received: T = item
        return received

    def __aiter__(self) -> AsyncIterator[T]:
        """Return the channel itself: ``async for`` receives until it is closed and empty."""
        return self

    async def __anext__(self) -> T:
        """Receive the next item; the end is when the channel is closed and all are received."""
        try:
            item = self._received_at_once
            if item is ABSENT:
                item = await wait_in_line(self._AsyncWaiter, self, "recv", None, None)
        except ChannelClosed:
            raise StopAsyncIteration from None
        received: T = item
        return received

    async def __aenter__(self) -> Self:
        """Return the channel, which leaving the block closes."""
        entered: Self = self._plain.__enter__(self)
        return entered

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the channel."""
        self._plain.close(self)


_BASES: dict[str, type] = {
    "Mutex": AwaitedLock,
    "RWMutexReader": AwaitedLock,
    "RWMutexWriter": AwaitedLock,
    "Semaphore": AwaitedSemaphore,
    "Event": AwaitedEvent,
    "WaitGroup": AwaitedEvent,
    "Cond": AwaitedCond,
    "Barrier": AwaitedBarrier,
    "Channel": AwaitedChannel,
}


def install(backend: dict[str, Any], put: Callable[[type, str, Any], None] = setattr) -> None:
    """Give the classes of a backend their twins. `put` sets an attribute of a class."""
    for name, base in _BASES.items():
        cls = backend[name]
        put(cls, "_plain", cls)
        put(cls, "_AsyncWaiter", backend["AsyncWaiter"])
        adopt(cls, base, put)


async def select_async(*cases: Any, timeout: float | None = None) -> Selected:
    """:func:`select` for a task: the event loop goes on while it waits.

    Cases, result, `timeout` and errors are those of :func:`select`. Threads and tasks stand in
    one line at each of the objects. A task that is cancelled has done none of the cases, unless a
    send was accepted in that very moment: then it stays sent.

    >>> import asyncio
    >>> from nogil_sync import Channel, Event, select_async
    >>> async def main():
    ...     jobs, stop = Channel(1), Event()
    ...     waiting = asyncio.create_task(select_async(jobs, stop))
    ...     await asyncio.sleep(0)
    ...     jobs.send("a job")
    ...     return (await waiting).value
    >>> asyncio.run(main())
    'a job'
    """
    from .._backend import AsyncWaiter, try_select

    seconds = wait_timeout(timeout)
    # As an iterator's item, since no interrupt comes after that either.
    selected: Selected | None
    (selected,) = starmap(try_select, (cases,))
    if selected is not None:
        return selected
    deadline = None if seconds is None else monotonic() + seconds
    timed = [case for case in cases if isinstance(case, Case)]
    while True:
        now = monotonic()
        if deadline is not None and now >= deadline:
            raise TimeoutError("timed out waiting for a case")
        due = min((case._case_due() for case in timed), default=inf)
        if deadline is not None:
            due = min(due, deadline)
        selected = await wait_in_line(
            AsyncWaiter, None, "select", cases, None if due == inf else max(0.0, due - now)
        )
        if selected is NOT_SERVED:
            (selected,) = starmap(try_select, (cases,))
        if selected is not None:
            return selected


_warned: dict[tuple[str, int], object] = {}


def warn_blocking(obj: object = None) -> None:
    """Warn about a wait that is about to block the event loop of this thread.

    Given in development mode, once for each line of code. Never raises. `obj` is what is waited
    for; if it is None, the frames tell, as pure classes have some, and `select` has none in C.
    """
    try:
        events = sys.modules.get("asyncio.events")
        if events is None or events._get_running_loop() is None:
            return
        frame: FrameType | None = sys._getframe(1)
        name = "select" if obj is None else type(obj).__name__
        while frame is not None and is_ours(frame):
            if obj is None:
                name = frame.f_code.co_qualname.partition(".")[0]
            frame = frame.f_back
        if frame is None:
            return
        public = sys.modules["nogil_sync"].__all__
        named = f" for {name}" if name in public else ""
        where = frame.f_code.co_filename, frame.f_lineno
        token = object()
        if _warned.setdefault(where, token) is not token:
            return
        warnings.warn_explicit(
            f"a blocking wait{named} stops the event loop of this thread: await its twin, whose "
            "name ends with _async, or call it in another thread",
            RuntimeWarning,
            *where,
        )
    except BaseException as error:  # a filter turned the warning into an error
        Unraisable(error)
