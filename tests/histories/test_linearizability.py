"""The checker of histories: it rejects wrong histories, and no others."""

import itertools
import random
import time

import pytest
from linearizability import (
    IMPOSSIBLE,
    Call,
    as_text,
    assert_rejected,
    in_steps,
    linearizable,
    met,
    record,
)
from marks import starts_threads

ABSENT = "absent"


def register(state, call):
    """The specification of a variable."""
    if call.name == "store":
        return call.args[0]
    return state if call.result == state else IMPOSSIBLE


def history(*calls):
    """From rows of begin, end, name, argument or result."""
    return [
        Call(n, begin, end, name, (value,), None)
        if name == "store"
        else Call(n, begin, end, name, (), value)
        for n, (begin, end, name, value) in enumerate(calls)
    ]


@pytest.mark.parametrize(
    ("calls", "possible"),
    [
        ([], True),
        ([(0, 1, "store", 1), (2, 3, "load", 1)], True),
        ([(0, 1, "store", 1), (2, 3, "load", 0)], False),
        ([(0, 3, "store", 1), (1, 2, "load", 0)], True),
        ([(0, 3, "store", 1), (1, 2, "load", 1)], True),
        # Seen, and then not seen any more.
        ([(0, 9, "store", 1), (1, 2, "load", 1), (3, 4, "load", 0)], False),
        ([(0, 9, "store", 1), (1, 2, "load", 0), (3, 4, "load", 1)], True),
        ([(0, 9, "store", 1), (1, 4, "load", 1), (3, 5, "load", 0)], True),
        # Two readers that do not agree on the order of two stores.
        (
            [
                (0, 1, "store", 1),
                (0, 1, "store", 2),
                (2, 3, "load", 1),
                (4, 5, "load", 2),
            ],
            False,
        ),
        ([(0, 1, "load", 5)], False),
        ([(0, 1, "store", 1), (1, 2, "load", 0)], True),  # they may touch
    ],
)
def test_checker_accepts_and_rejects_known_histories(calls, possible):
    assert linearizable(history(*calls), 0, register) is possible
    assert as_text(history(*calls)).count("\n") == max(0, len(calls) - 1)


def by_all_orders(calls, initial, after):
    """The definition, word for word."""
    for order in itertools.permutations(calls):
        if any(later.end < each.begin for each, later in itertools.combinations(order, 2)):
            continue
        state = initial
        for call in order:
            state = after(state, call)
            if state is IMPOSSIBLE:
                break
        else:
            return True
    return False


def test_checker_agrees_with_the_definition():
    rng = random.Random(1)
    outcomes = []
    for _ in range(1500):
        calls = []
        for _ in range(rng.randint(1, 6)):
            begin = rng.randrange(10)
            name = rng.choice(["store", "load"])
            calls.append((begin, begin + rng.randrange(6), name, rng.randrange(3)))
        calls = history(*calls)
        outcomes.append(by_all_orders(calls, 0, register))
        assert linearizable(calls, 0, register) is outcomes[-1], as_text(calls)
    assert 200 < sum(outcomes) < 1300


class StaleMap(dict):
    """Wrong: it lets another in between the look and the store."""

    def insert(self, key, value):
        if key in self:
            return False
        time.sleep(0)
        self[key] = value
        return True


class StaleRegister:
    """Wrong: it may give a value that was replaced before the call began."""

    def __init__(self):
        self.value = self.before = 0

    def store(self, value):
        self.before, self.value = self.value, value

    def load(self):
        return random.choice((self.value, self.before))


class LossyCounter:
    """Wrong: two may read the same number."""

    def __init__(self):
        self.value = 0

    def add(self):
        value = self.value
        time.sleep(0)
        self.value = value + 1
        return self.value


def counter(state, call):
    return state + 1 if call.result == state + 1 else IMPOSSIBLE


def only_insert(state, call):
    if call.result is not (state is ABSENT):
        return IMPOSSIBLE
    return call.args[1] if state is ABSENT else state


@starts_threads
@pytest.mark.parametrize(
    ("make", "choose", "initial", "after"),
    [
        (StaleMap, lambda rng, _: [("insert", ("k", 1))], ABSENT, only_insert),
        (LossyCounter, lambda rng, _: [("add", ())] * 2, 0, counter),
        (
            StaleRegister,
            lambda rng, _: [("store", (rng.randrange(9),)), ("load", ())],
            0,
            register,
        ),
    ],
    ids=["map", "counter", "register"],
)
def test_wrong_implementations_are_caught(make, choose, initial, after):
    assert_rejected(lambda _: make(), choose, initial, after)


def test_calls_that_overlapped_are_matched():
    one, other = (Call(n, begin, end, "send", (), None) for n, begin, end in [(0, 1, 5), (1, 3, 9)])
    assert met(one, other, "pass") == Call(0, 3, 5, "pass", (), None)
    assert met(one, other._replace(begin=6), "pass") is None


def test_calls_that_take_effect_in_steps():
    """A wait that a later call ends, as a specification of two steps describes it."""

    def after(state, call):
        if call.name == "notify":
            return "notified" if state == "waiting" else state
        before, then = {"wait": ("idle", "waiting"), "woken": ("notified", "idle")}[call.name]
        return then if state == before else IMPOSSIBLE

    def possible(*calls):
        rows = [Call(n, begin, end, name, (), None) for n, (begin, end, name) in enumerate(calls)]
        steps = {"wait": ("wait", "woken")}
        return linearizable(in_steps(rows, lambda c: steps.get(c.name, [c.name])), "idle", after)

    assert possible((0, 5, "wait"), (2, 3, "notify"))
    assert not possible((0, 5, "wait"))
    assert not possible((0, 1, "notify"), (2, 3, "wait"))
    assert not possible((0, 1, "wait"), (2, 3, "notify"))
    # One notification is for one.
    assert not possible((0, 5, "wait"), (2, 3, "notify"), (6, 9, "wait"))
    assert possible((0, 5, "wait"), (2, 3, "notify"), (6, 9, "wait"), (7, 8, "notify"))


@starts_threads
def test_plans_get_results():
    """A generator goes by what comes out, and one thread has a plan of its own."""

    def choose(rng, _):
        assert (yield "pop", ()) is IndexError
        yield "append", (1,)
        assert (yield "count", (1,)) >= 1

    def lead(rng, _):
        return [("copy", ())]

    (calls,) = record([[]], lambda rng, _: [], lead=choose, threads=1)
    assert [call.result for call in calls] == [IndexError, None, 1]
    (calls,) = record([[]], lambda rng, _: [("clear", ())], lead=lead, threads=3)
    assert sorted(call.name for call in calls) == ["clear", "clear", "copy"]
