"""WaitGroup, pure Python: a word (see `_wait`), the count, and waiting for it to be zero."""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, SupportsIndex

from .._common.awaited import AwaitedEvent
from .._common.object import SyncObject
from .._common.spawn import Worker
from ._arguments import exact_int, wait_timeout
from ._wait import Word, need_room

__all__ = ["WaitGroup"]

_MAX = (1 << 31) - 1

P = ParamSpec("P")


class WaitGroup(SyncObject, AwaitedEvent):
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
    __slots__ = ("__word",)

    def _SyncObject__fill(self) -> None:
        self.__word = Word(0)

    def __init__(self) -> None:
        super().__init__()

    def __repr__(self) -> str:
        count = self.__word.value
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {count} pending>"

    def add(self, n: SupportsIndex = 1) -> None:
        """Count `n` more, or fewer if it is negative.

        Reaching zero wakes all who wait. Below zero is a ``RuntimeError``, above 2**31 - 1
        an ``OverflowError``; the count then stays as it was. Count up before the work can
        be done, not in the thread that does it, or a :meth:`wait` may come first.
        """
        number = exact_int(n)
        word = self.__word
        if word.round is not None:
            need_room()
        ended = None
        counted = False
        later: BaseException | None = None
        # From here to the return, or to the loop that opens the gates, nothing can come between.
        word.guard.held = True
        try:
            total = word.value + number
            if 0 <= total <= _MAX:
                word.value = total
                counted = True
                if total == 0:
                    ended = word.round
                    if ended is not None:
                        ended.over = True
                        word.round = None
        finally:
            del word.guard.held
        if ended is not None:
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while True:
                        try:
                            ended.open()
                            break
                        except BaseException as another:
                            later = later or another
                    break
                except BaseException as another:
                    later = later or another
        if later is not None:  # and it was the first
            raise later
        if not counted:
            if total < 0:
                raise RuntimeError("negative WaitGroup counter")
            raise OverflowError("WaitGroup counter is too large")

    def done(self) -> None:
        """Count one fewer: ``add(-1)``."""
        WaitGroup.add(self, -1)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the count is zero, at most `timeout` seconds; return whether it was.

        It is enough that it was zero at some moment since the call began, even if work was
        added right after. ``None`` waits for ever, zero or less does not wait. NaN is a
        ``ValueError``, a time-out too large for the system an ``OverflowError``. A Ctrl-C
        interrupts the wait in the main thread, and the cancellation of the task group for
        which this thread works does so in any (:exc:`Cancelled`).
        """
        return self.__word.wait(0, wait_timeout(timeout))

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
        ticket: dict[str, Callable[[], object]] = {"done": functools.partial(WaitGroup.done, self)}
        worker = Worker(ticket, fn, args, kwargs)
        word = self.__word
        ended = None
        counted = False
        try:
            word.guard.held = True
            try:
                if word.value < _MAX:
                    word.value += 1
                    counted = True
            finally:
                del word.guard.held
            if not counted:
                raise OverflowError("WaitGroup counter is too large")
            worker.start()
        except BaseException:
            # Nothing can come between taking the ticket and counting down.
            try:
                del ticket["done"]
            except KeyError:
                counted = False  # the thread is under way and counts down itself
            if counted:
                word.guard.held = True
                try:
                    word.value -= 1
                    if word.value == 0:
                        ended = word.round
                        if ended is not None:
                            ended.over = True
                            word.round = None
                finally:
                    del word.guard.held
            raise
        finally:
            if ended is not None:
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while True:
                            try:
                                ended.open()
                                break
                            except BaseException:
                                pass  # the first error is under way
                        break
                    except BaseException:
                        pass
        return worker
