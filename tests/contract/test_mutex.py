"""Mutex: the interface and errors of threading.Lock; waits, interrupts and handing off."""

import gc
import logging
import math
import threading
import time

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from lock_cases import (
    finalise_in_collections,
    handle_beside_waiters,
    wait_in_nested_handlers,
)
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, eventually, run_threads

from nogil_sync import Mutex


def waiting(mutex, timeout=None):
    """A started thread that acquires the mutex, and the list its result goes into."""
    result = []
    thread = threading.Thread(
        target=lambda: result.append(mutex.acquire(timeout=timeout)), daemon=True
    )
    thread.start()
    return thread, result


# The interface


def test_acquire_and_release():
    m = Mutex()
    assert m.locked() is False
    assert m.acquire() is True
    assert m.locked() is True
    assert m.release() is None
    assert m.locked() is False


def test_mutex_is_not_reentrant():
    m = Mutex()
    with m:
        assert m.acquire(False) is False
        assert m.acquire(blocking=False) is False
        assert m.acquire(timeout=0) is False
        assert m.acquire(True, 0.01) is False


def test_error_messages_are_those_of_threading_lock():
    m = Mutex()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        m.release()
    with pytest.raises(ValueError, match="can't specify a timeout for a non-blocking call"):
        m.acquire(False, 5)


def test_release_of_free_lock_raises():
    m = Mutex()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            m.release()
    with m:
        pass
    with pytest.raises(RuntimeError):
        m.release()
    assert not m.locked()


def test_at_fork_reinit_frees_it():
    m = Mutex()
    m._at_fork_reinit()
    assert not m.locked()
    m.acquire()
    m._at_fork_reinit()
    assert not m.locked()
    with m:
        pass


# Between threads


@starts_threads
def test_any_thread_may_release():
    m = Mutex()
    m.acquire()
    run_threads(m.release)
    assert not m.locked()


@starts_threads
def test_lock_admits_one_at_a_time():
    m = Mutex()
    total = 0
    n = 3000

    def work():
        nonlocal total
        for _ in range(n):
            with m:
                seen = total
                total = seen + 1

    run_threads(work, times=4)
    assert total == 4 * n
    assert not m.locked()


@starts_threads
def test_each_release_wakes_one_waiter():
    m = Mutex()
    m.acquire()
    pairs = [waiting(m) for _ in range(5)]
    time.sleep(0.05)
    for done in range(1, 6):
        m.release()
        assert eventually(lambda done=done: sum(len(r) for _, r in pairs) == done)
        assert m.locked()
    m.release()
    for thread, result in pairs:
        thread.join(TIMEOUT)
        assert result == [True]


@starts_threads
def test_waiters_are_served_in_order():
    m = Mutex()
    order = []

    def work(k):
        with m:
            order.append(k)

    m.acquire()
    workers = []
    for k in range(6):
        workers.append(threading.Thread(target=work, args=(k,), daemon=True))
        workers[-1].start()
        time.sleep(0.02)
    m.release()
    for worker in workers:
        worker.join(TIMEOUT)
    assert order == list(range(6))


@starts_threads
def test_long_waiter_gets_the_lock_before_a_try():
    m = Mutex()
    m.acquire()
    thread, result = waiting(m)
    time.sleep(0.05)
    m.release()
    # The mutex was handed off, or is reserved for the waiter: a try cannot get it first.
    assert m.acquire(False) is False
    thread.join(TIMEOUT)
    assert result == [True]
    m.release()


@starts_threads
def test_acquire_times_out():
    m = Mutex()
    m.acquire()
    begin = time.monotonic()
    assert m.acquire(timeout=0.1) is False
    assert 0.09 <= time.monotonic() - begin < 20
    thread, result = waiting(m, 0.05)
    thread.join(TIMEOUT)
    assert result == [False]
    m.release()
    assert m.acquire(timeout=0.1) is True
    m.release()


