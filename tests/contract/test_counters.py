"""Sharded counters: sums, resets, and what they refuse."""

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import starts_threads
from support import COUNTERS, run_threads

from nogil_sync import ShardedCounter, ShardedFloatCounter

both = pytest.mark.parametrize("cls", COUNTERS)
LOW, HIGH = -(2**63), 2**63 - 1


@both
def test_add_changes_the_value(cls):
    c = cls()
    assert c.value() == 0
    assert c.add() is None
    assert c.add(2) is None
    assert c.add(n=4) is None
    assert c.value() == 7
    c.add(-10)
    assert c.value() == -3


@both
def test_initial_value(cls):
    assert cls(5).value() == 5
    assert cls(value=6).value() == 6
    c = cls(5)
    c.add(2)
    assert c.reset() == 7
    assert c.value() == 0


@both
def test_reset_returns_and_zeroes(cls):
    c = cls()
    assert c.reset() == 0
    c.add(3)
    assert c.reset() == 3
    assert c.reset() == 0
    c.add()
    assert c.value() == 1


def test_results_are_int_or_float():
    c = ShardedCounter(True)
    c.add(True)
    assert type(c.value()) is int
    assert type(c.reset()) is int
    f = ShardedFloatCounter(3)
    assert type(f.value()) is float
    f.add(1)
    assert type(f.value()) is float
    assert type(f.reset()) is float
    assert type(f.value()) is float


def test_integer_counter_wraps():
    c = ShardedCounter(HIGH)
    c.add()
    assert c.value() == LOW
    c.add(-1)
    assert c.value() == HIGH
    c = ShardedCounter(LOW)
    c.add(LOW)
    assert c.value() == 0


@settings(deadline=None)
@given(st.integers(LOW, HIGH), st.lists(st.integers(LOW, HIGH), max_size=8))
def test_random_operations_agree_with_a_model(start, amounts):
    c = ShardedCounter(start)
    for n in amounts:
        c.add(n)
    total = (start + sum(amounts) - LOW) % 2**64 + LOW
    assert c.value() == total
    assert c.reset() == total
    assert c.value() == 0


@pytest.mark.parametrize("bad", [1.5, 1.0, None, "1", b"1", 1j, [], object()])
def test_integer_counter_refuses_other_types(bad):
    with pytest.raises(TypeError):
        ShardedCounter(bad)
    c = ShardedCounter(7)
    with pytest.raises(TypeError):
        c.add(bad)
    assert c.value() == 7


@pytest.mark.parametrize(
    "far", [HIGH + 1, LOW - 1, 2**70, 1 << 20000], ids=["above", "below", "far", "huge"]
)
def test_integer_counter_raises_on_overflow(far):
    with pytest.raises(OverflowError):
        ShardedCounter(far)
    c = ShardedCounter(7)
    with pytest.raises(OverflowError):
        c.add(far)
    assert c.value() == 7


class Real:
    def __float__(self):
        return 0.5


class Index:
    def __index__(self):
        return 2


def test_objects_with_index_method_are_accepted():
    c = ShardedCounter(Index())
    c.add(Index())
    assert c.value() == 4


def test_float_counter_adds_real_numbers():
    f = ShardedFloatCounter(Real())
    f.add(Real())
    f.add(Index())
    f.add(1)
    f.add(2.25)
    f.add(True)
    assert f.value() == 7.25


@pytest.mark.parametrize("bad", [None, "1", b"1", 1j, [], object()])
def test_float_counter_refuses_other_types(bad):
    with pytest.raises(TypeError):
        ShardedFloatCounter(bad)
    f = ShardedFloatCounter(7)
    with pytest.raises(TypeError):
        f.add(bad)
    assert f.value() == 7


def test_float_counter_raises_for_large_integers():
    with pytest.raises(OverflowError):
        ShardedFloatCounter(10**400)
    f = ShardedFloatCounter(7)
    with pytest.raises(OverflowError):
        f.add(10**400)
    assert f.value() == 7


def test_infinities_and_nan_are_floats():
    f = ShardedFloatCounter()
    f.add(math.inf)
    assert f.value() == math.inf
    f.add(-math.inf)
    assert math.isnan(f.value())
    assert math.isnan(f.reset())
    assert f.value() == 0
    assert math.isnan(ShardedFloatCounter(math.nan).value())


@both
def test_argument_may_raise_or_use_the_counter(cls):
    c = cls(1)

    class Failing:
        def __index__(self):
            raise LookupError

    class Reentrant:
        def __index__(self):
            c.add(10)
            return int(c.reset() > 5)

    with pytest.raises(LookupError):
        c.add(Failing())
    assert c.value() == 1
    c.add(Reentrant())
    assert c.value() == 1


@both
def test_wrong_numbers_of_arguments_raise(cls):
    c = cls(7)
    for call in (
        lambda: cls(1, 2),
        lambda: cls(start=1),
        lambda: c.add(1, 2),
        lambda: c.add(m=1),
        lambda: c.value(1),
        lambda: c.reset(1),
    ):
        with pytest.raises(TypeError):
            call()
    assert c.value() == 7


@both
def test_counter_stays_small_with_one_thread(cls):
    c = cls()
    for _ in range(1000):
        c.add()
    c.reset()
    assert sys.getsizeof(c) <= 256


@starts_threads
@both
def test_totals_of_many_threads_are_exact(cls):
    c = cls(100)
    n = 3000
    run_threads(lambda: [c.add() for _ in range(n)], times=4)
    assert c.value() == 4 * n + 100
    assert c.reset() == 4 * n + 100
    assert c.value() == 0


@starts_threads
@both
def test_each_increment_is_in_one_total(cls):
    c = cls()
    n = 3000
    totals = []

    def reset():
        for _ in range(300):
            totals.append(c.reset())

    run_threads(reset, *[lambda: [c.add() for _ in range(n)] for _ in range(3)])
    assert sum(totals) + c.reset() == 3 * n


@starts_threads
@both
def test_value_never_decreases(cls):
    c = cls()

    def watch():
        last = 0
        for _ in range(2000):
            now = c.value()
            assert now >= last
            last = now

    run_threads(watch, watch, *[lambda: [c.add(3) for _ in range(2000)] for _ in range(2)])
    assert c.value() == 12000


@starts_threads
@both
def test_totals_are_exact_with_short_lived_threads(cls):
    c = cls()
    last = 0
    for _ in range(30):
        run_threads(c.add, times=8)
        assert c.value() >= last
        last = c.value()
    assert c.value() == 240


@starts_threads
def test_integer_totals_wrap_across_threads():
    c = ShardedCounter()
    run_threads(lambda: c.add(HIGH), times=3)
    assert c.value() == (3 * HIGH - LOW) % 2**64 + LOW
