"""Hit ratios of eviction policies: what `Cache` does beside LRU, its kin, and the best possible.

    ./dev python perf/cache_policies.py                        # all traces: minutes
    ./dev python perf/cache_policies.py --only Zipf --part 0.2
    ./dev python perf/cache_policies.py --markdown docs/guide/caching.md --svg docs/hit-ratios.svg

The models are in policies.py, the traces in traces.py; `Cache` itself is run beside its model.
Nothing here is timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from apart import table
from policies import POLICIES, hits, most_hits
from traces import Trace, traces

from nogil_sync import Cache

CACHE, MODEL, BEST = "Cache", "its model", "best possible"
BEGIN, END = "<!-- hit ratios -->", "<!-- end of hit ratios -->"


class Real:
    """`Cache` itself."""

    def __init__(self, size: int) -> None:
        self.cache: Cache[int, int] = Cache(size)

    def request(self, key: int) -> bool:
        if self.cache.get(key) is None:
            self.cache[key] = key
            return False
        return True


class Found(NamedTuple):
    trace: str
    size: int
    different: int
    requests: int
    ratios: dict[str, float]


def measure(trace: Trace, size: int, names: list[str]) -> Found:
    total = len(trace.keys)
    made = {**POLICIES, CACHE: Real}
    ratios = {name: hits(made[name](size), trace.keys) / total for name in names}
    ratios[BEST] = most_hits(size, trace.keys) / total
    return Found(trace.name, size, len(set(trace.keys)), total, ratios)


def show(found: list[Found], names: list[str]) -> None:
    rows = [
        [f.trace, f.size, f.different, *(f"{f.ratios[name] * 100:.1f}" for name in names)]
        for f in found
    ]
    print("Hits in percent of the requests\n")
    table(["trace", "places", "keys", *names], rows)
    print("\nOver all of them: the mean, and the most that each is below LRU, in points\n")
    summary = []
    for name in names:
        mean = sum(f.ratios[name] for f in found) / len(found) * 100
        below = max((f.ratios.get("LRU", 0) - f.ratios[name], f.trace, f.size) for f in found)
        summary.append([name, f"{mean:.1f}", f"{max(0.0, below[0]) * 100:.1f}", below[1]])
    table(["policy", "mean", "below LRU", "where"], summary)


def markdown(found: list[Found], names: list[str]) -> str:
    lines = [
        "| trace | places of keys | " + " | ".join(names) + " |",
        "|---|---|" + "---:|" * len(names),
    ]
    for f in found:
        cells = []
        online = max(f.ratios[name] for name in names if name != BEST)
        for name in names:
            cell = f"{f.ratios[name] * 100:.1f}"
            near = name != BEST and f.ratios[name] >= online - 0.005
            cells.append(f"**{cell}**" if near else cell)
        lines.append(f"| {f.trace} | {f.size:,} of {f.different:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def insert(page: Path, text: str) -> None:
    """Put the table between the page's marks."""
    pattern = f"(?<={re.escape(BEGIN)}\n).*(?={re.escape(END)})"
    old = page.read_text()
    new, count = re.subn(pattern, lambda _: f"\n{text}\n\n", old, count=1, flags=re.DOTALL)
    if not count:
        sys.exit(f"error: {page} has no marks {BEGIN} and {END}")
    page.write_text(new)


COLORS = {
    "LRU": "#c44e52",
    "SIEVE": "#dd8452",
    "S3-FIFO": "#937860",
    "W-TinyLFU, adaptive": "#4c72b0",
    CACHE: "#55a868",
}


def draw(found: list[Found], path: Path) -> None:
    """A line of dots for each trace: what part of the possible hits each policy has."""
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as missing:
        print(f"note: no plot, since matplotlib cannot be imported ({missing})", file=sys.stderr)
        return
    height = 1.4 + 0.24 * len(found)
    figure = figures.Figure(figsize=(9.5, height))
    axes = figure.add_axes((0.34, 0.55 / height, 0.63, 1 - 1.25 / height))
    for row, f in enumerate(reversed(found)):
        best = f.ratios[BEST] or 1.0
        axes.axhline(row, color="#eeeeee", linewidth=0.8, zorder=0)
        for name, color in COLORS.items():
            if name in f.ratios:
                mine = name == CACHE
                axes.plot(
                    f.ratios[name] / best * 100,
                    row,
                    marker="D" if mine else "o",
                    markersize=6 if mine else 5,
                    color=color,
                    alpha=1.0 if mine else 0.75,
                    linestyle="none",
                    zorder=3 if mine else 2,
                    label=name if row == 0 else None,
                )
    axes.set_yticks(range(len(found)))
    labels = [f"{f.trace}; {f.size:,} of {f.different:,}" for f in reversed(found)]
    axes.set_yticklabels(labels, fontsize=8)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("hits in percent of the best possible policy's", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    title = "Hit ratios: Cache beside other policies"
    figure.text(0.02, 1 - 0.2 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(0.33, 1 - 0.38 / height),
        ncols=len(COLORS),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def end_at_once_on_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=float, default=1.0, help="of the traces' usual length")
    parser.add_argument("--only", default="", metavar="PATTERN", help="traces whose name matches")
    parser.add_argument("--policies", default="", metavar="PATTERN", help="those that match")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also store it as JSON")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="put the table into a page")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a plot")
    args = parser.parse_args()
    names = [name for name in (*POLICIES, CACHE) if re.search(args.policies, name)]
    with ProcessPoolExecutor(args.processes, initializer=end_at_once_on_interrupt) as pool:
        futures = [
            pool.submit(measure, trace, size, names)
            for trace in traces(args.part, args.only)
            for size in trace.sizes
        ]
        found = [future.result() for future in futures]
    shown = [*names, BEST]
    show(found, shown)
    if args.output:
        args.output.write_text(json.dumps([f._asdict() for f in found], indent=1))
    if args.markdown:
        insert(args.markdown, markdown(found, [name for name in shown if name != MODEL]))
    if args.svg:
        draw(found, args.svg)


if __name__ == "__main__":
    end_at_once_on_interrupt()
    main()
