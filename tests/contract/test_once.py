"""once, Once and once_property: one run, one outcome for all, and runs that do not count."""

import copy
import faulthandler
import functools
import gc
import inspect
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import typing
import weakref

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from forks import exit_code_of, in_child
from marks import needs_fork, sets_handlers, starts_processes, starts_threads
from processes import in_own_process
from support import LONG, eventually, run_threads, same_error

from nogil_sync import Once, once, once_property


class Counted:
    """A function that counts its runs and waits to be let on."""

    def __init__(self, act=object, *, held=False):
        self.act = act
        self.runs = 0
        self.begun = threading.Event()
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self):
        self.runs += 1
        self.begun.set()
        assert self.go.wait(LONG)
        return self.act()


# Each way to run something once, as a maker of a call without arguments.


def by_function(fn, **options):
    return once(**options)(fn)


def by_object(fn, **options):
    o = Once(**options)

    def call():
        return o.do(fn)

    call.done = o.done
    return call


def by_property(fn, **options):
    class Holder:
        @once_property
        def value(self):
            return fn()

    holder = Holder()

    def call():
        return holder.value

    call.done = lambda: "value" in holder.__dict__
    return call


def start(function):
    """A thread that calls it; `outcome` becomes a pair of result and error."""

    def run():
        try:
            thread.outcome = function(), None
        except BaseException as error:
            thread.outcome = None, error

    thread = threading.Thread(target=run, daemon=True)
    thread.outcome = None
    thread.start()
    return thread


def ended(*started):
    for thread in started:
        thread.join(LONG)
        assert not thread.is_alive(), "hanging"
    return [thread.outcome for thread in started]


every = pytest.mark.parametrize("make", [by_function, by_object, by_property])
settling = pytest.mark.parametrize("make", [by_function, by_object])


def raises(error):
    def act():
        raise error

    return act


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


# What the interpreter and `typing` know about functions


def annotated() -> "int":
    return 1


def plainly() -> int:
    return 1


def bare():
    return 1


@pytest.mark.parametrize("fn", [annotated, plainly, bare])
def test_annotations_are_those_of_the_function(fn):
    f = once(fn)
    assert f.__annotations__ == fn.__annotations__
    assert f.__annotations__ is f.__annotations__
    assert typing.get_type_hints(f) == typing.get_type_hints(fn)
    assert inspect.get_annotations(f) == inspect.get_annotations(fn)
    assert inspect.signature(f) == inspect.signature(fn)
    f()
    assert f.__annotations__ == fn.__annotations__
    assert inspect.signature(f) == inspect.signature(fn)
    assert fn.__annotations__ == once(fn).__annotations__


def test_annotations_pass_through_wrappers():
    f = once(plainly)

    @functools.wraps(f)
    def wrapper():
        return f()

    assert wrapper.__annotations__ == {"return": int}
    assert typing.get_type_hints(wrapper) == {"return": int}
    assert once(f).__annotations__ == {"return": int}


def test_annotations_can_be_replaced():
    f = once(plainly)
    f.__annotations__ = {"return": str}
    assert f.__annotations__ == {"return": str}
    assert inspect.signature(f).return_annotation is str
    del f.__annotations__
    g = once(plainly)
    g.__annotations__["more"] = int
    assert g.__annotations__ == {"return": int, "more": int}


def test_annotations_of_functions_without_any():
    f = once(functools.partial(int, 5))
    assert f.__annotations__ == {}
    assert inspect.signature(f) == inspect.Signature()
    assert f() == 5


@pytest.mark.skipif(sys.version_info < (3, 14), reason="evaluated at once")
def test_annotations_are_evaluated_when_asked_for():
    scope = {"once": once}
    exec("@once\ndef f() -> Later:\n    return 1", scope)
    f = scope["f"]
    assert f() == 1
    with pytest.raises(NameError, match="Later"):
        f.__annotations__
    scope["Later"] = int
    assert f.__annotations__ == {"return": int}


