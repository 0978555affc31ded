"""nogil_sync.diagnostics: who waits, labels, holders, the order of locks."""

import asyncio
import doctest
import gc
import io
import sys
import threading
import warnings
import weakref
from pathlib import Path

import pytest
from marks import starts_processes, starts_threads
from processes import in_own_process
from support import TIMEOUT, eventually, started

import nogil_sync
from nogil_sync import (
    Barrier,
    Cache,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    RLock,
    RWMutex,
    Semaphore,
    SyncMap,
    WaitGroup,
    diagnostics,
    select,
)
from nogil_sync.diagnostics import dump_waits, label, record_lock_order, waits

PACKAGE = str(Path(nogil_sync.__file__).parent)  # a clone of the sources has the same name


def wait_of(thread):
    """What is told of this thread, once it waits."""
    found = []

    def look():
        found[:] = [each for each in waits() if each.thread is thread]
        return bool(found)

    assert eventually(look)
    return found[0]


def make_event():
    event = Event()
    return event, event.wait, event.set


def make_mutex():
    mutex = Mutex()
    mutex.acquire()
    return mutex, mutex.acquire, mutex.release


def make_rlock():
    lock = RLock()
    lock.acquire()
    return lock, lock.acquire, lock.release


def make_reader():
    rw = RWMutex()
    rw.write.acquire()
    return rw.read, rw.read.acquire, rw.write.release


def make_writer():
    rw = RWMutex()
    rw.write.acquire()
    return rw.write, rw.write.acquire, rw.write.release


def make_semaphore():
    semaphore = Semaphore(1)
    semaphore.acquire()
    return semaphore, semaphore.acquire, semaphore.release


def make_group():
    group = WaitGroup()
    group.add()
    return group, group.wait, group.done


def make_receiver():
    channel = Channel()
    return channel, channel.recv, channel.close


def make_sender():
    channel = Channel()
    return channel, lambda: channel.send(1), channel.recv


WAITS = {
    "Event.wait": make_event,
    "Mutex.acquire": make_mutex,
    "RLock.acquire": make_rlock,
    "RWMutexReader.acquire": make_reader,
    "RWMutexWriter.acquire": make_writer,
    "Semaphore.acquire": make_semaphore,
    "WaitGroup.wait": make_group,
    "Channel.recv": make_receiver,
    "Channel.send": make_sender,
}
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
# Those whose holder is known.
HELD = ("Mutex.acquire", "RLock.acquire", "RWMutexReader.acquire", "RWMutexWriter.acquire")


def call_it(call):
    try:
        call()
    except nogil_sync.ChannelClosed:
        pass


@starts_threads
@pytest.mark.parametrize("name", WAITS)
def test_wait_is_shown_with_object_operation_and_stack(name):
    obj, call, serve = WAITS[name]()
    thread, _ = started(call_it, call)
    wait = wait_of(thread)
    assert wait.obj is obj
    assert wait.operation == name
    assert wait.seconds >= 0
    assert "call_it" in [frame.name for frame in wait.stack]
    assert not wait.stack[-1].filename.startswith(PACKAGE)  # it ends where the program calls us
    if name in HELD:
        assert wait.holders == (threading.current_thread(),)
        # It runs; without the GIL or the extension nobody can stop it and look.
        can_look = nogil_sync.backend == "native" or HAS_GIL
        assert bool(wait.holder_stacks[0]) == can_look
    else:
        assert wait.holders == ()
    serve()
    thread.join(TIMEOUT)
    assert not [each for each in waits() if each.thread is thread]


@starts_threads
def test_wait_in_a_select_is_shown():
    stop = Event()
    thread, _ = started(lambda: select(Channel(), stop))
    wait = wait_of(thread)
    assert wait.operation == "select"
    assert wait.obj is None
    stop.set()
    thread.join(TIMEOUT)


async def wait_for_notification(cond):
    async with cond:
        await cond.wait_async()


async def never():
    await asyncio.Event().wait()


TASKS = {
    "Mutex.acquire_async": lambda: (lock := taken(Mutex()), lock.acquire_async()),
    "Semaphore.acquire_async": lambda: (units := Semaphore(0), units.acquire_async(n=2)),
    "Event.wait_async": lambda: (event := Event(), event.wait_async(60)),
    "Barrier.wait_async": lambda: (barrier := Barrier(2), barrier.wait_async()),
    "Barrier.wait_async with a time-out": lambda: (barrier := Barrier(2), barrier.wait_async(60)),
    "Cond.wait_async": lambda: (cond := Cond(), wait_for_notification(cond)),
    "SyncMap.load_or_compute_async": lambda: loading(SyncMap()),
    "Cache.load_or_compute_async": lambda: loading(Cache(3)),
}


