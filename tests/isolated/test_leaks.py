"""Nothing grows: threads that come and go, objects made and dropped, errors raised."""

import gc
import sys
import threading
import time
import tracemalloc

import pytest
from marks import watches_memory
from processes import in_own_process
from support import CLASSES, COUNTERS, NATIVE, make, malloced, many, resident, run_threads
from waits import WAITS, WaitTrial

import nogil_sync
from nogil_sync import (
    AtomicInt64,
    AtomicRef,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RWMutex,
    Semaphore,
    ShardedCounter,
    SyncMap,
    TaskGroup,
    Ticker,
    after,
    cached,
    once,
    once_property,
    select,
    try_select,
)

pytestmark = pytest.mark.thread_unsafe(reason="measures the process")

DEBUG = hasattr(sys, "gettotalrefcount")


@watches_memory
@pytest.mark.parametrize("cls", COUNTERS)
@in_own_process(timeout=150)
def test_counters_do_not_grow_with_ten_thousand_threads(cls):
    c = cls()

    def run_threads_of(n):
        for _ in range(n // 20):
            threads = [threading.Thread(target=c.add) for _ in range(20)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()

    run_threads_of(many(2000))
    before = resident()
    run_threads_of(many(8000))
    grown = resident() - before
    assert c.value() == many(10000), c
    print("grown by", grown, "size", sys.getsizeof(c))
    # As many cells as threads lived, or had not quite ended, at the same time.
    assert sys.getsizeof(c) < 50_000
    assert grown < 2_000_000, grown
    assert c.reset() == many(10000)
    assert c.value() == 0


def steady(action, times=300, *, slack=30, rounds=4):
    """The action, done again and again, leaves no memory or references behind."""

    def measure():
        gc.collect()
        gc.collect()
        return sys.gettotalrefcount() if DEBUG else tracemalloc.get_traced_memory()[0]

    if not DEBUG:
        tracemalloc.start()
    try:
        for _ in range(times):
            action()
        growth = []
        for _ in range(rounds):
            before = measure()
            for _ in range(times):
                action()
            growth.append(measure() - before)
            # A leak shows in every round; caches and counts of other threads do not.
            if growth[-1] < times * (1 if DEBUG else slack):
                return
    finally:
        tracemalloc.stop()
    raise AssertionError(f"grows by {growth} in {times} rounds")


@pytest.mark.parametrize("cls", CLASSES)
def test_making_and_dropping_leaks_nothing(cls):
    steady(lambda: make(cls))


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_leak_nothing(cls):
    def action():
        obj = make(cls)
        for call in (
            lambda: obj.__init__(),
            lambda: cls(1, 2, 3),
            lambda: cls(1, 2, 3, nothing=1),
            lambda: cls.__new__(cls).nothing(),
            lambda: obj.__reduce__(),
        ):
            with pytest.raises((TypeError, RuntimeError, AttributeError)):
                call()
        repr(cls.__new__(cls))

    steady(action, 60, slack=100)


def test_operations_leak_nothing():
    a, r, c = AtomicInt64(), AtomicRef(), ShardedCounter()
    m, e = Mutex(), Event()

    def action():
        a.add(10**15)
        a.compare_and_swap(a.load(), 2**62)
        a.fetch_max(2**63 - 1)
        r.store([object()])
        r.swap({})
        r.compare_and_swap(r.load(), [1])
        r.update(lambda x: [*x, 2])
        r.load()
        c.add(2**40)
        c.value()
        c.reset()
        with m:
            m.acquire(timeout=0.0)
            m.acquire(False)
        with pytest.raises(RuntimeError):
            m.release()
        with pytest.raises(OverflowError):
            a.add(2**70)
        with pytest.raises(TypeError):
            a.compare_and_swap(1, None)
        e.set()
        e.wait(1)
        e.clear()
        e.wait(0)
        repr((a, r, c, m, e))

    steady(action, 100, slack=100)


class Lazy:
    @once_property
    def value(self):
        return [self]

    @once_property
    def failing(self):
        raise LookupError


def test_once_leaks_nothing():
    def fails():
        raise LookupError

    def calls_itself():
        f()

    f = None

    def action():
        nonlocal f
        f = once(lambda: [1])
        f()
        f()
        repr(f)
        o = Once()
        o.do(dict, x=o)
        lazy = Lazy()
        lazy.value.append(lazy)
        failing = once(fails)
        retried = once(fails, retry=True)
        for call in (failing, failing, retried, retried, lambda: lazy.failing):
            with pytest.raises(LookupError):
                call()
        f = once(calls_itself)
        with pytest.raises(RuntimeError):
            f()
        with pytest.raises(TypeError):
            once(Lazy.value.func)
        with pytest.raises(TypeError):
            f(1)

    steady(action, 100, slack=100)


def test_once_by_many_threads_leaks_nothing():
    def action():
        f, failing, lazy = once(lambda: time.sleep(0.0005)), Once(), Lazy()

        def work():
            f()
            with pytest.raises(TypeError):
                failing.do(len)
            assert lazy.value

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    steady(action, 30, slack=300)


@in_own_process  # other threads that have used a map put off what is freed
def test_maps_leak_nothing():
    m = SyncMap()

    def action():
        for key in ("k", 10**9, (1, [2][0]), frozenset([m is None])):
            m[key] = [key]
            m.swap(key, [m[key]])
            m.insert(key, [1])
            m.setdefault(key, [1])
            m.compare_and_swap(key, m.get(key), [2])
            m.modify(key, lambda old: [old], None)
            m.load_or_compute((key, 1), lambda: [3])
            m.compare_and_delete((key, 1), [3])
            assert key in m
        m["me"] = [m, m.keys(), iter(m)]
        for each in (m.copy(), m.snapshot(), m | {"x": 1}, list(m.items()), repr(m), m == {}):
            assert each is not None
        for wrong in (
            lambda: m[[]],
            lambda: m["missing"],
            lambda: m.insert(m, 1),
            lambda: m.load_or_compute("missing", len),
            lambda: m.modify("missing", len, 1),
            lambda: m.update(5),
            lambda: SyncMap([1]),
        ):
            with pytest.raises((TypeError, KeyError)):
                wrong()
        m.popitem()
        m.pop("k", None)
        m.clear()
        node = SyncMap()
        node["me"] = node
        node.load_or_compute("k", lambda: node)

    steady(action, 60)


CALLS_OF_PYTHON_CODE = {
    "Cond over a Lock": lambda cond=Cond(threading.Lock()): cond.acquire() and cond.release(),
    "SyncMap(pairs)": lambda: SyncMap([("k", 1)]),
    "cached, called with a name": lambda f=cached(lambda n: n): f(n=1),
    "try_select of a Ticker": lambda ticker=Ticker(1000): try_select(ticker),
    "Once, not done": lambda cell=Once(): cell.done(),
}


@pytest.mark.parametrize("name", CALLS_OF_PYTHON_CODE)
def test_calls_of_python_code_leave_no_strings(name):
    # A new string for a method's name would stay in the interpreter's cache of methods, at first:
    # after some hundred calls each replaces another one.
    steady(CALLS_OF_PYTHON_CODE[name], 30, slack=5, rounds=2)


@pytest.mark.parametrize("name", WAITS)
def test_waits_leak_nothing(name):
    trial = WaitTrial(name)

    def action():
        assert trial.call(0.0001) == trial.timed_out

    steady(action, 100, slack=50)


@pytest.mark.skipif(not malloced(), reason="the C library does not tell")
@pytest.mark.skipif(not NATIVE, reason="about memory that is not Python's")
@pytest.mark.parametrize("name", WAITS)
def test_timed_out_waits_free_their_nodes(name):
    # They are not from Python's allocators, so tracemalloc does not see them.
    trial, allocated = WaitTrial(name), malloced()
    growth = []
    for _ in range(4):
        before = allocated()
        for _ in range(200):
            assert trial.call(0.0001) == trial.timed_out
        growth.append(allocated() - before)
    assert min(growth) < 200 * 50, growth


@pytest.mark.parametrize("name", WAITS)
def test_served_waits_leak_nothing(name):
    trial = WaitTrial(name)

    def action():
        timer = trial.serve_soon(0)
        assert trial.call() == trial.served
        timer.join()
        trial.reset()
        if name == "RLock.acquire":
            del trial.x.threads[:-1]

    steady(action, 60, slack=200)


def test_selects_leak_nothing():
    c, full, ended = Channel(2), Channel(1), Channel()
    full.send([0])
    ended.close()
    ready = Event()
    ready.set()

    def action():
        c.send([1])
        select(c, Event(), full.sending([2]))
        select(c.sending([3]), full.sending([4]))
        c.recv()
        select(ready, c)
        select(ended)
        try_select(*[c] * 20)
        repr((c.sending([5]), c.sender()))
        with Channel().sender() as out:
            out.try_send([6])
        for wrong in (
            lambda: select(),
            lambda: select(c, 5),
            lambda: select(c, timeout="x"),
            lambda: select(ended.sending([7])),
            lambda: select(full.sending([8]), c, after(60), timeout=0.0001),
            lambda: select(after(0.0001), c) and select(c, timeout=0),
            lambda: c.sender().__exit__(),
        ):
            with pytest.raises((ValueError, TypeError, ChannelClosed, TimeoutError, RuntimeError)):
                wrong()

    steady(action, 60)


def test_selects_that_wait_for_each_other_leak_nothing():
    c, d = Channel(), Channel()

    def action():
        thread = threading.Thread(target=lambda: select(c, d, c.sending([1]), d.sending([2])))
        thread.start()
        select(c, d, c.sending([3]), d.sending([4]))
        thread.join()

    steady(action, 60, slack=200)


def test_cancelled_waits_leak_nothing():
    c = Channel()

    def action():
        with TaskGroup() as group:
            for wait in (c.recv, Event().wait, Semaphore(0).acquire):
                group.go(wait)
            group.go(select, c.sending([1]), Channel(), Event(), after(60))
            group.cancel()

    steady(action, 60, slack=400)


def test_collected_cycles_leak_nothing():
    class Node:
        pass

    def action():
        node = Node()
        node.ref = AtomicRef([node])
        node.ref.store([node.ref, node])

    steady(action)


def test_cycles_through_a_cond_leak_nothing():
    class Lock:
        acquire = release = int

    def action():
        lock = Lock()
        lock.cond = Cond(lock)
        lock.views = Cond(RWMutex().read), Semaphore(1).hold()

    steady(action)


def test_pools_leak_nothing():
    class Own(Pool):
        def __init__(self):
            super().__init__(self.make, drop=self.leave)

        def make(self):
            return [self]

        def leave(self, item):
            pass

    def refuses(item):
        raise LookupError

    def action():
        pool = Pool(list, drop=id, max_idle=30)
        for _ in range(60):
            pool.put(pool.get())
            pool.put([pool])
        with pool.use() as item:
            item.append(item)
        with pytest.raises(LookupError), pool.use():
            raise LookupError
        refusing = Pool(list, reset=refuses)
        with pytest.raises(LookupError):
            refusing.put([refusing])
        own = Own()
        own.put(own.get())
        own.use().__enter__()
        pool.clear()
        pool.put(pool.use())

    steady(action, 60, slack=400)


def test_ageing_pools_leak_nothing():
    pool = Pool(list)

    def action():
        for _ in range(20):
            pool.put([])
        for _ in range(3):
            gc.collect()
        assert pool.idle() == 0

    steady(action, 10, slack=2000)


@watches_memory
@in_own_process(timeout=150)
def test_pool_does_not_grow_with_ten_thousand_threads():

    made = ShardedCounter()

    def new():
        made.add()
        return bytearray(10_000)

    pool = Pool(new)

    def work():
        items = [pool.get() for _ in range(5)]
        for item in items:
            pool.put(item)

    def run_threads_of(n):
        for _ in range(n // 20):
            threads = [threading.Thread(target=work) for _ in range(20)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()

    run_threads_of(many(2000))
    before = resident()
    run_threads_of(many(8000))
    grown = resident() - before
    print("grown by", grown, "made", made.value(), "size", sys.getsizeof(pool))
    assert grown < 4_000_000, grown
    assert sys.getsizeof(pool) < 50_000


def test_channels_leak_nothing():
    def action():
        c, open_ = Channel(3), Channel()
        for n in range(7):  # into the third lap
            c.send([n, c])
            c.try_send([open_])
            while len(c) > 1:
                c.recv()
        while c.try_send([0]):
            pass
        for refused in (lambda: c.send([1], 0), lambda: open_.send([1], 0), lambda: open_.recv(0)):
            with pytest.raises(TimeoutError):
                refused()
        c.close()
        with pytest.raises(ChannelClosed):
            c.send([1])
        c.recv()
        repr(c)

    steady(action, 100, slack=100)


def test_items_passed_between_threads_leak_nothing():
    # References of other threads are counted in another way than those of the owner.
    c, results = Channel(4), Channel()

    def action():
        def send():
            for n in range(50):
                c.send([n])
            results.send("sent")

        threads = [threading.Thread(target=send), threading.Thread(target=send)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            c.recv()
        with pytest.raises(TimeoutError):
            results.send([1], 0)
        assert [results.recv(), results.recv()] == ["sent", "sent"]
        for thread in threads:
            thread.join()

    steady(action, 40, slack=300)


def test_waits_of_other_threads_leak_nothing():
    m, e = Mutex(), Event()

    def action():
        m.acquire()
        threads = [threading.Thread(target=f) for f in (m.acquire, e.wait)]
        for thread in threads:
            thread.start()
        m.release()
        e.set()
        for thread in threads:
            thread.join()
        m.release()
        e.clear()

    steady(action, 60, slack=200)


def test_pin_all_of_immortals_leaks_nothing():
    steady(lambda: nogil_sync.pin_all([None, 1, ()]))
    steady(lambda: nogil_sync.is_pinned(object()))


@watches_memory
def test_shared_objects_free_their_memory():
    allocated = malloced() or resident

    def action():
        for _ in range(50):
            c = ShardedCounter()
            run_threads(c.add, times=2)
            c.add()
            assert c.value() == 3
            rw = RWMutex()
            with rw.read, rw.read:
                pass

    growth = []
    while not growth or growth[-1] > 20_000:  # 200 counters whose cells leak grow by more each time
        assert len(growth) < 6, growth
        gc.collect()
        before = allocated()
        for _ in range(4):
            action()
        gc.collect()
        growth.append(allocated() - before)
