"""SyncMap and user code that runs in the middle of its operations: no crash, no hang."""

import gc
import itertools
import random
import sys
import threading
import time

import pytest
from keys import Hostile, RefusedError, kind
from marks import starts_threads
from processes import python
from support import TIMEOUT, background, collect_often, eventually, for_a_while, run_threads

import nogil_sync
from nogil_sync import SyncMap

OPERATIONS = {
    "getitem": lambda m, k: m[k],
    "setitem": lambda m, k: m.__setitem__(k, "set"),
    "delitem": lambda m, k: m.__delitem__(k),
    "contains": lambda m, k: k in m,
    "get": lambda m, k: m.get(k),
    "setdefault": lambda m, k: m.setdefault(k, "default"),
    "pop": lambda m, k: m.pop(k, None),
    "insert": lambda m, k: m.insert(k, "inserted"),
    "swap": lambda m, k: m.swap(k, "swapped"),
    "compare_and_swap": lambda m, k: m.compare_and_swap(k, 1, "swapped"),
    "compare_and_delete": lambda m, k: m.compare_and_delete(k, 1),
    "modify": lambda m, k: m.modify(k, lambda old: [old], None),
    "load_or_compute": lambda m, k: m.load_or_compute(k, lambda: "computed"),
    "update": lambda m, k: m.update([(k, "updated")]),
    "equality": lambda m, k: m == {k: 1},
    "items": lambda m, k: (k, 1) in m.items(),
}
every = pytest.mark.parametrize("name", OPERATIONS)


def tried(name, m, key):
    """What the operation gives, or the KeyError it raises."""
    try:
        return OPERATIONS[name](m, key)
    except KeyError:
        return KeyError


# One thread


@every
def test_equality_that_raises_leaves_the_map_unchanged(name):
    def refuse(*_):
        raise RefusedError

    new_key = kind(refuse)
    m = SyncMap()
    m[new_key("there")] = 1
    before = list(m.items())
    for key in (new_key("there"), new_key("missing")):
        with pytest.raises(RefusedError):
            OPERATIONS[name](m, key)
    assert list(m.items()) == before
    assert len(m) == 1
    assert m[before[0][0]] == 1  # the very object needs no comparison


@every
def test_hash_that_raises_leaves_the_map_unchanged(name):
    class Key:
        def __hash__(self):
            raise RefusedError

    m = SyncMap(a=1)
    if name != "equality":
        with pytest.raises(RefusedError):
            OPERATIONS[name](m, Key())
    assert m == {"a": 1}


@every
def test_truth_of_equality_may_raise(name):
    class Truth:
        def __bool__(self):
            raise RefusedError

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            return Truth()

    m = SyncMap()
    m[Key()] = 1
    with pytest.raises(RefusedError):
        OPERATIONS[name](m, Key())
    assert len(m) == 1


@every
def test_equality_of_values_may_raise(name):
    class Value:
        __hash__ = None

        def __eq__(self, other):
            raise RefusedError

    m = SyncMap(k=Value())
    if name in ("compare_and_swap", "compare_and_delete", "equality", "items"):
        with pytest.raises(RefusedError):
            OPERATIONS[name](m, "k")
        assert type(m["k"]) is Value
    else:
        tried(name, m, "k")


def changes(m, others):
    """What equality may do to the map that compares."""
    spare = iter(range(10**9))
    return {
        "delete the key being compared": lambda mine, his: m.pop(mine, None),
        "delete all": lambda mine, his: m.clear(),
        "pop an item": lambda mine, his: m and m.popitem(),
        "store to the key": lambda mine, his: m.__setitem__(mine, next(spare)),
        "insert another hash": lambda mine, his: m.insert(next(spare), 1),
        "replace the neighbours": lambda mine, his: [m.__setitem__(k, next(spare)) for k in others],
        "iterate": lambda mine, his: (list(m), list(m.items()), len(m)),
        "collect": lambda mine, his: gc.collect(0),
    }


