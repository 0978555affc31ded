"""TaskGroup, one for both backends; the machinery is in `tasks` and `groupscope`."""

import operator
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar, TypeVarTuple

from .cancelled import Cancelled
from .cases import Case
from .object import SyncObject, before_init, uninitialized, until_init
from .timeouts import exact_seconds, wait_timeout
from .untraced import hide_sections

__all__ = ["TaskGroup"]

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from .._backend import Event
    from .tasks import Tasks

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

# Why a group in this state cannot be left.
UNLEAVABLE = {
    "new": "has not been entered",
    "leaving": "is already being left",
    "left": "has already been left",
}


class TaskGroup(SyncObject, Case):
    """Threads that end before the block that started them does: ``asyncio.TaskGroup``'s idea.

    >>> from nogil_sync import TaskGroup
    >>> with TaskGroup(limit=4) as group:
    ...     squares = [group.go(pow, n, 2) for n in range(5)]
    >>> [square.result() for square in squares]
    [0, 1, 4, 9, 16]

    :meth:`go` runs a function in a thread of the group and returns its
    ``concurrent.futures.Future``. Leaving the ``with`` block waits until all tasks are done, those
    included that tasks started meanwhile. What a task did is visible to a thread that saw its
    future done, or left the block.

    **Failures.** The first exception that escapes from a task, or from the block, *cancels* the
    group. When all tasks have ended, the exceptions come out together in an ``ExceptionGroup`` (a
    ``BaseExceptionGroup`` if one is no ``Exception``): the block's own first, then those of
    the tasks in the order in which they failed, each object once, so that
    ``group.go(f).result()`` in the block does not report its failure twice.

    >>> try:
    ...     with TaskGroup() as group:
    ...         failing = group.go(int, "x")
    ... except* ValueError as failures:
    ...     print(failures.exceptions)
    (ValueError("invalid literal for int() with base 10: 'x'"),)

    **Cancellation.** Tasks that have not begun never do, and their futures are cancelled. In tasks
    that run, in the block, and in groups nested in these, calls of this library that would wait
    raise :exc:`Cancelled`, and those that wait are woken with it: ``Channel.send`` and ``recv``,
    ``select``, ``Event.wait``, ``Semaphore.acquire`` and ``hold``, ``WaitGroup.wait``,
    ``Cond.wait``, the wait for another thread's ``once`` or ``load_or_compute``, the ticks of a
    ``Ticker``, and ``result`` or ``exception`` of a group's future; but not locks. See
    :exc:`Cancelled` and :func:`shield`. A task that ends with :exc:`Cancelled` is cancelled, it
    has not failed. The block's own ends at the end of the block, unless the group is
    nested in another one that is cancelled as well: then it goes on to the end of that block. So
    leaving raises what failed, or nothing after a mere :meth:`cancel`.

    >>> from nogil_sync import Channel
    >>> with TaskGroup() as group:
    ...     jobs = Channel()
    ...     worker = group.go(jobs.recv)
    ...     group.cancel()
    >>> worker.cancelled()
    True

    What does not wait in this library is not stopped: a task that computes can ask
    :meth:`cancelled`, and what waits for something else is reached by :meth:`on_cancel`.

    A ``concurrent.futures.CancelledError`` of a task is no failure once the group is
    cancelled: it waited for another that was. The block's own is none either, but comes out as
    it is when there are no failures.

    **Time-out.** A `timeout` is a number of seconds from entering the group on. When it has passed
    before the group is left, the group is cancelled, and leaving raises ``TimeoutError``; what
    failed after that is its ``__cause__``. Zero or less cancels at once. A thread of the
    group's own watches the time.

    **Interrupts.** ``KeyboardInterrupt``, ``SystemExit`` and whatever else in the block
    is no ``Exception`` cancels the group, waits for the tasks, and is raised bare; what tasks
    failed with is in its notes (``add_note``). So does a ``KeyboardInterrupt`` or
    ``SystemExit`` in a task. A Ctrl-C that arrives while the group is being left
    cancels it and goes on waiting. Another one (the first, if the block already ended by an
    interrupt) abandons the wait: it is raised at once, running tasks run on,
    others never start.

    **Threads.** The group starts a thread for each task that finds none idle, at most `limit`
    (an ``int`` of at least 1) of them; more tasks wait their turn, first come first served. The
    threads are not daemons, end after half a second without work, and have ended when the
    block is left. With an `executor` (anything like ``concurrent.futures.Executor`` that runs
    its calls in threads of this process) tasks run there, at most `limit` of this
    group's at once, and the thread that leaves the block helps: it runs tasks that the executor
    has not begun. So groups can be nested on one small executor without a deadlock; tasks must
    not rely on the executor's ``initializer``, or on its size to keep them apart. The
    executor is never shut down; if it is from elsewhere, :meth:`go` raises what its ``submit``
    raises, and the futures of tasks that it drops are cancelled.

    **Nesting.** A group that is entered in a task or in the block of another one is nested in that:
    cancelling the outer group cancels it too. Threads that are started by other means belong to no
    group. What fails in an inner group reaches the outer as one ``ExceptionGroup``.

    A group is used once. It may be left by another thread than entered it, but not by one of
    its own tasks (``RuntimeError``); the thread that entered it then works for no group until it
    leaves, or enters, another one. In the child of a fork a group has no tasks: leaving it there
    does not wait for those of the parent, whose futures never end in the child; nor does its
    time-out pass there. A group that is never left keeps nothing alive once its tasks are done.
    """

    __module__ = "nogil_sync"
    __slots__ = ("__tasks",)

    def _SyncObject__fill(self) -> None:
        self.__tasks: Tasks = until_init(self)

    def __init__(
        self,
        limit: int | None = None,
        *,
        executor: "Executor | None" = None,
        timeout: float | None = None,
    ) -> None:
        # Imported late: it loads concurrent.futures and, with it, logging.
        from .tasks import Tasks

        if limit is not None:
            limit = int.__index__(operator.index(limit))
            if limit < 1:
                raise ValueError("limit must be at least 1")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must have a submit method, not {type(executor).__name__!r}")
        if timeout is not None:
            timeout = exact_seconds(timeout, "timeout")
        tasks = Tasks(limit, executor, timeout)
        super().__init__()
        self.__tasks = tasks

    def __repr__(self) -> str:
        if before_init(self.__tasks):
            return uninitialized(self)
        told = self.__current().told()
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {told}>"

    def go(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have the group call ``fn(*args, **kwargs)``; return the call's future. Never blocks.

        The call runs in a copy of the caller's ``contextvars`` context. Any thread may call
        this, tasks too, from entering the group until leaving it is complete; before
        and after, it is a ``RuntimeError``. In a cancelled group nothing is called and the
        future comes back cancelled. ``Future.cancel()`` keeps a task that has not
        begun from being called; that is no failure. A task that waits for the result of
        another may wait for ever if `limit` or the executor leaves that no thread.

        A task that never began does nothing, so it does not count down a ``WaitGroup``
        either: a thread outside the group that waits for that waits for ever. Let
        ``future.add_done_callback`` count down, which is called in any case.

        If no thread can be started, or the executor does not take the call, the exception is
        raised here and there is no task.

        >>> from nogil_sync import TaskGroup
        >>> with TaskGroup() as group:
        ...     group.go(divmod, 7, 2).result()
        (3, 1)
        """
        tasks = self.__current()
        if not callable(fn):
            raise TypeError(f"{type(fn).__name__!r} object is not callable")
        return tasks.add(fn, args, kwargs)

    def cancel(self) -> None:
        """Cancel the group: what has not begun never does, what runs does not wait any more.

        It is not a failure: leaving the group raises nothing because of it. Groups that are nested
        in this one are cancelled with it. Any thread may call this. Cancelling again does nothing.
        """
        self.__current().cancel()

    def cancelled(self) -> bool:
        """Whether the group was cancelled: by :meth:`cancel`, a failure, or its time-out."""
        return self.__current().cancelled

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block until the group is cancelled, at most `timeout` seconds; return whether it is.

        For tasks that have to pause: ``while not group.wait_cancelled(1.0): ...``. ``None``
        waits for ever, zero or less does not wait. NaN is a ``ValueError``, a time-out too large
        for the system an ``OverflowError``. A Ctrl-C interrupts the wait in the main thread. In a
        task of this very group it does not raise :exc:`Cancelled`.

        Leaving the group does not end the wait.
        """
        seconds = wait_timeout(timeout)
        tasks = self.__current()
        # It is cancelled a moment before the event is set.
        return tasks.event.wait(seconds) or tasks.cancelled

    async def wait_cancelled_async(self, timeout: float | None = None) -> bool:
        """Wait as :meth:`wait_cancelled` does, while the event loop goes on; return whether.

        To use a group in asyncio code, let a thread enter and leave it, since both may block, and
        await the futures of its tasks:

        >>> import asyncio
        >>> from nogil_sync import TaskGroup
        >>> async def main():
        ...     group = TaskGroup(limit=4)
        ...     await asyncio.to_thread(group.__enter__)
        ...     try:
        ...         squares = [asyncio.wrap_future(group.go(pow, n, 2)) for n in range(5)]
        ...         return await asyncio.gather(*squares)
        ...     except BaseException:
        ...         group.cancel()
        ...         raise
        ...     finally:
        ...         await asyncio.to_thread(group.__exit__, None, None, None)
        >>> asyncio.run(main())
        [0, 1, 4, 9, 16]
        """
        seconds = wait_timeout(timeout)
        tasks = self.__current()
        return await tasks.event.wait_async(seconds) or tasks.cancelled

    def on_cancel(self, fn: Callable[[*Ts], object], /, *args: *Ts) -> None:
        """Have ``fn(*args)`` called when the group is cancelled; at once, if it is.

        For waits that are not this library's: ``group.on_cancel(connection.close)`` ends a task's
        ``recv`` from a socket. It is called once, by the thread that cancels the group (or by
        the one that leaves it, if an interrupt keeps the other from it), after the waits of the
        group were woken, in the order of registration, and as in :func:`shield`. What it raises
        is a failure of the group, or is raised here if it is called here. Leaving the group
        waits for it, and forgets it if the group was not cancelled. ``RuntimeError`` after that.

        >>> from nogil_sync import TaskGroup
        >>> with TaskGroup() as group:
        ...     group.on_cancel(print, "cancelled")
        ...     group.cancel()
        cancelled
        """
        tasks = self.__current()
        if not callable(fn):
            raise TypeError(f"{type(fn).__name__!r} object is not callable")
        tasks.on_cancel(fn, args)

    def __enter__(self) -> Self:
        """Open the group for tasks and return it; ``RuntimeError`` if it was used before.

        With a time-out, this starts a thread that watches the time. If that thread cannot be
        started, the error of the start is raised.
        """
        if not self.__current().enter():
            raise RuntimeError("the TaskGroup was used before")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool | None:
        """Wait for all tasks, then raise what failed."""
        # A Ctrl-C right at the entry to this function leaves the group without waiting for it,
        # as with every context manager written in Python.
        tasks = self.__current()
        if tasks.within():
            raise RuntimeError("a task cannot leave its own TaskGroup")
        cancelled = tasks.cancelled
        interrupt: BaseException | None = None
        mine = False
        try:
            try:
                tasks.guard.held = True
                try:
                    state = tasks.state
                    if state == "open":
                        tasks.state = "leaving"
                        mine = True
                finally:
                    del tasks.guard.held
                tasks.scope.leave()
                if mine:
                    if error is not None:
                        tasks.cancel()
                    self.__join()
            except BaseException as first:
                if not mine or not isinstance(error, Exception | Cancelled | None):
                    raise
                interrupt = first
                self.__current().cancel()
                self.__join()
            if not mine:
                raise RuntimeError(f"the TaskGroup {UNLEAVABLE[state]}")
            outcome = self.__outcome(error, interrupt, cancelled)
            if outcome is not None:
                raise outcome
            if not cancelled or not isinstance(error, Cancelled) or tasks.scope.within_cancelled():
                return None
            return True  # the block's wait was cancelled with this group, and with none outside
        except BaseException as last:
            if mine:
                # A second interrupt; otherwise nothing is left of the tasks.
                tasks = self.__current()
                tasks.abandon()
                _note_failures(last, tasks.errors)
            raise
        finally:
            tasks.scope.leave()  # again, if an interrupt came first
            # This frame lives on in the traceback of what it raised.
            error = interrupt = outcome = None

    def __join(self) -> None:
        """Wait for the tasks: for other ones if a signal handler meanwhile forked."""
        while not self.__current().join():
            pass

    def __outcome(
        self, error: BaseException | None, interrupt: BaseException | None, cancelled: bool
    ) -> BaseException | None:
        """What leaving raises in place of the block's own error."""
        from concurrent.futures import CancelledError

        tasks = self.__current()
        errors, tasks.errors = tasks.errors, []
        every = {id(each): each for each in (error, interrupt, *errors) if each is not None}
        # What is raised bare.
        for each in (error, interrupt):
            if not isinstance(each, Exception | Cancelled | None):
                _note_failures(each, every.values())
                return None if each is error else each
        for each in errors:
            if isinstance(each, KeyboardInterrupt | SystemExit):
                _note_failures(each, every.values())
                return each
        # What is no failure.
        if isinstance(error, Cancelled) or (cancelled and isinstance(error, CancelledError)):
            del every[id(error)]
        if isinstance(interrupt, Cancelled):
            every.pop(id(interrupt), None)
        group = None
        if every:
            group = BaseExceptionGroup("unhandled errors in a TaskGroup", list(every.values()))
            group.__suppress_context__ = True  # as by "from None": the block's error is among them
        if tasks.timed_out:
            late = TimeoutError(f"the TaskGroup timed out after {tasks.timeout:g} s")
            if group is not None:
                late.__cause__ = group
            return late
        return group

    def _case_event(self) -> "Event":
        return self.__current().event

    def _case_take(self) -> tuple[None, bool] | None:
        return (None, False) if self.__current().cancelled else None

    def __current(self) -> "Tasks":
        """The tasks of this process."""
        tasks = self.__tasks
        while tasks.stale():
            fresh = tasks.reborn()
            tasks.guard.held = True
            try:
                if self.__tasks is tasks:
                    self.__tasks = fresh
            finally:
                del tasks.guard.held
            tasks = self.__tasks
        return tasks


def _note_failures(error: BaseException, failures: Iterable[BaseException]) -> None:
    """Add what tasks failed with to an exception that is raised instead."""
    for each in failures:
        if each is not error and not isinstance(each, Cancelled):
            from traceback import format_exception

            text = "".join(format_exception(each)).rstrip()
            BaseException.add_note(error, f"a task of the TaskGroup failed with:\n{text}")


hide_sections(globals())
