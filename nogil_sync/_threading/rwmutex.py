"""RWMutex, pure Python."""

from ._object import SyncObject


class RWMutexReader(SyncObject):
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
    __slots__ = ("__line",)

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock for reading; return whether it was taken.

        Waits while a writer holds it or waits for it, for ever by default, or with a
        `timeout` of -1 or None; else at most `timeout` seconds. With ``blocking=False`` it
        does not wait (a time-out is a ``ValueError`` then). A `timeout` that is negative or
        NaN is a ``ValueError``, one above ``threading.TIMEOUT_MAX`` an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and the lock
        is not taken. Signal handlers run meanwhile and may use this lock.
        """
        ...

    def release(self) -> None:
        """Let go of one hold; the last one lets the first waiting writer in.

        Any thread may do so. ``RuntimeError`` if nobody holds the lock for reading.
        """

    def locked(self) -> bool:
        """Whether any thread holds the lock for reading."""
        ...

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def _at_fork_reinit(self) -> None:
        """Make the whole lock free and forget who waits: for the child of a fork."""


class RWMutexWriter(SyncObject):
    """The write side of an :class:`RWMutex`: a lock that excludes readers and writers.

    It has the interface of :class:`Mutex`. Not reentrant; any thread may release it.

    >>> from nogil_sync import RWMutex
    >>> rw = RWMutex()
    >>> with rw.write:
    ...     rw.write.locked(), rw.read.acquire(blocking=False)
    (True, False)
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line",)

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
        ...

    def release(self) -> None:
        """Let the lock go, to all waiting readers, or else to the first waiting writer.

        Any thread may do so. After :meth:`RWMutex.downgrade` it lets go of the read lock
        that became of the write lock. ``RuntimeError`` if there is neither.
        """

    def locked(self) -> bool:
        """Whether any thread holds the lock for writing; not after a downgrade."""
        ...

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def _at_fork_reinit(self) -> None:
        """Make the whole lock free and forget who waits: for the child of a fork."""


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
    about, once the lock is pinned (see :func:`pin`); a writer pays for that by looking at
    all of them.

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

    def __init__(self) -> None: ...

    @property
    def read(self) -> RWMutexReader:
        """The read side: always the same object, which lives on by itself."""
        ...

    @property
    def write(self) -> RWMutexWriter:
        """The write side: always the same object, which lives on by itself."""
        ...

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

    def _at_fork_reinit(self) -> None:
        """Make the lock free and forget who waits: for the child of a fork."""
