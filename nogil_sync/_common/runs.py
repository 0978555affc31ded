"""Running a function once at a time for a key, for both backends: which thread runs it, which wait.

The cells of `once` and the flights of ``SyncMap.load_or_compute`` (`mapping`) both run by
:func:`exclusively`. So a circle of waits is found even if it goes through both.

A *run* is one call of :func:`exclusively`. It claims its key by ``setdefault`` in the table of runs
that are under way, which is one atomic step. A thread that finds another run there waits until it
is over, and looks again. So nothing is locked while user code runs, and a key takes no space here
unless a run is under way.

An interrupt leaves no trace. Signal handlers, and with them ``KeyboardInterrupt``, run only after a
call, on a backward jump and on entry to a Python function. So a run ends with straight-line code in
a ``finally``, whose only call comes last: the one in C that wakes a waiter. (For that reason
waiters sleep at a lock of the interpreter and not at an `Event`, whose ``set`` is a Python function
in one of the backends.) Such a *gate* is closed when it is made, and opened once; each thread that
passes it opens it for the next.

A wait in a scope (see `cancelled`) can end for two reasons, of which one concerns this thread
alone. So it has a gate of its own, which the scope opens when it is cancelled, and the run at its
end. Opening several gates takes several calls, and an interrupt may come after each: then the
thread goes through them once more.

A wait that could never end raises ``RuntimeError``: the thread would wait, directly or through
others, for a run of its own. Each thread first notes what it waits for, and then follows the notes
of the others. All notes are in one dict, which has a lock of its own. So if two threads close a
circle at the same time, at least the second sees the note of the first.

A task that runs a function (`exclusively_async`) has no thread of its own: its run belongs to the
task, and is under way in the thread of the task's loop. A task that waits for a run has a gate of
its own, which the end of the run opens, too (`loops.Call`). A wait of a thread blocks
the tasks of the loop that runs in it. So a run of a task waits for what the task waits for, and for
what its thread waits for.

In the child of a fork only the runs of the forking thread go on. The child gets new tables, since a
thread that is gone may hold the lock of an old one, and keeps the old ones without touching them. A
run in an old table counts as over.

A run of the extension (``flight.h``) is in no table: the thread that makes it runs it. Others find
it as a flight of a map, wait for it and look for circles through it as for any other run.
"""

from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar
from weakref import ref

from .cancelled import MESSAGE, Cancelled, scopes
from .forked import in_child, left_at_fork
from .loops import Call, TaskWait
from .originals import LockType, get_ident, local
from .sleep import closed_gate, sleep_at

if TYPE_CHECKING:
    from .._backend import Scope

T = TypeVar("T")
P = ParamSpec("P")

AT_ONCE: Final = -inf  # the deadline of a call that looks and does not wait
TIMED_OUT: Final = "timed out waiting for another thread's call"


class _Run:
    """One call of `exclusively`: it runs a function, or waits for another run."""

    __slots__ = ("gate", "gates", "key", "outer", "over", "owner", "table", "thread", "waiting")

    def __init__(self, key: object, outer: "_Run | None", owner: object = None) -> None:
        self.key = key
        self.outer = outer  # the run of the same thread from which this one was called
        self.table = _running
        self.thread = get_ident()
        self.owner: object = self.thread if owner is None else owner
        self.waiting = False
        self.over = False  # becomes true before the gate is opened
        self.gate = closed_gate()
        # What the end opens besides: the own gates of threads that wait in a scope, and the calls
        # of tasks. One that waits adds its gate, and then looks at `over`; the end makes `over`
        # true, and then opens the gates. So one of the two sees the other.
        self.gates: dict[LockType | Call, None] = {}

    def is_over(self) -> bool:
        """Whether it has ended, or belongs to a thread that did not survive a fork."""
        return self.over or self.table is not _running

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self.over

    def holders(self) -> tuple[int, ...]:
        return (self.thread,)


