"""`./dev leaks` reports tests that leak, and no others; and a short run of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from marks import starts_processes
from support import SANITIZED, TIMEOUT

pytestmark = [
    starts_processes,
    pytest.mark.skipif(SANITIZED, reason="a sanitizer's allocator does not tell what is in use"),
]

TESTS = Path(__file__).parent.parent

# Named by what the leak hunter is to report of each.
SEEDED = """
import ctypes, subprocess, sys, threading
import pytest

kept, few = [], []
increment = ctypes.pythonapi.Py_IncRef
increment.argtypes, increment.restype = [ctypes.py_object], None
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def test_leaks_a_reference():
    increment(object())

@pytest.mark.skipif(not hasattr(c, "mallinfo2"), reason="the C library does not tell")
def test_leaks_bytes():
    c.malloc(100)

@pytest.mark.parametrize("n", [1, 2])
def test_leaks_into_a_list(n):
    kept.append([n])

@pytest.fixture
def opened():
    kept.append(open(__file__))

def test_leaks_in_a_fixture(opened):
    pass

def test_leaks_a_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def test_fine_as_it_keeps_only_the_first():
    if len(few) < 4:
        few.append([])

def test_fine_as_it_frees():
    c.free(c.malloc(100))

def test_fine_with_cycles_and_files(tmp_path, capsys):
    cycle = [tmp_path]
    cycle.append(cycle)
    (tmp_path / "file").write_text("text")
    print("written")

def test_fine_as_its_threads_end():
    threads = [threading.Thread(target=list) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

def test_fine_as_it_is_elsewhere():
    kept.append([])
    subprocess.run([sys.executable, "-c", ""])
"""


def hunt(*arguments, folder):
    """Run tests under the plugin, in a process of its own; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "leaks", "-p", "no:cacheprovider", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS / "helpers"),
            "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1",
            "NOGIL_SYNC_STRESS": "0.1",
            "COLUMNS": "200",  # no line of the report is cut off
            "PYTHONTRACEMALLOC": "0",  # its own memory grows
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
    )
    print(done.stdout + done.stderr)
    return done.stdout


def test_leak_hunter_finds_only_leaks(tmp_path):
    (tmp_path / "test_seeded.py").write_text(SEEDED)
    out = hunt("-rA", folder=tmp_path)
    outcomes = re.findall(r"^(PASSED|FAILED) test_seeded.py::test_([a-z]+)", out, re.MULTILINE)
    assert set(outcomes) == {("PASSED", "fine"), ("FAILED", "leaks")}
    assert "FAILED test_seeded.py::test_leaks_a_reference - grows in every run: blocks +1" in out
    assert "left out, as they run in other processes: 1" in out


def test_nothing_leaks():
    # A short run of what ./dev leaks does with all of them on a debug build. (Left out: what makes
    # classes, which other free-threaded interpreters never free.)
    out = hunt("tests/contract/test_counters.py", "-k", "not may_raise_or_use", folder=TESTS.parent)
    assert re.search(r"^[1-9]\d* tests in \d+ runs, 0 leak", out, re.MULTILINE)
