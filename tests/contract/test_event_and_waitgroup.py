"""Event and WaitGroup: threads wait until a word changes, and then all of them go on.

What is true of both. The rest is in test_event.py and test_waitgroup.py.
"""

import gc
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from marks import sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from support import TIMEOUT, WRONG_TIMEOUTS, run_threads, started

from nogil_sync import Event, WaitGroup


class Word(NamedTuple):
    """An object whose waiters wait until `end`."""

    make: Callable[[], Any]
    end: Callable[[Any], object]
    """Lets the waiters go."""
    begin: Callable[[Any], object]
    """Takes that back: the next ones wait again."""
    ended: Callable[[Any], bool]


def counting_one() -> WaitGroup:
    group = WaitGroup()
    group.add()
    return group


WORDS = {
    "Event": Word(Event, Event.set, Event.clear, Event.is_set),
    "WaitGroup": Word(counting_one, WaitGroup.done, WaitGroup.add, lambda g: " 0 pend" in repr(g)),
}


@pytest.fixture(params=WORDS)
def word(request):
    return WORDS[request.param]


@pytest.fixture
def x(word):
    return word.make()


def ends(word, x):
    return lambda: word.end(x)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5, -math.inf, 0.001])
def test_wait_before_the_end_times_out(word, x, timeout):
    assert x.wait(timeout) is False
    assert x.wait(timeout=timeout) is False
    assert word.ended(x) is False


@pytest.mark.parametrize("timeout", [None, 0, -1, 5, threading.TIMEOUT_MAX])
def test_wait_after_the_end_returns_at_once(word, timeout):
    x = word.make()
    word.end(x)
    assert x.wait() is True
    assert x.wait(timeout) is True
    assert x.wait(timeout=timeout) is True


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
@pytest.mark.parametrize("ended", [False, True])
def test_wrong_timeouts_raise(word, timeout, error, ended):
    x = word.make()
    if ended:
        word.end(x)
    with pytest.raises(error):
        x.wait(timeout)
    assert word.ended(x) is ended


def test_wait_times_out(x):
    begin = time.monotonic()
    assert x.wait(0.1) is False
    assert 0.09 <= time.monotonic() - begin < 20


@starts_threads
@pytest.mark.parametrize("n", [1, 5, 50])
def test_end_wakes_all_waiters(word, x, n):
    results = []
    waiters = [
        threading.Thread(target=lambda: results.append(x.wait(TIMEOUT)), daemon=True)
        for _ in range(n)
    ]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.02)
    assert not results
    word.end(x)
    for waiter in waiters:
        waiter.join(TIMEOUT)
    assert results == [True] * n


@starts_threads
@pytest.mark.parametrize("n", [0, 1, 3])
def test_end_that_is_taken_back_at_once_wakes_the_waiters(word, n):
    for _ in range(10):
        x = word.make()
        waiters = [started(x.wait, TIMEOUT) for _ in range(n)]
        word.end(x)
        word.begin(x)
        for thread, result in waiters:
            thread.join(TIMEOUT)
            assert result == [True]
        assert not word.ended(x)
        assert x.wait(0) is False


@starts_threads
def test_end_while_a_wait_begins_is_not_missed(word):
    for _ in range(300):
        x = word.make()
        assert run_threads(lambda x=x: x.wait(TIMEOUT), ends(word, x))[0] is True


@starts_threads
def test_timeouts_do_not_disturb_other_waiters(word, x):
    waiter, patient = started(x.wait, TIMEOUT)
    run_threads(lambda: [x.wait(0.001) for _ in range(30)], times=3)
    assert not patient
    word.end(x)
    waiter.join(TIMEOUT)
    assert patient == [True]


@starts_threads
def test_stores_before_the_end_are_seen_after_the_wait(word):
    for _ in range(200):
        x, box = word.make(), []
        run_threads(
            lambda x=x, box=box: (box.append(1), word.end(x)),
            lambda x=x, box=box: x.wait(TIMEOUT) and box[0],
        )


@starts_threads
def test_other_threads_run_and_collect_while_one_waits(word, x):
    waiter, result = started(x.wait)
    for _ in range(3):
        gc.collect()
    word.end(x)
    waiter.join(TIMEOUT)
    assert result == [True]


@starts_processes
@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("way", INTERRUPTS)
@pytest.mark.parametrize("name", WORDS)
@in_own_process
def test_ctrl_c_ends_wait_and_other_waiters_stay(name, way, others, timeout):
    word = WORDS[name]
    x = word.make()
    waiters = [threading.Thread(target=x.wait, daemon=True) for _ in range(others)]
    for waiter in waiters:
        waiter.start()
    interrupt_call(lambda: x.wait(timeout), way)
    assert not word.ended(x)
    assert x.wait(0.01) is False
    word.end(x)
    for waiter in waiters:
        waiter.join(10)
        assert not waiter.is_alive()
    assert x.wait()


@sets_handlers
def test_handler_ends_the_wait_of_its_thread(word, x, interrupt):
    interrupt(ends(word, x), 0.05)
    assert x.wait(TIMEOUT) is True


@sets_handlers
def test_handler_ends_the_wait_of_its_thread_and_takes_it_back(word, x, interrupt):
    interrupt(lambda: (word.end(x), word.begin(x)), 0.05)
    assert x.wait(TIMEOUT) is True
    assert not word.ended(x)


@sets_handlers
def test_handler_waits_for_same_object_as_its_thread(word, x, interrupt):
    log = []
    timer = threading.Timer(0.2, word.end, (x,))

    def handler():
        log.append(x.wait(0.01))
        timer.start()
        log.append(x.wait(TIMEOUT))

    interrupt(handler, 0.05)
    assert x.wait(TIMEOUT) is True
    assert log == [False, True]
    timer.join()


@starts_threads
def test_finaliser_waits_and_ends_the_waits(word, x):
    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            x.wait(0.001)
            word.end(x)

    Last()
    waiter, result = started(x.wait)
    gc.collect()
    waiter.join(TIMEOUT)
    assert result == [True]
