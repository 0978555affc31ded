"""Deadlocks: a thread that has slept for a while looks whether anything can still wake it.

**Circles.**  The thread follows who needs whom: the lock that it waits for has a holder, which
sleeps in a wait for something else that has a holder, and so on.  If the way comes back to the
thread, that is a deadlock, provided that nothing else can end one of these waits: none has a
deadline, none can be cancelled, and each lock is one that only holders have ever released.

No circle is made of what was never there at the same time.  The thread looks at the sleepers, then
at the holder of what it waits for itself, then at the sleepers again.  Those in the circle must
be in the same sleeps at both looks.  So they slept all the while in between, and at that moment:
each of them held what the one before it waits for, because it cannot have taken that in its sleep.

The thread that begins the last wait of a circle finds all of it when it looks.  So one look a wait
is enough to find each circle.  But `Cond.wait`, which takes its lock again, cannot fail: if that
finds a circle it warns, and the others raise when they look again.

**All asleep.**  What waits for a channel, an event or a semaphore can be served by any thread that
runs.  So such a wait counts only if every thread of the process is in a wait that only another
thread could end, or waits for the end of such a thread (``Thread.join``).  It is no deadlock if
there are handlers of signals, or threads that Python does not know.  A thread may end at any
time, so these looks are repeated, ever less often.
"""

import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from random import random
from types import CodeType, FrameType
from typing import Any, Final, Literal

from .. import _backend
from .forked import in_child, left_at_fork
from .frames import lines_from
from .recording import recording
from .sleep import Nap, checks, this_thread
from .wait import Wait, describe_one, waits_of
from .waiting import Sleeper, of_nap, of_record, sleepers, summary

Action = Literal["raise", "warn"]

# Asks for the holder of what this thread waits for, or 0, whether it was served meanwhile, and
# whether the wait cannot fail.
_Own = Callable[[], tuple[int, bool, bool]]

_AGAIN: Final = 0.05  # seconds until the next look, if another thread looks now
_SELDOM: Final = 60.0


class _Detection:
    action: Action | None = None
    after = 1.0


detection: Final = _Detection()
_looking: dict[int, object] = {}  # the thread that looks: one at a time
_told: dict[object, None] = {}  # what was warned of


class DeadlockError(RuntimeError):
    """Threads wait for each other, and nothing else can end that.

    Raised by the call that would wait for ever; it has acquired nothing. The message names the
    calls and shows the stack of each thread. `waits` has them as :class:`Wait`.
    """

    __module__ = "nogil_sync.diagnostics"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.waits: list[Wait] = []


class DeadlockWarning(RuntimeWarning):
    """Threads wait for each other, and nothing else can end that."""

    __module__ = "nogil_sync.diagnostics"


def start(action: Action | None, after: float = 1.0) -> None:
    """Detect deadlocks from here on, or no more."""
    detection.action = action
    detection.after = after
    checks.look = look_from_gate
    checks.after = after if action is not None else 0.0
    _backend.set_deadlock_check(None if action is None else look_from_record, after)


def look_from_gate(nap: Nap) -> float:
    """Called by a thread that sleeps at a gate: see `sleep`."""
    me = of_nap(nap, stacks=True)
    about = nap.about
    if me is None or about is None:
        return 0.0

    def own() -> tuple[int, bool, bool]:
        holder = next(iter(about.holders()), 0)
        return holder, about.is_served(), this_thread.deadlocks_warn

    return _look(me, own)


def look_from_record(record: tuple[Any, ...]) -> float:
    """Called by a wait of the extension, for its own record: see `sleeping.h`."""
    frame = sys._getframe().f_back  # None: `start_new_thread` called us, say
    me = of_record(record)._replace(lines=tuple(lines_from(frame)))
    return _look(me, _backend.own_wait)


def _look(me: Sleeper, own: _Own) -> float:
    """Look for a deadlock of this thread's wait; return the seconds until the next look."""
    if detection.action is None or me.served or not me.timeless:
        return 0.0
    token = object()
    try:
        if _looking.setdefault(0, token) is not token:
            return _AGAIN * (1 + random())  # noqa: S311  (no secret)
        found = (not me.cancellable and _circle(me, own)) or _all_asleep(me, own)
        error = _described(found) if found else None
    except Exception:  # no memory, say, or a thread's name raises: no reason to end the wait
        return detection.after
    finally:
        if _looking.get(0) is token:
            del _looking[0]
    if error is not None:
        _report(error, found, "warn" if own()[2] else detection.action)
        return 0.0
    return min(max(detection.after, me.seconds), _SELDOM)


