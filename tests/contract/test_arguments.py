"""A table of bad arguments: both backends raise the same errors, letter for letter.

Every public callable is called with every kind of argument that does not fit, on an object of the
native backend and on one of the pure backend, in one process.  What is compared is the outcome: the
type and the text of the exception, or what was returned.  Where there is no native backend the
pure one is only asked to raise what an argument can be blamed for.
"""

import copy
import gc
import importlib
import inspect
import itertools
import math
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodDescriptorType, SimpleNamespace, WrapperDescriptorType
from typing import Any

import pytest
from marks import starts_threads
from support import FREE_THREADED

import nogil_sync
from nogil_sync import _threading as pure

PURE = [n for n in nogil_sync.__all__ if hasattr(pure, n)]

native: Any = pure
if FREE_THREADED:
    _core = importlib.import_module("nogil_sync._native._core")
    # The backends share all that is not in C.
    native = SimpleNamespace(**{n: getattr(_core, n, getattr(pure, n)) for n in PURE})

CLASSES = [n for n in PURE if inspect.isclass(getattr(pure, n))]


class Unfit:
    """Every conversion of it raises."""

    def refuse(self, *_: object) -> Any:
        raise LookupError("an error of its own")

    __bool__ = __index__ = __float__ = __hash__ = __iter__ = refuse


class Huge:
    def __index__(self) -> int:
        return 10**30


ANYTHING: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "0": 0,
    "-1": -1,
    "2": 2,
    "2**31": 2**31,
    "2**62": 2**62,
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63-1": -(2**63) - 1,
    "10**400": 10**400,
    "1.5": 1.5,
    "-1.5": -1.5,
    "1e300": 1e300,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "TIMEOUT_MAX": threading.TIMEOUT_MAX,
    "over TIMEOUT_MAX": threading.TIMEOUT_MAX + 1024,
    "str": "x",
    "number as str": "1",
    "bytes": b"x",
    "complex": 1j,
    "list": [],
    "tuple": (1, 2),
    "dict": {},
    "object": object(),
    "class": int,
    "unfit": Unfit(),
    "huge": Huge(),
}
PAIRED = ("None", "-1", "0", "10**400", "1e300", "nan", "str", "list", "unfit")


def new_channel(m: Any) -> Any:
    channel = m.Channel(3)
    channel.send("item")
    return channel


def filled_cache(m: Any) -> Any:
    cache = m.Cache(5)
    cache["x"] = "y"
    cache[-1] = 0
    return cache


def set_event(m: Any) -> Any:
    event = m.Event()
    event.set()
    return event


def held(lock: Any) -> Any:
    lock.acquire()
    return lock


def entered(context: Any) -> Any:
    context.__enter__()
    return context


def broken_barrier(m: Any) -> Any:
    barrier = m.Barrier(3)
    barrier.abort()
    return barrier


# An object whose methods do not wait, whatever the arguments.
OBJECTS: dict[str, Callable[[Any], Any]] = {
    "AtomicInt64": lambda m: m.AtomicInt64(5),
    "AtomicUint64": lambda m: m.AtomicUint64(5),
    "AtomicInt32": lambda m: m.AtomicInt32(5),
    "AtomicUint32": lambda m: m.AtomicUint32(5),
    "AtomicBool": lambda m: m.AtomicBool(),
    "AtomicRef": lambda m: m.AtomicRef(),
    "ShardedCounter": lambda m: m.ShardedCounter(5),
    "ShardedFloatCounter": lambda m: m.ShardedFloatCounter(5),
    "Mutex": lambda m: m.Mutex(),
    "a locked Mutex": lambda m: held(m.Mutex()),
    "RLock": lambda m: m.RLock(),
    "a held RLock": lambda m: held(m.RLock()),
    "RWMutex": lambda m: m.RWMutex(),
    "RWMutex.read": lambda m: m.RWMutex().read,
    "RWMutex.write": lambda m: m.RWMutex().write,
    "a held RWMutex.read": lambda m: held(m.RWMutex().read),
    "a held RWMutex.write": lambda m: held(m.RWMutex().write),
    "Cond": lambda m: m.Cond(),
    "a held Cond": lambda m: held(m.Cond()),
    "Cond of an RLock": lambda m: m.Cond(threading.RLock()),
    "Semaphore": lambda m: m.Semaphore(3),
    "an unbounded Semaphore": lambda m: m.Semaphore(3, bounded=False),
    "an empty Semaphore": lambda m: m.Semaphore(0),
    "Semaphore.hold": lambda m: m.Semaphore(3).hold(2),
    "an entered Semaphore.hold": lambda m: entered(m.Semaphore(3).hold(2)),
    "Event": set_event,
    "WaitGroup": lambda m: m.WaitGroup(),
    "Barrier": lambda m: m.Barrier(1),
    "a broken Barrier": broken_barrier,
    "Once": lambda m: m.Once(),
    "once": lambda m: m.once(lambda: 1),
    "Pool": lambda m: m.Pool(list),
    "Pool.use": lambda m: m.Pool(list).use(),
    "an entered Pool.use": lambda m: entered(m.Pool(list).use()),
    "SyncMap": lambda m: m.SyncMap({"x": "y", -1: 0}),
    "an empty SyncMap": lambda m: m.SyncMap(),
    "SyncMap.keys": lambda m: m.SyncMap(a=1).keys(),
    "SyncMap.values": lambda m: m.SyncMap(a=1).values(),
    "SyncMap.items": lambda m: m.SyncMap(a=1).items(),
    "iter(SyncMap)": lambda m: iter(m.SyncMap(a=1)),
    "Cache": filled_cache,
    "an empty Cache": lambda m: m.Cache(0),
    "cached": lambda m: m.cached(lambda n=1: n),
    "Channel": new_channel,
    "a closed Channel": lambda m: entered_and_left(m.Channel()),
    "Channel.sending": lambda m: m.Channel(1).sending(1),
    "Channel.sender": lambda m: m.Channel(1).sender(),
    "an entered Channel.sender": lambda m: entered(m.Channel(1).sender()),
}


