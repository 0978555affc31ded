"""Objects that threads use often defer their reference counts, those used briefly do not."""

import ctypes
import gc
import sys
import threading
import weakref
from functools import partial
from typing import Any

import pytest
from marks import starts_threads
from support import CLASSES, NATIVE, background, collect_often, make, run_threads

from nogil_sync import (
    AtomicBool,
    AtomicInt32,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    AtomicUint64,
    Barrier,
    Cache,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RLock,
    RWMutex,
    Semaphore,
    ShardedCounter,
    ShardedFloatCounter,
    SyncMap,
    TaskGroup,
    WaitGroup,
    cached,
    once,
)

pytestmark = [
    starts_threads,
    pytest.mark.skipif(not NATIVE, reason="standard builds have no deferred counts"),
]
defers = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="3.13 cannot defer the counts of our objects"
)

OFTEN = 3000  # more uses than it takes
DEFERRED = 64
GC_BITS = 11  # where the collector's bits stand in an object


def is_deferred(obj):
    return bool(ctypes.c_uint8.from_address(id(obj) + GC_BITS).value & DEFERRED)


def with_(lock):
    with lock:
        pass


def acquire(lock):
    lock.acquire()
    lock.release()


def get_and_put(pool):
    pool.put(pool.get())


def send_and_receive(channel):
    channel.send(None)
    channel.recv()


def add_and_done(group):
    group.add()
    group.done()


def set_event():
    event = Event()
    event.set()
    return event


def filled_map():
    return SyncMap({"key": None})


def filled_cache():
    cache = Cache(10)
    cache["key"] = None
    return cache


def cached_function():
    function = cached(lambda _: None)
    function("key")
    return function


def settled():
    cell = Once()
    cell.do(int)
    return cell


@once
def settled_function():
    return None


def fresh_once():
    function = once(lambda: None)
    function()
    return function


USES: dict[str, Any] = {
    "ShardedCounter.add": (ShardedCounter, lambda c: c.add()),
    "ShardedFloatCounter.add": (ShardedFloatCounter, lambda c: c.add(1.0)),
    **{
        f"{cls.__name__}.load": (cls, lambda a: a.load())
        for cls in (AtomicInt64, AtomicUint64, AtomicInt32, AtomicUint32, AtomicBool, AtomicRef)
    },
    "AtomicInt64.add": (AtomicInt64, lambda a: a.add()),
    "AtomicRef.swap": (AtomicRef, lambda a: a.swap(None)),
    "AtomicBool.swap": (AtomicBool, lambda a: a.swap(True)),
    "Event.is_set": (Event, Event.is_set),
    "Event.wait": (set_event, Event.wait),
    "with Mutex": (Mutex, with_),
    "Mutex.acquire": (Mutex, acquire),
    "with RLock": (RLock, with_),
    "with Cond": (Cond, with_),
    "with Semaphore": (Semaphore, with_),
    "Semaphore.hold": (Semaphore, lambda s: with_(s.hold())),
    "WaitGroup.add": (WaitGroup, add_and_done),
    "Barrier.wait": (lambda: Barrier(1), Barrier.wait),
    "Channel": (lambda: Channel(1), send_and_receive),
    "Pool.get": (lambda: Pool(list), get_and_put),
    "Pool.use": (lambda: Pool(list), lambda p: with_(p.use())),
    "SyncMap[]": (filled_map, lambda m: m["key"]),
    "SyncMap.get": (filled_map, lambda m: m.get("key")),
    "iter(SyncMap)": (filled_map, iter),
    "Cache[]": (filled_cache, lambda c: c["key"]),
    "Cache.get": (filled_cache, lambda c: c.get("key")),
    "cached()": (cached_function, lambda f: f("key")),
    "Once.do": (settled, lambda o: o.do(int)),
    "once()": (fresh_once, lambda f: f()),
}
each_use = pytest.mark.parametrize(("made", "use"), USES.values(), ids=USES)


def use_often(obj, use, times=OFTEN):
    for _ in range(times):
        use(obj)


@defers
@each_use
def test_object_used_often_by_another_thread_defers(made, use):
    obj = made()
    run_threads(partial(use_often, obj, use))
    assert is_deferred(obj)
    watch = weakref.ref(obj)
    del obj
    gc.collect()
    assert watch() is None


@each_use
def test_object_used_often_by_its_maker_counts(made, use):
    obj = made()
    use_often(obj, use)
    assert not is_deferred(obj)
    watch = weakref.ref(obj)
    del obj
    assert watch() is None  # without a collection


@each_use
def test_object_used_briefly_by_others_counts(made, use):
    obj = made()
    for _ in range(20):
        run_threads(partial(use_often, obj, use, 5))
    assert not is_deferred(obj)


@defers
@pytest.mark.parametrize("side", ["read", "write"])
def test_rwmutex_defers_with_its_view(side):
    rw = RWMutex()

    def use():
        for _ in range(OFTEN):
            with getattr(rw, side):
                pass

    run_threads(use)
    assert is_deferred(getattr(rw, side))
    assert is_deferred(rw)


@defers
def test_view_outlives_its_rwmutex():
    rw = RWMutex()
    read = rw.read
    watch = weakref.ref(rw)
    del rw
    assert watch() is None
    run_threads(partial(use_often, read, with_))
    assert is_deferred(read)


@defers
def test_rwmutex_dies_as_its_view_begins_to_defer():
    # The thread that uses the view and the one that drops the RWMutex race each other.
    for _ in range(30):
        rw = [RWMutex()]
        read = rw[0].read
        started = threading.Event()

        def use(read=read, started=started):
            started.set()
            use_often(read, with_)

        thread = threading.Thread(target=use)
        thread.start()
        started.wait()
        rw.clear()
        thread.join()
    gc.collect()


