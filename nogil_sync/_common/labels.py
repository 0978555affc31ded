"""Names that a program gives to its objects, for what `nogil_sync.diagnostics` shows.

A label is kept beside the object, by its address, until the object is gone.
"""

from collections.abc import Callable
from typing import Any
from weakref import ref

from .frames import public_class

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
