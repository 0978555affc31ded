"""Cond: the interface of threading.Condition over any lock; order, no lost notifications."""

import math
import threading
import time

import pytest
from conds import LOCKS, Duck, notify, notify_all, wait_in, waiters, waiting
from marks import starts_threads
from processes import in_own_process
from support import NATIVE, TIMEOUT, WRONG_TIMEOUTS, eventually, for_a_while, run_threads, started

from nogil_sync import Cond, Mutex, RWMutex, Semaphore

over = pytest.mark.parametrize("lock", LOCKS)


# The locks that one thread holds at a time.
over_exclusive = pytest.mark.parametrize("lock", [name for name in LOCKS if name != "read"])


def cond_over(name):
    return Cond(LOCKS[name]())


# The interface


@over
def test_cond_acquires_and_releases_its_lock(lock):
    c = cond_over(lock)
    assert c.acquire() is True
    assert c._is_owned()
    assert c.release() is None
    assert not c._is_owned()
    with c as entered:
        assert entered is True
        assert c._is_owned()
    assert not c._is_owned()
    with pytest.raises(LookupError), c:
        raise LookupError
    assert not c._is_owned()
    assert c.acquire(False) is True
    c.release()


def test_acquire_passes_its_arguments_to_the_lock():
    c = Cond()
    assert c.acquire(True, 5) is True
    assert c.acquire(blocking=False) is False
    assert c.acquire(timeout=0.01) is False
    with pytest.raises(ValueError):
        c.acquire(False, 5)
    with pytest.raises(TypeError):
        c.acquire(wait=1)
    c.release()
    with pytest.raises(RuntimeError, match="release unlocked lock"):
        c.release()
    s = Cond(Semaphore(3))
    assert s.acquire(n=3) is True
    assert s._is_owned()


def test_not_reentrant_by_default():
    c = Cond()
    with c:
        assert c.acquire(False) is False
    c = Cond(threading.RLock())
    with c, c:
        assert c.wait(0.01) is False
        assert c._is_owned()
    assert not c._is_owned()


def test_locked():
    for lock in (None, Mutex(), threading.Lock(), RWMutex().write):
        c = Cond(lock)
        assert c.locked() is False
        with c:
            assert c.locked() is True
    with pytest.raises(AttributeError):
        Cond(Duck()).locked()


@pytest.mark.parametrize("wrong", [1, "lock", object(), Mutex, []])
def test_objects_without_acquire_and_release_raise(wrong):
    if wrong is Mutex:
        Cond(wrong)  # it has both methods, and will fail when used, as in threading
        return
    with pytest.raises(TypeError, match=r"lock must have acquire\(\) and release\(\)"):
        Cond(wrong)
    half = type("Half", (), {"acquire": lambda self: True})()
    with pytest.raises(TypeError):
        Cond(half)
    half.release = None
    with pytest.raises(TypeError):
        Cond(half)


def test_wrong_numbers_of_arguments_raise():
    c = Cond()
    with c:
        for call in (
            lambda: Cond(None, None),
            lambda: c.wait(1, 2),
            lambda: c.wait_for(),
            lambda: c.notify(1, 2),
            lambda: c.notify_all(1),
            lambda: c.release(1),
        ):
            with pytest.raises(TypeError):
                call()
    assert not hasattr(c, "notifyAll")


@over_exclusive
def test_wait_and_notify_without_the_lock_raise(lock):
    c = cond_over(lock)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            c.wait()
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            c.wait(0)
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            c.wait_for(lambda: False)
        with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
            c.notify()
        with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
            c.notify_all()
        with pytest.raises(RuntimeError, match="cannot notify on un-acquired lock"):
            c.notify(0)
        assert not c._is_owned()
    assert waiting(c) == 0


@starts_threads
def test_wait_raises_while_another_thread_holds_the_lock():
    c = Cond(threading.RLock())
    with c:
        thread, result = started(c._is_owned)
        thread.join(TIMEOUT)
    assert result == [False]


