"""RWMutex, pure Python: how it is held, and a queue (see `_wait`) of readers and writers."""

from typing import TypeAlias, TypeVar, final

from .._common.awaited import AwaitedLock
from .._common.forked import finish_fork
from .._common.guard import Receipt
from .._common.object import Part, SyncObject, adopt
from .._common.originals import get_ident
from ._arguments import lock_timeout
from ._wait import Change, Line, Waiters

__all__ = ["RWMutex", "RWMutexReader", "RWMutexWriter"]

_Value: TypeAlias = tuple[int, int, int]

_FREE: _Value = (0, 0, 0)
_NO_THREAD = 1  # the writer, if it has no thread; a request for it may be True


class _Sides(Line):
    """A request is the thread that wants to write, or 0 to read; three numbers are the value.

    They are: how many hold it to read; the thread that holds it to write, or 0; and how many of the
    former are writers that downgraded.
    """

    __slots__ = ("foreign",)
    foreign: bool  # whether a thread other than the writer has ever released the write lock
    state: tuple[_Value, Waiters]
    cancellable = False

    def take(self, value: _Value, write: int) -> _Value | None:
        readers, writing, downgraded = value
        if writing or (write and readers):
            return None
        return (0, int(write), 0) if write else (readers + 1, 0, downgraded)

    def admit(self, value: _Value, waiters: Waiters) -> Change:
        readers, writing, _ = value
        if writing:
            return value, waiters, ()
        for waiter in waiters:
            if waiter.request and not waiter.away:
                if readers:
                    return value, waiters, ()
                return (
                    (0, int(waiter.request), 0),
                    tuple(w for w in waiters if w is not waiter),
                    (waiter,),
                )
        return self.admit_readers(value, waiters)

    def admit_readers(self, value: _Value, waiters: Waiters) -> Change:
        """Let in all waiting readers, also before a writer."""
        granted = tuple(w for w in waiters if not (w.request or w.away))
        if not granted:
            return value, waiters, ()
        readers, _, downgraded = value
        # Not by looking at `away` again, which may have changed: a granted waiter leaves the queue.
        staying = tuple(w for w in waiters if w not in granted)
        return (readers + len(granted), 0, downgraded), staying, granted

    def give(self, value: _Value, waiters: Waiters, write: int) -> Change:
        readers, writing, downgraded = value
        if not write:
            readers = max(readers - 1, 0)
            return self.admit((readers, writing, min(downgraded, readers)), waiters)
        if not writing:
            return value, waiters, ()
        value, waiters, granted = self.admit_readers(_FREE, waiters)
        if not granted:
            value, waiters, granted = self.admit(value, waiters)
        return value, waiters, granted

    def release(self, value: _Value, waiters: Waiters, write: int) -> Change:
        readers, writing, downgraded = value
        if write and not writing and downgraded:
            return self.admit((readers - 1, 0, downgraded - 1), waiters)
        if not (writing if write else readers):
            raise RuntimeError("release unlocked lock")
        if write and writing not in (write, _NO_THREAD):
            self.foreign = True
        return self.give(value, waiters, write)

    def downgrade(self, value: _Value, waiters: Waiters) -> Change:
        if not value[1]:
            raise RuntimeError("downgrade of an unlocked write lock")
        return self.admit_readers((1, 0, 1), waiters)

    def reset(self, _: _Value, waiters: Waiters) -> Change:
        return self.give((0, _NO_THREAD, 0), waiters, _NO_THREAD)

    def holders(self, value: _Value) -> tuple[int, ...]:
        return () if self.foreign or value[1] in (0, _NO_THREAD) else (value[1],)


