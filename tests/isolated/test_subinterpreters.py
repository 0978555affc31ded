"""A subinterpreter gets objects that work, or an ImportError of our own, and never a crash.

The functions whose names end in `_there` run in subinterpreters, which take text: `program` makes
it from the function.
"""

import importlib.util
import os
import sys
import threading
import time
import warnings

import pytest
from marks import starts_processes
from processes import in_process, program

from nogil_sync import Pool, ShardedCounter, SyncMap

pytestmark = [
    starts_processes,
    pytest.mark.skipif(
        not any(map(importlib.util.find_spec, ("_interpreters", "_xxsubinterpreters"))),
        reason="this interpreter has no subinterpreters to test with",
    ),
]

# A debug build of CPython 3.13 that traces memory crashes by itself when it makes an isolated
# interpreter after it ended another.
ENV = {"PYTHONWARNINGS": "ignore", "PYTHONTRACEMALLOC": "0"}


def interpreters():
    try:
        import _interpreters
    except ImportError:  # before 3.13
        import _xxsubinterpreters as _interpreters
    return _interpreters


def create(kind):
    module = interpreters()
    if module.__name__ == "_interpreters":
        return module.create(kind)
    return module.create(isolated=kind == "isolated")


def run(interpreter, code):
    failure = interpreters().run_string(interpreter, code)
    assert failure is None, failure.formatted


def destroy(interpreter):
    interpreters().destroy(interpreter)


def use_there(path):
    import sys

    sys.path[:0] = path
    try:
        import nogil_sync
    except ImportError as error:
        # A clear error, of this package.
        assert "nogil_sync" in str(error) or "_core" in str(error), error
        print("ImportError:", error)
    else:
        import gc
        import threading

        m, e = nogil_sync.Mutex(), nogil_sync.Event()
        c, a, r = nogil_sync.ShardedCounter(), nogil_sync.AtomicInt64(), nogil_sync.AtomicRef([1])
        with m:
            assert not m.acquire(timeout=0.01)

        def work():
            for _ in range(100):
                c.add()
                a.add()
                with m:
                    pass
                r.store([2])
                r.load()
            e.wait(10)

        try:
            threads = [threading.Thread(target=work) for _ in range(2)]
            for t in threads:
                t.start()
        except RuntimeError:  # daemon or any threads may be disabled
            threads = []
            e.set()
            work()
            work()
        e.set()
        for t in threads:
            t.join()
        assert c.value() == a.load() == 200
        nogil_sync.pin(r)
        nogil_sync.pin_all([[]])
        nogil_sync.is_pinned(r)
        r.store(r)
        ch = nogil_sync.Channel(2)
        ch.send(r)
        ch.close()
        assert list(ch) == [r]
        try:
            ch.recv()
        except nogil_sync.ChannelClosed:
            pass
        f, o = nogil_sync.once(lambda: [r]), nogil_sync.Once()
        assert f() is f()
        assert o.do(int) == 0

        class Lazy:
            value = nogil_sync.once_property(lambda self: f)

        assert Lazy().value is f
        gone = []
        pool = nogil_sync.Pool(list, drop=gone.append)
        for _ in range(9):
            pool.put([pool])
        with pool.use() as item:
            assert item == [pool]
        for _ in range(3):
            gc.collect()
        assert pool.idle() == 0
        assert len(gone) == 9
        pool.put(pool)
        from nogil_sync import diagnostics

        diagnostics.detect_deadlocks("raise", after=0.05)
        with m:
            try:
                m.acquire()
            except diagnostics.DeadlockError:
                pass
        assert not m.locked()
        diagnostics.detect_deadlocks(None)
        assert diagnostics.waits() == []
        print("used")


USE = program(use_there, sys.path)


@pytest.mark.parametrize("first", [True, False], ids=["main first", "sub first"])
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_subinterpreter_can_import_or_gets_import_error(kind, first):
    def main(use, kind, first):
        if first:
            exec(use)
        for _ in range(3):
            i = create(kind)
            run(i, use)
            destroy(i)
        exec(use)
        sys.stdout.flush()

    done = in_process(main, USE, kind, first, env=ENV)
    lines = done.stdout.splitlines()
    assert lines.count("used") >= 1
    # All three fared alike.
    assert len(set(lines[1:-1] if first else lines[:-1])) == 1, lines
    print(lines)


def test_two_subinterpreters_at_once():
    def main(use):
        subs = [create("legacy") for _ in range(2)]
        for i in subs:
            run(i, use)
        for i in subs:
            run(i, use)
        for i in subs:
            destroy(i)
        exec(use)

    in_process(main, USE)


