"""The one place where a thread of this backend sleeps: at a gate.

A gate is a lock of the interpreter's that is closed (locked) when it is made.  Opening it (release)
lets one sleeper through, which closes it behind itself.  Opening an open gate is a
``RuntimeError`` that openers ignore: one wake-up is enough, because a thread that wakes looks at
the state and not at the number of wake-ups.

While a thread sleeps here, `sleeping` has its `Nap`, from which `waiting` finds what it waits for.
If deadlocks are detected (`deadlock`), a sleep without a deadline ends now and then for a look at
the others; what that raises, the call raises as it would raise ``KeyboardInterrupt``.
"""

import sys
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import ClassVar, Protocol

from .cancelled import scopes
from .exit import check_exit
from .forked import in_child, left_at_fork
from .frames import HAS_GIL, Line, look_at
from .originals import LockType, allocate_lock, get_ident, local, main_thread
from .recording import recording, sleep_recorded

# Signal handlers run in the main thread.  A signal that arrives between its last look and its
# sleep, or `_thread.interrupt_main()`, does not end a sleep: so the main thread naps.
_NAP = 0.04

_DEV_MODE = sys.flags.dev_mode


class Awaited(Protocol):
    """What a call sleeps for, as those see it that look who sleeps."""

    def is_served(self) -> bool:
        """Whether the call is about to go on, even if its thread does not know that yet."""

    def holders(self) -> tuple[int, ...]:
        """The threads without which it cannot go on, as far as they are known."""


class Nap:
    """The sleeps of one call at one gate."""

    __slots__ = ("about", "check_at", "deadline", "gate", "scope", "seen", "since", "thread")

    def __init__(self, gate: LockType, checked: bool) -> None:
        self.gate = gate
        self.thread = get_ident()
        self.since = monotonic()
        # When it looks for a deadlock next; None: never.
        self.check_at = self.since if checked else None
        # While the thread sleeps:
        self.deadline: float | None = None
        self.about: Awaited | None = None
        self.scope = scopes.current()  # whose cancellation may end the call
        # The frame of the caller; or what others want to know of it, where only its own thread
        # can read it.
        self.seen: FrameType | tuple[object, str, tuple[Line, ...]] | None = None


class _Checks:
    """Whether calls that sleep look for deadlocks: changed by `deadlock`."""

    after: ClassVar = 0.0  # seconds; 0: no
    look: ClassVar[Callable[[Nap], float]]  # returns the seconds until its next call, or 0


class _Thread(local):
    nap: Nap | None = None  # of the innermost call that sleeps
    # Whether waits that find a deadlock warn in any case, as they cannot fail.
    deadlocks_warn = False


checks = _Checks
this_thread = _thread = _Thread()
sleeping: dict[int, Nap] = {}  # by thread


def naps() -> list[Nap]:
    """Those of all threads that sleep now."""
    return list(sleeping.values())


def closed_gate() -> LockType:
    try:
        gate = allocate_lock()
    except RuntimeError:  # "can't allocate lock"
        raise MemoryError from None
    gate.acquire()
    return gate


def sleep_at(
    gate: LockType, deadline: float | None, *, briefly: bool = False, about: Awaited | None = None
) -> bool:
    """Sleep until the gate opens, at most until the deadline, in the main thread at most a nap.

    False once the deadline has passed; true in all other cases, woken or not.  An error at
    interpreter finalization.  In development mode it warns if that blocks an event loop, unless it
    is `briefly`, for something that happens anyway.  `about` is for those that look who sleeps.
    """
    if _DEV_MODE and not briefly:
        from .awaited import warn_blocking

        warn_blocking()
    check_exit()  # before the deadline: what a call raises does not depend on the clock
    if deadline is None:
        remaining = -1.0
    else:
        remaining = deadline - monotonic()
        if remaining <= 0:
            return False
    me = get_ident()
    outer = _thread.nap  # of the call that a signal handler interrupted, or the last one
    if outer is not None and outer.gate is gate:
        nap = outer
    else:
        nap = Nap(gate, deadline is None and not briefly and checks.after > 0)
    interrupted = sleeping.get(me)
    try:
        _thread.nap = nap
        nap.deadline = deadline
        nap.about = about
        nap.scope = scopes.current()
        nap.seen = sys._getframe(1) if HAS_GIL else look_at(sys._getframe(1), stack=True)
        if nap.check_at is not None:
            remaining = _until_check(nap)
        if me == main_thread().ident:
            remaining = _NAP if remaining < 0 else min(remaining, _NAP)
        sleeping[me] = nap
        if recording.on and not briefly:
            sleep_recorded(gate, remaining, deadline)
        else:
            gate.acquire(True, remaining)
    finally:
        nap.seen = nap.about = nap.scope = None  # first: after a call there may be an interrupt
        if interrupted is None:
            sleeping.pop(me, None)
        else:
            sleeping[me] = interrupted
            _thread.nap = interrupted
    return True


def _until_check(nap: Nap) -> float:
    """Look for a deadlock if it is time; return the seconds until the next look, or -1."""
    now = monotonic()
    if nap.check_at == nap.since:  # the first sleep
        nap.check_at = now + (checks.after or 1.0)
    elif nap.check_at is not None and now >= nap.check_at:
        nap.check_at = now + (checks.after or 1.0)  # if the look raises, and the call sleeps again
        try:
            seconds = checks.look(nap) if checks.after else 0.0
        except (MemoryError, RecursionError):  # no room to look is no reason to end the wait
            seconds = checks.after
        nap.check_at = monotonic() + seconds if seconds else None
    return -1.0 if nap.check_at is None else max(nap.check_at - monotonic(), 0.0)


def _in_child() -> None:
    """In the child of a fork the other threads are gone.

    One of them may have had the old dict's own lock, or have been about to get it. So the child
    keeps that dict untouched, and has a new one.
    """
    global sleeping  # noqa: PLW0603  (to empty it would take its lock)
    left_at_fork.append(sleeping)
    nap = _thread.nap
    asleep = nap is not None and nap.seen is not None  # a signal handler in its sleep forked
    sleeping = {nap.thread: nap} if nap is not None and asleep else {}


in_child(_in_child)
