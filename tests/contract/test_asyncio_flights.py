"""SyncMap.load_or_compute_async: one flight per key over threads and loops."""

import asyncio
import weakref

import pytest
from loops import LOOPS, LoopThread, loop_threads, run, started_task
from marks import starts_threads
from support import TIMEOUT, collected, eventually, many, run_threads, same_error, started

from nogil_sync import Cache, Event, SyncMap, once

pytestmark = starts_threads


@pytest.fixture(params=LOOPS)
def kind(request):
    return request.param


async def value(x):
    return x


async def never(*_):
    raise AssertionError("another call computes the value")


def test_missing_key_is_computed_and_stored():
    async def main():
        m = SyncMap()
        assert await m.load_or_compute_async("a", value, 1) == 1
        assert m["a"] == 1
        assert await m.load_or_compute_async("a", never) == 1
        assert await m.load_or_compute_async("none", value, None) is None
        assert m.snapshot() == {"a": 1, "none": None}

    run(main())


def test_present_key_needs_no_loop():
    with pytest.raises(StopIteration) as end:
        SyncMap(a=1).load_or_compute_async("a", never).send(None)
    assert end.value.value == 1


@pytest.mark.parametrize("afn", [None, 5])
def test_what_cannot_be_called_raises(afn):
    async def main():
        with pytest.raises(TypeError, match="object is not callable"):
            await SyncMap().load_or_compute_async("a", afn)
        with pytest.raises(TypeError, match="await"):
            await SyncMap().load_or_compute_async("a", lambda: 5)

    run(main())


def test_tasks_and_threads_share_one_flight(kind):
    m, calls, go = SyncMap(), [], Event()

    async def compute():
        calls.append("computed")
        await go.wait_async()
        return object()

    with loop_threads(3, kind) as loops:
        first = loops[0].submit(m.load_or_compute_async("k", compute))
        assert eventually(lambda: len(calls) == 1)
        rest = [loop.submit(m.load_or_compute_async("k", never)) for loop in loops * 3]
        for loop in loops:
            loop.settle()
        threads = [started(m.load_or_compute, "k", dict)[1] for _ in range(3)]
        go.set()
        result = first.result(TIMEOUT)
        assert all(each.result(TIMEOUT) is result for each in rest)
        assert eventually(lambda: all(threads))
        assert all(found == [result] for found in threads)
    assert calls == ["computed"]
    assert m["k"] is result


def test_task_waits_for_the_flight_of_a_thread(kind):
    m, go = SyncMap(), Event()

    def compute():
        assert go.wait(TIMEOUT)
        return "by the thread"

    async def main():
        begun, result = started(m.load_or_compute, "k", compute)
        tasks = [await started_task(m.load_or_compute_async("k", never)) for _ in range(3)]
        go.set()
        assert await asyncio.gather(*tasks) == ["by the thread"] * 3
        begun.join(TIMEOUT)
        assert result == ["by the thread"]

    run(main(), kind)


def test_other_keys_are_not_held_up():
    async def main():
        m, go = SyncMap(), Event()
        slow = await started_task(m.load_or_compute_async("slow", go.wait_async))
        assert await m.load_or_compute_async("fast", value, 1) == 1
        go.set()
        assert await slow is True

    run(main())


def test_failure_reaches_all_that_waited_and_is_not_kept(kind):
    m, go = SyncMap(), Event()

    async def fail():
        await go.wait_async()
        raise LookupError("failed")

    async def main():
        first = await started_task(m.load_or_compute_async("k", fail))
        second = await started_task(m.load_or_compute_async("k", never))
        thread = asyncio.ensure_future(asyncio.to_thread(m.load_or_compute, "k", dict))
        await asyncio.sleep(0.05)
        go.set()
        errors = await asyncio.gather(first, second, thread, return_exceptions=True)
        assert all(type(error) is LookupError for error in errors)
        assert all(same_error(errors[0], error) for error in errors)
        assert "k" not in m
        assert await m.load_or_compute_async("k", value, 1) == 1

    run(main(), kind)


