"""Cond over unusual locks, and in the place of threading.Condition."""

import concurrent.futures
import queue
import threading
import time

import pytest
from conds import Duck, Sub, notify, waiting
from marks import starts_threads
from support import TIMEOUT, run_threads, started

from nogil_sync import Cond, Mutex

# Locks that do odd things


def test_wait_raises_what_release_raises():
    class Odd(Duck):
        def release(self):
            raise LookupError

    lock = Odd()
    c = Cond(lock)
    c.acquire()
    for _ in range(2):
        with pytest.raises(LookupError):
            c.wait(TIMEOUT)
        assert waiting(c) == 0
        assert lock.lock.locked()


def test_wait_raises_what_acquire_raises():
    class Odd(Duck):
        fails = False

        def acquire(self, *args):
            if self.fails:
                raise LookupError
            return super().acquire(*args)

        def release(self):
            super().release()
            self.fails = True

    lock = Odd()
    c = Cond(lock)
    for _ in range(2):
        c.acquire()
        with pytest.raises(LookupError):
            c.wait(0.01)
        assert waiting(c) == 0
        assert not lock.lock.locked()
        lock.fails = False


def test_first_of_several_interrupts_is_raised():
    interrupts = []

    class Lock:
        def acquire(self, blocking=True):
            if interrupts:
                raise KeyboardInterrupt(interrupts.pop(0))
            return True

        def release(self):
            pass

        def _is_owned(self):
            return True

    c = Cond(Lock())
    interrupts += ["first", "second", "third"]
    with pytest.raises(KeyboardInterrupt, match="first"):
        c.wait(0.001)
    assert not interrupts


def test_overridden_methods_are_called():
    lock = Sub()
    c = Cond(lock)
    with c:
        assert c.wait(0.001) is False
    assert lock.count == 2
    with lock:
        pass


@starts_threads
def test_cond_over_a_cond():
    inner = Cond(threading.RLock())
    outer = Cond(inner)
    with outer, outer:
        thread, result = started(notify, outer)
        assert outer.wait(TIMEOUT) is True
    thread.join(TIMEOUT)
    assert result == [None]
    assert not inner._is_owned()


# In the place of threading.Condition


@starts_threads
@pytest.mark.parametrize("condition", [Cond, threading.Condition])
def test_queue_works_over_a_mutex_and_its_conditions(condition):
    q = queue.Queue(maxsize=2)
    q.mutex = Mutex()
    q.not_empty = condition(q.mutex)
    q.not_full = condition(q.mutex)
    q.all_tasks_done = condition(q.mutex)
    got = []

    def consume():
        for _ in range(200):
            got.append(q.get(timeout=TIMEOUT))
            q.task_done()

    run_threads(consume, consume, lambda: [q.put(k, timeout=TIMEOUT) for k in range(400)])
    q.join()
    assert sorted(got) == list(range(400))
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)


def condition_over_mutex():
    return threading.Condition(Mutex())


@starts_threads
@pytest.mark.parametrize(
    ("make", "make_over_a_lock"),
    [
        (Cond, lambda: Cond(threading.Lock())),
        (condition_over_mutex, condition_over_mutex),
    ],
    ids=["Cond", "threading.Condition over Mutex"],
)
def test_event_barrier_and_semaphore_work_over_conditions(make, make_over_a_lock):
    event = threading.Event()
    event._cond = make()
    barrier = threading.Barrier(3)
    barrier._cond = make_over_a_lock()
    semaphore = threading.Semaphore(2)
    semaphore._cond = make()

    def work():
        assert event.wait(TIMEOUT)
        with semaphore:
            pass
        return [barrier.wait(TIMEOUT) for _ in range(20)]

    rounds = run_threads(work, work, lambda: event.set() or work())
    assert [sorted(each) for each in zip(*rounds, strict=True)] == [[0, 1, 2]] * 20


@starts_threads
def test_futures_work_over_conds(monkeypatch):
    class Reentrant(Cond):
        # Callbacks acquire a Future's condition again.
        def __init__(self):
            super().__init__(threading.RLock())

    class FakeThreading:
        Condition = Reentrant
        Lock = Mutex

        def __getattr__(self, name):
            return getattr(threading, name)

    monkeypatch.setattr(concurrent.futures._base, "threading", FakeThreading())
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(pow, k, 2) for k in range(50)]
        assert type(futures[0]._condition) is Reentrant
        assert sum(
            f.result(TIMEOUT) for f in concurrent.futures.as_completed(futures, TIMEOUT)
        ) == sum(k * k for k in range(50))
        slow = pool.submit(time.sleep, 0.2)
        with pytest.raises(TimeoutError):
            slow.result(0.01)
        assert slow.result(TIMEOUT) is None
