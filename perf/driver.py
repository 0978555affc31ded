"""Run the benchmarks, then say what was found and write the report."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import compare
import golang
import page
import report
import results
import ways
from harness import check_gil, describe_build, thread_sweep
from progress import Progress, show_progress
from rows import Operation, usable_peers
from suite import QUICK_ROUNDS, add_options, selected, thread_counts

HERE = Path(__file__).parent
PART = ".part.json"

# Seconds that the quick preset may spend in loops. With everything else (starting processes,
# fairness, a map's growth, the report) a run stays well below three minutes.
QUICK_BUDGET = 105.0
# The calibration of a cell takes about as long as two of its values.
RUNS_PER_CELL = QUICK_ROUNDS + 1

# The part of the budget that Go gets.
GO_PART = 0.1

# The scripts with locks: if one of them is measured, bench_mutex.py also measures fairness.
LOCKS = ("mutex", "rwmutex", "semaphore")


@dataclass(frozen=True)
class Job:
    """One operation of one script, measured in a process of its own."""

    script: str
    operation: Operation


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    add_options(parser)
    parser.add_argument(
        "--full",
        action="store_true",
        help="every operation, pyperf's rigorous way: many processes per cell, for hours",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="measure beside peers, which ./dev installs first; an installed one always is",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where the results go: pyperf's JSON, report.html, report.md and the plot "
        "(default: a folder in the cache)",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="print each row's figures, too, not the summary alone",
    )
    parser.add_argument(
        "--go",
        action="store_true",
        help="measure Go's sync beside ours, if there is a Go toolchain on PATH",
    )
    parser.add_argument(
        "--json-only", action="store_true", help="measure and store, without a report"
    )
    parser.add_argument(
        "--report",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="measure nothing: report on earlier results (folders or pyperf JSON)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="measure nothing: which rows of B are slower or faster than those of A (folders or "
        "pyperf JSON); the exit code is 1 if one of ours is significantly slower",
    )
    parser.add_argument(
        "--threshold",
        type=compare.parse_percent,
        default=compare.THRESHOLD,
        metavar="PERCENT",
        help="--compare: a row must be slower by more than this to count (default: %(default)g)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=QUICK_BUDGET,
        metavar="SECONDS",
        help="what the quick preset may spend in loops (default: %(default)s)",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="PAGE",
        help="also put the table of the ways to reach an object into this page, between its marks, "
        "and their plot beside the page; not after a Ctrl-C",
    )
    # ./dev bench --python 3.13t,3.14t: as 3.13t=/path/of/python, several times.
    parser.add_argument("--interpreter", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument(
        "--list", action="store_true", help="name the operations and rows, and stop"
    )
    return parser.parse_args()


def jobs(only: str | None, peers: list[str], *, full: bool, ways: bool) -> list[Job]:
    return [
        Job(script, operation if ways else operation.usual())
        for script in (path.stem.removeprefix("bench_") for path in sorted(HERE.glob("bench_*.py")))
        for operation in importlib.import_module(f"bench_{script}").operations(peers)
        if (full or only or operation.quick) and selected(only, script, operation.name)
    ]


def output_folder(wanted: Path | None) -> Path:
    """Where the results go. Nothing is made yet."""
    cache = os.environ.get("NOGIL_SYNC_CACHE")
    if wanted is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nogil_sync"
        wanted = (Path(cache) if cache else base) / "bench" / time.strftime("%Y-%m-%d_%H.%M.%S")
    if any(wanted.glob("*.json")):
        sys.exit(f"error: {wanted} already holds results")
    return wanted


def writable(folder: Path) -> Path:
    """The folder, which is made if need be; the program ends if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        sys.exit(f"error: cannot write into {folder}: {error.strerror or error}")
    return folder


