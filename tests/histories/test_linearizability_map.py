"""Histories of SyncMap, key by key.

A call for the whole map, such as an iteration, acts entry by entry: for each key it is an
operation like any other, at some moment during the call. So such a call is part of the history of
every key.
"""

import random
import threading
import time
from time import perf_counter_ns
from typing import Any

import pytest
from linearizability import IMPOSSIBLE, as_text, assert_rejected, linearizable, verify
from marks import starts_threads

from nogil_sync import SyncMap
from nogil_sync._common import mapping

pytestmark = starts_threads

ABSENT = "absent"


def entry(state, call):
    """The specification of one key: the state is its value, or ABSENT."""
    name, args, result = call.name, call.args[1:], call.result
    there = state is not ABSENT
    # The result, and the new value.
    if name == "__getitem__":
        outcome, then = state if there else KeyError, state
    elif name == "get":
        outcome, then = state if there else args[0], state
    elif name == "__contains__":
        outcome, then = there, state
    elif name == "__setitem__":
        outcome, then = None, args[0]
    elif name == "__delitem__":
        outcome, then = None if there else KeyError, ABSENT
    elif name == "pop":
        outcome, then = state if there else args[0], ABSENT
    elif name in ("setdefault", "load_or_compute"):
        new = state if there else args[-1]
        outcome, then = new, new
    elif name == "insert":
        outcome, then = not there, state if there else args[0]
    elif name == "swap":
        outcome, then = state if there else args[1], args[0]
    elif name == "compare_and_swap":
        equal = there and state == args[0]
        outcome, then = equal, args[1] if equal else state
    elif name == "compare_and_delete":
        equal = there and state == args[0]
        outcome, then = equal, ABSENT if equal else state
    else:
        assert name == "modify"
        new = args[0](state if there else args[1])
        outcome, then = new, new
    return then if outcome == result else IMPOSSIBLE


def same(value):
    return value


def longer(value):
    return (value, 1)


# From one of a few values, which threads share, to the arguments after the key.
ARGUMENTS = {
    "__getitem__": lambda value: (),
    "get": lambda value: ("default",),
    "__contains__": lambda value: (),
    "__setitem__": lambda value: (value,),
    "setdefault": lambda value: (value,),
    "insert": lambda value: (value,),
    "swap": lambda value: (value, "default"),
    "compare_and_swap": lambda value: (value, value + 1),
    "modify": lambda value: (longer, value),
    "__delitem__": lambda value: (),
    "pop": lambda value: ("default",),
    "compare_and_delete": lambda value: (value,),
    "load_or_compute": lambda value: (same, value),
}
DELETIONS = ("__delitem__", "pop", "compare_and_delete")
# A value computed while the key is deleted is not stored: so it is not a setdefault.
WITHOUT_COMPUTING = [name for name in ARGUMENTS if name != "load_or_compute"]
WITHOUT_DELETING = [name for name in ARGUMENTS if name not in DELETIONS]


