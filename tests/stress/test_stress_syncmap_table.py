"""Threads that change a SyncMap's table while others read it: nothing is lost, torn, or kept.

Aimed at what the native table does beneath: parts that split, merge and are rebuilt, entries whose
keys wait to be let go, values that are replaced under a reader. It runs on both backends.
"""

import gc
import random
import threading
import weakref

import pytest
from marks import starts_threads
from support import background, collect_often, cores, eventually, for_a_while, run_threads

from nogil_sync import SyncMap, pin

pytestmark = starts_threads

SECONDS = 0.4
THREADS = max(4, min(8, cores() + 2))


class Object:
    """Can be referred to weakly, and is compared by its number, in Python."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Object) and self.number == other.number

    def __hash__(self):
        return hash(self.number)


class Clash(Object):
    """The same, with few different hashes."""

    def __hash__(self):
        return self.number % 3


# Keys that are equal each time, and never the same object. All that are compared in place, and
# those that are not.
KEYS = {
    "str": lambda n: f"key {n}",
    "wide str": lambda n: f"\N{SNOWMAN} {n} \N{GRINNING FACE}",
    "int": lambda n: 10**6 + n,
    "large int": lambda n: 10**40 + n,
    "bytes": lambda n: b"%d" % n,
    "float": lambda n: n + 0.5,
    "tuple": lambda n: (f"key {n}", (n + 1000, float(n))),
    "tuple of objects": lambda n: (Object(n), str(n)),
    "object": Object,
    "clash": Clash,
}
kinds = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)


@kinds
def test_values_belong_to_their_keys(key):
    """Fifty keys stay, two hundred come and go, all are replaced all the time."""
    m = SyncMap((key(n), [n, 0]) for n in range(50))

    def work(k):
        rng = random.Random(k)
        for i in for_a_while(SECONDS / 2):
            n = rng.randrange(50)
            assert m[key(n)][0] == n  # present throughout
            n = rng.randrange(250)
            match i % 6:
                case 0:
                    m[key(n)] = [n, i]
                case 1 if n >= 50:
                    m.pop(key(n), None)
                case 2:
                    assert m.setdefault(key(n), [n, i])[0] == n
                case 3:
                    assert m.get(key(n), [n])[0] == n
                case 4:
                    assert m.swap(key(n), [n, i], [n])[0] == n
                case 5:
                    assert m.modify(key(n), lambda v: [*v], [n])[0] == n
        return k

    run_threads(*[lambda k=k: work(k) for k in range(THREADS)])
    assert {k: v[0] for k, v in m.items()} == {key(n): n for n in range(250) if key(n) in m}
    assert len(m) == len(list(m)) == len(m.snapshot())


@kinds
def test_each_key_has_one_history(key):
    """One thread replaces the value of a key by the next number: no reader sees it go back."""
    m = SyncMap((key(n), 0) for n in range(8))
    done = threading.Event()

    def write():
        for i in for_a_while(SECONDS / 2):
            for n in range(8):
                m[key(n)] = i
                assert m[key(n)] == i
            m[key(1000 + i % 500)] = i
            m.pop(key(1000 + (i + 250) % 500), None)
        done.set()

    def read():
        latest = [0] * 8
        while not done.is_set():
            for n in range(8):
                value = m[key(n)]
                assert value >= latest[n]
                latest[n] = value

    run_threads(write, *[read] * (THREADS - 1))


def test_growing_and_shrinking_loses_nothing():
    m = pin(SyncMap((f"stays {n}", n) for n in range(100)))

    def grow_and_shrink(k):
        rounds = 0
        for _ in for_a_while(SECONDS):
            for n in range(3000):
                assert m.insert((k, n), n)
            assert all(m[k, n] == n for n in range(0, 3000, 7))
            for n in range(3000):
                assert m.pop((k, n)) == n
            assert (k, 5) not in m
            rounds += 1
        return rounds

    def read():
        for n in range(100):
            assert m[f"stays {n}"] == n
            assert f"never {n}" not in m

    with background(read, collect_often):
        run_threads(*[lambda k=k: grow_and_shrink(k) for k in range(3)])
    assert len(m) == 100


def test_iteration_sees_stable_keys_while_the_table_is_rebuilt():
    m = SyncMap((f"stays {n}", n) for n in range(500))
    stable = set(m)

    def disturb():
        for n in range(2000):
            m[n] = n
        for n in range(2000):
            del m[n]

    def clear_others():
        for key in list(m):
            if not isinstance(key, str):
                m.pop(key, None)

    def walk():
        for _ in for_a_while(SECONDS):
            keys = list(m)
            assert len(keys) == len(set(keys))
            assert stable <= set(keys)
            pairs = m.snapshot()
            assert all(pairs[key] == int(key[6:]) for key in stable)
            iterator = iter(m.items())
            shared = run_threads(lambda: list(iterator), times=2)
            together = [key for part in shared for key, _ in part]
            assert len(together) == len(set(together))
            assert stable <= set(together)

    def disturb_carefully():
        try:
            disturb()
        except KeyError:
            pass  # the other one took it

    with background(disturb_carefully, clear_others):
        walk()


def test_every_item_is_popped_once():
    m = SyncMap()
    batches = [range(k * 10**6, k * 10**6 + 4000) for k in range(3)]
    left = threading.Semaphore(0)
    put = threading.Event()

    def produce(batch):
        for n in batch:
            m[n] = -n
        left.release()

    def consume():
        got = []
        while True:
            all_there = put.is_set()  # read first, as an item put later may be overlooked
            try:
                key, value = m.popitem()
            except KeyError:
                if all_there:
                    return got
                continue
            assert value == -key
            got.append(key)

    def end():
        for _ in batches:
            left.acquire()
        put.set()

    results = run_threads(*[lambda b=b: produce(b) for b in batches], end, consume, consume)
    got = sorted(results[-1] + results[-2])
    assert got == [n for batch in batches for n in batch]
    assert not m


@pytest.mark.parametrize("key", [KEYS["str"], KEYS["object"]], ids=["str", "object"])
def test_concurrent_modifications_are_not_lost(key):
    m = SyncMap()

    def work(k):
        done = [0] * 4
        for i in for_a_while(SECONDS):
            n = i % 4
            if i % 3 == 0:
                m.modify(key(n), lambda v: v + 1, 0)
            elif i % 3 == 1:
                while not m.compare_and_swap(key(n), old := m.get(key(n), 0), old + 1):
                    if m.insert(key(n), 1):
                        break
            else:
                while True:
                    old = m.get(key(n))
                    if old is None:
                        if m.insert(key(n), 1):
                            break
                    elif m.compare_and_swap(key(n), old, old + 1):
                        break
            done[n] += 1
        return done

    results = run_threads(*[lambda k=k: work(k) for k in range(THREADS)])
    assert [m[key(n)] for n in range(4)] == [sum(each) for each in zip(*results, strict=True)]


@pytest.mark.parametrize("kind", [Object, Clash])
def test_keys_and_values_are_released(kind):
    """Values are freed at once, keys soon: none is left once the map is empty."""
    m = SyncMap()
    alive = weakref.WeakSet()
    guard = threading.Lock()  # of the set

    def work(k):
        rng = random.Random(k)
        mine = []
        for i in for_a_while(SECONDS / 2):
            n = rng.randrange(100)
            key, value = kind(n), Object(i)
            if i % 50 == 0:
                mine += [weakref.ref(key), weakref.ref(value)]
            m[key] = value
            del key, value
            m.pop(kind(rng.randrange(100)), None)
            if i % 500 == 0:
                m.clear()
        with guard:
            for ref in mine:
                if (each := ref()) is not None:
                    alive.add(each)
        del mine

    run_threads(*[lambda k=k: work(k) for k in range(THREADS)])
    each = None
    m.clear()
    assert each is None
    assert eventually(lambda: (gc.collect(), m.clear(), len(alive))[-1] == 0, 20)


def test_values_are_released_at_once():
    m = SyncMap()
    for replace in (
        lambda: m.__setitem__("k", 1),
        lambda: m.__delitem__("k"),
        lambda: m.pop("k"),
        lambda: m.popitem(),
        lambda: m.clear(),
        lambda: m.swap("k", 1),
        lambda: m.compare_and_swap("k", m["k"], 1),
        lambda: m.compare_and_delete("k", m["k"]),
        lambda: m.modify("k", lambda _: 1, 0),
    ):
        value = Object(1)
        ref = weakref.ref(value)
        m["k"] = value
        del value
        with background(lambda: m.get("x")):
            replace()
            assert eventually(lambda: ref() is None, 10)


def test_maps_that_contain_themselves_are_collected():
    kept = []

    def work():
        for i in for_a_while(SECONDS):
            m = SyncMap()
            m[Object(i)] = m
            m["self"] = [m]
            m[(m.get, i)] = iter(m.items())
            other = SyncMap(m=m)
            m[Object(-i)] = other
            for n in range(i % 40):
                m[n] = n
            for n in range(i % 30):
                m.pop(Object(n), None)
                m.pop(n, None)
            if i % 20 == 0:
                kept.append(weakref.ref(m))

    with background(collect_often):
        run_threads(work, times=3)
    assert eventually(
        lambda: (gc.collect(), any(ref() is not None for ref in kept))[-1] is False, 20
    )


def test_clear_runs_beside_all_operations():
    m = SyncMap()

    def fill(k):
        for i in for_a_while(SECONDS):
            m[k, i % 2000] = i
            assert m.get((k, i % 2000), i) <= i

    def clear():
        m.clear()
        len(m), m.snapshot(), repr(m)[:10]

    with background(clear, collect_often):
        run_threads(*[lambda k=k: fill(k) for k in range(3)])
    m.clear()
    assert len(m) == 0
    assert list(m) == []


def test_short_lived_threads_use_one_map():
    """Each brings a slot of its own, and leaves keys that wait behind."""
    m = SyncMap()

    def visit(k):
        for n in range(20):
            m[Object(n)] = k
            m.pop(Object(n - 10), None)

    for k in range(60):
        thread = threading.Thread(target=visit, args=(k,))
        thread.start()
        visit(k)
        thread.join(30)
    m.clear()
    assert len(m) == 0
