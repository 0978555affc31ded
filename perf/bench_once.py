"""Calls after the first: `once`, `Once` and `once_property` beside an empty function."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from rows import LOOP_ALONE, Operation, Row, hoisted, pinned
from suite import main

import nogil_sync
from nogil_sync import Once, once, once_property

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Value:
    """The computed value: an ordinary object, whose reference count all threads change."""


def nothing() -> None:
    pass


def value() -> Value:
    return Value()


class Holder:
    @once_property
    def ours(self) -> Value:
        return Value()

    @functools.cached_property
    def stdlib(self) -> Value:
        return Value()


EMPTY = Row("empty function", "floor", "nothing()", lambda: {"nothing": nothing})


def cached() -> Mapping[str, object]:
    f = functools.cache(value)
    return {"f": f, "value": f()}


def decorated() -> Mapping[str, object]:
    f = once(value)
    return {"f": f, "value": f()}


def done() -> Mapping[str, object]:
    o: Once[Value] = Once()
    return {"o": o, "fn": value, "value": o.do(value)}


def holder() -> Mapping[str, object]:
    h = Holder()
    return {"h": h, "ours": h.ours, "stdlib": h.stdlib}


def with_pins(row: Row, name: str) -> Iterator[Row]:
    """As it comes, pinned, and with the value pinned as well."""
    yield row
    if nogil_sync.backend == "native":  # elsewhere pin() changes nothing
        yield pinned(row, name)
        yield pinned(row, f"{name} value", "pinned, its value too")


def operations(peers: list[str]) -> list[Operation]:
    del peers  # none of them has it
    cache = Row("functools.cache", "stdlib", "f()", cached)
    do = Row("Once.do", "ours", "o.do(fn)", done)
    return [
        Operation(
            "once, after the first call",
            EMPTY.name,
            (
                LOOP_ALONE,
                EMPTY,
                *with_pins(cache, "f"),
                *with_pins(Row("once", "ours", "f()", decorated), "f"),
            ),
        ),
        Operation(
            "Once.do, after the first call",
            EMPTY.name,
            (LOOP_ALONE, EMPTY, *with_pins(do, "o"), hoisted(do, do="o.do")),
        ),
        Operation(
            "once_property, after the first read",
            "cached_property",
            (
                LOOP_ALONE,
                Row("cached_property", "stdlib", "h.stdlib", holder),
                Row("once_property", "ours", "h.ours", holder),
            ),
        ),
    ]


if __name__ == "__main__":
    main(operations)
