"""Shows the progress: a bar in a terminal with rich, else a line for each result."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Protocol

from report import number

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    from rich import progress as rich_progress
except ImportError:
    rich_progress = None  # type: ignore[assignment]


class Progress(Protocol):
    def note(self, what: str) -> None: ...
    def step(self, what: str) -> None: ...
    def result(self, what: str, mops: float) -> None: ...


class Lines:
    def __init__(self, cells: int) -> None:
        self.cells, self.done = cells, 0

    def note(self, what: str) -> None:
        print(what, flush=True)

    def step(self, what: str) -> None:
        pass

    def result(self, what: str, mops: float) -> None:
        self.done += 1
        print(f"[{self.done}/{self.cells}] {what}: {number(mops)} Mops/s", flush=True)


class Bar:
    def __init__(self, bar: Any, steps: int) -> None:
        self.bar = bar
        self.task = bar.add_task("", total=steps)

    def note(self, what: str) -> None:
        self.bar.update(self.task, description=what)

    def step(self, what: str) -> None:
        self.bar.update(self.task, description=what, advance=1)

    def result(self, what: str, mops: float) -> None:
        pass


@contextlib.contextmanager
def show_progress(cells: int, steps: int) -> Iterator[Progress]:
    if rich_progress is None or not sys.stdout.isatty():
        yield Lines(cells)
        return
    with rich_progress.Progress(
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TaskProgressColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("{task.description}"),
        transient=True,
    ) as bar:
        yield Bar(bar, steps)
