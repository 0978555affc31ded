"""Objects that die among user code: in the instance's dict, in finalisers, in the collector."""

import pytest
from marks import starts_processes
from processes import python
from support import CLASSES, NATIVE, needed

pytestmark = starts_processes

# In processes of their own: what goes wrong here crashes.
CLASSES_TO_TRY = """
import gc, weakref
import nogil_sync
from nogil_sync import *
TRIED = %r
def tried():
    for name, args in TRIED:
        print(name, flush=True)
        yield getattr(nogil_sync, name), [eval(each) for each in args]
""" % [(cls.__name__, [each.__name__ for each in needed(cls)]) for cls in CLASSES]


def died(code, **kwargs):
    """Run it with `tried()`; the last name in the output is the class that failed."""
    return python(CLASSES_TO_TRY + code, **kwargs)


def test_attribute_may_collect_as_its_object_dies():
    died(
        """
class Collects:
    def __del__(self): gc.collect()
for cls, args in tried():
    class Sub(cls): pass
    class Slotted(cls): __slots__ = ("attribute",)
    for _ in range(5):
        for each in Sub, Slotted:
            obj = each(*args)
            obj.attribute = Collects()
            del obj
"""
    )


def test_finaliser_and_attribute_may_collect():
    died(
        """
class Collects:
    def __del__(self): gc.collect()
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
"""
    )


def test_weak_reference_does_not_return_a_dying_object():
    died(
        """
class Asks:
    def __del__(self):
        gc.collect()
        asked.append(watch())
for cls, args in tried():
    asked = []
    class Sub(cls): pass
    class Slotted(cls): __slots__ = ("attribute",)
    for each in Sub, Slotted:
        obj = each(*args)
        obj.attribute, watch = Asks(), weakref.ref(obj)
        del obj
    assert asked == [None, None]
"""
    )


def test_finaliser_may_resurrect_the_object():
    died(
        """
class Collects:
    def __del__(self): gc.collect()
for cls, args in tried():
    saved = []
    class Sub(cls):
        def __del__(self):
            gc.collect()
            saved.append(self)
    for cycle in False, True:
        obj = Sub(*args)
        obj.attribute, watch = Collects(), weakref.ref(obj)
        if cycle: obj.me = obj
        del obj
        while not saved: gc.collect()
        assert "Sub" in repr(saved[0]) and saved[0].attribute is not None
        gc.collect()
        saved.pop()
        for _ in range(3): gc.collect()
        assert watch() is None and not saved
"""
    )


def test_attributes_of_dying_objects_may_make_new_ones():
    died(
        """
class Makes:
    def __init__(self, make): self.make = make
    def __del__(self):
        for _ in range(3): made.append(self.make())
        gc.collect()
for cls, args in tried():
    made = []
    class Sub(cls): pass
    for _ in range(5):
        obj = Sub(*args)
        obj.attribute = Makes(lambda: cls(*args))
        del obj
    assert len(made) == 15
    for obj in made: repr(obj)
"""
    )


def test_pools_die_while_others_collect():
    died(
        """
import threading, time
class Collects:
    def __del__(self): gc.collect()
class Sub(Pool): pass
dropped = ShardedCounter()
def drop(item):
    dropped.add()
def collect():
    while not stop:
        gc.collect()
        time.sleep(0.0001)
stop, made = False, 0
threads = [threading.Thread(target=collect) for _ in range(2)]
for thread in threads: thread.start()
end = time.monotonic() + 2
while time.monotonic() < end:
    for n in range(20):
        pool = Sub(list, drop=drop)
        if n % 4 == 0: pool.attribute = Collects()
        if n % 4 == 1: pool.put(pool)
        for _ in range(5): pool.put([])
        made += 5 + (n % 4 == 1)
    del pool
stop = True
for thread in threads: thread.join()
for _ in range(3): gc.collect()
assert dropped.value() == made, (dropped.value(), made)
"""
    )


