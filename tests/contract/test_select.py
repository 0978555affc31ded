"""select and try_select: which case goes ahead, and that no other one does."""

import gc
import math
import random
import threading
import time
import weakref
from collections import Counter

import pytest
from channels import Item
from marks import sets_handlers, starts_threads
from support import TIMEOUT, WRONG_TIMEOUTS, collected, eventually, many, run_threads, started

import nogil_sync
from nogil_sync import (
    Cancelled,
    Channel,
    ChannelClosed,
    Event,
    Selected,
    Sending,
    TaskGroup,
    Ticker,
    WaitGroup,
    after,
    select,
    try_select,
)
from nogil_sync._common.cases import Case


def full(capacity=1):
    c = Channel(capacity)
    for n in range(capacity):
        c.send(n)
    return c


def counting(n=1):
    group = WaitGroup()
    group.add(n)
    return group


def holding(item):
    c = Channel(1)
    c.send(item)
    return c


def ended():
    c = Channel(1)
    c.close()
    return c


def set_event():
    e = Event()
    e.set()
    return e


def cancelled_group():
    group = TaskGroup()
    group.cancel()
    return group


READY = {
    "an item": (lambda: holding("item"), "item", False),
    "None as an item": (lambda: holding(None), None, False),
    "a closed channel": (ended, None, True),
    "room": (lambda: Channel[str](1).sending("item"), None, False),
    "an event": (set_event, None, False),
    "a wait group": (WaitGroup, None, False),
    "a group": (cancelled_group, None, False),
}

IDLE = {
    "an empty channel": lambda: Channel(1),
    "a rendezvous": Channel,
    "a full channel": lambda: full().sending("item"),
    "a rendezvous to send to": lambda: Channel[str]().sending("item"),
    "an event": Event,
    "a wait group": counting,
    "a group": TaskGroup,
    "a time": lambda: after(TIMEOUT),
    "a ticker": lambda: Ticker(TIMEOUT),
}

# What makes an idle case ready; what the select returns then, but for the case.
WAKERS = {
    "an item": (lambda: Channel(1), lambda c: c.send("x"), ("x", False)),
    "an item to a rendezvous": (Channel, lambda c: c.send("x"), ("x", False)),
    "a close": (lambda: Channel(1), lambda c: c.close(), (None, True)),
    "an event": (Event, lambda e: e.set(), (None, False)),
    "an event for a moment": (Event, lambda e: (e.set(), e.clear()), (None, False)),
    "a wait group": (counting, lambda g: g.done(), (None, False)),
    "a group": (TaskGroup, lambda g: g.cancel(), (None, False)),
}


# Readiness


@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("call", [select, try_select])
def test_ready_case_is_chosen_at_once(name, call):
    make, value, closed = READY[name]
    case = make()
    assert call(case) == (case, value, closed)
    others = [idle() for idle in IDLE.values()]
    case = make()
    cases = [*others, case]
    random.shuffle(cases)
    chosen = call(*cases)
    assert chosen.case is case
    assert chosen.value == value
    assert chosen.closed is closed


@pytest.mark.parametrize("name", IDLE)
def test_idle_case_is_not_chosen(name):
    case = IDLE[name]()
    assert try_select(case) is None
    for timeout in (0, -1, -math.inf, 0.01):
        with pytest.raises(TimeoutError, match=r"^timed out waiting for a case$"):
            select(case, timeout=timeout)
    assert try_select(case) is None


def test_idle_cases_are_not_chosen_together():
    cases = [make() for make in IDLE.values()]
    assert try_select(*cases) is None
    with pytest.raises(TimeoutError, match=r"^timed out waiting for a case$"):
        select(*cases, timeout=0.02)
    assert try_select(*cases) is None


def test_selected_is_a_named_tuple():
    c = holding("item")
    chosen = select(c)
    assert type(chosen) is Selected
    case, value, closed = chosen
    assert (case, value, closed) == (c, "item", False)
    assert Selected._fields == ("case", "value", "closed")
    assert chosen == Selected(c, "item", False)


def test_selected_case_is_the_object_that_was_passed():
    c = Channel(1)
    sending = c.sending("item")
    assert type(sending) is Sending
    assert select(sending).case is sending
    assert select(c).case is c


