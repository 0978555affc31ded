"""Atomics: what each operation does, returns and refuses."""

import gc
import itertools
import operator
import signal
import threading
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import starts_threads
from support import INTEGERS, RANGES, run_threads

from nogil_sync import (
    AtomicBool,
    AtomicInt32,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    AtomicUint64,
)

integers = pytest.mark.parametrize("cls", INTEGERS)
signed = pytest.mark.parametrize("cls", [AtomicInt64, AtomicInt32])
unsigned = pytest.mark.parametrize("cls", [AtomicUint64, AtomicUint32])

FETCHES = {
    "fetch_and": operator.and_,
    "fetch_or": operator.or_,
    "fetch_xor": operator.xor,
    "fetch_max": max,
    "fetch_min": min,
}


def wrap(cls, number):
    low, high = RANGES[cls]
    return (number - low) % (high - low + 1) + low


class Index:
    """An integer by ``__index__`` alone."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class StrangeInt(int):
    """An int subclass whose own arithmetic must never be asked."""

    def _never(self, *args):
        raise AssertionError("user arithmetic ran")

    __add__ = __radd__ = __sub__ = __rsub__ = __and__ = __rand__ = __or__ = __ror__ = _never
    __lt__ = __gt__ = __le__ = __ge__ = __eq__ = __xor__ = __rxor__ = __int__ = _never
    __hash__ = int.__hash__


# Integers


@integers
def test_default_is_zero(cls):
    assert cls().load() == 0


@integers
def test_value_by_position_and_keyword(cls):
    assert cls(5).load() == 5
    assert cls(value=6).load() == 6


@integers
def test_min_and_max_are_values(cls):
    for end in RANGES[cls]:
        a = cls(end)
        assert a.load() == end
        assert type(a.load()) is int
        assert a.swap(0) == end
        a.store(end)
        assert a.compare_and_swap(end, 1)


@integers
def test_load_store_swap(cls):
    a = cls(1)
    assert a.store(2) is None
    assert a.load() == 2
    assert a.swap(3) == 2
    assert a.swap(value=4) == 3
    assert a.store(value=5) is None
    assert a.load() == 5


@integers
def test_compare_and_swap(cls):
    a = cls(1)
    assert a.compare_and_swap(1, 2) is True
    assert a.compare_and_swap(1, 3) is False
    assert a.compare_and_swap(old=2, new=4) is True
    assert a.load() == 4


@integers
def test_add_and_sub_return_the_new_value(cls):
    a = cls(10)
    assert a.add() == 11
    assert a.add(5) == 16
    assert a.add(n=4) == 20
    assert a.sub() == 19
    assert a.sub(n=9) == 10
    assert a.load() == 10


@integers
def test_add_and_sub_wrap(cls):
    low, high = RANGES[cls]
    assert cls(high).add() == low
    assert cls(low).sub() == high
    assert cls(high).add(high) == wrap(cls, 2 * high)
    assert cls(low).sub(high) == wrap(cls, low - high)


@signed
def test_negative_amounts_are_added(cls):
    low, _ = RANGES[cls]
    assert cls(3).add(-5) == -2
    assert cls(3).sub(-5) == 8
    assert cls(0).sub(low) == low
    assert cls(-1).add(low) == RANGES[cls][1]


@unsigned
@pytest.mark.parametrize("method", ["add", "sub", "store", "swap", "fetch_and", "fetch_max"])
def test_unsigned_subtracts_negative_amounts(cls, method):
    a = cls(7)
    with pytest.raises(OverflowError):
        getattr(a, method)(-1)
    assert a.load() == 7


@integers
@pytest.mark.parametrize("method", FETCHES)
def test_fetch_returns_the_old_value(cls, method):
    a = cls(0b1100)
    assert getattr(a, method)(0b1010) == 0b1100
    assert a.load() == FETCHES[method](0b1100, 0b1010)


@integers
@settings(deadline=None)
@given(data=st.data())
def test_random_operations_agree_with_a_model(cls, data):
    low, high = RANGES[cls]
    number = st.integers(low, high) | st.sampled_from([low, high, 0, 1])
    model = data.draw(number)
    a = cls(model)
    for _ in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from(["add", "sub", "swap", "store", "cas", *FETCHES]))
        n = data.draw(number)
        if name == "add":
            model = wrap(cls, model + n)
            assert a.add(n) == model
        elif name == "sub":
            model = wrap(cls, model - n)
            assert a.sub(n) == model
        elif name == "swap":
            assert a.swap(n) == model
            model = n
        elif name == "store":
            a.store(n)
            model = n
        elif name == "cas":
            old = data.draw(st.sampled_from([model, n]))
            assert a.compare_and_swap(old, n) is (old == model)
            model = n if old == model else model
        else:
            assert getattr(a, name)(n) == model
            model = FETCHES[name](model, n)
        assert a.load() == model
        assert type(a.load()) is int


@integers
def test_objects_with_index_method_are_accepted(cls):
    a = cls(Index(5))
    assert a.add(Index(2)) == 7
    assert a.add(True) == 8
    assert a.compare_and_swap(Index(8), Index(9))
    assert a.add(StrangeInt(1)) == 10
    a.store(StrangeInt(4))
    assert type(a.load()) is int
    assert type(cls(True).load()) is int
    assert repr(cls(True)) == f"{cls.__name__}(1)"
    assert a.compare_and_swap(StrangeInt(4), 5)


@integers
@pytest.mark.parametrize("bad", [1.5, 1.0, None, "1", b"1", 1j, [], object()])
def test_non_integers_raise(cls, bad):
    with pytest.raises(TypeError):
        cls(bad)
    a = cls(7)
    one = ["store", "swap", "add", "sub", *FETCHES]
    for method in one:
        with pytest.raises(TypeError):
            getattr(a, method)(bad)
    with pytest.raises(TypeError):
        a.compare_and_swap(bad, 1)
    with pytest.raises(TypeError):
        a.compare_and_swap(7, bad)
    assert a.load() == 7


@integers
@pytest.mark.parametrize(
    "far",
    [2**64, 2**70, -(2**70), 1 << 20000, -(2**63) - 1],
    ids=["64", "70", "-70", "huge", "below"],
)
def test_values_out_of_range_raise(cls, far):
    with pytest.raises(OverflowError):
        cls(far)
    a = cls(7)
    for method in ["store", "swap", "add", "sub", *FETCHES]:
        with pytest.raises(OverflowError):
            getattr(a, method)(far)
    with pytest.raises(OverflowError):
        a.compare_and_swap(far, 1)
    with pytest.raises(OverflowError):
        a.compare_and_swap(7, far)
    assert a.load() == 7


@integers
def test_values_one_past_the_range_raise(cls):
    low, high = RANGES[cls]
    a = cls(7)
    for bad in (low - 1, high + 1):
        with pytest.raises(OverflowError):
            cls(bad)
        for method in ["store", "swap", "add", "sub", *FETCHES]:
            with pytest.raises(OverflowError):
                getattr(a, method)(bad)
        with pytest.raises(OverflowError):
            a.compare_and_swap(bad, 1)
    assert a.load() == 7


@integers
def test_wrong_numbers_of_arguments_raise(cls):
    a = cls(7)
    for call in (
        lambda: cls(1, 2),
        lambda: cls(number=1),
        lambda: a.load(1),
        lambda: a.store(),
        lambda: a.swap(),
        lambda: a.swap(1, 2),
        lambda: a.add(1, 2),
        lambda: a.add(m=1),
        lambda: a.compare_and_swap(1),
        lambda: a.compare_and_swap(1, 2, 3),
        lambda: a.compare_and_swap(7, new=8, old=7),
        lambda: a.fetch_or(),
    ):
        with pytest.raises(TypeError):
            call()
    assert a.load() == 7


def test_listed_bad_inputs_raise():
    with pytest.raises(OverflowError):
        AtomicInt64(2**63)
    a = AtomicInt64(5)
    with pytest.raises(TypeError):
        a.add(1.5)
    with pytest.raises(OverflowError):
        a.add(2**70)
    with pytest.raises(TypeError):
        a.compare_and_swap(None, 1)
    with pytest.raises(RuntimeError):
        a.__init__(9)
    assert a.load() == 5
    assert AtomicInt64.__new__(AtomicInt64).add() == 1


@integers
def test_index_method_may_raise_or_use_the_object(cls):
    a = cls(1)

    class Failing:
        def __index__(self):
            raise LookupError

    class Reentrant:
        def __index__(self):
            return a.add(10)

    with pytest.raises(LookupError):
        a.add(Failing())
    with pytest.raises(LookupError):
        a.compare_and_swap(1, Failing())
    assert a.load() == 1
    assert a.add(Reentrant()) == 22  # 1 + 10, and then the 11 that __index__ returned


@integers
def test_operators_are_not_supported(cls):
    a = cls(1)
    for expression in ("a + 1", "1 + a", "a - 1", "a & 1", "-a", "int(a)", "a < 2", "a[0]"):
        with pytest.raises(TypeError):
            eval(expression, {"a": a})
    with pytest.raises(TypeError):
        a += 1
    assert a.load() == 1


@starts_threads
@integers
def test_concurrent_updates_are_not_lost(cls):
    a = cls()
    n = 2000
    run_threads(lambda: [a.add() for _ in range(n)], times=4)
    assert a.load() == 4 * n


# Bool


def test_bool_load_store_swap():
    b = AtomicBool()
    assert b.load() is False
    assert b.store(True) is None
    assert b.load() is True
    assert b.swap(False) is True
    assert AtomicBool(value=True).load() is True


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("current", [False, True])
def test_bool_compare_and_swap(current, old, new):
    b = AtomicBool(current)
    assert b.compare_and_swap(old, new) is (current is old)
    assert b.load() is (new if current is old else current)


def test_bool_takes_any_truth_and_returns_bools():
    b = AtomicBool([1])
    assert b.load() is True
    b.store([])
    assert b.load() is False
    assert b.swap("x") is False
    assert b.compare_and_swap(1.5, None) is True
    assert b.load() is False


def test_bool_method_may_raise_or_use_the_object():
    b = AtomicBool()

    class Failing:
        def __bool__(self):
            raise LookupError

    class Reentrant:
        def __bool__(self):
            b.store(True)
            return False

    for call in (
        lambda: AtomicBool(Failing()),
        lambda: b.store(Failing()),
        lambda: b.swap(Failing()),
        lambda: b.compare_and_swap(False, Failing()),
        lambda: b.compare_and_swap(Failing(), True),
    ):
        with pytest.raises(LookupError):
            call()
    assert b.load() is False
    assert b.swap(Reentrant()) is True
    assert b.load() is False


def test_bool_wrong_arguments_raise():
    b = AtomicBool()
    for call in (
        lambda: AtomicBool(1, 2),
        lambda: b.store(),
        lambda: b.compare_and_swap(True),
        lambda: b.load(1),
    ):
        with pytest.raises(TypeError):
            call()


@starts_threads
def test_bool_swap_is_won_by_one_thread():
    for _ in range(200):
        b = AtomicBool()
        assert sum(run_threads(lambda b=b: b.compare_and_swap(False, True), times=4)) == 1


# Ref


class Payload:
    """An object to refer to."""


def test_ref_load_store_swap():
    x, y = Payload(), Payload()
    r = AtomicRef()
    assert r.load() is None
    assert r.store(x) is None
    assert r.load() is x
    assert r.swap(y) is x
    assert r.load() is y
    assert AtomicRef(value=x).load() is x


def test_ref_compares_by_identity():
    class Equal:
        def __eq__(self, other):
            raise AssertionError("compared by equality")

        __hash__ = None

    x, y = Equal(), Equal()
    r = AtomicRef(x)
    assert r.compare_and_swap(y, None) is False
    assert r.load() is x
    assert r.compare_and_swap(old=x, new=y) is True
    assert r.load() is y


def test_ref_update():
    r = AtomicRef((1,))
    new = r.update(lambda t: (*t, 2))
    assert new == (1, 2)
    assert r.load() is new


def test_ref_update_that_raises_changes_nothing():
    x = Payload()
    r = AtomicRef(x)
    with pytest.raises(ZeroDivisionError):
        r.update(lambda _: 1 // 0)
    assert r.load() is x
    with pytest.raises(TypeError):
        r.update(None)
    with pytest.raises(TypeError):
        r.update()


def test_ref_update_retries_after_a_concurrent_store():
    r = AtomicRef(0)
    seen = []

    def fn(current):
        seen.append(current)
        if len(seen) < 3:
            r.store(current + 100)  # "another thread" was faster
        return current + 1

    assert r.update(fn) == 201
    assert seen == [0, 100, 200]


@pytest.mark.thread_unsafe(reason="sets a signal handler")
def test_ref_update_that_never_succeeds_can_be_interrupted():
    # Each of the two iterators stores the other one, in C: no handler can run in between.
    r, other = AtomicRef(), []
    one = map(r.store, itertools.cycle(other))
    other.append(map(r.store, itertools.repeat(one)))
    r.store(one)
    me = threading.get_ident()

    def interrupt(*_):
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(me, signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(InterruptedError):
            r.update(operator.methodcaller("__next__"))
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_ref_keeps_no_reference_to_a_value_not_stored():
    r = AtomicRef()
    x = Payload()
    watch = weakref.ref(x)
    assert not r.compare_and_swap(x, x)
    del x
    gc.collect()
    assert watch() is None

    made = []

    def fn(current):
        if not made:
            r.store("faster")
        value = Payload()
        made.append(weakref.ref(value))
        return value

    assert r.update(fn) is r.load()
    gc.collect()
    assert [watch() is None for watch in made] == [True, False]


def test_ref_releases_the_replaced_value():
    x = Payload()
    watch = weakref.ref(x)
    r = AtomicRef(x)
    del x
    r.store(None)
    gc.collect()
    assert watch() is None

    r.store(Payload())
    watch = weakref.ref(r.load())
    r.swap(None)
    gc.collect()
    assert watch() is None

    x = Payload()
    watch = weakref.ref(x)
    r.store(x)
    assert r.compare_and_swap(x, None)
    del x
    gc.collect()
    assert watch() is None

    r.store(Payload())
    watch = weakref.ref(r.load())
    del r
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("way", ["store", "swap", "compare_and_swap", "update"])
def test_finaliser_of_the_replaced_value_uses_the_ref(way):
    log = []

    class Last:
        def __del__(self):
            log.append(r.load())
            r.store("by the finaliser")

    r = AtomicRef()
    r.store(Last())
    if way == "store":
        r.store("new")
    elif way == "swap":
        r.swap("new")
    elif way == "update":
        r.update(lambda _: "new")
    else:
        assert r.compare_and_swap(r.load(), "new")
    gc.collect()
    assert log == ["new"]
    assert r.load() == "by the finaliser"


def test_ref_repr_of_itself():
    r = AtomicRef()
    r.store([r])
    assert repr(r) == "AtomicRef([AtomicRef(...)])"
    r.store(None)


def test_ref_repr_raises_what_the_value_raises():
    class Bad:
        def __repr__(self):
            raise LookupError

    r = AtomicRef(Bad())
    for _ in range(2):
        with pytest.raises(LookupError):
            repr(r)
    r.store(1)
    assert repr(r) == "AtomicRef(1)"


@starts_threads
def test_concurrent_ref_updates_are_not_lost():
    r = AtomicRef(())
    n = 150
    run_threads(
        *(lambda k=k: [r.update(lambda t, i=i: (*t, (k, i))) for i in range(n)] for k in range(3))
    )
    assert sorted(r.load()) == [(k, i) for k in range(3) for i in range(n)]
