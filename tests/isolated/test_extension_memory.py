"""What the extension asks Python for fails, one allocation after the other.

Python code runs on memory of its own meanwhile: CPython 3.13 itself does not survive without. Its
BUILD_LIST and its dict.setdefault then corrupt memory, and unwinding a long function never ends.
test_memory_errors.py goes as far there as it goes.
"""

import sys

import pytest
from support import NATIVE

pytestmark = [
    pytest.mark.thread_unsafe(reason="starts processes itself"),
    pytest.mark.skipif(not NATIVE, reason="there is no extension"),
]

# What is done meanwhile.
USES = {
    "atomics": [
        "AtomicInt64(5)",
        "AtomicUint64(2**64 - 1)",
        "AtomicBool(1)",
        "AtomicRef([])",
        "AtomicRef[int]",
        "a.add(2**62)",
        "a.load()",
        "a.swap(2**61)",
        "a.compare_and_swap(2**62, 2**61)",
        "(a.store(2**62), a.fetch_and(2**62), a.fetch_or(2**40), a.fetch_xor(2**40))",
        "(a.fetch_max(2**61), a.fetch_min(2**62), a.sub(2**40), a.add(2**40))",
        "(u.add(2**63), u.sub(2**63), u.load())",
        "(b.load(), b.store(1), b.swap(0), b.compare_and_swap(False, True))",
        "r.store(None)",
        "r.update(f)",
        "(r.load(), r.swap(2**40), r.compare_and_swap(1, 2))",
        "wrong(a.add, 2**70)",
    ],
    "counters": [
        "ShardedCounter(5)",
        "ShardedFloatCounter(5)",
        "c.add(2**40)",
        "c.value()",
        "c.reset()",
        "(d.add(0.25), d.value(), d.reset())",
    ],
    "locks": [
        "Mutex()",
        "RWMutex()",
        "Semaphore(2)",
        "m.acquire(timeout=0.001)",
        "rw.write.acquire(timeout=0.001)",
        "rw2.read.acquire(timeout=0.001)",
        "(rw.read.locked(), rw.write.locked(), rw.write.acquire(False), m.locked())",
        "rw2.downgrade()",
        "s.acquire(timeout=0.001, n=2)",
        "s.hold(2, 0.001)",
        "late(s.hold(2, 0.001).__enter__)",
        "(s.acquire(), s.release(), s.available())",
        "wrong(m2.release)",
        "wrong(s.release, 7)",
        "[x._at_fork_reinit() for x in (m2, rw2, rw2.read, s2, k2)]",
    ],
    "waits": [
        "Event()",
        "Cond()",
        "Cond(m)",
        "WaitGroup()",
        "e.wait(0.001)",
        "(e.is_set(), e.clear())",
        "k.wait(0.001)",
        "k.wait_for(int, 0.001)",
        "(k.notify(), k.notify_all())",
        "g.wait(0.001)",
        "(g.add(), g.done())",
        "wrong(g.add, -7)",
    ],
    "channels": [
        "Channel(5)",
        "late(h.recv, 0.001)",
        "late(h.send, 2**62, 0.001)",
        "(ch.send(o), ch.recv())",
        "(ch.try_send(o), ch.try_recv())",
        "(len(ch), ch.closed())",
        "through(Channel(3))",
        "wrong(full.recv)",
        "wrong(full.send, 1)",
    ],
    "once": [
        "Once().do(f)",
        "Once(retry=True).do(f)",
        "once(p)()",
        "once(retry=True)(p)()",
        "of()",
        "oo.do(f)",
        "(of.done(), oo.done())",
        "wrong(Once().do, fails)",
        "wrong(failed)",
        "Lazy().value",
    ],
    "maps": [
        "SyncMap(a=1)",
        "y['a']",
        "y.get('b')",
        "wrong(y.__getitem__, 'b')",
        "y.__setitem__('a', 2)",
        "y.insert('a', 2)",
        "y.setdefault('a', 2)",
        "y.swap('a', 2)",
        "y.compare_and_swap('a', 2, 2)",
        "y.compare_and_delete('a', 3)",
        "('a' in y, len(y), y.pop('none', None))",
        "(y.insert('new', 1), y.pop('new', 0))",
        "(y.insert('new', 1), y.__delitem__('new'))",
        "(y.insert(5000, 1), y.popitem(), y.setdefault('a', 1))",
        "(y.update(new=1), y.update([('new', 1)]), y.__ior__({'new': 1}))",
        "y.modify('a', f, 0)",
        "(y.load_or_compute('new', p), y.pop('new'))",
        "wrong(y.load_or_compute, 'new', fails)",
        "(list(y), list(y.items()), y.snapshot(), y.copy(), y == y, y | y, {'b': 1} | y)",
        "(y.keys() & {'a'}, ('a', 1) in y.items(), 1 in y.values(), copy.copy(y))",
        "(repr(y), repr(y.keys()), repr(y.items()), repr(y.values()))",
        "[y.pop(i) for i in range(100, 150) if y.setdefault(i, i) == i]",
        "[y.pop(i) for i in keys if y.setdefault(i, i) is i]",
        "y.clear()",
    ],
    "pools": [
        "Pool(f)",
        "Pool(f, reset=f, drop=f, max_idle=2, age=False)",
        "[(p.get(), p.put(o)) for p in pools]",
        "[p.put(o) for p in pools for _ in range(40)]",
        "[p.use().__enter__() for p in pools]",
        "[wrong(use_and_fail, p) for p in pools]",
        "[(p.idle(), p.clear(), repr(p)) for p in pools]",
    ],
    "groups": [
        "TaskGroup()",
        "TaskGroup(2, executor=executor)",
        "g.go(f).join()",
        "group()",
        "group(1)",
        "group(executor=executor)",
        "wrong(failing_group)",
        "(t.cancel(), t.cancelled(), t.wait_cancelled(0.001), repr(t))",
    ],
    "import": ["import_again()"],
    "objects": [
        "repr((a, r, c, m, e, rw, rw.read, rw.write, s, k, g, h, ch, of, oo))",
        "[wrong(pickle.dumps, x) for x in (a, m, y)]",
        "[weakref.ref(x) for x in (a, r, c, m, e, rw, s, k, g, h, ch, y, t)]",
        "[wrong(x.__new__(type(x)).__repr__) for x in (a, r, c, m, rw, s, k, g, ch, y)]",
        "pin(rw)",
        "pin(o)",
        "pin_all(two)",
        "is_pinned(o)",
        "gc.collect()",
    ],
}

