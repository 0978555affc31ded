"""Wrong uses of select, of its cases and of awaited waits: a clear error, and nothing changed."""

import asyncio
import gc
import importlib
import math
import threading
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
from loops import TWINS, AwaitTrial, LoopThread, run, started_task
from marks import starts_threads
from support import FREE_THREADED, TIMEOUT, WRONG_TIMEOUTS, collected, started

import nogil_sync
from nogil_sync import (
    After,
    Barrier,
    Cache,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RLock,
    RWMutex,
    Selected,
    Semaphore,
    Sending,
    SyncMap,
    TaskGroup,
    Ticker,
    WaitGroup,
    after,
    select,
    select_async,
    try_select,
)
from nogil_sync import _threading as pure
from nogil_sync._common.cases import Case


def awaited(*cases, **kwargs):
    """What select_async does without a loop: all but wait."""
    with pytest.raises(StopIteration) as end:
        select_async(*cases, **kwargs).send(None)
    return end.value.value


CALLS = {"select": select, "try_select": try_select, "select_async": awaited}
WITH_TIMEOUT = {"select": select, "select_async": awaited}


def holding(item):
    c = Channel(1)
    c.send(item)
    return c


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


@pytest.fixture(params=WITH_TIMEOUT)
def call_with_timeout(request):
    return WITH_TIMEOUT[request.param]


class Ready:
    """Two cases that could go ahead."""

    def __init__(self):
        self.source, self.target = holding("item"), Channel(1)
        self.cases = self.source, self.target.sending("sent")

    def unchanged(self):
        return len(self.source) == 1 and not len(self.target)


# Cases


def test_no_case_raises_whatever_the_timeout(call_with_timeout):
    for timeout in (None, 0, -1, 1, TIMEOUT):
        with pytest.raises(ValueError, match=r"^select needs at least one case$"):
            call_with_timeout(timeout=timeout)


def test_objects_that_are_no_cases_raise(call):
    ready = Ready()
    wrong = [
        *(Mutex(), RLock(), RWMutex(), RWMutex().read, Semaphore(), Semaphore().hold(), Cond()),
        *(Barrier(2), Once(), Pool(list), SyncMap(), SyncMap({1: 2}).items(), Cache(1)),
        *(Channel().sender(), Selected(ready.source, 1, False), threading.Condition()),
        *(Channel, Event, Sending, TaskGroup, Ticker, after, select),
        *(True, 0, 0.5, "c", b"c", (), [*ready.cases], ready.cases, {*ready.cases}, range(2)),
        *((case for case in ready.cases), iter(ready.cases), lambda: ready.source, NotImplemented),
    ]
    for each in wrong:
        with pytest.raises(TypeError) as error:
            call(*ready.cases, each)
        assert str(error.value) == f"select: {type(each).__name__!r} object is not a case"
    assert ready.unchanged()


def test_cases_whose_making_fails_change_nothing(call):
    ready = Ready()

    def cases():
        yield from ready.cases
        raise LookupError("no more cases")

    with pytest.raises(LookupError, match="no more cases"):
        call(*cases())
    with pytest.raises(TypeError):
        call(*5)
    assert ready.unchanged()


def test_cases_that_were_made_without_init_raise(call):
    ready = Ready()
    for cls in Channel, Ticker, After, TaskGroup:
        for _ in range(5):  # whichever would be done first
            with pytest.raises(RuntimeError, match=f"{cls.__name__} object is not initialized"):
                call(*ready.cases, cls.__new__(cls))
    assert ready.unchanged()
    # These need none: as made without arguments.
    assert call(Event.__new__(Event), WaitGroup.__new__(WaitGroup)).value is None


@pytest.mark.skipif(not FREE_THREADED, reason="there is no native backend")
def test_cases_of_the_other_backend_raise():
    core = importlib.import_module("nogil_sync._native._core")
    for mine, other in ((core, pure), (pure, core)):
        cases = other.Channel(1), other.Channel(1).sending(1), other.Event(), other.WaitGroup()
        for case in cases:
            for function in mine.select, mine.try_select:
                with pytest.raises(TypeError, match="object is not a case"):
                    function(mine.Channel(1).sending(1), case)


def test_list_that_is_changed_during_the_call_is_of_no_account(call):
    class Clearing(Case):
        def _case_take(self):
            cases.clear()

    c = Channel(1)
    for _ in range(10):  # whichever is asked first
        cases = [Clearing(), c.sending("item"), Clearing()]
        assert call(*cases).value is None
        assert c.recv(TIMEOUT) == "item"


@starts_threads
def test_list_that_is_changed_during_the_wait_is_of_no_account():
    c = Channel()
    cases = [Channel(), c, Event()]
    thread, result = started(lambda: select(*cases))
    cases.clear()
    gc.collect()
    c.send("item", TIMEOUT)
    thread.join(TIMEOUT)
    assert result == [(c, "item", False)]


