"""The main program of the bench scripts: options, measuring each cell, storing it as pyperf does.

By default pyperf measures each cell in many processes, one cell after the other, after a
calibration. With `--quick` this process measures all cells of an operation in rounds: a value of
every row, then the next value of every row. A disturbance of the machine then affects all rows
alike, so the ratios between rows are still good.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyperf  # type: ignore[import-untyped]
from harness import calibrated_loops, check_gil, environment, run_row, thread_sweep
from rows import Operation, Row, usable_peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# pyperf starts its workers with a clean environment; these change what is being measured.
INHERITED = ["NOGIL_SYNC_BACKEND", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONMALLOC"]

QUICK_VALUES = 5
# Calibration, a warm-up and the values.
QUICK_ROUNDS = QUICK_VALUES + 2


def parse_threads(text: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError("numbers with commas between them, as in 1,2,4") from None
    if counts[0] < 1:
        raise argparse.ArgumentTypeError("a thread count is at least 1")
    return counts


def parse_only(text: str) -> str:
    for part in text.split(","):
        try:
            re.compile(part.strip())
        except re.error as error:
            what = f"{part.strip()!r} is no regular expression: {error}"
            raise argparse.ArgumentTypeError(what) from None
    return text


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=parse_threads, help="for example 1,2,4 (default: up to the cores)"
    )
    parser.add_argument(
        "--only",
        metavar="EXPR,...",
        type=parse_only,
        help="only operations in whose name one of these is found",
    )
    parser.add_argument(
        "--ways",
        action="store_true",
        help="also ours through a global and through an attribute of self (--full has them)",
    )


def thread_counts(operation: Operation, wanted: list[int] | None) -> list[int]:
    """The thread counts to measure: those asked for, else the operation's own, else the sweep."""
    return wanted or list(operation.threads) or thread_sweep()


def selected(pattern: str | None, script: str, operation: str) -> bool:
    """Whether one of the comma-separated expressions is found in `counter ShardedCounter.add`."""
    if pattern is None:
        return True
    where = f"{script} {operation}"
    return any(re.search(part.strip(), where, re.IGNORECASE) for part in pattern.split(","))


def main(operations: Callable[[list[str]], list[Operation]]) -> None:
    """Run a bench script: pyperf's options, and the few of our own."""
    try:
        _run(operations)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(operations: Callable[[list[str]], list[Operation]]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument(
        "--use-peers", metavar="LIST", help="peers to measure, instead of all that are usable"
    )
    parser.add_argument(
        "--quick", action="store_true", help="all in this process: faster, and less exact"
    )
    parser.add_argument("--report-progress", action="store_true", help=argparse.SUPPRESS)
    runner = pyperf.Runner(processes=10, _argparser=parser, add_cmdline_args=_pass_on)
    parser.set_defaults(inherit_environ=INHERITED)
    args = runner.parse_args()

    if args.use_peers is None:
        peers, notes = usable_peers()
        args.use_peers = ",".join(peers)
    else:
        peers, notes = [p for p in args.use_peers.split(",") if p], []
    warning = check_gil()
    if not args.worker and not args.quiet:
        for note in [*notes, *([warning] if warning else [])]:
            print(f"note: {note}", file=sys.stderr)

    report = _say if args.report_progress and not args.worker else _say_nothing
    measure: Rigorous = (Quick if args.quick and not args.worker else Rigorous)(runner, report)
    script = Path(sys.argv[0]).stem.removeprefix("bench_")
    try:
        for operation in operations(peers):
            if selected(args.only, script, operation.name):
                shown = operation if args.ways else operation.usual()
                for threads in thread_counts(operation, args.threads):
                    measure.all_rows(shown, threads)
    finally:
        measure.finish()


def _pass_on(command: list[str], args: argparse.Namespace) -> None:
    """Give pyperf's worker processes the options that decide which benchmark has which number."""
    command.extend(("--use-peers", args.use_peers))
    if args.threads:
        command.extend(("--threads", ",".join(map(str, args.threads))))
    if args.only:
        command.extend(("--only", args.only))
    if args.ways:
        command.append("--ways")


def _say_nothing(event: str, operation: Operation, row: Row, threads: int, bench: Any) -> None:
    """For a script that is run by itself: pyperf prints the results."""


def _say(event: str, operation: Operation, row: Row, threads: int, bench: Any) -> None:
    """For the driver: a line of JSON before each run of a row (`step`), and its result (`done`)."""
    line: dict[str, object] = {"event": event, "operation": operation.name, "row": row.name}
    line["threads"] = threads
    if bench is not None:
        line["mops"] = threads / statistics.median(bench.get_values()) / 1e6
    print("@" + json.dumps(line), flush=True)


class Rigorous:
    """pyperf measures: each cell in many processes."""

    def __init__(self, runner: Any, report: Callable[..., None]) -> None:
        self.runner = runner
        self.report = report
        self.common = environment()

    def all_rows(self, operation: Operation, threads: int) -> None:
        for row in operation.rows:
            self.report("step", operation, row, threads, None)

            def time_row(loops: int, row: Row = row) -> float:
                return run_row(row, threads, loops)

            bench = self.record(operation, row, threads, time_row)
            if bench is not None:  # a worker process has a result for its own cell only
                self.report("done", operation, row, threads, bench)

    def record(
        self, operation: Operation, row: Row, threads: int, time_row: Callable[[int], float]
    ) -> Any:
        metadata = {
            **self.common,
            "operation": operation.name,
            "reference_row": operation.reference,
            "row": row.name,
            "row_kind": row.kind,
            "threads": threads,
        }
        name = f"{operation.name}: {row.name}: {threads}T"
        return self.runner.bench_time_func(name, time_row, metadata=metadata)

    def finish(self) -> None:
        pass


class Quick(Rigorous):
    """Measures in rounds, then passes the values to pyperf, which stores them at the end."""

    def __init__(self, runner: Any, report: Callable[..., None]) -> None:
        super().__init__(runner, report)
        args = runner.args
        self.output, args.output = args.output, None
        # As a worker, pyperf measures in this process.
        args.worker, args.quiet = True, True
        args.values, args.warmups = QUICK_VALUES, 1
        self.benches: list[Any] = []

    def all_rows(self, operation: Operation, threads: int) -> None:
        args = self.runner.args
        loops: dict[str, int] = {}
        for row in operation.rows:
            self.report("step", operation, row, threads, None)
            loops[row.name] = calibrated_loops(row, threads, args.min_time)
        times: dict[str, list[float]] = {row.name: [] for row in operation.rows}
        for _ in range(args.warmups + args.values):
            for row in operation.rows:
                self.report("step", operation, row, threads, None)
                times[row.name].append(run_row(row, threads, loops[row.name]))
        for row in operation.rows:
            args.loops = loops[row.name]
            measured = iter(times[row.name])

            def replay(_loops: int, measured: Iterator[float] = measured) -> float:
                return next(measured)

            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                bench = self.record(operation, row, threads, replay)
            self.benches.append(bench)
            self.report("done", operation, row, threads, bench)

    def finish(self) -> None:
        if self.benches and self.output:
            pyperf.BenchmarkSuite(self.benches).dump(self.output)