@over
@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5, -math.inf, 0.001])
def test_unnotified_wait_times_out(lock, timeout):
    c = cond_over(lock)
    with c:
        assert c.wait(timeout) is False
        assert c.wait(timeout=timeout) is False
        assert c._is_owned()
        assert waiting(c) == 0
    assert not c._is_owned()


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
def test_wrong_timeouts_raise(timeout, error):
    c = Cond()
    with c:
        with pytest.raises(error):
            c.wait(timeout)
        with pytest.raises(error):
            c.wait_for(lambda: True, timeout)
        assert c._is_owned()
    assert waiting(c) == 0


def test_notify_accepts_any_integer():
    c = Cond()

    class Number:
        def __index__(self):
            return 2

    with c:
        for n in (0, -1, -(10**30), 1, 10**30, True, Number()):
            assert c.notify(n) is None
        assert c.notify(n=2) is None
        for wrong in (1.0, "1", None):
            with pytest.raises(TypeError):
                c.notify(wrong)
        assert c.notify_all() is None


def test_wait_for_true_predicate_returns_at_once():
    c = Cond()
    with c:
        assert c.wait_for(lambda: 5) == 5
        assert c.wait_for(predicate=lambda: "x", timeout=0) == "x"
        calls = []
        assert c.wait_for(lambda: calls.append(1) or [], 0) == []
        assert c.wait_for(lambda: calls.append(1), -1) is None
        assert (
            len(calls) == 4
        )  # called once more after the release of the lock, as by threading.Condition

    with c, pytest.raises(ZeroDivisionError):
        c.wait_for(lambda: 1 / 0)


def test_wait_for_bounds_the_total_time():
    c = Cond()
    calls = []
    begin = time.monotonic()
    with c:
        assert c.wait_for(lambda: calls.append(1), 0.1) is None
        assert c._is_owned()
    assert 0.09 <= time.monotonic() - begin < 20
    assert len(calls) == 2


def test_wait_times_out():
    c = Cond()
    begin = time.monotonic()
    with c:
        assert c.wait(0.1) is False
    assert 0.09 <= time.monotonic() - begin < 20


def test_repr():
    m = Mutex()
    c = Cond(m)
    assert repr(c) == f"<nogil_sync.Cond object at {id(c):#x}, {m!r}, 0 waiting>"


def test_at_fork_reinit_frees_it():
    c = Cond()
    c._at_fork_reinit()
    c.acquire()
    c._at_fork_reinit()
    assert not c.locked()
    with c:
        assert c.wait(0) is False


def test_release_save_and_acquire_restore_are_those_of_the_lock():
    for lock in (None, threading.RLock()):
        c = Cond(lock)
        c.acquire()
        if lock is not None:
            c.acquire()
        saved = c._release_save()
        assert not c._is_owned()
        c._acquire_restore(saved)
        assert c._is_owned()
        c.release()
        if lock is not None:
            assert c._is_owned()
            c.release()
        assert not c._is_owned()


# Notifications


@starts_threads
@over
def test_notify_wakes_one_waiter(lock):
    c = cond_over(lock)
    thread, result = waiters(c, 1)[0]
    assert not result
    notify(c)
    thread.join(TIMEOUT)
    assert result == [True]
    assert waiting(c) == 0
    assert not c._is_owned()


@starts_threads
@over
def test_notify_all_wakes_all_waiters(lock):
    c = cond_over(lock)
    all_of_them = waiters(c, 4)
    notify_all(c)
    for thread, result in all_of_them:
        thread.join(TIMEOUT)
        assert result == [True]
    assert waiting(c) == 0


