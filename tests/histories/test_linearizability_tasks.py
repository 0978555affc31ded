"""Histories of task groups.

Whether a group is cancelled, or left, is part of the state, which decides what `go` does. A task
that fails cancels its group at some moment between its failure and the end of its future; no thread
makes that call, so it is added to the history. The tasks themselves record when they ran.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter_ns

import pytest
from linearizability import IMPOSSIBLE, Call, as_text, assert_rejected, verify
from marks import starts_threads

from nogil_sync import TaskGroup

pytestmark = starts_threads


class OnPurposeError(Exception):
    pass


class Tasks:
    """A group that was entered, and what became of its tasks."""

    def __init__(self, cls, limit, executor=None):
        self.limit = limit
        self.in_order = limit == 1 and executor is None
        self.group = cls(limit, executor=executor)
        # In a thread of its own: a group that this thread enters is nested in those before it.
        enter = threading.Thread(target=self.group.__enter__)
        enter.start()
        enter.join()
        self.futures = {}  # by the numbers of the tasks
        self.runs = []
        self.failed = []  # when, and with what
        self.ended = {}  # when, by the errors
        self.error = None

    def task(self, number, kind):
        begin = perf_counter_ns()
        time.sleep(0)
        if kind == "nested":
            self.go(number + 1, "plain", nested=True)
        self.runs.append(Call(-1, begin, perf_counter_ns(), "run", (number,), None))
        if kind == "failing":
            error = OnPurposeError(number)
            self.failed.append((perf_counter_ns(), error))
            raise error
        return number

    def go(self, number, kind, nested=False):
        """Whether the future comes back cancelled."""
        future = self.group.go(self.task, number, kind)
        cancelled = future.cancelled()
        self.futures[number] = future
        if kind == "failing":
            future.add_done_callback(lambda _: self.ended.setdefault(number, perf_counter_ns()))
        return cancelled

    def leave(self):
        try:
            self.group.__exit__(None, None, None)
        except ExceptionGroup as group:
            self.error = group

    def call(self, name, args):
        if name in ("go", "leave"):
            return getattr(self, name)(*args)
        return getattr(self.group, name)(*args)


def steps(rng, weights):
    names = ("go", "cancelled", "wait_cancelled", "cancel")
    for name in rng.choices(names, weights, k=rng.randrange(2, 5)):
        if name == "go":
            kind = rng.choices(("plain", "nested", "failing"), (8, 2, 1))[0]
            yield name, (rng.getrandbits(60) * 2, kind)
        else:
            yield name, ((rng.choice((0, 0.0002)),) if name == "wait_cancelled" else ())


def helper(rng, _):
    yield from steps(rng, (8, 2, 2, 1))


def leaver(rng, _):
    """Leave the group at the end, when others may still be at it."""
    yield from steps(rng, (8, 1, 1, 0))
    yield "leave", ()
    yield from steps(rng, (8, 2, 2, 1))


def group(state, call):
    """The state is whether it is cancelled, and whether it was left."""
    cancelled, left = state
    if call.name == "cancel":
        return True, left
    if call.name == "leave":
        return cancelled, True
    if left and call.name == "go":
        return state if call.result is RuntimeError else IMPOSSIBLE
    return state if call.result is cancelled else IMPOSSIBLE


def with_failures(history, each):
    (leave,) = (call for call in history if call.name == "leave")
    runs = {}
    for run in each.runs:
        (number,) = run.args
        assert number not in runs, f"{number} ran twice:\n{as_text(history)}"
        runs[number] = run
        assert run.end <= leave.end, f"{run} ended after the group:\n{as_text(history)}"
    for number, future in each.futures.items():
        assert future.done(), f"{number} was not waited for:\n{as_text(history)}"
        assert future.cancelled() is (number not in runs), f"{number}:\n{as_text(history)}"
    errors = {error for _, error in each.failed}
    raised = each.error.exceptions if each.error else ()
    assert len(raised) == len(errors), f"{raised}:\n{as_text(history)}"
    assert set(raised) == errors, f"{raised}:\n{as_text(history)}"

    # No more at once than the limit allows, which is also how many may have been begun when the
    # group was cancelled and got no further.
    for call in each.runs + [call for call in history if call.name == "cancel"]:
        beside = [run for run in each.runs if run.begin <= call.begin <= run.end]
        assert len(beside) <= each.limit, f"{len(beside)} at once:\n{as_text(each.runs)}"
    failures = [
        Call(-1, when, each.ended.get(error.args[0], leave.end), "cancel", (), None)
        for when, error in each.failed
    ]
    cancels = failures + [call for call in history if call.name == "cancel"]
    if cancels:
        first = min(call.end for call in cancels)
        late = [run for run in each.runs if run.begin > first]
        assert len(late) <= each.limit, f"begun in a cancelled group:\n{as_text(late)}"

    # First come, first served.
    if each.in_order:
        goes = [call for call in history if call.name == "go" and call.args[0] in runs]
        for one in goes:
            for other in goes:
                if one.end < other.begin:
                    first, second = runs[one.args[0]], runs[other.args[0]]
                    assert first.begin < second.begin, f"{second} before {first}\n{as_text(goes)}"
    return [history + failures]


GROUPS = {
    "views": with_failures,
    "call": Tasks.call,
    "threads": 3,
    "lead": leaver,
    "batch": 50,
}


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_taskgroup(limit):
    verify(lambda _: Tasks(TaskGroup, limit), helper, (False, False), group, **GROUPS)


def test_taskgroup_on_an_executor():
    with ThreadPoolExecutor(2) as pool:
        verify(lambda _: Tasks(TaskGroup, 2, pool), helper, (False, False), group, **GROUPS)


class Unlimited(TaskGroup):
    """Wrong: as many at once as there are."""

    def __init__(self, limit, executor):
        super().__init__(None, executor=executor)


class Deaf(TaskGroup):
    """Wrong: it cannot be cancelled."""

    def cancel(self):
        pass


class Open(TaskGroup):
    """Wrong: what comes after the end is dropped in silence."""

    def go(self, fn, *args):
        try:
            return super().go(fn, *args)
        except RuntimeError:
            future = Future()
            future.cancel()
            return future


@pytest.mark.parametrize("cls", [Unlimited, Deaf, Open])
def test_wrong_taskgroups_are_caught(cls):
    assert_rejected(lambda _: Tasks(cls, 1), helper, (False, False), group, **GROUPS)
