"""Cache: a bounded map; what it keeps, evicts and expires, and what it tells of it."""

import gc
import math
import random
import sys
import threading
import weakref

import pytest
from marks import starts_threads
from support import NATIVE, TIMEOUT, eventually, many, run_threads

from nogil_sync import Cache, CacheStats, Event
from nogil_sync._common import runs as _runs


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


class Log(list):
    """An `on_evict` that notes its calls."""

    def __call__(self, key, value, cause):
        self.append((key, value, cause))


def numbers(stats):
    return stats.hits, stats.misses


# ---- The mapping ----


def test_entries_are_stored_found_and_removed():
    c = Cache(10)
    c["a"] = 1
    c.put("b", None)
    assert c["a"] == 1
    assert c["b"] is None
    assert c.get("c") is None
    assert c.get("c", 3) == 3
    assert c.get(key="a", default=3) == 1
    assert "a" in c
    assert "c" not in c
    assert sorted(c) == ["a", "b"]
    assert len(c) == 2
    del c["a"]
    assert c.pop("b") is None
    assert c.pop("b", 7) == 7
    assert len(c) == 0
    assert list(c) == []


@pytest.mark.parametrize("key", ["x", (1, 2), 5, -1, 2.5, None, frozenset([1])])
def test_missing_key_is_a_key_error_with_the_key(key):
    c = Cache(10)
    for call in (c.__getitem__, c.__delitem__, c.pop):
        with pytest.raises(KeyError) as caught:
            call(key)
        assert caught.value.args == (key,)
    c[key] = "value"
    assert c[key] == "value"


def test_equal_keys_are_one():
    c = Cache(10)
    c[1] = "int"
    c[1.0] = "float"
    assert c[True] == "float"
    assert len(c) == 1


def test_first_of_equal_keys_stays_as_in_a_dict():
    log = Log()
    c = Cache(1, on_evict=log)
    c[1] = "a"
    c[True] = "b"
    c.put(1.0, "c")
    assert [(type(key), c[key]) for key in c] == [(int, "c")]
    c["other"] = "d"
    assert type(log[0][0]) is int


def test_cache_is_not_reversible():
    with pytest.raises(TypeError, match="not reversible"):
        reversed(Cache(3))


def test_unhashable_key_is_a_type_error():
    c = Cache(10)
    for call in (c.get, c.pop, c.__getitem__, c.__contains__, lambda k: c.put(k, 1)):
        with pytest.raises(TypeError, match="unhashable"):
            call([])
    with pytest.raises(TypeError, match="unhashable"):
        c.load_or_compute([], int)


def test_clear_removes_all_and_keeps_the_counts():
    c = Cache(100)
    for n in range(50):
        c[n] = n
    assert c.get(1) == 1
    before = c.stats()
    c.clear()
    assert len(c) == 0
    assert all(n not in c for n in range(50))
    assert c.stats() == before._replace(weight=0)
    c["again"] = 1
    assert list(c) == ["again"]


def test_iterator_is_of_the_keys_of_its_beginning():
    c = Cache(1000)
    for n in range(300):
        c[n] = n
    keys = iter(c)
    c.clear()
    assert sorted(keys) == list(range(300))


# ---- How much is kept ----


def test_cache_never_holds_more_than_maxsize():
    for maxsize in (1, 2, 3, 7, 10, 100):
        c = Cache(maxsize)
        for n in range(maxsize * 5 + 20):
            c[n] = n
            assert len(c) <= maxsize
        assert len(c) == maxsize
        assert len(list(c)) == maxsize
        assert c.stats().evictions == maxsize * 4 + 20


def test_new_entry_is_kept():
    for maxsize in (1, 2, 5, 50):
        c = Cache(maxsize)
        for n in range(maxsize * 10):
            c[n] = n
            assert c[n] == n


@pytest.mark.parametrize("maxsize", [0, None])
def test_maxsize_zero_keeps_nothing_and_none_all(maxsize):
    c = Cache(maxsize)
    for n in range(1000):
        c[n] = n
    assert len(c) == (0 if maxsize == 0 else 1000)
    assert c.load_or_compute("k", int) == 0
    assert ("k" in c) == (maxsize is None)


