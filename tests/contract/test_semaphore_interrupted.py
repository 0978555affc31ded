"""Semaphore: Ctrl-C, signal handlers and finalisers."""

import gc
import signal
import threading
import time
from functools import partial

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from lock_cases import finalise_in_collections, handle_beside_waiters, wait_in_nested_handlers
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, started

from nogil_sync import Semaphore

# Ctrl-C, handlers, finalisers


CALLS = {
    "acquire": lambda s: s.acquire(n=2),
    "acquire with time-out": lambda s: s.acquire(timeout=60, n=3),
    "hold": lambda s: s.hold(3).__enter__(),
}


@starts_processes
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_ctrl_c_ends_wait_and_other_waiters_stay(way, others, name):
    s = Semaphore(3)
    s.acquire(n=2)
    waiters = [threading.Thread(target=lambda: s.acquire(n=2), daemon=True) for _ in range(others)]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.05)
    interrupt_call(lambda: CALLS[name](s), way)
    assert s.available() == 1
    for waiter in waiters:
        s.release(2)
        waiter.join(10)
        assert not waiter.is_alive()
        assert s.available() == 1
    s.release(2)
    assert s.acquire(timeout=5, n=3)
    s.release(3)
    assert s.available() == 3


@starts_processes
@in_own_process
def test_interrupted_waiter_lets_later_waiters_in():
    s = Semaphore(3)
    s.acquire(n=2)
    behind = threading.Thread(target=s.acquire, daemon=True)

    def interrupter():
        while s.acquire(False):  # until somebody is in line, whom this does not overtake
            s.release()
            time.sleep(0.01)
        behind.start()
        time.sleep(0.1)
        assert behind.is_alive()
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupter).start()
    try:
        s.acquire(n=3)
    except KeyboardInterrupt:
        behind.join(10)
        assert not behind.is_alive()
        assert s.available() == 0
    else:
        raise AssertionError


@starts_processes
@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("others", [0, 2])
@in_own_process
def test_interrupted_acquire_takes_nothing(others, at_most):
    interrupts = RandomInterrupts()
    s = Semaphore(3)
    busy = True

    def other():
        while busy:
            if s.acquire(timeout=0.001, n=2):
                s.release(2)

    threads = [threading.Thread(target=other) for _ in range(others)]
    for t in threads:
        t.start()
    for _ in interrupts.rounds():
        if interrupts.call(partial(s.acquire, n=2), True, at_most):
            s.release(2)
    busy = False
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)
    assert s.available() == 3, s
    assert s.acquire(False, n=3)


@sets_handlers
def test_handler_runs_during_a_wait(interrupt):
    s = Semaphore()
    s.acquire()
    calls = []
    interrupt(lambda: calls.append(s.available()), 0.05, 0.05)
    assert s.acquire(timeout=1) is False
    assert len(calls) >= 2
    assert not any(calls)


@sets_handlers
def test_handler_releases_lock_that_its_thread_waits_for(interrupt):
    s = Semaphore(2)
    s.acquire(n=2)
    interrupt(lambda: s.release(2), 0.05)
    assert s.acquire(timeout=TIMEOUT, n=2) is True
    s.release(2)
    assert s.available() == 2


@sets_handlers
def test_handler_uses_lock_that_its_thread_waits_for(interrupt):
    s = Semaphore(3)
    s.acquire(n=3)
    log = []

    def handler():
        s.release(3)
        log.append(s.acquire(timeout=TIMEOUT, n=2))
        log.append(s.acquire(timeout=0.01, n=2))
        log.append(s.acquire(False, n=1))
        with pytest.raises(ValueError):
            s.acquire(n=4)
        s.release(3)
        with s:
            pass
        with s.hold(3, timeout=TIMEOUT):
            log.append(s.available())

    interrupt(handler, 0.05)
    assert s.acquire(timeout=TIMEOUT, n=3) is True
    assert log == [True, False, True, 0]
    s.release(3)
    assert s.available() == 3


@sets_handlers
def test_handler_acquires_before_its_own_waiting_thread(interrupt):
    s = Semaphore(3)
    s.acquire(n=2)
    log = []

    def handler():
        # One permit is left, and this handler interrupts the thread that waits for three.
        log.append(s.acquire(False))
        log.append(s.acquire(False))
        s.release()
        log.append(s.acquire(timeout=TIMEOUT))
        s.release()
        s.release(2)

    interrupt(handler, 0.05)
    assert s.acquire(timeout=TIMEOUT, n=3) is True
    assert log == [True, False, True]
    assert s.available() == 0


@sets_handlers
def test_handler_does_not_overtake_others(interrupt):
    s = Semaphore(3)
    s.acquire(n=2)
    log = []

    def handler():
        other = started(s.acquire, n=2)
        log.append(s.acquire(False))  # it is the other one's turn
        s.release(2)
        other[0].join(TIMEOUT)
        log.append(s.acquire(False))
        s.release(2 + log[-1])

    interrupt(handler, 0.05)
    assert s.acquire(timeout=TIMEOUT, n=3) is True
    assert log[0] is False
    assert s.available() == 0


@sets_handlers
def test_handler_waits_for_same_object_as_its_thread(interrupt):
    s = Semaphore(2)
    s.acquire(n=2)
    log = []

    def handler():
        log.append(s.acquire(timeout=0.01))
        releaser.start()
        log.append(s.acquire(timeout=TIMEOUT, n=2))
        s.release(2)

    releaser = threading.Timer(0.2, s.release, [2])
    interrupt(handler, 0.05)
    assert s.acquire(timeout=TIMEOUT, n=2) is True
    assert log == [False, True]
    releaser.join()
    s.release(2)
    assert s.available() == 2


@sets_handlers
def test_handler_that_interrupts_a_handler_waits_too(interrupt):
    s = Semaphore()
    wait_in_nested_handlers(interrupt, s)
    assert s.available() == 1


@sets_handlers
def test_handler_that_acquires_leaves_other_waiters_alone(interrupt):
    s = Semaphore(2)

    def hold_one():
        with s.hold(1):
            pass

    def hold_two():
        with s.hold(2):
            pass

    def handler():
        if s.acquire(timeout=0.002):
            s.release()

    def use(_):
        assert s.acquire(timeout=TIMEOUT, n=2)
        s.release(2)

    handle_beside_waiters(interrupt, handler, use, [hold_one, hold_two])
    assert s.available() == 2


@starts_threads
def test_finaliser_uses_the_semaphore():
    s = Semaphore(2)
    log = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            log.append(s.acquire(timeout=5))
            s.release()

    Last()
    gc.collect()
    with s:
        Last()
    gc.collect()
    assert log == [True, True]
    assert s.available() == 2


@starts_threads
def test_finalisers_acquire_in_collections_while_threads_wait():
    s = Semaphore(2)

    def use(_):
        with s.hold(2):
            pass

    finalise_in_collections(lambda: s.acquire(timeout=0.001) and s.release(), use, 30)
    assert s.available() == 2
