"""A thousand threads at once, on however few cores: all are served, and no state is left."""

import threading
import time

import pytest
from processes import in_own_process

from nogil_sync import (
    AtomicInt64,
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
    TaskGroup,
    WaitGroup,
    once,
)

pytestmark = pytest.mark.thread_unsafe(reason="starts a thousand threads in a process of its own")

THREADS = 1000


def crowd(function):
    """Call the function in a thousand threads at the same time."""
    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=function) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@in_own_process(timeout=120)
def test_thousand_threads_use_a_mutex():
    done = AtomicInt64()
    m, guarded = Mutex(), [0]

    def use():
        with m:
            guarded[0] += 1
        if m.acquire(timeout=0.0001):
            m.release()
        done.add()

    m.acquire()
    threading.Timer(0.5, m.release).start()
    crowd(use)
    assert guarded == [THREADS]
    assert not m.locked()
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_rwmutex():
    done = AtomicInt64()
    rw, guarded = RWMutex(), [0]

    def use():
        if done.add() % 10 == 0:
            with rw.write:
                guarded[0] += 1
        else:
            with rw.read:
                assert guarded[0] >= 0

    rw.write.acquire()
    threading.Timer(0.5, rw.write.release).start()
    crowd(use)
    assert guarded == [THREADS // 10]
    assert not rw.read.locked()
    assert not rw.write.locked()
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_semaphore():
    done = AtomicInt64()
    s = Semaphore(3)

    def use():
        n = 1 + done.add() % 3
        with s.hold(n):
            assert s.available() <= 3 - n

    s.acquire(n=3)
    threading.Timer(0.5, s.release, (3,)).start()
    crowd(use)
    assert s.available() == 3
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_cond():
    done = AtomicInt64()
    c, ready = Cond(), []

    def use():
        with c:
            c.wait_for(lambda: ready)
        done.add()

    def let_go():
        with c:
            ready.append(1)
            c.notify_all()

    threading.Timer(0.5, let_go).start()
    crowd(use)
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_an_event_waitgroup_and_counter():
    done = AtomicInt64()
    e, g, total = Event(), WaitGroup(), ShardedCounter()
    g.add(THREADS)

    def use():
        e.wait()
        total.add()
        g.done()
        g.wait()
        done.add()

    threading.Timer(0.5, e.set).start()
    crowd(use)
    assert total.value() == THREADS
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_syncmap():
    done = AtomicInt64()
    m, computed = SyncMap(), AtomicInt64()

    def compute(key):
        computed.add()
        ready.wait()
        return [key]

    ready = Event()
    threading.Timer(0.5, ready.set).start()

    def use():
        n = done.add()
        assert m.load_or_compute(n % 10, compute, n % 10) == [n % 10]
        for k in range(5):
            m[n, k] = n
        if n % 10 == 0:  # losers retry: the time is the square of their number
            m.modify("sum", lambda total: total + n, 0)
        for k in range(5):
            assert m.pop((n, k)) == n

    crowd(use)
    assert computed.load() == 10
    assert len(m) == 11
    assert m["sum"] == sum(range(0, THREADS + 1, 10))
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_pool():
    done = AtomicInt64()
    made, gone = AtomicInt64(), AtomicInt64()

    def new():
        made.add()
        return [0]

    pool = Pool(new, drop=lambda item, gone=gone: gone.add(), max_idle=50, age=False)
    start = Event()
    threading.Timer(0.5, start.set).start()

    def use():
        start.wait()
        for _ in range(5):
            with pool.use() as item:
                item[0] += 1
                assert item[0] <= 5 * THREADS
        done.add()

    crowd(use)
    assert pool.idle() <= 50 + THREADS, pool  # exact but for one item a thread
    assert pool.idle() + gone.load() == made.load()
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_an_unbuffered_channel():
    done = AtomicInt64()
    ch = Channel()
    received = ShardedCounter()

    def use():
        n = done.add()
        if n % 2:
            for k in range(4):
                ch.send(n)
        else:
            for k in range(4):
                received.add(ch.recv())

    crowd(use)
    assert len(ch) == 0
    assert ch.try_recv() is None
    assert received.value() == 4 * sum(range(1, THREADS + 1, 2))
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_channel_that_is_closed():
    done = AtomicInt64()
    ch = Channel(7)
    sums = AtomicInt64()

    def use():
        n = done.add()
        if n <= 500:
            ch.send(n)
        else:
            for item in ch:
                sums.add(item)

    def close():
        while sums.load() != sum(range(501)):
            time.sleep(0.01)
        ch.close()

    closer = threading.Thread(target=close)
    closer.start()
    crowd(use)
    closer.join()
    assert list(ch) == []
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_one_once():
    done = AtomicInt64()
    o, ran = Once(), []
    hold = Event()
    threading.Timer(0.5, hold.set).start()

    @once
    def shared():
        ran.append(1)
        hold.wait()
        return ran

    @once
    def failing():
        hold.wait()
        raise KeyError("once")

    def use():
        assert shared() is ran
        assert o.do(list, "ab") == ["a", "b"]
        if done.add() <= 100:  # each takes a turn to raise, see the class
            try:
                failing()
            except KeyError:
                pass
            else:
                raise AssertionError

    crowd(use)
    assert ran == [1]
    assert done.load() == THREADS


@in_own_process(timeout=120)
def test_thousand_threads_use_a_taskgroup():
    done = AtomicInt64()
    hold = Event()
    threading.Timer(0.5, hold.set).start()
    with TaskGroup() as group:
        futures = [group.go(lambda: hold.wait() and done.add()) for _ in range(THREADS)]
    assert sorted(f.result() for f in futures) == list(range(1, THREADS + 1))
    assert threading.active_count() <= 2  # the timer

    done.store(0)
    inner = TaskGroup(limit=3)
    with inner:
        crowd(lambda: inner.go(done.add))
    assert done.load() == THREADS
