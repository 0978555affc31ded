"""The parts of a benchmark: operations, and the rows of each, which do it in different ways.

A row is source text for the body of the loop, not a callable: a call per iteration would cost
more than the operation, and a closure would be one more object that all threads share.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import nogil_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Kind = Literal["floor", "stdlib", "peer", "ours"]  # in results also "go" (perf/go)

# How the loop reaches the shared objects: as arguments, which are locals; as globals of one module;
# as attributes of one `self`; or as variables of one enclosing function.
Way = Literal["local", "global", "self", "closure"]

PEERS = (
    *("ft_utils", "cereggii", "readerwriterlock", "janus", "culsans", "aiologic"),
    *("cachetools", "cachebox", "theine"),
)

# The end of the names of rows that fetch their methods once per thread.
BOUND = ", bound method"

# The prefix of operations that compare ways to reach an object (bench_reach.py).
REACH = "reach: "

_IMPORT_KEEPS_GIL_OFF = (
    "import importlib, sys, warnings\n"
    "warnings.simplefilter('ignore')\n"
    "before = getattr(sys, '_is_gil_enabled', bool)()\n"
    "importlib.import_module(sys.argv[1])\n"
    "sys.exit(3 if getattr(sys, '_is_gil_enabled', bool)() != before else 0)\n"
)


@dataclass(frozen=True)
class Row:
    """One way to do an operation.

    `shared` makes the objects that all threads use, by the names in `body`. The main thread calls
    it for each measured value, as a program makes its objects at start-up. `sized` does the same
    for objects that depend on the number of threads.
    `prologue` runs once in each thread before the clock starts: it fetches bound methods and makes
    the thread's own objects.
    `through` names a sequence made by the prologue; the loop cycles through it, each item as `k`.
    `way` is how the loop reaches the shared objects; `self_pinned` pins the `self` it goes through.
    A row that is not `usual` is measured only with `--full` or `--ways`.
    `run` replaces the loop in each thread: ``run(threads, loops)`` measures, and returns seconds.
    """

    name: str
    kind: Kind
    body: str
    shared: Callable[[], Mapping[str, object]] = dict
    prologue: str = ""
    sized: Callable[[int], Mapping[str, object]] | None = None
    through: str = ""
    way: Way = "local"
    self_pinned: bool = False
    usual: bool = True
    run: Callable[[int, int], float] | None = None

    def objects(self, threads: int) -> dict[str, object]:
        """The objects for one run."""
        return {**self.shared(), **(self.sized(threads) if self.sized else {})}


@dataclass(frozen=True)
class Operation:
    """Rows to compare; ratios are against the row named `reference`.

    `threads` replaces the sweep up to the number of cores, for operations whose meaning depends on
    the number of threads; `--threads` overrides both. An operation that is not `quick` is measured
    only with `--full` or if `--only` selects it.
    """

    name: str
    reference: str
    rows: tuple[Row, ...]
    threads: tuple[int, ...] = ()
    quick: bool = True

    def usual(self) -> Operation:
        """The same without the rows that need `--ways`."""
        return replace(self, rows=tuple(row for row in self.rows if row.usual))


# The empty loop: the cost of the harness, and how the machine scales when threads share nothing.
LOOP_ALONE = Row("loop alone", "floor", "pass")


def hoisted(row: Row, **calls: str) -> Row:
    """The same row with methods fetched once per thread: with `add="c.add"` it calls `add(1)`.

    A bound method keeps its object alive by itself, so the loop no longer touches the object's
    reference count.
    """
    body = row.body
    prologue = row.prologue
    for local, call in calls.items():
        assert call in body, (row, call)
        body = re.sub(rf"\b{re.escape(call)}\b", local, body)
        prologue += f"\n{local} = {call}"
    return replace(row, name=row.name + BOUND, body=body, prologue=prologue)


def pinned(row: Row, names: str, suffix: str = "pinned") -> Row:
    """The same row with the shared objects of these names pinned."""

    def pin_some(made: Mapping[str, object]) -> Mapping[str, object]:
        return {k: nogil_sync.pin(v) if k in names.split() else v for k, v in made.items()}

    sized = row.sized
    return replace(
        row,
        name=f"{row.name}, {suffix}",
        shared=lambda: pin_some(row.shared()),
        sized=(lambda threads: pin_some(sized(threads))) if sized else None,
    )


def ours(row: Row, pins: str, **calls: str) -> Iterator[Row]:
    """The rows of our object: unchanged, reached in other ways, pinned, by the bound method."""
    yield row
    yield replace(row, name=f"{row.name}, through a global", way="global", usual=False)
    yield replace(row, name=f"{row.name}, through self", way="self", usual=False)
    if nogil_sync.backend == "native":  # elsewhere pin() changes nothing
        yield pinned(row, pins)
    if calls:
        yield hoisted(row, **calls)


def both_ways(row: Row, **calls: str) -> tuple[Row, Row]:
    """A stdlib or peer row by the attribute and by the bound method, as our rows have both."""
    return row, hoisted(row, **calls)


def usable_peers() -> tuple[list[str], list[str]]:
    """The installed peers that leave the GIL off, and notes on the others.

    Each is imported in a process of its own: once an import has turned the GIL on, it stays on.
    """
    usable, notes = [], []
    missing = [peer for peer in PEERS if importlib.util.find_spec(peer) is None]
    if missing:
        names = ", ".join(missing)
        notes.append(f"left out, as they are not installed (./dev bench --peers does): {names}")
    for peer in PEERS:
        if peer in missing:
            continue
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT_KEEPS_GIL_OFF, peer],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            usable.append(peer)
        elif done.returncode == 3:
            notes.append(f"{peer} turns the GIL on when imported: its rows are left out")
        else:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            notes.append(f"{peer} cannot be imported ({last}): its rows are left out")
    return usable, notes
