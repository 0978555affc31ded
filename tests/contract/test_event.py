"""Event: threading.Event's interface, wake-ups that are never lost, and interrupts."""

import gc
import math
import threading
import time

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from support import TIMEOUT, eventually, run_threads

from nogil_sync import Event


def test_set_and_clear_change_is_set():
    e = Event()
    assert e.is_set() is False
    assert e.set() is None
    assert e.is_set() is True
    assert e.set() is None
    assert e.is_set() is True
    assert e.clear() is None
    assert e.clear() is None
    assert e.is_set() is False


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5, -math.inf, 0.001])
def test_wait_on_unset_event_times_out(timeout):
    e = Event()
    assert e.wait(timeout) is False
    assert e.wait(timeout=timeout) is False
    assert e.is_set() is False


@pytest.mark.parametrize("timeout", [None, 0, -1, 5, threading.TIMEOUT_MAX])
def test_wait_on_set_event_returns_at_once(timeout):
    e = Event()
    e.set()
    assert e.wait() is True
    assert e.wait(timeout) is True
    assert e.wait(timeout=timeout) is True


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
@pytest.mark.parametrize("is_set", [False, True])
def test_wrong_timeouts_raise(timeout, error, is_set):
    e = Event()
    if is_set:
        e.set()
    with pytest.raises(error):
        e.wait(timeout)
    assert e.is_set() is is_set


def test_wrong_numbers_of_arguments_raise():
    e = Event()
    for call in (
        lambda: Event(1),
        lambda: e.set(1),
        lambda: e.clear(1),
        lambda: e.is_set(1),
        lambda: e.wait(1, 2),
        lambda: e.wait(seconds=1),
    ):
        with pytest.raises(TypeError):
            call()


def test_wait_times_out():
    e = Event()
    begin = time.monotonic()
    assert e.wait(0.1) is False
    assert 0.09 <= time.monotonic() - begin < 20


def test_at_fork_reinit_frees_it():
    e = Event()
    e._at_fork_reinit()
    assert not e.is_set()
    e.set()
    e._at_fork_reinit()
    assert e.wait(0)


@starts_threads
@pytest.mark.parametrize("n", [1, 5, 50])
def test_set_wakes_all_waiters(n):
    e = Event()
    results = []
    waiters = [
        threading.Thread(target=lambda: results.append(e.wait(TIMEOUT)), daemon=True)
        for _ in range(n)
    ]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.02)
    assert not results
    e.set()
    for waiter in waiters:
        waiter.join(TIMEOUT)
    assert results == [True] * n


@starts_threads
def test_clear_after_set_does_not_stop_woken_waiters():
    for _ in range(50):
        e = Event()
        results = []
        started = []

        def wait(e=e, results=results, started=started):
            started.append(1)
            results.append(e.wait(TIMEOUT))

        waiters = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
        for waiter in waiters:
            waiter.start()
        assert eventually(lambda started=started: len(started) == 3)
        time.sleep(0.02)
        e.set()
        e.clear()
        for waiter in waiters:
            waiter.join(TIMEOUT)
        assert results == [True] * 3
        assert not e.is_set()


@starts_threads
def test_set_while_a_wait_begins_is_not_missed():
    for _ in range(300):
        e = Event()
        assert run_threads(lambda e=e: e.wait(TIMEOUT), e.set)[0] is True


@starts_threads
def test_two_threads_take_turns():
    ping, pong = Event(), Event()
    n = 300

    def left():
        for _ in range(n):
            ping.set()
            assert pong.wait(TIMEOUT)
            pong.clear()

    def right():
        for _ in range(n):
            assert ping.wait(TIMEOUT)
            ping.clear()
            pong.set()

    run_threads(left, right)


@starts_threads
def test_timeouts_do_not_disturb_other_waiters():
    e = Event()
    patient = []
    waiter = threading.Thread(target=lambda: patient.append(e.wait(TIMEOUT)), daemon=True)
    waiter.start()
    run_threads(lambda: [e.wait(0.001) for _ in range(30)], times=3)
    assert not patient
    e.set()
    waiter.join(TIMEOUT)
    assert patient == [True]


@starts_threads
def test_stores_before_set_are_seen():
    for _ in range(200):
        e = Event()
        box = []
        run_threads(
            lambda box=box, e=e: (box.append(1), e.set()),
            lambda box=box, e=e: e.wait(TIMEOUT) and box[0],
        )


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    e = Event()
    waiter = threading.Thread(target=e.wait, daemon=True)
    waiter.start()
    for _ in range(3):
        gc.collect()
    e.set()
    waiter.join(TIMEOUT)
    assert not waiter.is_alive()


@starts_processes
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_ctrl_c_ends_wait_and_other_waiters_stay(way, others, timeout):
    e = Event()
    waiters = [threading.Thread(target=e.wait, daemon=True) for _ in range(others)]
    for waiter in waiters:
        waiter.start()
    interrupt_call(lambda: e.wait(timeout), way)
    assert not e.is_set()
    assert e.wait(0.01) is False
    e.set()
    for waiter in waiters:
        waiter.join(10)
        assert not waiter.is_alive()
    assert e.wait()


@sets_handlers
def test_handler_sets_event_that_its_thread_waits_for(interrupt):
    e = Event()
    interrupt(e.set, 0.05)
    assert e.wait(TIMEOUT) is True


@sets_handlers
def test_handler_sets_and_clears_event_that_its_thread_waits_for(interrupt):
    e = Event()
    interrupt(lambda: (e.set(), e.clear()), 0.05)
    assert e.wait(TIMEOUT) is True
    assert not e.is_set()


@sets_handlers
def test_handler_waits_for_same_object_as_its_thread(interrupt):
    e = Event()
    log = []
    setter = threading.Timer(0.2, e.set)

    def handler():
        log.append(e.wait(0.01))
        setter.start()
        log.append(e.wait(TIMEOUT))

    interrupt(handler, 0.05)
    assert e.wait(TIMEOUT) is True
    assert log == [False, True]
    setter.join()


@starts_threads
def test_finaliser_uses_the_event():
    e = Event()

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            e.wait(0.001)
            e.set()

    Last()
    waiter = threading.Thread(target=e.wait, daemon=True)
    waiter.start()
    gc.collect()
    waiter.join(TIMEOUT)
    assert not waiter.is_alive()