def entered_and_left(context: Any) -> Any:
    with context:
        return context


FUNCTIONS = ("pin", "pin_all", "is_pinned", "once", "cached", "select", "try_select")
SPECIAL = ("__enter__", "__exit__", "__call__")

# Calls that would wait, or allocate much memory, with these arguments: they are left out.
WAITS = {("a locked Mutex", "acquire"), ("a locked Mutex", "__enter__")} | {
    (subject, method)
    for subject in ("a held RWMutex.write", "a held RWMutex.read", "a held Cond")
    for method in ("acquire", "__enter__", "wait", "wait_for")
}
WAITS |= {
    (subject, method)
    for subject in ("an empty Semaphore", "an unbounded Semaphore")
    for method in ("acquire", "__enter__")
}
WAITS |= {("Cond of an RLock", method) for method in ("wait", "wait_for")}
MAY_WAIT = {"None", "True", "2", "-1", "2**31", "1.5", "TIMEOUT_MAX"}
# These pin their arguments, for ever.
PINS = {"pin", "pin_all"}


class Case:
    """One call."""

    def __init__(self, subject: str, method: str, args: tuple, kwargs: dict[str, Any], say: str):
        self.subject = subject
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.say = say

    def outcome(self, m: Any) -> tuple[str, ...]:
        if self.method:
            function = called_as_method(OBJECTS[self.subject](m), self.method)
        else:
            function = getattr(m, self.subject)
        return outcome(lambda: function(*self.args, **self.kwargs))


def called_as_method(obj: Any, name: str) -> Callable[..., Any]:
    """The method as `obj.name(...)` calls it.

    A bound method without parameters that was fetched before refuses arguments in the interpreter's
    words: see test_bound_methods_raise_for_unexpected_arguments.
    """
    found = inspect.getattr_static(type(obj), name, None)
    if found is None or isinstance(found, staticmethod | classmethod):
        return getattr(obj, name)
    return partial(getattr(type(obj), name), obj)


def outcome(call: Callable[[], Any]) -> tuple[str, ...]:
    """What came of it, in a form that can be compared."""
    try:
        result = call()
        if inspect.iscoroutine(result):
            result = first_step(result)
    except BaseException as error:
        kind = type(error)
        return ("raised", kind.__module__, kind.__qualname__, plain(str(error)))
    if result is None or isinstance(result, bool | int | float | str | bytes | tuple):
        return ("returned", repr(result))
    return ("returned", type(result).__name__)


