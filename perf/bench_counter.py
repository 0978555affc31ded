"""Counting from many threads: `ShardedCounter` and `ShardedFloatCounter`."""

from __future__ import annotations

import importlib
import itertools
import threading
from typing import TYPE_CHECKING

from rows import BOUND, LOOP_ALONE, Operation, Row, both_ways, ours
from suite import main

from nogil_sync import AtomicInt64, ShardedCounter, ShardedFloatCounter

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKED_INT = Row(
    "Lock and int",
    "stdlib",
    "with lock:\n    cell[0] += 1",
    lambda: {"lock": threading.Lock(), "cell": [0]},
)
LOCKED_FLOAT = Row(
    "Lock and float",
    "stdlib",
    "with lock:\n    cell[0] += 1.5",
    lambda: {"lock": threading.Lock(), "cell": [0.0]},
)
COUNT = Row("itertools.count", "stdlib", "next(count)", lambda: {"count": itertools.count()})
# Each thread fetches `__next__` once: its loop looks up neither `next` nor `count`.
COUNT_BOUND = Row(
    COUNT.name + BOUND, "stdlib", "advance()", COUNT.shared, "advance = count.__next__"
)
ATOMIC = Row("AtomicInt64.add", "ours", "n.add(1)", lambda: {"n": AtomicInt64()})
OWN_INT = Row("an int of each thread's own", "floor", "cell[0] += 1", prologue="cell = [0]")


def peer_adds(peers: list[str]) -> Iterator[Row]:
    """Increments of each peer's atomic integer: by the attribute and by the bound method."""
    if "ft_utils" in peers:
        ft_utils = importlib.import_module("ft_utils.concurrency")
        yield from both_ways(
            Row("ft_utils AtomicInt64", "peer", "n.incr()", lambda: {"n": ft_utils.AtomicInt64(0)}),
            incr="n.incr",
        )
    if "cereggii" in peers:
        cereggii = importlib.import_module("cereggii")
        yield from both_ways(
            Row(
                "cereggii AtomicInt64",
                "peer",
                "n.increment_and_get(1)",
                lambda: {"n": cereggii.AtomicInt64(0)},
            ),
            increment="n.increment_and_get",
        )


def operations(peers: list[str]) -> list[Operation]:
    return [
        Operation(
            "ShardedCounter.add",
            LOCKED_INT.name,
            (
                LOOP_ALONE,
                OWN_INT,
                LOCKED_INT,
                COUNT,
                *peer_adds(peers),
                *ours(ATOMIC, "n"),
                *ours(
                    Row(
                        "ShardedCounter.add",
                        "ours",
                        "c.add(1)",
                        lambda: {"c": ShardedCounter()},
                    ),
                    "c",
                    add="c.add",
                ),
            ),
        ),
        Operation(
            "ShardedFloatCounter.add",
            LOCKED_FLOAT.name,
            (
                LOOP_ALONE,
                LOCKED_FLOAT,
                *ours(
                    Row(
                        "ShardedFloatCounter.add",
                        "ours",
                        "c.add(1.5)",
                        lambda: {"c": ShardedFloatCounter()},
                    ),
                    "c",
                    add="c.add",
                ),
            ),
        ),
    ]


if __name__ == "__main__":
    main(operations)
