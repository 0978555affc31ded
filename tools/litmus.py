"""Enumerates the outcomes of small concurrent programs under the memory model of C.

For each program of models/litmus/*.toml it enumerates all candidate executions and keeps those that RC11 allows (Lahav,
Vafeiadis, Kang, Hur, Dreyer, "Repairing sequential consistency in C/C++11", PLDI 2017; release sequences as in C++20).
None of them may have the outcome named `forbidden`, or a data race; each `broken` variant must have one that does.

A test with `on = "processors"` needs more than C promises: it relies on what x86-64 and ARMv8 do with the instructions
that compilers emit.  Its executions are those of either processor ("Simplifying ARM concurrency", Pulte et al., POPL
2018, without dependencies; "x86-TSO", Sewell et al., CACM 2010).  It is also checked that C allows the outcome.

A line of a thread:  [if EXPRESSION:] [REGISTER =] R x ORDER | W x VALUE ORDER | SWAP x VALUE ORDER |
ADD x VALUE ORDER | OR x VALUE ORDER | AND x VALUE ORDER | CAS x OLD NEW ORDER | F ORDER,
where ORDER is na, rlx, acq, rel, ar or sc.  A failed CAS is a relaxed load, as in atomics.h.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

VALUES = range(4)
LINE = re.compile(r"^(?:if (?P<guard>[^:]+):\s*)?(?:(?P<to>\w+) = )?(?P<op>[A-Z]+)(?P<rest>.*)$")
Edges = set[tuple[int, int]]


@dataclass(frozen=True)
class Event:
    thread: int
    kind: str  # R, W, U (both), F
    where: str
    order: str
    reads: int | None = None
    writes: int | None = None

    @property
    def acquires(self) -> bool:
        return self.order in ("acq", "ar", "sc") and self.kind in "RUF"

    @property
    def releases(self) -> bool:
        return self.order in ("rel", "ar", "sc") and self.kind in "WUF"


def paths(thread: int, text: str) -> Iterator[tuple[list[Event], dict[str, int]]]:
    """All runs of one thread, for all values that its loads may return."""
    lines = [m for line in text.strip().splitlines() if (m := LINE.match(line.strip()))]

    def go(
        at: int, events: list[Event], registers: dict[str, int]
    ) -> Iterator[tuple[list[Event], dict[str, int]]]:
        if at == len(lines):
            yield events, registers
            return
        line = lines[at]
        if line["guard"] and not eval(
            line["guard"], {}, {**dict.fromkeys("abcdefgh", -1), **registers}
        ):
            yield from go(at + 1, events, registers)
            return
        op, rest = line["op"], line["rest"].split()
        if op == "F":
            yield from go(at + 1, [*events, Event(thread, "F", "", rest[0])], registers)
            return
        where, *numbers, order = rest
        n = [int(number) for number in numbers]
        if op == "W":
            yield from go(
                at + 1, [*events, Event(thread, "W", where, order, None, n[0])], registers
            )
            return
        for value in VALUES:
            kind, new, how = "U", None, order
            if op == "R" or (op == "CAS" and value != n[0]):
                kind, how = "R", (order if op == "R" else "rlx")
            else:
                new = {
                    "SWAP": n[0],
                    "ADD": value + n[0],
                    "OR": value | n[0],
                    "AND": value & n[0],
                    "CAS": n[-1],
                }[op]
            event = Event(thread, kind, where, how, value, new)
            yield from go(
                at + 1,
                [*events, event],
                {**registers, **({line["to"]: value} if line["to"] else {})},
            )

    yield from go(0, [], {})


def closure(edges: Edges, count: int) -> Edges:
    reach = [{b for a, b in edges if a == n} for n in range(count)]
    for k in range(count):
        for row in reach:
            if k in row:
                row.update(reach[k])
    return {(a, b) for a in range(count) for b in reach[a]}


def join(*relations: Edges) -> Edges:
    first, *rest = relations
    for second in rest:
        first = {(a, d) for a, b in first for c, d in second if b == c}
    return first


@dataclass
class Execution:
    events: list[Event]
    sb: Edges
    rf: dict[int, int]
    mo: dict[str, list[int]]
    hb: Edges = field(default_factory=set)

    def consistent(self) -> bool:
        e, count = self.events, len(self.events)
        rf = {(w, r) for r, w in self.rf.items()}
        mo = {(a, b) for line in self.mo.values() for a, b in itertools.combinations(line, 2)}
        rb = {(r, b) for r, w in self.rf.items() for a, b in mo if a == w and b != r}
        if any(
            e[r].kind == "U" and self.mo[e[r].where].index(w) + 1 != self.mo[e[r].where].index(r)
            for w, r in rf
        ):
            return False  # not atomic
        same = {(n, n) for n in range(count)}
        # A write heads a sequence of read-modify-writes, each of what the one before wrote.
        heads = closure({(w, r) for w, r in rf if e[r].kind == "U"}, count) | same
        seen = {(w, r) for w, r in join(heads, rf) if e[w].order != "na" and e[r].order != "na"}
        before = self.sb | same
        sw = {
            (a, b)
            for a, w in before
            if e[a].releases and (a == w or e[a].kind == "F") and e[w].kind in "WU"
            for w2, r in seen
            if w2 == w
            for r2, b in before
            if r2 == r and e[b].acquires and (r == b or e[b].kind == "F")
        }
        hb = self.hb = closure(self.sb | sw, count)
        eco = closure(rf | mo | rb, count)
        if any(a == b for a, b in hb) or any((b, a) in hb for a, b in eco):
            return False  # not coherent
        if any(a == b for a, b in closure(self.sb | rf, count)):
            return False  # out of thin air
        other = {(a, b) for a, b in self.sb if e[a].where != e[b].where}
        local = {(a, b) for a, b in hb if e[a].where == e[b].where and e[a].where}
        scb = self.sb | join(other, hb, other) | local | mo | rb
        sc = {(n, n) for n in range(count) if e[n].order == "sc" and e[n].kind != "F"}
        fences = {(n, n) for n in range(count) if e[n].order == "sc" and e[n].kind == "F"}
        base = join(sc | join(fences, hb | same), scb, sc | join(hb | same, fences))
        strong = join(fences, hb | join(hb, eco, hb), fences)
        return not any(a == b for a, b in closure(base | strong, count))

    def seen(self) -> Edges | None:
        """What threads see of each other, or None if a word by itself is not coherent.

        A read-modify-write n reads as n and writes as n + the number of events.
        """
        e, count = self.events, len(self.events)
        writes = [n + count if e[n].kind == "U" else n for n in range(count)]
        rf = {(w, r) for r, w in self.rf.items()}
        mo = {(a, b) for line in self.mo.values() for a, b in itertools.combinations(line, 2)}
        rb = {(r, b) for r, w in self.rf.items() for a, b in mo if a == w and b != r}
        local = {(a, b) for a, b in self.sb if e[a].where == e[b].where and e[a].where}
        atomic = all(
            self.mo[e[r].where].index(w) + 1 == self.mo[e[r].where].index(r)
            for w, r in rf
            if e[r].kind == "U"
        )
        if not atomic or any(a == b for a, b in closure(local | rf | mo | rb, count)):
            return None
        others = {(writes[w], r) for w, r in rf} | {(writes[a], writes[b]) for a, b in mo}
        others |= {(r, writes[b]) for r, b in rb}
        within = {(n, writes[n]) for n in range(count) if e[n].kind == "U"}
        return within | {(a, b) for a, b in others if e[a % count].thread != e[b % count].thread}

    def on_arm(self) -> bool:
        """Loads: acq is LDAPR, sc LDAR. Stores: rel and sc are STLR. Read-modify-writes: LDXR or LDAXR, STXR or STLXR."""
        e, count = self.events, len(self.events)
        kept = self.seen()
        if kept is None:
            return False
        parts = [{n, n + count} if e[n].kind == "U" else {n} for n in range(count)]
        for a, b in self.sb:
            if e[a].acquires:
                kept |= set(itertools.product({min(parts[a])}, parts[b]))
            if e[b].releases:
                kept |= set(itertools.product(parts[a], {max(parts[b])}))
            # STLR and STLXR come before LDAR and LDAXR.
            strong = e[b].acquires and (
                e[b].kind == "U" or (e[b].kind == "R" and e[b].order == "sc")
            )
            if e[a].releases and e[a].kind != "F" and strong:
                kept.add((max(parts[a]), min(parts[b])))
        for a, f in self.sb:
            for g, b in self.sb:
                if f == g and e[f].kind == "F":
                    reads = {min(parts[a])} if e[a].kind in "RU" else set()
                    ordered = reads if e[f].order == "acq" else parts[a]
                    kept |= set(itertools.product(ordered, parts[b]))
        return not any(a == b for a, b in closure(kept, 2 * count))

    def on_x86(self) -> bool:
        """Only a store and a later load change places, unless a fence or a locked instruction is between."""
        e, count = self.events, len(self.events)
        kept = self.seen()
        if kept is None:
            return False

        def full(n: int) -> bool:
            return e[n].kind == "U" or (e[n].order == "sc" and e[n].kind in "WF")

        for a, b in self.sb:
            between = any(full(f) and {(a, f), (f, b)} <= self.sb for f in range(count))
            if e[a].kind != "W" or e[b].kind != "R" or full(a) or between:
                kept.add((a + count if e[a].kind == "U" else a, b))
        return not any(a == b for a, b in closure(kept, 2 * count))

    def races(self) -> bool:
        e = self.events
        return any(
            a.where == b.where != ""
            and a.thread != b.thread
            and "na" in (a.order, b.order)
            and (a.kind != "R" or b.kind != "R")
            and -1 not in (a.thread, b.thread)
            and (i, j) not in self.hb
            and (j, i) not in self.hb
            for (i, a), (j, b) in itertools.combinations(enumerate(e), 2)
        )


def executions(threads: list[str]) -> Iterator[tuple[Execution, dict[str, int]]]:
    for chosen in itertools.product(*(list(paths(n, text)) for n, text in enumerate(threads))):
        used = sorted({event.where for events, _ in chosen for event in events if event.where})
        all_events = [Event(-1, "W", where, "na", None, 0) for where in used]
        sb: Edges = set()
        for events, _ in chosen:
            first = len(all_events)
            all_events += events
            sb |= set(itertools.combinations(range(first, len(all_events)), 2))
        sb |= {(i, k) for i in range(len(used)) for k in range(len(used), len(all_events))}
        reads = [n for n, event in enumerate(all_events) if event.reads is not None]
        sources = [
            [
                w
                for w, event in enumerate(all_events)
                if event.where == all_events[r].where
                and event.writes == all_events[r].reads
                and w != r
            ]
            for r in reads
        ]
        if not all(sources):
            continue
        registers = {name: value for _, own in chosen for name, value in own.items()}
        lines = []
        for where in used:
            initial, *rest = [
                n for n, ev in enumerate(all_events) if ev.where == where and ev.writes is not None
            ]
            lines.append([[initial, *line] for line in itertools.permutations(rest)])
        for source in itertools.product(*sources):
            for line in itertools.product(*lines):
                candidate = Execution(
                    all_events,
                    sb,
                    dict(zip(reads, source, strict=True)),
                    dict(zip(used, line, strict=True)),
                )
                yield candidate, registers


def possible(threads: list[str], outcome: str, on: str = "C") -> tuple[bool, int]:
    """Whether the outcome, or a data race, can be; and how many executions there are."""
    found, count = False, 0
    for candidate, registers in executions(threads):
        if candidate.consistent() if on == "C" else candidate.on_arm() or candidate.on_x86():
            count += 1
            names = {**dict.fromkeys("abcdefgh", -1), **registers}
            found = found or bool(eval(outcome, {}, names)) or (on == "C" and candidate.races())
    return found, count


def check(path: Path) -> tuple[int, int]:
    """Executions looked at, and how many verdicts were wrong."""
    total = wrong = 0
    print(f"{path.name}: outcomes that the memory model of C, or that of processors, forbids")
    for test in tomllib.loads(path.read_text())["test"]:
        on = test.get("on", "C")
        cases = [("right", "", test["threads"])]
        if on != "C":
            cases.append(("C", "C alone does not say so", test["threads"]))
        for old, new in test["broken"]:
            threads = [text.replace(old, new) for text in test["threads"]]
            assert threads != test["threads"], f"{test['name']}: there is no '{old}'"
            cases.append(("broken", f"'{old}' as '{new}'", threads))
        for kind, what, threads in cases:
            found, count = possible(threads, test["forbidden"], "C" if kind == "C" else on)
            total += count
            bad = found != (kind != "right")
            wrong += bad
            verdict = "possible, or a race" if found else "impossible"
            label = what.replace("\n", "; ") or test["name"]
            print(
                f"  {kind:6} {label:60} {count:4} executions  {verdict}{'   <-- WRONG' if bad else ''}"
            )
    return total, wrong
