"""Histories of barriers.

A wait takes effect in two steps: its thread arrives, and later it leaves with the outcome of its
round. Without an action, the last arrival ends the round. With one, the last thread to arrive is
the leader: it runs the action between its two steps, and the round ends when it leaves. No thread
arrives while an action runs: one that calls `wait` then arrives after the action.
"""

import time
from threading import BrokenBarrierError
from typing import Any

import pytest
from linearizability import IMPOSSIBLE, assert_rejected, in_steps, verify
from marks import starts_threads

from nogil_sync import Barrier

pytestmark = starts_threads

# The threads that have arrived, in their order; the leader; whether it is broken; and who was told
# what and has not left yet.
EMPTY: Any = ((), None, False, frozenset())


def barrier(parties, acts):
    def ended(arrived, broken, told, outcomes):
        return (), None, broken, told | set(zip(arrived, outcomes, strict=True))

    def broke(arrived, broken, told):
        return ended(arrived, broken, told, [BrokenBarrierError] * len(arrived))

    def after(state, call):
        arrived, leader, broken, told = state
        me, result = call.thread, call.result
        if call.name == "n_waiting":
            return state if result == len(arrived) else IMPOSSIBLE
        if call.name == "broken":
            return state if result is broken else IMPOSSIBLE
        if call.name in ("abort", "reset"):
            return broke(arrived, call.name == "abort", told)
        if call.name == "arrive":
            if leader is not None:
                return IMPOSSIBLE
            if broken:
                return arrived, None, True, told | {(me, BrokenBarrierError)}
            arrived = (*arrived, me)
            if len(arrived) < parties:
                return arrived, None, False, told
            if acts:
                return arrived, me, False, told
            return ended(arrived, False, told, range(parties))
        if (me, result) in told:
            return arrived, leader, broken, told - {(me, result)}
        if me == leader and result == parties - 1:
            return ended(arrived[:-1], False, told, range(parties - 1))
        timed_out = result is BrokenBarrierError and call.args[0] is not None
        if timed_out and me in arrived and leader is None:
            return broke([each for each in arrived if each != me], True, told)
        return IMPOSSIBLE

    return after


def steps(history, _):
    return [in_steps(history, lambda c: ("arrive", "leave") if c.name == "wait" else (c.name,))]


def call(b, name, args):
    found = getattr(b, name)
    return found(*args) if callable(found) else found


def waits(rng, timeouts=(None, None, 0.0005, 0.002, 0)):
    return "wait", (rng.choice(timeouts),)


def party(rng, _):
    plan = [waits(rng) for _ in range(4)]
    looks = [("n_waiting", ()), ("broken", ()), ("abort", ())]
    plan.insert(rng.randrange(4), rng.choices(looks, weights=(4, 4, 1))[0])
    return plan


def breaker(rng, _):
    """Only one thread resets it, and breaks it in the end, so that all waits end."""
    limited = (0.0005, 0.002, 0)
    plan = [waits(rng, limited) if rng.random() < 0.6 else ("reset", ()) for _ in range(5)]
    return [*plan, ("abort", ())]


def act():
    time.sleep(0)


HOW = {"views": steps, "call": call, "lead": breaker, "threads": 3, "batch": 50}


@pytest.mark.parametrize("action", [None, act], ids=["plain", "action"])
@pytest.mark.parametrize("parties", [1, 2, 3])
def test_barrier(parties, action):
    verify(
        lambda _: Barrier(parties, action),
        party,
        EMPTY,
        barrier(parties, action is not None),
        **HOW,
    )


class Early(Barrier):
    """Wrong: it opens for one party less."""

    def __init__(self, parties):
        super().__init__(parties - 1)


class Deaf(Barrier):
    """Wrong: a thread passes though the barrier broke."""

    def wait(self, timeout=None):
        try:
            return Barrier.wait(self, timeout)
        except BrokenBarrierError:
            return 0


class Proud(Barrier):
    """Wrong: it never admits that it is broken."""

    broken = False


class Reverse(Barrier):
    """Wrong: it counts the arrivals from the end."""

    def wait(self, timeout=None):
        return self.parties - 1 - Barrier.wait(self, timeout)


@pytest.mark.parametrize("cls", [Early, Deaf, Proud, Reverse])
def test_wrong_barriers_are_caught(cls):
    assert_rejected(lambda _: cls(2), party, EMPTY, barrier(2, False), **HOW)
