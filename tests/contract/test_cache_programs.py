"""Random programs on a Cache, step by step beside a model: a dict of what must be in it.

The model says nothing about which entry is evicted. It takes out what `on_evict` tells of; so each
entry is there, or was told of once, or was removed by the program. Both backends follow it.
"""

import random
from typing import NamedTuple

import pytest

from nogil_sync import Cache

KEYS = [
    0,
    1,
    True,
    1.0,
    2,
    3,
    -1,
    -2,
    2**61 - 1,
    "a",
    "b",
    "",
    (1, 2),
    (3,),
    None,
    b"x",
    frozenset(),
]
MISSING = object()


class Entry(NamedTuple):
    key: object
    value: int
    weight: int
    deadline: float  # in nanoseconds, as its cache computes it


class Program:
    def __init__(self, seed):
        self.random = rng = random.Random(seed)
        self.now = rng.choice([0.0, -100.0, 1e6])
        self.model = {}
        self.heavy = None  # what is about to be refused, as it is too heavy
        self.maxsize = rng.choice([None, 0, 1, 2, 5, 10])
        self.ttl = rng.choice([None, None, 1, 2.5, 10])
        self.weighs = rng.random() < 0.5
        self.cache = Cache(
            self.maxsize,
            ttl=self.ttl,
            weigher=self.weight if self.weighs else None,
            on_evict=self.on_evict,
            clock=lambda: self.now,
        )

    def nanoseconds(self):
        return int(self.now * 1e9)

    def weight(self, _key, value):
        return value % 4 if self.weighs else 1

    def on_evict(self, key, value, cause):
        if (key, value, cause) == self.heavy:
            self.heavy = None
            return
        entry = self.model.pop(key)
        assert (type(key), key, value) == (type(entry.key), entry.key, entry.value)
        if cause == "expired":
            assert entry.deadline <= self.nanoseconds()
        else:
            assert cause == "size"
            assert self.maxsize is not None

    def find(self, key):
        entry = self.model.get(key)
        return MISSING if entry is None or entry.deadline <= self.nanoseconds() else entry.value

    def store(self, call, key, value, ttl):
        weight = self.weight(key, value)
        if self.maxsize is not None and weight > self.maxsize:
            self.heavy = (key, value, "size")
            result = call()
            assert self.heavy is None
            self.model.pop(key, None)
            return result
        result = call()
        first = self.model[key].key if key in self.model else key  # as in a dict
        deadline = float("inf") if ttl is None else self.nanoseconds() + int(ttl * 1e9)
        self.model[key] = Entry(first, value, weight, deadline)
        return result

    def step(self):
        rng, cache = self.random, self.cache
        key, value = rng.choice(KEYS), rng.randrange(100)
        found = self.find(key)
        deed = rng.choice(self.DEEDS)
        getattr(self, deed)(cache, key, value, found)
        entries = self.model.values()
        live = [repr(each.key) for each in entries if each.deadline > self.nanoseconds()]
        assert sorted(map(repr, cache)) == sorted(live)
        weight = sum(each.weight for each in entries)
        assert cache.stats().weight == weight
        assert self.maxsize is None or weight <= self.maxsize

    def get(self, cache, key, _value, found):
        assert cache.get(key, MISSING) is found
        assert (key in cache) is (found is not MISSING)

    def look(self, cache, key, _value, found):
        if found is MISSING:
            with pytest.raises(KeyError):
                cache[key]
        else:
            assert cache[key] == found

    def ask(self, cache, key, _value, found):
        assert (key in cache) is (found is not MISSING)
        assert key not in self.model or found is not MISSING  # what is over was told of

    def set(self, cache, key, value, _found):
        self.store(lambda: cache.__setitem__(key, value), key, value, self.ttl)

    def put(self, cache, key, value, _found):
        ttl = self.random.choice([None, 0.01, 0.5, 1, 3, 100, 5000, 1e6])
        self.store(lambda: cache.put(key, value, ttl), key, value, ttl)

    def load(self, cache, key, value, found):
        if found is MISSING:
            call = lambda: cache.load_or_compute(key, int, value)  # noqa: E731
            assert self.store(call, key, value, self.ttl) == value
        else:
            assert cache.load_or_compute(key, int, "no number") == found

    def fail(self, cache, key, _value, found):
        if found is MISSING:
            with pytest.raises(ValueError, match="no number"):
                cache.load_or_compute(key, int, "no number")
        else:
            self.load(cache, key, _value, found)

    def delete(self, cache, key, _value, found):
        if found is MISSING:
            with pytest.raises(KeyError):
                del cache[key]
        else:
            del cache[key]
        self.model.pop(key, None)

    def pop(self, cache, key, _value, found):
        assert cache.pop(key, MISSING) is found
        self.model.pop(key, None)

    def clear(self, cache, *_):
        if self.random.random() < 0.2:
            cache.clear()
            self.model.clear()

    def count(self, cache, *_):
        assert len(cache) == len(self.model)

    def wait(self, *_):
        self.now += self.random.choice([0.001, 0.1, 0.5, 1, 1, 3, 60, 5000, -1])

    DEEDS = (
        *("get", "look", "ask", "set", "set", "set", "put", "load", "load", "fail"),
        *("delete", "pop", "clear", "count", "wait", "wait"),
    )


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_find_what_a_dict_would_hold(seed):
    for each in range(25):
        program = Program(1000 * seed + each)
        for _ in range(100):
            program.step()
