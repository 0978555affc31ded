"""The page of a contention profile: one file of HTML, without scripts and outside resources.

Plots are inline SVG. Colours are variables of the style sheet, with a set for a light and one for a
dark scheme. All text that comes from the program goes through `_text`.
"""

import platform
import sys
from collections.abc import Iterable, Iterator
from html import escape
from itertools import pairwise
from math import ceil, floor, log10
from traceback import StackSummary
from typing import TYPE_CHECKING

from .contention import Calls, Interval, Snapshot
from .contention_text import duration, held_at, place, printable

if TYPE_CHECKING:
    from .contention import ContendedObject, ContentionHolder, ContentionProfile, ContentionSite

_COLOURS = 6  # the number of colours for call sites and threads; the rest is grey
_DETAILED = 25  # the max of objects that are shown in detail
_LANES = 16  # the max of threads in a time line
_WIDTH, _GUTTER = 960, 150  # of a plot, and of the names at its left
_LANE, _AREA = 18, 84  # heights
_HOLD = 0.02  # seconds; a sample of the holder is shown as a block of at most this length
_ROW = 19  # the height of a call in the flame graph

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --card: #ffffff; --ink: #1c2024; --soft: #5d656d; --line: #dcdfe3;
  --bar: #c2410c; --area: #c2410c; --wash: #f3f4f5; --code: #f5f5f2;
  --c0: #2563ab; --c1: #d9730d; --c2: #1f8a70; --c3: #a63d8f; --c4: #7a6a00; --c5: #6b5bd2;
  --rest: #8a9199; --on: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1b1f23; --ink: #e6e8ea; --soft: #9aa3ab; --line: #333a41;
    --bar: #fb923c; --area: #fb923c; --wash: #22272c; --code: #20252a;
    --c0: #7ab3f5; --c1: #f5a65b; --c2: #56c9a9; --c3: #e08bcd; --c4: #cfc05a; --c5: #a99cf7;
    --rest: #8a939b; --on: #14171a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 24px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 36px 0 4px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { margin: 4px 0 12px; max-width: 78ch; }
.soft { color: var(--soft); }
.figures { display: flex; flex-wrap: wrap; gap: 10px 36px; margin: 18px 0 0; padding: 0; }
.figures div { display: flex; flex-direction: column-reverse; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 0; font-size: 22px; font-weight: 600; line-height: 1.25; }
.wide { overflow-x: auto; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; margin: 10px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px;
  border-bottom: 1px solid var(--line); padding: 4px 10px 4px 0; white-space: nowrap; }
td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.name { font-weight: 600; overflow-wrap: anywhere; min-width: 8em; }
.place { min-width: 17em; }
.thread { overflow-wrap: anywhere; min-width: 6em; }
code, .code { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
.code { background: var(--code); border-radius: 6px; padding: 8px 10px; margin: 6px 0;
  white-space: pre-wrap; }
a { color: inherit; }
details > summary { cursor: pointer; }
details.card > summary { font-size: 15px; }
svg { display: block; width: 100%; height: auto; min-width: 620px; }
svg.bar { min-width: 0; width: 120px; height: 8px; margin-top: 8px; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); }
svg .grid { stroke: var(--line); }
svg .lane { fill: var(--wash); }
svg .area { fill: var(--area); fill-opacity: .3; stroke: var(--area); stroke-width: 1; }
.held { fill: var(--ink); background: var(--ink); }
svg .call { stroke: var(--card); }
svg .call + text { fill: var(--on); }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 13px; margin: 8px 0 0;
  padding: 0; list-style: none; }
