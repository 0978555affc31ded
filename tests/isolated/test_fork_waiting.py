"""Forks while threads wait for a Semaphore, an RWMutex, a Cond or a WaitGroup."""

import os

import pytest
from support import FORKS, python

pytestmark = [
    pytest.mark.thread_unsafe(reason="forks"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
]

HEADER = (
    FORKS
    + """
def start(function, *args, **kwargs):
    thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=True)
    thread.start()
    return thread
"""
)


def test_what_is_held_stays_held_and_waiters_are_forgotten():
    python(
        HEADER
        + """
s, rw, c, g = Semaphore(3), RWMutex(), Cond(), WaitGroup()
s.acquire(n=2)
rw.read.acquire()
g.add(2)
def wait():
    with c: c.wait()
for waiter in (lambda: s.acquire(n=3), rw.write.acquire, rw.read.acquire, wait, g.wait):
    start(waiter)
time.sleep(0.1)
assert not s.acquire(False) and not rw.read.acquire(False)
assert repr(c).endswith("1 waiting>"), c

def child():
    assert s.available() == 1
    assert s.acquire(False)             # nobody is in line any more
    assert not s.acquire(timeout=0.02)
    s.release(3)
    assert s.available() == 3
    assert rw.read.locked()
    assert rw.read.acquire(False)       # no writer keeps it out
    assert not rw.write.acquire(timeout=0.02)
    rw.read.release()
    rw.read.release()
    with rw.write: pass
    assert repr(c).endswith("0 waiting>"), c
    with c:
        c.notify_all()
        assert c.wait(0.02) is False
    assert not g.wait(0.02)
    g.add(-2)
    assert g.wait()
    # And all serve the threads of the child.
    s.acquire(n=3)
    rw.write.acquire()
    g.add()
    threads = [start(f) for f in (lambda: s.acquire(n=2), rw.read.acquire, wait, g.wait)]
    time.sleep(0.05)
    s.release(3)
    rw.write.release()
    with c: c.notify()
    g.done()
    for t in threads: t.join(10)
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
"""
    )


@pytest.mark.parametrize(
    ("hold", "wait", "let_go"),
    [
        ("s.acquire(n=2)", "s.acquire(timeout=20, n=3)", "s.release(2)"),
        ("rw.read.acquire()", "rw.write.acquire(timeout=20)", "rw.read.release()"),
        ("rw.write.acquire()", "rw.read.acquire(timeout=20)", "rw.write.release()"),
        ("c.acquire()", "c.wait(20)", "c.acquire(), c.notify(), c.release()"),
        ("g.add()", "g.wait(20)", "g.done()"),
    ],
)
def test_a_handler_that_forks_and_the_wait_it_interrupted(hold, wait, let_go):
    # The wait goes on in both processes, and ends there when what it waits for comes.
    python(
        HEADER
        + f"""
s, rw, c, g = Semaphore(3), RWMutex(), Cond(), WaitGroup()
child = None

def let_go():
    time.sleep(0.3)
    {let_go}

def fork(*_):
    global child
    child = os.fork()
    start(let_go)

def interrupt():
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR1)

signal.signal(signal.SIGUSR1, fork)
{hold}
start(interrupt)
done = {wait}
assert done is True
if child == 0:
    os._exit(0)
assert child
assert wait_for(child) == 0
"""
    )
