"""The pure-Python backend: correct anywhere, and the typed specification of both backends.

The docstrings of these classes are those of the native ones too.
"""

from .._performance import PerformanceWarning
from .atomics import (
    AtomicBool,
    AtomicInt32,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    AtomicUint64,
)
from .cond import Cond
from .counters import ShardedCounter, ShardedFloatCounter
from .event import Event
from .mutex import Mutex
from .pin import is_pinned, pin, pin_all
from .rwmutex import RWMutex
from .semaphore import Semaphore
from .waitgroup import WaitGroup

__all__ = [
    "AtomicBool",
    "AtomicInt32",
    "AtomicInt64",
    "AtomicRef",
    "AtomicUint32",
    "AtomicUint64",
    "Cond",
    "Event",
    "Mutex",
    "PerformanceWarning",
    "RWMutex",
    "Semaphore",
    "ShardedCounter",
    "ShardedFloatCounter",
    "WaitGroup",
    "is_pinned",
    "pin",
    "pin_all",
]
