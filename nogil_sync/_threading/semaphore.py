"""Semaphore, pure Python."""

from typing import SupportsIndex

from ._object import SyncObject


class _Hold:
    """What `hold` returns."""

    __slots__ = ("__n", "__seconds", "__semaphore")

    def __enter__(self) -> None: ...

    def __exit__(self, *exc_info: object) -> None: ...


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

    def __init__(self, value: SupportsIndex = 1) -> None: ...

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
        ...

    def release(self, n: SupportsIndex = 1) -> None:
        """Give `n` units back, and let in the waiters that have enough now, in their order.

        Any thread may do so. ``ValueError`` if `n` is below 1, or if more would be given
        back than was taken.
        """

    def available(self) -> int:
        """How many units are free.

        Who waits may be about to take them.
        """
        ...

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
        ...

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def _at_fork_reinit(self) -> None:
        """Make all units free: for the child of a fork."""