def first_step(coroutine: Any) -> Any:
    """What it returns without waiting; it waits for no event loop, as there is none."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


def plain(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x…", text)


def methods_of(thing: Any) -> list[str]:
    names = [name for name in dir(thing) if not name.startswith("_")]
    return [n for n in (*names, *SPECIAL) if callable(getattr(thing, n, None))]


def parameters_of(function: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def callables() -> Iterator[tuple[str, str, list[inspect.Parameter]]]:
    """All there are, as the pure backend sees them."""
    for name in (*CLASSES, *FUNCTIONS):
        if name not in ("ChannelClosed", "PerformanceWarning"):
            thing = getattr(pure, name)
            yield name, "", parameters_of(thing)
    for subject, make in OBJECTS.items():
        thing = make(pure)
        for method in methods_of(thing):
            yield subject, method, parameters_of(getattr(thing, method))


FITTING = {"fn": int, "new": list, "predicate": lambda: True, "iterable": (), "key": "x"}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def fitting(parameters: list[inspect.Parameter]) -> dict[str, Any]:
    """An argument for each parameter that needs one."""
    return {
        p.name: FITTING.get(p.name, 1)
        for p in parameters
        if p.default is p.empty and p.kind not in VARIADIC
    }


def call_with(
    parameters: list[inspect.Parameter], values: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call that gives these parameters these values."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for p in parameters:
        if p.name in values:
            if p.kind is p.POSITIONAL_ONLY:
                args.append(values[p.name])
            else:
                kwargs[p.name] = values[p.name]
    return tuple(args), kwargs


def wrong_numbers(
    parameters: list[inspect.Parameter],
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Too many, too few, unknown and doubled ones."""
    kinds = [p.kind for p in parameters]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    need = fitting(parameters)
    args, kwargs = call_with(parameters, need)
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        fill = tuple(FITTING.get(p.name, 1) for p in positional)
        yield "one too many", (*fill, 1), {}
        yield "three too many", (*fill, 1, 2, 3), {}
        yield "too many, and an unknown name", (*fill, 1), {"unknown": 1}
        if named:
            yield "too many, and a known name", (*fill, 1), {named[-1].name: 1}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        yield "an unknown name", args, {**kwargs, "unknown": 1}
        yield "unknown names", args, {**kwargs, "unknown": 1, "other": 2}
        yield "an empty name", args, {**kwargs, "": 1}
        yield "a name that is no str", args, {**kwargs, 1: 1}  # type: ignore[dict-item]
        for p in named:
            yield f"nearly {p.name}", args, {**kwargs, p.name + "s": 1}
        for p in positional:
            if p.kind is p.POSITIONAL_ONLY:
                yield f"{p.name} by name", (), {p.name: 1}
    for p in positional:
        if p.kind is p.POSITIONAL_OR_KEYWORD:
            before = positional[: positional.index(p) + 1]
            given = tuple(FITTING.get(each.name, 1) for each in before)
            yield f"{p.name} twice", given, {p.name: 1}
    for n in range(len(args)):
        yield f"only {n}", args[:n], kwargs
    for name in kwargs:
        yield f"no {name}", args, {k: v for k, v in kwargs.items() if k != name}


def bad_values(
    subject: str, method: str, parameters: list[inspect.Parameter]
) -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    need = fitting(parameters)
    plain = [p for p in parameters if p.kind not in VARIADIC]
    waits = (subject, method) in WAITS
    for p in plain:
        for say, value in ANYTHING.items():
            if (waits and say in MAY_WAIT) or (p.name == "capacity" and say == "2**31"):
                continue
            extra = {"blocking": False} if waits and p.name == "n" else {}
            if waits and p.name == "blocking" and say not in ("False", "unfit"):
                continue
            if waits and p.name == "predicate":
                continue
            yield f"{p.name}={say}", *call_with(parameters, {**need, **extra, p.name: value})
    for p, q in itertools.combinations(plain, 2):
        for one, other in itertools.product(PAIRED, repeat=2):
            if waits:
                continue
            values = {**need, p.name: ANYTHING[one], q.name: ANYTHING[other]}
            yield f"{p.name}={one}, {q.name}={other}", *call_with(parameters, values)


def cases() -> Iterator[Case]:
    for subject, method, parameters in callables():
        for say, args, kwargs in wrong_numbers(parameters):
            yield Case(subject, method, args, kwargs, say)
        if subject not in PINS:
            for say, args, kwargs in bad_values(subject, method, parameters):
                yield Case(subject, method, args, kwargs, say)


BY_CALLABLE: dict[str, list[Case]] = {}
for each in cases():
    BY_CALLABLE.setdefault(f"{each.subject}.{each.method}".rstrip("."), []).append(each)

BLAMED: tuple[str, ...] = (
    "TypeError",
    "ValueError",
    "OverflowError",
    "LookupError",
    "RuntimeError",
    "KeyError",
)
BLAMED += ("TimeoutError", "BrokenBarrierError", "ChannelClosed", "AttributeError", "StopIteration")