def test_select_does_one_case_and_no_other():
    source, target, other = holding("item"), Channel(1), holding("other")
    for _ in range(20):
        case, value, _ = select(source, target.sending("sent"), other)
        state = (len(source), len(target), len(other))
        if case is source:
            assert (value, state) == ("item", (0, 0, 1))
            source.send("item")
        elif case is other:
            assert (value, state) == ("other", (1, 0, 0))
            other.send("other")
        else:
            assert (value, state) == (None, (1, 1, 1))
            assert target.recv() == "sent"


def test_sending_can_be_used_again():
    c = Channel(3)
    sending = c.sending("again")
    for _ in range(3):
        assert select(sending) == (sending, None, False)
    assert try_select(sending) is None
    assert [c.recv() for _ in range(3)] == ["again"] * 3


def test_sending_shows_its_channel():
    c = Channel(1)
    assert repr(c.sending(1)).endswith(f", to {c!r}>")
    with pytest.raises(TypeError):
        Sending()


def test_closed_channel_gives_its_items_first():
    c = Channel(2)
    c.send(1)
    c.send(2)
    c.close()
    assert [select(c)[1:] for _ in range(4)] == [(1, False), (2, False), (None, True), (None, True)]


@pytest.mark.parametrize("call", [select, try_select])
def test_send_to_a_closed_channel_raises(call):
    c = full()
    c.close()
    with pytest.raises(ChannelClosed, match=r"^the channel is closed$"):
        call(c.sending(1), Event())
    assert len(c) == 1


@starts_threads
def test_send_that_waits_raises_when_its_channel_is_closed():
    c = full()

    def wait():
        with pytest.raises(ChannelClosed, match=r"^the channel is closed$"):
            select(Event(), c.sending(1))
        return "refused"

    thread, result = started(wait)
    c.close()
    thread.join(TIMEOUT)
    assert result == ["refused"]
    assert list(c) == [0]


@starts_threads
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("name", WAKERS)
def test_idle_case_wakes_the_select(name, alone):
    make, wake, expected = WAKERS[name]
    case = make()
    others = [] if alone else [idle() for idle in IDLE.values()]
    thread, result = started(select, *others, case)
    assert not result
    gc.collect()
    wake(case)
    thread.join(TIMEOUT)
    assert result == [(case, *expected)]
    assert result[0].case is case


@starts_threads
@pytest.mark.parametrize("capacity", [0, 1])
def test_waiting_send_is_accepted(capacity):
    c = full(capacity)
    sending = c.sending("item")
    thread, result = started(select, sending, Event())
    assert [c.recv() for _ in range(capacity)] == [*range(capacity)]
    assert c.recv() == "item"
    thread.join(TIMEOUT)
    assert result == [(sending, None, False)]


@starts_threads
def test_one_of_several_waiting_selects_gets_the_item():
    c = Channel()
    stop = Event()
    waiting = [started(select, c, stop) for _ in range(4)]
    for n in range(2):
        c.send(n)
    assert eventually(lambda: sum(len(result) for _, result in waiting) == 2)
    stop.set()
    for thread, _ in waiting:
        thread.join(TIMEOUT)
    got = [result[0] for _, result in waiting]
    assert sorted(chosen.value for chosen in got if chosen.case is c) == [0, 1]
    assert [chosen.case for chosen in got].count(stop) == 2


# Random choice


def shares(cases, rounds, again):
    """How often each of the ready cases is chosen."""
    chosen = Counter()
    for _ in range(rounds):
        case = select(*cases).case
        chosen[id(case)] += 1
        again(case)
    return [chosen[id(case)] / rounds for case in cases]


def test_ready_cases_are_chosen_alike():
    events = [set_event() for _ in range(8)]
    channels = [holding("item") for _ in range(8)]
    rounds = 4000
    for share in shares(events, rounds, lambda _: None):
        assert 0.05 < share < 0.2
    for share in shares(channels, rounds, lambda c: c.send("item")):
        assert 0.05 < share < 0.2


