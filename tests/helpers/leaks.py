"""A pytest plugin that repeats each test and measures what it leaves behind: ./dev leaks [ARGS].

In the manner of CPython's ``regrtest -R 3:3``: after some runs that fill caches, a leak shows as
growth in every run, and other growth does not. A test that grew in each of the first rounds is
run more often before it is reported. Then there is a pause, in which threads end on a busy machine,
and then some more rounds. (pytest-leaks did the same, up to Python 3.8.)
"""

import ctypes
import gc
import linecache
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from _pytest.runner import runtestprotocol
from support import malloced

WARM_UP = 3
ROUNDS = 3
SUSPECT = 9  # rounds, before the pause
CERTAIN = 15  # rounds, before a test is said to leak


def blocks() -> int:
    """Blocks of the interpreter's allocator, but for interned strings: those are never freed."""
    if sys.version_info < (3, 13):
        return sys.getallocatedblocks()
    interned = sys.getunicodeinternedsize(_only_immortal=True)  # type: ignore[call-arg]
    return sys.getallocatedblocks() - interned


def entries(folder: str) -> Callable[[], int] | None:
    if not Path(folder).exists():
        return None
    return lambda: len(os.listdir(folder))  # noqa: PTH208 - it makes the fewest objects


def clean() -> None:
    """Empty the library's caches that tests fill, and free what waits to be freed."""
    re.purge()
    linecache.clearcache()
    if hasattr(sys, "_clear_internal_caches"):
        sys._clear_internal_caches()
    else:
        # It keeps the names that C code looked up, each time another string.
        sys._clear_type_cache()
    # A collection frees what other threads released, and memory that lock-free readers might have
    # been reading.  The finalisers that it runs leave more to free, so collect three times.
    # (A loop "until nothing is found" might not end: each collection finds pinned garbage again.)
    for _ in range(3):
        gc.collect()


class Meter:
    """Counts of blocks, references, bytes, threads and files after each run of a test."""

    def __init__(self) -> None:
        read: dict[str, Callable[[], int] | None] = {
            "threads": entries("/proc/self/task"),
            "files": entries("/proc/self/fd"),
            "malloc'd bytes": malloced(),
            "blocks": blocks,
            "references": getattr(sys, "gettotalrefcount", None),  # debug builds count them
        }
        self.read = {name: function for name, function in read.items() if function}
        # Numbers of C, as Python's would be counted themselves.
        self.levels = {name: (ctypes.c_int64 * (WARM_UP + CERTAIN))() for name in self.read}
        self.threads = threading.active_count()

    def measure(self, run: int) -> None:
        end = time.monotonic() + 0.2
        while threading.active_count() > self.threads and time.monotonic() < end:
            time.sleep(0.001)  # some have only just been asked to end
        self.threads = threading.active_count()
        clean()
        for name, levels in self.levels.items():
            levels[run] = self.read[name]()

    def rest(self, run: int) -> None:
        """Measure the last run again, when all that it began has had time to end."""
        time.sleep(0.3)
        self.measure(run)

    def flat(self, runs: int) -> bool:
        """Whether no measured value changed in the last runs."""
        return runs >= 3 and all(
            len(set(row[runs - 3 : runs])) == 1 for row in self.levels.values()
        )

    def growth(self, runs: int) -> dict[str, list[int]]:
        """What each run left more of than the run before, and how much."""
        found = {}
        for name, levels in self.levels.items():
            deltas = [levels[n] - levels[n - 1] for n in range(WARM_UP, runs)]
            if all(delta > 0 for delta in deltas):
                found[name] = deltas
        return found


class Hunter:
    def __init__(self) -> None:
        self.meter = Meter()
        self.tests = self.runs = 0
        self.left_out: dict[str, int] = {}
        self.leaking: list[str] = []
        self.processes = False
        sys.addaudithook(self.audit)

    def audit(self, event: str, args: Any) -> None:
        if event in ("subprocess.Popen", "os.fork"):
            self.processes = True

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if mark := item.get_closest_marker("leaks"):
                item.add_marker(pytest.mark.skip(reason=mark.kwargs["reason"]))

    def pytest_collection_finish(self) -> None:
        # What is there by now stays: collections need not look at it.
        gc.collect()
        gc.freeze()

    def repeat(self, item: pytest.Item) -> Iterator[list[pytest.TestReport]]:
        """Run the test, fixtures and all, until it is known whether it leaks."""
        for runs in range(1, WARM_UP + CERTAIN + 1):
            yield runtestprotocol(item, log=False, nextitem=None)
            getattr(item, "_report_sections", []).clear()  # what it wrote
            self.meter.measure(runs - 1)
            if self.meter.flat(runs):
                return
            if runs >= WARM_UP + ROUNDS and not self.growth(item, runs):
                return
            if runs == WARM_UP + SUSPECT:
                self.meter.rest(runs - 1)

    def growth(self, item: pytest.Item, runs: int) -> dict[str, list[int]]:
        found = self.meter.growth(runs)
        if item.get_closest_marker("hypothesis"):
            # It keeps objects of its own from one run to the next; the core has malloc's.
            for name in ("blocks", "references"):
                found.pop(name, None)
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        runs, reason, leaks = 0, None, ""
        self.processes = False
        for reports in self.repeat(item):
            runs += 1
            if not all(report.passed for report in reports):
                reason = "are skipped or fail"
            elif self.processes:
                reason = "run in other processes"
            if reason:
                break
        if reason:
            self.left_out[reason] = self.left_out.get(reason, 0) + 1
        else:
            self.tests += 1
            self.runs += runs
        if runs == WARM_UP + CERTAIN:
            leaks = ", ".join(
                f"{name} {' '.join(f'{delta:+}' for delta in deltas)}"
                for name, deltas in self.growth(item, runs).items()
            )
        if leaks:
            self.leaking.append(f"{item.nodeid}: {leaks}")
            reports[1].outcome = "failed"
            reports[1].longrepr = f"grows in every run: {leaks}"
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("leaks")
        for line in self.leaking:
            terminalreporter.write_line(line)
        for reason, tests in self.left_out.items():
            terminalreporter.write_line(f"left out, as they {reason}: {tests}")
        terminalreporter.write_line(
            f"{self.tests} tests in {self.runs} runs, {len(self.leaking)} leak; "
            f"measured: {', '.join(self.meter.read)}"
        )


def pytest_configure(config: pytest.Config) -> None:
    try:
        from _testinternalcapi import suppress_immortalization
    except ImportError:
        pass
    else:
        # CPython 3.13t keeps classes, functions and the constants of code for ever once a second
        # thread has started. A debug build can be told not to, so that tests that make
        # some can be told from those that leak.
        suppress_immortalization(True)
    # The same examples in every run.
    hypothesis.settings.register_profile(
        "leaks", derandomize=True, database=None, deadline=None, max_examples=20
    )
    hypothesis.settings.load_profile("leaks")
    config.pluginmanager.register(Hunter(), "leak hunter")
