"""Who runs the tasks of a `TaskGroup`: threads of the group, or somebody's executor.

`tasks` has what is to run: a list of waiting tasks, and `Tasks.attend`, which runs one of them
unless another thread has begun it.  Here are the callers of that.  Both kinds of workers are used
as executors are: `submit` makes sure that a thread comes for the tasks that wait, as far as the
limit allows, and `shutdown` waits for the threads of the group.

- `Workers`: threads of the group.  `submit` *summons* one for each waiting task, an idle thread or
  a new one.  A worker that finished a task takes the next before it looks whether it was summoned.
- `ExecutorWorkers`: each task is given a *slot*, of which there are `limit`, and handed to the
  executor; it keeps the slot until it is done.

All state here changes in sections under the guard of the tasks (see `guard`), and so do the counts
of `Tasks` that decide whether somebody has to come.  Workers do not refer to the tasks, which refer
to them: a group must not be part of a cycle.
"""

from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final

from .forked import in_child
from .guard import Guard
from .originals import local
from .sleep import closed_gate, sleep_at
from .spawn import Thread
from .untraced import hide_sections

if TYPE_CHECKING:
    from .tasks import Task, Tasks

# Seconds after which a worker without work ends.  It holds up the end of a program whose group
# is never left, so it is short.
_IDLE = 0.5

# In the main thread a join of a thread must notice `_thread.interrupt_main()`.
_NAP = 0.04


class Process:
    """This process; sections read it."""

    __slots__ = ("generation",)

    def __init__(self) -> None:
        self.generation = 0  # how many forks made it


process: Final = Process()


class _Here(local):
    """What the calling thread is doing."""

    task: "Task | None" = None  # the innermost task that it runs
    placing: "Tasks | None" = None  # the innermost of those of which it hands a task to an executor


here: Final = _Here()


class Worker:
    """A thread of the group, and its place among the idle ones."""

    __slots__ = (
        "above",
        "begun",
        "below",
        "gate",
        "idle",
        "summoned",
        "thread",
        "tired",
        "void",
    )

    def __init__(self) -> None:
        self.gate = closed_gate()
        self.thread: Thread | None = None
        self.above: Worker | None = None
        self.below: Worker | None = None
        self.begun = False  # the thread runs
        self.void = False  # the thread could not be started, or too late: it counts for nothing
        self.summoned = False  # for a task that waits: has not looked since
        self.idle = False  # among the idle ones
        self.tired = False  # was idle for long


