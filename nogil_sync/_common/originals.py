"""The parts of `threading` that this package uses, as they were when the package was imported.

A program may replace ``threading.Lock`` by our `Mutex`, and so on. Our own classes must not be
built on the replacements: the waiters of a `Mutex` cannot sleep at a `Mutex`. Modules that are
imported late (`spawn`, `tasks`) find the originals here, too.
"""

from _thread import LockType, allocate_lock, get_ident
from threading import BrokenBarrierError, Condition, RLock, Thread, local, main_thread

__all__ = [
    "BrokenBarrierError",
    "Condition",
    "LockType",
    "RLock",
    "Thread",
    "allocate_lock",
    "get_ident",
    "local",
    "main_thread",
]
