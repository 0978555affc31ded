"""Cond: threading.Condition's interface over any lock; order, no lost and no stolen signals."""

import concurrent.futures
import gc
import math
import os
import queue
import signal
import threading
import time

import pytest
from ctrl_c import interrupt_call
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import LONG, NATIVE, eventually, for_a_while, run_threads, started

from nogil_sync import Cond, Mutex, RWMutex, Semaphore


class Duck:
    """A lock that is nobody's: just acquire and release."""

    def __init__(self):
        self.lock = threading.Lock()

    def acquire(self, blocking=True, timeout=-1):
        return self.lock.acquire(blocking, timeout)

    def release(self):
        self.lock.release()


class Sub(Mutex):
    """A subclass that adds to what it inherits."""

    count = 0

    def release(self):
        self.count += 1
        super().release()


LOCKS = {
    "default": lambda: None,
    "Mutex": Mutex,
    "Lock": threading.Lock,
    "RLock": threading.RLock,
    "write": lambda: RWMutex().write,
    "read": lambda: RWMutex().read,
    "duck": Duck,
    "subclass": Sub,
    "Semaphore": Semaphore,
    "Condition": threading.Condition,
    "Cond": Cond,
}
over = pytest.mark.parametrize("lock", LOCKS)
# Those that one thread holds at a time.
over_exclusive = pytest.mark.parametrize("lock", [name for name in LOCKS if name != "read"])


def cond_over(name):
    return Cond(LOCKS[name]())


def waiting(c):
    """How many wait, which only the repr tells."""
    return int(repr(c).split(", ")[-1].split()[0])


def wait_in(c, timeout=LONG):
    with c:
        return c.wait(timeout)


def waiters(c, n, *args):
    """Threads that wait, one after the other."""
    result = []
    for k in range(n):
        result.append(started(wait_in, c, *args))
        assert eventually(lambda k=k: waiting(c) == k + 1)
    return result


def notify(c, *args):
    with c:
        c.notify(*args)


def notify_all(c):
    with c:
        c.notify_all()


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
        thread.join(LONG)
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


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (math.nan, ValueError),
        (math.inf, OverflowError),
        (threading.TIMEOUT_MAX * 2, OverflowError),
        (10**400, OverflowError),
        ("1", TypeError),
    ],
)
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
        assert len(calls) == 4  # once more after it let go of the lock, as threading's

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
    thread.join(LONG)
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
        thread.join(LONG)
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
        thread.join(LONG)
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
    early[0].join(LONG)
    late.join(LONG)
    assert early[1] == [True]
    assert late_result == [False]


@starts_threads
def test_timed_out_waiter_takes_no_notification():
    # It has given up, and waits for the lock only: the notification is for the other one.
    c = Cond()
    first, first_result = started(wait_in, c, 0.1)
    second, second_result = started(wait_in, c, LONG)
    with c:
        assert eventually(lambda: waiting(c) == 1)
        c.notify()
    first.join(LONG)
    second.join(LONG)
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
        thread.join(LONG)
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
    thread.join(LONG)
    assert result == [False]


@starts_threads
def test_wait_for_returns_when_the_predicate_is_true():
    c = Cond()
    items = []

    def take():
        with c:
            assert c.wait_for(lambda: items, LONG) is items
            return items.pop()

    takers = [started(take) for _ in range(3)]
    for k in range(3):
        notify(c)  # for nothing: the predicate is still false
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
                    assert c.wait(LONG)
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
        worker.join(LONG)
        assert not worker.is_alive()
    assert waiting(c) == 0


@starts_threads
@pytest.mark.parametrize("lock", ["default", "Lock", "write", "RLock"])
def test_notifications_are_neither_stolen_nor_lost(lock):
    # One notification for each of a thousand items, to whoever waits: all must go through.
    c = cond_over(lock)
    tokens = 0
    n = 1000

    def consume():
        nonlocal tokens
        for _ in range(n // 4):
            with c:
                while not tokens:
                    assert c.wait(LONG), "lost"
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
    # Each wakes exactly those that waited, none of the generation after.
    c = Cond()
    woken = [0] * 3
    generation = 0

    def work(k):
        seen = 0
        while seen < 1000:
            with c:
                while generation == seen:
                    assert c.wait(LONG)
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
        worker.join(LONG)
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
                assert c.wait_for(lambda: turn == mine, LONG)
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
                    c.wait(LONG)
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


@starts_threads
def test_two_conds_share_one_lock():
    lock = RWMutex().write
    full, empty = Cond(lock), Cond(lock)
    items = []

    def produce():
        for k in range(200):
            with lock:
                assert empty.wait_for(lambda: len(items) < 2, LONG)
                items.append(k)
                full.notify()

    def consume():
        result = []
        for _ in range(200):
            with lock:
                assert full.wait_for(lambda: items, LONG)
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
        thread.join(LONG)
        assert result == [True]
    assert not rw.read.locked()


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
            c.wait(LONG)
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
        assert outer.wait(LONG) is True
    thread.join(LONG)
    assert result == [None]
    assert not inner._is_owned()


# In the place of threading.Condition


@starts_threads
def test_queue_works_over_conds():
    q = queue.Queue(maxsize=2)
    q.mutex = Mutex()
    q.not_empty = Cond(q.mutex)
    q.not_full = Cond(q.mutex)
    q.all_tasks_done = Cond(q.mutex)
    got = []

    def consume():
        for _ in range(200):
            got.append(q.get(timeout=LONG))
            q.task_done()

    run_threads(consume, consume, lambda: [q.put(k, timeout=LONG) for k in range(400)])
    q.join()
    assert sorted(got) == list(range(400))
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)