""" + "".join(
    f".c{each} {{ fill: var(--{name}); background: var(--{name}); }}\n"
    for each, name in (*((str(n), f"c{n}") for n in range(_COLOURS)), ("rest", "rest"))
)


def page(profile: "ContentionProfile") -> str:
    """The whole page."""
    return "".join(_page(profile))


def _text(value: object) -> str:
    """A text of the program, fit for any place in the page."""
    return escape(printable(str(value)))


def _page(profile: "ContentionProfile") -> Iterator[str]:
    everything = profile._snapshots()
    contended = [each for each in everything if each.shown.contended]
    waited_for = [each for each in everything if not each.shown.contended]
    program = _text(" ".join(each for each in sys.argv if each) or "an interactive session")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Contention profile of {program}</title>\n"
        '<link rel="icon" href="data:,">\n'  # else a browser asks the server for one
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        "<h1>Contention profile</h1>\n"
        f'<p class="soft"><code>{program}</code> · Python {_text(platform.python_version())}</p>\n'
    )
    yield from _figures(profile, contended)
    if not everything:
        yield "<p>No thread waited for an object of nogil_sync.</p>\n"
    if contended:
        yield (
            "<h2>Held by other threads</h2>\n"
            '<p class="soft">Locks, semaphores and computations that threads waited for because '
            "other threads held them, and atomic objects whose operations had to be tried again "
            "because another thread was faster. The time is the sum over all threads.</p>\n"
        )
        yield from _ranking(contended)
        yield from _time_lines([each for each in contended[:1] if each.intervals], profile.seconds)
        yield from _flame_graph(contended)
        yield "<h2>Call sites and holders</h2>\n"
        yield from _details(contended)
    if waited_for:
        yield (
            "<h2>Waited for</h2>\n"
            '<p class="soft">Channels, events and other objects at which threads waited for '
            "something to happen. A thread that has nothing to do waits, too: such time need not "
            "be lost.</p>\n"
        )
        yield from _ranking(waited_for)
        yield from _details(waited_for)
    yield (
        '<h2>How to read this</h2>\n<p class="soft">Every wait was counted and timed. Who held an '
        "object meanwhile, and where, was sampled while somebody waited, so the shares of holders "
        "are estimates. A wait that had not ended counts for as long as it was by then.</p>\n"
        "</main>\n</body>\n</html>\n"
    )


def _figures(profile: "ContentionProfile", contended: list[Snapshot]) -> Iterator[str]:
    waited = sum(each.shown.seconds for each in contended)
    figures = (
        ("waited for other threads", duration(waited)),
        ("profiled", duration(profile.seconds)),
        ("threads waited", f"{profile.threads:,}"),
        ("objects contended", f"{len(contended):,}"),
    )
    yield '<dl class="figures">\n'
    for name, value in figures:
        yield f"<div><dt>{name}</dt><dd>{value}</dd></div>\n"
    yield "</dl>\n"


# ---- The ranking ----


def _ranking(objects: list[Snapshot]) -> Iterator[str]:
    yield '<div class="card wide"><table>\n<tr><th></th><th>object</th><th>type</th>'
    for title in ("waited", "waits", "mean", "longest", "retries"):
        yield f'<th class="number">{title}</th>'
    yield "<th></th><th>mostly held by</th></tr>\n"
    most = max(each.shown.seconds for each in objects) or 1.0
    for rank, each in enumerate(objects[:100], 1):
        shown = each.shown
        holder = '<span class="soft">&mdash;</span>'
        if shown.holders:
            holder = _text(held_at(shown)[0][0])
        name = _text(shown.name)
        if rank <= _DETAILED:
            name = f'<a href="#{_anchor(each)}">{name}</a>'
        yield (
            f'<tr><td class="number soft">{rank}</td><td class="name">{name}</td>'
            f"<td>{_text(shown.type)}</td>"
            f"{_numbers(shown)}"
            f"<td>{_bar(shown.seconds / most)}</td><td>{holder}</td></tr>\n"
        )
    yield "</table>"
    if len(objects) > 100:
        yield f'<p class="soft">and {len(objects) - 100:,} more</p>'
    yield "</div>\n"


def _numbers(what: "ContendedObject | ContentionSite") -> str:
    """The cells of what was counted and timed."""
    cells = ["", "", "", ""]
    if what.waits:
        mean = duration(what.seconds / what.waits)
        cells = [duration(what.seconds), f"{what.waits:,}", mean, duration(what.longest)]
    cells.append(f"{what.retries:,}" if what.retries else "")
    return "".join(f'<td class="number">{each}</td>' for each in cells)


def _anchor(each: Snapshot) -> str:
    return f"object-{each.number}"


def _bar(share: float) -> str:
    return (
        '<svg class="bar" viewBox="0 0 120 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="lane" width="120" height="8" rx="2"/>'
        f'<rect style="fill: var(--bar)" width="{max(120 * share, 1):.1f}" height="8" rx="2"/>'
        "</svg>"
    )


# ---- Details ----


def _details(objects: list[Snapshot]) -> Iterator[str]:
    for rank, each in enumerate(objects[:_DETAILED], 1):
        shown = each.shown
        yield (
            f'<details class="card" id="{_anchor(each)}"{" open" if rank == 1 else ""}>'
            f'<summary><span class="name">{_text(shown.name)}</span> '
            f'<span class="soft">{_text(shown.type)}, {_sum(shown)}</span></summary>\n'
            '<div class="wide"><table>\n<tr><th>where threads waited</th>'
        )
        for title in ("waited", "waits", "mean", "longest", "retries", "in vain"):
            yield f'<th class="number">{title}</th>'
        yield "</tr>\n"
        for number, site in enumerate(shown.sites[:20]):
            yield from _site(site, number)
        yield "</table></div>\n"
        if shown.holders:
            yield (
                '<div class="wide"><table>\n<tr><th>where it was held meanwhile</th>'
                '<th>thread</th><th class="number">share</th></tr>\n'
            )
            for holder in shown.holders[:20]:
                yield from _holder(holder, shown.seconds)
            yield "</table></div>\n"
        yield "</details>\n"


def _sum(shown: "ContendedObject") -> str:
    parts = []
    if shown.waits:
        word = "wait" if shown.waits == 1 else "waits"
        parts.append(f"{duration(shown.seconds)} in {shown.waits:,} {word}")
    if shown.retries:
        parts.append(f"{shown.retries:,} {'retry' if shown.retries == 1 else 'retries'}")
    return ", ".join(parts)


def _site(site: "ContentionSite", number: int) -> Iterator[str]:
    yield (
        f'<tr><td class="place">{_key(number)}<code>{_text(site.operation)}</code>'
        f" at {_place(site.stack)}</td>"
        f"{_numbers(site)}"
        f'<td class="number">{site.failed or ""}</td></tr>\n'
    )


def _holder(holder: "ContentionHolder", whole: float) -> Iterator[str]:
    yield (
        f'<tr><td class="place">{_place(holder.stack)}</td>'
        f'<td class="thread">{_text(holder.thread)}</td>'
        f'<td class="number">{100 * holder.seconds / (whole or 1.0):.0f} %</td></tr>\n'
    )


def _place(stack: StackSummary) -> str:
    """The innermost call with its line, and the calls that led to it."""
    if not stack:
        return '<span class="soft">somewhere</span>'
    shown = f"<code>{_text(place(stack))}</code>"
    if stack[-1].line:
        shown += f'<div class="code">{_text(stack[-1].line)}</div>'
    if len(stack) > 1:
        calls = "\n".join(_text(place(StackSummary([call]))) for call in reversed(stack))
        shown += (
            f'<details><summary class="soft">{len(stack)} calls</summary>'
            f'<div class="code">{calls}</div></details>'
        )
    return shown


def _key(number: int) -> str:
    return f'<span class="key {_colour(number)}"></span>'


def _colour(number: int) -> str:
    return f"c{number}" if number < _COLOURS else "crest"


# ---- Time lines ----


class _Scale:
    """From seconds since the profile began to places in the plot."""

    def __init__(self, first: float, last: float) -> None:
        self.first = first
        self.last = max(last, first + 1e-6)

    def at(self, seconds: float) -> float:
        share = (seconds - self.first) / (self.last - self.first)
        return _GUTTER + (_WIDTH - _GUTTER - 8) * min(max(share, 0.0), 1.0)

    def ticks(self) -> Iterator[float]:
        step = _round_up((self.last - self.first) / 8)
        for number in range(ceil(self.first / step), floor(self.last / step) + 1):
            yield number * step


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 and so on."""
    power: float = 10.0 ** floor(log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value * 0.999999)