def test_used_entries_outlive_a_scan():
    c = Cache(100)
    for _ in range(4):
        for n in range(60):
            if c.get(n) is None:
                c[n] = n
    for n in range(10_000, 20_000):
        if c.get(n) is None:
            c[n] = n
    assert sum(n in c for n in range(60)) >= 50


def test_hits_of_a_skewed_trace_are_not_below_those_of_lru():
    from functools import lru_cache

    rng = random.Random(5)
    weights = [1 / n for n in range(1, 2001)]
    trace = rng.choices(range(2000), weights, k=30_000)
    theirs = lru_cache(100)(lambda n: n)
    c = Cache(100)
    for n in trace:
        theirs(n)
        c.load_or_compute(n, int, n)
    assert c.stats().hits >= theirs.cache_info().hits


def test_loop_larger_than_the_cache_has_hits():
    c = Cache(100)
    for _ in range(50):
        for n in range(120):
            c.load_or_compute(n, int, n)
    assert c.stats().hits > 1000


def test_weights_are_bounded_by_maxsize():
    c = Cache(100, weigher=lambda key, value: value)
    rng = random.Random(1)
    for n in range(2000):
        c[n % 50] = rng.randrange(30)
        assert c.stats().weight <= 100
        assert c.stats().weight == sum(c.get(key, 0) for key in c)


def test_entry_heavier_than_maxsize_is_not_kept():
    log = Log()
    c = Cache(10, weigher=lambda key, value: len(value), on_evict=log)
    c["a"] = "short"
    c["a"] = "much too long"
    assert "a" not in c
    assert log == [("a", "much too long", "size")]
    assert (
        c.load_or_compute("b", lambda: "long, too, as can be seen") == "long, too, as can be seen"
    )
    assert len(c) == c.stats().weight == 0


def test_replacing_changes_the_weight():
    c = Cache(10, weigher=lambda key, value: value)
    c["a"] = 3
    c["b"] = 4
    c["a"] = 6
    assert c.stats().weight == 10
    c["a"] = 1
    assert c.stats().weight == 5
    c["b"] = 0
    del c["a"]
    assert c.stats().weight == 0
    assert c["b"] == 0


# ---- Time ----


def test_expired_entry_is_never_returned():
    clock = Clock()
    c = Cache(10, ttl=5, clock=clock)
    c["a"] = 1
    clock.now += 4.999
    assert c["a"] == 1
    assert c.get("a") == 1
    clock.now += 0.001
    with pytest.raises(KeyError):
        c["a"]
    assert c.get("a") is None
    assert "a" not in c
    assert list(c) == []
    assert c.pop("a", None) is None
    assert len(c) == 0


@pytest.mark.parametrize(
    "look",
    [
        lambda c: c.get("a"),
        lambda c: "a" in c or None,
        lambda c: c.pop("a", None),
        lambda c: len(c) or None,
        lambda c: c.__setitem__("b", 1),
    ],
)
def test_expired_entry_is_removed_and_told_of(look):
    clock, log = Clock(), Log()
    c = Cache(10, ttl=5, clock=clock, on_evict=log)
    c["a"] = 1
    clock.now += 5
    assert look(c) is None
    assert log == [("a", 1, "expired")]
    assert c.stats().expirations == 1
    assert c.stats().evictions == 0


def test_each_entry_may_have_its_own_time():
    clock = Clock()
    c = Cache(10, ttl=5, clock=clock)
    c.put("short", 1, ttl=1)
    c.put("default", 2)
    c.put("long", 3, ttl=50)
    c.put("ever", 4, None)
    clock.now += 1
    assert sorted(c) == ["default", "ever", "long"]
    clock.now += 4
    assert sorted(c) == ["ever", "long"]
    clock.now += 1e6
    assert sorted(c) == ["ever"]


def test_time_begins_anew_with_each_store():
    clock = Clock()
    c = Cache(10, clock=clock)
    c.put("a", 1, ttl=5)
    clock.now += 4
    c.put("a", 2, ttl=5)
    clock.now += 4
    assert c["a"] == 2
    c["a"] = 3
    clock.now += 100
    assert c["a"] == 3
    c.put("a", 4, ttl=1)
    clock.now += 1
    assert "a" not in c


