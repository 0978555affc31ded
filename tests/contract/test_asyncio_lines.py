"""Threads and the tasks of several loops at one object: one line, nothing lost, whatever is cut."""

import asyncio
import random
import threading
import warnings
from itertools import count

import pytest
from forks import in_child
from loops import LOOPS, LoopThread, loop_threads, run, started_task, until
from marks import forks, needs_fork, starts_threads
from support import TIMEOUT, eventually, for_a_while, many, run_threads, started

from nogil_sync import (
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    RWMutex,
    Semaphore,
    TaskGroup,
    WaitGroup,
    after,
    select,
    select_async,
)
from nogil_sync._backend import AsyncWaiter
from nogil_sync._common.loops import wait_in_line

pytestmark = starts_threads


@pytest.fixture(params=LOOPS)
def kind(request):
    return request.param


# First come, first served


def line_up(loops, call, twin, waiters=8):
    """Waiters in one line, one after the other: threads, and tasks of these loops."""
    results = []
    for n in range(waiters):
        if n % 3 == 0:
            thread, result = started(call, n)
            results.append((thread.join, result))
        else:
            loop = loops[n % len(loops)]
            loop.submit(twin(n))
            loop.settle()
    return results


def test_receivers_are_served_in_the_order_in_which_they_came(kind):
    c, log = Channel(), []

    def receive(n):
        log.append((n, c.recv()))

    async def receive_async(n):
        log.append((n, await c.recv_async()))

    with loop_threads(2, kind) as loops:
        threads = line_up(loops, receive, receive_async)
        for n in range(8):
            assert c.try_send(n)
        for join, _ in threads:
            join(TIMEOUT)
        for loop in loops:
            loop.settle()
    assert sorted(log) == [(n, n) for n in range(8)]


def test_senders_are_served_in_the_order_in_which_they_came(kind):
    c = Channel()
    with loop_threads(2, kind) as loops:
        line_up(loops, c.send, c.send_async)
        assert [c.recv() for _ in range(8)] == list(range(8))


def test_units_are_given_in_the_order_in_which_they_are_waited_for(kind):
    s, log = Semaphore(0, bounded=False), []

    def take(n):
        s.acquire(n=n + 1)
        log.append(n)

    async def take_async(n):
        await s.acquire_async(n=n + 1)
        log.append(n)

    with loop_threads(2, kind) as loops:
        line_up(loops, take, take_async)
        for n in range(8):
            if n:
                s.release(n)
                assert len(log) == n
            s.release(1)
            assert eventually(lambda n=n: len(log) > n)
    assert log == list(range(8))


def test_lock_is_handed_on_in_the_order_in_which_it_is_waited_for(kind):
    for lock in (Mutex(), RWMutex().write):
        log = []
        lock.acquire()

        def take(n, lock=lock, log=log):
            with lock:
                log.append(n)

        async def take_async(n, lock=lock, log=log):
            async with lock:
                log.append(n)

        with loop_threads(2, kind) as loops:
            threads = line_up(loops, take, take_async)
            lock.release()
            for join, _ in threads:
                join(TIMEOUT)
            for loop in loops:
                loop.settle()
            assert lock.acquire(timeout=TIMEOUT)
        assert log == list(range(8))


def test_notifications_go_to_the_longest_waiters(kind):
    c, log = Cond(), []

    def wait(n):
        with c:
            c.wait()
            log.append(n)

    async def wait_async(n):
        async with c:
            await c.wait_async()
            log.append(n)

    with loop_threads(2, kind) as loops:
        line_up(loops, wait, wait_async)
        for n in range(8):
            with c:
                c.notify()
            assert eventually(lambda n=n: len(log) > n)
    assert log == list(range(8))


@pytest.mark.parametrize("make", [Event, WaitGroup])
def test_threads_and_tasks_are_woken_together(make, kind):
    x, log = make(), []
    if make is WaitGroup:
        x.add(1)

    def wait(n):
        assert x.wait()
        log.append(n)

    async def wait_async(n):
        assert await x.wait_async()
        log.append(n)

    with loop_threads(3, kind) as loops:
        threads = line_up(loops, wait, wait_async, 12)
        if make is Event:
            x.set()
            x.clear()
        else:
            x.done()
            x.add(1)
        for join, _ in threads:
            join(TIMEOUT)
        for loop in loops:
            loop.settle()
    assert sorted(log) == list(range(12))


def test_waiter_served_as_it_enters_does_not_wait(kind):
    """Its call found nothing; then somebody sent; then it stood in line."""
    c = Channel(1)

    async def main():
        c.send("item")
        assert await wait_in_line(AsyncWaiter, c, "recv", None, None) == "item"

    run(main(), kind)


# Cancellation and time-outs at random moments


