"""Counting work that is under way, and waiting for all of it: `WaitGroup`."""

from __future__ import annotations

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rows import LOOP_ALONE, Kind, Operation, Row, both_ways, hoisted, ours
from suite import main

from nogil_sync import WaitGroup

if TYPE_CHECKING:
    from collections.abc import Mapping


def busy_group() -> dict[str, object]:
    """A group whose count stays above zero."""
    group = WaitGroup()
    group.add()
    return {"group": group}


def add_and_done() -> Operation:
    """Go's `BenchmarkWaitGroupAddDone`."""
    counter = Row(
        "Lock and int",
        "stdlib",
        "with lock:\n    count[0] += 1\nwith lock:\n    count[0] -= 1",
        lambda: {"lock": threading.Lock(), "count": [1]},
    )
    by_calls = Row(
        counter.name,
        "stdlib",
        "lock.acquire()\ncount[0] += 1\nlock.release()\n"
        "lock.acquire()\ncount[0] -= 1\nlock.release()",
        counter.shared,
    )
    mine = Row("WaitGroup", "ours", "group.add()\ngroup.done()", busy_group)
    return Operation(
        "WaitGroup.add and done",
        counter.name,
        (
            LOOP_ALONE,
            counter,
            hoisted(by_calls, acquire="lock.acquire", release="lock.release"),
            *ours(mine, "group", add="group.add", done="group.done"),
        ),
    )


def wait_at_zero() -> Operation:
    """Nothing to wait for: Go's `BenchmarkWaitGroupWait`."""

    def event() -> dict[str, object]:
        made = threading.Event()
        made.set()
        return {"e": made}

    stdlib = Row("threading.Event, set", "stdlib", "e.wait()", event)
    mine = Row("WaitGroup", "ours", "group.wait()", lambda: {"group": WaitGroup()})
    return Operation(
        "WaitGroup.wait at zero",
        stdlib.name,
        (
            LOOP_ALONE,
            *both_ways(stdlib, wait="e.wait"),
            *ours(mine, "group", wait="group.wait"),
        ),
        quick=False,
    )


TASKS = 8


def small() -> int:
    """Some microseconds of work."""
    return sum(range(100))


def small_and_decrement(latch: Any) -> None:
    small()
    latch.decrement()


IN_TURN = f"""\
for _task in range({TASKS}):
    small()
"""
PLAIN = f"""\
threads = [Thread(target=small) for _task in range({TASKS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
LATCH = f"""\
latch = Latch({TASKS})
for _task in range({TASKS}):
    Thread(target=small_and_decrement, args=(latch,)).start()
latch.wait()
"""
NEW_POOL = f"""\
with Pool({TASKS}) as pool:
    for _task in range({TASKS}):
        pool.submit(small)
"""
KEPT_POOL = f"""\
for future in [pool.submit(small) for _task in range({TASKS})]:
    future.result()
"""
GO = f"""\
for _task in range({TASKS}):
    group.go(small)
group.wait()
"""
GROUP_AND_POOL = f"""\
group.add({TASKS})
for _task in range({TASKS}):
    pool.submit(small_and_done)
group.wait()
"""
OWN_GROUP = "group = WaitGroup()"
DEFINE_TASK = """
def small_and_done():
    small()
    group.done()
"""


NAMES: Mapping[str, object] = {
    "Pool": ThreadPoolExecutor,
    "Thread": threading.Thread,
    "WaitGroup": WaitGroup,
    "small": small,
    "small_and_decrement": small_and_decrement,
}


def fan_out(peers: list[str]) -> Operation:
    """Small functions, a thread each, and a wait for all; beside the same in one thread."""

    def row(name: str, kind: Kind, body: str, prologue: str = "") -> Row:
        return Row(name, kind, body, lambda: NAMES, prologue)

    def kept(threads: int) -> dict[str, object]:
        return {"pool": ThreadPoolExecutor(TASKS * threads)}

    plain = row("plain threads, joined", "stdlib", PLAIN)
    theirs = []
    if "cereggii" in peers:
        latch = importlib.import_module("cereggii").CountDownLatch
        theirs.append(
            Row("cereggii CountDownLatch", "peer", LATCH, lambda: {**NAMES, "Latch": latch})
        )
    return Operation(
        f"WaitGroup.go of {TASKS} functions and wait",
        plain.name,
        (
            row("in turn", "floor", IN_TURN),
            plain,
            row("new ThreadPoolExecutor", "stdlib", NEW_POOL),
            replace(row("kept ThreadPoolExecutor", "stdlib", KEPT_POOL), sized=kept),
            *theirs,
            row("WaitGroup.go", "ours", GO, OWN_GROUP),
            replace(
                row(
                    "kept executor, WaitGroup",
                    "ours",
                    GROUP_AND_POOL,
                    OWN_GROUP + DEFINE_TASK,
                ),
                sized=kept,
            ),
        ),
    )


def operations(peers: list[str]) -> list[Operation]:
    return [add_and_done(), wait_at_zero(), fan_out(peers)]


if __name__ == "__main__":
    main(operations)
