"""Signals at random moments of awaited waits, of loops, and of threads that serve tasks.

A handler that cancels the task is what ``asyncio.run`` does at a Ctrl-C. It runs anywhere in the
code of the loop's thread. A handler that raises ends the loop, which is closed then. Nothing may be
lost or done twice, and nothing may stay taken.
"""

import asyncio
import contextlib
import gc
import queue
import signal
import sys
import threading
import time
from functools import partial

import pytest
from every_step import EveryStep
from loops import LoopThread
from marks import starts_processes
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, eventually

import nogil_sync
from nogil_sync import (
    Cancelled,
    Channel,
    Cond,
    Event,
    Mutex,
    RWMutex,
    Semaphore,
    TaskGroup,
    WaitGroup,
    select,
    select_async,
    try_select,
)
from nogil_sync._common.dropped import when_dropped

pytestmark = starts_processes


class RandomCancellations(RandomInterrupts):
    """The handler cancels the task that is in `task`."""

    def __init__(self):
        super().__init__()
        self.task = None

    def handle(self, *_):
        task = self.task
        if task is not None and task.cancel():
            self.raised += 1

    async def run(self, coroutine):
        """Run it in a task that may be cancelled; whether it was not."""
        self.task = task = asyncio.ensure_future(coroutine)
        try:
            await task
        except asyncio.CancelledError:
            return False
        finally:
            self.task = None
        return True


class Sender:
    """A thread that sends 1, 2, … while the block runs, by the given call."""

    def __init__(self, send):
        self.busy = True
        self.sent = 0
        self.send = send
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        while self.busy:
            try:
                if self.send(self.sent + 1) is not False:
                    self.sent += 1
            except TimeoutError:
                pass

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.busy = False
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive()


class Receiver(Sender):
    """A thread that receives while the block runs, by the given call."""

    def __init__(self, receive):
        super().__init__(None)
        self.receive = receive
        self.received = []

    def work(self):
        while self.busy:
            try:
                self.received.append(self.receive())
            except TimeoutError:
                pass


def left_in(*channels):
    """What is in them. Nobody sends to them, or receives, any more."""
    items = [channel.recv() for channel in channels for _ in range(len(channel))]
    assert try_select(*channels) is None
    return items


# How to receive from two channels, how to send.
RECEIVE = {
    "recv": lambda c, _: c.recv_async(10),
    "select": lambda c, d: select_async(d, c, Event(), timeout=10),
    "iteration": lambda c, _: c.__anext__(),
}


@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("way", RECEIVE)
@in_own_process
def test_task_cancelled_by_a_handler_loses_no_item(way, capacity):
    interrupts = RandomCancellations()
    c, d = Channel(capacity), Channel(capacity)
    received = []

    async def receive():
        item = await RECEIVE[way](c, d)
        received.append(item.value if way == "select" else item)

    async def main():
        for _ in interrupts.rounds(lambda: bool(received)):
            await interrupts.run(receive())

    with Sender(lambda item: c.send(item, 0.001)) as sender:
        asyncio.run(main())
    assert sorted(received + left_in(c, d)) == [*range(1, sender.sent + 1)]


SEND = {
    "send": lambda c, _, item: c.send_async(item, 10),
    "select": lambda c, d, item: select_async(d, c.sending(item), Event(), timeout=10),
}


@pytest.mark.parametrize("capacity", [0, 2])
@pytest.mark.parametrize("way", SEND)
@in_own_process
def test_task_cancelled_by_a_handler_sends_nothing_twice(way, capacity):
    interrupts = RandomCancellations()
    c, d = Channel(capacity), Channel(capacity)
    sent = []

    async def send(item):
        await SEND[way](c, d, item)
        sent.append(item)

    async def main():
        for number, _ in enumerate(interrupts.rounds(lambda: bool(sent))):
            await interrupts.run(send(number))

    with Receiver(lambda: c.recv(0.001)) as receiver:
        asyncio.run(main())
    received = receiver.received + left_in(c, d)
    assert len(set(received)) == len(received)
    assert set(sent) <= set(received)  # one that was cancelled as it was accepted stays sent
    assert received == sorted(received)


