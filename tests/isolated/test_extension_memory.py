"""What the extension asks Python for fails, one allocation after the other.

That is what functions of Python's allocate while one of the extension's is on the stack below them.
Two kinds of requests are not among it, and after neither is anything of ours left to do: a call
in the place of a return, such as of PyLong_FromLong, which compilers make a jump; and the object
itself of a type that leaves making it to Python, as all but the function that `once` returns do.

Python code runs on memory of its own meanwhile: CPython 3.13 itself does not survive without. Its
BUILD_LIST and its dict.setdefault then corrupt memory, and unwinding a long function never ends.
test_memory_errors.py goes as far there as it goes.
"""

import sys

import pytest
from marks import starts_processes
from support import NATIVE

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not NATIVE, reason="there is no extension"),
]

# What is done meanwhile. Each asks for memory somewhere, wrong arguments for that of an exception.
USES = {
    "atomics and counters": [
        "wrong(AtomicInt64, 2**70)",
        "wrong(AtomicInt32, 2**70)",
        "wrong(AtomicBool, 1, 2)",
        "wrong(AtomicRef, 1, 2, 3)",
        "wrong(a.add, 2**70)",
        "wrong(a.add, [])",
        "wrong(a.compare_and_swap, 1)",
        "wrong(u.add, -1)",
        "wrong(u.store)",
        "wrong(b.store)",
        "wrong(b.swap, 1, 2)",
        "wrong(r.compare_and_swap, 1)",
        "wrong(r.update, fails)",
        "wrong(ShardedCounter, 2**70)",
        "wrong(ShardedFloatCounter, [])",
        "wrong(c.add, 2**70)",
        "wrong(d.add, [])",
        "wrong(d.add, 2**4000)",
        "HistogramValue((1, 2))",
        "wrong(HistogramValue, (1, 'x'))",
    ],
    "locks": [
        "RLock()",
        "RWMutex()",
        "s.hold(2, 0.001)",
        "late(s.hold(2, 0.001).__enter__)",
        "wrong(Semaphore, -1)",
        "wrong(m.acquire, False, 5)",
        "wrong(m.acquire, True, -5)",
        "wrong(m2.release)",
        "wrong(rw2.read.release)",
        "wrong(rw.downgrade)",
        "wrong(s.release, 7)",
    ],
    "waits": [
        "Cond()",
        "Cond(m)",
        "wrong(Cond, 5)",
        "wrong(k2.wait)",
        "wrong(k2.notify)",
        "wrong(e.wait, 'long')",
        "wrong(e.wait, float('nan'))",
        "wrong(g.add, -7)",
        "wrong(g.add, 2**31)",
        "g.go(f).join()",
        "Barrier(2, f, 5.0)",
        "(Barrier(1).wait(), Barrier(1, list).wait(), repr(Barrier(2)))",
        "late(Barrier(2).wait, 0.001)",
        "wrong(Barrier(1, fails).wait)",
    ],
    "channels": [
        "Channel(5)",
        "wrong(Channel, -1)",
        "wrong(Channel, 'x')",
        "late(h.recv, 0.001)",
        "late(h.send, 2**62, 0.001)",
        "through(Channel(3))",
        "wrong(full.recv)",
        "wrong(full.send, 1)",
        "wrong(ch.send)",
        "wrong(ch.try_recv, 1, 2)",
    ],
    "selects": [
        "ch.sending(1)",
        "wrong(ch.sending)",
        "ch.sender()",
        "in_turn(Channel(1).sender())",
        "wrong(select)",
        "wrong(select, ch, 5)",
        "wrong(try_select, ch, h, 5)",
        "wrong(select, full.sending(1))",
        "select(full)",
        "try_select(ch, h, e)",
        "try_select(h, h.sending(1), *[e] * 20)",
        "late(lambda: select(h, h.sending(2**62), e, g, timeout=0.001))",
        "kept(Channel(1))",
    ],
    "once": [
        "Once().do(f)",
        "Once(retry=True).do(f)",
        "once(p)()",
        "once(retry=True)(p)()",
        "wrong(Once().do, fails)",
    ],
    "maps": [
        "wrong(SyncMap, 5)",
        "wrong(SyncMap, 1, 2)",
        "wrong(y.__getitem__, 'b')",
        "wrong(y.__delitem__, 'b')",
        "wrong(y.pop, 'b')",
        "wrong(y.insert, 1)",
        "wrong(y.insert, [], 1)",
        "wrong(y.modify, 'a', fails, 0)",
        "(y.load_or_compute('new', p), y.pop('new'))",
        "wrong(y.load_or_compute, 'new', fails)",
        "(list(y), list(y.items()), y.snapshot(), y.copy(), y == y, y | y, {'b': 1} | y)",
        "(y.keys() & {'a'}, ('a', 1) in y.items(), 1 in y.values(), copy.copy(y))",
        "(repr(y), repr(y.keys()), repr(y.items()), repr(y.values()))",
    ],
    "caches": [
        "Cache(5)",
        "Cache(5, ttl=1, weigher=p2, on_evict=p3, clock=p1)",
        "wrong(Cache, -1)",
        "wrong(Cache, 'x')",
        "wrong(lambda: Cache(5, ttl=-1))",
        "wrong(q.__getitem__, 'b')",
        "wrong(q.__delitem__, 'b')",
        "wrong(q.pop, 'b')",
        "wrong(q.put, [], 1)",
        "(q.put('new', 1, 5.0), q.pop('new'))",
        "[q.put(n, n) for n in range(20)]",
        "[q2.put(n, n) for n in range(20)]",
        "(q.load_or_compute('new', p), q.pop('new', 0))",
        "wrong(q.load_or_compute, 'new', fails)",
        "(list(q), len(q), q.stats(), repr(q))",
        "(q.clear(), q2.clear(), q.stats())",
    ],
    "pools": [
        "Pool(f)",
        "Pool(f, reset=f, drop=f, max_idle=2, age=False)",
        "wrong(Pool, 5)",
        "[(p.get(), p.put(o)) for p in pools]",
        "[p.put(o) for p in pools for _ in range(40)]",
        "[p.use().__enter__() for p in pools]",
        "[wrong(use_and_fail, p) for p in pools]",
        "[(p.idle(), p.clear(), repr(p)) for p in pools]",
    ],
    "objects": [
        "repr((a, r, c, m, e, rw, rw.read, rw.write, s, k, g, h, ch, of, oo))",
        "[wrong(x.__new__(type(x)).__repr__) for x in (a, r, c, m, rw, s, k, g, ch, y)]",
        "pin(rw)",
        "pin(o)",
        "pin_all(two)",
        "wrong(pin_all, 5)",
        "gc.collect()",
    ],
    "import": ["import_again()"],
}

