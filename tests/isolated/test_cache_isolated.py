"""Cache in processes of its own: forks, and memory that stays flat."""

import gc
import threading
import time

import pytest
from forks import in_child
from marks import forks, needs_fork, starts_processes, watches_memory
from processes import in_own_process
from support import FREE_THREADED, NATIVE, many, resident

from nogil_sync import Cache


@forks
@needs_fork
@pytest.mark.skipif(
    FREE_THREADED and not NATIVE,
    reason="without the GIL a dict that a thread was using at the fork stays locked",
)
@in_own_process(timeout=120)
def test_child_finds_cache_whole_that_threads_change():
    c = Cache(60, ttl=1000)
    kept = Cache(None)
    for n in range(50):
        kept[f"stays {n}"] = [n]
    stop = False

    def churn(k):
        n = 0
        while not stop:
            n += 1
            c[k, n] = n
            c.get((k, n - 5))
            c.pop((k, n - 7), None)
            kept["changes", k] = n
            kept.put((k, n % 10), n, ttl=1000)
            kept.pop((k, n % 10), None)

    def check():
        gc.collect()
        for n in range(50):
            assert kept[f"stays {n}"] == [n]
        assert len(c) <= 60
        for n in range(200):
            c["child", n] = n
            assert c["child", n] == n
            assert len(c) <= 60
        assert len(list(c)) == len(c) == c.stats().weight == 60
        c.clear()
        kept.clear()
        assert len(c) == len(kept) == 0

    threads = [threading.Thread(target=churn, args=(k,), daemon=True) for k in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        time.sleep(0.005)
        in_child(check)
    stop = True
    for thread in threads:
        thread.join()
    assert len(c) <= 60


@forks
@needs_fork
@in_own_process
def test_load_of_another_thread_counts_as_not_begun_in_the_child():
    c = Cache(10)
    begun, go = threading.Event(), threading.Event()

    def load():
        begun.set()
        go.wait()

    thread = threading.Thread(target=c.load_or_compute, args=("k", load), daemon=True)
    thread.start()
    begun.wait()

    def check():
        assert c.load_or_compute("k", int) == 0

    in_child(check)
    go.set()
    thread.join()


@starts_processes
@watches_memory
@in_own_process(timeout=300)
def test_memory_is_flat_however_many_keys_pass_through():
    c = Cache(1000)
    timed = Cache(1000, ttl=3600)

    def pass_through(first, count):
        for n in range(first, first + count):
            c[n] = n
            timed[n] = n

    pass_through(0, 50_000)
    before = resident()
    pass_through(50_000, many(200_000))
    assert len(c) == len(timed) == 1000
    assert resident() < before + (4 << 20)
