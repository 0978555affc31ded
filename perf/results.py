"""Reads measured cells back from pyperf's JSON; knows nothing of tables and plots."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyperf  # type: ignore[import-untyped]
from rows import BOUND, LOOP_ALONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# What a row must fall short of another by before the table says that it loses: less is noise.
NOISE = 0.05

# The loop alone reaches more than this part of perfect scaling, unless others use the cores too.
UNDISTURBED = 0.85

FAIRNESS_FILE = "fairness.json"


@dataclass
class Line:
    """One row of one operation, over the thread counts; in million operations a second."""

    name: str
    kind: str
    mops: dict[int, float] = field(default_factory=dict)


@dataclass
class Panel:
    """One operation with all its rows."""

    operation: str
    reference: str
    lines: dict[str, Line] = field(default_factory=dict)

    def threads(self) -> list[int]:
        return sorted({count for line in self.lines.values() for count in line.mops})

    def ratio(self, line: Line, threads: int) -> float | None:
        """How many times the reference row's throughput, at that thread count."""
        reference = self.lines.get(self.reference)
        if reference is None or threads not in reference.mops or threads not in line.mops:
            return None
        return line.mops[threads] / reference.mops[threads]

    def losses(self, line: Line) -> Iterator[tuple[str, int, float]]:
        """The stdlib and peer rows that beat this row of ours: name, thread count, our ratio.

        Like with like: only our own bound-method rows are held against those of others.
        """
        if line.kind != "ours":
            return
        bound = line.name.endswith(BOUND)
        for threads, own in sorted(line.mops.items()):
            others = [
                (other.mops[threads], other.name)
                for other in self.lines.values()
                if other.kind in ("stdlib", "peer")
                and threads in other.mops
                and (bound or not other.name.endswith(BOUND))
            ]
            if others:
                best, name = max(others)
                if own < best * (1 - NOISE):
                    yield name, threads, own / best


@dataclass
class Results:
    panels: list[Panel]
    environment: dict[str, str]
    fairness: list[dict[str, Any]]

    def headline(self) -> str:
        """The machine and the interpreter, in one line."""
        get = self.environment.get
        parts = [
            f"CPython {get('python_version', '?').split()[0]} ({get('python_build', '?')})",
            get("cpu_model_name", "unknown CPU"),
            f"{get('usable_cores', '?')} cores",
            f"backend {get('nogil_sync_backend', '?')}",
        ]
        return " · ".join(parts)

    def disturbed(self) -> dict[int, float]:
        """Thread counts at which even the loop alone did not get its cores: the part it got."""
        usable = int(self.environment.get("usable_cores", "1"))
        found = {}
        for threads in sorted({count for panel in self.panels for count in panel.threads()}):
            parts = [
                line.mops[threads] / (threads * line.mops[1])
                for panel in self.panels
                for line in panel.lines.values()
                if line.name == LOOP_ALONE.name and {1, threads} <= line.mops.keys()
            ]
            if parts and threads <= usable and statistics.median(parts) < UNDISTURBED:
                found[threads] = statistics.median(parts)
        return found


def find_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def merge(paths: Iterable[Path], target: Path) -> None:
    """Put the operations' files into one, for `pyperf compare_to`."""
    parts = list(paths)
    benches = [b for part in parts for b in pyperf.BenchmarkSuite.load(str(part)).get_benchmarks()]
    if benches:
        pyperf.BenchmarkSuite(benches).dump(str(target), replace=True)
    for part in parts:
        part.unlink()


def load(paths: Iterable[Path]) -> Results:
    results = Results([], {}, [])
    panels: dict[str, Panel] = {}
    for path in paths:
        if path.name == FAIRNESS_FILE:
            results.fairness.extend(json.loads(path.read_text())["locks"])
            continue
        for bench in pyperf.BenchmarkSuite.load(str(path)).get_benchmarks():
            metadata = bench.get_metadata()
            if "operation" not in metadata:
                continue
            if not results.environment:
                results.environment = {key: str(value) for key, value in metadata.items()}
            panel = panels.setdefault(
                metadata["operation"], Panel(metadata["operation"], metadata["reference_row"])
            )
            line = panel.lines.setdefault(
                metadata["row"], Line(metadata["row"], metadata["row_kind"])
            )
            threads = int(metadata["threads"])
            # The convention of harness.py; the median, since one value may have been disturbed.
            line.mops[threads] = threads / statistics.median(bench.get_values()) / 1e6
    results.panels = list(panels.values())
    return results
