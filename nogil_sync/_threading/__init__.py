"""The pure-Python backend: correct anywhere, and the typed specification of both backends.

The docstrings of these classes are those of the native ones too.
"""

import sys

from .._common.channel_closed import ChannelClosed
from .._common.mapping import SyncMapItems, SyncMapKeys, SyncMapValues
from .._common.performance import PerformanceWarning
from .._common.untraced import hide_sections
from .atomics import (
    AtomicBool,
    AtomicInt32,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    AtomicUint64,
)
from .channel import Channel
from .cond import Cond
from .counters import ShardedCounter, ShardedFloatCounter
from .event import Event
from .mutex import Mutex
from .once import Once, OnceFunction, once, once_property
from .pin import is_pinned, pin, pin_all
from .pool import Pool, PoolUse
from .rwmutex import RWMutex, RWMutexReader, RWMutexWriter
from .semaphore import Semaphore, SemaphoreHold
from .syncmap import SyncMap, SyncMapIterator
from .waitgroup import WaitGroup

__all__ = [
    "AtomicBool",
    "AtomicInt32",
    "AtomicInt64",
    "AtomicRef",
    "AtomicUint32",
    "AtomicUint64",
    "Channel",
    "ChannelClosed",
    "Cond",
    "Event",
    "Mutex",
    "Once",
    "OnceFunction",
    "PerformanceWarning",
    "Pool",
    "PoolUse",
    "RWMutex",
    "RWMutexReader",
    "RWMutexWriter",
    "Semaphore",
    "SemaphoreHold",
    "ShardedCounter",
    "ShardedFloatCounter",
    "SyncMap",
    "SyncMapItems",
    "SyncMapIterator",
    "SyncMapKeys",
    "SyncMapValues",
    "WaitGroup",
    "is_pinned",
    "once",
    "once_property",
    "pin",
    "pin_all",
]

for _name, _module in list(sys.modules.items()):
    if _name.startswith(f"{__name__}."):
        hide_sections(vars(_module))
