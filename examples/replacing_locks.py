"""The locks of a library that uses ``threading``, replaced without changing the library.

Mutex, RLock, Cond, Semaphore, Event and Barrier stand in for ``threading.Lock``, ``RLock``,
``Condition``, ``Semaphore``, ``Event`` and ``Barrier``. A module that says ``threading.Lock()``
looks up its own global ``threading``: give it another, and its new objects have our locks. One that
says ``Lock()`` has a global ``Lock``. (``threading.Condition()`` makes its own RLock, and a Cond
without a lock a Mutex: a library that takes it twice needs ``Cond(RLock())``.) Replace before the
library makes its objects, in the main module, and run the library's own tests with it.

The naive way replaces ``threading.Lock`` itself: that reaches every module that looks it up later,
but none that has imported the name, and the interpreter's own modules as well.
"""

import queue
import threading
from types import ModuleType

from measure import Over, compare, options, rate_of, run

from nogil_sync import Barrier, Cond, Event, Mutex, RLock, Semaphore, pin_all

STAND_INS = {
    "Lock": Mutex,
    "RLock": RLock,
    "Condition": Cond,
    "Semaphore": Semaphore,
    "Event": Event,
    "Barrier": Barrier,
}


def our_threading() -> ModuleType:
    """Return a module that is `threading`, but for our locks."""
    module = ModuleType("threading", "threading with nogil_sync's locks")
    module.__dict__.update({k: v for k, v in vars(threading).items() if k not in STAND_INS})
    module.__dict__.update(STAND_INS)
    return module


def measure(shared: "queue.Queue[int]", threads: int, seconds: float) -> float:
    def use(over: Over) -> int:
        done = 0
        while not over():
            for _ in range(10):
                shared.put(1)
                shared.get()
            done += 10
        return done

    return rate_of(use, threads, seconds).per_second


def main() -> None:
    chosen = options(__doc__, threads=8, seconds=0.2)
    usual: queue.Queue[int] = queue.Queue()

    # The library here is the standard library's queue; it says threading.Lock().
    vars(queue)["threading"] = our_threading()
    try:
        ours: queue.Queue[int] = queue.Queue()
    finally:
        vars(queue)["threading"] = threading
    assert isinstance(ours.mutex, Mutex)
    assert isinstance(ours.not_empty, Cond)

    rows = [
        ("queue.Queue as it is", measure(usual, chosen.threads, chosen.seconds), ""),
        ("with our Mutex and Cond", measure(ours, chosen.threads, chosen.seconds), ""),
    ]
    # On 3.13t threads contend for the reference counts too: see counting.py.
    pin_all([ours, ours.mutex, ours.not_empty, ours.not_full, ours.all_tasks_done])
    rows.append(("the same, pinned", measure(ours, chosen.threads, chosen.seconds), ""))
    compare("puts and gets a second", *rows)


if __name__ == "__main__":
    run(main)
