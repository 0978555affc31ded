"""select beside plain calls and in whole programs: what Go's own tests of select try.

docs/correctness.md lists which test shows which of their ideas.
"""

import itertools
from collections import deque

import pytest
from marks import starts_threads
from support import TIMEOUT, many, run_threads, started

from nogil_sync import Channel, Event, TaskGroup, WaitGroup, select, try_select
from nogil_sync._common.cases import Case

# Lines

kinds = pytest.mark.parametrize("sends", [False, True], ids=["receiving", "sending"])


def stand_in_line(c, number, sends):
    """A thread that waits in a plain call; the list gets its result."""
    return started(c.send, number) if sends else started(c.recv)


@starts_threads
@kinds
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "between", "last"])
def test_select_that_ends_leaves_the_line_of_its_other_case_whole(place, sends):
    c, d = Channel(), Channel()
    waiting = []
    for n in range(3):
        if n == place:  # twice in the same line
            cases = [c.sending("left"), c.sending("left")] if sends else [c, c]
            select_thread, chosen = started(select, *cases, d)
        if n < 2:
            waiting.append(stand_in_line(c, n, sends))
    d.send("over", TIMEOUT)
    select_thread.join(TIMEOUT)
    assert chosen == [(d, "over", False)]
    waiting.append(stand_in_line(c, 2, sends))  # behind those who stood there before
    if sends:
        assert [c.recv(TIMEOUT) for _ in range(3)] == [0, 1, 2]
    else:
        for n in range(3):
            c.send(n, TIMEOUT)
    for n, (thread, result) in enumerate(waiting):
        thread.join(TIMEOUT)
        assert result == [None if sends else n]


@starts_threads
@kinds
def test_selects_and_plain_calls_are_served_in_one_order(sends):
    c = Channel()
    waiting = []
    for n in range(6):
        if n % 2 == 0:
            waiting.append(stand_in_line(c, n, sends))
        else:
            waiting.append(started(select, Event(), *([c.sending(n)] if sends else [c, c])))
    if sends:
        assert [c.recv(TIMEOUT) for _ in range(6)] == [*range(6)]
    else:
        for n in range(6):
            c.send(n, TIMEOUT)
    for n, (thread, result) in enumerate(waiting):
        thread.join(TIMEOUT)
        if not sends:
            assert (result[0].value if n % 2 else result[0]) == n


def at_once(*cases):
    """What try_select chose: a case is ready."""
    selected = try_select(*cases)
    assert selected is not None
    return selected


WAYS_TO_RECEIVE = {
    "recv": lambda c: c.recv(TIMEOUT),
    "a select of one case": lambda c: select(c, timeout=TIMEOUT).value,
    "a select of two cases": lambda c: select(Channel(), c, timeout=TIMEOUT).value,
    "try_recv": lambda c: c.try_recv(),
    "try_select": lambda c: at_once(Channel(), c).value,
}
WAYS_TO_SEND = {
    "send": lambda c: c.send("item", TIMEOUT),
    "a select of one case": lambda c: select(c.sending("item"), timeout=TIMEOUT),
    "a select of two cases": lambda c: select(Channel(), c.sending("item"), timeout=TIMEOUT),
    "try_send": lambda c: c.try_send("item") or pytest.fail("nobody received"),
    "try_select": lambda c: at_once(Channel(), c.sending("item")).closed,
}


@starts_threads
@pytest.mark.parametrize("waits", [way for way in WAYS_TO_RECEIVE if not way.startswith("try")])
def test_waiting_receiver_is_met_by_every_way_to_send(waits):
    for send in WAYS_TO_SEND.values():
        c = Channel()
        thread, result = started(WAYS_TO_RECEIVE[waits], c)
        send(c)
        thread.join(TIMEOUT)
        assert result == ["item"]


@starts_threads
@pytest.mark.parametrize("waits", [way for way in WAYS_TO_SEND if not way.startswith("try")])
def test_waiting_sender_is_met_by_every_way_to_receive(waits):
    for receive in WAYS_TO_RECEIVE.values():
        c = Channel()
        thread, result = started(WAYS_TO_SEND[waits], c)
        assert receive(c) == "item"
        thread.join(TIMEOUT)
        assert len(result) == 1


# One moment


def holding(item):
    c = Channel(1)
    c.send(item)
    return c


def moving_item():
    c, d = holding("item"), Channel(1)
    return c, d, lambda: (d.send("item"), c.try_recv())


def item_followed_by_another_channels_end():
    c, d = holding("item"), Channel()
    return c, d, lambda: (d.close(), c.try_recv())


def item_followed_by_its_channels_end():
    c = holding("item")
    return c, c, lambda: (c.close(), try_select(c))


def moving_room():
    c, d = Channel(1), holding("item")
    return c.sending(1), d.sending(1), lambda: (d.try_recv(), c.try_send(2))


def moving_zero():
    first, second = WaitGroup(), WaitGroup()
    second.add()
    return first, second, lambda: (second.done(), first.add())


