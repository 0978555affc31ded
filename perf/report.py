"""The summary and the tables in the terminal, the Markdown and the scaling plot.

They do without their library: no rich gives plain text, no matplotlib no plot.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import summary
import ways
from results import headline
from rows import BOUND
from summary import times

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from results import Line, Panel, Results

try:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError:
    Console = Table = Text = None  # type: ignore[assignment,misc]

# Each table: its header, its rows, and the kind of each row.
Tables: TypeAlias = list[tuple[list[str], list[list[str]], list[str]]]

LOSES = "loses to"
# The columns, beside the first, that hold words and not numbers.
WORDS = (LOSES, ways.REACHED, "operation", "")

KIND_STYLE = {"floor": "dim", "stdlib": "", "peer": "cyan", "go": "cyan", "ours": "bold green"}


def number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    if value >= 0.1:
        return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}"  # two digits, however small


def _header(panel: Panel) -> list[str]:
    counts = panel.threads()
    header = [panel.operation, *(f"{count}T" for count in counts)]
    header.append(f"vs ref {counts[0]}T")
    if len(counts) > 1:
        header += [f"vs ref {counts[-1]}T", "scaling"]
    return [*header, LOSES]


def _cells(panel: Panel, line: Line) -> list[str]:
    counts = panel.threads()
    first, last = counts[0], counts[-1]
    cells = [line.name + (" (ref)" if line.name == panel.reference else "")]
    cells += [number(line.mops[c]) if c in line.mops else "" for c in counts]
    cells.append(times(panel.ratio(line, first)) if line.kind != "floor" else "")
    if len(counts) > 1:
        cells.append(times(panel.ratio(line, last)) if line.kind != "floor" else "")
        both = first in line.mops and last in line.mops
        cells.append(times(line.mops[last] / line.mops[first]) if both else "")
    cells.append(_losses(panel, line))
    return cells


def _losses(panel: Panel, line: Line) -> str:
    by_name: dict[str, list[str]] = {}
    for name, threads, ratio in panel.losses(line):
        by_name.setdefault(name, []).append(f"{threads}T {times(ratio)}")
    return "; ".join(f"{name} ({', '.join(where)})" for name, where in by_name.items())


def _side_by_side(found: Sequence[Results]) -> Tables:
    """A table for each operation, with columns for each interpreter."""
    made: Tables = []
    for operation in dict.fromkeys(p.operation for each in found for p in _usual_panels(each)):
        of_versions = [
            (each.label, panel)
            for each in found
            for panel in each.panels
            if panel.operation == operation
        ]
        header = [operation]
        for label, panel in of_versions:
            counts = panel.threads()
            header += [f"{label} {counts[0]}T"]
            if len(counts) > 1:
                header += [f"{counts[-1]}T", "scaling"]
            header.append("vs ref")
        header.append(LOSES)
        kinds = {line.name: line.kind for _, panel in of_versions for line in panel.lines.values()}
        rows = []
        for name in kinds:
            reference = any(name == panel.reference for _, panel in of_versions)
            cells, losses = [name + (" (ref)" if reference else "")], []
            for label, panel in of_versions:
                line = panel.lines.get(name)
                cells += _version_cells(panel, line)
                lost = _losses(panel, line) if line else ""
                losses += [f"{label}: {lost}"] if lost else []
            rows.append([*cells, "; ".join(losses)])
        made.append((header, rows, list(kinds.values())))
    return made


def _version_cells(panel: Panel, line: Line | None) -> list[str]:
    counts = panel.threads()
    ends = dict.fromkeys((counts[0], counts[-1]))
    if line is None:
        return [""] * (len(ends) + (len(ends) > 1) + 1)
    cells = [number(line.mops[c]) if c in line.mops else "" for c in ends]
    if len(ends) > 1:
        both = line.mops.keys() >= ends.keys()
        cells.append(times(line.mops[counts[-1]] / line.mops[counts[0]]) if both else "")
    cells.append(times(panel.ratio(line, counts[-1])) if line.kind != "floor" else "")
    return cells


def _usual_panels(results: Results) -> list[Panel]:
    return [panel for panel in results.panels if not ways.is_about_ways(panel)]


EXPLANATION = """\
Million operations a second, all threads together, on one shared object; more is better.
vs ref: times the row marked (ref) at that thread count. scaling: most threads against fewest.
loses to: the fastest stdlib or peer row where it beats ours, and what part of it ours reaches."""


def _fairness_rows(results: Results) -> list[list[str]]:
    return [
        [
            str(entry["lock"]),
            str(entry["threads"]),
            number(entry["mops"]),
            f"{entry['smallest_share']:.2f}",
            f"{entry['largest_share']:.2f}",
            f"{entry['longest_wait_ms']:.1f}",
        ]
        for entry in results.fairness
    ]


FAIRNESS_HEADER = [
    "Fairness, with m: x += 1",
    "threads",
    "Mops/s",
    "smallest share",
    "largest share",
    "longest wait, ms",
]


def warnings(found: Sequence[Results]) -> list[str]:
    """Reasons to doubt the figures."""
    reasons = []
    for each in found:
        on = f"{each.label}: " if len(found) > 1 else ""
        reasons += [
            f"{on}at {threads} threads the loop alone, which shares nothing, reached "
            f"{summary.percent(part)} of perfect scaling: something else used the cores, "
            "or they are not whole cores"
            for threads, part in each.disturbed().items()
        ]
        if "debug" in each.environment.get("python_build", ""):
            reasons.append(f"{on}a debug build of Python: nothing here tells how fast anything is")
    return reasons


def tables(found: Sequence[Results]) -> Tables:
    """All tables: of one interpreter, or of several side by side."""
    made: Tables = []
    if len(found) == 1:
        made += [
            (
                _header(p),
                [_cells(p, line) for line in p.lines.values()],
                [line.kind for line in p.lines.values()],
            )
            for p in _usual_panels(found[0])
        ]
    else:
        made += _side_by_side(found)
    if ways.panels(found):
        header, rows = ways.table(found)
        made.append((header, rows, ["stdlib"] * len(rows)))
    return made + _fairness_tables(found)


def explanation(found: Sequence[Results]) -> str:
    explained = [EXPLANATION] if any(map(_usual_panels, found)) else []
    if ways.panels(found):
        explained.append(ways.EXPLANATION)
    return "\n".join(explained)


def print_summary(found: Sequence[Results]) -> None:
    """Print what is gained and where we lose, in about ten lines, and reasons to doubt it."""
    print_lines(headline(found), list(summary.lines(found)))
    for warning in warnings(found):
        print(f"warning: {warning}", flush=True)


def print_lines(first: str, lines: Sequence[tuple[str, str]]) -> None:
    """A headline, then lines of a heading and a text, which hangs beside it."""
    width = max((len(heading) for heading, _ in lines), default=0)
    if Console is None:
        print(f"\n{first}\n")
        for heading, text in lines:
            print(f"{heading.ljust(width)}  {text}")
        print(flush=True)
        return
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", min_width=width)
    table.add_column()
    for heading, text in lines:
        style = "red" if heading.endswith(LOST) or not heading else None
        # As text, since what stands in brackets would be taken for a style.
        table.add_row(Text(heading), Text(text, style=style or ""))
    console.print()
    console.print(Text(first, style="bold"))
    console.print()
    console.print(table)
    console.print()


# The heading in the summary of what we lose.
LOST = "We lose"


def print_table(explained: str, header: list[str], rows: list[list[str]]) -> None:
    show = _print_plain if Console is None else _print_rich
    show(explained, [(header, rows, ["stdlib"] * len(rows))])


def print_tables(found: Sequence[Results]) -> None:
    """Print the results of one interpreter, or of several side by side."""
    show = _print_plain if Console is None else _print_rich
    show(explanation(found), tables(found))
    for row in ways.short_of(found):
        print(f"below {ways.SCALES}: {row}", flush=True)


def markdown(found: Sequence[Results]) -> str:
    """The summary and the tables as Markdown."""
    parts = ["# nogil_sync beside the standard library", headline(found) + "."]
    said = []
    for heading, text in summary.lines(found):
        said.append(f"- **{heading}**: {text}" if heading else f"  - {text}")
    parts.append("\n".join(said))
    parts += [f"> warning: {warning}" for warning in warnings(found)]
    parts.append(explanation(found))
    parts += [markdown_table(header, rows) for header, rows, _ in tables(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    words = [index == 0 or title in WORDS for index, title in enumerate(header)]
    ruler = ["---" if word else "---:" for word in words]
    return "\n".join(map(ways.line, (header, ruler, *rows)))


def _fairness_tables(found: Sequence[Results]) -> Tables:
    made: Tables = []
    for each in found:
        if each.fairness:
            header = list(FAIRNESS_HEADER)
            if len(found) > 1:
                header[0] += f" on {each.label}"
            kinds = [str(entry["row_kind"]) for entry in each.fairness]
            made.append((header, _fairness_rows(each), kinds))
    return made


def _print_rich(explained: str, shown: Tables) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130 if _narrow(shown) else 170)
    console.print(explained, style="dim", highlight=False)
    for header, rows, kinds in shown:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for index, title in enumerate(header):
            words = index == 0 or title in WORDS
            table.add_column(
                title,
                justify="left" if words else "right",
                no_wrap=not words,
                style="red" if title == LOSES else None,
            )
        for cells, kind in zip(rows, kinds, strict=True):
            table.add_row(*cells, style=KIND_STYLE[kind])
        console.print()
        console.print(table)
    console.print()


def _narrow(shown: Tables) -> bool:
    return all(len(header) < 9 for header, _, _ in shown)


def _print_plain(explained: str, shown: Tables) -> None:
    print(explained)
    for header, rows, _ in shown:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        print()
        for cells in [header, *rows]:
            first, *rest = cells
            columns = [first.ljust(widths[0])]
            columns += [
                cell.ljust(width) if title in WORDS else cell.rjust(width)
                for cell, width, title in zip(rest, widths[1:], header[1:], strict=True)
            ]
            print("  ".join(columns).rstrip())
    print()


# A colour for each way to do an operation, the same in all panels (Okabe and Ito's palette, for
# colour-blind readers). A row's bound method has the row's colour, dashed.
OURS = {"pinned": "#D55E00", "pinned, its value too": "#CC3311", "": "#E69F00"}
SECOND_COLOUR = "#009E73"
PEER_COLOURS = {
    "ft_utils": "#0072B2",
    "cereggii": "#2E9BD6",
    "readerwriterlock": "#6A5ACD",
    "janus": "#0072B2",
    "culsans": "#2E9BD6",
    "aiologic": "#6A5ACD",
    "cachetools": "#0072B2",
    "cachebox": "#2E9BD6",
    "theine": "#6A5ACD",
}
STDLIB_COLOURS = ("#222222", "#777777", "#AAAAAA")
FLOOR_COLOUR = "#CCCCCC"
GO_COLOUR = "#CC79A7"


def _look(panel: Panel, line: Line) -> dict[str, Any]:
    bound = line.name.endswith(BOUND)
    base = line.name.removesuffix(BOUND)
    look: dict[str, Any] = {"linestyle": "--" if bound else "-", "linewidth": 1.5, "marker": "o"}
    look["markersize"] = 3.5
    if line.kind == "go":
        return {**look, "color": GO_COLOUR}
    if line.kind == "floor":
        return {**look, "color": FLOOR_COLOUR, "linewidth": 1.2, "marker": None}
    if line.kind == "peer":
        return {**look, "color": PEER_COLOURS.get(base.split()[0].partition(".")[0], "#0072B2")}
    if line.kind == "stdlib":
        bases = [n.removesuffix(BOUND) for n, x in panel.lines.items() if x.kind == "stdlib"]
        order = list(dict.fromkeys(name.removesuffix(", pinned") for name in bases))
        index = order.index(base.removesuffix(", pinned"))
        pinned = {"linestyle": ":"} if ", pinned" in base else {}
        return {**look, **pinned, "color": STDLIB_COLOURS[index % len(STDLIB_COLOURS)]}
    _, _, how = base.partition(", ")
    if not re.search(rf"\b{re.escape(base.split(',')[0])}", panel.operation):
        # A row of ours that is not the subject of the panel.
        return {**look, "color": SECOND_COLOUR, "linestyle": ":" if how else look["linestyle"]}
    return {
        **look,
        "color": OURS.get(how, OURS[""]),
        "linewidth": 2.4,
        "markersize": 5,
        "zorder": 3,
    }


def _spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved apart to a distance of at least `gap`, between `low` and `high`."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    placed = [positions[i] for i in order]
    for _ in range(200):
        moved = False
        for a in range(len(placed) - 1):
            overlap = gap - (placed[a + 1] - placed[a])
            if overlap > 1e-6:
                placed[a] -= overlap / 2
                placed[a + 1] += overlap / 2
                moved = True
        shift_up, shift_down = max(0.0, low - placed[0]), max(0.0, placed[-1] - high)
        if shift_up and not shift_down:
            placed[0] += shift_up
        elif shift_down and not shift_up:
            placed[-1] -= shift_down
        if not moved:
            break
    result = [0.0] * len(positions)
    for index, position in zip(order, placed, strict=True):
        result[index] = position
    return result


def _draw_panel(axes: Any, panel: Panel, limits: tuple[float, float], label: str) -> None:
    counts = panel.threads()
    labels: list[tuple[float, str, str, str]] = []
    for line in panel.lines.values():
        look = _look(panel, line)
        axes.plot(list(line.mops), list(line.mops.values()), **look)
        weight = "bold" if line.kind == "ours" else "normal"
        labels.append((line.mops[max(line.mops)], line.name, look["color"], weight))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] * 0.92, counts[-1] * 1.08)
    low, high = limits
    axes.set_ylim(10**low, 10**high)
    decades = [10**e for e in range(math.ceil(low), math.floor(high) + 1)]
    axes.set_yticks(decades, [f"{d:g}" for d in decades])
    axes.grid(axis="y", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("threads on one shared object", fontsize=9)
    axes.set_ylabel("Mops/s, all threads together", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.set_title(
        f"{panel.operation}{label and f', {label}'}", fontsize=11, fontweight="bold", loc="left"
    )
    gap = (high - low) * 0.052
    heights = _spread([math.log10(value) for value, *_ in labels], gap, low, high)
    for height, (value, name, colour, weight) in zip(heights, labels, strict=True):
        axes.annotate(
            f"{name}  {number(value)}",
            xy=(counts[-1], value),
            xytext=(1.07, (height - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=8,
            fontweight=weight,
            color=colour if colour != FLOOR_COLOUR else "#999999",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.5,
                "shrinkA": 2,
                "relpos": (0, 0.5),
            },
        )


# The layout in inches: each panel has its axes and, on the right, the lines' labels.
AXES_WIDTH, AXES_HEIGHT = 3.0, 3.0
LEFT, LABELS, TITLE, BELOW = 0.75, 3.2, 0.45, 0.55
HEADER = 0.8


def draw_plot(found: Sequence[Results], folder: Path) -> list[Path]:
    """Draw the plots as PNG and SVG; without matplotlib print the reason and draw none."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        importlib.import_module("matplotlib.figure")
    except ImportError as missing:
        print(f"note: no plot, since matplotlib cannot be imported ({missing})", file=sys.stderr)
        return []
    paths = []
    if any(map(_usual_panels, found)):
        paths += _draw_scaling(found, folder)
    if ways.panels(found):
        paths += ways.draw(found, folder)
    return paths


