"""Barrier: threading.Barrier's interface; rounds that all pass or none; actions; interrupts."""

import gc
import math
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from threading import BrokenBarrierError

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from forks import in_child
from marks import needs_fork, sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, WRONG_TIMEOUTS, eventually, many, run_threads, settle

from nogil_sync import Barrier, TaskGroup

BROKEN = "the barrier is broken, or was reset"
TIMED_OUT = "timed out waiting for the other threads"


def outcome(call, *args):
    """What the call returns, or the text of its BrokenBarrierError."""
    try:
        return call(*args)
    except BrokenBarrierError as error:
        return str(error)


def start(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


class Waiting:
    """Threads that wait at a barrier, and how their waits end."""

    def __init__(self, barrier, count, timeout=TIMEOUT):
        self.outcomes = []
        before = barrier.n_waiting
        wait = lambda: self.outcomes.append(outcome(barrier.wait, timeout))  # noqa: E731
        self.threads = [start(wait) for _ in range(count)]
        assert eventually(lambda: barrier.n_waiting == before + count)

    def ended(self):
        for thread in self.threads:
            thread.join(TIMEOUT)
        return sorted(self.outcomes, key=str)


# One thread


@pytest.mark.parametrize("timeout", [None, 0, -1, 5, 0.5])
def test_barrier_of_one_passes_at_once(timeout):
    b = Barrier(1)
    assert b.wait(timeout) == 0
    assert b.wait(timeout=timeout) == 0
    assert Barrier(1, None, timeout).wait() == 0
    assert (b.parties, b.n_waiting, b.broken) == (1, 0, False)


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, 0.001])
def test_wait_for_others_that_do_not_come_breaks_the_barrier(timeout):
    for b, call in (
        (b := Barrier(2), lambda: b.wait(timeout)),
        (c := Barrier(parties=2, action=None, timeout=timeout), lambda: c.wait()),
        (d := Barrier(2, timeout=TIMEOUT), lambda: d.wait(timeout=timeout)),
    ):
        assert outcome(call) == TIMED_OUT
        assert b.broken is True
        assert b.n_waiting == 0
        assert outcome(b.wait) == BROKEN
        b.reset()
        assert b.broken is False
        assert outcome(call) == TIMED_OUT


def test_abort_breaks_and_reset_mends():
    b = Barrier(1)
    assert b.abort() is None
    assert b.abort() is None
    assert b.broken is True
    assert outcome(b.wait) == BROKEN
    assert b.reset() is None
    assert b.broken is False
    assert b.wait() == 0
    b.reset()
    assert b.wait() == 0


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((0,), ValueError),
        ((-1,), ValueError),
        ((-(10**30),), ValueError),
        ((2**31,), OverflowError),
        ((10**30,), OverflowError),
        ((1.0,), TypeError),
        (("2",), TypeError),
        ((), TypeError),
        ((2, 5), TypeError),
        ((2, None, math.nan), ValueError),
        ((2, None, math.inf), OverflowError),
        ((2, None, "1"), TypeError),
        ((2, None, 1, 1), TypeError),
    ],
)
def test_wrong_constructor_arguments_raise(args, error):
    with pytest.raises(error):
        Barrier(*args)


@pytest.mark.parametrize(("timeout", "error"), WRONG_TIMEOUTS)
def test_wrong_timeouts_raise_and_break_nothing(timeout, error):
    b = Barrier(2)
    with pytest.raises(error):
        b.wait(timeout)
    assert (b.broken, b.n_waiting) == (False, 0)


def test_attributes_are_read_only():
    b = Barrier(2**31 - 1)
    assert b.parties == 2**31 - 1
    for name in ("parties", "n_waiting", "broken", "other"):
        with pytest.raises(AttributeError):
            setattr(b, name, 1)


def test_repr_shows_who_waits():
    class Named(Barrier):
        pass

    b = Barrier(3)
    assert repr(b) == f"<nogil_sync.Barrier at {id(b):#x}: waiters=0/3>"
    b.abort()
    assert repr(b) == f"<nogil_sync.Barrier at {id(b):#x}: broken>"
    assert "test_repr_shows_who_waits.<locals>.Named at 0x" in repr(Named(1))
    assert repr(Barrier.__new__(Barrier)) == "<Barrier object, not initialized>"


def test_barrier_is_configured_once():
    b = Barrier(2)
    with pytest.raises(RuntimeError, match="Barrier object is already initialized"):
        b.__init__(3)
    assert b.parties == 2
    raw = Barrier.__new__(Barrier)
    for use in (raw.wait, raw.reset, raw.abort, lambda: raw.parties, lambda: raw.n_waiting):
        with pytest.raises(RuntimeError, match="Barrier object is not initialized"):
            use()
    with pytest.raises(ValueError, match="parties must be >= 1"):
        raw.__init__(0)
    raw.__init__(1)  # a failed __init__ configures nothing
    assert raw.wait() == 0