def test_pool_dies_while_a_collection_drops_its_items():
    died(
        """
import threading
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
for n in range(5): pool.put(n)
def collect():
    for _ in range(3): gc.collect()
thread = threading.Thread(target=collect)
thread.start()
assert dropping.wait(30)
del pool
assert watch() is None
others = [Pool(list) for _ in range(1000)]
# The collection is still in the pool's memory.
assert nogil_sync.backend != "native" or address not in map(id, others)
for other in others: other.put([])
go_on.set()
thread.join()
assert sorted(dropped) == [0, 1, 2, 3, 4]
for _ in range(3): gc.collect()
assert [other.idle() for other in others] == [0] * 1000
assert function() is None
"""
    )


def test_drop_is_not_called_once_garbage_is_cleared():
    # Finalisers put items into pools that had their end already. In one of the rounds the collector
    # clears the function before the pools: the order is that of their memory.
    died(
        """
dropped, ended, in_time = [], set(), []
class Late(Pool):
    __slots__ = ()
    def __del__(self):
        for pool in self.get():
            if pool.idle() == 0: ended.add(id(pool))
            if id(pool) not in ended: in_time.append(1)
            for _ in range(3): pool.put(1)
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
    others = make(n % 2 * 2000)
    for each in dropped, ended, in_time: each.clear()
    gc.collect()
    # An item that was put after the pool had its end goes without.
    assert len(dropped) == 21 + 3 * len(in_time)
"""
    )


def test_drop_is_not_called_as_garbage_is_cleared():
    # An object that the collector does not know dies as the one that holds it is cleared. Its
    # finaliser puts an item into a pool that had its end and is not yet cleared. Holders are of two
    # sizes, since the collector clears objects in the order of their memory.
    died(
        """
import ctypes
class Cleared:
    __slots__ = ()
    def __del__(self): cleared.append(1)
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
def make():
    global address
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
    assert cleared and dropped == ["early"], dropped
    in_time += len(puts)
assert in_time or nogil_sync.backend != "native"  # there a pool dies in another order
"""
    )


def test_drop_gets_the_items_of_a_pool_in_a_cycle():
    died(
        """
dropped = []
class Node: pass
def make():
    node = Node()
    def drop(item):
        assert node.pool is not None and node.name == "node"
        dropped.append(item)
    node.name, node.pool = "node", Pool(list, drop=drop)
    for n in range(5): node.pool.put(n)
    node.pool.put([node])
for _ in range(3):
    make()
    gc.collect()
    assert [each for each in dropped if each in range(5)] and len(dropped) == 6, dropped
    dropped.clear()
"""
    )


def test_pool_in_a_cycle_is_finalised_once():
    died(
        """
dropped, saved = [], []
class Saves:
    def __del__(self): saved.append(self.pool)
class Node: pass
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
    assert not dropped and pool.idle() == 0
    with pool.use() as item: item.append(1)
    pool.put("cleared")
    pool.clear()
    assert dropped == ["cleared", [1]]
    dropped.clear()
    pool.put("kept")
    if not by_count: pool.put(pool)
    watch = weakref.ref(pool)
    del pool
    for _ in range(3): gc.collect()
    assert watch() is None
    assert dropped == []
"""
    )


@pytest.mark.skipif(not NATIVE, reason="about objects of the C code")
def test_finalisers_of_pools_may_be_called_by_hand():
    died(
        """
dropped = []
pools = [Pool(list, drop=dropped.append) for _ in range(5)]
for pool in pools: pool.put(1)
ends = [each for each in gc.get_objects() if type(each).__name__ == "PoolEnd"]
assert len(ends) == 5
for _ in range(3):
    for end in ends: end.__del__()
assert not dropped and all(pool.idle() for pool in pools)
del pools[:], pool
assert len(dropped) == 5
others = [Pool(list, drop=dropped.append) for _ in range(5)]
for pool in others: pool.put(2)
for end in ends: end.__del__()
cycle = [ends]
cycle.append(cycle)
del cycle, ends, end
gc.collect()
assert len(dropped) == 5 and all(pool.idle() for pool in others)
"""
    )


