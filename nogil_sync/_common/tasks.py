"""The tasks of a `TaskGroup`: which wait, how one is run, and when all are done.

State changes only in sections (see `guard`): straight-line code under a guard that no
signal handler, finaliser or ``KeyboardInterrupt`` can interrupt.  So every count below is exact
at any moment, whatever interrupted whom, and user code never runs under a lock.

A task is in one of three phases: it *waits* in the list, first come first served; one thread
takes it out, once, and *runs* it, in `Tasks.serve`; it is *done*.  A task leaves the list in one
step with being counted as running, so ``waiting + running`` is what leaving has to wait for.  It
is done only when nothing can come of it any more: what it raised, and what the callbacks of its
future raised, is among the errors by then.

Threads of the group run them, or an executor does (`workers`).  With an executor, the thread that
leaves the group helps: it runs tasks that the executor has not begun.  So a group inside a task of
the same bounded executor comes to its end although no thread of the executor may be left for it.
What the executor then begins too late finds the task taken.

An interrupt leaves nothing half done: what a section began is finished in a ``finally`` or
undone in an ``except`` that starts with a section, and so cannot be interrupted itself.  The
locks of Python's own code that an interrupt could leave locked are kept from that: that of a future
by `_Condition`, those of the `threading` module by `spawn.Thread`.  What an interrupt inside an
executor's own ``submit`` does to the executor is beyond this.

In the child of a fork a `Tasks` of the parent is *stale*: nothing of it is begun any more, joining
it does not wait, and its group goes on with a fresh one.
"""

import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
from contextvars import copy_context
from operator import attrgetter
from typing import Any, Literal

from .._backend import Event, defer, guard_of
from . import taskgroup as _taskgroup
from .guard import Guard
from .originals import Condition
from .sleep import closed_gate, sleep_at
from .untraced import hide_sections
from .workers import ExecutorWorkers, Worker, Workers, here, process

# After so many tasks a group defers the reference counts of what its threads share.
_OFTEN = 1000


class _Condition(Condition):
    """A condition over a guard, so that no interrupt leaves a future locked.

    ``with`` finds the methods of the guard here, and not those of the base class: these are
    Python functions, and an interrupt can come before they do anything.
    """

    __enter__ = property(attrgetter("guard.__enter__"))
    __exit__ = property(attrgetter("guard.__exit__"))

    def __init__(self) -> None:
        self.guard = Guard()
        super().__init__(self.guard)  # type: ignore[arg-type]


def _new_future() -> "Future[Any]":
    future: Future[Any] = Future()
    future._condition = _Condition()
    return future


