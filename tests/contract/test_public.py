"""What a user can hold, annotate or see in ``help()`` has a public name, and all of it has docs."""

import contextlib
import inspect
import re
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic

import pytest
from marks import starts_threads

import nogil_sync
from nogil_sync import Channel
from nogil_sync import _threading as pure

CLASSES = [n for n in nogil_sync.__all__ if inspect.isclass(getattr(nogil_sync, n))]
OURS = [getattr(nogil_sync, name) for name in CLASSES]

# How to make objects, and arguments of their methods: everything is reached from here.
ROOTS: dict[str, Callable[[], Any]] = {
    **{n: getattr(nogil_sync, n) for n in CLASSES if n.startswith(("Atomic", "Sharded"))},
    "Mutex": nogil_sync.Mutex,
    "RLock": nogil_sync.RLock,
    "RWMutex": nogil_sync.RWMutex,
    "Cond": nogil_sync.Cond,
    "Semaphore": lambda: nogil_sync.Semaphore(100),
    "Event": nogil_sync.Event,
    "WaitGroup": nogil_sync.WaitGroup,
    "Barrier": lambda: nogil_sync.Barrier(1),
    "TaskGroup": nogil_sync.TaskGroup,
    "Once": nogil_sync.Once,
    "once": lambda: nogil_sync.once(lambda: 1),
    "once()": lambda: nogil_sync.once(),
    "once_property": lambda: nogil_sync.once_property(len),
    "Pool": lambda: nogil_sync.Pool(list),
    "SyncMap": lambda: nogil_sync.SyncMap({"a": 1, "b": 2}),
    "Cache": lambda: nogil_sync.Cache(5),
    "cached": lambda: nogil_sync.cached(lambda n: n),
    "Channel": lambda: nogil_sync.Channel(5),
    "ChannelClosed": nogil_sync.ChannelClosed,
    "select": lambda: nogil_sync.select(nogil_sync.WaitGroup()),
    "Cancelled": nogil_sync.Cancelled,
    "shield": nogil_sync.shield,
    "Selected": lambda: nogil_sync.Selected(None, None, False),
    "Ticker": lambda: nogil_sync.Ticker(0.001),
    "after": lambda: nogil_sync.after(60),
    "PerformanceWarning": lambda: nogil_sync.PerformanceWarning("why"),
    "pin_report": lambda: nogil_sync.pin_report([]),
    "pin_report.left": lambda: nogil_sync.pin_report([threading.Lock()]).left[0],
}
ARGUMENTS: dict[str, Any] = {
    "fn": lambda *_: 1,
    "func": len,
    "predicate": lambda: True,
    "timeout": 0,
    "key": "a",
    "instance": None,
}
# Methods that would leave the object locked for the calls after them.
LEFT_OUT = {"acquire"}
PROTOCOL = ("__enter__", "__iter__", "__next__", "__or__", "__and__", "__copy__", "__call__")


