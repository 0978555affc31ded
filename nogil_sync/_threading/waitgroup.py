"""WaitGroup, pure Python."""

import threading
from collections.abc import Callable
from typing import ParamSpec, SupportsIndex

from ._object import SyncObject

P = ParamSpec("P")


class WaitGroup(SyncObject):
    """A count of what is still to be done, and a wait for it to come to zero.

    Go's ``WaitGroup``: count up with :meth:`add` before work is handed out, down with
    :meth:`done` when it is finished; or let :meth:`go` start a thread and do both. It can
    be used again and again. What a thread did before it counted down is visible to those
    whose :meth:`wait` returned true because of it.

    Counting costs one atomic addition in the native backend; reaching zero wakes all who
    wait.

    >>> from nogil_sync import ShardedCounter, WaitGroup
    >>> hits, group = ShardedCounter(), WaitGroup()
    >>> for n in (1, 2, 3):
    ...     thread = group.go(hits.add, n)
    >>> group.wait()
    True
    >>> hits.value()
    6
    """

    __module__ = "nogil_sync"
    __slots__ = ("__count", "__guard", "__round")

    def __init__(self) -> None: ...

    def add(self, n: SupportsIndex = 1) -> None:
        """Count `n` more, or fewer if it is negative.

        Reaching zero wakes all who wait. Below zero is a ``RuntimeError``, above 2**31 - 1
        an ``OverflowError``; the count then stays as it was. Count up before the work can
        be done, not in the thread that does it, or a :meth:`wait` may come first.
        """

    def done(self) -> None:
        """Count one fewer: ``add(-1)``."""

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the count is zero, at most `timeout` seconds; return whether it was.

        It is enough that it was zero at some moment since the call began, even if work was
        added right after. ``None`` waits for ever, zero or less does not wait. NaN is a
        ``ValueError``, a time-out too large for the system an ``OverflowError``. A Ctrl-C
        interrupts the wait in the main thread.
        """
        ...

    def go(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> threading.Thread:
        """Call `fn` with these arguments in a new thread, which is counted; return the thread.

        The thread is not a daemon and runs in a copy of the caller's context
        (``contextvars``). What `fn` returns is dropped. An exception goes to
        ``threading.excepthook`` as in any thread; then, and when nothing refers to the
        function, its arguments and the exception any more, the thread counts as done.

        ``TypeError`` if `fn` cannot be called. If the thread cannot be started, that error
        is raised, and nothing was counted.

        >>> from nogil_sync import WaitGroup
        >>> group, log = WaitGroup(), []
        >>> thread = group.go(log.append, "written")
        >>> group.wait(timeout=10)
        True
        >>> log
        ['written']
        """
        ...
