"""A program puts our classes in place of those of `threading`: ours must not be made of ours."""

import pytest
from marks import starts_processes
from processes import python

pytestmark = starts_processes

PROGRAM = """
import threading, time
from nogil_sync import (Channel, Cond, Event, Mutex, Once, Pool, RWMutex, Semaphore, SyncMap,
                        TaskGroup, WaitGroup, once)

ours = {{"Lock": Mutex, "Condition": Cond, "Event": Event, "Semaphore": Semaphore,
        "BoundedSemaphore": Semaphore}}
for name in {names!r}:
    setattr(threading, name, ours[name])

errors = []
threading.excepthook = errors.append

def through(wait, wake):
    # Three threads wait, and so does this one, in which waits go on in slices.
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads: thread.start()
    def later():
        time.sleep(0.2)
        wake()
    threads.append(threading.Thread(target=later))
    threads[-1].start()
    wait()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()

def hand_over(lock):
    lock.acquire()
    def wait():
        lock.acquire()
        lock.release()
    through(wait, lock.release)

rw, number, event, group, cond = RWMutex(), Semaphore(), Event(), WaitGroup(), Cond()
for lock in Mutex(), number, rw.write, rw.read, cond: hand_over(lock)
rw.write.acquire()
through(lambda: rw.read.acquire(timeout=60), rw.write.release)
through(event.wait, event.set)
group.add()
through(group.wait, group.done)
signals = Semaphore(0, bounded=False)
through(signals.acquire, lambda: signals.release(4))

def wait():
    with cond: assert cond.wait_for(lambda: ready, 60)
def wake():
    with cond:
        ready.append(1)
        cond.notify_all()
ready = []
through(wait, wake)

channel = Channel()
through(channel.recv, lambda: [channel.send(n) for n in range(4)])

def slow(*_):
    time.sleep(0.2)
    return "result"
def slow_then(function):
    through(lambda: results.append(function()), int)
    assert results == ["result"] * 4, results
    results.clear()
results, m, first = [], SyncMap(), Once()
slow_then(once(slow))
slow_then(lambda: m.load_or_compute("key", slow))
slow_then(lambda: first.do(slow) or "result")

met = threading.Barrier(3)
with TaskGroup() as tasks:
    futures = [tasks.go(met.wait, 60) for _ in range(3)]
assert sorted(each.result() for each in futures) == [0, 1, 2]
with TaskGroup(1) as tasks:
    for _ in range(4): tasks.go(time.sleep, 0.02)
for _ in range(3): group.go(met.wait, 60)
group.wait()
with Pool(list).use() as item: item.append(1)
assert not errors, errors
"""


@pytest.mark.parametrize(
    "names",
    [("Lock",), ("Condition",), ("Event",), ("Lock", "Condition", "Event", "Semaphore")],
    ids=", ".join,
)
def test_library_classes_replace_those_of_threading(names):
    python(PROGRAM.format(names=names))
