"""Ctrl-C at random microseconds in every public function that runs Python code.

`test_signals` does this to the calls that wait in C. Here each round uses a fresh object, and
interrupts it once while it works: afterwards the object must still work, nothing it counts may be
lost, and nothing may hang, the end of the process included.
"""

import itertools
import random
import signal
import sys
import threading
import time
from concurrent.futures import wait

import pytest
from marks import starts_processes
from processes import in_own_process
from support import NATIVE, STRESS, TIMEOUT

import nogil_sync
from nogil_sync import Once, SyncMap, TaskGroup, WaitGroup, once, once_property

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers by signal"),
]

SECONDS = 1.5 * STRESS


class OneInterrupt:
    """Interrupts a call once, after random microseconds; the handler raises only while armed."""

    def __init__(self):
        self.armed = False
        self.raised = 0
        signal.signal(signal.SIGALRM, self.handle)

    def handle(self, *_):
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt

    def during(self, function, longest):
        """Call the function; whether it was interrupted."""
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, longest))
            function()
            self.armed = False
            return False
        except KeyboardInterrupt:
            return True
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def rounds(self):
        end = time.monotonic() + SECONDS
        yield
        while time.monotonic() < end:
            yield
        print(self.raised, "interrupted")


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_waitgroup_go_keeps_the_count():
    interrupt = OneInterrupt()

    def work():
        for _ in range(20):
            group.go(int)

    for _ in interrupt.rounds():
        group = WaitGroup()
        interrupt.during(work, 4e-3)
        assert group.wait(20), group
        assert group.go(int).join(20) is None
        assert group.wait(20), group


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_add_and_done_keep_the_count():
    interrupt = OneInterrupt()

    def work():
        nonlocal more
        for _ in range(200):
            group.add()
            more += 1
            group.done()
            more -= 1

    for _ in interrupt.rounds():
        group = WaitGroup()
        more = 0
        stopped = interrupt.during(work, 3e-4)
        count = int(repr(group).split()[-2])
        assert count in ((more, more + 1, more - 1) if stopped else (0,)), (count, more)
        for _ in range(count):
            group.done()
        assert group.wait(20), group


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_taskgroup_ends_all_its_tasks():
    interrupt = OneInterrupt()

    def work():
        with group:
            for _ in range(4):
                futures.append(group.go(next, ran))

    for n in interrupt.rounds():
        group, futures, ran = TaskGroup(limit=random.choice([None, 1, 2])), [], itertools.count()
        interrupt.during(work, random.choice([1e-4, 5e-4, 3e-3]))
        if "not entered" in repr(group):
            group.__enter__()
        if "left" not in repr(group):
            group.__exit__(None, None, None)  # it was interrupted at the very entry
        assert wait(futures, 20).not_done == set(), (group, futures)
        assert "running" not in repr(group), group
        finished = [each for each in futures if not each.cancelled()]
        assert len(finished) <= next(ran) <= len(finished) + 1


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_taskgroup_interrupted_in_result_ends_all_its_tasks():
    interrupt = OneInterrupt()

    def work():
        with group:
            futures.append(group.go(time.sleep, 1e-4))
            futures[0].result()
            futures.append(group.go(int))
            futures[1].cancel()

    for n in interrupt.rounds():
        group, futures = TaskGroup(), []
        try:
            interrupt.during(work, 2e-3)
        except ExceptionGroup as failures:  # of CPython's condition variable, interrupted
            assert "un-acquired lock" in repr(failures.exceptions), failures.exceptions
        if "not entered" not in repr(group) and "left" not in repr(group):
            group.__exit__(None, None, None)
        assert wait(futures, 20).not_done == set(), (group, futures)


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_once_runs_again():
    interrupt = OneInterrupt()
    for _ in interrupt.rounds():
        function = once(lambda: sum(range(50)))
        interrupt.during(function, 6e-5)
        other = threading.Thread(target=function)
        other.start()
        other.join(20)
        assert function.done(), function
        assert function() == 1225, function


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_once_do_runs_again():
    interrupt = OneInterrupt()
    for _ in interrupt.rounds():
        first = Once()
        interrupt.during(lambda: first.do(sum, range(50)), 6e-5)
        other = threading.Thread(target=first.do, args=(sum, range(50)))
        other.start()
        other.join(20)
        assert first.done(), first
        assert first.do(int) == 1225, first


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_once_property_runs_again():
    interrupt = OneInterrupt()

    class Page:
        @once_property
        def words(self):
            return sum(range(50))

    for _ in interrupt.rounds():
        page = Page()
        interrupt.during(lambda: page.words, 6e-5)
        other = threading.Thread(target=getattr, args=(page, "words"))
        other.start()
        other.join(20)
        assert page.__dict__ == {"words": 1225}, page.__dict__


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_load_or_compute_runs_again():
    interrupt = OneInterrupt()
    cache = SyncMap()
    for _ in interrupt.rounds():
        interrupt.during(lambda: cache.load_or_compute("key", sum, range(50)), 1e-4)
        other = threading.Thread(target=cache.load_or_compute, args=("key", sum, range(50)))
        other.start()
        other.join(20)
        assert cache.pop("key") == 1225


@in_own_process(timeout=TIMEOUT + SECONDS)
def test_interrupted_wait_for_once_leaves_other_waiters():
    interrupt = OneInterrupt()
    for _ in interrupt.rounds():
        function = once(lambda: time.sleep(5e-4))
        threads = [threading.Thread(target=function) for _ in range(3)]
        for thread in threads[:2]:
            thread.start()
        interrupt.during(function, 1e-3)
        threads[2].start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), function


@pytest.mark.skipif(not NATIVE, reason="the threading backend is itself one")
@in_own_process
def test_native_does_not_import_the_threading_backend():
    with nogil_sync.TaskGroup() as group:
        group.go(int)
    work = nogil_sync.WaitGroup()
    work.go(int).join()
    assert nogil_sync.once(int)() == 0
    assert nogil_sync.SyncMap().load_or_compute(1, int) == 0
    assert [name for name in sys.modules if "nogil_sync._threading" in name] == []