def test_nothing_expired_is_returned_whatever_the_clock_does():
    clock, rng = Clock(), random.Random(3)
    c = Cache(200, clock=clock)
    deadlines = {}
    for _ in range(many(4000)):
        key = rng.randrange(300)
        ttl = rng.choice([0.001, 0.02, 0.5, 1, 3, 60, 3600, 1e5, 1e8])
        c.put(key, key, ttl=ttl)
        deadlines[key] = clock.now + ttl
        if rng.random() < 0.2:
            clock.now += rng.choice([0.0005, 0.01, 0.3, 2, 30, 4000, 1e5, 1e7, -10, -5000])
        key = rng.randrange(300)
        if c.get(key) is not None:
            assert clock.now < deadlines[key] + 1e-6
        assert len(c) <= 200
    clock.now = 5e9
    assert len(c) == 0
    assert c.stats().weight == 0


def test_expired_entries_are_freed_by_insertions():
    class Value:
        pass

    clock = Clock()
    c = Cache(None, clock=clock)
    values = []
    for n in range(1000):
        value = Value()
        values.append(weakref.ref(value))
        c.put(n, value, ttl=1 + n % 100)
        del value
    clock.now += 200
    for n in range(1000):
        c.put(("new", n), n, ttl=1000)
    gc.collect()
    assert not any(ref() for ref in values)
    assert len(c) == 1000
    assert c.stats().expirations == 1000


def test_default_clock_expires_entries():
    c = Cache(10)
    c.put("a", 1, ttl=1e-9)
    assert Event().wait(0.01) is False
    assert "a" not in c


def test_clock_is_not_read_without_times_to_live():
    def clock():
        raise AssertionError("read")

    c = Cache(2, clock=clock)
    for n in range(10):
        c[n] = n
        c.get(n)
        c.pop(n, None)
    assert len(c) == 0
    with pytest.raises(AssertionError):
        c.put("a", 1, ttl=1)
    assert "a" not in c


# ---- Callbacks ----


def test_on_evict_is_told_of_evictions_only():
    log = Log()
    c = Cache(2, on_evict=log)
    c["a"] = 1
    c["a"] = 2
    del c["a"]
    c["b"] = 3
    c.pop("b")
    c["c"] = 4
    c.clear()
    assert log == []
    for n in range(5):
        c[n] = n
    assert len(log) == c.stats().evictions == 3
    assert {key for key, _, _ in log} | set(c) == set(range(5))
    assert {cause for _, _, cause in log} == {"size"}


def test_on_evict_may_use_the_cache():
    c = Cache(3, on_evict=lambda key, value, cause: use(key))

    def use(key):
        assert key not in c
        c.get(key)
        c.pop("nothing", None)
        list(c)
        if key < 1000:
            c[key + 1000] = 1

    for n in range(50):
        c[n] = n
        assert len(c) <= 3


def test_error_of_on_evict_is_unraisable(monkeypatch):
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: errors.append(what.exc_type))

    def on_evict(key, value, cause):
        raise ZeroDivisionError

    c = Cache(1, on_evict=on_evict)
    c["a"] = 1
    c["b"] = 2
    assert c["b"] == 2
    assert errors == [ZeroDivisionError]


test_error_of_on_evict_is_unraisable = pytest.mark.thread_unsafe(
    reason="replaces a hook of the process"
)(test_error_of_on_evict_is_unraisable)


def test_error_of_weigher_or_clock_reaches_the_caller_and_nothing_is_stored():
    def fails(*_):
        raise ZeroDivisionError

    for c in (Cache(10, weigher=fails), Cache(10, ttl=1, clock=fails)):
        with pytest.raises(ZeroDivisionError):
            c["a"] = 1
        assert len(list(Cache.__iter__(c))) == 0


@pytest.mark.parametrize(
    ("weight", "error"),
    [(-1, ValueError), (1.5, TypeError), (None, TypeError), (2**70, OverflowError)],
)
def test_wrong_weight_is_an_error(weight, error):
    c = Cache(10, weigher=lambda key, value: weight)
    with pytest.raises(error):
        c["a"] = 1
    assert len(c) == 0


