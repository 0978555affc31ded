"""One word that all threads read and change: the integers and `AtomicRef`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping

from bench_counter import ATOMIC, COUNT, COUNT_BOUND, LOCKED_INT, peer_adds
from rows import LOOP_ALONE, Operation, Row, both_ways, ours, pinned
from suite import main

import nogil_sync
from nogil_sync import AtomicInt64, AtomicRef

Shared = Callable[[], Mapping[str, object]]


class Box:
    """An attribute of an ordinary object: what one would use without atomics."""

    def __init__(self, value: object) -> None:
        self.value = value


def peer_rows(
    peers: list[str], ft_utils: tuple[str, str], cereggii: tuple[str, str], prologue: str = ""
) -> Iterator[Row]:
    """A row for each peer: the name of its class, and the loop's body with that object as `a`."""
    modules = {"ft_utils": "ft_utils.concurrency", "cereggii": "cereggii"}
    for peer, (name, body) in (("ft_utils", ft_utils), ("cereggii", cereggii)):
        if peer in peers and name:
            make = getattr(importlib.import_module(modules[peer]), name)
            yield Row(f"{peer} {name}", "peer", body, _holding(make, name), prologue)


def _holding(make: Callable[[object], object], name: str) -> Shared:
    # An ordinary object to refer to, or a number too large to be immortal.
    return lambda: {"a": make(10**9 if "Int" in name else object())}


def add(peers: list[str]) -> Operation:
    return Operation(
        "AtomicInt64.add, returning the new value",
        COUNT.name,
        (
            LOOP_ALONE,
            LOCKED_INT,
            COUNT,
            COUNT_BOUND,
            *peer_adds(peers),
            *ours(ATOMIC, "n", add="n.add"),
        ),
    )


def load(peers: list[str]) -> Operation:
    attribute = Row("attribute", "stdlib", "box.value", lambda: {"box": Box(10**9)})
    row = Row("AtomicInt64.load", "ours", "a.load()", lambda: {"a": AtomicInt64(10**9)})
    theirs = peer_rows(peers, ("AtomicInt64", "a.get()"), ("AtomicInt64", "a.get()"))
    return Operation(
        "AtomicInt64.load",
        attribute.name,
        (
            LOOP_ALONE,
            attribute,
            *(each for peer in theirs for each in both_ways(peer, get="a.get")),
            *ours(row, "a", load="a.load"),
        ),
    )


COMPARE_AND_SWAP = """
while True:
    old = a.load()
    if a.compare_and_swap(old, old + 1):
        break
"""


def compare_and_swap(peers: list[str]) -> Operation:
    body = COMPARE_AND_SWAP
    row = Row("AtomicInt64", "ours", body, lambda: {"a": AtomicInt64()})
    # ft_utils' integer has no compare-and-swap; its reference would compare ints by identity.
    cereggii_body = body.replace("load", "get").replace("compare_and_swap", "compare_and_set")
    theirs = peer_rows(peers, ("", ""), ("AtomicInt64", cereggii_body))
    return Operation(
        "AtomicInt64.compare_and_swap loop",
        LOCKED_INT.name,
        (
            LOOP_ALONE,
            LOCKED_INT,
            *(
                each
                for peer in theirs
                for each in both_ways(peer, get="a.get", cas="a.compare_and_set")
            ),
            *ours(row, "a", load="a.load", cas="a.compare_and_swap"),
        ),
    )


def _ref() -> Mapping[str, object]:
    value = Box(None)
    return {"a": AtomicRef(value), "value": value}


def ref_load(peers: list[str]) -> Operation:
    """The reference count of the value is shared by every way to read it, unless it is pinned."""
    attribute = Row("attribute", "stdlib", "box.value", lambda: {"box": Box(object())})
    row = Row("AtomicRef.load", "ours", "a.load()", _ref)
    theirs = peer_rows(peers, ("AtomicReference", "a.get()"), ("AtomicRef", "a.get()"))
    rows = [
        LOOP_ALONE,
        attribute,
        *(each for peer in theirs for each in both_ways(peer, get="a.get")),
        *ours(row, "a", load="a.load"),
    ]
    if nogil_sync.backend == "native":
        rows.append(pinned(row, "a value", "pinned, its value too"))
    return Operation("AtomicRef.load", attribute.name, tuple(rows))


def ref_store(peers: list[str]) -> Operation:
    """Each thread stores an object of its own."""
    own = "mine = object()"
    attribute = Row("attribute", "stdlib", "box.value = mine", lambda: {"box": Box(None)}, own)
    row = Row("AtomicRef.store", "ours", "a.store(mine)", lambda: {"a": AtomicRef(None)}, own)
    theirs = peer_rows(peers, ("AtomicReference", "a.set(mine)"), ("AtomicRef", "a.set(mine)"), own)
    return Operation(
        "AtomicRef.store",
        attribute.name,
        (
            LOOP_ALONE,
            attribute,
            *(each for peer in theirs for each in both_ways(peer, set_="a.set")),
            *ours(row, "a", store="a.store"),
        ),
        quick=False,
    )


def operations(peers: list[str]) -> list[Operation]:
    return [make(peers) for make in (add, load, compare_and_swap, ref_load, ref_store)]


if __name__ == "__main__":
    main(operations)