def spawn_there(path):
    import sys

    sys.path[:0] = path
    try:
        import nogil_sync
    except ImportError as error:
        assert "nogil_sync" in str(error) or "_core" in str(error), error
    else:
        import time

        from nogil_sync._common import spawn

        closed_gate, late = spawn.closed_gate, []

        class LateGate:
            def __init__(self):
                gate = closed_gate()
                self.acquire, self.open = gate.acquire, gate.release

            def release(self):  # by the auxiliary thread, once it has done its work
                self.open()
                time.sleep(0.3)
                late.append(True)

        spawn.closed_gate = LateGate
        try:
            nogil_sync.WaitGroup().go(int).join()
        except RuntimeError:  # threads may be disabled
            pass
        else:
            assert late
            print("spawned")


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_subinterpreter_ends_before_a_starting_thread(kind):
    """`WaitGroup.go` in a main thread starts a thread by an auxiliary one, which may end late."""

    def main(spawn, kind):
        i = create(kind)
        run(i, spawn)
        destroy(i)

    print(in_process(main, program(spawn_there, sys.path), kind, env=ENV).stdout)


def leave_objects_there(path):
    """Leave behind what an interpreter can leave behind.

    Objects alive in modules and cycles, pinned, held and waited for by threads that have ended,
    with finalisers that use them as the interpreter ends.
    """
    import sys

    sys.path[:0] = path
    try:
        import nogil_sync
    except ImportError as error:
        assert "nogil_sync" in str(error) or "_core" in str(error), error
    else:
        import threading

        class Last:
            def __init__(self):
                self.me = self
                self.m, self.rw = nogil_sync.Mutex(), nogil_sync.RWMutex()
                self.s, self.k = nogil_sync.Semaphore(2), nogil_sync.Cond()
                self.x, self.c = nogil_sync.SyncMap(me=self), nogil_sync.ShardedCounter()
                self.ch, self.o = nogil_sync.Channel(5), nogil_sync.Once()
                self.e = nogil_sync.Event()
                self.p = nogil_sync.Pool(list, drop=self.dropped, max_idle=3)
                self.g, self.r = nogil_sync.WaitGroup(), nogil_sync.AtomicRef(self)

            def dropped(self, item):
                self.c.add()

            def use(self):
                with self.m, self.rw.read, self.s, self.k:
                    self.k.notify_all()
                self.x[self.c.value()] = [self]
                self.x.load_or_compute("k", list)
                for _ in self.x.items():
                    pass
                for _ in range(5):
                    self.p.put([self])
                self.ch.try_send(self)
                self.c.add()
                self.e.set()
                self.e.wait(1)
                self.o.do(list)
                self.r.swap([self])
                self.g.add()
                self.g.done()

            def __del__(self):
                self.use()

        module = Last()
        sys.left = Last()
        nogil_sync.pin(Last().m)
        nogil_sync.pin(nogil_sync.RWMutex())
        held = (
            nogil_sync.Mutex(),
            nogil_sync.RWMutex().write,
            nogil_sync.Semaphore(),
            nogil_sync.Cond(),
        )
        for lock in held:
            lock.acquire()
        kept = [
            iter(Last().x),
            module.s.hold(1),
            module.p.use(),
            module.rw.read,
            module.x.items(),
        ]
        kept[2].__enter__()
        module.use()
        try:
            threads = [threading.Thread(target=module.use) for _ in range(3)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            with nogil_sync.TaskGroup() as group:
                for _ in range(3):
                    group.go(module.use)
            module.g.go(module.use).join()
        except RuntimeError:
            pass


LEAVE = program(leave_objects_there, sys.path)


@pytest.mark.parametrize("kinds", ["legacy", "isolated", "legacy isolated"])
@pytest.mark.parametrize("busy", [False, True], ids=["main idle", "main at work"])
def test_subinterpreter_ends_with_objects_alive(kinds, busy):
    def main(use, leave, kinds, busy):
        stop = False
        counter, shared, pool = ShardedCounter(), SyncMap(), Pool(list)

        def work(k):
            n = 0
            while not stop:
                n += 1
                counter.add()
                shared[k, n % 100] = n
                shared.pop((k, (n + 50) % 100), None)
                with pool.use() as item:
                    item.append(n)
                    item.clear()
                time.sleep(0.0005)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(2 * busy)]
        for t in threads:
            t.start()
        try:
            for _ in range(2):
                subs = [create(kind) for kind in kinds.split()]
                for i in subs:
                    run(i, leave)
                for i in subs:
                    run(i, leave)
                for i in reversed(subs):
                    destroy(i)
        finally:
            stop = True
        for t in threads:
            t.join(30)
        assert len(shared) == len(list(shared)) <= 200
        exec(use)

    done = in_process(main, USE, LEAVE, kinds, busy, env=ENV)
    assert "Traceback" not in done.stderr, done.stderr
    assert "used" in done.stdout


def test_first_importing_subinterpreter_ends():
    # What the process keeps (slots, epochs, hooks) was set up by an interpreter that has ended. The
    # main one has not imported the package: nothing of it is used before `exec`.
    def main(use, leave):
        for kind in "legacy", "isolated", "legacy":
            i = create(kind)
            run(i, leave)
            destroy(i)
        exec(use)
        warnings.simplefilter("ignore")
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    exec(use)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    in_process(main, USE, LEAVE, env=ENV)