@pytest.mark.parametrize("waiter", ["task", "thread"])
def test_cancelled_flight_is_taken_over_by_one_that_waits(waiter, kind):
    m = SyncMap()

    async def main():
        first = await started_task(m.load_or_compute_async("k", Event().wait_async))
        if waiter == "task":
            second = await started_task(m.load_or_compute_async("k", value, 2))
        else:
            second = asyncio.ensure_future(asyncio.to_thread(m.load_or_compute, "k", int, "2"))
            await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == 2
        assert m["k"] == 2

    run(main(), kind)


def test_cancelled_waiter_leaves_the_flight_alone():
    async def main():
        m, go = SyncMap(), Event()
        first = await started_task(m.load_or_compute_async("k", go.wait_async))
        second = await started_task(m.load_or_compute_async("k", never))
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        with pytest.raises(TimeoutError, match="timed out waiting for another thread's call"):
            await m.load_or_compute_async("k", never, timeout=0)
        with pytest.raises(TimeoutError, match="timed out waiting for another thread's call"):
            await m.load_or_compute_async("k", never, timeout=0.01)
        go.set()
        assert await first is True

    run(main())


def test_store_meanwhile_wins_and_delete_meanwhile_detaches():
    async def main():
        m, go = SyncMap(), Event()

        async def compute(result):
            await go.wait_async()
            return result

        first = await started_task(m.load_or_compute_async("stored", compute, 1))
        detached = await started_task(m.load_or_compute_async("deleted", compute, 1))
        m["stored"] = 5
        assert m.pop("deleted", None) is None
        go.set()
        assert await first == 5
        assert await detached == 1
        assert m.snapshot() == {"stored": 5}

    run(main())


def test_flight_of_a_loop_that_ends_is_taken_over(kind):
    """It cancels its tasks first, as ``asyncio.run`` does."""
    m = SyncMap()
    with LoopThread(kind) as loop:
        future = loop.submit(m.load_or_compute_async("k", Event().wait_async))
        loop.settle()
        thread, result = started(m.load_or_compute, "k", int)
    thread.join(TIMEOUT)
    assert result == [0]
    assert future.cancelled()


# Circles


def test_task_that_would_wait_for_itself_raises():
    async def main():
        m = SyncMap()

        async def again():
            return await m.load_or_compute_async("k", never)

        with pytest.raises(RuntimeError, match="recursive call: it would wait for itself"):
            await m.load_or_compute_async("k", again)

    run(main())


def test_circle_of_two_tasks_is_an_error_in_the_one_that_closes_it(kind):
    async def main():
        m = SyncMap()

        async def a():
            await asyncio.sleep(0.01)
            return await m.load_or_compute_async("b", value, 1)

        async def b():
            await asyncio.sleep(0.02)
            return await m.load_or_compute_async("a", value, 1)

        results = await asyncio.gather(
            m.load_or_compute_async("a", a),
            m.load_or_compute_async("b", b),
            return_exceptions=True,
        )
        assert [type(each) for each in results].count(RuntimeError) >= 1

    run(main(), kind)


def test_circle_through_a_thread_is_an_error(kind):
    m, in_task, in_thread = SyncMap(), Event(), Event()

    async def of_the_task():
        in_task.set()
        await in_thread.wait_async()
        return await m.load_or_compute_async("thread", never)

    def of_the_thread():
        in_thread.set()
        assert in_task.wait(TIMEOUT)
        return m.load_or_compute("task", int)

    async def main():
        both = (
            m.load_or_compute_async("task", of_the_task),
            asyncio.to_thread(m.load_or_compute, "thread", of_the_thread),
        )
        results = await asyncio.gather(*both, return_exceptions=True)
        assert RuntimeError in {type(each) for each in results}

    run(main(), kind)


def test_blocking_call_that_waits_for_a_task_of_its_own_loop_raises():
    async def main():
        m, go = SyncMap(), Event()
        task = await started_task(m.load_or_compute_async("k", go.wait_async))
        with pytest.raises(RuntimeError, match="recursive call: it would wait for itself"):
            m.load_or_compute("k", int)
        go.set()
        assert await task

    run(main())


