"""Histories of events, wait groups and once."""

import threading
import time
from time import perf_counter_ns

import pytest
from linearizability import IMPOSSIBLE, Call, as_text, assert_rejected, verify
from marks import starts_threads

from nogil_sync import Event, Once, WaitGroup, once

pytestmark = starts_threads

ABSENT = "absent"


# Event


def event(state, call):
    """The state is whether it is set; a wait that came back true saw that, at some moment."""
    if call.name in ("set", "clear"):
        return call.name == "set"
    return state if call.result is state else IMPOSSIBLE


def test_event_without_waiting():
    def choose(rng, _):
        return rng.choices([("set", ()), ("clear", ()), ("is_set", ()), ("wait", (0,))], k=10)

    verify(lambda _: Event(), choose, False, event)


def waiter(rng, _):
    steps = [("wait", ()), ("wait", (0.0002,)), ("wait", (0,)), ("is_set", ()), ("set", ())]
    return rng.choices(steps, k=4)


def setter(rng, _):
    """Only one clears, and sets it at the end, so that all waits end."""
    return [*rng.choices([("set", ()), ("clear", ()), ("is_set", ())], k=7), ("set", ())]


def test_event():
    verify(lambda _: Event(), waiter, False, event, lead=setter, threads=3)


class Spurious(Event):
    """Wrong: a woken waiter does not check what woke it."""

    def wait(self, timeout=None):
        Event.wait(self, timeout)
        return True


class Sticky(Event):
    """Wrong: only the first thread can clear it."""

    def clear(self):
        if not self.is_set():
            Event.clear(self)


@pytest.mark.parametrize("cls", [Spurious, Sticky])
def test_wrong_events_are_caught(cls):
    assert_rejected(lambda _: cls(), waiter, False, event, lead=setter, threads=3)


# WaitGroup


def waitgroup(count, call):
    if call.name == "wait":
        return count if call.result is (count == 0) else IMPOSSIBLE
    n = call.args[0] if call.name == "add" else 1 if call.name == "go" else -1
    fits = count + n >= 0
    if call.result is not (None if fits else RuntimeError):
        return IMPOSSIBLE
    return count + n if fits else count


def test_waitgroup_without_waiting():
    def choose(rng, _):
        steps = [("add", (1,)), ("add", (2,)), ("add", (-2,)), ("done", ()), ("wait", (0,))]
        return rng.choices(steps, k=10)

    verify(lambda _: WaitGroup(), choose, 0, waitgroup)


def worker(rng, _):
    """Count up and down again, and wait when all of its own is done: so all waits end."""
    for _ in range(3):
        n = rng.randrange(3)
        yield from [("add", (1,))] * n
        if rng.random() < 0.3:
            yield "wait", (0.0002,)
        yield from [("done", ())] * n
        yield "wait", ()


def test_waitgroup():
    verify(lambda _: WaitGroup(), worker, 0, waitgroup, threads=3)


class Going:
    """A group whose threads are part of the history."""

    def __init__(self, cls=WaitGroup):
        self.group = cls()
        self.threads = []
        self.ends = []

    def go(self):
        self.threads.append(self.group.go(lambda: self.ends.append(perf_counter_ns())))

    def call(self, name, args):
        return self.go() if name == "go" else getattr(self.group, name)(*args)


def with_ends(history, going):
    """Each thread counts down by itself, between the end of its function and its own."""
    for thread in going.threads:
        thread.join()
    assert len(going.ends) == len(going.threads)
    now = perf_counter_ns()
    ends = [Call(-n, end, now, "done", (), None) for n, end in enumerate(going.ends, 1)]
    return [history + ends]


def starter(rng, _):
    return rng.choices([("go", ()), ("wait", ()), ("wait", (0,)), ("wait", (0.0002,))], k=3)


def test_waitgroup_go():
    verify(lambda _: Going(), starter, 0, waitgroup, views=with_ends, call=Going.call, batch=50)


class Hasty(WaitGroup):
    """Wrong: a thread is counted by itself, which may come late."""

    def go(self, fn):
        def run():
            self.add()
            fn()
            self.done()

        thread = threading.Thread(target=run)
        thread.start()
        return thread


def test_wrong_wait_group_is_caught():
    assert_rejected(
        lambda _: Going(Hasty), starter, 0, waitgroup, views=with_ends, call=Going.call, batch=50
    )


# Once


class OnPurposeError(Exception):
    pass


class OnceFunction:
    """What `once` makes, with the interface of `Once`."""

    def __init__(self, *, retry):
        self.mine = threading.local()
        self.function = once(lambda: self.mine.fn(self.mine.argument), retry=retry)
        self.done = self.function.done

    def do(self, fn, argument):
        self.mine.fn, self.mine.argument = fn, argument
        return self.function()


class Outcomes:
    """Something to run once, with functions that record when they ran; some of them fail."""

    def __init__(self, cls, retry, failing):
        self.once = cls(retry=retry)
        self.failing = failing  # of ten
        self.runs = []

    def run(self, outcome):
        self.runs.append(outcome)
        time.sleep(0)
        if outcome < 0:
            raise OnPurposeError(outcome)
        return outcome

    def call(self, name, args):
        if name == "done":
            return self.once.done()
        try:
            return self.once.do(self.run, *args)
        except OnPurposeError as error:
            return error.args[0]


def calls(rng, each):
    for _ in range(4):
        outcome = rng.getrandbits(60) + 1
        fails = rng.randrange(10) < each.failing
        yield rng.choice([("do", (-outcome if fails else outcome,)), ("done", ())])


def first_outcome(retry):
    def after(state, call):
        """The state is the outcome, or ABSENT; errors are negative."""
        if call.name == "done":
            return state if call.result is (state is not ABSENT) else IMPOSSIBLE
        outcome = call.args[0] if state is ABSENT else state
        if call.result != outcome:
            return IMPOSSIBLE
        return ABSENT if retry and outcome < 0 else outcome

    return after


def as_often_as_needed(history, each):
    """Each outcome is that of one run, and no other function ran."""
    outcomes = {call.result for call in history if call.name == "do"}
    assert sorted(each.runs) == sorted(outcomes), f"ran: {each.runs}:\n{as_text(history)}"
    return [history]


ONCE = {"views": as_often_as_needed, "call": Outcomes.call, "threads": 3}


@pytest.mark.parametrize("cls", [Once, OnceFunction])
def test_once_with_retry(cls):
    verify(lambda _: Outcomes(cls, True, failing=5), calls, ABSENT, first_outcome(True), **ONCE)


@pytest.mark.parametrize("cls", [Once, OnceFunction])
def test_once(cls):
    def make(n):
        return Outcomes(cls, False, failing=10 if n % 20 == 0 else 0)

    verify(make, calls, ABSENT, first_outcome(False), batch=100, **ONCE)


class Racing(Once):
    """Wrong: of two that come first, both run."""

    def do(self, fn, *args):
        result = None if self.done() else fn(*args)
        return Once.do(self, lambda: result)


class Sharing(Once):
    """Wrong: what failed is not run again."""

    def __init__(self, retry):
        super().__init__()


@pytest.mark.parametrize("cls", [Racing, Sharing])
def test_wrong_onces_are_caught(cls):
    assert_rejected(
        lambda _: Outcomes(cls, True, 1), calls, ABSENT, first_outcome(True), batch=20, **ONCE
    )