def test_ready_cases_among_idle_ones_are_chosen_alike():
    # A choice that starts anywhere and goes on in order would prefer what follows idle cases.
    ready = [set_event(), set_event()]
    idle = [Channel() for _ in range(6)]
    chosen = Counter(id(select(*ready, *idle).case) for _ in range(2000))
    assert all(0.35 < chosen[id(event)] / 2000 < 0.65 for event in ready)


def test_send_and_receive_of_one_channel_are_chosen_alike():
    c = Channel(2)
    c.send(0)
    sending = c.sending(0)
    sends = 0
    for _ in range(2000):
        if select(c, sending).case is sending:
            sends += 1
            c.recv()
        else:
            c.send(0)
    assert 600 < sends < 1400


# One channel in several cases


@pytest.mark.parametrize("capacity", [0, 1])
def test_send_and_receive_of_one_select_never_meet(capacity):
    c = full(capacity)
    cases = [c.sending("a"), c.sending("b")] if capacity else [c, c.sending("a"), c.sending("b")]
    assert try_select(*cases) is None
    with pytest.raises(TimeoutError):
        select(*cases, timeout=0.03)
    assert len(c) == capacity


@starts_threads
def test_send_and_receive_of_one_channel_wait_for_others():
    c = Channel()
    sending = c.sending("mine")
    thread, result = started(select, c, sending)
    c.send("yours", TIMEOUT)
    thread.join(TIMEOUT)
    assert result == [(c, "yours", False)]
    thread, result = started(select, c, sending)
    assert c.recv(TIMEOUT) == "mine"
    thread.join(TIMEOUT)
    assert result == [(sending, None, False)]


def test_channel_may_stand_in_several_cases():
    c = holding("item")
    assert select(c, c, c) == (c, "item", False)
    assert try_select(c, c) is None
    e = set_event()
    assert select(e, c, e).case is e
    first, second = c.sending(1), c.sending(2)
    chosen = select(first, second)
    assert c.recv() == (1 if chosen.case is first else 2)
    assert try_select(c) is None


@starts_threads
def test_threads_that_select_to_send_and_receive_meet():
    c, d = Channel(), Channel()
    rounds = many(300)

    def run(me):
        log = []
        for n in range(rounds):
            sends = {id(s): s for s in (c.sending((me, n)), d.sending((me, n)))}
            chosen = select(c, d, *sends.values(), timeout=TIMEOUT)
            log.append("sent" if id(chosen.case) in sends else chosen.value)
        return log

    # Each round is one exchange between the two, in one direction.
    one, other = run_threads(lambda: run(0), lambda: run(1))
    for n in range(rounds):
        assert {one[n], other[n]} in ({"sent", (0, n)}, {"sent", (1, n)})
        assert (one[n] == "sent") == (other[n] == (0, n))


@starts_threads
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("capacity", [0, 1])
def test_crowd_that_selects_both_ways_loses_nothing(threads, capacity):
    channels = [Channel(capacity) for _ in range(3)]
    stop = Event()
    rounds = many(200)
    left = WaitGroup()
    left.add(threads)

    def run(me):
        sent, received = [], []
        for n in range(rounds):
            item = (me, n)
            cases = [*channels, *(c.sending(item) for c in channels)]
            random.Random(n).shuffle(cases)
            chosen = select(stop, *cases)
            if isinstance(chosen.case, Sending):
                sent.append(item)
            elif chosen.case is not stop:
                received.append(chosen.value)
        left.done()
        while (chosen := select(*channels, stop)).case is not stop:
            received.append(chosen.value)
        return sent, received

    def end():
        left.wait(TIMEOUT)
        stop.set()

    *results, _ = run_threads(*[lambda k=k: run(k) for k in range(threads)], end)
    sent = [item for each, _ in results for item in each]
    received = [item for _, each in results for item in each]
    received += [c.recv() for c in channels for _ in range(len(c))]
    assert len(sent) == len(set(sent))
    assert sorted(sent) == sorted(received)


