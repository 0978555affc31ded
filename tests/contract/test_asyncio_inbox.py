"""The inbox of a loop, step by step: it loses no task, whatever runs between two of its steps.

The loop here is a fake that runs callbacks only when the test tells it to. A test plays "another
thread" by a call between two steps. `_common.loops` describes the protocol. A delivery notices by
`_common.dropped` that it was interrupted or dropped.
"""

import asyncio
import gc
import sys
from collections import deque
from contextlib import contextmanager

import pytest

from nogil_sync._common.dropped import calling, when_dropped
from nogil_sync._common.loops import Call, Inbox, settle

pytestmark = pytest.mark.thread_unsafe(reason="sets the running loop of the thread")


class Loop:
    """As much of a loop as an inbox needs."""

    def __init__(self):
        self.ready = deque()
        self.closed = False
        self.asked = 0

    def is_closed(self):
        return self.closed

    def call_soon_threadsafe(self, callback, *_, **__):
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.asked += 1
        self.ready.append(callback)

    def run(self):
        while self.ready:
            self.ready.popleft()()

    def close(self):
        self.closed = True
        self.ready.clear()


class Waiter:
    """What a call was given."""

    def __init__(self):
        self.cancelled = 0

    def cancel(self):
        self.cancelled += 1
        return True


def task_of(loop, resumed, number=None, callback=None):
    """A call of a task, which is in the list once it was resumed."""
    asyncio._set_running_loop(loop)
    try:
        call = Call()
    finally:
        asyncio._set_running_loop(None)
    call.add_done_callback(callback or (lambda _: resumed.append(number)))
    return call


class Hooked(deque):
    """A deque that lets "another thread" run at a step."""

    def __init__(self):
        super().__init__()
        self.before_append = self.when_found_empty = None

    def append(self, item):
        hook, self.before_append = self.before_append, None
        if hook is not None:
            hook()
        super().append(item)

    def __bool__(self):
        empty = len(self) == 0
        if empty:
            hook, self.when_found_empty = self.when_found_empty, None
            if hook is not None:
                hook()
        return not empty


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def resumed():
    return []


def test_calls_of_one_loop_are_delivered_together(loop, resumed):
    tasks = [task_of(loop, resumed, n) for n in range(10)]
    for task in tasks:
        task(Waiter())
    assert loop.asked == 1
    loop.run()
    assert resumed == [*range(10)]


def test_call_that_comes_as_the_inbox_is_found_empty_is_delivered(loop, resumed):
    first, second = (task_of(loop, resumed, n) for n in range(2))
    first.inbox.served = served = Hooked()
    first(Waiter())
    served.when_found_empty = lambda: second(Waiter())
    loop.run()
    assert resumed == [0, 1]


def test_call_that_comes_as_a_delivery_ends_is_delivered(loop, resumed):
    first, second = (task_of(loop, resumed, n) for n in range(2))
    first.inbox.served = served = Hooked()
    first(Waiter())
    served.before_append = loop.run  # the second thread has not appended, and the loop is faster
    second(Waiter())
    loop.run()
    assert resumed == [0, 1]


def test_loop_that_delivers_before_it_is_known_that_it_was_asked_is_asked_again(loop, resumed):
    first, second = (task_of(loop, resumed, n) for n in range(2))
    ask = loop.call_soon_threadsafe

    def ask_and_run(callback):
        ask(callback)
        loop.run()

    loop.call_soon_threadsafe = ask_and_run
    first(Waiter())
    assert resumed == [0]
    assert not first.inbox.asked
    second(Waiter())
    assert resumed == [0, 1]


def test_delivery_lets_the_loop_go_on_after_some_tasks(loop, resumed):
    for n in range(250):
        task_of(loop, resumed, n)(Waiter())
    counts = []
    while loop.ready:
        loop.ready.popleft()()
        counts.append(len(resumed))
    assert counts == [100, 200, 250]
    assert resumed == [*range(250)]


