"""RWMutex: two sides, phases, counted holds, downgrades, time-outs."""

import copy
import gc
import pickle
import random
import sys
import threading
import time
import weakref

import pytest
from lock_cases import ACQUIRE_ARGUMENTS, WRONG_ACQUIRE_ARGUMENTS
from marks import starts_threads
from rwmutexes import FREE, READ, WRITTEN, sides, state
from support import TIMEOUT, eventually, for_a_while, run_threads, started

from nogil_sync import RWMutex

# The interface


def test_read_lock_is_shared():
    rw = RWMutex()
    assert state(rw) == FREE
    assert rw.read.acquire() is True
    assert state(rw) == READ
    assert rw.read.acquire() is True
    assert rw.write.acquire(False) is False
    assert rw.read.release() is None
    assert state(rw) == READ
    rw.read.release()
    assert state(rw) == FREE


def test_write_lock_is_exclusive():
    rw = RWMutex()
    assert rw.write.acquire() is True
    assert state(rw) == WRITTEN
    for side in (rw.read, rw.write):
        assert side.acquire(False) is False
        assert side.acquire(blocking=False) is False
        assert side.acquire(timeout=0) is False
        assert side.acquire(True, 0.01) is False
    assert rw.write.release() is None
    assert state(rw) == FREE


@sides
def test_with_acquires_and_releases_either_side(side):
    rw = RWMutex()
    view = getattr(rw, side)
    with view as entered:
        assert entered is True
        assert view.locked()
    assert state(rw) == FREE
    with pytest.raises(LookupError), view:
        raise LookupError
    assert state(rw) == FREE


@sides
@pytest.mark.parametrize(("args", "kwargs"), ACQUIRE_ARGUMENTS)
def test_acquire_accepts_arguments_of_threading_lock(side, args, kwargs):
    rw = RWMutex()
    view = getattr(rw, side)
    assert view.acquire(*args, **kwargs) is True
    assert view.locked()
    view.release()


@sides
@pytest.mark.parametrize(("args", "kwargs", "error"), WRONG_ACQUIRE_ARGUMENTS)
@pytest.mark.parametrize("held", [None, "read", "write"])
def test_wrong_arguments_raise(side, args, kwargs, error, held):
    rw = RWMutex()
    if held:
        getattr(rw, held).acquire()
    before = state(rw)
    with pytest.raises(error):
        getattr(rw, side).acquire(*args, **kwargs)
    assert state(rw) == before
    if held:
        getattr(rw, held).release()
    with rw.write:
        pass


def test_error_messages_name_the_side():
    rw = RWMutex()
    for side in (rw.read, rw.write):
        with pytest.raises(RuntimeError, match="release unlocked lock"):
            side.release()
        with pytest.raises(ValueError, match="can't specify a timeout for a non-blocking call"):
            side.acquire(False, 5)
    with pytest.raises(RuntimeError, match="downgrade of an unlocked write lock"):
        rw.downgrade()
    for call in (lambda: RWMutex(1), lambda: rw.downgrade(1), lambda: rw.read.release(1)):
        with pytest.raises(TypeError):
            call()


def test_wrong_releases_change_nothing():
    rw = RWMutex()
    for _ in range(2):
        for wrong in (rw.read.release, rw.write.release, rw.downgrade):
            with pytest.raises(RuntimeError):
                wrong()
    assert state(rw) == FREE
    rw.read.acquire()
    rw.read.acquire()
    for wrong in (rw.write.release, rw.downgrade):
        with pytest.raises(RuntimeError):
            wrong()
    assert state(rw) == READ
    rw.read.release()
    assert rw.write.acquire(False) is False
    rw.read.release()
    rw.write.acquire()
    with pytest.raises(RuntimeError):
        rw.read.release()
    assert state(rw) == WRITTEN
    assert rw.read.acquire(False) is False
    rw.write.release()
    assert state(rw) == FREE


def test_views_are_always_the_same_objects():
    rw = RWMutex()
    assert rw.read is rw.read
    assert rw.write is rw.write
    assert rw.read is not rw.write
    for side in ("read", "write"):
        with pytest.raises(AttributeError):
            setattr(rw, side, None)
        with pytest.raises(AttributeError):
            delattr(rw, side)