@starts_threads
def test_thousand_selectors_get_every_item_once():
    channels = [Channel(n % 3) for n in range(10)]
    selectors, received, sent, errors = many(1000), [], [], []
    stop = Event()

    def receive(k):
        try:
            some = random.Random(k).sample(channels, 1 + k % 10)
            received.append(select(*some, timeout=TIMEOUT).value)
        except BaseException as error:
            errors.append(error)

    def send(k, items):
        cases = random.Random(k).sample(channels, 10)
        try:
            for item in items:
                sends = [c.sending(item) for c in cases]
                if select(*sends, stop, timeout=TIMEOUT).case is stop:
                    break
                sent.append(item)
        except BaseException as error:
            errors.append(error)

    receivers = [threading.Thread(target=receive, args=(k,), daemon=True) for k in range(selectors)]
    senders = [
        threading.Thread(target=send, args=(k, range(k, selectors, 4)), daemon=True)
        for k in range(4)
    ]
    for thread in receivers + senders:
        thread.start()

    # A selector of few channels may find them empty while items lie in others: send enough.
    def feed():
        while not stop.wait(0.01):
            for c in channels:
                c.try_send(-1)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    for thread in receivers:
        thread.join(TIMEOUT)
    stop.set()  # by now nobody may be left to receive what the senders have
    for thread in [*senders, feeder]:
        thread.join(TIMEOUT)
    assert not errors
    assert len(received) == selectors
    left = [c.recv() for c in channels for _ in range(len(c))]
    items = [item for item in received + left if item != -1]
    assert sorted(items) == sorted(sent)


# Several threads


@starts_threads
def test_fan_in_of_ten_channels():
    channels = [Channel(k % 3) for k in range(10)]
    each = many(100)

    def send(k):
        for n in range(each):
            channels[k].send((k, n))
        channels[k].close()

    def receive():
        got, open_ = [], [*channels]
        while open_:
            c, item, closed = select(*open_)
            if closed:
                open_.remove(c)
            else:
                got.append(item)
        return got

    *_, got = run_threads(*[lambda k=k: send(k) for k in range(10)], receive)
    assert sorted(got) == [(k, n) for k in range(10) for n in range(each)]
    for k in range(10):
        assert [n for sender, n in got if sender == k] == [*range(each)]


@starts_threads
def test_try_select_finds_one_of_two_events_that_are_set_in_turn():
    # None would be wrong at any moment: each event is set before the other one is cleared.
    first, second = set_event(), Event()
    stop = threading.Event()

    def alternate():
        while not stop.is_set():
            second.set()
            first.clear()
            first.set()
            second.clear()

    def look():
        try:
            return [try_select(first, second) for _ in range(many(2000))]
        finally:
            stop.set()

    _, found = run_threads(alternate, look)
    assert None not in found


class Swap(Case):
    """Never ready. When it is asked first, it sets the one event and clears the other."""

    def __init__(self, *swaps):
        self.swaps = [*swaps]

    def _case_take(self):
        if self.swaps:
            here, there = self.swaps.pop()
            there.set()
            here.clear()


def test_try_select_looks_at_all_cases_at_one_moment():
    for _ in range(60):
        first, second = set_event(), Event()
        assert try_select(first, Swap((first, second)), second) is not None


def test_cancelled_select_looks_at_all_cases_at_one_moment():
    selected = []
    with TaskGroup() as group:
        group.cancel()
        for _ in range(60):
            first, second = set_event(), Event()
            selected.append(select(first, Swap((first, second)), second))
    assert len(selected) == 60


@starts_threads
def test_selects_with_short_timeouts_lose_nothing():
    c, d = Channel(1), Channel()
    done = threading.Event()
    each = many(300)

    def send(k):
        for n in range(each):
            while True:
                try:
                    select(c.sending((k, n)), d.sending((k, n)), timeout=n % 4 / 2000)
                    break
                except TimeoutError:
                    pass

    def receive():
        got = []
        while True:
            try:
                got.append(select(d, c, timeout=0.001).value)
            except TimeoutError:
                if done.is_set():
                    return got

    def run():
        run_threads(*[lambda k=k: send(k) for k in range(2)])
        done.set()

    _, *got = run_threads(run, receive, receive)
    rest = [c.recv() for _ in range(len(c))]
    assert sorted([*got[0], *got[1], *rest]) == [(k, n) for k in range(2) for n in range(each)]


# Time


def test_time_is_a_case():
    timer = after(0.02)
    assert try_select(timer) is None
    assert select(timer, Channel()).case is timer
    with pytest.raises(TimeoutError):  # once
        select(timer, Channel(), timeout=0.02)


