"""once, Once and once_property: one run, one outcome for all; recursion and several threads."""

import functools
import gc
import inspect
import threading
import time

import pytest
from marks import starts_threads
from onces import (
    Counted,
    by_function,
    by_object,
    by_property,
    ended,
    every,
    names_of,
    raises,
    settling,
    start,
)
from support import TIMEOUT, run_threads, same_error

from nogil_sync import Once, once, once_property

# One thread


@every
def test_function_runs_once(make):
    fn = Counted()
    call = make(fn)
    assert call.done() is False
    result = call()
    assert call.done() is True
    assert call() is call() is result
    assert fn.runs == 1


@pytest.mark.parametrize("result", [None, False, 0, (), "", 10**9])
@every
def test_any_result_is_returned(make, result):
    fn = Counted(lambda: result)
    call = make(fn)
    assert call() is call() is result
    assert fn.runs == 1


def test_once_decorates_with_and_without_options():
    @once
    def a():
        return 1

    @once()
    def b():
        return 2

    @once(retry=True)
    def c():
        return 3

    assert (a(), b(), c(), once(int, retry=False)()) == (1, 2, 3, 0)
    assert type(a) is type(b) is type(c)


def test_wrong_arguments_of_once():
    for call in (
        lambda: once(1),
        lambda: once("f", retry=True),
        lambda: once()(None),
        lambda: once(int, True),
        lambda: once(fn=int),
        lambda: once(int, again=True),
        lambda: once(again=True)(int),
        lambda: Once(True),
        lambda: Once(again=True),
        lambda: once_property(1),
        lambda: once_property(),
    ):
        with pytest.raises(TypeError):
            call()


class Adder:
    def method(self, x):
        return x

    def needs_nothing(self):
        return 1

    @staticmethod
    def static():
        return 2

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (lambda x: x, "x"),
        (lambda x, /: x, "x"),
        (lambda x, y=1: x, "x"),
        (lambda *, k: k, "k"),
        (lambda *, j=1, k: k, "k"),
        (lambda *args, k, **kwargs: k, "k"),
        (Adder.needs_nothing, "self"),
        (Adder().method, "x"),
        (Adder(), "x"),
        (functools.partial(Adder().method), "x"),
        (len, "obj"),
    ],
)
def test_functions_that_need_an_argument_are_refused(fn, name):
    with pytest.raises(TypeError, match=f"'{name}'"):
        once(fn)


@pytest.mark.parametrize(
    "fn",
    [
        lambda: 1,
        lambda x=1: x,
        lambda x=1, /: x,
        lambda *, k=1: k,
        lambda *args: 1,
        lambda **kwargs: 1,
        lambda *args, k=1, **kwargs: k,
        Adder().needs_nothing,
        Adder.static,
        functools.partial(Adder().method, 1),
        functools.partial(Adder(), x=1),
        functools.lru_cache(lambda: 1),
        dict,
        object,
        time.monotonic,
        [].copy,
    ],
)
def test_functions_that_need_no_argument_are_accepted(fn):
    f = once(fn)
    assert f() is f()


def test_function_whose_wrapper_gives_it_its_argument():
    def with_argument(fn):
        @functools.wraps(fn)
        def wrapper():
            return fn(5)

        return wrapper

    @once
    @with_argument
    def f(x):
        return x

    assert f() == 5


def test_calls_take_no_arguments():
    @once
    def f(x=1, *args, **kwargs):
        return 10**9

    for _ in range(2):
        for args, kwargs in (((1,), {}), ((), {"x": 1}), ((1, 2), {"y": 1})):
            with pytest.raises(TypeError):
                f(*args, **kwargs)
        assert f(*()) == f() == f.__call__() == 10**9
        assert type(f).__call__(f) == 10**9


def test_do_passes_arguments_to_the_function():
    o = Once()
    with pytest.raises(TypeError):
        o.do()
    with pytest.raises(TypeError):
        o.do(fn=int)
    for wrong in (None, 1, "f"):
        with pytest.raises(TypeError, match="not callable"):
            o.do(wrong)
    assert not o.done()

    def take(*args, **kwargs):
        return args, kwargs

    result = o.do(take, 1, 2, fn=3, self=4, key=5)
    assert result == ((1, 2), {"fn": 3, "self": 4, "key": 5})
    assert o.do(take) is o.do(take, 1, x=2) is o.do(None) is result
    with pytest.raises(TypeError):
        o.do()


