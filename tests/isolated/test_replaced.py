"""The library's classes replace those of `threading`: it must not be built on its own classes."""

import threading
import time

import pytest
from marks import starts_processes
from processes import in_own_process

from nogil_sync import (
    Barrier,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RLock,
    RWMutex,
    Semaphore,
    SyncMap,
    TaskGroup,
    WaitGroup,
    once,
)

pytestmark = starts_processes

REPLACEMENTS = {
    "Lock": Mutex,
    "RLock": RLock,
    "Condition": Cond,
    "Event": Event,
    "Barrier": Barrier,
    "Semaphore": Semaphore,
    "BoundedSemaphore": Semaphore,
}


def wait_in_threads(wait, wake):
    """Three threads wait, and so does the main thread, which sleeps in slices; then wake them."""
    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()

    def later():
        time.sleep(0.2)
        wake()

    threads.append(threading.Thread(target=later))
    threads[-1].start()
    wait()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def hand_off(lock):
    lock.acquire()

    def wait():
        lock.acquire()
        lock.release()

    wait_in_threads(wait, lock.release)


def slow(*_):
    time.sleep(0.2)
    return "result"


def share(function):
    """Four threads call the function at the same time, and get one result."""
    results = []
    wait_in_threads(lambda: results.append(function()), int)
    assert results == ["result"] * 4, results


@pytest.mark.parametrize(
    "names",
    [
        ("Lock",),
        ("Condition",),
        ("Event",),
        ("Barrier",),
        ("RLock",),
        ("Lock", "RLock", "Condition", "Event", "Semaphore", "Barrier"),
    ],
    ids=", ".join,
)
@in_own_process
def test_library_classes_replace_those_of_threading(names):
    for name in names:
        setattr(threading, name, REPLACEMENTS[name])
    errors = []
    threading.excepthook = errors.append

    rw, number, event, group, cond = RWMutex(), Semaphore(), Event(), WaitGroup(), Cond()
    for lock in Mutex(), number, rw.write, rw.read, cond:
        hand_off(lock)
    rw.write.acquire()
    wait_in_threads(lambda: rw.read.acquire(timeout=60), rw.write.release)
    wait_in_threads(event.wait, event.set)
    group.add()
    wait_in_threads(group.wait, group.done)
    pair = Barrier(5)
    wait_in_threads(pair.wait, pair.wait)
    signals = Semaphore(0, bounded=False)
    wait_in_threads(signals.acquire, lambda: signals.release(4))

    ready = []

    def wait():
        with cond:
            assert cond.wait_for(lambda: ready, 60)

    def wake():
        with cond:
            ready.append(1)
            cond.notify_all()

    wait_in_threads(wait, wake)
    channel = Channel()
    wait_in_threads(channel.recv, lambda: [channel.send(n) for n in range(4)])

    m, first = SyncMap(), Once()
    share(once(slow))
    share(lambda: m.load_or_compute("key", slow))
    share(lambda: first.do(slow) or "result")

    met = threading.Barrier(3)
    with TaskGroup() as tasks:
        futures = [tasks.go(met.wait, 60) for _ in range(3)]
    assert sorted(each.result() for each in futures) == [0, 1, 2]
    with TaskGroup(1) as tasks:
        for _ in range(4):
            tasks.go(time.sleep, 0.02)
    for _ in range(3):
        group.go(met.wait, 60)
    group.wait()
    with Pool(list).use() as item:
        item.append(1)
    assert not errors, errors
