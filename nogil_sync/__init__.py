"""Go's ``sync`` for free-threaded Python: atomics, sharded counters and locks that scale.

>>> import threading
>>> from nogil_sync import ShardedCounter
>>> requests = ShardedCounter()
>>> threads = [threading.Thread(target=requests.add) for _ in range(4)]
>>> for thread in threads: thread.start()
>>> for thread in threads: thread.join()
>>> requests.value()
4

``nogil_sync.backend`` tells which implementation runs: ``"native"`` (C, on free-threaded
interpreters) or ``"threading"`` (pure Python, on standard builds).
"""

from ._backend import (
    AtomicBool,
    AtomicInt32,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    AtomicUint64,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    Once,
    OnceFunction,
    PerformanceWarning,
    Pool,
    PoolUse,
    RWMutex,
    RWMutexReader,
    RWMutexWriter,
    Semaphore,
    SemaphoreHold,
    ShardedCounter,
    ShardedFloatCounter,
    SyncMap,
    SyncMapItems,
    SyncMapIterator,
    SyncMapKeys,
    SyncMapValues,
    WaitGroup,
    backend,
    is_pinned,
    once,
    once_property,
    pin,
    pin_all,
)
from ._common.pin import Left, PinReport, pin_report
from ._common.taskgroup import TaskGroup

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
    "Left",
    "Mutex",
    "Once",
    "OnceFunction",
    "PerformanceWarning",
    "PinReport",
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
    "TaskGroup",
    "WaitGroup",
    "backend",
    "is_pinned",
    "once",
    "once_property",
    "pin",
    "pin_all",
    "pin_report",
]
