"""Keys for maps: what a program looks up is equal to the stored key, and not the same object.

A key is made anew from its number, as requests are parsed into keys; so threads that make the keys
of the same numbers hold equal ones of their own. Numbers begin where ints are no longer immortal.
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
    """The keys that are put into maps, in their order."""
    return [KINDS[kind](number) for number in range(count)]


@functools.cache
def values(count: int) -> list[object]:
    """Values that are ordinary objects, counted and not immortal."""
    return [object() for _ in range(count)]


@functools.cache
def order(count: int, of: int) -> Sequence[int]:
    """So many different numbers, without order: a dict keeps its entries as they were inserted."""
    return random.Random(2026).sample(range(of), count)


def fresh(kind: str, count: int, of: int) -> list[Hashable]:
    """Keys equal to some of those stored, in no order, each an object of the caller's own."""
    make = KINDS[kind]
    return [make(number) for number in order(count, of)]
