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
from .counters import ShardedCounter, ShardedFloatCounter
from .event import Event
from .mutex import Mutex
from .pin import is_pinned, pin, pin_all

__all__ = [
    "AtomicBool",
    "AtomicInt32",
    "AtomicInt64",
    "AtomicRef",
    "AtomicUint32",
    "AtomicUint64",
    "Event",
    "Mutex",
    "PerformanceWarning",
    "ShardedCounter",
    "ShardedFloatCounter",
    "is_pinned",
    "pin",
    "pin_all",
]