@every
@pytest.mark.parametrize("change", changes(None, ()))
@pytest.mark.parametrize("which", ["first", "last", "missing"])
def test_equality_may_change_the_map(name, change, which):
    acting = [0]

    def act(mine, his):
        # Only for a while: a lookup in a dict would not end either if each comparison changed it.
        if acting[0] and acting[0] < 20:
            acting[0] += 1
            now, acting[0] = acting[0], 0
            try:
                doing(mine, his)
            finally:
                acting[0] = now

    new_key = kind(act)
    m = SyncMap()
    keys = [new_key(n) for n in range(5)]
    for n, key in enumerate(keys):
        m[key] = n
    doing = changes(m, keys)[change]
    acting[0] = 1
    tried(name, m, {"first": new_key(0), "last": new_key(4), "missing": new_key("missing")}[which])
    acting[0] = 0
    # The map is whole: each item is found, once, and can be deleted.
    found = list(m)
    assert len(found) == len(set(map(id, found))) == len(m)
    assert all(key in m for key in found)
    for key in found:
        del m[key]
    assert len(m) == 0
    assert list(m) == []


@every
def test_lookup_ends_though_equality_changes_neighbours(name):
    m = SyncMap()
    keys = []
    acting = []

    def act(mine, his):
        if not acting:
            acting.append(1)
            for key in keys:
                m[key] = object()
            acting.pop()

    new_key = kind(act)
    for n in range(5):
        key = new_key(n)
        m[key] = n
        keys.append(key)
    tried(name, m, new_key(4))
    tried(name, m, new_key("missing"))
    assert len(m) in (4, 5, 6)


@pytest.mark.parametrize(
    "name", ["setitem", "setdefault", "insert", "swap", "modify", "load_or_compute", "update"]
)
@pytest.mark.parametrize("at", range(4))
def test_equality_may_insert_the_key(name, at):
    # It moves to a place that the search has passed, where an entry was deleted before.
    inserting = []

    def act(mine, his):
        if inserting and mine.name == at:
            inserting.clear()
            m[new_key("key")] = "first"

    new_key = kind(act)
    m = SyncMap()
    m[new_key("was there")] = None
    for n in range(4):
        m[new_key(n)] = n
    del m[new_key("was there")]
    inserting.append(True)
    result = OPERATIONS[name](m, new_key("key"))
    names = [key.name for key in m]
    assert sorted(names, key=str) == [0, 1, 2, 3, "key"]
    assert len(m) == 5
    if name in ("setdefault", "load_or_compute"):
        assert result == m[new_key("key")] == "first"
    elif name == "insert":
        assert result is False
    elif name == "modify":
        assert result == ["first"]


@starts_threads
@every
def test_key_moved_behind_the_search_is_found(name):
    # Beside an int that another thread made, as such keys are compared in another way.
    code = 10**6

    def act(mine, his):
        if moving and mine.name == "key":
            moving.clear()
            del m[first]
            value = m.pop(mine)
            m[mine] = value

    moving = []
    new_key = kind(act)
    m = SyncMap()
    first = new_key("first", code)
    m[first] = 1
    m[new_key("key", code)] = 1
    run_threads(lambda: m.__setitem__(int(str(code)), 1))
    moving.append(True)
    tried(name, m, new_key("key", code))
    moving.clear()
    assert len(m) == len(list(m)) <= 3
    assert m[code] == 1


@every
def test_equality_of_values_may_change_the_map(name):
    class Value:
        __hash__ = None
        left = 10

        def __eq__(self, other):
            if Value.left:
                Value.left -= 1
                m["k"] = Value()
                m.pop("other", None)
                m["other"] = 1
            return True

    m = SyncMap(k=Value())
    tried(name, m, "k")
    assert len(m) == len(list(m)) <= 2


def test_finalisers_of_values_use_the_map():
    m = SyncMap()
    finalised = []

    class Value:
        def __init__(self, n):
            self.n = n

        def __del__(self):
            finalised.append(self.n)
            m["finalised"] = self.n
            m.pop(self.n - 1, None)
            m.insert(("seen", self.n), 1)
            len(m), list(m), m.get(self.n)

    for n in range(20):
        m[n] = Value(n)
    for n in range(0, 20, 2):
        m[n] = None
    m.clear()
    m["k"] = Value(100)
    m.swap("k", 1)
    m["k"] = Value(101)
    m.compare_and_delete("k", m["k"])
    m.update(k=Value(102))
    m.pop("k", None)
    assert sorted(finalised) == [*range(20), 100, 101, 102]
    assert m["finalised"] == 102


