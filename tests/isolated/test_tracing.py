"""Trace functions and profilers that use the very object whose method they watch.

A debugger, a coverage tool or a profiler written in Python runs between the lines and around the
calls of our Python code. It may use the library, the same object included: nothing may hang, and
no step of either may be lost. (One that changes the object at every line for ever keeps a call
that starts again when somebody was faster from ending, so these change it some times a call.)
"""

import textwrap

import pytest
from marks import starts_processes
from processes import python
from support import LONG

pytestmark = starts_processes

# `used` is called in each event of our own code, and must be whole every time.
HEADER = """
import sys, threading, time
from concurrent.futures import wait
from nogil_sync import *
import nogil_sync, nogil_sync._common.tasks
home = nogil_sync.__path__[0]
events = set()
count = left = 0
used = None
def once_more():
    global count, left
    if left:
        left -= 1
        count += 1
        used()
def traced(frame, event, arg):
    if frame.f_code.co_filename.startswith(home) and used is not None:
        events.add(event)
        once_more()
    return traced
def watch(way):
    {watch}
def unwatch():
    {unwatch}
def trace_only_ours(frame, event, arg):
    return traced(frame, event, arg) if frame.f_code.co_filename.startswith(home) else None
"""

WAYS = {
    "settrace": ("sys.settrace(trace_only_ours)", "sys.settrace(None)"),
    "setprofile": ("sys.setprofile(traced)", "sys.setprofile(None)"),
}

# What is made, what is called under the trace function, what that does itself, and what must hold.
CASES = {
    "AtomicInt64": ("AtomicInt64()", "x.add(1)", "x.add(1)", "x.load() == calls + count"),
    "AtomicBool": ("AtomicBool()", "x.swap(True)", "x.swap(False)", "x.load() in (True, False)"),
    "AtomicRef": (
        "AtomicRef(None)",
        "x.update(lambda old: (old, 1) if old is None else old)",
        "x.load()",
        "x.load() == (None, 1)",
    ),
    "ShardedCounter": ("ShardedCounter()", "x.add()", "x.add()", "x.value() == calls + count"),
    "Mutex": (
        "Mutex()",
        "x.acquire(); x.release()",
        "x.acquire(blocking=False) and x.release()",
        "x.acquire(blocking=False)",
    ),
    "RWMutex": (
        "RWMutex()",
        "x.read.acquire(); x.read.release(); x.write.acquire(); x.write.release()",
        "x.read.acquire(blocking=False) and x.read.release()",
        "x.write.acquire(blocking=False)",
    ),
    "Semaphore": (
        "Semaphore(3)",
        "x.acquire(); x.release()",
        "x.acquire(blocking=False) and x.release()",
        "x.acquire(n=3, blocking=False)",
    ),
    "Event": ("Event()", "x.set(); x.wait(1); x.clear()", "x.set(); x.clear()", "not x.is_set()"),
    "WaitGroup": (
        "WaitGroup()",
        "x.add(2); x.done(); x.done(); x.wait(5); x.go(int).join()",
        "x.add(); x.done()",
        "x.wait(5)",
    ),
    "Channel": (
        "Channel(1000000)",
        "x.send(1); x.recv()",
        "x.send(2); x.recv()",
        "x.try_recv() is None",
    ),
    "Cond": (
        "Cond()",
        "x.acquire(); x.wait(0.0001); x.notify_all(); x.release()",
        "x.acquire(blocking=False) and x.release()",
        "x.acquire(blocking=False)",
    ),
    "Pool": ("Pool(list)", "x.put([]); x.get()", "x.put([]); x.get()", "isinstance(x.get(), list)"),
    "SyncMap": (
        "SyncMap()",
        "x.load_or_compute(1, int); x[2] = x.pop(1); x.clear()",
        "x[count] = 1; del x[count]",
        "len(x) == 0 and 1 not in x",
    ),
    "once": ("once(list)", "x(); repr(x)", "x() if x.done() else x.done()", "x() is x()"),
    "TaskGroup": (
        "TaskGroup(2).__enter__()",
        "x.go(int).result()",
        "repr(x); x.cancelled()",
        "x.__exit__(None, None, None) is None and x.cancelled() is False",
    ),
    "TaskGroup in itself": (
        "TaskGroup(2).__enter__()",
        "x.go(int).result()",
        "count % 100 or futures.append(x.go(int))",
        "x.__exit__(None, None, None) is None and not wait(futures, 5).not_done",
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_trace_function_uses_the_traced_object(name, way):
    make, call, inside, holds = CASES[name]
    watch, unwatch = WAYS[way]
    body = f"""
    futures = []
    x = {make}
    calls = 0
    def use():
        global used
        used = None
        {inside}
        used = use
    for n in range(40):
        used, left = use, n
        watch(n)
        {call}
        unwatch()
        used = None
        calls += 1
    assert {holds}, (x, calls, count, events)
    print(count, events)
    """
    header = HEADER.format(watch=watch, unwatch=unwatch)
    print(python(header + textwrap.dedent(body), timeout=LONG).stdout)


def test_trace_functions_see_no_line_of_a_section():
    # Both backends run TaskGroup's sections.
    python(
        """
    import sys
    from pathlib import Path
    import nogil_sync
    from nogil_sync import TaskGroup, WaitGroup, ShardedCounter, Event, Semaphore, SyncMap, Pool
    home = Path(nogil_sync.__path__[0])
    inside = {}
    for path in home.rglob("*.py"):
        within, lines = None, set()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            indent = len(line) - len(line.lstrip())
            if within is not None and line.strip():
                if indent < within or indent == within and not line.strip().startswith("try:"):
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
    """
    )
