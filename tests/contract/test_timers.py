"""Ticker and after: when they are due, by a clock of the test's own, and how waits for them end."""

import asyncio
import copy
import itertools
import math
import pickle
import sys
import threading
import weakref

import pytest
from groups import caught
from marks import starts_threads
from support import TIMEOUT, run_threads, started

from nogil_sync import (
    After,
    Channel,
    ChannelClosed,
    Event,
    Selected,
    TaskGroup,
    Ticker,
    after,
    select,
    select_async,
    try_select,
)


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("nogil_sync._common.timers.monotonic", clock)
    return clock


sets_the_clock = pytest.mark.thread_unsafe(reason="replaces the clock of the module")


def tick_of(ticker):
    """The tick that is due, or None."""
    try:
        return ticker.recv(0)
    except TimeoutError:
        return None


# Ticker


@sets_the_clock
def test_ticks_come_at_the_interval(clock):
    ticker = Ticker(10)
    assert tick_of(ticker) is None
    clock.now += 9.999
    assert tick_of(ticker) is None
    for n in range(1, 6):
        clock.now = 1000.0 + 10 * n
        assert tick_of(ticker) == 1000.0 + 10 * n
        assert tick_of(ticker) is None


@sets_the_clock
def test_ticks_do_not_drift(clock):
    ticker = Ticker(10)
    for n in range(1, 1001):
        clock.now = 1000.0 + 10 * n + n % 9  # each is taken late
        assert tick_of(ticker) == 1000.0 + 10 * n


@sets_the_clock
@pytest.mark.parametrize("interval", [0.1, 1 / 3, 1e-3, 7e-9, 123456.789])
def test_rounding_errors_do_not_add_up(clock, interval):
    ticker = Ticker(interval)
    for n in itertools.accumulate([1, 1, 1, 10, 1000, 10**6, 1, 10**6]):
        due = 1000.0 + n * interval
        clock.now = math.nextafter(due, math.inf) + interval / 2
        tick = tick_of(ticker)
        assert tick is not None
        assert abs(tick - due) <= 4 * math.ulp(due)
        assert tick <= clock.now < ticker._case_due()


@sets_the_clock
def test_late_ticks_are_dropped(clock):
    ticker = Ticker(10)
    clock.now = 1035.0
    assert tick_of(ticker) == 1030.0
    assert tick_of(ticker) is None
    assert ticker._case_due() == 1040.0
    clock.now = 1040.0
    assert tick_of(ticker) == 1040.0


@sets_the_clock
@pytest.mark.parametrize("interval", [sys.float_info.min, 5e-324, 1e-12, 1e-9])
def test_shortest_intervals_tick_at_once(clock, interval):
    ticker = Ticker(interval)
    before = 0.0
    for _ in range(100):
        clock.now += 1.0
        tick = tick_of(ticker)
        assert before < tick <= clock.now
        before = tick


@sets_the_clock
def test_longest_interval(clock):
    ticker = Ticker(threading.TIMEOUT_MAX)
    clock.now += threading.TIMEOUT_MAX / 2
    assert tick_of(ticker) is None
    assert ticker._case_due() == 1000.0 + threading.TIMEOUT_MAX


@sets_the_clock
def test_ticker_of_a_clock_that_jumps_far(clock):
    ticker = Ticker(1e-3)
    clock.now += 1e9
    assert tick_of(ticker) <= clock.now < ticker._case_due()


@sets_the_clock
def test_each_tick_goes_to_one_thread(clock):
    ticker = Ticker(1)
    for n in range(1, 50):
        clock.now = 1000.0 + n
        ticks = run_threads(*[lambda: tick_of(ticker)] * 3)
        assert sorted(ticks, key=str) == sorted([1000.0 + n, None, None], key=str)


def test_recv_waits_for_the_tick():
    ticker = Ticker(0.001)
    ticks = [ticker.recv() for _ in range(5)]
    assert ticks == sorted(set(ticks))
    assert ticker.recv(TIMEOUT) > ticks[-1]


def test_iteration_gives_the_ticks_until_it_is_stopped():
    ticker = Ticker(0.001)
    assert iter(ticker) is ticker
    ticks = []
    for tick in ticker:
        ticks.append(tick)
        if len(ticks) == 3:
            ticker.stop()
            ticker.stop()
    assert ticks == sorted(set(ticks))
    assert len(ticks) == 3
    assert next(ticker, "the end") == "the end"


