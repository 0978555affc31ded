"""Ctrl-C at random microseconds in every public function that runs Python code.

`test_signals` does this to the calls that wait in C. Here each round uses a fresh object, and
interrupts it once while it works: afterwards the object must still work, nothing it counts may be
lost, and nothing may hang, the end of the process included.
"""

import signal
import textwrap

import pytest
from marks import starts_processes
from processes import python
from support import LONG, NATIVE, STRESS

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers by signal"),
]

# The handler raises only while armed. `interrupted(function)` calls it and tells whether it was.
HEADER = """
import itertools, random, signal, threading, time
from concurrent.futures import wait
from nogil_sync import *

armed = False
raised = 0
def handler(*_):
    global armed, raised
    if armed:
        armed = False
        raised += 1
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)

def interrupted(function, longest):
    global armed
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
        function()
        armed = False
        return False
    except KeyboardInterrupt:
        return True
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)

def rounds():
    end = time.monotonic() + {seconds}
    yield
    while time.monotonic() < end:
        yield
    print(raised, "interrupted")
"""

CASES = {
    # The count must come back to zero, whatever became of the thread.
    "WaitGroup.go": """
    def work():
        for _ in range(20):
            group.go(int)
    for _ in rounds():
        group = WaitGroup()
        interrupted(work, 4e-3)
        assert group.wait(20), group
        assert group.go(int).join(20) is None
        assert group.wait(20), group
    """,
    "WaitGroup.add and done": """
    def work():
        global more
        for _ in range(200):
            group.add()
            more += 1
            group.done()
            more -= 1
    for _ in rounds():
        group = WaitGroup()
        more = 0
        stopped = interrupted(work, 3e-4)
        count = int(repr(group).split()[-2])
        assert count in ((more, more + 1, more - 1) if stopped else (0,)), (count, more)
        for _ in range(count):
            group.done()
        assert group.wait(20), group
    """,
    # The future of each task ends, and the group can be left.
    "TaskGroup": """
    def work():
        with group:
            for _ in range(4):
                futures.append(group.go(next, ran))
    for n in rounds():
        group, futures, ran = TaskGroup(limit=random.choice([None, 1, 2])), [], itertools.count()
        interrupted(work, random.choice([1e-4, 5e-4, 3e-3]))
        if "not entered" in repr(group):
            group.__enter__()
        if "left" not in repr(group):
            group.__exit__(None, None, None)  # it was interrupted at the very entry
        assert wait(futures, 20).not_done == set(), (group, futures)
        assert "running" not in repr(group), group
        finished = [each for each in futures if not each.cancelled()]
        assert len(finished) <= next(ran) <= len(finished) + 1
    """,
    "TaskGroup.result": """
    def work():
        with group:
            futures.append(group.go(time.sleep, 1e-4))
            futures[0].result()
            futures.append(group.go(int))
            futures[1].cancel()
    for n in rounds():
        group, futures = TaskGroup(), []
        try:
            interrupted(work, 2e-3)
        except ExceptionGroup as failures:  # of CPython's condition variable, interrupted
            assert "un-acquired lock" in repr(failures.exceptions), failures.exceptions
        if "not entered" not in repr(group) and "left" not in repr(group):
            group.__exit__(None, None, None)
        assert wait(futures, 20).not_done == set(), (group, futures)
    """,
    # What was interrupted has not run, and runs again.
    "once": """
    for _ in rounds():
        function = once(lambda: sum(range(50)))
        interrupted(function, 6e-5)
        other = threading.Thread(target=function)
        other.start()
        other.join(20)
        assert function.done() and function() == 1225, function
    """,
    "Once.do": """
    for _ in rounds():
        first = Once()
        interrupted(lambda: first.do(sum, range(50)), 6e-5)
        other = threading.Thread(target=first.do, args=(sum, range(50)))
        other.start()
        other.join(20)
        assert first.done() and first.do(int) == 1225, first
    """,
    "once_property": """
    class Page:
        @once_property
        def words(self):
            return sum(range(50))
    for _ in rounds():
        page = Page()
        interrupted(lambda: page.words, 6e-5)
        other = threading.Thread(target=getattr, args=(page, "words"))
        other.start()
        other.join(20)
        assert page.__dict__ == {"words": 1225}, page.__dict__
    """,
    "load_or_compute": """
    cache = SyncMap()
    for _ in rounds():
        interrupted(lambda: cache.load_or_compute("key", sum, range(50)), 1e-4)
        other = threading.Thread(target=cache.load_or_compute, args=("key", sum, range(50)))
        other.start()
        other.join(20)
        assert cache.pop("key") == 1225
    """,
    # The thread that waits for another's run is interrupted; the others get what that returns.
    "once, waiting": """
    for _ in rounds():
        function = once(lambda: time.sleep(5e-4))
        threads = [threading.Thread(target=function) for _ in range(3)]
        for thread in threads[:2]:
            thread.start()
        interrupted(function, 1e-3)
        threads[2].start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), function
    """,
}


@pytest.mark.parametrize("name", CASES)
def test_interrupted_call_leaves_the_object_working(name):
    seconds = 1.5 * STRESS
    code = HEADER.format(seconds=seconds) + textwrap.dedent(CASES[name])
    print(python(code, timeout=LONG + seconds).stdout)


@pytest.mark.skipif(not NATIVE, reason="the threading backend is itself one")
def test_native_does_not_import_the_threading_backend():
    python(
        """
    import sys
    import nogil_sync, nogil_sync._common.tasks, nogil_sync._common.spawn
    with nogil_sync.TaskGroup() as group:
        group.go(int)
    work = nogil_sync.WaitGroup()
    work.go(int).join()
    assert nogil_sync.once(int)() == 0
    assert nogil_sync.SyncMap().load_or_compute(1, int) == 0
    assert [name for name in sys.modules if "nogil_sync._threading" in name] == []
    """
    )
