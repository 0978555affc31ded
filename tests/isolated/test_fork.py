"""Forks while other threads contend for every object: the child finds them whole."""

import _thread
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time

import pytest
from forks import exit_code_of, in_child
from marks import forks, needs_fork
from processes import in_own_process
from support import FREE_THREADED, NATIVE, settle

from nogil_sync import (
    AtomicBool,
    AtomicInt32,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    AtomicUint64,
    Event,
    Mutex,
    Once,
    Pool,
    ShardedCounter,
    ShardedFloatCounter,
    once,
)

pytestmark = [
    forks,
    needs_fork,
]


@in_own_process(timeout=120)
def test_child_finds_all_objects_whole_in_forty_forks():
    integers = [AtomicInt64(), AtomicUint64(), AtomicInt32(), AtomicUint32()]
    flag = AtomicBool()
    ref = AtomicRef([1, 1])
    counter, floats = ShardedCounter(), ShardedFloatCounter()
    mutex, event = Mutex(), Event()
    latest = [Once()]  # being run by some thread, mostly
    pool = Pool(lambda: [0, 0], drop=lambda pair: check_pair(pair), max_idle=30)
    quiet = Mutex()  # no thread holds it at the fork
    guarded = [0, 0]
    stop = False

    def check_pair(pair):
        assert pair[0] == pair[1], pair

    def fight(k):
        i = 0
        while not stop:
            i += 1
            for a in integers:
                a.add(2)
                a.fetch_or(0)
                a.fetch_max(0)
                a.compare_and_swap(a.load(), a.load())
            flag.swap(i % 2)
            ref.store([i, i])
            ref.compare_and_swap(ref.load(), [i, i])
            counter.add(2)
            floats.add(2)
            if i % 50 == 0:
                counter.add(-counter.reset())
            if mutex.acquire(timeout=0.0005 if k % 2 else -1):
                guarded[0] += 1
                guarded[1] += 1
                mutex.release()
            if i % 3:
                event.set()
            event.clear()
            event.wait(0.0001)
            pairs = [pool.get() for _ in range(i % 6)]
            for pair in pairs:
                pair[0] += 1
                pair[1] += 1
                pool.put(pair)
            if k == 0:
                latest[0] = Once()
            assert latest[0].do(lambda: (time.sleep(0.0001), 7)[1]) == 7

    def check():
        # Internal locks are free, and data is whole.
        for a in integers:
            before = a.load()
            assert before % 2 == 0, a
            assert a.add(2) == before + 2
            assert a.fetch_xor(0) == a.load()
            a.store(7)
            assert a.swap(9) == 7
        flag.store(True)
        assert flag.compare_and_swap(True, False)
        x, y = ref.load()
        assert x == y
        ref.store([5, 5])
        assert ref.update(lambda v: [*v, 5]) == [5, 5, 5]
        assert counter.value() % 2 == 0, counter
        counter.reset()
        assert counter.value() == 0
        counter.add(3)
        assert counter.value() == 3
        assert floats.value() % 2 == 0, floats
        floats.add(0.5)
        floats.reset()
        assert floats.value() == 0
        # The thread that held the mutex is gone: it stays held, times out, and can be released.
        if mutex.acquire(timeout=0.02):
            assert guarded[0] == guarded[1]
        else:
            assert mutex.locked()
            assert not mutex.acquire(False)
        mutex.release()
        for _ in range(3):
            assert mutex.acquire(timeout=5)
            assert not mutex.acquire(timeout=0.001)
            mutex.release()
        assert not mutex.locked()
        with quiet:
            assert quiet.locked()
        event.clear()
        assert event.wait(0.001) is False
        event.set()
        assert event.wait(0.001) is True
        # A run of another thread has not begun in the child.
        assert latest[0].do(lambda: 7) == 7
        assert once(lambda: 8)() == 8
        # Each idle item was put back whole, and is there once.
        idle = [pool.get() for _ in range(pool.idle())]
        for pair in idle:
            check_pair(pair)
        assert len({id(pair) for pair in idle}) == len(idle)
        for pair in idle:
            pool.put(pair)
        assert pool.idle() <= 30 + 3
        import gc

        for _ in range(3):
            gc.collect()
        assert pool.idle() == 0
        # Threads of the child can use all objects.
        integers[0].store(0)
        counter.reset()
        event.clear()

        def work():
            assert event.wait(10)
            for _ in range(200):
                integers[0].add()
                counter.add()
                with pool.use() as pair:
                    pair[0] += 1
                    pair[1] += 1
                with mutex:
                    guarded[0] += 1

        guarded[0] = 0
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        event.set()
        for t in threads:
            t.join(10)
        assert not any(t.is_alive() for t in threads)
        assert integers[0].load() == counter.value() == guarded[0] == 600
        assert sum(pool.get()[0] for _ in range(pool.idle())) == 600

    threads = [threading.Thread(target=fight, args=(k,), daemon=True) for k in range(3)]
    for t in threads:
        t.start()
    for _ in range(40):
        time.sleep(0.003)
        in_child(check)
    stop = True
    for t in threads:
        t.join(10)
    assert guarded[0] == guarded[1]
    assert not mutex.locked()


