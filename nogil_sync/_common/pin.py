"""What ``pin(obj, deep=True)`` pins: a walk over an object graph, for both backends.

The walk asks the garbage collector which objects an object refers to, so it runs no code of the
objects themselves, and it keeps its own stack, so a chain may be a million objects deep.

It does not enter modules, classes, code and frames. It leaves out, and reports:

- objects that have to be closed, released or joined: files, sockets, locks, threads, generators,
  and every object whose class has a ``close``, a ``__del__`` or both ``acquire`` and ``release``;
- objects with such a thing inside: an instance, function or method with one among its attributes,
  closure or defaults. A built-in container is pinned, but the thing inside is not.

The object that was given is pinned in any case, as :func:`pin` promises.
"""

import gc
import sys
from collections import deque
from types import (
    AsyncGeneratorType,
    BuiltinFunctionType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any, Final, NamedTuple

from .originals import Thread, local

__all__ = ["Left", "PinReport", "pin_report"]

_CONTAINERS: Final = (dict, list, tuple, set, frozenset, deque, MappingProxyType)
# Neither pinned nor entered nor reported: they are the program, not its data.
_PROGRAM: Final = (type, ModuleType, CodeType, FrameType, TracebackType)
_RUNNING: Final = (GeneratorType, CoroutineType, AsyncGeneratorType, local)
_PATH_LENGTH: Final = 12
_LARGE: Final = 16  # the contents of a dict of this size are examined only once
_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None))
_NOT_ENTERED: Final = (*_PLAIN, BuiltinFunctionType, *_PROGRAM)
_HARMLESS: Final = frozenset((*_PLAIN, *_CONTAINERS, FunctionType, MethodType, CellType))


class Left(NamedTuple):
    """An object that ``pin(obj, deep=True)`` would leave as it is: see :func:`pin_report`.

    >>> import threading
    >>> from nogil_sync import Left, pin_report
    >>> left: Left = pin_report({"hosts": [], "lock": threading.Lock()}).left[0]
    >>> left.path, left.reason
    ("obj['lock']", 'is a lock')
    """

    #: The object.
    obj: object
    #: How it is reached from the object that was given.
    path: str
    #: Why it would be left.
    reason: str


class PinReport(NamedTuple):
    """What ``pin(obj, deep=True)`` would pin, and what it would leave: see :func:`pin_report`.

    >>> from nogil_sync import PinReport, pin_report
    >>> report: PinReport = pin_report(["host-1", ["host-2"]])
    >>> report.by_type["list"][0]
    2
    """

    #: How many objects would be pinned; those that are immortal already do not count.
    objects: int
    #: Their size in bytes, as ``sys.getsizeof`` has it.
    bytes: int
    #: For each type, by its qualified name: how many objects, and their bytes.
    by_type: dict[str, tuple[int, int]]
    #: What would be left as it is, with the reason.
    left: list[Left]


class _Gone:
    """Replaces an instance that the walk entered and then left out."""


_GONE: Final = _Gone()


