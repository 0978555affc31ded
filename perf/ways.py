"""Table and plot of bench_reach.py: ways to reach an object, by version, pinned and unpinned."""

from __future__ import annotations

import importlib
import math
import re
from typing import TYPE_CHECKING, Any

from results import headline
from rows import LOOP_ALONE, REACH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from results import Panel, Results

# An operation scales if two threads reach this many times the rate of one thread.
SCALES = 1.7
PINNED = ", pinned"
REACHED = "reached as"

BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"

EXPLANATION = """\
Million operations a second, one thread, then all threads together, and how many times as many.
self: an attribute of one object. "pinned self": pinned like the object that it holds."""


def is_about_ways(panel: Panel) -> bool:
    return panel.operation.startswith(REACH)


def panels(found: Sequence[Results]) -> dict[str, list[Panel | None]]:
    """Each operation's panel for each version."""
    names = dict.fromkeys(p.operation for each in found for p in each.panels if is_about_ways(p))
    by_name = [{p.operation: p for p in each.panels} for each in found]
    return {name: [panels.get(name) for panels in by_name] for name in names}


def ways_of(of_versions: Sequence[Panel | None]) -> list[str]:
    rows = [row for panel in of_versions if panel for row in panel.lines if row != LOOP_ALONE.name]
    return list(dict.fromkeys(row.removesuffix(PINNED) for row in rows))


def _ends(panel: Panel | None, row: str) -> tuple[float, float] | None:
    """The rates of the fewest and of the most threads; None if either was not measured."""
    line = panel.lines.get(row) if panel else None
    if panel is None or line is None:
        return None
    counts = panel.threads()
    if len(counts) < 2 or not {counts[0], counts[-1]} <= line.mops.keys():
        return None
    return line.mops[counts[0]], line.mops[counts[-1]]


def _cell(ends: tuple[float, float] | None) -> str:
    if ends is None:
        return ""
    few, many = ends
    return f"{_short(few)} \N{RIGHTWARDS ARROW} {_short(many)}  {many / few:.2f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def table(found: Sequence[Results]) -> tuple[list[str], list[list[str]]]:
    header = ["operation", REACHED]
    header += [f"{each.label}{how}" for each in found for how in ("", PINNED)]
    rows = []
    for operation, of_versions in panels(found).items():
        for way in ways_of(of_versions):
            row = [operation.removeprefix(REACH), way]
            for panel in of_versions:
                row += [_cell(_ends(panel, way)), _cell(_ends(panel, way + PINNED))]
            rows.append(row)
    return header, rows


def _should_scale(version: str, row: str) -> bool:
    """Whether docs/versions.md says that the row scales on that version of CPython."""
    if [int(digits) for digits in re.findall(r"\d+", version)[:2]] >= [3, 14]:
        return True
    return row.endswith(PINNED) and row not in ("self" + PINNED, "closure" + PINNED)


def short_of(found: Sequence[Results]) -> Iterator[str]:
    """Rows that should scale and do not: a line for each version and operation."""
    for operation, of_versions in panels(found).items():
        for each, panel in zip(found, of_versions, strict=True):
            short = []
            for row in panel.lines if panel else ():
                ends = _ends(panel, row)
                if ends and row != LOOP_ALONE.name and _should_scale(each.interpreter()[0], row):
                    factor = ends[1] / ends[0]
                    short += [f"{row} {factor:.2f}"] if factor < SCALES else []
            if short:
                yield f"{each.label} {operation.removeprefix(REACH)}: {'; '.join(short)}"


def markdown(found: Sequence[Results]) -> str:
    header, rows = table(found)
    lines = [headline(found) + ".", ""]
    lines.append(line(header))
    lines.append(line(["---", "---", *("---:" for _ in header[2:])]))
    before = ""
    for operation, *cells in rows:
        lines.append(line(["" if operation == before else operation, *cells]))
        before = operation
    return "\n".join(lines)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def check_page(page: Path) -> str:
    """The text of the page; the program ends if it lacks the two marks."""
    try:
        text = page.read_text()
    except OSError as error:
        raise SystemExit(f"error: {error}") from None
    if not (0 <= text.find(BEGIN) < text.find(END)):
        raise SystemExit(f"error: {page} has no '{BEGIN}' and '{END}' after it")
    return text


def write_markdown(found: Sequence[Results], page: Path) -> None:
    """Put the table between the two marks of the page."""
    before, _, rest = check_page(page).partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{markdown(found)}\n\n{END}{after}")


COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # Okabe and Ito's


def draw(found: Sequence[Results], folder: Path) -> list[Path]:
    """Draw the scaling of each operation by way, version, pinned or not; needs matplotlib."""
    figures = importlib.import_module("matplotlib.figure")
    patches = importlib.import_module("matplotlib.patches")
    shown = panels(found)
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = figures.Figure(figsize=(6.0 * columns, 2.6 * lines + 1.2), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.remove()
    for axes, (operation, of_versions) in zip(grid.flat, shown.items(), strict=False):
        _draw_operation(axes, operation.removeprefix(REACH), of_versions)
    keys = [
        patches.Patch(facecolor=COLOURS[at % len(COLOURS)], label=each.label)
        for at, each in enumerate(found)
    ]
    keys.append(patches.Patch(facecolor="#DDDDDD", edgecolor="#666666", label="as it comes"))
    keys.append(patches.Patch(facecolor="#666666", label="pinned"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    figure.suptitle(
        f"How one shared object is reached: threads' rate against one thread's\n{headline(found)}",
        fontsize=11,
    )
    paths = [folder / "reach.png", folder / "reach.svg"]
    for path in paths:
        figure.savefig(path, dpi=130)
    return paths


def _draw_operation(axes: Any, title: str, of_versions: Sequence[Panel | None]) -> None:
    names = ways_of(of_versions)
    width = 0.8 / (2 * len(of_versions))
    most = max(panel.threads()[-1] for panel in of_versions if panel)
    for at, panel in enumerate(of_versions):
        colour = COLOURS[at % len(COLOURS)]
        for place, way in enumerate(names):
            for pinned, row in enumerate((way, way + PINNED)):
                ends = _ends(panel, row)
                if ends:
                    x = place - 0.4 + (2 * at + pinned + 0.5) * width
                    look = {"color": colour} if pinned else {"facecolor": colour + "55"}
                    axes.bar(x, ends[1] / ends[0], width, edgecolor=colour, linewidth=0.6, **look)
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.axhline(most, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(0, most * 1.15)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
