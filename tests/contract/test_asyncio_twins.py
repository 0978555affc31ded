"""The awaited twin of each call that waits: it waits, is served, times out, is cancelled."""

import asyncio
import gc
import inspect
import threading
import weakref

import pytest
from loops import LOOPS, TWINS, AwaitTrial, LoopThread, new_loop, run, started_task, until
from marks import starts_threads
from support import TIMEOUT, collected, eventually
from waits import WAITS

import nogil_sync
from nogil_sync import (
    Barrier,
    Cache,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    RLock,
    RWMutex,
    Semaphore,
    Sending,
    SyncMap,
    WaitGroup,
    select_async,
)

pytestmark = starts_threads

# Their state after they were served and cancelled in the same moment differs from before.
SENDS = {"Channel.send", "select to send"}
GIVEN_BACK = sorted({*TWINS} - SENDS - {"Cond.wait", "Barrier.wait"})


@pytest.fixture(params=LOOPS)
def kind(request):
    return request.param


def test_each_call_that_waits_has_a_twin():
    # It belongs to a thread, which runs many tasks.
    assert {*WAITS} - {*TWINS} == {"RLock.acquire"}


@pytest.mark.parametrize("name", TWINS)
def test_waiting_task_is_served_by_a_thread(name, kind):
    trial = AwaitTrial(name)

    async def main():
        task = await started_task(trial.awaited())
        await asyncio.to_thread(trial.serve)
        assert await task == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", TWINS)
def test_waiting_task_is_served_by_a_task_of_its_loop(name, kind):
    trial = AwaitTrial(name)

    async def main():
        task = await started_task(trial.awaited(TIMEOUT))
        trial.serve()
        assert await task == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", TWINS)
def test_waiting_task_is_served_by_a_task_of_another_loop(name, kind):
    trial = AwaitTrial(name)

    async def serve():
        trial.serve()

    async def main():
        with LoopThread(kind) as other:
            task = await started_task(trial.awaited())
            other.submit(serve()).result(TIMEOUT)
            assert await task == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", TWINS)
def test_waiting_thread_is_served_by_a_task(name, kind):
    trial = AwaitTrial(name)
    trial.unlock()

    async def main():
        thread = asyncio.ensure_future(asyncio.to_thread(trial.call_unlocked))
        await asyncio.sleep(0.05)
        trial.serve()
        assert await thread == trial.served

    run(main(), kind)


@pytest.mark.parametrize("timeout", [0, 0.01])
@pytest.mark.parametrize("name", TWINS)
def test_wait_times_out_and_leaves_no_trace(name, timeout, kind):
    trial = AwaitTrial(name)
    before = trial.state()

    async def main():
        assert await trial.awaited(timeout) == trial.timed_out
        assert trial.state() == before
        again = await started_task(trial.awaited())
        trial.serve()
        assert await again == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", TWINS)
def test_cancelled_task_leaves_no_trace(name, kind):
    trial = AwaitTrial(name)
    before = trial.state()

    async def main():
        for _ in range(3):
            task = await started_task(trial.twin())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert trial.state() == before
        again = await started_task(trial.awaited())
        trial.serve()
        assert await again == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", GIVEN_BACK)
def test_task_cancelled_as_it_is_served_gives_back(name, kind):
    trial = AwaitTrial(name)

    async def main():
        task = await started_task(trial.twin())
        if name.endswith("load_or_compute"):
            await asyncio.to_thread(trial.serve)
            await asyncio.to_thread(eventually, lambda: "k" in trial.x.map)
        else:
            trial.serve()  # the loop has no time to run the task
        task.cancel()
        if not task.done():
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await trial.awaited(0) == trial.served

    run(main(), kind)


def test_send_accepted_as_its_task_is_cancelled_stays_sent(kind):
    async def main():
        c = Channel(1)
        c.send("first")
        task = await started_task(c.send_async("second"))
        assert c.recv() == "first"  # which accepts the second
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert c.try_recv() == "second"

    run(main(), kind)


