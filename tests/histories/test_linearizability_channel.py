"""Histories of channels.

A channel with a buffer is specified as a queue. A call that waits for an item, or for space, takes
effect once there is some: it needs no step of its own.

Without a buffer a send and the receive of its item take effect together, if at all (see
`met` in `linearizability`). As each item is sent once, a history shows which calls met.
"""

import time
from collections import deque

import pytest
from linearizability import IMPOSSIBLE, as_text, assert_rejected, met, verify
from marks import starts_threads

from nogil_sync import Channel, ChannelClosed

pytestmark = starts_threads

SENDS = ("send", "try_send")
NOTHING = "nothing"  # what `try_recv` gives if there is none
TIMEOUTS = (None, None, None, 0, 0.0003)


def item(rng):
    """An item that no other call sends."""
    return rng.getrandbits(60)


def worker(rng, _):
    """Send and receive, and wait for it if need be: `ender` ends that."""
    for _ in range(rng.randrange(3, 6)):
        yield rng.choice(
            [
                ("send", (item(rng), rng.choice(TIMEOUTS))),
                ("recv", (rng.choice(TIMEOUTS),)),
                ("try_send", (item(rng),)),
                ("try_recv", (NOTHING,)),
                ("__next__", ()),
            ]
        )


def ender(rng, _):
    """Never wait for long, and close at the end."""
    for _ in range(rng.randrange(3, 6)):
        yield rng.choice(
            [
                ("send", (item(rng), rng.choice((0, 0.001)))),
                ("recv", (rng.choice((0, 0.001)),)),
                ("try_send", (item(rng),)),
                ("try_recv", (NOTHING,)),
                ("__len__", ()),
                ("closed", ()),
            ]
        )
    yield "close", ()
    yield rng.choice([("recv", ()), ("__next__", ()), ("try_recv", (NOTHING,)), ("close", ())])
    yield rng.choice([("send", (item(rng),)), ("__len__", ()), ("closed", ())])


def closed_or(call):
    """What says that the channel is closed."""
    return StopIteration if call.name == "__next__" else ChannelClosed


def queue(capacity):
    def after(state, call):
        """The state is the items, and whether the channel is closed."""
        items, closed = state
        result = call.result
        if call.name == "close":
            return items, True
        if call.name in ("closed", "__len__"):
            return (
                state if result == (closed if call.name == "closed" else len(items)) else IMPOSSIBLE
            )
        if call.name in SENDS:
            if closed:
                return state if result is ChannelClosed else IMPOSSIBLE
            if len(items) < capacity:
                sent = result in (None, True)
                return ((*items, call.args[0]), False) if sent else IMPOSSIBLE
            return state if result in (TimeoutError, False) else IMPOSSIBLE
        if items:
            return (items[1:], closed) if result == items[0] else IMPOSSIBLE
        if closed:
            return state if result is closed_or(call) else IMPOSSIBLE
        return state if result in (TimeoutError, NOTHING) else IMPOSSIBLE

    return after


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_buffered_channel_is_linearizable(capacity):
    verify(lambda _: Channel(capacity), worker, ((), False), queue(capacity), lead=ender, threads=3)


def meetings(history, _):
    """One call for each pair that met, and all other calls."""
    view = []
    sent = {}
    for call in history:
        if call.name in SENDS and call.result in (None, True):
            sent[call.args[0]] = call
    for call in history:
        if call.name in SENDS:
            if call.args[0] not in sent:
                view.append(call)
        elif call.name in ("recv", "try_recv", "__next__") and isinstance(call.result, int):
            assert call.result in sent, f"received what was not sent, or twice:\n{as_text(history)}"
            sender = sent.pop(call.result)
            # Two calls that do not wait cannot meet.
            waiting = sender.name == "send" or call.name != "try_recv"
            pair = met(sender, call, "pass") if waiting else None
            assert pair, f"the two never met:\n{as_text([sender, call])}"
            view.append(pair)
        else:
            view.append(call)
    assert not sent, f"sent, and not received:\n{as_text(history)}"
    return [view]


def rendezvous(closed, call):
    """The state is whether the channel is closed."""
    if call.name == "close":
        return True
    if call.name == "closed":
        return closed if call.result is closed else IMPOSSIBLE
    if call.name == "__len__":
        return closed if call.result == 0 else IMPOSSIBLE
    if call.name == "pass":
        return IMPOSSIBLE if closed else False
    if call.result is closed_or(call):
        return True if closed else IMPOSSIBLE
    return IMPOSSIBLE if closed else False  # it met no other call


def test_rendezvous_is_linearizable():
    verify(lambda _: Channel(), worker, False, rendezvous, views=meetings, lead=ender, threads=3)


# Wrong ones


class Losing(Channel):
    """Wrong: what comes while a receiver looks is lost."""

    def try_recv(self, default=None):
        if len(self) == 0:
            return default
        time.sleep(0)
        Channel.try_recv(self)
        return Channel.try_recv(self, default)


class LastFirst(Channel):
    """Wrong: two items change places."""

    def recv(self, timeout=None):
        first = Channel.recv(self, timeout)
        try:
            second = Channel.recv(self, 0)
        except (TimeoutError, ChannelClosed):
            return first
        try:
            Channel.send(self, first, 0)
        except (TimeoutError, ChannelClosed):
            pass
        return second


class Leaking(Channel):
    """Wrong: one more than there is room for."""

    def __init__(self, capacity):
        super().__init__(capacity + 1)


class SendingLate(Channel):
    """Wrong: a call that timed out may still send."""

    def send(self, value, timeout=None):
        try:
            Channel.send(self, value, timeout)
        except TimeoutError:
            Channel.try_send(self, value)
            raise


class AcceptingLate(Channel):
    """Wrong: an item is accepted by a channel that is closed, and forgotten."""

    def send(self, value, timeout=None):
        try:
            Channel.send(self, value, timeout)
        except ChannelClosed:
            pass


@pytest.mark.parametrize("cls", [Losing, LastFirst, Leaking, SendingLate, AcceptingLate])
def test_wrong_queues_are_caught(cls):
    assert_rejected(lambda _: cls(2), worker, ((), False), queue(2), lead=ender, threads=3)


class Buffered(Channel):
    """Wrong: a send does not wait for its receiver."""

    def __init__(self):
        super().__init__(1)


class Twice(Channel):
    """Wrong: an item may be received twice."""

    def __init__(self):
        super().__init__()
        self.last = deque(maxlen=1)

    def recv(self, timeout=None):
        if self.last:
            return self.last[0]
        self.last.append(Channel.recv(self, timeout))
        return self.last[0]


@pytest.mark.parametrize("cls", [Buffered, Twice, AcceptingLate])
def test_wrong_rendezvous_are_caught(cls):
    assert_rejected(
        lambda _: cls(), worker, False, rendezvous, views=meetings, lead=ender, threads=3
    )
