"""TaskGroup: who runs what, what comes out, and that leaving never waits in vain."""

import atexit
import concurrent.futures
import contextvars
import copy
import gc
import math
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait

import pytest
from marks import starts_threads
from processes import in_own_process, in_process
from support import FREE_THREADED, LONG, eventually, run_threads

import nogil_sync
from nogil_sync import Event, TaskGroup

pytestmark = starts_threads

MESSAGE = "unhandled errors in a TaskGroup"


def raising(error):
    raise error


def caught(function):
    """What the function raises."""
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing raised")


def own_threads():
    return [t for t in threading.enumerate() if t.name == "TaskGroup worker"]


def begun(tg, fn, *args):
    """Have the group call the function; return the future once it is running."""
    future = tg.go(fn, *args)
    assert eventually(lambda: future.running() or future.done())
    return future


class Gate:
    """Holds tasks back; tells how many arrived, and how many at most at once."""

    def __init__(self):
        self.event = threading.Event()
        self.lock = threading.Lock()
        self.inside = self.most = self.arrived = 0

    def __call__(self, result=None):
        with self.lock:
            self.inside += 1
            self.arrived += 1
            self.most = max(self.most, self.inside)
        assert self.event.wait(LONG)
        with self.lock:
            self.inside -= 1
        return result

    def open(self):
        self.event.set()


@pytest.fixture(params=["threads", "limit", "executor", "executor and limit"])
def group(request):
    """Make a group of one kind or another, with room for two tasks at least."""
    if "executor" not in request.param:
        yield lambda: TaskGroup(limit=3 if request.param == "limit" else None)
        return
    with ThreadPoolExecutor(4) as pool:
        limit = 3 if "limit" in request.param else None
        yield lambda: TaskGroup(limit, executor=pool)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as made:
        yield made


# Use


def test_go_returns_futures_with_the_results(group):
    with group() as tg:
        futures = [tg.go(pow, n, 2) for n in range(30)]
        assert all(type(f) is Future for f in futures)
    assert all(f.done() for f in futures)
    assert [f.result() for f in futures] == [n * n for n in range(30)]
    assert not own_threads()


def test_go_passes_arguments_to_the_function(group):
    def fn(*args, **kwargs):
        return args, kwargs

    with group() as tg:
        future = tg.go(fn, 1, 2, fn=3, self=4, executor=5)
    assert future.result() == ((1, 2), {"fn": 3, "self": 4, "executor": 5})


def test_empty_group_is_left_at_once(group):
    with group() as tg:
        pass
    assert not tg.cancelled()


def test_tasks_run_at_the_same_time():
    n = 8
    barrier = threading.Barrier(n)
    with TaskGroup() as tg:
        for _ in range(n):
            tg.go(barrier.wait, LONG)


def test_each_task_has_a_thread_while_others_wait_for_it():
    # A task that waits for the next, a hundred deep, some of them started by others.
    events = [threading.Event() for _ in range(101)]

    def link(n, tg):
        if n % 10 == 5:
            for k in range(n + 1, n + 6):
                tg.go(link, k, tg)
        if n < 100:
            assert events[n + 1].wait(LONG)
        events[n].set()

    with TaskGroup() as tg:
        for n in range(101):
            if not 5 < n % 10 <= 9 and (n % 10 or not n):
                tg.go(link, n, tg)
        tg.go(events[100].set)
        assert events[0].wait(LONG)


def test_stores_of_tasks_are_seen_after_the_group():
    box = []
    with TaskGroup() as tg:
        tg.go(box.append, 1)
    assert box == [1]


def test_tasks_start_tasks(group):
    done = []

    def grow(tg, n):
        done.append(n)
        if n:
            tg.go(grow, tg, n - 1)
            tg.go(grow, tg, n - 1)

    with group() as tg:
        tg.go(grow, tg, 6)
    assert len(done) == 2**7 - 1


def test_group_waits_for_tasks_that_tasks_start():
    left = threading.Event()
    results = []

    def late(tg):
        left.wait(0.2)
        results.append(tg.go(pow, 2, 3))

    with TaskGroup() as tg:
        tg.go(late, tg)
    assert results[0].result(0) == 8


