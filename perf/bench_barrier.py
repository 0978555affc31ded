"""Threads that wait for each other: `Barrier`.

The threads of a row are the parties: an iteration of all of them together is a round.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from rows import LOOP_ALONE, Operation, Row, both_ways, ours
from suite import main

from nogil_sync import Barrier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def do_nothing() -> None:
    pass


def parties(make: Any, action: Any) -> Callable[[int], Mapping[str, object]]:
    return lambda threads: {"b": make(threads, action)}


def rounds(name: str, action: Any) -> Operation:
    """Go has no barrier; Java's `CyclicBarrier` and threading's are the models."""
    stdlib = Row(
        "threading.Barrier", "stdlib", "b.wait()", sized=parties(threading.Barrier, action)
    )
    mine = Row("Barrier", "ours", "b.wait()", sized=parties(Barrier, action))
    rows = (LOOP_ALONE, *both_ways(stdlib, wait="b.wait"), *ours(mine, "b", wait="b.wait"))
    return Operation(name, stdlib.name, rows, quick=False)


def operations(_peers: list[str]) -> list[Operation]:
    return [
        rounds("Barrier.wait, a party a thread", None),
        rounds("Barrier.wait with an action, a party a thread", do_nothing),
    ]


if __name__ == "__main__":
    main(operations)
