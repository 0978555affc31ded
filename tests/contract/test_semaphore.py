"""Semaphore: weights, strict order, misuse, time-outs."""

import gc
import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from marks import starts_threads
from support import TIMEOUT, eventually, for_a_while, run_threads, started

from nogil_sync import Semaphore

MOST = 2**62 - 1


# The interface


def test_acquire_and_release():
    s = Semaphore(2)
    assert s.available() == 2
    assert s.acquire() is True
    assert s.acquire() is True
    assert s.available() == 0
    assert s.acquire(False) is False
    assert s.release() is None
    assert s.available() == 1
    s.release()
    assert s.available() == 2


def test_initial_value_is_one():
    s = Semaphore()
    assert s.available() == 1
    with s as entered:
        assert entered is True
        assert s.acquire(blocking=False) is False
    assert s.available() == 1
    with pytest.raises(LookupError), s:
        raise LookupError
    assert s.available() == 1


def test_acquire_takes_several_permits():
    s = Semaphore(value=10)
    assert s.acquire(n=7) is True
    assert s.acquire(False, n=4) is False
    assert s.acquire(True, 0, n=4) is False
    assert s.acquire(timeout=0.01, n=4) is False
    assert s.acquire(n=3) is True
    assert s.available() == 0
    s.release(4)
    s.release(n=5)
    assert s.available() == 9
    s.release()
    assert s.available() == 10
    assert s.acquire(n=10)


def test_semaphore_of_zero_always_waits():
    s = Semaphore(0)
    assert s.available() == 0
    assert s.acquire(False) is False
    assert s.acquire(timeout=0.01) is False
    assert s.acquire(False, n=10**30) is False
    with pytest.raises(TimeoutError), s.hold(2, timeout=0):
        raise AssertionError
    with pytest.raises(ValueError, match="released too many times"):
        s.release()
    s._at_fork_reinit()
    assert s.available() == 0
    assert repr(s).endswith(", 0 of 0 available>")


@starts_threads
def test_wait_on_semaphore_of_zero_is_interruptible():
    s = Semaphore(0)
    waiter, got = started(s.acquire, timeout=0.2)
    assert s.acquire(False) is False
    waiter.join(TIMEOUT)
    assert got == [False]


def test_unbounded_semaphore_grows_beyond_its_initial_value():
    s = Semaphore(1, bounded=False)
    s.release()
    s.release(n=3)
    assert s.available() == 5
    assert repr(s) == f"<nogil_sync.Semaphore object at {id(s):#x}, 5 available>"
    assert s.acquire(n=4) is True
    assert s.acquire(False, n=2) is False
    assert s.acquire(timeout=0.01, n=MOST + 1) is False
    assert s.acquire(False, n=10**30) is False
    with s, pytest.raises(TimeoutError), s.hold(timeout=0):
        raise AssertionError
    assert s.available() == 1
    for n in (0, -1):
        with pytest.raises(ValueError, match="n must be at least 1"):
            s.release(n)
        with pytest.raises(ValueError, match="n must be at least 1"):
            s.acquire(n=n)
    s.release(7)
    s._at_fork_reinit()
    assert s.available() == 1
    assert s.acquire()
    s._at_fork_reinit()
    assert s.available() == 1


@pytest.mark.parametrize("start", [0, 1, MOST])
def test_unbounded_semaphore_raises_above_its_max(start):
    s = Semaphore(start, bounded=False)
    for n in (MOST + 1 - start, MOST + 1, 2**63, 10**30):
        with pytest.raises(OverflowError, match="semaphore value is too large"):
            s.release(n)
        assert s.available() == start
    if start < MOST:
        s.release(MOST - start)
    assert s.acquire(n=MOST)
    assert s.available() == 0