def test_views_are_always_the_same():
    rw = RWMutex()
    assert rw.read is rw.read
    assert rw.write is rw.write
    with pytest.raises(AttributeError):
        rw.read = rw.write
    with pytest.raises(AttributeError):
        del rw.read


@pytest.mark.parametrize("cls", CLASSES)
def test_every_type_is_collected(cls):
    assert gc.is_tracked(make(cls))


@defers
def test_deferred_object_in_a_cycle_is_collected():
    class Holder:
        pass

    holder = Holder()
    holder.counter = ShardedCounter()
    holder.me = holder
    run_threads(partial(use_often, holder.counter, ShardedCounter.add))
    watch = weakref.ref(holder.counter)
    del holder
    gc.collect()
    assert watch() is None


# The objects that use(), hold() and iter() return, of owners that defer.

HELPED = {
    "Pool.use": (lambda: Pool(list), lambda p: with_(p.use())),
    "Semaphore.hold": (lambda: Semaphore(9), lambda s: with_(s.hold())),
    "iter(SyncMap)": (filled_map, lambda m: list(iter(m))),
}
each_helped = pytest.mark.parametrize(("made", "use"), HELPED.values(), ids=HELPED)


def deferring(made, use):
    obj = made()
    run_threads(partial(use_often, obj, use))
    assert is_deferred(obj) is (sys.version_info >= (3, 14))
    return obj


@defers
@each_helped
def test_count_of_deferred_owner_stays(made, use):
    obj = deferring(made, use)
    use(obj)  # makes this thread's spare object
    before = sys.getrefcount(obj)
    use_often(obj, use, 100)
    assert sys.getrefcount(obj) == before


@each_helped
def test_owner_with_spare_objects_is_collected(made, use):
    obj = deferring(made, use)
    run_threads(partial(use_often, obj, use, 10), times=4)
    watch = weakref.ref(obj)
    del obj
    gc.collect()
    assert watch() is None


@pytest.mark.skipif(not NATIVE, reason="objects in Python are freed when the interpreter says")
@each_helped
def test_owner_that_does_not_defer_dies_at_once(made, use):
    obj = made()
    use_often(obj, use, 10)
    assert not is_deferred(obj)
    watch = weakref.ref(obj)
    del obj
    assert watch() is None


def test_helpers_outlive_other_references():
    pool = deferring(*HELPED["Pool.use"])
    uses = [pool.use() for _ in range(5)]
    semaphore = deferring(*HELPED["Semaphore.hold"])
    holds = [semaphore.hold() for _ in range(5)]
    m = deferring(*HELPED["iter(SyncMap)"])
    iterators = [iter(m) for _ in range(5)]
    watches = [weakref.ref(each) for each in (pool, semaphore, m)]
    del pool, semaphore, m
    gc.collect()
    for each in uses:
        with each as item:
            assert item == []
    for each in holds:
        with each:
            pass
    assert [list(each) for each in iterators] == [["key"]] * 5
    del uses, holds, iterators, each
    gc.collect()
    assert [watch() for watch in watches] == [None] * 3


@each_helped
def test_helpers_pass_between_threads(made, use):
    obj = deferring(made, use)
    make_helper = {Pool: Pool.use, Semaphore: Semaphore.hold, SyncMap: iter}[type(obj)]
    for _ in range(20):
        handed = [make_helper(obj) for _ in range(50)]
        run_threads(handed.clear)
        run_threads(partial(use_often, obj, use, 50), times=3)
    watch = weakref.ref(obj)
    del obj
    gc.collect()
    assert watch() is None


@defers
@each_helped
def test_each_of_many_threads_has_a_spare_object(made, use):
    obj = deferring(made, use)
    few = sys.getsizeof(obj)
    barrier = threading.Barrier(40)

    def use_together(obj=obj):
        use(obj)
        barrier.wait(30)

    run_threads(use_together, times=40)
    del use_together
    assert sum(each is obj for each in gc.get_referents(obj)) >= 40
    many = sys.getsizeof(obj)
    assert few < many <= few + 64 * (128 + 256)  # the pool has shards as well
    run_threads(partial(use_often, obj, use, 50), times=4)
    assert sys.getsizeof(obj) == many
    watch = weakref.ref(obj)
    del obj
    gc.collect()
    assert watch() is None


@each_helped
def test_helpers_are_used_again_while_others_collect(made, use):
    with background(collect_often):
        for _ in range(5):
            obj = deferring(made, use)
            run_threads(partial(use_often, obj, use, 500), times=3)
            del obj


@each_helped
def test_owner_in_a_cycle_with_its_helper_is_collected(made, use):
    cls = {"Pool.use": Pool, "Semaphore.hold": Semaphore, "iter(SyncMap)": SyncMap}
    name = next(key for key, value in HELPED.items() if value[0] is made)

    class Sub(cls[name]):
        pass

    obj = deferring(lambda: Sub(list) if name == "Pool.use" else Sub(), use)
    obj.helper = {Pool: Pool.use, Semaphore: Semaphore.hold, SyncMap: iter}[cls[name]](obj)
    watch = weakref.ref(obj)
    del obj
    gc.collect()
    assert watch() is None


@defers
def test_group_of_many_tasks_defers():
    with TaskGroup(limit=3) as group:
        tasks = next(each for each in gc.get_referents(group) if type(each).__name__ == "Tasks")
        for _ in range(500):
            group.go(int)
        assert not is_deferred(tasks)
        for _ in range(1500):
            group.go(int)
        assert is_deferred(tasks)
    watch = weakref.ref(group)
    del group
    gc.collect()
    assert watch() is None