@pytest.mark.parametrize(
    ("value", "error"), [(math.nan, ValueError), (1e30, OverflowError), ("x", TypeError)]
)
def test_wrong_clock_value_is_an_error(value, error):
    c = Cache(10, ttl=1, clock=lambda: value)
    with pytest.raises(error):
        c["a"] = 1


# ---- Arguments ----


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"maxsize": -1}, ValueError),
        ({"maxsize": 1.5}, TypeError),
        ({"maxsize": "1"}, TypeError),
        ({"maxsize": 2**70}, OverflowError),
        ({}, TypeError),
        ({"ttl": 0}, ValueError),
        ({"ttl": -1}, ValueError),
        ({"ttl": math.nan}, ValueError),
        ({"ttl": math.inf}, OverflowError),
        ({"ttl": "1"}, TypeError),
        ({"weigher": 5}, TypeError),
        ({"on_evict": 5}, TypeError),
        ({"clock": 5}, TypeError),
    ],
)
def test_wrong_argument_is_an_error(arguments, error):
    if "maxsize" not in arguments and arguments:
        arguments = {"maxsize": 10, **arguments}
    with pytest.raises(error):
        Cache(**arguments)
    if "ttl" in arguments:
        c = Cache(10)
        with pytest.raises(error):
            c.put("a", 1, ttl=arguments["ttl"])
        assert len(c) == 0


def test_options_are_keywords_only():
    with pytest.raises(TypeError):
        Cache(10, 5)


def test_methods_before_init_raise():
    c = Cache.__new__(Cache)
    calls = (
        lambda: c["a"],
        lambda: c.get("a"),
        lambda: c.put("a", 1),
        lambda: c.pop("a"),
        lambda: len(c),
        lambda: iter(c),
        lambda: "a" in c,
        c.clear,
        c.stats,
        lambda: c.load_or_compute("a", int),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="not initialized"):
            call()
    assert "not initialized" in repr(c)


def test_repr_tells_how_full_it_is():
    c = Cache(10)
    c["a"] = 1
    assert "1 entries, maxsize=10" in repr(c)
    assert "maxsize=None" in repr(Cache(None))


# ---- Statistics ----


def test_stats_count_hits_misses_loads_and_failures():
    c = Cache(10)
    assert c.stats() == CacheStats(0, 0, 0, 0, 0, 0, 0)
    c["a"] = 1
    c.get("a")
    c["a"]
    c.get("b")
    with pytest.raises(KeyError):
        c["b"]
    assert "a" in c
    assert "b" not in c
    assert numbers(c.stats()) == (2, 2)
    c.load_or_compute("a", int)
    c.load_or_compute("c", int)
    with pytest.raises(ZeroDivisionError):
        c.load_or_compute("d", lambda: 1 / 0)
    c.pop("a")
    assert c.stats() == CacheStats(3, 4, 1, 1, 0, 0, 1)


@starts_threads
def test_stats_of_many_threads_are_exact():
    c = Cache(10)
    c["a"] = 1

    def work():
        for _ in range(500):
            c["a"]
            c.get("b")

    run_threads(work, times=4)
    assert numbers(c.stats()) == (2000, 2000)


# ---- Threads ----


@starts_threads
def test_eight_threads_that_insert_never_exceed_maxsize():
    c = Cache(50)
    most = [0] * 8

    def work(k):
        rng = random.Random(k)
        for n in range(many(300)):
            c[k, n] = n
            if rng.random() < 0.3:
                c.pop((k, n - rng.randrange(3)), None)
            most[k] = max(most[k], len(c), c.stats().weight)

    run_threads(*(lambda k=k: work(k) for k in range(8)))
    assert max(most) <= 50
    assert len(c) == len(list(c)) == c.stats().weight <= 50


@starts_threads
def test_eight_threads_that_replace_never_exceed_the_weight():
    c = Cache(100, weigher=lambda key, value: value)
    most = [0] * 8

    def work(k):
        rng = random.Random(k)
        for _ in range(many(300)):
            c[rng.randrange(20)] = rng.randrange(60)
            most[k] = max(most[k], c.stats().weight)

    run_threads(*(lambda k=k: work(k) for k in range(8)))
    assert max(most) <= 100
    assert sum(c.get(key, 0) for key in c) == c.stats().weight