def lock_is_held(lock):
    return lock.available() == 0 if isinstance(lock, Semaphore) else lock.locked()


TAKE = {
    "Mutex": (Mutex, lambda m: m.acquire_async(10), lambda m: m.release()),
    "read": (lambda: RWMutex().read, lambda m: m.acquire_async(10), lambda m: m.release()),
    "write": (lambda: RWMutex().write, lambda m: m.acquire_async(10), lambda m: m.release()),
    "Semaphore": (lambda: Semaphore(1), lambda s: s.acquire_async(10), lambda s: s.release()),
    "hold": (
        lambda: Semaphore(1),
        lambda s: s.hold_async(1, 10).__aenter__(),
        lambda s: s.release(),
    ),
    "async with": (Mutex, lambda m: m.__aenter__(), lambda m: m.release()),
}


@pytest.mark.parametrize("name", TAKE)
@in_own_process
def test_task_cancelled_by_a_handler_has_not_taken_the_lock(name):
    interrupts = RandomCancellations()
    make, acquire, release = TAKE[name]
    lock = make()
    taken = 0

    async def use():
        nonlocal taken
        await acquire(lock)
        taken += 1
        release(lock)

    async def main():
        for _ in interrupts.rounds(lambda: taken > 0):
            await interrupts.run(use())

    def use_too(_):
        with lock:
            pass

    with Sender(use_too):
        asyncio.run(main())
    assert lock.acquire(False)
    lock.release()


@in_own_process
def test_task_cancelled_by_a_handler_passes_its_notification_on():
    interrupts = RandomCancellations()
    cond = Cond()
    items = []
    taken = 0

    async def take():
        nonlocal taken
        async with cond:
            await cond.wait_for_async(lambda: items, 10)
            items.pop()
            taken += 1

    async def main():
        others = [asyncio.ensure_future(forever()) for _ in range(2)]
        for _ in interrupts.rounds(lambda: taken > 0):
            await interrupts.run(take())
        for other in others:
            other.cancel()
        await asyncio.wait(others)

    async def forever():
        while True:
            await take()

    def put(_):
        with cond:
            if not items:
                items.append(1)
                cond.notify()
        # A waiter takes it, or passes the notification on.
        assert eventually(lambda: not (items and sender.busy))

    sender = Sender(put)
    with sender:
        asyncio.run(main())
    assert sender.sent
    assert not cond.locked()


@in_own_process
def test_task_cancelled_by_a_handler_leaves_no_place_in_events():
    interrupts = RandomCancellations()
    event, group = Event(), WaitGroup()
    group.add()
    seen = 0

    async def wait():
        nonlocal seen
        assert await event.wait_async(10)
        assert await group.wait_async(10)
        seen += 1

    def change(_):
        event.set()
        event.clear()
        group.done()
        group.add()

    async def main():
        for _ in interrupts.rounds(lambda: seen > 0):
            await interrupts.run(wait())

    with Sender(change):
        asyncio.run(main())
    assert not event.is_set()
    gc.collect()


# Handlers that raise: the loop ends, and is closed.


def run_and_close(interrupts, main, at_most):
    loop = asyncio.new_event_loop()
    interrupts.call(loop.run_until_complete, main, at_most)
    # An interrupt can also keep asyncio from noting that the loop does not run any more.
    asyncio._set_running_loop(None)
    loop._thread_id = None
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()
    main.close()


@pytest.mark.parametrize("at_most", [2])
@pytest.mark.parametrize("way", RECEIVE)
@in_own_process
def test_interrupted_loop_loses_no_item(way, at_most):
    interrupts = RandomInterrupts(KeyboardInterrupt)
    c, d = Channel(), Channel()
    received = []
    got = None

    async def receive():
        nonlocal got
        got = await RECEIVE[way](c, d)
        interrupts.remaining = 0  # nothing comes between

    with Sender(lambda item: c.send(item, 0.001)) as sender:
        for _ in interrupts.rounds(lambda: bool(received)):
            got = None
            run_and_close(interrupts, receive(), at_most)
            if got is not None:
                received.append(got.value if way == "select" else got)
    while True:
        gc.collect()  # what was interrupted before it could be cancelled
        left = left_in(c, d)
        if not left:
            break
        received += left
    assert sorted(received) == [*range(1, sender.sent + 1)]


