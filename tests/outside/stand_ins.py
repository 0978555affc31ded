"""The library's classes with the interface of `threading`'s, to run programs written for those."""

import sys
import threading
from types import ModuleType
from typing import Any

import nogil_sync

Lock = nogil_sync.Mutex
RLock = nogil_sync.RLock
Event = nogil_sync.Event
Barrier = nogil_sync.Barrier


class Condition(nogil_sync.Cond):
    """Over a reentrant lock by default, as `threading.Condition`."""

    def __init__(self, lock: Any = None) -> None:
        super().__init__(RLock() if lock is None else lock)


class Semaphore(nogil_sync.Semaphore):
    """Unbounded, as `threading.Semaphore`."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value, bounded=False)


class BoundedSemaphore(nogil_sync.Semaphore):
    def __init__(self, value: int = 1) -> None:
        super().__init__(value)


STAND_INS: dict[str, type] = {
    "Lock": Lock,
    "RLock": RLock,
    "Condition": Condition,
    "Semaphore": Semaphore,
    "BoundedSemaphore": BoundedSemaphore,
    "Event": Event,
    "Barrier": Barrier,
}


def install() -> None:
    """Put the library's classes in place of those of `threading`, for all modules that use it."""
    # The locks that the library itself is made of stay.
    own = ModuleType("threading")
    vars(own).update(vars(threading))
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "nogil_sync" and getattr(module, "threading", 0) is threading:
            vars(module)["threading"] = own
    for name, stand_in in STAND_INS.items():
        setattr(threading, name, stand_in)
