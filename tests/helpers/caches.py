"""What tests of Cache with hostile users' code share: keys, and the operations by name."""

from collections.abc import Callable
from typing import Any

import pytest


class RefusedError(Exception):
    pass


class Hostile:
    """A key, all with one hash, whose equality does first what `act` says."""

    act: Callable[..., object] = staticmethod(lambda *_: None)

    def __init__(self, name: object, code: int = 42) -> None:
        self.name = name
        self.code = code

    def __hash__(self) -> int:
        return self.code

    def __eq__(self, other: object) -> bool:
        self.act(self, other)
        return isinstance(other, Hostile) and self.name == other.name


def kind(act: Callable[..., object]) -> type[Hostile]:
    return type("Kind", (Hostile,), {"act": staticmethod(act)})


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "getitem": lambda c, k: c[k],
    "setitem": lambda c, k: c.__setitem__(k, "set"),
    "put": lambda c, k: c.put(k, "put", ttl=1000),
    "delitem": lambda c, k: c.__delitem__(k),
    "contains": lambda c, k: k in c,
    "get": lambda c, k: c.get(k),
    "pop": lambda c, k: c.pop(k, None),
    "load_or_compute": lambda c, k: c.load_or_compute(k, lambda: "computed"),
}
every = pytest.mark.parametrize("name", OPERATIONS)


def tried(name: str, c: Any, key: object) -> Any:
    """What the operation gives, or the KeyError it raises."""
    try:
        return OPERATIONS[name](c, key)
    except KeyError:
        return KeyError
