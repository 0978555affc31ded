"""The report as one page of HTML, without scripts and outside resources.

It has the style sheet of the contention profile's page, so that the two look alike. The plots of
many rows are elements that style sheets place, so that they fit a phone; the others are inline SVG.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import report
import summary
import ways
from results import NOISE, headline
from rows import BOUND
from summary import Standing, Summary, in_threads, is_subject, percent, times

from nogil_sync._common.contention_page import _STYLE as HOUSE_STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from results import Line, Panel, Results

_STYLE = (
    HOUSE_STYLE
    + """
:root { --ours: var(--c1); --stdlib: var(--soft); --peer: var(--c0); --go: var(--c2); }
.figures { margin-top: 10px; }
.said { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 12px 0; }
.said dt { color: var(--soft); }
.said dd { margin: 0; overflow-wrap: anywhere; }
.rows { display: grid; grid-template-columns: minmax(0, 36%) 1fr max-content; gap: 2px 14px;
  align-items: center; font-size: 14px; }
.rows .value { text-align: right; font-variant-numeric: tabular-nums; min-width: 4.5em; }
.rows .lost { color: var(--bar); font-weight: 600; }
.rows .scale { color: var(--soft); font-size: 12px; height: 18px; }
.strip { position: relative; height: 24px; }
.strip > * { position: absolute; }
.strip .tick { top: 0; bottom: 0; width: 1px; background: var(--line); }
.strip .one { background: var(--soft); }
.strip .text { translate: -50%; white-space: nowrap; }
.strip .span { top: 10px; height: 4px; border-radius: 2px; opacity: .3; }
.strip .dot, .dot { width: 11px; height: 11px; border-radius: 50%; border: 2px solid; }
.strip .dot { top: 6px; translate: -50%; }
.keys .dot { display: inline-block; margin-right: 6px; vertical-align: -1px; }
.keys li { display: flex; align-items: baseline; }
.keys .dot { flex: none; align-self: center; }
.ours { color: var(--ours); } .stdlib { color: var(--stdlib); } .peer { color: var(--peer); }
.go { color: var(--go); }
.dot.full, .span { background: currentColor; }
.dot.empty { background: var(--card); }
.peer.dot { border-radius: 2px; } .go.dot { border-radius: 2px; rotate: 45deg; }
.strip .peer.dot, .strip .go.dot { width: 10px; height: 10px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 14px;
  align-items: stretch; }