def test_once_function_looks_like_the_wrapped_function():
    def load(x=1) -> int:
        """Documentation."""
        return x

    load.extra = [1]
    f = once(load)
    for _ in range(2):
        for name in ("__name__", "__qualname__", "__doc__", "__module__", "extra"):
            assert getattr(f, name) == getattr(load, name)
        assert f.__annotations__ == {"return": int}
        signature = inspect.signature(f)
        assert not signature.parameters
        assert signature.return_annotation is int
        f()
    f.more = 2
    assert f.__dict__["more"] == 2
    del f.more
    with pytest.raises(AttributeError):
        f.more
    assert inspect.signature(once(dict)) == inspect.Signature()

    @functools.wraps(f)
    def outer():
        return f()

    assert outer.__wrapped__ is f
    assert outer.__name__ == "load"
    assert functools.update_wrapper(f, outer) is f
    assert f.__wrapped__ is outer


def test_wrapped_is_available_until_the_function_ran():
    def load():
        return 1

    f = once(load)
    assert f.__wrapped__ is load
    assert inspect.unwrap(f) is f or inspect.unwrap(f) is load
    f()
    assert not hasattr(f, "__wrapped__")


def test_once_function_in_a_class_is_a_static_method():
    class Namespace:
        @once
        def shared():
            return object()

    assert Namespace.shared() is Namespace().shared()


def test_once_wraps_a_once_function():
    fn = Counted()
    inner = once(fn)
    outer = once(inner)
    assert outer() is outer() is inner()
    assert fn.runs == 1


def test_repr():
    def load():
        return repr(f)

    f = once(load)
    where = f"at {id(f):#x}"
    assert repr(f) == f"<once function {load.__qualname__} {where}, not run>"
    assert f() == f"<once function {load.__qualname__} {where}, running>"
    assert repr(f) == f"<once function {load.__qualname__} {where}, done>"
    assert "once function" in repr(once(functools.partial(int)))

    o = Once()
    where = f"<nogil_sync.Once object at {id(o):#x}"
    assert repr(o) == f"{where}, not run>"
    assert o.do(repr, o) == f"{where}, running>"
    assert repr(o) == f"{where}, done>"

    o = Once()
    with pytest.raises(ValueError):
        o.do(int, "x")
    assert repr(o).endswith(", failed>")


def test_class_takes_parameters_at_run_time():
    alias = Once[int]
    assert alias.__origin__ is Once
    o = alias(retry=True)
    assert type(o) is Once
    assert o.do(int) == 0
    assert once_property[int](len).func is len


# Recursion


@every
def test_recursive_call_raises(make):
    def act():
        with pytest.raises(RuntimeError, match="recursive"):
            call()
        assert not call.done()
        return 7

    call = make(act)
    assert call() == 7


@settling
def test_uncaught_recursion_settles_as_the_failure(make):
    def act():
        return call()

    call = make(act)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="recursive"):
            call()


@every
def test_recursion_through_another_once_raises(make):
    other = by_object(lambda: call())
    call = make(lambda: other())
    with pytest.raises(RuntimeError, match="recursive"):
        call()


@starts_threads
@every
def test_deadlock_of_two_threads_raises(make):
    both = threading.Barrier(2)

    def act(other):
        both.wait(TIMEOUT)
        try:
            return other()
        except RuntimeError as error:
            return str(error)

    a = make(lambda: act(b))
    b = make(lambda: act(a))
    for result, error in ended(start(a), start(b)):
        assert error is None
        assert "recursive" in result