def uses(thing: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Its attributes and methods, each with a function that reads or calls it."""
    for name in dir(type(thing)):
        if name.startswith("_") and name not in PROTOCOL:
            continue
        if name not in LEFT_OUT and (name != "__next__" or not isinstance(thing, Channel)):
            yield name, partial(use, thing, name)


def use(thing: Any, name: str) -> Any:
    member = getattr(thing, name)
    if not callable(member):
        return member
    try:
        parameters = list(inspect.signature(member).parameters.values())
    except ValueError:
        parameters = []
    args, kwargs = [], {}
    for p in parameters:
        if p.name in ("timeout", "blocking") and p.kind is not p.VAR_KEYWORD:
            kwargs[p.name] = 0 if p.name == "timeout" else False
            if p.name == "timeout" and "blocking" in kwargs:
                del kwargs["timeout"]
        elif p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            args.append(ARGUMENTS.get(p.name, 1))
    return member(*args, **kwargs)


def results(thing: Any) -> Iterator[tuple[str, Any]]:
    """What its attributes and methods give."""
    for name, call in uses(thing):
        with contextlib.suppress(Exception):
            result = call()
            if inspect.iscoroutine(result):
                result.close()
                continue
            yield name, result
            if name == "__enter__":
                thing.__exit__(None, None, None)


def reachable() -> dict[type, str]:
    """All types that are met on the way, each with one way that leads to it."""
    found: dict[type, str] = {}
    queue = [(name, make()) for name, make in ROOTS.items()]
    while queue:
        path, thing = queue.pop(0)
        if type(thing) in found:
            continue
        found[type(thing)] = path
        if type(thing).__module__.partition(".")[0] == "nogil_sync":
            queue += [(f"{path}.{name}", each) for name, each in results(thing)]
    return found


def is_public(cls: type) -> bool:
    """Ours by a name of the package, or the standard library's by one of its own."""
    if cls.__module__.partition(".")[0] != "nogil_sync":
        return True
    return getattr(nogil_sync, cls.__name__, None) is cls and cls.__name__ in nogil_sync.__all__


def stands_in(cls: type) -> bool:
    """A class of the standard library with parts of our own: annotations name that one."""
    base = next(each for each in cls.__mro__ if each.__module__.partition(".")[0] != "nogil_sync")
    return base is not object


@starts_threads
def test_every_type_a_user_meets_is_public():
    found = reachable()
    hidden = {c.__qualname__: p for c, p in found.items() if not is_public(c) and not stands_in(c)}
    assert not hidden
    # It did get around.
    met = {cls.__name__ for cls in found}
    assert met >= set(CLASSES) - {"BaseException"}
    assert {threading.Thread, Future} & {b for c in found for b in c.__mro__}


# Made by the standard library's classes, whose objects lack an attribute then.
VIEWS = {"SyncMapKeys", "SyncMapValues", "SyncMapItems"}


@starts_threads
@pytest.mark.parametrize("name", sorted(set(CLASSES) - VIEWS))
def test_object_without_init_works_or_says_that_it_is_not_initialized(name):
    cls = getattr(nogil_sync, name)
    if issubclass(cls, BaseException):
        pytest.skip("an exception is made by its __new__")
    try:
        thing = cls.__new__(cls)
    except TypeError:  # only other objects make it, or it is a tuple
        return
    assert name in repr(thing)
    for _, call in uses(thing):
        try:
            result = call()
            if inspect.iscoroutine(result):
                result.send(None)
        except (TypeError, ValueError, StopIteration):
            pass
        except RuntimeError as error:
            assert type(error) is RuntimeError


@pytest.mark.parametrize("name", [*CLASSES, "pin", "pin_all", "is_pinned", "once", "cached"])
def test_annotations_name_no_private_type(name):
    thing = getattr(pure, name, None) or getattr(nogil_sync, name)
    for each in [thing] if inspect.isfunction(thing) else [*vars(thing).values()]:
        member = each.fget if isinstance(each, property) else each
        if inspect.isfunction(member) and not member.__name__.startswith("_"):
            for what, annotation in member.__annotations__.items():
                text = str(annotation)
                assert not re.search(r"\b_[A-Za-z]\w*\b(?![.\w])", text), (member, what, text)


@pytest.mark.parametrize("name", CLASSES)
def test_types_name_their_public_module(name):
    cls = getattr(nogil_sync, name)
    assert cls.__module__ == "nogil_sync"
    assert cls.__qualname__ == cls.__name__ == name
    assert repr(cls) == f"<class 'nogil_sync.{name}'>"


# What the interpreter puts into each class, and data that is not part of its behaviour.
WITHOUT_DOC = {"__doc__", "__module__", "__slots__", "__dict__", "__weakref__", "__hash__"}
WITHOUT_DOC |= {"__orig_bases__", "__parameters__", "__static_attributes__", "__firstlineno__"}
WITHOUT_DOC |= {"__weaklistoffset__", "__vectorcalloffset__", "__signature__", "__final__"}
WITHOUT_DOC |= {"__abstractmethods__", "__type_params__", "__annotations__", "__reversed__"}
WITHOUT_DOC |= {"__annotate__", "__annotate_func__", "__annotations_cache__", "__match_args__"}
WITHOUT_DOC |= {"__protocol_attrs__", "__non_callable_proto_members__", "_abc_impl"}


@pytest.mark.parametrize("cls", OURS, ids=CLASSES)
def test_each_class_is_documented_down_to_its_special_methods(cls):
    assert inspect.getdoc(cls)
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "nogil_sync":
            for name, member in vars(base).items():
                if name in WITHOUT_DOC or (name[0] == "_" and name[:2] != "__"):
                    continue
                if name.startswith("__") and not name.endswith("__"):
                    continue
                if isinstance(member, types.MemberDescriptorType):
                    continue
                assert inspect.getdoc(getattr(cls, name)), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("name", [n for n in CLASSES if hasattr(pure, n)])
@pytest.mark.parametrize("method", ["__enter__", "__exit__", "__call__"])
def test_special_methods_have_the_docs_of_the_pure_class(name, method):
    mine, its = getattr(nogil_sync, name), getattr(pure, name)
    assert hasattr(mine, method) == hasattr(its, method)
    if method in {n for c in its.__mro__ if c not in (object, Generic) for n in vars(c)}:
        assert getattr(mine, method).__doc__ == getattr(its, method).__doc__
        kinds = [
            [
                (p.name, p.kind)
                for p in inspect.signature(getattr(c, method)).parameters.values()
                if p.name != "self"
            ]
            for c in (mine, its)
        ]
        assert kinds[0] == kinds[1]


GENERIC = (
    *("AtomicRef", "Channel", "ChannelSender", "Once", "OnceFunction", "Pool", "PoolUse"),
    *("Sending", "SyncMapIterator", "CachedFunction"),
)


@pytest.mark.parametrize("name", GENERIC)
def test_class_takes_parameters_at_run_time(name):
    cls = getattr(nogil_sync, name)
    assert cls[int].__origin__ is cls
    assert cls[int].__args__ == (int,)