@starts_threads
def test_select_ends_at_the_earliest_time():
    soon, late = after(0.03), after(TIMEOUT)
    assert select(late, soon, Channel(), after(TIMEOUT)).case is soon
    assert try_select(late) is None


@starts_threads
def test_item_comes_before_the_time():
    c = Channel()
    thread, result = started(select, c, after(TIMEOUT), timeout=TIMEOUT)
    c.send(1)
    thread.join(TIMEOUT)
    assert result == [(c, 1, False)]


@starts_threads
def test_one_time_lets_one_thread_go():
    timer = after(0.05)
    stop = Event()
    waiting = [started(select, timer, stop) for _ in range(4)]
    assert eventually(lambda: any(result for _, result in waiting))
    time.sleep(0.02)
    stop.set()
    for thread, _ in waiting:
        thread.join(TIMEOUT)
    assert [result[0].case for _, result in waiting].count(timer) == 1


@starts_threads
def test_ticks_are_cases():
    ticker = Ticker(0.005)
    seen = [select(ticker, Channel(), timeout=TIMEOUT) for _ in range(3)]
    assert all(chosen.case is ticker and not chosen.closed for chosen in seen)
    assert seen[0].value < seen[1].value < seen[2].value
    ticker.stop()


# Bad input


@pytest.mark.parametrize("call", [select, try_select])
def test_no_case_raises(call):
    with pytest.raises(ValueError, match=r"^select needs at least one case$"):
        call()


@pytest.mark.parametrize("call", [select, try_select])
@pytest.mark.parametrize("wrong", [1, None, "c", [], object(), Channel, threading.Event()])
def test_what_is_no_case_raises_and_changes_nothing(call, wrong):
    c, target = holding("item"), Channel(1)
    message = f"^select: '{type(wrong).__name__}' object is not a case$"
    with pytest.raises(TypeError, match=message):
        call(c, target.sending(1), wrong)
    assert (len(c), len(target)) == (1, 0)


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
def test_wrong_timeout_raises_and_changes_nothing(timeout, error):
    c = holding("item")
    with pytest.raises(error):
        select(c, timeout=timeout)
    assert len(c) == 1
    assert select(c, timeout=None).value == "item"


def test_wrong_arguments_raise_and_change_nothing():
    c = holding("item")
    for call in (
        lambda: select(c, time=1),
        lambda: try_select(c, timeout=1),
        lambda: c.sending(),
        lambda: c.sending(1, 2),
        lambda: c.sender(1),
    ):
        with pytest.raises(TypeError):
            call()
    assert len(c) == 1


@pytest.mark.parametrize("call", [select, try_select])
def test_channel_without_init_raises(call):
    c = holding("item")
    unfinished = Channel.__new__(Channel)
    with pytest.raises(RuntimeError, match="not initialized"):
        call(c, unfinished)
    with pytest.raises(RuntimeError, match="not initialized"):
        unfinished.sending(1)
    with pytest.raises(RuntimeError, match="not initialized"):
        unfinished.sender()
    assert len(c) == 1


# References


def test_select_keeps_no_references():
    c, other = full(), Channel()
    item = Item()
    watch = weakref.ref(item)
    for _ in range(3):
        assert try_select(c.sending(item), other.sending(item)) is None
        with pytest.raises(TimeoutError):
            select(c.sending(item), other.sending(item), timeout=0.001)
    del item
    assert collected(watch)


@starts_threads
def test_item_of_a_case_that_was_not_chosen_is_released():
    c, d, stop = full(), Channel(), Event()
    item = Item()
    watch = weakref.ref(item)
    thread, result = started(lambda item: select(c.sending(item), d.sending(item), stop).case, item)
    stop.set()
    thread.join(TIMEOUT)
    assert result == [stop]
    del item, thread
    assert collected(watch)
    assert len(c) == 1


@starts_threads
def test_item_that_was_sent_is_kept():
    c, stop = Channel(1), Event()
    c.send(0)
    items = [Item()]
    watch = weakref.ref(items[0])
    thread, result = started(lambda: select(c.sending(items.pop()), stop).closed)
    assert c.recv() == 0
    thread.join(TIMEOUT)
    assert result == [False]
    gc.collect()
    assert watch() is not None
    assert c.recv() is watch()
    assert collected(watch)