def _time_lines(objects: Iterable[Snapshot], seconds: float) -> Iterator[str]:
    for each in objects:
        yield f"<h2>Time line of {_text(each.shown.name)}</h2>\n"
        yield (
            f'<p class="soft">How many threads waited, {_which(each)} by call site, and who held '
            "it.</p>\n"
        )
        yield f'<div class="card"><div class="wide">{"".join(_time_line(each, seconds))}</div>\n'
        yield '<ul class="keys">'
        for number, site in enumerate(each.shown.sites[: _COLOURS + 1]):
            what = f"{_text(site.operation)} at {_text(place(site.stack))}"
            if number == _COLOURS:
                what = "other calls"
            yield f"<li>{_key(number)}waited in {what}</li>"
        if each.samples:
            yield '<li><span class="key held"></span>held it, when the threads were looked at</li>'
        yield "</ul></div>\n"


def _which(each: Snapshot) -> str:
    if len(each.intervals) == each.shown.waits:
        return "the waits"
    return f"the {len(each.intervals):,} longest of {each.shown.waits:,} waits"


def _time_line(each: Snapshot, seconds: float) -> Iterator[str]:
    scale = _Scale(0.0, seconds)
    waits: dict[str, list[Interval]] = {}
    for interval in each.intervals:
        waits.setdefault(interval.thread, []).append(interval)
    holds: dict[str, list[tuple[float, float]]] = {}
    for (now, thread), (end, _) in pairwise((*each.samples, (seconds, ""))):
        holds.setdefault(thread, []).append((now, min(end, now + max(_HOLD, each.width))))
    busy = {thread: sum(i.seconds for i in waits[thread]) for thread in waits}
    for thread, spans in holds.items():
        busy[thread] = busy.get(thread, 0.0) + sum(end - now for now, end in spans)
    lanes = sorted(sorted(busy, key=lambda thread: -busy[thread])[:_LANES])
    top = _AREA + 10
    bottom = top + _LANE * len(lanes)
    yield (
        f'<svg viewBox="0 0 {_WIDTH} {bottom + 22}" role="img" '
        f'aria-label="Time line of {_text(each.shown.name)}">'
    )
    for tick in scale.ticks():
        x = scale.at(tick)
        yield (
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>'
            f'<text class="soft" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{duration(tick) if tick else 0}</text>"
        )
    yield from _area(each, scale)
    colours = {
        (site.operation, _as_calls(site.stack)): number
        for number, site in enumerate(each.shown.sites)
    }
    for number, thread in enumerate(lanes):
        y = top + number * _LANE
        yield (
            f'<rect class="lane" x="{_GUTTER}" y="{y + 2}" width="{_WIDTH - _GUTTER - 8}" '
            f'height="{_LANE - 4}"/>{_lane_name(thread, y)}'
        )
        for now, end in holds.get(thread, ()):
            title = f"{_text(thread)} held it at {duration(now)}"
            yield _block("held", scale.at(now), scale.at(end), y, title)
        for interval in waits.get(thread, ()):
            end = interval.began + interval.seconds
            title = (
                f"{_text(thread)} waited {duration(interval.seconds)}, "
                f"from {duration(interval.began)} on"
            )
            colour = _colour(colours.get(interval.site, _COLOURS))
            yield _block(colour, scale.at(interval.began), scale.at(end), y, title)
    yield "</svg>"


