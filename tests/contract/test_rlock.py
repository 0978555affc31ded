"""RLock: the interface and errors of threading.RLock; owner and count; conditions, interrupts."""

import gc
import signal
import threading

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from forks import in_child
from marks import needs_fork, sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, eventually, run_threads, settle

from nogil_sync import Cond, RLock


def elsewhere(function, *args, **kwargs):
    """What the function returns, or the exception that it raises, in another thread."""
    results = []

    def run():
        try:
            results.append(function(*args, **kwargs))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(TIMEOUT)
    (result,) = results
    return result


def held_by_another_thread(lock):
    """The thread that holds the lock by now, and the event on which it releases it."""
    go = threading.Event()

    def hold():
        with lock:
            go.wait(TIMEOUT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert eventually(lock.locked)
    return thread, go


# The interface


@starts_threads
def test_owner_acquires_again_and_releases_as_often():
    lock = RLock()
    for depth in range(1, 4):
        assert lock.acquire() is True
        assert lock._recursion_count() == depth
        assert lock.locked() is True
    with lock:
        assert lock._recursion_count() == 4
    for _ in range(3):
        assert elsewhere(lock.acquire, blocking=False) is False
        assert lock.release() is None
    assert lock.locked() is False
    assert lock._recursion_count() == 0
    assert elsewhere(lock.acquire, blocking=False) is True


@starts_threads
def test_release_by_another_thread_than_the_owner_raises():
    lock = RLock()
    message = "cannot release un-acquired lock"
    for release in (lock.release, lock._release_save, lambda: lock.__exit__(None, None, None)):
        with pytest.raises(RuntimeError, match=message):
            release()
        with lock:
            error = elsewhere(release)
            assert isinstance(error, RuntimeError)
            assert str(error) == message
            assert lock._recursion_count() == 1
            assert lock.locked()


@starts_threads
def test_owner_is_the_thread_that_acquired():
    lock = RLock()
    assert not lock._is_owned()
    with lock:
        assert lock._is_owned()
        assert elsewhere(lock._is_owned) is False
        assert elsewhere(lock._recursion_count) == 0
        assert elsewhere(lock.locked) is True
    assert not lock._is_owned()


def test_repr_names_the_owner_and_the_count():
    lock = RLock()
    head = f"<nogil_sync.RLock object at {id(lock):#x}, "
    assert repr(lock) == f"{head}unlocked>"
    with lock, lock:
        assert repr(lock) == f"{head}locked, owner={threading.get_ident()}, count=2>"
    assert repr(lock) == f"{head}unlocked>"


def test_saved_count_is_restored():
    lock = RLock()
    for _ in range(3):
        lock.acquire()
    saved = lock._release_save()
    assert not lock.locked()
    lock._acquire_restore(saved)
    assert lock._recursion_count() == 3


def test_restoring_the_wrong_thing_raises():
    lock = RLock()
    for count in (0, -1, 2**63, 10**400):
        with pytest.raises(OverflowError, match="Python int does not fit a count"):
            lock._acquire_restore(count)
    for count in (None, "1", 1.5, (1, 2)):
        with pytest.raises(TypeError):
            lock._acquire_restore(count)
    assert not lock.locked()
    lock._acquire_restore(2**63 - 1)
    assert lock._recursion_count() == 2**63 - 1
    lock.acquire()
    assert lock._recursion_count() == 2**63
    with pytest.raises(RuntimeError, match="cannot restore an acquired lock"):
        lock._acquire_restore(1)
    assert lock._recursion_count() == 2**63


def test_timeout_whose_float_method_uses_the_lock():
    lock = RLock()

    class Odd:
        def __float__(self):
            lock.acquire()
            return 1.0

    assert lock.acquire(timeout=Odd())
    assert lock._recursion_count() == 2


# Threads


@starts_threads
def test_only_one_thread_holds_the_lock():
    lock, inside, total = RLock(), [], []

    def work():
        for n in range(300):
            with lock:
                inside.append(None)
                if n % 2:
                    with lock:
                        total.append(len(inside))
                else:
                    total.append(len(inside))
                inside.pop()

    run_threads(work, times=4)
    assert total == [1] * 1200
    assert not lock.locked()


@starts_threads
def test_waiter_gets_the_lock_after_the_last_release():
    lock, got = RLock(), []

    def wait():
        got.append(lock.acquire(timeout=TIMEOUT))
        got.append(lock._recursion_count())

    with lock:
        with lock:
            thread = threading.Thread(target=wait)
            thread.start()
        assert not got
    thread.join(TIMEOUT)
    assert got == [True, 1]


@starts_threads
@pytest.mark.parametrize("make", [Cond, threading.Condition])
def test_condition_releases_all_holds_and_restores_them(make):
    lock, seen = RLock(), []
    changed = make(lock)

    def wait():
        with changed, lock, lock:
            seen.append("waits")
            assert changed.wait(TIMEOUT)
            seen.append(lock._recursion_count())

    thread = threading.Thread(target=wait)
    thread.start()
    assert eventually(lambda: seen)
    with changed:
        assert lock._recursion_count() == 1
        changed.notify()
    thread.join(TIMEOUT)
    assert seen == ["waits", 3]
    assert not lock.locked()


@pytest.mark.parametrize("make", [Cond, threading.Condition])
def test_condition_of_an_unowned_lock_raises(make):
    changed = make(RLock())
    for call in (changed.wait, changed.notify, changed.notify_all):
        with pytest.raises(RuntimeError):
            call()


# Handlers and finalisers


@sets_handlers
@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_interrupted_wait_leaves_the_lock_to_its_owner(interrupt):
    lock = RLock()
    thread, go = held_by_another_thread(lock)
    interrupt_call(lambda: lock.acquire(timeout=TIMEOUT), interrupt)
    assert not lock._is_owned()
    go.set()
    thread.join(TIMEOUT)
    assert lock.acquire(timeout=TIMEOUT)
    assert lock._recursion_count() == 1


@starts_processes
@in_own_process
def test_interrupts_at_any_moment_leave_owner_and_count_in_step():
    lock, busy = RLock(), True

    def contend():
        while busy:
            if lock.acquire(timeout=0.001):
                lock.release()

    threads = [threading.Thread(target=contend) for _ in range(2)]
    for thread in threads:
        thread.start()
    interrupts = RandomInterrupts()
    for _ in interrupts.rounds():
        for count in range(2):
            while not interrupts.call(lock.acquire, True):
                assert lock._recursion_count() == count
        for count in (1, 0):
            while lock._recursion_count() > count:
                interrupts.call(lock.__exit__, None)
            assert lock._recursion_count() == count
    busy = False
    for thread in threads:
        thread.join()
    assert not lock.locked()
    assert elsewhere(lock.acquire, blocking=False) is True


@sets_handlers
def test_handler_uses_the_lock_that_its_thread_waits_for(interrupt):
    lock, go, released, counts = RLock(), threading.Event(), threading.Event(), []

    def hold():
        with lock:
            go.wait(TIMEOUT)
        released.set()

    def handle():
        assert not lock.acquire(timeout=0.01)
        go.set()
        assert released.wait(TIMEOUT)  # so the interrupted call may have been served
        with lock, lock:
            counts.append(lock._recursion_count())

    thread = threading.Thread(target=hold)
    thread.start()
    assert eventually(lock.locked)
    interrupt(handle, 0.05)
    assert lock.acquire(timeout=TIMEOUT)
    assert counts == [2]
    assert lock._recursion_count() == 1
    lock.release()
    assert not lock.locked()
    thread.join(TIMEOUT)


@sets_handlers
@pytest.mark.parametrize("make", [RLock, threading.RLock])
def test_wait_goes_on_while_a_handler_of_its_thread_keeps_the_lock(make):
    lock, events = make(), []
    started, waits, go, released = (threading.Event() for _ in range(4))
    main = threading.main_thread()

    def handle(*_):
        if lock._is_owned():
            lock.release()
            events.append("the handler releases")
            return
        go.set()
        assert released.wait(TIMEOUT)
        assert lock.acquire(timeout=TIMEOUT)
        events.append("the handler keeps")

    def hold():
        with lock:
            started.set()
            assert go.wait(TIMEOUT)
        released.set()

    def send():
        assert waits.wait(TIMEOUT)
        for count in (1, 2):
            settle(main)
            signal.pthread_kill(main.ident, signal.SIGUSR1)
            assert eventually(lambda: len(events) >= count)

    threads = [threading.Thread(target=each) for each in (hold, send)]
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        threads[0].start()
        assert started.wait(TIMEOUT)
        threads[1].start()
        waits.set()
        assert lock.acquire(timeout=TIMEOUT)
        events.append("the call returns")
        for thread in threads:
            thread.join(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert events == ["the handler keeps", "the handler releases", "the call returns"]
    lock.release()
    assert not lock._is_owned()


def test_finaliser_may_use_a_lock_that_its_thread_holds():
    lock, counts = RLock(), []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            with lock:
                counts.append(lock._recursion_count())

    with lock:
        Last()
        gc.collect()
    assert counts == [2]
    assert not lock.locked()


# Forks


@needs_fork
@starts_processes
@in_own_process
def test_child_of_the_owner_holds_the_lock():
    lock = RLock()
    lock.acquire()
    lock.acquire()

    def child():
        assert lock._recursion_count() == 2
        assert elsewhere(lock.acquire, timeout=0.01) is False
        lock.release()
        lock.release()
        assert elsewhere(lock.acquire, blocking=False) is True

    in_child(child)
    assert lock._recursion_count() == 2


@needs_fork
@starts_processes
@in_own_process
def test_child_finds_the_lock_of_another_thread_held_until_it_is_reset():
    lock = RLock()
    thread, go = held_by_another_thread(lock)
    waiter = threading.Thread(target=lambda: lock.acquire(timeout=TIMEOUT))
    waiter.start()
    settle(waiter)

    def child():
        assert lock.locked()
        assert not lock.acquire(timeout=0.02)
        with pytest.raises(RuntimeError):
            lock.release()
        lock._at_fork_reinit()
        assert not lock.locked()
        with lock, lock:
            assert elsewhere(lock.acquire, blocking=False) is False
        assert elsewhere(lock.acquire, blocking=False) is True

    in_child(child)
    go.set()
    thread.join(TIMEOUT)
    waiter.join(TIMEOUT)