class Workers:
    """Threads of the group."""

    __slots__ = ("count", "ended", "guard", "idle", "limit", "summoned")

    def __init__(self, guard: Guard, limit: int) -> None:
        self.guard = guard
        self.limit = limit
        self.count = 0  # of workers that live or are being started
        self.summoned = 0  # how many of them are
        self.idle: Worker | None = None  # the stack of idle ones
        self.ended: Worker | None = None  # the last that ended: it joined the one before it

    def submit(self, tasks: "Tasks", _mine: "Task | None" = None) -> None:
        """Summon workers, one for each task that waits."""
        while tasks.waiting > self.summoned:
            fresh = Worker()
            wake = below = None
            started = wake_joiner = False
            try:
                self.guard.held = True
                try:
                    if tasks.waiting > self.summoned and tasks.generation == process.generation:
                        wake = self.idle
                        if wake is not None:
                            self.idle = below = wake.below
                            if below is not None:
                                below.above = None
                            wake.below = None
                            wake.idle = False
                            wake.summoned = True
                            self.summoned += 1
                        elif self.count < self.limit:
                            started = fresh.summoned = True
                            self.count += 1
                            self.summoned += 1
                finally:
                    del self.guard.held
                if started:
                    fresh.thread = Thread(
                        target=self.work, args=(tasks, fresh), name="TaskGroup worker"
                    )
                    fresh.thread.start()
            except BaseException:
                self.guard.held = True
                try:
                    if started and not fresh.begun:
                        fresh.void = True
                        self.count -= 1
                        if fresh.summoned:
                            fresh.summoned = False
                            self.summoned -= 1
                        wake_joiner = True
                finally:
                    del self.guard.held
                raise
            finally:
                if wake is not None:
                    try:
                        wake.gate.release()
                    except RuntimeError:
                        pass
                if wake_joiner:
                    try:
                        tasks.gate.release()
                    except RuntimeError:
                        pass
            if wake is None and not started:
                return  # all are at work

    def work(self, tasks: "Tasks", worker: Worker) -> None:
        """What a thread of the group does."""
        while True:
            task = self.__look(tasks, worker)
            if task is None:
                return
            tasks.attend(task, worker)

    def __look(self, tasks: "Tasks", worker: Worker) -> "Task | None":
        """Wait for a task that could be run; None when it is time to end."""
        while True:
            # (Nothing may go away by being replaced in a section: it could be the last reference.)
            previous = above = below = task = None
            over = wake = False
            self.guard.held = True
            try:
                task = tasks.first
                if worker.void or tasks.generation != process.generation:
                    over = True
                else:
                    worker.begun = True
                    if worker.tired and task is not None:
                        worker.tired = False
                    if task is None or tasks.slots >= self.limit:
                        task = None
                        if worker.summoned:
                            worker.summoned = False
                            self.summoned -= 1
                        if worker.tired or tasks.state == "left":
                            over = True
                            previous = self.ended
                            self.ended = worker
                            self.count -= 1
                            wake = self.count == 0 and tasks.state == "left"
                        else:
                            worker.idle = True
                            worker.below = below = self.idle
                            self.idle = worker
                            if below is not None:
                                below.above = worker
            finally:
                del self.guard.held
            if over:
                if wake:
                    try:
                        tasks.gate.release()
                    except RuntimeError:
                        pass
                if previous is not None and previous.thread is not None:
                    previous.thread.join()
                return None
            if task is not None:
                return task
            below = None
            woken = worker.gate.acquire(True, _IDLE)
            self.guard.held = True
            try:
                if worker.idle:
                    worker.idle = False
                    worker.tired = not woken
                    above = worker.above
                    below = worker.below
                    worker.above = worker.below = None
                    if above is None:
                        self.idle = below
                    else:
                        above.below = below
                    if below is not None:
                        below.above = above
            finally:
                del self.guard.held

    def shutdown(self, tasks: "Tasks") -> bool:
        """Wait until all threads have ended, once the group is left.  False if stale."""
        while True:
            wake = None
            try:
                self.guard.held = True
                try:
                    wake = self.idle
                    if wake is not None:
                        self.idle = below = wake.below
                        if below is not None:
                            below.above = None
                        wake.below = None
                        wake.idle = False
                finally:
                    del self.guard.held
            finally:
                if wake is not None:
                    try:
                        wake.gate.release()
                    except RuntimeError:
                        pass
            if wake is None:
                break
        while self.count:
            sleep_at(tasks.gate, None)
            if tasks.generation != process.generation:
                return False
        thread = None if self.ended is None else self.ended.thread
        while thread is not None and thread.is_alive():
            thread.join(_NAP)
            if tasks.generation != process.generation:
                return False
        return True


class ExecutorWorkers(Workers):
    """Those of an executor.  The group has no threads of its own, so `count` stays zero."""

    __slots__ = ("executor",)

    def __init__(self, guard: Guard, limit: int, executor: Executor) -> None:
        super().__init__(guard, limit)
        self.executor = executor

    def submit(self, tasks: "Tasks", mine: "Task | None" = None) -> None:
        """Give out slots, and hand those tasks to the executor.

        An error is raised if it is about the caller's own task, else that task fails.
        """
        while True:
            task = None
            outer = here.placing
            try:
                self.guard.held = True
                try:
                    task = tasks.unplaced
                    if (
                        tasks.slots >= self.limit
                        or tasks.cancelled
                        or tasks.generation != process.generation
                    ):
                        task = None
                    if task is not None:
                        tasks.unplaced = task.next
                        task.slot = True
                        tasks.slots += 1
                finally:
                    del self.guard.held
                if task is not None:
                    here.placing = tasks
                    self.executor.submit(task.begin).add_done_callback(task.settled)
            except BaseException as error:
                if task is None or task is mine:
                    raise
                tasks.attend(task, error=error)
                if not isinstance(error, Exception):
                    raise
            finally:
                here.placing = outer
            if task is None:
                return


def _forked() -> None:
    process.generation += 1


in_child(_forked)

hide_sections(globals())
