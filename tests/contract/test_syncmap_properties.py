"""Random sequences of operations: a SyncMap does what a dict does."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from support import STRESS

from nogil_sync import SyncMap


class OneHash:
    """A key that is equal to those of the same name, and has the hash of all others."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return isinstance(other, OneHash) and self.name == other.name

    def __repr__(self):
        return f"OneHash({self.name})"


MISSING = object()

# Few keys, so that operations meet; equal keys of different types; keys with equal hashes.
few = st.integers(0, 6)
keys = st.one_of(
    few,
    few.map(float),
    few.map(str),
    few.map(lambda n: (n, str(n))),
    few.map(OneHash),
    few.map(lambda n: n * 2**32),
    st.sampled_from([None, True, -1, -2, 2**61 - 1, ""]),
)
values = st.one_of(st.none(), st.integers(0, 3), st.floats(0, 3).map(round), st.text(max_size=1))


def outcome(function, *args):
    """What a call gives, or the type of the exception it raises."""
    try:
        return function(*args)
    except Exception as error:
        return type(error)


class Machine(RuleBasedStateMachine):
    """A SyncMap and a dict, to which the same is done."""

    def __init__(self):
        super().__init__()
        self.map = SyncMap()
        self.dict = {}

    @rule(key=keys, value=values)
    def store(self, key, value):
        self.map[key] = value
        self.dict[key] = value

    @rule(key=keys)
    def delete(self, key):
        assert outcome(self.map.__delitem__, key) == outcome(self.dict.__delitem__, key)

    @rule(key=keys, value=values)
    def look_up(self, key, value):
        assert outcome(self.map.__getitem__, key) == outcome(self.dict.__getitem__, key)
        assert self.map.get(key) == self.dict.get(key)
        assert self.map.get(key, value) == self.dict.get(key, value)
        assert (key in self.map) == (key in self.dict)

    @rule(key=keys, value=values)
    def setdefault(self, key, value):
        assert self.map.setdefault(key, value) == self.dict.setdefault(key, value)

    @rule(key=keys, value=values)
    def load_or_compute(self, key, value):
        found = self.map.load_or_compute(key, lambda: value)
        assert found == self.dict.setdefault(key, value)

    @rule(key=keys, value=values)
    def insert(self, key, value):
        assert self.map.insert(key, value) == (key not in self.dict)
        self.dict.setdefault(key, value)

    @rule(key=keys, value=values)
    def pop(self, key, value):
        assert self.map.pop(key, value) == self.dict.pop(key, value)

    @rule(key=keys)
    def pop_without_default(self, key):
        assert outcome(self.map.pop, key) == outcome(self.dict.pop, key)

    @rule()
    def popitem(self):
        item = outcome(self.map.popitem)
        if not self.dict:
            assert item is KeyError
        else:
            key, value = item
            assert self.dict.pop(key, MISSING) == value

    @rule(key=keys, value=values, default=values)
    def swap(self, key, value, default):
        assert self.map.swap(key, value, default) == self.dict.get(key, default)
        self.dict[key] = value

    @rule(key=keys, old=values, new=values)
    def compare_and_swap(self, key, old, new):
        equal = key in self.dict and self.dict[key] == old
        assert self.map.compare_and_swap(key, old, new) is equal
        if equal:
            self.dict[key] = new

    @rule(key=keys, old=values)
    def compare_and_delete(self, key, old):
        equal = key in self.dict and self.dict[key] == old
        assert self.map.compare_and_delete(key, old) is equal
        if equal:
            del self.dict[key]

    @rule(key=keys, default=values)
    def modify(self, key, default):
        new = [self.dict.get(key, default)]
        assert self.map.modify(key, lambda old: [old], default) == new
        self.dict[key] = new

    @rule(pairs=st.lists(st.tuples(keys, values), max_size=5))
    def update(self, pairs):
        self.map.update(pairs)
        self.dict.update(pairs)

    @rule(pairs=st.dictionaries(keys, values, max_size=5))
    def union(self, pairs):
        assert self.map | pairs == self.dict | pairs
        assert pairs | self.map == pairs | self.dict
        assert self.map | SyncMap(pairs) == self.dict | pairs

    @rule(pairs=st.dictionaries(keys, values, max_size=5))
    def union_in_place(self, pairs):
        self.map |= pairs
        self.dict |= pairs

    @rule()
    def clear(self):
        self.map.clear()
        self.dict.clear()

    @rule()
    def go_on_with_a_copy(self):
        self.map = self.map.copy()

    @rule(count=st.integers(1, 200), step=st.sampled_from([1, 2**16, 2**40, -(2**32)]))
    def grow_and_shrink(self, count, step):
        for n in range(100, 100 + count):
            self.map[n * step] = n
        for n in range(100, 100 + count):
            assert self.map.pop(n * step) == n

    @rule(key=keys, value=values)
    def change_while_iterating(self, key, value):
        there = list(self.dict)
        found = []
        for n, each in enumerate(self.map):
            found.append(each)
            if n == 1:
                self.store(key, value)
        new = [] if any(key == each for each in there) else [key]
        assert len(found) in (len(there), len(there) + len(new))
        assert all(each in found for each in there)

    @invariant()
    def they_are_equal(self):
        assert len(self.map) == len(self.dict)
        assert self.map == self.dict
        assert self.dict == self.map
        assert self.map.snapshot() == self.dict
        found = list(self.map.items())
        assert len(found) == len(self.dict)
        assert all(self.dict[key] == value for key, value in found)
        assert {type(key) for key in self.map} == {type(key) for key in self.dict}


@pytest.mark.thread_unsafe(reason="hypothesis keeps state of its own for a test")
def test_random_operations_agree_with_a_dict():
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=max(1, int(60 * STRESS)),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