@in_own_process
def test_held_mutex_stays_held_in_the_child_and_its_waiters_are_forgotten():
    m, gone = Mutex(), Mutex()

    def hold():
        with gone:
            time.sleep(1)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    while not gone.locked():
        time.sleep(0.001)
    m.acquire()
    waiters = [threading.Thread(target=lock.acquire, daemon=True) for lock in (m, m, gone, gone)]
    for w in waiters:
        w.start()
    time.sleep(0.05)

    def child():
        for lock in (m, gone):
            assert lock.locked()
            begin = time.monotonic()
            assert lock.acquire(timeout=0.05) is False
            assert time.monotonic() - begin < 20
            assert lock.acquire(False) is False
            lock.release()
            assert not lock.locked()
            try:
                lock.release()
            except RuntimeError:
                pass
            else:
                raise AssertionError
            for _ in range(3):
                with lock:
                    pass
        m.acquire()
        waiter = threading.Thread(target=m.acquire, daemon=True)
        waiter.start()
        time.sleep(0.02)
        m.release()
        waiter.join(5)
        assert not waiter.is_alive()
        assert m.locked()
        m._at_fork_reinit()
        assert m.acquire(timeout=1)

    for _ in range(5):
        in_child(child)
    m.release()


@in_own_process
def test_grandchild_finds_all_objects_whole():
    m, c, e = Mutex(), ShardedCounter(), Event()
    c.add(5)
    m.acquire()
    waiters = [threading.Thread(target=f, daemon=True) for f in (m.acquire, e.wait)]
    for w in waiters:
        w.start()
    time.sleep(0.02)

    def grandchild():
        assert c.value() == 7
        assert m.acquire(timeout=0.01) is False
        m.release()
        e.set()
        assert e.wait(1)

    def child():
        c.add(2)
        w = threading.Thread(target=m.acquire, daemon=True)
        w.start()
        time.sleep(0.02)
        in_child(grandchild)
        m.release()
        w.join(5)
        assert not w.is_alive()

    in_child(child)
    assert c.value() == 5


@in_own_process
def test_child_forgets_waiters_of_an_event():
    e = Event()
    waiters = [threading.Thread(target=e.wait, daemon=True) for _ in range(3)]
    for w in waiters:
        w.start()
    time.sleep(0.02)

    def child():
        assert not e.is_set()
        assert e.wait(0.01) is False
        threading.Timer(0.05, e.set).start()
        assert e.wait(10) is True

    in_child(child)
    assert not e.is_set()
    e.set()
    for w in waiters:
        w.join(5)
        assert not w.is_alive()


@in_own_process
def test_child_counts_what_vanished_threads_added():
    c = ShardedCounter()
    go, done = threading.Event(), threading.Barrier(5)

    def work():
        for _ in range(100):
            c.add()
        done.wait()
        go.wait()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for t in threads:
        t.start()
    done.wait()

    def child():
        assert c.value() == 400
        more = [threading.Thread(target=c.add) for _ in range(20)]
        for t in more:
            t.start()
        for t in more:
            t.join()
        assert c.value() == 420
        assert c.reset() == 420
        assert c.value() == 0

    in_child(child)
    go.set()
    assert c.value() == 400


@pytest.mark.parametrize("cls", [Mutex, Event])
@in_own_process
def test_handler_forks_and_wait_goes_on_in_both_processes(cls):
    # The child goes on in the handler, and then in the wait, which is its own.
    m, e = Mutex(), Event()
    m.acquire()
    for f in (m.acquire, e.wait):
        threading.Thread(target=f, daemon=True).start()
    parent = os.getpid()
    child = None

    def handler(*_):
        nonlocal child
        child = os.fork()
        if child == 0:
            for f in (m.release, e.set):
                threading.Timer(0.1, f).start()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    got = m.acquire(timeout=3) if cls is Mutex else e.wait(3)
    if os.getpid() == parent:
        assert got is False
        assert exit_code_of(child) == 0
    else:
        os._exit(0 if got is True else 3)


@pytest.mark.skipif(
    not NATIVE and sys.version_info >= (3, 13),
    reason="CPython from 3.13 on tells a thread of the parent: no loop is interrupted either",
)
@in_own_process
def test_main_thread_of_a_child_forked_by_another_thread_is_interrupted():
    # The thread that forks is the main thread of the child; it was not when it waited before.
    e, done = Event(), []

    def child():
        try:
            threading.Timer(0.1, _thread.interrupt_main).start()
            e.wait(15)
        except KeyboardInterrupt:
            return
        raise AssertionError("not interrupted")

    def fork():
        assert e.wait(0.001) is False
        in_child(child)
        done.append(True)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    assert done


