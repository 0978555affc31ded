"""Pool: idle items go with age, in collections or by time."""

import contextlib
import gc
import threading
import time
import weakref

import pytest
from marks import starts_threads
from pools import Item, ages
from processes import in_own_process, in_process
from support import NATIVE, collected, run_threads

from nogil_sync import Mutex, Pool

# ---- ages ----


@ages
def test_idle_items_go_after_two_collections(no_gc):
    pool = Pool(Item)
    items = [Item() for _ in range(100)]
    watches = list(map(weakref.ref, items))
    for item in items:
        pool.put(item)
    del item, items
    gc.collect()
    assert pool.idle() == 100
    assert all(watch() is not None for watch in watches)
    gc.collect()
    gc.collect()
    # Nobody calls the pool.
    assert all(watch() is None for watch in watches)
    assert pool.idle() == 0
    pool.put(Item())
    assert pool.idle() == 1


@ages
@starts_threads
def test_idle_items_of_ended_threads_go_too(no_gc):
    pool = Pool(Item)
    run_threads(lambda: [pool.put(Item()) for _ in range(10)], times=4)
    gc.collect()
    assert pool.idle() == 40
    run_threads(lambda: (gc.collect(), gc.collect()))
    assert pool.idle() == 0


@ages
def test_used_items_stay(no_gc):
    pool = Pool(list)
    items = [[n] for n in range(10)]
    for item in items:
        pool.put(item)
    for _ in range(6):
        gc.collect()
        used = [pool.get() for _ in range(4)]
        for item in reversed(used):
            pool.put(item)
    assert pool.idle() == 4
    assert [pool.get() for _ in range(4)] == [[9], [8], [7], [6]]


@ages
def test_items_in_use_are_not_touched(no_gc):
    dropped = []
    pool = Pool(Item, drop=dropped.append)
    item = pool.get()
    with pool.use() as other:
        for _ in range(4):
            gc.collect()
        assert dropped == []
        assert pool.idle() == 0
    pool.put(item)
    assert pool.idle() == 2
    assert pool.get() is item
    assert pool.get() is other


@ages
def test_items_stay_without_age(no_gc):
    pool = Pool(Item, age=False)
    for _ in range(10):
        pool.put(Item())
    for _ in range(5):
        gc.collect()
    assert pool.idle() == 10


@ages
def test_drop_runs_outside_the_collection_callback(no_gc):
    log = []
    pool = Pool(Item, drop=lambda _: log.append("drop"))
    pool.put(Item())
    gc.collect()

    def last(phase, _info):
        log.append(phase)

    gc.callbacks.append(last)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(last)
    assert log == ["start", "drop", "stop"]


@ages
def test_drop_during_ageing_may_use_the_pool(no_gc):
    dropped = []

    def drop(item):
        dropped.append(item)
        pool.get()
        pool.put(item + 1)
        pool.put(item + 1000)
        with pool.use():
            gc.collect()
        Pool(int).put(1)

    pool = Pool(int, drop=drop)
    for n in range(20):
        pool.put(n)
    for _ in range(3):
        gc.collect()
    assert len(dropped) >= 10


@ages
def test_finalisers_of_old_items_use_the_pool(no_gc):
    class Last:
        def __del__(self):
            pool.put("again")
            log.append(pool.get())

    log = []
    pool = Pool(Last)
    for _ in range(50):
        pool.put(Last())
    for _ in range(3):
        gc.collect()
    assert log.count("again") == 50


@ages
def test_ageing_does_not_deadlock_with_a_lock_of_the_user(no_gc):
    """A collection inside a section of the program's own, with hooks that take the same lock."""
    m = Mutex()
    dropped = []

    def drop(item):
        dropped.append(m.acquire(blocking=False))

    pool = Pool(Item, drop=drop)
    with m:
        pool.put(Item())
        for _ in range(3):
            gc.collect()
    assert dropped == [False]