# At least so many places in the extension allocate; compilers differ a little.
PLACES = {
    "atomics and counters": 6,
    "locks": 8,
    "waits": 8,
    "channels": 5,
    "selects": 6,
    "once": 8,
    "maps": 8,
    "caches": 10,
    "pools": 6,
    "objects": 9,
    "import": 30,
}

COMMON = """
    import copy, gc, importlib.util, sys, threading
    import nomemory
    from threading import BrokenBarrierError
    from nomemory import PYTHON, Tally
    from nogil_sync import *
    from nogil_sync._backend import HistogramValue

    f = int
    two = {}, [1]  # made here: without memory, BUILD_LIST itself crashes CPython 3.13
    spec = sys.modules["nogil_sync._native._core"].__spec__
    def import_again():
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except SystemError as error:
            # CPython 3.13's PyType_FromModuleAndSpec fails without an exception when it has no
            # memory for the name.
            assert "without setting an exception" in str(error), error
            raise MemoryError from None

    class Wrong(Exception): pass
    EXPECTED = (Wrong, RuntimeError, ValueError, TypeError, LookupError, OverflowError,
                ChannelClosed)
    def fails():
        raise Wrong
    def p1(): return 1.0
    def p2(key, value): return 1
    def p3(key, value, cause): pass
    def p(): return 1  # for a function in C, `once` needs inspect, which does not survive this
    def late(call, *args):
        try: call(*args)
        except (TimeoutError, BrokenBarrierError): pass
    def wrong(call, *args):
        try: call(*args)
        except EXPECTED: pass
    def use_and_fail(pool):
        with pool.use():
            raise Wrong
    def through(channel):
        with channel:
            channel.send(1)
        return list(channel)
    def in_turn(sender):
        with sender as channel:
            channel.try_send(1)
    def kept(channel):
        # What was sent is received, or is still there.
        channel.send(1)
        try:
            assert select(channel, Event()).value == 1
        except MemoryError:
            assert channel.try_recv() == 1
            raise
    of = once(p)
    of()

    class World:
        # Fresh objects, most of them in use.
        def __init__(self):
            self.a, self.b, self.u = AtomicInt64(2**62), AtomicBool(), AtomicUint64()
            self.r, self.c, self.d = AtomicRef(1), ShardedCounter(), ShardedFloatCounter()
            self.m, self.e, self.o = Mutex(), Event(), {}
            self.rw, self.s, self.k, self.g = RWMutex(), Semaphore(2), Cond(), WaitGroup()
            self.m2, self.rw2, self.k2 = Mutex(), RWMutex(), Cond()
            self.h, self.ch, self.full = Channel(), Channel(3), Channel(1)
            self.y, self.oo = SyncMap(a=1), Once()
            self.q, self.q2 = Cache(9), Cache(9, ttl=9, weigher=p2, on_evict=p3, clock=p1)
            self.q["a"] = 1
            self.pools = [Pool(dict), Pool(dict, reset=id, drop=id, max_idle=30)]
            self.m.acquire(); self.rw.read.acquire(); self.s.acquire(); self.k.acquire()
            self.rw2.write.acquire()
            self.g.add()
            self.full.close()
            self.oo.do(f)

        def check(self):
            a, r, c, d, m, e, o = self.a, self.r, self.c, self.d, self.m, self.e, self.o
            rw, s, k, g, h, ch, y = self.rw, self.s, self.k, self.g, self.h, self.ch, self.y
            assert a.add(0) == a.load()
            assert self.u.load() in (0, 2**63)
            c.add(-c.value())
            assert c.value() == 0
            d.reset()
            assert d.value() == 0
            assert m.locked() and not m.acquire(False)
            m.release()
            with m: pass
            assert not e.is_set()
            e.set()
            assert e.wait()
            r.store(2)
            assert r.load() == 2
            assert rw.read.locked() and not rw.write.locked()
            rw.read.release()
            with rw.write: assert not rw.read.acquire(timeout=0)
            self.rw2._at_fork_reinit()
            with self.rw2.write: pass
            assert s.available() in (0, 1)  # 0: between its acquire and its release
            s.release(2 - s.available())
            with s.hold(2): assert s.available() == 0
            assert k.locked()
            k.release()
            with k: assert not k.wait(0)
            assert not g.wait(0)
            g.done()
            if not g.wait(0):
                g.done()  # between its add and its done
            assert g.wait()
            assert len(y) == len(list(y)) == len(y.snapshot())
            y.clear()
            assert y.load_or_compute("new", p) == 1 and y == {"new": 1}
            for each in self.pools:
                each.clear()
                each.put(o)
                assert each.get() is o
                assert each.idle() == 0
            assert not h.try_send(1) and h.try_recv(2) == 2
            assert ch.try_recv(o) is o and ch.try_recv(o) is o
            ch.send(1)
            ch.close()
            assert list(ch) == [1]
            for each in (self.q, self.q2):
                assert len(each) == len(list(each)) == each.stats().weight <= 9
                for n in range(30): each[n] = n
                assert len(each) == each.stats().weight == 9
                each.clear()
                assert each.load_or_compute("new", p) == 1 and list(each) == ["new"]
            assert of() == 1 and self.oo.done()

    def each_fails(text, rest):
        code = compile(text, text, "eval")
        def case():
            world = World()
            scope = globals() | {name: getattr(world, name) for name in dir(world)}
            yield lambda: eval(code, scope)
            world.check()
        for _ in case():  # imports and caches
            _()
        return nomemory.each_fails(PYTHON, case, rest=rest)
"""


