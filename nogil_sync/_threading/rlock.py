"""RLock, pure Python: who holds it and how often, and a queue (see `_wait`)."""

from typing import SupportsIndex, TypeAlias

from .._common.forked import finish_fork
from .._common.guard import NO_RECEIPT, Receipt
from .._common.object import SyncObject
from .._common.originals import get_ident
from ._arguments import exact_int, lock_timeout
from ._wait import Change, Line, Waiters

__all__ = ["RLock"]

# The owner, and how often it holds the lock.
_Holds: TypeAlias = tuple[int, int]
_FREE: _Holds = (0, 0)
# A thread, how often it wants the lock, and whether it held the lock when it called.
_Request: TypeAlias = tuple[int, int, bool]


class _Owner(Line):
    """The value says who holds the lock and how often, a request who wants it and how often.

    A thread that does not hold the lock waits until it is free, as with `threading.RLock`.  That
    holds also if a signal handler takes the lock in that thread during the wait, and keeps it.
    """

    __slots__ = ()
    state: tuple[_Holds, Waiters]
    cancellable = False

    def take(self, value: _Holds, request: _Request) -> _Holds | None:
        owner, count = value
        thread, n, again = request
        return (thread, count + n) if not owner or (again and owner == thread) else None

    def holders(self, value: _Holds) -> tuple[int, ...]:
        return () if value == _FREE else (value[0],)

    def admit(self, value: _Holds, waiters: Waiters) -> Change:
        granted = []
        staying = []
        for waiter in waiters:
            taken = None if waiter.away else self.take(value, waiter.request)
            if taken is not None:
                value = taken
                granted.append(waiter)
            else:
                staying.append(waiter)
        return value, tuple(staying), tuple(granted)

    def give(self, value: _Holds, waiters: Waiters, request: _Request) -> Change:
        owner, count = value
        thread, n, _ = request
        if owner != thread:  # somebody made the lock free meanwhile
            return value, waiters, ()
        return self.admit((owner, count - n) if count > n else _FREE, waiters)

    def release(self, value: _Holds, waiters: Waiters, thread: int, n: int) -> Change:
        if value[0] != thread:
            raise RuntimeError("cannot release un-acquired lock")
        return self.give(value, waiters, (thread, n, True))

    def reset(self, _: _Holds, waiters: Waiters) -> Change:
        return self.admit(_FREE, waiters)


class RLock(SyncObject):
    """A lock that its owner may take again, as ``threading.RLock``.

    Stands in for ``threading.RLock``, also inside ``threading.Condition`` and :class:`Cond`.
    The thread that holds it, its *owner*, takes it once more without waiting, and other
    threads get it after as many releases. Only the owner may release it. What a thread did
    before its last release is visible to the next owner.

    Its owner is a thread, which runs all tasks of an event loop: so tasks cannot use it. It has no
    ``acquire_async``, and ``async with`` is a ``TypeError``; use a :class:`Mutex`.

    It costs a little more than a :class:`Mutex`: prefer that one where no thread takes the
    lock twice. Taking or releasing it costs one compare-and-swap in the native backend when
    nobody waits, and none when its owner takes it once more.

    >>> from nogil_sync import RLock
    >>> lock = RLock()
    >>> with lock, lock:
    ...     lock.locked()
    True
    >>> lock.locked()
    False
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line",)

    def _SyncObject__fill(self) -> None:
        self.__line = _Owner(_FREE)

    def __init__(self) -> None:
        super().__init__()

    def __repr__(self) -> str:
        (owner, count), waiters = self.__line.state
        state = f"locked, owner={owner}, count={count}" if owner else "unlocked"
        if waiters:
            state += f", waiters={len(waiters)}"
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock, once more if this thread holds it; return whether it was taken.

        Waits for ever by default, or with a `timeout` of -1 or None; else at most `timeout`
        seconds. With ``blocking=False`` it does not wait (a time-out is a ``ValueError``
        then). A `timeout` that is negative or NaN is a ``ValueError``, one above
        ``threading.TIMEOUT_MAX`` an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and the lock
        is not taken. Signal handlers run meanwhile and may use this lock. If one keeps it, this
        call goes on waiting until the lock is free.

        >>> from nogil_sync import RLock
        >>> lock = RLock()
        >>> lock.acquire()
        True
        >>> lock.acquire(blocking=False)
        True
        >>> lock.release()
        >>> lock.release()
        """
        seconds = lock_timeout(blocking, timeout)
        line = self.__line
        thread = get_ident()
        return line.acquire((thread, 1, line.state[0][0] == thread), seconds)

    def release(self) -> None:
        """Undo one acquire; after the last the lock is free.

        ``RuntimeError`` if this thread does not hold the lock.
        """
        RLock.__exit__(self)

    def locked(self) -> bool:
        """Whether the lock is taken, by any thread."""
        return self.__line.state[0] != _FREE

    def __enter__(self) -> bool:
        """Take the lock; return True."""
        return RLock.acquire(self)

    def __exit__(self, *exc_info: object) -> None:
        """Let the lock go once."""
        self.__line.change(self.__line.release, get_ident(), 1)

    def _is_owned(self) -> bool:
        """Whether this thread holds the lock."""
        return self.__line.state[0][0] == get_ident()

    def _recursion_count(self) -> int:
        """How often this thread holds the lock."""
        owner, count = self.__line.state[0]
        return count if owner == get_ident() else 0

    def _release_save(self) -> int:
        """Let the lock go however often it is held; return what `_acquire_restore` needs."""
        return RLock._release(self, NO_RECEIPT)

    def _acquire_restore(self, count: SupportsIndex, /) -> None:
        """Take the lock as often as it was held before."""
        number = exact_int(count)
        if not 0 < number < 2**63:
            raise OverflowError("Python int does not fit a count")
        if RLock._is_owned(self):
            raise RuntimeError("cannot restore an acquired lock")
        self.__line.acquire((get_ident(), number, False), None)

    def _at_fork_reinit(self) -> None:
        """Make the lock free: for the child of a fork, where nobody waits."""
        finish_fork()
        self.__line.change(self.__line.reset)

    def _release(self, receipt: Receipt) -> int:
        """Let it go as `_release_save` does, and tell surely whether it was done: for Cond."""
        line = self.__line
        count = line.state[0][1]
        line.change(line.release, get_ident(), count, receipt=receipt)
        return count