def test_call_is_resumed_once_though_it_was_served_twice(loop, resumed):
    task = task_of(loop, resumed, 0)
    task(Waiter())
    task(Waiter())
    loop.run()
    assert resumed == [0]


def test_resumed_call_keeps_no_waiter(loop, resumed):
    task = task_of(loop, resumed, 0)
    task(Waiter())
    assert task.waiter is not None
    loop.run()
    assert task.waiter is None


class StopError(BaseException):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopError])
def test_interrupt_in_a_delivery_keeps_the_other_tasks(error, loop, resumed):
    def interrupt(_):
        resumed.append("interrupted")
        raise error

    tasks = [
        task_of(loop, resumed, 0),
        task_of(loop, resumed, callback=interrupt),
        task_of(loop, resumed, 2),
    ]
    for task in tasks:
        task(Waiter())
    with pytest.raises(error):
        loop.run()
    assert resumed == [0, "interrupted"]
    loop.run()
    assert resumed == [0, "interrupted", 2]
    again = task_of(loop, resumed, 3)
    again(Waiter())
    loop.run()
    assert resumed[-1] == 3


def test_interrupt_before_a_delivery_began_keeps_all_tasks(loop, resumed, monkeypatch):
    deliver = Inbox.deliver
    times = iter([True])

    def interrupted_at_entry(self):
        if next(times, False):
            raise KeyboardInterrupt
        deliver(self)

    monkeypatch.setattr(Inbox, "deliver", interrupted_at_entry)
    task_of(loop, resumed, 0)(Waiter())
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    loop.run()
    assert resumed == [0]


def test_interrupt_before_a_call_is_resumed_keeps_it(loop, resumed, monkeypatch):
    resume = Call.resume
    times = iter([True])

    def interrupted_at_entry(self):
        if next(times, False):
            raise KeyboardInterrupt
        resume(self)

    monkeypatch.setattr(Call, "resume", interrupted_at_entry)
    task_of(loop, resumed, 0)(Waiter())
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    loop.run()
    assert resumed == [0]


def test_delivery_that_the_loop_loses_is_asked_for_again(loop, resumed):
    task_of(loop, resumed, 0)(Waiter())
    loop.ready.pop()  # as if an interrupt had come between the queue and the call
    assert loop.asked == 2
    loop.run()
    assert resumed == [0]


def test_lost_delivery_of_an_empty_inbox_leaves_it_usable(loop, resumed):
    first, second = (task_of(loop, resumed, n) for n in range(2))
    first(Waiter())
    first.inbox.served.clear()
    loop.ready.pop()
    assert not first.inbox.asked
    second(Waiter())
    loop.run()
    assert resumed == [1]


def test_loop_that_closes_gives_back_what_it_has_not_delivered(loop, resumed):
    waiters = [Waiter() for _ in range(3)]
    for waiter in waiters:
        task_of(loop, resumed)(waiter)
    loop.close()
    assert [waiter.cancelled for waiter in waiters] == [1, 1, 1]
    assert not resumed


def test_closed_loop_gives_back_at_once(loop, resumed):
    first, second = (task_of(loop, resumed) for _ in range(2))
    loop.close()
    for task in (first, second):
        waiter = Waiter()
        task(waiter)
        assert waiter.cancelled == 1
        assert not task.inbox.asked


def test_loop_that_closes_as_it_is_asked_gives_back(loop, resumed):
    task, waiter = task_of(loop, resumed), Waiter()
    kept = []

    def keep(callback):
        kept.append(callback)  # a loop that drops nothing
        loop.closed = True

    loop.call_soon_threadsafe = keep
    task(waiter)
    assert waiter.cancelled == 1
    assert not task.inbox.asked


def test_freed_loop_gives_back(resumed):
    loop, waiter = Loop(), Waiter()
    task = task_of(loop, resumed)
    task.loop = object()
    del loop
    gc.collect()
    task(waiter)
    assert waiter.cancelled == 1


