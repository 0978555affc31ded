"""Forks while threads wait for a Semaphore, an RWMutex, a Cond or a WaitGroup."""

import os
import signal
import threading
import time

import pytest
from forks import exit_code_of, in_child
from marks import forks, needs_fork
from processes import in_own_process
from support import settle

from nogil_sync import Cond, RWMutex, Semaphore, WaitGroup

pytestmark = [
    forks,
    needs_fork,
]


def start(function, *args, **kwargs):
    thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=True)
    thread.start()
    return thread


@in_own_process
def test_held_locks_stay_held_in_the_child_and_waiters_are_forgotten():
    s, rw, c, g = Semaphore(3), RWMutex(), Cond(), WaitGroup()
    s.acquire(n=2)
    rw.read.acquire()
    g.add(2)

    def wait():
        with c:
            c.wait()

    for waiter in (lambda: s.acquire(n=3), rw.write.acquire, rw.read.acquire, wait, g.wait):
        settle(start(waiter))
    assert not s.acquire(False)
    assert not rw.read.acquire(False)
    assert repr(c).endswith("1 waiting>"), c

    def child():
        assert s.available() == 1
        assert s.acquire(False)  # the waiters are forgotten
        assert not s.acquire(timeout=0.02)
        s.release(3)
        assert s.available() == 3
        assert rw.read.locked()
        assert rw.read.acquire(False)  # no writer keeps it out
        assert not rw.write.acquire(timeout=0.02)
        rw.read.release()
        rw.read.release()
        with rw.write:
            pass
        assert repr(c).endswith("0 waiting>"), c
        with c:
            c.notify_all()
            assert c.wait(0.02) is False
        assert not g.wait(0.02)
        g.add(-2)
        assert g.wait()
        # All objects work for threads of the child.
        s.acquire(n=3)
        rw.write.acquire()
        g.add()
        threads = [start(f) for f in (lambda: s.acquire(n=2), rw.read.acquire, wait, g.wait)]
        for t in threads:
            settle(t)
        s.release(3)
        rw.write.release()
        with c:
            c.notify()
        g.done()
        for t in threads:
            t.join(10)
        assert not any(t.is_alive() for t in threads)
        for x in (s, rw, rw.read, rw.write, c):
            x._at_fork_reinit()
        assert s.available() == 3
        assert not rw.read.locked()
        assert not c.locked()

    for _ in range(5):
        in_child(child)
    s.release(2)
    rw.read.release()


# How to hold it so that other threads wait, the call that waits, and how to let it go on.
WAITS_FOR = {
    "Semaphore": (
        lambda: Semaphore(3),
        lambda s: s.acquire(n=2),
        lambda s: s.acquire(timeout=20, n=3),
        lambda s: s.release(2),
    ),
    "RWMutex.write": (
        RWMutex,
        lambda rw: rw.read.acquire(),
        lambda rw: rw.write.acquire(timeout=20),
        lambda rw: rw.read.release(),
    ),
    "RWMutex.read": (
        RWMutex,
        lambda rw: rw.write.acquire(),
        lambda rw: rw.read.acquire(timeout=20),
        lambda rw: rw.write.release(),
    ),
    "Cond": (
        Cond,
        lambda c: c.acquire(),
        lambda c: c.wait(20),
        lambda c: (c.acquire(), c.notify(), c.release()),
    ),
    "WaitGroup": (
        WaitGroup,
        lambda g: g.add(),
        lambda g: g.wait(20),
        lambda g: g.done(),
    ),
}


@pytest.mark.parametrize("name", WAITS_FOR)
@in_own_process
def test_wait_goes_on_in_both_processes_after_handler_forks(name):
    make, hold, wait, let_go = WAITS_FOR[name]
    x = make()
    child = None

    def let_go_later():
        time.sleep(0.1)
        let_go(x)

    def fork(*_):
        nonlocal child
        child = os.fork()
        start(let_go_later)

    def interrupt():
        settle(threading.main_thread())
        os.kill(os.getpid(), signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, fork)
    hold(x)
    start(interrupt)
    assert wait(x) is True
    if child == 0:
        os._exit(0)
    assert child
    assert exit_code_of(child) == 0