def test_notification_of_a_cancelled_task_goes_to_the_next_waiter(kind):
    async def wait(c, log, name):
        async with c:
            await c.wait_async()
            log.append(name)

    async def main():
        c, log = Cond(), []
        first = await started_task(wait(c, log, "first"))
        second = await started_task(wait(c, log, "second"))
        async with c:
            c.notify()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert log == ["second"]
        assert not c.locked()

    run(main(), kind)


@pytest.mark.parametrize("name", GIVEN_BACK)
def test_thread_gets_what_a_cancelled_task_gives_back(name, kind):
    if name.endswith(("load_or_compute", "Cond.wait_for")):
        pytest.skip("threads and tasks are served together")
    trial = AwaitTrial(name)

    async def main():
        task = await started_task(trial.twin())
        thread = asyncio.ensure_future(asyncio.to_thread(trial.call))
        await asyncio.sleep(0.05)  # it stands in line behind the task
        trial.serve()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await thread == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", TWINS)
def test_wait_for_and_timeout_of_asyncio_end_the_wait(name, kind):
    trial = AwaitTrial(name)
    before = trial.state()

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(trial.twin(), 0.01)
        assert trial.state() == before
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await trial.twin()
        assert trial.state() == before
        again = asyncio.ensure_future(asyncio.wait_for(trial.awaited(), TIMEOUT))
        await asyncio.sleep(0.01)
        trial.serve()
        assert await again == trial.served

    run(main(), kind)


@pytest.mark.parametrize("name", TWINS)
def test_failing_task_group_cancels_the_wait(name):
    trial = AwaitTrial(name)
    before = trial.state()

    async def main():
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(trial.twin())
                await asyncio.sleep(0.01)
                raise LookupError("a failure")
        assert [type(each) for each in caught.value.exceptions] == [LookupError]
        assert trial.state() == before
        if name.endswith("load_or_compute"):
            trial.serve()  # the computation that it would have waited for ends too

    run(main())


@pytest.mark.parametrize("name", TWINS)
def test_closed_coroutine_leaves_no_trace(name):
    if name.startswith("Cond."):
        pytest.skip("it would have to wait for the lock: as in asyncio, it cannot be closed")
    trial = AwaitTrial(name)
    before = trial.state()

    async def main():
        coroutine = trial.twin()
        step = coroutine.send(None)
        assert step is not None
        coroutine.close()
        assert trial.state() == before
        again = await started_task(trial.awaited())
        trial.serve()
        assert await again == trial.served

    run(main())


@pytest.mark.parametrize("name", TWINS)
def test_wait_needs_a_loop_only_if_it_waits(name):
    trial = AwaitTrial(name)
    with pytest.raises(RuntimeError, match="no running event loop"):
        trial.twin().send(None)
    if trial.cond is not None:
        assert trial.cond.locked()
    if name.startswith("Cond.wait") or name == "Barrier.wait":  # which always wait, or arrive
        return
    trial.serve()
    if name.endswith("load_or_compute"):
        assert eventually(lambda: "k" in trial.x.map)
    with pytest.raises(StopIteration) as done:
        trial.twin().send(None)
    assert done.value.value == trial.served


@pytest.mark.parametrize("name", TWINS)
def test_loop_closed_with_a_waiter_is_skipped(name, kind):
    """What it is served afterwards, another call gets."""
    if name.startswith("Cond."):
        pytest.skip("it holds the lock, or waits for it, for ever")
    if name == "Barrier.wait":
        pytest.skip("a party that has come is none that is skipped: test_asyncio_barrier.py")
    trial = AwaitTrial(name)
    with LoopThread(kind) as loop:
        future = loop.submit(trial.twin())
        loop.settle()
        loop.abandon()
    trial.serve()
    if name.endswith("load_or_compute"):
        assert eventually(lambda: "k" in trial.x.map)
    elif name in SENDS:
        trial.serve()  # the first one accepted the task's item, which stays sent
    assert trial.call() == trial.served
    del future