def test_task_waits_for_a_task_of_its_own_loop():
    """Which is no circle: the loop goes on."""

    async def main():
        m, n = SyncMap(), SyncMap()

        async def inner():
            return await n.load_or_compute_async("k", value, 2)

        async def outer():
            task = asyncio.ensure_future(m.load_or_compute_async("inner", inner))
            return await task + await m.load_or_compute_async("inner", never)

        assert await m.load_or_compute_async("outer", outer) == 4

    run(main())


def test_flight_calls_a_once_function_that_a_thread_runs(kind):
    begun, go = Event(), Event()

    @once
    def connection():
        begun.set()
        assert go.wait(TIMEOUT)
        return 5

    async def compute():
        return await asyncio.to_thread(connection)

    async def main():
        m = SyncMap()
        thread, _ = started(connection)
        assert begun.wait(TIMEOUT)
        tasks = [asyncio.ensure_future(m.load_or_compute_async("k", compute)) for _ in range(3)]
        await asyncio.sleep(0.01)
        go.set()
        assert await asyncio.gather(*tasks) == [5] * 3
        thread.join(TIMEOUT)

    run(main(), kind)


# At random


def test_one_flight_at_a_time_for_threads_and_loops(kind):
    m = SyncMap()
    inside = dict.fromkeys(range(3), 0)
    rounds = many(60)

    async def compute(key):
        inside[key] += 1
        assert inside[key] == 1
        await asyncio.sleep(0)
        inside[key] -= 1
        return key

    def compute_in_thread(key):
        inside[key] += 1
        assert inside[key] == 1
        inside[key] -= 1
        return key

    def loop(seed):
        async def work(n):
            for i in range(rounds):
                key = (n + i) % 3
                task = asyncio.ensure_future(m.load_or_compute_async(key, compute, key))
                if (n + i) % 5 == seed:
                    await asyncio.sleep(0)
                    if not inside[key]:  # else its own computation might be cut off, and counted
                        task.cancel()
                for found in await asyncio.gather(task, return_exceptions=True):
                    assert found == key or isinstance(found, asyncio.CancelledError)
                await asyncio.sleep(0)

        async def main():
            await asyncio.gather(*(work(n) for n in range(4)))

        run(main(), kind)

    def thread():
        for i in range(rounds * 4):
            assert m.load_or_compute(i % 3, compute_in_thread, i % 3) == i % 3

    run_threads(lambda: loop(0), lambda: loop(1), thread)
    assert m.snapshot() == {0: 0, 1: 1, 2: 2}


def test_nothing_is_kept_once_a_flight_is_over():
    class Value:
        pass

    async def make():
        return Value()

    async def main():
        m = SyncMap()
        watch = weakref.ref(await m.load_or_compute_async("k", make))
        with pytest.raises(LookupError):
            await m.load_or_compute_async("failing", fail)
        assert watch() is m["k"]
        del m["k"]
        assert collected(watch)

    async def fail():
        raise LookupError

    run(main())


@pytest.mark.parametrize("cls", [SyncMap, Cache])
def test_task_of_a_closed_loop_that_waits_for_a_flight_is_freed(cls):
    m, go, begun = cls(*[10] * (cls is Cache)), Event(), Event()

    def compute():
        begun.set()
        return go.wait()

    thread, _ = started(m.load_or_compute, "a", compute)
    assert begun.wait(TIMEOUT)
    with LoopThread() as loop:
        loop.submit(m.load_or_compute_async("a", never))
        loop.settle()
        (task,) = map(weakref.ref, asyncio.all_tasks(loop.loop))
        loop.abandon()
    go.set()
    thread.join(TIMEOUT)
    assert collected(task)


@pytest.mark.parametrize("cls", [SyncMap, Cache])
def test_flight_of_a_closed_loop_is_computed_by_another_call(cls):
    m = cls(*[10] * (cls is Cache))

    async def compute():
        await asyncio.Future()

    with LoopThread() as loop:
        loop.submit(m.load_or_compute_async("a", compute))
        loop.settle()
        (task,) = map(weakref.ref, asyncio.all_tasks(loop.loop))
        loop.abandon()
    assert collected(task)
    assert m.load_or_compute("a", int, timeout=TIMEOUT) == 0
