"""Runs each measurement of a script in a process of its own, where it cannot disturb the next.

A script names its measurements. When it is run, it starts itself once for each name, in rounds
with `--repeat`, collects the results as JSON, and shows them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import check_gil, environment

try:
    import resource
except ImportError:  # not Unix
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    Result = dict[str, Any]

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


def resident() -> int:
    """The resident memory of this process in bytes; 0 if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def switches() -> int:
    """How often the system preempted the calling thread; 0 if the system does not say."""
    who = getattr(resource, "RUSAGE_THREAD", None)
    return 0 if who is None else resource.getrusage(who).ru_nivcsw


def main(
    parser: argparse.ArgumentParser,
    names: Callable[[argparse.Namespace], Sequence[str]],
    measure: Callable[[str, argparse.Namespace], Result],
    show: Callable[[dict[str, list[Result]], argparse.Namespace], None],
) -> None:
    parser.add_argument("--repeat", type=int, default=1, help="rounds (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also store it as JSON")
    parser.add_argument("--json-only", action="store_true", help="with -o: print no table")
    parser.add_argument("--measure", metavar="NAME", help="this one only, in this process")
    args = parser.parse_args()
    # A Ctrl-C ends this process and the one that measures at once, whatever their threads do.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    warning = check_gil()
    if args.measure:
        print(json.dumps(measure(args.measure, args)))
        return
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    found: dict[str, list[Result]] = {name: [] for name in names(args)}
    for _ in range(args.repeat):
        for name, results in found.items():
            results.append(_elsewhere(name))
    if not args.json_only:
        show(found, args)
    if args.output:
        args.output.write_text(json.dumps({"environment": environment(), "results": found}))


def _elsewhere(name: str) -> Result:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, *sys.argv, "--measure", name],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    if done.returncode:
        sys.exit(f"error: {name} ended with exit code {done.returncode}")
    result: Result = json.loads(done.stdout)
    return result


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: the first column aligned to the left, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        line = [first.ljust(widths[0])]
        line += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join(line).rstrip())
