"""Who sleeps in an object of ours, on both backends: what `diagnostics` and `deadlock` look at.

A *sleeper* is a thread that sleeps in one of our calls.  Those that sleep in C are recorded by
the extension (``sleeping.c``).  Those that sleep at a gate are in `sleep.sleeping`: all of the
threading backend, and with the native one those that wait for a function that another thread runs
(`once`, flights), or for a task.  Their frames tell which call of which object it is: a walk
outward through the frames of this package ends at the public method.
"""

import threading
from collections.abc import Iterable, Iterator
from time import monotonic
from traceback import FrameSummary, StackSummary
from types import CodeType, FrameType
from typing import Any, NamedTuple

from .. import _backend
from .loops import task_waits
from .sleep import Nap, sleeping

_PACKAGE = __name__.partition(".")[0]
_HERE = __file__.rpartition("_common")[0]

# The calls whose waits no cancellation ends.
_LOCKS = ("Mutex.", "RLock.", "RWMutex")
# The name of the call that waits, where a class has one: also if it was made through another.
_CALLS = {
    "Barrier": "wait",
    "Cond": "wait",
    "Event": "wait",
    "Mutex": "acquire",
    "RLock": "acquire",
    "RWMutexReader": "acquire",
    "RWMutexWriter": "acquire",
    "Semaphore": "acquire",
    "SyncMap": "load_or_compute",
    "TaskGroup": "__exit__",
    "WaitGroup": "wait",
}

Line = tuple[CodeType, int | None]


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
    for nap in list(sleeping.values()):
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
        cls = _public_class(each.obj)
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


def _is_public(obj: object) -> bool:
    """Whether the object is of a public class of ours, or of one derived from it."""
    return any(cls.__module__ == _PACKAGE for cls in type(obj).__mro__)


def _public_class(obj: object) -> str:
    """The name of the object's class, or of the public class that it is derived from."""
    for cls in type(obj).__mro__:
        if cls.__module__ == _PACKAGE:
            return cls.__name__
    return "" if obj is None else type(obj).__name__


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
    frame, about, deadline = nap.frame, nap.about, nap.deadline
    if frame is None:
        return None
    obj, operation = subject(frame)
    holders = () if about is None else about.holders()
    lines = tuple(lines_from(frame)) if stacks else ()
    served = about is None or about.is_served()
    if nap.frame is None:
        return None
    return Sleeper(
        nap.thread,
        obj,
        operation,
        monotonic() - nap.since,
        deadline is None,
        nap.in_scope and not operation.startswith(_LOCKS),
        nap,
        holders[0] if holders else 0,
        False,
        served,
        lines,
    )


def lines_from(frame: FrameType | None) -> Iterator[Line]:
    """The stack of this frame, the innermost first."""
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] == _PACKAGE


def subject(frame: FrameType | None) -> tuple[object, str]:
    """The object and the call, "Semaphore.acquire" say, to which this frame of ours belongs.

    None for an object that cannot be told, as that of a `select`.
    """
    obj: object = None
    name = outermost = inner = ""
    while frame is not None and _is_ours(frame):
        outermost = frame.f_code.co_qualname
        inner = inner or frame.f_code.co_filename
        this = frame.f_locals.get("self")
        if obj is None and this is not None and _is_public(this):
            obj = this
        if obj is not None and this is obj:
            name = frame.f_code.co_name
        frame = frame.f_back
    if obj is None:
        return None, "once" if inner.endswith("once.py") else outermost
    cls = _public_class(obj)
    if cls == "SemaphoreHold":
        obj, cls = getattr(obj, "_whole", obj), "Semaphore"
    if cls == "Channel":
        return obj, "Channel.send" if "send" in name else "Channel.recv"
    return obj, f"{cls}.{_CALLS.get(cls, name)}"


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
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread
    return None
