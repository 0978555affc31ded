"""TaskGroup: failures, cancellation and nested groups."""

import concurrent.futures
import math
import threading
import traceback
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import pytest
from groups import Gate, begun, caught, raising
from marks import starts_threads
from support import TIMEOUT, WRONG_TIMEOUTS, run_threads

from nogil_sync import Event, TaskGroup

pytestmark = starts_threads


MESSAGE = "unhandled errors in a TaskGroup"


# Failures


def test_failures_are_raised_as_one_group(group):
    def use():
        with group() as tg:
            barrier = threading.Barrier(2)

            def fail(error):
                barrier.wait(TIMEOUT)
                raise error

            futures.append(tg.go(fail, ValueError(1)))
            futures.append(tg.go(fail, KeyError(2)))

    futures = []
    error = caught(use)
    assert type(error) is ExceptionGroup
    assert error.message == MESSAGE
    assert {type(each) for each in error.exceptions} == {ValueError, KeyError}
    assert {f.exception() for f in futures} == set(error.exceptions)
    assert error.__suppress_context__


def test_failures_are_in_order_of_their_tasks():
    def use():
        with TaskGroup() as tg:
            events = [threading.Event() for _ in range(5)]
            begun = threading.Barrier(6)  # what has not begun is cancelled

            def fail(n):
                begun.wait(TIMEOUT)
                assert events[n].wait(TIMEOUT)
                raise ValueError(n)

            futures = [tg.go(fail, n) for n in range(5)]
            begun.wait(TIMEOUT)
            for n in (3, 1, 4, 0, 2):
                events[n].set()
                concurrent.futures.wait([futures[n]])
            raise TypeError("body")

    error = caught(use)
    assert [each.args[0] for each in error.exceptions] == ["body", 3, 1, 4, 0, 2]


def test_first_failure_cancels_the_group(group):
    ran = []

    def use():
        with group() as tg:

            def task():
                assert tg.wait_cancelled(TIMEOUT)
                return tg.cancelled()

            futures.append(begun(tg, task))
            futures.append(tg.go(raising, ValueError()))
            assert tg.wait_cancelled(TIMEOUT)
            assert tg.cancelled()
            futures.append(tg.go(ran.append, 1))
            assert futures[2].cancelled()

    futures = []
    error = caught(use)
    assert len(error.exceptions) == 1
    assert futures[0].result() is True
    assert not ran


def test_group_is_cancelled_before_the_failed_future_is_done():
    seen = []

    def use():
        with TaskGroup() as tg:
            ready = threading.Event()

            def fail():
                ready.wait(TIMEOUT)
                raise ValueError

            future = tg.go(fail)
            future.add_done_callback(lambda _: seen.append(tg.cancelled()))
            ready.set()

    caught(use)
    assert seen == [True]


def test_failure_cancels_queued_tasks():
    ran = []

    def use():
        with TaskGroup(limit=1) as tg:
            gate = Gate()

            def fail():
                gate()
                raise ValueError

            tg.go(fail)
            futures.extend(tg.go(ran.append, n) for n in range(50))
            gate.open()

    futures = []
    assert len(caught(use).exceptions) == 1
    assert not ran
    assert all(f.cancelled() for f in futures)
    assert concurrent.futures.wait(futures, TIMEOUT).not_done == set()


def test_failure_of_the_body_cancels_the_group():
    def use():
        with TaskGroup() as tg:
            futures.append(begun(tg, tg.wait_cancelled, TIMEOUT))
            raise ValueError("body")

    futures = []
    error = caught(use)
    assert [each.args for each in error.exceptions] == [("body",)]
    assert futures[0].result() is True


def test_same_failure_is_raised_once():
    def use():
        with TaskGroup() as tg:
            first = tg.go(raising, ValueError())
            for _ in range(3):
                tg.go(first.result)
            first.result()

    error = caught(use)
    assert len(error.exceptions) == 1


def test_failures_of_body_and_tasks_are_raised_together():
    def use():
        with TaskGroup() as tg:
            begun(tg, raising, KeyError())
            raise ValueError

    error = caught(use)
    assert [type(each) for each in error.exceptions] == [ValueError, KeyError]


def test_tracebacks_lead_to_the_origin():
    def origin():
        raise ValueError

    def use():
        with TaskGroup() as tg:
            tg.go(origin)

    error = caught(use).exceptions[0]
    assert traceback.extract_tb(error.__traceback__)[-1].name == "origin"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_of_tasks_are_raised_bare(kind):
    error = kind(1)

    def task(tg):
        tg.wait_cancelled(TIMEOUT)
        raise error

    def use():
        with TaskGroup() as tg:
            futures.append(begun(tg, task, tg))
            futures.append(tg.go(raising, ValueError()))
            raise TypeError

    futures = []
    assert caught(use) is error
    assert futures[0].exception() is error


def test_other_base_exceptions_of_tasks_are_grouped():
    class Odd(BaseException):
        pass

    def use():
        with TaskGroup() as tg:
            tg.go(raising, Odd())
            tg.wait_cancelled(TIMEOUT)
            raise ValueError

    error = caught(use)
    assert type(error) is BaseExceptionGroup
    assert [type(each) for each in error.exceptions] == [ValueError, Odd]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_of_the_body_are_raised_bare(kind, group):
    error = kind(1)

    def use():
        with group() as tg:
            futures.append(begun(tg, tg.wait_cancelled, TIMEOUT))
            futures.append(tg.go(raising, ValueError()))
            assert tg.wait_cancelled(TIMEOUT)
            raise error

    futures = []
    assert caught(use) is error
    assert futures[0].result() is True
    assert isinstance(futures[1].exception(), ValueError)


