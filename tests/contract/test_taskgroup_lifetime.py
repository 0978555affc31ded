"""TaskGroup as an object: repr, subclasses, what it keeps and releases."""

import atexit
import copy
import gc
import os
import pickle
import sys
import threading
import time
import weakref

import pytest
from groups import Gate, caught, own_threads, raising
from marks import starts_threads
from processes import in_own_process, in_process
from support import FREE_THREADED, TIMEOUT, eventually

import nogil_sync
from nogil_sync import TaskGroup

pytestmark = starts_threads


# Objects


def test_repr():
    tg = TaskGroup()
    assert repr(tg) == f"<nogil_sync.TaskGroup object at {id(tg):#x}, not entered>"
    gate = Gate()
    with tg:
        assert repr(tg).endswith(", 0 running, 0 queued>")
        tg.go(gate)
        assert eventually(lambda: repr(tg).endswith(", 1 running, 0 queued>"))
        tg.cancel()
        assert repr(tg).endswith(", 1 running, 0 queued, cancelled>")
        gate.open()
    assert repr(tg).endswith(", left, cancelled>")
    with TaskGroup() as tg:
        pass
    assert repr(tg).endswith(", left>")


def test_group_is_freed_without_collections():
    for limit in (None, 2):
        with TaskGroup(limit) as tg:
            tg.go(int)
        watch = weakref.ref(tg)
        del tg
        assert watch() is None


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_group_cannot_be_copied_or_pickled(way):
    with pytest.raises(TypeError, match="TaskGroup"):
        way(TaskGroup())


def test_overridden_methods_of_a_subclass():
    class Sub(TaskGroup):
        def __init__(self, name):
            super().__init__(limit=2)
            self.name = name

        def cancelled(self):
            raise AssertionError("called")

        cancel = cancelled

    def use():
        with Sub("x") as tg:
            assert tg.name == "x"
            assert "Sub" in repr(tg)
            tg.go(raising, ValueError())

    assert isinstance(caught(use), ExceptionGroup)


def test_object_without_init_raises():
    tg = TaskGroup.__new__(TaskGroup)
    assert repr(tg) == "<TaskGroup object, not initialized>"
    for call in (
        lambda: tg.go(int),
        tg.cancel,
        tg.cancelled,
        tg.wait_cancelled,
        tg.__enter__,
        lambda: tg.__exit__(None, None, None),
    ):
        with pytest.raises(RuntimeError, match="not initialized"):
            call()
    with pytest.raises(ValueError):
        tg.__init__(limit=0)
    tg.__init__()
    with pytest.raises(RuntimeError, match="already initialized"):
        tg.__init__()
    with tg:
        pass


def test_group_has_its_attributes():
    tg = TaskGroup()
    with pytest.raises(AttributeError):
        tg.new = 1
    assert not hasattr(tg, "__dict__")
    assert bool(tg)
    assert TaskGroup.__module__ == "nogil_sync"
    with pytest.raises(TypeError):
        TaskGroup[int]


@in_own_process
def test_import_loads_no_futures():
    assert "concurrent.futures" not in sys.modules
    nogil_sync.TaskGroup()
    assert "concurrent.futures" in sys.modules
    assert "concurrent.futures.thread" not in sys.modules
    assert "asyncio" not in sys.modules


class Thing:
    """Can be watched."""


class WatchedError(Exception):
    """Puts itself under watch: a frame that named it would be a cycle."""

    def __init__(self, watches):
        watches.append(weakref.ref(self))


@pytest.fixture
def no_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def gone(watches, tg=None):
    """Whether all that is watched goes away, by itself.

    Without the GIL, an object whose last reference another thread dropped goes when the thread
    that made it runs again: so the threads of an executor have to be woken.
    """

    def gone_by_now():
        if FREE_THREADED and tg is not None:
            tg.go(time.sleep, 0.001)
        return not any(watch() for watch in watches)

    return eventually(gone_by_now, 10)


@pytest.mark.usefixtures("no_collections")
def test_arguments_and_results_are_released(group):
    def task(thing, *, other):
        result = Thing()
        watches.append(weakref.ref(result))
        return result

    watches = []
    with group() as tg:
        for _ in range(5):
            thing, other = Thing(), Thing()
            watches += [weakref.ref(thing), weakref.ref(other)]
            future = tg.go(task, thing, other=other)
            del thing, other
            future.result()
            watches.append(weakref.ref(future))
            del future
        assert gone(watches, tg)


def fail_in(tg, body, watches):
    """Have two tasks fail, and the body; watch all there is."""

    def fail():
        raise WatchedError(watches)

    try:
        with tg:
            future = tg.go(fail)
            watches.append(weakref.ref(future))
            watches.append(weakref.ref(tg))
            assert tg.wait_cancelled(TIMEOUT)
            watches.append(weakref.ref(tg.go(fail)))
            if body:
                fail()
    except* WatchedError as failures:
        watches += [weakref.ref(failures)] * (len(failures.exceptions) == 1 + body)
    finally:
        del tg, future, fail


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize("limit", [None, 1])
def test_failures_are_released(limit, body):
    watches = []
    fail_in(TaskGroup(limit), body, watches)
    assert len(watches) == 5 + body
    assert gone(watches), watches


@pytest.mark.usefixtures("no_collections")
def test_failures_in_an_executor_are_released(pool):
    watches = []
    fail_in(TaskGroup(executor=pool), False, watches)
    with TaskGroup(executor=pool) as tg:
        assert gone(watches, tg), watches


@pytest.mark.usefixtures("no_collections")
def test_abandoned_group_is_released():
    tg = TaskGroup().__enter__()
    tg.go(int).result()
    watch = weakref.ref(tg)
    del tg
    assert watch() is None
    assert eventually(lambda: not own_threads(), 10)


def test_tasks_of_an_abandoned_group_run():
    def program():
        TaskGroup(limit=1).__enter__().go(os.write, 1, b"1")
        tg = TaskGroup(limit=1).__enter__()
        for n in range(3):
            tg.go(os.write, 1, b"2")

    done = in_process(program)
    assert sorted(done.stdout) == ["1", "2", "2", "2"]
    assert done.stderr == ""


def test_finaliser_uses_the_group():
    log = []

    class Last:
        def __init__(self, tg):
            self.me = self
            self.tg = tg

        def __del__(self):
            log.append(self.tg.go(pow, 2, 2))

    with TaskGroup(limit=2) as tg:
        for _ in range(200):
            Last(tg)
            tg.go(int)
            if not len(log) % 50:
                gc.collect()
        gc.collect()
    assert len(log) == 200
    assert all(f.result() == 4 for f in log)


def test_group_is_usable_at_interpreter_shutdown():
    def program():
        class Last:
            def __init__(self, name):
                self.name = name
                self.tg = TaskGroup(limit=1).__enter__()

            def use(self):
                repr(self.tg)
                try:
                    self.tg.go(int)
                    self.tg.cancel()
                except RuntimeError:
                    pass
                self.tg.__exit__(None, None, None)
                print(self.name)

        last = Last("at exit")
        atexit.register(last.use)

        def block():
            with TaskGroup() as tg:
                tg.go(time.sleep, 0.2)

        threading.Thread(target=block, daemon=True).start()
        time.sleep(0.05)

    done = in_process(program)
    assert done.stdout.split("\n")[0] == "at exit"
    assert done.stderr == ""