def test_stopped_ticker_has_no_ticks():
    ticker = Ticker(1e-9)
    ticker.stop()
    assert list(ticker) == []
    for timeout in None, 0, 10:
        with pytest.raises(ChannelClosed, match=r"^the ticker is stopped$"):
            ticker.recv(timeout)


@starts_threads
def test_stop_wakes_those_that_wait():
    ticker = Ticker(3600)
    waiting = [started(lambda: list(ticker)) for _ in range(3)]
    receiving, errors = started(caught, ticker.recv)
    ticker.stop()
    for thread, ticks in waiting:
        thread.join(TIMEOUT)
        assert ticks == [[]]
    receiving.join(TIMEOUT)
    assert [type(error) for error in errors] == [ChannelClosed]


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, 0.001])
def test_recv_times_out(timeout):
    with pytest.raises(TimeoutError, match=r"^timed out waiting for a tick$"):
        Ticker(3600).recv(timeout)


@pytest.mark.parametrize(
    ("timeout", "error", "message"),
    [
        (math.nan, ValueError, "timeout must not be NaN"),
        (math.inf, OverflowError, "timeout value is too large"),
        ("1", TypeError, "must be real number, not str"),
    ],
)
def test_recv_with_a_wrong_timeout_raises(timeout, error, message):
    with pytest.raises(error, match=message):
        Ticker(3600).recv(timeout)


@pytest.mark.parametrize(
    ("interval", "error", "message"),
    [
        (0, ValueError, "interval must be positive"),
        (-1, ValueError, "interval must be positive"),
        (-math.inf, ValueError, "interval must be positive"),
        (math.nan, ValueError, "interval must not be NaN"),
        (math.inf, OverflowError, "interval value is too large"),
        (1e30, OverflowError, "interval value is too large"),
        (10**400, OverflowError, "int too large to convert to float"),
        ("1", TypeError, "must be real number, not str"),
        (None, TypeError, "must be real number, not NoneType"),
    ],
)
def test_wrong_intervals_raise(interval, error, message):
    with pytest.raises(error, match=message):
        Ticker(interval)


def test_ticker_is_initialized_once():
    ticker = Ticker(3600)
    with pytest.raises(RuntimeError, match="Ticker object is already initialized"):
        ticker.__init__(1)
    raw = Ticker.__new__(Ticker)
    assert repr(raw) == "<Ticker object, not initialized>"
    for use in raw.recv, raw.stop, raw.__next__:
        with pytest.raises(RuntimeError, match="Ticker object is not initialized"):
            use()


# after


@sets_the_clock
def test_after_is_ready_once_when_its_time_has_come(clock):
    case = after(10)
    clock.now += 9.999
    assert case._case_take() is None
    assert case._case_due() == 1010.0
    clock.now += 0.001
    assert case._case_take() == (None, False)
    assert case._case_take() is None
    assert case._case_due() == math.inf


@sets_the_clock
def test_after_goes_to_one_thread(clock):
    for _ in range(50):
        case = after(1)
        clock.now += 1
        taken = run_threads(*[case._case_take] * 3)
        assert sorted(taken, key=str) == [(None, False), None, None]


@pytest.mark.parametrize("seconds", [0, -1, -math.inf])
def test_after_no_time_is_ready_at_once(seconds):
    assert after(seconds)._case_take() == (None, False)


@pytest.mark.parametrize(
    ("seconds", "error", "message"),
    [
        (math.nan, ValueError, "seconds must not be NaN"),
        (math.inf, OverflowError, "seconds value is too large"),
        ("1", TypeError, "must be real number, not str"),
        (None, TypeError, "must be real number, not NoneType"),
    ],
)
def test_after_with_a_wrong_time_raises(seconds, error, message):
    for make in after, After:
        with pytest.raises(error, match=message):
            make(seconds)