class _Local(local):
    run: _Run | None = None  # the innermost run of this thread


_local = _Local()
_running: dict[object, _Run] = {}
_waits: dict[object, _Run] = {}  # which run each waiting thread or task waits for


def is_running(key: object) -> bool:
    """Whether a call of `exclusively` with this key is under way."""
    return key in _running


def exclusively(
    key: object,
    deadline: float | None,
    look: Callable[P, T | None],
    work: Callable[P, T],
    /,
    *args: P.args,
    **kw: P.kwargs,
) -> T:
    """Return what `look(...)` finds as soon as that is not None, else what `work(...)` returns.

    Of all calls with this key one at a time calls `work`, while the others wait. At the deadline
    a waiting call raises TimeoutError; if that is AT_ONCE, it does not wait.
    """
    run = _Run(key, _local.run)
    _local.run = run
    try:
        while True:
            other = run.table.setdefault(key, run)
            if other is run:
                found = look(*args, **kw)
                return work(*args, **kw) if found is None else found
            _wait(run, other, deadline)
            found = look(*args, **kw)
            if found is not None:
                return found
    finally:
        _local.run = run.outer
        try:
            if run.table[key] is run:
                del run.table[key]
        except KeyError:
            pass
        run.over = True
        try:
            run.gate.release()
        except RuntimeError:
            pass  # open already: a waiter has seen that the run is over
        finally:
            if run.gates:
                try:
                    open_gates(run.gates)
                finally:
                    if run.gates:  # an interrupt came before it began
                        open_gates(run.gates)


def await_run(box: list[Any], deadline: float | None) -> None:
    """Sleep until a run of the extension is over; raise as `exclusively` does."""
    _wait(_Run(None, None), box[0], deadline)


def _this_task() -> object:
    """What stands for the calling task as the owner of a run, or for a caller that is no task.

    It does not keep the task alive. A task whose loop was closed never gets to its end: it ends
    its run as it is freed.
    """
    import asyncio

    task = asyncio.current_task()
    if task is None:
        return object()
    owner = ref(task)
    hash(owner)  # the reference keeps it: without that, it has none once the task is gone
    return owner


async def await_run_async(
    box: list[Any], deadline: float | None, about: tuple[object, str]
) -> None:
    """The same for a task."""
    run = _Run(None, None, _this_task())
    await _wait_async(run, box[0], deadline, about)


def _wait(run: _Run, other: _Run, deadline: float | None) -> None:
    """Sleep until the other run is over; raise if it would wait for us, or at the deadline."""
    scope = scopes.current()
    if scope is None:
        _sleep(run, other, deadline, other.gate, None)
        return
    gate = closed_gate()
    try:
        other.gates[gate] = None
        scope.watch(gate)
        _sleep(run, other, deadline, gate, scope)
    finally:
        other.gates.pop(gate, None)
        scope.unwatch(gate)


def _sleep(
    run: _Run, other: _Run, deadline: float | None, gate: LockType, scope: "Scope | None"
) -> None:
    """Sleep at this gate, and raise if the scope is cancelled meanwhile, too."""
    me = run.thread
    below = _waits.get(me)  # a wait of this thread that a signal handler interrupted
    run.waiting = True
    try:
        _waits[me] = other
        # Not `while condition`: its jump back lies outside the try from 3.12 on.
        while True:
            if other.is_over():
                break
            if _waits_for(other, me):
                raise RuntimeError("recursive call: it would wait for itself")
            if deadline == AT_ONCE:
                raise TimeoutError(TIMED_OUT)
            if scope is not None and scope.cancelled:
                raise Cancelled(MESSAGE)
            if not sleep_at(gate, deadline, about=other):
                raise TimeoutError(TIMED_OUT)
    finally:
        run.waiting = False
        try:
            if below is None:
                del _waits[me]
            else:
                _waits[me] = below
        except KeyError:
            pass  # forked meanwhile
        if other.over:
            try:
                other.gate.release()
            except RuntimeError:
                pass  # open already


