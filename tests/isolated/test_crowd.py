"""A thousand threads at once on however few cores: all are served, and nothing is left behind."""

import pytest
from support import python

pytestmark = pytest.mark.thread_unsafe(reason="starts a thousand threads in a process of its own")

CROWD = """
import threading
from nogil_sync import *

THREADS = 1000
threading.stack_size(256 * 1024)

def crowd(function):
    threads = [threading.Thread(target=function) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

done = AtomicInt64()
"""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            """
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
assert guarded == [THREADS] and not m.locked()
""",
            id="Mutex",
        ),
        pytest.param(
            """
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
assert guarded == [THREADS // 10] and not rw.read.locked() and not rw.write.locked()
""",
            id="RWMutex",
        ),
        pytest.param(
            """
s = Semaphore(3)
def use():
    n = 1 + done.add() % 3
    with s.hold(n):
        assert s.available() <= 3 - n
s.acquire(n=3)
threading.Timer(0.5, s.release, (3,)).start()
crowd(use)
assert s.available() == 3
""",
            id="Semaphore",
        ),
        pytest.param(
            """
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
""",
            id="Cond",
        ),
        pytest.param(
            """
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
""",
            id="Event, WaitGroup, ShardedCounter",
        ),
    ],
)
def test_a_thousand_threads(body):
    python(CROWD + body + "\nassert done.load() == THREADS\n", timeout=120)
