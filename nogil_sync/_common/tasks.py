"""The tasks of a `TaskGroup`: which wait, how one is run, and when all are done.

State changes only in sections (see `guard`): straight-line code under a guard that no
signal handler, finaliser or ``KeyboardInterrupt`` can interrupt.  So every count below is exact
at any moment, whatever interrupted whom, and user code never runs under a lock.

A task is in one of three phases: it *waits* in the list, first come first served; one thread
takes it out, once, and *runs* it, in `Tasks.serve`; it is *done*.  A task leaves the list in one
step with being counted as running, so ``waiting + running`` is what leaving has to wait for.  It
is done only when nothing can come of it any more: what it raised, and what the callbacks of its
future raised, is among the errors by then.

**Cancellation** comes in two parts.  `Tasks.spread` marks the group and those nested in it, and
wakes what sleeps in their scopes (see `groupscope`); it runs no code of users.  `settle` then has
each of them cancel the tasks that wait, and call what ``on_cancel`` was given.  If an interrupt
keeps the thread that cancels from the second part, the thread that leaves makes up for it.

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
from functools import partial
from operator import attrgetter
from time import monotonic
from typing import Any, Literal
from weakref import ref

from .._backend import Event, Scope, current_scope, defer, enter_scope, guard_of
from .cancelled import MESSAGE, Cancelled
from .dropped import when_dropped
from .groupscope import Callback, Deadline, GroupScope
from .guard import Guard
from .originals import Condition, LockType
from .sleep import closed_gate, sleep_at
from .untraced import hide_sections
from .workers import ExecutorWorkers, Process, Worker, Workers, here, process

# After so many tasks a group defers the reference counts of what its threads share.
_OFTEN = 1000


class _Condition(Condition):
    """A future's condition: over a guard, so that no interrupt leaves the future locked.

    ``with`` finds the methods of the guard here, and not those of the base class: these are
    Python functions, and an interrupt can come before they do anything.

    A future waits here in ``result`` and ``exception``.  Cancelling the group for which the waiting
    thread works ends that wait, unless the task has failed and the future is about to say so.
    """

    __enter__ = property(attrgetter("guard.__enter__"))
    __exit__ = property(attrgetter("guard.__exit__"))
    _is_owned: Callable[[], bool]  # the guard's, as `acquire`

    def __init__(self) -> None:
        self.guard = Guard()
        self.gates: dict[LockType, None] = {}  # of those that wait in a scope
        self.failing = False  # the future is about to have its exception
        super().__init__(self.guard)  # type: ignore[arg-type]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `notify_all`; ``Cancelled`` once the scope of this thread is cancelled."""
        scope = current_scope()
        if scope is None or (timeout is not None and timeout <= 0):
            return super().wait(timeout)
        deadline = None if timeout is None else monotonic() + timeout
        gate = closed_gate()
        try:
            scope.watch(gate)
            self.gates[gate] = None
            self.__sleep(gate, deadline, scope)
        finally:
            scope.unwatch(gate)
            woken = self.gates.pop(gate, gate) is gate
        if not woken and scope.cancelled and not self.failing:
            raise Cancelled(MESSAGE)
        return woken

    def __sleep(self, gate: LockType, deadline: float | None, scope: Scope) -> None:
        """Let go of the guard until the gate opens, or the deadline passes."""
        later: BaseException | None = None
        depth = 0
        try:
            # (More than one deep in a signal handler that came while this thread held the guard.)
            while self._is_owned():
                del self.guard.held
                depth += 1
            while gate in self.gates and (self.failing or not scope.cancelled):
                if not sleep_at(gate, deadline):
                    break
        finally:
            while True:
                try:
                    while depth and not self._is_owned():
                        self.acquire()
                    break
                except BaseException as interrupt:  # while it waited for the guard, or right after
                    later = later or interrupt
            for _ in range(1, depth):
                self.acquire()
        if later is not None:
            raise later

    def notify_all(self) -> None:
        """Wake all who wait."""
        gates = self.gates
        self.gates = {}
        for gate in gates:
            try:
                gate.release()
            except RuntimeError:
                pass  # open already
        super().notify_all()


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

    def end(self) -> None:
        """Cancel the future of a task that runs: it ended by ``Cancelled``."""
        future = self.future
        try:
            with future._condition:
                if future._state == "RUNNING":
                    future._state = "PENDING"  # which `Future.cancel` does cancel
        finally:
            del future
            self.cancel()

    def forget(self) -> None:
        """Keep nothing of what the user knows: the frames in tracebacks keep the task."""
        self.outer = None
        del self.future, self.fn, self.args, self.kwargs, self.context


def _close(scope: GroupScope, generation: int, process: Process) -> None:
    """Close the scope, unless that is in the child of a fork."""
    if generation == process.generation:
        scope.close()