def follow(command: list[str], progress: Progress) -> int:
    """Run a bench script and turn its report lines into progress."""
    # The script has a process group of its own, so it gets each Ctrl-C once, from here, and not
    # again while it stores its results.
    # PYTHONSAFEPATH would keep the script from importing the modules beside it.
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONSAFEPATH"}
    process = None
    try:
        with interrupts_held():
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, process_group=0, env=environment
            )
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("@"):
                if "Mean +- std dev" not in line:  # pyperf's word on what becomes a table here
                    print(line, end="")
                continue
            event = json.loads(line[1:])
            if event["event"] == "step":
                progress.step(_cell(event))
            elif event["event"] == "done":
                progress.result(_cell(event), event["mops"])
        return process.wait()
    except KeyboardInterrupt:
        if process is not None:
            interrupt(process)
        raise


def interrupt(process: subprocess.Popen[str]) -> None:
    """Have the script store what it has measured, and end."""
    while process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        # Time to store it. A Ctrl-C that finds a script at its start may be lost in a finaliser.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Raise KeyboardInterrupt for a Ctrl-C at the end of the block instead of inside it.

    A Ctrl-C inside Popen would lose a process that has begun already, and go on by itself.
    """
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _cell(event: dict[str, Any]) -> str:
    count = event["threads"]
    return f"{event['operation']}: {event['row']}, {count} thread{'s' if count > 1 else ''}"


@dataclass(frozen=True)
class Plan:
    """What to measure, and where to store the results."""

    jobs: list[Job]
    peers: list[str]
    threads: list[int] | None
    folder: Path
    full: bool
    budget: float
    ways: bool
    go: Path | None = None  # the program that measures Go

    def counts(self, job: Job) -> list[int]:
        return thread_counts(job.operation, self.threads)

    def cells(self) -> int:
        return sum(len(job.operation.rows) * len(self.counts(job)) for job in self.jobs)

    def command(self, job: Job) -> list[str]:
        name = re.sub(r"\W+", "_", f"{job.script}_{job.operation.name}").strip("_")
        only = f"^{job.script} {re.escape(job.operation.name)}$".replace(",", r"\x2c")
        command = [sys.executable, str(HERE / f"bench_{job.script}.py"), "--quiet"]
        command += ["--report-progress", "-o", str(self.folder / (name + PART)), "--only", only]
        command += ["--threads", ",".join(map(str, self.counts(job)))]
        command += ["--use-peers", ",".join(self.peers)]
        if self.ways:
            command.append("--ways")
        if self.full:
            return [*command, "--rigorous"]
        min_time = min(0.12, max(0.001, self.budget / self.cells() / RUNS_PER_CELL))
        return [*command, "--quick", "--min-time", f"{min_time:.4f}"]

    def fairness(self) -> list[str]:
        """The command that measures the locks' fairness; empty if no lock is measured."""
        if not any(job.script in LOCKS for job in self.jobs):
            return []
        command = [sys.executable, str(HERE / "bench_mutex.py")]
        command += ["--fairness", str(self.folder / results.FAIRNESS_FILE)]
        command += ["--threads", str(max(2, *(self.threads or thread_sweep())))]
        return [*command, "--seconds", "1.0" if self.full else str(min(1.0, self.budget / 100))]

    def growth(self) -> list[str]:
        """The command that times lookups while a map grows; empty if no map is measured."""
        if not any(job.script == "syncmap" for job in self.jobs):
            return []
        entries = 4_000_000 if self.full else max(10_000, min(500_000, int(self.budget * 5000)))
        command = [sys.executable, str(HERE / "syncmap_stalls.py"), "--json-only"]
        command += ["--entries", str(entries), "--repeat", "3" if self.full else "1"]
        return [*command, "-o", str(self.folder / results.GROWTH_FILE)]

    def go_counts(self) -> dict[str, list[int]]:
        return {job.operation.name: self.counts(job) for job in self.jobs}

    def go_cells(self) -> int:
        return golang.cells(self.go, self.go_counts()) if self.go else 0

    def go_command(self) -> list[str]:
        """The command that measures Go beside these operations; empty without Go."""
        if self.go is None or not self.go_cells():
            return []
        output = self.folder / results.GO_FILE
        budget = 60.0 if self.full else self.budget * GO_PART
        return golang.command(self.go, self.go_counts(), output, budget)


