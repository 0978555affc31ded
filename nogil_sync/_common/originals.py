"""What this package uses of `threading`, as that was when the package was imported.

A program may put our `Mutex` in place of ``threading.Lock``, and so on. What our classes rest on
must not be made of our classes then: a `Mutex` whose waiters sleep at a `Mutex` never sleeps.
Modules that are imported late (`spawn`, `tasks`) find the originals here, too.
"""

from _thread import LockType, allocate_lock, get_ident
from threading import Condition, RLock, Thread, local, main_thread

__all__ = [
    "Condition",
    "LockType",
    "RLock",
    "Thread",
    "allocate_lock",
    "get_ident",
    "local",
    "main_thread",
]
