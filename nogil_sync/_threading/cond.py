"""Cond, pure Python: a queue (see `_wait`) whose waiters are granted notifications.

After an ordinary call of a C function an interrupt may come before its result is stored, and
nobody could tell whether the lock was taken or let go.  So it is called by ``map``, whose result
is unpacked: from the C function to the store there is no place where an interrupt can come.
"""

import sys
from collections.abc import Callable
from functools import partial
from operator import call
from time import monotonic
from typing import Any, Protocol, SupportsIndex, TypeVar

from .._common.awaited import AwaitedCond, warn_blocking
from .._common.cancelled import MESSAGE, Cancelled
from .._common.exit import check_exit
from .._common.guard import Receipt
from .._common.object import SyncObject, before_init, lacks, uninitialized, until_init
from .._common.originals import LockType, RLock
from .._common.sleep import this_thread
from ._arguments import exact_int, wait_timeout
from ._wait import WARNS, Change, Line, Waiter, Waiters
from .mutex import Mutex
from .rlock import RLock as OurRLock
from .rwmutex import RWMutexReader, RWMutexWriter, _View
from .scope import here

__all__ = ["Cond"]

T = TypeVar("T")

# Locks that tell by a receipt whether they were let go.
_OURS: tuple[Any, ...] = (Mutex, OurRLock, RWMutexReader, RWMutexWriter)

# Locks that raise only what interrupts them, after which asking again makes sense.
_SOUND: tuple[Any, ...] = (*_OURS, LockType, type(RLock()))


def _is_emptied(lock: Any) -> bool:
    """Whether the collector has emptied one of our locks."""
    if type(lock) is Mutex:
        return lacks(lock, Mutex, "_Mutex__guard")
    if type(lock) is OurRLock:
        line: Any = vars(OurRLock)["_RLock__line"]
        return lacks(lock, OurRLock, "_RLock__line") or lacks(line.__get__(lock), Line, "state")
    return lacks(lock, _View, "_line") or lacks(lock._line, Line, "state")


class _Lock(Protocol):
    """What a Cond needs of its lock."""

    def acquire(self, *args: Any, **kwargs: Any) -> Any: ...

    def release(self) -> Any: ...


class _Notifications(Line):
    """There is no value, and nothing to have but what a thread gives to the waiters."""

    __slots__ = ()

    def take(self, *_: object) -> None:
        return None

    def admit(self, value: None, waiters: Waiters) -> Change:
        return value, waiters, ()

    def give(self, value: None, waiters: Waiters, n: int) -> Change:
        return value, waiters[n:], waiters[:n]