@sets_the_clock
def test_reprs(clock):
    case, ticker = after(10), Ticker(0.5)
    assert repr(case) == f"<nogil_sync.After object at {id(case):#x}, in 10 s>"
    clock.now += 10
    assert repr(case) == f"<nogil_sync.After object at {id(case):#x}, ready>"
    case._case_take()
    assert repr(case) == f"<nogil_sync.After object at {id(case):#x}, over>"
    assert repr(After.__new__(After)) == "<After object, not initialized>"
    assert repr(ticker) == f"<nogil_sync.Ticker object at {id(ticker):#x}, every 0.5 s>"
    ticker.stop()
    assert repr(ticker) == f"<nogil_sync.Ticker object at {id(ticker):#x}, stopped>"


@pytest.mark.parametrize("make", [lambda: Ticker(1), lambda: after(1)])
def test_timers_are_objects_like_the_others(make):
    one = make()
    assert weakref.ref(one)() is one
    for way in copy.copy, copy.deepcopy, pickle.dumps:
        with pytest.raises(TypeError, match="cannot pickle or copy"):
            way(one)

    class Mine(type(one)):
        pass

    assert isinstance(Mine(1), type(one))


# In a select


def test_select_takes_the_tick():
    ticker = Ticker(0.001)
    selected = select(Channel(), ticker)
    assert selected.case is ticker
    assert type(selected.value) is float
    assert selected.closed is False


def test_select_finds_a_stopped_ticker_closed():
    ticker = Ticker(3600)
    assert try_select(ticker) is None
    ticker.stop()
    assert select(ticker) == try_select(ticker) == Selected(ticker, None, True)


@starts_threads
def test_stop_wakes_a_select():
    ticker = Ticker(3600)
    thread, result = started(select, Channel(), ticker)
    ticker.stop()
    thread.join(TIMEOUT)
    assert result == [(ticker, None, True)]


def test_select_sleeps_until_the_earliest_case_is_due():
    first, second = after(0.001), after(3600)
    assert select(second, Channel(), first, Event()) == Selected(first, None, False)
    with pytest.raises(TimeoutError):
        select(first, second, timeout=0.001)


@starts_threads
def test_tick_taken_by_another_thread_is_waited_for_again():
    ticker, counts = Ticker(0.002), [0, 0]

    def count(index):
        while sum(counts) < 20:
            select(ticker, timeout=TIMEOUT)
            counts[index] += 1

    run_threads(lambda: count(0), lambda: count(1))
    assert sum(counts) in (20, 21)


@starts_threads
def test_select_waits_for_the_cancellation_of_a_group():
    with TaskGroup() as group:
        thread, result = started(select, Channel(), group)
        assert try_select(group) is None
        group.cancel()
        thread.join(TIMEOUT)
    assert result == [(group, None, False)]
    assert try_select(group) == (group, None, False)


@starts_threads
def test_select_in_a_task_sees_its_own_group_cancelled():
    with TaskGroup() as group:
        future = group.go(select, Channel(), group)
        group.cancel()
    assert future.cancelled() or future.result().case is group


@starts_threads
def test_select_async_sleeps_until_the_earliest_case_is_due():
    async def main():
        first, later = after(0.01), after(3600)
        async with asyncio.timeout(TIMEOUT):
            assert (await select_async(Channel(), later, first)).case is first

    asyncio.run(main())


class Racing:
    """A clock that lets "another thread" run the first time that it is read."""

    def __init__(self, now, other):
        self.now = now
        self.other = other

    def __call__(self):
        other, self.other = self.other, None
        if other is not None:
            other()
        return self.now


@sets_the_clock
def test_each_tick_goes_to_one_thread_whatever_comes_between(monkeypatch):
    ticker, ticks = Ticker(10), []

    def take():
        ticks.append(ticker._case_take())

    clock = Racing(ticker._case_due() + 1, take)
    monkeypatch.setattr("nogil_sync._common.timers.monotonic", clock)
    take()
    assert sorted(tick is None for tick in ticks) == [False, True]


@sets_the_clock
def test_after_goes_to_one_thread_whatever_comes_between(monkeypatch):
    moment, taken = after(10), []

    def take():
        taken.append(moment._case_take())

    clock = Racing(moment._case_due() + 1, take)
    monkeypatch.setattr("nogil_sync._common.timers.monotonic", clock)
    take()
    assert sorted(each is None for each in taken) == [False, True]
