"""Go's sync beside ours: builds and runs the program in perf/go, where there is a Go toolchain."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SOURCES = Path(__file__).parent / "go"
VALUES = 5
# A warm-up, and a calibration that takes about as long as two values.
RUNS = VALUES + 3
MAX_MIN_TIME = 0.05

# The program is built offline: it needs nothing but the toolchain that is there. atomic.Int64
# came with 1.19.
ENVIRONMENT = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GO111MODULE": "on", "GOWORK": "off"}


class NoGoError(Exception):
    """There is no Go, or it cannot build the program; says so in one line."""


def build(folder: Path) -> Path:
    """Build the program into the folder, and return its path."""
    go = shutil.which("go")
    if go is None:
        raise NoGoError("there is no Go toolchain on PATH (Debian's package is golang-go)")
    program = folder / "gosync"
    done = subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=SOURCES,
        env={**os.environ, **ENVIRONMENT},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise NoGoError(f"{go} cannot build perf/go: {last}")
    return program


def operations(program: Path) -> dict[str, list[str]]:
    """The operations beside which the program has rows, and the names of these."""
    listed = subprocess.run([str(program), "--list"], check=True, capture_output=True, text=True)
    found: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        operation, _, row = line.partition("\t")
        found.setdefault(operation, []).append(row)
    return found


def cells(program: Path, wanted: Mapping[str, Sequence[int]]) -> int:
    """How many cells the program has for these operations and thread counts."""
    known = operations(program)
    return sum(len(known[name]) * len(counts) for name, counts in wanted.items() if name in known)


def command(
    program: Path, wanted: Mapping[str, Sequence[int]], output: Path, budget: float
) -> list[str]:
    """What measures these operations, in about so many seconds.

    The plan comes from a file, since the program is stopped by Ctrl-C like a bench script.
    """
    count = max(1, cells(program, wanted))
    min_time = min(MAX_MIN_TIME, max(0.0005, budget / count / RUNS))
    plan = {"min_time": min_time, "values": VALUES, "operations": wanted}
    with tempfile.NamedTemporaryFile("w", dir=program.parent, delete=False) as file:
        json.dump(plan, file)
    return [str(program), str(output), file.name]


def note(problem: NoGoError) -> None:
    print(f"note: Go is not measured: {problem}", file=sys.stderr)