def taken(lock):
    assert lock.acquire()
    return lock


def loading(values):
    """A map in which a task computes "k" for ever, and a call that waits for that."""

    async def wait():
        other = asyncio.create_task(values.load_or_compute_async("k", never))
        try:
            await asyncio.sleep(0)
            await values.load_or_compute_async("k", never)
        finally:
            other.cancel()

    return values, wait()


@pytest.mark.parametrize("name", TASKS)
def test_task_is_shown_whatever_it_waits_for(name):
    async def main():
        obj, call = TASKS[name]()
        task = asyncio.create_task(call)
        while not (found := [each for each in waits() if each.thread is task]):
            await asyncio.sleep(0)
        assert [(each.obj is obj, each.operation) for each in found] == [(True, name.split()[0])]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [each for each in waits() if each.thread is task]

    asyncio.run(main())


def test_waiting_task_is_shown():
    async def wait_for_item(channel):
        return await channel.recv_async()

    async def main():
        channel = Channel()
        task = asyncio.create_task(wait_for_item(channel), name="consumer")
        while not (found := [each for each in waits() if each.thread is task]):
            await asyncio.sleep(0)
        (wait,) = found
        assert wait.obj is channel
        assert wait.operation == "Channel.recv_async"
        assert [frame.name for frame in wait.stack] == ["wait_for_item"]
        out = io.StringIO()
        dump_waits(out)
        assert "task consumer waits in Channel.recv_async" in out.getvalue()
        await channel.send_async(1)
        assert await task == 1
        assert not [each for each in waits() if each.thread is task]

    asyncio.run(main())


@starts_threads
def test_wait_for_another_threads_once_is_shown_with_its_holder():
    begun, proceed = threading.Event(), threading.Event()
    once = Once()

    def run():
        begun.set()
        proceed.wait()

    runner, _ = started(once.do, run)
    begun.wait()
    waiter, _ = started(once.do, run)
    wait = wait_of(waiter)
    assert "once" in wait.operation.lower()
    assert wait.holders == (runner,)
    proceed.set()
    runner.join(TIMEOUT)
    waiter.join(TIMEOUT)


@starts_threads
def test_holder_that_waits_itself_is_shown_with_its_stack():
    mutex, event = Mutex(), Event()

    def hold_and_wait():
        with mutex:
            event.wait()

    holder, _ = started(hold_and_wait)
    wait_of(holder)
    waiter, _ = started(mutex.acquire)
    wait = wait_of(waiter)
    assert wait.holders == (holder,)
    assert "hold_and_wait" in [frame.name for frame in wait.holder_stacks[0]]
    event.set()
    holder.join(TIMEOUT)
    waiter.join(TIMEOUT)


@starts_threads
def test_holder_follows_the_lock():
    mutex = Mutex()
    first, second = threading.Event(), threading.Event()

    def hold(proceed):
        with mutex:
            proceed.wait()

    one, _ = started(hold, first)
    assert eventually(mutex.locked)
    two, _ = started(hold, second)
    wait_of(two)
    three, _ = started(mutex.acquire)
    assert wait_of(three).holders == (one,)
    first.set()
    one.join(TIMEOUT)
    assert eventually(lambda: wait_of(three).holders == (two,))
    second.set()
    two.join(TIMEOUT)
    three.join(TIMEOUT)


@starts_threads
def test_dump_says_who_waits_for_what_held_by_whom():
    mutex = Mutex()
    label(mutex, "accounts")
    with mutex:
        thread, _ = started(mutex.acquire)
        wait_of(thread)
        out = io.StringIO()
        dump_waits(out)
    thread.join(TIMEOUT)
    text = out.getvalue()
    assert "Mutex.acquire of the Mutex 'accounts'" in text
    assert thread.name in text
    assert f"held by {threading.current_thread().name}" in text
    assert "test_diagnostics.py" in text or "support.py" in text


def test_label_lasts_as_long_as_the_object():
    from nogil_sync._common.labels import name_of

    mutex = Mutex()
    assert name_of(mutex) is None
    label(mutex, "one")
    label(mutex, "two")
    assert name_of(mutex) == "two"
    watch = weakref.ref(mutex)
    del mutex
    gc.collect()
    assert watch() is None
    assert all(name_of(Mutex()) is None for _ in range(100))


