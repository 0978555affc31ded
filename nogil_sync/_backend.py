"""The one place that chooses between the native and the threading backend."""

import os
import sysconfig
from typing import TYPE_CHECKING

from ._common.mapping import SyncMapItems, SyncMapKeys, SyncMapValues

_VARIABLE = "NOGIL_SYNC_BACKEND"


def _choose() -> str:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", "native", "threading"):
        raise ImportError(f"{_VARIABLE} must be 'native' or 'threading', not {wanted!r}")
    if wanted == "native" and not free_threaded:
        raise ImportError(
            f"{_VARIABLE}=native needs a free-threaded interpreter; "
            "this one has the GIL, where the threading backend is the only one"
        )
    return wanted or ("native" if free_threaded else "threading")


backend: str = _choose()

if TYPE_CHECKING or backend == "threading":
    # Type checkers always see the pure classes: they are the typed specification.
    from ._common.guard import defer as defer  # noqa: PLC0414  (for _tasks; not public)
    from ._common.guard import guard_of as guard_of  # noqa: PLC0414  (for _tasks; not public)
    from ._threading import (
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
        SyncMapIterator,
        WaitGroup,
        is_pinned,
        once,
        once_property,
        pin,
        pin_all,
    )
else:
    try:
        from ._native._core import (
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
            SyncMapIterator,
            WaitGroup,
            is_pinned,
            once,
            once_property,
            pin,
            pin_all,
        )
        from ._native._core import (
            defer as defer,  # noqa: PLC0414
        )
        from ._native._core import (
            guard_of as guard_of,  # noqa: PLC0414
        )
    except ModuleNotFoundError as missing:
        if missing.name not in ("nogil_sync._native", "nogil_sync._native._core"):
            raise
        raise ImportError(
            "nogil_sync was installed without its C extension, which a free-threaded "
            "interpreter needs to scale. Build it with this interpreter and a C compiler: "
            "'pip install --no-binary nogil_sync --force-reinstall nogil_sync'. "
            f"To run on the slow pure-Python backend instead, set {_VARIABLE}=threading."
        ) from missing

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
    "backend",
    "is_pinned",
    "once",
    "once_property",
    "pin",
    "pin_all",
]
