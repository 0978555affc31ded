"""TaskGroup and Ctrl-C: it cancels, leaving goes on, and a second one abandons that."""

import time

import pytest
from support import python

from nogil_sync import TaskGroup

pytestmark = pytest.mark.thread_unsafe(reason="starts processes itself")

HEADER = """
    import os, signal, sys, threading, time, _thread
    from concurrent.futures import ThreadPoolExecutor, wait
    from nogil_sync import TaskGroup

    def send():
        global sent
        sent = time.monotonic()
        {send}

    def begun(tg, *call):
        future = tg.go(*call)
        while not future.running():
            time.sleep(0.001)
        return future

    def later(seconds):
        timer = threading.Timer(seconds, send)
        timer.daemon = True
        timer.start()
"""

sends = pytest.mark.parametrize(
    "send",
    ["os.kill(os.getpid(), signal.SIGINT)", "_thread.interrupt_main()"],
    ids=["kill", "main"],
)


@sends
def test_ctrl_c_in_the_body(send):
    python(
        HEADER.format(send=send)
        + """
    try:
        with TaskGroup(limit=2) as tg:
            futures = [tg.go(tg.wait_cancelled) for _ in range(5)]
            later(0.2)
            while True:
                time.sleep(0.01)
    except KeyboardInterrupt:
        pass
    assert [f.cancelled() or f.result() for f in futures] == [True] * 5
    assert "left" in repr(tg)
    """
    )


@sends
@pytest.mark.parametrize("kind", ["", "limit=1", "executor=pool"])
def test_ctrl_c_while_leaving(send, kind):
    python(
        HEADER.format(send=send)
        + f"""
    pool = ThreadPoolExecutor(2)
    def task():
        assert tg.wait_cancelled(30)
        cancelled.append(time.monotonic())
        time.sleep(0.3)
        done.append(1)
    done, cancelled = [], []
    try:
        with TaskGroup({kind}) as tg:
            futures = [begun(tg, task), tg.go(task)]
            later(0.2)
    except KeyboardInterrupt:
        pass
    else:
        sys.exit("not interrupted")
    assert 1 <= len(done) == len(cancelled)
    assert cancelled[0] - sent < 15
    assert all(f.done() for f in futures)
    pool.shutdown()
    """
    )


@sends
def test_a_second_ctrl_c_abandons_the_join(send):
    python(
        HEADER.format(send=send)
        + """
    def task():
        assert tg.wait_cancelled(30)  # so the first one was seen
        later(0.3)
        finish.wait(30)
        done.append(1)
    done = []
    finish = threading.Event()
    try:
        with TaskGroup(limit=1) as tg:
            futures = [begun(tg, task), tg.go(int)]
            later(0.2)
    except KeyboardInterrupt:
        assert time.monotonic() - sent < 15
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
    """
    )


@pytest.mark.parametrize("first", ["KeyboardInterrupt", "SystemExit"])
def test_one_ctrl_c_abandons_the_join_after_an_interrupt_in_the_body(first):
    python(
        HEADER.format(send="os.kill(os.getpid(), signal.SIGINT)")
        + f"""
    def task():
        assert tg.wait_cancelled(30)  # so the body was left
        later(0.2)
        finish.wait(30)
    finish = threading.Event()
    try:
        with TaskGroup() as tg:
            future = begun(tg, task)
            raise {first}
    except KeyboardInterrupt:
        assert time.monotonic() - sent < 15
    assert future.running()
    finish.set()
    """
    )


def test_ctrl_c_in_a_task_that_the_leaving_thread_runs():
    python(
        HEADER.format(send="os.kill(os.getpid(), signal.SIGINT)")
        + """
    pool = ThreadPoolExecutor(1)
    finish = threading.Event()
    pool.submit(finish.wait, 30)
    try:
        with TaskGroup(executor=pool) as tg:
            futures = [tg.go(lambda: (later(0.1), time.sleep(30))), tg.go(print, "never")]
    except KeyboardInterrupt:
        assert time.monotonic() - sent < 15
    else:
        sys.exit("not interrupted")
    assert isinstance(futures[0].exception(), KeyboardInterrupt)
    assert futures[1].cancelled()
    finish.set()
    pool.shutdown()
    """
    )


def test_a_handler_that_raises_an_exception_while_leaving():
    python(
        """
    import signal, sys, threading, time
    from nogil_sync import TaskGroup
    class Alarm(Exception): pass
    def handler(*_): raise Alarm
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
        assert [type(e) for e in group.exceptions] == [Alarm, ValueError]
    else:
        sys.exit("not interrupted")
    """
    )


@pytest.mark.thread_unsafe(reason="sets a signal handler of the process")
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