COMMON = """
    import copy, gc, importlib.util, pickle, sys, threading, weakref
    from concurrent.futures import ThreadPoolExecutor
    import nomemory
    from nomemory import PYTHON, Tally
    from nogil_sync import *

    f = int
    two = {}, [1]  # made here: without memory, BUILD_LIST itself crashes CPython 3.13
    executor = ThreadPoolExecutor(1)
    executor.submit(int).result()
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
    EXPECTED = (Wrong, ExceptionGroup, RuntimeError, ValueError, TypeError, LookupError,
                OverflowError, ChannelClosed)
    def fails():
        raise Wrong
    def p(): return 1  # for a function in C, `once` needs inspect, which does not survive this
    def late(call, *args):
        try: call(*args)
        except TimeoutError: pass
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
    class Lazy:
        value = once_property(lambda self: 1)
    class Key:
        def __init__(self, n): self.n = n
        def __hash__(self): return self.n // 3
        def __eq__(self, other): return isinstance(other, Key) and self.n == other.n
    keys = [Key(i) for i in range(30)]
    of = once(p)
    of()

    class World:
        # Fresh objects, most of them in use.
        def __init__(self):
            self.a, self.b, self.u = AtomicInt64(2**62), AtomicBool(), AtomicUint64()
            self.r, self.c, self.d = AtomicRef(1), ShardedCounter(), ShardedFloatCounter()
            self.m, self.e, self.o = Mutex(), Event(), {}
            self.rw, self.s, self.k, self.g = RWMutex(), Semaphore(2), Cond(), WaitGroup()
            self.m2, self.rw2, self.s2, self.k2 = Mutex(), RWMutex(), Semaphore(), Cond()
            self.h, self.ch, self.full = Channel(), Channel(3), Channel(1)
            self.y, self.t, self.oo = SyncMap(a=1), TaskGroup(), Once()
            self.pools = [Pool(dict), Pool(dict, reset=id, drop=id, max_idle=30)]
            self.failed, self.ran = once(fails), []
            wrong(self.failed)
            self.m.acquire(); self.rw.read.acquire(); self.s.acquire(); self.k.acquire()
            self.rw2.write.acquire()
            self.g.add()
            self.full.close()
            self.oo.do(f)

        def group(self, *args, **kwargs):
            del self.ran[:]
            with TaskGroup(*args, **kwargs) as group:
                group.go(self.ran.append, 1)
                group.go(self.ran.append, 2)

        def failing_group(self):
            with TaskGroup() as group:
                group.go(fails)

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
    for use in {USES[group]!r}:
        print(use, each_fails(use, {rest}))
    executor.shutdown()
    assert threading.active_count() == 1, threading.enumerate()
    print(Tally.runs, "runs,", Tally.failed, "allocations failed,", Tally.refused, "MemoryErrors,",
          len(nomemory.sites(PYTHON)), "places in the extension")
    """,
        timeout=100,
    )
    print(done.stdout)