@pytest.mark.parametrize("at_most", [2])
@pytest.mark.parametrize("name", TAKE)
@in_own_process
def test_interrupted_loop_has_taken_no_lock(name, at_most):
    interrupts = RandomInterrupts(KeyboardInterrupt)
    make, acquire, release = TAKE[name]
    lock = make()
    assert lock.acquire()
    held = taken = 0

    async def use(waits):
        nonlocal held
        asyncio.get_running_loop().call_soon(waits.release)
        await acquire(lock)
        held = 1
        interrupts.remaining = 0  # nothing comes between

    def release_each():
        for waits in iter(jobs.get, None):
            waits.acquire()
            release(lock)
            done.put(True)

    jobs, done = queue.SimpleQueue(), queue.SimpleQueue()
    releaser = threading.Thread(target=release_each, daemon=True)
    releaser.start()
    for _ in interrupts.rounds(lambda: taken > 0):
        held = 0
        waits = threading.Lock()  # in C: an interrupt leaves it whole
        waits.acquire()
        jobs.put(waits)
        run_and_close(interrupts, use(waits), at_most)
        with contextlib.suppress(RuntimeError):
            waits.release()
        assert done.get(timeout=TIMEOUT)
        if held:
            taken += 1
        else:  # it was interrupted, and has given back what it had been given
            assert eventually(lambda: lock.acquire(False) or gc.collect() < 0)
    jobs.put(None)
    releaser.join(TIMEOUT)
    release(lock)
    assert eventually(lambda: gc.collect() >= 0 and not lock_is_held(lock))


WEIGHTED = {
    "acquire": (lambda s: s.acquire_async(10, n=2), lambda s: s.release(2)),
    "hold": (lambda s: s.hold_async(2, 10).__aenter__(), lambda s: s.release(2)),
}


@pytest.mark.parametrize("name", WEIGHTED)
@in_own_process
def test_interrupted_task_that_need_not_wait_has_taken_no_units(name):
    interrupts = RandomInterrupts(KeyboardInterrupt)
    acquire, release = WEIGHTED[name]
    units = Semaphore(2)
    held = taken = 0

    async def use():
        nonlocal held
        for _ in range(1000):
            await acquire(units)
            held = 1
            held = release(units) or 0  # an interrupt comes before this store, or after it

    for _ in interrupts.rounds(lambda: taken > 0):
        held = 0
        run_and_close(interrupts, use(), 1)
        if held:
            taken += 1
        elif units.available() != 2:
            gc.collect()
        assert units.available() == 2 or held
        if units.available() != 2:
            release(units)


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
@in_own_process
def test_interrupted_thread_resumes_the_tasks_that_it_serves(capacity, at_most):
    interrupts = RandomInterrupts()
    c = Channel(capacity)
    received = []

    async def receive():
        async for item in c:
            received.append(item)

    async def main():
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(receive())

    sent = []
    with LoopThread() as other:
        done = other.submit(main())
        for number, _ in enumerate(interrupts.rounds(lambda: bool(sent))):
            if interrupts.call(partial(c.send, timeout=10), number, at_most) is None:
                sent.append(number)
        c.close()
        done.result(TIMEOUT)
    assert len(set(received)) == len(received)
    if nogil_sync.backend == "native":
        assert sorted(received) == sent
    else:  # in the instant of the interrupt it may have been accepted
        assert set(sent) <= set(received)


# Interrupts at each step


# Seen on 3.11, once: after an interrupt in a weak reference's callback, ``events.Handle(...)`` of
# asyncio called the method `cancel` instead of `__init__`.
at_each_step = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="3.11 itself goes wrong when each instruction is traced"
)


