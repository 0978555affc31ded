"""Uses every object in every way for minutes, and watches the memory: ./dev soak [MINUTES].

With --deadlocks each wait of two milliseconds looks for deadlocks. There are none, so each alarm is
a false one, and the run fails. Looks take memory for a while, so the memory is not judged then.

Threads come and go, wait, give up and fail; objects are made, shared and dropped.  After a warm-up
the resident size must stay flat: what grows with the number of rounds is a leak.  To take part, a
new object gets an entry in `WORK`.
"""

import argparse
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import nogil_sync
from nogil_sync import (
    AtomicInt64,
    AtomicRef,
    Barrier,
    Cache,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RLock,
    RWMutex,
    Semaphore,
    ShardedCounter,
    ShardedFloatCounter,
    SyncMap,
    TaskGroup,
    Ticker,
    WaitGroup,
    after,
    once,
    once_property,
    select,
    shield,
    try_select,
)

THREADS = 4
ALLOWED = 6 << 20  # bytes of growth after the warm-up, however long the run
SHORT = 0.0005
AFTER = 0.002  # seconds after which a wait looks for a deadlock


class OnPurposeError(Exception):
    pass


def fail(*_: object) -> None:
    raise OnPurposeError


def ignore_on_purpose(unraisable: Any) -> None:
    """Print what no caller gets, say from an `on_evict`, unless it was raised on purpose."""
    if unraisable.exc_type is not OnPurposeError:
        sys.__unraisablehook__(unraisable)


def locks(lock: Any) -> None:
    def use() -> None:
        for _ in range(20):
            if lock.acquire(timeout=SHORT):
                lock.release()
            with lock:
                pass

    share(use)


