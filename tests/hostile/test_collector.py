"""The library and the collector: its counts, its callbacks, interrupts during a collection."""

import gc
import importlib.util
import signal
import sys
import threading
import time
import weakref

import pytest
from marks import starts_processes
from processes import in_process, program
from support import CLASSES, NATIVE, needed

import nogil_sync
from nogil_sync import Cond, Pool, RWMutex, Semaphore, ShardedCounter, SyncMap, TaskGroup, once

pytestmark = starts_processes
backends = pytest.mark.parametrize("backend", ["native", "threading"] if NATIVE else ["threading"])


class Everything:
    """One of everything, used, and alive."""

    def __init__(self):
        self.alive = [cls(*needed(cls)) for cls in CLASSES]
        self.pools = [Pool(list, drop=id), Pool(list, age=False), type("Sub", (Pool,), {})(list)]
        self.locks = Semaphore(2), Cond(), RWMutex()
        self.map, self.counter = SyncMap(a=1), ShardedCounter()
        s, _, rw = self.locks
        views = [self.map.keys(), self.map.items(), iter(self.map)]
        self.alive += [*views, s.hold(), rw.read, rw.write, once(int)]
        threads = [threading.Thread(target=self.work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with TaskGroup() as group:
            group.go(self.work)
        self.alive += [group, self.pools[0].use()]

    def work(self):
        for pool in self.pools:
            with pool.use():
                pass
        s, c, rw = self.locks
        with s, c, rw.read:
            self.counter.add()
        self.map.load_or_compute("b", int)

    def put(self):
        for pool in self.pools:
            pool.put([])


@backends
def test_repeated_collections_end(backend):
    def main():
        everything = Everything()
        for _ in range(3):
            count = 0
            while gc.collect():
                count += 1
                assert count < 10
            everything.put()

    in_process(main, env={"NOGIL_SYNC_BACKEND": backend})


@backends
def test_debug_saveall_keeps_none_of_our_objects(backend):
    def main():
        everything = Everything()
        for _ in range(10):
            gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for _ in range(5):
            everything.put()
            gc.collect()
        gc.set_debug(0)
        assert not gc.garbage, gc.garbage

    in_process(main, env={"NOGIL_SYNC_BACKEND": backend})


@backends
def test_other_garbage_is_counted(backend):
    def main():
        _everything = Everything()

        class Node:
            pass

        for _ in range(10):
            gc.collect()
        for n in range(1, 5):
            for _ in range(n):
                node = Node()
                node.me = node
            del node
            assert gc.collect() >= n
            assert gc.collect() == 0

    in_process(main, env={"NOGIL_SYNC_BACKEND": backend})


@backends
def test_import_adds_no_python_function_to_the_callbacks(backend):
    def main():
        assert not [
            each for each in gc.callbacks if type(each).__name__ != "builtin_function_or_method"
        ]
        assert len(gc.callbacks) == (nogil_sync.backend == "native")
        Pool(list, age=False)
        assert len(gc.callbacks) == (nogil_sync.backend == "native")

    in_process(main, env={"NOGIL_SYNC_BACKEND": backend})


def forget_library():
    """Have the next import load it anew."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "nogil_sync":
            del sys.modules[name]


@backends
def test_callbacks_do_not_grow_with_imports(backend):
    def main():
        pools = []
        for _ in range(10):
            import nogil_sync

            pools.append(nogil_sync.Pool(list))
            pools[-1].put([])
            assert len(gc.callbacks) == 1, gc.callbacks
            forget_library()
            gc.collect()
        for _ in range(3):
            gc.collect()
        assert [pool.idle() for pool in pools] == [0] * 10
        count = 0
        while gc.collect():
            count += 1
            assert count < 10
        for pool in pools:
            pool.put([])
        del pools[5:], pool
        for _ in range(3):
            gc.collect()
        assert [pool.idle() for pool in pools] == [0] * 5

    in_process(main, env={"NOGIL_SYNC_BACKEND": backend})


@pytest.mark.skipif(not NATIVE, reason="about the callback of the C code")
def test_callback_list_changed_by_the_program():
    def main():
        import nogil_sync

        pool = nogil_sync.Pool(list)
        pool.put([])
        types = gc.callbacks[0].__self__

        class Other:
            pass

        other = Other()
        types += [None, 1, Other, weakref.ref(Other), weakref.ref(other), [], int]
        gc.collect()
        types.reverse()
        gc.collect()
        types.clear()
        gc.collect()
        assert pool.idle() == 1 or pool.idle() == 0
        forget_library()
        import nogil_sync

        again = nogil_sync.Pool(list)
        again.put([])
        assert len(gc.callbacks) == 1
        for _ in range(3):
            gc.collect()
        assert again.idle() == 0
        gc.callbacks.clear()
        forget_library()
        import nogil_sync

        assert len(gc.callbacks) == 1

    in_process(main, env={"NOGIL_SYNC_BACKEND": "native"})


# A collection that takes a while, and a signal in the middle of it.
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer")
@pytest.mark.parametrize("pools", [False, True] if NATIVE else [False])
def test_interrupts_in_a_collection_are_raised(pools):
    def main(pools):
        class Stop(BaseException):
            pass

        def handler(*_):
            nonlocal struck
            struck += 1
            raise Stop

        lost = []
        sys.unraisablehook = lambda args: lost.append(args.exc_type)
        signal.signal(signal.SIGALRM, handler)
        alive = [[n] for n in range(200_000)]
        if pools:
            pools = [Pool(list) for _ in range(100)]
            for pool in pools:
                pool.put([])
        gc.collect()
        begin = time.monotonic()
        gc.collect()
        length = max(time.monotonic() - begin, 0.001)
        struck = raised = 0
        for n in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, length * (0.1 + n % 8 / 10))
                for _ in range(1000):
                    gc.collect()
                    time.sleep(0.001)
            except Stop:
                raised += 1
        print(struck, raised, lost)
        assert struck == raised == 40
        assert not lost
        assert len(alive) == 200_000

    done = in_process(main, pools)
    print(done.stdout)


@pytest.mark.skipif(not NATIVE, reason="the interpreter takes care of classes written in Python")
@pytest.mark.skipif(
    hasattr(sys, "gettotalrefcount"), reason="a debug build's total of references would rise"
)
def test_public_types_are_pinned():
    rw = nogil_sync.RWMutex()
    made = [
        nogil_sync.Pool(list).use(),
        nogil_sync.Semaphore().hold(),
        iter(nogil_sync.SyncMap()),
        rw.read,
        rw.write,
        nogil_sync.once(int),
    ]
    types = [*CLASSES, *map(type, made)]
    assert [each for each in types if not nogil_sync.is_pinned(each)] == []


@pytest.mark.skipif(not NATIVE, reason="about the types of the C code")
@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("_interpreters", "_xxsubinterpreters"))),
    reason="this interpreter has no subinterpreters to test with",
)
def test_types_are_pinned_in_every_import():
    def use(path):
        import sys

        sys.path[:0] = path
        import nogil_sync

        if not hasattr(sys, "gettotalrefcount"):
            assert nogil_sync.is_pinned(nogil_sync.Mutex)
            assert nogil_sync.is_pinned(nogil_sync.Pool)
        nogil_sync.Pool(list).put(nogil_sync.Mutex())

    def main(code):
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        new = hasattr(interpreters, "exec")
        for _ in range(3):
            exec(code)
            forget_library()
            gc.collect()
            each = interpreters.create("legacy") if new else interpreters.create()
            interpreters.run_string(each, code)
            interpreters.destroy(each)

    in_process(main, program(use, sys.path), env={"NOGIL_SYNC_BACKEND": "native"})