@in_own_process
def test_child_of_an_idle_process_uses_all_objects():
    m, c, e, r = Mutex(), ShardedCounter(1), Event(), AtomicRef("x")

    def child():
        with m:
            c.add()
        assert c.value() == 2
        assert r.load() == "x"
        e.set()
        assert e.wait()
        m2 = Mutex()
        with m2:
            pass

    for _ in range(10):
        in_child(child)
    assert c.value() == 1


@in_own_process
def test_logging_with_a_mutex_survives_a_fork():
    class Handler(logging.Handler):
        def createLock(self):  # noqa: N802
            self.lock = Mutex()
            logging._register_at_fork_reinit_lock(self)

        def emit(self, record):
            pass

    # The handler by itself: a logger has dicts and caches of CPython's,
    # whose locks do not survive a fork.
    handler = Handler()

    def say():
        handler.handle(record)

    record = logging.LogRecord("x", logging.WARNING, "", 0, "x", (), None)
    stop = False

    def chatter():
        while not stop:
            say()

    threads = [threading.Thread(target=chatter, daemon=True) for _ in range(2)]
    for t in threads:
        t.start()
    for _ in range(20):
        time.sleep(0.002)
        in_child(say)
    stop = True
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)


@in_own_process(env={"PYTHONWARNINGS": "ignore"})
def test_multiprocessing_by_fork():
    c, m = ShardedCounter(), Mutex()

    def work(n):
        with m:
            c.add(n)
        return c.value()

    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        assert all(v >= 1 for v in pool.map(work, [1, 2, 3], chunksize=1))
    assert c.value() == 0


@in_own_process
def test_locks_are_free_for_hooks_that_are_older_than_the_package():
    # Such as those of logging, which resets the locks of its handlers.
    hooks = []
    os.register_at_fork(after_in_child=lambda: [hook() for hook in hooks])
    from support import settle

    from nogil_sync import Cond, Mutex, RLock, RWMutex, Semaphore

    rw = RWMutex()
    pairs = [(lock, lock) for lock in (Mutex(), RLock(), RWMutex().write, Semaphore(), Cond())]
    for held, wanted in [*pairs, (rw.write, rw.read)]:
        held.acquire()
        for _ in range(2):
            waiter = threading.Thread(target=wanted.acquire, daemon=True)
            waiter.start()
            settle(waiter)
        hooks.append(held._at_fork_reinit)

    def child():
        for held, _ in pairs:
            assert held.acquire(blocking=False), held
        assert rw.read.acquire(blocking=False)
        rw.read.release()
        assert rw.write.acquire(blocking=False)

    in_child(child)
    os._exit(0)


@pytest.mark.skipif(NATIVE, reason="its own locks tell by themselves that the process has forked")
@in_own_process
def test_hooks_that_are_older_than_the_package_wait_for_no_section_of_another_thread():
    hooks = []
    os.register_at_fork(after_in_child=lambda: [hook() for hook in hooks])
    from nogil_sync import RLock, RWMutex, Semaphore
    from nogil_sync._common.guard import _guards

    inside = threading.Event()

    def stay_in_all_sections():
        for guard in _guards:
            guard.held = True
        inside.set()
        threading.Event().wait()

    for lock in (RLock(), RWMutex(), Semaphore()):
        hooks.append(lock._at_fork_reinit)
    threading.Thread(target=stay_in_all_sections, daemon=True).start()
    inside.wait()
    in_child(lambda: None)
    os._exit(0)


def test_platform_is_not_windows():
    assert sys.platform != "win32"


@pytest.mark.skipif(not FREE_THREADED, reason="dicts have no locks of their own")
@in_own_process
def test_child_needs_no_lock_of_a_dict_that_other_threads_used():
    # A thread may have got the lock, or have been about to get it, when the fork stopped it: see
    # `_common.sleep`. Here it has got it, by hand: the lock is a byte in each object's header.
    import ctypes

    from nogil_sync._common import contention, deadlock, recording, runs, sleep

    begun, finish = Event(), Event()

    def wait_long():
        begun.set()
        finish.wait()

    slow, fresh = Once(), Once()
    threads = [threading.Thread(target=slow.do, args=(wait_long,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()

    def child():
        assert sleep.naps() == []
        assert deadlock._looking == deadlock._told == {}
        assert fresh.do(lambda: 1) == 1
        assert slow.do(lambda: 2) == 2
        outcome = []
        waiting = threading.Thread(target=lambda: outcome.append(fresh.do(lambda: 3)))
        waiting.start()
        waiting.join()
        assert outcome == [1]

    # As if there were a contention profile, whose thread would look at what was recorded.
    contention._recorders.all = (None,)
    recording._ended.append(None)
    used = [sleep.sleeping, runs._running, runs._waits, deadlock._looking, deadlock._told]
    used.append(recording._ended)
    locks = [ctypes.c_uint8.from_address(id(each) + 10) for each in used]
    for _ in range(3):
        settle(threads[0])
        settle(threads[1])
        for lock in locks:
            lock.value = 1
        try:
            in_child(child)
        finally:
            for lock in locks:
                lock.value = 0
    contention._recorders.all = ()
    finish.set()
    for thread in threads:
        thread.join()
