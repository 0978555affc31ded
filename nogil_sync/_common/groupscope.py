"""How far the cancellation of a `TaskGroup` reaches: into waits, nested groups, and its time-out.

Each group has a *scope* (`cancelled`): its tasks run in it, and so does its block. A group that is
entered in the scope of another is *nested* in that one and cancelled with it. A scope refers to the
scope outside, and only weakly to the tasks of the groups inside: so a group is in no cycle, and one
that is dropped without being left is forgotten.
"""

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

from .._backend import Scope, current_scope, enter_scope
from .originals import main_thread
from .sleep import closed_gate
from .spawn import Thread

if TYPE_CHECKING:
    from .tasks import Tasks

# Seconds after which the thread that watches the time-out looks whether it is still needed. It
# would hold up the end of a program that does not leave its group.
_LOOK = 0.5

# In the main thread a join of a thread must notice `_thread.interrupt_main()`.
_NAP = 0.04


class GroupScope(Scope):
    """The scope of one group, and its place among the others."""

    __slots__ = ("inner", "outer", "over")

    def __init__(self) -> None:
        super().__init__()
        self.outer: Scope | None = None  # that of the thread which entered the group
        self.inner: dict[ref[Tasks], None] = {}  # the tasks of groups that are nested in this one
        self.over = False  # the group was left

    def enter(self) -> None:
        """Let the calling thread wait in this scope. If that is interrupted, it does not."""
        self.outer = _living(current_scope())
        try:
            enter_scope(self)
        except BaseException:
            enter_scope(self.outer)
            raise

    def leave(self) -> None:
        """Let the calling thread wait where it waited before, if it is in this scope at all."""
        if current_scope() is self:
            enter_scope(_living(self.outer))

    def within_cancelled(self) -> bool:
        """Whether the group is nested in another one that is cancelled."""
        outer = _living(self.outer)
        return outer is not None and outer.cancelled

    def close(self) -> None:
        """Let it count as no scope: the group was left."""
        self.over = True
        super().close()

    def adopt(self, tasks: "Tasks") -> None:
        """Note that the group of these tasks is nested in this one."""
        inner = self.inner
        key = ref(tasks, inner.pop)  # in C, so that no interrupt is lost in it
        inner[key] = None
        tasks.nested = key

    def disown(self, tasks: "Tasks") -> None:
        """The group of these tasks was left."""
        if tasks.nested is not None:
            self.inner.pop(tasks.nested, None)
            tasks.nested = None

    def nested(self) -> "list[Tasks]":
        """The tasks of the groups that are to be cancelled with this one."""
        found = [] if self.over else [each() for each in list(self.inner)]
        return [tasks for tasks in found if tasks is not None]


def _living(scope: Scope | None) -> Scope | None:
    """This scope, or the nearest one outside whose group was not left."""
    while isinstance(scope, GroupScope) and scope.over:
        scope = scope.outer
    return scope


class Callback:
    """One call of ``on_cancel``."""

    __slots__ = ("args", "fn", "next")

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.fn = fn
        self.args = args
        self.next: Callback | None = None  # the one that was registered after this

    def call(self) -> None:
        """Call the function. Its waits are those of no group, whichever thread calls it."""
        outer = current_scope()
        try:
            enter_scope(None)
            self.fn(*self.args)
        finally:
            enter_scope(outer)


class Deadline:
    """The thread that cancels a group when its time-out has passed."""

    __slots__ = ("at", "gate", "met", "tasks", "thread")

    def __init__(self, tasks: "Tasks", seconds: float) -> None:
        self.at = monotonic() + seconds
        self.tasks = ref(tasks)
        self.met = False  # the group was left
        self.gate = closed_gate()
        self.thread = Thread(target=self.watch, name="TaskGroup timeout")

    def watch(self) -> None:
        """What the thread does."""
        while not self.met:
            tasks = self.tasks()
            if tasks is None or tasks.stale():
                return
            remaining = self.at - monotonic()
            if remaining <= 0:
                tasks.time_out()
                return
            if not (main_thread().is_alive() or tasks.waiting or tasks.running):
                return  # the program is at its end, and nobody will leave the group
            tasks = None
            self.gate.acquire(True, min(remaining, _LOOK))

    def stop(self) -> None:
        """Let the thread end."""
        self.met = True
        try:
            self.gate.release()
        except RuntimeError:
            pass  # open already

    def join(self) -> None:
        """Wait until the thread has ended."""
        tasks = self.tasks()
        while self.thread.is_alive() and not (tasks is None or tasks.stale()):
            self.thread.join(_NAP)
