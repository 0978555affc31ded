"""Threads contend for locks and events, with time-outs, interrupts and what is built on them."""

import itertools
import queue
import random
import signal
import threading
import time

import pytest
from marks import starts_threads
from support import TIMEOUT, background, cores, for_a_while, run_threads

from nogil_sync import AtomicInt64, Event, Mutex, ShardedCounter, pin

pytestmark = starts_threads

SECONDS = 0.6
THREADS = max(4, min(16, cores() + 2))


class Guarded:
    """Notices when two are inside."""

    def __init__(self):
        self.inside = 0
        self.total = 0

    def enter(self):
        assert self.inside == 0
        self.inside = 1
        self.total += 1
        assert self.inside == 1
        self.inside = 0


@pytest.mark.parametrize("pinned", [False, True])
def test_lock_admits_one_at_a_time(pinned):
    m = pin(Mutex()) if pinned else Mutex()
    guarded = Guarded()

    def work():
        done = 0
        for i in for_a_while(SECONDS):
            if i % 2:
                with m:
                    guarded.enter()
            else:
                assert m.acquire() is True
                guarded.enter()
                m.release()
            done += 1
        return done

    assert sum(run_threads(work, times=THREADS)) == guarded.total
    assert not m.locked()


def test_lock_admits_one_at_a_time_with_tries_and_timeouts():
    m = Mutex()
    guarded = Guarded()
    timed_out = ShardedCounter()

    def work(k):
        rng = random.Random(k)
        done = 0
        for _ in for_a_while(SECONDS):
            way = rng.randrange(5)
            if way == 0:
                got = m.acquire(False)
            elif way == 1:
                got = m.acquire(timeout=rng.choice([0, 1e-9, 1e-6, 1e-5, 1e-4, 1e-3]))
            elif way == 2:
                got = m.acquire(timeout=TIMEOUT)
            else:
                got = m.acquire()
            if not got:
                timed_out.add()
                continue
            guarded.enter()
            if way == 4:
                time.sleep(rng.choice([0, 1e-5, 2e-3]))
            m.release()
            done += 1
        return done

    results = run_threads(*[lambda k=k: work(k) for k in range(THREADS)])
    assert sum(results) == guarded.total
    assert not m.locked()
    assert m.acquire(False)
    m.release()


def test_long_held_lock_is_handed_on():
    m = Mutex()

    def work():
        done = 0
        for _ in for_a_while(SECONDS):
            with m:
                time.sleep(0.002)
            done += 1
        return done

    shares = run_threads(work, times=4)
    assert min(shares) >= 2, shares


def test_all_threads_make_progress():
    m = Mutex()
    stop = time.monotonic() + 2

    def work():
        done = 0
        longest = 0.0
        while time.monotonic() < stop:
            begin = time.monotonic()
            with m:
                longest = max(longest, time.monotonic() - begin)
            done += 1
        return done, longest

    results = run_threads(work, times=THREADS)
    shares = [done for done, _ in results]
    print("shares", shares, "longest wait", f"{max(w for _, w in results) * 1000:.1f} ms")
    assert min(shares) > 0, shares


def test_lock_is_released_by_other_threads():
    # Two locks make a relay: each is released by the thread that does not hold it.
    left, right = Mutex(), Mutex()
    right.acquire()
    log = []

    def ping():
        for _ in range(500):
            left.acquire()
            log.append("ping")
            right.release()

    def pong():
        for _ in range(500):
            right.acquire()
            log.append("pong")
            left.release()

    run_threads(ping, pong)
    assert log == ["ping", "pong"] * 500


def test_wrong_releases_among_right_ones_raise():
    m = Mutex()
    wrong = AtomicInt64()
    balance = AtomicInt64()

    def work():
        for _ in for_a_while(SECONDS):
            try:
                m.release()
            except RuntimeError:
                wrong.add()
            else:
                balance.sub()
            if m.acquire(timeout=0.0001):
                balance.add()

    run_threads(work, times=THREADS)
    assert balance.load() == (1 if m.locked() else 0)
    if m.locked():
        m.release()
    assert m.acquire(timeout=1)


def test_interrupted_waits_take_nothing(interrupt):
    # The main thread is interrupted out of its waits again and again: it must leave no trace.
    m = Mutex()
    guarded = Guarded()

    class StopError(Exception):
        pass

    waiting = False

    def handler():
        nonlocal waiting
        if waiting:
            waiting = False
            raise StopError

    def other():
        if m.acquire(timeout=0.01):
            guarded.enter()
            time.sleep(0.0005)
            m.release()

    raised = taken = 0
    halt = interrupt(handler, 0.001, 0.0007)
    with background(*[other] * 3):
        for _ in for_a_while(2):
            got = False
            try:
                waiting = True
                # Handlers run after a call, but not after a step of `for`: so nothing comes
                # between the return of acquire and the store that disarms them.
                for got in map(m.acquire, [True], [0.004]):
                    waiting = False
            except StopError:
                raised += 1
                assert not got
            if got:
                guarded.enter()
                m.release()
                taken += 1
        halt()
    print("raised", raised, "taken", taken)
    assert raised
    assert m.acquire(timeout=5)