@pytest.mark.parametrize("capacity", [0, 1, 5])
def test_receivers_that_give_up_at_random_lose_no_item(capacity, kind):
    c = Channel(capacity)
    total = many(2000)

    def send():
        for n in range(total):
            c.send(n)
        c.close()

    async def give_up(rng, got):
        """Receive, and be cut off in one way or another."""
        while True:
            way = rng.randrange(5)
            try:
                if way == 0:
                    got.append(await asyncio.wait_for(c.recv_async(), rng.random() * 0.0005))
                elif way == 1:
                    async with asyncio.timeout(rng.random() * 0.0005):
                        got.append(await c.recv_async())
                elif way == 2:
                    got.append(await c.recv_async(rng.random() * 0.0005))
                elif way == 3:
                    selected = await select_async(c, after(rng.random() * 0.0005))
                    if selected.closed:
                        return
                    if selected.case is c:
                        got.append(selected.value)
                else:
                    task = asyncio.ensure_future(receive(got))
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                    if task.done() and not task.cancelled() and task.exception():
                        return
            except TimeoutError:
                pass
            except ChannelClosed:
                return

    async def receive(got):
        # Nothing can come between the item and the list.
        got.append(await c.recv_async())

    def loop(seed):
        got = []

        async def main():
            rng = random.Random(seed)
            await asyncio.gather(*(give_up(rng, got) for _ in range(3)))

        run(main(), kind)
        return got

    def thread():
        got = []
        while True:
            try:
                got.append(c.recv(0.0002))
            except TimeoutError:
                pass
            except ChannelClosed:
                return got

    results = run_threads(send, lambda: loop(1), lambda: loop(2), thread)
    received = [n for got in results if got is not None for n in got]
    lost = set(range(total)) - set(received)
    # `wait_for` itself may drop what its coroutine returned as the time was over.
    assert len(received) == len(set(received))
    assert not lost


def test_permits_are_not_leaked_by_tasks_that_give_up(kind):
    s, m, rw = Semaphore(3), Mutex(), RWMutex()

    async def work(rng):
        for _ in range(many(150)):
            n = rng.randrange(1, 4)
            lock = rng.choice((m, rw.read, rw.write))
            try:
                async with asyncio.timeout(rng.random() * 0.001):
                    async with s.hold_async(n), lock:
                        await asyncio.sleep(0)
            except TimeoutError:
                pass

    def loop(seed):
        async def main():
            rng = random.Random(seed)
            await asyncio.gather(*(work(rng) for _ in range(4)))

        run(main(), kind)

    def thread():
        for _ in range(many(300)):
            if s.acquire(timeout=0.0003):
                if m.acquire(timeout=0.0003):
                    m.release()
                s.release()

    run_threads(lambda: loop(1), lambda: loop(2), thread, thread)
    assert s.available() == 3
    assert not m.locked()
    assert not rw.read.locked()
    assert rw.write.acquire(False)


def test_mutex_excludes_threads_and_tasks_of_four_loops(kind):
    m = Mutex()
    counts = [0]
    each = many(300)

    async def work():
        for _ in range(each):
            async with m:
                before = counts[0]
                if before % 7 == 0:
                    await asyncio.sleep(0)
                counts[0] = before + 1

    def loop():
        async def main():
            await asyncio.gather(work(), work())

        run(main(), kind)

    def thread():
        for _ in range(each):
            with m:
                counts[0] += 1

    run_threads(loop, loop, loop, loop, thread)
    assert counts[0] == 9 * each


def test_every_item_of_threads_and_tasks_arrives_once_in_four_loops(kind):
    c = Channel(7)
    numbers = count()
    each = many(400)
    left = Semaphore(0, bounded=False)

    async def send_async():
        for _ in range(each):
            await c.send_async(next(numbers))
        left.release()

    def send():
        for _ in range(each):
            c.send(next(numbers))
        left.release()

    async def receive():
        return [item async for item in c]

    def loop():
        async def main():
            parts = await asyncio.gather(send_async(), receive(), receive())
            return parts[1] + parts[2]

        return run(main(), kind)

    def closer():
        left.acquire(n=6)
        c.close()

    results = run_threads(loop, loop, loop, loop, send, send, closer)
    received = sorted(item for part in results if part for item in part)
    assert received == list(range(6 * each))


def test_loops_that_are_closed_under_load_lose_no_item(kind):
    """Loops come, receive a little, and are closed with their tasks in line."""
    c, done = Channel(), threading.Event()
    seen = []

    def send():
        for n in count():
            if done.is_set():
                break
            try:
                c.send(n, 0.01)
            except TimeoutError:
                continue
            sent.append(n)

    sent = []

    async def receive():
        while True:
            seen.append(await c.recv_async())

    def loops():
        for _ in for_a_while(0.5):
            with LoopThread(kind) as loop:
                for _ in range(3):
                    loop.submit(receive())
                loop.settle()
                loop.abandon()
        done.set()

    def receiver():
        while not done.is_set():
            try:
                seen.append(c.recv(0.001))
            except TimeoutError:
                pass

    run_threads(send, loops, receiver)
    while True:
        try:
            seen.append(c.recv(0.01))
        except TimeoutError:
            break
    assert len(seen) == len(set(seen))
    assert set(seen) == set(sent)


# Selects


