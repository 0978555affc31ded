"""Objects that die among user code: in the instance's dict, in finalisers, in the collector."""

import ctypes
import gc
import threading
import time
import types
import weakref
from operator import call

import pytest
from marks import starts_processes
from processes import in_own_process
from support import CLASSES, NATIVE, needed

import nogil_sync
from nogil_sync import (
    Barrier,
    Channel,
    Cond,
    Event,
    Mutex,
    Pool,
    RLock,
    RWMutex,
    Semaphore,
    ShardedCounter,
    WaitGroup,
    select,
)

pytestmark = starts_processes

# In processes of their own: what goes wrong here crashes.


def tried():
    """Each class, and the arguments it needs; the last name in the output is what failed."""
    for cls in CLASSES:
        print(cls.__name__, flush=True)
        yield cls, needed(cls)


@in_own_process
def test_attribute_may_collect_as_its_object_dies():
    class Collects:
        def __del__(self):
            gc.collect()

    for cls, args in tried():

        class Sub(cls):
            pass

        class Slotted(cls):
            __slots__ = ("attribute",)

        for _ in range(5):
            for each in Sub, Slotted:
                obj = each(*args)
                obj.attribute = Collects()
                del obj


@in_own_process
def test_finaliser_and_attribute_may_collect():
    class Collects:
        def __del__(self):
            gc.collect()

    for cls, args in tried():
        finalised = []

        class Sub(cls):
            def __del__(self):
                finalised.append(gc.collect())

        for _ in range(5):
            obj = Sub(*args)
            obj.attribute = Collects()
            del obj
        obj = Sub(*args)
        obj.attribute, obj.me = Collects(), obj
        del obj
        gc.collect()
        assert len(finalised) == 6


@in_own_process
def test_weak_reference_does_not_return_a_dying_object():
    class Asks:
        def __del__(self):
            gc.collect()
            asked.append(watch())

    for cls, args in tried():
        asked = []

        class Sub(cls):
            pass

        class Slotted(cls):
            __slots__ = ("attribute",)

        for each in Sub, Slotted:
            obj = each(*args)
            obj.attribute, watch = Asks(), weakref.ref(obj)
            del obj
        assert asked == [None, None]


@in_own_process
def test_finaliser_may_resurrect_the_object():
    class Collects:
        def __del__(self):
            gc.collect()

    for cls, args in tried():
        saved = []

        class Sub(cls):
            def __del__(self):
                gc.collect()
                saved.append(self)

        for cycle in False, True:
            obj = Sub(*args)
            obj.attribute, watch = Collects(), weakref.ref(obj)
            if cycle:
                obj.me = obj
            del obj
            while not saved:
                gc.collect()
            assert "Sub" in repr(saved[0])
            assert saved[0].attribute is not None
            gc.collect()
            saved.pop()
            for _ in range(3):
                gc.collect()
            assert watch() is None
            assert not saved


@in_own_process
def test_attributes_of_dying_objects_may_make_new_ones():
    class Makes:
        def __init__(self, make):
            self.make = make

        def __del__(self):
            for _ in range(3):
                made.append(self.make())
            gc.collect()

    for cls, args in tried():
        made = []

        class Sub(cls):
            pass

        for _ in range(5):
            obj = Sub(*args)
            obj.attribute = Makes(lambda: cls(*args))
            del obj
        assert len(made) == 15
        for obj in made:
            repr(obj)


