"""The results in about ten lines: what is gained, and where we lose. Terminal and page share it.

Of each operation four rows count: the reference, our object as it comes, our fastest row, and the
fastest of the standard library and the peers. Rows that fetch their methods once per thread are
left out, since most programs do not.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ways
from results import NOISE
from rows import BOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from results import Line, Panel, Results

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Standing:
    """One operation: the rows that are compared."""

    panel: Panel
    reference: Line  # of the standard library
    plain: Line  # ours, as it comes
    ours: tuple[Line, ...]  # every row of ours that does what the reference does
    others: tuple[Line, ...]  # the standard library's and the peers'
    go: tuple[Line, ...]

    def best(self, threads: int) -> Line:
        return max(self._at(self.ours, threads), key=lambda line: line.mops[threads])

    def rival(self, threads: int) -> Line:
        return max(self._at(self.others, threads), key=lambda line: line.mops[threads])

    def best_peer(self, threads: int) -> Line | None:
        peers = [line for line in self._at(self.others, threads) if line.kind == "peer"]
        return max(peers, key=lambda line: line.mops[threads], default=None)

    def best_go(self, threads: int) -> Line | None:
        return max(self._at(self.go, threads), key=lambda line: line.mops[threads], default=None)

    def counts(self) -> list[int]:
        """The thread counts at which ours and the reference were measured."""
        return sorted(self.plain.mops.keys() & self.reference.mops.keys())

    @staticmethod
    def _at(lines: Iterable[Line], threads: int) -> list[Line]:
        return [line for line in lines if threads in line.mops]


@dataclass(frozen=True)
class Loss:
    """An operation at which another row is faster than ours, where that is worst."""

    operation: str
    threads: int
    ours: Line
    other: Line

    @property
    def ratio(self) -> float:
        return self.ours.mops[self.threads] / self.other.mops[self.threads]


def standing(panel: Panel) -> Standing | None:
    """None if there is nothing to compare with, or if ours is the reference."""
    ours, others, go = _rows(panel)
    reference = panel.lines.get(panel.reference)
    if reference is None or reference.kind == "ours" or not others or not ours:
        return None
    if reference.kind == "floor":
        reference = others[0]
    found = Standing(panel, reference, ours[0], ours, others, go)
    return found if found.counts() else None


def _rows(panel: Panel) -> tuple[tuple[Line, ...], tuple[Line, ...], tuple[Line, ...]]:
    """Our rows of the panel's object, the standard library's and the peers' rows, and Go's."""
    lines = [line for line in panel.lines.values() if not line.name.endswith(BOUND)]
    ours = [line for line in lines if line.kind == "ours"]
    subject = [line for line in ours if is_subject(panel, line)] or ours[:1]
    # Rows such as "Channel(1024), try_send and try_recv" do something else.
    same = [line for line in subject if _how(line) == "" or _how(line).startswith("pinned")]
    others = tuple(line for line in lines if line.kind in ("stdlib", "peer"))
    return tuple(same or subject), others, tuple(line for line in lines if line.kind == "go")


def is_subject(panel: Panel, line: Line) -> bool:
    """Whether the row is of the object that the operation is named for."""
    name = re.split(r"[,(]", line.name)[0]
    return re.search(rf"\b{re.escape(name)}", panel.operation) is not None


def _how(line: Line) -> str:
    return line.name.partition(", ")[2]


@dataclass(frozen=True)
class Summary:
    """The results of one interpreter."""

    results: Results

    @cached_property
    def standings(self) -> list[Standing]:
        panels = [panel for panel in self.results.panels if not ways.is_about_ways(panel)]
        return [found for found in map(standing, panels) if found is not None]

    @cached_property
    def most(self) -> int:
        """The most threads at which operations are compared: no more than there are cores."""
        counts = {count for each in self.standings for count in each.counts()}
        cores = int(self.results.environment.get("usable_cores", "1"))
        return max((count for count in counts if count <= cores), default=min(counts, default=1))

    def measured_at(self, threads: int) -> list[Standing]:
        return [each for each in self.standings if threads in each.counts()]

    def gain(self, threads: int, ours: Callable[[Standing, int], Line]) -> float | None:
        """How many times the reference's rate: the geometric mean of the operations."""
        ratios = [
            ours(each, threads).mops[threads] / each.reference.mops[threads]
            for each in self.measured_at(threads)
        ]
        return statistics.geometric_mean(ratios) if ratios else None

    def scaling(self, row: Callable[[Standing, int], Line]) -> float | None:
        """How many times the work of one thread the most threads do."""
        ratios = []
        for each in self.measured_at(self.most):
            mops = row(each, self.most).mops
            if mops.keys() >= {1, self.most}:
                ratios.append(mops[self.most] / mops[1])
        return statistics.geometric_mean(ratios) if ratios and self.most > 1 else None

    def beside_go(self, threads: int) -> tuple[float, int] | None:
        """What part of Go's rate ours reaches, and for how many operations that was measured."""
        ratios = []
        for panel in self.results.panels:
            ours, _, go = _rows(panel)
            if panel.reference in (line.name for line in ours):
                continue  # our ways are compared there, some of which are not Go's
            rates = [
                [line.mops[threads] for line in lines if threads in line.mops]
                for lines in (ours, go)
            ]
            if all(rates):
                ratios.append(max(rates[0]) / max(rates[1]))
        return (statistics.geometric_mean(ratios), len(ratios)) if ratios else None

    @cached_property
    def gains(self) -> list[tuple[float, Standing]]:
        """The operations at the most threads, the largest gain of our best row first."""
        found = [
            (each.best(self.most).mops[self.most] / each.reference.mops[self.most], each)
            for each in self.measured_at(self.most)
        ]
        return sorted(found, key=lambda item: -item[0])

    @cached_property
    def losses(self) -> list[Loss]:
        """What the standard library or a peer does faster than our best row, the worst first."""
        return self._losses(Standing.best)

    @cached_property
    def losses_as_it_comes(self) -> list[Loss]:
        """What is lost by our object as it comes, and by none of its other rows."""
        lost = {loss.operation for loss in self.losses}
        plain = self._losses(plain_row)
        return [loss for loss in plain if loss.operation not in lost]

    def _losses(self, ours: Callable[[Standing, int], Line]) -> list[Loss]:
        found = []
        for each in self.standings:
            losses = [
                Loss(each.panel.operation, threads, ours(each, threads), each.rival(threads))
                for threads in each.counts()
            ]
            worst = min(losses, key=lambda loss: loss.ratio)
            if worst.ratio < 1 - NOISE:
                found.append(worst)
        return sorted(found, key=lambda loss: loss.ratio)

    @cached_property
    def peers(self) -> list[tuple[float, Standing, Line]]:
        """Operations that peers have too: our rate against the best peer's, at the most threads."""
        found = []
        for each in self.measured_at(self.most):
            peer = each.best_peer(self.most)
            if peer is not None:
                ratio = each.best(self.most).mops[self.most] / peer.mops[self.most]
                found.append((ratio, each, peer))
        return sorted(found, key=lambda item: item[0])