def _block(style: str, left: float, right: float, y: float, title: str) -> str:
    return (
        f'<rect class="{style}" x="{left:.2f}" y="{y + 2}" width="{max(right - left, 0.6):.2f}" '
        f'height="{_LANE - 4}"><title>{title}</title></rect>'
    )


def _as_calls(stack: StackSummary) -> Calls:
    return tuple((call.filename, call.lineno or 0, call.name) for call in reversed(stack))


def _lane_name(name: str, y: float) -> str:
    return (
        f'<text x="{_GUTTER - 8}" y="{y + _LANE / 2 + 4}" text-anchor="end">'
        f"{_text(_cut(name, 22))}</text>"
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _area(each: Snapshot, scale: _Scale) -> Iterator[str]:
    """How many threads waited, over time."""
    waiting = {at: seconds / each.width for at, seconds in each.buckets.items()}
    most = max(waiting.values(), default=0.0) or 1.0
    points = [(scale.at(0.0), float(_AREA))]
    for at in range(max(waiting, default=-1) + 1):
        y = _AREA - (_AREA - 12) * waiting.get(at, 0.0) / most
        points += [(scale.at(at * each.width), y), (scale.at((at + 1) * each.width), y)]
    points.append((points[-1][0], float(_AREA)))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield (
        f'<polygon class="area" points="{path}"/>'
        f'<text x="{_GUTTER - 8}" y="{_AREA}" text-anchor="end">threads waiting</text>'
        f'<text class="soft" x="{_GUTTER - 8}" y="16" text-anchor="end">{most:.1f}</text>'
    )


# ---- The flame graph ----


class _Node:
    """A call, with the calls that it made."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inside: dict[str, _Node] = {}

    def depth(self) -> int:
        return 1 + max((each.depth() for each in self.inside.values()), default=0)


def _flame_graph(objects: list[Snapshot]) -> Iterator[str]:
    root = _Node()
    for each in objects:
        for site in each.shown.sites:
            calls = [f"{call.name} ({call.filename}:{call.lineno})" for call in site.stack]
            node = root
            node.seconds += site.seconds
            for call in (*calls, f"{site.operation} of {each.shown.name}"):
                node = node.inside.setdefault(call, _Node())
                node.seconds += site.seconds
    if root.seconds <= 0:
        return
    height = _ROW * (root.depth() - 1)
    yield (
        "<h2>Where the time went</h2>\n"
        '<p class="soft">The stacks in which threads waited, the outermost call at the top. The '
        "width is the time waited.</p>\n"
        f'<div class="card wide"><svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-label="Flame graph">'
    )
    yield from _calls_in(root, 0.0, _WIDTH / root.seconds, 0)
    yield "</svg></div>\n"


def _calls_in(node: _Node, left: float, scale: float, depth: int) -> Iterator[str]:
    ordered = sorted(node.inside.items(), key=lambda item: -item[1].seconds)
    for number, (name, each) in enumerate(ordered):
        width = each.seconds * scale
        if width >= 0.5:
            last = not each.inside
            yield (
                f'<g><title>{_text(name)}: {duration(each.seconds)}</title><rect class="call '
                f'{"c1" if last else _colour((depth + number) % 2 * 5)}" x="{left:.2f}" '
                f'y="{depth * _ROW}" width="{width:.2f}" height="{_ROW}"/>'
            )
            if width > 40:
                yield (
                    f'<text x="{left + 5:.2f}" y="{depth * _ROW + 13}">'
                    f"{_text(_cut(name, int((width - 8) / 6)))}</text>"
                )
            yield "</g>"
            yield from _calls_in(each, left, scale, depth + 1)
        left += width