@pytest.mark.parametrize("rest", [False, True], ids=["one", "all from one on"])
@pytest.mark.parametrize("group", USES)
def test_each_allocation_of_the_extension_fails(without_memory, group, rest):
    if group == "import" and (not rest or hasattr(sys, "gettotalrefcount")):
        pytest.skip("a type whose dict could not grow crashes CPython 3.13: dict.setdefault again")
    done = without_memory(
        COMMON
        + f"""
    hit = {{use: each_fails(use, {rest}) for use in {USES[group]!r}}}
    assert threading.active_count() == 1, threading.enumerate()
    places = len(nomemory.sites(PYTHON))
    for use, n in hit.items(): print(use, n)
    print(Tally.runs, "runs,", Tally.failed, "allocations failed,", Tally.refused, "MemoryErrors,",
          places, "places in the extension")
    assert all(hit.values()), [use for use, n in hit.items() if not n]
    assert Tally.failed >= Tally.refused >= len(hit) and places >= {PLACES[group]}
    """,
        timeout=100,
    )
    print(done.stdout)


@pytest.mark.parametrize("rest", [False, True], ids=["one", "all from one on"])
def test_each_allocation_of_a_look_at_other_threads_fails(without_memory, rest):
    done = without_memory(
        f"""
    import sys, threading
    import nomemory
    from nomemory import PYTHON, Tally
    from nogil_sync import Event, _backend
    from nogil_sync._native import _core

    def descend(depth, event):
        return descend(depth - 1, event) if depth else event.wait()

    def case(look):
        event = Event()
        thread = threading.Thread(target=descend, args=(5, event))
        thread.start()
        while not _core._sleepers(False):
            pass
        yield look
        assert len(_core._sleepers(False)) == 1
        (stack,) = [each[-1] for each in _core._sleepers(True)]
        assert len(stack) > 5
        event.set()
        thread.join()

    codes = descend.__code__,
    looks = [
        lambda: _core._sleepers(True),
        lambda: _core._stacks(sys._current_frames()),
        lambda: _core._joins(sys._current_frames(), (), codes),
    ]
    for look in looks:
        for _ in case(look):  # caches
            _()
        assert nomemory.each_fails(PYTHON, lambda: case(look), rest={rest})
    print(Tally.runs, "runs,", Tally.failed, "allocations failed,", Tally.refused, "MemoryErrors")
    """,
        timeout=100,
    )
    print(done.stdout)


def test_calls_that_joined_a_flight_wake_though_it_ends_without_memory(without_memory):
    without_memory(
        """
    import threading
    import _nomemory
    from nomemory import PYTHON
    from nogil_sync import SyncMap
    from nogil_sync._common import runs

    def end_without(n):
        m, started = SyncMap(), threading.Event()
        failed = 0

        def value():
            started.set()
            while not runs._waits:
                pass
            _nomemory.fail(PYTHON, n, n + 1)
            return 1

        def run():
            nonlocal failed
            try:
                m.load_or_compute("key", value)
            except MemoryError:
                pass
            finally:
                failed = _nomemory.end()

        def join():  # not in the main thread, which looks for signals now and then
            started.wait()
            assert m.load_or_compute("key", int) in (0, 1)

        threads = [threading.Thread(target=run), threading.Thread(target=join)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failed

    n = 0
    while end_without(n):
        n += 1
    """,
        timeout=100,
    )