@pytest.mark.parametrize(
    "name",
    [n for n in TWINS if not n.startswith(("Cond.", "Barrier.")) and "load_or_compute" not in n],
)
def test_loop_that_ends_as_its_task_serves_another_gives_back(name):
    """The task that was served never goes on; what it was given, another call gets.

    (A loop of uvloop that is stopped runs what it has to run by then.)
    """
    trial = AwaitTrial(name)
    loop = new_loop()

    async def serve():
        task = await started_task(trial.twin())
        trial.serve()
        loop.stop()
        return task

    serving = loop.create_task(serve())
    loop.run_forever()
    loop.close()
    task = serving.result()  # no collection frees it
    task._log_destroy_pending = False
    assert not task.done()
    if name in SENDS:
        trial.serve()  # the first one accepted the task's item, which stays sent
    assert trial.call() == trial.served


def test_task_goes_on_though_its_loop_dropped_what_was_to_resume_it():
    """As an interrupt does that comes before the loop runs it."""

    async def main():
        c, loop = Channel(1), asyncio.get_running_loop()
        task = await started_task(c.recv_async())
        loop.call_soon = lambda *_, **__: None
        c.try_send("item")
        del loop.call_soon
        assert await task == "item"

    run(main())


def test_loop_closed_before_it_wakes_its_task_gives_back(kind):
    """It was served, and asked to run the task, but it was stopped."""
    c, served, got = Channel(), Event(), []

    async def receive():
        got.append(await c.recv_async())

    with LoopThread(kind) as loop:
        waiting = loop.submit(receive())
        loop.settle()
        busy = threading.Event()

        def keep_busy():
            busy.set()
            assert served.wait(TIMEOUT)
            loop.loop.stop()

        loop.loop.call_soon_threadsafe(keep_busy)
        assert busy.wait(TIMEOUT)
        assert c.try_send("item")  # to the task, which never runs
        served.set()
        loop.thread.join(TIMEOUT)
        loop.abandon()
    # A stopped loop of uvloop runs what it was asked for before.
    assert got == ["item"] or c.recv(TIMEOUT) == "item"
    del waiting


# What a twin does with its arguments


def test_twins_are_coroutine_functions_with_the_names_of_their_class():
    for cls, names in {
        Mutex: ["acquire_async"],
        nogil_sync.RWMutexReader: ["acquire_async"],
        nogil_sync.RWMutexWriter: ["acquire_async"],
        Semaphore: ["acquire_async"],
        Event: ["wait_async"],
        WaitGroup: ["wait_async"],
        Cond: ["acquire_async", "wait_async", "wait_for_async"],
        Barrier: ["wait_async"],
        Channel: ["send_async", "recv_async", "__anext__"],
    }.items():
        for name in names:
            function = vars(cls)[name]
            assert inspect.iscoroutinefunction(function)
            assert function.__qualname__ == f"{cls.__name__}.{name}"
            assert function.__doc__


@pytest.mark.parametrize("timeout", ["x", float("nan"), 1e300])
def test_wrong_timeouts_raise_as_in_the_synchronous_call(timeout):
    m = Mutex()
    for make, twin in (
        (lambda: m.acquire(timeout=timeout), lambda: m.acquire_async(timeout)),
        (lambda: Event().wait(timeout), lambda: Event().wait_async(timeout)),
        (lambda: Channel().recv(timeout), lambda: Channel().recv_async(timeout)),
        (lambda: Channel().send(1, timeout), lambda: Channel().send_async(1, timeout)),
        (lambda: Semaphore().acquire(timeout=timeout), lambda: Semaphore().acquire_async(timeout)),
    ):
        with pytest.raises((TypeError, ValueError, OverflowError)) as wrong:
            make()
        with pytest.raises(wrong.type) as awaited:
            twin().send(None)
        assert str(awaited.value) == str(wrong.value)
    assert not m.locked()


