"""Histories of selects over several channels and an event, with time-outs and cancellation.

A select is one step: it does one of its cases, at a moment at which that one is ready. So the
object that is specified is all channels together, with the event. Calls for one channel are
selects with one case: what they return is written in the same way.

A call that raised `Cancelled` has two steps: it found nothing ready, and the scope was cancelled.
It must have done nothing: what it had done would have no call in the history.

Without buffers two calls that met are replaced by one, as in the histories of channels.
"""

import random
import threading
import time

import pytest
from linearizability import IMPOSSIBLE, as_text, assert_rejected, in_steps, met, verify
from marks import starts_threads

from nogil_sync import Cancelled, Channel, ChannelClosed, Event, Selected, after, select, try_select
from nogil_sync._backend import Scope, enter_scope

pytestmark = starts_threads

TIMEOUTS = (None, None, None, 0, 0.0003)


def item(rng):
    """An item that no other call sends."""
    return rng.getrandbits(60)


class Several:
    """Channels, an event, and the scope of the calls that can be cancelled.

    A case is ("recv", channel), ("send", channel, item) or ("event",). An outcome is that with what
    came of it: ("received", channel, item), ("closed", channel), ("sent", channel, item), ("set",).
    """

    def __init__(self, *capacities):
        self.channels = [Channel(capacity) for capacity in capacities]
        self.event = Event()
        self.scope = Scope()

    # What the wrong ones replace
    select = staticmethod(select)
    try_select = staticmethod(try_select)

    def call(self, name, args):
        if name not in ("select", "try_select"):
            return self.simple(name, *args)
        cases, timeout, scoped = args
        real = [self.case(*case) for case in cases]
        outer = enter_scope(self.scope) if scoped else None
        try:
            return self.outcome(cases, real, self.chosen(name, cases, real, timeout))
        except Cancelled:
            return Cancelled
        finally:
            if scoped:
                enter_scope(outer)

    def case(self, kind, *args):
        if kind == "event":
            return self.event
        channel = self.channels[args[0]]
        return channel.sending(args[1]) if kind == "send" else channel

    def chosen(self, name, cases, real, timeout):
        if name == "try_select":
            return self.try_select(*real)
        if len(cases) == 1 and random.randrange(2):  # as the channel's own call does it
            kind, *rest = cases[0]
            channel = self.channels[rest[0]] if rest else None
            if kind == "send":
                channel.send(rest[1], timeout)
                return Selected(real[0], None, False)
            if kind == "recv":
                try:
                    return Selected(real[0], channel.recv(timeout), False)
                except ChannelClosed:
                    return Selected(real[0], None, True)
        return self.select(*real, timeout=timeout)

    def outcome(self, cases, real, chosen):
        if chosen is None:
            return None
        which, value, closed = chosen
        (kind, *rest) = cases[next(n for n, case in enumerate(real) if case is which)]
        if kind == "recv":
            return ("closed", *rest) if closed else ("received", *rest, value)
        return ("sent", *rest) if kind == "send" else ("set",)

    def simple(self, name, *args):
        if name == "cancel":
            return self.scope.cancel()
        if name == "set":
            return self.event.set()
        channel = self.channels[args[0]]
        if name == "close":
            return channel.close()
        return len(channel) if name == "len" else channel.closed()


def some_cases(rng, count, timed=False):
    """Cases over some of the channels; one of them is to receive, so that closing ends it."""
    cases = [("recv", rng.randrange(count))]
    for _ in range(rng.randrange(0, 4)):
        kind = rng.choice(("recv", "send", "send", "event"))
        channel = rng.randrange(count)
        cases.append(
            {"recv": ("recv", channel), "send": ("send", channel, item(rng)), "event": ("event",)}[
                kind
            ]
        )
    if timed and rng.randrange(3) == 0:
        cases = [("send", rng.randrange(count), item(rng))]
    rng.shuffle(cases)
    return tuple(cases)


def worker(count):
    def plan(rng, _):
        for _ in range(rng.randrange(3, 6)):
            name = rng.choice(("select", "select", "select", "try_select"))
            cases = some_cases(rng, count)
            if rng.randrange(3) == 0:
                cases = (rng.choice([case for case in cases if case[0] != "event"]),)
            yield name, (cases, rng.choice(TIMEOUTS), rng.randrange(3) == 0)

    return plan