def compare(mine: tuple[str, ...], its: tuple[str, ...]) -> None:
    assert mine == its
    assert mine[0] == "returned" or mine[2] in BLAMED


@starts_threads
@pytest.mark.parametrize("name", BY_CALLABLE)
def test_both_backends_raise_the_same_for_bad_arguments(name, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # of WaitGroup.go
    different = {}
    for case in BY_CALLABLE[name]:
        mine, its = case.outcome(native), case.outcome(pure)
        if mine != its:
            different[case.say] = mine, its
        if its[0] == "raised":
            assert its[2] in BLAMED, (case.say, its)
    assert not different


def test_table_covers_every_public_call():
    """Every public name has its place in it, but for exceptions and what both backends share."""
    subjects = {type(make(pure)).__name__ for make in OBJECTS.values()}
    shared = {"ChannelClosed", "PerformanceWarning", "once_property", "TaskGroup", "backend"}
    shared |= {"Left", "PinReport", "pin_report", "Cancelled", "shield", "Selected"}
    shared |= {"CacheStats", "Ticker", "after", "After", "SemaphoreHoldAsync", "select_async"}
    assert {*subjects, *FUNCTIONS, *shared} >= {*nogil_sync.__all__}


# Wrong states


def raises(m: Any, *lines: str) -> Any:
    """Run lines of code with the names of a backend; the last is an expression."""
    names = {name: getattr(m, name) for name in (*CLASSES, *FUNCTIONS)}
    names |= {"threading": threading, "gc": gc, "copy": copy, "pickle": pickle, "Unfit": Unfit}
    for line in lines[:-1]:
        exec(line, names)
    return eval(lines[-1], names)


STATES = [
    "Mutex().release()",
    "Mutex().__exit__(None, None, None)",
    "RWMutex().read.release()",
    "RWMutex().read.__exit__(None, None, None)",
    "RWMutex().write.release()",
    "RWMutex().write.__exit__(None, None, None)",
    "RWMutex().downgrade()",
    "rw = RWMutex(); rw.read.acquire(); rw.write.release()",
    "rw = RWMutex(); rw.read.acquire(); rw.downgrade()",
    "rw = RWMutex(); rw.write.acquire(); rw.read.release()",
    *(f"Cond().{call}" for call in ("wait()", "notify()", "notify_all()", "release()")),
    *(f"Cond().{call}" for call in ("wait_for(bool)", "__exit__(None, None, None)")),
    "Cond(threading.RLock()).notify()",
    "Cond(threading.RLock()).release()",
    "Cond(Unfit())",
    "Semaphore().release()",
    "Semaphore(3).release(10**30)",
    "Semaphore(0).release()",
    "Semaphore(3).__exit__(None, None, None)",
    "Semaphore(3).hold(4)",
    "Semaphore(3).hold().__exit__(None, None, None)",
    "Semaphore(3, bounded=False).release(2**62)",
    "Semaphore(0).hold(timeout=0).__enter__()",
    "Semaphore(2**62)",
    "WaitGroup().done()",
    "WaitGroup().add(-1)",
    "WaitGroup().add(2**31)",
    *(f"Barrier({arguments})" for arguments in ("0", "-1", "-(10**30)", "2**31", "10**30", "1.5")),
    *(f"Barrier(2, {arguments})" for arguments in ("5", "None, float('nan')", "None, 'x'")),
    *(f"Barrier(2, timeout={seconds}).wait()" for seconds in ("0", "-1", "0.001")),
    "Barrier(2).wait(0)",
    "Barrier(2, None, 5).wait(-1)",
    "b = Barrier(2); b.abort(); b.wait()",
    "b = Barrier(1, lambda: b.wait()); b.wait()",
    "b = Barrier(1, lambda: b.abort()); b.wait()",
    "b = Barrier(1, lambda: b.reset()); b.wait()",
    "Barrier(1, len).wait()",
    "Channel().send(1, 0)",
    "Channel().recv(0)",
    "Channel(-1)",
    "Channel(2**60)",
    *(
        f"c = Channel(); c.close(); {call}"
        for call in ("c.send(1)", "c.try_send(1)", "c.recv()", "c.try_recv()", "next(c)")
    ),
    "s = Channel().sender(); s.__enter__(); s.__enter__()",
    "s = Channel().sender(); s.__enter__(); s.__exit__(); s.__enter__()",
    "s = Channel().sender(); s.__enter__(); s.__exit__(); s.__exit__()",
    "Channel().sender().__exit__(None, None, None)",
    *(
        f"c = Channel(1); c.send(0); {call}({cases})"
        for call in ("select", "try_select")
        for cases in ("", "5", "c, None", "c, Channel", "Channel.__new__(Channel)", "c, cases=1")
    ),
    "select(Channel(), timeout=0)",
    "select(Channel(), timeout='x')",
    "select(Event(), Channel().sending(1), Channel(), timeout=0.01)",
    "c = Channel(); c.close(); select(c.sending(1))",
    "c = Channel(); c.close(); try_select(c.sending(1), Event())",
    "Channel.__new__(Channel).sending(1)",
    "Channel.__new__(Channel).sender()",
    "pickle.dumps(Channel().sending(1))",
    "copy.copy(Channel().sender())",
    "u = Pool(list).use(); u.__enter__(); u.__enter__()",
    "Pool(list).use().__exit__(None, None, None)",
    "Pool(list, reset=len).put(1)",
    "Pool(len).get()",
    "o = Once(); o.do(lambda: o.do(int))",
    "o = Once(); o.do(lambda: int('x'))",
    "o = Once(); o.do(5)",
    "f = once(lambda: f()); f()",
    "once(lambda x: x)",
    "once(lambda *, x: x)",
    "once(5)",
    "once()(5)",
    "OnceFunction(lambda x: x)",
    "SyncMap()['x']",
    "SyncMap()[1, 2]",
    "SyncMap().__delitem__('x')",
    "SyncMap().pop('x')",
    "SyncMap().popitem()",
    *(
        f"SyncMap(){call}"
        for call in ("[[]]", ".get([])", ".pop([])", ".__contains__([])", ".insert([], 1)")
    ),
    *(f"SyncMap({arguments})" for arguments in ("5", "[1]", "[(1, 2, 3)]", "[([], 1)]", "None")),
    "SyncMap(**{1: 2})",
    "SyncMap().update(5)",
    "SyncMap() | 5",
    "SyncMap() < SyncMap()",
    "hash(SyncMap())",
    "reversed(SyncMap())",
    "SyncMap().load_or_compute('x', 5)",
    "m = SyncMap(); m.load_or_compute('x', lambda: m.load_or_compute('x', int))",
    "SyncMap().modify('x', 5, 1)",
    "next(iter(SyncMap()))",
    "Cache(5)['x']",
    "Cache(5).__delitem__('x')",
    "Cache(5).pop('x')",
    *(f"Cache(5){call}" for call in ("[[]]", ".get([])", ".pop([])", ".put([], 1)")),
    *(f"Cache({arguments})" for arguments in ("", "-1", "'x'", "2**63", "1, 2", "5, ttl=0")),
    *(f"Cache(5, {name}=5)" for name in ("weigher", "on_evict", "clock", "nothing")),
    "Cache(5, ttl=float('nan'))",
    "Cache(5, ttl='x')",
    "Cache(5, ttl=1e300)",
    "Cache(5).put('x', 1, ttl=-1)",
    "Cache(5, weigher=lambda k, v: -1).put('x', 1)",
    "Cache(5, weigher=lambda k, v: v).put('x', 'y')",
    "Cache(5, weigher=lambda k, v: v).put('x', 2**63)",
    "Cache(5, ttl=1, clock=lambda: 'x').put('x', 1)",
    "Cache(5, ttl=1, clock=lambda: float('nan')).put('x', 1)",
    "Cache(5, ttl=1, clock=lambda: 1e10).put('x', 1)",
    "Cache(5).load_or_compute('x', 5)",
    "c = Cache(5); c.load_or_compute('x', lambda: c.load_or_compute('x', int))",
    "cached(5)(6)",
    "cached('x')",
    "cached(-1)",
    "cached(ttl=0)",
    "cached(key=5)",
    "cached(lambda x: x)([])",
    "AtomicRef().update(5)",
    "AtomicInt64() + 1",
    "pin_all(5)",
    "pin_all([Unfit()] and Unfit())",
]


@pytest.mark.parametrize("code", STATES)
def test_both_backends_raise_the_same_in_wrong_states(code):
    *lines, last = code.split("; ")
    mine, its = (outcome(lambda m=m: raises(m, *lines, last)) for m in (native, pure))
    compare(mine, its)
    assert its[0] == "raised"


OBJECTS_OF = [name for name in CLASSES if name not in ("ChannelClosed", "PerformanceWarning")]
OBJECTS_OF.remove("once_property")
MADE_BY_OTHERS = (
    "ChannelSender",
    "PoolUse",
    "RWMutexReader",
    "RWMutexWriter",
    "SemaphoreHold",
    "Sending",
    "SyncMapItems",
    "SyncMapIterator",
    "SyncMapKeys",
    "SyncMapValues",
)
NEEDED = {"Pool": "list", "OnceFunction": "int", "CachedFunction": "int", "Cache": "5"}


@pytest.mark.parametrize("name", [n for n in OBJECTS_OF if n not in MADE_BY_OTHERS])
def test_both_backends_do_the_same_without_init(name):
    for method in methods_of(getattr(pure, name)):
        if isinstance(inspect.getattr_static(getattr(pure, name), method), staticmethod):
            continue
        parameters = parameters_of(getattr(getattr(pure, name), method))[1:]
        needs = fitting(parameters)
        if any(p.name == "timeout" for p in parameters):
            needs["timeout"] = 0  # many are valid without __init__, and would wait
        args, kwargs = call_with(parameters, needs)

        def call(m, method=method, args=args, kwargs=kwargs):
            cls = getattr(m, name)
            return called_as_method(cls.__new__(cls), method)(*args, **kwargs)

        compare(outcome(lambda: call(native)), outcome(lambda: call(pure)))


@pytest.mark.parametrize("name", [n for n in OBJECTS if n in CLASSES])
def test_bound_methods_raise_for_unexpected_arguments(name):
    """The same type of error, whatever its words."""
    for method in methods_of(getattr(pure, name)):
        function = getattr(getattr(pure, name), method)
        if len(parameters_of(function)) == 1:
            for m in (native, pure):
                with pytest.raises(TypeError, match=rf"\.{method}\(\) takes "):
                    getattr(OBJECTS[name](m), method)(None)


@pytest.mark.parametrize("name", [n for n in OBJECTS if n in CLASSES])
def test_methods_refuse_objects_of_other_types(name):
    """In the interpreter's words. The pure classes' are plain functions, which take any object."""
    for attribute, method in vars(getattr(native, name)).items():
        if isinstance(method, MethodDescriptorType | WrapperDescriptorType):
            with pytest.raises(TypeError, match=f"^descriptor '{attribute}' .*'object'"):
                method(object())
            with pytest.raises(TypeError, match=r"needs an argument$"):
                method()


COMMON = [
    "X({needed}).__init__({needed})",
    "x = X.__new__(X); x.__init__({needed}); x.__init__({needed})",
    "pickle.dumps(X({needed}))",
    "copy.deepcopy(X({needed}))",
    "X({needed}).nothing",
    "X({needed}).new = 1",
    "X({needed})()",
    "X({needed})[0]",
    "X({needed}) + 1",
    "X({needed}) < 1",
    "-X({needed})",
    "int(X({needed}))",
    "X.nothing",
    "type('Sub', (X,), dict())({needed}).__init__({needed})",
    "pickle.dumps(type('Sub', (X,), dict())({needed}))",
]
VALUED = [name for name in OBJECTS_OF if name.startswith(("Atomic", "Sharded"))]


@pytest.mark.parametrize("name", [n for n in OBJECTS_OF if n not in MADE_BY_OTHERS])
@pytest.mark.parametrize("code", COMMON)
def test_objects_refuse_unsupported_operations(name, code):
    code = code.replace("X", name).replace("{needed}", NEEDED.get(name, ""))
    lines = code.split("; ")
    if " = 1" in code:
        lines.append("None")
    mine, its = (outcome(lambda m=m: raises(m, *lines)) for m in (native, pure))
    assert mine == its


@pytest.mark.parametrize("name", VALUED)
def test_objects_have_no_truth_value(name):
    compare(*(outcome(lambda m=m: bool(getattr(m, name)())) for m in (native, pure)))


@pytest.mark.parametrize(
    "name", [n for n in MADE_BY_OTHERS if n not in ("SyncMapItems", "SyncMapKeys", "SyncMapValues")]
)
@pytest.mark.parametrize("code", ["X()", "X(1, a=2)", "type('Sub', (X,), dict())"])
def test_internal_types_cannot_be_instantiated(name, code):
    code = code.replace("X", name)
    mine, its = (outcome(lambda m=m: raises(m, code)) for m in (native, pure))
    compare(mine, its)
    assert its[2] == "TypeError"