def test_other_threads_may_call_go(group):
    with group() as tg:
        results = run_threads(lambda: [tg.go(pow, 2, k) for k in range(20)], times=3)
    assert [[f.result() for f in each] for each in results] == [[2**k for k in range(20)]] * 3


def test_another_thread_may_leave_the_group():
    tg = TaskGroup()
    assert tg.__enter__() is tg
    future = tg.go(time.sleep, 0.05)
    run_threads(lambda: tg.__exit__(None, None, None))
    assert future.done()


def test_worker_threads_are_not_daemons():
    def start():
        with TaskGroup() as tg:
            return tg.go(threading.current_thread)

    thread = run_threads(start)[0].result()  # in a daemon
    assert not thread.daemon
    assert thread.name == "TaskGroup worker"
    assert not thread.is_alive()


def test_worker_takes_the_next_task():
    with TaskGroup() as tg:
        first = tg.go(threading.get_ident).result()
        same = 0
        for _ in range(20):
            assert eventually(lambda: len(own_threads()) <= 2)
            time.sleep(0.002)
            same += tg.go(threading.get_ident).result() == first
        assert same > 10
        assert len(own_threads()) <= 3


@pytest.mark.parametrize("n", [1, 50])
def test_workers_have_ended_when_the_group_is_left(n):
    before = threading.active_count()
    for _ in range(5):
        with TaskGroup() as tg:
            for _ in range(n):
                tg.go(time.sleep, 0.001)
        assert threading.active_count() == before


def test_idle_workers_end():
    with TaskGroup() as tg:
        futures = [tg.go(time.sleep, 0.02) for _ in range(5)]
        concurrent.futures.wait(futures)
        assert eventually(lambda: not own_threads(), 10)
        assert tg.go(pow, 2, 2).result() == 4
        assert own_threads()


# Limits


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("with_pool", [False, True])
def test_limit_bounds_running_tasks(limit, with_pool):
    gate = Gate()
    with ThreadPoolExecutor(8) as pool, TaskGroup(limit, executor=pool if with_pool else None) as g:
        futures = [g.go(gate, n) for n in range(12)]
        assert eventually(lambda: gate.arrived == limit)
        assert len(own_threads()) == (0 if with_pool else limit)
        assert f"{limit} running, {12 - limit} queued" in repr(g)
        gate.open()
    assert gate.most <= limit
    assert [f.result() for f in futures] == list(range(12))


def test_executor_gets_at_most_limit_tasks():
    class Executor:
        submitted = 0

        def submit(self, fn):
            self.submitted += 1
            return pool.submit(fn)

    gate = Gate()
    executor = Executor()
    with ThreadPoolExecutor(8) as pool:
        with TaskGroup(3, executor=executor) as tg:
            for _ in range(10):
                tg.go(gate)
            assert eventually(lambda: gate.arrived == 3)
            assert executor.submitted == 3
            gate.open()
        assert gate.most <= 3


@pytest.mark.parametrize("with_pool", [False, True])
def test_queued_tasks_run_in_order(with_pool):
    order = []
    with (
        ThreadPoolExecutor(1) as pool,
        TaskGroup(limit=1, executor=pool if with_pool else None) as tg,
    ):
        for n in range(50):
            tg.go(order.append, n)
    assert order == list(range(50))


def test_go_does_not_block_above_the_limit():
    gate = Gate()
    with TaskGroup(limit=1) as tg:
        begin = time.monotonic()
        for _ in range(1000):
            tg.go(gate)
        assert time.monotonic() - begin < LONG / 2
        assert not gate.most > 1
        gate.open()


def test_task_may_queue_more_than_the_limit():
    def work(tg):
        for _ in range(20):
            tg.go(done.append, 1)

    done = []
    with TaskGroup(limit=1) as tg:
        tg.go(work, tg)
    assert len(done) == 20


# Arguments and states


@pytest.mark.parametrize("limit", [0, -1, False, -(10**30)])
def test_limits_below_one_raise(limit):
    with pytest.raises(ValueError, match="limit"):
        TaskGroup(limit)


@pytest.mark.parametrize("limit", [1.0, "1", (), math.inf])
def test_limits_of_wrong_types_raise(limit):
    with pytest.raises(TypeError):
        TaskGroup(limit)


