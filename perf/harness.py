"""The one harness: a thread sweep over rows, timed and stored by pyperf.

Convention. pyperf stores seconds per loop, and one loop here is one operation *in each* of the N
threads, side by side: `value = (last finish - first start) / loops`. So

    operations a second, all threads together = N / value

and a value that stays the same while N grows is perfect scaling.

Each thread has its own copy of the loop function, its own iterator and its own clock readings,
so that the only objects shared inside the loop are those that the row is about.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import marshal
import os
import re
import statistics
import sys
import sysconfig
import textwrap
import threading
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyperf  # type: ignore[import-untyped]
from rows import Operation, Row, usable_peers

import nogil_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# pyperf starts its workers with a clean environment; these change what is being measured.
INHERITED = ["NOGIL_SYNC_BACKEND", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONMALLOC", "COLUMNS"]

QUICK_VALUES = 5
SETTLE = 0.001  # seconds between the last thread's arrival and the common start

_TEMPLATE = """
def loop(_repeat, _clock, _meet, _loops, {names}):
    {prologue}
    _iterator = _repeat(None, _loops)
    _start = _meet()
    while _clock() < _start:
        pass
    _began = _clock()
    for _ in _iterator:
        {body}
    return _began, _clock()
"""


def compile_source(
    template: str, row: Row, names: Sequence[str], **values: object
) -> types.CodeType:
    """The loop of one row; every thread makes its own function from it."""

    def indented(source: str, depth: int) -> str:
        return textwrap.indent(textwrap.dedent(source).strip(), " " * depth).lstrip()

    depth = len(next((line for line in template.split("\n") if "{body}" in line), "{body}")) - 6
    source = template.format(
        names=", ".join(names),
        prologue=indented(row.prologue, 4) or "pass",
        body=indented(row.body, depth),
        **values,
    )
    scope: dict[str, Any] = {}
    # As if imported from a .pyc file: free-threaded CPython makes the constants of such code
    # immortal, but not those of compile(), whose reference counts the threads would fight over.
    compiled = marshal.loads(marshal.dumps(compile(source, f"<{row.name}>", "exec")))
    exec(compiled, scope)
    code: types.CodeType = scope["loop"].__code__
    return code


def together(
    threads: int, loop: types.CodeType, arguments: Sequence[object]
) -> list[tuple[float, float]]:
    """Run the loop in that many threads, started at one moment; what each returned."""
    start = 0.0

    def set_start() -> None:
        nonlocal start
        # With more threads than cores, those that spin would only keep the others from starting.
        start = time.perf_counter() + (SETTLE if threads <= cores() else 0)

    barrier = threading.Barrier(threads, action=set_start)

    def meet() -> float:
        # The barrier wakes its threads one after the other, so they agree on a moment to start.
        barrier.wait()
        return start

    results: list[tuple[float, float]] = []
    failures: list[BaseException] = []

    def work() -> None:
        # A function of its own: also its reference count is not shared.
        own = types.FunctionType(loop, {"__builtins__": __builtins__})
        try:
            results.append(own(itertools.repeat, time.perf_counter, meet, *arguments))
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
    shared = dict(row.shared())
    code = compile_source(_TEMPLATE, row, list(shared))
    spans = together(threads, code, (loops, *shared.values()))
    return max(end for _, end in spans) - min(began for began, _ in spans)


def calibrated_loops(row: Row, threads: int, min_time: float) -> int:
    """Loops that take about `min_time`: pyperf's own way needs one more process per cell."""
    loops = 64
    while True:
        elapsed = run_row(row, threads, loops)
        if elapsed >= min_time / 2 or loops >= 1 << 30:
            return max(1, round(loops * min_time / elapsed))
        loops *= max(2, min(16, int(min_time / max(elapsed, 1e-9) / 2)))


def cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def thread_sweep() -> list[int]:
    """1, 2, 4, … up to the cores there are, that count included."""
    most = cores()
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]


def thread_counts(text: str) -> list[int]:
    counts = sorted({int(part) for part in text.split(",")})
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("a thread count is at least 1")
    return counts


def gil_enabled() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def check_gil() -> str | None:
    """Exit where an import turned the GIL on; on a standard build return a warning."""
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
    """Metadata of every cell beyond what pyperf collects (CPU model and count, versions, …)."""
    return {
        "gil_enabled": "yes" if gil_enabled() else "no",
        "python_build": describe_build(),
        "python_config_args": sysconfig.get_config_var("CONFIG_ARGS") or "unknown",
        "usable_cores": str(cores()),
        "nogil_sync_backend": nogil_sync.backend,
        "nogil_sync_version": installed_version(),
    }