@starts_threads
def test_timed_out_waiters_leave_the_queue():
    m = Mutex()
    m.acquire()
    first, first_result = waiting(m, 0.05)
    second, second_result = waiting(m)
    third, third_result = waiting(m, 0.1)
    first.join(TIMEOUT)
    third.join(TIMEOUT)
    assert (first_result, third_result) == ([False], [False])
    m.release()
    second.join(TIMEOUT)
    assert second_result == [True]
    assert m.acquire(False) is False
    m.release()
    assert m.acquire(False) is True
    m.release()


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    m = Mutex()
    m.acquire()
    thread, result = waiting(m)
    for _ in range(3):
        gc.collect()
    assert not result
    m.release()
    thread.join(TIMEOUT)
    m.release()


@starts_threads
def test_lock_is_freed_while_locked_and_after_waits():
    for _ in range(50):
        m = Mutex()
        m.acquire()
        assert not m.acquire(timeout=0.0001)
        del m


# As a replacement of threading.Lock


@starts_threads
def test_threading_condition_works_over_mutex():
    m = Mutex()
    condition = threading.Condition(m)
    with pytest.raises(RuntimeError):
        condition.notify()
    with pytest.raises(RuntimeError):
        condition.wait(0)
    with condition:
        assert m.locked()
        assert condition.wait(0.01) is False
        assert m.locked()
    items, got = [], []

    def consume():
        with condition:
            while not items:
                assert condition.wait(TIMEOUT)
            got.append(items.pop())

    def produce():
        for k in range(50):
            with condition:
                items.append(k)
                condition.notify()

    run_threads(produce, produce, *[lambda: [consume() for _ in range(25)]] * 4)
    assert sorted(got) == sorted([*range(50)] * 2)


@starts_threads
def test_mutex_is_the_lock_of_a_logging_handler():
    lines = []

    class Handler(logging.Handler):
        def createLock(self):  # noqa: N802
            self.lock = Mutex()

        def emit(self, record):
            assert self.lock.locked()
            lines.append(record.msg)

    handler = Handler()
    logger = logging.Logger("with a mutex")
    logger.addHandler(handler)
    run_threads(lambda: [logger.warning("line") for _ in range(50)], times=3)
    assert lines == ["line"] * 150
    handler.acquire()
    handler.lock._at_fork_reinit()  # as logging does in the child
    logger.warning("line")


# Ctrl-C, handlers, finalisers

CALLS = {
    "acquire": lambda m: m.acquire(),
    "acquire with time-out": lambda m: m.acquire(timeout=60),
    "with": lambda m: m.__enter__(),
}


@starts_processes
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_ctrl_c_ends_wait_and_other_waiters_stay(way, others, name):
    m = Mutex()
    m.acquire()
    waiters = [threading.Thread(target=m.acquire, daemon=True) for _ in range(others)]
    for waiter in waiters:
        waiter.start()
    interrupt_call(lambda: CALLS[name](m), way)
    assert m.locked()
    for _ in waiters:
        m.release()
        time.sleep(0.02)
    m.release()
    for waiter in waiters:
        waiter.join(10)
    assert m.acquire(timeout=5)
    m.release()
    assert not m.locked()


def contend(m, others):
    """Start threads that acquire and release the mutex; return what ends them."""
    busy = True

    def run():
        while busy:
            if m.acquire(timeout=0.001):
                m.release()

    def end():
        nonlocal busy
        busy = False
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)

    threads = [threading.Thread(target=run) for _ in range(others)]
    for thread in threads:
        thread.start()
    return end


@starts_processes
@pytest.mark.parametrize("others", [0, 2])
@in_own_process
def test_interrupted_acquire_takes_nothing(others):
    m = Mutex()
    end = contend(m, others)
    interrupts = RandomInterrupts()
    for _ in interrupts.rounds():
        if interrupts.call(m.acquire, True):
            m.release()
    end()
    assert m.acquire(timeout=5)


