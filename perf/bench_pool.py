"""Reusing objects: `Pool` beside new objects, a shared container, and one object per thread."""

from __future__ import annotations

import collections
import gc
import io
import queue
import threading
import time
from typing import TYPE_CHECKING

from rows import LOOP_ALONE, Operation, Row, both_ways, hoisted, ours
from suite import main

from nogil_sync import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GET_PUT = "item = p.get()\np.put(item)"


def buffer() -> bytearray:
    """The pooled item: an ordinary object, too large for the allocator's free lists."""
    return bytearray(4096)


def pool(new: Callable[[], object] = buffer) -> Callable[[], Mapping[str, object]]:
    return lambda: {"p": Pool(new)}


def deque() -> Mapping[str, object]:
    return {"d": collections.deque(buffer() for _ in range(200))}


def simple_queue() -> Mapping[str, object]:
    q: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    for _ in range(200):
        q.put(buffer())
    return {"q": q}


def local() -> Mapping[str, object]:
    return {"local": threading.local(), "buffer": buffer}


ALLOCATE = Row("bytearray(4096)", "stdlib", "bytearray(4096)")
# A list per thread shares nothing, but no other thread can use its items.
OWN_LIST = Row(
    "a list of the thread's own",
    "stdlib",
    "item = items.pop()\nitems.append(item)",
    prologue="items = [bytearray(4096)]",
)
LOCAL = Row(
    "threading.local",
    "stdlib",
    "item = local.items.pop()\nlocal.items.append(item)",
    local,
    prologue="local.items = [buffer()]",
)
DEQUE = Row("deque", "stdlib", "item = d.pop()\nd.append(item)", deque)
SIMPLE_QUEUE = Row("SimpleQueue", "stdlib", "item = q.get()\nq.put(item)", simple_queue)
# The pool holds an item for each thread, as after the first round of a program.
MINE = Row("Pool", "ours", GET_PUT, pool(), prologue="p.put(p.get())")


def get_and_put() -> Operation:
    return Operation(
        "Pool, get and put a buffer of 4 KiB",
        LOCAL.name,
        (
            LOOP_ALONE,
            ALLOCATE,
            OWN_LIST,
            hoisted(OWN_LIST, pop="items.pop", append="items.append"),
            LOCAL,
            *both_ways(DEQUE, pop="d.pop", append="d.append"),
            SIMPLE_QUEUE,
            *ours(MINE, "p", get="p.get", put="p.put"),
        ),
    )


def with_statement() -> Operation:
    mine = Row("Pool.use", "ours", "with p.use() as item:\n    pass", pool())
    return Operation(
        "Pool, with pool.use()",
        ALLOCATE.name,
        (LOOP_ALONE, ALLOCATE, *ours(mine, "p", use="p.use")),
        quick=False,
    )


def with_reset() -> Operation:
    """The buffer is emptied each time: its memory is freed, and only the object is reused."""
    fresh = Row("bytearray()", "stdlib", "item = bytearray()\nitem += line", lambda: {"line": b"x"})

    def made() -> Mapping[str, object]:
        return {"p": Pool(bytearray, reset=bytearray.clear), "line": b"x"}

    mine = Row("Pool", "ours", "item = p.get()\nitem += line\np.put(item)", made)
    return Operation(
        "Pool, small buffers with reset",
        fresh.name,
        (LOOP_ALONE, fresh, *ours(mine, "p", get="p.get", put="p.put")),
        quick=False,
    )


BURST = """\
items = [p.get() for _ in hundred]
for item in items:
    p.put(item)
"""


def burst() -> Operation:
    def shared() -> Mapping[str, object]:
        return {"p": Pool(buffer), "hundred": range(100)}

    allocate = Row(
        "bytearray(4096)",
        "stdlib",
        "items = [bytearray(4096) for _ in hundred]",
        lambda: {"hundred": range(100)},
    )
    taken = Row(
        "deque",
        "stdlib",
        "items = [d.pop() for _ in hundred]\nfor item in items:\n    d.append(item)",
        sized=lambda threads: {
            "d": collections.deque(buffer() for _ in range(100 * threads)),
            "hundred": range(100),
        },
    )
    limited = Row(
        "Pool(max_idle=1000000)",
        "ours",
        BURST,
        lambda: {"p": Pool(buffer, max_idle=10**6), "hundred": range(100)},
    )
    return Operation(
        "Pool, 100 out and 100 in",
        allocate.name,
        (LOOP_ALONE, allocate, taken, *ours(Row("Pool", "ours", BURST, shared), "p"), limited),
        quick=False,
    )