def test_bounded_is_keyword_only_and_takes_any_truth():
    for truth in (True, 1, "yes"):
        with pytest.raises(ValueError, match="too many times"):
            Semaphore(bounded=truth).release()
    for truth in (False, 0, None, ""):
        Semaphore(bounded=truth).release()
    with pytest.raises(TypeError):
        Semaphore(1, False)

    class Failing:
        def __bool__(self):
            raise LookupError

    with pytest.raises(LookupError):
        Semaphore(bounded=Failing())


@starts_threads
def test_release_signals_waiters_of_an_unbounded_semaphore():
    s = Semaphore(0, bounded=False)
    large, large_got = started(s.acquire, n=3)
    small, small_got = started(s.acquire)
    s.release(2)
    assert not large_got
    assert not small_got
    assert s.available() == 2
    s.release(2)
    large.join(TIMEOUT)
    small.join(TIMEOUT)
    assert large_got == small_got == [True]
    assert s.available() == 0


@starts_threads
def test_thread_pool_works_on_an_unbounded_semaphore():
    with ThreadPoolExecutor(3) as executor:
        assert type(executor._idle_semaphore) is threading.Semaphore
        executor._idle_semaphore = Semaphore(0, bounded=False)
        for _ in range(20):
            assert list(executor.map(abs, range(-50, 0))) == list(range(50, 0, -1))
    assert len(executor._threads) <= 3


@starts_threads
def test_releases_are_neither_lost_nor_invented():
    s = Semaphore(0, bounded=False)
    ended = []

    def give(k):
        given = 0
        try:
            for i in for_a_while(0.5):
                s.release(1 + (i + k) % 3)
                given += 1 + (i + k) % 3
                while s.available() > 100:  # else the takers are not through for a long time
                    time.sleep(0.001)
        finally:
            ended.append(k)
        return given

    def take(k):
        taken = 0
        for i in itertools.takewhile(lambda _: len(ended) < 2, itertools.count()):
            n = 1 + (i + k) % 4
            if s.acquire(i % 3 > 0, None if i % 3 == 0 else 0.002, n=n):
                taken += n
        return -taken

    assert sum(run_threads(*[lambda k=k, f=f: f(k) for k in (0, 1) for f in (give, take)])) == (
        s.available()
    )


def test_largest_semaphore_counts_exactly():
    s = Semaphore(MOST)
    assert s.acquire(n=MOST)
    assert not s.acquire(False)
    s.release(MOST)
    assert s.available() == MOST
    with pytest.raises(ValueError):
        s.release(MOST)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "semaphore initial value must be >= 0"),
        (-(10**30), ValueError, "semaphore initial value must be >= 0"),
        (MOST + 1, OverflowError, None),
        (10**30, OverflowError, None),
        (1.0, TypeError, None),
        ("1", TypeError, None),
        (None, TypeError, None),
    ],
)
def test_wrong_initial_values_raise(value, error, message):
    with pytest.raises(error, match=message):
        Semaphore(value)


class Number:
    def __index__(self):
        return 2


def test_objects_with_index_method_are_accepted():
    s = Semaphore(Number())
    assert s.acquire(n=Number())
    s.release(Number())
    with s.hold(Number()):
        assert s.available() == 0
    assert Semaphore(True).available() == 1


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((True,), {}),
        ((True, None), {}),
        ((True, 5.0), {"n": 2}),
        ((), {"timeout": 5}),
        ((), {"timeout": 0}),
        ((), {"timeout": -1}),
        ((), {"timeout": -math.inf}),
        ((), {"timeout": threading.TIMEOUT_MAX}),
        ((False,), {}),
        ((False, None), {"n": 3}),
        ((), {"blocking": False}),
    ],
)
def test_acquire_accepts_arguments_of_threading_lock(args, kwargs):
    s = Semaphore(3)
    assert s.acquire(*args, **kwargs) is True
    n = kwargs.get("n", 1)
    assert s.available() == 3 - n
    s.release(n)


