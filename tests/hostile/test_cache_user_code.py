"""Cache and user code that runs in the middle of its operations: no crash, no hang."""

import gc
import random
import threading
import types

import pytest
from caches import OPERATIONS, every, tried
from keys import RefusedError, kind
from marks import starts_threads
from support import NATIVE, background, collect_often, for_a_while, run_threads

from nogil_sync import Cache, cached


@every
@pytest.mark.parametrize("maxsize", [3, 100])
def test_equality_that_changes_the_cache_ends(name, maxsize):
    rng = random.Random(4)
    c = Cache(maxsize)
    depth = 0

    def change(*_):
        nonlocal depth
        if depth < 2:
            depth += 1
            tried(rng.choice([*OPERATIONS]), c, rng.randrange(50))
            if rng.random() < 0.1:
                c.clear()
            c["other", rng.randrange(10)] = 1
            depth -= 1

    new_key = kind(change)
    for n in range(200):
        tried(name, c, new_key(n % 7))
        tried("setitem", c, new_key(n % 5))
        assert len(c) <= maxsize
    assert len(list(c)) == len(c) == c.stats().weight


def test_equality_that_clears_the_cache_of_the_key_ends():
    c = Cache(10)
    new_key = kind(lambda *_: c.clear())
    for n in range(20):
        c[new_key(n % 3)] = n
        c.get(new_key(n % 3))
        c.pop(new_key(n % 3), None)
    assert len(c) <= 1


@pytest.mark.skipif(not NATIVE, reason="there a look keeps the entry that it found first")
def test_load_whose_second_look_fails_raises_that_error():
    """The first look at a key finds none. The second finds one that may have expired."""

    def compare(*_):
        if new_key.compared == 2:
            c.put(stored, "late", ttl=1)
            stored.name = "key"

    def clock():
        if new_key.compared >= 2 and stored.name == "key":
            raise RefusedError
        return 0.0

    new_key = kind(compare)
    stored = new_key("another")
    c = Cache(10, clock=clock)
    c[stored] = "first"
    with pytest.raises(RefusedError):
        c.load_or_compute(new_key("key"), lambda: "loaded")
    assert c.stats().loads == 0


@pytest.mark.skipif(not NATIVE, reason="there it is any object's attribute")
def test_store_refuses_what_is_no_flag_among_the_flights():
    c = Cache(10)
    c._flights()["key"] = types.SimpleNamespace(detached=object())
    with pytest.raises(TypeError, match="must be an AtomicBool"):
        c["key"] = 1
    assert "key" not in c


def test_functions_that_use_the_cache_do_not_deadlock():
    def weigh(key, value):
        c.get(key)
        if depth[0] < 3:
            depth[0] += 1
            c[key + 1] = 1
            depth[0] -= 1
        return 1

    def evicted(key, value, cause):
        c.pop(key, None)
        weigh(key + 100, value)

    depth = [0]
    c = Cache(5, weigher=weigh, on_evict=evicted, ttl=100, clock=lambda: len(c.__class__.__name__))
    for n in range(100):
        c[n] = n
        assert len(c) <= 5


@starts_threads
def test_hook_may_wait_for_a_thread_that_uses_the_cache():
    def evicted(key, value, cause):
        thread = threading.Thread(target=lambda: (c.get(key), len(c), c.pop(key, None)))
        thread.start()
        thread.join()

    c = Cache(2, on_evict=evicted)
    for n in range(10):
        c[n] = n
    assert len(c) == 2


@starts_threads
def test_threads_use_all_operations_with_keys_of_all_kinds():
    class Value:
        def __del__(self):
            c.get("x")

    c = Cache(20, on_evict=lambda key, value, cause: c.get(key))
    new_key = kind(lambda *_: None)
    kinds = [lambda n: n, str, lambda n: (n, "t"), new_key, float]

    def work():
        rng = random.Random()
        for _ in for_a_while(0.3):
            key = rng.choice(kinds)(rng.randrange(12))
            name = rng.choice([*OPERATIONS])
            result = tried(name, c, key)
            assert result is KeyError or result in (None, "set", "put", "computed", True, False)
            if rng.random() < 0.01:
                c.clear()
            elif rng.random() < 0.1:
                list(c)
                c.stats()
                c["value", rng.randrange(5)] = Value()
            assert len(c) <= 20

    with background(collect_often):
        run_threads(work, times=3)
    assert len(c) == len(list(c)) == c.stats().weight
    c.clear()
    gc.collect()


@starts_threads
def test_expiry_evictions_and_hits_meet():
    now = [0.0]
    c = Cache(50, clock=lambda: now[0])

    def tick():
        now[0] += 0.01

    def work():
        rng = random.Random()
        for _ in for_a_while(0.3):
            key = rng.randrange(80)
            value = c.get(key)
            assert value is None or value == key
            if value is None:
                c.put(key, key, ttl=rng.choice([0.005, 0.05, 1, 100]))
            assert len(c) <= 50

    with background(tick):
        run_threads(work, times=3)
    assert len(list(c)) <= len(c)


def test_cached_function_may_clear_itself_while_it_runs():
    @cached
    def function(n):
        function.cache_clear()
        function.cache_info()
        return [n]

    assert function(1) == [1]
    assert function.cache_info().currsize == 0
    assert function(1) == [1]