def test_negative_timeout_is_for_ever_or_wrong_for_locks_and_no_wait_elsewhere():
    async def main():
        m = Mutex()
        assert await m.acquire_async(-1)
        with pytest.raises(ValueError, match="non-negative"):
            await m.acquire_async(-2)
        waiting = await started_task(m.acquire_async(-1))
        m.release()
        assert await waiting
        assert not await Event().wait_async(-5)
        assert not await Semaphore(0).acquire_async(-5)
        with pytest.raises(TimeoutError, match="timed out waiting to receive"):
            await Channel().recv_async(-5)
        with pytest.raises(TimeoutError, match="timed out waiting to send"):
            await Channel().send_async(1, -5)

    run(main())


def test_twin_without_init_raises_where_the_synchronous_call_does():
    async def main():
        for cls, calls in {
            Semaphore: [lambda s: s.acquire_async(), lambda s: s.hold_async().__aenter__()],
            Channel: [lambda c: c.send_async(1), lambda c: c.recv_async(), lambda c: c.__anext__()],
            Cond: [lambda c: c.acquire_async(), lambda c: c.wait_for_async(int)],
            SyncMap: [lambda m: m.load_or_compute_async(1, main)],
            Cache: [lambda c: c.load_or_compute_async(1, main)],
            Barrier: [lambda b: b.wait_async()],
        }.items():
            for call in calls:
                with pytest.raises(RuntimeError, match="not initialized"):
                    await call(cls.__new__(cls))
            with pytest.raises((RuntimeError, AttributeError, TypeError)):
                async with cls.__new__(cls):
                    raise AssertionError("entered")
        assert not await Event.__new__(Event).wait_async(0)
        assert await WaitGroup.__new__(WaitGroup).wait_async()
        async with Mutex.__new__(Mutex) as entered:
            assert entered

    run(main())


def test_subclass_does_not_change_what_its_twins_do():
    class Loud(Channel):
        def try_recv(self, *args):
            raise AssertionError

        try_send = close = recv_async = try_recv

    class Locked(Mutex):
        def acquire(self, *args):
            raise AssertionError

        release = acquire_async = acquire

    async def main():
        async with Loud(1) as c:
            await c.send_async("item")
        assert [item async for item in c] == ["item"]
        async with Locked() as entered:
            assert entered

    run(main())


def test_wrong_units_raise_before_anything_is_taken():
    async def main():
        s = Semaphore(3)
        for n, error in ((0, ValueError), (4, ValueError), (1.5, TypeError), ("x", TypeError)):
            with pytest.raises(error) as wrong:
                s.acquire(n=n)
            with pytest.raises(error) as awaited:
                await s.acquire_async(n=n)
            with pytest.raises(error) as held:
                s.hold_async(n)
            assert str(wrong.value) == str(awaited.value) == str(held.value)
        with pytest.raises(ValueError, match="NaN"):
            s.hold_async(1, float("nan"))
        assert s.available() == 3

    run(main())


def test_async_with_holds_and_lets_go(kind):
    async def main():
        m, rw, s, c = Mutex(), RWMutex(), Semaphore(5), Channel(1)
        async with m as entered:
            assert entered is True
            assert m.locked()
        assert not m.locked()
        async with rw.read, rw.read:
            assert rw.read.locked()
        async with rw.write:
            assert rw.write.locked()
            rw.downgrade()
        assert not rw.read.locked()
        async with s:
            assert s.available() == 4
            async with s.hold_async(4) as nothing:
                assert nothing is None
                assert s.available() == 0
        assert s.available() == 5
        with pytest.raises(LookupError):
            async with m, rw.write, s, s.hold_async(2), c:
                raise LookupError
        assert not m.locked()
        assert not rw.write.locked()
        assert s.available() == 5
        assert c.closed()
        async with Channel() as entered:
            assert isinstance(entered, Channel)

    run(main(), kind)


def test_hold_async_times_out():
    async def main():
        s = Semaphore(2)
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError, match="timed out waiting for the semaphore"):
                async with s.hold_async(2), s.hold_async(1, timeout):
                    raise AssertionError
        assert s.available() == 2

    run(main())