def test_annotations_of_the_class():
    kind = type(once(int))
    assert kind.__annotations__ == {}

    class Typed(kind):  # type: ignore[misc,valid-type]
        limit: int

    assert Typed.__annotations__ == {"limit": int}
    assert Typed(plainly)() == 1


class Named(once_property):
    pass


class Lazily(Once):
    pass


class Decorated(type(once(int))):  # type: ignore[misc]
    pass


@pytest.mark.parametrize("cls", [once_property, Named, Once, Lazily, type(once(int)), Decorated])
def test_classes_and_their_subclasses_take_parameters(cls):
    alias = cls[int]
    assert typing.get_origin(alias) is cls
    assert typing.get_args(alias) == (int,)
    assert cls[typing.TypeVar("T")] is not None


def test_instances_of_a_parametrised_subclass():
    class Page:
        words = Named[int](lambda page: 5)

    assert Page().words == 5
    assert type(vars(Page)["words"]) is Named

    class Special(Named[int]):
        pass

    assert Special[str] is not None
    assert Special(len).func is len


# Exceptions


@settling
def test_exception_is_raised_by_every_call(make):
    error = ValueError("x")
    fn = Counted(raises(error))
    call = make(fn)
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            call()
        assert caught.value is error
        assert call.done()
    assert fn.runs == 1