class OneHash:
    """A key whose comparison lets others run."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return self.name // 3

    def __eq__(self, other):
        time.sleep(0)
        return isinstance(other, OneHash) and self.name == other.name

    def __repr__(self):
        return f"OneHash({self.name})"


@pytest.mark.parametrize("names", [WITHOUT_COMPUTING, WITHOUT_DELETING])
@pytest.mark.parametrize(
    "make_key",
    [lambda n: n, lambda n: f"key {n}", lambda n: ("key", n), OneHash],
    ids=["int", "str", "tuple", "one hash"],
)
def test_syncmap(make_key, names):
    m = SyncMap()

    def choose(rng, number):
        # Each thread has its own, equal key.
        chosen = [rng.choice(names) for _ in range(8)]
        return [(name, (make_key(number), *ARGUMENTS[name](rng.randrange(2)))) for name in chosen]

    verify(
        lambda number: number,
        choose,
        ABSENT,
        entry,
        call=lambda _, name, args: getattr(m, name)(*args),
    )


def whole(state, call):
    """The specification of a map of few keys: the state is a frozenset of its entries."""
    entries = dict(state)
    if call.name == "insert":
        key, value = call.args
        outcome = key not in entries
        entries.setdefault(key, value)
    elif call.name == "pop":
        outcome = entries.pop(*call.args) if call.args[0] in entries else call.args[1]
    elif call.result is KeyError:
        outcome = KeyError if not entries else None
    else:
        outcome = call.result if call.result in state else None
        entries.pop(call.result[0], None)
    return frozenset(entries.items()) if outcome == call.result else IMPOSSIBLE


def test_popitem():
    def choose(rng, _):
        steps = []
        for _ in range(4):
            key = rng.randrange(3)
            insert = "insert", (key, rng.randrange(100))
            steps.append(rng.choice([insert, insert, ("pop", (key, None)), ("popitem", ())]))
        return steps

    verify(lambda _: SyncMap(), choose, frozenset(), whole)


# What goes over the whole map

KEYS = range(4)


def worker(rng, _):
    steps = []
    for _ in range(6):
        key = rng.randrange(4)
        steps.append(
            rng.choice(
                [
                    ("__setitem__", (key, rng.randrange(3))),
                    ("insert", (key, rng.randrange(3))),
                    ("pop", (key, "default")),
                    ("get", (key, "default")),
                    ("keys", ()),
                    ("items", ()),
                    ("snapshot", ()),
                    ("copy", ()),
                    ("clear", ()),
                    ("update", ({key: 3, (key + 1) % 4: 4},)),
                    ("__len__", ()),
                ]
            )
        )
    return steps


def call_map(m, name, args):
    result = getattr(m, name)(*args)
    return list(result.items() if name == "copy" else result) if name in WHOLE else result


WHOLE = ("keys", "items", "copy")


def for_key(call, key):
    """What a call is for one key, or None."""
    if call.name == "keys":
        return call._replace(name="__contains__", args=(key,), result=key in call.result)
    if call.name in ("items", "copy", "snapshot"):
        found = dict(call.result).get(key, "default")
        return call._replace(name="get", args=(key, "default"), result=found)
    if call.name == "clear":
        return call._replace(name="discard", args=(key,))
    if call.name == "update":
        values = call.args[0]
        if key in values:
            return call._replace(name="__setitem__", args=(key, values[key]))
    elif call.args and call.args[0] == key:
        return call
    return None


def entry_or_discard(state, call):
    return ABSENT if call.name == "discard" else entry(state, call)


def key_by_key(history, _):
    for call in history:
        if call.name in WHOLE:
            found = [each if call.name == "keys" else each[0] for each in call.result]
            assert len(found) == len(set(found)), f"a key twice:\n{call}"
            assert set(found) <= set(KEYS), f"a key that never was there:\n{call}"
    views = [[part for call in history if (part := for_key(call, key))] for key in KEYS]
    # A length counts each key as it was at some moment: no fewer than the keys that were there
    # throughout, no more than those that were there at all.
    for call in history:
        if call.name == "__len__":
            possible = [
                [
                    linearizable([*view, asked], ABSENT, entry_or_discard)
                    for there in (False, True)
                    for asked in [call._replace(name="__contains__", args=(0,), result=there)]
                ]
                for view in views
            ]
            least = sum(not absent for absent, _ in possible)
            most = sum(there for _, there in possible)
            assert least <= call.result <= most, f"not in {least} .. {most}:\n{as_text(history)}"
    return views


WALKS = {"views": key_by_key, "call": call_map, "threads": 3}


def test_whole_map():
    verify(lambda _: SyncMap(), worker, ABSENT, entry_or_discard, **WALKS)


class Skipping(SyncMap):
    """Wrong: a walk misses the key after one that is deleted meanwhile."""

    def keys(self):
        keys = list(SyncMap.keys(self))
        time.sleep(0)
        gone = [key not in self for key in keys]
        return [key for key, skip in zip(keys, [False, *gone], strict=False) if not skip]


class Forgetful(SyncMap):
    """Wrong: a value stored during `clear` may come back as it was."""

    def clear(self):
        entries = self.snapshot()
        SyncMap.clear(self)
        time.sleep(0)
        for key in entries:
            if key in self:
                self[key] = entries[key]


class Late(SyncMap):
    """Wrong: the length is what it was at an earlier call."""

    last = 0

    def __len__(self):
        before, self.last = self.last, SyncMap.__len__(self)
        return before


@pytest.mark.parametrize("cls", [Skipping, Forgetful, Late])
def test_wrong_walks_are_caught(cls):
    assert_rejected(lambda _: cls(), worker, ABSENT, entry_or_discard, **WALKS)


# load_or_compute

KEY = "key"


class OnPurposeError(Exception):
    pass


class Computing:
    """A map whose computations say when they ran."""

    def __init__(self, cls=SyncMap):
        self.map = cls()
        self.mine = threading.local()

    def compute(self, value):
        begin = perf_counter_ns()
        time.sleep(0)
        self.mine.run = (begin, perf_counter_ns())
        if value < 0:
            raise OnPurposeError(value)
        return value

    def call(self, name, args):
        """The result; of `load_or_compute` also when its function ran, if it did."""
        if name != "load_or_compute":
            return getattr(self.map, name)(KEY, *args)
        self.mine.run = None
        value, timeout = args
        try:
            result = self.map.load_or_compute(KEY, self.compute, value, timeout=timeout)
        except OnPurposeError as error:
            result = error.args[0]
        except TimeoutError:
            result = TimeoutError
        return result, self.mine.run


def asker(rng, _):
    for _ in range(4):
        value = rng.getrandbits(60) + 1
        failing = rng.random() < 0.1
        timeout = rng.choice((None, None, 0))
        yield rng.choice(
            [
                ("load_or_compute", (-value if failing else value, timeout)),
                ("load_or_compute", (value, timeout)),
                ("get", ("default",)),
                ("pop", ("default",)),
                ("__setitem__", (value,)),
            ]
        )


def flights(history):
    """Calls in their steps.

    Who computes *boards* a flight, the only one at that time; finds the key missing and *departs*;
    and *lands* with the result. Who waits for another's flight *joins* it. Who deletes
    detaches the flight, and then deletes.
    """
    for call in history:
        if call.name == "load_or_compute":
            result, run = call.result
            if run is None:
                yield call._replace(name="join", args=(), result=result)
                continue
            begin, end = run
            call = call._replace(args=call.args[:1], result=result)
            yield call._replace(name="board", end=begin)
            yield call._replace(name="depart", end=begin)
            yield call._replace(name="land", begin=end)
        elif call.name == "pop":
            yield call._replace(name="detach")
            yield call
        else:
            yield call


def computed(state, call):
    """The state of a key.

    It is the value; the flight that may be joined, as whose it is and what comes of it; how far
    each thread is that computes; and which are deleting.
    """
    value, flight, flying, deleting = state
    me = call.thread
    there = value is not ABSENT
    name, result = call.name, call.result
    if name == "get":
        return state if result == (value if there else "default") else IMPOSSIBLE
    if name == "__setitem__":
        return call.args[0], flight, flying, deleting
    if name == "detach":
        return value, None, flying, deleting | {me}
    if name == "pop":
        if me not in deleting or result != (value if there else "default"):
            return IMPOSSIBLE
        return ABSENT, flight, flying, deleting - {me}
    if name == "join":
        if result is TimeoutError:
            return state  # there was another call that looked for a value
        shared = result == value or (flight is not None and result == flight[1])
        return state if shared else IMPOSSIBLE
    if name == "board":
        if flight is not None:
            return IMPOSSIBLE
        return value, (me, result), flying | {(me, "boarded")}, deleting
    if name == "depart":
        if there or (me, "boarded") not in flying:
            return IMPOSSIBLE
        return value, flight, flying - {(me, "boarded")} | {(me, "departed")}, deleting
    if (me, "departed") not in flying:
        return IMPOSSIBLE
    flying -= {(me, "departed")}
    (computed,) = call.args
    attached = flight == (me, result)
    if attached:
        flight = None
        if computed > 0:
            value = outcome = value if there else computed
            return (value, flight, flying, deleting) if result == outcome else IMPOSSIBLE
    return (value, flight, flying, deleting) if result == computed else IMPOSSIBLE


COMPUTING = {
    "views": lambda history, _: [list(flights(history))],
    "call": Computing.call,
    "threads": 3,
}
MISSING: tuple[Any, ...] = (ABSENT, None, frozenset(), frozenset())


def pause():
    time.sleep(random.choice((0, 0, 0, 1e-5, 1e-4, 1e-3)))


class Shaken(SyncMap):
    """Right, but slow between its steps: others come where they hardly ever do.

    Half of the calls take the steps in Python, with the native backend, too.
    """

    def load_or_compute(self, key, fn, *args, timeout=None):
        if random.random() < 0.5:
            return SyncMap.load_or_compute(self, key, fn, *args, timeout=timeout)
        value = SyncMap.get(self, key, ABSENT)
        if value is ABSENT:
            value = mapping.load_or_compute(self, key, fn, args, timeout)
        return value

    def _flights(self):
        return ShakenFlights(SyncMap._flights(self))

    def get(self, key, default=None):
        found = SyncMap.get(self, key, default)
        pause()
        return found

    def _land(self, key, value, detached):
        pause()
        landed = SyncMap._land(self, key, value, detached)
        pause()
        return landed


class ShakenFlights:
    def __init__(self, flights):
        self.flights = flights

    def __getattr__(self, name):
        method = getattr(self.flights, name)

        def call(*args):
            pause()
            result = method(*args)
            pause()
            return result

        return call


Shaken._plain = Shaken


@pytest.mark.parametrize("cls", [SyncMap, Shaken])
def test_load_or_compute(cls):
    verify(lambda _: Computing(cls), asker, MISSING, computed, **COMPUTING)


class Racing(SyncMap):
    """Wrong: two may compute at the same time."""

    def load_or_compute(self, key, fn, *args, timeout):
        if key in self:
            return self.get(key)
        return self.setdefault(key, fn(*args))


class Stubborn(SyncMap):
    """Wrong: a key deleted during its computation comes back."""

    def load_or_compute(self, key, fn, *args, timeout):
        return self.setdefault(key, super().load_or_compute(key, fn, *args, timeout=timeout))


class Caching(SyncMap):
    """Wrong: a failure is kept."""

    failure = None

    def load_or_compute(self, key, fn, *args, timeout):
        if self.failure:
            raise self.failure
        try:
            return super().load_or_compute(key, fn, *args, timeout=timeout)
        except OnPurposeError as error:
            self.failure = OnPurposeError(*error.args)
            raise


@pytest.mark.parametrize("cls", [Racing, Stubborn, Caching])
def test_wrong_computations_are_caught(cls):
    assert_rejected(lambda _: Computing(cls), asker, MISSING, computed, **COMPUTING)