def test_cycle_through_a_sending_is_collected():
    c = Channel(1)
    item = Item()
    item.sending = c.sending(item)
    c.send(item)
    watches = weakref.ref(c), weakref.ref(item)
    del c, item
    assert collected(*watches)


def test_cycle_through_a_selected_is_collected():
    c = Channel(1)
    item = Item()
    c.send(item)
    item.selected = select(c)
    watch = weakref.ref(item)
    del item
    assert collected(watch)


def test_subclass_of_selected_is_a_tuple_like_others():
    class Mine(Selected):
        def __del__(self):
            dropped.append(self.value)

    dropped = []
    mine = Mine(1, 2, False)
    mine.me = mine
    assert hash(mine) == hash((1, 2, False))
    del mine
    assert eventually(lambda: gc.collect() >= 0 and dropped == [2])
    chosen = select(holding(3))
    assert hash(chosen) == hash(tuple(chosen))
    assert chosen._replace(value=4).value == 4


def test_long_chain_of_selected_is_freed():
    c = Channel(1)
    chain = None
    for _ in range(100_000):
        c.send(chain)
        chain = select(c)
    del chain


# Subclasses, finalisers


def test_subclasses_are_cases():
    class Mine(Channel):
        pass

    class Flag(Event):
        pass

    c, e = Mine(1), Flag()
    c.send(1)
    assert select(c, e) == (c, 1, False)
    e.set()
    assert select(c, e).case is e
    sending = c.sending(2)
    assert select(sending).case is sending


def test_finaliser_of_an_item_selects_on_the_same_channels():
    c, d = Channel(1), Channel(1)
    log = []

    class Last:
        def __del__(self):
            log.append(try_select(c, d.sending("from the finaliser")).case is not None)

    for _ in range(20):
        c.send(Last())
        value = select(c).value
        del value
        gc.collect()
        assert d.recv(TIMEOUT) == "from the finaliser"
    assert log == [True] * 20


@starts_threads
def test_finalisers_use_the_channels_of_waiting_selects():
    c, d, stop = Channel(), Channel(), Event()

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            c.try_send("from a finaliser")
            try_select(c, d)

    received = []

    def receive():
        while (chosen := select(c, d, stop)).case is not stop:
            received.append(chosen.value)

    thread, _ = started(receive)
    for n in range(20):
        Last()
        gc.collect()
        d.send(n)
    stop.set()
    thread.join(TIMEOUT)
    assert [item for item in received if isinstance(item, int)] == [*range(20)]


# Handlers


@sets_handlers
def test_handler_uses_the_channels_of_the_select_it_interrupts(interrupt):
    c, d = Channel(), Channel(1)
    log = []

    def handler():
        log.append(try_select(c, d))
        log.append(c.try_send("nobody takes it"))
        d.send("mine")
        log.append(select(c, d).value)
        d.send("yours")

    interrupt(handler, 0.05)
    assert select(c, d, timeout=TIMEOUT) == (d, "yours", False)
    assert log == [None, False, "mine"]


@sets_handlers
def test_handler_sends_what_its_select_would_send(interrupt):
    c = full()
    sending = c.sending("the call's")
    log = []

    def handler():
        log.append(c.recv())
        log.append(select(c.sending("the handler's")).closed)
        started(lambda: log.append(c.recv()))

    interrupt(handler, 0.05)
    assert select(sending, Channel(), timeout=TIMEOUT).case is sending
    assert c.recv() == "the call's"
    assert eventually(lambda: log == [0, False, "the handler's"])


@sets_handlers
def test_interrupted_select_leaves_no_trace(interrupt):
    c, d, e = Channel(), full(), Event()

    def raise_it():
        raise KeyboardInterrupt

    for _ in range(3):
        interrupt(raise_it, 0.02)
        with pytest.raises(KeyboardInterrupt):
            select(c, c.sending(1), d.sending(2), e, after(TIMEOUT), timeout=TIMEOUT)
        assert not c.try_send(3)
        assert try_select(c) is None
        assert len(d) == 1


