"""Who sleeps in an object of ours, on both backends: what `diagnostics` and `deadlock` look at.

A *sleeper* is a thread that sleeps in one of our calls.  Those that sleep in C are recorded by
the extension (``sleeping.c``).  Those that sleep at a gate are in `sleep.sleeping`: all of the
threading backend, and with the native one those that wait for a function that another thread runs
(`once`, flights), or for a task.  Their frames tell which call of which object it is: a walk
outward through the frames of this package ends at the public method (`frames`).
"""

import sys
import threading
from collections.abc import Collection, Iterable
from time import monotonic
from traceback import FrameSummary, StackSummary
from typing import Any, NamedTuple

from .. import _backend
from .frames import HAS_GIL, Line, lines_from, look_at, public_class
from .loops import task_waits
from .recording import recording, threads
from .sleep import Nap, naps

_HERE = __file__.rpartition("_common")[0]

# The calls whose waits no cancellation ends.
_LOCKS = ("Mutex.", "RLock.", "RWMutex")


class Sleeper(NamedTuple):
    """A thread that sleeps in one of our calls, as of one look."""

    thread: int
    obj: object  # None: several, or one that is not known
    operation: str
    seconds: float
    timeless: bool  # it has no deadline
    cancellable: bool  # it ends if the task group that it is in is cancelled
    sleep: object  # two looks that give equal ones saw the same sleep
    holder: int  # the thread that holds the object, or 0
    foreign: bool  # the holder need not be the thread that releases it
    served: bool  # it is about to go on
    lines: tuple[Line, ...]  # its stack, the innermost frame first
    task: Any = None  # the task of asyncio that waits, and no thread does

    @property
    def needs(self) -> int:
        """The thread without which it cannot go on, or 0 if none is known."""
        ends = self.cancellable or not self.timeless or self.served
        return 0 if ends or self.foreign else self.holder


def sleepers(stacks: bool = True) -> dict[int, Sleeper]:
    """All threads that sleep in our calls now."""
    found: dict[int, Sleeper] = {}
    for nap in naps():
        seen = of_nap(nap, stacks)
        if seen is not None:
            found[seen.thread] = seen
    for record in _backend.native_sleepers(stacks):
        seen = of_record(record)
        found[seen.thread] = seen
    return found


def waiting_tasks() -> list[Sleeper]:
    """All tasks of asyncio that wait for an object of ours now."""
    found = []
    for each in [reference() for reference in list(task_waits)]:
        task = None if each is None else each.task
        if each is None or task is None:
            continue
        cls = public_class(each.obj)
        operation = f"{cls}.{each.operation}_async" if cls else f"{each.operation}_async"
        lines = tuple(_lines_of_task(task))
        seconds = monotonic() - each.since
        found.append(
            Sleeper(
                *(0, each.obj, operation, seconds, False, True, each, 0, False, False, lines),
                task,
            )
        )
    return found


def _lines_of_task(task: Any) -> list[Line]:
    """The frames of the coroutines that await each other, the innermost first."""
    lines = []
    coroutine = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        lines.append((frame.f_code, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None)
    return lines[::-1]


def of_record(record: tuple[Any, ...]) -> Sleeper:
    """A sleeper that the extension describes."""
    thread, obj, operation, seconds, *flags, count, holder, foreign, served, lines = record
    timeless, cancellable = flags
    return Sleeper(
        thread,
        obj,
        operation,
        seconds,
        timeless,
        cancellable,
        ("native", thread, count),
        holder,
        foreign,
        served,
        tuple(lines),
    )


def of_nap(nap: Nap, stacks: bool) -> Sleeper | None:
    """A sleeper at a gate; None if it went on meanwhile."""
    seen, about, deadline, scope = nap.seen, nap.about, nap.deadline, nap.scope
    if seen is None:
        return None
    obj, operation, lines = seen if isinstance(seen, tuple) else look_at(seen, stacks)
    cancellable = scope is not None and not operation.startswith(_LOCKS)
    holders = () if about is None else about.holders()
    # A cancelled wait ends as soon as its thread runs, which may be long after.
    cancelled = cancellable and scope is not None and scope.cancelled
    served = about is None or about.is_served() or cancelled
    if nap.seen is not seen:
        return None
    return Sleeper(
        nap.thread,
        obj,
        operation,
        monotonic() - nap.since,
        deadline is None,
        cancellable,
        nap,
        holders[0] if holders else 0,
        False,
        served,
        lines,
    )


def summary(lines: Iterable[Line]) -> StackSummary:
    """A stack, the outermost frame first, without the frames of this package at its end."""
    frames = [
        FrameSummary(code.co_filename, line or 0, code.co_name, lookup_line=False)
        for code, line in lines
    ]
    while len(frames) > 1 and frames[0].filename.startswith(_HERE):
        del frames[0]
    frames.reverse()
    return StackSummary.from_list(frames)


def thread_of(ident: int) -> threading.Thread | None:
    """The thread of this number, if it lives and `threading` knows it."""
    thread = threads.get(ident)
    if thread is not None or threads:
        return thread
    return next((each for each in threading.enumerate() if each.ident == ident), None)


def stacks_of(idents: Collection[int]) -> dict[int, tuple[Line, ...]]:
    """The stacks of these threads, which may run, as far as they can be read (see `frames`)."""
    if not idents or not (HAS_GIL or recording.stacks):
        return {}
    frames = {ident: each for ident, each in sys._current_frames().items() if ident in idents}
    if recording.stacks is None:
        return {ident: tuple(lines_from(frame)) for ident, frame in frames.items()}
    return {
        ident: tuple(zip(flat[::2], flat[1::2], strict=True))
        for ident, flat in recording.stacks(frames).items()
    }