def test_label_names_the_sides_of_an_rwmutex():
    from nogil_sync._common.labels import name_of

    rw = RWMutex()
    label(rw, "table")
    assert [name_of(each) for each in (rw, rw.read, rw.write)] == [
        "table",
        "table.read",
        "table.write",
    ]


def test_label_that_is_no_string_is_an_error():
    with pytest.raises(TypeError, match="a label must be a str, not int"):
        label(Mutex(), 1)
    with pytest.raises(TypeError):
        label(1, "no weak references")


def test_wrong_arguments_of_detect_deadlocks_change_nothing():
    with pytest.raises(ValueError, match="action must be"):
        diagnostics.detect_deadlocks("log")
    for after in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="after must be"):
            diagnostics.detect_deadlocks("warn", after=after)


# The order of locks: the classes are changed meanwhile, so such a test runs by itself.

changes_classes = pytest.mark.thread_unsafe(reason="replaces methods of the locks' classes")


@changes_classes
def test_inversion_is_told_once_with_both_places():
    a, b = Mutex(), RLock()
    label(a, "a")
    label(b, "b")
    with record_lock_order() as order:
        for _ in range(3):
            with a, b:
                pass
        assert order.inversions == []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                with b, a:
                    pass
    assert {each.category for each in told} == {diagnostics.LockOrderWarning}
    assert len(told) == len(order.inversions) == 1
    text = order.inversions[0]
    assert "the Mutex 'a' is taken while the RLock 'b' is held" in text
    assert "but the RLock 'b' while the Mutex 'a' is held" in text
    assert text.count("test_inversion_is_told_once_with_both_places") == 2


@changes_classes
def test_inversion_through_a_third_lock_is_told():
    a, b, c = Mutex(), RWMutex(), Mutex()
    with record_lock_order(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with a, b.write:
            pass
        with b.write, c:
            pass
        with c, pytest.raises(diagnostics.LockOrderWarning):
            a.acquire()
        assert not a.locked()  # it was told before the lock was taken


@changes_classes
def test_orders_that_cannot_deadlock_are_not_told():
    a, b, c, lock = Mutex(), Mutex(), Mutex(), RLock()
    with record_lock_order() as order, warnings.catch_warnings():
        warnings.simplefilter("error")
        with a:
            for how in ({"blocking": False}, {"timeout": 1}):
                assert b.acquire(**how)
                b.release()
        with b:
            assert a.acquire(timeout=1)
            a.release()
        with lock, c, lock:  # its thread has it already
            pass
        with b, c:
            pass
        with a, c:
            pass
    assert order.inversions == []


@changes_classes
def test_recording_ends_with_its_block_and_leaves_no_trace():
    before = [vars(cls)["acquire"] for cls in (Mutex, RLock, type(RWMutex().read))]
    with record_lock_order() as order:
        assert vars(Mutex)["acquire"] is not before[0]
        with pytest.raises(RuntimeError, match="under way"):
            record_lock_order()
    order.stop()
    after = [vars(cls)["acquire"] for cls in (Mutex, RLock, type(RWMutex().read))]
    assert before == after
    a, b = Mutex(), Mutex()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with a, b:
            pass
        with b, a:
            pass


@changes_classes
def test_new_lock_at_the_address_of_a_freed_one_is_another_lock():
    first, reused, addresses = Mutex(), False, set()
    with record_lock_order() as order, warnings.catch_warnings():
        warnings.simplefilter("error")
        while not reused:  # the allocator takes blocks of a page in turn
            inner = Mutex()
            addresses.add(id(inner))
            with first, inner:
                pass
            del inner
            outer = Mutex()
            reused = id(outer) in addresses
            with outer, first:
                pass
            del outer
    assert order.inversions == []


@changes_classes
def test_lock_that_another_thread_releases_is_left_out():
    a, b = Mutex(), Mutex()
    with record_lock_order() as order, warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=a.acquire)
        thread.start()
        thread.join()
        a.release()
        with b, a:
            pass
        with a, b:
            pass
    assert order.inversions == []


DOCUMENTED = {
    name: getattr(diagnostics, name).__doc__
    for name in diagnostics.__all__
    if callable(getattr(diagnostics, name))
}


@starts_processes
@pytest.mark.parametrize("name", DOCUMENTED)
@in_own_process  # where no thread or task that another test left waits
def test_docstring_examples_of_diagnostics_run(name):
    test = doctest.DocTestParser().get_doctest(DOCUMENTED[name], {}, name, None, 0)
    report = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)