def test_hold_async_can_be_entered_by_several_tasks():
    async def main():
        s = Semaphore(4)
        hold = s.hold_async(2)
        most = 0

        async def work():
            nonlocal most
            async with hold:
                most = max(most, 4 - s.available())
                await asyncio.sleep(0)

        await asyncio.gather(*(work() for _ in range(20)))
        assert most == 4
        assert s.available() == 4

    run(main())


def test_async_for_ends_when_the_channel_is_closed_and_empty(kind):
    async def main():
        c = Channel(3)
        for n in range(3):
            c.send(n)
        c.close()
        assert [n async for n in c] == [0, 1, 2]
        c = Channel()
        loop = await started_task(collect(c))
        await c.send_async("item")
        await asyncio.sleep(0.01)
        c.close()
        assert await loop == ["item"]

    async def collect(c):
        return [n async for n in c]

    run(main(), kind)


def test_close_refuses_waiting_tasks(kind):
    async def main():
        c = Channel()
        receiving = await started_task(c.recv_async())
        c.close()
        with pytest.raises(ChannelClosed, match="the channel is closed"):
            await receiving
        c = Channel()
        sending = await started_task(c.send_async(1))
        c.close()
        with pytest.raises(ChannelClosed, match="the channel is closed"):
            await sending
        with pytest.raises(ChannelClosed):
            await c.send_async(2)
        with pytest.raises(ChannelClosed):
            await c.recv_async()

    run(main(), kind)


# Cond


@pytest.mark.parametrize("make", [Mutex, lambda: RWMutex().write, None])
def test_cond_waits_over_each_lock_that_can_be_awaited(make):
    async def main():
        c, items = Cond(make and make()), []

        async def consume():
            async with c:
                return await c.wait_for_async(lambda: items and items.pop())

        consumers = [await started_task(consume()) for _ in range(3)]
        for n in (1, 2, 3):
            async with c:
                items.append(n)
                c.notify()
        assert sorted(await asyncio.gather(*consumers)) == [1, 2, 3]
        assert not c.locked()

    run(main())


@pytest.mark.parametrize("make", [RLock, threading.Lock, threading.RLock])
def test_cond_over_another_lock_cannot_be_awaited(make):
    async def main():
        c = Cond(make())
        with pytest.raises(TypeError, match="cannot be awaited"):
            await c.acquire_async()
        with pytest.raises(TypeError, match="cannot be awaited"):
            async with c:
                pass
        with c:
            with pytest.raises(TypeError, match="cannot be awaited"):
                await c.wait_async()
            with pytest.raises(TypeError, match="cannot be awaited"):
                await c.wait_for_async(list)

    run(main())


def test_rlock_cannot_be_awaited():
    lock = RLock()

    async def main():
        with pytest.raises(TypeError, match="asynchronous context manager"):
            async with lock:
                raise AssertionError("entered")
        with pytest.raises(TypeError, match="a Cond over 'RLock' object cannot be awaited"):
            async with Cond(lock):
                raise AssertionError("entered")

    run(main())
    assert not hasattr(lock, "acquire_async")
    assert not lock.locked()


def test_cond_without_its_lock_raises():
    async def main():
        c = Cond()
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            await c.wait_async()
        with pytest.raises(RuntimeError, match="cannot wait on un-acquired lock"):
            await c.wait_for_async(list)
        assert await c.acquire_async(timeout=1)
        assert not await c.acquire_async(timeout=0)
        c.release()

    run(main())


def test_wait_for_async_returns_the_last_result():
    async def main():
        c = Cond()
        async with c:
            assert await c.wait_for_async(lambda: "at once") == "at once"
            assert await c.wait_for_async(list, 0.01) == []
            with pytest.raises(LookupError):
                await c.wait_for_async(raise_lookup)
            assert c.locked()
        assert not c.locked()

    def raise_lookup():
        raise LookupError

    run(main())


@pytest.mark.parametrize("notified", [False, True])
def test_cancelled_cond_waiter_holds_the_lock_again(notified, kind):
    async def main():
        c = Cond()
        log = []

        async def wait():
            async with c:
                try:
                    await c.wait_async()
                finally:
                    log.append(c.locked())

        task = await started_task(wait())
        async with c:
            if notified:
                c.notify()
            else:
                task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()  # while it waits for the lock
            await asyncio.sleep(0)
            assert not task.done()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == [True]
        assert not c.locked()

    run(main(), kind)