@sets_handlers
def test_handlers_run_during_selects_and_nothing_is_lost(interrupt):
    c, d = Channel(), Channel(1)
    stop, received, from_handlers = Event(), [], []

    def receive():
        while (chosen := select(c, d, stop)).case is not stop:
            received.append(chosen.value)
        received.extend(d.recv() for _ in range(len(d)))

    def handler():
        try:
            select(c.sending(len(from_handlers)), d.sending(len(from_handlers)), timeout=0.002)
        except TimeoutError:
            return
        from_handlers.append(len(from_handlers))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    halt = interrupt(handler, 0.005, 0.005)
    sent = []
    for n in range(many(500)):
        select(c.sending(("main", n)), d.sending(("main", n)), timeout=TIMEOUT)
        sent.append(("main", n))
    halt()
    stop.set()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert sorted(item for item in received if isinstance(item, tuple)) == sent
    assert sorted(item for item in received if isinstance(item, int)) == from_handlers


# Cancellation


@starts_threads
def test_cancelled_select_raises_and_does_nothing():
    c, d = Channel(), full()
    outcome = []

    def work():
        try:
            select(c, c.sending("lost"), d.sending("lost"), Event(), after(TIMEOUT))
        except Cancelled:
            outcome.append("cancelled")
            raise

    with TaskGroup() as group:
        group.go(work)
        time.sleep(0.05)
        group.cancel()
    assert outcome == ["cancelled"]
    assert not c.try_send(1)
    assert try_select(c) is None
    assert len(d) == 1


@starts_threads
def test_ready_case_is_done_in_a_cancelled_group():
    c = holding("item")
    outcome = []

    def work():
        group.cancel()
        outcome.append(select(c, Event()).value)
        try:
            select(c, Event())
        except Cancelled:
            outcome.append("cancelled")
            raise

    with TaskGroup() as group:
        group.go(work)
    assert outcome == ["item", "cancelled"]


@starts_threads
def test_selects_cancelled_as_they_are_served_lose_nothing():
    for _ in range(many(50)):
        c, d = Channel(), Channel()
        received, sent = [], []

        def receive(c=c, d=d, received=received):
            while True:
                received.append(select(c, d).value)

        def send(c=c, d=d, sent=sent):
            for n in range(1000):
                select(c.sending(n), d.sending(n))
                sent.append(n)

        with TaskGroup() as group:
            group.go(receive)
            group.go(send)
            time.sleep(0.001)
            group.cancel()
        assert received == sent


# Senders


def test_channel_closes_when_the_last_sender_is_left():
    c = Channel(5)
    first, second = c.sender(), c.sender()
    with first as channel:
        assert channel is c
        channel.send(1)
    assert not c.closed()
    with second:
        c.send(2)
        assert not c.closed()
    assert c.closed()
    assert list(c) == [1, 2]


def test_sender_closes_when_its_body_raises():
    c = Channel()
    with pytest.raises(ZeroDivisionError), c.sender():
        raise ZeroDivisionError
    assert c.closed()


def test_sender_is_entered_once():
    c = Channel()
    other, sender = c.sender(), c.sender()
    with pytest.raises(RuntimeError, match=r"^the sender is not entered$"):
        sender.__exit__(None, None, None)
    with sender, pytest.raises(RuntimeError, match=r"^a sender can be entered only once$"):
        sender.__enter__()
    with pytest.raises(RuntimeError, match=r"^the sender is not entered$"):
        sender.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match=r"^a sender can be entered only once$"):
        sender.__enter__()
    assert not c.closed()
    with other:
        pass
    assert c.closed()
    assert repr(sender).endswith(f", of {c!r}>")


@starts_threads
def test_senders_in_threads_close_the_channel_once_all_are_left():
    for capacity in (0, 3):
        c = Channel(capacity)
        senders = [c.sender() for _ in range(4)]

        def produce(sender):
            with sender as out:
                for n in range(50):
                    out.send(n)

        *_, got = run_threads(*[lambda s=s: produce(s) for s in senders], lambda c=c: list(c))
        assert sorted(got) == sorted([*range(50)] * 4)


def test_names_are_public():
    for name in ("select", "try_select", "Selected", "Sending", "ChannelSender"):
        assert name in nogil_sync.__all__
        assert getattr(nogil_sync, name).__module__ == "nogil_sync"
