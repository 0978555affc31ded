"""Reads measured cells from pyperf's JSON. Tables and plots are made elsewhere (report.py)."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rows import BOUND, LOOP_ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

# A row loses only if it is slower than another by this part; smaller differences are noise.
NOISE = 0.05

# On a quiet machine the loop alone reaches more than this part of perfect scaling.
UNDISTURBED = 0.85

FAIRNESS_FILE = "fairness.json"
GROWTH_FILE = "growth.json"
GO_FILE = "go.json"
COMPARISON_FILE = "comparison.json"  # what `--compare` writes
OTHER_FILES = (FAIRNESS_FILE, GROWTH_FILE, GO_FILE)


class NotResultsError(Exception):
    """A path that holds no results of these benchmarks; says so in one line."""


@dataclass
class Line:
    """One row of one operation, over the thread counts; in million operations a second.

    `values` are the measured ones, in seconds as harness.py has them; `mops` is of their median,
    which ignores a disturbed value.
    """

    name: str
    kind: str
    mops: dict[int, float] = field(default_factory=dict)
    values: dict[int, list[float]] = field(default_factory=dict)

    def add(self, threads: int, values: Sequence[float]) -> None:
        everything = self.values.setdefault(threads, [])
        everything += values
        self.mops[threads] = threads / statistics.median(everything) / 1e6


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
    # How long lookups took while a map grew, by the map (syncmap_stalls.py).
    growth: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

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
    own = sorted(each for each in path.glob("*.json") if each.name != COMPARISON_FILE)
    if all(each.name == GO_FILE for each in own):  # which is measured for all interpreters
        own += sorted(path.glob("*/*.json"))
    return own


def merge(paths: Iterable[Path], target: Path) -> None:
    """Put the operations' files into one."""
    import pyperf  # type: ignore[import-untyped]

    parts = list(paths)
    benches = [b for part in parts for b in pyperf.BenchmarkSuite.load(str(part)).get_benchmarks()]
    if benches:
        pyperf.BenchmarkSuite(benches).dump(str(target), replace=True)
    for part in parts:
        part.unlink()


def load(paths: Iterable[Path]) -> list[Results]:
    """The results of each interpreter, the oldest version first."""
    found: dict[tuple[str, str], Results] = {}
    others: list[Path] = []
    of_folder: dict[Path, Results] = {}
    for path in paths:
        if path.name in OTHER_FILES:
            others.append(path)
            continue
        for bench in _benchmarks(path):
            metadata = bench.get_metadata()
            if "operation" in metadata:
                environment = {key: str(value) for key, value in metadata.items()}
                results = Results([], environment, [])
                results = found.setdefault(results.interpreter(), results)
                _add(results, metadata, bench.get_values())
                of_folder[path.parent] = results
    for path in others:
        stored = _stored(path)
        if path.name == GO_FILE:  # of the machine, and so beside each interpreter
            for results in found.values():
                _add_go(results, stored)
            continue
        results = of_folder.get(path.parent) or next(iter(found.values()), Results([], {}, []))
        if path.name == FAIRNESS_FILE:
            results.fairness.extend(stored["locks"])
        else:
            results.growth.update(stored["results"])
        found.setdefault(results.interpreter(), results)
    ordered = sorted(found.values(), key=lambda each: _version_key(each.interpreter()[0]))
    _name(ordered)
    return ordered


def load_from(*paths: Path) -> list[Results]:
    """The results in these files and folders; `NotResultsError` if one has none."""
    files = []
    for path in paths:
        if not path.exists():
            raise NotResultsError(f"there is no {path}")
        some = find_files(path)
        if not some:
            raise NotResultsError(f"{path} is a folder without results")
        files += some
    found = load(files)
    if not any(each.panels or each.fairness for each in found):
        raise NotResultsError(f"no results of these benchmarks in {', '.join(map(str, paths))}")
    return found


def _benchmarks(path: Path) -> list[Any]:
    import pyperf

    try:
        benchmarks: list[Any] = pyperf.BenchmarkSuite.load(str(path)).get_benchmarks()
    except OSError as error:
        raise NotResultsError(f"cannot read {path}: {error.strerror or error}") from None
    # pyperf trusts what it reads, and fails in any of these ways on what it did not write.
    except (ValueError, LookupError, TypeError, AttributeError, EOFError):
        raise NotResultsError(f"{path} is not a file of pyperf's results") from None
    return benchmarks


def _stored(path: Path) -> dict[str, Any]:
    keys = {FAIRNESS_FILE: "locks", GROWTH_FILE: "results", GO_FILE: "cells"}
    try:
        stored = json.loads(path.read_text())
    except OSError as error:
        raise NotResultsError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or keys[path.name] not in stored:
        raise NotResultsError(f"{path} is not a file of these benchmarks")
    return stored


def _add(results: Results, metadata: Mapping[str, Any], values: Sequence[float]) -> None:
    operation, row = metadata["operation"], metadata["row"]
    panel = next((each for each in results.panels if each.operation == operation), None)
    if panel is None:
        panel = Panel(operation, metadata["reference_row"])
        results.panels.append(panel)
    line = panel.lines.setdefault(row, Line(row, metadata["row_kind"]))
    line.add(int(metadata["threads"]), values)


def _add_go(results: Results, stored: Mapping[str, Any]) -> None:
    """Add the rows of perf/go to the operations beside which they were measured."""
    results.environment["go_version"] = stored["version"].removeprefix("go")
    panels = {panel.operation: panel for panel in results.panels}
    for cell in stored["cells"]:
        panel = panels.get(cell["operation"])
        if panel is not None:
            line = panel.lines.setdefault(cell["row"], Line(cell["row"], "go"))
            line.add(cell["threads"], cell["values"])


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
    if any("go_version" in each.environment for each in found):
        parts.append(f"Go {all_of('go_version')}")
    return " · ".join(parts)
