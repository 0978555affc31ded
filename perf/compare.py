"""Compares two runs: which rows of ours became slower or faster, beyond the noise.

The rows of the standard library, of peers and of the loop alone are the controls: no change of ours
touches them, so what they differ by is noise of the machine. A difference of ours is taken relative
to the controls of the same operation at the same thread count, which were measured in turns with
it. It is significant if both hold:

- it stands out from the spread of the controls and of the row's own values, as a normal deviate,
  at a level of 5 % for all rows together (Bonferroni's correction, as there are hundreds);
- it stands out more than that of every control.

pyperf's own `compare_to` tests each row by itself at 5 %, from values of one process: of 300 equal
rows it would call 15 different, and more on a machine whose speed drifts.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from html import escape
from typing import TYPE_CHECKING

import page
import report
from results import NOISE, NotResultsError, headline
from summary import percent, times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from results import Line, Results

THRESHOLD = 10.0  # percent
LEVEL = 0.05
# The standard deviation of the noise is never taken for less than this.
MIN_NOISE = 0.005
# With fewer controls than this, their spread says little.
MIN_CONTROLS = 8
SHOWN = 15

FASTER, SLOWER, SAME = "faster", "slower", "same"


def parse_percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1000:
        raise argparse.ArgumentTypeError("a threshold is a number of percent, from 0 to 1000")
    return value


@dataclass
class Row:
    """One row at one thread count in both runs."""

    interpreter: str
    operation: str
    row: str
    kind: str
    threads: int
    before: float  # million operations a second
    after: float
    # The natural logarithm of how many times faster it became, relative to the controls; and the
    # variance of that by the row's own values.
    difference: float = 0.0
    variance: float = 0.0
    deviate: float = 0.0
    verdict: str = SAME

    @property
    def ratio(self) -> float:
        return math.exp(self.difference)

    @property
    def group(self) -> tuple[str, str, int]:
        return self.interpreter, self.operation, self.threads


@dataclass
class Comparison:
    first: Sequence[Results]
    second: Sequence[Results]
    threshold: float  # percent
    ours: list[Row] = field(default_factory=list)  # the slowest first
    controls: list[Row] = field(default_factory=list)
    noise: float = NOISE  # the standard deviation of a difference that means nothing
    limit: float = 0.0  # the deviate above which a difference is significant
    relative: bool = True  # to the controls

    @property
    def slower(self) -> list[Row]:
        """Rows of ours that are significantly slower by more than the threshold."""
        return [row for row in self.ours if row.verdict == SLOWER]

    @property
    def faster(self) -> list[Row]:
        return [row for row in reversed(self.ours) if row.verdict == FASTER]

    @property
    def mean(self) -> float:
        return statistics.geometric_mean([row.ratio for row in self.ours])

    @property
    def visible(self) -> float:
        """The smallest difference, in percent, that is significant in a row of typical noise."""
        variances = [row.variance for row in self.ours]
        return 100 * math.expm1(
            self.limit * math.sqrt(self.noise**2 + statistics.median(variances))
        )


def compare(first: Sequence[Results], second: Sequence[Results], threshold: float) -> Comparison:
    found = Comparison(first, second, threshold)
    rows = [row for a, b in _pairs(first, second) for row in _common(a, b)]
    found.ours = [row for row in rows if row.kind == "ours"]
    found.controls = [row for row in rows if row.kind in ("stdlib", "peer", "floor")]
    if not found.ours:
        raise NotResultsError("the two have no row of ours in common")
    found.relative = _machine(first) == _machine(second)
    _judge(found)
    found.ours.sort(key=lambda row: (row.verdict != SLOWER, row.difference))
    return found


def _machine(found: Sequence[Results]) -> set[tuple[str | None, ...]]:
    keys = ("python_version", "python_build", "cpu_model_name", "usable_cores")
    return {tuple(each.environment.get(key) for key in keys) for each in found}


def _pairs(
    first: Sequence[Results], second: Sequence[Results]
) -> Iterator[tuple[Results, Results]]:
    """The results of the same version of Python; of two runs on one version each, these two."""
    by_label = {each.label: each for each in first}
    common = [(by_label[each.label], each) for each in second if each.label in by_label]
    if not common and len(first) == len(second) == 1:
        common = [(first[0], second[0])]
    yield from common


def _common(a: Results, b: Results) -> Iterator[Row]:
    before = {
        (panel.operation, line.name): line for panel in a.panels for line in panel.lines.values()
    }
    for panel in b.panels:
        for line in panel.lines.values():
            old = before.get((panel.operation, line.name))
            for threads in sorted(old.mops.keys() & line.mops.keys()) if old else ():
                assert old is not None
                row = Row(b.label, panel.operation, line.name, line.kind, threads, 0, 0)
                row.before, row.after = old.mops[threads], line.mops[threads]
                row.difference = math.log(row.after / row.before)
                row.variance = _variance(old, threads) + _variance(line, threads)
                yield row


def _variance(line: Line, threads: int) -> float:
    """The variance of the median of the values' logarithms, were they normal."""
    logarithms = [math.log(value) for value in line.values[threads]]
    if len(logarithms) < 2:
        return 0.0
    return math.pi / 2 * statistics.variance(logarithms) / len(logarithms)


