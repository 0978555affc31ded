"""The one harness: runs a row in N threads and takes the time.

Convention. pyperf stores seconds per loop, and one loop here is one operation *in each* of the N
threads, side by side: `value = (last finish - first start) / loops`. So

    operations a second, all threads together = N / value

and a value that stays the same while N grows is perfect scaling.

Each thread has its own copy of the loop function, its own iterator and its own clock readings, so
the loops share no objects but those that the row measures.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import marshal
import os
import re
import sys
import sysconfig
import textwrap
import threading
import time
import types
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import nogil_sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rows import Row

SETTLE = 0.001  # seconds between the last thread's arrival and the common start

_TEMPLATE = """
def loop(_repeat, _rounds, _clock, _meet, _loops, {names}):
    {prologue}
    _iterator = {iterator}
    _start = _meet()
    while _clock() < _start:
        pass
    _began = _clock()
    for {item} in _iterator:
        {body}
    return _began, _clock()
"""


def compile_source(
    template: str, row: Row, names: Sequence[str], free: Sequence[str] = (), **values: object
) -> types.CodeType:
    """The code of a row's loop, from which each thread makes a function.

    `names` are parameters in addition to the template's, `free` variables of an enclosing function.
    """

    def indented(source: str, depth: int) -> str:
        return textwrap.indent(textwrap.dedent(source).strip(), " " * depth).lstrip()

    depth = len(next((line for line in template.split("\n") if "{body}" in line), "{body}")) - 6
    source = template.format(
        names=", ".join(names),
        prologue=indented(row.prologue, 4) or "pass",
        body=indented(row.body, depth),
        iterator=f"_rounds({row.through}, _loops)" if row.through else "_repeat(None, _loops)",
        item="k" if row.through else "_",
        **values,
    )
    if row.way == "closure":
        source = f"def outer({', '.join(free)}):\n" + textwrap.indent(source.strip(), "    ")
    # Unmarshalled, as from a .pyc file: free-threaded CPython makes the constants of such code
    # immortal. Constants from compile() are counted, and the threads would contend for the counts.
    code: types.CodeType = marshal.loads(marshal.dumps(compile(source, f"<{row.name}>", "exec")))
    while code.co_name != "loop":
        code = next(each for each in code.co_consts if isinstance(each, types.CodeType))
    return code


class Loop(NamedTuple):
    """The code of a row's loop, and how it reaches the shared objects."""

    code: types.CodeType
    arguments: tuple[object, ...] = ()
    # The globals of all threads' functions; if None, each function has a dict of its own.
    module: dict[str, Any] | None = None
    closure: tuple[types.CellType, ...] | None = None


def make_loop(row: Row, shared: Mapping[str, object]) -> Loop:
    """The row's loop; it reaches the shared objects as `row.way` says."""
    match row.way:
        case "local":
            return Loop(compile_source(_TEMPLATE, row, list(shared)), tuple(shared.values()))
        case "global":
            module = {"__builtins__": __builtins__, **shared}
            return Loop(compile_source(_TEMPLATE, row, []), module=module)
        case "closure":
            code = compile_source(_TEMPLATE, row, [], free=list(shared))
            cells = {name: types.CellType(value) for name, value in shared.items()}
            return Loop(code, closure=tuple(cells[name] for name in code.co_freevars))
        case "self":
            server = _server_class(*shared)()
            for name, value in shared.items():
                setattr(server, name, value)
            if row.self_pinned:
                nogil_sync.pin(server)
            return Loop(compile_source(_TEMPLATE, _through_self(row, shared), ["self"]), (server,))


@functools.cache
def _server_class(*attributes: str) -> type[Any]:
    """An ordinary class, one for each set of attributes, so that its instances have one layout."""
    del attributes
    return type("Server", (), {})


def _through_self(row: Row, names: Iterable[str]) -> Row:
    shared = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, names))})\b")
    body, prologue = (shared.sub(r"self.\1", text) for text in (row.body, row.prologue))
    return replace(row, body=body, prologue=prologue)


def rounds(items: Iterable[object], loops: int) -> Iterator[object]:
    """`loops` items, cycling through `items`."""
    return itertools.islice(itertools.cycle(items), loops)


