"""A graph of 100,000 objects that all threads read: `pin(graph, deep=True)`, and what it gives.

The graph is a server's parsed configuration: dicts, lists, tuples, sets, dataclasses and instances
with slots. Eight functions read it, each in another way. Then a hostile graph: with a lock, an open
file, a cycle, and a chain of a million objects.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apart
from harness import calibrated_loops, run_row
from rows import Row

import nogil_sync

PINNING, READING, HOSTILE = "pinning", "reading ", "hostile"
PER_SERVICE = 120  # objects of one, a few more than there are


@dataclass
class Limits:
    """A dataclass with a dict."""

    requests: float
    timeout: float
    burst: int


class Route:
    """An instance with slots."""

    __slots__ = ("handler", "methods", "path")

    def __init__(self, path: str, number: int) -> None:
        self.path = path
        self.methods = frozenset({"GET", "POST"})
        self.handler = ["module", f"handler{number}"]


def service(number: int) -> dict[str, Any]:
    """Some hundred objects that the collector knows or that are counted at least."""
    routes = {f"/{number}/{i}": Route(f"/{number}/{i}", i) for i in range(10)}
    return {
        "name": f"service {number}",
        "limits": Limits(1000.5 + number, 0.5 + number, 10_000 + number),
        "hosts": [(f"host{number}-{i}", 8_000 + i) for i in range(8)],
        "tags": {f"tag{number}-{i}" for i in range(5)},
        "routes": routes,
        "order": list(routes),
        "weights": [number + i / 7 for i in range(8)],
        "nested": {"a": {"b": {"c": {"d": [f"leaf {number}"]}}}},
    }


def graph(objects: int) -> dict[str, Any]:
    """At least so many objects."""
    services: list[dict[str, Any]] = []
    config = {"services": services, "by_name": {}}
    services.extend(service(number) for number in range(max(1, objects // PER_SERVICE)))
    while (short := objects - nogil_sync.pin_report(config).objects) > 0:
        services.extend(service(len(services) + i) for i in range(short // PER_SERVICE + 1))
    config["by_name"] = {each["name"]: each for each in services}
    return config


# What each thread does; it has a turn of its own, so that threads meet at the objects and not
# always at the same.
TURN = "turn = 0\nsize = len(graph['services'])"
NEXT = "turn += 1\none = services[turn % size]\n"
READERS = {
    "dict of dicts": 'one["nested"]["a"]["b"]["c"]["d"]',
    "attributes of a dataclass": 'limits = one["limits"]\nlimits.requests + limits.timeout',
    "attributes in slots": 'r = one["routes"][one["order"][3]]\nr.path\nr.handler\nr.methods',
    "items of a list": 'for weight in one["weights"]:\n    weight',
    "unpacked tuples": 'for host, port in one["hosts"]:\n    host',
    "items of a dict": 'for path, route in one["routes"].items():\n    route.path',
    "membership": '"tag" in one["tags"]\n"GET" in one["routes"][one["order"][0]].methods',
    "one lookup for all": 'graph["by_name"]["service 0"]["limits"].burst',
}


def reader(body: str, config: dict[str, Any]) -> Row:
    prologue = f"{TURN}\nservices = graph['services']"
    return Row("", "ours", NEXT + body, lambda: {"graph": config}, prologue)


def longest_gap(during: Any) -> tuple[float, float]:
    """Seconds of the call, and the longest time for which it kept another thread from running."""
    gaps: list[float] = []
    ready, over = threading.Event(), False

    def watch() -> None:
        clock = time.perf_counter
        longest, last = 0.0, clock()
        ready.set()
        while not over:
            now = clock()
            longest, last = max(longest, now - last), now
        gaps.append(longest)

    watcher = threading.Thread(target=watch)
    watcher.start()
    ready.wait()
    began = time.perf_counter()
    during()
    whole = time.perf_counter() - began
    over = True
    watcher.join()
    return whole, gaps[0]


def pinning(args: argparse.Namespace) -> apart.Result:
    config = graph(args.objects)
    report = nogil_sync.pin_report(config)
    idle, background = longest_gap(lambda: time.sleep(0.2))
    del idle
    whole, pause = longest_gap(lambda: nogil_sync.pin(config, deep=True))
    routes = config["services"][-1]["routes"]
    assert nogil_sync.is_pinned(next(iter(routes.values()))) or nogil_sync.backend != "native"
    # What the collector is asked to do now: it stops all threads as well.
    collected, stopped = longest_gap(gc.collect)
    return {
        "objects": report.objects,
        "bytes": report.bytes,
        "left": len(report.left),
        "whole": whole,
        "pause": pause,
        "background": background,
        "collected": collected,
        "stopped": stopped,
    }


def reading(name: str, args: argparse.Namespace) -> apart.Result:
    """One reader at one and two threads, in turns; before the graph is pinned, and after it."""
    config = graph(args.objects)
    row = reader(READERS[name], config)
    found: apart.Result = {}
    for how in ("unpinned", "pinned"):
        if how == "pinned":
            nogil_sync.pin(config, deep=True)
        loops = {t: calibrated_loops(row, t, args.seconds) for t in (1, args.threads)}
        rates: dict[int, list[float]] = {t: [] for t in loops}
        for _ in range(args.values):
            for threads, count in loops.items():
                rates[threads].append(threads * count / run_row(row, threads, count) / 1e6)
        found[how] = [statistics.median(rates[t]) for t in sorted(rates)]
    return found


class Link:
    """Of a chain."""

    __slots__ = ("next",)

    def __init__(self, following: Link | None) -> None:
        self.next = following


def hostile(args: argparse.Namespace) -> apart.Result:
    """What must not be pinned is left, named, and still works; and nothing recurses."""
    chain: Link | None = None
    for _ in range(args.chain):
        chain = Link(chain)
    lock = threading.Lock()
    with Path(__file__).open() as file:
        config: dict[str, Any] = {"lock": [lock], "file": {"it": file}, "chain": chain}
        config["me"] = config
        began = time.perf_counter()
        report = nogil_sync.pin_report(config)
        reported = time.perf_counter() - began
        whole, pause = longest_gap(lambda: nogil_sync.pin(config, deep=True))
        assert file.readline()
    assert file.closed
    with lock:
        pass
    native = nogil_sync.backend == "native"
    assert (nogil_sync.is_pinned(lock), nogil_sync.is_pinned(file)) == (False, False)
    length = 0
    while chain is not None:
        length += nogil_sync.is_pinned(chain) or not native
        chain = chain.next
    assert length == args.chain
    return {
        "objects": report.objects,
        "bytes": report.bytes,
        "left": [f"{each.path} {each.reason}" for each in report.left],
        "report": reported,
        "whole": whole,
        "pause": pause,
    }


def names(args: argparse.Namespace) -> list[str]:
    del args
    return [PINNING, *(READING + name for name in READERS), HOSTILE]


def measure(name: str, args: argparse.Namespace) -> apart.Result:
    if name == HOSTILE:
        return hostile(args)
    return pinning(args) if name == PINNING else reading(name.removeprefix(READING), args)


def show(found: dict[str, list[apart.Result]], args: argparse.Namespace) -> None:
    best = min(found[PINNING], key=lambda result: result["pause"])
    print(f"CPython {sys.version.split()[0]}, backend {nogil_sync.backend}\n")
    print(
        f"pin(graph, deep=True): {best['objects']} objects, {best['bytes'] / 2**20:.1f} MiB, "
        f"{best['left']} left out\n"
        f"the whole call {best['whole'] * 1e3:.1f} ms; the longest time for which another thread "
        f"stood still {best['pause'] * 1e3:.2f} ms\n"
        f"(for comparison: without any pin {best['background'] * 1e3:.2f} ms; in gc.collect() "
        f"afterwards {best['stopped'] * 1e3:.2f} ms of {best['collected'] * 1e3:.1f} ms)\n"
    )
    head = [
        "M reads/s",
        "1T",
        f"{args.threads}T",
        "ratio",
        "pinned 1T",
        f"{args.threads}T",
        "ratio",
    ]
    rows = []
    for name in READERS:
        cells: list[str] = []
        for how in ("unpinned", "pinned"):
            few, many = (
                statistics.median(result[how][at] for result in found[READING + name])
                for at in (0, 1)
            )
            cells += [f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}"]
        rows.append([name, *cells])
    apart.table(head, rows)
    worst = min(found[HOSTILE], key=lambda result: result["pause"])
    print(
        f"\na lock, an open file, a cycle, and a chain of {args.chain}: "
        f"{worst['objects']} objects, {worst['bytes'] / 2**20:.1f} MiB\n"
        f"pin_report {worst['report']:.1f} s, pin {worst['whole']:.1f} s, of which another thread "
        f"stood still {worst['pause'] * 1e3:.0f} ms\n"
        f"left: {', '.join(worst['left'])}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--chain", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="against one (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.1, help="a value's (default: %(default)s)"
    )
    parser.add_argument("--values", type=int, default=5, help="for each cell (%(default)s)")
    apart.main(parser, names, measure, show)