@starts_threads
def test_a_hit_has_the_value_of_its_key_while_others_evict():
    c = Cache(30, ttl=1000)

    def work(seed):
        rng = random.Random(seed)
        for _ in range(many(800)):
            key = rng.randrange(60)
            value = c.get(key)
            assert value is None or value[0] == key
            if value is None:
                c[key] = [key]
            elif rng.random() < 0.05:
                c.pop(key, None)

    run_threads(*(lambda k=k: work(k) for k in range(4)))
    assert len(c) <= 30


@starts_threads
def test_one_load_serves_fifty_callers():
    c, runs, go = Cache(10), [], threading.Event()

    def load():
        runs.append(1)
        assert go.wait(TIMEOUT)
        return object()

    waiting = threading.Semaphore(0)

    def call():
        waiting.release()
        return c.load_or_compute("k", load)

    def let_go():
        for _ in range(50):
            waiting.acquire()
        go.set()

    *results, _ = run_threads(*[call] * 50, let_go)
    assert len(set(map(id, results))) == 1
    assert runs == [1]
    assert c.stats().loads == 1


@starts_threads
def test_pop_during_a_load_detaches_it():
    c, begun, go = Cache(10), threading.Event(), threading.Event()

    def load():
        begun.set()
        assert go.wait(TIMEOUT)
        return "old"

    def invalidate():
        assert begun.wait(TIMEOUT)
        c.pop("k", None)
        go.set()

    result, _ = run_threads(lambda: c.load_or_compute("k", load), invalidate)
    assert result == "old"
    assert "k" not in c


@starts_threads
def test_clear_during_a_load_detaches_it():
    c, begun, go = Cache(10), threading.Event(), threading.Event()

    def load():
        begun.set()
        assert go.wait(TIMEOUT)
        return "old"

    def invalidate():
        assert begun.wait(TIMEOUT)
        c.clear()
        go.set()

    result, _ = run_threads(lambda: c.load_or_compute("k", load), invalidate)
    assert result == "old"
    assert "k" not in c


def test_store_during_a_load_wins():
    c = Cache(10)

    def load():
        c["k"] = "stored"
        return "loaded"

    assert c.load_or_compute("k", load) == "stored"
    assert c["k"] == "stored"


@pytest.mark.parametrize("leaves", ["evicted", "expired", "replaced by a heavy one"])
def test_value_stored_during_a_load_and_gone_keeps_the_load_from_landing(leaves):
    now = 0.0
    c = Cache(2, clock=lambda: now, weigher=lambda key, value: 3 if value == "heavy" else 1)

    def load():
        nonlocal now
        c.put("k", "stored", ttl=5)
        if leaves == "evicted":
            while "k" in c:
                c[object()] = "other"
        elif leaves == "expired":
            now = 10.0
        else:
            c["k"] = "heavy"
        assert c.load_or_compute("k", lambda: "newer") == "newer"
        c.pop("k")
        return "old"

    assert c.load_or_compute("k", load) == "old"
    assert "k" not in c


@starts_threads
def test_call_that_begins_after_a_store_gets_nothing_older():
    c, begun, go = Cache(1), threading.Event(), threading.Event()

    def load():
        begun.set()
        assert go.wait(TIMEOUT)
        return "old"

    def store():
        assert begun.wait(TIMEOUT)
        c["k"] = "stored"
        c["other"] = "evicts it"
        assert c.load_or_compute("k", lambda: "new") == "new"
        go.set()

    result, _ = run_threads(lambda: c.load_or_compute("k", load), store)
    assert result == "new"
    assert c["k"] == "new"


def test_store_of_what_does_not_fit_detaches_a_load():
    c = Cache(10, weigher=lambda key, value: value)

    def load():
        c["k"] = 11
        return 1

    assert c.load_or_compute("k", load) == 1
    assert c.get("k") is None
    assert c.load_or_compute("k", int, 2) == 2
    assert c.get("k") == 2


def test_load_of_its_own_key_is_a_runtime_error():
    c = Cache(10)
    with pytest.raises(RuntimeError, match="recursive"):
        c.load_or_compute("k", lambda: c.load_or_compute("k", int))


