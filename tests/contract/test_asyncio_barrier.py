"""Barrier.wait_async: threads and tasks of several loops are parties of one barrier."""

import asyncio
import inspect
import threading

import pytest
from loops import LOOPS, LoopThread, loop_threads, run, started_task, until
from marks import starts_threads
from support import TIMEOUT, eventually, many, run_threads, started

from nogil_sync import Barrier, Event

pytestmark = starts_threads

BrokenBarrierError = threading.BrokenBarrierError


@pytest.fixture(params=LOOPS)
def kind(request):
    return request.param


def test_tasks_and_threads_pass_together(kind):
    barrier, inside = Barrier(6), []

    async def party():
        inside.append(1)
        index = await barrier.wait_async(TIMEOUT)
        assert len(inside) == 6
        return index

    def thread():
        inside.append(1)
        index = barrier.wait(TIMEOUT)
        assert len(inside) == 6
        return index

    with loop_threads(2, kind) as loops:
        futures = [loop.submit(party()) for loop in loops for _ in range(2)]
        threads = run_threads(thread, thread)
        indexes = [future.result(TIMEOUT) for future in futures] + threads
    assert sorted(indexes) == [*range(6)]


def test_parties_pass_in_round_after_round(kind):
    barrier, rounds = Barrier(5, lambda: passed.append(len(passed))), many(60)
    passed, counts = [], [0] * 5

    async def party(me):
        for n in range(rounds):
            counts[me] += 1
            await barrier.wait_async(TIMEOUT)
            assert min(counts) > n
            assert len(passed) > n

    def loop(me):
        async def main():
            await asyncio.gather(party(me), party(me + 1))

        run(main(), kind)

    def thread():
        for n in range(rounds):
            counts[4] += 1
            barrier.wait(TIMEOUT)
            assert min(counts) > n

    run_threads(lambda: loop(0), lambda: loop(2), thread)
    assert passed == [*range(rounds)]


@pytest.mark.parametrize("last", ["task", "thread"])
def test_action_runs_once_before_all_go_on(last, kind):
    log = []

    def act():
        log.append(threading.get_ident())

    barrier = Barrier(3, act)

    async def main():
        tasks = [await started_task(barrier.wait_async()) for _ in range(2)]
        if last == "task":
            assert await barrier.wait_async() == 2
            assert log == [threading.get_ident()]
        else:
            assert await asyncio.to_thread(barrier.wait) == 2
            assert len(log) == 1
            assert log != [threading.get_ident()]
        assert await asyncio.gather(*tasks) == [0, 1]
        assert len(log) == 1

    run(main(), kind)


class ActionError(Exception):
    pass


@pytest.mark.parametrize("last", ["task", "thread"])
def test_action_that_fails_breaks_the_barrier(last, kind):
    def fail():
        raise ActionError

    barrier = Barrier(2, fail)

    async def main():
        first = await started_task(barrier.wait_async())
        with pytest.raises(ActionError):
            await (barrier.wait_async() if last == "task" else asyncio.to_thread(barrier.wait))
        with pytest.raises(BrokenBarrierError, match="is broken"):
            await first
        assert barrier.broken
        with pytest.raises(BrokenBarrierError, match="is broken"):
            await barrier.wait_async()

    run(main(), kind)


def test_action_cannot_wait_for_its_barrier():
    def wait():
        barrier.wait_async().send(None)

    barrier = Barrier(1, wait)

    async def main():
        with pytest.raises(RuntimeError, match="the action of a barrier cannot wait for it"):
            await barrier.wait_async()

    run(main())


def test_task_that_comes_during_the_action_is_of_the_next_round(kind):
    begun, end = Event(), Event()

    def act():
        begun.set()
        assert end.wait(TIMEOUT)

    barrier = Barrier(2, act)

    async def main():
        first = await started_task(barrier.wait_async())
        leader, _ = started(barrier.wait)
        assert await begun.wait_async(TIMEOUT)
        late = await started_task(barrier.wait_async(TIMEOUT))
        end.set()
        assert await first == 0
        await asyncio.to_thread(leader.join, TIMEOUT)
        await until(lambda: barrier.n_waiting == 1)
        assert await asyncio.to_thread(barrier.wait) == 1
        assert await late == 0

    run(main(), kind)


