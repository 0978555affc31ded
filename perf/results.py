"""Reads measured cells from pyperf's JSON. Tables and plots are made elsewhere (report.py)."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyperf  # type: ignore[import-untyped]
from rows import BOUND, LOOP_ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

# A row loses only if it is slower than another by this part; smaller differences are noise.
NOISE = 0.05

# On a quiet machine the loop alone reaches more than this part of perfect scaling.
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
        """The fastest stdlib or peer row that beats this row of ours: name, threads, our ratio.

        Bound-method rows of others are compared with bound-method rows of ours only.
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

    label: str = ""  # the interpreter's version, in short: 3.14t

    def interpreter(self) -> tuple[str, str]:
        """The interpreter's version, and how it was built."""
        get = self.environment.get
        return get("python_version", "?").split()[0], get("python_build", "?")

    def disturbed(self) -> dict[int, float]:
        """Thread counts at which the loop alone fell short: its part of perfect scaling."""
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
    """The results of a folder, or of its folders, one for each interpreter."""
    if not path.is_dir():
        return [path]
    return sorted(path.glob("*.json")) or sorted(path.glob("*/*.json"))


def merge(paths: Iterable[Path], target: Path) -> None:
    """Put the operations' files into one, for `pyperf compare_to`."""
    parts = list(paths)
    benches = [b for part in parts for b in pyperf.BenchmarkSuite.load(str(part)).get_benchmarks()]
    if benches:
        pyperf.BenchmarkSuite(benches).dump(str(target), replace=True)
    for part in parts:
        part.unlink()


def load(paths: Iterable[Path]) -> list[Results]:
    """The results of each interpreter, the oldest version first."""
    found: dict[tuple[str, str], Results] = {}
    fairness: list[Path] = []
    of_folder: dict[Path, Results] = {}
    for path in paths:
        if path.name == FAIRNESS_FILE:
            fairness.append(path)
            continue
        for bench in pyperf.BenchmarkSuite.load(str(path)).get_benchmarks():
            metadata = bench.get_metadata()
            if "operation" in metadata:
                environment = {key: str(value) for key, value in metadata.items()}
                results = Results([], environment, [])
                results = found.setdefault(results.interpreter(), results)
                _add(results, metadata, bench.get_values())
                of_folder[path.parent] = results
    for path in fairness:
        results = of_folder.get(path.parent) or next(iter(found.values()), Results([], {}, []))
        results.fairness.extend(json.loads(path.read_text())["locks"])
        found.setdefault(results.interpreter(), results)
    ordered = sorted(found.values(), key=lambda each: _version_key(each.interpreter()[0]))
    _name(ordered)
    return ordered


def _add(results: Results, metadata: Mapping[str, Any], values: Sequence[float]) -> None:
    operation, row = metadata["operation"], metadata["row"]
    panel = next((each for each in results.panels if each.operation == operation), None)
    if panel is None:
        panel = Panel(operation, metadata["reference_row"])
        results.panels.append(panel)
    line = panel.lines.setdefault(row, Line(row, metadata["row_kind"]))
    threads = int(metadata["threads"])
    # See harness.py for the convention. The median ignores a disturbed value.
    line.mops[threads] = threads / statistics.median(values) / 1e6


def _version_key(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version)]


def _name(found: list[Results]) -> None:
    """Label the results with as much of version and build as distinguishes them."""

    def short(version: str, build: str) -> str:
        digits = ".".join(version.split(".")[:2])
        return digits + ("t" if "free-threaded" in build else "")

    forms: list[Callable[[str, str], str]] = [
        short,
        lambda version, build: version + ("t" if "free-threaded" in build else ""),
        lambda version, build: f"{version} ({build})",
    ]
    for form in forms:
        labels = [form(*each.interpreter()) for each in found]
        for each, label in zip(found, labels, strict=True):
            each.label = label
        if len(set(labels)) == len(labels):
            return


def headline(found: Sequence[Results]) -> str:
    """The machine and the interpreters, in one line."""
    builds = [each.interpreter() for each in found]
    if len({build for _, build in builds}) == 1:
        interpreters = f"{', '.join(version for version, _ in builds)} ({builds[0][1]})"
    else:
        interpreters = ", ".join(f"{version} ({build})" for version, build in builds)

    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(each.environment.get(key, "?") for each in found))

    parts = [
        f"CPython {interpreters}",
        all_of("cpu_model_name").replace("?", "unknown CPU"),
        f"{all_of('usable_cores')} cores",
        f"backend {all_of('nogil_sync_backend')}",
    ]
    return " · ".join(parts)