class _View(Part, AwaitedLock):
    """What both sides share.  Only an RWMutex makes them."""

    __slots__ = ("__weakref__", "_line")
    _line: _Sides
    _write: bool

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        adopt(cls, _View)

    def __repr__(self) -> str:
        value, waiters = self._line.state
        state = "locked" if self.locked() else "unlocked"
        if self._write and value[1] > _NO_THREAD:
            state += f", owner={value[1]}"
        waiting = sum(bool(each.request) is self._write for each in waiters)
        if waiting:
            state += f", waiters={waiting}"
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def locked(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> bool:
        """Take the lock; return True."""
        return self._line.acquire(get_ident() if self._write else 0, None)

    def __exit__(self, *exc_info: object) -> None:
        """Let the lock go."""
        self._line.change(self._line.release, get_ident() if self._write else 0)

    def _at_fork_reinit(self) -> None:
        """Make the whole lock free and forget its waiters: for the child of a fork."""
        finish_fork()
        self._line.change(self._line.reset)

    def _release(self, receipt: Receipt) -> None:
        """Release, and tell surely whether it was done: for Cond."""
        thread = get_ident() if self._write else 0
        self._line.change(self._line.release, thread, receipt=receipt)


@final
class RWMutexReader(_View):
    """The read side of an :class:`RWMutex`: a lock that many hold at the same time.

    It has the interface of :class:`Mutex`. Holds are counted, not owned: any thread may
    release one. A thread that reads may acquire again only while no writer waits: a writer
    that came in between would wait for the first hold, and the second for the writer.

    >>> from nogil_sync import RWMutex
    >>> rw = RWMutex()
    >>> with rw.read:
    ...     rw.read.locked(), rw.read.acquire(blocking=False)
    (True, True)
    >>> rw.read.release()
    """

    __module__ = "nogil_sync"
    __slots__ = ()
    _write = False

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock for reading; return whether it was taken.

        Waits while a writer holds it or waits for it, for ever by default, or with a
        `timeout` of -1 or None; else at most `timeout` seconds. With ``blocking=False`` it
        does not wait (a time-out is a ``ValueError`` then). A `timeout` that is negative or
        NaN is a ``ValueError``, one above ``threading.TIMEOUT_MAX`` an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and the lock
        is not taken. Signal handlers run meanwhile and may use this lock.
        """
        return self._line.acquire(0, lock_timeout(blocking, timeout))

    def release(self) -> None:
        """Let go of one hold; the last one lets the first waiting writer in.

        Any thread may do so. ``RuntimeError`` if nobody holds the lock for reading.
        """
        self._line.change(self._line.release, 0)

    def locked(self) -> bool:
        """Whether any thread holds the lock for reading."""
        return self._line.state[0][0] > 0


@final
class RWMutexWriter(_View):
    """The write side of an :class:`RWMutex`: a lock that excludes readers and writers.

    It has the interface of :class:`Mutex`. Not reentrant; any thread may release it.

    >>> from nogil_sync import RWMutex
    >>> rw = RWMutex()
    >>> with rw.write:
    ...     rw.write.locked(), rw.read.acquire(blocking=False)
    (True, False)
    """

    __module__ = "nogil_sync"
    __slots__ = ()
    _write = True

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock for writing; return whether it was taken.

        Waits while anyone holds it, for ever by default, or with a `timeout` of -1 or None;
        else at most `timeout` seconds. Meanwhile no new readers get in, and those that it
        kept out do if it gives up. With ``blocking=False`` it does not wait (a time-out is
        a ``ValueError`` then). A `timeout` that is negative or NaN is a ``ValueError``, one
        above ``threading.TIMEOUT_MAX`` an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and the lock
        is not taken. Signal handlers run meanwhile and may use this lock.
        """
        seconds = lock_timeout(blocking, timeout)
        return self._line.acquire(get_ident(), seconds)

    def release(self) -> None:
        """Let the lock go, to all waiting readers, or else to the first waiting writer.

        Any thread may do so. After :meth:`RWMutex.downgrade` it lets go of the read lock
        that became of the write lock. ``RuntimeError`` if there is neither.
        """
        self._line.change(self._line.release, get_ident())

    def locked(self) -> bool:
        """Whether any thread holds the lock for writing; not after a downgrade."""
        return self._line.state[0][1] != 0


_V = TypeVar("_V", bound=_View)


def _view(cls: type[_V], line: _Sides) -> _V:
    view = object.__new__(cls)
    view._line = line
    return view


class RWMutex(SyncObject):
    """A lock that many threads hold for reading, or one for writing.

    It has two sides, :attr:`read` and :attr:`write`, each a lock with the interface of
    :class:`Mutex`. What a thread did before it released either side is visible to the next
    that acquires the other.

    Nobody starves: a waiting writer keeps new readers out, and a writer that releases lets
    all readers in that wait at that moment, before the next writer. So a reader waits for
    one writer at most, and a writer for one group of readers between it and the writer
    before. Writers come first come, first served. (The phase-fair lock of Brandenburg and
    Anderson; Go's ``RWMutex`` behaves the same way.)

    Not reentrant: see :class:`RWMutexReader` for why not even to read. In the native
    backend, readers on different cores write to no shared cache line while no writer is
    about (on Python 3.13t once the lock is pinned: see :func:`pin`); a writer pays for that
    by looking at all of them.

    >>> from nogil_sync import RWMutex
    >>> rw = RWMutex()
    >>> table = {}
    >>> with rw.write:
    ...     table["answer"] = 42
    >>> with rw.read:
    ...     table["answer"]
    42
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line", "__read", "__write")

    def _SyncObject__fill(self) -> None:
        self.__line = _Sides(_FREE)
        self.__line.foreign = False
        self.__read = _view(RWMutexReader, self.__line)
        self.__write = _view(RWMutexWriter, self.__line)

    def __init__(self) -> None:
        super().__init__()

    def __repr__(self) -> str:
        readers, writing, _ = self.__line.state[0]
        state = "write-locked" if writing else "read-locked" if readers else "unlocked"
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    @property
    def read(self) -> RWMutexReader:
        """The read side: always the same object, which lives on by itself."""
        return self.__read

    @property
    def write(self) -> RWMutexWriter:
        """The write side: always the same object, which lives on by itself."""
        return self.__write

    def downgrade(self) -> None:
        """Turn the write lock that is held into a read lock, without letting it go.

        No writer comes in between, and readers that wait at that moment get in.
        ``write.release()``, and so leaving ``with rw.write:``, then lets go of that read
        lock; so does ``read.release()``. ``RuntimeError`` if nobody holds the lock for
        writing.

        >>> from nogil_sync import RWMutex
        >>> rw = RWMutex()
        >>> with rw.write:
        ...     rw.downgrade()
        ...     rw.read.acquire(blocking=False)
        True
        >>> rw.read.release()
        >>> rw.read.locked(), rw.write.locked()
        (False, False)
        """
        self.__line.change(self.__line.downgrade)

    def _at_fork_reinit(self) -> None:
        """Make the lock free and forget its waiters: for the child of a fork."""
        finish_fork()
        self.__line.change(self.__line.reset)
