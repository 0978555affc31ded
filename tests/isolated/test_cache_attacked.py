"""Cache beside forks, Ctrl-C and the limit of recursion, each in a process of its own."""

import gc
import random
import sys
import threading

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from forks import in_child
from marks import forks, needs_fork, starts_processes, watches_memory
from processes import in_own_process
from support import FREE_THREADED, NATIVE, resident

from nogil_sync import Cache, Event, cached

pytestmark = starts_processes


@forks
@needs_fork
@pytest.mark.skipif(
    FREE_THREADED and not NATIVE,
    reason="without the GIL a dict that a thread was using at the fork stays locked",
)
@in_own_process(timeout=120)
def test_child_finds_cache_whole_that_threads_change():
    class Key:
        def __init__(self, n):
            self.n = n

        def __hash__(self):
            return hash(self.n)

        def __eq__(self, other):
            return isinstance(other, Key) and self.n == other.n

    caches = [
        Cache(100),
        Cache(100, ttl=0.05, weigher=lambda k, v: v[0] % 3, on_evict=lambda *_: None),
    ]
    stop = False

    def churn(seed):
        own = random.Random(seed)
        while not stop:
            for c in caches:
                n = own.randrange(300)
                c[n] = [n]
                c[Key(n)] = [n]
                c.get(own.randrange(300))
                c.pop(own.randrange(300), None)
                c.load_or_compute(("loaded", n), lambda n=n: [n])
                if not own.randrange(500):
                    c.clear()

    def check():
        gc.collect()
        for c in caches:
            stats = c.stats()
            assert 0 <= stats.weight <= 100
            for key in list(c):
                value = c.get(key)
                n = key.n if isinstance(key, Key) else key[1] if isinstance(key, tuple) else key
                assert value is None or value == [n]
            for n in range(1000, 1400):
                c[n] = [n]
                assert c.load_or_compute(("child", n), lambda n=n: [n]) == [n]
            assert c.stats().weight <= 100
            threads = [
                threading.Thread(target=lambda c=c: [c.pop(n, None) for n in range(1000, 1400)])
                for _ in range(2)
            ]
            for t in threads:
                t.start()
            for t in threads:
                t.join(30)
            assert not any(t.is_alive() for t in threads)
            c.clear()
            assert len(c) == c.stats().weight == 0

    workers = [threading.Thread(target=churn, args=(n,), daemon=True) for n in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(15):
        in_child(check)
    stop = True
    for worker in workers:
        worker.join(30)
    check()


@forks
@needs_fork
@in_own_process
def test_child_loads_itself_what_another_thread_was_loading():
    c = Cache(10)
    begun, go_on = Event(), Event()

    def load():
        begun.set()
        assert go_on.wait(30)
        return "the parent's"

    thread = threading.Thread(target=lambda: c.load_or_compute("k", load))
    thread.start()
    assert begun.wait(30)

    def check():
        assert c.load_or_compute("k", lambda: "the child's") == "the child's"

    in_child(check)
    go_on.set()
    thread.join(30)
    assert c["k"] == "the parent's"


@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_interrupted_wait_for_a_load_leaves_it_to_the_others(way):
    c = Cache(10)
    begun, go_on = Event(), Event()
    loads = []

    def load():
        loads.append(1)
        begun.set()
        assert go_on.wait(30)
        return 7

    got = []
    threads = [
        threading.Thread(target=lambda: got.append(c.load_or_compute("k", load))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    interrupt_call(lambda: c.load_or_compute("k", load), way)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert got == [7] * 3
    assert loads == [1]
    assert c["k"] == 7


@in_own_process
def test_interrupted_load_is_taken_over_by_one_that_waits():
    import time

    c = Cache(10)
    begun = Event()
    got = []

    def slow():
        begun.set()
        time.sleep(30)

    def second():
        assert begun.wait(30)
        got.append(c.load_or_compute("k", lambda: "second"))

    thread = threading.Thread(target=second)
    thread.start()
    interrupt_call(lambda: c.load_or_compute("k", slow))
    thread.join(30)
    assert got == ["second"]
    assert c.stats().failures == 1


@in_own_process
def test_calls_near_recursion_limit_leave_the_cache_whole():
    class Key:
        def __init__(self, n):
            self.n = n

        def __hash__(self):
            return self.n % 4

        def __eq__(self, other):
            return isinstance(other, Key) and self.n == other.n

    numbers = iter(range(10**9))
    c = Cache(5, weigher=lambda k, v: 1, on_evict=lambda *_: None, ttl=1000, clock=lambda: 1.0)

    @cached(maxsize=5)
    def square(n):
        return n * n

    def use():
        n = next(numbers)
        c[Key(n)] = n
        c.load_or_compute(Key(n - 7), lambda: n)
        c.pop(Key(n - 1), None)
        square(n)
        len(c), list(c)

    sys.unraisablehook = lambda _: None  # on_evict has no room to be called either

    def descend():
        try:
            descend()
        except RecursionError:
            pass
        try:
            use()
        except RecursionError:
            pass

    for limit in range(60, 90):
        sys.setrecursionlimit(limit)
        descend()
        sys.setrecursionlimit(1000)
        assert len(c) == len(list(c)) == c.stats().weight <= 5
    for n in range(20):
        c[Key(-n)] = n
        assert square(n) == n * n
    assert len(c) == c.stats().weight == 5
    assert square.cache_info().currsize == 5


@watches_memory
@in_own_process(timeout=300)
def test_memory_stays_flat_as_ever_new_keys_come():
    caches = [Cache(1000), Cache(1000, ttl=0.01), Cache(1000, ttl=1e6)]

    def churn(first, count):
        for n in range(first, first + count):
            for c in caches:
                c[n] = n
                c.get(n - 500)

    churn(0, 20_000)
    gc.collect()
    before = resident()
    churn(20_000, 100_000)
    gc.collect()
    assert resident() - before < 4 << 20
    assert all(len(c) <= 1000 for c in caches)


@watches_memory
@in_own_process(timeout=300)
def test_put_again_and_again_with_a_long_time_to_live_leaves_nothing_in_the_wheel():
    c = Cache(1000, ttl=1e6)

    def churn(count):
        for n in range(count):
            c[n % 100] = n
            c.put(n % 100, n, ttl=1e6 + n)
            if n % 7 == 0:
                c.pop(n % 100, None)

    churn(20_000)
    gc.collect()
    before = resident()
    churn(150_000)
    gc.collect()
    assert resident() - before < 4 << 20
    assert len(c) <= 100
