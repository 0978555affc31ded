"""The one place where a thread of this backend sleeps: at a gate.

A gate is a lock of the interpreter's that is closed (locked) when it is made.  Opening it (release)
lets one sleeper through, which closes it behind itself.  Opening an open gate is a
``RuntimeError`` that openers ignore: one wake-up is enough, because a thread that wakes looks at
the state and not at the number of wake-ups.
"""

import sys
from time import monotonic

from .exit import check_exit
from .originals import LockType, allocate_lock, get_ident, main_thread

# Signal handlers run in the main thread.  A signal that arrives between its last look and its
# sleep, or `_thread.interrupt_main()`, does not end a sleep: so the main thread naps.
_NAP = 0.04

_DEV_MODE = sys.flags.dev_mode


def closed_gate() -> LockType:
    try:
        gate = allocate_lock()
    except RuntimeError:  # "can't allocate lock"
        raise MemoryError from None
    gate.acquire()
    return gate


def sleep_at(gate: LockType, deadline: float | None, *, briefly: bool = False) -> bool:
    """Sleep until the gate opens, at most until the deadline, in the main thread at most a nap.

    False once the deadline has passed; true in all other cases, woken or not.  An error at
    interpreter finalization.  In development mode it warns if that blocks an event loop, unless it
    is `briefly`, for something that happens anyway.
    """
    if _DEV_MODE and not briefly:
        from .awaited import warn_blocking

        warn_blocking()
    if deadline is None:
        remaining = -1.0
    else:
        remaining = deadline - monotonic()
        if remaining <= 0:
            return False
    check_exit()
    if get_ident() == main_thread().ident:
        remaining = _NAP if deadline is None else min(remaining, _NAP)
    gate.acquire(True, remaining)
    return True
