"""Records the waits of threads, for the contention profile (`contention`).

This is the half that the waiting threads run; `nogil_sync/_native/interpreter/contention.c` is its
counterpart for the waits of the native backend.  A wait in Python code sleeps at a gate, once or
several times in turn (`sleep`): each sleep is recorded, and a recorder puts those of one wait
together.  Records are appended by single calls in C, and nothing is recorded while no profile runs.
"""

import sys
import threading as _threading
from collections import deque
from collections.abc import Callable
from itertools import chain
from time import monotonic
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeAlias
from weakref import ref

from .forked import left_at_fork
from .frames import lines_from, subject
from .originals import LockType, get_ident

# All threads that were started by `threading` or have asked it for themselves, by their idents.
threads: dict[int, _threading.Thread] = getattr(_threading, "_active", {})

WITHOUT_OBJECT = ("once", "select")  # calls that a program knows


class Token(NamedTuple):
    """One wait, as it begins. The native backend makes equal tuples."""

    obj: "ref[Any] | None"  # None: a call that belongs to no object
    type: type | None
    operation: str
    ident: int  # of the thread
    thread: _threading.Thread | None
    stack: tuple[Any, ...]  # code objects and lines in turn, innermost first


class Recorded(NamedTuple):
    """A wait that has ended, or one sleep of a wait; or that an operation was tried again."""

    began: float  # by time.monotonic()
    ended: float
    served: bool
    #: How often another thread was faster; 0 for a wait.
    retries: int
    token: Token
    #: Where the thread slept, if this is one sleep. All sleeps of a wait are at one gate.
    gate: LockType | None = None
    #: Whether the wait may go on with another sleep.
    goes_on: bool = False


_Codes: TypeAlias = tuple[CodeType, ...]


class _Recording:
    """Whether waits are recorded, and what the backend does for that."""

    on = False
    #: The native backend's functions.
    switch: Callable[[bool], object] | None = None
    take: Callable[[], list[tuple[float, float, bool, int, tuple[Any, ...]]]] | None = None
    #: For frames of other threads, which run: their stacks, as in tokens.
    stacks: Callable[[dict[int, FrameType]], dict[int, tuple[Any, ...]]] | None = None
    #: For the same: the time-outs of those that run one of these functions (see `deadlock`).
    joins: Callable[[dict[int, FrameType], _Codes, _Codes], dict[int, Any]] | None = None


recording = _Recording()
_ended: deque[Recorded] = deque()


def switch(on: bool) -> None:
    """Begin to record, or cease to."""
    recording.on = on
    if recording.switch is not None:
        recording.switch(on)


def take() -> list[Recorded]:
    """What was recorded since the last call."""
    found: list[Recorded] = []
    for _ in range(len(_ended)):
        try:
            found.append(_ended.popleft())
        except IndexError:  # another thread took it
            break
    if recording.take is not None:
        for began, ended, served, retries, token in recording.take():
            found.append(Recorded(began, ended, served, retries, Token(*token)))
    return found


def forget() -> None:
    """In the child of a fork: drop what was recorded.

    It leaves the old deque untouched, as a thread that is gone may have had its lock.
    """
    global _ended  # noqa: PLW0603  (to empty it would take its lock)
    left_at_fork.append(_ended)
    _ended = deque()


def begin(frame: FrameType | None) -> Token | None:
    """The token of a wait that begins in this frame of ours; None if no object of ours waits."""
    obj, operation = subject(frame)
    if obj is None and operation not in WITHOUT_OBJECT:
        return None
    return _token(obj, operation, frame)


def _token(obj: object, operation: str, frame: FrameType | None) -> Token:
    stack = chain.from_iterable(lines_from(frame))
    ident = get_ident()
    reference, kind = (None, None) if obj is None else (ref(obj), type(obj))
    return Token(reference, kind, operation, ident, threads.get(ident), tuple(stack))


def record_retry(obj: object, method: str) -> None:
    """Record that another thread was faster; the operation may be tried again."""
    cls = next(each for each in type(obj).__mro__ if each.__module__ == "nogil_sync")
    operation = f"{cls.__name__}.{method}"
    now = monotonic()
    try:
        _ended.append(Recorded(now, now, True, 1, _token(obj, operation, sys._getframe(1))))
    except Exception:  # no memory: the profile lacks it
        pass


def sleep_recorded(gate: LockType, remaining: float, deadline: float | None) -> None:
    """Acquire the gate, which is a sleep, and record that. Called by `sleep_at`."""
    try:
        token = begin(sys._getframe(2))
    except Exception:  # no memory, or no room on the stack: the profile lacks this sleep
        token = None
    woken = goes_on = False
    began = monotonic()
    try:
        woken = gate.acquire(True, remaining)
        goes_on = True
    finally:
        if token is not None:
            ended = monotonic()
            goes_on = goes_on and (woken or deadline is None or ended < deadline)
            _ended.append(Recorded(began, ended, woken, 0, token, gate, goes_on))