def test_pickle_is_refused():
    with pytest.raises(TypeError, match="cannot pickle or copy 'Barrier' object"):
        pickle.dumps(Barrier(1))


def test_subclass_has_attributes_and_methods_of_its_own():
    class Counting(Barrier):
        def __init__(self, parties):
            super().__init__(parties, self.count)
            self.rounds = 0

        def count(self):
            self.rounds += 1

        def wait(self, timeout=None):
            return super().wait(timeout) + 10

    b = Counting(1)
    assert b.wait() == b.wait() == 10
    assert b.rounds == 2
    watch = weakref.ref(b)
    del b
    gc.collect()
    assert watch() is None  # it refers to itself by its action


# Actions


def test_action_runs_once_a_round_and_its_result_is_dropped():
    rounds = []
    b = Barrier(1, lambda: rounds.append(b.n_waiting) or 5)
    assert b.wait() == b.wait() == 0
    assert rounds == [1, 1]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_action_that_raises_breaks_the_barrier(error):
    def fail():
        raise error

    b = Barrier(1, fail)
    with pytest.raises(error):
        b.wait()
    assert (b.broken, b.n_waiting) == (True, 0)
    assert outcome(b.wait) == BROKEN
    b.reset()
    with pytest.raises(error):
        b.wait()


def test_action_that_waits_for_its_barrier_raises():
    b = Barrier(1, lambda: b.wait())
    with pytest.raises(RuntimeError, match="the action of a barrier cannot wait for it"):
        b.wait()
    assert b.broken

    def expect():
        with pytest.raises(RuntimeError, match="the action of a barrier cannot wait for it"):
            c.wait(5)

    c = Barrier(1, expect)
    assert c.wait() == 0


@pytest.mark.parametrize("end", ["abort", "reset"])
def test_action_that_ends_its_round_keeps_it_from_passing(end):
    b = Barrier(1, lambda: getattr(b, end)())
    assert outcome(b.wait) == BROKEN
    assert b.broken is (end == "abort")


def test_action_that_resets_may_wait_in_the_next_round():
    depth = []

    def act():
        depth.append(1)
        if len(depth) < 3:
            b.reset()
            nested.append(outcome(b.wait))

    nested = []
    b = Barrier(1, act)
    assert outcome(b.wait) == BROKEN
    assert nested == [0, BROKEN]
    assert not b.broken


def test_action_may_drop_the_last_reference():
    def act():
        held.clear()
        gc.collect()

    held = [Barrier(1, act)]
    assert held[0].wait() == 0


# Several threads


@starts_threads
@pytest.mark.parametrize("action", [None, int], ids=["without", "with"])
def test_each_party_gets_another_index(action):
    b = Barrier(5, action)
    indices = run_threads(lambda: [b.wait(TIMEOUT) for _ in range(50)], times=5)
    assert [sorted(each) for each in zip(*indices, strict=True)] == [[0, 1, 2, 3, 4]] * 50


@starts_threads
def test_nobody_passes_before_the_last_has_come():
    b = Barrier(3)
    two = Waiting(b, 2)
    assert "waiters=2/3>" in repr(b)
    assert two.outcomes == []
    assert b.wait() == 2
    assert two.ended() == [0, 1]
    assert (b.n_waiting, b.broken) == (0, False)


@starts_threads
def test_threads_run_in_lockstep():
    n, rounds = 4, many(200)
    b, counts, sums = Barrier(n), [0] * n, []
    both = Barrier(n, lambda: sums.append(sum(counts)))

    def run(i):
        for turn in range(1, rounds + 1):
            counts[i] = turn
            b.wait(TIMEOUT)
            assert counts == [turn] * n
            both.wait(TIMEOUT)

    run_threads(*(lambda i=i: run(i) for i in range(n)))
    assert sums == [n * turn for turn in range(1, rounds + 1)]


@starts_threads
@pytest.mark.parametrize("action", [None, lambda: time.sleep(0)], ids=["without", "with"])
def test_more_threads_than_parties_pass_in_rounds(action):
    b, turns = Barrier(3, action), many(200)
    tickets = list(range(3 * turns))  # as many as fill the rounds, whichever threads take them

    def use_tickets():
        found = []
        while True:
            try:
                tickets.pop()
            except IndexError:
                return found
            found.append(b.wait(TIMEOUT))

    found = [index for each in run_threads(use_tickets, times=6) for index in each]
    assert [found.count(index) for index in range(3)] == [turns] * 3
    assert b.n_waiting == 0