def test_failed_load_is_not_kept():
    c = Cache(10)
    with pytest.raises(ZeroDivisionError):
        c.load_or_compute("k", lambda: 1 / 0)
    assert c.load_or_compute("k", int, "7") == 7


def test_load_of_what_cannot_be_called_is_a_type_error():
    c = Cache(10)
    with pytest.raises(TypeError, match="not callable"):
        c.load_or_compute("k", 5)
    c["k"] = 1
    assert c.load_or_compute("k", 5) == 1


# ---- Objects ----


def test_values_are_released_when_they_leave():
    class Value:
        pass

    c = Cache(3)
    value = Value()
    watch = weakref.ref(value)
    c["a"] = value
    del value
    c["a"] = 1
    gc.collect()
    assert watch() is None
    c = Cache(1)
    value = Value()
    watch = weakref.ref(value)
    c["a"] = value
    del value
    c["b"] = 1
    gc.collect()
    assert watch() is None


def test_cycle_through_a_cache_is_collected():
    class Value:
        pass

    for n in range(3):
        value = Value()
        value.cache = Cache(10, on_evict=lambda *_, v=value: v)
        value.cache[value if n else "k"] = value
        value.cache.put((value, n), n, ttl=5)
        watch = weakref.ref(value)
        del value
        gc.collect()
        assert watch() is None


@pytest.mark.parametrize("name", ["weigher", "on_evict", "clock"])
def test_cycle_through_a_function_is_collected(name):
    class Mine(Cache):
        def __init__(self, attribute):
            super().__init__(10, **{name: getattr(self, attribute)})

        def called(self, *args):
            return 1

    Mine("called")["k"] = 1
    Mine("stats")  # of C in one backend: it knows no way to clear it

    def is_left():  # a weak reference would not tell: the collector clears it first
        return any(type(each) is Mine for each in gc.get_objects())

    assert eventually(lambda: gc.collect() >= 0 and not is_left())


def test_finaliser_of_a_value_may_use_the_cache():
    c = Cache(2)

    class Value:
        def __init__(self, n):
            self.n = n

        def __del__(self):
            c.get(self.n)
            c["last"] = self.n
            c.pop("nothing", None)

    for n in range(20):
        c[n] = Value(n)
        assert len(c) <= 2
    c.clear()
    c.clear()
    assert len(c) <= 1


def test_cache_is_generic_and_can_be_subclassed():
    class Users(Cache[str, int]):
        def __init__(self):
            super().__init__(5)
            self.name = "users"

    users = Users()
    users["ann"] = 1
    assert users["ann"] == 1
    assert users.name == "users"
    assert "Users" in repr(users)
    assert Cache[str, int].__origin__ is Cache


@pytest.mark.skipif(not NATIVE, reason="there a pop does not see keys that come meanwhile")
@starts_threads
def test_load_that_joined_a_landed_one_after_a_pop_loads_anew():
    """The pop began before the load did, so it does not detach it; it gets the load's value."""
    landed, go_on, calls = threading.Event(), threading.Event(), []

    class Key:
        def __init__(self, name, on_compare=None):
            self.name, self.on_compare = name, on_compare

        def __hash__(self):
            return 1

        def __eq__(self, other):
            for each in self, other:
                act, each.on_compare = each.on_compare, None
                if act is not None:
                    act()
            return self.name == other.name

    def pause(key, value, cause):
        landed.set()
        assert go_on.wait(TIMEOUT)

    def call(value):
        outcome = []
        thread = threading.Thread(
            target=lambda: outcome.append(c.load_or_compute(Key("k"), lambda: value)), daemon=True
        )
        thread.start()
        calls.append((thread, outcome))

    def load():
        call("loaded")
        assert landed.wait(TIMEOUT)  # it evicts, and its value is stored by then

    c = Cache(2, on_evict=pause)
    c[Key("decoy")] = "decoy"
    c["other"] = "other"
    assert c.pop(Key("k", load)) == "loaded"
    call("new")
    assert eventually(lambda: calls[1][0].ident in _runs._waits)
    go_on.set()
    for thread, _ in calls:
        thread.join(TIMEOUT)
    assert [outcome for _, outcome in calls] == [["loaded"], ["new"]]
    assert c[Key("k")] == "new"