def ender(count):
    """Never wait for long; cancel at some moment, set the event now and then, close at the end."""

    def plan(rng, _):
        at = rng.randrange(6)
        for n in range(rng.randrange(3, 6)):
            if n == at:
                yield "cancel", ()
            yield rng.choice(
                [
                    ("select", (some_cases(rng, count, timed=True), 0.001, rng.randrange(3) == 0)),
                    ("select", (some_cases(rng, count, timed=True), 0, False)),
                    ("try_select", (some_cases(rng, count, timed=True), None, False)),
                    ("len", (rng.randrange(count),)),
                    ("closed", (rng.randrange(count),)),
                ]
            )
        if rng.randrange(4) == 0:
            yield "set", ()
        for channel in rng.sample(range(count), count):
            yield "close", (channel,)
            yield "try_select", (some_cases(rng, count, timed=True), None, False)

    return plan


def ready(state, case):
    """What becomes of the state if this case goes ahead, and its outcome; None if it is not ready.

    The state is for each channel its items, and whether it is closed; whether the event is set, and
    whether the scope is cancelled.
    """
    channels, is_set, cancelled, capacities = state
    kind, *rest = case
    if kind == "event":
        return (state, ("set",)) if is_set else None
    number = rest[0]
    items, closed = channels[number]
    if kind == "recv":
        if not items:
            return (state, ("closed", number)) if closed else None
        outcome, items = ("received", number, items[0]), items[1:]
    elif closed:
        return state, ChannelClosed
    elif len(items) == capacities[number]:
        return None
    else:
        outcome, items = ("sent", *rest), (*items, rest[1])
    changed = (*channels[:number], (items, closed), *channels[number + 1 :])
    return (changed, is_set, cancelled, capacities), outcome


def buffered(state, call):
    channels, is_set, cancelled, capacities = state
    if call.result == "time":
        return state
    if call.name == "cancelled":
        return state if cancelled else IMPOSSIBLE
    if call.name == "cancel":
        return channels, is_set, True, capacities
    if call.name == "set":
        return channels, True, cancelled, capacities
    if call.name in ("len", "closed"):
        items, closed = channels[call.args[0]]
        return (
            state
            if call.result == (closed if call.name == "closed" else len(items))
            else (IMPOSSIBLE)
        )
    if call.name == "close":
        (number,) = call.args
        changed = (*channels[:number], (channels[number][0], True), *channels[number + 1 :])
        return changed, is_set, cancelled, capacities
    possible = [each for each in (ready(state, case) for case in call.args[0]) if each is not None]
    if call.name == "nothing":
        return IMPOSSIBLE if possible else state
    return next((then for then, outcome in possible if outcome == call.result), IMPOSSIBLE)


def in_parts(history, _=None):
    def steps(call):
        if call.result is Cancelled:
            return ("nothing", "cancelled")
        if call.name in ("select", "try_select") and call.result in (None, TimeoutError):
            return ("nothing",)
        return (call.name,)

    return [in_steps(history, steps)]


def initial(*capacities):
    return tuple(((), False) for _ in capacities), False, False, capacities


def options(count, views=in_parts):
    return {"lead": ender(count), "threads": 3, "call": Several.call, "views": views}


CAPACITIES = [(1,), (1, 2), (2, 1, 1)]


@pytest.mark.parametrize("capacities", CAPACITIES, ids=str)
def test_selects_over_buffered_channels_are_linearizable(capacities):
    count = len(capacities)
    verify(
        lambda _: Several(*capacities),
        worker(count),
        initial(*capacities),
        buffered,
        **options(count),
    )


def meetings(history, _=None):
    """One call for each pair of calls that met, and all other calls."""
    view = []
    sent = {}
    for call in history:
        if isinstance(call.result, tuple) and call.result[0] == "sent":
            sent[call.result[2]] = call
    for call in history:
        kind = call.result[0] if isinstance(call.result, tuple) else None
        if kind == "received":
            value = call.result[2]
            assert value in sent, f"received what was not sent, or twice:\n{as_text(history)}"
            sender = sent.pop(value)
            assert sender is not call, f"it met itself:\n{call}"
            waits = "select" in (sender.name, call.name)  # two calls that do not wait cannot meet
            pair = met(sender, call, "pass") if waits else None
            assert pair, f"the two never met:\n{as_text([sender, call])}"
            view.append(pair._replace(args=(call.result[1],)))
        elif kind != "sent":
            view.append(call)
    assert not sent, f"sent, and not received:\n{as_text(history)}"
    return in_parts(view)


