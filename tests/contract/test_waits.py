"""Every call that waits: time-outs, Ctrl-C, handlers, finalisers, collections."""

import _thread
import gc
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from operator import call

import pytest
from support import TIMEOUT
from waits import WAITS, WaitTrial

import nogil_sync
from nogil_sync import Cond, Mutex, Pool, RLock, RWMutex, Semaphore

every_wait = pytest.mark.parametrize("name", WAITS)
pytestmark = pytest.mark.thread_unsafe(reason="starts threads and sets signal handlers")


@contextmanager
def alarm(handler, seconds=0.04):
    """Run the handler once, `seconds` from now, in the main thread."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def still_waits_and_is_served(trial):
    """The object is as if no thread had ever waited."""
    assert trial.call(0.01) == trial.timed_out
    trial.serve_soon()
    assert trial.call() == trial.served


@every_wait
@pytest.mark.parametrize("timeout", [0, 0.001, 0.1])
def test_wait_times_out_and_leaves_no_trace(name, timeout):
    trial = WaitTrial(name)
    before = trial.state()
    begin = time.monotonic()
    assert trial.call(timeout) == trial.timed_out
    assert timeout - 0.001 <= time.monotonic() - begin < timeout + TIMEOUT / 10
    assert trial.state() == before
    still_waits_and_is_served(trial)


@every_wait
def test_wait_returns_when_served(name):
    trial = WaitTrial(name)
    for turn in range(3):
        if turn:
            trial.reset()  # and not after the last, as it may start a thread that waits
        timer = trial.serve_soon(0.02)
        assert trial.call() == trial.served
        timer.join()


@every_wait
def test_wait_of_another_thread_is_served(name):
    if name.startswith("Cond"):
        pytest.skip("the thread that waits holds the lock")
    trial = WaitTrial(name)
    results = []
    thread = threading.Thread(target=lambda: results.append(trial.call()), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert not results
    gc.collect()  # stops all threads, so it would hang if one of them never came to a stop
    trial.serve()
    thread.join(TIMEOUT)
    assert results == [trial.served]


@every_wait
def test_other_threads_collect_during_a_wait(name):
    trial = WaitTrial(name)
    collected = []

    def collect():
        for _ in range(3):
            gc.collect()
        collected.append(1)
        trial.serve()

    thread = threading.Timer(0.02, collect)
    thread.start()
    assert trial.call() == trial.served
    assert collected
    thread.join()


@every_wait
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_signal_interrupts_the_wait(name, timeout):
    if timeout is None and name.startswith(("Mutex", "RWMutex")):
        timeout = -1
    trial = WaitTrial(name)
    before = trial.state()

    def interrupt():
        raise KeyboardInterrupt

    with alarm(interrupt), pytest.raises(KeyboardInterrupt):
        trial.call(timeout)
    assert trial.state() == before
    still_waits_and_is_served(trial)


@every_wait
def test_interrupt_main_interrupts_the_wait(name):
    # _thread.interrupt_main() wakes nobody.
    trial = WaitTrial(name)
    before = trial.state()
    timer = threading.Timer(0.05, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        trial.call()
    timer.join()
    assert trial.state() == before
    still_waits_and_is_served(trial)


@every_wait
def test_wait_interrupted_as_it_is_served(name):
    # Either outcome is right, and the interrupt may come right after the call; but the object is
    # either served or as before.
    other = WaitTrial(name)
    if not other.wait.only_waiters:
        other.serve()
        assert other.call() == other.served
    after_it = other.state()
    for _ in range(20):
        trial, begun = WaitTrial(name), []

        def serve_and_interrupt(trial=trial, begun=begun):
            while not begun:  # an interrupt in Thread.start would be another test
                time.sleep(0.001)
            time.sleep(0.004)
            trial.serve()
            _thread.interrupt_main()

        thread = threading.Thread(target=serve_and_interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            begun.append(True)
            trial.call()
            thread.join()
            time.sleep(TIMEOUT)
        thread.join()
        if not trial.wait.only_waiters:
            assert trial.state() == after_it or trial.call(0) == trial.served
        trial.reset()
        still_waits_and_is_served(trial)


@every_wait
def test_wait_served_as_a_handler_runs(name):
    # The handler does nothing, so the interruption does not lose what the call was served.
    me = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        for _ in range(30):
            trial = WaitTrial(name)

            def interrupt_and_serve(trial=trial):
                signal.pthread_kill(me, signal.SIGUSR1)
                trial.serve()

            timer = threading.Timer(0.003, interrupt_and_serve)
            timer.start()
            assert trial.call(TIMEOUT) == trial.served
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@every_wait
def test_handler_serves_the_wait_it_interrupts(name):
    trial = WaitTrial(name)
    with alarm(trial.serve):
        assert trial.call() == trial.served


@every_wait
def test_handler_waits_for_same_object_and_times_out(name):
    trial = WaitTrial(name)
    results = []

    def wait_too():
        results.append(trial.call_unlocked(0.02))
        trial.serve_soon()

    with alarm(wait_too):
        results.append(trial.call())
    assert results == [trial.timed_out, trial.served]


@every_wait
def test_handler_is_served_before_the_wait_it_interrupts(name):
    if WAITS[name].serves_all or WAITS[name].only_waiters:
        pytest.skip("serves all, or only those who waited before")
    if name.startswith("RLock"):
        pytest.skip("what the handler took the interrupted call may take again: test_rlock.py")
    trial = WaitTrial(name)
    results = []

    def wait_too():
        timer = trial.serve_soon(0.02)
        results.append(trial.call())
        timer.join()
        trial.reset()
        trial.serve_soon(0.02)

    with alarm(wait_too):
        results.append(trial.call())
    assert results == [trial.served, trial.served]


@every_wait
@pytest.mark.parametrize("timeout", [0, TIMEOUT])
def test_handler_takes_what_its_thread_was_granted(name, timeout):
    # The interrupted call is served while the handler runs, and then the handler wants the same.
    if WAITS[name].serves_all or WAITS[name].only_waiters or name.startswith(("SyncMap", "Cache")):
        pytest.skip("serves all, or only those who waited before")
    if name.startswith("RLock"):
        pytest.skip("what the handler took the interrupted call may take again: test_rlock.py")
    trial = WaitTrial(name)
    results = []

    def take():
        trial.serve()
        results.append(trial.call(timeout))
        trial.reset()
        results.append(trial.call(0))
        trial.serve_soon()

    with alarm(take):
        results.append(trial.call())
    assert results == [trial.served, trial.timed_out, trial.served]


@every_wait
def test_wait_ends_while_handlers_run_all_the_time(name):
    trial = WaitTrial(name)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        assert trial.call(0.1) == trial.timed_out
        trial.serve_soon(0.2)
        assert trial.call() == trial.served
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@every_wait
def test_finaliser_in_a_handler_serves_the_wait(name):
    trial = WaitTrial(name)

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            trial.serve()

    def collect():
        Last()
        gc.collect()

    with alarm(collect):
        assert trial.call() == trial.served


@every_wait
def test_many_timed_out_waits_leave_no_trace(name):
    if name.startswith("Cond"):
        pytest.skip("the thread that waits holds the lock")
    trial = WaitTrial(name)
    before = trial.state()
    threads = [
        threading.Thread(target=lambda: [trial.call(0.002) for _ in range(20)]) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert trial.state() == before
    still_waits_and_is_served(trial)


def pool_with_item():
    pool = Pool(list)
    pool.put([])
    return pool


# How to make the object, its context manager, and whether somebody is in the body of `with`.
ENTERED = {
    "Mutex": (Mutex, lambda m: m, lambda m: m.locked()),
    "RLock": (RLock, lambda m: m, lambda m: m.locked()),
    "RWMutex.read": (RWMutex, lambda rw: rw.read, lambda rw: rw.read.locked()),
    "RWMutex.write": (RWMutex, lambda rw: rw.write, lambda rw: rw.write.locked()),
    "Semaphore": (lambda: Semaphore(3), lambda s: s, lambda s: s.available() < 3),
    "Semaphore.hold": (lambda: Semaphore(3), lambda s: s.hold(2), lambda s: s.available() < 3),
    "Cond": (Cond, lambda c: c, lambda c: c.locked()),
    "Cond over a lock": (lambda: Cond(threading.RLock()), lambda c: c, lambda c: c._is_owned()),
    "Pool.use": (pool_with_item, lambda pool: pool.use(), lambda pool: pool.idle() < 1),
}
every_entry = pytest.mark.parametrize("name", ENTERED)


def entry(name):
    """A context manager, and what says whether it is entered."""
    make, enter, taken = ENTERED[name]
    x = make()
    return enter(x), lambda: taken(x)


@every_entry
@pytest.mark.skipif(
    nogil_sync.backend == "native" and sys.version_info < (3, 14),
    reason="nothing looks for signals between __enter__ and the body of `with` there",
)
def test_with_is_not_entered_while_an_interrupt_is_pending(name):
    # `map` calls one after the other, and handlers run only where one of them asks for them.
    context, taken = entry(name)
    with pytest.raises(KeyboardInterrupt):
        list(map(call, (_thread.interrupt_main, context.__enter__)))
    assert not taken()
    with context:
        assert taken()
    assert not taken()


@every_entry
def test_with_is_entered_after_a_handler_that_returns(name):
    context, taken = entry(name)
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(taken()))
    try:
        interrupt = partial(_thread.interrupt_main, signal.SIGALRM)
        list(map(call, (interrupt, context.__enter__)))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == 1
    assert taken()
    context.__exit__(None, None, None)
    assert not taken()