@starts_threads
@pytest.mark.parametrize("end", ["abort", "reset", "time-out"])
def test_all_that_wait_learn_that_the_round_is_broken(end):
    b = Barrier(5)
    three = Waiting(b, 3)
    if end == "time-out":
        assert outcome(b.wait, 0.01) == TIMED_OUT
    else:
        getattr(b, end)()
    assert three.ended() == [BROKEN] * 3
    assert b.broken is (end != "reset")
    b.reset()
    four = Waiting(b, 4)
    assert b.wait(TIMEOUT) == 4
    assert four.ended() == [0, 1, 2, 3]


@starts_threads
def test_wait_that_times_out_gives_its_own_message_to_one():
    b = Barrier(4)
    outcomes = run_threads(lambda: outcome(b.wait, 0.05), times=3)
    assert min(outcomes) == BROKEN or outcomes == [TIMED_OUT] * 3
    assert set(outcomes) <= {BROKEN, TIMED_OUT}


class Acting:
    """A barrier whose action runs until it is told to end, and the threads in its round."""

    def __init__(self, parties, timeout=TIMEOUT, error=None):
        self.begun, self.go_on, self.error = threading.Event(), threading.Event(), error
        self.barrier = Barrier(parties, self.act)
        self.failed = []
        self.waiting = Waiting(self.barrier, parties - 1, timeout)
        self.led = []
        self.leader = start(self.lead)
        assert self.begun.wait(TIMEOUT)

    def act(self):
        self.begun.set()
        assert self.go_on.wait(TIMEOUT)
        if self.error:
            raise self.error

    def lead(self):
        try:
            self.led.append(outcome(self.barrier.wait, TIMEOUT))
        except ZeroDivisionError as error:
            self.failed.append(error)

    def end(self):
        self.go_on.set()
        self.leader.join(TIMEOUT)
        return self.led, self.waiting.ended()


@starts_threads
def test_nobody_passes_before_the_action_is_over():
    acting = Acting(3)
    b = acting.barrier
    assert (b.n_waiting, b.broken) == (3, False)
    assert acting.waiting.outcomes == []
    assert acting.end() == ([2], [0, 1])
    assert (b.n_waiting, b.broken) == (0, False)


@starts_threads
def test_failed_action_breaks_the_barrier_for_all():
    acting = Acting(3, error=ZeroDivisionError())
    assert acting.end() == ([], [BROKEN, BROKEN])
    assert acting.failed
    assert acting.barrier.broken


@starts_threads
def test_time_out_during_the_action_breaks_nothing():
    acting = Acting(3, timeout=0.2)
    time.sleep(0.4)
    assert acting.waiting.outcomes == []
    assert acting.end() == ([2], [0, 1])


@starts_threads
@pytest.mark.parametrize("end", ["abort", "reset"])
def test_round_that_is_ended_during_the_action_does_not_pass(end):
    acting = Acting(3)
    getattr(acting.barrier, end)()
    assert acting.waiting.ended() == [BROKEN, BROKEN]  # at once
    assert acting.end() == ([BROKEN], [BROKEN, BROKEN])
    assert acting.barrier.broken is (end == "abort")


@starts_threads
@pytest.mark.parametrize("timeout", [TIMEOUT, 0.2])
def test_thread_that_comes_during_the_action_belongs_to_the_next_round(timeout):
    acting = Acting(3)
    b, late = acting.barrier, []
    threads = [start(lambda: late.append(outcome(b.wait, timeout))) for _ in range(3)]
    time.sleep(0.3)  # what passes during the action does not count for them
    assert late == []
    assert b.n_waiting == 3
    assert acting.end() == ([2], [0, 1])
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(late) == [0, 1, 2]
    assert not b.broken


@starts_threads
def test_late_thread_learns_how_its_own_round_ended():
    # Each round begins before all of the one before have left it.
    b, results, rounds = Barrier(2), [], many(200)

    def pair():
        for turn in range(rounds):
            if turn % 3 == 2:
                b.reset()
            results.append(outcome(b.wait, TIMEOUT if turn % 5 else 0.001))
            if b.broken:
                b.reset()

    def end():
        while any(thread.is_alive() for thread in threads):
            b.reset()
            time.sleep(0.001)

    threads = [start(pair) for _ in range(4)]
    end()
    passed = [each for each in results if each in (0, 1)]
    assert len(results) == 4 * rounds
    assert passed.count(0) == passed.count(1)


@starts_threads
def test_cancelled_task_breaks_the_barrier_for_the_others():
    b = Barrier(3)
    other = Waiting(b, 1)
    with pytest.raises(ExceptionGroup), TaskGroup() as tg:
        tg.go(b.wait, TIMEOUT)
        assert eventually(lambda: b.n_waiting == 2)
        tg.go(lambda: 1 / 0)
    assert other.ended() == [BROKEN]
    assert (b.n_waiting, b.broken) == (0, True)