def test_interrupt_while_giving_back_gives_back_all(loop, resumed):
    class Interrupted(Waiter):
        def cancel(self):
            super().cancel()
            if self.cancelled == 1:
                raise KeyboardInterrupt
            return True

    first, second = (task_of(loop, resumed) for _ in range(2))
    waiters = [Interrupted(), Waiter()]
    first(waiters[0])
    loop.closed = True  # with the delivery in it
    with pytest.raises(KeyboardInterrupt):
        second.inbox.asked = False
        second(waiters[1])
    assert [waiter.cancelled for waiter in waiters] == [2, 1]


def test_failing_loop_raises_and_is_asked_by_the_next_call(loop, resumed):
    first, second = (task_of(loop, resumed, n) for n in range(2))
    ask = loop.call_soon_threadsafe
    tries = []

    def fail(_):
        tries.append(1)
        raise MemoryError

    loop.call_soon_threadsafe = fail
    with pytest.raises(MemoryError):
        first(Waiter())
    assert len(tries) == 1  # what was not taken does not ask again
    assert not first.inbox.asked
    loop.call_soon_threadsafe = ask
    second(Waiter())
    loop.run()
    assert resumed == [0, 1]


@pytest.mark.parametrize("asks", [False, True], ids=["before", "after"])
def test_interrupt_while_asking_is_raised_after_the_loop_was_asked(asks, loop, resumed):
    ask = loop.call_soon_threadsafe
    times = iter([True])

    def interrupt(callback):
        if asks:
            ask(callback)
        if next(times, False):
            raise KeyboardInterrupt
        if not asks:
            ask(callback)

    loop.call_soon_threadsafe = interrupt
    with pytest.raises(KeyboardInterrupt):
        task_of(loop, resumed, 0)(Waiter())
    loop.run()
    assert resumed == [0]


def test_cancelled_call_is_not_resumed(loop, resumed):
    task = task_of(loop, resumed, 0)
    loop.call_soon = lambda callback, *args, context=None: loop.ready.append(
        lambda: callback(*args)
    )
    assert task.cancel("why")
    assert not task.cancel()
    task(Waiter())
    loop.run()
    assert resumed == [0]  # by the cancellation, once
    with pytest.raises(asyncio.CancelledError, match="why"):
        task.result()


# What is called when something is dropped


@contextmanager
def unraisable():
    """The types of the errors that are reported as unraisable."""
    seen = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda report: seen.append(report.exc_type)
    try:
        yield seen
    finally:
        sys.unraisablehook = before


def test_dropped_object_makes_its_call():
    calls = []
    watch = when_dropped(lambda: calls.append(1))
    assert not calls
    del watch
    gc.collect()
    assert calls == [1]


def test_call_made_when_something_is_dropped_is_repeated_if_it_is_interrupted():
    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) < 3:
            raise StopError

    with unraisable() as seen:
        watch = when_dropped(interrupted)
        del watch
        gc.collect()
    assert len(calls) == 3
    assert seen == [StopError]


def test_call_that_always_fails_is_given_up():
    calls = []

    def fail():
        calls.append(1)
        raise MemoryError

    with unraisable() as seen:
        watch = when_dropped(fail)
        del watch
        gc.collect()
    assert len(calls) == 10
    assert seen == [MemoryError]


def test_step_makes_the_call_and_the_end_none():
    calls = []
    steps = calling(lambda: calls.append("made"), lambda: calls.append("not made"))
    next(steps)
    del steps
    gc.collect()
    assert calls == ["made"]


def test_step_that_fails_makes_the_other_call():
    calls = []

    def fail():
        raise ZeroDivisionError

    steps = calling(fail, lambda: calls.append("not made"))
    with pytest.raises(ZeroDivisionError):
        next(steps)
    assert calls == ["not made"]


def test_what_is_served_just_as_the_time_is_over_is_kept():
    """Another thread serves it between the two looks: nobody may see it taken and given back."""

    class Late(Waiter):
        served = False
        outcome = "outcome"

        def time_out(self):
            return False

    async def main():
        waiter = Late()
        return await settle(waiter, Call(), 0) == "outcome" and not waiter.cancelled

    assert asyncio.run(main())
