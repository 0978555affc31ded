"""SyncMap under all of its operations at once, for as long as NOGIL_SYNC_STRESS says."""

import gc
import random
import threading
import time

import pytest
from marks import starts_threads
from support import background, collect_often, eventually, for_a_while

from nogil_sync import AtomicInt64, SyncMap

pytestmark = starts_threads


class Weighed:
    """A value that counts how many of its kind there are."""

    alive = AtomicInt64()  # no lock: a collection amid __init__ may run a __del__

    def __init__(self, key):
        self.key = key
        Weighed.alive.add()

    def __del__(self):
        Weighed.alive.sub()


KEYS = {
    "int": lambda n: n,
    "str": lambda n: f"a key of some length, {n}",
    "tuple": lambda n: ("key", (n, "nested")),
    "mixed": lambda n: (n, str(n), float(n), ("key", n), frozenset([n]))[n % 5],
}


@pytest.mark.parametrize("make_key", KEYS.values(), ids=KEYS)
def test_all_operations_at_once_keep_the_map_whole(make_key):
    # A value is only ever found under its own key, and no value is left.
    m = SyncMap()
    before = Weighed.alive.load()

    def check(key, value):
        assert value is None or value.key == key

    def work():
        rng = random.Random()
        for _ in range(100):
            key = make_key(rng.randrange(50))
            what = rng.randrange(14)
            if what == 0:
                m[key] = Weighed(key)
            elif what == 1:
                check(key, m.pop(key, None))
            elif what == 2:
                m.insert(key, Weighed(key))
            elif what == 3:
                check(key, m.setdefault(key, Weighed(key)))
            elif what == 4:
                check(key, m.swap(key, Weighed(key)))
            elif what == 5:
                check(key, m.modify(key, lambda old, key=key: Weighed(key), None))
            elif what == 6:
                check(key, m.load_or_compute(key, Weighed, key))
            elif what == 7:
                old = m.get(key)
                if old is not None and rng.random() < 0.5:
                    m.compare_and_swap(key, old, Weighed(key))
                elif old is not None:
                    m.compare_and_delete(key, old)
            elif what == 8:
                try:
                    check(*m.popitem())
                except KeyError:
                    pass
            elif what == 9 and rng.random() < 0.05:
                m.clear()
            elif what == 10 and rng.random() < 0.1:
                for each, value in m.items():
                    check(each, value)
            else:
                check(key, m.get(key))
                key in m

    with background(work, work, collect_often):
        for _ in for_a_while(1.5):
            work()
    assert len(m) == len(list(m)) == len(m.snapshot())
    assert len(m._flights()) == 0
    m.clear()
    assert eventually(lambda: gc.collect() >= 0 and Weighed.alive.load() == before)


def test_map_grows_and_shrinks_beside_readers():
    m = SyncMap((n, n) for n in range(0, -100, -1))

    def read():
        for n in range(0, -100, -1):
            assert m[n] == n
        assert sum(isinstance(key, int) for key in m) == 100

    def churn():
        mine = threading.get_ident()
        for n in range(1, 3000):
            m[mine, n] = n
        for n in range(1, 3000):
            assert m.pop((mine, n)) == n

    with background(read, churn):
        for _ in for_a_while(2):
            churn()
    assert len(m) == 100


def test_computed_value_is_never_older_than_its_deletion():
    # A cache in front of a source: what was invalidated is never found again.
    m, source = SyncMap(), {}

    def read():
        for key in range(5):
            before = source.get(key, 0)
            # This version may be in the source already, and the one before not yet invalidated.
            assert m.load_or_compute(key, lambda key=key: source.get(key, 0)) >= before - 1

    def write():
        key = random.randrange(5)
        with locks[key]:
            source[key] = n = source.get(key, 0) + 1
            if n % 20:
                m.pop(key, None)
            else:
                m.clear()
            assert m.get(key, n) == n

    locks = [threading.Lock() for _ in range(5)]
    with background(read, read, write):
        for _ in for_a_while(2):
            write()
            time.sleep(0)