@pytest.mark.parametrize("limit", [True, 1, 10**30, None])
def test_valid_limits_are_accepted(limit):
    class Index:
        def __index__(self):
            return 2

    for each in (limit, Index()):
        with TaskGroup(limit=each) as tg:
            assert tg.go(pow, 2, 2).result() == 4


@pytest.mark.parametrize("executor", [1, object(), type("E", (), {"submit": 1})()])
def test_wrong_executors_raise(executor):
    with pytest.raises(TypeError, match="executor"):
        TaskGroup(executor=executor)


def test_wrong_arguments_raise():
    for call in (
        lambda: TaskGroup(1, None),
        lambda: TaskGroup(nothing=1),
        lambda: TaskGroup().cancel(1),
        lambda: TaskGroup().cancelled(1),
        lambda: TaskGroup().wait_cancelled(1, 2),
        lambda: TaskGroup().wait_cancelled(seconds=2),
    ):
        with pytest.raises(TypeError):
            call()
    with TaskGroup() as tg:
        for call in (tg.go, lambda: tg.go(None), lambda: tg.go(fn=int), lambda: tg.go("x", 1)):
            with pytest.raises(TypeError):
                call()
        assert "0 running, 0 queued" in repr(tg)


def test_go_before_and_after_the_block_raises():
    tg = TaskGroup()
    with pytest.raises(RuntimeError, match="not been entered"):
        tg.go(int)
    with pytest.raises(RuntimeError, match="not been entered"):
        tg.__exit__(None, None, None)
    with tg:
        with pytest.raises(RuntimeError):
            tg.__enter__()
        assert tg.go(int).result() == 0
    with pytest.raises(RuntimeError, match="left"):
        tg.go(int)
    with pytest.raises(TypeError):
        tg.go(None)
    with pytest.raises(RuntimeError, match="left"):
        tg.__exit__(None, None, None)
    with pytest.raises(RuntimeError):
        tg.__enter__()
    tg.cancel()  # harmless
    with pytest.raises(RuntimeError, match="left"):
        tg.go(int)


def test_second_thread_that_leaves_raises():
    gate = Gate()
    tg = TaskGroup().__enter__()
    tg.go(gate)

    def leave():
        try:
            tg.__exit__(None, None, None)
        except RuntimeError as error:
            gate.open()
            return str(error)

    assert sorted(map(str, run_threads(leave, leave))) == [
        "None",
        "the TaskGroup is already being left",
    ]


def test_task_that_leaves_its_own_group_raises(group):
    with group() as tg:
        future = tg.go(lambda: caught(lambda: tg.__exit__(None, None, None)))
        assert isinstance(future.result(), RuntimeError)
        future = Future()
        # A callback runs as a part of the task.
        tg.go(time.sleep, 0.05).add_done_callback(
            lambda _: future.set_result(caught(lambda: tg.__exit__(None, None, None)))
        )
        assert isinstance(future.result(LONG), RuntimeError)
        assert tg.go(pow, 2, 2).result() == 4


def test_second_thread_that_enters_raises():
    for _ in range(20):
        tg = TaskGroup()

        def enter(tg=tg):
            try:
                tg.__enter__()
            except RuntimeError:
                return 0
            return 1

        assert sum(run_threads(enter, times=3)) == 1


# Futures


def test_concurrent_futures_wait_and_as_completed_work(group):
    with group() as tg:
        futures = [tg.go(pow, n, 2) for n in range(10)]
        assert len(list(concurrent.futures.as_completed(futures, LONG))) == 10
        tg.cancel()
        futures = [tg.go(pow, n, 2) for n in range(3)]
        assert all(f.cancelled() for f in futures)
        assert concurrent.futures.wait(futures, LONG).not_done == set()
        assert len(list(concurrent.futures.as_completed(futures, LONG))) == 3
        with pytest.raises(CancelledError):
            futures[0].result(LONG)


@pytest.mark.parametrize("with_pool", [False, True])
def test_queued_future_can_be_cancelled(with_pool):
    gate = Gate()
    ran = []
    with (
        ThreadPoolExecutor(1) as pool,
        TaskGroup(limit=1, executor=pool if with_pool else None) as tg,
    ):
        first = tg.go(gate)
        second, third = tg.go(ran.append, 2), tg.go(ran.append, 3)
        assert eventually(first.running)
        assert second.cancel()
        assert not first.cancel()
        gate.open()
        assert third.result(LONG) is None
        assert concurrent.futures.wait([second], LONG).not_done == set()
    assert ran == [3]
    assert second.cancelled()
    assert not tg.cancelled()