class Tasks:
    """The tasks of a group in one process."""

    generation = -1  # until an `__init__` has come so far that was not interrupted

    def __init__(
        self,
        limit: int | None,
        executor: Executor | None,
        timeout: float | None,
        scope: GroupScope | None = None,
    ) -> None:
        self.scope = scope = scope or GroupScope()
        self.generation = process.generation
        # A thread may still be in the scope of a group that is dropped without being left.
        self.dropped = when_dropped(partial(_close, scope, self.generation, process))
        self.guard = guard_of(self)
        self.limit = sys.maxsize if limit is None else limit
        self.executor = executor
        self.timeout = timeout
        self.state: Literal["new", "open", "leaving", "left"] = "new"
        self.cancelled = False
        self.timed_out = False  # and cancelled for that reason
        self.event = Event()  # set when cancelled
        self.nested: ref[Tasks] | None = None  # the key in the scope outside
        self.deadline: Deadline | None = None
        # What `on_cancel` was given, linked through itself, and how much of it runs now.
        self.first_callback: Callback | None = None
        self.last_callback: Callback | None = None
        self.calling = 0
        self.finishing = 0  # calls of `finish_cancelling` that are under way
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

    def is_served(self) -> bool:
        """For those that look who sleeps: whether who leaves the group is about to go on."""
        again = self.cancelled and self.first_callback is not None
        return again or self.waiting + self.running + self.calling == 0

    def holders(self) -> tuple[int, ...]:
        return ()

    def stale(self) -> bool:
        """Whether these are the tasks of a parent process."""
        return self.generation != process.generation

    def reborn(self) -> "Tasks":
        """What the group goes on with in the child of a fork."""
        fresh = Tasks(self.limit, self.executor, self.timeout, self.scope)
        fresh.state = self.state
        fresh.cancelled = self.cancelled
        fresh.timed_out = self.timed_out
        fresh.event = self.event
        fresh.errors = list(self.errors)
        outer = self.scope.outer
        if isinstance(outer, GroupScope) and fresh.state in ("open", "leaving"):
            outer.disown(self)
            outer.adopt(fresh)
        if fresh.cancelled:  # perhaps the fork came before all was told
            fresh.event.set()
            fresh.scope.cancel()
        else:
            fresh.first_callback = self.first_callback
            fresh.last_callback = self.last_callback
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
            # Begin it, unless another thread has: take it out of the list, and a slot for it.
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
            # The function raised, or a callback of its future, or this thread was interrupted.
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
            # It is done: give its slot back, and wake the thread that waits for the last task.
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
                    future.set_result(self.__call(task))
                else:
                    self.__fail(task, error)
        finally:
            del future  # this frame is in the traceback that the future holds

    def __call(self, task: Task) -> Any:
        """Call the function, in the scope of the group."""
        outer = current_scope()
        try:
            enter_scope(self.scope)
            return task.context.run(task.fn, *task.args, **task.kwargs)
        finally:
            enter_scope(outer)

    def __fail(self, task: Task, error: BaseException) -> None:
        """The task raised this.  A cancelled wait or future of a cancelled group is no failure."""
        if isinstance(error, Cancelled):
            task.end()
            return
        failed = not (isinstance(error, CancelledError) and self.cancelled)
        reached: list[Tasks] = []
        try:
            if failed:
                self.errors.append(error)
                condition: _Condition = task.future._condition  # type: ignore[assignment]
                condition.failing = True
                reached = self.spread()
        finally:
            try:
                if task.future.cancelled():
                    task.cancel()
                elif not task.future.done():
                    task.future.set_exception(error)
            finally:
                settle(reached)

    def cancel(self) -> None:
        """Cancel the group and those nested in it; once more, if that was interrupted."""
        settle(self.spread())

    def time_out(self) -> None:
        """Cancel because the time-out has passed; in a thread that nothing must escape from."""
        try:
            self.__mark(timed_out=True)
            self.cancel()
        except BaseException as error:
            self.errors.append(error)

    def spread(self) -> "list[Tasks]":
        """Mark this group and those nested in it, and wake what sleeps there.  Return them all."""
        reached = [self]
        for each in reached:
            each.__mark()
            # After the event: `wait_cancelled` in this very scope returns true.
            each.scope.cancel()
            reached += each.scope.nested()
        return reached

    def __mark(self, *, timed_out: bool = False) -> None:
        """Let the group be cancelled."""
        try:
            self.guard.held = True
            try:
                if not self.cancelled:
                    self.cancelled = True
                    self.timed_out = timed_out
            finally:
                del self.guard.held
        finally:
            self.event.set()

    def finish_cancelling(self, *, leaving: bool = False) -> None:
        """Cancel the tasks that wait, and call what ``on_cancel`` was given.

        If another call is at it, do nothing: it may be below us, and have called a callback that
        cancels the group.  But the thread that leaves makes sure that it is done.
        """
        mine = False
        try:
            self.guard.held = True
            try:
                if leaving or self.finishing == 0:
                    self.finishing += 1
                    mine = True
            finally:
                del self.guard.held
            if mine:
                self.drop_waiting()
                self.call_back()
        finally:
            if mine:
                self.guard.held = True
                try:
                    self.finishing -= 1
                finally:
                    del self.guard.held

    def drop_waiting(self) -> None:
        """Cancel the tasks that wait."""
        while True:
            task = self.first
            if task is None or self.stale():
                return
            self.serve(task, drop=True)

    def on_cancel(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Have it called when the group is cancelled; at once, if it is."""
        callback = Callback(fn, args)
        state = "left"
        cancelled = False
        self.guard.held = True
        try:
            state = self.state
            cancelled = self.cancelled
            if not cancelled and state != "left":
                last = self.last_callback
                self.last_callback = callback
                if last is None:
                    self.first_callback = callback
                else:
                    last.next = callback
        finally:
            del self.guard.held
        if cancelled:
            callback.call()
        elif state == "left":
            raise RuntimeError("the TaskGroup has been left")

    def call_back(self) -> None:
        """Call what ``on_cancel`` was given.  What it raises is a failure."""
        while self.first_callback is not None:
            callback = None
            wake = False
            try:
                self.guard.held = True
                try:
                    callback = self.first_callback
                    if callback is not None:
                        self.first_callback = callback.next
                        if callback.next is None:
                            self.last_callback = None
                        self.calling += 1
                finally:
                    del self.guard.held
                if callback is not None:
                    callback.call()
            except Exception as error:
                self.errors.append(error)
            except Cancelled:
                pass
            finally:
                if callback is not None:
                    try:
                        self.guard.held = True
                        try:
                            self.calling -= 1
                            wake = self.state == "leaving"
                        finally:
                            del self.guard.held
                    finally:
                        if wake:
                            try:
                                self.gate.release()
                            except RuntimeError:
                                pass

    def join(self) -> bool:
        """Wait until all is done, and that is it: nothing is taken any more.  False if stale."""
        while True:
            if self.generation != process.generation:
                return False
            if self.cancelled:
                self.finish_cancelling(leaving=True)
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
            left = again = False
            dropped = None
            self.guard.held = True
            try:
                again = self.cancelled and self.first_callback is not None
                if self.waiting + self.running + self.calling == 0 and not again:
                    self.state = "left"
                    left = True
                    dropped = self.first_callback
                    self.first_callback = self.last_callback = None
            finally:
                del self.guard.held
            if left:
                break
            if not again:
                sleep_at(self.gate, None, about=self)
        del dropped
        self.__withdraw()
        ended = self.workers.shutdown(self)
        if self.deadline is not None:
            self.deadline.join()
        if ended:
            self.scope.close()
        return ended

    def abandon(self) -> None:
        """Leave without waiting: nothing is taken or begun any more."""
        reached: list[Tasks] = []
        try:
            self.guard.held = True
            try:
                self.state = "left"
                self.cancelled = True
            finally:
                del self.guard.held
        finally:
            try:
                self.event.set()
                reached = self.spread()
            finally:
                self.__withdraw()
                settle(reached)

    def __withdraw(self) -> None:
        """Let the group be in no other one any more, and its time-out not be watched."""
        if self.deadline is not None:
            self.deadline.stop()
        if isinstance(self.scope.outer, GroupScope):
            self.scope.outer.disown(self)

    def enter(self) -> bool:
        """Open the group, in the scope of the calling thread; false if it was used before."""
        entered = False
        try:
            self.guard.held = True
            try:
                if self.state == "new":
                    self.state = "open"
                    entered = True
            finally:
                del self.guard.held
            if entered:
                self.scope.enter()
                if isinstance(self.scope.outer, GroupScope):
                    self.scope.outer.adopt(self)
                    if self.scope.outer.cancelled:
                        self.cancel()
                if self.timeout is not None:
                    if self.timeout > 0:
                        self.deadline = Deadline(self, self.timeout)
                        self.deadline.thread.start()
                    else:
                        self.time_out()
        except BaseException:
            if entered:
                self.scope.leave()
                self.abandon()
            raise
        return entered


def settle(reached: list[Tasks]) -> None:
    """Do what is left to do for groups that were just cancelled: call code of users."""
    first: BaseException | None = None
    try:
        for each in reached:
            try:
                each.finish_cancelling()
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first
    finally:
        first = None  # this frame is in its traceback


hide_sections(globals())