def test_views_keep_the_lock_alive():
    read, write = RWMutex().read, RWMutex().write
    gc.collect()
    with read, write:
        assert read.locked()
        assert write.locked()
        assert not write.acquire(False)
    rw = RWMutex()
    read, write = rw.read, rw.write
    read.acquire()
    del rw
    gc.collect()
    assert write.acquire(timeout=0.01) is False
    read.release()
    assert write.acquire()


@sides
def test_views_compare_and_hash_by_identity(side):
    rw = RWMutex()
    view = getattr(rw, side)
    cls = type(view)
    assert cls.__name__ == {"read": "RWMutexReader", "write": "RWMutexWriter"}[side]
    assert cls.__module__ == "nogil_sync"
    assert cls.__doc__
    assert ">>>" in cls.__doc__
    for name in ("acquire", "release", "locked"):
        assert getattr(cls, name).__doc__
    with pytest.raises(TypeError, match=f"cannot create '.*{cls.__name__}' instances"):
        cls()
    with pytest.raises(TypeError):
        cls(rw)
    with pytest.raises(TypeError):
        type("Sub", (cls,), {})
    with pytest.raises(TypeError, match=cls.__name__):
        pickle.dumps(view)
    with pytest.raises(TypeError, match=cls.__name__):
        copy.copy(view)
    with pytest.raises(AttributeError):
        view.new = 1
    assert weakref.ref(view)() is view
    assert view == view
    assert view != getattr(RWMutex(), side)
    assert bool(view)
    hash(view)


def test_repr():
    rw = RWMutex()
    where = f"{id(rw):#x}"
    assert repr(rw) == f"<nogil_sync.RWMutex object at {where}, unlocked>"
    assert repr(rw.read) == f"<nogil_sync.RWMutexReader object at {id(rw.read):#x}, unlocked>"
    with rw.read:
        assert repr(rw) == f"<nogil_sync.RWMutex object at {where}, read-locked>"
        assert repr(rw.read) == f"<nogil_sync.RWMutexReader object at {id(rw.read):#x}, locked>"
        assert repr(rw.write).endswith(", unlocked>")
    with rw.write:
        assert repr(rw) == f"<nogil_sync.RWMutex object at {where}, write-locked>"
        assert repr(rw.write) == (
            f"<nogil_sync.RWMutexWriter object at {id(rw.write):#x}, locked, "
            f"owner={threading.get_ident()}>"
        )


def test_timeout_whose_float_method_uses_the_lock():
    rw = RWMutex()

    class Odd:
        def __float__(self):
            with rw.write:
                return 1.0

    assert rw.read.acquire(timeout=Odd())
    rw.read.release()
    assert rw.write.acquire(timeout=Odd())
    rw.write.release()


@pytest.mark.parametrize("who", ["read", "write", "both"])
def test_at_fork_reinit_frees_it(who):
    rw = RWMutex()
    reset = {"read": rw.read, "write": rw.write, "both": rw}[who]._at_fork_reinit
    reset()
    assert state(rw) == FREE
    rw.write.acquire()
    reset()
    assert state(rw) == FREE
    rw.read.acquire()
    rw.read.acquire()
    reset()
    assert state(rw) == FREE
    rw.write.acquire()
    rw.downgrade()
    reset()
    assert state(rw) == FREE
    rw.read.acquire()
    with pytest.raises(RuntimeError):  # the mark is reset as well
        rw.write.release()
    rw.read.release()
    with rw.write:
        pass


# Downgrade


def test_downgrade_turns_a_write_hold_into_a_read_hold():
    rw = RWMutex()
    rw.write.acquire()
    assert rw.downgrade() is None
    assert state(rw) == READ
    with pytest.raises(RuntimeError):
        rw.downgrade()
    assert rw.write.acquire(False) is False
    assert rw.read.acquire(False) is True
    rw.write.release()
    assert state(rw) == READ
    with pytest.raises(RuntimeError):
        rw.write.release()
    rw.read.release()
    assert state(rw) == FREE
    with rw.write:
        rw.downgrade()
        assert state(rw) == READ
    assert state(rw) == FREE
    with pytest.raises(RuntimeError):
        rw.write.release()