def test_selects_of_tasks_and_threads_meet(kind):
    """They send and receive on the same channels, in select alone."""
    a, b = Channel(), Channel()
    rounds = many(200)

    async def task(mine):
        got = 0
        for n in range(rounds):
            selected = await select_async(a, b.sending(("task", n)), timeout=TIMEOUT)
            got += selected.case is a
            mine.append(selected)
        return got

    def thread(mine):
        for n in range(rounds):
            selected = select(b, a.sending(("thread", n)), timeout=TIMEOUT)
            mine.append(selected)

    tasks, threads = [], []
    run_threads(lambda: run(task(tasks), kind), lambda: thread(threads))
    for mine, others, sends in ((tasks, threads, "thread"), (threads, tasks, "task")):
        received = [s.value for s in mine if s.value is not None]
        assert all(who == sends for who, _ in received)
        assert len(received) == len(set(received))
        assert len(received) == sum(1 for s in others if s.value is None)


def test_cancelled_selects_take_nothing(kind):
    c, e = Channel(3), Event()

    async def main():
        for n in range(many(200)):
            task = await started_task(select_async(c, e))
            assert c.try_send(n)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert c.try_recv() == n

    run(main(), kind)


# A fork


@needs_fork
@forks
def test_child_of_a_fork_forgets_tasks_that_wait():
    c, s, m = Channel(), Semaphore(2), Mutex()
    s.acquire(n=2)
    m.acquire()

    def look():
        assert not c.try_send("nobody waits")
        s.release(2)
        assert s.available() == 2
        m.release()
        assert m.acquire(False)

    async def main():
        tasks = [
            await started_task(each)
            for each in (c.recv_async(), s.acquire_async(), m.acquire_async())
        ]
        with warnings.catch_warnings():
            # Other tests may have left threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            in_child(look)
        c.send("item")
        s.release()
        m.release()
        assert await asyncio.gather(*tasks) == ["item", True, True]

    run(main())


# A TaskGroup in asyncio code


def test_task_group_in_asyncio_code(kind):
    """Its tasks are awaited as futures; a thread leaves it."""

    async def main():
        group = TaskGroup(limit=2)
        await asyncio.to_thread(group.__enter__)
        futures = [asyncio.wrap_future(group.go(pow, n, 2)) for n in range(10)]
        assert await asyncio.gather(*futures) == [n * n for n in range(10)]
        failing = asyncio.wrap_future(group.go(int, "x"))
        with pytest.raises(ValueError, match="invalid literal"):
            await failing
        assert await group.wait_cancelled_async(TIMEOUT)
        with pytest.raises(ExceptionGroup):
            await asyncio.to_thread(group.__exit__, None, None, None)

    run(main(), kind)


def test_task_of_a_group_is_cancelled_with_the_task_that_awaits_it(kind):
    begun, c = Event(), Channel()

    def work():
        begun.set()
        c.recv()

    async def use(group):
        await asyncio.to_thread(group.__enter__)
        try:
            await asyncio.wrap_future(group.go(work))
        except BaseException:
            group.cancel()
            raise
        finally:
            await asyncio.to_thread(group.__exit__, None, None, None)

    async def main():
        group = TaskGroup()
        task = asyncio.ensure_future(use(group))
        assert await begun.wait_async(TIMEOUT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert group.cancelled()

    run(main(), kind)


def test_wait_cancelled_async_times_out_or_is_told():
    async def main():
        group = TaskGroup()
        with group:
            assert not await group.wait_cancelled_async(0)
            assert not await group.wait_cancelled_async(0.01)
            waiting = await started_task(group.wait_cancelled_async())
            group.cancel()
            assert await waiting
            assert await group.wait_cancelled_async(0)

    run(main())


def test_many_tasks_of_one_loop_are_resumed_by_few_wake_ups(kind):
    e = Event()

    async def main():
        loop = asyncio.get_running_loop()
        asked = 0
        before = loop.call_soon_threadsafe

        if kind == "asyncio":

            def count_asked(*args, **kwargs):
                nonlocal asked
                asked += 1
                return before(*args, **kwargs)

            loop.call_soon_threadsafe = count_asked
        tasks = [asyncio.ensure_future(e.wait_async()) for _ in range(many(1000))]
        await asyncio.sleep(0.01)
        e.set()
        assert all(await asyncio.gather(*tasks))
        assert asked < 30

    run(main(), kind)


def test_busy_threads_do_not_keep_a_loop_from_its_other_tasks(kind):
    """Tasks that are served as fast as they wait again let the others run."""
    c, stop = Channel(), Event()

    def send():
        while not stop.is_set():
            try:
                c.send(1, 0.01)
            except TimeoutError:
                pass

    async def receive():
        while not stop.is_set():
            try:
                await c.recv_async(0.05)
            except TimeoutError:
                pass

    async def main():
        receivers = [asyncio.ensure_future(receive()) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        await until(lambda: True)
        stop.set()
        await asyncio.gather(*receivers)

    run_threads(send, send, lambda: run(main(), kind))


def test_cancelled_wait_for_a_notification_with_a_time_out_leaves_the_line(kind):
    async def main():
        c = Cond(Mutex())

        async def wait():
            async with c:
                await c.wait_async(TIMEOUT)

        task = await started_task(wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "0 waiting" in repr(c)

    run(main(), kind)