def test_case_that_is_passed_several_times_is_done_once(call):
    c = Channel(3)
    sending = c.sending("item")
    assert call(sending, sending, sending) == (sending, None, False)
    assert call(c, c) == (c, "item", False)
    assert len(c) == 0
    moment = after(0)
    assert call(moment, moment, moment).case is moment
    assert try_select(moment, moment) is None


@starts_threads
def test_cases_may_wait_in_several_threads_at_once():
    c, stop = Channel(), Event()
    sending, moment = c.sending("item"), after(3600)
    cases = sending, sending, moment, stop
    waiting = [started(select, *cases) for _ in range(4)]
    assert [c.recv(TIMEOUT) for _ in range(2)] == ["item"] * 2
    assert c.try_recv() == "item"
    stop.set()
    for thread, _ in waiting:
        thread.join(TIMEOUT)
    done = Counter(result[0].case for _, result in waiting)
    assert done == {sending: 3, stop: 1}
    assert c.try_recv() is None


def test_closed_channel_refuses_what_is_sent(call):
    c = holding("item")
    sending = c.sending("late")
    c.close()
    for each in sending, c.sending("later"):
        with pytest.raises(ChannelClosed, match=r"^the channel is closed$"):
            call(each)
    with c.sender() as same:  # which changes nothing
        assert same is c
        with pytest.raises(ChannelClosed):
            same.send("latest")
    assert c.closed()
    assert [*c] == ["item"]


# Time-outs


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
def test_wrong_timeouts_raise(timeout, error, call_with_timeout):
    ready = Ready()
    with pytest.raises(error) as mine:
        call_with_timeout(*ready.cases, timeout=timeout)
    assert ready.unchanged()
    with pytest.raises(error) as its:
        Channel().recv(timeout)
    assert str(mine.value) == str(its.value)


def test_timeout_that_cannot_be_converted_raises(call_with_timeout):
    class Unfit:
        def __float__(self):
            raise LookupError("no number")

    ready = Ready()
    with pytest.raises(LookupError, match="no number"):
        call_with_timeout(*ready.cases, timeout=Unfit())
    assert ready.unchanged()


def test_conversion_of_the_timeout_may_use_the_channels(call_with_timeout):
    class Greedy:
        def __float__(self):
            log.append(select(c).value)
            return 0.0

    c, log = holding("item"), []
    with pytest.raises(TimeoutError, match=r"^timed out waiting for a case$"):
        call_with_timeout(c, Event(), timeout=Greedy())
    assert log == ["item"]


@pytest.mark.parametrize("timeout", [0, -0.0, False, -1, -1e300, float("-inf"), -(10**300)])
def test_timeouts_of_zero_or_less_do_not_wait(timeout, call_with_timeout):
    assert call_with_timeout(holding("item"), timeout=timeout).value == "item"
    with pytest.raises(TimeoutError, match=r"^timed out waiting for a case$"):
        call_with_timeout(Channel(), Event(), timeout=timeout)


# Two mistakes: the error says what is wrong with the arguments, and only then what is wrong with
# the object. Of the arguments the timeout comes first, but that of Semaphore.hold last.


def bare(cls):
    return cls.__new__(cls)


def closed():
    c = Channel(1)
    c.close()
    return c


async def never():
    raise AssertionError


