"""Waiting for a condition: `Cond` beside `threading.Condition`."""

from __future__ import annotations

import threading
from dataclasses import replace

from rows import LOOP_ALONE, Operation, Row, hoisted, ours
from suite import main

from nogil_sync import Cond

CONDITION = Row("threading.Condition", "stdlib", "", lambda: {"c": threading.Condition()})
# A threading.Condition has an RLock by default. Cond's default, a Mutex, is not reentrant: this is
# the fair comparison.
OVER_LOCK = Row(
    "threading.Condition, Lock",
    "stdlib",
    "",
    lambda: {"c": threading.Condition(threading.Lock())},
)
COND = Row("Cond", "ours", "", lambda: {"c": Cond()})

# Go's `benchmarkCond`: all threads meet, round after round. The last thread of a round wakes the
# others, which wait; so there is one waiter fewer than there are threads.
ROUND = """\
with c:
    came[0] += 1
    if came[0] % threads:
        c.wait()
    else:
        c.notify_all()
"""
WAITERS = (1, 2, 4, 8, 16, 32)


def rounds() -> Operation:
    """One operation is a thread's part in one round: it waits, or it wakes the others."""

    def row(cond: Row) -> Row:
        return replace(cond, body=ROUND, sized=lambda threads: {"came": [0], "threads": threads})

    barrier = Row(
        "threading.Barrier",
        "stdlib",
        "barrier.wait()",
        sized=lambda threads: {"barrier": threading.Barrier(threads)},
    )
    return Operation(
        "Cond, rounds of wait and notify_all",
        CONDITION.name,
        (row(CONDITION), row(OVER_LOCK), barrier, *ours(row(COND), "c")),
        threads=tuple(waiters + 1 for waiters in WAITERS),
    )


NOTIFY = "with c:\n    c.notify()"
CALLS = "c.acquire()\nc.notify()\nc.release()"


def notify() -> Operation:
    """What a notify costs when no thread waits."""

    def bound(cond: Row) -> Row:
        return hoisted(
            replace(cond, body=CALLS), acquire="c.acquire", notify="c.notify", release="c.release"
        )

    return Operation(
        "Cond.notify without waiters",
        CONDITION.name,
        (
            LOOP_ALONE,
            replace(CONDITION, body=NOTIFY),
            bound(CONDITION),
            replace(OVER_LOCK, body=NOTIFY),
            bound(OVER_LOCK),
            *ours(replace(COND, body=NOTIFY), "c"),
            bound(COND),
        ),
    )


def operations(_peers: list[str]) -> list[Operation]:
    return [rounds(), notify()]


if __name__ == "__main__":
    main(operations)
