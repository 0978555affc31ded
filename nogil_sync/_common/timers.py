"""Ticker and after, for both backends: cases that become ready by themselves, at a time.

Neither has a thread. Both know when they are due; the thread that waits for them sleeps until then,
in `Ticker.recv` or in a select.
"""

from collections.abc import AsyncIterator, Iterator
from math import inf
from threading import TIMEOUT_MAX
from time import monotonic

from .._backend import Event, guard_of
from .cases import Case
from .channel_closed import ChannelClosed
from .guard import Guard
from .object import SyncObject, before_init, uninitialized, until_init
from .timeouts import exact_seconds
from .untraced import hide_sections

__all__ = ["After", "Ticker", "after"]

# Seconds. Ticks of shorter intervals could not be told apart, nor counted in a float.
_SHORTEST = 1e-9


class _Schedule:
    """When a ticker ticks: at ``start + n * interval``, so rounding errors do not add up."""

    __slots__ = ("guard", "interval", "next", "start", "stopped")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.start = monotonic()
        self.next = 1  # the number of the next tick
        self.stopped = Event()
        self.guard: Guard = guard_of(self)

    def due(self) -> float:
        """When the next tick is due, in ``time.monotonic()``."""
        return self.start + self.next * self.interval

    def take(self) -> float | None:
        """The last tick that is due by now, unless another thread has taken it."""
        while True:
            number = self.next
            now = monotonic()
            if now < self.start + number * self.interval:
                return None
            # The ticks before the last one that is due are dropped. (The quotient is rounded.)
            last = max(number, int((now - self.start) / self.interval))
            while last > number and now < self.start + last * self.interval:
                last -= 1
            while now >= self.start + (last + 1) * self.interval:
                last += 1
            due = self.start + last * self.interval
            after_last = last + 1
            taken = False
            self.guard.held = True
            try:
                if self.next == number:
                    self.next = after_last
                    taken = True
            finally:
                del self.guard.held
            if taken:
                return due

    def look(self, deadline: float) -> tuple[float | None, float]:
        """A tick, or None and how many seconds to wait for one; or an error."""
        if self.stopped.is_set():
            raise ChannelClosed("the ticker is stopped")
        tick = self.take()
        now = monotonic()
        if tick is None and now >= deadline:
            raise TimeoutError("timed out waiting for a tick")
        return tick, min(self.due() - now, deadline - now, TIMEOUT_MAX)


def _deadline(timeout: float | None) -> float:
    """The end of a wait that begins now, in ``time.monotonic()``."""
    if timeout is None:
        return inf
    return monotonic() + max(0.0, exact_seconds(timeout, "timeout"))