def _judge(found: Comparison) -> None:
    """Take the differences relative to the controls, and say which are significant."""
    if found.relative:
        groups: dict[tuple[str, str, int], list[Row]] = {}
        for row in found.controls:
            groups.setdefault(row.group, []).append(row)
        overall = statistics.median([row.difference for row in found.controls] or [0.0])
        shifts = {}
        for row in (*found.ours, *found.controls):
            others = [c.difference for c in groups.get(row.group, ()) if c is not row]
            shifts[id(row)] = statistics.median(others) if others else overall
        for row in (*found.ours, *found.controls):
            row.difference -= shifts[id(row)]
    if len(found.controls) >= MIN_CONTROLS:
        middle = 0.0
        if not found.relative:
            middle = statistics.median(row.difference for row in found.controls)
        spread = statistics.median(abs(row.difference - middle) for row in found.controls)
        found.noise = max(MIN_NOISE, 1.4826 * spread)  # the median of a normal deviate is 0.6745
    for row in (*found.ours, *found.controls):
        row.deviate = row.difference / math.sqrt(found.noise**2 + row.variance)
    found.limit = statistics.NormalDist().inv_cdf(1 - LEVEL / 2 / len(found.ours))
    if found.relative:
        found.limit = max(found.limit, *(abs(row.deviate) for row in found.controls), 0.0)
    beyond = math.log1p(found.threshold / 100)
    for row in found.ours:
        if abs(row.deviate) > found.limit and abs(row.difference) > beyond:
            row.verdict = SLOWER if row.difference < 0 else FASTER


# ---- What is said of it ----


def lines(found: Comparison) -> Iterator[tuple[str, str]]:
    """A heading and a text for each thing to say."""
    slower, faster = found.slower, found.faster
    more = f"by more than {found.threshold:g} %"
    if slower:
        worst = slower[0]
        yield (
            "Slower",
            (
                f"{len(slower)} of {len(found.ours)} rows of ours, significantly and {more}; the "
                f"worst is {worst.row} ({worst.operation}) with {times(worst.ratio)}"
            ),
        )
    else:
        yield "Slower", f"none of {len(found.ours)} rows of ours, significantly and {more}"
    yield "Faster", f"{len(faster)} rows" if faster else "none"
    yield "All rows", f"{times(found.mean)} as fast, by the geometric mean"
    yield "Noise", _noise(found)
    if not found.relative:
        yield (
            "Not alike",
            "the interpreters or the machines differ, and so may explain any of this",
        )


def _noise(found: Comparison) -> str:
    if len(found.controls) < MIN_CONTROLS:
        what = f"taken for {percent(found.noise)}: too few rows of the standard library to know"
    else:
        what = (
            f"the {len(found.controls)} rows that no change of ours touches differ by "
            f"{percent(found.noise)} (one standard deviation)"
        )
    by = "more than three times" if found.visible > 200 else f"about {found.visible:.0f} %"
    seen = f"a row must differ by {by} to be seen"
    if found.visible > 2 * max(found.threshold, 5.0):
        seen += ": too much to tell; repeat both on a quiet machine"
    return f"{what}, so {seen}"


HEADER = ["row", "operation", "threads", "A", "B", "B/A", ""]


def _cells(found: Comparison, row: Row) -> list[str]:
    several = len(found.second) > 1
    return [
        row.row + (f", {row.interpreter}" if several else ""),
        row.operation,
        str(row.threads),
        report.number(row.before),
        report.number(row.after),
        times(row.ratio),
        "" if row.verdict == SAME else row.verdict,
    ]


EXPLANATION = """\
A and B: million operations a second. B/A: how many times faster, relative to the rows of the
standard library beside it, which are the same code in both. Below 1 is slower."""


def show(found: Comparison, *, details: bool) -> None:
    """Print the summary and the significant rows, or all."""
    first = f"A: {headline(found.first)}\nB: {headline(found.second)}"
    report.print_lines(first, list(lines(found)))
    rows = found.ours if details else [*found.slower[:SHOWN], *found.faster[:SHOWN]]
    if rows:
        report.print_table(EXPLANATION, HEADER, [_cells(found, row) for row in rows])
    if not details:
        print("all rows: --details")


def write(found: Comparison, folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Write the comparison as JSON, Markdown and a page, and return their paths."""
    targets = [folder / f"comparison.{suffix}" for suffix in ("json", "md", "html")]
    stored = {
        "a": str(paths[0]),
        "b": str(paths[1]),
        "threshold_percent": found.threshold,
        "geometric_mean": found.mean,
        "noise": found.noise,
        "limit": found.limit,
        "rows": [{**asdict(row), "ratio": row.ratio} for row in found.ours],
    }
    targets[0].write_text(json.dumps(stored, indent=1), encoding="utf-8")
    table = [_cells(found, row) for row in found.ours]
    said = "\n".join(f"- **{heading}**: {text}" for heading, text in lines(found))
    title = "Two runs of nogil_sync's benchmarks"
    parts = [f"# {title}", f"A: {headline(found.first)}.", f"B: {headline(found.second)}.", said]
    parts += [EXPLANATION, report.markdown_table(HEADER, table)]
    targets[1].write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    targets[2].write_text("".join(_page(found, title)), encoding="utf-8")
    return targets


def _page(found: Comparison, title: str) -> Iterator[str]:
    yield page.head(title)
    yield f'<p class="soft">A: {escape(headline(found.first))}<br>'
    yield f"B: {escape(headline(found.second))}</p>\n"
    yield page.said(list(lines(found)))
    for heading, rows in (("Slower", found.slower), ("Faster", found.faster)):
        if rows:
            yield f"<h2>{heading}</h2>\n"
            yield page.table(HEADER, [_cells(found, row) for row in rows])
    yield f'<h2>All rows, the slowest first</h2>\n<p class="soft">{escape(EXPLANATION)}</p>\n'
    yield page.table(HEADER, [_cells(found, row) for row in found.ours])
    yield page.FOOT