def test_submitted_future_can_be_cancelled(pool):
    gate = Gate()
    with TaskGroup(executor=pool) as tg:
        running = [tg.go(gate) for _ in range(2)]
        future = tg.go(raising, AssertionError("called"))
        assert eventually(lambda: all(f.running() for f in running))
        assert future.cancel()
        gate.open()
    assert concurrent.futures.wait([future], LONG).not_done == set()
    assert not tg.cancelled()


def test_callbacks_run_without_locks(group):
    # A callback waits for another thread that uses the group, the future and new tasks.
    log = []

    def callback(future):
        def other():
            repr(tg)
            tg.cancelled()
            future.done()
            return tg.go(pow, 2, 3)

        log.append(run_threads(other)[0])

    with group() as tg:
        tg.go(time.sleep, 0.02).add_done_callback(callback)
    assert log[0].result(0) == 8


def test_callbacks_of_cancelled_futures_run_without_locks():
    gate = Gate()
    log = []

    def callback(future):
        run_threads(tg.cancel, lambda: repr(tg), lambda: tg.go(int), future.cancelled)
        log.append(future)

    with TaskGroup(limit=1) as tg:
        tg.go(gate)
        futures = [tg.go(int) for _ in range(5)]
        for future in futures:
            future.add_done_callback(callback)
        tg.cancel()
        gate.open()
    assert set(log) == set(futures)


def test_callback_that_cancels_the_group_at_each_future():
    gate = Gate()
    with TaskGroup(limit=1) as tg:
        tg.go(gate)
        futures = [tg.go(int) for _ in range(2000)]
        for future in futures:
            future.add_done_callback(lambda _: tg.cancel())
        tg.cancel()
        gate.open()
    assert all(f.cancelled() for f in futures)


def test_callback_that_fails_is_logged(group, caplog):
    with group() as tg:
        tg.go(time.sleep, 0.02).add_done_callback(lambda _: 1 / 0)
    assert "ZeroDivisionError" in caplog.text  # as for every Future


@pytest.mark.parametrize("fn", [lambda: None, lambda: 1 / 0], ids=["returns", "raises"])
def test_callback_that_raises_system_exit(group, fn):
    def use():
        with group() as tg:

            def task():
                go.wait(LONG)
                return fn()

            tg.go(task).add_done_callback(lambda _: raising(SystemExit(3)))
            go.set()

    go = threading.Event()
    error = caught(use)
    assert isinstance(error, SystemExit)


def test_leaving_waits_for_what_callbacks_raise():
    # The last that a thread of an executor does with a task is to let go of its arguments. What a
    # callback raised is known by then: the group may be left meanwhile.
    left = threading.Event()
    begun = threading.Event()

    class Argument:
        def __del__(self):
            left.wait(LONG)

    def fail(argument):
        begun.set()
        del argument
        raise ValueError

    def start(tg):
        # In the thread that runs it, so that the argument goes as soon as that thread lets it go.
        tg.go(fail, Argument()).add_done_callback(lambda _: raising(SystemExit(3)))

    def use(pool):
        with TaskGroup(executor=pool) as tg:
            tg.go(start, tg)
            assert begun.wait(LONG)

    with ThreadPoolExecutor(1) as pool:
        error = caught(lambda: use(pool))
        left.set()
    assert isinstance(error, SystemExit)


def test_future_settled_by_others_is_accepted(caplog):
    def use(meddle):
        gate = Gate()
        with TaskGroup(limit=1) as tg:
            running, queued = tg.go(gate), tg.go(int)
            assert eventually(running.running)
            meddle(running, queued)
            gate.open()

    for meddle in (
        lambda running, queued: running.set_result(1),
        lambda running, queued: queued.set_result(1),
        lambda running, queued: (queued.cancel(), queued.set_running_or_notify_cancel()),
    ):
        assert isinstance(caught(lambda meddle=meddle: use(meddle)), ExceptionGroup)


# Contexts

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