def test_downgraded_hold_released_by_either_side():
    rw = RWMutex()
    rw.write.acquire()
    rw.downgrade()
    rw.read.release()
    assert state(rw) == FREE
    with pytest.raises(RuntimeError):
        rw.write.release()
    with pytest.raises(RuntimeError):
        rw.read.release()
    assert state(rw) == FREE


def test_downgraded_hold_is_released_once():
    rw = RWMutex()
    rw.write.acquire()
    rw.downgrade()
    rw.read.acquire()
    rw.read.acquire()
    # Three holds, one of them downgraded: two releases of readers leave the downgraded one.
    rw.read.release()
    rw.read.release()
    assert state(rw) == READ
    assert rw.write.acquire(False) is False
    rw.write.release()
    assert state(rw) == FREE
    # A hold that was released leaves no mark.
    rw.write.acquire()
    rw.downgrade()
    rw.read.release()
    rw.read.acquire()
    with pytest.raises(RuntimeError):
        rw.write.release()
    assert state(rw) == READ
    rw.read.release()
    # A release on the write side releases a writer's hold before a downgraded one.
    with rw.write:
        rw.downgrade()
        rw.read.release()
        rw.write.acquire()
        assert state(rw) == WRITTEN
    assert state(rw) == FREE


def test_no_sequence_of_releases_lets_a_writer_in_beside_a_reader():
    # Compared with a model: counted holds, a writer, downgraded holds.
    rng = random.Random(1)
    for _ in range(300):
        rw = RWMutex()
        readers = marks = 0
        writing = False
        for _ in range(40):
            way = rng.randrange(5)
            if way == 0:
                assert rw.read.acquire(False) is not writing
                readers += not writing
            elif way == 1:
                assert rw.write.acquire(False) is (not writing and not readers)
                writing = writing or not readers
            elif way == 2 and readers:
                rw.read.release()
                readers -= 1
                marks = min(marks, readers)
            elif way == 3 and writing:
                rw.write.release()
                writing = False
            elif way == 3 and marks:
                rw.write.release()
                marks -= 1
                readers -= 1
            elif way == 4 and writing:
                rw.downgrade()
                writing, readers, marks = False, 1, 1
            elif way > 1:
                wrong = {2: rw.read.release, 3: rw.write.release, 4: rw.downgrade}[way]
                with pytest.raises(RuntimeError):
                    wrong()
            assert state(rw) == (readers > 0, writing)


# Between threads


@starts_threads
def test_writers_exclude_readers_and_writers():
    rw = RWMutex()
    data = [0, 0]
    n = 400

    def write():
        for _ in range(n):
            with rw.write:
                data[0] += 1
                data[1] += 1

    def read():
        for _ in range(n):
            with rw.read:
                assert data[0] == data[1]

    run_threads(write, read, times=2)
    assert data == [2 * n, 2 * n]
    assert state(rw) == FREE


@starts_threads
def test_readers_read_at_the_same_time():
    rw = RWMutex()
    barrier = threading.Barrier(5)

    def read():
        with rw.read:
            barrier.wait(TIMEOUT)

    run_threads(read, times=5)


@starts_threads
def test_any_thread_may_release():
    rw = RWMutex()
    rw.write.acquire()
    run_threads(rw.write.release)
    rw.read.acquire()
    rw.read.acquire()
    run_threads(rw.read.release, rw.read.release)
    assert state(rw) == FREE


@starts_threads
def test_waiting_writer_keeps_new_readers_out():
    rw = RWMutex()
    rw.read.acquire()
    writer, wrote = started(rw.write.acquire)
    assert rw.read.acquire(False) is False
    assert rw.read.acquire(timeout=0.02) is False
    reader, read = started(rw.read.acquire)
    assert not read
    assert not wrote
    rw.read.release()  # the last reader lets the writer in
    writer.join(TIMEOUT)
    assert wrote == [True]
    assert not read
    assert state(rw) == WRITTEN
    rw.write.release()
    reader.join(TIMEOUT)
    assert read == [True]
    assert state(rw) == READ


