"""What tests of Cache with hostile users' code share: the operations by name."""

from collections.abc import Callable
from typing import Any

import pytest

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
