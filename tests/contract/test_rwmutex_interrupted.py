"""RWMutex: Ctrl-C, signal handlers and finalisers."""

import gc
import itertools
import math
import threading
import time

import pytest
from ctrl_c import interrupt_call
from lock_cases import finalise_in_collections, handle_beside_waiters
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from rwmutexes import FREE, sides, state
from support import TIMEOUT

from nogil_sync import RWMutex

# Ctrl-C, handlers, finalisers


@starts_processes
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("others", ["read", "write"])
@pytest.mark.parametrize(
    ("held", "side"), [("read", "write"), ("write", "write"), ("write", "read")]
)
@in_own_process
def test_ctrl_c_ends_wait_and_other_waiters_go_on(held, side, others, timeout):
    rw = RWMutex()
    sides = {"read": rw.read, "write": rw.write}
    sides[held].acquire()
    # They wait for the interrupted call, if that is a writer's.
    waiters = [threading.Thread(target=sides[others].acquire, daemon=True) for _ in range(2)]

    def start():
        time.sleep(0.1)
        for waiter in waiters:
            waiter.start()

    starter = threading.Thread(target=start)
    starter.start()
    way = "interrupt_main" if timeout is None else "kill"
    interrupt_call(lambda: sides[side].acquire(timeout=timeout), way)
    starter.join()
    if held == others == "read":
        for waiter in waiters:
            waiter.join(10)
        for _ in range(3):
            rw.read.release()
    else:
        sides[held].release()
        for _ in waiters:
            end = time.monotonic() + 10
            while not sides[others].locked() and time.monotonic() < end:
                time.sleep(0.001)
            sides[others].release()
        for waiter in waiters:
            waiter.join(10)
    assert not any(waiter.is_alive() for waiter in waiters)
    assert not rw.read.locked()
    assert not rw.write.locked()
    assert rw.write.acquire(timeout=5)
    rw.write.release()


@starts_processes
@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("others", [0, 2])
@in_own_process
def test_interrupted_acquire_takes_nothing(others, at_most):
    interrupts = RandomInterrupts()
    rw = RWMutex()
    busy = True

    def other(side):
        while busy:
            if side.acquire(timeout=0.001):
                side.release()

    views = [rw.read, rw.write]
    threads = [threading.Thread(target=other, args=(views[k % 2],)) for k in range(others)]
    for t in threads:
        t.start()
    turn = itertools.cycle(views)
    for _ in interrupts.rounds():
        side = next(turn)
        if interrupts.call(side.acquire, True, at_most):
            side.release()
    busy = False
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)
    assert not rw.read.locked(), rw
    assert not rw.write.locked(), rw
    assert rw.write.acquire(False)


@sets_handlers
@sides
def test_handler_releases_lock_that_its_thread_waits_for(interrupt, side):
    rw = RWMutex()
    rw.write.acquire()
    interrupt(rw.write.release, 0.05)
    assert getattr(rw, side).acquire(timeout=TIMEOUT) is True
    getattr(rw, side).release()
    assert state(rw) == FREE


@sets_handlers
@sides
def test_handler_uses_lock_that_its_thread_waits_for(interrupt, side):
    rw = RWMutex()
    rw.write.acquire()
    log = []

    def handler():
        rw.write.release()
        for view in (rw.read, rw.write):
            log.append(view.acquire(timeout=TIMEOUT))
            log.append(rw.write.acquire(timeout=0.01))
            view.release()
            log.append(view.acquire(False))
            with pytest.raises(ValueError):
                view.acquire(timeout=math.nan)
            view.release()
        with rw.write:
            rw.downgrade()
            with rw.read:
                pass

    interrupt(handler, 0.05)
    assert getattr(rw, side).acquire(timeout=TIMEOUT) is True
    assert log == [True, False, True] * 2
    getattr(rw, side).release()
    assert state(rw) == FREE


@sets_handlers
def test_handler_reads_while_its_thread_waits_to_write(interrupt):
    rw = RWMutex()
    rw.read.acquire()
    log = []

    def handler():
        # This handler interrupts the waiting writer, which keeps no reader out meanwhile.
        log.append(rw.read.acquire(False))
        log.append(rw.read.acquire(timeout=TIMEOUT))
        log.append(rw.write.acquire(False))
        for _ in range(3):
            rw.read.release()

    interrupt(handler, 0.05)
    assert rw.write.acquire(timeout=TIMEOUT) is True
    assert log == [True, True, False]
    rw.write.release()
    assert state(rw) == FREE


@sets_handlers
@sides
def test_handler_waits_for_same_object_as_its_thread(interrupt, side):
    rw = RWMutex()
    rw.write.acquire()
    log = []

    def handler():
        for view in (rw.read, rw.write):
            log.append(view.acquire(timeout=0.01))
        releaser.start()
        for view in (rw.write, rw.read):
            log.append(view.acquire(timeout=TIMEOUT))
            view.release()

    releaser = threading.Timer(0.2, rw.write.release)
    interrupt(handler, 0.05)
    assert getattr(rw, side).acquire(timeout=TIMEOUT) is True
    assert log == [False, False, True, True]
    releaser.join()
    getattr(rw, side).release()
    assert state(rw) == FREE


@sets_handlers
def test_handler_that_acquires_leaves_other_waiters_alone(interrupt):
    rw = RWMutex()

    def read():
        with rw.read:
            pass

    def write():
        with rw.write:
            pass

    def handler():
        for view in (rw.read, rw.write):
            if view.acquire(timeout=0.002):
                view.release()

    def use(k):
        view = (rw.read, rw.write)[k % 2]
        assert view.acquire(timeout=TIMEOUT)
        view.release()

    handle_beside_waiters(interrupt, handler, use, [write, read])
    assert state(rw) == FREE


@starts_threads
def test_finaliser_uses_the_lock():
    rw = RWMutex()
    log = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            log.append(rw.read.acquire(timeout=5))
            rw.read.release()
            log.append(rw.write.acquire(timeout=0.001))
            if log[-1]:
                rw.write.release()

    Last()
    gc.collect()
    with rw.read:
        Last()
    gc.collect()
    assert log == [True, True] * 2
    assert state(rw) == FREE


@starts_threads
def test_finalisers_acquire_in_collections_while_threads_wait():
    rw = RWMutex()
    views = itertools.cycle((rw.read, rw.write))

    def finalise():
        view = next(views)
        return view.acquire(timeout=0.001) and view.release()

    def use(k):
        with (rw.read, rw.write)[k % 2]:
            pass

    finalise_in_collections(finalise, use, 30)
    assert state(rw) == FREE
