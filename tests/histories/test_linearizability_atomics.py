"""Histories of atomics and counters."""

import pytest
from linearizability import IMPOSSIBLE, as_text, record, verify
from marks import starts_threads
from support import STRESS

from nogil_sync import (
    AtomicBool,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    ShardedCounter,
    ShardedFloatCounter,
)

pytestmark = starts_threads


# Atomics


def signed(number):
    return (number + 2**63) % 2**64 - 2**63


INTEGER_STEPS = {
    "load": (lambda value: (value, value), ()),
    "store": (lambda value, new: (None, new), (5,)),
    "swap": (lambda value, new: (value, new), (7,)),
    "compare_and_swap": (lambda v, old, new: (v == old, new if v == old else v), (5, 6)),
    "add": (lambda value, n=1: (value + n,) * 2, (3,)),
    "sub": (lambda value, n=1: (value - n,) * 2, (1,)),
    "fetch_and": (lambda value, mask: (value, value & mask), (6,)),
    "fetch_or": (lambda value, mask: (value, value | mask), (8,)),
    "fetch_xor": (lambda value, mask: (value, value ^ mask), (3,)),
    "fetch_max": (lambda value, n: (value, max(value, n)), (9,)),
    "fetch_min": (lambda value, n: (value, min(value, n)), (4,)),
}


def integer(wrap):
    def after(state, call):
        outcome, then = INTEGER_STEPS[call.name][0](state, *call.args)
        if call.name in ("add", "sub"):
            outcome = wrap(outcome)
        return wrap(then) if outcome == call.result else IMPOSSIBLE

    return after


@pytest.mark.parametrize(
    ("cls", "wrap"), [(AtomicInt64, signed), (AtomicUint32, lambda number: number % 2**32)]
)
def test_atomic_integers(cls, wrap):
    def choose(rng, _):
        names = [rng.choice([*INTEGER_STEPS]) for _ in range(10)]
        return [(name, INTEGER_STEPS[name][1]) for name in names]

    verify(lambda _: cls(5), choose, 5, integer(wrap))


def longer(value):
    return (value, 1)


def reference(state, call):
    """AtomicBool and AtomicRef."""
    name, args = call.name, call.args
    if name == "update":
        new = args[0](state)
        return new if call.result == new else IMPOSSIBLE
    outcome, then = INTEGER_STEPS[name][0](state, *args)
    return then if outcome == call.result else IMPOSSIBLE


def test_atomic_bool():
    def choose(rng, _):
        a, b = rng.random() < 0.5, rng.random() < 0.5
        steps = [("load", ()), ("store", (a,)), ("swap", (a,)), ("compare_and_swap", (a, b))]
        return rng.choices(steps, k=10)

    verify(lambda _: AtomicBool(), choose, False, reference)


LETTERS = ("x", "y", "z")  # each the same object wherever it is used


def test_atomic_ref():
    def choose(rng, _):
        a, b = rng.choice(LETTERS), rng.choice(LETTERS)
        steps = [
            ("load", ()),
            ("store", (a,)),
            ("swap", (a,)),
            ("compare_and_swap", (a, b)),
            ("update", (longer,)),
        ]
        return rng.choices(steps, k=10)

    verify(lambda _: AtomicRef(LETTERS[0]), choose, "x", reference)


# Counters: a sum is not taken at one moment, so it is not linearizable, but bounded.


@pytest.mark.parametrize("cls", [ShardedCounter, ShardedFloatCounter])
def test_counters(cls):
    def choose(rng, _):
        add = "add", (rng.randrange(1, 100),)
        return rng.choices([add, add, ("value", ()), ("add", ())], k=10)

    counters = [cls() for _ in range(int(max(1, STRESS) * 500))]
    for each, calls in zip(counters, record(counters, choose), strict=True):
        adds = [(call, call.args[0] if call.args else 1) for call in calls if call.name == "add"]
        for look in (call for call in calls if call.name == "value"):
            # It counts all that was added before it began, and no call that began after its end.
            assert sum(n for call, n in adds if call.end < look.begin) <= look.result, as_text(
                calls
            )
            assert look.result <= sum(n for call, n in adds if call.begin <= look.end), as_text(
                calls
            )
            for later in calls:
                if later.name == "value" and later.begin > look.end:
                    assert later.result >= look.result, as_text(calls)
        assert each.value() == sum(n for _, n in adds)


@pytest.mark.parametrize("cls", [ShardedCounter, ShardedFloatCounter])
def test_each_increment_is_in_one_total(cls):
    def choose(rng, _):
        return rng.choices([("add", (rng.randrange(100),)), ("reset", ())], k=10)

    counters = [cls() for _ in range(int(max(1, STRESS) * 500))]
    for each, calls in zip(counters, record(counters, choose), strict=True):
        added = sum(call.args[0] for call in calls if call.name == "add")
        totals = sum(call.result for call in calls if call.name == "reset")
        assert totals + each.value() == added, as_text(calls)