def _way(me: Sleeper, first: int, others: dict[int, Sleeper]) -> list[Sleeper]:
    """The sleepers from me on, each needing the next one, and the last needing me; or none."""
    way = [me]
    needed = first
    while needed != me.thread:
        after = others.get(needed)
        if after is None or after in way or not after.needs:
            return []
        way.append(after)
        needed = after.needs
    return way


def _circle(me: Sleeper, own: _Own) -> list[Sleeper]:
    if not own()[0]:
        return []
    before = sleepers(stacks=False)
    # In this order: what holds once it was not served is what it waits for.
    first = own()[0]
    way = _way(me, first, before) if first else []
    if not way:
        return []
    after = sleepers()
    again = _way(me, first, after)
    same = [(each.thread, each.sleep) for each in way] == [(e.thread, e.sleep) for e in again]
    return again if same and not own()[1] and not _may_be_released_here(again) else []


def _may_be_released_here(way: list[Sleeper]) -> bool:
    """Whether a timer's signal is about to run a handler in the main thread, which may release."""
    main = threading.main_thread().ident
    return any(each.thread == main for each in way) and _alarm_is_set()


def _alarm_is_set() -> bool:
    timers = [getattr(signal, name, None) for name in ("ITIMER_REAL", "ITIMER_PROF")]
    return any(signal.getitimer(each)[0] > 0 for each in timers if each is not None)


def _has_handlers() -> bool:
    """Whether there is a handler of a signal that could serve a wait."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            return True
    return False


def _joins(frames: dict[int, FrameType]) -> dict[int, Any]:
    """The time-outs of those threads that wait for the end of a thread."""
    found: list[Any] = [threading.Thread.join]
    found.append(getattr(threading.Thread, "_wait_for_tstate_lock", None))
    found.append(getattr(threading, "_shutdown", None))
    codes: list[CodeType] = [each.__code__ for each in found if hasattr(each, "__code__")]
    timed = tuple(each for each in codes if "timeout" in each.co_varnames)
    if recording.joins is not None:
        return recording.joins(frames, timed, tuple(each for each in codes if each not in timed))
    running = [(ident, frame) for ident, frame in frames.items() if frame.f_code in codes]
    return {ident: frame.f_locals.get("timeout") for ident, frame in running}


def _unknown_threads(known: int) -> bool:
    """Whether the process may have threads that Python does not know, which could call it."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) > known
    except OSError:
        return False


def _all_asleep(me: Sleeper, own: _Own) -> list[Sleeper]:
    before = sleepers(stacks=False)
    before[me.thread] = me
    if threading.active_count() > 2 * len(before) + 1 or not _are_stuck(me, before):
        return []
    after = sleepers()
    after[me.thread] = me
    if {each.sleep for each in before.values()} != {each.sleep for each in after.values()}:
        return []
    if own()[1] or not _are_stuck(me, after) or _has_handlers():
        return []
    return list(after.values())


def _are_stuck(me: Sleeper, found: dict[int, Sleeper]) -> bool:
    """Whether each thread is asleep for ever, or waits for the end of one."""
    frames = sys._current_frames()
    joins = _joins({ident: frame for ident, frame in frames.items() if ident not in found})
    for ident in frames:
        sleeper = found.get(ident)
        if sleeper is None:
            if joins.get(ident, 0) not in (None, -1):
                return False
        elif ident != me.thread and (not sleeper.timeless or sleeper.served):
            return False
        elif sleeper.operation.startswith(("Mutex.", "RLock.")) and not sleeper.holder:
            return False  # it is free, or a task holds it
    return not _unknown_threads(len(frames))


def _described(found: list[Sleeper]) -> DeadlockError:
    error = DeadlockError(describe(found))
    error.waits = waits_of(found, {each.thread: each for each in found})
    return error


def _report(error: DeadlockError, found: list[Sleeper], action: Action | None) -> None:
    if action == "raise":
        raise error
    key = frozenset(each.thread for each in found)
    if key not in _told:
        _told[key] = None
        warnings.warn(str(error), DeadlockWarning, stacklevel=4)


def describe(found: list[Sleeper]) -> str:
    """Say who waits for what, with the stacks."""
    lines = [f"deadlock of {len(found)} thread{'s' * (len(found) != 1)}:"]
    for each in found:
        lines.append(describe_one(each))
        lines.append("".join(summary(each.lines).format()).rstrip("\n"))
    return "\n".join(lines)


def _in_child() -> None:
    """In the child of a fork: no thread looks, and nothing was warned of.

    It leaves the old dicts untouched, as a thread that is gone may have had their locks.
    """
    global _looking, _told
    left_at_fork.append((_looking, _told))
    _looking, _told = {}, {}


in_child(_in_child)
