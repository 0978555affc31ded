"""Signals at random moments, from a timer and from another thread, for every call that waits."""

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import starmap
from threading import BrokenBarrierError
from typing import Any, NamedTuple

import pytest
from marks import starts_processes
from processes import in_own_process
from support import NATIVE, STRESS
from waits import WAITS, outcome, unlocked

from nogil_sync import (
    AtomicInt64,
    AtomicRef,
    Cache,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RWMutex,
    Semaphore,
    ShardedCounter,
    SyncMap,
    WaitGroup,
)

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals between threads"),
]


class Stop(BaseException):
    """Like KeyboardInterrupt: it settles nothing."""


class Storm:
    """Two signals that arrive in the main thread after random microseconds.

    As with RandomInterrupts, a handler runs within the call or not at all: none runs between the
    call's return and the store that disarms it.
    """

    def __init__(self):
        self.on = self.armed = self.in_handler = False
        self.received = 0
        """How many signals were handled."""
        self.raised = 0
        """How many calls were interrupted by an exception."""
        self.in_each_handler = None
        """What the handler calls instead of raising."""
        self.main = threading.get_ident()
        for each in signal.SIGALRM, signal.SIGUSR1:
            signal.signal(each, self.handle)

    @staticmethod
    def soon():
        return random.choice((2e-5, 1e-4, 1e-3)) * (0.5 + random.random())

    def handle(self, *_):
        self.received += 1
        if self.on:
            signal.setitimer(signal.ITIMER_REAL, self.soon())
        if self.in_each_handler is not None:
            if not self.in_handler:
                self.in_handler = True
                self.in_each_handler()
                self.in_handler = False
        elif self.armed:
            self.armed = False
            raise Stop

    def send_signals(self):
        while self.on:
            time.sleep(self.soon() * 3)
            signal.pthread_kill(self.main, signal.SIGUSR1)

    def call_armed(self, function):
        try:
            self.armed = True
            for result in starmap(function, [()]):
                self.armed = False
            return result
        except (TimeoutError, BrokenBarrierError):
            self.armed = False
            raise

    def call(self, function):
        """What the function returns; `Stop` if it was interrupted."""
        try:
            return outcome(partial(self.call_armed, function))
        except Stop:
            self.armed = False
            self.raised += 1
            return Stop

    def rounds(self, seconds):
        self.on = True
        signal.setitimer(signal.ITIMER_REAL, self.soon())
        thread = threading.Thread(target=self.send_signals, daemon=True)
        thread.start()
        end = time.monotonic() + seconds * max(0.2, STRESS)
        while time.monotonic() < end or not self.raised:
            yield
        self.on = False
        thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("name", WAITS)
@in_own_process
def test_wait_that_a_signal_interrupts_has_taken_nothing(name):
    trial, storm = unlocked(name), Storm()
    trial.lock()
    before = trial.state()

    # No thread serves it: it times out or raises, and leaves no trace.
    for _ in storm.rounds(0.4):
        assert storm.call(trial.bind(0.0005)) in (trial.timed_out, Stop)
        assert trial.state() == before

    # It is served at some moment. If it raised, it has not taken what the next call then gets.
    may_be_lost = name in ("Cond.wait", "Barrier.wait")
    may_be_lost = may_be_lost or (not NATIVE and name in ("Channel.send", "select to send"))
    servings = 0
    for _ in storm.rounds(0.4) if not may_be_lost else ():
        thread = threading.Thread(target=lambda: (time.sleep(storm.soon()), trial.serve()))
        thread.start()
        result = storm.call(trial.bind(30))
        trial.unlock()
        thread.join()
        trial.lock()
        if result is Stop:
            result = trial.call(30)
        assert result == trial.served, result
        servings += 1
        trial.reset()
        assert trial.state() == before or not NATIVE

    # The handler waits for the same, and times out.
    def wait_in_handler():
        mine = trial.cond is not None and trial.cond.acquire(False)  # free while the other waits
        assert trial.call(0.0001) == trial.timed_out
        repr(trial.x)
        if mine:
            trial.unlock()

    storm.in_each_handler = wait_in_handler
    ended = (trial.timed_out, *((trial.served,) if trial.wait.fails_for_all else ()))
    for _ in storm.rounds(0.3):
        assert trial.call(0.001) in ended
        assert trial.state() == before
    storm.in_each_handler = None
    trial.unlock()
    print(storm.received, "signals,", storm.raised, "raised,", servings, "served")
    assert storm.raised
    assert storm.received > storm.raised


class Calls(NamedTuple):
    """Calls of an object that run user code, which may be interrupted anywhere."""

    make: Callable[[], Any]
    use: Callable[[Any], object]
    check: Callable[[Any], object]
    """Fails unless the object is whole; may leave it as new."""


class EqualInPython:
    """A key whose equality and hash are Python code."""

    def __init__(self, n):
        self.n = n

    def __hash__(self):
        return self.n // 3

    def __eq__(self, other):
        return isinstance(other, EqualInPython) and self.n == other.n


KEYS = [EqualInPython(n) for n in range(30)]


class Locks:
    def __init__(self):
        self.m, self.rw, self.s, self.k = Mutex(), RWMutex(), Semaphore(3), Cond()

    def use(self):
        with self.m:
            pass
        with self.rw.read:
            pass
        with self.rw.write:
            pass
        with self.s.hold(2), self.k:
            pass

    def check(self):
        assert not any(x.locked() for x in (self.m, self.rw.read, self.rw.write, self.k))
        assert self.s.available() == 3