@pytest.mark.parametrize("timeout", [0, -1, -0.5, -math.inf, 0.001])
def test_zero_timeouts_do_not_wait(timeout):
    s = Semaphore()
    with s:
        assert s.acquire(timeout=timeout) is False
        assert s.available() == 0
        with pytest.raises(TimeoutError, match="timed out waiting for the semaphore"):
            s.hold(timeout=timeout).__enter__()
    assert s.available() == 1


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((False, 5), {}, ValueError, "can't specify timeout for non-blocking acquire"),
        ((False, 0), {}, ValueError, "can't specify timeout for non-blocking acquire"),
        ((False, -1), {}, ValueError, "can't specify timeout for non-blocking acquire"),
        ((), {"timeout": math.nan}, ValueError, None),
        ((), {"timeout": math.inf}, OverflowError, None),
        ((), {"timeout": threading.TIMEOUT_MAX * 2}, OverflowError, None),
        ((), {"timeout": 10**400}, OverflowError, None),
        ((), {"timeout": "1"}, TypeError, None),
        ((), {"n": 0}, ValueError, "n must be at least 1"),
        ((), {"n": -1}, ValueError, "n must be at least 1"),
        ((False,), {"n": -(10**30)}, ValueError, "n must be at least 1"),
        ((), {"n": 3}, ValueError, "n exceeds the semaphore's value"),
        ((False,), {"n": 3}, ValueError, "n exceeds the semaphore's value"),
        ((), {"timeout": 0, "n": 10**30}, ValueError, "n exceeds the semaphore's value"),
        ((), {"n": 1.0}, TypeError, None),
        ((), {"n": None}, TypeError, None),
        ((True, None, 1), {}, TypeError, None),
        ((2,), {}, TypeError, "blocking must be a bool, not int; .* n="),
        ((0,), {"n": 1}, TypeError, "blocking must be a bool, not int; .* n="),
        ((None,), {}, TypeError, "blocking must be a bool, not NoneType; .* n="),
        ((), {"blocking": 1.0}, TypeError, "blocking must be a bool, not float; .* n="),
        ((), {"count": 1}, TypeError, None),
    ],
)
@pytest.mark.parametrize("taken", [0, 2])
def test_wrong_arguments_raise(args, kwargs, error, message, taken):
    s = Semaphore(2)
    if taken:
        s.acquire(n=taken)
    with pytest.raises(error, match=message):
        s.acquire(*args, **kwargs)
    assert s.available() == 2 - taken
    if taken:
        s.release(taken)


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n must be at least 1"),
        (-1, ValueError, "n must be at least 1"),
        (-(10**30), ValueError, "n must be at least 1"),
        (2, ValueError, "semaphore released too many times"),
        (MOST, ValueError, "semaphore released too many times"),
        (10**30, ValueError, "semaphore released too many times"),
        (1.0, TypeError, None),
        ("1", TypeError, None),
    ],
)
def test_wrong_releases_raise(n, error, message):
    s = Semaphore(3)
    s.acquire()
    for _ in range(2):
        with pytest.raises(error, match=message):
            s.release(n)
        assert s.available() == 2
    s.release()
    with pytest.raises(ValueError, match="released too many times"):
        s.release()
    assert s.available() == 3


def test_wrong_numbers_of_arguments_raise():
    s = Semaphore()
    for call in (
        lambda: Semaphore(1, 2),
        lambda: s.release(1, 2),
        lambda: s.available(1),
        lambda: s.hold(1, 2, 3),
        lambda: s.hold(count=1),
    ):
        with pytest.raises(TypeError):
            call()
    assert s.available() == 1


def test_arguments_may_use_the_semaphore():
    s = Semaphore(3)

    class Odd:
        def __index__(self):
            with s:
                return 2

        def __float__(self):
            with s:
                return 1.0

    assert s.acquire(timeout=Odd(), n=Odd())
    s.release(Odd())
    assert s.available() == 3

    class Failing:
        def __index__(self):
            raise LookupError

        __float__ = __index__

    for call in (
        lambda: s.acquire(n=Failing()),
        lambda: s.acquire(timeout=Failing()),
        lambda: s.release(Failing()),
        lambda: s.hold(Failing()),
        lambda: s.hold(timeout=Failing()),
    ):
        with pytest.raises(LookupError):
            call()
    assert s.available() == 3


