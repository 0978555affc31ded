"""Histories of conditions.

A wait takes effect three times: it releases the lock and enters the queue, in one step, so that no
notification gets lost in between; it is notified, or leaves the queue; it acquires the lock again.
All but the leaving happens under the lock, whose order is visible from outside: so a history shows
which waiter was first in the queue, and whether a notification went to a later one.
"""

import threading
import time
from typing import Any

import pytest
from linearizability import IMPOSSIBLE, assert_rejected, in_steps, verify
from marks import starts_threads

from nogil_sync import Cond, Mutex, RWMutex

pytestmark = starts_threads


class Place:
    """A condition, a flag to wait for, and which threads have done their part."""

    def __init__(self, cond):
        self.cond = cond
        self.flag = False
        self.ready = []

    def call(self, name, args):
        if name == "set_flag":
            self.flag = args[0]
            return None
        if name == "wait_for":
            return self.cond.wait_for(lambda: self.flag, *args)
        return getattr(self.cond, name)(*args)


def cond(exclusive):
    def after(state, call):
        """The state: the thread that holds the lock, the waiters, the notified without the lock."""
        holders, line, notified = state
        me = call.thread
        mine = frozenset({me})
        if call.name in ("acquire", "woken", "retake"):
            if exclusive and holders:
                return IMPOSSIBLE
            if call.name == "woken":
                if me not in notified:
                    return IMPOSSIBLE
                notified -= mine
            return holders | mine, line, notified
        if call.name == "leave":
            if me not in line:
                return IMPOSSIBLE
            return holders, tuple(each for each in line if each != me), notified
        if me not in holders:
            return IMPOSSIBLE
        if call.name == "wait":
            return holders - mine, (*line, me), notified
        if call.name == "release":
            return holders - mine, line, notified
        n = len(line) if call.name == "notify_all" else call.args[0]
        return holders, line[n:], notified | set(line[:n])

    return after


def steps(history, _):
    def of(call):
        if call.name != "wait":
            return (call.name,)
        return ("wait", "woken") if call.result else ("wait", "leave", "retake")

    return [in_steps(history, of)]


def waiter(rng, place):
    for _ in range(rng.randrange(1, 4)):
        yield "acquire", ()
        if rng.random() < 0.2:
            yield "notify", (1,)
        yield "wait", (rng.choice((None, None, 0.0003, 0)),)
        if rng.random() < 0.3:
            yield "notify", (1,)
        yield "release", ()
    place.ready.append(True)


def notifier(rng, place):
    """Wake some until no waiter is left, less and less often so that histories stay short."""
    pause = 0.00001
    while len(place.ready) < 2:
        time.sleep(pause)
        pause *= 1.5
        yield "acquire", ()
        yield rng.choice([("notify", (1,)), ("notify", (1,)), ("notify", (2,)), ("notify_all", ())])
        yield "release", ()


NOTHING: tuple[Any, ...] = (frozenset(), (), frozenset())
WAITS = {"views": steps, "call": Place.call, "threads": 3, "lead": notifier}


@pytest.mark.parametrize(
    "lock", [Mutex, lambda: RWMutex().write, threading.RLock], ids=["Mutex", "write", "RLock"]
)
def test_cond(lock):
    verify(lambda _: Place(Cond(lock())), waiter, NOTHING, cond(exclusive=True), **WAITS)


def test_cond_over_a_lock_that_many_hold():
    verify(lambda _: Place(Cond(RWMutex().read)), waiter, NOTHING, cond(exclusive=False), **WAITS)


class Spurious(Cond):
    """Wrong: it may return without a notification."""

    def wait(self, timeout=None):
        return Cond.wait(self, 0.0005 if timeout is None else timeout) or timeout is None


class Generous(Cond):
    """Wrong: it wakes one too many."""

    def notify(self, n=1):
        Cond.notify(self, n + 1)


class LastComeFirst(threading.Condition):
    """Wrong: it wakes the last waiter."""

    def notify(self, n=1):
        self._waiters.reverse()
        threading.Condition.notify(self, n)
        self._waiters.reverse()


class Late(Cond):
    """Wrong: it is in line only some time after it let the lock go."""

    def wait(self, timeout=None):
        self.release()
        time.sleep(0)
        self.acquire()
        return Cond.wait(self, timeout)


@pytest.mark.parametrize("cls", [Spurious, Generous, LastComeFirst, Late])
def test_wrong_conds_are_caught(cls):
    assert_rejected(
        lambda _: Place(cls(threading.Lock())), waiter, NOTHING, cond(exclusive=True), **WAITS
    )


# wait_for


def flagged(state, call):
    """The state: the thread that holds the lock, the flag, and the threads in `wait_for`."""
    holder, flag, inside = state
    me = call.thread
    mine = frozenset({me})
    if call.name == "acquire":
        return (me, flag, inside) if holder is None else IMPOSSIBLE
    if call.name in ("true", "false"):
        if holder != me:  # it had let the lock go
            if holder is not None or me not in inside:
                return IMPOSSIBLE
            inside -= mine
        return (me, flag, inside) if flag is (call.name == "true") else IMPOSSIBLE
    if holder != me:
        return IMPOSSIBLE
    if call.name == "release":
        return None, flag, inside
    if call.name == "set_flag":
        return me, call.args[0], inside
    if call.name == "wait_for" and not flag:
        return None, flag, inside | mine
    return state


def steps_of_wait_for(history, _):
    def of(call):
        if call.name != "wait_for":
            return (call.name,)
        return ("wait_for", "true" if call.result else "false")

    return [in_steps(history, of)]


def flag_waiter(rng, _):
    for _ in range(2):
        yield "acquire", ()
        yield "wait_for", (rng.choice((None, None, 0.0003, 0)),)
        yield "release", ()


def flag_setter(rng, _):
    """Set it and take it back, and set it for good in the end; and say so to all."""
    for flag in (*rng.choices((True, False), k=rng.randrange(4)), True):
        yield "acquire", ()
        yield "set_flag", (flag,)
        yield "notify_all", ()
        yield "release", ()


WAITS_FOR = {
    "views": steps_of_wait_for,
    "call": Place.call,
    "threads": 3,
    "lead": flag_setter,
}


@pytest.mark.parametrize("lock", [Mutex, lambda: RWMutex().write], ids=["Mutex", "write"])
def test_wait_for(lock):
    verify(
        lambda _: Place(Cond(lock())),
        flag_waiter,
        (None, False, frozenset()),
        flagged,
        **WAITS_FOR,
    )


class Trusting(Cond):
    """Wrong: it does not look again."""

    def wait_for(self, predicate, timeout=None):
        return predicate() or self.wait(timeout)


def test_wrong_wait_for_is_caught():
    assert_rejected(
        lambda _: Place(Trusting()), flag_waiter, (None, False, frozenset()), flagged, **WAITS_FOR
    )
