"""Waiters that are called back, and selects, in the child of a fork."""

import os
import signal
import threading
import time
from contextlib import suppress

import pytest
from forks import in_child
from marks import needs_fork, starts_processes
from processes import in_own_process
from support import NATIVE

from nogil_sync import (
    Channel,
    Cond,
    Event,
    Mutex,
    RWMutex,
    Semaphore,
    WaitGroup,
    select,
    try_select,
)
from nogil_sync._backend import AsyncWaiter

pytestmark = [starts_processes, needs_fork]


@in_own_process
def test_forked_child_forgets_waiters_that_are_called_back():
    called = []
    m, s, rw, cond, e, g = Mutex(), Semaphore(2), RWMutex(), Cond(), Event(), WaitGroup()
    c, full, d = Channel(), Channel(1), Channel()
    m.acquire()
    s.acquire(n=2)
    rw.write.acquire()
    full.send(0)
    g.add()
    waiters = [
        AsyncWaiter(*args, called.append)
        for args in (
            (m, "acquire", None),
            (s, "acquire", 1),
            (rw.read, "acquire", None),
            (rw.write, "acquire", None),
            (c, "recv", None),
            (full, "send", 1),
            (e, "wait", None),
            (g, "wait", None),
            (cond, "wait", None),
            (None, "select", (d, d.sending(1), e)),
        )
    ]

    def child():
        assert not any(waiter.served for waiter in waiters)
        m.release()
        assert m.acquire(False)
        s.release(2)
        assert s.available() == 2
        rw.write.release()
        assert not rw.read.locked()
        assert rw.write.acquire(False)
        assert not c.try_send(1)
        assert full.recv() == 0
        assert full.try_recv() is None
        e.set()
        g.done()
        with cond:
            cond.notify()
        assert try_select(d, d.sending(2)) is None
        assert called == []
        assert not any(waiter.served for waiter in waiters)
        for waiter in waiters:
            waiter.cancel()
        assert s.available() == 2
        assert e.wait(0)

    for _ in range(3):
        in_child(child)
    assert called == []
    m.release()
    s.release(2)
    rw.write.release()
    assert c.try_send(1)
    assert full.recv() == 0
    e.set()
    g.done()
    with cond:
        cond.notify()
    assert waiters[2] in called  # the reader; the writer comes after it
    waiters[2].result()
    rw.read.release()
    assert set(called) == set(waiters)


@pytest.mark.skipif(NATIVE, reason="there it stays with the waiter, as a held lock stays held")
@in_own_process
def test_forked_child_has_what_its_parents_waiters_were_served():
    called = []
    m, s, c = Mutex(), Semaphore(), Channel(1)
    m.acquire()
    s.acquire()
    waiters = [
        AsyncWaiter(m, "acquire", None, called.append),
        AsyncWaiter(s, "acquire", 1, called.append),
        AsyncWaiter(c, "recv", None, called.append),
    ]
    m.release()
    s.release()
    c.send("item")
    assert called == waiters

    def child():
        # As their loops are gone, what they were served goes back.
        assert not any(waiter.served for waiter in waiters)
        assert m.acquire(False)
        assert s.acquire(False)
        assert c.try_recv() == "item"

    in_child(child)
    assert [waiter.result() for waiter in waiters] == [None, None, "item"]
    assert m.locked()
    assert s.available() == 0


@in_own_process
def test_select_that_a_forking_handler_interrupts_goes_on_in_the_child():
    c, d, e = Channel(), Channel(1), Event()
    for _ in range(2):
        threading.Thread(target=select, args=(d, e), daemon=True).start()
    main = threading.get_ident()
    children = []
    parent = os.getpid()

    def fork(*_):
        children.append(os.fork())

    signal.signal(signal.SIGUSR1, fork)

    def interrupt():
        time.sleep(0.1)
        signal.pthread_kill(main, signal.SIGUSR1)
        while not children:
            time.sleep(0.001)
        time.sleep(0.1)
        e.set()

    threading.Thread(target=interrupt, daemon=True).start()
    chosen = None
    code = 1
    try:
        # On a busy machine the signal may come before the call or after it has timed out.
        while chosen is None and (os.getpid() == parent or not children):
            with suppress(TimeoutError):
                chosen = select(c, c.sending(1), d, e, timeout=0.5)
        if os.getpid() != parent:
            # Only this thread is left, so nobody has served it, and nobody else waits.
            threading.Timer(0.05, d.send, ["for the child"]).start()
            chosen = chosen or select(c, c.sending(1), d, timeout=10)
            assert chosen.case is d
            assert not c.try_send(1)
            assert try_select(c, d) is None
        else:
            assert chosen.case is e
        code = 0
    finally:
        if os.getpid() != parent:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
