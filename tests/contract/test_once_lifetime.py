"""once: what it keeps, and for how long; the object that it makes."""

import copy
import gc
import pickle
import sys
import weakref

import pytest
from marks import starts_threads
from onces import Counted, ended, start
from support import TIMEOUT, eventually

from nogil_sync import Once, once, once_property

# What is kept, and for how long


class Thing:
    """Can be referred to weakly."""

    def __call__(self):
        return 1


def gone(watch):
    # Repeated if need be: gc.collect() returns at once while another thread collects.
    return eventually(lambda: gc.collect() >= 0 and watch() is None, timeout=10)


@pytest.mark.parametrize("retry", [False, True])
def test_function_is_released_after_its_run(retry):
    def make():
        thing = Thing()
        f = once(lambda: thing() and Result(), retry=retry)
        return f, weakref.ref(thing), weakref.ref(f.__wrapped__)

    class Result:
        pass

    f, thing, fn = make()
    gc.collect()
    assert thing() is not None
    result = f()
    assert gone(thing)
    assert gone(fn)
    assert f() is result


def test_do_keeps_neither_function_nor_arguments():
    o = Once()
    things = [Thing(), Thing(), Thing()]
    watches = list(map(weakref.ref, things))
    for _ in range(2):
        o.do(lambda *args, thing=things[0], **kwargs: None, things[1], key=things[2])
    del things
    assert all(map(gone, watches))


def test_function_is_kept_while_it_may_run_again():
    f = once(Thing(), retry=True)
    watch = weakref.ref(f.__wrapped__)
    gc.collect()
    assert watch() is not None
    assert f() == 1
    assert gone(watch)


@starts_threads
def test_function_is_released_while_threads_waited():
    fn = Counted(held=True)
    f = once(fn)
    watch = weakref.ref(fn)
    waiters = [start(f) for _ in range(3)]
    assert fn.begun.wait(TIMEOUT)
    fn.go.set()
    ended(*waiters)
    del fn
    assert gone(watch)


def test_cycles_are_collected():
    def make(run):
        thing = Thing()

        @once
        def f():
            return [f, thing]

        o = Once()
        if run:
            f()
            o.do(lambda: [o, thing])
        thing.parts = f, o
        return weakref.ref(thing), weakref.ref(f), weakref.ref(o)

    for run in (False, True):
        watches = make(run)
        assert all(map(gone, watches))


def test_failures_are_collected_through_cycles():
    def make():
        thing = Thing()

        @once
        def f():
            assert thing
            raise ValueError(f)

        with pytest.raises(ValueError):
            f()
        return weakref.ref(thing), weakref.ref(f)

    watches = make()
    assert all(map(gone, watches))


def test_once_is_usable_in_a_finaliser_of_its_cycle():
    log = []

    class Last:
        def __init__(self):
            self.f = once(lambda: [self])
            self.o = Once()

        def __del__(self):
            log.append((self.f(), self.o.do(lambda: 5)))

    def make():
        Last()
        last = Last()
        last.f()
        last.o.do(lambda: last)

    make()
    assert eventually(lambda: gc.collect() >= 0 and len(log) == 2)


def test_only_the_object_and_the_caller_refer_to_the_result():
    class Result:
        pass

    f = once(Result)
    watch = weakref.ref(f())
    gc.collect()
    result = f()
    assert watch() is result
    del f
    gc.collect()
    assert watch() is result
    del result
    gc.collect()
    assert watch() is None


def test_long_chain_of_results_is_freed():
    f = None
    for _ in range(50_000):
        f = once(lambda f=f: [f])
        f()
    del f
    o = None
    for _ in range(50_000):
        inner, o = o, Once()
        o.do(lambda inner=inner: inner)
    del o, inner
    gc.collect()


# The object that `once` makes


def test_once_function_is_weakly_referenced_and_hashed():
    f = once(int)
    watch = weakref.ref(f)
    assert {f: 1}[f] == 1
    assert f == watch()
    assert f != once(int)
    assert bool(f)
    assert 16 < sys.getsizeof(f) <= 256
    del f
    assert gone(watch)


@pytest.mark.parametrize("run", [False, True])
def test_once_function_is_not_pickled_or_copied(run):
    f = once(int)
    if run:
        f()
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="OnceFunction"):
            way(f)
    p = once_property(len)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="once_property"):
            way(p)


def test_once_function_class_can_be_subclassed():
    kind = type(once(int))
    assert kind[int](int)() == 0

    class Logged(kind):
        calls = 0

        def __call__(self):
            self.calls += 1
            return super().__call__()

    f = Logged(lambda: 10**9)
    assert f() == f() == 10**9
    assert f.calls == 2
    assert f.done()


def test_once_function_without_init_raises():
    kind = type(once(int))
    f = kind.__new__(kind)
    assert "not initialized" in repr(f)
    for use in (f, f.done):
        with pytest.raises(RuntimeError, match="not initialized"):
            use()
    with pytest.raises(TypeError):
        f.__init__(1)
    f.__init__(int)
    assert f() == 0
    with pytest.raises(RuntimeError, match="already initialized"):
        f.__init__(lambda: 1)
    assert f() == 0
    assert f.__name__ == "int"
