"""Pool under threads that get, put, steal, leave and collect, all at the same time."""

import gc
import itertools
import threading
import time
import weakref

import pytest
from marks import starts_threads
from support import NATIVE, background, collect_often, eventually, for_a_while, run_threads

from nogil_sync import Pool, ShardedCounter, pin

pytestmark = starts_threads

SECONDS = 0.7


class Item:
    """Knows which thread has it."""

    def __init__(self):
        self.holder = None
        self.uses = 0

    def take(self):
        me = threading.get_ident()
        assert self.holder is None, "handed to two threads"
        self.holder = me
        self.uses += 1
        assert self.holder == me

    def leave(self):
        assert self.holder == threading.get_ident()
        self.holder = None


class Ledger:
    """Counts the items that were made and dropped."""

    def __init__(self):
        self.made = ShardedCounter()
        self.gone = ShardedCounter()

    def new(self):
        self.made.add()
        return Item()

    def drop(self, item):
        assert item.holder is None
        item.holder = "gone"
        self.gone.add()


def drain(pool, ledger):
    """Each item that was made is in the pool or was dropped; none is there twice."""
    made, gone = ledger.made.value(), ledger.gone.value()
    items = []
    while pool.idle():
        item = pool.get()
        item.take()
        items.append(item)
    assert ledger.made.value() == made
    assert len(items) + gone == made
    assert len(set(map(id, items))) == len(items)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("most", [None, 0, 1, 10])
def test_each_item_is_in_one_place(pinned, most):
    ledger = Ledger()
    pool = Pool(ledger.new, drop=ledger.drop, max_idle=most)
    if pinned:
        pin(pool)

    def by_turns():
        for _ in for_a_while(SECONDS):
            for _ in range(20):
                item = pool.get()
                item.take()
                item.leave()
                pool.put(item)

    def in_bursts():
        for n in for_a_while(SECONDS):
            items = [pool.get() for _ in range(n % 50)]
            for item in items:
                item.take()
            for item in items:
                item.leave()
                pool.put(item)

    def with_statements():
        for n in for_a_while(SECONDS):
            try:
                with pool.use() as item:
                    item.take()
                    item.leave()
                    if n % 10 == 0:
                        raise LookupError
            except LookupError:
                pass

    with background(collect_often):
        run_threads(by_turns, in_bursts, with_statements, in_bursts)
    drain(pool, ledger)


def test_producers_and_consumers_lose_no_item():
    """Some only put, others only get: all of it is stolen, and memory stays flat."""
    pool = Pool(lambda: None, age=False)
    numbers = itertools.count()
    stop = threading.Event()
    put = [0, 0]

    def produce(k):
        for _ in for_a_while(SECONDS):
            for _ in range(10):
                pool.put(Numbered(next(numbers)))
                put[k] += 1
            while pool.idle() > 1000:
                time.sleep(0)

    def consume():
        got = []
        while True:
            over = stop.is_set()
            item = pool.get()
            if item is not None:
                got.append(item.number)
            elif over:
                return got

    results = []
    consumers = [
        threading.Thread(target=lambda: results.append(consume()), daemon=True) for _ in range(2)
    ]
    for thread in consumers:
        thread.start()
    run_threads(lambda: produce(0), lambda: produce(1))
    stop.set()
    for thread in consumers:
        thread.join(60)
    assert len(results) == 2
    everything = sorted(itertools.chain.from_iterable(results))
    assert everything == list(range(sum(put)))


class Numbered:
    __slots__ = ("number",)

    def __init__(self, number):
        self.number = number


def test_pool_survives_threads_that_come_and_go():
    ledger = Ledger()
    pool = Pool(ledger.new, drop=ledger.drop, max_idle=30)

    def briefly():
        items = [pool.get() for _ in range(5)]
        for item in items:
            item.take()
            item.leave()
            pool.put(item)

    for n in for_a_while(SECONDS):
        run_threads(briefly, times=6)
        if n % 5 == 0:
            gc.collect()
        assert pool.idle() <= 30 + 6
    drain(pool, ledger)


def test_pools_die_while_collections_visit_them():
    def work():
        for n in for_a_while(SECONDS):
            gone = []
            pool = Pool(list, drop=gone.append, max_idle=None if n % 2 else 3)
            for k in range(5):
                pool.put([k])
            if n % 3 == 0:
                pool.put([pool])  # only the collector can free it
            elif n % 3 == 1:
                watch = weakref.ref(pool)
                del pool
                # At once, unless a collection is visiting it.
                assert eventually(lambda watch=watch: watch() is None)
                assert eventually(lambda gone=gone: len(gone) == 5)
                continue
            del pool

    with background(collect_often, collect_often):
        run_threads(work, times=3)


@pytest.mark.parametrize("way", ["clear", "collect"])
def test_hooks_use_the_pool_meanwhile(way):
    depth = threading.local()

    def drop(item):
        if getattr(depth, "n", 0) < 3:
            depth.n = getattr(depth, "n", 0) + 1
            pool.put(pool.get())
            depth.n -= 1

    def reset(item):
        item.clear()
        return len(item) == 0

    pool = Pool(list, drop=drop, reset=reset, max_idle=8)

    def work():
        for n in for_a_while(SECONDS):
            items = [pool.get() for _ in range(n % 12)]
            for item in items:
                item.append(n)
                assert item == [n]
                pool.put(item)

    with background(pool.clear if way == "clear" else collect_often):
        run_threads(work, times=3)


def test_other_threads_take_items_of_garbage():
    """gc.get_objects() hands out pools that the collector is just taking apart."""
    done = threading.Event()

    def pools_about():
        # (Not isinstance, which asks the object: a weak proxy may refer to nothing.)
        return [each for each in gc.get_objects() if issubclass(type(each), Pool)]

    others = {id(pool) for pool in pools_about()}  # pools left by other tests

    def make():
        for _ in for_a_while(SECONDS):
            pools = [Pool(list, reset=list.clear, drop=len) for _ in range(20)]
            for pool in pools:
                pool.put([pool])
            del pools, pool
            gc.collect()
        done.set()

    def rummage():
        while not done.is_set():
            for each in pools_about():
                if id(each) not in others:
                    try:
                        each.put([])
                        each.get()
                        repr(each)
                    except RuntimeError:
                        pass
                del each
            time.sleep(0.002)

    run_threads(make, rummage)


@pytest.mark.skipif(not NATIVE, reason="about memory of the C code")
def test_rings_grow_and_shrink_while_others_steal():
    pool = Pool(lambda: None, age=True)
    stop = threading.Event()

    def own():
        for n in for_a_while(SECONDS):
            size = 5000 if n % 20 == 0 else 3
            for k in range(size):
                pool.put(k)
            for _ in range(size):
                pool.get()
        stop.set()

    def steal():
        while not stop.is_set():
            pool.get()

    with background(collect_often):
        run_threads(own, steal, steal)