class Cond(SyncObject, AwaitedCond):
    """A place to wait until others say that something changed, as ``threading.Condition``.

    Stands in for ``threading.Condition``, over any lock with ``acquire`` and ``release``
    (``TypeError`` otherwise): a :class:`Mutex`, either side of an :class:`RWMutex`, those of
    ``threading``, your own. By default it makes itself a :class:`Mutex`, which unlike the
    ``RLock`` of ``threading.Condition`` is not reentrant. The methods of the lock are here,
    too, and ``with`` holds it.

    A notification wakes the longest waiter, and only one that waited when it was sent. None
    is lost, not even to a waiter that was interrupted in the same instant, and no waiter wakes
    without one. Yet another thread may get the lock first: look at the condition again, or
    let :meth:`wait_for` do so.

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

    def _SyncObject__fill(self) -> None:
        self.__lock: Any = until_init(self)
        self.__line: _Notifications = until_init(self)

    def __init__(self, lock: _Lock | None = None) -> None:
        if lock is None:
            lock = Mutex()
        elif not all(callable(getattr(lock, name, None)) for name in ("acquire", "release")):
            raise TypeError("lock must have acquire() and release()")
        line = _Notifications(None)
        super().__init__()
        self.__lock = lock
        self.__line = line

    def __repr__(self) -> str:
        line = self.__line
        if before_init(line):
            return uninitialized(self)
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, "
            f"{self.__lock!r}, {len(line.state[1])} waiting>"
        )

    @property
    def _lock(self) -> Any:
        """The lock, for the awaited calls."""
        return self.__lock

    def acquire(self, *args: Any, **kwargs: Any) -> Any:
        """Take the lock; arguments and result are those of the lock's ``acquire``."""
        (result,) = map(call, (partial(self.__lock.acquire, *args, **kwargs),))
        return result

    def release(self) -> None:
        """Let the lock go."""
        self.__lock.release()

    def locked(self) -> bool:
        """Whether the lock is taken.

        ``AttributeError`` if the lock has no such method.
        """
        locked: bool = self.__lock.locked()
        return locked

    def wait(self, timeout: float | None = None) -> bool:
        """Let the lock go, sleep until notified, take it again; return whether notified.

        ``RuntimeError`` if the lock is not held. At most `timeout` seconds pass until the
        lock is asked for again, which then may take longer; ``None`` waits for ever. Zero
        or less does not sleep, but lets the lock go for a moment. NaN is a ``ValueError``,
        a time-out too large for the system an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the sleep; so does the cancellation of the task
        group for which this thread works (:exc:`Cancelled`). The lock is held again whenever
        this returns or raises, and a notification that an exception left unused goes to the
        next waiter.
        """
        seconds = wait_timeout(timeout)
        if not Cond._is_owned(self):
            raise RuntimeError("cannot wait on un-acquired lock")
        if seconds != 0:
            check_exit()
            if WARNS:
                warn_blocking()
        line, lock = self.__line, self.__lock
        ours = type(lock) in _OURS
        me = Waiter(line, 1)
        free = Receipt()  # whether the lock was let go, and not yet taken again
        release = getattr(lock, "_release_save", lock.release)
        if ours:
            release = partial(lock._release, free)
        keep = unsure = False
        # The count of an RLock, known also if an interrupt comes as it is released.
        saved = lock._recursion_count() if type(lock) is OurRLock else None
        later: BaseException | None = None
        scope, warned = here.scope, this_thread.deadlocks_warn
        try:
            line.join(me, None if seconds == 0 else scope)
            unsure = not ours
            (saved,) = map(call, (release,))
            free.done = True
            unsure = False
            line.sleep(me, seconds)
            keep = True
        finally:
            here.scope = None  # the lock is to be taken again even if it is one that would raise
            this_thread.deadlocks_warn = True
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while True:
                        try:
                            # Leave first: no notification is for a waiter that gave up and only
                            # wants the lock.
                            line.leave(me, keep)
                            if unsure:
                                unsure = False
                                free.done = not Cond._is_owned(self)
                            if free.done:
                                restore = getattr(lock, "_acquire_restore", None)
                                acquire = partial(restore, saved) if restore else lock.acquire
                                (_,) = map(call, (acquire,))
                                free.done = False
                            break
                        except BaseException as another:
                            keep = False
                            later = later or another
                            if isinstance(another, Exception) and (
                                type(lock) not in _SOUND
                                or sys.is_finalizing()
                                or (ours and _is_emptied(lock))
                            ):
                                free.done = False  # it would fail for ever
                    break
                except BaseException as another:
                    keep = False
                    later = later or another
            here.scope = scope
            this_thread.deadlocks_warn = warned
        if later is not None:  # and it was the first
            raise later
        if me.cancelled and not me.kept:
            raise Cancelled(MESSAGE)
        return me.kept

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until the predicate returns something true; return what it returned last.

        It is called with the lock held, first of all and after each notification.
        `timeout` is for all waits together, in seconds; when it has passed, the last
        result, a false one, is returned.
        """
        seconds = wait_timeout(timeout)
        deadline = None if seconds is None else monotonic() + seconds
        self.__line.state  # noqa: B018  (an error before __init__, whatever the predicate says)
        result = predicate()
        over = False
        while not result and not over:
            Cond.wait(self, seconds)
            if deadline is not None:
                seconds = deadline - monotonic()
                over = seconds <= 0
            result = predicate()
        return result

    def notify(self, n: SupportsIndex = 1) -> None:
        """Wake the `n` threads that wait longest, or all of them if there are fewer.

        They go on when they get the lock, which must be held here: else ``RuntimeError``.
        Zero or less wakes nobody.
        """
        number = exact_int(n)
        if not Cond._is_owned(self):
            raise RuntimeError("cannot notify on un-acquired lock")
        line = self.__line
        if number > 0 and line.state[1]:
            line.change(line.give, number)

    def notify_all(self) -> None:
        """Wake all threads that wait; see :meth:`notify`."""
        Cond.notify(self, sys.maxsize)

    def __enter__(self) -> Any:
        """Take the lock; return what its ``acquire`` returns."""
        (result,) = map(call, (self.__lock.acquire,))
        return result

    def __exit__(self, *exc_info: object) -> None:
        """Let the lock go."""
        self.__lock.release()

    def _is_owned(self) -> bool:
        """Whether the lock is held, by this thread if the lock knows."""
        lock = self.__lock
        if hasattr(lock, "_is_owned"):
            return bool(lock._is_owned())
        if isinstance(lock, _OURS):
            return bool(lock.locked())
        (free,) = map(call, (lock.acquire,), (False,))
        if free:
            lock.release()
        return not free

    def _release_save(self) -> Any:
        """Let the lock go however often it is held; return what `_acquire_restore` needs."""
        lock = self.__lock
        if hasattr(lock, "_release_save"):
            return lock._release_save()
        return lock.release()

    def _acquire_restore(self, saved: Any, /) -> None:
        """Take the lock as often as it was held before."""
        lock = self.__lock
        if hasattr(lock, "_acquire_restore"):
            lock._acquire_restore(saved)
        else:
            lock.acquire()

    def _at_fork_reinit(self) -> None:
        """Make the lock free: for the child of a fork, where nobody waits."""
        self.__lock._at_fork_reinit()