@pytest.mark.skipif(not NATIVE, reason="the interpreter empties what is written in Python, then")
@pytest.mark.parametrize("lock", ["", "threading.Lock()", "threading.RLock()", "RWMutex().write"])
def test_cond_is_cleared_while_a_thread_waits_in_it(lock):
    # A thread gets hold of a Cond that the collector has found to be garbage: before 3.14 through
    # a weak reference that a finaliser made. Frozen objects die in the midst of the clearing.
    done = died(
        f"""
import sys, threading, time
from operator import call
results, threads = [], []
def use(cond):
    cond.acquire()
    inside.set()
    results.append(cond.wait(0.3))
    if not {lock!r}: assert "Mutex object" in repr(cond)
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
    cond = Cond({lock})
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
"""
    )
    print(done.stdout.splitlines()[-3:])


WAITS = {
    "Cond()": ("acquire()", "wait(0.3)"),
    "Cond(threading.Lock())": ("acquire()", "wait(0.3)"),
    "Cond(threading.RLock())": ("acquire()", "wait(0.3)"),
    "Cond(RWMutex().write)": ("acquire()", "wait_for(bool, 0.3)"),
    "Cond(RWMutex().read)": ("acquire()", "wait(0.3)"),
    "Mutex()": ("acquire()", "acquire(timeout=0.3)"),
    "RWMutex().write": ("acquire()", "acquire(timeout=0.3)"),
    "Semaphore(0)": ("available()", "acquire(timeout=0.3)"),
    "Event()": ("is_set()", "wait(0.3)"),
    "WaitGroup()": ("add()", "wait(0.3)"),
    "Channel()": ("closed()", "recv(0.3)"),
}


@pytest.mark.skipif(NATIVE, reason="objects of the C code keep what a thread waits for")
@pytest.mark.parametrize("in_main_thread", [False, True])
@pytest.mark.parametrize("make", WAITS)
def test_collector_clears_object_that_a_thread_waits_for(make, in_main_thread):
    # As in the test above; here the slots are emptied as the collector does it, and surely.
    before, wait = WAITS[make]
    died(
        f"""
import threading, time, types
def slots(obj):
    for cls in type(obj).__mro__:
        for each in vars(cls).values():
            if isinstance(each, types.MemberDescriptorType):
                yield each
def parts(obj):
    found = [obj]
    for each in found:
        for slot in slots(each):
            part = getattr(each, slot.__name__, None) if slot.__name__[:2] != "__" else None
            part = part or getattr(each, "_" + slot.__objclass__.__name__ + slot.__name__, None)
            module = type(part).__module__
            if module.startswith("nogil_sync") and module != "nogil_sync._common.guard":
                if not any(part is other for other in found): found.append(part)
    return found
thing = {make}
thing.{before}
emptied = parts(thing)
assert len(emptied) > 1 or {make!r} in ("Mutex()", "Event()", "WaitGroup()"), emptied
over = []
def use():
    begun.set()
    # The holder of a Cond's lock is the thread that waits.
    if "RLock" in {make!r}: thing.acquire()
    try: thing.{wait}
    except Exception as error: print(repr(error))
    over.append(1)
def empty():
    begun.wait(30)
    time.sleep(0.1)
    for each in emptied:
        for slot in slots(each):
            try: slot.__delete__(each)
            except (AttributeError, TypeError): pass
if "RLock" in {make!r}: thing.release()
begun = threading.Event()
first, second = (empty, use) if {in_main_thread} else (use, empty)
thread = threading.Thread(target=first, daemon=True)
thread.start()
second()
thread.join(30)
assert over
""",
        timeout=40,
    )