@starts_threads
def test_waiters_are_served_in_order():
    c = Cond()
    all_of_them = waiters(c, 6)

    def woken():
        return [bool(result) for _, result in all_of_them]

    notify(c)
    assert eventually(lambda: sum(woken()) == 1)
    assert woken() == [True, *[False] * 5]
    notify(c, 2)
    assert eventually(lambda: sum(woken()) == 3)
    assert woken() == [*[True] * 3, *[False] * 3]
    assert waiting(c) == 3
    notify(c, 0)
    notify(c, -1)
    time.sleep(0.03)
    assert waiting(c) == 3
    notify(c, 10**30)
    for thread, result in all_of_them:
        thread.join(TIMEOUT)
        assert result == [True]


@starts_threads
def test_notification_without_waiters_is_lost():
    c = Cond()
    notify(c)
    notify(c, 5)
    notify_all(c)
    with c:
        assert c.wait(0.02) is False


@starts_threads
def test_later_waiter_is_not_woken_by_earlier_notification():
    c = Cond()
    early = waiters(c, 1)[0]
    with c:
        c.notify_all()
        late, late_result = started(wait_in, c, 0.1)  # which gets the lock only after us
    early[0].join(TIMEOUT)
    late.join(TIMEOUT)
    assert early[1] == [True]
    assert late_result == [False]


@starts_threads
def test_timed_out_waiter_takes_no_notification():
    # It has timed out, and waits for the lock only: the notification goes to the other waiter.
    c = Cond()
    first, first_result = started(wait_in, c, 0.1)
    second, second_result = started(wait_in, c, TIMEOUT)
    with c:
        assert eventually(lambda: waiting(c) == 1)
        c.notify()
    first.join(TIMEOUT)
    second.join(TIMEOUT)
    assert first_result == [False]
    assert second_result == [True]


@starts_threads
def test_notified_wait_returns_true_however_long_the_lock_takes():
    c = Cond()
    for seconds in (0.3, 3, 30):
        thread, result = started(wait_in, c, seconds)
        with c:
            in_time = waiting(c) == 1  # else this machine has stalled for so long
            c.notify()
            if in_time:
                time.sleep(seconds + 0.2)
                assert not result
        thread.join(TIMEOUT)
        assert result == [in_time]
        if in_time:
            break
    assert in_time


@starts_threads
def test_timed_out_wait_returns_with_the_lock():
    c = Cond()
    thread, result = started(wait_in, c, 2)
    with c:
        assert eventually(lambda: waiting(c) == 0)
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(TIMEOUT)
    assert result == [False]


@starts_threads
def test_wait_for_returns_when_the_predicate_is_true():
    c = Cond()
    items = []

    def take():
        with c:
            assert c.wait_for(lambda: items, TIMEOUT) is items
            return items.pop()

    takers = [started(take) for _ in range(3)]
    for k in range(3):
        notify(c)  # wakes it too early: the predicate is still false
        with c:
            items.append(k)
            c.notify_all()
        assert eventually(lambda k=k: sum(bool(r) for _, r in takers) == k + 1)
    assert sorted(result[0] for _, result in takers) == [0, 1, 2]


@starts_threads
def test_notify_all_wakes_many_threads():
    c = Cond()
    n = 200
    rounds = 200 if NATIVE else 3  # each wakes all of them
    arrived = 0
    generation = 0

    def work():
        nonlocal arrived
        seen = 0
        for _ in range(rounds):
            with c:
                arrived += 1
                while generation == seen:
                    assert c.wait(TIMEOUT)
                seen = generation

    workers = [threading.Thread(target=work, daemon=True) for _ in range(n)]
    for worker in workers:
        worker.start()
    for k in range(1, rounds + 1):
        assert eventually(lambda k=k: arrived == n * k and waiting(c) == n)
        with c:
            generation = k
            c.notify_all()
    for worker in workers:
        worker.join(TIMEOUT)
        assert not worker.is_alive()
    assert waiting(c) == 0