@pytest.mark.parametrize("size", [1, 100, 2000])
def test_clear_ends_though_finalisers_reinsert_everything(size):
    m = SyncMap()
    finalised = [0]

    class Value:
        def __init__(self, n):
            self.n = n

        def __del__(self):
            finalised[0] += 1
            if finalised[0] <= 3 * size:
                m[self.n] = Value(self.n)

    m.update((n, Value(n)) for n in range(size))
    m.clear()
    assert finalised[0] == size
    assert len(m) == size
    finalised[0] = 10 * size
    m.clear()
    assert len(m) == 0


def test_finalisers_of_keys_use_the_map():
    m = SyncMap()
    seen = []

    class Key:
        def __init__(self, n):
            self.n = n

        def __hash__(self):
            return 7

        def __del__(self):
            seen.append(self.n)
            m["last"] = self.n

    for n in range(20):
        m[Key(n)] = n
    while len(m) > 1 or "last" not in m:
        m.popitem()
        if not m:
            break
    m.clear()
    assert eventually(lambda: gc.collect() >= 0 and sorted(seen) == list(range(20)))


def test_finaliser_may_outlive_the_map():
    class Value:
        def __init__(self, m):
            self.map = m

        def __del__(self):
            self.map["again"] = 1
            self.map.clear()
            self.map.pop("x", None)
            list(self.map.items())
            ended.append(len(self.map))

    ended = []
    for _ in range(5):
        m = SyncMap()
        m["value"] = Value(m)
        m[Hostile("k")] = [m]
        del m
    assert eventually(lambda: gc.collect() >= 0 and ended == [0] * 5)


def comparisons(make, lookups):
    """How often keys with one hash are compared while a mapping is filled and looked up."""
    new_key = kind(lambda *_: None)
    keys = [new_key(n) for n in range(300)]
    mapping = make()
    for key in keys:
        mapping[key] = key.name
    filled = new_key.compared
    for n in lookups:
        assert mapping[new_key(n)] == n
    for n in lookups:
        assert new_key(-1 - n) not in mapping
    for key in keys:
        mapping.pop(key)
    assert not mapping
    return filled, new_key.compared


def test_one_hash_costs_no_more_comparisons_than_in_a_dict():
    lookups = range(0, 300, 7)
    ours, theirs = comparisons(SyncMap, lookups), comparisons(dict, lookups)
    assert ours[0] <= 1.1 * theirs[0]
    assert ours[1] <= 1.1 * theirs[1]


def test_three_thousand_keys_with_one_hash_are_kept_apart():
    class Key(str):
        __slots__ = ()
        __hash__ = lambda self: 12345  # noqa: E731

    m = SyncMap()
    for n in range(3000):
        m[Key(n)] = n
    assert len(m) == 3000
    assert all(m[Key(n)] == n for n in range(0, 3000, 97))
    assert sorted(m.values()) == list(range(3000))
    for n in range(0, 3000, 2):
        del m[Key(n)]
    assert len(m) == len(list(m)) == 1500
    assert Key(0) not in m
    assert m[Key(1)] == 1
    m.clear()
    assert Key(1) not in m


def test_patterned_hashes_are_spread():
    for step in (1, 2**8, 2**16, 2**32, 2**48, -(2**32)):
        keys = [Hostile(n, n * step) for n in range(2000)]
        Hostile.compared = 0
        m = SyncMap((key, key.name) for key in keys)
        assert all(m[Hostile(n, n * step)] == n for n in range(2000))
        assert len(m) == 2000


def test_map_without_init_raises():
    m = SyncMap.__new__(SyncMap)
    for operation in OPERATIONS.values():
        with pytest.raises(RuntimeError, match="not initialized"):
            operation(m, "k")
    for use in (
        len,
        list,
        bool,
        SyncMap.popitem,
        SyncMap.clear,
        SyncMap.snapshot,
        SyncMap.copy,
        lambda m: list(m.keys()),
        lambda m: list(m.values()),
        lambda m: list(m.items()),
        lambda m: m | {},
        lambda m: m.update(a=1),
        lambda m: SyncMap(m),
        lambda m: {} | m,
    ):
        with pytest.raises(RuntimeError, match="not initialized"):
            use(m)
    assert repr(m) == "<SyncMap object, not initialized>"
    m.keys(), m.values(), m.items()
    gc.collect()


def test_deep_recursion_in_equality_raises():
    m = inner = SyncMap()
    for _ in range(30_000):
        inner["next"] = SyncMap()
        inner = inner["next"]
    with pytest.raises(RecursionError):
        repr(m)
    other = SyncMap(m)
    assert other == m  # the same objects need no comparison
    del inner
    del m, other
    a, b = SyncMap(), SyncMap()
    a["x"], b["x"] = a, b
    with pytest.raises(RecursionError):
        a == b