@starts_threads
def test_event_barrier_and_semaphore_work_over_conds():
    event = threading.Event()
    event._cond = Cond()
    barrier = threading.Barrier(3)
    barrier._cond = Cond(threading.Lock())
    semaphore = threading.Semaphore(2)
    semaphore._cond = Cond()

    def work():
        assert event.wait(LONG)
        with semaphore:
            pass
        return [barrier.wait(LONG) for _ in range(20)]

    rounds = run_threads(work, work, lambda: event.set() or work())
    assert [sorted(each) for each in zip(*rounds, strict=True)] == [[0, 1, 2]] * 20


@starts_threads
def test_futures_work_over_conds(monkeypatch):
    class Reentrant(Cond):
        # A Future's condition is entered again by its callbacks' helpers.
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
        assert sum(f.result(LONG) for f in concurrent.futures.as_completed(futures, LONG)) == sum(
            k * k for k in range(50)
        )
        slow = pool.submit(time.sleep, 0.2)
        with pytest.raises(TimeoutError):
            slow.result(0.01)
        assert slow.result(LONG) is None


# Ctrl-C, handlers, finalisers

# Ways to make the lock that the Cond is over.
LOCKS = {
    "its own": lambda: None,
    "threading.Lock": lambda: threading.Lock(),
    "RWMutex.write": lambda: RWMutex().write,
    "threading.RLock": lambda: threading.RLock(),
}
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
@pytest.mark.parametrize("lock", ["its own", "threading.Lock", "RWMutex.write"])
@in_own_process
def test_ctrl_c_ends_wait_with_the_lock_held(lock, name):
    c = Cond(LOCKS[lock]())
    others = 0 if lock == "its own" else 2
    way = "kill" if name == "wait" else "interrupt_main"
    interrupt_wait(c, lambda: WAITING[name](c), others, way=way, limit=10)


@starts_processes
@pytest.mark.parametrize(
    ("lock", "times"),
    [("its own", 1), ("its own", 3), ("threading.Lock", 3), ("RWMutex.write", 3)],
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
    # First in line, it is the one that is notified; as its call fails the next one has it.
    c, served, main = Cond(), [], threading.get_ident()

    def other():
        with c:  # so the main thread waits
            signal.pthread_kill(main, signal.SIGUSR1)
            served.append(c.wait(LONG))

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
                c.wait(LONG)
        thread.join(LONG)
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
        ("its own", 1),
        ("its own", 3),
        ("threading.Lock", 3),
        ("RWMutex.write", 3),
        ("threading.RLock", 3),
    ],
)
@in_own_process
def test_interrupted_wait_holds_the_lock_and_loses_no_notification(lock, at_most):
    # After each wait, however it ends, the lock is ours; and no token is lost with a signal.
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
    for _ in interrupts.for_a_second():
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
        assert c.wait(LONG) is True
    assert waiting(c) == 0


@sets_handlers
def test_handler_waits_on_the_cond_of_its_thread(interrupt):
    c = Cond()
    log = []

    def handler():
        with c:
            log.append(c.wait(0.01))
            # First the thread's own wait, below us, then ours.
            c.notify()
            c.notify()
            log.append(c.wait(0.01))
            notifier.start()
            log.append(c.wait(LONG))

    notifier = threading.Timer(0.1, notify, [c])
    interrupt(handler, 0.05)
    with c:
        assert c.wait(LONG) is True
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
            tried.wait(LONG)
            time.sleep(0.05)

    def handler():
        if held.is_set() and not log:
            log.append(c.acquire(timeout=0.01))
            tried.set()
            log.append(c.acquire(timeout=LONG))
            c.release()

    holder = threading.Thread(target=hold)
    holder.start()
    interrupt(handler, 0.05, 0.02)
    with c:
        assert c.wait(LONG) is True
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
        worker.join(LONG)
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
        thread.join(LONG)
        assert result == [True]


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    c = Cond()
    thread, result = waiters(c, 1)[0]
    for _ in range(3):
        gc.collect()
    assert not result
    notify(c)
    thread.join(LONG)
    assert result == [True]
