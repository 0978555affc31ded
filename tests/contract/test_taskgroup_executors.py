"""TaskGroup on executors, and where threads do not start."""

import concurrent.futures
import multiprocessing
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait

import pytest
from groups import Gate, caught, own_threads
from marks import starts_threads
from processes import in_process
from support import TIMEOUT, eventually

from nogil_sync import TaskGroup

pytestmark = starts_threads


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
    # A queued task is refused when its turn comes: a failure, as no caller is left to raise in.
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
            concurrent.futures.wait(futures, TIMEOUT)

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
        assert concurrent.futures.wait(futures, TIMEOUT).not_done == set()
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
            concurrent.futures.wait(futures, TIMEOUT)

    futures = []
    release = threading.Event()

    def initializer():
        release.wait(0.1)
        raise ValueError

    with ThreadPoolExecutor(1, initializer=initializer) as pool:
        error = caught(use)
    # An error that `submit` raises comes from the body; one that it does not notice, from a task.
    assert all("Broken" in type(each).__name__ for each in error.exceptions)


class Inline:
    """An executor that runs the function in `submit`."""

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
    """An executor that does something else with the submitted function."""

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
    # The first task gets no thread, and another one waits for it: the leaving thread runs it.
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
