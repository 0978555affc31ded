"""Cond: Ctrl-C, signal handlers and finalisers while threads wait."""

import gc
import os
import signal
import threading
import time

import pytest
from conds import LOCKS, notify, notify_all, waiters, waiting
from ctrl_c import interrupt_call
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, eventually, for_a_while

from nogil_sync import Cond

# Ctrl-C, handlers, finalisers


WAITING = {
    "wait": lambda c: c.wait(),
    "wait with time-out": lambda c: c.wait(60),
    "wait_for": lambda c: c.wait_for(lambda: False),
}


def interrupt_wait(c, wait, others, **options):
    """Interrupt the wait; afterwards the Cond is whole, and other waiters stay in line."""

    def wait_too():
        with c:
            assert c.wait(20)

    waiters = [threading.Thread(target=wait_too, daemon=True) for _ in range(others)]
    for waiter in waiters:
        waiter.start()
    c.acquire()
    interrupt_call(wait, **options)
    assert c._is_owned()
    assert not c.acquire(False)
    assert repr(c).endswith(f"{others} waiting>"), c
    assert c.wait(0.01) is False
    c.notify_all()
    c.release()
    for waiter in waiters:
        waiter.join(10)
        assert not waiter.is_alive()
    assert c.acquire(timeout=5)
    c.release()
    assert not c.locked()


@starts_processes
@pytest.mark.parametrize("name", WAITING)
@pytest.mark.parametrize("lock", ["default", "Lock", "write"])
@in_own_process
def test_ctrl_c_ends_wait_with_the_lock_held(lock, name):
    c = Cond(LOCKS[lock]())
    others = 0 if lock == "default" else 2
    way = "kill" if name == "wait" else "interrupt_main"
    interrupt_wait(c, lambda: WAITING[name](c), others, way=way, limit=10)


@starts_processes
@pytest.mark.parametrize(
    ("lock", "times"),
    [("default", 1), ("default", 3), ("Lock", 3), ("write", 3)],
)
@in_own_process
def test_ctrl_c_while_wait_reacquires_the_lock(lock, times):
    # The waiter is notified, but another thread holds the lock for a while, and Ctrl-C comes then.
    c = Cond(LOCKS[lock]())

    def notify_and_hold():
        c.acquire()
        c.notify()
        time.sleep(0.1)

    def let_go():
        time.sleep(0.2)
        c.release()

    interrupt_wait(c, c.wait, 0, before=notify_and_hold, after=let_go, times=times)


@pytest.mark.thread_unsafe(reason="sets a signal handler")
def test_handler_that_notifies_and_raises_passes_notification_on():
    # The main thread is first in line and is notified; as its call raises, the next waiter is.
    c, served, main = Cond(), [], threading.get_ident()

    def other():
        with c:  # so the main thread waits
            signal.pthread_kill(main, signal.SIGUSR1)
            served.append(c.wait(TIMEOUT))

    def handler(*_):
        with c:  # so the other one waits as well
            c.notify()
        raise KeyboardInterrupt

    thread = threading.Thread(target=other)
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with c:
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                c.wait(TIMEOUT)
        thread.join(TIMEOUT)
        assert served == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


@starts_processes
@in_own_process
def test_notification_of_an_interrupted_waiter_is_passed_on():
    c = Cond()
    woken = []

    def second():
        with c:
            woken.append(c.wait(20))

    other = threading.Thread(target=second, daemon=True)

    def run():
        time.sleep(0.2)
        other.start()
        time.sleep(0.1)
        with c:
            assert repr(c).endswith("2 waiting>"), c
            c.notify()  # for the main thread, which then wants the lock
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=run, daemon=True).start()
    try:
        with c:
            c.wait()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError
    other.join(10)
    assert woken == [True]


