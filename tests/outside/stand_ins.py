"""The library's classes in place of `threading`'s, to run programs written for those."""

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


installed = ""


def install(what: str = "threading") -> None:
    """Put the library's classes in place of others, for all modules that use those later."""
    global installed
    {"threading": _install_classes, "metrics": _install_metrics, "values": _install_values}[what]()
    installed = what


def _install_classes() -> None:
    # The locks that the library itself is made of stay.
    own = ModuleType("threading")
    vars(own).update(vars(threading))
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "nogil_sync" and getattr(module, "threading", 0) is threading:
            vars(module)["threading"] = own
    for name, stand_in in STAND_INS.items():
        setattr(threading, name, stand_in)


def _install_metrics() -> None:
    import prometheus_client

    from nogil_sync.integrations import prometheus

    for name in ("Counter", "Enum", "Gauge", "Histogram", "Info", "Summary"):
        stand_in = getattr(prometheus, name)
        # The repr of a metric says where its class is.
        stand_in.__module__ = "prometheus_client.metrics"
        setattr(prometheus_client, name, stand_in)
        setattr(prometheus_client.metrics, name, stand_in)


def _install_values() -> None:
    from nogil_sync.integrations import prometheus

    assert prometheus.install()
