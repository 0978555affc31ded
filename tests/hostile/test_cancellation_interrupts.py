"""Interrupts at random moments of task groups, shields, timers, and waits that are cancelled."""

import os
import signal
import threading
import time

from ctrl_c import interrupt_call
from groups import asleep, caught, own_threads
from marks import starts_processes
from processes import in_own_process
from random_interrupts import InterruptError, RandomInterrupts
from support import TIMEOUT, eventually

from nogil_sync import (
    Cancelled,
    Channel,
    Event,
    Once,
    Semaphore,
    SyncMap,
    TaskGroup,
    Ticker,
    after,
    select,
    shield,
)
from nogil_sync._backend import current_scope

pytestmark = starts_processes


def is_outside():
    """Whether the waits of this thread are those of no group."""
    scope = current_scope()
    return scope is None or not scope.cancelled


@in_own_process
def test_group_interrupted_anywhere_is_as_if_left_or_can_be_cancelled():
    interrupts = RandomInterrupts()
    channel = Channel()
    calls = []

    def use(tg):
        with tg:
            tg.on_cancel(calls.append, 1)
            tg.go(channel.recv)
            tg.go(Event().wait)
            tg.cancel()
        return True

    for _ in interrupts.rounds():
        calls.clear()
        tg = TaskGroup()
        left = False
        try:
            left = interrupts.call(use, tg)
        except* InterruptError:
            interrupts.remaining = 0
        # An interrupt at the entry of __enter__ or __exit__ skips that.
        tg.cancel()
        assert eventually(lambda tg=tg: "running" not in repr(tg) or " 0 running" in repr(tg))
        assert len(calls) <= 1
        if left:
            assert calls == [1]
        del tg
        assert eventually(is_outside)  # idle threads of the group keep it for a moment
    assert eventually(lambda: not own_threads())
    assert not channel.try_send(1)  # no thread receives


@in_own_process
def test_nested_groups_interrupted_anywhere_leave_no_thread():
    interrupts = RandomInterrupts()

    def use(groups):
        with groups[0] as outer:
            outer.go(Event().wait)
            with groups[1] as inner:
                inner.go(Channel().recv)
                outer.cancel()
                Event().wait()
        return True

    for _ in interrupts.rounds():
        groups = [TaskGroup(), TaskGroup(timeout=3600)]
        try:
            interrupts.call(use, groups, at_most=2)
        except* InterruptError:
            interrupts.remaining = 0
        for group in groups:
            group.cancel()
        del group, groups
        assert eventually(is_outside)
    assert eventually(
        lambda: not [t for t in threading.enumerate() if t.name.startswith("TaskGroup")]
    )


@in_own_process
def test_interrupted_waits_for_a_future_leave_it_usable():
    interrupts = RandomInterrupts()
    end = Event()
    with TaskGroup() as tg:
        future = asleep(tg, end.wait)

        def wait(timeout):
            try:
                future.result(timeout)
            except TimeoutError:
                return True

        for _ in interrupts.rounds():
            interrupts.call(wait, 0.001)
            assert not future._condition.guard._is_owned()
        assert not future._condition.gates
        end.set()
        assert future.result() is True


@in_own_process
def test_interrupted_waits_for_a_run_leave_it_usable():
    interrupts = RandomInterrupts()
    squares, end = SyncMap(), Event()
    with TaskGroup() as tg:
        first = asleep(tg, squares.load_or_compute, 1, end.wait)

        def wait(timeout):
            try:
                squares.load_or_compute(1, int, timeout=timeout)
            except TimeoutError:
                return True

        for _ in interrupts.rounds():
            interrupts.call(wait, 0.001)
        waiting = [asleep(tg, squares.load_or_compute, 1, int) for _ in range(3)]
        end.set()
        assert first.result() is True
        assert [future.result() for future in waiting] == [True] * 3


@in_own_process
def test_interrupted_run_wakes_those_that_wait_for_it_in_a_group():
    interrupts = RandomInterrupts()
    for _ in interrupts.rounds():
        cell, begun = Once(retry=True), Event()

        def compute(begun=begun):
            begun.set()
            for _ in range(3):
                time.sleep(0.0001)
            return 1

        with TaskGroup() as tg:

            def wait(cell=cell, begun=begun):
                begun.wait()
                return cell.do(int)

            waiting = [tg.go(wait) for _ in range(2)]
            if interrupts.call(lambda fn, cell=cell: cell.do(fn), compute):
                assert [future.result() for future in waiting] == [1, 1]
            begun.set()


@in_own_process
def test_interrupted_shield_ends_with_its_block():
    interrupts = RandomInterrupts()

    def use(event):
        with shield():
            return event.wait(0.0002) is False

    with TaskGroup() as tg:
        tg.cancel()
        scope = current_scope()
        for _ in interrupts.rounds():
            if not interrupts.call(use, Event()):
                # An interrupt at the entry of __exit__ skips that.
                assert current_scope() in (scope, None)
                with shield():
                    pass
                if current_scope() is None:
                    break
            assert current_scope() is scope
    assert is_outside()


@in_own_process
def test_cancelled_waits_interrupted_at_random_leave_no_trace():
    interrupts = RandomInterrupts()
    permits, channel = Semaphore(0, bounded=False), Channel()
    waits = [
        lambda: permits.acquire(timeout=0.0005),
        lambda: channel.send(1, 0.0005),
        lambda: channel.recv(0.0005),
        lambda: select(channel, Event(), timeout=0.0005),
        lambda: select(channel.sending(1), after(0.0005)),
        lambda: Ticker(3600).recv(0.0005),
    ]

    def wait(wait):
        try:
            wait()
        except (Cancelled, TimeoutError):
            pass
        return True

    for turn, _ in enumerate(interrupts.rounds()):
        with TaskGroup() as tg:
            canceller = asleep(tg, Event().wait, 0.0002)
            canceller.add_done_callback(lambda _, tg=tg: tg.cancel())
            interrupts.call(wait, waits[turn % len(waits)])
        # Nobody is left in line.
        assert not channel.try_send(1)
        assert channel.try_recv() is None
        permits.release()
        assert permits.acquire(blocking=False)


@in_own_process
def test_ctrl_c_in_the_block_ends_tasks_that_wait():
    lines = Channel(1)

    def use():
        with TaskGroup() as tg:
            tg.go(list, lines)
            tg.go(Ticker(3600).recv)
            tg.go(select, Channel(), Event())
            select(Channel(), Ticker(3600))

    interrupt_call(use)
    assert not own_threads()


@in_own_process
def test_ctrl_c_while_leaving_ends_tasks_that_wait():
    def use():
        with TaskGroup() as tg:
            tg.go(Channel().recv)
            with shield():
                pass

    interrupt_call(use)
    assert not own_threads()


@in_own_process
def test_failing_consumer_and_ctrl_c_print_the_cause():
    lines = Channel(1)

    def consume():
        lines.recv()
        raise OSError("disk full")

    def use():
        with TaskGroup() as tg:
            tg.go(consume)
            future = asleep(tg, lambda: [lines.send(n) for n in range(10)])
            assert eventually(future.done)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(TIMEOUT)

    error = caught(use)
    assert type(error) is KeyboardInterrupt
    assert error.__notes__[0].endswith("OSError: disk full")
    assert not own_threads()