def test_threading_condition_works_over_mutex():
    condition = threading.Condition(Mutex())
    items = []
    n = 400

    def produce():
        for k in range(n):
            with condition:
                while len(items) > 5:
                    assert condition.wait(TIMEOUT)
                items.append(k)
                condition.notify_all()

    def consume():
        got = []
        for _ in range(n):
            with condition:
                while not items:
                    assert condition.wait(TIMEOUT)
                got.append(items.pop(0))
                condition.notify_all()
        return got

    results = run_threads(produce, produce, consume, consume)
    assert sorted(results[2] + results[3]) == sorted([*range(n)] * 2)


def test_queue_works_over_mutex():
    q = queue.Queue(3)
    q.mutex = Mutex()
    q.not_empty = threading.Condition(q.mutex)
    q.not_full = threading.Condition(q.mutex)
    q.all_tasks_done = threading.Condition(q.mutex)
    n = 500
    results = run_threads(
        *[lambda: [q.put(k, timeout=TIMEOUT) for k in range(n)]] * 3,
        *[lambda: [q.get(timeout=TIMEOUT) for _ in range(n)]] * 3,
    )
    assert sorted(itertools.chain(*results[3:])) == sorted([*range(n)] * 3)


def test_barrier_works_over_mutex():
    barrier = threading.Barrier(4)
    barrier._cond = threading.Condition(Mutex())
    rounds = run_threads(lambda: [barrier.wait(TIMEOUT) for _ in range(200)], times=4)
    assert all(sorted(each) == [0, 1, 2, 3] for each in zip(*rounds, strict=True))


def test_dining_philosophers_all_eat():
    forks = [Mutex() for _ in range(5)]
    meals = [0] * 5

    def dine(k):
        left, right = forks[k], forks[(k + 1) % 5]
        for _ in for_a_while(SECONDS):
            with left:
                if right.acquire(timeout=0.0005):
                    meals[k] += 1
                    right.release()

    run_threads(*[lambda k=k: dine(k) for k in range(5)])
    assert all(meals), meals
    assert not any(fork.locked() for fork in forks)


# Events


def test_two_threads_take_turns_by_events():
    ping, pong = Event(), Event()

    def left():
        for _ in range(1000):
            ping.set()
            assert pong.wait(TIMEOUT)
            pong.clear()

    def right():
        for _ in range(1000):
            assert ping.wait(TIMEOUT)
            ping.clear()
            pong.set()

    run_threads(left, right)


def test_event_rounds_wake_all():
    # All waiters see every round, though the event is cleared at once.
    n, rounds = THREADS, 60
    e = Event()
    arrived = AtomicInt64()
    seen = []

    def wait():
        for _ in range(rounds):
            arrived.add()
            assert e.wait(TIMEOUT)

    def lead():
        for k in range(rounds):
            while arrived.load() < n * (k + 1):
                e.set()  # wakes threads that had not yet begun to wait in the round before
                e.clear()
                time.sleep(0)
            time.sleep(0.001)
            e.set()
            e.clear()
            seen.append(k)
        while True:
            e.set()
            if arrived.load() >= n * rounds:
                return

    run_threads(lead, *[wait] * n)
    assert len(seen) == rounds


def test_event_wakes_waiters_beside_timeouts():
    e = Event()

    def toggle():
        e.set()
        e.clear()
        time.sleep(0.0002)

    woken = ShardedCounter()

    def wait():
        for i in for_a_while(SECONDS):
            if e.wait([None, 1e-6, 1e-4, 1e-3, 10][i % 5]):
                woken.add()

    with background(toggle):
        run_threads(wait, times=THREADS)
    assert woken.value()


def test_interrupted_waits_for_an_event_lose_nothing(interrupt):
    e = Event()

    class StopError(Exception):
        pass

    waiting = False

    def handler():
        nonlocal waiting
        if waiting:
            waiting = False
            raise StopError

    patient = AtomicInt64()

    def other():
        if e.wait(0.5):  # in the end no thread sets it any more
            patient.add()
            time.sleep(0.0001)

    def toggle():
        time.sleep(0.002)
        e.set()
        e.clear()

    raised = 0
    halt = interrupt(handler, 0.001, 0.0007)
    with background(toggle, other, other):
        for _ in for_a_while(1.5):
            try:
                waiting = True
                e.wait(0.004)
                waiting = False
            except StopError:
                raised += 1
        halt()
    print("raised", raised, "woken", patient.load())
    assert raised
    assert patient.load()


def test_signals_are_handled_while_waiting():
    assert hasattr(signal, "SIGUSR1")
    m = Mutex()
    m.acquire()
    count = 0

    def handler(*_):
        nonlocal count
        count += 1

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.get_ident()
    try:
        with background(lambda: (signal.pthread_kill(main, signal.SIGUSR1), time.sleep(0.0002))):
            for _ in range(5):
                assert m.acquire(timeout=0.05) is False
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert count > 10
