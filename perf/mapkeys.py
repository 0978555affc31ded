"""Keys for maps: a program looks up a key that equals the stored one but is another object.

Each key is made from its number, as a server parses keys from requests. So threads that make keys
from the same numbers get equal keys of their own. Numbers start above the immortal ints.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

FIRST = 1_000


class UserKey:
    """A key whose hash and equality are Python code."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserKey) and self.number == other.number

    def __hash__(self) -> int:
        return hash(self.number)


def str_key(number: int) -> str:
    return f"key:{FIRST + number:07d}"


def int_key(number: int) -> int:
    return FIRST + number


def tuple_key(number: int) -> tuple[str, int]:
    return (f"tenant{number % 100}", FIRST + number)


KINDS: dict[str, Callable[[int], Hashable]] = {
    "str": str_key,
    "int": int_key,
    "tuple": tuple_key,
    "user class": UserKey,
}


@functools.cache
def stored(kind: str, count: int) -> list[Hashable]:
    """The keys that maps store, in order of insertion."""
    return [KINDS[kind](number) for number in range(count)]


@functools.cache
def values(count: int) -> list[object]:
    """Values: ordinary objects with ordinary reference counts."""
    return [object() for _ in range(count)]


@functools.cache
def order(count: int, of: int) -> Sequence[int]:
    """`count` numbers below `of`, shuffled: a dict keeps its entries in order of insertion."""
    return random.Random(2026).sample(range(of), count)


def fresh(kind: str, count: int, of: int) -> list[Hashable]:
    """New keys that equal some of the stored ones, shuffled."""
    make = KINDS[kind]
    return [make(number) for number in order(count, of)]