def test_time_out_breaks_the_barrier(kind):
    barrier = Barrier(3, timeout=0.01)

    async def main():
        patient = await started_task(barrier.wait_async(TIMEOUT))
        with pytest.raises(BrokenBarrierError, match="timed out waiting for the other threads"):
            await barrier.wait_async()
        with pytest.raises(BrokenBarrierError, match="the barrier is broken, or was reset"):
            await patient
        assert barrier.broken
        barrier.reset()
        with pytest.raises(BrokenBarrierError, match="timed out"):
            await barrier.wait_async(0)

    run(main(), kind)


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_time_out_after_all_have_come_waits_for_the_action(timeout, kind):
    begun, end = Event(), Event()

    def act():
        begun.set()
        assert end.wait(TIMEOUT)

    barrier = Barrier(2, act)

    async def main():
        early = None
        if timeout:
            early = asyncio.ensure_future(barrier.wait_async(0.02))
            await asyncio.sleep(0)
            assert barrier.n_waiting == 1  # it times out once the loop turns again, not before
            leader, _ = started(barrier.wait)
        else:  # a latecomer, which is to come again after the action
            threads = [started(barrier.wait)[0] for _ in range(2)]
        assert await begun.wait_async(TIMEOUT)
        if early is None:
            late = await started_task(barrier.wait_async(0))
            assert not barrier.broken
            end.set()
            with pytest.raises(BrokenBarrierError, match="timed out"):
                await late
            for thread in threads:
                await asyncio.to_thread(thread.join, TIMEOUT)
        else:
            await asyncio.sleep(0.04)
            assert not early.done()
            assert not barrier.broken
            end.set()
            assert await early == 0
            await asyncio.to_thread(leader.join, TIMEOUT)
            assert not barrier.broken

    run(main(), kind)


def test_cancelled_task_breaks_the_barrier(kind):
    barrier = Barrier(3)

    async def main():
        first, second = [await started_task(barrier.wait_async()) for _ in range(2)]
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(BrokenBarrierError, match="is broken"):
            await second
        assert barrier.broken
        assert barrier.n_waiting == 0

    run(main(), kind)


def test_task_cancelled_after_all_have_come_does_not_break_it(kind):
    begun, end = Event(), Event()

    def act():
        begun.set()
        assert end.wait(TIMEOUT)

    barrier = Barrier(3, act)

    async def main():
        first, second = [await started_task(barrier.wait_async()) for _ in range(2)]
        leader, result = started(barrier.wait)
        assert await begun.wait_async(TIMEOUT)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not barrier.broken
        end.set()
        assert await second == 1
        await asyncio.to_thread(leader.join, TIMEOUT)
        assert result == [2]
        assert not barrier.broken

    run(main(), kind)


def test_task_cancelled_as_it_passes_has_passed():
    barrier = Barrier(2)

    async def main():
        task = await started_task(barrier.wait_async())
        assert await barrier.wait_async() == 1
        task.cancel()
        await asyncio.wait([task])
        assert not barrier.broken

    run(main())


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_abort_and_reset_end_the_waits_of_tasks(end, kind):
    barrier = Barrier(3)

    async def main():
        tasks = [await started_task(barrier.wait_async()) for _ in range(2)]
        await asyncio.to_thread(getattr(barrier, end))
        for task in tasks:
            with pytest.raises(BrokenBarrierError, match="the barrier is broken, or was reset"):
                await task
        assert barrier.broken is (end == "abort")

    run(main(), kind)


def test_task_of_a_loop_that_is_closed_has_come(kind):
    barrier = Barrier(2)
    with LoopThread(kind) as loop:
        future = loop.submit(barrier.wait_async())
        loop.settle()
        loop.abandon()
    assert barrier.n_waiting == 1
    assert barrier.wait(TIMEOUT) == 1
    del future


def test_coroutine_that_is_dropped_breaks_the_barrier():
    barrier = Barrier(2)

    async def main():
        coroutine = barrier.wait_async()
        coroutine.send(None)
        assert barrier.n_waiting == 1
        del coroutine
        assert await asyncio.to_thread(eventually, lambda: barrier.broken)

    run(main())


@pytest.mark.parametrize("timeout", [float("nan"), "1", 1e300])
def test_wrong_timeout_raises_as_in_wait(timeout):
    barrier = Barrier(2)
    with pytest.raises((ValueError, TypeError, OverflowError)) as expected:
        barrier.wait(timeout)
    with pytest.raises(expected.type, match=str(expected.value)):
        barrier.wait_async(timeout).send(None)
    assert barrier.n_waiting == 0
    assert not barrier.broken


def test_wait_async_is_a_coroutine_function():
    assert inspect.iscoroutinefunction(Barrier.wait_async)


@pytest.mark.parametrize("action", [None, int])
def test_tasks_cancelled_at_random_leave_no_party_behind(action, kind):
    barrier = Barrier(3, action)
    passed = broken = 0

    async def party():
        nonlocal passed, broken
        for n in range(many(60)):
            try:
                async with asyncio.timeout(0.0002 * (n % 4) + 0.0001):
                    await barrier.wait_async()
                passed += 1
            except TimeoutError:
                pass
            except BrokenBarrierError:
                broken += 1
                if barrier.broken:
                    barrier.reset()
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(*(party() for _ in range(4)))

    run(main(), kind)
    barrier.reset()
    assert barrier.n_waiting == 0