@starts_threads
def test_deadlock_of_five_threads_raises():
    n = 5
    all_in = threading.Barrier(n)
    calls = []
    refused = []

    def act(k):
        all_in.wait(TIMEOUT)
        try:
            return calls[(k + 1) % n]()
        except RuntimeError:
            refused.append(k)
            return k

    makers = [by_function, by_object, by_property, by_function, by_object]
    calls += [make(lambda k=k: act(k)) for k, make in enumerate(makers)]
    assert all(error is None for _, error in ended(*map(start, calls)))
    assert refused


@starts_threads
@every
def test_nested_wait_without_a_cycle_returns(make):
    fn = Counted(lambda: 1, held=True)
    inner = make(fn)
    outer = [make(lambda: inner() + 1) for _ in range(3)]
    started = [start(inner), *map(start, outer)]
    assert fn.begun.wait(TIMEOUT)
    time.sleep(0.02)
    fn.go.set()
    assert ended(*started) == [(1, None), (2, None), (2, None), (2, None)]


# Several threads


@starts_threads
@every
def test_all_threads_get_the_result(make):
    for _ in range(50):
        fn = Counted()
        call = make(fn)
        results = run_threads(call, times=5)
        assert all(result is results[0] for result in results)
        assert fn.runs == 1


@starts_threads
@every
def test_callers_during_the_run_wait(make):
    fn = Counted(held=True)
    call = make(fn)
    waiters = [start(call) for _ in range(8)]
    time.sleep(0.05)
    assert all(thread.outcome is None for thread in waiters)
    assert not call.done()
    fn.go.set()
    outcomes = ended(*waiters)
    assert all(result is outcomes[0][0] for result, _ in outcomes)
    assert fn.runs == 1


@starts_threads
@settling
def test_all_threads_get_the_same_exception(make):
    error = ValueError()
    fn = Counted(raises(error), held=True)
    call = make(fn)
    waiters = [start(call) for _ in range(6)]
    assert fn.begun.wait(TIMEOUT)
    time.sleep(0.02)
    fn.go.set()
    assert all(same_error(each, error) for _, each in ended(*waiters))
    assert fn.runs == 1


@starts_threads
def test_many_threads_raise_the_failure_at_once():
    error = ValueError()
    f = once(raises(error))

    def work():
        longest = 0
        for _ in range(300):
            try:
                f()
            except ValueError as caught:
                raised = caught
            longest = max(longest, len(names_of(raised)))
            assert same_error(raised, error)
        return longest

    assert max(run_threads(work, times=4)) < 50
    assert error.__context__ is None


@starts_threads
@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize(
    "make",
    [
        lambda fn: by_function(fn, retry=True),
        lambda fn: by_object(fn, retry=True),
        by_property,
    ],
    ids=["function", "object", "property"],
)
def test_waiters_of_a_failed_run_with_retry_run_themselves(make, error):
    lock = threading.Lock()
    running = []
    fails = 3

    def act():
        nonlocal fails
        assert not running
        running.append(1)
        time.sleep(0.005)
        running.pop()
        with lock:
            fails -= 1
            if fails >= 0:
                raise error
        return "done"

    fn = Counted(act, held=True)
    call = make(fn)
    waiters = [start(call) for _ in range(8)]
    assert fn.begun.wait(TIMEOUT)
    time.sleep(0.02)
    fn.go.set()
    outcomes = ended(*waiters)
    assert sum(result == "done" for result, _ in outcomes) == 5
    assert sum(isinstance(each, error) for _, each in outcomes) == 3
    assert fn.runs == 4


@starts_threads
@every
def test_stores_of_the_run_are_seen(make):
    for _ in range(100):
        box = []
        call = make(lambda box=box: box.append(1))
        assert run_threads(lambda box=box, call=call: (call(), box[0])[1], times=3) == [1] * 3


@starts_threads
def test_objects_do_not_wait_for_each_other():
    meet = threading.Barrier(3)
    calls = [make(lambda: meet.wait(TIMEOUT)) for make in (by_function, by_object, by_property)]
    run_threads(*calls)
    assert not meet.broken


@starts_threads
def test_other_threads_collect_while_one_waits():
    fn = Counted(held=True)
    call = by_function(fn)
    waiters = [start(call), start(call)]
    for _ in range(3):
        gc.collect()
    fn.go.set()
    ended(*waiters)
