"""Wait: what `diagnostics.waits` tells of one thread, and how threads and objects are named."""

from threading import Thread
from traceback import StackSummary
from typing import TYPE_CHECKING, Any, NamedTuple

from .frames import Line
from .labels import name_of
from .waiting import Sleeper, stacks_of, summary, thread_of

if TYPE_CHECKING:
    from asyncio import Task


class Wait(NamedTuple):
    """A thread or task that waits in a call of this library, as :func:`waits` saw it."""

    thread: "Thread | Task[Any] | None"
    """The thread, None if `threading` does not know it; or the task of asyncio."""
    obj: object
    """The object that it waits for; None for several (``select``), or one that is not known."""
    operation: str
    """The call, as ``"Mutex.acquire"``."""
    seconds: float
    """How long it has waited."""
    holders: tuple[Thread, ...]
    """The thread that holds the object, if it is known.

    It is known of a Mutex, an RLock, the write side of an RWMutex, and a function of `once` or of
    ``load_or_compute`` that another thread runs. Who holds units of a Semaphore, or reads under an
    RWMutex, is not recorded: each acquire would have to write it down.
    """
    stack: StackSummary
    """The stack of the thread, down to the call."""
    holder_stacks: tuple[StackSummary, ...]
    """The stack of each holder; empty if it runs and neither the GIL nor the extension stops it."""


Wait.__module__ = "nogil_sync.diagnostics"


def waits_of(found: list[Sleeper], known: dict[int, Sleeper]) -> list[Wait]:
    """Tell of these sleepers; `known` has those whose stacks are known."""
    stacks = {ident: each.lines for ident, each in known.items() if each.lines}
    stacks |= stacks_of({each.holder for each in found if each.holder} - stacks.keys())
    return [_wait_of(each, stacks) for each in found]


def _wait_of(each: Sleeper, stacks: dict[int, tuple[Line, ...]]) -> Wait:
    holder = thread_of(each.holder) if each.holder else None
    return Wait(
        thread_of(each.thread) if each.task is None else each.task,
        each.obj,
        each.operation,
        each.seconds,
        () if holder is None else (holder,),
        summary(each.lines),
        () if holder is None else (summary(stacks.get(each.holder, ())),),
    )


def name_of_thread(ident: int) -> str:
    """Return what to call the thread of this number."""
    thread = thread_of(ident)
    try:
        return f"thread {ident:#x}" if thread is None else f"{thread.name} ({ident:#x})"
    except Exception:  # a property of a derived class
        return f"thread {ident:#x}"


def name_of_object(obj: object) -> str:
    """Return what to call the object: its label if it has one."""
    if obj is None:
        return "several objects, or one that is not known"
    label = name_of(obj)
    kind = type(obj).__name__
    return f"the {kind} {label!r}" if label is not None else f"the {kind} at {id(obj):#x}"


def describe_one(each: Sleeper) -> str:
    """Say what one thread waits for, and who holds that."""
    who = name_of_thread(each.thread) if each.task is None else f"task {each.task.get_name()}"
    text = (
        f"{who} waits in {each.operation} of {name_of_object(each.obj)}, for {each.seconds:.1f} s"
    )
    if each.holder == each.thread:
        text += "; it holds that itself"
    elif each.holder:
        text += f"; held by {name_of_thread(each.holder)}"
    return text