class FreshOnce:
    def __init__(self):
        self.once = Once()

    def use(self):
        assert Once().do(sum, range(50)) == 1225
        self.once.do(sum, range(50))

    def check(self):
        assert not self.once.done() or self.once.do(int) == 1225
        self.once = Once()


class Closable:
    def __init__(self):
        self.channel, self.closed = Channel(50), Channel(1)
        self.closed.close()

    def use(self):
        self.channel.send(1)
        next(iter(self.channel))
        self.channel.try_send(1)
        self.channel.try_recv()
        list(self.closed)

    def check(self):
        while len(self.channel):
            assert self.channel.recv() == 1


class Counting:
    def __init__(self):
        self.e, self.g, self.a, self.f = Event(), WaitGroup(), AtomicInt64(), ShardedCounter()
        self.unfinished = 0
        """How many uses did not come to their end."""

    def use(self):
        self.unfinished += 1
        self.e.set()
        self.e.wait()
        self.e.clear()
        self.e.wait(0.0001)
        self.g.wait(0.0001)
        self.a.add()
        self.f.add()
        self.unfinished -= 1

    def check(self):
        self.e.set()
        assert self.e.wait(1)
        assert self.g.wait(1)
        assert 0 <= self.a.load() - self.f.value() <= self.unfinished


def compute_and_pop(x):
    x.load_or_compute("k", lambda: sum(range(50)))
    x.pop("k")


def check_computed(x):
    assert x.load_or_compute("k", lambda: 1225) == 1225
    x.clear()
    assert len(x) == 0


def add_and_pop_keys(x):
    for key in KEYS:
        x.setdefault(key, 1)
    for key in KEYS:
        x.pop(key)


def check_keys(x):
    assert len(x) == len(list(x)) == len(set(map(id, x))) == sum(x.values())
    x.clear()


def use_cache(c):
    for key in KEYS:
        c[key] = 1
        c.put(key.n, 1, ttl=1000)
    c.load_or_compute("k", lambda: 1)
    for key in KEYS:
        c.pop(key, None)


def check_cache(c):
    assert len(c) == len(list(c)) == len(set(map(id, c))) == c.stats().weight <= 20
    for n in range(100, 140):
        c[n] = 1
    assert len(c) == c.stats().weight == 20
    c.clear()
    assert len(c) == c.stats().weight == 0
    assert c.load_or_compute("k", lambda: 2) == 2


def update_many(x):
    x.update(zip(range(300), range(300), strict=True))
    x.modify(1, abs, 0)
    x |= {1: 1}
    x.copy()


def check_many(x):
    assert len(x) == len(list(x))
    assert all(k == v for k, v in x.items())
    x.clear()


def take_and_put(pool):
    item = pool.get()
    item[0] += 1
    pool.put([0])
    item[0] -= 1
    pool.put(item)


def check_pool(pool):
    items = [pool.get() for _ in range(pool.idle())]
    assert len(set(map(id, items))) == len(items) <= 20


def check_pair(ref):
    a, b = ref.load()
    assert a == b


CALLS = {
    "with": Calls(Locks, Locks.use, Locks.check),
    "Once": Calls(FreshOnce, FreshOnce.use, FreshOnce.check),
    "SyncMap.load_or_compute": Calls(SyncMap, compute_and_pop, check_computed),
    "SyncMap, Python's equality": Calls(SyncMap, add_and_pop_keys, check_keys),
    "Cache": Calls(lambda: Cache(20), use_cache, check_cache),
    "Cache, hooks": Calls(
        lambda: Cache(20, weigher=lambda k, v: 1, on_evict=lambda *_: None, clock=lambda: 0.0),
        use_cache,
        check_cache,
    ),
    "SyncMap, many": Calls(SyncMap, update_many, check_many),
    "Pool": Calls(
        lambda: Pool(lambda: [0], reset=lambda i: None, drop=lambda i: None, max_idle=20),
        take_and_put,
        check_pool,
    ),
    "AtomicRef.update": Calls(
        lambda: AtomicRef((0, 0)),
        lambda r: r.update(lambda pair: (pair[0] + 1, pair[1] + 1)),
        check_pair,
    ),
    "Channel": Calls(Closable, Closable.use, Closable.check),
    "Event, WaitGroup, atomics": Calls(Counting, Counting.use, Counting.check),
}


@in_own_process
def interrupt_calls(name):
    calls, storm = CALLS[name], Storm()
    x = calls.make()
    for _ in storm.rounds(0.6):
        storm.call(lambda: calls.use(x))
        calls.check(x)
    calls.use(x)
    calls.check(x)
    print(storm.received, "signals,", storm.raised, "raised")
    assert storm.raised


@pytest.mark.parametrize("name", CALLS)
def test_interrupted_user_code_leaves_the_object_whole(name):
    if name == "with" and (not NATIVE or sys.version_info >= (3, 14)):
        pytest.skip(
            "a lock in Python, and from 3.14 on any lock, can be left taken between `with` and its "
            "body: docs/guide/limits.md, and test_with_is_not_entered_while_an_interrupt_is_pending"
        )
    interrupt_calls(name)
