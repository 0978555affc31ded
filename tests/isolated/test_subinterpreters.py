"""A subinterpreter gets objects that work, or an ImportError of our own, and never a crash."""

import importlib.util

import pytest
from marks import starts_processes
from processes import python

pytestmark = [
    starts_processes,
    pytest.mark.skipif(
        not any(map(importlib.util.find_spec, ("_interpreters", "_xxsubinterpreters"))),
        reason="this interpreter has no subinterpreters to test with",
    ),
]

HEADER = """
import sys
try:
    import _interpreters
    def create(kind):
        return _interpreters.create(kind)
    def run(i, code):
        failure = _interpreters.run_string(i, code)
        assert failure is None, failure.formatted
    destroy = _interpreters.destroy
except ImportError:
    import _xxsubinterpreters as _interpreters
    def create(kind):
        return _interpreters.create(isolated=kind == "isolated")
    def run(i, code):
        _interpreters.run_string(i, code)
    destroy = _interpreters.destroy

USE = '''
import sys
sys.path[:0] = %r
try:
    import nogil_sync
except ImportError as error:
    # Clear, and ours.
    assert "nogil_sync" in str(error) or "_core" in str(error), error
    print("ImportError:", error)
else:
    import threading
    from nogil_sync import *
    m, e, c, a, r = Mutex(), Event(), ShardedCounter(), AtomicInt64(), AtomicRef([1])
    with m:
        assert not m.acquire(timeout=0.01)
    def work():
        for _ in range(100):
            c.add()
            a.add()
            with m: pass
            r.store([2])
            r.load()
        e.wait(10)
    try:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads: t.start()
    except RuntimeError:  # daemon or any threads may be disabled
        threads = []
        e.set()
        work(); work()
    e.set()
    for t in threads: t.join()
    assert c.value() == a.load() == 200
    pin(r); pin_all([[]]); is_pinned(r)
    r.store(r)
    ch = Channel(2)
    ch.send(r); ch.close()
    assert list(ch) == [r]
    try: ch.recv()
    except ChannelClosed: pass
    f, o = once(lambda: [r]), Once()
    assert f() is f() and o.do(int) == 0
    class Lazy:
        value = once_property(lambda self: f)
    assert Lazy().value is f
    import gc
    gone = []
    pool = Pool(list, drop=gone.append)
    for _ in range(9): pool.put([pool])
    with pool.use() as item: assert item == [pool]
    for _ in range(3): gc.collect()
    assert pool.idle() == 0 and len(gone) == 9
    pool.put(pool)
    print("used")
''' % (sys.path,)
"""


@pytest.mark.parametrize("first", [True, False], ids=["main first", "sub first"])
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_subinterpreter_can_import_or_gets_import_error(kind, first):
    done = python(
        HEADER
        + f"""
if {first}:
    exec(USE)
for _ in range(3):
    i = create({kind!r})
    run(i, USE)
    destroy(i)
exec(USE)
sys.stdout.flush()
""",
        # A debug build of CPython 3.13 that traces memory crashes by itself when it makes an
        # isolated interpreter after it ended another.
        env={"PYTHONWARNINGS": "ignore", "PYTHONTRACEMALLOC": "0"},
    )
    lines = done.stdout.splitlines()
    assert lines.count("used") >= 1
    # All three fared alike.
    assert len(set(lines[1:-1] if first else lines[:-1])) == 1, lines
    print(lines)


def test_two_subinterpreters_at_once():
    python(
        HEADER
        + """
import threading
subs = [create("legacy") for _ in range(2)]
for i in subs:
    run(i, USE)
for i in subs:
    run(i, USE)
for i in subs:
    destroy(i)
exec(USE)
"""
    )


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_subinterpreter_ends_before_a_starting_thread(kind):
    """`WaitGroup.go` in a main thread starts a thread by an auxiliary one, which may end late."""
    done = python(
        HEADER
        + f"""
SPAWN = '''
import sys
sys.path[:0] = %r
try:
    import nogil_sync
except ImportError as error:
    assert "nogil_sync" in str(error) or "_core" in str(error), error
else:
    import time
    from nogil_sync import WaitGroup
    from nogil_sync._common import spawn as _spawn
    closed_gate, late = _spawn.closed_gate, []
    class LateGate:
        def __init__(self):
            gate = closed_gate()
            self.acquire, self.open = gate.acquire, gate.release
        def release(self):  # by the auxiliary thread, once it has done its work
            self.open()
            time.sleep(0.3)
            late.append(True)
    _spawn.closed_gate = LateGate
    try:
        WaitGroup().go(int).join()
    except RuntimeError:  # threads may be disabled
        pass
    else:
        assert late
        print("spawned")
''' % (sys.path,)
i = create({kind!r})
run(i, SPAWN)
destroy(i)
""",
        env={"PYTHONWARNINGS": "ignore", "PYTHONTRACEMALLOC": "0"},
    )
    print(done.stdout)