TIME, NUMBER = "timeout must not be NaN", "n must be at least 1"
BARE, NO_CASE = "object is not initialized", "'int' object is not a case"
NAN = math.nan
TWO_MISTAKES = {
    "select without a case": (
        TIME,
        lambda: select(timeout=NAN),
        lambda: select_async(timeout=NAN),
    ),
    "select of no case": (
        TIME,
        lambda: select(5, timeout=NAN),
        lambda: select_async(5, timeout=NAN),
    ),
    "select of a bare case": (
        TIME,
        lambda: select(bare(Ticker), timeout=NAN),
        lambda: select_async(bare(Ticker), timeout=NAN),
    ),
    "select that would send to a closed channel": (
        TIME,
        lambda: select(closed().sending(1), timeout=NAN),
        lambda: select_async(closed().sending(1), timeout=NAN),
    ),
    "select of a case, then of no case": (
        NO_CASE,
        lambda: select(closed().sending(1), 5, bare(Ticker)),
        lambda: select_async(closed().sending(1), 5, bare(Ticker)),
    ),
    "select of a case, then of a bare case": (
        BARE,
        lambda: select(closed().sending(1), bare(Ticker), 5),
        lambda: select_async(closed().sending(1), bare(Ticker), 5),
    ),
    "Channel.recv": (
        TIME,
        lambda: bare(Channel).recv(NAN),
        lambda: bare(Channel).recv_async(NAN),
    ),
    "Channel.send": (
        TIME,
        lambda: bare(Channel).send(1, NAN),
        lambda: bare(Channel).send_async(1, NAN),
    ),
    "Channel.send to a closed one": (
        TIME,
        lambda: closed().send(1, NAN),
        lambda: closed().send_async(1, NAN),
    ),
    "Semaphore.acquire": (
        TIME,
        lambda: bare(Semaphore).acquire(timeout=NAN, n=0),
        lambda: bare(Semaphore).acquire_async(NAN, n=0),
    ),
    "Semaphore.acquire of none": (
        NUMBER,
        lambda: bare(Semaphore).acquire(n=0),
        lambda: bare(Semaphore).acquire_async(n=0),
    ),
    "Semaphore.hold": (
        NUMBER,
        lambda: bare(Semaphore).hold(0, NAN),
        lambda: bare(Semaphore).hold_async(0, NAN),
    ),
    "Semaphore.hold of one": (
        BARE,
        lambda: bare(Semaphore).hold(1, NAN),
        lambda: bare(Semaphore).hold_async(1, NAN),
    ),
    "Cond.wait": (
        TIME,
        lambda: bare(Cond).wait(NAN),
        lambda: bare(Cond).wait_async(NAN),
    ),
    "Cond.wait without the lock": (
        TIME,
        lambda: Cond().wait(NAN),
        lambda: Cond().wait_async(NAN),
    ),
    "Cond.wait_for": (
        TIME,
        lambda: bare(Cond).wait_for(5, NAN),
        lambda: bare(Cond).wait_for_async(5, NAN),
    ),
    "Barrier.wait": (
        TIME,
        lambda: bare(Barrier).wait(NAN),
        lambda: bare(Barrier).wait_async(NAN),
    ),
    "Ticker.recv": (
        TIME,
        lambda: bare(Ticker).recv(NAN),
        lambda: bare(Ticker).recv_async(NAN),
    ),
    "TaskGroup.wait_cancelled": (
        TIME,
        lambda: bare(TaskGroup).wait_cancelled(NAN),
        lambda: bare(TaskGroup).wait_cancelled_async(NAN),
    ),
    "SyncMap.load_or_compute": (
        TIME,
        lambda: bare(SyncMap).load_or_compute([], 5, timeout=NAN),
        lambda: bare(SyncMap).load_or_compute_async([], never, timeout=NAN),
    ),
    "Cache.load_or_compute": (
        TIME,
        lambda: bare(Cache).load_or_compute([], 5, timeout=NAN),
        lambda: bare(Cache).load_or_compute_async([], never, timeout=NAN),
    ),
}


@pytest.mark.parametrize("name", TWO_MISTAKES)
def test_first_of_two_mistakes_is_the_same_in_a_call_and_its_twin(name):
    text, call, twin = TWO_MISTAKES[name]
    with pytest.raises((TypeError, ValueError, RuntimeError), match=text):
        call()
    with pytest.raises((TypeError, ValueError, RuntimeError), match=text):
        twin().send(None)


# Numbers of arguments


def test_wrong_numbers_of_arguments_raise():
    ready, ticker = Ready(), Ticker(3600)
    c, due, tg = ready.source, ticker._case_due(), TaskGroup()
    for wrong in (
        lambda: select(*ready.cases, timeouts=1),
        lambda: select(cases=ready.cases),
        lambda: select(*ready.cases, timeout=1, default=None),
        lambda: try_select(*ready.cases, timeout=None),
        lambda: select_async(*ready.cases, timeouts=1),
        lambda: select_async(cases=ready.cases),
        lambda: c.sending(),
        lambda: c.sending(1, 2),
        lambda: c.sending(1, timeout=1),
        lambda: c.sender(1),
        lambda: c.sender(n=1),
        lambda: Ticker(),
        lambda: Ticker(1, 2),
        lambda: Ticker(seconds=1),
        lambda: ticker.recv(1, 2),
        lambda: ticker.recv(seconds=1),
        lambda: ticker.recv_async(1, 2),
        lambda: ticker.stop(1),
        lambda: after(),
        lambda: after(1, 2),
        lambda: after(timeout=1),
        lambda: After(),
        lambda: nogil_sync.shield(1),
        lambda: nogil_sync.shield(tg),
        lambda: TaskGroup(1, 2),
        lambda: TaskGroup(timeouts=1),
        lambda: tg.wait_cancelled(1, 2),
        lambda: tg.wait_cancelled_async(1, 2),
        lambda: tg.on_cancel(),
        lambda: tg.on_cancel(print, end=""),
        lambda: tg.cancel(1),
    ):
        with pytest.raises(TypeError):
            wrong()
    assert ready.unchanged()
    assert ticker._case_due() == due
    assert not tg.cancelled()