def test_tasks_run_in_a_copy_of_the_context(group):
    def task(value):
        seen = variable.get()
        variable.set(value)
        return seen

    variable.set(5)
    with group() as tg:
        futures = []
        for n in range(5):
            variable.set(n)
            futures.append(tg.go(task, 100 + n))
        assert variable.get() == 4
    assert [f.result() for f in futures] == list(range(5))
    assert variable.get() == 4


def test_nested_tasks_run_in_a_copy_of_their_tasks_context(group):
    def outer(tg):
        variable.set(7)
        return tg.go(variable.get)

    with group() as tg:
        future = tg.go(outer, tg)
    assert future.result().result() == 7


# Failures


def test_failures_are_raised_as_one_group(group):
    def use():
        with group() as tg:
            barrier = threading.Barrier(2)

            def fail(error):
                barrier.wait(LONG)
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
                begun.wait(LONG)
                assert events[n].wait(LONG)
                raise ValueError(n)

            futures = [tg.go(fail, n) for n in range(5)]
            begun.wait(LONG)
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
                assert tg.wait_cancelled(LONG)
                return tg.cancelled()

            futures.append(begun(tg, task))
            futures.append(tg.go(raising, ValueError()))
            assert tg.wait_cancelled(LONG)
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
                ready.wait(LONG)
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
    assert concurrent.futures.wait(futures, LONG).not_done == set()


def test_failure_of_the_body_cancels_the_group():
    def use():
        with TaskGroup() as tg:
            futures.append(begun(tg, tg.wait_cancelled, LONG))
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
        tg.wait_cancelled(LONG)
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
            tg.wait_cancelled(LONG)
            raise ValueError

    error = caught(use)
    assert type(error) is BaseExceptionGroup
    assert [type(each) for each in error.exceptions] == [ValueError, Odd]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupts_of_the_body_are_raised_bare(kind, group):
    error = kind(1)

    def use():
        with group() as tg:
            futures.append(begun(tg, tg.wait_cancelled, LONG))
            futures.append(tg.go(raising, ValueError()))
            assert tg.wait_cancelled(LONG)
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
            begun(tg, lambda: log.append(tg.wait_cancelled(LONG)))
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
                ready.wait(LONG)
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
    # If it had not begun it was cancelled, too.
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
        futures = [tg.go(tg.wait_cancelled, LONG), tg.go(tg.cancel)]
    assert futures[1].done()
    assert futures[0].cancelled() or futures[0].result() is True


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, 0.01])
def test_wait_cancelled_times_out(timeout):
    assert TaskGroup().wait_cancelled(timeout) is False
    assert TaskGroup().wait_cancelled(timeout=timeout) is False


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (math.nan, ValueError),
        (math.inf, OverflowError),
        (threading.TIMEOUT_MAX * 2, OverflowError),
        ("1", TypeError),
    ],
)
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
        assert concurrent.futures.wait(futures, LONG).not_done == set()


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


def test_cancelling_the_outer_group_does_not_reach_inside():
    with TaskGroup() as outer:

        def task():
            with TaskGroup() as inner:
                outer.wait_cancelled(LONG)
                return inner.cancelled(), inner.go(pow, 2, 2).result()

        future = begun(outer, task)
        outer.cancel()
    assert future.result() == (False, 4)


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
        assert pool.submit(tree, 4).result(LONG) == 3**4


def test_group_with_threads_between_groups_on_one_executor():
    def outer():
        with TaskGroup() as tg:
            return tg.go(inner)

    def inner():
        with TaskGroup(executor=pool) as tg:
            futures = [tg.go(pow, n, 2) for n in range(5)]
        return [f.result() for f in futures]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(outer).result(LONG).result() == [0, 1, 4, 9, 16]


# Executors


def test_executor_is_used_and_not_shut_down(pool):
    with TaskGroup(executor=pool) as tg:
        idents = {tg.go(threading.get_ident).result() for _ in range(5)}
    assert threading.get_ident() not in idents
    assert not own_threads()
    assert pool.submit(pow, 2, 2).result() == 4


def test_leaving_thread_runs_queued_tasks(pool):
    gates = [Gate(), Gate()]
    for gate in gates:
        pool.submit(gate)
    with TaskGroup(executor=pool) as tg:
        futures = [tg.go(threading.get_ident) for _ in range(5)]
    assert {f.result() for f in futures} == {threading.get_ident()}
    for gate in gates:
        gate.open()