@in_own_process
def test_pools_die_while_others_collect():
    class Collects:
        def __del__(self):
            gc.collect()

    class Sub(Pool):
        pass

    dropped = ShardedCounter()

    def drop(item):
        dropped.add()

    def collect():
        while not stop:
            gc.collect()
            time.sleep(0.0001)

    stop, made = False, 0
    threads = [threading.Thread(target=collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for n in range(20):
            pool = Sub(list, drop=drop)
            if n % 4 == 0:
                pool.attribute = Collects()
            if n % 4 == 1:
                pool.put(pool)
            for _ in range(5):
                pool.put([])
            made += 5 + (n % 4 == 1)
        del pool
    stop = True
    for thread in threads:
        thread.join()
    for _ in range(3):
        gc.collect()
    assert dropped.value() == made, (dropped.value(), made)


@in_own_process
def test_pool_dies_while_a_collection_drops_its_items():
    dropping, go_on = threading.Event(), threading.Event()
    dropped = []

    class Drop:
        def __call__(self, item):
            dropped.append(item)
            if len(dropped) == 1:
                dropping.set()
                assert go_on.wait(30)

    drop = Drop()
    function = weakref.ref(drop)
    pool = Pool(int, drop=drop)
    watch, address = weakref.ref(pool), id(pool)
    del drop
    for n in range(5):
        pool.put(n)

    def collect():
        for _ in range(3):
            gc.collect()

    thread = threading.Thread(target=collect)
    thread.start()
    assert dropping.wait(30)
    del pool
    assert watch() is None
    others = [Pool(list) for _ in range(1000)]
    # The collection is still in the pool's memory.
    assert nogil_sync.backend != "native" or address not in map(id, others)
    for other in others:
        other.put([])
    go_on.set()
    thread.join()
    assert sorted(dropped) == [0, 1, 2, 3, 4]
    for _ in range(3):
        gc.collect()
    assert [other.idle() for other in others] == [0] * 1000
    assert function() is None


@in_own_process
def test_drop_is_not_called_once_garbage_is_cleared():
    # Finalisers put items into pools that had their end already. In one of the rounds the collector
    # clears the function before the pools: the order is that of their memory.
    dropped, ended, in_time = [], set(), []

    class Late(Pool):
        __slots__ = ()

        def __del__(self):
            for pool in self.get():
                if pool.idle() == 0:
                    ended.add(id(pool))
                if id(pool) not in ended:
                    in_time.append(1)
                for _ in range(3):
                    pool.put(1)

    def crowd(n):
        return [(lambda: n) for _ in range(n)]

    def make(n):
        log = dropped
        others = crowd(n)

        def drop(item):
            log.append(n)

        others += crowd(n)
        pools, late = [], []
        for _ in range(20):
            pools.append(Pool(list, drop=drop))
            pools[-1].put(0)
            late.append(Late(list))
            late[-1].put(pools)
        pools[0].put((pools, late, drop))
        return others

    for n in range(6):
        _others = make(n % 2 * 2000)  # they take memory between the objects
        for each in dropped, ended, in_time:
            each.clear()
        gc.collect()
        # An item put after the pool was finalised is not dropped.
        assert len(dropped) == 21 + 3 * len(in_time)


@in_own_process
def test_drop_is_not_called_as_garbage_is_cleared():
    # An object that the collector does not know dies as the one that holds it is cleared. Its
    # finaliser puts an item into a pool that had its end and is not yet cleared. Holders are of two
    # sizes, since the collector clears objects in the order of their memory.
    class Cleared:
        __slots__ = ()

        def __del__(self):
            cleared.append(1)

    class Sub(Pool):
        __slots__ = ("mark", "others")

    class Last:
        __slots__ = ()

        def __del__(self):
            if not cleared:
                ctypes.cast(address, ctypes.py_object).value.put("late")
                puts.append(1)

    class Small:
        __slots__ = ("last", "others")

    class Large:
        __slots__ = ("last", "others", *(f"unused_{n}" for n in range(50)))

    address = 0

    def make():
        nonlocal address
        pool, others = Sub(object, drop=dropped.append), []
        pool.mark, pool.others = Cleared(), others
        pool.put("early")
        address = id(pool)
        for cls in [Small, Large] * 20:
            holder = cls()
            holder.last, holder.others = Last(), others
            others.append(holder)
        others.append(pool)

    in_time = 0
    for _ in range(3):
        dropped, cleared, puts = [], [], []
        make()
        gc.collect()
        assert cleared
        # On the other backend a pool dies in another order: it may still take what comes late.
        assert dropped.count("early") == 1
        assert len(dropped) == 1 or nogil_sync.backend != "native"
        in_time += len(puts)
    assert in_time or nogil_sync.backend != "native"


@in_own_process
def test_drop_gets_the_items_of_a_pool_in_a_cycle():
    dropped = []

    class Node:
        pass

    def make():
        node = Node()

        def drop(item):
            assert node.pool is not None
            assert node.name == "node"
            dropped.append(item)

        node.name, node.pool = "node", Pool(list, drop=drop)
        for n in range(5):
            node.pool.put(n)
        node.pool.put([node])

    for _ in range(3):
        make()
        gc.collect()
        assert [each for each in dropped if each in range(5)]
        assert len(dropped) == 6, dropped
        dropped.clear()


@in_own_process
def test_pool_in_a_cycle_is_finalised_once():
    dropped, saved = [], []

    class Saves:
        def __del__(self):
            saved.append(self.pool)

    class Node:
        pass

    for by_count in True, False:
        saver, node = Saves(), Node()
        saver.pool = node.pool = Pool(list, drop=dropped.append)
        saver.node = node.node = node
        saver.pool.put(node)
        node.saver = saver
        del saver, node
        gc.collect()
        pool = saved.pop()
        gc.collect()
        dropped.pop()
        gc.collect()
        assert not dropped
        assert pool.idle() == 0
        with pool.use() as item:
            item.append(1)
        pool.put("cleared")
        pool.clear()
        assert dropped == ["cleared", [1]]
        dropped.clear()
        pool.put("kept")
        if not by_count:
            pool.put(pool)
        watch = weakref.ref(pool)
        del pool
        for _ in range(3):
            gc.collect()
        assert watch() is None
        assert dropped == []


@pytest.mark.skipif(not NATIVE, reason="about objects of the C code")
@in_own_process
def test_finalisers_of_pools_may_be_called_by_hand():
    dropped = []
    pools = [Pool(list, drop=dropped.append) for _ in range(5)]
    for pool in pools:
        pool.put(1)
    ends = [each for each in gc.get_objects() if type(each).__name__ == "PoolEnd"]
    assert len(ends) == 5
    for _ in range(3):
        for end in ends:
            end.__del__()
    assert not dropped
    assert all(pool.idle() for pool in pools)
    del pools[:], pool
    assert len(dropped) == 5
    others = [Pool(list, drop=dropped.append) for _ in range(5)]
    for pool in others:
        pool.put(2)
    for end in ends:
        end.__del__()
    cycle = [ends]
    cycle.append(cycle)
    del cycle, ends, end
    gc.collect()
    assert len(dropped) == 5
    assert all(pool.idle() for pool in others)


LOCKS = {
    "default": lambda: None,
    "Lock": lambda: threading.Lock(),
    "RLock": lambda: threading.RLock(),
    "our RLock": lambda: RLock(),
    "write": lambda: RWMutex().write,
}


@pytest.mark.skipif(not NATIVE, reason="the interpreter empties what is written in Python, then")
@pytest.mark.parametrize("lock", LOCKS)
@in_own_process
def test_cond_is_cleared_while_a_thread_waits_in_it(lock):
    # A thread gets hold of a Cond that the collector has found to be garbage: before 3.14 through
    # a weak reference that a finaliser made. Frozen objects die while the collector clears garbage.
    results, threads = [], []

    def use(cond):
        cond.acquire()
        inside.set()
        results.append(cond.wait(0.3))
        if lock == "default":
            assert "Mutex object" in repr(cond)
        results.append(False)

    class Trigger:
        def __del__(self):
            for cond in map(call, watches):
                if cond is not None and not threads:
                    threads.append(threading.Thread(target=use, args=(cond,), daemon=True))
                    cond = None
                    threads[0].start()
                    assert inside.wait(30)
                    time.sleep(0.05)

    class Node:
        def __del__(self):
            watches.append(weakref.ref(self.cond, lambda _: None))

    def make():
        nodes = [Node() for _ in range(10)]
        cond = Cond(LOCKS[lock]())
        nodes += [Node() for _ in range(10)]
        for each in nodes:
            each.nodes, each.cond, each.trigger = nodes, cond, triggers.pop()

    for _ in range(3):
        inside, watches = threading.Event(), []
        triggers = [Trigger() for _ in range(20)]
        gc.freeze()
        make()
        gc.collect()
        gc.unfreeze()
        assert len(watches) == 20
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert results == [False, False] * len(threads)
        print(len(threads))
        threads.clear()
        results.clear()


def acquire_elsewhere(lock):
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()


# How to make an object, a call before, and the call that waits.
WAITS = {
    "Cond": (lambda: Cond(), lambda c: c.acquire(), lambda c: c.wait(0.3)),
    "Cond over Lock": (
        lambda: Cond(threading.Lock()),
        lambda c: c.acquire(),
        lambda c: c.wait(0.3),
    ),
    "Cond over RLock": (
        lambda: Cond(threading.RLock()),
        lambda c: c.acquire(),
        lambda c: c.wait(0.3),
    ),
    "Cond over our RLock": (
        lambda: Cond(RLock()),
        lambda c: c.acquire(),
        lambda c: c.wait(0.3),
    ),
    "Cond over write": (
        lambda: Cond(RWMutex().write),
        lambda c: c.acquire(),
        lambda c: c.wait_for(bool, 0.3),
    ),
    "Cond over read": (
        lambda: Cond(RWMutex().read),
        lambda c: c.acquire(),
        lambda c: c.wait(0.3),
    ),
    "Mutex": (Mutex, lambda m: m.acquire(), lambda m: m.acquire(timeout=0.3)),
    "held elsewhere": (RLock, acquire_elsewhere, lambda m: m.acquire(timeout=0.3)),
    "RWMutex.write": (
        lambda: RWMutex().write,
        lambda w: w.acquire(),
        lambda w: w.acquire(timeout=0.3),
    ),
    "Semaphore": (lambda: Semaphore(0), lambda s: s.available(), lambda s: s.acquire(timeout=0.3)),
    "Event": (Event, lambda e: e.is_set(), lambda e: e.wait(0.3)),
    "WaitGroup": (WaitGroup, lambda g: g.add(), lambda g: g.wait(0.3)),
    "Barrier": (lambda: Barrier(2), lambda b: b.reset(), lambda b: b.wait(0.3)),
    "Channel": (Channel, lambda c: c.closed(), lambda c: c.recv(0.3)),
    "select": (Channel, lambda c: c.closed(), lambda c: select(c, Event(), timeout=0.3)),
}


def slots(obj):
    for cls in type(obj).__mro__:
        for each in vars(cls).values():
            if isinstance(each, types.MemberDescriptorType):
                yield each


def parts_of(obj):
    """The object, and the objects of this package that its slots refer to, and theirs."""
    found = [obj]
    for each in found:
        for slot in slots(each):
            part = getattr(each, slot.__name__, None) if slot.__name__[:2] != "__" else None
            part = part or getattr(each, "_" + slot.__objclass__.__name__ + slot.__name__, None)
            module = type(part).__module__
            ours = module.startswith("nogil_sync") and module != "nogil_sync._common.guard"
            if ours and not any(part is other for other in found):
                found.append(part)
    return found


@pytest.mark.skipif(NATIVE, reason="objects of the C code keep what a thread waits for")
@pytest.mark.parametrize("in_main_thread", [False, True])
@pytest.mark.parametrize("name", WAITS)
@in_own_process(timeout=40)
def test_collector_clears_object_that_a_thread_waits_for(name, in_main_thread):
    # As in the test above; here the test empties the slots as the collector would.
    make, before, wait = WAITS[name]
    thing = make()
    before(thing)
    emptied = parts_of(thing)
    assert len(emptied) > 1 or name in ("Mutex", "Event", "WaitGroup"), emptied
    over = []

    def use():
        begun.set()
        # The holder of a Cond's lock is the thread that waits.
        if "RLock" in name:
            thing.acquire()
        try:
            wait(thing)
        except Exception as error:
            print(repr(error))
        over.append(1)

    def empty():
        begun.wait(30)
        time.sleep(0.1)
        for each in emptied:
            for slot in slots(each):
                try:
                    slot.__delete__(each)
                except (AttributeError, TypeError):
                    pass

    if "RLock" in name:
        thing.release()
    begun = threading.Event()
    first, second = (empty, use) if in_main_thread else (use, empty)
    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    second()
    thread.join(30)
    assert over