def test_hold_acquires_and_releases():
    s = Semaphore(5)
    hold = s.hold(3)
    assert s.available() == 5  # nothing yet
    with hold as entered:
        assert entered is None
        assert s.available() == 2
        with pytest.raises(TimeoutError), s.hold(3, timeout=0.01):
            raise AssertionError
        with s.hold(2, 0):
            assert s.available() == 0
        assert s.available() == 2
    with hold:  # again
        assert s.available() == 2
    with pytest.raises(LookupError), hold:
        raise LookupError
    assert s.available() == 5
    with s.hold():
        assert s.available() == 4


def test_hold_can_be_nested():
    s = Semaphore(4)
    hold = s.hold(2, timeout=0)
    with hold, hold:
        assert s.available() == 0
        with pytest.raises(TimeoutError), hold:
            raise AssertionError
    assert s.available() == 4


def test_hold_keeps_its_semaphore_alive():
    hold = Semaphore(2).hold(2, timeout=0)
    gc.collect()
    with hold, pytest.raises(TimeoutError), hold:
        pass
    with hold:
        pass


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((0,), ValueError),
        ((3,), ValueError),
        ((1.0,), TypeError),
        ((1, math.nan), ValueError),
        ((1, math.inf), OverflowError),
        ((1, "1"), TypeError),
    ],
)
def test_hold_checks_its_arguments_at_once(args, error):
    s = Semaphore(2)
    with pytest.raises(error):
        s.hold(*args)


def test_repr():
    s = Semaphore(3)
    s.acquire()
    assert repr(s) == f"<nogil_sync.Semaphore object at {id(s):#x}, 2 of 3 available>"


def test_at_fork_reinit_frees_it():
    s = Semaphore(3)
    s._at_fork_reinit()
    assert s.available() == 3
    s.acquire(n=2)
    s._at_fork_reinit()
    assert s.available() == 3
    with pytest.raises(ValueError):
        s.release()
    assert s.acquire(n=3)


# Between threads


@starts_threads
def test_holders_never_exceed_the_permits():
    s = Semaphore(3)
    lock = threading.Lock()
    inside = most = 0

    def work(n):
        nonlocal inside, most
        for _ in range(300):
            with s.hold(n):
                with lock:
                    inside += n
                    most = max(most, inside)
                with lock:
                    inside -= n

    run_threads(*[lambda n=n: work(n) for n in (1, 1, 2, 3)])
    assert most <= 3
    assert s.available() == 3


@starts_threads
def test_any_thread_may_release():
    s = Semaphore(2)
    s.acquire(n=2)
    run_threads(s.release, s.release)
    assert s.available() == 2


@starts_threads
def test_waiters_are_served_in_order():
    s = Semaphore()
    order = []

    def work(k):
        with s:
            order.append(k)

    s.acquire()
    workers = [started(work, k)[0] for k in range(6)]
    s.release()
    for worker in workers:
        worker.join(TIMEOUT)
    assert order == list(range(6))


@starts_threads
def test_large_request_is_not_overtaken():
    s = Semaphore(3)
    s.acquire(n=2)
    large, large_got = started(s.acquire, n=3)
    small, small_got = started(s.acquire)
    # One permit is free, but the first waiter asks for three.
    assert s.available() == 1
    assert not small_got
    assert s.acquire(False) is False
    assert s.acquire(timeout=0.02) is False
    s.release()
    time.sleep(0.03)
    assert not large_got
    assert not small_got
    s.release()
    large.join(TIMEOUT)
    assert large_got == [True]
    assert not small_got
    s.release(3)
    small.join(TIMEOUT)
    assert small_got == [True]
    assert s.available() == 2