def test_numbers_that_cannot_be_converted_raise():
    class Unfit:
        def __float__(self):
            raise LookupError("no number")

        __index__ = __float__

    for wrong in Ticker, after, After, lambda number: TaskGroup(timeout=number), TaskGroup:
        with pytest.raises(LookupError, match="no number"):
            wrong(Unfit())
    for interval in (-0.0, False, -(10**300)):
        with pytest.raises(ValueError, match="interval must be positive"):
            Ticker(interval)


def test_moment_is_initialized_once():
    moment = after(3600)
    due = moment._case_due()
    with pytest.raises(RuntimeError, match="After object is already initialized"):
        moment.__init__(0)
    assert moment._case_due() == due
    assert try_select(moment) is None


# Awaited waits


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
def test_wrong_timeouts_of_awaited_waits_raise(timeout, error):
    tg, m, cache = TaskGroup(), SyncMap(), Cache(1)
    for wait, twin in (
        (lambda: Ticker(3600).recv(timeout), lambda: Ticker(3600).recv_async(timeout)),
        (lambda: tg.wait_cancelled(timeout), lambda: tg.wait_cancelled_async(timeout)),
        (lambda: WaitGroup().wait(timeout), lambda: WaitGroup().wait_async(timeout)),
        (
            lambda: m.load_or_compute(1, int, timeout=timeout),
            lambda: m.load_or_compute_async(1, never, timeout=timeout),
        ),
        (
            lambda: cache.load_or_compute(1, int, timeout=timeout),
            lambda: cache.load_or_compute_async(1, never, timeout=timeout),
        ),
    ):
        with pytest.raises(error) as wrong:
            wait()
        with pytest.raises(error) as awaited:
            twin().send(None)
        assert str(awaited.value) == str(wrong.value)
    assert not m
    assert not cache


@starts_threads
@pytest.mark.parametrize("name", TWINS)
def test_coroutine_that_is_never_awaited_does_nothing(name):
    trial = AwaitTrial(name)
    before = trial.state()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        trial.twin()
        collected()
    never = [each for each in given if "was never awaited" in str(each.message)]
    assert [each.category for each in never] == [RuntimeWarning]
    assert trial.state() == before
    if name.endswith("load_or_compute"):
        trial.serve()  # the computation that it would have waited for ends too


@starts_threads
def test_coroutine_is_awaited_once():
    c = Channel(2)
    c.send(1)

    async def main():
        coroutine = c.recv_async()
        assert await coroutine == 1
        c.send(2)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await coroutine
        assert c.try_recv() == 2
        waiting = c.recv_async()
        task = await started_task(waiting)
        with pytest.raises(RuntimeError, match="coroutine is being awaited already"):
            await waiting
        c.send(3)
        assert await task == 3

    run(main())


@starts_threads
@pytest.mark.parametrize("timeout", [None, TIMEOUT])
@pytest.mark.parametrize(
    "name", ["Mutex.acquire", "Event.wait", "Channel.recv", "Channel.send", "select to receive"]
)
def test_coroutine_that_another_loop_goes_on_with_raises_and_leaves_no_trace(name, timeout):
    trial = AwaitTrial(name)
    before = trial.state()

    async def begin():
        coroutine = trial.twin(timeout)
        assert coroutine.send(None) is not None
        return coroutine

    with LoopThread() as first, LoopThread() as second:
        coroutine = first.submit(begin()).result(TIMEOUT)
        with pytest.raises(RuntimeError, match="resumed by other means than its loop"):
            second.submit(coroutine).result(TIMEOUT)
        assert trial.state() == before
        again = second.submit(trial.awaited())
        second.settle()
        trial.serve()  # nobody else is in line
        assert again.result(TIMEOUT) == trial.served


@starts_threads
def test_coroutine_may_be_made_in_one_loop_and_awaited_in_another():
    c = Channel()

    async def make():
        return SimpleNamespace(receive=c.recv_async(), send=c.send_async("item"))

    with LoopThread() as first, LoopThread() as second:
        made = first.submit(make()).result(TIMEOUT)
        received = second.submit(made.receive)
        second.settle()
        first.submit(made.send).result(TIMEOUT)
        assert received.result(TIMEOUT) == "item"


@starts_threads
def test_task_of_another_loop_is_not_awaited_and_goes_on():
    c = Channel()

    async def begin():
        return asyncio.ensure_future(c.recv_async())

    async def await_it(task):
        await task

    with LoopThread() as first, LoopThread() as second:
        task = first.submit(begin()).result(TIMEOUT)
        first.settle()
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            second.submit(await_it(task)).result(TIMEOUT)
        c.send("item", TIMEOUT)
        first.settle()
        assert task.result() == "item"