def test_timer_of_a_wait_ends_with_it(kind):
    c, timers = Channel(), []

    async def main():
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        with pytest.MonkeyPatch.context() as patch:
            if kind == "asyncio":  # uvloop's method cannot be replaced

                def note(*args, **kwargs):
                    timers.append(call_later(*args, **kwargs))
                    return timers[-1]

                patch.setattr(loop, "call_later", note)
            task = await started_task(c.recv_async(TIMEOUT))
            c.send("item")
            assert await task == "item"
        assert all(timer.cancelled() for timer in timers)
        assert len(timers) == (kind == "asyncio")

    run(main(), kind)


class StuckLock:
    """A lock that cannot be released."""

    def __init__(self):
        self.held = False

    def acquire(self, *_):
        self.held = True
        return True

    async def acquire_async(self):
        return self.acquire()

    def release(self):
        raise ZeroDivisionError

    def _is_owned(self):
        return self.held


def test_cond_whose_lock_cannot_be_released_keeps_no_waiter():
    async def main():
        c = Cond(StuckLock())
        c.acquire()
        with pytest.raises(ZeroDivisionError):
            await c.wait_async()
        assert "0 waiting" in repr(c)

    run(main())


# Memory


@pytest.mark.parametrize("name", TWINS)
def test_object_is_freed_after_waits_of_tasks(name):
    trial = AwaitTrial(name)

    async def main():
        for _ in range(3):
            task = await started_task(trial.twin())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await trial.awaited(0.001)
        task = await started_task(trial.awaited())
        trial.serve()
        assert await task == trial.served

    run(main())
    watch = weakref.ref(getattr(trial.x, "map", getattr(trial.x, "cond", trial.x)))
    trial.x = trial.cond = None
    assert collected(watch)


@pytest.mark.parametrize("end", ["served", "cancelled", "timed out"])
def test_cases_of_an_awaited_select_are_freed_without_collections(end, no_gc):
    async def select_once():
        cases = Channel(), Channel().sending(1), Channel(), Event()
        if end == "timed out":
            task = asyncio.ensure_future(select_async(*cases, timeout=0.001))
        else:
            task = await started_task(select_async(*cases))
        if end == "served":
            cases[2].close()
        elif end == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        if end == "timed out":
            assert isinstance(task.exception(), TimeoutError)
        else:
            assert task.cancelled() if end == "cancelled" else task.result().closed
        return [weakref.ref(case) for case in cases if not isinstance(case, Sending)]

    async def main():
        watches = await select_once()
        await until(lambda: all(watch() is None for watch in watches))

    run(main())


def test_loop_is_freed_after_its_tasks_waited():
    async def main():
        c = Channel()
        with pytest.raises(TimeoutError):
            await c.recv_async(0.001)
        task = await started_task(c.recv_async())
        c.send(1)
        await task
        return weakref.ref(asyncio.get_running_loop())

    assert collected(run(main()))


def test_item_is_freed_once_it_is_received():
    class Item:
        pass

    async def main():
        c = Channel()
        task = await started_task(c.recv_async())
        item = Item()
        watch = weakref.ref(item)
        c.send(item)
        del item
        assert await task is watch()
        del task
        await until(lambda: gc.collect() >= 0 and watch() is None)
        item = Item()
        watch = weakref.ref(item)
        with pytest.raises(TimeoutError):
            await c.send_async(item, 0.001)
        del item
        await until(lambda: gc.collect() >= 0 and watch() is None)

    run(main())


def test_task_that_nobody_keeps_waits_on():
    """Its object keeps it, as ``asyncio.Queue`` does."""

    async def main():
        c, log = Channel(), []

        async def consume():
            log.append(await c.recv_async())

        asyncio.ensure_future(consume())  # noqa: RUF006
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()
        c.send("item")
        await until(lambda: log == ["item"])

    run(main())
