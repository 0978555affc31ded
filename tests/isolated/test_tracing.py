"""Trace functions and profilers that use the very object whose method they watch.

A debugger, a coverage tool or a profiler written in Python runs between the lines and around the
calls of our Python code. It may use the library, the same object included: nothing may hang, and
no step of either may be lost. (One that changes the object at every line for ever keeps a call
that starts again when somebody was faster from ending, so these change it some times a call.)
"""

import sys
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from marks import starts_processes
from processes import in_own_process
from support import TIMEOUT

import nogil_sync
from nogil_sync import Event, Pool, Semaphore, ShardedCounter, SyncMap, TaskGroup, WaitGroup

pytestmark = starts_processes

HOME = nogil_sync.__path__[0]


class Tracer:
    """A trace function that uses an object at the events of the library's own code."""

    def __init__(self, way):
        self.way = way
        self.events = set()
        self.count = 0
        """How often it used the object."""
        self.left = 0
        """How often it may still do so in the present call."""
        self.use = None
        """What it calls then; None while it does, and between the calls."""
        self.futures = []

    def use_once_more(self):
        if self.left:
            self.left -= 1
            self.count += 1
            use, self.use = self.use, None
            use()
            self.use = use

    def trace(self, frame, event, arg):
        if frame.f_code.co_filename.startswith(HOME) and self.use is not None:
            self.events.add(event)
            self.use_once_more()
        return self.trace

    def trace_library(self, frame, event, arg):
        ours = frame.f_code.co_filename.startswith(HOME)
        return self.trace(frame, event, arg) if ours else None

    def during(self, call, use, times):
        """Make the call, and use the object so many times in it."""
        start, function = {
            "settrace": (sys.settrace, self.trace_library),
            "setprofile": (sys.setprofile, self.trace),
        }[self.way]
        self.use, self.left = use, times
        start(function)
        call()
        start(None)
        self.use = None


class Case(NamedTuple):
    make: Callable[[], Any]
    call: Callable[[Any], object]
    """What is called under the trace function."""
    use: Callable[[Any, Tracer], object]
    """What the trace function does."""
    check: Callable[[Any, int, Tracer], object]
    """Whether the object is whole, after this number of calls."""


def set_and_clear(e):
    e.set()
    e.wait(1)
    e.clear()


def acquire_and_release(lock):
    lock.acquire()
    lock.release()


def try_lock(lock):
    return lock.acquire(blocking=False) and lock.release()


def read_and_write(rw):
    acquire_and_release(rw.read)
    acquire_and_release(rw.write)


def add_and_done(g):
    g.add(2)
    g.done()
    g.done()
    g.wait(5)
    g.go(int).join()


def wait_on(c):
    c.acquire()
    c.wait(0.0001)
    c.notify_all()
    c.release()


def compute_and_move(x):
    x.load_or_compute(1, int)
    x[2] = x.pop(1)
    x.clear()


def add_and_delete(x, tracer):
    key = tracer.count
    x[key] = 1
    del x[key]


def start_task(tg, tracer):
    if tracer.count % 100 == 0:
        tracer.futures.append(tg.go(int))


def leave(tg):
    return tg.__exit__(None, None, None) is None