@starts_processes
@in_own_process
def test_acquire_interrupted_as_it_raises_takes_nothing():
    m = Mutex()
    end = contend(m, 2)
    interrupts = RandomInterrupts()
    for _ in interrupts.rounds():
        if interrupts.call(m.acquire, True, at_most=3):
            m.release()
    end()
    assert m.acquire(timeout=5)


@sets_handlers
def test_handler_runs_during_a_wait(interrupt):
    m = Mutex()
    m.acquire()
    calls = []
    interrupt(lambda: calls.append(m.locked()), 0.05, 0.05)
    end = time.monotonic() + TIMEOUT
    while len(calls) < 2 and time.monotonic() < end:  # late signals arrive as one
        assert m.acquire(timeout=0.4) is False
    assert len(calls) >= 2
    assert all(calls)
    m.release()


@sets_handlers
def test_handler_releases_lock_that_its_thread_waits_for(interrupt):
    m = Mutex()
    m.acquire()
    interrupt(m.release, 0.05)
    assert m.acquire(timeout=TIMEOUT) is True
    m.release()
    assert not m.locked()


@sets_handlers
def test_handler_uses_lock_that_its_thread_waits_for(interrupt):
    m = Mutex()
    m.acquire()
    log = []

    def handler():
        # As with threading.Lock, the handler may release the lock, which is free then.
        m.release()
        log.append(m.acquire(timeout=TIMEOUT))
        log.append(m.acquire(timeout=0.01))
        m.release()
        log.append(m.acquire(False))
        with pytest.raises(ValueError):
            m.acquire(timeout=math.nan)
        m.release()
        m.acquire()
        m.release()

    interrupt(handler, 0.05)
    assert m.acquire(timeout=TIMEOUT) is True
    assert log == [True, False, True]
    m.release()
    assert not m.locked()


@sets_handlers
def test_handler_waits_for_same_lock_as_its_thread(interrupt):
    m = Mutex()
    m.acquire()
    log = []

    def handler():
        releaser.start()
        log.append(m.acquire(timeout=TIMEOUT))
        m.release()

    releaser = threading.Timer(0.2, m.release)
    interrupt(handler, 0.05)
    assert m.acquire(timeout=TIMEOUT) is True
    assert log == [True]
    releaser.join()
    m.release()
    assert not m.locked()


@sets_handlers
def test_handler_times_out_and_interrupted_wait_goes_on(interrupt):
    m = Mutex()
    m.acquire()
    log = []

    def handler():
        log.append(m.acquire(timeout=0.01))
        if log[-1]:  # if the lock was released in just these 10 ms
            m.release()
        if len(log) == 1:
            releaser.start()

    releaser = threading.Timer(0.3, m.release)
    stop = interrupt(handler, 0.05, 0.05)
    assert m.acquire(timeout=TIMEOUT) is True
    stop()
    assert log[0] is False
    releaser.join()
    m.release()
    assert not m.locked()


@sets_handlers
def test_handler_that_interrupts_a_handler_waits_too(interrupt):
    m = Mutex()
    wait_in_nested_handlers(interrupt, m)
    assert not m.locked()


@sets_handlers
def test_handler_that_acquires_leaves_other_waiters_alone(interrupt):
    m = Mutex()

    def work():
        with m:
            pass

    def handler():
        # Waits at most until its time-out for a lock that its own thread holds.
        if m.acquire(timeout=0.002):
            m.release()

    def use(_):
        assert m.acquire(timeout=TIMEOUT)
        m.release()

    handle_beside_waiters(interrupt, handler, use, [work, work])
    assert not m.locked()


@starts_threads
def test_finaliser_uses_the_lock():
    m = Mutex()
    log = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            log.append(m.acquire(timeout=5))
            m.release()

    Last()
    gc.collect()
    with m:
        Last()
    gc.collect()
    assert log == [True, True]


@starts_threads
def test_finalisers_acquire_in_collections_while_threads_wait():
    m = Mutex()

    def use(_):
        with m:
            pass

    finalise_in_collections(lambda: m.acquire(timeout=0.001) and m.release(), use, 100)
    assert not m.locked()
