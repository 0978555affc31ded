"""What waits, what deadlocks: answers to "why does my program hang?".

All waiting for objects of this library goes through the library, so it can tell exactly who waits,
for which object, since when, and, of locks, who holds them. Nothing here costs anything until it
is used: threads are recorded while they sleep, and not before.

- :func:`waits` and :func:`dump_waits` show who waits now; :func:`register` has a signal show it,
  even if every thread is stuck; :func:`label` names objects in what they show.
- :func:`detect_deadlocks` has a wait that can never end raise :class:`DeadlockError`, or warn. Set
  ``NOGIL_SYNC_DEADLOCK=raise`` (or ``warn``, ``off``) in the environment to do so without a change
  of the program; in development mode (``python -X dev``) it warns by itself.
- :func:`record_lock_order` tells of locks that are taken in different orders, before that ever
  leads to a deadlock.
- :func:`profile_contention` tells for which objects threads wait, where, how long, and who holds
  them meanwhile: as a table, and as a page of HTML.
"""

from __future__ import annotations

import sys
from math import isfinite
from typing import IO, Literal

from ._common.contention import (
    ContendedObject,
    ContentionHolder,
    ContentionProfile,
    ContentionSite,
    profile_contention,
)
from ._common.deadlock import DeadlockError, DeadlockWarning, start
from ._common.dumps import register, unregister
from ._common.labels import label
from ._common.lockorder import LockOrder, LockOrderWarning, record_lock_order
from ._common.wait import Wait, describe_one, waits_of
from ._common.waiting import Sleeper, sleepers, summary, waiting_tasks

__all__ = [
    "ContendedObject",
    "ContentionHolder",
    "ContentionProfile",
    "ContentionSite",
    "DeadlockError",
    "DeadlockWarning",
    "LockOrder",
    "LockOrderWarning",
    "Wait",
    "detect_deadlocks",
    "dump_waits",
    "label",
    "profile_contention",
    "record_lock_order",
    "register",
    "unregister",
    "waits",
]


def waits() -> list[Wait]:
    """Return a :class:`Wait` for each thread or task that waits in a call of this library now.

    Those that wait longest come first. A thread that only spins for some microseconds is not
    seen. Each was in its wait when it was looked at; one may have ended before the last was
    looked at. Those that wait are not disturbed.

    >>> import threading, time
    >>> from nogil_sync import Mutex
    >>> from nogil_sync.diagnostics import label, waits
    >>> accounts = Mutex()
    >>> label(accounts, "accounts")
    >>> with accounts:
    ...     thread = threading.Thread(target=lambda: accounts.acquire())
    ...     thread.start()
    ...     while not waits():
    ...         time.sleep(0.01)
    ...     wait = waits()[0]
    >>> wait.operation, wait.obj is accounts, wait.thread is thread
    ('Mutex.acquire', True, True)
    >>> [holder.name for holder in wait.holders]
    ['MainThread']
    >>> thread.join()
    """
    known = sleepers()
    return waits_of(_longest_first(known), known)


def dump_waits(file: IO[str] | None = None) -> None:
    """Print who waits, for what, since when, and where, to `file`, by default ``sys.stderr``."""
    out = sys.stderr if file is None else file
    known = sleepers()
    found = _longest_first(known)
    parts = [f"{len(found)} wait{'s' * (len(found) != 1)} in nogil_sync:\n"]
    for each in found:
        parts.append(describe_one(each) + "\n")
        parts.extend(summary(each.lines).format())
    out.write("".join(parts))


def _longest_first(known: dict[int, Sleeper]) -> list[Sleeper]:
    return sorted([*known.values(), *waiting_tasks()], key=lambda each: -each.seconds)


def detect_deadlocks(
    action: Literal["raise", "warn"] | None = "raise", *, after: float = 1.0
) -> None:
    """Have each wait of more than `after` seconds look whether it can ever end.

    With ``"raise"`` a wait that is part of a deadlock raises :class:`DeadlockError`, which says
    who waits for what and shows the stacks; nothing was acquired, and the locks that the thread
    holds are released as the exception passes their ``with`` statements. With ``"warn"`` there is
    one :class:`DeadlockWarning`. So there is from ``Cond.wait`` when it takes its lock again,
    which cannot fail; another thread of the circle raises then. None: no detection. It concerns
    waits that begin afterwards.

    A deadlock is, first, a circle of threads each of which waits, without a time-out, for what
    the next one holds: Mutex, RLock, an RWMutex held for writing, the functions of ``once`` and
    of ``load_or_compute``; also a thread that waits for a Mutex that it holds. The thread that
    took a lock is taken for the one that will release it, until another thread has ever released
    that lock: then it is left out.
    Second, if every thread of the process waits in this library without a time-out, or joins
    such a thread, for whatever object, and no handler of a signal is set.

    A wait with a time-out is never part of a deadlock, and one that cancelling a
    :class:`TaskGroup` would end is no part of a circle. Where a thread runs that Python does not
    know (of a library in C), it may serve any wait, and only circles are found. It costs nothing
    unless a thread sleeps for longer than `after`, then some microseconds for each thread that
    sleeps.
    """
    if action not in ("raise", "warn", None):
        raise ValueError(f"action must be 'raise', 'warn' or None, not {action!r}")
    if not (isfinite(after) and after > 0):
        raise ValueError("after must be a positive number of seconds")
    start(action, after)