class Task:
    """One call of ``go``."""

    __slots__ = (
        "args",
        "context",
        "fn",
        "future",
        "kwargs",
        "next",
        "outer",
        "phase",
        "prev",
        "slot",
        "tasks",
        "told",
    )

    def __init__(
        self,
        tasks: "Tasks",
        future: "Future[Any]",
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.tasks = tasks
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = copy_context()
        self.future = future
        self.phase: Literal["made", "waiting", "running", "done"] = "made"
        self.slot = False
        self.told = False
        self.prev: Task | None = None
        self.next: Task | None = None
        self.outer: Task | None = None  # below this one in the thread that runs it

    def begin(self) -> None:
        """Run, called by the executor; in vain if somebody else was faster."""
        self.tasks.attend(self)

    def settled(self, inner: "Future[Any]") -> None:
        """Look, when the executor is through with what it was given, whether it was run.

        This may be called under locks of the executor, so it submits nothing.
        """
        if self.phase != "waiting":
            return
        tasks = self.tasks
        error = None if inner.cancelled() else inner.exception()
        if error is not None:
            tasks.attend(self, error=error)  # fails, which cancels the rest
            return
        # Dropped: it was shut down.  It will not take those that wait for a slot either.
        dropped: Task | None = self
        while dropped is not None:
            tasks.serve(dropped, drop=True)
            dropped = tasks.unplaced

    def cancel(self) -> None:
        """Cancel the future and tell those who wait for it.  Once more, if that was interrupted."""
        again = self.told
        if self.future.cancel():
            self.told = True
            if not again or wait([self.future], 0).not_done:
                try:
                    self.future.set_running_or_notify_cancel()
                except RuntimeError:
                    pass  # others have, who meddle with futures

    def forget(self) -> None:
        """Keep nothing of what the user knows: the frames in tracebacks keep the task."""
        self.outer = None
        del self.future, self.fn, self.args, self.kwargs, self.context


class Tasks:
    """The tasks of a group in one process."""

    def __init__(self, limit: int | None, executor: Executor | None) -> None:
        self.generation = process.generation
        self.guard = guard_of(self)
        self.limit = sys.maxsize if limit is None else limit
        self.executor = executor
        self.state: Literal["new", "open", "leaving", "left"] = "new"
        self.cancelled = False
        self.event = Event()  # set when cancelled
        self.errors: list[BaseException] = []
        # The tasks that wait, linked through themselves; `unplaced` is the first without a slot.
        self.first: Task | None = None
        self.last: Task | None = None
        self.unplaced: Task | None = None
        self.waiting = 0
        self.running = 0
        self.until_deferred = _OFTEN
        self.slots = 0  # taken
        # The gate is opened for the one who leaves, when there may be something to do.
        self.gate = closed_gate()
        self.workers = (
            Workers(self.guard, self.limit)
            if executor is None
            else ExecutorWorkers(self.guard, self.limit, executor)
        )

    def stale(self) -> bool:
        """Whether these are the tasks of a parent process."""
        return self.generation != process.generation

    def reborn(self) -> "Tasks":
        """What the group goes on with in the child of a fork."""
        fresh = Tasks(self.limit, self.executor)
        fresh.state = self.state
        fresh.cancelled = self.cancelled
        fresh.event = self.event
        if fresh.cancelled:  # perhaps the fork came before it was set
            fresh.event.set()
        fresh.errors = list(self.errors)
        return fresh

    def told(self) -> str:
        """The state in words."""
        words = []
        if self.state == "new":
            words.append("not entered")
        if self.state == "left":
            words.append("left")
        if self.running or self.waiting or not words:
            words.append(f"{self.running} running, {self.waiting} queued")
        if self.cancelled:
            words.append("cancelled")
        return ", ".join(words)

    def within(self) -> bool:
        """Whether the calling thread runs one of these tasks."""
        task = here.task
        while task is not None:
            if task.tasks is self:
                return True
            task = task.outer
        return False

    def add(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Future[Any]":
        """Take a task.  A cancelled group returns it cancelled."""
        future = _new_future()
        task = Task(self, future, fn, args, kwargs)
        state = "left"
        added = wake = False
        try:
            self.guard.held = True
            try:
                state = self.state
                if state != "new" and state != "left" and not self.cancelled:  # noqa: PLR1714
                    added = True
                    task.phase = "waiting"
                    task.prev = last = self.last
                    self.last = task
                    if last is None:
                        self.first = task
                    else:
                        last.next = task
                    self.waiting += 1
                    self.until_deferred -= 1
                    if self.executor is not None:
                        if self.unplaced is None:
                            self.unplaced = task
                        wake = state == "leaving"
            finally:
                del self.guard.held
            if added:
                self.workers.submit(self, task)
            if self.until_deferred == 0:
                # Each task counts on these in a thread of its own, if they count.
                defer(self)
                defer(self.guard)
                defer(self.workers)
        except BaseException as error:
            withdrawn = self.serve(task, drop=True)
            try:
                self.workers.submit(
                    self
                )  # others may have relied on the worker that was to come for it
            except Exception:
                pass
            # If somebody runs it nevertheless, all is well.
            if withdrawn or not isinstance(error, Exception):
                raise
        finally:
            if wake:
                try:
                    self.gate.release()
                except RuntimeError:
                    pass  # open already
        if state == "new":
            raise RuntimeError("the TaskGroup has not been entered")
        if state == "left":
            raise RuntimeError("the TaskGroup has been left")
        if not added:
            task.cancel()
        return future

    def attend(
        self, task: Task, worker: Worker | None = None, error: BaseException | None = None
    ) -> None:
        """Serve, in a thread that nothing must escape from: callbacks of futures can raise."""
        try:
            self.serve(task, worker, error, contained=True)
        except BaseException as late:
            self.errors.append(late)

    def serve(
        self,
        task: Task,
        worker: Worker | None = None,
        error: BaseException | None = None,
        *,
        helping: bool = False,
        drop: bool = False,
        contained: bool = False,
    ) -> bool:
        """Run the task, unless another has begun it or no slot is free; return whether it was.

        With an `error`, the task fails with that instead; to `drop` it is to cancel it.  A thread
        that helps gets a Ctrl-C, too.  What callbacks raise is raised here, or, if `contained`,
        noted among the errors before the task is done.
        """
        outer = here.task
        before = after = None
        mine = wake = False
        try:
            self.guard.held = True
            try:
                if (
                    task.phase == "waiting"
                    and (drop or task.slot or self.slots < self.limit)
                    and self.generation == process.generation
                ):
                    mine = True
                    task.phase = "running"
                    before = task.prev
                    after = task.next
                    task.prev = task.next = None
                    if before is None:
                        self.first = after
                    else:
                        before.next = after
                    if after is None:
                        self.last = before
                    else:
                        after.prev = before
                    if self.unplaced is task:
                        self.unplaced = after
                    if not task.slot and not drop:
                        task.slot = True
                        self.slots += 1
                    self.waiting -= 1
                    self.running += 1
                    if worker is not None and worker.summoned:
                        worker.summoned = False
                        self.workers.summoned -= 1
            finally:
                del self.guard.held
            if mine:
                task.outer = outer
                here.task = task
                self.__run(task, error, drop)
        except BaseException as raised:
            if not mine:
                raise
            if drop:
                task.cancel()
                raise
            try:
                self.__fail(task, raised)
            except BaseException as late:
                if not contained:
                    raise
                self.errors.append(late)
            if helping and isinstance(raised, KeyboardInterrupt):
                raise
        finally:
            if mine:
                here.task = outer
                try:
                    self.guard.held = True
                    try:
                        task.phase = "done"
                        self.running -= 1
                        if task.slot:
                            self.slots -= 1
                        wake = self.state == "leaving" and (
                            self.waiting + self.running == 0
                            or (self.executor is not None and self.first is not None)
                        )
                    finally:
                        del self.guard.held
                finally:
                    if wake:
                        try:
                            self.gate.release()
                        except RuntimeError:
                            pass
                task.forget()
                before = after = None
        # A thread that is placing has an executor that runs tasks in `submit`: the loop below us
        # goes on, so that the stack does not grow with the number of tasks.  And one that drops a
        # task may hold locks of the executor.
        if (
            self.executor is not None
            and self.unplaced is not None
            and not drop
            and here.placing is not self
        ):
            self.workers.submit(self)
        return mine

    def __run(self, task: Task, error: BaseException | None, drop: bool) -> None:
        """Call the function and settle the future."""
        future = task.future
        try:
            if drop or self.cancelled:
                task.cancel()
            elif future.set_running_or_notify_cancel():
                if error is None:
                    future.set_result(task.context.run(task.fn, *task.args, **task.kwargs))
                else:
                    self.__fail(task, error)
        finally:
            del future  # this frame is in the traceback that the future holds

    def __fail(self, task: Task, error: BaseException) -> None:
        """The task raised this.  A cancelled future of a cancelled group is no failure."""
        try:
            if not (isinstance(error, CancelledError) and self.cancelled):
                self.errors.append(error)
                self.cancel()
        finally:
            if task.future.cancelled():
                task.cancel()
            elif not task.future.done():
                task.future.set_exception(error)

    def cancel(self) -> None:
        """Cancel what waits, and tell what runs."""
        first = False
        try:
            self.guard.held = True
            try:
                first = not self.cancelled
                self.cancelled = True
            finally:
                del self.guard.held
        finally:
            self.event.set()
        if first:
            self.drop_waiting()

    def drop_waiting(self) -> None:
        """Cancel the tasks that wait."""
        while True:
            task = self.first
            if task is None:
                return
            self.serve(task, drop=True)

    def join(self) -> bool:
        """Wait until all is done, and that is it: nothing is taken any more.  False if stale."""
        while True:
            if self.generation != process.generation:
                return False
            if self.cancelled:
                self.drop_waiting()
            task = self.first
            if (
                task is not None
                and self.workers.count == 0
                and (task.slot or self.slots < self.limit)
            ):
                self.serve(task, helping=True)
                if self.executor is None:
                    try:
                        self.workers.submit(self)
                    except (RuntimeError, MemoryError):
                        pass  # no thread to be had, as before
                continue
            left = False
            self.guard.held = True
            try:
                if self.waiting + self.running == 0:
                    self.state = "left"
                    left = True
            finally:
                del self.guard.held
            if left:
                break
            sleep_at(self.gate, None)
        return self.workers.shutdown(self)

    def abandon(self) -> None:
        """Leave without waiting: nothing is taken or begun any more."""
        try:
            self.guard.held = True
            try:
                self.state = "left"
                self.cancelled = True
            finally:
                del self.guard.held
        finally:
            self.event.set()
        self.drop_waiting()


hide_sections(globals())
hide_sections(vars(_taskgroup))