class Served:
    """A task that waits, and is served by another task of its loop, which then stops the loop.

    It is referred to until the end: nothing is given back because the task is freed.
    """

    def __init__(self, wait, serve):
        self.loop = asyncio.new_event_loop()
        self.got = None
        self.ended = False
        self.serving = self.loop.create_task(self.stop_after(wait, serve))
        self.serving._log_destroy_pending = False
        self.loop.run_forever()

    async def stop_after(self, wait, serve):
        self.waiting = self.loop.create_task(self.wait_for(wait))
        self.waiting._log_destroy_pending = False
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        serve()
        self.loop.stop()

    async def wait_for(self, wait):
        self.got = await wait
        self.ended = True

    def go_on(self):
        """Run the loop until the task has what it waits for."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self):
        asyncio._set_running_loop(None)
        self.loop._thread_id = None
        with contextlib.suppress(Exception):
            self.loop.close()
        self.loop._closed = True  # one that was interrupted before may fail
        self.loop._ready.clear()


@at_each_step
@pytest.mark.parametrize("step", ["go_on", "close"])
@pytest.mark.parametrize("name", ["Mutex", "write", "hold"])
@in_own_process
def test_lock_given_to_a_task_is_given_back_whatever_step_is_interrupted(name, step):
    make, acquire, release = TAKE[name]
    steps = EveryStep()
    for _ in steps.rounds():
        lock = make()
        assert lock.acquire(False)
        served = Served(acquire(lock), partial(release, lock))
        steps.call(served.loop.close if step == "close" else served.go_on)
        served.close()
        if served.ended:
            release(lock)
        assert lock.acquire(False), steps.raised[-1:]


@at_each_step
@pytest.mark.parametrize("step", ["go_on", "close"])
@pytest.mark.parametrize("way", RECEIVE)
@in_own_process
def test_item_given_to_a_task_is_given_back_whatever_step_is_interrupted(way, step):
    steps = EveryStep()
    for _ in steps.rounds():
        c, d = Channel(1), Channel(1)
        served = Served(RECEIVE[way](c, d), partial(c.try_send, "item"))
        steps.call(served.loop.close if step == "close" else served.go_on)
        served.close()
        left = left_in(c, d)
        assert left == ([] if served.ended else ["item"]), steps.raised[-1:]


# Selects in groups that are cancelled.


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
@in_own_process
def test_interrupts_beside_a_cancelled_group_lose_no_item(capacity, at_most):
    interrupts = RandomInterrupts()
    c, d, never = Channel(capacity), Channel(capacity), Event()
    received, sent = [], []

    def work():
        while True:
            received.append(select(d, never, c).value)

    def cancel(tg):
        never.wait(0.0005)
        tg.cancel()

    for number, _ in enumerate(interrupts.rounds(lambda: bool(sent))):
        with TaskGroup() as tg:
            for _ in range(2):
                tg.go(work)
            canceller = threading.Thread(target=cancel, args=(tg,))
            canceller.start()

            def send(item):
                try:
                    return select(c.sending(item), d.sending(item), never).case is not never
                except Cancelled:
                    return None

            item = 0
            while True:
                done = interrupts.call(send, (number, item), at_most)
                if done:
                    sent.append((number, item))
                if done is None:
                    break
                item += 1
            canceller.join()
    received += left_in(c, d)
    assert len(set(received)) == len(received)
    assert set(sent) <= set(received)


# Handlers that serve, finalisers that are interrupted


@in_own_process
def test_handler_that_serves_a_task_wakes_its_loop():
    c = Channel()
    signal.signal(signal.SIGALRM, lambda *_: c.try_send("item"))

    async def main():
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        return await c.recv_async()

    assert asyncio.run(main()) == "item"


@in_own_process
def test_ctrl_c_while_something_is_dropped_is_raised_afterwards():
    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0)

    def drop():
        watch = when_dropped(interrupted)
        del watch
        gc.collect()
        calls.append("after")
        for _ in range(10_000):
            time.sleep(0)
        calls.append("not raised")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        drop()
    assert calls[:2] == [1, 1]
    assert "not raised" not in calls
