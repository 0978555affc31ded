"""Cancelled and shield, for both backends: what a cancelled task group does to waits.

Each thread has a *scope* or none: that of the task group for which it works. The backends know
scopes, because they know waits: a wait that is about to sleep in a cancelled scope raises instead,
and cancelling a scope wakes those that sleep in it. What is written here and in modules that the
backends import needs the scope of the calling thread, too. So the chosen backend puts its functions
into `scopes`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .object import SyncObject
from .originals import get_ident

if TYPE_CHECKING:
    from .._backend import Scope

__all__ = ["Cancelled", "shield"]

# What every cancelled wait says, on both backends.
MESSAGE: Final = "the TaskGroup was cancelled"


class Cancelled(BaseException):
    """The task group for which the thread works was cancelled, so a call that would wait does not.

    In a task of a cancelled :class:`TaskGroup`, in its block, and in groups nested in these, each
    call of this library that would have to sleep raises it, and calls that sleep are woken with
    it: nothing was acquired, sent, received or lost by them. Locks (``Mutex``, ``RLock``,
    ``RWMutex``) are the exception: they can still be waited for, in ``finally`` blocks for
    example. What needs no sleep is still done. :func:`shield` exempts a block of code.

    Let it pass, as ``asyncio.CancelledError``: a task that ends with it is cancelled and has not
    failed; in the group's block it ends at the ``with`` statement. It is no ``Exception``, so that
    ``except Exception`` does not swallow it. What swallows it does not undo the cancellation:
    the next call that would wait raises it again.

    >>> from nogil_sync import Cancelled, Channel, TaskGroup
    >>> jobs = Channel()
    >>> with TaskGroup() as group:
    ...     worker = group.go(jobs.recv)
    ...     group.cancel()
    >>> worker.cancelled()
    True
    """

    __module__ = "nogil_sync"


class _Scopes:
    """The functions of the chosen backend."""

    __slots__ = ("current", "enter")

    current: "Callable[[], Scope | None]"
    enter: "Callable[[Scope | None], Scope | None]"


scopes: Final = _Scopes()


class shield(SyncObject):  # noqa: N801  (named as what it does, like contextlib.suppress)
    """A context manager for code whose waits the cancellation of a group must not reach.

    ``with shield():`` lets calls in its block wait as if the thread worked for no group: to
    hand back a connection, or to tell another thread that this one is about to end. Groups that
    are entered in the block are not cancelled with those outside. It ends with the block: the
    next call after it that would wait raises :exc:`Cancelled`.

    It holds for the calling thread alone, which must leave the block itself. The thread that leaves
    the group waits for tasks in such a block; bound their waits by time-outs.

    >>> from nogil_sync import Channel, Event, TaskGroup, shield
    >>> begun, jobs, bills = Event(), Channel(), Channel()
    >>> def work():
    ...     try:
    ...         begun.set()
    ...         jobs.recv()
    ...     finally:
    ...         with shield():
    ...             bills.send("an hour", timeout=10)
    >>> with TaskGroup() as group:
    ...     worker = group.go(work)
    ...     begun.wait()
    ...     group.cancel()
    ...     with shield():
    ...         bills.recv(timeout=10)
    True
    'an hour'
    """

    __module__ = "nogil_sync"
    __slots__ = ("__outer", "__thread")

    def _SyncObject__fill(self) -> None:
        self.__thread: int | None = None  # that is in the block
        self.__outer: Scope | None = None

    def __init__(self) -> None:
        super().__init__()

    def __enter__(self) -> None:
        """Begin the block; ``RuntimeError`` inside a block of the same object."""
        if self.__thread is not None:
            raise RuntimeError("the shield is already entered")
        self.__outer = scopes.current()
        self.__thread = get_ident()
        try:
            scopes.enter(None)
        except BaseException:  # an interrupt right after it
            self.__thread = None
            scopes.enter(self.__outer)
            raise

    def __exit__(self, *exc_info: object) -> None:
        """End the block: the thread is in its scope again. ``RuntimeError`` in another thread."""
        if self.__thread is None:
            raise RuntimeError("the shield is not entered")
        mine = True
        try:
            mine = self.__thread == get_ident()
        finally:  # also if that was interrupted
            if mine:
                self.__thread = None
                scopes.enter(self.__outer)
                self.__outer = None
        if not mine:
            raise RuntimeError("the shield was entered by another thread")