# Everything that an interpreter can leave behind: objects alive in modules and cycles, pinned, held
# and waited for by threads that have ended, with finalisers that use them as it ends.
LEAVE = """
LEFT = '''
import sys
sys.path[:0] = %r
try:
    import nogil_sync
except ImportError as error:
    assert "nogil_sync" in str(error) or "_core" in str(error), error
else:
    import threading
    from nogil_sync import *
    class Last:
        def __init__(self):
            self.me = self
            self.m, self.rw, self.s, self.k = Mutex(), RWMutex(), Semaphore(2), Cond()
            self.x, self.c, self.ch, self.o = SyncMap(me=self), ShardedCounter(), Channel(5), Once()
            self.e = Event()
            self.p = Pool(list, drop=self.dropped, max_idle=3)
            self.g, self.r = WaitGroup(), AtomicRef(self)
        def dropped(self, item):
            self.c.add()
        def use(self):
            with self.m, self.rw.read, self.s, self.k: self.k.notify_all()
            self.x[self.c.value()] = [self]
            self.x.load_or_compute("k", list)
            for _ in self.x.items(): pass
            for _ in range(5): self.p.put([self])
            self.ch.try_send(self); self.c.add(); self.e.set(); self.e.wait(1)
            self.o.do(list); self.r.swap([self]); self.g.add(); self.g.done()
        def __del__(self):
            self.use()
    module = Last()
    sys.left = Last()
    pin(Last().m); pin(RWMutex())
    held = Mutex(), RWMutex().write, Semaphore(), Cond()
    for lock in held: lock.acquire()
    kept = [iter(Last().x), module.s.hold(1), module.p.use(), module.rw.read, module.x.items()]
    kept[2].__enter__()
    module.use()
    try:
        threads = [threading.Thread(target=module.use) for _ in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
        with TaskGroup() as group:
            for _ in range(3): group.go(module.use)
        module.g.go(module.use).join()
    except RuntimeError:
        pass
''' % (sys.path,)
"""


@pytest.mark.parametrize("kinds", ["legacy", "isolated", "legacy isolated"])
@pytest.mark.parametrize("busy", [False, True], ids=["main idle", "main at work"])
def test_subinterpreter_ends_with_objects_alive(kinds, busy):
    done = python(
        HEADER
        + LEAVE
        + f"""
import threading, time
import nogil_sync
from nogil_sync import *
stop = False
counter, shared, pool = ShardedCounter(), SyncMap(), Pool(list)
def work(k):
    n = 0
    while not stop:
        n += 1
        counter.add()
        shared[k, n % 100] = n
        shared.pop((k, (n + 50) % 100), None)
        with pool.use() as item: item.append(n); item.clear()
        time.sleep(0.0005)
threads = [threading.Thread(target=work, args=(k,)) for k in range(2 * {busy})]
for t in threads: t.start()
try:
    for _ in range(2):
        subs = [create(kind) for kind in {kinds.split()!r}]
        for i in subs: run(i, LEFT)
        for i in subs: run(i, LEFT)
        for i in reversed(subs): destroy(i)
finally:
    stop = True
for t in threads: t.join(30)
assert len(shared) == len(list(shared)) <= 200
exec(USE)
""",
        env={"PYTHONWARNINGS": "ignore", "PYTHONTRACEMALLOC": "0"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "used" in done.stdout


def test_first_importing_subinterpreter_ends():
    # What the process keeps (slots, epochs, hooks) was set up by an interpreter that is gone.
    python(
        HEADER
        + LEAVE
        + """
for kind in "legacy", "isolated", "legacy":
    i = create(kind)
    run(i, LEFT)
    destroy(i)
exec(USE)
import os, warnings
warnings.simplefilter("ignore")
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            exec(USE)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""",
        env={"PYTHONWARNINGS": "ignore", "PYTHONTRACEMALLOC": "0"},
    )