def names_of(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@settling
def test_traceback_leads_to_the_origin_and_does_not_grow(make):
    def origin():
        raise ValueError

    def middle():
        origin()

    call = make(middle)

    def user():
        try:
            call()
        except ValueError as error:
            return names_of(error)

    first = user()
    assert first[0] == "user"
    assert first[-2:] == ["middle", "origin"]
    for _ in range(10):
        assert user() == first

    def another():
        try:
            call()
        except ValueError as error:
            return names_of(error)

    assert another() == ["another", *first[1:]]


def test_exception_of_a_c_function_is_raised_again():
    f = once(functools.partial(int, "x"))

    def user():
        with pytest.raises(ValueError) as caught:
            f()
        return names_of(caught.value)

    assert user() == user()


@settling
def test_exception_context_does_not_change(make):
    def origin():
        try:
            raise KeyError
        except KeyError:
            raise ValueError from None

    call = make(origin)

    def caught():
        try:
            call()
        except ValueError as error:
            return error

    error = caught()
    context = error.__context__
    assert type(context) is KeyError
    for _ in range(3):
        try:
            raise OSError
        except OSError:
            assert caught() is error
            assert error.__context__ is context
            assert error.__cause__ is None
    wrapper = RuntimeError()
    try:
        raise wrapper from error
    except RuntimeError:
        assert caught() is error
        assert error.__context__ is context
        assert wrapper.__cause__ is error
    try:
        raise error
    except ValueError:
        assert caught() is error
        assert error.__context__ is context
    assert len(traceback.format_exception(error)) < 30


@settling
def test_run_inside_except_block_keeps_its_context(make):
    call = make(raises(ValueError()))
    outer = OSError()
    try:
        raise outer
    except OSError:
        with pytest.raises(ValueError) as caught:
            call()
        assert caught.value.__context__ is outer
    with pytest.raises(ValueError) as caught:
        call()
    assert caught.value.__context__ is outer


@pytest.mark.parametrize(
    "make",
    [
        lambda fn: by_function(fn, retry=True),
        lambda fn: by_object(fn, retry=True),
        by_property,
    ],
    ids=["function", "object", "property"],
)
def test_failed_run_with_retry_runs_again(make):
    errors = [OSError(), ValueError(), KeyError()]
    left = [*errors, None]

    def act():
        error = left.pop(0)
        if error is not None:
            raise error
        return "at last"

    fn = Counted(act)
    call = make(fn)
    for error in errors:
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error
        assert not call.done()
    assert call() == call() == "at last"
    assert fn.runs == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
@every
def test_base_exception_never_settles(make, error):
    left = [error(), error(), None]

    def act():
        each = left.pop(0)
        if each is not None:
            raise each
        return 5

    call = make(act)
    for _ in range(2):
        with pytest.raises(error):
            call()
        assert not call.done()
    assert call() == 5


def test_exception_class_with_odd_methods_is_raised_again():
    class StubbornError(Exception):
        def with_traceback(self, tb):
            raise AssertionError("called")

        def __eq__(self, other):
            raise AssertionError("called")

        __hash__ = None

        def __bool__(self):
            raise AssertionError("called")

    f = once(raises(StubbornError()))
    for _ in range(2):
        with pytest.raises(StubbornError):
            f()


class Obstinate:
    """Compares, hashes and converts to nothing."""

    def fail(self, *args):
        raise AssertionError("called")

    __eq__ = __hash__ = __bool__ = __repr__ = fail


@every
def test_results_are_returned_unchanged(make):
    call = make(Obstinate)
    assert type(call()) is Obstinate
    assert call() is call()


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
        both.wait(LONG)
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
        all_in.wait(LONG)
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
    assert fn.begun.wait(LONG)
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
    assert fn.begun.wait(LONG)
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
    assert fn.begun.wait(LONG)
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
    calls = [make(lambda: meet.wait(LONG)) for make in (by_function, by_object, by_property)]
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


# Interrupts


class FirstRunHangs:
    """A function whose first run waits for `go`, and the three kinds of object that run it once."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.runs = 0
        self.function, self.object = once(self.work), Once()

    def work(self):
        self.runs += 1
        self.begun.set()
        if self.runs == 1:
            self.go.wait()
        return 10**9

    @once_property
    def property(self):
        return self.work()


CALLS = {
    "function": lambda it: it.function(),
    "object": lambda it: it.object.do(it.work),
    "property": lambda it: it.property,
}
kinds = pytest.mark.parametrize("kind", CALLS)


@starts_processes
@kinds
@in_own_process
def test_interrupted_first_run_leaves_it_unrun(kind):
    it = FirstRunHangs()

    def call():
        return CALLS[kind](it)

    interrupt_call(call, before=it.begun.wait)
    assert not it.function.done()
    assert not it.object.done()
    assert call() == 10**9
    assert it.runs == 2


@starts_processes
@kinds
@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_ctrl_c_ends_wait_for_run_of_another_thread(kind, way):
    it = FirstRunHangs()

    def call():
        return CALLS[kind](it)

    others = [threading.Thread(target=call, daemon=True) for _ in range(3)]
    for other in others:
        other.start()
    it.begun.wait()
    interrupt_call(call, way)
    it.go.set()
    for other in others:
        other.join(10)
    assert call() == 10**9
    assert it.runs == 1


@sets_handlers
@every
def test_handler_calls_function_that_its_thread_runs(make, interrupt):
    log = []

    def handler():
        try:
            call()
        except RuntimeError as error:
            log.append(str(error))

    def act():
        assert eventually(lambda: bool(log))
        return 5

    call = make(act)
    interrupt(handler, 0.05)
    assert call() == 5
    assert "recursive" in log[0]


@sets_handlers
@every
def test_handler_calls_function_that_its_thread_waits_for(make, interrupt):
    fn = Counted(held=True)
    call = make(fn)
    other = start(call)
    assert fn.begun.wait(LONG)
    log = []
    interrupt(lambda: (threading.Timer(0.1, fn.go.set).start(), log.append(call())), 0.05)
    result = call()
    assert ended(other) == [(result, None)]
    assert log == [result]
    assert fn.runs == 1


@sets_handlers
@settling
def test_handler_runs_another_once_during_a_wait(make, interrupt):
    fn = Counted(held=True)
    call = make(fn)
    other = start(call)
    assert fn.begun.wait(LONG)
    quick = make(lambda: 3)
    log = []
    interrupt(lambda: (log.append(quick()), fn.go.set()), 0.05)
    call()
    ended(other)
    assert log == [3]


@starts_threads
def test_finaliser_calls_the_function():
    f = once(Counted())
    results = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            results.append(f())

    Last()
    gc.collect()
    assert results == [f()]


# Forks


class ReturnsProcess:
    """A function that returns the number of its process, and objects that run it once.

    In the process that made it, the function waits for `go`.
    """

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.parent = os.getpid()
        self.body = self.wait_in_parent
        self.function, self.object = once(self.work), Once()

    def wait_in_parent(self):
        if os.getpid() == self.parent:
            self.begun.set()
            self.go.wait()
        return os.getpid()

    def work(self):
        return self.body()

    @once_property
    def property(self):
        return self.work()


@starts_processes
@needs_fork
@kinds
@in_own_process
def test_child_runs_what_another_thread_ran_at_the_fork(kind):
    it = ReturnsProcess()

    def call():
        return CALLS[kind](it)

    def child():
        assert call() == os.getpid() != it.parent
        run_threads(call, call)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    it.begun.wait()
    in_child(child)
    it.go.set()
    assert call() == it.parent
    for thread in threads:
        thread.join()


@starts_processes
@needs_fork
@kinds
@in_own_process
def test_run_that_forks_goes_on_in_both_processes(kind):
    it = ReturnsProcess()
    waiter, results = [], []

    def call():
        return CALLS[kind](it)

    def fork():
        if os.fork() == 0:
            try:
                call()
            except RuntimeError as error:
                assert "recursive" in str(error)
                waiter.append(threading.Thread(target=lambda: results.append(call())))
                waiter[0].start()
                time.sleep(0.05)
                assert not results
            else:
                os._exit(3)
        return os.getpid()

    it.body = fork
    assert call() == os.getpid()
    if os.getpid() != it.parent:
        waiter[0].join(10)
        os._exit(0 if results == [os.getpid()] else 4)
    _, status = os.wait()
    assert status == 0, status


@starts_processes
@needs_fork
@kinds
@in_own_process
def test_wait_goes_on_in_both_processes_after_handler_forks(kind):
    it = ReturnsProcess()
    children = []

    def call():
        return CALLS[kind](it)

    def handler(*_):
        child = os.fork()
        if child:
            children.append(child)

    signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=call)
    thread.start()
    it.begun.wait()

    def later():
        time.sleep(0.2)
        os.kill(it.parent, signal.SIGUSR1)
        while not children:  # or the child may find the locks of `go` held
            time.sleep(0.01)
        it.go.set()

    threading.Thread(target=later).start()
    faulthandler.cancel_dump_traceback_later()
    assert call() == os.getpid()
    if os.getpid() != it.parent:
        os._exit(0)
    assert exit_code_of(children[0]) == 0
    thread.join()


# What is kept, and for how long


class Thing:
    """Can be referred to weakly."""

    def __call__(self):
        return 1


def gone(watch):
    # Again if need be: a collection that another thread has begun makes ours return at once.
    return eventually(lambda: gc.collect() >= 0 and watch() is None, timeout=10)


@pytest.mark.parametrize("retry", [False, True])
def test_function_is_released_after_its_run(retry):
    def make():
        thing = Thing()
        f = once(lambda: thing() and Result(), retry=retry)
        return f, weakref.ref(thing), weakref.ref(f.__wrapped__)

    class Result:
        pass

    f, thing, fn = make()
    gc.collect()
    assert thing() is not None
    result = f()
    assert gone(thing)
    assert gone(fn)
    assert f() is result


def test_do_keeps_neither_function_nor_arguments():
    o = Once()
    things = [Thing(), Thing(), Thing()]
    watches = list(map(weakref.ref, things))
    for _ in range(2):
        o.do(lambda *args, thing=things[0], **kwargs: None, things[1], key=things[2])
    del things
    assert all(map(gone, watches))


def test_function_is_kept_while_it_may_run_again():
    f = once(Thing(), retry=True)
    watch = weakref.ref(f.__wrapped__)
    gc.collect()
    assert watch() is not None
    assert f() == 1
    assert gone(watch)


@starts_threads
def test_function_is_released_while_threads_waited():
    fn = Counted(held=True)
    f = once(fn)
    watch = weakref.ref(fn)
    waiters = [start(f) for _ in range(3)]
    assert fn.begun.wait(LONG)
    fn.go.set()
    ended(*waiters)
    del fn
    assert gone(watch)


def test_cycles_are_collected():
    def make(run):
        thing = Thing()

        @once
        def f():
            return [f, thing]

        o = Once()
        if run:
            f()
            o.do(lambda: [o, thing])
        thing.parts = f, o
        return weakref.ref(thing), weakref.ref(f), weakref.ref(o)

    for run in (False, True):
        watches = make(run)
        assert all(map(gone, watches))


def test_failures_are_collected_through_cycles():
    def make():
        thing = Thing()

        @once
        def f():
            assert thing
            raise ValueError(f)

        with pytest.raises(ValueError):
            f()
        return weakref.ref(thing), weakref.ref(f)

    watches = make()
    assert all(map(gone, watches))


def test_once_is_usable_in_a_finaliser_of_its_cycle():
    log = []

    class Last:
        def __init__(self):
            self.f = once(lambda: [self])
            self.o = Once()

        def __del__(self):
            log.append((self.f(), self.o.do(lambda: 5)))

    def make():
        Last()
        last = Last()
        last.f()
        last.o.do(lambda: last)

    make()
    assert eventually(lambda: gc.collect() >= 0 and len(log) == 2)


def test_only_the_object_and_the_caller_refer_to_the_result():
    class Result:
        pass

    f = once(Result)
    watch = weakref.ref(f())
    gc.collect()
    result = f()
    assert watch() is result
    del f
    gc.collect()
    assert watch() is result
    del result
    gc.collect()
    assert watch() is None


def test_long_chain_of_results_is_freed():
    f = None
    for _ in range(50_000):
        f = once(lambda f=f: [f])
        f()
    del f
    o = None
    for _ in range(50_000):
        inner, o = o, Once()
        o.do(lambda inner=inner: inner)
    del o, inner
    gc.collect()


# The object that `once` makes


def test_the_object_is_weakly_referenced_and_hashed():
    f = once(int)
    watch = weakref.ref(f)
    assert {f: 1}[f] == 1
    assert f == watch()
    assert f != once(int)
    assert bool(f)
    assert 16 < sys.getsizeof(f) <= 256
    del f
    assert gone(watch)


@pytest.mark.parametrize("run", [False, True])
def test_the_object_is_not_pickled_or_copied(run):
    f = once(int)
    if run:
        f()
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="OnceFunction"):
            way(f)
    p = once_property(len)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="once_property"):
            way(p)


def test_the_object_can_be_subclassed():
    kind = type(once(int))
    assert kind[int](int)() == 0

    class Logged(kind):
        calls = 0

        def __call__(self):
            self.calls += 1
            return super().__call__()

    f = Logged(lambda: 10**9)
    assert f() == f() == 10**9
    assert f.calls == 2
    assert f.done()


def test_the_object_without_init():
    kind = type(once(int))
    f = kind.__new__(kind)
    assert "not initialized" in repr(f)
    for use in (f, f.done):
        with pytest.raises(RuntimeError, match="not initialized"):
            use()
    with pytest.raises(TypeError):
        f.__init__(1)
    f.__init__(int)
    assert f() == 0
    with pytest.raises(RuntimeError, match="already initialized"):
        f.__init__(lambda: 1)
    assert f() == 0
    assert f.__name__ == "int"


# once_property


class Page:
    """Counts how often each attribute is computed."""

    def __init__(self):
        self.computed = []

    @once_property
    def words(self):
        """The words."""
        self.computed.append("words")
        return ["to", "be"]

    @once_property
    def length(self):
        self.computed.append("length")
        return len(self.words)


def test_property_is_computed_once_per_instance():
    page, other = Page(), Page()
    assert page.words is page.words
    assert page.words is not other.words
    assert page.length == 2
    assert page.computed == ["words", "length"]
    assert page.__dict__["words"] is page.words


def test_property_is_set_and_deleted():
    page = Page()
    first = page.words
    del page.words
    assert page.words is not first
    page.words = 5
    assert page.words == 5
    assert page.computed == ["words", "words"]
    del page.words
    with pytest.raises(AttributeError):
        del page.words


def test_property_of_the_class():
    assert isinstance(Page.words, once_property)
    assert Page.words.attrname == "words"
    assert Page.words.__doc__ == "The words."
    assert Page.words.func(Page()) == ["to", "be"]
    assert inspect.getdoc(once_property)


def test_property_of_a_class_without_dict_raises():
    class Slotted:
        __slots__ = ()

        @once_property
        def value(self):
            raise AssertionError("called")

    with pytest.raises(TypeError, match="__dict__"):
        Slotted().value


def test_property_with_read_only_dict_raises():
    class Meta(type):
        @once_property
        def value(cls):
            return 1

    class Made(metaclass=Meta):
        pass

    with pytest.raises(TypeError, match="__dict__"):
        Made.value


def test_property_without_a_name_raises():
    class Bare:
        pass

    Bare.value = once_property(lambda self: 1)
    with pytest.raises(TypeError, match="__set_name__"):
        Bare().value
    Bare.value.__set_name__(Bare, "value")
    assert Bare().value == 1


def test_property_with_two_names_raises():
    # Up to Python 3.11 errors in __set_name__ come wrapped in a RuntimeError.
    with pytest.raises((TypeError, RuntimeError)):

        class Twice:
            a = b = once_property(lambda self: 1)

    shared = once_property(lambda self: type(self).__name__)

    class First:
        value = shared

    class Second:
        value = shared

    assert (First().value, Second().value) == ("First", "Second")


def test_property_of_unhashable_instances():
    class Odd(Obstinate):
        @once_property
        def value(self):
            return 10**9

    odd = Odd()
    assert odd.value is odd.value


def test_property_overridden_in_a_subclass():
    class Longer(Page):
        @once_property
        def words(self):
            return [*super().words, "or", "not"]

    page = Longer()
    assert page.words == ["to", "be", "or", "not"]
    assert page.words is page.words
    assert page.length == 4
    assert page.computed == ["words", "length"]


def test_recursive_property_raises():
    class Loop:
        @once_property
        def a(self):
            return self.b

        @once_property
        def b(self):
            return self.a

    loop = Loop()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="recursive"):
            loop.a
    assert not loop.__dict__


def test_property_uses_that_of_another_instance():
    class Node:
        def __init__(self, below):
            self.below = below

        @once_property
        def depth(self):
            return 0 if self.below is None else self.below.depth + 1

    node = None
    for _ in range(20):
        node = Node(node)
    assert node.depth == 19


@starts_threads
def test_properties_of_one_instance_do_not_wait_for_each_other():
    meet = threading.Barrier(2)

    class Pair:
        @once_property
        def a(self):
            return meet.wait(LONG)

        @once_property
        def b(self):
            return meet.wait(LONG)

    pair = Pair()
    assert sorted(run_threads(lambda: pair.a, lambda: pair.b)) == [0, 1]


@starts_threads
def test_property_deleted_by_other_threads_runs_again():
    class Counter:
        @once_property
        def value(self):
            return object()

    counter = Counter()

    def read():
        for _ in range(500):
            assert type(counter.value) is object

    def delete():
        for _ in range(500):
            counter.__dict__.pop("value", None)

    run_threads(read, read, delete)


def test_finished_runs_leave_nothing_in_the_tables():
    from nogil_sync._common import once as _once

    assert threading.get_ident() not in _once._waits
    mine = [run for run in list(_once._running.values()) if run.thread == threading.get_ident()]
    assert not mine
