"""The counter of cache lines that travel between threads, and how many our operations cost."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from marks import starts_processes
from support import FREE_THREADED, NATIVE, SANITIZED

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "transfers"
COMPILER = os.environ.get("CC") or "cc"

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not TOOL.is_dir(), reason="not run in the source tree"),
    pytest.mark.skipif(not (FREE_THREADED and NATIVE), reason="counts for the native backend"),
    pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="a debug build does more"),
    pytest.mark.skipif(SANITIZED, reason="a sanitizer's memory does not fit under the emulator"),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="transfers are counted on Linux on x86-64 only",
    ),
    pytest.mark.skipif(
        shutil.which("qemu-x86_64") is None,
        reason="needs qemu-x86_64 (Debian's qemu-user; ./dev transfers installs it)",
    ),
    pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm (Debian's binutils)"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs a C compiler"),
    pytest.mark.timeout(600),
]


def count(tmp_path: Path, *arguments: object) -> Any:
    """Run the tool and return what it found."""
    out = tmp_path / "found.json"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, str(TOOL), "--json", str(out), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


# The counter itself, by a program in C whose lines we know


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("falsesharing") / "falsesharing"
    source = ROOT / "tests" / "helpers" / "falsesharing.c"
    subprocess.run([COMPILER, "-O1", "-pthread", str(source), "-o", str(built)], check=True)
    return built


# The operations of falsesharing.c that are counted, of each thread.
MANY = 450


def words(
    tmp_path: Path, program: Path, threads: int, distance: int, *, reads: bool = False
) -> Any:
    return count(tmp_path, "--program", program, threads, distance, int(reads))


@pytest.mark.parametrize("threads", [2, 8])
def test_neighbouring_words_of_one_line_travel(tmp_path: Path, program: Path, threads: int) -> None:
    found = words(tmp_path, program, threads, 8)
    assert found["threads"] == threads
    assert found["transfers"] >= 0.95 * MANY * threads
    # Nearly each access is to a word that no other thread wrote: the line is shared falsely.
    falsely = sum(n for upgrade, _, address, written, n in found["sites"] if address != written)
    assert falsely >= 0.95 * found["transfers"]
    assert all(a // 64 == w // 64 for _, _, a, w, _ in found["sites"])


def test_one_word_for_all_threads_travels(tmp_path: Path, program: Path) -> None:
    found = words(tmp_path, program, 2, 0)
    assert found["transfers"] >= 0.95 * MANY * 2
    assert all(address == written for _, _, address, written, _ in found["sites"])


@pytest.mark.parametrize("threads", [2, 8])
def test_words_on_lines_apart_stay(tmp_path: Path, program: Path, threads: int) -> None:
    found = words(tmp_path, program, threads, 64)
    assert found["accesses"] >= MANY * threads
    assert (found["transfers"], found["upgrades"]) == (0, 0)


def test_word_that_all_threads_only_read_stays(tmp_path: Path, program: Path) -> None:
    found = words(tmp_path, program, 8, 64, reads=True)
    assert found["accesses"] >= MANY * 8
    assert (found["transfers"], found["upgrades"]) == (0, 0)


def test_two_runs_count_the_same(tmp_path: Path, program: Path) -> None:
    first, second = (words(tmp_path, program, 4, 8) for _ in range(2))
    # Not the sites: which thread gets which word is by chance.
    assert {**first, "sites": None} == {**second, "sites": None}


# The fast paths of the C core, without an interpreter

CORE_LIMITS = {
    "counter": 0.1,
    "event": 0.1,
    "rwmutex": 0.1,
    "pool": 0.1,
    "semaphore": 3.2,
    "waitgroup": 3.0,
    "channel": 6.0,
}


def test_core_stays_below_limits(tmp_path: Path) -> None:
    found = count(tmp_path, "--core", "--exactly", *CORE_LIMITS)
    transfers = {each["name"].removeprefix("core: "): each["transfers"] for each in found}
    assert transfers.keys() == CORE_LIMITS.keys()
    assert {n: t for n, t in transfers.items() if t > CORE_LIMITS[n]} == {}


# What our operations cost on eight threads: from 3.14 on as they come, on 3.13 when pinned.

THREADS = 8
HOW = "--unpinned" if sys.version_info >= (3, 14) else "--pinned"

# Transfers for each operation. Code that scales has none; 0.3 allows for occasional work.
LIMITS = {
    "ShardedCounter.add": 0.3,
    "AtomicInt64.load": 0.3,
    "AtomicInt64.add": 1.1,
    "with rw.read": 0.3,
    "Event.is_set": 0.3,
    "Pool get + put": 0.3,
    "with pool.use()": 0.3,
    "once, after its first call": 0.3,
    "map, hot key, immortal value": 0.3,
    "cache, hot key, immortal value": 0.3,
    "making a Mutex": 0.3,
    "map, m[k] over 4,096 keys": 1.5,
    "map, store over 4,096 keys": 3.5,
    "map, insert + delete own keys": 3.5,
    "WaitGroup add + done": 3.0,
    "with Semaphore(64)": 3.5,
    "Channel send + recv": 7.5,
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every operation with a limit, counted in one process."""
    folder = tmp_path_factory.mktemp("counted")
    found = count(folder, "--threads", THREADS, HOW, "--exactly", *LIMITS)
    return {each["name"]: each for each in found}


@pytest.mark.parametrize("name", LIMITS)
def test_transfers_stay_below_limit(counted: dict[str, Any], name: str) -> None:
    found = counted[name]
    where = "\n".join(
        f"{p['count']:6.2f} {p['kind']}: {p['what']}, by {p['code']}"
        for p in found["places"]
        if not p["upgrade"]
    )
    assert found["transfers"] <= LIMITS[name], where
