"""Counters and readers' locks where 128 processors are reported: memory, and what they promise."""

import sys
import threading

import pytest
from marks import starts_processes
from processes import in_own_process, in_process
from support import COUNTERS, NATIVE, resident

from nogil_sync import RWMutex, ShardedCounter

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not NATIVE, reason="the pure backend has no cells"),
]

# Read when the package is imported.
PROCESSORS = {"NOGIL_SYNC_CPU_COUNT": "128"}


def by_turns(threads, use, turns):
    """Living threads use something by turns, so that each meets the one before it."""
    batons = [threading.Semaphore(0) for _ in range(threads)]

    def run(i):
        for _ in range(turns):
            batons[i].acquire()
            use()
            batons[(i + 1) % threads].release()

    workers = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    batons[0].release()
    for worker in workers:
        worker.join()


def all_at_once(threads, rw, turns):
    """Threads read at the same time, again and again."""
    met = threading.Barrier(threads)

    def run():
        for _ in range(turns):
            with rw.read:
                met.wait()
            met.wait()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("cls", COUNTERS)
@in_own_process(timeout=150, env=PROCESSORS)
def test_counter_gets_cells_as_threads_contend(cls):
    c = cls()
    small = sys.getsizeof(c)
    by_turns(2, c.add, 3)
    assert sys.getsizeof(c) == small  # a few meetings pay for no cell
    by_turns(2, c.add, 100)
    two = sys.getsizeof(c)
    assert small < two <= small + 64 + 2 * 128, two
    by_turns(32, c.add, 60)
    many = sys.getsizeof(c)
    assert two + 20 * 128 < many <= small + 34 * 128 + 1024, many
    assert c.value() == 2 * 3 + 2 * 100 + 32 * 60
    by_turns(2, c.add, 100)
    assert sys.getsizeof(c) == many
    assert c.reset() == 2 * 3 + 2 * 100 + 32 * 60 + 200
    assert c.value() == 0


@in_own_process(timeout=150, env=PROCESSORS)
def test_rwmutex_gets_cells_as_readers_meet():
    rw = RWMutex()
    small = sys.getsizeof(rw)
    all_at_once(2, rw, 3)
    assert sys.getsizeof(rw) == small
    all_at_once(2, rw, 40)
    two = sys.getsizeof(rw)
    assert small < two <= small + 64 + 2 * 128, two
    all_at_once(10, rw, 40)
    ten = sys.getsizeof(rw)
    assert small + 10 * 128 <= ten <= small + 12 * 128 + 512, ten
    for _ in range(3):
        with rw.write:
            assert not rw.read.acquire(blocking=False)
        with rw.read:
            assert not rw.write.acquire(blocking=False)
            assert rw.read.locked()
            assert not rw.write.locked()
        all_at_once(10, rw, 20)
    assert not rw.read.locked()
    assert not rw.write.locked()
    assert sys.getsizeof(rw) <= ten + 4 * 128


@in_own_process(timeout=150, env=PROCESSORS)
def test_twenty_thousand_shared_objects_stay_small():
    objects = [ShardedCounter() for _ in range(10_000)] + [RWMutex() for _ in range(10_000)]

    def use_all():
        for it in objects:
            if type(it) is RWMutex:
                with it.read, it.read:
                    pass
            else:
                it.add()

    before = resident()
    by_turns(2, use_all, 40)
    grown = resident() - before
    print(grown, sum(map(sys.getsizeof, objects)))
    assert grown < 25_000_000, grown
    assert sum(map(sys.getsizeof, objects)) < 16_000_000
    assert all(it.value() == 80 for it in objects if type(it) is ShardedCounter)


@pytest.mark.parametrize("given", ["0", "-1", "many", "", "1", "100000000000000000000"])
def test_any_number_of_processors_is_safe(given):
    def program():
        c = ShardedCounter()
        threads = [threading.Thread(target=lambda: [c.add() for _ in range(500)]) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert c.value() == 3000

    in_process(program, env={"NOGIL_SYNC_CPU_COUNT": given})