@starts_threads
def test_only_the_last_reader_lets_the_writer_in():
    rw = RWMutex()
    for _ in range(3):
        rw.read.acquire()
    writer, wrote = started(rw.write.acquire)
    for _ in range(2):
        rw.read.release()
        time.sleep(0.02)
        assert not wrote
    rw.read.release()
    writer.join(TIMEOUT)
    assert wrote == [True]


@starts_threads
def test_release_admits_waiting_readers_before_the_next_writer():
    rw = RWMutex()
    rw.write.acquire()
    first, first_wrote = started(rw.write.acquire)
    readers = [started(rw.read.acquire) for _ in range(3)]
    second, second_wrote = started(rw.write.acquire)
    late = started(rw.read.acquire)
    rw.write.release()
    # All waiting readers are admitted, also those that came after the writers; new readers are not.
    assert eventually(lambda: all(r for _, r in [*readers, late]))
    assert state(rw) == READ
    assert rw.read.acquire(False) is False
    assert not first_wrote
    for _ in range(4):
        assert not first_wrote
        rw.read.release()
    first.join(TIMEOUT)
    assert first_wrote == [True]
    assert not second_wrote
    rw.write.release()
    second.join(TIMEOUT)
    assert second_wrote == [True]
    rw.write.release()
    assert state(rw) == FREE


@starts_threads
def test_writers_come_in_order():
    rw = RWMutex()
    order = []

    def work(k):
        with rw.write:
            order.append(k)

    rw.write.acquire()
    workers = [started(work, k)[0] for k in range(5)]
    rw.write.release()
    for worker in workers:
        worker.join(TIMEOUT)
    assert order == list(range(5))


@starts_threads
def test_timed_out_writer_lets_the_readers_in():
    rw = RWMutex()
    rw.read.acquire()
    for timeout in (0.3, 3, 30):  # on a busy machine it takes long until all wait
        writer, wrote = started(rw.write.acquire, timeout=timeout)
        readers = [started(rw.read.acquire) for _ in range(2)]
        if waiting := not any(r for _, r in readers):
            break
        for thread, _ in readers:
            thread.join(TIMEOUT)
            rw.read.release()
    assert waiting
    writer.join(TIMEOUT)
    assert wrote == [False]
    for thread, result in readers:
        thread.join(TIMEOUT)
        assert result == [True]
    assert rw.read.acquire(False) is True
    for _ in range(4):
        rw.read.release()
    assert state(rw) == FREE


@starts_threads
def test_timed_out_writer_leaves_the_other_writer_in_line():
    rw = RWMutex()
    rw.read.acquire()
    impatient, _ = started(rw.write.acquire, timeout=0.1)
    writer, wrote = started(rw.write.acquire)
    reader, read = started(rw.read.acquire)
    impatient.join(TIMEOUT)
    time.sleep(0.02)
    assert not read  # the other one still keeps it out
    assert rw.read.acquire(False) is False
    rw.read.release()
    writer.join(TIMEOUT)
    assert wrote == [True]
    rw.write.release()
    reader.join(TIMEOUT)
    assert read == [True]


@starts_threads
@sides
def test_acquire_times_out(side):
    rw = RWMutex()
    rw.write.acquire()
    view = getattr(rw, side)
    begin = time.monotonic()
    assert view.acquire(timeout=0.1) is False
    assert 0.09 <= time.monotonic() - begin < 20
    thread, result = started(view.acquire, timeout=0.05)
    thread.join(TIMEOUT)
    assert result == [False]
    rw.write.release()
    assert view.acquire(timeout=0.1) is True
    view.release()
    assert state(rw) == FREE


@starts_threads
def test_downgrade_lets_waiting_readers_in():
    rw = RWMutex()
    rw.write.acquire()
    writer, wrote = started(rw.write.acquire)
    readers = [started(rw.read.acquire) for _ in range(2)]
    rw.downgrade()
    for thread, result in readers:
        thread.join(TIMEOUT)
        assert result == [True]
    assert not wrote
    assert state(rw) == READ
    assert rw.read.acquire(False) is False
    rw.write.release()
    rw.read.release()
    assert not wrote
    rw.read.release()
    writer.join(TIMEOUT)
    assert wrote == [True]
    assert state(rw) == WRITTEN