class Graph:
    """The objects reachable from a root, each once, and those that are left out."""

    def __init__(self, root: object) -> None:
        self.objects: list[object] = [root]
        # Each object left out, with the index of its parent and the reason.
        self._left: list[tuple[object, int, str]] = []
        self._parents = [0]
        self._seen = {id(root)}
        self._enter = {dict, list, tuple, set, frozenset, deque, CellType, MethodType}
        # Parents and their children, by the id of the parent; the parent is kept, so its id is
        # unique.
        self._found: dict[int, tuple[object, list[object]]] = {}
        self._asked = 0  # the children of the objects before this index are known
        self._large: dict[int, tuple[object, str]] = {}
        at = 0
        while at < len(self.objects):
            self._visit(at)
            at += 1

    def pinned(self) -> list[object]:
        """The objects that are not left out, the root first."""
        return [obj for obj in self.objects if obj is not _GONE]

    def left(self) -> list[Left]:
        """The objects that are left out."""
        ways = [self._way(parent) for _, parent, _ in self._left]
        wanted: dict[int, set[int]] = {}  # children to be named, by the index of their parent
        for (obj, parent, _), way in zip(self._left, ways, strict=True):
            wanted.setdefault(parent, set()).add(id(obj))
            for at in way:
                wanted.setdefault(self._parents[at], set()).add(id(self.objects[at]))
        names = {at: _steps(self.objects[at], children) for at, children in wanted.items()}
        found = []
        for (obj, parent, reason), way in zip(self._left, ways, strict=True):
            steps = [_step(names[self._parents[at]], self.objects[at]) for at in way]
            if way and self._parents[way[0]] != 0:
                steps.insert(0, "...")
            path = "obj" + "".join(steps) + _step(names[parent], obj)
            found.append(Left(obj, path, reason))
        return found

    def _way(self, at: int) -> list[int]:
        """The indices of the objects on the way from the root, without it, to this one."""
        way: list[int] = []
        while at and len(way) < _PATH_LENGTH - 1:
            way.append(at)
            at = self._parents[at]
        return way[::-1]

    def _visit(self, at: int) -> None:
        obj = self.objects[at]
        children = self._children(at)
        if at and (reason := self._what_is_inside(obj, children)):
            self._left.append((obj, self._parents[at], reason))
            self.objects[at] = _GONE
            return
        for child in children:
            if id(child) in self._seen:
                continue
            self._seen.add(id(child))
            if reason := _must_end(child):
                self._left.append((child, at, reason))
            elif not issubclass(type(child), _PROGRAM):
                self.objects.append(child)
                self._parents.append(at)

    def _children(self, at: int) -> list[object]:
        obj = self.objects[at]
        cls = type(obj)
        if issubclass(cls, _NOT_ENTERED):
            return []
        if cls is FunctionType:
            return _inside_function(obj)
        self._enter.add(cls)
        if id(obj) not in self._found:
            batch = [
                each
                for each in self.objects[max(at, self._asked) :]
                if id(each) not in self._found
                and not issubclass(type(each), (*_NOT_ENTERED, FunctionType))
            ]
            self._asked = len(self.objects)
            for parent, found in _referents(tuple(batch), tuple(self._enter)):
                self._found[id(parent)] = parent, found
        return self._found.pop(id(obj))[1]

    def _what_is_inside(self, obj: object, children: list[object]) -> str:
        """Why the contents of an object forbid pinning it, or an empty string."""
        if type(obj) in _CONTAINERS:
            return ""
        for child in children:
            # Attributes may be in a dict, and a closure is a tuple of cells.
            if type(child) is dict:
                reason = self._what_is_in_dict(child)
            elif type(child) is tuple:
                reason = _first_reason([_content(each) for each in child])
            else:
                reason = _first_reason([child])
            if reason:
                return reason
        return ""

    def _what_is_in_dict(self, child: dict[Any, object]) -> str:
        # Many objects may share a large dict.
        if len(child) < _LARGE:
            return _first_reason(list(child.values()))
        if id(child) not in self._large:
            self._large[id(child)] = child, _first_reason(list(child.values()))
        return self._large[id(child)][1]


def _referents(batch: tuple[object, ...], types: tuple[type, ...]) -> list[Any]:
    """Pairs of an object and its referents; the native version continues through `types`."""
    from .. import _backend

    if _backend.backend == "native":
        import importlib

        core: Any = importlib.import_module("nogil_sync._native._core")
        found: list[Any] = core._referents(batch, types)
        return found
    return [(obj, gc.get_referents(obj)) for obj in batch]


def _inside_function(obj: Any) -> list[object]:
    return [each for each in (obj.__closure__, obj.__defaults__, obj.__kwdefaults__) if each]


def _must_end(obj: object) -> str:
    """Why the object must not live for ever, or an empty string."""
    cls = type(obj)
    if cls in _HARMLESS or issubclass(cls, _PROGRAM):
        return ""
    if issubclass(cls, _RUNNING):
        return "is under way"
    if issubclass(cls, Thread):
        return "is a thread"
    if _has(cls, "__del__"):
        return "has a finaliser"
    if _has(cls, "acquire") and _has(cls, "release"):
        return "is a lock"
    if _has(cls, "close"):
        return "can be closed"
    return ""


def _has(cls: type, name: str) -> bool:
    return any(name in _members(base) for base in _bases(cls))