def open_gates(gates: "dict[LockType | Call, None]") -> None:
    """Open the gates of a run that is over, and then raise what interrupted."""
    later: BaseException | None = None
    while gates:
        try:
            for gate in list(gates):
                try:
                    gate.release()
                except RuntimeError:
                    pass  # open already: its scope was cancelled
                gates.pop(gate, None)
        except BaseException as interrupt:
            later = later or interrupt
    if later is not None:
        raise later


def _waits_for(run: _Run, me: int, task: object = None) -> bool:
    """Whether the run waits for the thread `me`, or for its task if one is given, or is theirs.

    A wait of a task does not hold up other tasks of its loop; that of a thread does.
    """
    # Each way is a list of runs, each with the thread or task through which the one before it
    # waits for it.
    ways: list[list[tuple[object, _Run]]] = [[(None, run)]]
    seen = {run}
    while ways:
        way = ways.pop()
        last = way[-1][1]
        if last.owner in (me, task) or (task is None and last.thread == me):
            # The links were read one after the other. If all still exist now, all existed at the
            # same time.
            if not any(each.over for _, each in way) and all(
                _waits.get(who) is each for who, each in way[1:]
            ):
                return True
            continue
        for who in {last.owner, last.thread}:
            after = _waits.get(who)
            if after is not None and after not in seen:
                seen.add(after)
                ways.append([*way, (who, after)])
    return False


async def exclusively_async(
    key: object,
    deadline: float | None,
    about: tuple[object, str],
    look: Callable[P, T | None],
    work: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kw: P.kwargs,
) -> T:
    """`exclusively` for a task: it awaits `work(...)`, and lets its loop run while it waits.

    `about` is the object and the operation that waits, which diagnostics show.
    """
    run = _Run(key, None, _this_task())
    try:
        while True:
            other = run.table.setdefault(key, run)
            if other is run:
                found = look(*args, **kw)
                return await work(*args, **kw) if found is None else found
            await _wait_async(run, other, deadline, about)
            found = look(*args, **kw)
            if found is not None:
                return found
    finally:  # as in `exclusively`: written out, for the entry to a function can be interrupted
        try:
            if run.table[key] is run:
                del run.table[key]
        except KeyError:
            pass
        run.over = True
        try:
            run.gate.release()
        except RuntimeError:
            pass  # open already: a waiter has seen that the run is over
        finally:
            if run.gates:
                try:
                    open_gates(run.gates)
                finally:
                    if run.gates:  # an interrupt came before it began
                        open_gates(run.gates)


async def _wait_async(
    run: _Run, other: _Run, deadline: float | None, about: tuple[object, str]
) -> None:
    """Let the loop run until the other run is over; raise as `_wait` does."""
    seconds = None
    if deadline is not None:
        seconds = deadline - monotonic()
        if seconds <= 0 and not other.over:
            raise TimeoutError(TIMED_OUT)
    call = Call()
    waits = _waits
    waits[run.owner] = other
    try:
        other.gates[call] = None
        if other.is_over():
            return
        if _waits_for(other, run.thread, run.owner):
            raise RuntimeError("recursive call: it would wait for itself")
        with TaskWait(*about):
            await call.sleep(seconds)
        if not other.over and deadline is not None and monotonic() >= deadline:
            raise TimeoutError(TIMED_OUT)
    finally:
        waits.pop(run.owner, None)
        other.gates.pop(call, None)


def _forget_other_threads() -> None:
    """In the child of a fork: only the runs of this thread go on."""
    global _running, _waits
    left_at_fork.append((_running, _waits))
    _running, _waits = {}, {}
    mine = []
    run = _local.run
    while run is not None:
        mine.append(run)
        run = run.outer
    for run in reversed(mine):
        run.table = _running
        if not run.waiting:
            _running.setdefault(run.key, run)


in_child(_forget_other_threads)
