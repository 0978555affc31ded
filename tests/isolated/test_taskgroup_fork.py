"""TaskGroup in the child of a fork: the child does not run or await the parent's tasks."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from forks import exit_code_of
from groups import asleep
from marks import forks, needs_fork
from processes import in_own_process

import nogil_sync._common.tasks
from nogil_sync import Cancelled, Event, TaskGroup
from nogil_sync._backend import guard_of

pytestmark = [
    forks,
    needs_fork,
]


@pytest.mark.parametrize("kind", ["", "limit", "executor"])
@in_own_process
def test_child_leaves_the_group_without_the_parents_tasks(kind):
    finish = threading.Event()
    pool = ThreadPoolExecutor(2)
    options = {"": {}, "limit": {"limit": 1}, "executor": {"executor": pool}}[kind]
    try:
        with TaskGroup(**options) as tg:
            futures = [tg.go(finish.wait, 30) for _ in range(4)]
            while not futures[0].running():
                time.sleep(0.001)
            child = os.fork()
            if child == 0:
                assert repr(tg).endswith("0 running, 0 queued>"), tg
                more = tg.go(pow, 2, 3)  # the child's own tasks are waited for
                raise ValueError
            assert exit_code_of(child) == 7
            finish.set()
    except* ValueError:
        assert child == 0
        assert more.done()
        os._exit(7)
    assert child
    assert all(f.result() for f in futures)
    pool.shutdown()


@in_own_process
def test_task_that_forks_goes_on_in_the_child():
    parent = os.getpid()
    ran = []

    def task():
        child = os.fork()
        if child == 0:
            ran.clear()
            try:
                tg.go(ran.append, 2).result(10)
                assert ran == [2]
                os._exit(3)
            finally:
                os._exit(1)
        code = exit_code_of(child)
        assert code == 3, code

    with TaskGroup(limit=1) as tg:
        tg.go(task)
        tg.go(ran.append, os.getpid())
    assert ran == [parent]


@in_own_process
def test_task_that_returns_in_the_child_ends_its_thread():
    # Its thread is the only one in the child, and does not start the parent's queued tasks.
    read, write = os.pipe()

    child = None

    def task():
        nonlocal child
        child = os.fork()

    with TaskGroup(limit=1) as tg:
        tg.go(task)
        tg.go(os.write, write, b"x")
    os.close(write)
    exit_code_of(child)
    assert os.read(read, 10) == b"x"


@in_own_process
def test_join_goes_on_in_both_processes_after_handler_forks():
    parent = os.getpid()
    finish = threading.Event()
    child = None

    def handler(*_):
        nonlocal child
        child = os.fork()

    signal.signal(signal.SIGALRM, handler)
    with TaskGroup() as tg:
        tg.go(finish.wait, 30)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        threading.Timer(1.5, finish.set).start()
    if os.getpid() != parent:
        assert "left" in repr(tg)
        os._exit(5)
    assert exit_code_of(child) == 5


@in_own_process
def test_child_uses_the_group_while_tasks_come_and_go():
    stop = threading.Event()

    def churn(tg):
        while not stop.is_set():
            tg.go(int).result()

    with TaskGroup(limit=6) as tg:
        for _ in range(3):
            tg.go(churn, tg)
        for _ in range(30):
            time.sleep(0.002)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    future = tg.go(pow, 2, 5)
                    tg.__exit__(None, None, None)
                    code = 0 if future.result(0) == 32 else 2
                finally:
                    os._exit(code)
            code = exit_code_of(child)
            assert code == 0, code
        stop.set()


@in_own_process
def test_child_forked_during_a_cancellation_is_cancelled():
    # After the group is marked as cancelled, and before its waiters are woken.
    class Event(nogil_sync.Event):
        def set(self):
            forker = threading.Thread(target=fork)
            forker.start()
            forker.join()
            super().set()

    children = []

    def fork():
        child = os.fork()
        if child == 0:
            nogil_sync._common.tasks.Event.set = nogil_sync.Event.set
            begin = time.monotonic()
            known = tg.cancelled() and tg.wait_cancelled(20)
            os._exit(7 if known and time.monotonic() - begin < 15 else 1)
        children.append(child)

    nogil_sync._common.tasks.Event = Event
    with TaskGroup() as tg:
        tg.cancel()
    assert [exit_code_of(child, 30) for child in children] == [7]


@in_own_process
def test_guard_held_at_a_fork_belongs_to_no_thread_of_the_child():
    """Not even to one that has the number of the thread that held it: the system uses it again."""
    guard = guard_of(threading.Thread)
    held, number, finish = threading.Event(), [], threading.Event()

    def hold():
        number.append(threading.get_ident())
        guard.held = True
        held.set()
        finish.wait(60)
        del guard.held

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        refused = []

        def leave():
            try:
                del guard.held
            except RuntimeError:
                refused.append(threading.get_ident())

        threads = 0
        while number[0] not in refused and threads == len(refused) < 100:
            thread = threading.Thread(target=leave)
            thread.start()
            thread.join()
            threads += 1
        guard.held = True
        del guard.held
        os._exit(7 if threads == len(refused) else 3)
    finish.set()
    holder.join()
    assert exit_code_of(child) == 7


@in_own_process
def test_child_cancels_the_group_and_its_waits():
    called = []
    end = Event()
    with TaskGroup() as outer:
        outer.on_cancel(called.append, "outer")
        with TaskGroup() as inner:
            inner.on_cancel(called.append, "inner")
            task = asleep(inner, end.wait)
            child = os.fork()
            if child == 0:
                outer.cancel()
                code = 1
                try:
                    Event().wait()
                except Cancelled:
                    code = 7 if inner.cancelled() and called == ["outer", "inner"] else 2
                os._exit(code)
            assert exit_code_of(child) == 7
            assert not inner.cancelled()
            end.set()
        assert task.result() is True
    assert not called


@in_own_process
def test_child_leaves_a_group_with_a_timeout():
    with TaskGroup(timeout=3600) as tg:
        assert tg.go(pow, 2, 3).result() == 8
        child = os.fork()
        if child == 0:
            assert tg.go(pow, 2, 3).result() == 8
    if child == 0:
        os._exit(7)
    assert exit_code_of(child) == 7


@in_own_process
def test_child_forked_in_a_task_is_cancelled_by_its_own_group():
    def task():
        child = os.fork()
        if child == 0:
            try:
                tg.cancel()
                Event().wait()
            except Cancelled:
                os._exit(7)
            os._exit(1)
        return exit_code_of(child)

    with TaskGroup() as tg:
        assert tg.go(task).result() == 7
    assert not tg.cancelled()


@in_own_process
def test_cancellation_in_the_child_leaves_the_parents_waits_alone():
    event = Event()
    with TaskGroup() as tg:
        waits = [asleep(tg, event.wait) for _ in range(3)]
        child = os.fork()
        if child == 0:
            tg.cancel()
            os._exit(7)
        assert exit_code_of(child) == 7
        assert not any(future.done() for future in waits)
        event.set()
    assert [future.result() for future in waits] == [True] * 3
