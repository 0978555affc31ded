"""Taking and giving back units: `Semaphore` beside `threading`'s."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from bench_mutex import ACQUIRE_RELEASE, LOCK, WITH, locking
from rows import LOOP_ALONE, Operation, Row, hoisted, ours
from suite import main

from nogil_sync import Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def holding(
    make: Callable[[int], object], units: Callable[[int], int]
) -> Callable[[int], Mapping[str, object]]:
    """Makes the semaphore `m` with `units(threads)` units."""
    return lambda threads: {"m": make(units(threads))}


def bound(row: Row) -> Row:
    return hoisted(replace(row, body=ACQUIRE_RELEASE), acquire="m.acquire", release="m.release")


def one_unit(name: str, units: Callable[[int], int], *locks: Row, quick: bool = True) -> Operation:
    """Each thread takes one unit."""
    semaphore = Row(
        "threading.Semaphore", "stdlib", WITH, sized=holding(threading.Semaphore, units)
    )
    bounded = Row(
        "threading.BoundedSemaphore",
        "stdlib",
        WITH,
        sized=holding(threading.BoundedSemaphore, units),
    )
    mine = Row("Semaphore", "ours", WITH, sized=holding(Semaphore, units))
    return Operation(
        name,
        bounded.name,
        (
            LOOP_ALONE,
            bounded,
            semaphore,
            bound(semaphore),
            *locks,
            *ours(mine, "m"),
            bound(mine),
        ),
        quick=quick,
    )


CONDITION = """\
with c:
    while free[0] < 2:
        c.wait()
    free[0] -= 2
with c:
    free[0] += 2
    c.notify_all()
"""


def two_units() -> Operation:
    """Each thread takes two at once; there are enough."""

    def units(threads: int) -> int:
        return 2 * threads

    condition = Row(
        "Condition and int",
        "stdlib",
        CONDITION,
        lambda: {"c": threading.Condition()},
        sized=lambda threads: {"free": [units(threads)]},
    )
    # Needs units enough for all: two threads that hold one unit each would wait for each other.
    twice = Row(
        "threading.Semaphore, one by one",
        "stdlib",
        "m.acquire()\nm.acquire()\nm.release(2)",
        sized=holding(threading.Semaphore, units),
    )
    mine = Row("Semaphore", "ours", "m.acquire(n=2)\nm.release(2)", sized=holding(Semaphore, units))
    hold = Row("Semaphore.hold", "ours", "with m.hold(2):\n    pass", sized=mine.sized)
    return Operation(
        "Semaphore, acquire and release of two units",
        condition.name,
        (
            LOOP_ALONE,
            condition,
            twice,
            *ours(mine, "m", acquire="m.acquire", release="m.release"),
            *ours(hold, "m"),
        ),
        quick=False,
    )


def operations(_peers: list[str]) -> list[Operation]:
    return [
        one_unit("Semaphore(1), with m: pass", lambda _: 1, locking(LOCK, WITH)),
        one_unit("Semaphore, a unit for each thread", lambda threads: threads),
        one_unit("Semaphore, two units for each thread", lambda threads: 2 * threads, quick=False),
        two_units(),
    ]


if __name__ == "__main__":
    main(operations)