def rendezvous(state, call):
    """Without buffers: an open channel is ready only while a call waits on its other side.

    The state does not say which calls wait. So a call that did nothing proves only that nothing
    was closed and that the event was not set. All else is as in `buffered`.
    """
    channels, _, _, _ = state
    if call.name == "pass":
        return IMPOSSIBLE if channels[call.args[0]][1] else state
    return buffered(state, call)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_selects_that_meet_are_linearizable(count):
    capacities = (0,) * count
    verify(
        lambda _: Several(*capacities),
        worker(count),
        initial(*capacities),
        rendezvous,
        **options(count, meetings),
    )


@pytest.mark.parametrize("capacities", [(0, 1), (2, 0)], ids=str)
def test_selects_over_channels_with_and_without_buffers_are_linearizable(capacities):
    """The pairs that met in the channel without a buffer are replaced, and no others."""
    without = capacities.index(0)

    def views(history, _):
        here = [
            call
            for call in history
            if isinstance(call.result, tuple)
            and call.result[0] in ("received", "sent")
            and call.result[1] == without
        ]
        others = [call for call in history if call not in here]
        (pairs,) = meetings(here)
        (rest,) = in_parts(others)
        return [pairs + rest]

    verify(
        lambda _: Several(*capacities),
        worker(2),
        initial(*capacities),
        rendezvous,
        **options(2, views),
    )


# A time as a case: the select ends by it, and has done none of the others.


def timed_worker(count):
    def plan(rng, each):
        for step in worker(count)(rng, each):
            name, (cases, _, scoped) = step
            yield name, (cases, rng.choice((0.0002, 0.0004)), scoped)

    return plan


class BesideATime(Several):
    """Its time-outs are cases, which may be chosen beside others that are ready."""

    def select(self, *cases, timeout):
        if not timeout:
            return select(*cases, timeout=timeout)
        return select(*cases, after(timeout))

    def outcome(self, cases, real, chosen):
        if chosen is not None and chosen.case not in real:
            return "time"
        return super().outcome(cases, real, chosen)


def test_selects_beside_a_time_are_linearizable():
    verify(
        lambda _: BesideATime(1, 2),
        timed_worker(2),
        initial(1, 2),
        buffered,
        **options(2),
    )


# Wrong ones


class Greedy(Several):
    """Wrong: it does two of its cases."""

    def select(self, *cases, timeout):
        chosen = select(*cases, timeout=timeout)
        try:
            try_select(*cases)
        except ChannelClosed:
            pass
        return chosen


class Late(Several):
    """Wrong: one that timed out goes ahead all the same."""

    def select(self, *cases, timeout):
        try:
            return select(*cases, timeout=timeout)
        except TimeoutError:
            time.sleep(0)
            try:
                try_select(*cases)
            except ChannelClosed:
                pass
            raise


class Dropping(Several):
    """Wrong: one that is cancelled drops what it was given."""

    def select(self, *cases, timeout):
        chosen = select(*cases, timeout=timeout)
        if enter_scope(self.scope) is self.scope and self.scope.cancelled:
            raise Cancelled
        enter_scope(None)
        return chosen


class Impatient(Several):
    """Wrong: it is cancelled by a scope that is not."""

    def select(self, *cases, timeout):
        chosen = try_select(*cases)
        if chosen is None:
            raise Cancelled
        return chosen


class Backwards(Several):
    """Wrong: it may say that nothing is ready when something was at each moment."""

    def try_select(self, *cases):
        for case in random.sample(cases, len(cases)):
            chosen = try_select(case)
            if chosen is not None:
                return chosen
            time.sleep(0.00005)
        return None


@pytest.mark.parametrize("cls", [Greedy, Late, Dropping, Impatient, Backwards])
def test_wrong_selects_are_caught(cls):
    assert_rejected(lambda _: cls(1, 2), worker(2), initial(1, 2), buffered, **options(2))


class Doubling(Several):
    """Wrong: two calls may receive one item."""

    def __init__(self, *capacities):
        super().__init__(*capacities)
        self.lock = threading.Lock()
        self.last = None

    def select(self, *cases, timeout):
        chosen = select(*cases, timeout=timeout)
        if chosen.case in self.channels and not chosen.closed:
            with self.lock:
                last, self.last = self.last, chosen
            if last is not None and any(case is last.case for case in cases):
                return last
        return chosen


class Unmet(Several):
    """Wrong: what it sends waits in a buffer."""

    def __init__(self, *capacities):
        super().__init__(*(capacity + 1 for capacity in capacities))


@pytest.mark.parametrize("cls", [Doubling, Unmet, Late, Greedy])
def test_wrong_meetings_are_caught(cls):
    assert_rejected(
        lambda _: cls(0, 0), worker(2), initial(0, 0), rendezvous, **options(2, meetings)
    )