.plots .card { margin: 0; }
.plots h3 { margin: 0 0 6px; }
.plot svg, .plots svg, .keys svg { min-width: 0; }
.plots .keys { display: grid; grid-template-columns: 1fr; }
.plots .keys li span:nth-child(2) { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.plots .keys li span:nth-child(3) { font-variant-numeric: tabular-nums; padding-left: 10px; }
.plot { max-width: 780px; }
.plot .wide svg { min-width: 480px; }
.tables { padding: 0; }
.tables details { border-top: 1px solid var(--line); padding: 7px 14px; }
.tables details:first-child { border-top: 0; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; }
svg .thin { stroke-width: 1.5; }
svg .dash { stroke-dasharray: 4 3; }
svg .perfect { stroke: var(--rest); stroke-dasharray: 2 3; }
svg .mark { fill: currentColor; }
.warning { border-left: 4px solid var(--bar); padding-left: 10px; }
@media (min-width: 700px) { /* an operation's versions side by side */
  .plots.of2 { grid-template-columns: 1fr 1fr; }
}
@media (max-width: 640px) {
  main { padding: 20px 14px 48px; }
  .said { grid-template-columns: 1fr; gap: 0; }
  .said dd { margin-bottom: 6px; }
  .rows { grid-template-columns: 1fr max-content; }
  .rows .label { grid-column: 1 / -1; margin-top: 6px; }
  .rows .label:empty { display: none; }
}
"""
)

HOW = """\
A rate is that of <em>all</em> threads together on one shared object: perfect scaling doubles it
from one thread to two. "Pinned" is an object that no thread counts its references to. Rows that we
lose are in all plots and tables. Rates on a shared machine differ by 10 % and more from minute to
minute: compare rows of one page, and two pages by <code>./dev bench --compare</code>.
perf/README.md has the traps."""


def write(found: Sequence[Results], path: Path) -> None:
    path.write_text("".join(_page(found)), encoding="utf-8")


def head(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
    )


FOOT = "</main>\n</body>\n</html>\n"


def _page(found: Sequence[Results]) -> Iterator[str]:
    peers = any(
        line.kind == "peer" for each in found for p in each.panels for line in p.lines.values()
    )
    yield head(f"nogil_sync beside the standard library{' and peers' if peers else ''}")
    yield f'<p class="soft">{escape(headline(found))}</p>\n'
    for warning in report.warnings(found):
        yield f'<p class="warning">{escape(warning)}</p>\n'
    several = len(found) > 1
    for results in found:
        yield from _figures(Summary(results), results.label if several else "")
    yield "<h2>In short</h2>\n" + said(list(summary.lines(found)))
    for results in found:
        on = f", on {results.label}" if several else ""
        yield from _ratios(Summary(results), on)
    yield from _throughput(found)
    for results in found:
        on = f", on {results.label}" if several else ""
        yield from _costs(Summary(results), on)
        yield from _fairness(results, on)
        yield from _growth(results, on)
    yield "<h2>All figures</h2>\n"
    yield f'<p class="soft">{escape(report.EXPLANATION)}</p>\n'
    yield '<div class="card tables">\n'
    for header, rows, _ in report.tables(found):
        yield (f"<details><summary>{escape(header[0])}</summary>{table(header, rows)}</details>\n")
    yield "</div>\n"
    yield f"<h2>How to read this</h2>\n<p>{HOW}</p>\n" + FOOT


def _figures(each: Summary, label: str) -> Iterator[str]:
    if not each.standings:
        return
    most = each.most
    figures = [
        (
            f"the standard library's rate {in_threads(most)}, pinned",
            times(each.gain(most, Standing.best)),
        ),
        ("as the objects come", times(each.gain(most, summary.plain_row))),
    ]
    if most > 1:
        figures.append(("in one thread", times(each.gain(1, Standing.best))))
        figures.append((f"scaling to {most} threads", times(each.scaling(Standing.best))))
    beside_go = each.beside_go(most)
    if beside_go:
        figures.append(("of Go's rate", percent(beside_go[0])))
    figures.append(("operations lost", f"{len(each.losses)} of {len(each.standings)}"))
    yield f"<h3>{escape(label)}</h3>\n" if label else ""
    yield '<dl class="figures">\n'
    for name, value in figures:
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"
    yield "</dl>\n"


# ---- Strips: a row for each operation, with dots on a common scale ----


@dataclass(frozen=True)
class Dot:
    value: float
    kind: str  # of the row: ours, stdlib, peer, go
    full: bool
    title: str

    def key(self) -> str:
        return f'<span class="dot {self.kind} {"full" if self.full else "empty"}"></span>'


@dataclass
class Strip:
    label: str
    dots: list[Dot]
    value: str
    span: tuple[float, float] | None = None
    lost: bool = False


@dataclass
class Scale:
    """Places between 0 and 100 %; logarithmic or linear."""

    low: float
    high: float
    ticks: list[float] = field(default_factory=list)
    logarithmic: bool = True

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        low, high = math.log10(min(values)), math.log10(max(values))
        edge = max(0.03 * (high - low), 0.05)
        low, high = low - edge, high + edge
        whole = range(math.floor(low), math.ceil(high) + 1)
        steps = (1,) if high - low > 3.2 else (1, 3) if high - low > 1.6 else (1, 2, 5)
        ticks = [step * 10.0**power for power in whole for step in steps]
        return cls(low, high, [t for t in ticks if low <= math.log10(t) <= high])

    def at(self, value: float) -> float:
        place = math.log10(value) if self.logarithmic else value
        return 100 * (place - self.low) / (self.high - self.low)


def _strips(strips: Sequence[Strip], scale: Scale, unit: str, line: float | None) -> Iterator[str]:
    ticks = "".join(f'<i class="tick" style="left:{scale.at(t):.2f}%"></i>' for t in scale.ticks)
    if line is not None:
        ticks += f'<i class="tick one" style="left:{scale.at(line):.2f}%"></i>'
    yield '<div class="card"><div class="rows">\n'
    yield from _axis(scale, unit)
    for strip in strips:
        named = "; ".join(dot.title for dot in strip.dots)
        span = ""
        if strip.span is not None:
            left, right = sorted(map(scale.at, strip.span))
            place = f"left:{left:.2f}%;width:{right - left:.2f}%"
            span = f'<i class="span {strip.dots[-1].kind}" style="{place}"></i>'
        dots = "".join(
            f'<i class="dot {dot.kind} {"full" if dot.full else "empty"}" '
            f'style="left:{scale.at(dot.value):.2f}%" title="{escape(dot.title)}"></i>'
            for dot in strip.dots
        )
        yield (
            f'<div class="label">{escape(strip.label)}</div>'
            f'<div class="strip" role="img" aria-label="{escape(strip.label)}: {escape(named)}">'
            f"{ticks}{span}{dots}</div>"
            f'<div class="value{" lost" if strip.lost else ""}">{escape(strip.value)}</div>\n'
        )
    yield "</div></div>\n"


def _axis(scale: Scale, unit: str) -> Iterator[str]:
    texts = "".join(
        f'<span class="text" style="left:{scale.at(t):.2f}%">{t:,g}{unit}</span>'
        for t in scale.ticks
    )
    yield (
        '<div class="label"></div>'
        f'<div class="strip scale" aria-hidden="true">{texts}</div><div class="value"></div>\n'
    )


def _keys(kinds: set[tuple[str, bool]], words: dict[tuple[str, bool], str]) -> str:
    shown = "".join(
        f"<li>{Dot(0, *look, '').key()}{words[look]}</li>" for look in words if look in kinds
    )
    return f'<ul class="keys">{shown}</ul>\n'


WORDS = {
    ("ours", True): "our fastest row",
    ("ours", False): "ours as it comes",
    ("stdlib", True): "the standard library's reference",
    ("stdlib", False): "the standard library's fastest row",
    ("peer", True): "the best peer",
    ("go", True): "Go",
}


def _dots(each: Standing, threads: int, value_of: dict[str, float], unit: str) -> list[Dot]:
    """The rows of an operation as dots; `value_of` has their values by name."""

    def dot(line: Line, *, full: bool) -> Dot:
        value = value_of[line.name]
        shown = times(value) if unit == summary.TIMES else f"{report.number(value)} {unit}"
        return Dot(value, line.kind, full, f"{line.name} {shown}")

    best, rival, peer = each.best(threads), each.rival(threads), each.best_peer(threads)
    dots = [dot(each.reference, full=True)]
    if rival.kind == "stdlib" and rival.name != each.reference.name:
        dots.append(dot(rival, full=False))
    if peer is not None:
        dots.append(dot(peer, full=True))
    go = each.best_go(threads)
    if go is not None:
        dots.append(dot(go, full=True))
    if best.name != each.plain.name:
        dots.append(dot(each.plain, full=False))
    return [*dots, dot(best, full=True)]


def _ratios(found: Summary, on: str) -> Iterator[str]:
    most = found.most
    strips: list[Strip] = []
    for ratio, each in found.gains:
        reference = each.reference.mops[most]
        lines = (*each.ours, *each.others, *each.go, each.reference, each.plain)
        values = {line.name: line.mops[most] / reference for line in lines if most in line.mops}
        lost = each.best(most).mops[most] < each.rival(most).mops[most] * (1 - NOISE)
        dots = _dots(each, most, values, summary.TIMES)
        strips.append(Strip(each.panel.operation, dots, times(ratio), (1.0, ratio), lost))
    if not strips:
        return
    scale = Scale.of([dot.value for strip in strips for dot in strip.dots])
    kinds = {(dot.kind, dot.full) for strip in strips for dot in strip.dots}
    yield (
        f"<h2>Beside the standard library, {in_threads(most)}{escape(on)}</h2>\n"
        '<p class="soft">Times the rate of the reference row; to the right is faster. The figure '
        "is that of our fastest row, in colour where the standard library or a peer is "
        "faster.</p>\n"
    )
    yield _keys(kinds, WORDS)
    yield from _strips(strips, scale, summary.TIMES, 1.0)


def _costs(found: Summary, on: str) -> Iterator[str]:
    strips = []
    for each in found.measured_at(1):
        lines = (*each.ours, *each.others, *each.go, each.reference, each.plain)
        values = {line.name: 1000 / line.mops[1] for line in lines if 1 in line.mops}
        best, rival = each.best(1), each.rival(1)
        lost = best.mops[1] < rival.mops[1] * (1 - NOISE)
        dots = _dots(each, 1, values, "ns")
        value = f"{report.number(values[best.name])} ns"
        span = (values[each.reference.name], values[best.name])
        strips.append((values[best.name], Strip(each.panel.operation, dots, value, span, lost)))
    if not strips:
        return
    shown = [strip for _, strip in sorted(strips, key=lambda item: item[0])]
    scale = Scale.of([dot.value for strip in shown for dot in strip.dots])
    kinds = {(dot.kind, dot.full) for strip in shown for dot in strip.dots}
    yield (
        f"<h2>What an operation costs in one thread{escape(on)}</h2>\n"
        '<p class="soft">Nanoseconds with the loop around it; to the left is faster.</p>\n'
    )
    yield _keys(kinds, WORDS)
    yield from _strips(shown, scale, "", None)


def _fairness(results: Results, on: str) -> Iterator[str]:
    if not results.fairness:
        return
    most = max(entry["largest_share"] for entry in results.fairness)
    high = max(2.0, math.ceil(most * 2) / 2)
    scale = Scale(0.0, high, [n / 2 for n in range(int(high * 2) + 1)], logarithmic=False)
    strips = []
    for entry in results.fairness:
        ends = (entry["smallest_share"], entry["largest_share"])
        dots = [
            Dot(end, entry["row_kind"], True, f"{which} share {end:.2f}")
            for which, end in zip(("smallest", "largest"), ends, strict=True)
        ]
        value = f"{entry['longest_wait_ms']:.1f} ms"
        strips.append(Strip(str(entry["lock"]), dots, value, ends))
    threads = results.fairness[0]["threads"]
    yield (
        f"<h2>Fairness, {in_threads(threads)}{escape(on)}</h2>\n"
        '<p class="soft">How often each thread got the lock: the thread with the fewest and the '
        "one with the most turns, in parts of an even share. Both dots at 1 are perfectly fair. "
        "The figure is the longest wait of one thread.</p>\n"
    )
    yield from _strips(strips, scale, "", 1.0)


# ---- Throughput by threads ----


def _throughput(found: Sequence[Results]) -> Iterator[str]:
    operations = dict.fromkeys(
        panel.operation
        for each in found
        for panel in each.panels
        if len(panel.threads()) > 1 and not ways.is_about_ways(panel)
    )
    if not operations:
        return
    yield (
        "<h2>Throughput by threads</h2>\n"
        '<p class="soft">Million operations a second of all threads together. Both axes are '
        "logarithmic; the dotted line would be perfect scaling of our fastest row.</p>\n"
        f'<div class="plots of{len(found)}">\n'
    )
    for operation in operations:
        panels = [
            (each.label if len(found) > 1 else "", panel)
            for each in found
            for panel in each.panels
            if panel.operation == operation
        ]
        shown = [(label, panel, _shown_lines(panel)) for label, panel in panels]
        values = [v for _, _, lines in shown for line in lines for v in line.mops.values()]
        for label, panel, lines in shown:
            if lines:
                yield from _panel(panel, lines, label, (min(values), max(values)))
    yield "</div>\n"


def _shown_lines(panel: Panel) -> list[Line]:
    """The reference, the fastest of each kind, and ours as it comes."""
    most = panel.threads()[-1]
    each = summary.standing(panel)
    if each is not None and most in each.counts():
        peer, go, rival = each.best_peer(most), each.best_go(most), each.rival(most)
        some = [each.best(most), each.plain, each.reference, rival, peer, go]
        lines = [line for line in some if line is not None]
    else:
        usual = [line for line in panel.lines.values() if not line.name.endswith(BOUND)]
        lines = [line for line in usual if most in line.mops and line.kind not in ("floor", "go")]
        lines = lines[:5] + [line for line in usual if line.kind == "go"]
    return list({line.name: line for line in lines}.values())


WIDTH, HEIGHT, LEFT, BELOW = 340, 190, 38, 20


def _looks(panel: Panel, lines: Sequence[Line]) -> list[tuple[Line, str]]:
    """Each line's classes: a kind has one colour; the second of a kind is dashed, and so on."""
    seen: dict[str, int] = {}
    looks = []
    for line in lines:
        kind = "stdlib" if line.kind == "floor" else line.kind
        number = seen[kind] = seen.get(kind, -1) + 1
        main = kind == "ours" and number == 0 and is_subject(panel, line)
        looks.append((line, f"{kind}{' dash' if number else ''}{'' if main else ' thin'}"))
    return looks


def _panel(panel: Panel, lines: list[Line], label: str, ends: tuple[float, float]) -> Iterator[str]:
    counts = panel.threads()
    x = Scale(math.log10(counts[0]), math.log10(counts[-1]))
    low, high = math.log10(ends[0]), math.log10(ends[1])
    spare = max(0.0, 1.0 - (high - low)) / 2 + 0.06  # else noise would look large
    y = Scale.of([10 ** (low - spare), 10 ** (high + spare)])

    def place(threads: float, mops: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - 10) * x.at(threads) / 100
        return across, (HEIGHT - BELOW) * (1 - y.at(mops) / 100)

    title = panel.operation + (f", {label}" if label else "")
    yield f'<div class="card"><h3>{escape(title)}</h3>\n'
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    for tick in y.ticks:
        _, down = place(counts[0], tick)
        if down > 8:
            yield (
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 10}" y1="{down:.1f}" '
                f'y2="{down:.1f}"/><text class="soft" x="{LEFT - 6}" y="{down + 4:.1f}" '
                f'text-anchor="end">{tick:g}</text>'
            )
    for count in counts:
        across, _ = place(count, ends[0])
        yield (
            f'<text class="soft" x="{across:.1f}" y="{HEIGHT - 4}" '
            f'text-anchor="middle">{count}T</text>'
        )
    first = lines[0]
    if counts[0] in first.mops:
        start = place(counts[0], first.mops[counts[0]])
        end = place(counts[-1], first.mops[counts[0]] * counts[-1] / counts[0])
        yield (
            f'<line class="perfect" x1="{start[0]:.1f}" y1="{start[1]:.1f}" '
            f'x2="{end[0]:.1f}" y2="{max(end[1], -1):.1f}"/>'
        )
    looks = _looks(panel, lines)
    for line, look in reversed(looks):
        points = [(count, line.mops[count], place(count, line.mops[count])) for count in line.mops]
        path = " ".join(f"{across:.1f},{down:.1f}" for _, _, (across, down) in sorted(points))
        yield f'<g class="{look.split()[0]}"><polyline class="line {look}" points="{path}"/>'
        for count, mops, (across, down) in points:
            yield (
                f'<circle class="mark" cx="{across:.1f}" cy="{down:.1f}" r="3.5"><title>'
                f"{escape(line.name)}, {in_threads(count)}: {report.number(mops)} Mops/s"
                "</title></circle>"
            )
        yield "</g>"
    yield '</svg>\n<ul class="keys">'
    for line, look in looks:
        last = line.mops[max(line.mops)]
        yield (
            f'<li><span class="{look.split()[0]}">{_sample(look)}</span>'
            f"<span>{escape(line.name)}</span><span>{report.number(last)}</span></li>"
        )
    yield "</ul></div>\n"


