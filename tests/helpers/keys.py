"""Keys whose equality runs code of the test."""

from collections.abc import Callable


class RefusedError(Exception):
    pass


class Hostile:
    """A key, all with one hash, whose equality does first what `act` says."""

    act: Callable[..., object] = staticmethod(lambda *_: None)
    compared = 0

    def __init__(self, name: object, code: int = 42) -> None:
        self.name = name
        self.code = code

    def __hash__(self) -> int:
        return self.code

    def __eq__(self, other: object) -> bool:
        type(self).compared += 1
        self.act(self, other)
        return isinstance(other, Hostile) and self.name == other.name


def kind(act: Callable[..., object]) -> type[Hostile]:
    return type("Kind", (Hostile,), {"act": staticmethod(act), "compared": 0})