def share(*functions: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def run(function: Callable[[], Any]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    each = functions * (THREADS // len(functions))
    threads = [threading.Thread(target=run, args=(f,)) for f in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def mutex() -> None:
    locks(Mutex())


def rlock() -> None:
    m = RLock()
    locks(m)

    def use() -> None:
        for _ in range(20):
            with m, m:
                pass
            if m.acquire(timeout=SHORT):
                m.release()

    share(use)


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


def barrier() -> None:
    b = Barrier(THREADS, lambda: None)
    broken = Barrier(THREADS + 1)

    def meet() -> None:
        for _ in range(10):
            b.wait()
        with suppress(threading.BrokenBarrierError):
            broken.wait(SHORT)
        broken.reset()

    share(meet)


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
    f: Any = once(lambda: [f])
    failing = once(fail)
    o: Once[None] = Once(retry=True)
    itself: Once[Any] = Once()

    def call() -> None:
        assert f() is f()
        for refused in (failing, lambda: o.do(fail)):
            with suppress(OnPurposeError):
                refused()
        with suppress(RuntimeError):
            itself.do(lambda: itself.do(int))

    share(call)


class Lazy:
    @once_property
    def value(self) -> list[Any]:
        return [self]

    @once_property
    def failing(self) -> None:
        raise OnPurposeError

    @once_property
    def itself(self) -> Any:
        return self.itself


def once_property_() -> None:
    lazy = Lazy()

    def read() -> None:
        assert lazy.value[0] is lazy
        with suppress(OnPurposeError):
            lazy.failing
        with suppress(RuntimeError):
            lazy.itself

    share(read)
    del lazy.value


def taskgroup() -> None:
    with suppress(ExceptionGroup), TaskGroup(2) as group:
        for n in range(6):
            group.go([].pop if n == 5 else int)


def taskgroup_of_tasks() -> None:
    with suppress(ExceptionGroup), TaskGroup(2) as group:
        futures: list[Any] = []
        for _ in range(3):
            futures.append(group.go(lambda: futures.append(group.go(lambda: futures))))
        raise OnPurposeError


def taskgroup_cancelled() -> None:
    with TaskGroup(2) as group:
        for _ in range(4):
            group.go(group.wait_cancelled)
        assert not group.wait_cancelled(SHORT)
        group.cancel()
        assert group.go(fail).cancelled()


def taskgroup_of_waits() -> None:
    numbers: Channel[int] = Channel()
    called: list[int] = []
    with suppress(TimeoutError), TaskGroup(timeout=SHORT) as outer:
        outer.on_cancel(called.append, 1)
        outer.go(numbers.recv)
        with TaskGroup() as inner:
            inner.go(select, numbers, Event(), Ticker(3600), after(3600))
            inner.go(Semaphore(0).acquire)
            with shield():
                Event().wait(SHORT)
            outer.go(int).result()
            Event().wait()
    assert called == [1]


def timers() -> None:
    ticker = Ticker(SHORT)
    assert next(ticker) < ticker.recv()
    assert select(after(3600), ticker).case is ticker
    select(after(SHORT), Event())
    ticker.stop()
    assert not list(ticker)


def taskgroup_on_an_executor() -> None:
    with ThreadPoolExecutor(2) as executor:
        with suppress(ExceptionGroup), TaskGroup(executor=executor) as group:
            group.go(fail)
            group.go(int).result()
        with TaskGroup(1, executor=executor) as group:
            group.go(int)


class Key:
    """A key whose equality is Python code, and fails now and then."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __hash__(self) -> int:
        return hash(("Key", self.n % 2))

    def __eq__(self, other: object) -> bool:
        if random.random() < 0.05:
            raise OnPurposeError
        return isinstance(other, Key) and other.n == self.n


def syncmap() -> None:
    m: SyncMap[Any, Any] = SyncMap()

    def use() -> None:
        for n in range(40):
            m[n] = m[str(n)] = [m, n]
            m[n, threading.get_ident()] = m
            m.insert(n % 7, n)
            m.swap(n, iter(m))
            m.compare_and_swap(n, m.get(n), None)
            m.modify(n, lambda old: [old], None)
            m.compare_and_delete(n - 1, m.get(n - 1))
            m.pop(str(n), None)
            with suppress(OnPurposeError):
                m[Key(n % 5)] = m.pop(Key(n % 3), None)
            with suppress(OnPurposeError):
                m.modify(n, fail, None)
            with suppress(KeyError):
                m.popitem()
        next(iter(m.items()), None)
        with suppress(OnPurposeError):
            (m | {"more": m}).snapshot()
        m.clear()

    share(use)
    m["left"] = m


def cache() -> None:
    c: Cache[Any, Any] = Cache(20, ttl=0.001, on_evict=lambda key, value, cause: c.get(key))

    def use() -> None:
        for n in range(40):
            c[n] = c[str(n)] = [c, n]
            c.put((n, threading.get_ident()), c, ttl=1000)
            c.get(n - 3)
            c.pop(str(n), None)
            with suppress(OnPurposeError):
                c[Key(n % 5)] = c.pop(Key(n % 3), None)
            with suppress(OnPurposeError):
                c.load_or_compute(("failing", n), fail, n)
            c.load_or_compute(("loaded", n), str, n)
        list(c)
        len(c)
        c.stats()

    share(use)
    c.clear()
    c["left"] = c


def load_or_compute() -> None:
    m: SyncMap[Any, Any] = SyncMap()

    def compute(n: int) -> list[Any]:
        if n % 3 == 0:
            raise OnPurposeError
        return [m, n]

    def slow() -> list[Any]:
        time.sleep(SHORT)
        return [m]

    def itself() -> Any:
        return m.load_or_compute("itself", itself)

    def use() -> None:
        for n in range(20):
            with suppress(OnPurposeError):
                m.load_or_compute(n % 6, compute, n % 6)
            with suppress(TimeoutError):
                m.load_or_compute("slow", slow, timeout=SHORT / 2)
            with suppress(RuntimeError):
                m.load_or_compute("itself", itself)
            m.pop("slow", None)  # what is just being computed, too
            m.pop(n % 6, None)

    share(use)


def pool() -> None:
    def reset(item: list[Any]) -> bool:
        if random.random() < 0.1:
            raise OnPurposeError
        return len(item) < 4

    p: Pool[list[Any]] = Pool(list, reset=reset, drop=list.clear, max_idle=5)

    def use() -> None:
        for n in range(20):
            with suppress(OnPurposeError), p.use() as item:
                item.append(p)
                if n % 5 == 0:
                    raise OnPurposeError
            items = [p.get(), p.get()]
            with suppress(OnPurposeError):
                p.put(items.pop())
        p.use().__enter__()
        if random.random() < 0.1:
            p.clear()

    share(use)


def channel() -> None:
    buffered, rendezvous = channels = [Channel[Any](3), Channel[Any]()]

    def send() -> None:
        for n in range(20):
            for c in channels:
                with suppress(TimeoutError, ChannelClosed):
                    c.send([c, n], SHORT)
                with suppress(ChannelClosed):
                    c.try_send([c, n])

    def recv() -> None:
        for _ in range(20):
            for c in channels:
                with suppress(TimeoutError, ChannelClosed):
                    c.recv(SHORT)
                with suppress(ChannelClosed):
                    c.try_recv()

    def choose() -> None:
        for n in range(20):
            with suppress(TimeoutError, ChannelClosed):
                select(*channels, *(c.sending([c, n]) for c in channels), timeout=SHORT)
            with suppress(ChannelClosed):
                try_select(rendezvous.sending(n), buffered)

    share(send, recv)
    share(send, recv, choose)
    share(send, recv, choose, rendezvous.close)
    with suppress(TimeoutError):
        while True:
            buffered.send([buffered], 0)


# Objects that outlive the threads that use them: what a thread leaves in them must not pile up.
counter, rwlock = ShardedCounter(), RWMutex()
items: Pool[list[Any]] = Pool(list)
routes: SyncMap[Any, Any] = SyncMap()
log = Channel[Any](8)
kept: list[Any] = [Mutex(), Event(), Pool(list), SyncMap(), [1]]


class Farewell:
    """Uses everything as it goes."""

    def __del__(self) -> None:
        routes[threading.get_ident()] = items.get()
        log.try_send(routes.pop(threading.get_ident(), None))
        counter.add()


def short_lived_threads() -> None:
    def use() -> None:
        local = threading.local()
        local.last = Farewell()
        for n in range(20):
            counter.add()
            with rwlock.read:
                items.put([n])
            routes[threading.get_ident(), n] = Farewell()
            log.try_send(items.get())
            log.try_recv()
        for n in range(20):
            del routes[threading.get_ident(), n]
        with rwlock.write:
            pass

    share(use)
    counter.reset()


def pin() -> None:
    mutex, _, pool, map_, _ = kept

    def use() -> None:
        for each in kept:
            assert nogil_sync.pin(each) is each
        nogil_sync.pin_all([*kept, None, "soaked"])
        with mutex:
            pool.put([])
            map_[1] = pool.get()
        assert not nogil_sync.is_pinned([])
        with suppress(TypeError):
            nogil_sync.pin_all(None)  # type: ignore[arg-type]

    share(use)


WORK: list[Callable[[], None]] = [
    mutex,
    rlock,
    rwmutex,
    cond,
    semaphore,
    event,
    barrier,
    waitgroup,
    counters,
    atomics,
    once_,
    once_property_,
    taskgroup,
    taskgroup_of_tasks,
    taskgroup_cancelled,
    taskgroup_of_waits,
    timers,
    taskgroup_on_an_executor,
    syncmap,
    cache,
    load_or_compute,
    pool,
    channel,
    short_lived_threads,
    pin,
]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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


def detect_deadlocks() -> tuple[list[object], list[str]]:
    """Have each wait look; return what grows by one for each look, and the alarms."""
    from nogil_sync.diagnostics import detect_deadlocks

    deadlock: Any = import_module("nogil_sync._common.deadlock")
    looks: list[object] = []
    alarms: list[str] = []
    look, report = deadlock._look, deadlock._report

    def counted(*args: Any) -> float:
        looks.append(None)
        return look(*args)

    def noted(error: Any, *args: Any) -> None:
        alarms.append(str(error))
        report(error, *args)

    deadlock._look = counted  # type: ignore[assignment]
    deadlock._report = noted  # type: ignore[assignment]
    detect_deadlocks("raise", after=AFTER)
    return looks, alarms


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./dev soak")
    parser.add_argument("minutes", nargs="?", type=float, default=2.0)
    parser.add_argument("--deadlocks", action="store_true", help="look for deadlocks meanwhile")
    given = parser.parse_args(arguments)
    seconds = 60 * given.minutes
    sys.unraisablehook = ignore_on_purpose
    looks, alarms = detect_deadlocks() if given.deadlocks else ([], [])
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
    if given.deadlocks:
        print(f"soaked {seconds / 60:g} minutes, {done} rounds: {len(looks)} looks, ", end="")
        print(f"{len(alarms)} alarms", *alarms, sep="\n")
        return 1 if alarms else 0
    grown = resident() - before
    flat = grown < ALLOWED
    verdict = "flat" if flat else "LEAKS"
    print(f"soaked {seconds / 60:g} minutes, {done} rounds: {grown / 2**20:+.2f} MiB: {verdict}")
    return 0 if flat else 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it at once
    sys.exit(main(sys.argv[1:]))