@ages
def test_all_pools_share_one_callback():
    before = list(gc.callbacks)
    pools = [Pool(int) for _ in range(10)]
    assert gc.callbacks == before
    del pools
    gc.collect()
    assert gc.callbacks == before


@ages
def test_callback_called_by_hand_is_harmless(no_gc):
    pool = Pool(int)
    pool.put(1)
    for _ in range(3):
        for callback in list(gc.callbacks):
            if "nogil_sync" in repr(callback):
                callback("start", {"generation": 2})
                callback("stop", {"generation": 2})
                for wrong in ((), (1,), (1, 2, 3)):
                    with contextlib.suppress(TypeError):
                        callback(*wrong)
    gc.collect()
    assert pool.idle() == 1
    gc.collect()
    assert pool.idle() == 0


@ages
@pytest.mark.skipif(not NATIVE, reason="about memory of the C code")
def test_finaliser_called_by_hand_is_harmless(no_gc):
    pool = Pool(int)
    pool.put(1)
    swept = []

    def by_hand(phase, _info):
        if phase == "start":
            for each in gc.get_objects():
                # Not type(each).__name__: other tests leave classes whose attributes raise.
                if "PoolSweeper" in type.__repr__(type(each)):
                    for _ in range(3):
                        each.__del__()
                    swept.append(pool.idle())

    gc.callbacks.append(by_hand)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(by_hand)
    assert swept == [1]
    assert pool.idle() == 1
    gc.collect()
    assert pool.idle() == 0


def test_thousands_of_pools_are_registered():
    for _ in range(2):
        pools = [Pool(list) for _ in range(30_000)]  # a minute if each looks at all the others
        assert pools.pop().idle() == 0


@ages
@pytest.mark.parametrize("backend", ["native", "threading"] if NATIVE else ["threading"])
def test_idle_items_go_in_a_program_that_allocates(backend):
    def program():
        class Item:
            pass

        class Cycle:
            def __init__(self):
                self.me = self

        pool = Pool(Item)
        items = [pool.get() for _ in range(100)]
        watches = [weakref.ref(item) for item in items]
        for item in items:
            pool.put(item)
        del items, item
        kept = []
        end = time.monotonic() + 60
        while any(watch() is not None for watch in watches):
            assert time.monotonic() < end
            kept = [[Cycle()] for _ in range(5000)]
            assert kept
        print(pool.idle())

    done = in_process(program, timeout=90, env={"NOGIL_SYNC_BACKEND": backend})
    assert done.stdout == "0\n"


def test_registry_keeps_no_pool_alive():
    pool = Pool(list)
    watch = weakref.ref(pool)
    for _ in range(3):
        gc.collect()
    del pool
    assert collected(watch)


@ages
def test_pools_come_and_go_during_collections(no_gc):
    kept = []
    for n in range(60):
        pools = [Pool(Item) for _ in range(20)]
        for pool in pools:
            pool.put(Item())
        kept = [*kept[-10:], pools[n % 20]]
        if n % 10 == 0:
            gc.collect()
    del pools, pool
    for _ in range(3):
        gc.collect()
    assert all(pool.idle() == 0 for pool in kept)


@pytest.mark.skipif(NATIVE, reason="the clock of the C code cannot be moved")
@ages
def test_idle_items_go_by_time_without_collections(no_gc, monkeypatch):
    import nogil_sync._threading.pool as module

    pool = Pool(int)
    pool.put(1)
    monkeypatch.setattr(module, "_A_WHILE", 0.0)
    pool.put(2)
    assert pool.idle() == 2
    pool.get()
    pool.put(3)
    assert pool.idle() == 1


@pytest.mark.skipif(NATIVE, reason="the C code has no hook in gc.callbacks")
@in_own_process
def test_pools_made_at_once_share_a_hook():
    from nogil_sync._threading import _ageing

    start = threading.Barrier(8)
    pools = []

    def new():
        start.wait(60)
        pools.append(Pool(list))

    run_threads(new, times=8)
    assert len(_ageing._hook().pools) == len(pools) == 8
