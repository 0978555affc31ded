"""Threads that end in the middle of something, in every way, and the threads after them."""

import _thread
import gc
import threading
import time

from marks import starts_processes, watches_memory
from processes import in_own_process
from support import many, resident

from nogil_sync import (
    AtomicInt64,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    RWMutex,
    Semaphore,
    ShardedCounter,
    ShardedFloatCounter,
    SyncMap,
    TaskGroup,
    WaitGroup,
)

pytestmark = starts_processes


class ThreadError(Exception):
    """What a thread raises that ends by an exception."""


def returns():
    return


def raises():
    raise ThreadError


def raises_system_exit():
    raise SystemExit


def calls_thread_exit():
    _thread.exit()


WAYS = (returns, raises, raises_system_exit, calls_thread_exit)


def run_thread(function, *args):
    """Run the function in a thread until that ends; its exception is not printed."""
    threading.excepthook = lambda args: None
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


@in_own_process
def test_thread_that_ends_in_a_with_gives_back():
    # `with` releases, however its body ends.
    m, rw, s, k, g = Mutex(), RWMutex(), Semaphore(3), Cond(), WaitGroup()
    pool = Pool(list)
    for way in WAYS:

        def body(with_, then=way):
            with with_:
                then()

        for with_ in (m, rw.read, rw.write, s, k):
            for _ in range(3):
                run_thread(body, with_)
        for n in 1, 2, 3:
            run_thread(body, s.hold(n))

        def use():
            with pool.use():
                way()

        run_thread(use)
        ch = Channel(3)
        run_thread(body, ch)
        assert ch.closed()
        g.add()

        def counted():
            try:
                way()
            finally:
                g.done()

        run_thread(counted)
        assert not (m.locked())
        assert not (rw.read.locked())
        assert not (rw.write.locked())
        assert not (k.locked())
        assert s.available() == 3
        assert g.wait(0)
        # An item is dropped if the body of `with` raised.
        assert pool.idle() == (way is returns)
        pool.clear()
    with m, rw.write, s.hold(3), k:
        pass


@in_own_process
def test_what_an_ended_thread_held_stays_held():
    # What a thread acquired and did not release stays held; any thread may release it.
    for way in WAYS:
        m, rw, s, k, g = Mutex(), RWMutex(), Semaphore(5), Cond(), WaitGroup()

        def take():
            m.acquire()
            k.acquire()
            s.acquire(n=2)
            rw.read.acquire()
            g.add()
            way()

        run_thread(take)
        assert m.locked()
        assert k.locked()
        assert rw.read.locked()
        assert s.available() == 3
        assert not m.acquire(timeout=0.001)
        assert not g.wait(0.001)
        assert not rw.write.acquire(timeout=0.001)
        # Other threads read and end, perhaps in the slot of the one that ended.
        for _ in range(5):
            run_thread(
                lambda: [rw.read.acquire(), rw.read.acquire(), rw.read.release(), rw.read.release()]
            )
        assert not rw.write.acquire(timeout=0.001)
        run_thread(lambda: [m.release(), k.release(), s.release(2), rw.read.release(), g.done()])
        for call in (m.release, k.release, s.release, rw.read.release, rw.write.release, g.done):
            try:
                call()
            except (RuntimeError, ValueError):
                pass
            else:
                raise AssertionError(call)
        with m, k, rw.write, s.hold(5):
            assert g.wait()
        # Twenty readers that end, and one thread that releases all their holds.
        for _ in range(20):
            run_thread(lambda: [rw.read.acquire(), way()])
        for _ in range(20):
            assert not rw.write.acquire(False)
            rw.read.release()
        assert rw.write.acquire(False)


@in_own_process
def test_thread_that_ends_in_a_run_lets_the_next_one_run():
    # A run that ends by SystemExit settles nothing; the next caller runs, even in a thread with the
    # same identity, which is not taken for a recursive call.
    seen = set()
    for way in (raises_system_exit, calls_thread_exit):
        for _ in range(20):
            o, x, calls = Once(), SyncMap(), []

            def first():
                seen.add(threading.get_ident())
                calls.append(1)
                way()

            run_thread(lambda: o.do(first))
            run_thread(lambda: x.load_or_compute("k", first))
            assert calls == [1, 1]
            assert not o.done()
            assert len(x) == 0
            results = []

            def second():
                seen.add(threading.get_ident())
                results.append((o.do(int), x.load_or_compute("k", int)))

            run_thread(second)
            assert results == [(0, 0)]
    assert len(seen) < 120  # identities came again


@in_own_process
def test_thread_that_ends_in_a_run_lets_waiters_run():
    o, x = Once(), SyncMap()
    begun, go, results = threading.Semaphore(0), Event(), []

    def first():
        begun.release()
        go.wait()
        raise SystemExit

    def both(call):
        begun.acquire()
        results.append(call(int))

    threads = [
        threading.Thread(target=f, args=a)
        for f, a in (
            (o.do, (first,)),
            (x.load_or_compute, ("k", first)),
            (both, (o.do,)),
            (both, (lambda f: x.load_or_compute("k", f),)),
        )
    ]
    for t in threads:
        t.start()
    time.sleep(0.1)
    go.set()
    for t in threads:
        t.join(30)
    assert results == [0, 0]
    assert o.done()
    assert x == {"k": 0}


