"""Cond, pure Python."""

from collections.abc import Callable
from typing import Any, Protocol, SupportsIndex, TypeVar

from ._object import SyncObject

T = TypeVar("T")


class _Lock(Protocol):
    """What a Cond needs of its lock."""

    def acquire(self, *args: Any, **kwargs: Any) -> Any: ...

    def release(self) -> Any: ...


class Cond(SyncObject):
    """A place to wait until others say that something changed, as ``threading.Condition``.

    Stands in for ``threading.Condition``, over any lock with ``acquire`` and ``release``
    (``TypeError`` otherwise): a :class:`Mutex`, either side of an :class:`RWMutex`, those of
    ``threading``, your own. By default it makes itself a :class:`Mutex`, which unlike the
    ``RLock`` of ``threading.Condition`` is not reentrant. The methods of the lock are here,
    too, and ``with`` holds it.

    A notification wakes who waits longest, and only who waited when it was sent. None is
    lost, not even to a waiter that was interrupted in the same instant, and nobody wakes
    without one. Yet others may have the lock before who was woken: look at the condition
    again, or let :meth:`wait_for` do so.

    >>> import threading
    >>> from nogil_sync import Cond
    >>> items, changed = [], Cond()
    >>> def produce():
    ...     with changed:
    ...         items.append(42)
    ...         changed.notify()
    >>> thread = threading.Thread(target=produce)
    >>> thread.start()
    >>> with changed:
    ...     changed.wait_for(lambda: items, timeout=10)
    [42]
    >>> thread.join()
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line", "__lock")

    def __init__(self, lock: _Lock | None = None) -> None: ...

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        """Take the lock; arguments and result are those of the lock's ``acquire``."""

    def release(self) -> None:
        """Let the lock go."""

    def locked(self) -> bool:
        """Whether the lock is taken.

        ``AttributeError`` if the lock has no such method.
        """
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Let the lock go, sleep until notified, take it again; return whether notified.

        ``RuntimeError`` if the lock is not held. At most `timeout` seconds pass until the
        lock is asked for again, which then may take longer; ``None`` waits for ever. Zero
        or less does not sleep, but lets the lock go for a moment. NaN is a ``ValueError``,
        a time-out too large for the system an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the sleep. The lock is held again whenever
        this returns or raises, and a notification that an exception left unused goes to the
        next waiter.
        """
        ...

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the predicate returns something true; return what it returned last.

        It is called with the lock held, first of all and after each notification.
        `timeout` is for all waits together, in seconds; when it has passed, the last
        result, a false one, is returned.
        """
        ...

    def notify(self, n: SupportsIndex = 1) -> None:
        """Wake the `n` threads that wait longest, or all of them if there are fewer.

        They go on when they get the lock, which must be held here: else ``RuntimeError``.
        Zero or less wakes nobody.
        """

    def notify_all(self) -> None:
        """Wake all threads that wait; see :meth:`notify`."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def _is_owned(self) -> bool:
        """Whether the lock is held, by this thread if the lock knows."""
        ...

    def _release_save(self) -> Any:
        """Let the lock go however often it is held; return what `_acquire_restore` needs."""

    def _acquire_restore(self, saved: Any) -> None:
        """Take the lock as often as it was held before."""

    def _at_fork_reinit(self) -> None:
        """Make the lock free: for the child of a fork, where nobody waits."""
