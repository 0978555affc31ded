"""Semaphore, pure Python: how many units are free, and a queue (see `_queue`)."""

from typing import SupportsIndex

from .._object import SyncObject, uninitialized
from ._arguments import exact_int, wait_timeout
from ._queue import Change, Line, Waiters

_MOST = (1 << 62) - 1


class _Units(Line):
    """The value is how many are free, a request how many are wanted."""

    __slots__ = ("total",)
    state: tuple[int, Waiters]

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.total = total

    def checked(self, n: SupportsIndex) -> int:
        number = exact_int(n)
        if number < 1:
            raise ValueError("n must be at least 1")
        if number > self.total:
            raise ValueError("n exceeds the semaphore's value")
        return number

    def take(self, free: int, n: int) -> int | None:
        return free - n if n <= free else None

    def admit(self, free: int, waiters: Waiters) -> Change:
        granted = []
        staying = []
        for place, waiter in enumerate(waiters):
            if waiter.away:
                staying.append(waiter)
            elif waiter.request <= free:
                free -= waiter.request
                granted.append(waiter)
            else:
                staying += waiters[place:]  # nobody is overtaken
                break
        return free, tuple(staying), tuple(granted)

    def give(self, free: int, waiters: Waiters, n: int) -> Change:
        return self.admit(min(free + n, self.total), waiters)

    def release(self, free: int, waiters: Waiters, n: int) -> Change:
        if free + n > self.total:
            raise ValueError("semaphore released too many times")
        return self.give(free, waiters, n)


class _Hold:
    """What `hold` returns."""

    __slots__ = ("__line", "__n", "__seconds")

    def __init__(self, line: _Units, n: int, seconds: float | None) -> None:
        self.__line = line
        self.__n = n
        self.__seconds = seconds

    def __enter__(self) -> None:
        if not self.__line.acquire(self.__n, self.__seconds):
            raise TimeoutError("timed out waiting for the semaphore")

    def __exit__(self, *exc_info: object) -> None:
        self.__line.change(self.__line.release, self.__n)


class Semaphore(SyncObject):
    """A number of units that threads take and give back, one or several at a time.

    Stands in for ``threading.BoundedSemaphore``, and is weighted besides: memory, bytes in
    flight or connections are taken by the amount that a call needs. (Go's
    ``semaphore.Weighted``.) Any thread may give units back. What a thread did before it
    released units is visible to those that acquire them.

    Strictly first come, first served: a large request is not overtaken by smaller ones
    behind it, and who does not want to wait gets nothing while somebody waits. Only a signal
    handler or finaliser, that interrupts its own thread in a wait for this semaphore,
    passes that thread by.

    `value` is the number of units there are; 0 makes a semaphore that has none to give. A
    negative number is a ``ValueError``, one above 2**62 - 1 an ``OverflowError``.

    Taking or releasing costs one compare-and-swap in the native backend when nobody waits.

    >>> from nogil_sync import Semaphore
    >>> connections = Semaphore(3)
    >>> with connections:
    ...     connections.available()
    2
    >>> with connections.hold(n=3):
    ...     connections.acquire(blocking=False)
    False
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line",)

    def __init__(self, value: SupportsIndex = 1) -> None:
        number = exact_int(value)
        if number < 0:
            raise ValueError("semaphore initial value must be >= 0")
        if number > _MOST:
            raise OverflowError("semaphore initial value is too large")
        super().__init__()
        self.__line = _Units(number)

    def __repr__(self) -> str:
        try:
            line = self.__line
        except RuntimeError:
            return uninitialized(self)
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, "
            f"{line.state[0]} of {line.total} available>"
        )

    def acquire(
        self, blocking: bool = True, timeout: float | None = None, *, n: SupportsIndex = 1
    ) -> bool:
        """Take `n` units, all at once; return whether they were taken.

        Waits for ever by default, or at most `timeout` seconds; zero or less does not wait.
        With ``blocking=False`` it does not wait either (a time-out is a ``ValueError``
        then). A `timeout` that is NaN is a ``ValueError``, one above
        ``threading.TIMEOUT_MAX`` an ``OverflowError``. An `n` below 1, or above the number
        of units there are, is a ``ValueError``, whether or not it would have to wait.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and nothing
        is taken. Signal handlers run meanwhile and may use this semaphore.

        >>> from nogil_sync import Semaphore
        >>> memory = Semaphore(100)
        >>> memory.acquire(n=80)
        True
        >>> memory.acquire(timeout=0.01, n=30)
        False
        >>> memory.release(80)
        """
        if blocking:
            seconds = wait_timeout(timeout)
        elif timeout is None:
            seconds = 0.0
        else:
            raise ValueError("can't specify timeout for non-blocking acquire")
        return self.__line.acquire(self.__line.checked(n), seconds)

    def release(self, n: SupportsIndex = 1) -> None:
        """Give `n` units back, and let in the waiters that have enough now, in their order.

        Any thread may do so. ``ValueError`` if `n` is below 1, or if more would be given
        back than was taken.
        """
        number = exact_int(n)
        if number < 1:
            raise ValueError("n must be at least 1")
        self.__line.change(self.__line.release, number)

    def available(self) -> int:
        """How many units are free.

        Who waits may be about to take them.
        """
        return self.__line.state[0]

    def hold(self, n: SupportsIndex = 1, timeout: float | None = None) -> _Hold:
        """Return a context manager that holds `n` units: a weighted ``with``.

        Entering it acquires them, or raises ``TimeoutError`` after `timeout` seconds; zero
        or less does not wait, ``None`` waits for ever. Leaving it releases them. Wrong
        arguments are errors of this call, as in :meth:`acquire`. It can be entered again,
        also by several threads at the same time.

        >>> from nogil_sync import Semaphore
        >>> memory = Semaphore(100)
        >>> with memory.hold(70):
        ...     with memory.hold(40, timeout=0):
        ...         pass
        Traceback (most recent call last):
        TimeoutError: timed out waiting for the semaphore
        """
        seconds = wait_timeout(timeout)
        return _Hold(self.__line, self.__line.checked(n), seconds)

    def __enter__(self) -> bool:
        return self.__line.acquire(self.__line.checked(1), None)

    def __exit__(self, *exc_info: object) -> None:
        self.__line.change(self.__line.release, 1)

    def _at_fork_reinit(self) -> None:
        """Make all units free: for the child of a fork."""
        line = self.__line
        line.change(lambda _, waiters: line.admit(line.total, waiters))