def test_each_task_runs_once():
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            counts = [0] * 40

            def count(n, counts=counts):
                counts[n] += 1

            with TaskGroup(executor=pool) as tg:
                for n in range(40):
                    tg.go(count, n)
            assert counts == [1] * 40


def test_executor_that_was_shut_down_raises():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with TaskGroup(executor=pool) as tg:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shutdown"):
                tg.go(int)
        assert "0 running, 0 queued" in repr(tg)
    assert not tg.cancelled()


def test_executor_shut_down_with_queued_tasks():
    # One is refused when its turn comes: a failure, for there is nobody to raise it to.
    gate = Gate()

    def use():
        with TaskGroup(1, executor=pool) as tg:
            futures.append(tg.go(gate))
            futures.append(tg.go(int))
            futures.append(tg.go(int))
            assert eventually(futures[0].running)
            pool.shutdown(wait=False)
            gate.open()
            futures[0].result()
            concurrent.futures.wait(futures, LONG)

    futures = []
    pool = ThreadPoolExecutor(1)
    error = caught(use)
    assert [type(each) for each in error.exceptions] == [RuntimeError]
    assert isinstance(futures[1].exception(), RuntimeError)
    assert futures[2].cancelled()


@pytest.mark.parametrize("limit", [None, 3])
def test_executor_that_drops_its_work(limit):
    gate = Gate()
    pool = ThreadPoolExecutor(1)
    with TaskGroup(limit, executor=pool) as tg:
        first = tg.go(gate)
        futures = [tg.go(int) for _ in range(10)]
        assert eventually(first.running)
        pool.shutdown(wait=False, cancel_futures=True)
        assert concurrent.futures.wait(futures, LONG).not_done == set()
        assert all(f.cancelled() for f in futures)
        with pytest.raises(RuntimeError):
            tg.go(int)
        gate.open()
    assert first.done()
    assert not tg.cancelled()


def test_executor_that_breaks():
    def use():
        with TaskGroup(executor=pool) as tg:
            futures.extend(tg.go(int) for _ in range(3))
            concurrent.futures.wait(futures, LONG)

    futures = []
    release = threading.Event()

    def initializer():
        release.wait(0.1)
        raise ValueError

    with ThreadPoolExecutor(1, initializer=initializer) as pool:
        error = caught(use)
    # What `submit` raises comes from the body, what it did not notice yet from a task.
    assert all("Broken" in type(each).__name__ for each in error.exceptions)


class Inline:
    """Runs what is submitted at once."""

    def __init__(self):
        self.depth = self.deepest = 0

    def submit(self, fn):
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        future = Future()
        future.set_result(fn())
        self.depth -= 1
        return future


@pytest.mark.parametrize("limit", [None, 1])
def test_executor_that_runs_tasks_in_submit(limit):
    done = []
    inline = Inline()

    def many(tg):
        for n in range(3000):
            tg.go(done.append, n)

    with TaskGroup(limit, executor=inline) as tg:
        tg.go(many, tg)
    assert done == list(range(3000))
    assert inline.deepest <= 2


class Weird:
    """Takes what is submitted and does something else."""

    def __init__(self, result):
        self.result = result

    def submit(self, fn):
        self.result(fn)
        future = Future()
        future.set_result(None)
        return future


def test_executor_that_never_calls():
    with TaskGroup(executor=Weird(lambda fn: None)) as tg:
        assert tg.go(int).cancelled()


def test_executor_that_calls_twice():
    done = []
    with TaskGroup(executor=Weird(lambda fn: (fn(), fn()))) as tg:
        tg.go(done.append, 1)
    assert done == [1]


def test_executor_that_calls_after_the_group():
    done = []
    kept = []

    class Lazy:
        def submit(self, fn):
            kept.append(fn)
            return Future()

    with TaskGroup(executor=Lazy()) as tg:
        tg.go(done.append, 1)
    assert done == [1]
    for fn in kept:
        fn()
    assert done == [1]


def test_executor_that_returns_no_future():
    class Bad:
        def submit(self, fn):
            return None

    with TaskGroup(executor=Bad()) as tg, pytest.raises(AttributeError):
        tg.go(int)


def test_executor_of_processes_raises():
    def program():
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(1, context) as pool, TaskGroup(executor=pool) as tg:
                wait([tg.go(int)], 30)
        except* TypeError as failures:
            print(failures.exceptions[0])

    done = in_process(program)
    assert "pickle" in done.stdout


