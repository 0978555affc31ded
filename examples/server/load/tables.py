"""The results of ``./dev load`` as tables."""

import os
import platform
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

import nogil_sync

Result = dict[str, Any]


def console() -> Console:
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=118)


def head(out: Console, server: str, connections: int) -> None:
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else "t"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    out.print(
        f"Python {platform.python_version()}{gil}, {nogil_sync.backend} backend, {cores} cores, "
        f"{server}, {connections} connections; the load of the machine was {os.getloadavg()[0]:.1f}"
        " before. wrk runs on the same cores."
    )


def rates(title: str, what: str, results: dict[tuple[str, int], Result]) -> Table:
    """Ours beside the plain one, a row for each number of threads."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("threads", justify="right")
    for backend in ("plain", "ours"):
        for column in (f"{backend} {what}/s", "p50", "p99", "CPU each"):
            table.add_column(column, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    for threads in sorted({threads for _, threads in results}):
        cells, speeds = [str(threads)], []
        for backend in ("plain", "ours"):
            result = results.get((backend, threads))
            if result is None:
                cells += [""] * 4
                continue
            speeds.append(result["requests"] / result["seconds"])
            cells += [f"{speeds[-1]:,.0f}", span(result["p50"]), span(result["p99"]), cpu(result)]
        table.add_row(*cells, f"{speeds[1] / speeds[0]:.2f}" if len(speeds) == 2 else "")
    return table


def troubles(results: dict[tuple[str, int], Result]) -> list[str]:
    """What went wrong in the runs: requests that were refused, connections that broke."""
    return [
        f"{backend}, {threads} threads: {result['refused']} refused, {result['broken']} broken"
        for (backend, threads), result in results.items()
        if result.get("refused") or result.get("broken")
    ]


def profile(title: str, sampled: Result, result: Result) -> Iterable[Table]:
    """Where the processor time went: by layer, and by function.

    The shares are those of the samples, and the processors those shares of what the system says.
    """
    layers: dict[str, float] = sampled["layers"]
    whole = sum(layers.values()) or 1.0
    processors = result["cpu"] / result["seconds"]
    if result["cpu"]:
        title += f" ({result['system'] / result['cpu']:.0%} of it in the kernel)"
    table = Table(title=title, title_justify="left", title_style="bold", min_width=len(title) + 2)
    table.add_column("layer")
    table.add_column("share", justify="right")
    table.add_column("processors", justify="right")
    for layer, used in sorted(layers.items(), key=lambda item: -item[1]):
        table.add_row(layer, f"{used / whole:.0%}", f"{used / whole * processors:.2f}")
    yield table
    table = Table()
    table.add_column("function")
    table.add_column("layer")
    table.add_column("share", justify="right")
    for layer, function, used in sampled["functions"][:14]:
        table.add_row(function, layer, f"{used / whole:.1%}")
    yield table


def span(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def cpu(result: Result) -> str:
    """The server's processor time for each request, the kernel's part included."""
    return span(result["cpu"] / result["requests"])