@contextlib.contextmanager
def go_program(*, wanted: bool) -> Iterator[Path | None]:
    """The program of perf/go, for as long as the block; None with a message if there is no Go."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="nogil_sync-go-") as folder:
        program = None
        try:
            program = golang.build(Path(folder))
        except golang.NoGoError as problem:
            golang.note(problem)
        yield program


def make_plan(args: argparse.Namespace, folder: Path, go: Path | None) -> Plan:
    peers, notes = usable_peers()
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    every_way = args.ways or args.full
    todo = jobs(args.only, peers, full=args.full, ways=every_way)
    if not todo:
        sys.exit(f"error: no operation matches --only {args.only!r}; --list names them")
    writable(folder)
    # What Go takes is taken from the rest, so that --go makes no run longer.
    budget = args.budget * (1 - GO_PART) if go else args.budget
    return Plan(todo, peers, args.threads, folder, args.full, budget, every_way, go)


def carry_out(plan: Plan) -> None:
    counts = ", ".join(map(str, plan.threads or thread_sweep()))
    print(
        f"{plan.cells()} cells: {len(plan.jobs)} operations at {counts} threads, "
        f"{'rigorously' if plan.full else 'quickly'}, on a {describe_build()} interpreter",
        flush=True,
    )
    steps = plan.cells() * (1 if plan.full else QUICK_ROUNDS)
    with show_progress(plan.cells() + plan.go_cells(), steps) as progress:
        for job in plan.jobs:
            code = follow(plan.command(job), progress)
            if code:
                print(f"error: {job.operation.name} ended with exit code {code}", file=sys.stderr)
        if plan.fairness():
            progress.note("fairness of the locks")
            follow(plan.fairness(), progress)
        if plan.growth():
            progress.note("lookups while a map grows")
            follow(plan.growth(), progress)
        measure_go(plan, progress)


def measure_go(plan: Plan, progress: Progress) -> None:
    command = plan.go_command()
    if command:
        progress.note("Go")
        code = follow(command, progress)
        if code:
            print(f"error: perf/go ended with exit code {code}", file=sys.stderr)


def main() -> None:
    args = parse()
    if args.list:
        for job in jobs(args.only, usable_peers()[0], full=True, ways=args.ways):
            when = "" if job.operation.quick else "  (with --full or --only)"
            print(f"{job.script} {job.operation.name}{when}")
            for row in job.operation.rows:
                print(f"    {row.name}")
        return
    if args.markdown:
        ways.check_page(args.markdown)  # before hours of measuring
    if args.compare:
        sys.exit(compare_runs(args))
    if args.report:
        first = args.report[0]
        folder = writable(args.output or (first if first.is_dir() else first.parent))
        show(args.report, folder, args)
        return
    if args.interpreter:
        side_by_side(args)
        return
    warning = check_gil()
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    folder = output_folder(args.output)
    interrupted = False
    try:
        with go_program(wanted=args.go) as go:
            carry_out(make_plan(args, folder, go))
    except KeyboardInterrupt:
        interrupted = True
    results.merge(sorted(folder.glob(f"*{PART}")), folder / "bench.json")
    finish(folder, args, interrupted=interrupted)


def finish(folder: Path, args: argparse.Namespace, *, interrupted: bool) -> None:
    """Report on what was measured, and end."""
    if not folder.is_dir() or not results.find_files(folder):
        nothing(folder, interrupted)
    if interrupted:
        print("\nstopped; this is what was measured", file=sys.stderr)
    if args.json_only:
        print(f"results: {folder}")
    else:
        show([folder], folder, args, whole=not interrupted)
    if interrupted:
        sys.exit(130)


def side_by_side(args: argparse.Namespace) -> None:
    """Measure with each interpreter, into folders of their own, then show all."""
    folder = writable(output_folder(args.output))
    passed = _without(sys.argv[1:], "--interpreter", "-o", "--output", "--markdown")
    passed = [each for each in passed if each not in ("--go", "--details")]
    interrupted = False
    for named in args.interpreter:
        label, _, python = named.partition("=")
        print(f"\n{label}", flush=True)
        # An interpreter given by its path has slashes in its label.
        into = folder / re.sub(r"[^\w.-]+", "_", label).strip("_")
        command = [python, str(HERE), *passed, "--json-only", "-o", str(into)]
        try:
            code = subprocess.run(command, check=False).returncode
        except KeyboardInterrupt:  # it got the Ctrl-C as well, and has stored what it has
            code = 130
        if code == 130:
            interrupted = True
            break
        if code:
            print(f"error: nothing from {label}, which ended with exit code {code}")
    if args.go and not interrupted and results.find_files(folder):
        interrupted = measure_go_once(args, folder)
    finish(folder, args, interrupted=interrupted)


def measure_go_once(args: argparse.Namespace, folder: Path) -> bool:
    """Measure Go, for all interpreters; return whether a Ctrl-C came."""
    todo = jobs(args.only, [], full=args.full, ways=False)
    try:
        with go_program(wanted=True) as go:
            plan = Plan(todo, [], args.threads, folder, args.full, args.budget, ways=False, go=go)
            with show_progress(plan.go_cells(), 0) as progress:
                measure_go(plan, progress)
    except KeyboardInterrupt:
        return True
    return False


def nothing(folder: Path, interrupted: bool) -> NoReturn:
    """End without results, and without the empty folders for them."""
    for empty in [*folder.glob("*"), folder]:
        with contextlib.suppress(OSError):
            empty.rmdir()
    if interrupted:
        print("\nstopped before anything was measured", file=sys.stderr)
        sys.exit(130)
    sys.exit("nothing was measured")


def _without(arguments: list[str], *options: str) -> list[str]:
    """The command line without these options and their values."""
    left = []
    values = iter(arguments)
    for argument in values:
        if argument in options:
            next(values)
        elif not argument.startswith(tuple(f"{option}=" for option in options)):
            left.append(argument)
    return left


def show(paths: list[Path], folder: Path, args: argparse.Namespace, *, whole: bool = True) -> None:
    """Print the summary, and write the reports into the folder."""
    try:
        found = results.load_from(*paths)
    except results.NotResultsError as problem:
        sys.exit(f"error: {problem}")
    report.print_summary(found)
    if args.details:
        report.print_tables(found)
    for path in report.draw_plot(found, folder):
        print(f"plot:    {path}")
    (folder / "report.md").write_text(report.markdown(found), encoding="utf-8")
    print(f"tables:  {folder / 'report.md'}" + ("" if args.details else ", or here by --details"))
    page.write(found, folder / "report.html")
    print(f"report:  {folder / 'report.html'}")
    if args.markdown and whole:
        ways.write_markdown(found, args.markdown)
        print(f"table:   {args.markdown}")
        if (picture := folder / "reach.svg").exists():
            shutil.copy(picture, args.markdown.with_suffix(".svg"))
            print(f"picture: {args.markdown.with_suffix('.svg')}")
    print(f"results: {folder} (pyperf's JSON; ./dev bench --compare A B compares two such folders)")


def compare_runs(args: argparse.Namespace) -> int:
    """Compare two earlier runs; the exit code."""
    first, second = args.compare
    try:
        found = compare.compare(results.load_from(first), results.load_from(second), args.threshold)
    except results.NotResultsError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    found.names = (str(first), str(second))
    compare.show(found, details=args.details)
    if args.output:
        for path in compare.write(found, writable(args.output)):
            print(f"written: {path}")
    return 1 if found.slower else 0