def together(
    threads: int, loop: types.CodeType | Loop, arguments: Sequence[object]
) -> list[tuple[float, float]]:
    """Run the loop in `threads` threads that start at the same time; return their results."""
    code, more, module, closure = loop if isinstance(loop, Loop) else Loop(loop)
    arguments = (*arguments, *more)
    start = 0.0

    def set_start() -> None:
        nonlocal start
        # With more threads than cores, spinning threads would keep the others from starting.
        start = time.perf_counter() + (SETTLE if threads <= cores() else 0)

    barrier = threading.Barrier(threads, action=set_start)

    def meet() -> float:
        # The barrier wakes its threads one after the other, so they agree on a time to start.
        barrier.wait()
        return start

    results: list[tuple[float, float]] = []
    failures: list[BaseException] = []

    def work() -> None:
        # Each thread has a function of its own, so the function's reference count is not shared.
        scope = {"__builtins__": __builtins__} if module is None else module
        own = types.FunctionType(code, scope, closure=closure)
        try:
            results.append(own(itertools.repeat, rounds, time.perf_counter, meet, *arguments))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    return results


def run_row(row: Row, threads: int, loops: int) -> float:
    """Wall time of `loops` operations in each of `threads` threads."""
    if row.run is not None:
        return row.run(threads, loops)
    spans = _spans(row, threads, loops)
    return max(end for _, end in spans) - min(began for began, _ in spans)


def _spans(row: Row, threads: int, loops: int) -> list[tuple[float, float]]:
    return together(threads, make_loop(row, row.objects(threads)), (loops,))


def _longest(row: Row, threads: int, loops: int) -> float:
    """The time of the slowest thread, from its own start on.

    On a busy machine a thread may start late. That is no time of its operations: a few loops would
    seem to take long, and the values would measure how threads start.
    """
    if row.run is not None:
        return row.run(threads, loops)
    return max(end - began for began, end in _spans(row, threads, loops))


def calibrated_loops(row: Row, threads: int, min_time: float) -> int:
    """How many loops take about `min_time`. (pyperf's calibration needs a process per cell.)."""
    loops = 4  # some operations take a millisecond
    expected = 0.0
    while True:
        elapsed = _longest(row, threads, loops)
        if elapsed >= min_time / 2 and elapsed > 4 * expected:
            # Something may have stopped a thread: once more.
            elapsed = min(elapsed, _longest(row, threads, loops))
        if elapsed >= min_time / 2 or loops >= 1 << 30:
            return max(1, round(loops * min_time / elapsed))
        more = max(2, min(16, int(min_time / max(elapsed, 1e-9) / 2)))
        loops *= more
        expected = elapsed * more


def cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def thread_sweep() -> list[int]:
    """1, 2, 4, … up to the cores there are, that count included."""
    available = cores()
    counts = [1]
    while counts[-1] * 2 <= available:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == available else [*counts, available]


def gil_enabled() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def check_gil() -> str | None:
    """Exit if an import has turned the GIL on; on a standard build return a warning."""
    if not gil_enabled():
        return None
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        sys.exit(
            "error: this interpreter is free-threaded but its GIL is on, so nothing measured "
            "here would mean anything. An imported extension that does not declare itself "
            "GIL-free turned it on, or PYTHON_GIL=1 or -X gil=1 did."
        )
    return "this interpreter has a GIL: its threads take turns, and no row can scale"


def describe_build() -> str:
    config = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return ", ".join(
        (
            "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "with GIL",
            "debug" if sysconfig.get_config_var("Py_DEBUG") else "release",
            "PGO" if "--enable-optimizations" in config else "no PGO",
        )
    )


def installed_version() -> str:
    try:
        return importlib.metadata.version("nogil_sync")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def environment() -> dict[str, str]:
    """Metadata for every cell, in addition to pyperf's (CPU model and count, versions, …)."""
    return {
        "gil_enabled": "yes" if gil_enabled() else "no",
        "python_build": describe_build(),
        "python_config_args": sysconfig.get_config_var("CONFIG_ARGS") or "unknown",
        "usable_cores": str(cores()),
        "nogil_sync_backend": nogil_sync.backend,
        "nogil_sync_version": installed_version(),
    }
