"""TaskGroup: which thread runs a task, what the group raises, and that leaving always ends."""

import concurrent.futures
import contextvars
import math
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import pairwise

import pytest
from groups import Gate, caught, own_threads, raising
from marks import starts_threads
from support import TIMEOUT, eventually, run_threads, settle

from nogil_sync import TaskGroup

pytestmark = starts_threads


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
            tg.go(barrier.wait, TIMEOUT)


def test_each_task_has_a_thread_while_others_wait_for_it():
    # A task that waits for the next, a hundred deep, some of them started by others.
    events = [threading.Event() for _ in range(101)]

    def link(n, tg):
        if n % 10 == 5:
            for k in range(n + 1, n + 6):
                tg.go(link, k, tg)
        if n < 100:
            assert events[n + 1].wait(TIMEOUT)
        events[n].set()

    with TaskGroup() as tg:
        for n in range(101):
            if not 5 < n % 10 <= 9 and (n % 10 or not n):
                tg.go(link, n, tg)
        tg.go(events[100].set)
        assert events[0].wait(TIMEOUT)


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


def test_worker_takes_the_next_task(monkeypatch):
    monkeypatch.setattr("nogil_sync._common.workers._IDLE", TIMEOUT)  # it ends later than the test
    with TaskGroup() as tg:
        threads = []
        for _ in range(20):
            threads.append(tg.go(threading.get_ident).result())
            for thread in own_threads():
                settle(thread)
        assert sum(one == next_one for one, next_one in pairwise(threads)) > 10
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
        assert time.monotonic() - begin < TIMEOUT / 2
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
        # A callback runs as part of the task.
        tg.go(time.sleep, 0.05).add_done_callback(
            lambda _: future.set_result(caught(lambda: tg.__exit__(None, None, None)))
        )
        assert isinstance(future.result(TIMEOUT), RuntimeError)
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
        assert len(list(concurrent.futures.as_completed(futures, TIMEOUT))) == 10
        tg.cancel()
        futures = [tg.go(pow, n, 2) for n in range(3)]
        assert all(f.cancelled() for f in futures)
        assert concurrent.futures.wait(futures, TIMEOUT).not_done == set()
        assert len(list(concurrent.futures.as_completed(futures, TIMEOUT))) == 3
        with pytest.raises(CancelledError):
            futures[0].result(TIMEOUT)


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
        assert third.result(TIMEOUT) is None
        assert concurrent.futures.wait([second], TIMEOUT).not_done == set()
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
    assert concurrent.futures.wait([future], TIMEOUT).not_done == set()
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
                go.wait(TIMEOUT)
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
            left.wait(TIMEOUT)

    def fail(argument):
        begun.set()
        del argument
        raise ValueError

    def start(tg):
        # In the thread that runs it, so that the argument is freed once that thread releases it.
        tg.go(fail, Argument()).add_done_callback(lambda _: raising(SystemExit(3)))

    def use(pool):
        with TaskGroup(executor=pool) as tg:
            tg.go(start, tg)
            assert begun.wait(TIMEOUT)

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
