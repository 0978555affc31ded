"""TaskGroup and Ctrl-C: the first cancels the group and leaving goes on; a second abandons that."""

import gc
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from ctrl_c import INTERRUPTS
from marks import sets_handlers, starts_processes
from processes import in_own_process

from nogil_sync import TaskGroup
from nogil_sync._common.tasks import Tasks

pytestmark = starts_processes


def running(group, *call):
    """A task that has begun."""
    future = group.go(*call)
    while not future.running():
        time.sleep(0.001)
    return future


class Interrupt:
    """Interrupts the main thread later, and notes when it did."""

    def __init__(self, way="kill"):
        self.way = way
        self.sent = 0.0

    def send(self):
        self.sent = time.monotonic()
        INTERRUPTS[self.way]()

    def send_after(self, seconds):
        timer = threading.Timer(seconds, self.send)
        timer.daemon = True
        timer.start()


every_way = pytest.mark.parametrize("way", INTERRUPTS)


def test_tasks_that_an_interrupt_left_half_made_are_finalized_in_silence(monkeypatch):
    reported = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: reported.append(args.exc_type))
    Tasks.__new__(Tasks)
    gc.collect()
    assert reported == []


@every_way
@in_own_process
def test_ctrl_c_in_the_body_cancels_the_group(way):
    interrupt = Interrupt(way)
    try:
        with TaskGroup(limit=2) as tg:
            futures = [tg.go(tg.wait_cancelled) for _ in range(5)]
            interrupt.send_after(0.2)
            while True:
                time.sleep(0.01)
    except KeyboardInterrupt:
        pass
    assert [f.cancelled() or f.result() for f in futures] == [True] * 5
    assert "left" in repr(tg)


@every_way
@pytest.mark.parametrize("kind", ["", "limit", "executor"])
@in_own_process
def test_ctrl_c_while_leaving_cancels_the_group_and_leaving_goes_on(way, kind):
    interrupt = Interrupt(way)
    pool = ThreadPoolExecutor(2)
    options = {"": {}, "limit": {"limit": 1}, "executor": {"executor": pool}}[kind]
    done, cancelled = [], []

    def task():
        assert tg.wait_cancelled(30)
        cancelled.append(time.monotonic())
        time.sleep(0.3)
        done.append(1)

    try:
        with TaskGroup(**options) as tg:
            futures = [running(tg, task), tg.go(task)]
            interrupt.send_after(0.2)
    except KeyboardInterrupt:
        pass
    else:
        sys.exit("not interrupted")
    assert 1 <= len(done) == len(cancelled)
    assert cancelled[0] - interrupt.sent < 15
    assert all(f.done() for f in futures)
    pool.shutdown()


@every_way
@in_own_process
def test_second_ctrl_c_while_leaving_abandons_the_join(way):
    interrupt = Interrupt(way)
    done = []
    finish = threading.Event()

    def task():
        assert tg.wait_cancelled(30)  # so the first one was seen
        interrupt.send_after(0.3)
        finish.wait(30)
        done.append(1)

    try:
        with TaskGroup(limit=1) as tg:
            futures = [running(tg, task), tg.go(int)]
            interrupt.send_after(0.2)
    except KeyboardInterrupt:
        assert time.monotonic() - interrupt.sent < 15
    else:
        sys.exit("not interrupted")
    assert not done
    assert futures[0].running()
    assert futures[1].cancelled()
    assert repr(tg).endswith("left, 1 running, 0 queued, cancelled>"), tg
    try:
        tg.go(int)
    except RuntimeError:
        pass
    else:
        sys.exit("go works")
    finish.set()
    assert wait(futures, 30).not_done == set()
    assert done


@pytest.mark.parametrize("first", [KeyboardInterrupt, SystemExit])
@in_own_process
def test_one_ctrl_c_abandons_the_join_after_an_interrupt_in_the_body(first):
    interrupt = Interrupt()
    finish = threading.Event()

    def task():
        assert tg.wait_cancelled(30)  # so the body was left
        interrupt.send_after(0.2)
        finish.wait(30)

    try:
        with TaskGroup() as tg:
            future = running(tg, task)
            raise first
    except KeyboardInterrupt:
        assert time.monotonic() - interrupt.sent < 15
    assert future.running()
    finish.set()


@in_own_process
def test_ctrl_c_ends_a_task_that_the_leaving_thread_runs():
    interrupt = Interrupt()
    pool = ThreadPoolExecutor(1)
    finish = threading.Event()
    pool.submit(finish.wait, 30)
    try:
        with TaskGroup(executor=pool) as tg:
            futures = [
                tg.go(lambda: (interrupt.send_after(0.1), time.sleep(30))),
                tg.go(print, "never"),
            ]
    except KeyboardInterrupt:
        assert time.monotonic() - interrupt.sent < 15
    else:
        sys.exit("not interrupted")
    assert isinstance(futures[0].exception(), KeyboardInterrupt)
    assert futures[1].cancelled()
    finish.set()
    pool.shutdown()


@in_own_process
def test_exception_of_a_handler_while_leaving_is_raised_in_the_group():
    class AlarmError(Exception):
        pass

    def handler(*_):
        raise AlarmError

    signal.signal(signal.SIGALRM, handler)

    def task():
        assert tg.wait_cancelled(30)
        raise ValueError

    try:
        with TaskGroup() as tg:
            future = tg.go(task)
            while not future.running():
                time.sleep(0.001)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
    except ExceptionGroup as group:
        assert [type(e) for e in group.exceptions] == [AlarmError, ValueError]
    else:
        sys.exit("not interrupted")


@sets_handlers
def test_handlers_use_the_group(interrupt):
    log = []

    def handler():
        log.append(tg.go(pow, 2, 2))
        repr(tg)
        assert not tg.cancelled()

    with TaskGroup(limit=2) as tg:
        halt = interrupt(handler, 0.001, 0.001)
        for _ in range(300):
            tg.go(time.sleep, 0.0005)
        time.sleep(0.05)
        # Also while it is being left.
        tg.go(time.sleep, 0.2)
        tg.go(lambda: (time.sleep(0.3), halt()))
    assert log
    assert all(f.result() == 4 for f in log)