def event_followed_by_a_cancellation():
    event, group = Event(), TaskGroup()
    event.set()
    return event, group, lambda: (group.cancel(), event.clear())


# Each returns a case that is ready, one that is not, and a function that makes the second one ready
# and then the first one not: so at each moment one of them is.
MOVES = [
    moving_item,
    item_followed_by_another_channels_end,
    item_followed_by_its_channels_end,
    moving_room,
    moving_zero,
    event_followed_by_a_cancellation,
]


class Meanwhile(Case):
    """Never ready. The first time that it is asked it calls a function, as another thread might."""

    def __init__(self, function):
        self.functions = [function]

    def _case_take(self):
        if self.functions:
            self.functions.pop()()


@pytest.mark.parametrize("make", MOVES)
def test_try_select_finds_what_moves_while_it_looks(make):
    for _ in range(30):  # the cases are asked in other orders
        first, second, move = make()
        chosen = try_select(second, Meanwhile(move), first)
        assert chosen is not None
        assert chosen.case in (first, second)


@starts_threads
@pytest.mark.parametrize("make", MOVES)
def test_try_select_finds_what_moves_in_another_thread(make):
    pairs = Channel()

    def move_all():
        with pairs:
            for _ in range(many(200)):
                first, second, move = make()
                pairs.send((first, second), TIMEOUT)
                move()

    _, found = run_threads(move_all, lambda: [try_select(*pair) for pair in pairs])
    assert len(found) == many(200)
    assert None not in found


# Choice


@starts_threads
@pytest.mark.parametrize("capacity", [0, 100])
def test_two_sends_to_one_channel_are_chosen_alike(capacity):
    c = Channel(capacity)
    rounds = 200

    def send():
        with c:
            for _ in range(rounds):
                select(c.sending(0), c.sending(1), timeout=TIMEOUT)

    _, received = run_threads(send, lambda: [*c])
    assert len(received) == rounds
    assert 0.1 < sum(received) / rounds < 0.9


@starts_threads
def test_one_of_very_many_cases_is_done():
    cases = [Channel(n % 2) for n in range(300)]
    chosen = [Channel() for _ in range(3)]
    for c in chosen:
        thread, result = started(select, *cases, *chosen, *cases, *chosen)
        c.send("item", TIMEOUT)
        thread.join(TIMEOUT)
        assert result == [(c, "item", False)]
    assert try_select(*cases, *chosen, *cases) is None
    for c in cases + chosen:  # nobody is left in any line
        assert c.try_send("item") == (c in cases[1::2])


# Programs


@starts_threads
def test_selects_beside_plain_calls_pass_each_item_once():
    """One thread sends to each channel, one receives; two select among all of them."""
    channels = [Channel(capacity) for capacity in (0, 0, 2, 3)]
    each = many(100)

    def send(k):
        for n in range(each):
            channels[k].send(("plain", k, n), TIMEOUT)

    def receive(k):
        return [channels[k].recv(TIMEOUT) for _ in range(each)]

    def select_to_send():
        numbers = dict.fromkeys(range(4), 0)
        while numbers:  # a channel that has had its share is no case any more
            cases = [channels[k].sending(("select", k, n)) for k, n in numbers.items()]
            chosen = [*numbers][cases.index(select(*cases, timeout=TIMEOUT).case)]
            numbers[chosen] += 1
            if numbers[chosen] == each:
                del numbers[chosen]

    def select_to_receive():
        left = dict.fromkeys(channels, each)
        received = []
        while left:
            case, item, _ = select(*left, timeout=TIMEOUT)
            received.append((case, item))
            left[case] -= 1
            if not left[case]:
                del left[case]
        return received

    plain = [lambda k=k: receive(k) for k in range(4)]
    others = [select_to_send, *(lambda k=k: send(k) for k in range(4))]
    *received, selected = run_threads(*others, *plain, select_to_receive)[len(others) :]
    for k, items in enumerate(received):
        items_of_select = [item for case, item in selected if case is channels[k]]
        for some in items, items_of_select:
            for way in "plain", "select":  # each receiver gets what one thread sent in its order
                numbers = [n for kind, _, n in some if kind == way]
                assert numbers == sorted(numbers)
        assert sorted(items + items_of_select) == [
            (way, k, n) for way, n in itertools.product(("plain", "select"), range(each))
        ]
    assert not any(map(len, channels))


@starts_threads
def test_case_is_left_out_while_there_is_nothing_to_send():
    """A thread takes whatever comes, without bound, and passes it on as fast as it is received."""
    source, target = Channel(), Channel()
    count = many(300)

    def relay():
        kept, ended = deque(), False
        with target:
            while kept or not ended:
                receive = [] if ended else [source]
                send = [target.sending(kept[0])] if kept else []
                case, item, closed = select(*receive, *send, timeout=TIMEOUT)
                if case is not source:
                    kept.popleft()
                elif closed:
                    ended = True
                else:
                    kept.append(item)

    def use():
        with source:
            for n in range(count):
                source.send(n, TIMEOUT)  # nobody receives yet
        return [*target]

    _, received = run_threads(relay, use)
    assert received == [*range(count)]
