"""TaskGroup, one for both backends; the machinery is in `tasks`."""

import operator
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from .object import SyncObject, before_init, uninitialized, until_init

__all__ = ["TaskGroup"]

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from .tasks import Tasks

T = TypeVar("T")
P = ParamSpec("P")

# Why a group in this state cannot be left.
UNLEAVABLE = {
    "new": "has not been entered",
    "leaving": "is already being left",
    "left": "has already been left",
}


class TaskGroup(SyncObject):
    """Threads that end before the block that started them does: ``asyncio.TaskGroup``'s idea.

    >>> from nogil_sync import TaskGroup
    >>> with TaskGroup(limit=4) as group:
    ...     squares = [group.go(pow, n, 2) for n in range(5)]
    >>> [square.result() for square in squares]
    [0, 1, 4, 9, 16]

    :meth:`go` runs a function in a thread of the group and returns its
    ``concurrent.futures.Future``. Leaving the ``with`` block waits until all tasks are done, those
    included that tasks started meanwhile. What a task did is visible to whoever saw its
    future done, or left the block.

    **Failures.** The first exception that escapes from a task, or from the block, *cancels* the
    group: tasks that have not begun never do, and their futures are cancelled; tasks that
    run are not stopped, but can ask :meth:`cancelled` or sleep in :meth:`wait_cancelled`.
    When all have ended, the exceptions come out together in an ``ExceptionGroup`` (a
    ``BaseExceptionGroup`` if one is no ``Exception``): the block's own first, then those of
    the tasks in the order in which they failed, each object once, so that
    ``group.go(f).result()`` in the block does not report its failure twice.

    >>> try:
    ...     with TaskGroup() as group:
    ...         failing = group.go(int, "x")
    ... except* ValueError as failures:
    ...     print(failures.exceptions)
    (ValueError("invalid literal for int() with base 10: 'x'"),)

    A ``concurrent.futures.CancelledError`` of a task is no failure once the group is
    cancelled: it waited for another that was. The block's own is none either, but comes out as
    it is when there are no failures.

    **Interrupts.** ``KeyboardInterrupt``, ``SystemExit`` and whatever else in the block
    is no ``Exception`` cancels the group, waits for the tasks, and is raised bare; failures of
    tasks are then found in their futures only. So does a ``KeyboardInterrupt`` or
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

    **Nesting.** Cancelling a group does not reach into groups that its tasks use: they can
    ask this one. What fails in an inner group reaches the outer as one ``ExceptionGroup``.

    A group is used once. It may be left by another thread than entered it, but not by one of
    its own tasks (``RuntimeError``). In the child of a fork a group has no tasks: leaving it there
    does not wait for those of the parent, whose futures never end in the child. A group
    that is never left keeps nothing alive once its tasks are done.
    """

    __module__ = "nogil_sync"
    __slots__ = ("__tasks",)

    def _SyncObject__fill(self) -> None:
        self.__tasks: Tasks = until_init(self)

    def __init__(self, limit: int | None = None, *, executor: "Executor | None" = None) -> None:
        # Imported late: it loads concurrent.futures and, with it, logging.
        from .tasks import Tasks

        if limit is not None:
            limit = int.__index__(operator.index(limit))
            if limit < 1:
                raise ValueError("limit must be at least 1")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor must have a submit method, not {type(executor).__name__!r}")
        tasks = Tasks(limit, executor)
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
        """Cancel the group: what has not begun never does, what runs is told.

        It is not a failure: leaving the group raises nothing because of it. Cancelling again
        does nothing.
        """
        self.__current().cancel()

    def cancelled(self) -> bool:
        """Whether the group was cancelled, by :meth:`cancel` or by a failure."""
        return self.__current().cancelled

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Block until the group is cancelled, at most `timeout` seconds; return whether it is.

        For tasks that have to pause: ``while not group.wait_cancelled(1.0): ...``. ``None``
        waits for ever, zero or less does not wait. NaN is a ``ValueError``, a time-out too large
        for the system an ``OverflowError``. A Ctrl-C interrupts the wait in the main thread.

        Leaving the group does not end the wait.
        """
        tasks = self.__current()
        # It is cancelled a moment before the event is set.
        return tasks.event.wait(timeout) or tasks.cancelled

    def __enter__(self) -> Self:
        """Open the group for tasks and return it; ``RuntimeError`` if it was used before."""
        tasks = self.__current()
        entered = False
        tasks.guard.held = True
        try:
            if tasks.state == "new":
                tasks.state = "open"
                entered = True
        finally:
            del tasks.guard.held
        if not entered:
            raise RuntimeError("the TaskGroup was used before")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
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
                if mine:
                    if error is not None:
                        tasks.cancel()
                    self.__join()
            except BaseException as first:
                if not mine or not isinstance(error, Exception | None):
                    raise
                interrupt = first
                self.__current().cancel()
                self.__join()
            if not mine:
                raise RuntimeError(f"the TaskGroup {UNLEAVABLE[state]}")
            outcome = self.__outcome(error, interrupt, cancelled)
            if outcome is not None:
                raise outcome
        except BaseException:
            if mine:
                self.__current().abandon()  # a second interrupt; otherwise nothing is left of it
            raise
        finally:
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
        if not isinstance(error, Exception | None):
            return None
        if not isinstance(interrupt, Exception | None):
            return interrupt
        for each in errors:
            if isinstance(each, KeyboardInterrupt | SystemExit):
                return each
        if cancelled and isinstance(error, CancelledError):
            error = None
        every = {id(each): each for each in (error, interrupt, *errors) if each is not None}
        if not every:
            return None
        group = BaseExceptionGroup("unhandled errors in a TaskGroup", list(every.values()))
        group.__suppress_context__ = True  # as by "from None": the block's error is among them
        return group

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