@starts_processes
@pytest.mark.parametrize(
    ("lock", "at_most"),
    [
        ("default", 1),
        ("default", 3),
        ("Lock", 3),
        ("write", 3),
        ("RLock", 3),
    ],
)
@in_own_process
def test_interrupted_wait_holds_the_lock_and_loses_no_notification(lock, at_most):
    # After each wait, however it ends, its thread holds the lock; and no notification is lost.
    interrupts = RandomInterrupts()
    c = Cond(LOCKS[lock]())
    owner = None
    busy = True
    tokens = given = 0
    taken = [0, 0]

    def consume():
        nonlocal tokens, owner
        while busy:
            with c:
                owner = "other"
                while not tokens and busy:
                    assert c.wait(20), "lost"
                    owner = "other"
                if tokens:
                    tokens -= 1
                    taken[0] += 1
                assert owner == "other"
                owner = None

    def produce():
        nonlocal tokens, given, owner
        while busy:
            with c:
                owner = "producer"
                if tokens < 5:
                    tokens += 1
                    given += 1
                    c.notify()
                assert owner == "producer"
                owner = None
            time.sleep(0.0002)

    threads = [threading.Thread(target=f) for f in (consume, consume, produce)]
    for t in threads:
        t.start()
    n = 0
    for _ in interrupts.rounds():
        with c:
            n += 1
            interrupts.call(c.wait, 0.002 if n % 2 else 20, at_most)
            owner = "main"
            if tokens:
                tokens -= 1
                taken[1] += 1
            assert owner == "main"
            owner = None
    with c:
        busy = False
        c.notify_all()
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)
    assert sum(taken) + tokens == given, (taken, tokens, given)
    assert repr(c).endswith("0 waiting>"), c
    assert c.acquire(False)
    c.release()
    print(taken, given)


@sets_handlers
def test_handler_notifies_its_own_thread(interrupt):
    c = Cond()
    interrupt(lambda: notify(c), 0.05)
    with c:
        assert c.wait(TIMEOUT) is True
    assert waiting(c) == 0


@sets_handlers
def test_handler_waits_on_the_cond_of_its_thread(interrupt):
    c = Cond()
    log = []

    def handler():
        with c:
            log.append(c.wait(0.01))
            # First the wait that this handler interrupts is notified, then the handler's own.
            c.notify()
            c.notify()
            log.append(c.wait(0.01))
            notifier.start()
            log.append(c.wait(TIMEOUT))

    notifier = threading.Timer(0.1, notify, [c])
    interrupt(handler, 0.05)
    with c:
        assert c.wait(TIMEOUT) is True
        assert c._is_owned()
    assert log == [False, False, True]
    assert waiting(c) == 0
    notifier.join()


@sets_handlers
def test_handler_runs_while_its_thread_reacquires_the_lock(interrupt):
    c = Cond()
    log = []

    held, tried = threading.Event(), threading.Event()

    def hold():
        assert eventually(lambda: waiting(c) == 1)
        with c:
            c.notify()
            held.set()
            tried.wait(TIMEOUT)
            time.sleep(0.05)

    def handler():
        if held.is_set() and not log:
            log.append(c.acquire(timeout=0.01))
            tried.set()
            log.append(c.acquire(timeout=TIMEOUT))
            c.release()

    holder = threading.Thread(target=hold)
    holder.start()
    interrupt(handler, 0.05, 0.02)
    with c:
        assert c.wait(TIMEOUT) is True
        assert c.locked()
    assert log == [False, True]
    holder.join()
    assert not c.locked()


@sets_handlers
def test_handler_that_notifies_leaves_other_waiters_whole(interrupt):
    c = Cond()
    stop = False
    counts = [0, 0, 0]

    def work(k):
        while not stop:
            with c:
                c.notify()
                c.wait(0.005)
                counts[k] += 1

    def handler():
        if c.acquire(timeout=0.002):
            c.notify()
            c.wait(0.0005)
            c.release()

    workers = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(2)]
    for worker in workers:
        worker.start()
    halt = interrupt(handler, 0.01, 0.01)
    for _ in for_a_while(1):
        with c:
            c.notify()
            c.wait(0.005)
            counts[2] += 1
    halt()
    stop = True
    for worker in workers:
        worker.join(TIMEOUT)
        assert not worker.is_alive()
    assert all(counts)
    assert waiting(c) == 0
    assert not c.locked()


@starts_threads
def test_finaliser_notifies_waiters():
    c = Cond()

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            notify_all(c)

    Last()
    both = waiters(c, 2)
    gc.collect()
    for thread, result in both:
        thread.join(TIMEOUT)
        assert result == [True]


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    c = Cond()
    thread, result = waiters(c, 1)[0]
    for _ in range(3):
        gc.collect()
    assert not result
    notify(c)
    thread.join(TIMEOUT)
    assert result == [True]