# Signals


@sets_handlers
@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_interrupted_wait_breaks_the_barrier_for_the_others(way):
    b = Barrier(3)
    other = Waiting(b, 1)
    interrupt_call(b.wait, way)
    assert other.ended() == [BROKEN]
    assert (b.broken, b.n_waiting) == (True, 0)


@sets_handlers
def test_wait_interrupted_during_the_action_breaks_nothing():
    begun, go_on = threading.Event(), threading.Event()
    b = Barrier(3, lambda: begun.set() or go_on.wait(TIMEOUT))
    outcomes, waiting = [], []

    def others():
        waiting.append(Waiting(b, 1))
        outcomes.append(outcome(b.wait, TIMEOUT))

    def interrupt_during_the_action():
        assert begun.wait(TIMEOUT)
        os.kill(os.getpid(), signal.SIGINT)

    threads = []
    with pytest.raises(KeyboardInterrupt):
        threads += [start(interrupt_during_the_action)]
        threads += [threading.Timer(0.1, others)]
        threads[1].start()
        b.wait(TIMEOUT)
    go_on.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(outcomes + waiting[0].ended()) == [1, 2]
    assert (b.broken, b.n_waiting) == (False, 0)


@sets_handlers
def test_handler_is_a_party_of_its_own():
    b, results = Barrier(3), []
    before = signal.signal(signal.SIGALRM, lambda *_: results.append(b.wait(TIMEOUT)))
    thread = start(lambda: eventually(lambda: b.n_waiting == 2) and results.append(b.wait()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        results.append(b.wait(TIMEOUT))
    finally:
        signal.signal(signal.SIGALRM, before)
    thread.join(TIMEOUT)
    assert sorted(results) == [0, 1, 2]


@sets_handlers
@pytest.mark.parametrize("end", ["abort", "reset"])
def test_handler_ends_the_round_it_interrupts(end):
    b = Barrier(2)
    before = signal.signal(signal.SIGALRM, lambda *_: getattr(b, end)())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert outcome(b.wait, TIMEOUT) == BROKEN
    finally:
        signal.signal(signal.SIGALRM, before)
    assert b.broken is (end == "abort")


@starts_processes
@in_own_process
def test_random_interrupts_leave_the_barrier_usable():
    b, stop = Barrier(2, int), threading.Event()

    def partner():
        while not stop.is_set():
            outcome(b.wait, TIMEOUT)
            if b.broken:
                b.reset()

    thread = start(partner)
    interrupts = RandomInterrupts()
    for _ in interrupts.rounds():
        interrupts.call(lambda _: outcome(b.wait, TIMEOUT), None)
        if b.broken:
            b.reset()
    stop.set()
    while thread.is_alive():
        b.reset()
        time.sleep(0.001)
    b.reset()
    assert (b.n_waiting, b.broken) == (0, False)
    one = Waiting(b, 1)
    assert b.wait(TIMEOUT) == 1
    assert one.ended() == [0]


# Forks


@needs_fork
@starts_processes
@in_own_process
def test_nobody_waits_in_the_child_of_a_fork():
    b = Barrier(3)
    two = Waiting(b, 2)
    for thread in two.threads:
        settle(thread)

    def child():
        assert (b.n_waiting, b.broken) == (0, False)
        mine = Waiting(b, 2)
        assert b.wait(TIMEOUT) == 2
        assert mine.ended() == [0, 1]

    for _ in range(3):
        in_child(child)
    assert b.wait(TIMEOUT) == 2
    assert two.ended() == [0, 1]
    b.abort()
    in_child(lambda: (outcome(b.wait) == BROKEN and b.broken) or sys.exit(3))


@needs_fork
@starts_processes
@in_own_process
def test_child_of_a_fork_does_not_wait_for_an_action_of_its_parent():
    acting = Acting(3)
    late = start(lambda: acting.barrier.wait(0))
    settle(late)

    def child():
        b = acting.barrier
        acting.go_on.set()
        assert b.n_waiting == 0
        two = Waiting(b, 2)
        assert b.wait(TIMEOUT) == 2
        assert two.ended() == [0, 1]

    in_child(child)
    acting.barrier.abort()
    acting.end()
    late.join(TIMEOUT)


@needs_fork
@starts_processes
@in_own_process
def test_leader_passes_in_the_child_that_its_action_forked():
    def act():
        child.append(os.fork())

    child = []
    b = Barrier(2, act)
    one = Waiting(b, 1)
    index = b.wait(TIMEOUT)
    if child == [0]:
        os._exit(0 if (index, b.n_waiting, b.broken) == (1, 0, False) else 1)
    assert index == 1
    assert one.ended() == [0]
    assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == 0