# Threads that do not start


def no_more_threads(monkeypatch, after=0):
    start = threading.Thread.start
    left = [after]

    def limited(self):
        if self.name == "TaskGroup worker":
            if not left[0]:
                raise RuntimeError("can't start new thread")
            left[0] -= 1
        start(self)

    monkeypatch.setattr(threading.Thread, "start", limited)


def test_group_runs_tasks_without_any_new_thread(monkeypatch):
    no_more_threads(monkeypatch)
    with TaskGroup() as tg:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="start new thread"):
                tg.go(int)
        assert "0 running, 0 queued" in repr(tg)
    assert not tg.cancelled()


def test_group_runs_tasks_with_few_new_threads(monkeypatch):
    no_more_threads(monkeypatch, 2)
    gate = Gate()
    with TaskGroup() as tg:
        futures = [tg.go(gate, 1), tg.go(gate, 2)]
        for _ in range(3):
            with pytest.raises(RuntimeError, match="start new thread"):
                tg.go(int)
        gate.open()
    assert [f.result() for f in futures] == [1, 2]


def test_queued_tasks_run_without_new_threads(monkeypatch):
    # The first cannot have its thread while another relies on that: the leaving thread steps in.
    done = []
    real = threading.Thread.start
    nested = []

    def start(self):
        if self.name != "TaskGroup worker":
            return real(self)
        if not nested:
            nested.append(tg.go(done.append, 2))
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with TaskGroup(limit=1) as tg, pytest.raises(RuntimeError):
        tg.go(done.append, 1)
    assert done == [2]
    assert nested[0].done()


# Objects


def test_repr():
    tg = TaskGroup()
    assert repr(tg) == f"<nogil_sync.TaskGroup object at {id(tg):#x}, not entered>"
    gate = Gate()
    with tg:
        assert repr(tg).endswith(", 0 running, 0 queued>")
        tg.go(gate)
        assert eventually(lambda: repr(tg).endswith(", 1 running, 0 queued>"))
        tg.cancel()
        assert repr(tg).endswith(", 1 running, 0 queued, cancelled>")
        gate.open()
    assert repr(tg).endswith(", left, cancelled>")
    with TaskGroup() as tg:
        pass
    assert repr(tg).endswith(", left>")


def test_group_is_freed_without_collections():
    for limit in (None, 2):
        with TaskGroup(limit) as tg:
            tg.go(int)
        watch = weakref.ref(tg)
        del tg
        assert watch() is None


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_group_cannot_be_copied_or_pickled(way):
    with pytest.raises(TypeError, match="TaskGroup"):
        way(TaskGroup())


def test_overridden_methods_of_a_subclass():
    class Sub(TaskGroup):
        def __init__(self, name):
            super().__init__(limit=2)
            self.name = name

        def cancelled(self):
            raise AssertionError("called")

        cancel = cancelled

    def use():
        with Sub("x") as tg:
            assert tg.name == "x"
            assert "Sub" in repr(tg)
            tg.go(raising, ValueError())

    assert isinstance(caught(use), ExceptionGroup)


def test_object_without_init_raises():
    tg = TaskGroup.__new__(TaskGroup)
    assert repr(tg) == "<TaskGroup object, not initialized>"
    for call in (
        lambda: tg.go(int),
        tg.cancel,
        tg.cancelled,
        tg.wait_cancelled,
        tg.__enter__,
        lambda: tg.__exit__(None, None, None),
    ):
        with pytest.raises(RuntimeError, match="not initialized"):
            call()
    with pytest.raises(ValueError):
        tg.__init__(limit=0)
    tg.__init__()
    with pytest.raises(RuntimeError, match="already initialized"):
        tg.__init__()
    with tg:
        pass


def test_group_has_its_attributes():
    tg = TaskGroup()
    with pytest.raises(AttributeError):
        tg.new = 1
    assert not hasattr(tg, "__dict__")
    assert bool(tg)
    assert TaskGroup.__module__ == "nogil_sync"
    with pytest.raises(TypeError):
        TaskGroup[int]


@in_own_process
def test_import_loads_no_futures():
    assert "concurrent.futures" not in sys.modules
    nogil_sync.TaskGroup()
    assert "concurrent.futures" in sys.modules
    assert "concurrent.futures.thread" not in sys.modules
    assert "asyncio" not in sys.modules