def _members(cls: type) -> MappingProxyType[str, Any]:
    members: MappingProxyType[str, Any] = _MEMBERS.__get__(cls)
    return members


def _bases(cls: type) -> tuple[type, ...]:
    """The classes in which attributes are looked up, even if a metaclass chose them."""
    bases: tuple[type, ...] = _BASES.__get__(cls)
    return bases


# Not getattr, which may run code of a metaclass.
_MEMBERS: Any = vars(type)["__dict__"]
_BASES: Any = vars(type)["__mro__"]
_NAME: Any = vars(type)["__name__"]
_QUALNAME: Any = vars(type)["__qualname__"]
_MODULE: Any = vars(type)["__module__"]


def _class_name(cls: type) -> str:
    name: str = _NAME.__get__(cls)
    return name


def _full_name(cls: type) -> str:
    name: str = _QUALNAME.__get__(cls)
    module = _MODULE.__get__(cls)  # a class may have anything there
    return name if type(module) is not str or module == "builtins" else f"{module}.{name}"


def _first_reason(parts: list[object]) -> str:
    for part in parts:
        if reason := _must_end(part):
            return f"has a {_class_name(type(part))} inside, which {reason}"
    return ""


def _content(obj: object) -> object:
    if type(obj) is CellType:
        try:
            return obj.cell_contents
        except ValueError:
            return None  # it is empty
    return obj


def _step(names: dict[int, str], child: object) -> str:
    return names.get(id(child)) or f".<{_class_name(type(child))}>"


def _steps(parent: object, wanted: set[int]) -> dict[int, str]:
    """How the parent's children are written in a path, by the id of the child."""
    cls = type(parent)
    names: dict[int, str] = {}
    if cls is dict:
        for key, value in list(parent.items()):  # type: ignore[attr-defined]
            if id(value) in wanted:
                names.setdefault(id(value), f"[{_name(key)}]")
    elif cls in (list, tuple):
        for index, value in enumerate(parent):  # type: ignore[arg-type]
            if id(value) in wanted:
                names.setdefault(id(value), f"[{index}]")
    elif cls not in (set, frozenset, deque, FunctionType, MethodType, CellType):
        for name, value in _attributes(parent):
            if id(value) in wanted:
                names.setdefault(id(value), f".{name}")
    return names


def _attributes(obj: object) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for base in _bases(type(obj)):
        for name, member in list(_members(base).items()):
            try:
                if type(member) is MemberDescriptorType:
                    found.append((name, member.__get__(obj)))
                elif name == "__dict__" and type(member) is GetSetDescriptorType:
                    found += dict.items(member.__get__(obj))
            except AttributeError:
                pass  # an empty slot
    return found


def _name(key: object) -> str:
    return repr(key) if type(key) in _PLAIN else f"<{_class_name(type(key))}>"


def _size(obj: object) -> int:
    try:
        return sys.getsizeof(obj)
    except Exception:
        return object.__sizeof__(obj)


def pin_report(obj: object) -> PinReport:
    """Tell what ``pin(obj, deep=True)`` would pin and what it would leave, and pin nothing.

    The result has the number of objects and their bytes, in all and by type, and the list
    of what would be left as it is: what has to be closed, released or joined, and what has
    such a thing inside. On standard builds, where nothing is pinned, it tells the same.

    Takes some microseconds an object, without a pause for other threads. What they change
    meanwhile may or may not be counted.

    >>> from nogil_sync import pin_report
    >>> report = pin_report({"hosts": [f"host-{n}" for n in range(3)]})
    >>> report.objects, report.left
    (5, [])
    """
    from .._backend import is_pinned

    graph = Graph(obj)
    by_type: dict[str, tuple[int, int]] = {}
    objects = size = 0
    for each in graph.pinned():
        if not is_pinned(each):
            name = _full_name(type(each))
            count, total = by_type.get(name, (0, 0))
            own = _size(each)
            by_type[name] = (count + 1, total + own)
            objects += 1
            size += own
    return PinReport(objects, size, by_type, graph.left())


def reached(obj: object) -> list[Any]:
    """The objects that ``pin(obj, deep=True)`` pins: `obj` first."""
    return Graph(obj).pinned()


Left.__module__ = PinReport.__module__ = pin_report.__module__ = "nogil_sync"
