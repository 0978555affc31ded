"""What the tests of Mutex, RWMutex and Semaphore share."""

import gc
import math
import threading
from collections.abc import Callable
from itertools import islice
from typing import Any

from support import TIMEOUT, for_a_while, run_threads

# Arguments of acquire, by position and by name, that threading.Lock's takes.
ACQUIRE_ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((True,), {}),
    ((True, -1), {}),
    ((1, -1.0), {}),
    ((), {"timeout": None}),
    ((), {"timeout": 5}),
    ((), {"timeout": threading.TIMEOUT_MAX}),
    ((False,), {}),
    ((False, -1), {}),
    ((0,), {"timeout": None}),
    ((), {"blocking": True, "timeout": 0}),
]

# Arguments that it refuses, and the error.
WRONG_ACQUIRE_ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception]]] = [
    ((False, 5), {}, ValueError),
    ((False, 0), {}, ValueError),
    ((), {"blocking": False, "timeout": 1.5}, ValueError),
    ((True, -2), {}, ValueError),
    ((), {"timeout": -0.5}, ValueError),
    ((), {"timeout": -math.inf}, ValueError),
    ((), {"timeout": math.nan}, ValueError),
    ((False, math.nan), {}, ValueError),
    ((), {"timeout": math.inf}, OverflowError),
    ((), {"timeout": threading.TIMEOUT_MAX * 2}, OverflowError),
    ((), {"timeout": 10**400}, OverflowError),
    ((), {"timeout": "1"}, TypeError),
    ((True, 1, 2), {}, TypeError),
    ((), {"wait": 1}, TypeError),
]


def wait_in_nested_handlers(interrupt: Callable[..., Any], lock: Any) -> None:
    """The main thread waits for the lock, its handler too, and a handler of that one as well."""
    lock.acquire()
    log = []

    def inner() -> None:
        log.append("inner")
        releaser.start()
        assert lock.acquire(timeout=TIMEOUT)
        lock.release()

    def outer() -> None:
        log.append("outer")
        interrupt(inner, 0.05)
        assert lock.acquire(timeout=TIMEOUT)
        lock.release()

    releaser = threading.Timer(0.3, lock.release)
    interrupt(outer, 0.05)
    assert lock.acquire(timeout=TIMEOUT)
    assert log == ["outer", "inner"]
    lock.release()


def handle_beside_waiters(
    interrupt: Callable[..., Any],
    handler: Callable[[], object],
    use: Callable[[int], object],
    others: list[Callable[[], object]],
) -> None:
    """Other threads use a lock again and again; so does the main thread, with handlers that do.

    `use` is called with the number of the round. Each thread gets its turns.
    """
    stop = threading.Event()
    turns = [0] * len(others)

    def run(k: int) -> None:
        while not stop.is_set():
            others[k]()
            turns[k] += 1

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(len(others))]
    for thread in threads:
        thread.start()
    halt = interrupt(handler, 0.01, 0.01)
    rounds = 0
    for rounds in for_a_while(1):
        use(rounds)
    while not (rounds and all(turns)):  # on a busy machine
        rounds += 1
        use(rounds)
    halt()
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def finalise_in_collections(
    finalise: Callable[[], object], use: Callable[[int], object], rounds: int
) -> None:
    """Threads use a lock and collect garbage whose finalisers use it too; all of these run."""
    ran: list[object] = []

    class Last:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            ran.append(finalise())

    def work() -> int:
        done = 0
        # Each collection stops all threads, which takes long on a busy machine.
        for k in islice(for_a_while(2), rounds):
            Last()
            use(k)
            gc.collect(0)
            done += 1
        return done

    made = sum(run_threads(work, times=3))
    gc.collect()
    assert len(ran) == made
