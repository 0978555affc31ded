"""Semaphore, pure Python: how many units are free, and a queue (see `_wait`)."""

from typing import SupportsIndex, final

from .._common.awaited import AwaitedSemaphore
from .._common.forked import finish_fork
from .._common.object import Part, SyncObject, before_init, uninitialized, until_init
from ._arguments import exact_int, wait_timeout
from ._wait import Change, Line, Waiters

__all__ = ["Semaphore", "SemaphoreHold"]

_MAX = (1 << 62) - 1


class _Units(Line):
    """The value is how many are free, a request how many are wanted."""

    __slots__ = ("bounded", "start", "total")
    state: tuple[int, Waiters]

    def __init__(self, start: int, bounded: bool) -> None:
        super().__init__(start)
        self.start = start
        self.bounded = bounded
        self.total = start if bounded else _MAX  # what can be free

    def checked(self, n: SupportsIndex) -> int:
        number = exact_int(n)
        if number < 1:
            raise ValueError("n must be at least 1")
        # Of a semaphore that has none at all any request waits.
        if self.bounded and number > self.total > 0:
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
            if self.bounded:
                raise ValueError("semaphore released too many times")
            raise OverflowError("semaphore value is too large")
        return self.give(free, waiters, n)


@final
class SemaphoreHold(Part):
    """What :meth:`Semaphore.hold` returns: a context manager that holds units.

    It can be entered again and again, also by several threads at the same time.

    >>> from nogil_sync import Semaphore, SemaphoreHold
    >>> memory = Semaphore(100)
    >>> half: SemaphoreHold = memory.hold(50)
    >>> with half, half:
    ...     memory.available()
    0
    """

    __module__ = "nogil_sync"
    __slots__ = ("_line", "_n", "_seconds", "_whole")
    _whole: "Semaphore"
    _line: _Units
    _n: int
    _seconds: float | None

    def __enter__(self) -> None:
        """Take the units, or raise ``TimeoutError`` when the time is over."""
        if not self._line.acquire(self._n, self._seconds):
            raise TimeoutError("timed out waiting for the semaphore")

    def __exit__(self, *exc_info: object) -> None:
        """Give the units back."""
        self._line.change(self._line.release, self._n)


class Semaphore(SyncObject, AwaitedSemaphore):
    """A number of units that threads take and give back, one or several at a time.

    Stands in for ``threading.BoundedSemaphore``, with ``bounded=False`` for
    ``threading.Semaphore``, and is weighted besides: memory, bytes in flight or connections
    are taken by the amount that a call needs. (Go's ``semaphore.Weighted``.) Any thread may
    give units back. What a thread did before it released units is visible to those that
    acquire them.

    Strictly first come, first served: a large request is not overtaken by smaller ones
    behind it, and a call that does not wait gets nothing while others wait. Only a signal
    handler or finaliser, that interrupts its own thread in a wait for this semaphore,
    passes that thread by.

    `value` is the number of units there are; of 0 nobody gets any. A negative number is a
    ``ValueError``, one above 2**62 - 1 an ``OverflowError``. With ``bounded=False`` it is the
    number to begin with, and a release may add to it: each unit is then a signal, and
    ``Semaphore(0, bounded=False)`` counts those that nobody has taken yet.

    Taking or releasing costs one compare-and-swap in the native backend when nobody waits.

    >>> from nogil_sync import Semaphore
    >>> connections = Semaphore(3)
    >>> with connections:
    ...     connections.available()
    2
    >>> with connections.hold(n=3):
    ...     connections.acquire(blocking=False)
    False
    >>> jobs = Semaphore(0, bounded=False)
    >>> jobs.release(2)
    >>> jobs.acquire(), jobs.available()
    (True, 1)
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line",)

    def _SyncObject__fill(self) -> None:
        self.__line: _Units = until_init(self)

    def __init__(self, value: SupportsIndex = 1, *, bounded: bool = True) -> None:
        number = exact_int(value)
        limited = bool(bounded)
        if number < 0:
            raise ValueError("semaphore initial value must be >= 0")
        if number > _MAX:
            raise OverflowError("semaphore initial value is too large")
        line = _Units(number, limited)
        super().__init__()
        self.__line = line

    def __repr__(self) -> str:
        line = self.__line
        if before_init(line):
            return uninitialized(self)
        cls = type(self)
        total = f" of {line.total}" if line.bounded else ""
        return (
            f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, "
            f"{line.state[0]}{total} available>"
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
        (Of an unbounded semaphore, or of one that has none at all, any number may be
        waited for.) A `blocking` that is not a bool is a ``TypeError``: a number there is
        most likely meant to be `n`.

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
        if not isinstance(blocking, bool):
            raise TypeError(
                f"blocking must be a bool, not {type(blocking).__name__}; "
                "to take several units, pass n="
            )
        if blocking:
            seconds = wait_timeout(timeout)
        elif timeout is None:
            seconds = 0.0
        else:
            raise ValueError("can't specify timeout for non-blocking acquire")
        line = self.__line
        number = _Units.checked(line, n)  # before it asks whether there is a line
        return line.acquire(number, seconds)

    def release(self, n: SupportsIndex = 1) -> None:
        """Give `n` units back, and let in the waiters that have enough now, in their order.

        Any thread may do so. ``ValueError`` if `n` is below 1, or if more would be given
        back than was taken. An unbounded semaphore takes more than it began with, up to
        2**62 - 1, beyond which it is an ``OverflowError``.
        """
        number = exact_int(n)
        if number < 1:
            raise ValueError("n must be at least 1")
        self.__line.change(self.__line.release, number)

    def available(self) -> int:
        """How many units are free.

        A waiter may be about to take them.
        """
        return self.__line.state[0]

    def hold(self, n: SupportsIndex = 1, timeout: float | None = None) -> SemaphoreHold:
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
        line = self.__line
        hold = object.__new__(SemaphoreHold)
        hold._whole = self
        hold._n = _Units.checked(line, n)
        hold._seconds = wait_timeout(timeout)
        hold._line = line
        return hold

    def __enter__(self) -> bool:
        """Take one unit; return True."""
        return self.__line.acquire(self.__line.checked(1), None)

    def __exit__(self, *exc_info: object) -> None:
        """Give one unit back."""
        self.__line.change(self.__line.release, 1)

    def _at_fork_reinit(self) -> None:
        """Make as many units free as there were at the start: for the child of a fork."""
        finish_fork()
        line = self.__line
        line.change(lambda _, waiters: line.admit(line.start, waiters))