@starts_threads
def test_one_release_admits_as_many_waiters_as_fit():
    s = Semaphore(6)
    s.acquire(n=6)
    waiters = [started(s.acquire, n=n) for n in (1, 2, 3, 1)]
    s.release(5)
    assert eventually(lambda: [bool(r) for _, r in waiters] == [True, True, False, False])
    assert s.available() == 2
    time.sleep(0.03)
    assert [bool(r) for _, r in waiters] == [True, True, False, False]
    s.release(1)
    assert eventually(lambda: [bool(r) for _, r in waiters] == [True, True, True, False])
    s.release(1)
    for thread, result in waiters:
        thread.join(TIMEOUT)
        assert result == [True]
    assert s.available() == 0


@starts_threads
def test_timed_out_waiter_lets_later_waiters_in():
    for patience in (0.5, 5, TIMEOUT):
        s = Semaphore(3)
        s.acquire(n=2)
        large, large_got = started(s.acquire, timeout=patience, n=3)
        waiters = [started(s.acquire), started(s.acquire)]
        if not large_got:
            break
        # A slow machine: the large request timed out before the later waiters had come.
        s.release(2)
    assert not any(r for _, r in waiters)
    large.join(TIMEOUT)
    assert large_got == [False]
    assert eventually(lambda: waiters[0][1] == [True])
    assert not waiters[1][1]
    s.release()
    waiters[1][0].join(TIMEOUT)
    assert waiters[1][1] == [True]
    s.release(3)
    assert s.available() == 3


@starts_threads
def test_acquire_times_out():
    s = Semaphore()
    s.acquire()
    begin = time.monotonic()
    assert s.acquire(timeout=0.1) is False
    assert 0.09 <= time.monotonic() - begin < 20
    thread, result = started(s.acquire, timeout=0.05)
    thread.join(TIMEOUT)
    assert result == [False]
    with pytest.raises(TimeoutError), s.hold(timeout=0.05):
        raise AssertionError
    assert s.available() == 0
    s.release()
    assert s.acquire(timeout=0.1) is True


@starts_threads
def test_hold_is_shared_by_threads():
    s = Semaphore(4)
    hold = s.hold(2)
    lock = threading.Lock()
    inside = most = 0

    def work():
        nonlocal inside, most
        for _ in range(200):
            with hold:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1

    run_threads(work, times=4)
    assert most <= 2
    assert s.available() == 4


@starts_threads
def test_timeouts_and_tries_lose_nothing():
    s = Semaphore(4)

    def work(k):
        taken = 0
        for i in for_a_while(0.7):
            n = 1 + (i + k) % 4
            got = s.acquire(False, n=n) if i % 3 == 0 else s.acquire(timeout=i % 5 / 2000, n=n)
            if got:
                taken += 1
                s.release(n)
        return taken

    assert all(run_threads(*[lambda k=k: work(k) for k in range(4)]))
    assert s.available() == 4
    assert s.acquire(False, n=4)


@starts_threads
def test_large_requests_are_not_starved():
    s = Semaphore(4)
    sizes = (1, 1, 1, 1, 1, 4)
    done = [0] * len(sizes)
    end = time.monotonic() + TIMEOUT / 2

    def work(k):
        # All continue until each has had its turns: none gets in only because others have ended.
        while min(done) < 10 and time.monotonic() < end:
            with s.hold(sizes[k]):
                time.sleep(0.001)
            done[k] += 1

    run_threads(*[lambda k=k: work(k) for k in range(len(sizes))])
    assert min(done) >= 10, done
    assert s.available() == 4


@starts_threads
def test_at_fork_reinit_forgets_waiters():
    s = Semaphore(2)
    s.acquire(n=2)
    thread, result = started(s.acquire, timeout=TIMEOUT, n=2)
    s._at_fork_reinit()
    thread.join(TIMEOUT)
    assert result == [True]
    assert s.available() == 0
    s.release(2)


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    s = Semaphore()
    s.acquire()
    thread, result = started(s.acquire)
    for _ in range(3):
        gc.collect()
    assert not result
    s.release()
    thread.join(TIMEOUT)
    assert result == [True]
