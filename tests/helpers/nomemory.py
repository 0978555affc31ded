"""A process in which chosen allocations fail: the C core's, or what the extension asks Python for.

`nomemory.c` makes them fail; the fixture `without_memory` compiles it and starts such a process,
in which this module is imported.
"""

import contextlib
import gc
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import _nomemory  # type: ignore[import-not-found]
from _nomemory import CORE, PYTHON  # noqa: F401  (for the tests)

import nogil_sync

Case = Callable[[], Generator[Callable[[], object], bool, None]]

FOREVER = 10**9


def watch() -> None:
    """Tell it where the extension lies."""
    if nogil_sync.backend != "native":
        return
    # As /proc/self/maps names it: without symbolic links.
    path = str(Path(sys.modules["nogil_sync._native._core"].__file__ or "").resolve())
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ours = [line[0].split("-") for line in lines if line[-1] == path]
    assert ours, f"{path} is not among the files in memory"
    _nomemory.watch(int(ours[0][0], 16), int(ours[-1][1], 16))


watch()


class Tally:
    """What was tried, for the reports."""

    runs = 0
    failed = 0
    refused = 0


def attempt(kind: int, n: int, to: int, call: Callable[[], object]) -> tuple[bool, int]:
    """Call without the allocations from `n` to before `to`: MemoryError or not, how many failed."""
    fail, end = _nomemory.fail, _nomemory.end
    raised = False
    try:
        fail(kind, n, to)
        call()
    except MemoryError:
        raised = True
    finally:
        failed = end()
    return raised, failed


def in_a_new_thread(*args: Any) -> tuple[bool, int]:
    """The same in a thread that never used the library before."""
    results: list[tuple[bool, int]] = []
    thread = threading.Thread(target=lambda: results.append(attempt(*args)))
    thread.start()
    thread.join()
    return results[0]


def each_fails(kind: int, case: Case, *, rest: bool = False, thread: bool = False) -> int:
    """Run the case repeatedly: in run n, allocation n fails (with `rest`, all from n on).

    A case is a generator.  It sets up its objects and yields the function during whose call
    allocations fail.  It is sent whether the call raised MemoryError, and checks what is left.
    The runs end when three in a row had no allocation left to fail.
    """
    try_it = in_a_new_thread if thread else attempt
    n = untouched = hit = 0
    while untouched < 3:  # caches make the number of allocations vary a little
        trial = case()
        call = next(trial)
        raised, failed = try_it(kind, n, FOREVER if rest else n + 1, call)
        with contextlib.suppress(StopIteration):
            trial.send(raised)
        Tally.runs += 1
        Tally.failed += failed
        Tally.refused += raised
        hit += failed > 0
        untouched = 0 if failed else untouched + 1
        n += 1
        assert n < 3000, "endless"
    return hit


def in_use() -> int:
    """Bytes of the C library's heap in use, which Python itself hardly uses."""
    gc.collect()
    return int(_nomemory.in_use())


def sites(kind: int) -> list[int]:
    """Where in the extension allocations have failed, as offsets of return addresses."""
    return list(_nomemory.sites(kind))