def plain_row(each: Standing, threads: int) -> Line:  # noqa: ARG001
    return each.plain


def reference_row(each: Standing, threads: int) -> Line:  # noqa: ARG001
    return each.reference


# ---- Words ----

SHOWN_LOSSES = 4
SHOWN_GAINS = 3


def times(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    if ratio < 0.095:
        return f"{ratio:.2g}{TIMES}"
    digits = 0 if ratio >= 20 else 1 if ratio >= 2 else 2
    return f"{ratio:.{digits}f}{TIMES}"


def percent(part: float) -> str:
    return f"{part * 100:.2g} %" if part < 0.095 else f"{part * 100:.0f} %"


def operations(count: int) -> str:
    return f"{count} operation{'' if count == 1 else 's'}"


def in_threads(count: int) -> str:
    return "in one thread" if count == 1 else f"at {count} threads"


def lines(found: Sequence[Results]) -> Iterator[tuple[str, str]]:
    """The summary: lines of a heading and what is said of it."""
    for results in found:
        summary = Summary(results)
        on = f"{results.label}: " if len(found) > 1 else ""
        for heading, text in _lines(summary, short=len(found) > 1):
            yield on + heading if on and heading else heading, text
    if found and found[0].growth:
        yield from _growth(found)


def _lines(summary: Summary, *, short: bool) -> Iterator[tuple[str, str]]:
    most = summary.most
    for count in dict.fromkeys((most, 1)):
        plain, best = summary.gain(count, plain_row), summary.gain(count, Standing.best)
        if plain is not None:
            number = len(summary.measured_at(count))
            heading = in_threads(count)
            yield (
                heading[0].upper() + heading[1:],
                (
                    f"{times(plain)} the standard library's rate as the objects come, "
                    f"{times(best)} pinned where that is faster "
                    f"({operations(number)})"
                ),
            )
    scaling = summary.scaling(plain_row)
    if scaling is not None:
        stdlib, best = summary.scaling(reference_row), summary.scaling(Standing.best)
        yield (
            "Scaling",
            (
                f"{most} threads do {times(scaling)} the work of one, pinned {times(best)}; the "
                f"standard library's {times(stdlib)}"
            ),
        )
    if not short and (gains := [item for item in summary.gains if item[0] > 1 + NOISE]):
        some = (f"{each.panel.operation} {times(ratio)}" for ratio, each in gains[:SHOWN_GAINS])
        yield "Most gained", "; ".join(some)
    yield from _lost(summary, short=short)
    if summary.peers:
        behind = [item for item in summary.peers if item[0] < 1 - NOISE]
        named = "; ".join(
            f"{peer.name} at {each.panel.operation} ({times(ratio)})"
            for ratio, each, peer in behind[:SHOWN_GAINS]
        )
        ahead = len(summary.peers) - len(behind)
        yield (
            "Peers",
            (
                f"ours are at least as fast in {ahead} of {len(summary.peers)} operations that "
                f"peers have too{named and f'; not beside {named}'}"
            ),
        )
    beside_go = [(n, summary.beside_go(n)) for n in dict.fromkeys((1, most))]
    if any(part for _, part in beside_go):
        parts = [f"{percent(part[0])} {in_threads(count)}" for count, part in beside_go if part]
        count = max(part[1] for _, part in beside_go if part)
        yield "Beside Go", f"of Go's rate ours reach {', '.join(parts)} ({operations(count)})"
    if summary.results.fairness and not short:
        yield "Fairness", _fairness(summary.results)


def _lost(summary: Summary, *, short: bool) -> Iterator[tuple[str, str]]:
    count, losses = len(summary.standings), summary.losses
    if not summary.standings:
        return
    if not losses:
        yield "We lose", f"none of {operations(count)}"
    else:
        shown = losses[: SHOWN_LOSSES // 2 if short else SHOWN_LOSSES]
        which = f"; the worst {len(shown)}" if len(losses) > len(shown) else ""
        yield "We lose", f"{len(losses)} of {operations(count)}{which}:"
        for loss in shown:
            where = in_threads(loss.threads)
            yield "", f"{loss.operation}: {times(loss.ratio)} {loss.other.name} {where}"
    fixed = summary.losses_as_it_comes
    if fixed and not short:
        yield (
            "",
            (
                f"and {len(fixed)} more as {'they come' if len(fixed) > 1 else 'it comes'}, "
                "but not if pinned"
            ),
        )


def _fairness(results: Results) -> str:
    """The reference lock and the first of ours."""
    some = [
        next((entry for entry in results.fairness if entry["row_kind"] == kind), None)
        for kind in ("ours", "stdlib")
    ]
    return "; ".join(
        f"{entry['lock']}: {entry['smallest_share']:.2f} to {entry['largest_share']:.2f} of an "
        f"even share, longest wait {entry['longest_wait_ms']:.1f} ms"
        for entry in some
        if entry
    )


CONTROL = "control beside "


def growth_share(rounds: Sequence[dict[str, Any]], limit_ns: int) -> float | None:
    """The part of the lookups that took at least so long (a power of two of nanoseconds)."""
    counts = [sum(column) for column in zip(*(r["counts"] for r in rounds), strict=True)]
    total = sum(counts)
    return sum(counts[limit_ns.bit_length() :]) / total if total else None


GROWTH_LIMIT = 65_535  # ns: the end of a class of the histogram


def _growth(found: Sequence[Results]) -> Iterator[tuple[str, str]]:
    results = found[0]
    parts = []
    for name, rounds in results.growth.items():
        share = growth_share(rounds, GROWTH_LIMIT)
        if share is not None and not name.startswith(CONTROL):
            parts.append(f"{name} {percent(share)}")
    on = f" on {results.label}" if len(found) > 1 else ""
    yield (
        "Growth",
        f"lookups of 65 µs or more while another thread stores{on}: {', '.join(parts)}",
    )
