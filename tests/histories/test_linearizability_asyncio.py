"""Histories of calls of threads and of tasks on one object: awaited waits among blocking ones.

Each thread has an event loop of its own, in which it awaits some of its calls; the others block. A
call is specified in the same way, however it waits: the specifications are those of the other
files.

**Cancelled tasks.** Some of the awaited calls are cancelled at a random moment. What such a task
was given in that moment it gives back, and in between it had it. So a cancelled call has two steps:
it may get what it waits for, and it has it no longer. An item comes back to the front of its
channel, and what others received meanwhile has overtaken it. Whether a cancelled send was accepted
the task does not tell; the item does, as each is sent once.
"""

import asyncio
import random
import threading

import pytest
from histories.test_linearizability_channel import ender, meetings, queue, rendezvous, worker
from histories.test_linearizability_cond import WAITS, Place, cond, notifier, steps
from histories.test_linearizability_cond import waiter as cond_waiter
from histories.test_linearizability_events import event, setter, waitgroup
from histories.test_linearizability_events import waiter as event_waiter
from histories.test_linearizability_events import worker as counting_worker
from histories.test_linearizability_locks import (
    NOBODY,
    borrower,
    call_rwmutex,
    call_semaphore,
    fair_rwmutex,
    fair_semaphore,
    holder,
    mutex,
    reader_or_writer,
)
from histories.test_linearizability_select import (
    Several,
    buffered,
    initial,
    options,
)
from histories.test_linearizability_select import ender as select_ender
from histories.test_linearizability_select import meetings as select_meetings
from histories.test_linearizability_select import (
    rendezvous as select_rendezvous,
)
from histories.test_linearizability_select import worker as select_worker
from linearizability import IMPOSSIBLE, as_text, assert_rejected, in_steps, verify
from marks import starts_threads

from nogil_sync import (
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    RWMutex,
    Semaphore,
    WaitGroup,
    select,
    select_async,
)

pytestmark = starts_threads

CANCELLED = "cancelled"  # the result of a call whose task was cancelled