def test_wait_cancelled_returns_at_once_after_cancelled_was_seen():
    """It is cancelled a moment before the event is set that others wait for."""

    class Late(Event):
        def set(self):
            seen.append((tg.cancelled(), tg.wait_cancelled(0)))
            super().set()

    seen = []
    with TaskGroup() as tg:
        tg._TaskGroup__tasks.event = Late()
        tg.cancel()
        assert seen == [(True, True)]
        assert tg.wait_cancelled()


def test_generator_can_be_closed_in_the_body():
    log = []

    def generate():
        with TaskGroup() as tg:
            begun(tg, lambda: log.append(tg.wait_cancelled(TIMEOUT)))
            yield 1

    generator = generate()
    next(generator)
    generator.close()
    assert log == [True]


def test_cancelled_errors_after_cancellation_are_dropped():
    def use(body):
        with TaskGroup(limit=2) as tg:
            gate = Gate()

            def fail():
                gate()
                raise ValueError

            tg.go(fail)
            ready = threading.Event()
            queued = []

            def waits():
                ready.wait(TIMEOUT)
                return queued[0].result()

            tg.go(waits)
            queued.append(tg.go(int))
            ready.set()
            gate.open()
            if body:
                queued[0].result()

    for body in (False, True):
        assert [type(e) for e in caught(lambda: use(body)).exceptions] == [ValueError]


def test_cancelled_error_without_cancellation_is_a_failure():
    cancelled = Future()
    cancelled.cancel()

    def task():
        with TaskGroup() as tg:
            tg.go(cancelled.result)

    def body():
        with TaskGroup():
            cancelled.result()

    for use in (task, body):
        assert [type(e) for e in caught(use).exceptions] == [CancelledError]


# Cancelling


def test_cancel_cancels_queued_tasks_and_wakes_waiters(group):
    with group() as tg:
        assert tg.cancelled() is False
        assert tg.wait_cancelled(0) is False
        future = tg.go(tg.wait_cancelled)
        assert tg.cancel() is None
        assert tg.cancel() is None
        assert tg.cancelled() is True
        assert tg.wait_cancelled() is True
        assert tg.go(int).cancelled()
    assert tg.cancelled() is True
    # If it had not begun, it was cancelled as well.
    assert future.cancelled() or future.result() is True


def test_cancelled_error_of_a_cancelled_inner_group_is_raised():
    def use():
        with TaskGroup() as tg:
            tg.cancel()
            tg.go(int).result()

    assert type(caught(use)) is CancelledError


def test_group_can_be_cancelled_before_it_is_entered():
    tg = TaskGroup()
    tg.cancel()
    with tg:
        assert tg.go(int).cancelled()


def test_task_cancels_its_group(group):
    with group() as tg:
        futures = [tg.go(tg.wait_cancelled, TIMEOUT), tg.go(tg.cancel)]
    assert futures[1].done()
    assert futures[0].cancelled() or futures[0].result() is True


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, 0.01])
def test_wait_cancelled_times_out(timeout):
    assert TaskGroup().wait_cancelled(timeout) is False
    assert TaskGroup().wait_cancelled(timeout=timeout) is False


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
def test_wait_cancelled_with_wrong_timeouts(timeout, error):
    with TaskGroup() as tg:
        with pytest.raises(error):
            tg.wait_cancelled(timeout)
        tg.cancel()
        with pytest.raises(error):
            tg.wait_cancelled(timeout)


def test_many_threads_cancel_at_once():
    for _ in range(20):
        with TaskGroup(limit=2) as tg:
            futures = [tg.go(int) for _ in range(50)]
            run_threads(tg.cancel, tg.cancel, lambda tg=tg: tg.go(int))
        assert concurrent.futures.wait(futures, TIMEOUT).not_done == set()


# Nested groups


def test_failures_of_an_inner_group_are_one_failure_of_the_outer():
    def inner():
        with TaskGroup() as tg:
            tg.go(raising, ValueError())

    def use():
        with TaskGroup() as tg:
            tg.go(inner)

    error = caught(use)
    assert [type(each) for each in error.exceptions] == [ExceptionGroup]
    assert [type(each) for each in error.exceptions[0].exceptions] == [ValueError]


def test_cancelling_the_outer_group_reaches_inside():
    with TaskGroup() as outer:

        def task():
            with TaskGroup() as inner:
                assert inner.wait_cancelled(TIMEOUT)
                return inner.cancelled(), inner.go(pow, 2, 2).cancelled()

        future = begun(outer, task)
        outer.cancel()
    assert future.result() == (True, True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_nested_groups_share_a_small_executor(threads, limit):
    def tree(depth):
        if depth == 0:
            return 1
        with TaskGroup(limit, executor=pool) as tg:
            futures = [tg.go(tree, depth - 1) for _ in range(3)]
        return sum(f.result() for f in futures)

    with ThreadPoolExecutor(threads) as pool:
        assert tree(5) == 3**5
        assert pool.submit(tree, 4).result(TIMEOUT) == 3**4


def test_group_with_threads_between_groups_on_one_executor():
    def outer():
        with TaskGroup() as tg:
            return tg.go(inner)

    def inner():
        with TaskGroup(executor=pool) as tg:
            futures = [tg.go(pow, n, 2) for n in range(5)]
        return [f.result() for f in futures]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outer).result(TIMEOUT).result() == [0, 1, 4, 9, 16]