@starts_threads
@pytest.mark.parametrize("lock", ["default", "Lock", "write", "RLock"])
def test_notifications_are_neither_stolen_nor_lost(lock):
    # One notification for each of a thousand items, to any waiter: all items must arrive.
    c = cond_over(lock)
    tokens = 0
    n = 1000

    def consume():
        nonlocal tokens
        for _ in range(n // 4):
            with c:
                while not tokens:
                    assert c.wait(TIMEOUT), "lost"
                tokens -= 1

    def produce():
        nonlocal tokens
        for _ in range(n // 2):
            with c:
                tokens += 1
                c.notify()

    run_threads(*[consume] * 4, produce, produce)
    assert tokens == 0
    assert waiting(c) == 0


@starts_threads
def test_thousand_rounds_of_notify_all():
    # Each notify_all wakes exactly the threads that wait, none of the next generation.
    c = Cond()
    woken = [0] * 3
    generation = 0

    def work(k):
        seen = 0
        while seen < 1000:
            with c:
                while generation == seen:
                    assert c.wait(TIMEOUT)
                seen = generation
                woken[k] += 1

    workers = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(3)]
    for worker in workers:
        worker.start()
    for k in range(1000):
        assert eventually(lambda: waiting(c) == 3)
        with c:
            assert woken == [k] * 3
            generation += 1
            c.notify_all()
    for worker in workers:
        worker.join(TIMEOUT)
        assert not worker.is_alive()
    assert woken == [1000] * 3


@starts_threads
def test_two_threads_take_turns():
    c = Cond()
    turn = 0

    def play(mine):
        nonlocal turn
        for _ in range(300):
            with c:
                assert c.wait_for(lambda: turn == mine, TIMEOUT)
                turn = 1 - mine
                c.notify()

    run_threads(lambda: play(0), lambda: play(1))


@starts_threads
def test_timeouts_lose_no_notification():
    c = Cond()
    tokens = given = taken = 0
    busy = True

    def consume(k):
        nonlocal tokens, taken
        while busy or tokens:
            with c:
                if not tokens:
                    c.wait(0.0005 * k)
                if tokens:
                    tokens -= 1
                    taken += 1

    def patient():
        nonlocal tokens, taken
        while busy:
            with c:
                while not tokens and busy:
                    c.wait(TIMEOUT)
                if tokens:
                    tokens -= 1
                    taken += 1

    def produce():
        nonlocal tokens, given, busy
        for _ in for_a_while(1):
            with c:
                tokens += 1
                given += 1
                c.notify()
        with c:
            busy = False
            c.notify_all()

    run_threads(lambda: consume(1), lambda: consume(2), patient, produce)
    assert taken + tokens == given
    assert waiting(c) == 0


@pytest.mark.parametrize(
    "method", ["acquire", "release", "locked", "__enter__", "_is_owned", "_release_save"]
)
@in_own_process
def test_chain_of_conds_raises_recursion_error(method):
    """No Python code lies between two of them: the interpreter's own check is not reached."""
    lock = Mutex()
    for _ in range(100_000):
        lock = Cond(lock)
    try:
        getattr(lock, method)()
    except RecursionError:
        pass
    else:
        raise AssertionError


@starts_threads
def test_two_conds_share_one_lock():
    lock = RWMutex().write
    full, empty = Cond(lock), Cond(lock)
    items = []

    def produce():
        for k in range(200):
            with lock:
                assert empty.wait_for(lambda: len(items) < 2, TIMEOUT)
                items.append(k)
                full.notify()

    def consume():
        result = []
        for _ in range(200):
            with lock:
                assert full.wait_for(lambda: items, TIMEOUT)
                result.append(items.pop(0))
                empty.notify()
        return result

    assert run_threads(produce, consume)[1] == list(range(200))
    assert waiting(full) == waiting(empty) == 0


@starts_threads
def test_cond_over_a_read_lock():
    # Readers wait with a read hold, several at once; a reader notifies.
    rw = RWMutex()
    c = Cond(rw.read)
    both = waiters(c, 2)
    notify_all(c)
    for thread, result in both:
        thread.join(TIMEOUT)
        assert result == [True]
    assert not rw.read.locked()