STARVED = """\
for item in fewer:
    p.put(item)
for item in hundred:
    p.get()
"""


def starvation() -> Operation:
    """Each round gets more items than it put: it searches all shards and makes the rest."""

    def shared() -> Mapping[str, object]:
        return {"p": Pool(object), "fewer": range(67), "hundred": range(100)}

    made = Row(
        "object()",
        "stdlib",
        "for item in hundred:\n    object()",
        lambda: {"hundred": range(100)},
    )
    return Operation(
        "Pool, 67 in and 100 out",
        made.name,
        (LOOP_ALONE, made, *ours(Row("Pool", "ours", STARVED, shared), "p")),
        quick=False,
    )


def slow() -> bytearray:
    time.sleep(0.0001)
    return bytearray()


def expensive_new() -> Operation:
    """Items that take 0.1 ms to make. How often one is made: `perf/pooling.py`."""
    fresh = Row("make it each time", "stdlib", "slow()", lambda: {"slow": slow})
    return Operation(
        "Pool, expensive new",
        fresh.name,
        (LOOP_ALONE, fresh, *ours(Row("Pool", "ours", GET_PUT, pool(slow), "p.put(p.get())"), "p")),
        quick=False,
    )


def ageing() -> Operation:
    """What pools cost the collector: 1000 containers in pools, or the same outside."""

    def idle(pools: int, *, age: bool) -> Callable[[], Mapping[str, object]]:
        def made() -> Mapping[str, object]:
            kept: list[Pool[object]] = [Pool(list, age=age) for _ in range(pools)]
            for each in kept:
                for _ in range(1000 // pools):
                    each.put([[]])
            return {"kept": kept, "collect": gc.collect}

        return made

    elsewhere = Row(
        "in a list",
        "stdlib",
        "collect()",
        lambda: {"kept": [[[]] for _ in range(1000)], "collect": gc.collect},
    )
    return Operation(
        "Pool, collections with 1000 idle items",
        elsewhere.name,
        (
            LOOP_ALONE,
            elsewhere,
            Row("in a Pool(age=False)", "ours", "collect()", idle(1, age=False)),
            Row("in a Pool, all gone soon", "ours", "collect()", idle(1, age=True)),
            Row("in 100 Pools, all gone soon", "ours", "collect()", idle(100, age=True)),
        ),
        threads=(1,),
        quick=False,
    )


# Formats a line of a log, as logging's formatters do, into a new or a pooled buffer.
LINE = """\
write = out.write
write("2026-01-01 00:00:00,000 INFO ")
write(name)
write(": ")
write("%s took %d ms" % (name, 17))
write("\\n")
text = out.getvalue()
"""


def log_line() -> Operation:
    def wipe(out: io.StringIO) -> None:
        out.seek(0)
        out.truncate()

    def shared() -> Mapping[str, object]:
        return {"p": Pool(io.StringIO, reset=wipe), "StringIO": io.StringIO}

    prologue = 'name = "request"'
    fresh = Row(
        "StringIO()",
        "stdlib",
        "out = StringIO()\n" + LINE,
        lambda: {"StringIO": io.StringIO},
        prologue,
    )
    mine = Row("pooled StringIO", "ours", f"out = p.get()\n{LINE}p.put(out)", shared, prologue)
    return Operation(
        "Pool, a line of a log",
        fresh.name,
        (LOOP_ALONE, fresh, *ours(mine, "p", get="p.get", put="p.put")),
        quick=False,
    )


def operations(peers: list[str]) -> list[Operation]:
    del peers  # none of them has it
    return [
        get_and_put(),
        with_statement(),
        with_reset(),
        burst(),
        starvation(),
        expensive_new(),
        ageing(),
        log_line(),
    ]


if __name__ == "__main__":
    main(operations)
