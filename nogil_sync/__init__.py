"""Go's ``sync`` for free-threaded Python: atomics, sharded counters and locks that scale.

>>> import threading
>>> from nogil_sync import ShardedCounter
>>> requests = ShardedCounter()
>>> threads = [threading.Thread(target=requests.add) for _ in range(4)]
>>> for thread in threads: thread.start()
>>> for thread in threads: thread.join()
>>> requests.value()
4

Atomics:
    AtomicInt64, AtomicUint64, AtomicInt32, AtomicUint32, AtomicBool, AtomicRef
Counters:
    ShardedCounter, ShardedFloatCounter
Locks:
    Mutex, RLock, RWMutex, RWMutexReader, RWMutexWriter, Cond
Semaphores and events:
    Semaphore, SemaphoreHold, SemaphoreHoldAsync, Event, WaitGroup, Barrier
Tasks:
    TaskGroup, Cancelled, shield
Once:
    Once, once, once_property, OnceFunction
Channels:
    Channel, ChannelSender, ChannelClosed, Sending, select, try_select, select_async, Selected
Timers:
    Ticker, after, After
Maps:
    SyncMap, SyncMapKeys, SyncMapValues, SyncMapItems, SyncMapIterator
Caches:
    Cache, CacheStats, cached, CachedFunction
Pools:
    Pool, PoolUse
Pinning:
    pin, pin_all, is_pinned, pin_report, PinReport, Left, PerformanceWarning
The backend:
    backend

``nogil_sync.backend`` tells which implementation runs: ``"native"`` (C, on free-threaded
interpreters) or ``"threading"`` (pure Python, on standard builds).
"""

# The same as in meson.build, which compares the two.
__version__ = "0.1.0"

# The one list of public names. It stands before the imports, for _backend reads it; and it is a
# literal, for type checkers read no other. tests/contract/test_names.py compares it with what the
# backends have.
__all__ = [  # noqa: RUF022  (by group)
    # Atomics
    "AtomicInt64",
    "AtomicUint64",
    "AtomicInt32",
    "AtomicUint32",
    "AtomicBool",
    "AtomicRef",
    # Counters
    "ShardedCounter",
    "ShardedFloatCounter",
    # Locks
    "Mutex",
    "RLock",
    "RWMutex",
    "RWMutexReader",
    "RWMutexWriter",
    "Cond",
    # Semaphores and events
    "Semaphore",
    "SemaphoreHold",
    "SemaphoreHoldAsync",
    "Event",
    "WaitGroup",
    "Barrier",
    # Tasks
    "TaskGroup",
    "Cancelled",
    "shield",
    # Once
    "Once",
    "once",
    "once_property",
    "OnceFunction",
    # Channels
    "Channel",
    "ChannelSender",
    "ChannelClosed",
    "Sending",
    "select",
    "try_select",
    "select_async",
    "Selected",
    # Timers
    "Ticker",
    "after",
    "After",
    # Maps
    "SyncMap",
    "SyncMapKeys",
    "SyncMapValues",
    "SyncMapItems",
    "SyncMapIterator",
    # Caches
    "Cache",
    "CacheStats",
    "cached",
    "CachedFunction",
    # Pools
    "Pool",
    "PoolUse",
    # Pinning
    "pin",
    "pin_all",
    "is_pinned",
    "pin_report",
    "PinReport",
    "Left",
    "PerformanceWarning",
    # The backend
    "backend",
]

from ._backend import *
from ._common.awaited import *
from ._common.cache import *
from ._common.cancelled import *
from ._common.pin import *
from ._common.selected import *
from ._common.taskgroup import *
from ._common.timers import *