@in_own_process
def test_thread_that_ends_in_a_task():
    for way in raises_system_exit, calls_thread_exit:
        done = []
        try:
            with TaskGroup(limit=2) as group:
                group.go(way)
                group.go(done.append, 1)
        except SystemExit:
            pass
        else:
            raise AssertionError
        assert group.cancelled()
    g = WaitGroup()
    for way in WAYS:
        g.go(way)
    assert g.wait(30)
    for t in threading.enumerate():
        assert t is threading.current_thread() or t.join(30) is None


@in_own_process
def test_iterator_outlives_the_thread_that_began_it():
    # The iterator goes on in another thread, or is never used again.
    m = SyncMap((n, [n]) for n in range(3000))
    ch = Channel(3000)
    for n in range(3000):
        ch.send(n)
    ch.close()
    for way in WAYS:
        box = []

        def begin(iterator):
            box.append((iterator, [next(iterator) for _ in range(100)]))
            del iterator
            way()

        run_thread(begin, iter(m))
        run_thread(begin, iter(m.items()))
        run_thread(begin, iter(ch))
        run_thread(lambda: [next(iter(m)) for _ in range(10)] and way())
        (keys, some_keys), (items, some_items), _ = box
        for n in range(3000, 6000):
            m[n] = [n]
        results = []
        run_thread(lambda: results.extend((list(keys), list(items))))
        assert set(some_keys + results[0]) >= set(range(3000))
        assert len(set(some_keys + results[0])) == len(some_keys + results[0])
        assert {k for k, _ in some_items + results[1]} >= set(range(3000))
        for n in range(3000, 6000):
            del m[n]
        keys = items = box = None
    assert list(ch) == list(range(400, 3000))


@in_own_process
def test_items_of_pools_outlive_their_threads():
    made, gone = [], []

    def new():
        made.append([])
        return made[-1]

    pool = Pool(new, drop=gone.append, age=False)
    for way in WAYS:
        for n in range(1, 12):

            def use():
                items = [pool.get() for _ in range(n)]
                for item in items:
                    pool.put(item)
                pool.get()  # and never put back
                way()

            before = pool.idle()
            run_thread(use)
            assert pool.idle() == max(before, n) - 1
    # The main thread gets them all.
    left = pool.idle()
    got = [pool.get() for _ in range(left)]
    assert len({id(item) for item in got}) == left
    assert pool.idle() == 0
    assert not gone


@in_own_process
def test_finalisers_use_objects_as_a_thread_ends():
    # Thread-local objects die with the thread's state, when its slot may have been given back.
    c, f, a = ShardedCounter(), ShardedFloatCounter(), AtomicInt64()
    m, rw, s, k, e = Mutex(), RWMutex(), Semaphore(2), Cond(), Event()
    x, ch, pool, g, o = SyncMap(), Channel(1000), Pool(list, age=False), WaitGroup(), Once()
    errors = []

    class Last:
        def __del__(self):
            try:
                c.add()
                f.add(0.5)
                n = a.add()
                with m, rw.write, s, k:
                    k.notify()
                with rw.read:
                    pass
                e.set()
                e.wait()
                k.acquire()
                k.wait(0.0001)
                k.release()
                x[n] = n
                x.load_or_compute(-n, int)
                x.pop(-n)
                ch.send(n)
                pool.put([n])
                pool.put(pool.get())
                with pool.use():
                    pass
                g.add()
                g.done()
                assert g.wait()
                assert o.do(int) == 0
            except BaseException as error:
                errors.append(error)

    local = threading.local()

    def work(k):
        local.first = Last()
        if k % 2:
            c.add(0)
            pool.get()
            x.get(1)
        local.second = Last()

    for _ in range(50):
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(30)
    for _ in range(3):
        gc.collect()
    assert errors == [], errors
    n = a.load()
    assert n == 400 == c.value() == len(x) == len(ch)
    assert f.value() == 200
    assert pool.idle() > 0
    assert s.available() == 2
    assert not (m.locked())
    assert not (rw.read.locked())
    assert not (rw.write.locked())
    assert not (k.locked())


@watches_memory
@in_own_process(timeout=150)
def test_ten_thousand_threads_through_all_objects_leak_nothing():
    x, ch, small, rw, m = SyncMap(), Channel(64), Channel(), RWMutex(), Mutex()
    s, pool, g, e, c = Semaphore(5), Pool(list), WaitGroup(), Event(), ShardedCounter()
    e.set()
    idents = set()

    def give(n):
        idents.add(threading.get_ident())
        x[n] = [n]
        with rw.read, s:
            assert x.load_or_compute("all", list) == []
        ch.send(n)
        small.send(n, 30)
        with pool.use() as item:
            item.append(n)
        c.add()
        g.done()

    def take(n):
        with m, rw.write:
            e.wait()
        got.append((ch.recv(30), small.recv(30)))
        x.pop(n, None)
        with pool.use() as item:
            item.append(n)
        g.done()

    def run_pairs(n):
        for i in range(0, n, 10):
            g.add(10)
            threads = [
                threading.Thread(target=f, args=(i + k,)) for k in range(5) for f in (give, take)
            ]
            for t in threads:
                t.start()
            for t in threads:
                t.join(30)
            assert g.wait(30)
        for key in list(x):
            x.pop(key)

    got = []
    run_pairs(many(2000))
    before = resident()
    run_pairs(many(8000))
    grown = resident() - before
    assert c.value() == many(5000) == len(got)
    assert sorted(a for a, _ in got) == sorted(b for _, b in got)
    assert len(ch) == 0
    assert not x
    assert s.available() == 5
    assert pool.idle() <= 10
    print("grown by", grown, "with", len(idents), "identities")
    assert grown < 6_000_000, grown