def _draw_scaling(found: Sequence[Results], folder: Path) -> list[Path]:
    """A panel for each operation; with several interpreters a row of panels, one for each."""
    figures = importlib.import_module("matplotlib.figure")
    places: list[tuple[int, int, Panel, str]] = []
    if len(found) == 1:
        panels = _usual_panels(found[0])
        count = len(panels)
        columns = 1 if count == 1 else 2 if count in (2, 4) else 3
        places = [(*divmod(at, columns), panel, "") for at, panel in enumerate(panels)]
    else:
        operations = dict.fromkeys(p.operation for each in found for p in _usual_panels(each))
        order = {name: row for row, name in enumerate(operations)}
        columns = len(found)
        places = [
            (order[panel.operation], column, panel, each.label)
            for column, each in enumerate(found)
            for panel in _usual_panels(each)
        ]
    rows = 1 + max(row for row, *_ in places)
    width = columns * (LEFT + AXES_WIDTH + LABELS)
    height = HEADER + rows * (TITLE + AXES_HEIGHT + BELOW)
    figure = figures.Figure(figsize=(width, height))
    for row, column, panel, label in places:
        left = column * (LEFT + AXES_WIDTH + LABELS) + LEFT
        bottom = height - HEADER - (row + 1) * (TITLE + AXES_HEIGHT + BELOW) + BELOW
        box = (left / width, bottom / height, AXES_WIDTH / width, AXES_HEIGHT / height)
        limits = _limits([p for other, _, p, _ in places if other == row] if label else [panel])
        _draw_panel(figure.add_axes(box), panel, limits, label)
    peers = " and peers" if any(map(_has_peers, found)) else ""
    title = f"nogil_sync beside the standard library{peers}"
    x = 0.2 / width
    figure.text(x, 1 - 0.15 / height, title, fontsize=16, fontweight="bold", va="top")
    figure.text(x, 1 - 0.5 / height, headline(found), fontsize=10, color="#555555", va="top")
    paths = [folder / "scaling.png", folder / "scaling.svg"]
    for path in paths:
        figure.savefig(path, dpi=130 if len(found) == 1 else 80)
    return paths


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """The exponents between which all the panels' values lie."""
    values = [value for p in panels for line in p.lines.values() for value in line.mops.values()]
    low, high = math.log10(min(values)) - 0.15, math.log10(max(values)) + 0.15
    # In a panel with a small range noise would look large.
    return min(low, high - 1.5), high


def _has_peers(results: Results) -> bool:
    return any(line.kind == "peer" for panel in results.panels for line in panel.lines.values())