def _sample(look: str) -> str:
    return (
        '<svg viewBox="0 0 22 8" style="width:22px;height:8px;display:inline-block;'
        f'margin-right:8px" aria-hidden="true"><line class="line {look}" x1="0" x2="22" y1="4" '
        'y2="4"/></svg>'
    )


# ---- Latency while a map grows ----


def _growth(results: Results, on: str) -> Iterator[str]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, rounds in results.growth.items():
        points = []
        for bit in range(64):
            share = summary.growth_share(rounds, (1 << bit) - 1)
            if share:
                points.append((float(1 << bit), share))
        if points:
            curves[name] = points
    if not curves:
        return
    everything = [point for points in curves.values() for point in points]
    first = min(x for x, share in everything if share < 0.999)
    curves = {name: [p for p in points if p[0] >= first / 2] for name, points in curves.items()}
    width, height, left, below = 600, 280, 64, 24
    x = Scale.of([first / 2, max(each for each, _ in everything)])
    x.ticks = [10.0**power for power in range(1, 10) if x.low <= power <= x.high]
    y = Scale.of([min(share for _, share in everything) / 2, 1.0])

    def place(ns: float, share: float) -> str:
        across = left + (width - left - 10) * x.at(ns) / 100
        return f"{across:.1f},{(height - below) * (1 - y.at(share) / 100):.1f}"

    yield (
        f"<h2>Lookups while the map grows{escape(on)}</h2>\n"
        '<p class="soft">What part of the lookups took at least so long, while another thread made '
        "the map large. Lower is better. The control reads the clock as often and looks nothing "
        "up: what it shows comes from the machine and the interpreter.</p>\n"
        '<div class="card plot"><div class="wide"><svg '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="Lookups while the map grows">'
    )
    for tick in y.ticks:
        across, down = map(float, place(10**x.low, tick).split(","))
        yield (
            f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{down}" y2="{down}"/>'
            f'<text class="soft" x="{left - 6}" y="{down + 4}" text-anchor="end">'
            f"{tick * 100:g} %</text>"
        )
    for tick in x.ticks:
        across = left + (width - left - 10) * x.at(tick) / 100
        yield (
            f'<text class="soft" x="{across:.1f}" y="{height - 4}" text-anchor="middle">'
            f"{_time(tick)}</text>"
        )
    looks = {
        name: f"{'stdlib' if name.endswith('dict') else 'ours'}"
        f"{' dash thin' if name.startswith(summary.CONTROL) else ''}"
        for name in curves
    }
    for name, points in curves.items():
        path = " ".join(place(*point) for point in points)
        yield (
            f'<g class="{looks[name].split()[0]}"><polyline class="line {looks[name]}" '
            f'points="{path}"><title>{escape(name)}</title></polyline></g>'
        )
    yield '</svg></div><ul class="keys">'
    for name, look in looks.items():
        yield f'<li><span class="{look.split()[0]}">{_sample(look)}</span>{escape(name)}</li>'
    yield "</ul></div>\n"


def _time(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:g} {unit}"
    return f"{ns:g} ns"


# ---- Tables ----


def said(lines: Sequence[tuple[str, str]]) -> str:
    """Lines of a heading and a text."""
    shown = "".join(
        f"<dt>{escape(heading)}</dt><dd>{escape(text)}</dd>\n" for heading, text in lines
    )
    return f'<dl class="said">\n{shown}</dl>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls in its own box; columns of numbers are aligned to the right."""
    classes = [
        "" if index == 0 or title in report.WORDS else ' class="number"'
        for index, title in enumerate(header)
    ]

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = zip(classes, cells, strict=True)
        return (
            f"<tr>{''.join(f'<{tag}{style}>{escape(cell)}</{tag}>' for style, cell in shown)}</tr>"
        )

    body = "\n".join(line("td", cells) for cells in rows)
    return f'<div class="wide"><table>\n{line("th", header)}\n{body}\n</table></div>\n'
