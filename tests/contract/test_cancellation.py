"""Cancellation that reaches waits: which calls it ends, what it leaves, and what it never ends."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress

import pytest
from groups import asleep, begun, caught, own_threads, raising
from marks import starts_threads
from support import TIMEOUT, collected, eventually, run_threads, settle
from waits import WAITS, unlocked

from nogil_sync import (
    Cache,
    Cancelled,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    Once,
    RWMutex,
    Semaphore,
    SyncMap,
    TaskGroup,
    Ticker,
    WaitGroup,
    once,
    once_property,
    shield,
)

pytestmark = starts_threads

LOCKS = [name for name in WAITS if name.startswith(("Mutex", "RLock", "RWMutex"))]
CANCELLABLE = [name for name in WAITS if name not in LOCKS]
# A notification that comes before the wait is lost, as it should be.
SERVED_BEFORE = [name for name in CANCELLABLE if not WAITS[name].only_waiters]
MESSAGE = "the TaskGroup was cancelled"


def serve_wholly(trial):
    """Serve the waiter; when this returns, it is served."""
    trial.serve()
    if isinstance(getattr(trial.x, "map", None), SyncMap | Cache):
        assert eventually(lambda: "k" in trial.x.map)


def cancelled_by(wait):
    """What the wait raises in the block of a cancelled group."""
    with TaskGroup() as tg:
        tg.cancel()
        return caught(wait)


def is_usable(trial):
    """The object is as if no thread had ever waited."""
    trial.lock()
    assert trial.call(0.01) == trial.timed_out
    timer = trial.serve_soon()
    assert trial.call() == trial.served
    timer.join()


# Which waits


@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize("name", CANCELLABLE)
def test_cancelling_the_group_wakes_the_wait(name, timeout):
    trial = unlocked(name)
    before = trial.state()
    with TaskGroup() as tg:
        future = asleep(tg, trial.call_unlocked, timeout)
        tg.cancel()
    assert future.cancelled()
    assert trial.state() == before
    is_usable(trial)


@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_in_a_cancelled_group_does_not_begin(name):
    trial = unlocked(name)
    before = trial.state()
    error = cancelled_by(trial.call_unlocked)
    assert type(error) is Cancelled
    assert error.args == (MESSAGE,)
    assert trial.state() == before
    is_usable(trial)


@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_in_the_block_is_woken(name):
    trial = unlocked(name)
    before = trial.state()
    reached = []
    with TaskGroup() as tg:
        timer = threading.Timer(0.02, tg.cancel)
        timer.start()
        trial.call_unlocked()
        reached.append("the end of the block")
    timer.join()
    assert not reached
    assert trial.state() == before
    is_usable(trial)


@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_without_time_times_out_in_a_cancelled_group(name):
    trial = unlocked(name)
    with TaskGroup() as tg:
        tg.cancel()
        result = trial.call_unlocked(0)
    assert result == trial.timed_out
    serve_wholly(trial)  # a thread may still compute


@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_in_a_group_times_out(name):
    trial = unlocked(name)
    with TaskGroup() as tg:
        assert tg.go(trial.call_unlocked, 0.01).result() == trial.timed_out
    assert not tg.cancelled()
    serve_wholly(trial)


@pytest.mark.parametrize("name", SERVED_BEFORE)
def test_call_that_need_not_wait_succeeds_in_a_cancelled_group(name):
    trial = unlocked(name)
    serve_wholly(trial)
    with TaskGroup() as tg:
        tg.cancel()
        result = trial.call()
    assert result == trial.served


@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_that_is_served_first_succeeds(name):
    trial = unlocked(name)
    with TaskGroup() as tg:
        future = asleep(tg, trial.call_unlocked)
        serve_wholly(trial)
        tg.cancel()
    if name.endswith("load_or_compute") and future.cancelled():
        return  # the result was there, but the call under way not yet over
    assert future.result() == trial.served


@pytest.mark.leaks(reason="the threads that hold RLocks stay")
@pytest.mark.parametrize("name", LOCKS)
def test_locks_can_be_waited_for_in_a_cancelled_group(name):
    trial = unlocked(name)
    with TaskGroup() as tg:
        early = asleep(tg, trial.call)
        tg.cancel()
        time.sleep(0.01)
        assert not early.done()
        trial.serve()
    assert early.result() == trial.served

    trial = unlocked(name)
    with TaskGroup() as tg:
        tg.cancel()
        timer = trial.serve_soon()
        late = trial.call()
    timer.join()
    assert late == trial.served


def slow(begun, end):
    begun.set()
    with shield():
        end.wait()
    return "value"


class Lazy:
    def __init__(self, *events):
        self.events = events

    @once_property
    def value(self):
        return slow(*self.events)


def once_function(*events):
    @once
    def value():
        return slow(*events)

    return value


def once_object(*events):
    cell = Once()
    return lambda: cell.do(slow, *events)


def property_of_an_instance(*events):
    lazy = Lazy(*events)
    return lambda: lazy.value


def value_of_a_map(*events):
    squares = SyncMap()
    return lambda: squares.load_or_compute(1, slow, *events)


COMPUTED = [once_function, once_object, property_of_an_instance, value_of_a_map]


@pytest.mark.parametrize("make", COMPUTED)
def test_wait_for_another_threads_computation_is_cancelled(make):
    begun, end = Event(), Event()
    compute = make(begun, end)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(compute)
        assert begun.wait(TIMEOUT)
        with TaskGroup() as tg:
            second = asleep(tg, compute)
            tg.cancel()
        assert second.cancelled()
        assert type(cancelled_by(compute)) is Cancelled
        # Those that wait beside it are served, in a group or not.
        with TaskGroup() as tg:
            third = asleep(tg, compute)
            fourth = pool.submit(compute)
            end.set()
        assert first.result() == third.result() == fourth.result() == "value"


class CancelledOnce:
    """An event whose first wait is cancelled."""

    def __init__(self):
        self.errors = [Cancelled()]

    def wait(self):
        if self.errors:
            raise self.errors.pop()


@pytest.mark.parametrize("make", COMPUTED)
def test_cancelled_computation_does_not_count(make):
    compute = make(Event(), CancelledOnce())
    with TaskGroup() as tg:
        first = tg.go(compute)
        assert eventually(first.done)
    assert first.cancelled()
    assert compute() == "value"


def test_iteration_over_a_channel_is_cancelled():
    with TaskGroup() as tg:
        future = asleep(tg, list, Channel(3))
        tg.cancel()
    assert future.cancelled()


def test_items_that_are_there_are_received_in_a_cancelled_group():
    channel = Channel(3)
    for item in range(3):
        channel.send(item)
    received = []
    with TaskGroup() as tg:
        tg.cancel()
        for item in channel:
            received.append(item)
    assert received == [0, 1, 2]


def test_end_of_a_closed_channel_is_seen_in_a_cancelled_group():
    with TaskGroup() as tg, Channel() as channel:
        tg.cancel()
        channel.close()
        assert list(channel) == []
        with pytest.raises(ChannelClosed):
            channel.send(1)


def test_cond_wait_takes_its_lock_again_before_it_raises():
    cond = Cond()
    owned = []

    def wait():
        with cond:
            try:
                cond.wait()
            finally:
                owned.append(cond.locked())

    with TaskGroup() as tg:
        future = asleep(tg, wait)
        with cond:
            tg.cancel()
            time.sleep(0.01)
            assert not owned  # it waits for the lock, which no cancellation ends
    assert future.cancelled()
    assert owned == [True]
    assert not cond.locked()


def test_cond_takes_a_lock_again_whose_own_waits_are_cancellable():
    permit = Semaphore()
    cond = Cond(permit)
    held = []

    def wait():
        with cond:
            try:
                cond.wait()
            finally:
                held.append(permit.available())

    with TaskGroup() as tg:
        future = asleep(tg, wait)
        with shield(), cond:
            tg.cancel()
            time.sleep(0.01)
            assert not held
    assert future.cancelled()
    assert held == [0]
    assert permit.available() == 1


def test_tick_is_not_waited_for_in_a_cancelled_group():
    ticker = Ticker(3600)
    with TaskGroup() as tg:
        waits = [asleep(tg, ticker.recv), asleep(tg, next, ticker)]
        tg.cancel()
    assert all(future.cancelled() for future in waits)
    assert type(cancelled_by(ticker.recv)) is Cancelled


def test_wait_of_another_thread_is_left_alone():
    event = Event()
    with TaskGroup() as tg, ThreadPoolExecutor(1) as pool:
        other = pool.submit(event.wait)
        worker = asleep(tg, event.wait)
        tg.cancel()
        assert worker.cancelled() or eventually(worker.cancelled)
        assert not other.done()
        event.set()
    assert other.result() is True


def test_thread_started_by_a_task_is_in_no_group():
    results = []
    event = Event()

    def task():
        group = WaitGroup()
        thread = group.go(lambda: results.append(event.wait()))
        settle(thread)
        tg.cancel()
        event.set()
        thread.join()

    with TaskGroup() as tg:
        tg.go(task)
    assert results == [True]


# Cancelled


def test_cancelled_is_no_exception():
    assert issubclass(Cancelled, BaseException)
    assert not issubclass(Cancelled, Exception)


def test_swallowed_cancelled_is_raised_by_the_next_wait():
    raised = []

    def stubborn():
        for _ in range(3):
            try:
                Event().wait()
            except Cancelled:
                raised.append(1)

    with TaskGroup() as tg:
        future = asleep(tg, stubborn)
        tg.cancel()
    assert len(raised) == 3
    assert future.result() is None


def test_task_that_raises_cancelled_is_cancelled_and_the_group_is_not(group):
    with group() as tg:
        future = tg.go(raising, Cancelled())
        assert eventually(future.done)
        assert not tg.cancelled()
        assert tg.go(pow, 2, 3).result() == 8
    assert future.cancelled()


def test_done_callbacks_and_waiters_see_a_cancelled_task(group):
    import concurrent.futures

    seen = []
    with group() as tg:
        future = begun(tg, Event().wait)
        future.add_done_callback(lambda f: seen.append(f.cancelled()))
        timer = threading.Timer(0.02, tg.cancel)
        timer.start()
        done, _ = concurrent.futures.wait([future], TIMEOUT)
        timer.join()
    assert done == {future}
    assert seen == [True]
    with pytest.raises(CancelledError):
        future.result()


def test_cancelled_of_the_block_passes_a_group_that_is_not_cancelled():
    mine = Cancelled("mine")

    def use():
        with TaskGroup() as tg:
            future = tg.go(pow, 2, 3)
            assert future.result() == 8
            raise mine

    assert caught(use) is mine


def test_cancelled_of_the_block_ends_with_the_group():
    with TaskGroup() as tg:
        tg.cancel()
        Event().wait()
    assert tg.cancelled()
    with TaskGroup() as tg:  # the thread is in no cancelled group any more
        assert Event().wait(0.001) is False


def test_failures_are_raised_in_place_of_the_blocks_cancelled():
    def use():
        with TaskGroup() as tg:
            tg.go(int, "x")
            Event().wait()

    error = caught(use)
    assert type(error) is ExceptionGroup
    assert [type(each) for each in error.exceptions] == [ValueError]


def test_cleanup_in_finally_uses_locks_and_calls_that_do_not_wait():
    lock, rw, log, done = Mutex(), RWMutex(), Channel(1), []

    def task():
        try:
            Event().wait()
        finally:
            with lock, rw.write:
                assert log.try_send("ended")
            with rw.read, Semaphore(1), shield():
                done.append(Event().wait(0.001))

    with TaskGroup() as tg:
        future = asleep(tg, task)
        lock.acquire()
        tg.cancel()
        time.sleep(0.01)
        lock.release()
    assert future.cancelled()
    assert log.recv() == "ended"
    assert done == [False]


# shield


def test_wait_in_a_shield_is_not_cancelled():
    event, after = Event(), []

    def task():
        with shield():
            assert event.wait()
        after.append("shielded")
        Event().wait()
        after.append("never")

    with TaskGroup() as tg:
        future = asleep(tg, task)
        tg.cancel()
        time.sleep(0.01)
        assert not future.done()
        event.set()
    assert future.cancelled()
    assert after == ["shielded"]


def test_shields_can_be_nested():
    with TaskGroup() as tg:
        tg.cancel()
        with shield():
            with shield():
                assert Event().wait(0.001) is False
            assert Event().wait(0.001) is False
        assert type(caught(Event().wait)) is Cancelled


def test_shield_is_entered_once_at_a_time():
    one = shield()
    for _ in range(2):
        with one, pytest.raises(RuntimeError, match="the shield is already entered"):
            one.__enter__()
        with pytest.raises(RuntimeError, match="the shield is not entered"):
            one.__exit__(None, None, None)


def test_shield_is_left_by_the_thread_that_entered_it():
    one = shield()
    with TaskGroup() as tg:
        tg.cancel()

        def misuse():
            with pytest.raises(RuntimeError, match="the shield is already entered"):
                one.__enter__()
            with pytest.raises(RuntimeError, match="the shield was entered by another thread"):
                one.__exit__(None, None, None)
            return Event().wait(0.001)  # it is in no group

        with one:
            assert run_threads(misuse) == [False]
            assert Event().wait(0.001) is False  # it is still shielded
        assert type(caught(Event().wait)) is Cancelled
        with one:  # which can be used again
            assert Event().wait(0.001) is False


def test_shield_lets_exceptions_pass():
    with pytest.raises(ZeroDivisionError), shield():
        raise ZeroDivisionError


def test_group_in_a_shield_is_not_cancelled_with_those_outside():
    event = Event()
    with TaskGroup() as outer:

        def task():
            with shield(), TaskGroup() as inner:
                return inner.go(event.wait).result(), inner.cancelled()

        future = asleep(outer, task)
        outer.cancel()
        time.sleep(0.01)
        event.set()
    assert future.result() == (True, False)


# Futures


@pytest.mark.parametrize("method", ["result", "exception"])
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_wait_for_a_future_is_cancelled(method, timeout, group):
    end = threading.Event()
    with group() as tg:
        slow = begun(tg, end.wait, TIMEOUT)
        timer = threading.Timer(0.02, tg.cancel)
        timer.start()
        error = caught(lambda: getattr(slow, method)(timeout))
        assert type(error) is Cancelled
        assert error.args == (MESSAGE,)
        assert type(caught(getattr(slow, method))) is Cancelled  # cancelled before
        end.set()
        timer.join()
    assert slow.result() is True


def test_future_that_is_done_gives_its_result_in_a_cancelled_group(group):
    with group() as tg:
        future = tg.go(pow, 2, 3)
        assert eventually(future.done)
        tg.cancel()
        assert future.result() == 8
        assert future.exception() is None


def test_wait_for_a_future_times_out_in_a_group():
    end = threading.Event()
    with TaskGroup() as tg:
        future = begun(tg, end.wait, TIMEOUT)
        for timeout in 0, -1, 0.01:
            with pytest.raises(TimeoutError):
                future.result(timeout)
        tg.cancel()
        for timeout in 0, -1:
            with pytest.raises(TimeoutError):
                future.result(timeout)
        end.set()
    assert not future._condition.gates


def test_wait_for_a_task_that_fails_raises_its_exception():
    seen = []

    def use():
        with TaskGroup() as tg:
            release = threading.Event()

            def fail():
                release.wait(TIMEOUT)
                raise OSError("disk full")

            future = begun(tg, fail)
            timer = threading.Timer(0.02, release.set)
            timer.start()
            try:
                future.result()
            except BaseException as error:
                seen.append(error)
            timer.join()

    error = caught(use)
    assert [str(each) for each in error.exceptions] == ["disk full"]
    assert [str(each) for each in seen] == ["disk full"]


def test_many_threads_wait_for_one_future():
    with TaskGroup() as tg:
        end = threading.Event()
        future = begun(tg, end.wait, TIMEOUT)
        waiters = [tg.go(future.result) for _ in range(5)]
        time.sleep(0.01)
        end.set()
    assert [w.result() for w in waiters] == [True] * 5


def test_wait_for_a_future_of_another_group_is_cancelled():
    end = threading.Event()
    with TaskGroup() as other:
        future = begun(other, end.wait, TIMEOUT)
        with TaskGroup() as tg:
            waiter = asleep(tg, future.result)
            tg.cancel()
        assert waiter.cancelled()
        assert not future.done()
        end.set()
    assert future.result() is True


# Nesting


def test_cancelling_the_outer_group_cancels_the_inner():
    log = []
    with TaskGroup() as outer:

        def task():
            with TaskGroup() as inner:
                inner.on_cancel(log.append, "inner")
                inner.go(Event().wait)
                try:
                    Event().wait()
                finally:
                    log.append(inner.cancelled())
            log.append("behind the inner group")

        future = asleep(outer, task)
        outer.on_cancel(log.append, "outer")
        outer.cancel()
    assert future.cancelled()
    assert sorted(log, key=str) == [True, "inner", "outer"]


def test_cancelling_the_inner_group_leaves_the_outer_alone():
    with TaskGroup() as outer:

        def task():
            with TaskGroup() as inner:
                inner.cancel()
                Event().wait()
            return inner.cancelled(), outer.cancelled(), Event().wait(0.001)

        assert outer.go(task).result() == (True, False, False)


def test_block_behind_a_group_that_was_cancelled_alone_goes_on():
    reached = []
    with TaskGroup() as outer:
        with TaskGroup() as inner:
            inner.cancel()
            Event().wait()
        reached.append(1)
        outer.cancel()
        Event().wait()
        reached.append(2)
    assert reached == [1]


def test_cancellation_of_the_outer_group_passes_the_inner_block():
    reached = []
    with TaskGroup() as outer:
        with TaskGroup():
            outer.cancel()
            Event().wait()
        reached.append("between the groups")
    assert not reached


def test_failure_in_a_task_cancels_what_is_nested_in_others():
    def use():
        with TaskGroup() as outer:

            def task():
                with TaskGroup() as inner:
                    inner.go(Event().wait)

            asleep(outer, task)
            outer.go(int, "x")

    error = caught(use)
    assert [type(each) for each in error.exceptions] == [ValueError]
    assert not own_threads()


def test_failure_in_an_inner_group_reaches_the_outer_block():
    def use():
        with TaskGroup() as outer:

            def task():
                with TaskGroup() as inner:
                    inner.go(int, "x")

            outer.go(task)
            Event().wait()

    error = caught(use)
    assert [type(each) for each in error.exceptions] == [ExceptionGroup]


def test_group_entered_in_a_cancelled_one_is_cancelled():
    with TaskGroup() as outer:
        outer.cancel()
        with TaskGroup() as inner:
            assert inner.cancelled()
            future = inner.go(pow, 2, 2)
            assert future.cancelled()


def test_groups_nested_deep_are_cancelled():
    depth = 60
    deepest = Event()

    def nest(n):
        if n:
            with TaskGroup() as tg:
                tg.go(nest, n - 1)
                Event().wait()
        else:
            deepest.set()
            Event().wait()

    with TaskGroup() as outer:
        future = outer.go(nest, depth)
        with shield():
            assert deepest.wait(TIMEOUT)
        outer.cancel()
    assert future.cancelled()
    assert not own_threads()


def test_group_left_before_the_outer_is_cancelled_is_not_cancelled():
    called = []
    with TaskGroup() as outer:
        with TaskGroup() as inner:
            inner.on_cancel(called.append, 1)
        outer.cancel()
    assert not inner.cancelled()
    assert not called


def test_groups_left_in_another_order_leave_no_scope():
    def open_group():
        with TaskGroup() as tg:
            yield tg

    with TaskGroup() as first:
        generator = open_group()
        inner = next(generator)
    inner.cancel()
    assert type(caught(Event().wait)) is Cancelled  # still in the block of the generator
    with suppress(StopIteration):
        next(generator)
    assert not first.cancelled()
    assert Event().wait(0.001) is False


def test_thread_whose_group_another_thread_left_waits_again():
    tg = TaskGroup()
    tg.__enter__()
    tg.cancel()
    assert type(caught(Event().wait)) is Cancelled
    run_threads(lambda: tg.__exit__(None, None, None))
    assert Event().wait(0.001) is False
    with TaskGroup() as other:
        assert Event().wait(0.001) is False
    assert not other.cancelled()


def test_thread_whose_group_was_dropped_waits_again(no_gc):
    tg = TaskGroup()
    tg.__enter__()
    tg.cancel()
    del tg
    assert Event().wait(0.001) is False


# on_cancel


def test_on_cancel_is_called_once_by_the_thread_that_cancels(group):
    calls = []
    with group() as tg:
        tg.on_cancel(lambda *args: calls.append((args, threading.get_ident())), 1, 2)
        ((canceller, _),) = run_threads(lambda: (threading.get_ident(), tg.cancel()))
        tg.cancel()
    assert calls == [((1, 2), canceller)]


def test_on_cancel_is_called_by_the_task_that_fails():
    calls = []

    def fail():
        calls.append(threading.get_ident())
        raise OSError

    def use():
        with TaskGroup() as tg:
            tg.on_cancel(lambda: calls.append(threading.get_ident()))
            tg.go(fail)

    caught(use)
    assert calls == [calls[0]] * 2


def test_on_cancel_of_a_cancelled_group_is_called_at_once():
    calls = []
    with TaskGroup() as tg:
        tg.cancel()
        tg.on_cancel(calls.append, 1)
        assert calls == [1]
        with pytest.raises(ZeroDivisionError):
            tg.on_cancel(divmod, 1, 0)
    assert calls == [1]


def test_on_cancel_calls_come_in_order():
    calls = []
    tg = TaskGroup()
    for n in range(20):
        tg.on_cancel(calls.append, n)
    with tg:
        for n in range(20, 40):
            tg.on_cancel(calls.append, n)
        tg.cancel()
        assert calls == list(range(40))


def test_on_cancel_is_forgotten_when_the_group_is_left(no_gc):
    class Thing:
        pass

    import weakref

    thing, calls = Thing(), []
    with TaskGroup() as tg:
        tg.on_cancel(calls.append, thing)
    watch = weakref.ref(thing)
    del thing
    assert watch() is None
    tg.cancel()
    assert not calls
    tg.on_cancel(calls.append, 1)  # it is cancelled now
    assert calls == [1]


def test_on_cancel_after_the_group_raises():
    with TaskGroup() as tg:
        pass
    with pytest.raises(RuntimeError, match="the TaskGroup has been left"):
        tg.on_cancel(print)


def test_on_cancel_with_wrong_arguments_raises():
    with TaskGroup() as tg:
        with pytest.raises(TypeError, match="'int' object is not callable"):
            tg.on_cancel(1)
        with pytest.raises(TypeError):
            tg.on_cancel()
        with pytest.raises(TypeError):
            tg.on_cancel(fn=print)


def test_failures_of_on_cancel_come_out_with_the_rest():
    calls = []

    def use():
        with TaskGroup() as tg:
            tg.on_cancel(raising, OSError("first"))
            tg.on_cancel(calls.append, 1)
            tg.on_cancel(raising, OSError("second"))
            tg.go(int, "x")

    error = caught(use)
    assert [type(each) for each in error.exceptions] == [ValueError, OSError, OSError]
    assert calls == [1]


def test_on_cancel_may_wait(group):
    results = []
    with group() as tg:
        tg.on_cancel(lambda: results.append(Event().wait(0.001)))
        asleep(tg, Event().wait)
        tg.go(tg.cancel)
    assert results == [False]


def test_leaving_waits_for_on_cancel():
    begun, end, done = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        assert end.wait(TIMEOUT)
        done.append(1)

    with TaskGroup() as tg:
        tg.on_cancel(slow)
        canceller = threading.Thread(target=tg.cancel)
        canceller.start()
        assert begun.wait(TIMEOUT)
        threading.Timer(0.02, end.set).start()
    assert done == [1]
    canceller.join()


def test_on_cancel_ends_what_is_not_ours():
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs, TaskGroup() as tg:
        tg.on_cancel(ours.shutdown, socket.SHUT_RDWR)
        future = asleep(tg, ours.recv, 1)
        tg.cancel()
    assert future.result() == b""


def test_each_on_cancel_is_called_once_by_many_cancellers():
    for _ in range(20):
        counts = [Counter() for _ in range(10)]
        with TaskGroup() as tg:
            for count in counts:
                tg.on_cancel(count)
            run_threads(tg.cancel, tg.cancel, tg.cancel)
        assert [count.calls for count in counts] == [[1]] * 10


class Counter:
    def __init__(self):
        self.calls = []

    def __call__(self):
        self.calls.append(1)


def test_on_cancel_registers_while_others_cancel():
    for _ in range(50):
        count = Counter()
        with TaskGroup() as tg:
            run_threads(tg.cancel, lambda tg=tg, count=count: tg.on_cancel(count))
        assert count.calls == [1]


# Time-outs


def test_timeout_cancels_the_group_and_leaving_raises():
    tg = TaskGroup(timeout=0.02)
    futures = []

    def use():
        with tg:
            futures.append(tg.go(Event().wait))
            Event().wait()

    error = caught(use)
    assert type(error) is TimeoutError
    assert str(error) == "the TaskGroup timed out after 0.02 s"
    assert error.__cause__ is None
    assert tg.cancelled()
    assert futures[0].cancelled()
    assert not [t for t in threading.enumerate() if t.name.startswith("TaskGroup")]


def test_timeout_while_leaving():
    with pytest.raises(TimeoutError), TaskGroup(timeout=0.02) as tg:
        tg.go(Event().wait)


def test_timeout_in_an_executor():
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(TimeoutError), TaskGroup(executor=pool, timeout=0.02) as tg:
            future = tg.go(Event().wait)
        assert future.cancelled()


def test_group_left_in_time_does_not_raise():
    with TaskGroup(timeout=3600) as tg:
        assert tg.go(pow, 2, 3).result() == 8
    assert not tg.cancelled()
    assert not [t for t in threading.enumerate() if t.name.startswith("TaskGroup")]


def test_on_cancel_is_called_when_the_time_has_passed():
    called = threading.Event()
    with pytest.raises(TimeoutError), TaskGroup(timeout=0.02) as tg:
        tg.on_cancel(called.set)
        assert called.wait(TIMEOUT)  # a wait that the cancellation does not reach


def test_failures_after_the_timeout_are_its_cause():
    def fail_late():
        try:
            Event().wait()
        finally:
            raise OSError("broken pipe")

    def use():
        with TaskGroup(timeout=3600) as tg:
            asleep(tg, fail_late)
            tg._TaskGroup__tasks.time_out()

    error = caught(use)
    assert type(error) is TimeoutError
    assert type(error.__cause__) is ExceptionGroup
    assert [str(each) for each in error.__cause__.exceptions] == ["broken pipe"]


def test_failure_before_the_timeout_is_raised_alone():
    def use():
        with TaskGroup(timeout=3600) as tg:
            tg.go(int, "x")
            Event().wait()

    assert type(caught(use)) is ExceptionGroup


@pytest.mark.parametrize("timeout", [0, -1, -0.5, 0.0])
def test_timeout_of_zero_cancels_at_once(timeout):
    def use():
        with TaskGroup(timeout=timeout) as tg:
            assert tg.cancelled()
            assert tg.go(int).cancelled()
            Event().wait()

    assert type(caught(use)) is TimeoutError


def test_timeout_of_the_outer_group_cancels_the_inner():
    def use():
        with TaskGroup(timeout=0.02), TaskGroup() as inner:
            inner.go(Event().wait)
            Event().wait()

    error = caught(use)
    assert type(error) is TimeoutError
    assert error.__cause__ is None


def test_timeout_of_the_inner_group_is_a_failure_of_the_outer():
    def inner():
        with TaskGroup(timeout=0.01):
            Event().wait()

    def use():
        with TaskGroup() as tg:
            tg.go(inner)

    error = caught(use)
    assert [type(each) for each in error.exceptions] == [TimeoutError]


def test_interrupt_in_the_block_is_raised_after_a_timeout():
    def use():
        with TaskGroup(timeout=0.01) as tg:
            assert tg.wait_cancelled(TIMEOUT)
            raise KeyboardInterrupt

    assert type(caught(use)) is KeyboardInterrupt


@pytest.mark.parametrize(
    ("timeout", "error", "message"),
    [
        (float("nan"), ValueError, "timeout must not be NaN"),
        (float("inf"), OverflowError, "timeout value is too large"),
        (1e30, OverflowError, "timeout value is too large"),
        ("1", TypeError, "must be real number, not str"),
    ],
)
def test_group_with_a_wrong_timeout_raises(timeout, error, message):
    with pytest.raises(error, match=message):
        TaskGroup(timeout=timeout)


def test_group_without_a_thread_for_its_timeout_is_not_entered(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    tg = TaskGroup(timeout=1)
    with monkeypatch.context() as patched:
        patched.setattr("nogil_sync._common.groupscope.Thread.start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            tg.__enter__()
    assert Event().wait(0.001) is False  # in no cancelled group
    with pytest.raises(RuntimeError, match="used before"):
        tg.__enter__()


def test_group_with_a_timeout_that_is_dropped_ends_its_thread():
    TaskGroup(timeout=3600).__enter__()
    assert eventually(
        lambda: not [t for t in threading.enumerate() if t.name == "TaskGroup timeout"]
    )


# Notes


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_of_the_block_has_the_failures_as_notes(kind):
    def use():
        with TaskGroup() as tg:
            future = tg.go(raising, OSError("disk full"))
            assert eventually(future.done)
            raise kind

    error = caught(use)
    assert type(error) is kind
    (note,) = error.__notes__
    assert note.startswith("a task of the TaskGroup failed with:\nTraceback")
    assert note.endswith("OSError: disk full")


def test_interrupt_of_a_task_has_the_other_failures_as_notes():
    def use():
        with TaskGroup() as tg:
            future = tg.go(raising, OSError("disk full"))
            assert eventually(future.done)
            tg._TaskGroup__tasks.errors.append(SystemExit(3))

    error = caught(use)
    assert type(error) is SystemExit
    assert ["disk full" in note for note in error.__notes__] == [True]


def test_interrupt_without_failures_has_no_notes():
    def use():
        with TaskGroup() as tg:
            asleep(tg, Event().wait)
            raise KeyboardInterrupt

    assert not hasattr(caught(use), "__notes__")


# What the library was missing without it


def test_failing_consumer_ends_a_producer_that_waits():
    lines = Channel(2)
    sent = []

    def produce():
        for n in range(1000):
            lines.send(n)
            sent.append(n)

    def consume():
        assert lines.recv() == 0
        assert eventually(lambda: len(sent) == 3)  # the next send waits
        raise OSError("disk full")

    def use():
        with TaskGroup() as tg:
            tg.go(consume)
            tg.go(produce)

    error = caught(use)
    assert [str(each) for each in error.exceptions] == ["disk full"]
    assert len(sent) in (3, 4)
    assert len(lines) == len(sent) - 1
    assert not own_threads()


def test_nothing_is_lost_or_sent_twice_in_cancelled_pipelines():
    for capacity in 0, 1, 3, 0, 2:
        for patience in range(8):
            channel = Channel(capacity)
            sent, received = [], []

            def produce(first, channel=channel, sent=sent):
                for n in range(first, 4000, 2):
                    channel.send(n)
                    sent.append(n)

            def consume(channel=channel, received=received):
                for n in channel:
                    received.append(n)

            with TaskGroup() as tg:
                for first in range(2):
                    tg.go(produce, first)
                    tg.go(consume)
                time.sleep(patience * 0.001)
                tg.cancel()
            channel.close()
            received += channel
            assert sorted(received) == sorted(sent)


def test_permits_are_not_lost_in_cancelled_groups():
    permits = Semaphore(2)
    for patience in range(6):
        with TaskGroup() as tg:

            def use(tg=tg):
                while not tg.cancelled():
                    with permits:
                        pass

            for _ in range(4):
                tg.go(use)
            time.sleep(patience * 0.0005)
            tg.cancel()
        assert permits.available() == 2


def test_cancelled_groups_are_freed_without_collections(no_gc):
    import weakref

    class Thing(TaskGroup):
        pass

    for _ in range(3):
        with Thing() as tg:
            future = asleep(tg, Channel().recv)
            tg.cancel()
        watch = weakref.ref(tg)
        del tg
        assert watch() is None
        del future


def test_scope_keeps_no_dead_group():
    with TaskGroup() as outer:
        scope = outer._TaskGroup__tasks.scope
        for _ in range(10):
            with TaskGroup() as inner:
                inner.go(int)
        assert not scope.inner
        with shield():
            pass
        dropped = TaskGroup()
        with dropped:
            pass
        assert not scope.inner
        tg = TaskGroup()
        tg.__enter__()
        del tg
        assert collected(lambda: scope.inner or None)