class Ticker(SyncObject, Case):
    """Ticks at a fixed interval, for what is to be done again and again: Go's ``time.Ticker``.

    The first tick is due `interval` seconds after the ticker was made, the others follow at the
    same distance, however long anybody takes: there is no drift. A tick is the
    ``time.monotonic()`` at which it was due. A thread that comes late gets the last tick that is
    due, and those before it are dropped. Several threads may share a ticker: each tick goes to
    one of them.

    Wait for the next tick by :meth:`recv`, by iterating, or in a :func:`nogil_sync.select`, where
    the value is the tick. After :meth:`stop` there are no more ticks: iteration ends, :meth:`recv`
    raises :exc:`ChannelClosed`, and a select finds it ready and ``closed``.

    A ticker has no thread and costs nothing while nobody waits for it.

    `interval` is a number of seconds: ``ValueError`` unless it is positive, ``OverflowError`` above
    ``threading.TIMEOUT_MAX``.

    >>> from nogil_sync import Ticker
    >>> ticker, beats = Ticker(0.001), 0
    >>> for tick in ticker:
    ...     beats += 1
    ...     if beats == 3:
    ...         ticker.stop()
    >>> beats
    3
    """

    __module__ = "nogil_sync"
    __slots__ = ("__schedule",)

    def _SyncObject__fill(self) -> None:
        self.__schedule: _Schedule = until_init(self)

    def __init__(self, interval: float) -> None:
        seconds = exact_seconds(interval, "interval")
        if seconds <= 0:
            raise ValueError("interval must be positive")
        schedule = _Schedule(max(seconds, _SHORTEST))
        super().__init__()
        self.__schedule = schedule

    def __repr__(self) -> str:
        schedule = self.__schedule
        if before_init(schedule):
            return uninitialized(self)
        cls = type(self)
        state = "stopped" if schedule.stopped.is_set() else f"every {schedule.interval:g} s"
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def recv(self, timeout: float | None = None) -> float:
        """Wait for the next tick and return it: the ``time.monotonic()`` at which it was due.

        Waits at most `timeout` seconds, if that is not ``None``, and then raises ``TimeoutError``;
        zero or less does not wait. NaN is a ``ValueError``, a time-out above
        ``threading.TIMEOUT_MAX`` an ``OverflowError``. :exc:`ChannelClosed` if the ticker is
        stopped, or is while this waits. A Ctrl-C interrupts the wait in the main thread;
        :exc:`Cancelled` in a task whose group is cancelled.

        >>> from nogil_sync import Ticker
        >>> ticker = Ticker(0.001)
        >>> first, second = ticker.recv(), ticker.recv()
        >>> first < second
        True
        """
        schedule = self.__schedule
        deadline = _deadline(timeout)
        while True:
            tick, seconds = schedule.look(deadline)
            if tick is not None:
                return tick
            schedule.stopped.wait(seconds)

    async def recv_async(self, timeout: float | None = None) -> float:
        """Wait for the next tick as :meth:`recv` does, while the event loop goes on.

        `timeout` and errors are those of :meth:`recv`; threads and tasks may share a ticker.

        >>> import asyncio
        >>> from nogil_sync import Ticker
        >>> async def beat(ticker):
        ...     beats = 0
        ...     async for tick in ticker:
        ...         beats += 1
        ...         if beats == 3:
        ...             ticker.stop()
        ...     return beats
        >>> asyncio.run(beat(Ticker(0.001)))
        3
        """
        schedule = self.__schedule
        deadline = _deadline(timeout)
        while True:
            tick, seconds = schedule.look(deadline)
            if tick is not None:
                return tick
            await schedule.stopped.wait_async(seconds)

    def stop(self) -> None:
        """End the ticks; it may be said again. Wakes those that wait for one."""
        self.__schedule.stopped.set()

    def __iter__(self) -> Iterator[float]:
        """Return the ticker itself: a loop over it runs once for each tick, until it is stopped."""
        return self

    def __next__(self) -> float:
        """Wait for the next tick; the end is when the ticker is stopped."""
        try:
            return Ticker.recv(self)
        except ChannelClosed:
            raise StopIteration from None

    def __aiter__(self) -> AsyncIterator[float]:
        """Return the ticker itself: ``async for`` runs once for each tick, until it is stopped."""
        return self

    async def __anext__(self) -> float:
        """Wait for the next tick; the end is when the ticker is stopped."""
        try:
            return await Ticker.recv_async(self)
        except ChannelClosed:
            raise StopAsyncIteration from None

    def _case_event(self) -> Event:
        return self.__schedule.stopped

    def _case_due(self) -> float:
        return self.__schedule.due()

    def _case_take(self) -> tuple[float, bool] | tuple[None, bool] | None:
        schedule = self.__schedule
        if schedule.stopped.is_set():
            return None, True
        tick = schedule.take()
        return None if tick is None else (tick, False)


class _Alarm:
    """A moment that one thread takes."""

    __slots__ = ("due", "guard", "over")

    def __init__(self, delay: float) -> None:
        self.due = monotonic() + delay
        self.over = False  # taken
        self.guard: Guard = guard_of(self)

    def take(self) -> bool:
        """Whether the moment has come, and is the caller's."""
        if self.over or monotonic() < self.due:
            return False
        mine = False
        self.guard.held = True
        try:
            mine = not self.over
            self.over = True
        finally:
            del self.guard.held
        return mine


class After(SyncObject, Case):
    """A case that is ready once, when its time has come: what :func:`nogil_sync.after` returns.

    >>> from nogil_sync import After, after
    >>> isinstance(after(seconds=60), After)
    True
    """

    __module__ = "nogil_sync"
    __slots__ = ("__alarm",)

    def _SyncObject__fill(self) -> None:
        self.__alarm: _Alarm = until_init(self)

    def __init__(self, seconds: float) -> None:
        alarm = _Alarm(max(0.0, exact_seconds(seconds, "seconds")))
        super().__init__()
        self.__alarm = alarm

    def __repr__(self) -> str:
        alarm = self.__alarm
        if before_init(alarm):
            return uninitialized(self)
        cls = type(self)
        remaining = alarm.due - monotonic()
        state = "over" if alarm.over else "ready" if remaining <= 0 else f"in {remaining:.3g} s"
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def _case_event(self) -> None:
        self.__alarm.over  # noqa: B018  (an error before __init__)

    def _case_due(self) -> float:
        alarm = self.__alarm
        return inf if alarm.over else alarm.due

    def _case_take(self) -> tuple[None, bool] | None:
        return (None, False) if self.__alarm.take() else None


def after(seconds: float) -> After:
    """Return a case for :func:`nogil_sync.select` that is ready once, in so many seconds from now.

    Zero or less is ready at once. ``ValueError`` for NaN, ``OverflowError`` above
    ``threading.TIMEOUT_MAX``. No thread and no timer is started: the select that has this case
    sleeps until then at most. Once a select has taken it, it is never ready again.

    For a limit on one select, give that a `timeout`; this is for a limit on a loop.

    >>> from nogil_sync import Channel, after, select
    >>> jobs, over = Channel(), after(0.01)
    >>> select(jobs, over).case is over
    True
    """
    return After(seconds)


hide_sections(globals())
