"""Names that a program gives to its objects, for what `nogil_sync.diagnostics` shows.

A label is kept beside the object, by its address, until the object is gone. An object without one
may be found in a global variable.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any
from weakref import ref

from .frames import public_class

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that was made at run time

_labels: dict[int, tuple["ref[Any]", str]] = {}


def label(obj: object, name: str) -> None:
    """Name an object in all that this module shows: see `diagnostics.label`."""
    if not isinstance(name, str):
        raise TypeError(f"a label must be a str, not {type(name).__name__}")
    name = str.__str__(name)  # not of a class derived from it, whose methods others would run
    parts = [(obj, name)]
    if public_class(obj) == "RWMutex":  # its views are objects of their own
        parts += [(obj.read, f"{name}.read"), (obj.write, f"{name}.write")]  # type: ignore[attr-defined]
    for part, text in parts:
        _labels[id(part)] = (ref(part, _forgets(id(part))), text)


def _forgets(key: int) -> Callable[["ref[Any]"], object]:
    return lambda _: _labels.pop(key, None)


def name_of(obj: object) -> str | None:
    """Return the label of the object, or None."""
    found = _labels.get(id(obj))
    return found[1] if found is not None and found[0]() is obj else None


def global_names(objects: Iterable[object]) -> dict[int, str]:
    """The global variables that have these objects, by `id`; or what is in them."""
    wanted = {id(each) for each in objects}
    names: dict[int, str] = {}
    for name, module in list(sys.modules.items()):
        if type(module) is ModuleType:
            prefix = "" if name == "__main__" else f"{name}."
            for variable, value in list(vars(module).items()):
                if isinstance(variable, str):
                    for inside, each in _members(value):
                        if id(each) in wanted:
                            names.setdefault(id(each), f"{prefix}{variable}{inside}")
    return names


def _members(value: Any) -> Iterator[tuple[str, object]]:
    """The value, and what is in it, each with its way. No code of the program runs."""
    yield "", value
    kind = type(value)
    if kind in (list, tuple):
        for index, each in enumerate(list(value)):
            yield f"[{index}]", each
    elif kind is dict:
        for key, each in value.copy().items():
            if type(key) in (str, int):
                yield f"[{key!r}]", each
    elif kind.__module__ == "nogil_sync":
        if kind.__name__ == "RWMutex":
            yield ".read", value.read
            yield ".write", value.write
    elif kind.__flags__ & _HEAP_TYPE:
        try:
            attributes = object.__getattribute__(value, "__dict__")
        except AttributeError:
            return
        if type(attributes) is dict:
            for name, each in attributes.copy().items():
                if type(name) is str:
                    yield f".{name}", each
