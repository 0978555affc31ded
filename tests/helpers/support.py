"""What many test files use: the classes under test, threads, waiting for conditions."""

import ctypes
import gc
import math
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nogil_sync

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
NATIVE = nogil_sync.backend == "native"
# A sanitizer, or another library, replaces the C library's allocators.
SANITIZED = "LD_PRELOAD" in os.environ or "fsanitize" in (sysconfig.get_config_var("CFLAGS") or "")

INTEGERS = [
    nogil_sync.AtomicInt64,
    nogil_sync.AtomicUint64,
    nogil_sync.AtomicInt32,
    nogil_sync.AtomicUint32,
]
RANGES = {
    nogil_sync.AtomicInt64: (-(2**63), 2**63 - 1),
    nogil_sync.AtomicUint64: (0, 2**64 - 1),
    nogil_sync.AtomicInt32: (-(2**31), 2**31 - 1),
    nogil_sync.AtomicUint32: (0, 2**32 - 1),
}
ATOMICS = [*INTEGERS, nogil_sync.AtomicBool, nogil_sync.AtomicRef]
COUNTERS = [nogil_sync.ShardedCounter, nogil_sync.ShardedFloatCounter]
LOCKS = [nogil_sync.Mutex, nogil_sync.RLock]
WAITED_FOR = [
    nogil_sync.RWMutex,
    nogil_sync.Cond,
    nogil_sync.Semaphore,
    nogil_sync.Event,
    nogil_sync.WaitGroup,
    nogil_sync.Barrier,
    nogil_sync.Once,
    nogil_sync.Channel,
]
MAPS = [nogil_sync.SyncMap]
CLASSES = [
    *(*ATOMICS, *COUNTERS, *LOCKS, *WAITED_FOR, *MAPS),
    *(nogil_sync.Cache, nogil_sync.Pool),
]

# On 3.13t threads cannot raise one exception object at the same time: each gets a copy.
SHARED_ERRORS = sys.version_info >= (3, 14) or not FREE_THREADED


def same_error(one: BaseException, other: BaseException) -> bool:
    """Whether they are one object, or, where that cannot be, of the same type and arguments."""
    return one is other or (
        not SHARED_ERRORS and type(one) is type(other) and one.args == other.args
    )


# What must be given to make one.
NEEDED: dict[type, tuple[Any, ...]] = {
    nogil_sync.Pool: (list,),
    nogil_sync.Barrier: (2,),
    nogil_sync.Cache: (10,),
}


def needed(cls: type) -> tuple[Any, ...]:
    """The arguments that this class, of the library or derived from it, requires."""
    return next((NEEDED[each] for each in cls.__mro__ if each in NEEDED), ())


def make(cls: type) -> Any:
    """An object made with as few arguments as possible."""
    return cls(*needed(cls))


# Time-outs that every call refuses, and how.
WRONG_TIMEOUTS: list[tuple[Any, type[Exception]]] = [
    (math.nan, ValueError),
    (math.inf, OverflowError),
    (threading.TIMEOUT_MAX * 2, OverflowError),
    (10**400, OverflowError),
    ("1", TypeError),
]

STRESS = float(os.environ.get("NOGIL_SYNC_STRESS", "1"))

# In seconds: a call that takes longer hangs, and its test fails.
TIMEOUT = 60.0


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_threads(*functions: Callable[[], Any], times: int = 1) -> list[Any]:
    """Start each function in `times` threads, all at once; return the results, raise the errors."""
    tasks = list(functions) * times
    barrier = threading.Barrier(len(tasks))
    results: list[Any] = [None] * len(tasks)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            barrier.wait(TIMEOUT)
            results[index] = tasks[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIMEOUT * max(1, STRESS)
    for thread in threads:
        thread.join(max(0.1, deadline - time.monotonic()))
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if errors:
        raise errors[0]
    assert not stuck, f"hanging: {stuck}"
    return results


@contextmanager
def background(*functions: Callable[[], Any]) -> Iterator[None]:
    """Call the functions again and again, each in its thread, while the body runs."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def run(function: Callable[[], Any]) -> None:
        try:
            while not stop.is_set():
                function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "hanging"


def collect_often() -> None:
    """Collect, then let the others run.

    Each collection stops all threads; without a pause the next comes before they are awake again.
    """
    gc.collect()
    time.sleep(0.001)


def collected(*watches: Callable[[], object]) -> bool:
    """Whether what these weak references refer to is collected.

    Again and again, as gc.collect() does nothing while another thread collects.
    """
    return eventually(lambda: gc.collect() >= 0 and all(watch() is None for watch in watches))


def for_a_while(seconds: float) -> Iterator[int]:
    """Count until the time is over, scaled by NOGIL_SYNC_STRESS."""
    end = time.monotonic() + seconds * STRESS
    count = 0
    while time.monotonic() < end:
        yield count
        count += 1


def many(count: int) -> int:
    """So many, or down to a fifth of them where NOGIL_SYNC_STRESS asks for less."""
    return round(count * min(1, max(0.2, STRESS)))


def eventually(condition: Callable[[], bool], timeout: float = TIMEOUT) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


class Mallinfo(ctypes.Structure):
    """The C library's account of malloc, with which the core allocates."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def malloced() -> Callable[[], int] | None:
    """A function that returns how many bytes malloc has given to all threads, if there is one."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None or SANITIZED:
        return None
    mallinfo.restype = Mallinfo

    def read() -> int:
        now = mallinfo()
        return int(now.uordblks + now.hblkhd)

    return read


def started(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
    """A thread that calls the function, and waits in it by now; the list gets the result."""
    result: list[Any] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        result.append(function(*args, **kwargs))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun.wait(TIMEOUT)
    settle(thread)
    return thread, result


def settle(thread: threading.Thread, timeout: float = 5.0) -> None:
    """Wait until the thread sleeps.

    On a loaded machine, or under a sanitizer, a fixed time is too short.  Looks several times, as
    a thread also sleeps briefly on its way. Where the system has no such file, waits a fixed time.
    """
    status = Path(f"/proc/self/task/{thread.native_id}/stat")
    end = time.monotonic() + timeout
    asleep = 0
    while asleep < 5 and time.monotonic() < end:
        try:
            state = status.read_text().rpartition(")")[2].split()[0]
        except OSError:
            time.sleep(0.03)
            return
        asleep = asleep + 1 if state == "S" else 0
        time.sleep(0.002)


def resident() -> int:
    """Bytes of memory that the process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
