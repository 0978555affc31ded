"""Pool and the collector: cycles, finalisers, long chains."""

import gc
import sys
import weakref

import pytest
from pools import Item, ages, lasting
from support import NATIVE

from nogil_sync import Pool

# ---- the collector ----


def test_collector_visits_each_item_once():
    pool = lasting()
    items = [Item() for _ in range(200)]
    for item in items:
        pool.put(item)
    for _ in range(20):
        pool.get()
    referents = gc.get_referents(pool)
    if NATIVE:
        assert sum(isinstance(each, Item) for each in referents) == 180
        assert len({id(each) for each in referents if isinstance(each, Item)}) == 180


def test_cycles_through_items_are_collected():
    pool = Pool(Item)
    item = Item()
    item.pool = pool
    for _ in range(3):
        pool.put(item)
    watch = weakref.ref(item), weakref.ref(pool)
    del item, pool
    gc.collect()
    assert [each() for each in watch] == [None, None]


def test_cycles_through_functions_are_collected():
    class Mine(Pool):
        def __init__(self):
            super().__init__(self.make, reset=self.wash, drop=self.leave)

        def make(self):
            return [self]

        def wash(self, item):
            pass

        def leave(self, item):
            pass

    mine = Mine()
    mine.put(mine.get())
    own = Pool.__new__(Pool)
    own.__init__(own.get, drop=own.put)
    watch = weakref.ref(mine), weakref.ref(own)
    del mine, own
    gc.collect()
    gc.collect()
    assert [each() for each in watch] == [None, None]


def test_subclass_with_a_finaliser_is_collected():
    log = []

    class Sub(Pool):
        def __del__(self):
            log.append(self.idle())

    pool = Sub(list, drop=log.append)
    pool.put("item")
    del pool
    gc.collect()
    assert log == [1, "item"]
    pool = Sub(list, drop=log.append)
    pool.put("other")
    pool.me = pool
    del pool
    gc.collect()
    assert sorted(map(str, log[2:])) in (["0", "other"], ["1", "other"])


def test_pool_is_usable_in_its_own_finaliser():
    class Sub(Pool):
        def __del__(self):
            self.put(1)
            log.append(self.get())

    log = []
    pool = Sub(list)
    pool.me = pool
    pool.put([pool])
    del pool
    gc.collect()
    assert log == [1]


def test_long_chain_of_pools_is_freed():
    pool = None
    for _ in range(50_000):
        outer = Pool(list, age=False)
        outer.put(pool)
        pool = outer
    del pool, outer
    gc.collect()


def test_hook_drops_the_last_reference_to_the_pool():
    log = []

    def drop(item):
        log.append(item)
        holder.clear()

    holder = [Pool(int, drop=drop, max_idle=1)]
    for n in range(3):
        if holder:
            holder[0].put(n)
    assert sorted(log) == [0, 1]


@ages
@pytest.mark.skipif(not NATIVE, reason="about memory of the C code")
def test_getsizeof_follows_the_items(no_gc):
    pool = Pool(int, age=False)
    small = sys.getsizeof(pool)
    pool.put(1)
    used = sys.getsizeof(pool)
    for n in range(20_000):
        pool.put(n)
    large = sys.getsizeof(pool)
    assert small < used < large
    pool.clear()

    def use():
        for _ in range(100):
            pool.put(1)
            pool.get()
        return sys.getsizeof(pool)

    for _ in range(3):
        use()
    assert use() == large  # no collection yet: a thief may still be in the old memory
    for _ in range(10):
        gc.collect()
        use()
    assert use() < large / 4