# Many threads


@starts_threads
@every
def test_equality_may_let_other_threads_run(name):
    new_key = kind(lambda *_: time.sleep(0))
    m = SyncMap()

    def work():
        mine = random.Random(threading.get_ident())
        for _ in range(60):
            key = new_key(mine.randrange(6))
            tried(name, m, key)
            if mine.random() < 0.5:
                m[key] = 1
            else:
                m.pop(key, None)

    run_threads(work, times=3)
    found = list(m)
    assert len({key.name for key in found}) == len(found) == len(m)


@starts_threads
def test_equality_may_start_threads():
    m = SyncMap()
    left = [15]

    def act(mine, his):
        if left[0]:
            left[0] -= 1
            thread = threading.Thread(target=change, args=(mine,))
            thread.start()
            thread.join(TIMEOUT)
            assert not thread.is_alive()

    def change(key):
        m[key] = "changed"
        m.pop(new_key(1), None)
        m[new_key(2)] = 2

    new_key = kind(act)
    for n in range(3):
        m[new_key(n)] = n
    for name in [*OPERATIONS]:
        left[0] = 3
        tried(name, m, new_key(2))
        left[0] = 3
        tried(name, m, new_key("missing"))
    left[0] = 0
    found = list(m)
    assert len({key.name for key in found}) == len(found) == len(m)


@starts_threads
def test_equality_may_fail_now_and_then():
    numbers = iter(range(10**9))

    def act(*_):
        if next(numbers) % 5 == 0:
            raise RefusedError

    new_key = kind(act)
    m = SyncMap()

    def work():
        mine = random.Random(threading.get_ident())
        for _ in range(300):
            try:
                tried(mine.choice([*OPERATIONS]), m, new_key(mine.randrange(5)))
            except RefusedError:
                pass

    run_threads(work, times=3)
    new_key.act = staticmethod(lambda *_: None)
    found = list(m)
    assert len({key.name for key in found}) == len(found) == len(m)


@starts_threads
def test_equal_tuples_are_inserted_and_deleted():
    # Each thread makes its own keys: another thread may free a key while it is compared.
    m = SyncMap()
    numbers = range(20)

    def churn():
        for n in numbers:
            m[("key", n, (n, "deep"))] = [n]
            found = m.get(("key", n, (n, "deep")))
            assert found is None or found == [n]
            m.pop(("key", n, (n, "deep")), None)
            m.insert(("key", n, (n, "deep")), [n])
            del found
        for n in numbers:
            m.pop(("key", n, (n, "deep")), None)

    with background(churn, churn):
        for _ in for_a_while(0.7):
            churn()
            for key, value in m.items():
                assert key[1] == value[0]
    assert len(m) == 0


@starts_threads
def test_finalisers_and_collections_run_beside_writers():
    m = SyncMap()

    class Value:
        def __init__(self, n):
            self.me = self, n

        def __del__(self):
            m["finalised", self.me[1] % 10] = self.me[1]
            m.pop(self.me[1] % 10, None)

    # With the GIL writers can make garbage faster than one thread finalises it, and each
    # collection then takes longer than the one before, so the loop ends.
    numbers = iter(range(5000))

    def write():
        n = next(numbers, None)
        if n is None:
            time.sleep(0.001)
            return
        m[n % 10] = Value(n)
        m.setdefault(n % 10, Value(n))
        m.modify(n % 10, lambda old: Value(n), None)
        m.get(n % 10)
        if n % 50 == 0:
            m.clear()

    with background(write, write, collect_often):
        for _ in for_a_while(0.7):
            for key, value in m.items():
                assert key is not value
    m.clear()
    gc.collect()
    m.clear()


@starts_threads
def test_hostile_keys_and_values_together():
    new_key = kind(lambda *_: None)
    m = SyncMap()

    def value(n):
        return [n]

    def work():
        mine = random.Random(threading.get_ident())
        names = [*OPERATIONS]
        for _ in range(400):
            n = mine.randrange(8)
            key = mine.choice([n, str(n), (n,), float(n), new_key(n), Hostile(n, n)])
            tried(mine.choice(names), m, key)
            if mine.random() < 0.02:
                m.clear()
            if mine.random() < 0.05:
                try:
                    m.popitem()
                except KeyError:
                    pass
            if mine.random() < 0.05:
                assert len(list(m)) <= 8 * 6
            if mine.random() < 0.02:
                m.copy(), m | {}, m.snapshot()

    run_threads(work, times=4)
    assert len(list(m)) == len(m) == len(m.snapshot())
    for key in list(m):
        del m[key]
    assert len(m) == 0