CASES = {
    "AtomicInt64": Case(
        nogil_sync.AtomicInt64,
        lambda x: x.add(1),
        lambda x, tracer: x.add(1),
        lambda x, calls, tracer: x.load() == calls + tracer.count,
    ),
    "AtomicBool": Case(
        nogil_sync.AtomicBool,
        lambda x: x.swap(True),
        lambda x, tracer: x.swap(False),
        lambda x, calls, tracer: x.load() in (True, False),
    ),
    "AtomicRef": Case(
        lambda: nogil_sync.AtomicRef(None),
        lambda x: x.update(lambda old: (old, 1) if old is None else old),
        lambda x, tracer: x.load(),
        lambda x, calls, tracer: x.load() == (None, 1),
    ),
    "ShardedCounter": Case(
        nogil_sync.ShardedCounter,
        lambda x: x.add(),
        lambda x, tracer: x.add(),
        lambda x, calls, tracer: x.value() == calls + tracer.count,
    ),
    "Mutex": Case(
        nogil_sync.Mutex,
        acquire_and_release,
        lambda x, tracer: try_lock(x),
        lambda x, calls, tracer: x.acquire(blocking=False),
    ),
    "RLock": Case(
        nogil_sync.RLock,
        acquire_and_release,
        lambda x, tracer: try_lock(x),
        lambda x, calls, tracer: x.acquire(blocking=False) and x._recursion_count() == 1,
    ),
    "RWMutex": Case(
        nogil_sync.RWMutex,
        read_and_write,
        lambda x, tracer: try_lock(x.read),
        lambda x, calls, tracer: x.write.acquire(blocking=False),
    ),
    "Semaphore": Case(
        lambda: nogil_sync.Semaphore(3),
        acquire_and_release,
        lambda x, tracer: try_lock(x),
        lambda x, calls, tracer: x.acquire(n=3, blocking=False),
    ),
    "Event": Case(
        nogil_sync.Event,
        set_and_clear,
        lambda x, tracer: (x.set(), x.clear()),
        lambda x, calls, tracer: not x.is_set(),
    ),
    "WaitGroup": Case(
        nogil_sync.WaitGroup,
        add_and_done,
        lambda x, tracer: (x.add(), x.done()),
        lambda x, calls, tracer: x.wait(5),
    ),
    "Barrier": Case(
        lambda: nogil_sync.Barrier(1, int),
        lambda x: x.wait(),
        lambda x, tracer: x.reset(),
        lambda x, calls, tracer: x.wait() == x.n_waiting == 0,
    ),
    "Channel": Case(
        lambda: nogil_sync.Channel(1000000),
        lambda x: (x.send(1), x.recv()),
        lambda x, tracer: (x.send(2), x.recv()),
        lambda x, calls, tracer: x.try_recv() is None,
    ),
    "Cond": Case(
        nogil_sync.Cond,
        wait_on,
        lambda x, tracer: try_lock(x),
        lambda x, calls, tracer: x.acquire(blocking=False),
    ),
    "Pool": Case(
        lambda: nogil_sync.Pool(list),
        lambda x: (x.put([]), x.get()),
        lambda x, tracer: (x.put([]), x.get()),
        lambda x, calls, tracer: isinstance(x.get(), list),
    ),
    "SyncMap": Case(
        nogil_sync.SyncMap,
        compute_and_move,
        add_and_delete,
        lambda x, calls, tracer: len(x) == 0 and 1 not in x,
    ),
    "once": Case(
        lambda: nogil_sync.once(list),
        lambda x: (x(), repr(x)),
        lambda x, tracer: x() if x.done() else x.done(),
        lambda x, calls, tracer: x() is x(),
    ),
    "TaskGroup": Case(
        lambda: nogil_sync.TaskGroup(2).__enter__(),
        lambda x: x.go(int).result(),
        lambda x, tracer: (repr(x), x.cancelled()),
        lambda x, calls, tracer: leave(x) and x.cancelled() is False,
    ),
    "TaskGroup in itself": Case(
        lambda: nogil_sync.TaskGroup(2).__enter__(),
        lambda x: x.go(int).result(),
        start_task,
        lambda x, calls, tracer: leave(x) and not wait(tracer.futures, 5).not_done,
    ),
}


@pytest.mark.parametrize("way", ["settrace", "setprofile"])
@pytest.mark.parametrize("name", CASES)
@in_own_process(timeout=TIMEOUT)
def test_trace_function_uses_the_traced_object(name, way):
    case, tracer = CASES[name], Tracer(way)
    x = case.make()
    calls = 0
    for n in range(40):
        tracer.during(lambda: case.call(x), lambda: case.use(x, tracer), n)
        calls += 1
    assert case.check(x, calls, tracer), (x, calls, tracer.count, tracer.events)
    print(tracer.count, tracer.events)


@in_own_process
def test_trace_functions_see_no_line_of_a_section():
    # Both backends run TaskGroup's sections.
    home = Path(HOME)
    inside = {}
    for path in home.rglob("*.py"):
        within, lines = None, set()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            indent = len(line) - len(line.lstrip())
            if within is not None and line.strip():
                if indent < within or (indent == within and not line.strip().startswith("try:")):
                    within = None
                elif indent > within:
                    lines.add(number)
            if line.strip().endswith("guard.held = True") or "with self.__guard:" in line:
                within = indent
        inside[str(path)] = lines
    reported = set()

    def trace(frame, event, arg):
        file = frame.f_code.co_filename
        if not file.startswith(str(home)):
            return None
        if event == "line" and frame.f_lineno in inside.get(file, ()):
            reported.add((file, frame.f_lineno))
        return trace

    sys.settrace(trace)
    with TaskGroup(1) as group:
        for _ in range(5):
            group.go(int)
        group.cancel()
    work = WaitGroup()
    work.go(int).join()
    work.wait(5)
    counter = ShardedCounter()
    counter.add()
    event = Event()
    event.set()
    semaphore = Semaphore(1)
    semaphore.acquire()
    semaphore.release()
    pool = Pool(list)
    pool.put(pool.get())
    cache = SyncMap(a=1)
    cache.popitem()
    sys.settrace(None)
    assert sum(map(len, inside.values())) > 100
    assert not reported, sorted(reported)