class Thing:
    """Can be watched."""


class WatchedError(Exception):
    """Puts itself under watch: a frame that named it would be a cycle."""

    def __init__(self, watches):
        watches.append(weakref.ref(self))


@pytest.fixture
def no_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def gone(watches, tg=None):
    """Whether all that is watched goes away, by itself.

    Without the GIL, an object whose last reference another thread dropped goes when the thread
    that made it runs again: so the threads of an executor have to be woken.
    """

    def gone_by_now():
        if FREE_THREADED and tg is not None:
            tg.go(time.sleep, 0.001)
        return not any(watch() for watch in watches)

    return eventually(gone_by_now, 10)


@pytest.mark.usefixtures("no_collections")
def test_arguments_and_results_are_released(group):
    def task(thing, *, other):
        result = Thing()
        watches.append(weakref.ref(result))
        return result

    watches = []
    with group() as tg:
        for _ in range(5):
            thing, other = Thing(), Thing()
            watches += [weakref.ref(thing), weakref.ref(other)]
            future = tg.go(task, thing, other=other)
            del thing, other
            future.result()
            watches.append(weakref.ref(future))
            del future
        assert gone(watches, tg)


def fail_in(tg, body, watches):
    """Have two tasks fail, and the body; watch all there is."""

    def fail():
        raise WatchedError(watches)

    try:
        with tg:
            future = tg.go(fail)
            watches.append(weakref.ref(future))
            watches.append(weakref.ref(tg))
            assert tg.wait_cancelled(LONG)
            watches.append(weakref.ref(tg.go(fail)))
            if body:
                fail()
    except* WatchedError as failures:
        watches += [weakref.ref(failures)] * (len(failures.exceptions) == 1 + body)
    finally:
        del tg, future, fail


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize("limit", [None, 1])
def test_failures_are_released(limit, body):
    watches = []
    fail_in(TaskGroup(limit), body, watches)
    assert len(watches) == 5 + body
    assert gone(watches), watches


@pytest.mark.usefixtures("no_collections")
def test_failures_in_an_executor_are_released(pool):
    watches = []
    fail_in(TaskGroup(executor=pool), False, watches)
    with TaskGroup(executor=pool) as tg:
        assert gone(watches, tg), watches


@pytest.mark.usefixtures("no_collections")
def test_abandoned_group_is_released():
    tg = TaskGroup().__enter__()
    tg.go(int).result()
    watch = weakref.ref(tg)
    del tg
    assert watch() is None
    assert eventually(lambda: not own_threads(), 10)


def test_tasks_of_an_abandoned_group_run():
    def program():
        TaskGroup(limit=1).__enter__().go(os.write, 1, b"1")
        tg = TaskGroup(limit=1).__enter__()
        for n in range(3):
            tg.go(os.write, 1, b"2")

    done = in_process(program)
    assert sorted(done.stdout) == ["1", "2", "2", "2"]
    assert done.stderr == ""


def test_finaliser_uses_the_group():
    log = []

    class Last:
        def __init__(self, tg):
            self.me = self
            self.tg = tg

        def __del__(self):
            log.append(self.tg.go(pow, 2, 2))

    with TaskGroup(limit=2) as tg:
        for _ in range(200):
            Last(tg)
            tg.go(int)
            if not len(log) % 50:
                gc.collect()
        gc.collect()
    assert len(log) == 200
    assert all(f.result() == 4 for f in log)


def test_group_is_usable_at_interpreter_shutdown():
    def program():
        class Last:
            def __init__(self, name):
                self.name = name
                self.tg = TaskGroup(limit=1).__enter__()

            def use(self):
                repr(self.tg)
                try:
                    self.tg.go(int)
                    self.tg.cancel()
                except RuntimeError:
                    pass
                self.tg.__exit__(None, None, None)
                print(self.name)

        last = Last("at exit")
        atexit.register(last.use)

        def block():
            with TaskGroup() as tg:
                tg.go(time.sleep, 0.2)

        threading.Thread(target=block, daemon=True).start()
        time.sleep(0.05)

    done = in_process(program)
    assert done.stdout.split("\n")[0] == "at exit"
    assert done.stderr == ""