@starts_threads
def test_iterators_outlive_the_map():
    def use():
        m = SyncMap((n, [n]) for n in range(100))
        iterators = [iter(m), iter(m.items()), iter(m.values())]
        m["cycle"] = m
        del m
        for iterator in iterators:
            assert len(list(iterator)) in (100, 101)

    with background(collect_often):
        run_threads(use, times=3)
        run_threads(use, times=3)


def unfilled_tuples():
    """Those that somebody is still filling; to read an item of one is a crash."""
    return [t for t in gc.get_objects() if type(t) is tuple and "<NULL>" in plain_repr(t)]


def plain_repr(items):
    return tuple.__repr__(items) if 0 < len(items) < 8 and len(gc.get_referents(items)) == 0 else ""


def test_load_or_compute_shows_no_unfilled_tuple():
    met = []

    class Seconds:
        def __float__(self):
            met.extend(unfilled_tuples())
            return 5.0

    assert SyncMap().load_or_compute("key", pow, 2, 3, timeout=Seconds()) == 8
    assert not met


def test_entries_of_a_new_map_cannot_be_changed_through_the_collector():
    class Key:
        def __hash__(self):
            for each in gc.get_referrers(*gc.get_referrers(self)):
                if type(each) is list and len(each) == len(pairs) and each is not pairs:
                    each.clear()
            return 1

        def __eq__(self, other):
            return self is other

    pairs = [(Key(), n) for n in range(20)]
    assert len(SyncMap(pairs)) == 20


# ---- Keys chosen by an attacker who knows how hashes are mixed, but not the process's secret ----

OLD_FACTOR = 0xD6E8FEB86659FD93  # of the mix as it was without a secret


def old_prefix(key):
    """The 12 bits by which that mix began to choose the part of the table."""
    return ((key >> 7) * OLD_FACTOR & 2**64 - 1) >> 52


def sharing_a_prefix():
    """Numbers that all went to one part in 4096.

    Multiples of a number whose product with the factor is small, modulo 2**64: by Euclid.
    """
    before, now = (2**64, 0), (OLD_FACTOR, 1)
    while now[0] > 2**34:
        quotient = before[0] // now[0]
        before, now = now, (before[0] - quotient * now[0], before[1] - quotient * now[1])
    step = abs(now[1])
    keys = (step * i << 7 for i in itertools.count(1))
    wanted = old_prefix(next(keys))
    return [key for key in itertools.islice(keys, 400_000) if old_prefix(key) == wanted][:100_000]


@pytest.mark.skipif(nogil_sync.backend != "native", reason="the other backend is a dict")
@pytest.mark.thread_unsafe(reason="beside others, memory is freed later")
@pytest.mark.parametrize("chosen", ["old mix", "multiples", "strides"])
def test_chosen_keys_take_the_memory_of_random_ones(chosen):
    if chosen == "old mix":
        keys = sharing_a_prefix()
    elif chosen == "multiples":
        keys = [(i // 4 + 1) << (7, 20, 32, 40)[i % 4] for i in range(100_000)]
    else:
        keys = [i * ((1 << 30) + 128) for i in range(100_000)]
    keys = list(dict.fromkeys(keys))
    assert len(keys) >= 50_000
    numbers = random.Random(1)
    of_chosen = SyncMap((key, None) for key in keys)
    of_random = SyncMap((numbers.getrandbits(60), None) for _ in keys)
    assert len(of_chosen) == len(of_random)
    assert sys.getsizeof(of_chosen) < 1.25 * sys.getsizeof(of_random)


def test_hash_seed_of_the_interpreter_gives_one_order():
    """PYTHONHASHSEED decides about the order of a map as it does about that of a set of strings."""
    code = "from nogil_sync import SyncMap\nprint(*SyncMap((i, 0) for i in range(0, 9**9, 9**7)))"

    def order(seed):
        return python(code, env={"PYTHONHASHSEED": seed}).stdout

    assert order("0") == order("0")
    if nogil_sync.backend == "native":
        assert order("1") != order("2")