def selected(pattern: str | None, script: str, operation: str) -> bool:
    """Whether one of the comma-separated expressions is found in `counter ShardedCounter.add`."""
    if pattern is None:
        return True
    where = f"{script} {operation}"
    return any(re.search(part.strip(), where, re.IGNORECASE) for part in pattern.split(","))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=thread_counts, help="for example 1,2,4 (default: up to the cores)"
    )
    parser.add_argument(
        "--only", metavar="EXPR,…", help="only operations whose name one of these is found in"
    )


def script_name() -> str:
    return Path(sys.argv[0]).stem.removeprefix("bench_")


def main(operations: Callable[[list[str]], list[Operation]]) -> None:
    """Run a bench script: pyperf's options, and the few of our own."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument(
        "--use-peers", metavar="LIST", help="peers to measure, instead of all that are usable"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="all in this one process: less exact than pyperf's own way",
    )
    parser.add_argument("--report-progress", action="store_true", help=argparse.SUPPRESS)
    runner = pyperf.Runner(processes=10, _argparser=parser, add_cmdline_args=_pass_on)
    parser.set_defaults(inherit_environ=INHERITED)
    args = runner.parse_args()
    is_worker = bool(args.worker)

    if args.use_peers is None:
        peers, notes = usable_peers()
        args.use_peers = ",".join(peers)
    else:
        peers, notes = [p for p in args.use_peers.split(",") if p], []
    chosen = [o for o in operations(peers) if selected(args.only, script_name(), o.name)]
    warning = check_gil()
    if not is_worker and not args.quiet:
        for note in [*notes, *([warning] if warning else [])]:
            print(f"note: {note}", file=sys.stderr)

    measure = _Quick(runner) if args.quick and not is_worker else _Plain(runner)
    report = _reporter(args.report_progress and not is_worker)
    common = environment()
    try:
        for operation in chosen:
            for row in operation.rows:
                for threads in args.threads or thread_sweep():
                    report("start", operation, row, threads, None)
                    bench = measure(row, threads, _names(common, operation, row, threads))
                    report("done", operation, row, threads, bench)
    except KeyboardInterrupt:
        measure.finish()
        sys.exit(130)
    except SystemExit:
        # So ends pyperf's own handling of Ctrl-C.
        measure.finish()
        raise
    measure.finish()


def _pass_on(command: list[str], args: argparse.Namespace) -> None:
    """Give pyperf's worker processes the options that decide which benchmark has which number."""
    command.extend(("--use-peers", args.use_peers))
    if args.threads:
        command.extend(("--threads", ",".join(map(str, args.threads))))
    if args.only:
        command.extend(("--only", args.only))


def _names(
    common: Mapping[str, str], operation: Operation, row: Row, threads: int
) -> dict[str, object]:
    return {
        **common,
        "operation": operation.name,
        "reference_row": operation.reference,
        "row": row.name,
        "row_kind": row.kind,
        "threads": threads,
    }


class _Plain:
    """pyperf's own way: calibration, then many worker processes per cell."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner

    def __call__(self, row: Row, threads: int, names: Mapping[str, object]) -> Any:
        return self.runner.bench_time_func(
            f"{names['operation']}: {row.name}: {threads}T",
            lambda loops: run_row(row, threads, loops),
            metadata=dict(names),
        )

    def finish(self) -> None:
        pass


class _Quick(_Plain):
    """Every cell in this process, as pyperf's workers do it, and one file at the end."""

    def __init__(self, runner: Any) -> None:
        super().__init__(runner)
        args = runner.args
        self.output, args.output = args.output, None
        args.worker, args.quiet = True, True
        args.values, args.warmups = QUICK_VALUES, 1
        self.benches: list[Any] = []

    def __call__(self, row: Row, threads: int, names: Mapping[str, object]) -> Any:
        args = self.runner.args
        args.loops = calibrated_loops(row, threads, args.min_time)
        with Path(os.devnull).open("w") as sink:
            # A pyperf worker prints its result; ours come as progress or as a table.
            stdout, sys.stdout = sys.stdout, sink
            try:
                bench = super().__call__(row, threads, names)
            finally:
                sys.stdout = stdout
        self.benches.append(bench)
        return bench

    def finish(self) -> None:
        if self.benches and self.output:
            pyperf.BenchmarkSuite(self.benches).dump(self.output)


def mops(bench: Any, threads: int) -> float:
    """Million operations a second, all threads together."""
    value: float = statistics.median(bench.get_values())
    return threads / value / 1e6


def _reporter(wanted: bool) -> Callable[[str, Operation, Row, int, Any], None]:
    """One line of JSON on stdout before and after each cell, for the driver to read."""

    def report(event: str, operation: Operation, row: Row, threads: int, bench: Any) -> None:
        if not wanted:
            return
        line: dict[str, object] = {"event": event, "operation": operation.name, "row": row.name}
        line["threads"] = threads
        if bench is not None:
            line["mops"] = mops(bench, threads)
        print("@" + json.dumps(line), flush=True)

    return report
