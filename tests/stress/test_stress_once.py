"""Many threads make the first call at once: one run, one outcome, no thread left waiting."""

import gc
import random
import time

import pytest
from marks import starts_threads
from support import STRESS, background, cores, for_a_while, run_threads, same_error

from nogil_sync import AtomicInt64, Once, once, once_property

pytestmark = starts_threads

THREADS = max(4, min(16, cores() + 2))
ROUNDS = int(1000 * STRESS)


def collect_now_and_then():
    gc.collect()
    time.sleep(0.03)


class Lazy:
    def __init__(self, compute):
        self.compute = compute

    @once_property
    def value(self):
        return self.compute()


def by_object(fn, **options):
    o = Once(**options)
    return lambda: o.do(fn)


def by_property(fn):
    lazy = Lazy(fn)
    return lambda: lazy.value


every = pytest.mark.parametrize("make", [once, by_object, by_property])


@every
def test_concurrent_first_calls_run_once(make):
    runs = [AtomicInt64() for _ in range(ROUNDS)]

    def fn(k):
        time.sleep(0)
        return runs[k].add(), object()

    calls = [make(lambda k=k: fn(k)) for k in range(ROUNDS)]
    with background(collect_now_and_then):
        seen = run_threads(lambda: [call() for call in calls], times=THREADS)
    assert all(counter.load() == 1 for counter in runs)
    assert all(outcome is first for each in seen for outcome, first in zip(each, seen[0]))


@every
def test_first_calls_of_many_run_once_each(make):
    """Each needs some that come before it, which another thread may just be running."""
    n = 200
    runs = [AtomicInt64() for _ in range(n)]
    calls = []

    def fn(k):
        runs[k].add()
        needed = random.Random(k).sample(range(k), min(k, 3))
        return 1 + max((calls[j]() for j in needed), default=0)

    for _ in for_a_while(0.5):
        for counter in runs:
            counter.store(0)
        calls[:] = [make(lambda k=k: fn(k)) for k in range(n)]

        def work():
            order = list(range(n))
            random.shuffle(order)
            return sum(calls[k]() for k in order)

        assert len(set(run_threads(work, times=4))) == 1
        assert all(counter.load() == 1 for counter in runs)


def test_deadlocks_in_any_order_raise():
    """Functions that call each other in any order: some calls raise, none hangs."""
    refused = AtomicInt64()

    def fn(k):
        rng = random.Random(k)
        for j in rng.sample(range(len(calls)), 2):
            try:
                calls[j]()
            except RuntimeError:
                refused.add()
        return k

    for seed in for_a_while(0.7):
        calls = []
        calls += [
            [once, by_object, by_property][k % 3](lambda k=k, seed=seed: fn(k + seed) - seed)
            for k in range(12)
        ]
        results = run_threads(lambda: [call() for call in calls], times=4)
        assert results == [list(range(12))] * 4
    print("refused", refused.load())


@pytest.mark.parametrize("make", [lambda fn: once(fn, retry=True), by_property])
def test_failures_with_retry_run_again(make):
    for seed in for_a_while(0.7):
        attempts = AtomicInt64()
        inside = AtomicInt64()
        fails = seed % 5

        def fn():
            assert inside.add() == 1
            inside.sub()
            if attempts.add() <= fails:
                raise LookupError
            return attempts

        call = make(fn)

        def work():
            while True:
                try:
                    return call()
                except LookupError:
                    pass

        assert all(result is attempts for result in run_threads(work, times=4))
        assert attempts.load() == fails + 1


def test_all_threads_get_one_exception():
    for _ in for_a_while(0.7):

        def fn():
            raise LookupError

        f = once(fn)

        def work():
            with pytest.raises(LookupError) as caught:
                f()
            return caught.value

        errors = run_threads(work, times=4)
        assert all(same_error(error, errors[0]) for error in errors)


@every
def test_interrupted_calls_settle_nothing(make, interrupt):
    # The main thread is interrupted out of its runs and its waits, anywhere in them.
    class StopError(BaseException):
        pass

    armed = False

    def handler():
        nonlocal armed
        if armed:
            armed = False
            raise StopError

    raised = ran = 0
    calls = []

    def fn():
        end = time.monotonic() + 0.0003
        while time.monotonic() < end:
            pass
        return object()

    def other():
        for call in calls[-2:]:
            call()

    halt = interrupt(handler, 0.001, 0.0007)
    with background(other, other):
        for _ in for_a_while(1.5):
            call = make(fn)
            calls[:] = [call]
            try:
                armed = True
                result = call()
                armed = False
            except StopError:
                raised += 1
                result = call()
            assert call() is result
            ran += 1
        halt()
    print("raised", raised, "ran", ran)
    assert raised


@every
def test_once_is_freed_during_collections(make):
    def work():
        for _ in for_a_while(0.5):
            holder = []
            call = make(lambda holder=holder: holder)
            holder.append(call)
            call()

    with background(collect_now_and_then):
        run_threads(work, times=4)
    gc.collect()