@starts_threads
def test_no_writer_comes_between_write_and_read_of_a_downgrade():
    rw = RWMutex()
    value = 0

    def work():
        nonlocal value
        for _ in range(200):
            with rw.write:
                value = mine = value + 1
                rw.downgrade()
                assert value == mine

    run_threads(work, times=4)
    assert value == 800
    assert state(rw) == FREE


@starts_threads
def test_lock_stays_small_until_two_threads_read_at_once():
    rw = RWMutex()

    def one_after_the_other():
        for _ in range(50):
            with turns:
                with rw.read:
                    pass
                with rw.write:
                    pass

    turns = threading.Lock()
    run_threads(one_after_the_other, times=4)
    assert sys.getsizeof(rw) < 512
    with rw.read, rw.read:
        pass
    assert not rw.read.locked()


def assert_none_starve(held_long, held_briefly):
    """Three threads hold the one side all the time, in turns; a fourth wants the other side."""
    end = time.monotonic() + TIMEOUT
    long = brief = 0

    def goes_on():
        return (long < 100 or brief < 20) and time.monotonic() < end

    def hold_long():
        nonlocal long
        while goes_on():
            with held_long:
                long += 1
                time.sleep(0.002)

    def hold_briefly():
        nonlocal brief
        while goes_on():
            with held_briefly:
                brief += 1
            time.sleep(0.001)

    run_threads(hold_long, hold_long, hold_long, hold_briefly)
    assert 100 <= long < 2000, (long, brief)
    assert brief >= 20, (long, brief)


@starts_threads
def test_overlapping_readers_do_not_starve_writers():
    rw = RWMutex()
    assert_none_starve(rw.read, rw.write)


@starts_threads
def test_successive_writers_do_not_starve_readers():
    rw = RWMutex()
    assert_none_starve(rw.write, rw.read)


@starts_threads
def test_timeouts_and_tries_lose_nothing():
    rw = RWMutex()
    inside = [0, 0]

    def work(k):
        rng = random.Random(k)
        taken = 0
        for _ in for_a_while(0.7):
            write = rng.randrange(3) == 0
            view = rw.write if write else rw.read
            way = rng.randrange(3)
            got = (
                view.acquire(False) if way == 0 else view.acquire(timeout=way * rng.random() / 500)
            )
            if not got:
                continue
            taken += 1
            if write:
                inside[1] += 1
                assert inside[1] == 1
                inside[1] -= 1
                if rng.randrange(2):
                    rw.downgrade()
            else:
                assert inside[1] == 0
            view.release()
        return taken

    assert all(run_threads(*[lambda k=k: work(k) for k in range(4)]))
    assert state(rw) == FREE
    assert rw.write.acquire(False)


@starts_threads
def test_at_fork_reinit_forgets_waiters():
    rw = RWMutex()
    rw.write.acquire()
    reader = started(rw.read.acquire, timeout=TIMEOUT)
    writer = started(rw.write.acquire, timeout=TIMEOUT)
    rw._at_fork_reinit()
    # Both go on, one after the other.
    for _ in range(2):
        assert eventually(lambda: any(state(rw)))
        (rw.write if rw.write.locked() else rw.read).release()
    for thread, result in (reader, writer):
        thread.join(TIMEOUT)
        assert result == [True]
    assert state(rw) == FREE


@starts_threads
def test_threading_condition_works_over_the_write_side():
    rw = RWMutex()
    condition = threading.Condition(rw.write)
    with pytest.raises(RuntimeError):
        condition.notify()
    with condition:
        assert condition.wait(0.01) is False
        assert rw.write.locked()
    assert state(rw) == FREE


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    rw = RWMutex()
    rw.write.acquire()
    waiters = [started(rw.read.acquire), started(rw.write.acquire)]
    for _ in range(3):
        gc.collect()
    rw.write.release()
    assert eventually(lambda: waiters[0][1] == [True])
    rw.read.release()
    for thread, result in waiters:
        thread.join(TIMEOUT)
        assert result == [True]