class Own:
    """A loop that is closed when nothing refers to it any more."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()

    def __del__(self):
        self.loop.close()


_thread = threading.local()


def awaited(make):
    """The result of a coroutine, in the loop of this thread."""
    if not hasattr(_thread, "own"):
        _thread.own = Own()
    return _thread.own.loop.run_until_complete(make())


def awaited_or_cancelled(make):
    """The same for a task that may be cancelled while it waits; CANCELLED if it was."""

    async def main():
        task = asyncio.ensure_future(make())
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        await asyncio.sleep(random.choice((0, 0, 0.0001, 0.0004)))
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return CANCELLED

    return awaited(main)


def some_awaited(make, block):
    """A call that blocks, or is awaited, at random."""
    return block() if random.randrange(3) == 0 else awaited(make)


def some_cancelled(make, block):
    """The same, and some of the tasks are cancelled."""
    return awaited_or_cancelled(make) if random.randrange(3) == 0 else some_awaited(make, block)


# Channel


class Mixed(Channel):
    """A channel whose calls block or are awaited, at random."""

    def send(self, value, timeout=None):
        return some_awaited(
            lambda: self.send_async(value, timeout), lambda: Channel.send(self, value, timeout)
        )

    def recv(self, timeout=None):
        return some_awaited(lambda: self.recv_async(timeout), lambda: Channel.recv(self, timeout))

    def __next__(self):
        if random.randrange(2):
            return Channel.__next__(self)
        try:
            return awaited(lambda: self.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_channel_of_threads_and_tasks_is_linearizable(capacity):
    verify(
        lambda _: Mixed(capacity),
        worker,
        ((), False),
        queue(capacity),
        lead=ender,
        threads=3,
        batch=50,
    )


def test_rendezvous_of_threads_and_tasks_is_linearizable():
    how = {"views": meetings, "lead": ender, "threads": 3, "batch": 50}
    verify(lambda _: Mixed(), worker, False, rendezvous, **how)


class Cancelling(Channel):
    """A channel whose calls block or are awaited, and some of the tasks are cancelled."""

    def send(self, value, timeout=None):
        return some_cancelled(
            lambda: self.send_async(value, timeout), lambda: Channel.send(self, value, timeout)
        )

    def recv(self, timeout=None):
        return some_cancelled(lambda: self.recv_async(timeout), lambda: Channel.recv(self, timeout))


def lifting(after, capacity):
    """The specification of a channel whose items some calls take out and put back.

    The state is that of the channel, and what each thread has taken out.
    """

    def with_lifts(state, call):
        (items, closed), lifted = state
        if call.name == "lift":
            taken, items = items[:1], items[1:]
            return (items, closed), lifted | {(call.thread, taken)}
        if call.name == "put back":
            mine = next((each for each in lifted if each[0] == call.thread), None)
            if mine is None:
                return IMPOSSIBLE
            return ((*mine[1], *items), closed), lifted - {mine}
        if call.name in ("send", "try_send") and not closed and len(items) > capacity:
            # More than fit, as one was put back.
            return state if call.result in (TimeoutError, False) else IMPOSSIBLE
        then = after((items, closed), call)
        return IMPOSSIBLE if then is IMPOSSIBLE else (then, lifted)

    return with_lifts


def as_it_came_out(history, channel):
    """Cancelled sends as sends that were accepted, or none; cancelled receives in steps."""
    received = {call.result for call in history if isinstance(call.result, int)}
    for _ in range(len(channel)):
        left = channel.recv()
        assert left not in received, f"{left} came out twice:\n{as_text(history)}"
        received.add(left)
    view = []
    for call in history:
        if call.result is not CANCELLED:
            view.append(call)
        elif call.name == "send":
            if call.args[0] in received:
                view.append(call._replace(result=None))
        else:
            view += in_steps([call], lambda _: ("lift", "put back"))
    return [view]


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_channel_whose_tasks_are_cancelled_is_linearizable(capacity):
    verify(
        lambda _: Cancelling(capacity),
        worker,
        (((), False), frozenset()),
        lifting(queue(capacity), capacity),
        views=as_it_came_out,
        lead=ender,
        threads=3,
        batch=50,
    )


def without_cancelled_ones(history, channel):
    """For rendezvous: a cancelled call met no other, unless it was a send whose item came out."""
    received = {call.result for call in history if isinstance(call.result, int)}
    view = []
    for call in history:
        if call.result is not CANCELLED:
            view.append(call)
        elif call.name == "send" and call.args[0] in received:
            view.append(call._replace(result=None))
    return meetings(view, channel)


class CancellingSends(Channel):
    """Some of the sends are cancelled. A receive would leave in the channel what it gives back."""

    def send(self, value, timeout=None):
        return some_cancelled(
            lambda: self.send_async(value, timeout), lambda: Channel.send(self, value, timeout)
        )


def test_rendezvous_whose_sends_are_cancelled_is_linearizable():
    how = {"views": without_cancelled_ones, "lead": ender, "threads": 3, "batch": 50}
    verify(lambda _: CancellingSends(), worker, False, rendezvous, **how)


# Select


class Selecting(Several):
    """Selects that block or are awaited."""

    def select(self, *cases, timeout):
        return some_awaited(
            lambda: select_async(*cases, timeout=timeout), lambda: select(*cases, timeout=timeout)
        )

    def call(self, name, args):
        if name == "select":  # a task is in no scope
            cases, timeout, _ = args
            args = cases, timeout, False
        return super().call(name, args)


@pytest.mark.parametrize("capacities", [(1,), (1, 2)], ids=str)
def test_selects_of_threads_and_tasks_are_linearizable(capacities):
    count = len(capacities)
    verify(
        lambda _: Selecting(*capacities),
        select_worker(count),
        initial(*capacities),
        buffered,
        batch=50,
        **{**options(count), "call": Selecting.call},
    )


@pytest.mark.parametrize("count", [1, 2])
def test_selects_of_threads_and_tasks_that_meet_are_linearizable(count):
    verify(
        lambda _: Selecting(*(0,) * count),
        select_worker(count),
        initial(*(0,) * count),
        select_rendezvous,
        batch=50,
        **{**options(count, select_meetings), "call": Selecting.call},
    )


def is_cancelled_at_times(cases):
    """What a cancelled select may have done must not depend on which case it was."""
    return sum(case[0] != "event" for case in cases) == 1


class CancelledSelects(Selecting):
    """Some of the tasks are cancelled."""

    def chosen(self, name, cases, real, timeout):
        if name == "try_select" or not is_cancelled_at_times(cases) or random.randrange(2):
            return super().chosen(name, cases, real, timeout)
        return awaited_or_cancelled(lambda: select_async(*real, timeout=timeout))

    def outcome(self, cases, real, chosen):
        return chosen if chosen is CANCELLED else super().outcome(cases, real, chosen)


def receiving_or_one(rng, each):
    for name, args in select_worker(2)(rng, each):
        cases, timeout, scoped = args
        if name == "select" and rng.randrange(3):
            case = rng.choice([case for case in cases if case[0] != "event"])
            cases = (case, ("event",))
        yield name, (cases, timeout, scoped)


def lifting_cases(state, call):
    """As `lifting`, for the channel from which a cancelled select was to receive."""
    several, lifted = state
    channels, is_set, cancelled, capacities = several
    if call.name in ("lift", "put back"):
        (number,) = [case[1] for case in call.args[0] if case[0] == "recv"]
        items, closed = channels[number]
        if call.name == "lift":
            lifted, items = lifted | {(call.thread, items[:1])}, items[1:]
        else:
            mine = next((each for each in lifted if each[0] == call.thread), None)
            if mine is None:
                return IMPOSSIBLE
            lifted, items = lifted - {mine}, (*mine[1], *items)
        channels = (*channels[:number], (items, closed), *channels[number + 1 :])
        return (channels, is_set, cancelled, capacities), lifted
    # More than fit, as one was put back: there is no room.
    full = tuple(max(c, len(items)) for c, (items, _) in zip(capacities, channels, strict=True))
    then = buffered((channels, is_set, cancelled, full), call)
    if then is IMPOSSIBLE:
        return then
    return ((*then[:3], capacities), lifted)


def selects_as_they_came_out(history, each):
    received = {
        call.result[2]
        for call in history
        if isinstance(call.result, tuple) and call.result[0] == "received"
    }
    for channel in each.channels:
        while len(channel):
            left = channel.recv()
            assert left not in received, f"{left} came out twice:\n{as_text(history)}"
            received.add(left)
    view = []
    for call in history:
        if call.result is not CANCELLED:
            view.append(call)
            continue
        (case,) = [case for case in call.args[0] if case[0] != "event"]
        if case[0] == "recv":
            view += in_steps([call], lambda _: ("lift", "put back"))
        elif case[2] in received:
            view.append(call._replace(result=("sent", *case[1:])))
    others = [call for call in view if call.name not in ("lift", "put back")]
    (parts,) = options(2)["views"](others)
    return [parts + [call for call in view if call.name in ("lift", "put back")]]


def test_selects_whose_tasks_are_cancelled_are_linearizable():
    verify(
        lambda _: CancelledSelects(1, 2),
        receiving_or_one,
        (initial(1, 2), frozenset()),
        lifting_cases,
        batch=50,
        lead=select_ender(2),
        threads=3,
        call=CancelledSelects.call,
        views=selects_as_they_came_out,
    )


# Locks


class MixedMutex(Mutex):
    def acquire(self, blocking=True, timeout=-1):
        if not blocking:
            return Mutex.acquire(self, False)
        return some_cancelled(
            lambda: self.acquire_async(timeout), lambda: Mutex.acquire(self, True, timeout)
        )


def briefly_held(state, call):
    """The state is whether it is locked, and which threads have it, or not, for a moment."""
    locked, moments = state
    if call.name == "lift":
        return True, moments | {(call.thread, not locked)}
    if call.name == "put back":
        mine = next((each for each in moments if each[0] == call.thread), None)
        if mine is None:
            return IMPOSSIBLE
        return locked and not mine[1], moments - {mine}
    then = mutex(locked, call)
    return IMPOSSIBLE if then is IMPOSSIBLE else (then, moments)


def cancelled_in_steps(history, _):
    def steps(call):
        return ("lift", "put back") if call.result is CANCELLED else (call.name,)

    return [in_steps(history, steps)]


def holder_of_what_it_got(rng, each):
    """As `holder`, which takes every true result for the lock."""
    plan = holder(rng, each)
    result = None
    while True:
        try:
            step = plan.send(result)
        except StopIteration:
            return
        result = yield step
        if result is CANCELLED:
            result = False


def test_mutex_of_threads_and_tasks_is_linearizable():
    verify(
        lambda _: MixedMutex(),
        holder_of_what_it_got,
        (False, frozenset()),
        briefly_held,
        views=cancelled_in_steps,
        threads=3,
        batch=50,
    )


def gives_up(after, release):
    """The specification of an object with a line that a cancelled task may leave late.

    If it was served by then, what it was given is released.
    """

    def with_cancelled(state, call):
        if call.name != "quit":
            return after(state, call)
        held, line, served = state
        me = call.thread
        if me in served:
            as_release = call._replace(name="release", args=release(call.args), result=None)
            return after((held, line, served - {me}), as_release)
        if all(each[0] != me for each in line):
            return IMPOSSIBLE
        return after(state, call._replace(name="leave"))

    return with_cancelled


def waits_in_steps(history, _):
    def steps(call):
        if call.name not in ("acquire", "hold"):
            return (call.name,)
        if call.result is CANCELLED:
            return "enter", "quit"
        return ("enter", "served" if call.result else "leave")

    return [in_steps(history, steps)]


def taking_what_it_got(plan):
    def choose(rng, each):
        steps = plan(rng, each)
        result = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration:
                return
            result = yield step
            if result is CANCELLED:
                result = False

    return choose


def call_mixed_semaphore(s, name, args):
    if name == "try" or name not in ("acquire", "hold"):
        return call_semaphore(s, name, args)
    n, timeout = args
    seconds = None if timeout < 0 else timeout

    async def hold():
        try:
            await s.hold_async(n, seconds).__aenter__()
        except TimeoutError:
            return False
        return True

    return some_cancelled(
        hold if name == "hold" else lambda: s.acquire_async(seconds, n=n),
        lambda: call_semaphore(s, name, args),
    )


def test_semaphore_of_threads_and_tasks_is_linearizable():
    verify(
        lambda _: Semaphore(3),
        taking_what_it_got(borrower),
        (3, *NOBODY),
        gives_up(fair_semaphore, lambda args: (args[0],)),
        call=call_mixed_semaphore,
        views=waits_in_steps,
        threads=3,
        batch=50,
    )


def call_mixed_rwmutex(rw, name, args):
    if name != "acquire":
        return call_rwmutex(rw, name, args)
    side, timeout = args
    view = rw.write if side == "write" else rw.read
    return some_cancelled(lambda: view.acquire_async(timeout), lambda: view.acquire(True, timeout))


def test_rwmutex_of_threads_and_tasks_is_linearizable():
    verify(
        lambda _: RWMutex(),
        taking_what_it_got(reader_or_writer),
        ((0, False), *NOBODY),
        gives_up(fair_rwmutex, lambda args: (args[0],)),
        call=call_mixed_rwmutex,
        views=waits_in_steps,
        threads=3,
        batch=50,
    )


# Events, wait groups


class MixedEvent(Event):
    def wait(self, timeout=None):
        return some_cancelled(lambda: self.wait_async(timeout), lambda: Event.wait(self, timeout))


class MixedWaitGroup(WaitGroup):
    def wait(self, timeout=None):
        return some_cancelled(
            lambda: self.wait_async(timeout), lambda: WaitGroup.wait(self, timeout)
        )


def no_cancelled_ones(history, _):
    return [[call for call in history if call.result is not CANCELLED]]


def test_event_of_threads_and_tasks_is_linearizable():
    verify(
        lambda _: MixedEvent(),
        event_waiter,
        False,
        event,
        lead=setter,
        views=no_cancelled_ones,
        threads=3,
        batch=50,
    )


def test_waitgroup_of_threads_and_tasks_is_linearizable():
    verify(
        lambda _: MixedWaitGroup(),
        counting_worker,
        0,
        waitgroup,
        views=no_cancelled_ones,
        threads=3,
        batch=50,
    )


# Cond


class MixedCond(Cond):
    """Waits that block or are awaited. Tasks of one thread hold the lock as that thread."""

    def wait(self, timeout=None):
        return some_cancelled(lambda: self.wait_async(timeout), lambda: Cond.wait(self, timeout))

    def acquire(self):
        return some_awaited(self.acquire_async, lambda: Cond.acquire(self))


def passing_on(after):
    """The specification of a Cond: a notification that a cancelled wait leaves is passed on."""

    def with_cancelled(state, call):
        holders, line, notified = state
        me = call.thread
        if call.name != "quit":
            return after(state, call)
        if me in notified:
            return holders, line[1:], notified - {me} | set(line[:1])
        return after(state, call._replace(name="leave"))

    return with_cancelled


def cond_steps(history, place):
    def of(call):
        return ("wait", "quit", "retake")

    cancelled = [call for call in history if call.result is CANCELLED]
    others = [call for call in history if call.result is not CANCELLED]
    (view,) = steps(others, place)
    return [view + in_steps(cancelled, of)]


@pytest.mark.parametrize("lock", [Mutex, lambda: RWMutex().write], ids=["Mutex", "write"])
def test_cond_of_threads_and_tasks_is_linearizable(lock):
    verify(
        lambda _: Place(MixedCond(lock())),
        cond_waiter,
        (frozenset(), (), frozenset()),
        passing_on(cond(exclusive=True)),
        batch=50,
        **{**WAITS, "views": cond_steps, "lead": notifier},
    )


# Wrong ones


class Eating(Mixed):
    """Wrong: a receive that times out keeps the item that it was given in that moment."""

    def recv(self, timeout=None):
        if timeout is None:
            return Mixed.recv(self)
        try:
            item = Channel.recv(self, 0)
        except (TimeoutError, ChannelClosed):
            raise
        if random.randrange(2):
            raise TimeoutError
        return item


@pytest.mark.parametrize("cls", [Eating])
def test_wrong_channels_are_caught(cls):
    assert_rejected(
        lambda _: cls(2), worker, ((), False), queue(2), lead=ender, threads=3, batch=50
    )


class Keeping(Cancelling):
    """Wrong: a cancelled receive keeps the item that it was given."""

    def recv(self, timeout=None):
        result = Cancelling.recv(self, timeout)
        return CANCELLED if random.randrange(4) == 0 else result


def test_channel_that_eats_what_cancelled_tasks_got_is_caught():
    assert_rejected(
        lambda _: Keeping(2),
        worker,
        (((), False), frozenset()),
        lifting(queue(2), 2),
        views=as_it_came_out,
        lead=ender,
        threads=3,
        batch=50,
    )


class LeakingMutex(MixedMutex):
    """Wrong: a cancelled task may have taken the lock."""

    def acquire(self, blocking=True, timeout=-1):
        if blocking and timeout > 0 and Mutex.acquire(self, True, timeout):
            return CANCELLED
        return MixedMutex.acquire(self, blocking, timeout)


def test_mutex_that_a_cancelled_task_keeps_is_caught():
    def bounded(rng, each):
        for _ in range(4):
            got = yield "acquire", (True, 0.001)
            if got is True:
                yield "release", ()

    assert_rejected(
        lambda _: LeakingMutex(),
        bounded,
        (False, frozenset()),
        briefly_held,
        views=cancelled_in_steps,
        threads=3,
        batch=20,
    )
