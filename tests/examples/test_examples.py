"""The programs in examples/ run on this backend: to the end, and until a Ctrl-C."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TIMEOUT

import nogil_sync

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"

# Each program: a small size, a size with which it runs until the Ctrl-C, and what it must print.
SHORT = ("--threads", "4", "--seconds", "0.02")
LONG = ("--threads", "4", "--seconds", "600")
PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "async_server": (SHORT, LONG, ("naive .* ms late", "4 threads, Channel .* ms late")),
    "config_store": (SHORT, LONG, ("no lock, naive", "RWMutex .* all right")),
    "copy_on_write": (
        (*SHORT, "--changes", "5"),
        LONG,
        ("AtomicRef .* 20 of 20 changes kept",),
    ),
    "counting": (SHORT, LONG, ("Mutex .* exact", "AtomicInt64 .* exact", "Counter .* exact")),
    "fan_in": (
        ("--threads", "2", "--items", "50"),
        ("--threads", "2", "--items", "2000000000"),
        (
            "naive .* 25 of 75 received",
            "one Channel .* 75 of 75 received",
            "select .* 75 of 75 received",
        ),
    ),
    "fetching": (
        ("--threads", "4", "--pages", "8"),
        ("--threads", "2", "--pages", "100000"),
        (
            "all 8 results",
            "naive: +7 of 8 pages",
            "/broken: status 500; [2-8] pages asked",
            "over after",
        ),
    ),
    "heavy_tasks": (
        SHORT,
        LONG,
        (r"Semaphore\(3\) .* at most [123] at", r"TaskGroup.* at most [123] at"),
    ),
    "heartbeat": (
        ("--threads", "1", "--seconds", "0.1"),
        ("--threads", "1", "--seconds", "600"),
        ("naive .* beats", "select with a Ticker .* beats"),
    ),
    "lazy_connection": (SHORT, LONG, ("naive .* opened", "@once .* 1 opened")),
    "log_buffers": (SHORT, LONG, ("naive", "Pool", r"holds \d buffers")),
    "message_queue": (SHORT, LONG, ("naive .* late", "Cond .* late", "Channel .* late")),
    "pipeline": (SHORT, LONG, ("naive", "Channels .* 0 of .* lost")),
    "rate_limit": (SHORT, LONG, ("naive", "RateLimit .* of the limit")),
    "replacing_locks": (SHORT, LONG, ("as it is", "Mutex and Cond", "pinned")),
    "server_status": (SHORT, LONG, ("naive", "atomics .* in flight 0, .* 0 not counted")),
    "user_cache": (
        (*SHORT, "--users", "5"),
        LONG,
        (
            "naive .* queries",
            "lru_cache .* queries",
            "Cache.* 5 queries in .* to load 5",
            "50 users came, [1-5] are in the cache",
        ),
    ),
}

# An interpreter may be built without SQLite.
without_sqlite = pytest.mark.skipif(
    importlib.util.find_spec("_sqlite3") is None, reason="this interpreter has no sqlite3"
)
each_program = pytest.mark.parametrize(
    "program",
    [
        pytest.param(name, marks=without_sqlite)
        if name in ("lazy_connection", "user_cache")
        else name
        for name in PROGRAMS
    ],
)

# Runs a program as "python examples/x.py" does, and then prints which threads it left.
RUNNER = """
import os, runpy, sys, threading
path, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = path
sys.path.insert(0, os.path.dirname(path))
try:
    runpy.run_path(path, run_name="__main__")
finally:
    # An interrupt of Thread.start() can leave an object that never becomes a thread; it has no
    # ident. And a thread that an interrupt kept from being of use may still be ending.
    main = threading.main_thread()
    left = [thread for thread in threading.enumerate() if thread is not main and thread.ident]
    if isinstance(sys.exception(), SystemExit) and sys.exception().code == 130:
        for thread in left:
            thread.join(10)
        left = [thread for thread in left if thread.is_alive()]
    print("threads left:", left, flush=True)
"""


pytestmark = [
    pytest.mark.thread_unsafe,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="not run in the source tree"),
]


def start(program: str, *options: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, NOGIL_SYNC_BACKEND=nogil_sync.backend, PYTHONUNBUFFERED="1")
    return subprocess.Popen(
        [sys.executable, "-P", "-c", RUNNER, str(FOLDER / f"{program}.py"), *options],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()


def test_each_program_is_tested_and_listed() -> None:
    programs = {path.stem for path in FOLDER.glob("*.py")} - {"measure"}
    assert programs == set(PROGRAMS)
    listed = (FOLDER / "README.md").read_text()
    assert all(f"[{name}.py]({name}.py)" in listed for name in programs)


@each_program
def test_program_prints_its_result_and_leaves_no_thread(program: str) -> None:
    short, _, expected = PROGRAMS[program]
    process = start(program, *short)
    output, errors = finish(process)
    assert process.returncode == 0, output + errors
    assert not errors
    assert f"{nogil_sync.backend} backend" in output
    for pattern in expected:
        assert re.search(pattern, output), f"no {pattern!r} in\n{output}"
    assert output.endswith("threads left: []\n")


@each_program
def test_interrupted_program_ends_and_leaves_no_thread(program: str) -> None:
    _, long, _ = PROGRAMS[program]
    process = start(program, *long)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("Python ")  # its options are read
        time.sleep(0.3)  # mostly its threads run by now; the interrupt may also come before
        process.send_signal(signal.SIGINT)
    finally:
        output, errors = finish(process)
    assert process.returncode == 130, output + errors
    assert errors == "interrupted\n"
    if program == "pipeline":  # it shut down gracefully
        assert re.search("Channels .* 0 of .* lost", output), output
    assert output.endswith("threads left: []\n")
