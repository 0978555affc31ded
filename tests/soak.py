"""Uses every object in every way for minutes, and watches the memory: ./dev soak [MINUTES].

Threads come and go, wait, give up and fail; objects are made, shared and dropped.  After a warm-up
the resident size must stay flat: what grows with the number of rounds is a leak.  To take part, a
new object gets an entry in `WORK`.
"""

import gc
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nogil_sync
from nogil_sync import (
    AtomicInt64,
    AtomicRef,
    Cond,
    Event,
    Mutex,
    Once,
    RWMutex,
    Semaphore,
    ShardedCounter,
    ShardedFloatCounter,
    TaskGroup,
    WaitGroup,
    once,
)

THREADS = 4
ALLOWED = 6 << 20  # bytes of growth after the warm-up, however long the run
SHORT = 0.0005


class OnPurposeError(Exception):
    pass


def locks(lock: Any) -> None:
    def use() -> None:
        for _ in range(20):
            if lock.acquire(timeout=SHORT):
                lock.release()
            with lock:
                pass

    share(use)


def share(*functions: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=f) for f in functions * (THREADS // len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def mutex() -> None:
    locks(Mutex())


def rwmutex() -> None:
    rw = RWMutex()

    def read() -> None:
        for _ in range(20):
            with rw.read:
                pass

    def write() -> None:
        for _ in range(10):
            with rw.write:
                rw.downgrade()
            if rw.write.acquire(timeout=SHORT):
                rw.write.release()

    share(read, write)


def cond() -> None:
    c, items = Cond(), [0]

    def put() -> None:
        for _ in range(20):
            with c:
                items.append(1)
                c.notify()

    def get() -> None:
        for _ in range(20):
            with c:
                if c.wait_for(lambda: len(items) > 1, SHORT):
                    items.pop()

    share(put, get)


def semaphore() -> None:
    s = Semaphore(3)

    def use() -> None:
        for n in range(20):
            if s.acquire(timeout=SHORT, n=1 + n % 3):
                s.release(1 + n % 3)
            try:
                with s.hold(2, SHORT):
                    raise OnPurposeError
            except (OnPurposeError, TimeoutError):
                pass

    share(use)
    assert s.available() == 3


def event() -> None:
    e = Event()

    def wait() -> None:
        for _ in range(10):
            e.wait(SHORT)
            e.clear()

    def let_go() -> None:
        for _ in range(10):
            e.set()

    share(wait, let_go)


def waitgroup() -> None:
    g = WaitGroup()
    for _ in range(3):
        g.go(time.sleep, 0)
    g.wait()


def counters() -> None:
    c, f = ShardedCounter(), ShardedFloatCounter()

    def add() -> None:
        for _ in range(100):
            c.add()
            f.add(0.5)

    share(add)
    assert c.reset() == THREADS * 100
    f.value()


def atomics() -> None:
    a, r = AtomicInt64(), AtomicRef[Any]()

    def use() -> None:
        for n in range(100):
            a.add(10**15)
            r.store([n])
            r.load()
            r.swap((r, n))  # a cycle
        r.update(lambda old: [old])

    share(use)


def once_() -> None:
    f = once(lambda: [1])
    o: Once[None] = Once(retry=True)

    def fail() -> None:
        raise OnPurposeError

    def call() -> None:
        f()
        try:
            o.do(fail)
        except OnPurposeError:
            pass

    share(call)


def taskgroup() -> None:
    try:
        with TaskGroup(2) as group:
            for n in range(6):
                group.go([].pop if n == 5 else int)
    except ExceptionGroup:
        pass


WORK: list[Callable[[], None]] = [
    mutex,
    rwmutex,
    cond,
    semaphore,
    event,
    waitgroup,
    counters,
    atomics,
    once_,
    taskgroup,
]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def rounds(seconds: float) -> int:
    end = time.monotonic() + seconds
    done = 0
    while time.monotonic() < end:
        for work in random.sample(WORK, len(WORK)):
            work()
        done += 1
    for _ in range(3):
        gc.collect()
    return done


def main(arguments: Iterable[str]) -> int:
    seconds = 60 * float(next(iter(arguments), "2"))
    warm_up = rounds(max(2.0, seconds / 5))
    before = peak = resident()
    done = 0
    print(f"backend {nogil_sync.backend}, {len(WORK)} kinds of work, {THREADS} threads each")
    print(f"  warm-up: {warm_up} rounds")
    for part in range(1, 9):
        done += rounds(seconds / 10)
        now = resident()
        peak = max(peak, now)
        print(
            f"  {part}/8  {done:7} rounds  {now / 2**20:7.1f} MiB  {(now - before) / 2**20:+.2f}",
            flush=True,
        )
    grown = resident() - before
    flat = grown < ALLOWED
    verdict = "flat" if flat else "LEAKS"
    print(f"soaked {seconds / 60:g} minutes, {done} rounds: {grown / 2**20:+.2f} MiB: {verdict}")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
