"""Histories of pools.

Each item is in one place: made by a `get`, in use, idle in the pool, or dropped. Items do not
depend on each other, so each has a history of its own. Two promises are about all items: a `get`
makes a new one only if none is idle, and `clear` leaves none. But neither sees all items at once,
while threads put and take them. So they must not miss an item that is idle during the whole call;
unless the thread that put it puts another one meanwhile, which may move the first item from a place
that they have yet to search to one that they have searched.
"""

import threading
import time
from time import perf_counter_ns

import pytest
from linearizability import IMPOSSIBLE, as_text, assert_rejected, verify
from marks import starts_threads

from nogil_sync import AtomicInt64, Pool

pytestmark = starts_threads


class Mine(threading.local):
    """What happened in the call of this thread."""

    def __init__(self):
        self.made = False
        self.dropped = []


class Items:
    """A pool of numbers, each made once; calls record what was made and dropped in them."""

    def __init__(self, cls=Pool, most=None):
        self.most = most
        self.number = AtomicInt64()
        self.mine = Mine()
        self.pool = cls(self.new, drop=self.drop, max_idle=most, age=False)

    def new(self):
        self.mine.made = True
        return self.number.add()

    def drop(self, item):
        self.mine.dropped.append((item, perf_counter_ns()))

    def call(self, name, args):
        self.mine.made = False
        self.mine.dropped = []
        item = getattr(self.pool, name)(*args)
        return (item, self.mine.made) if name == "get" else self.mine.dropped


def user(rng, _):
    """Take some, give them back in any order, and clear now and then."""
    mine = []
    for _ in range(rng.randrange(4, 10)):
        if rng.random() < 0.05:
            yield "clear", ()
        elif mine and rng.random() < 0.55:
            yield "put", (mine.pop(rng.randrange(len(mine))),)
        else:
            item, _ = yield "get", ()
            mine.append(item)


def place(state, call):
    """The state is where an item is."""
    before, then = {
        "make": ("nowhere", "out"),
        "get": ("idle", "out"),
        "put": ("out", "idle"),
        "refuse": ("out", "dropped"),
        "drop": ("idle", "dropped"),
    }[call.name]
    return then if state == before else IMPOSSIBLE


def happened(history):
    """What happened to items, as calls named as `place` does, with the item as argument."""
    for call in history:
        dropped = {} if call.name == "get" else dict(call.result)
        if call.name == "get":
            item, made = call.result
            yield call._replace(name="make" if made else "get", args=(item,))
        elif call.name == "put":
            (item,) = call.args
            yield call._replace(name="put" if dropped.pop(item, None) is None else "refuse")
        for item, when in dropped.items():
            yield call._replace(name="drop", args=(item,), end=when)


def idle(calls):
    """Whether an item to which this happened is idle then."""
    names = [call.name for call in calls]
    return names.count("put") > names.count("get") + names.count("drop")


def overlap(one, other):
    return one.begin <= other.end and other.begin <= one.end


def missed(calls, this, history):
    """Whether an item to which this happened was idle, and left alone, all during this call."""
    if any(overlap(call, this) for call in calls):
        return False
    before = [call for call in calls if call.end < this.begin]
    if not idle(before):
        return False
    owner = max(before, key=lambda call: call.begin).thread
    return not any(
        call.thread == owner and call.name == "put" and overlap(call, this) for call in history
    )


def item_by_item(history, each):
    items = {}
    for call in happened(history):
        items.setdefault(call.args[0], []).append(call)
    for call in history:
        if call.name == "clear" or (call.name == "get" and call.result[1]):
            for calls in items.values():
                assert not missed(calls, call, history), f"{call}\nmissed\n{as_text(calls)}"

    # No thread uses it any more: now all counts are exact.
    left = {item for item, calls in items.items() if idle(calls)}
    assert each.pool.idle() == len(left), as_text(history)
    assert each.most is None or len(left) <= each.most + 3  # one for each thread
    assert {each.call("get", ()) for _ in left} == {(item, False) for item in left}
    _, made = each.call("get", ())
    assert made
    return items.values()


USERS = {"views": item_by_item, "call": Items.call, "threads": 3}


@pytest.mark.parametrize("most", [None, 2, 0])
def test_pool(most):
    verify(lambda _: Items(most=most), user, "nowhere", place, **USERS)


class Stack:
    """A simple pool, and a right one: each step of its list is atomic."""

    def __init__(self, new, drop, **_):
        self.new, self.drop = new, drop
        self.items = []

    def get(self):
        try:
            return self.items.pop()
        except IndexError:
            return self.new()

    def put(self, item):
        self.items.append(item)

    def clear(self):
        try:
            while True:
                self.drop(self.items.pop())
        except IndexError:
            pass

    def idle(self):
        return len(self.items)


class Sharing(Stack):
    """Wrong: two threads may get the same item."""

    def get(self):
        try:
            item = self.items[-1]
            time.sleep(0)
            self.items.remove(item)
        except IndexError:
            return self.new()
        except ValueError:
            pass  # somebody else has it as well
        return item


class Losing(Stack):
    """Wrong: items may get lost."""

    def put(self, item):
        items = list(self.items)
        time.sleep(0)
        self.items = [*items, item]


class Wasting(Stack):
    """Wrong: it makes new items although there are some."""

    def get(self):
        return self.new() if len(self.items) < 2 else Stack.get(self)


class Keeping(Stack):
    """Wrong: it keeps what it says it dropped."""

    def clear(self):
        for item in self.items:
            self.drop(item)


@pytest.mark.parametrize("cls", [Sharing, Losing, Wasting, Keeping])
def test_wrong_pools_are_caught(cls):
    assert_rejected(lambda _: Items(cls), user, "nowhere", place, **USERS)
