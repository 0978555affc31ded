"""Metrics of prometheus_client: its own classes, and those of `nogil_sync.integrations`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import prometheus_client
from rows import LOOP_ALONE, Operation, Row
from suite import main

import nogil_sync
from nogil_sync.integrations import prometheus

if TYPE_CHECKING:
    from collections.abc import Callable


def operation(name: str, body: str, metric: str, make: Callable[[Any], Any]) -> Operation:
    """The same line of code over a metric `m` of theirs and one of ours."""

    def made(library: Any, *, pinned: bool = False) -> dict[str, object]:
        m = make(getattr(library, metric))
        return {"m": nogil_sync.pin(m, deep=True) if pinned else m}

    theirs = f"prometheus_client {name}"
    rows = [
        LOOP_ALONE,
        Row(theirs, "stdlib", body, lambda: made(prometheus_client)),
        Row(name, "ours", body, lambda: made(prometheus)),
    ]
    if nogil_sync.backend == "native":  # elsewhere pin() changes nothing
        rows.append(Row(f"{name}, pinned", "ours", body, lambda: made(prometheus, pinned=True)))
    return Operation(name, theirs, tuple(rows), quick=False)


def plain(cls: Any) -> Any:
    return cls("m", "measured", registry=None)


def labelled(cls: Any) -> Any:
    m = cls("m", "measured", ["method", "path"], registry=None)
    m.labels("get", "/")
    return m


def child(cls: Any) -> Any:
    return labelled(cls).labels("get", "/")


def operations(peers: list[str]) -> list[Operation]:  # noqa: ARG001
    return [
        operation("Counter.inc, labels bound", "m.inc()", "Counter", child),
        operation("Counter.labels().inc", 'm.labels("get", "/").inc()', "Counter", labelled),
        operation("Histogram.observe", "m.observe(0.3)", "Histogram", plain),
        operation("Gauge.set", "m.set(1.5)", "Gauge", plain),
    ]


if __name__ == "__main__":
    main(operations)
