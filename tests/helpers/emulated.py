"""A plugin of `./dev test --arch arm64`: skips the tests that the emulator itself cannot run.

Where a process has several threads, a child that it forks cannot start a thread under the user mode
of qemu 7.2, whose list of processors still has those of ended threads: it aborts.  Each
session that has such tests asks the emulator first.
"""

import subprocess
import sys

import pytest

FORKED = "under this emulator a child of a process with threads cannot start a thread"
# tests/isolated/test_arm64.py fails if one of them is not there any more.
TESTS = [
    "test_barrier.py::test_child_of_a_fork_does_not_wait_for_an_action_of_its_parent",
    "test_barrier.py::test_nobody_waits_in_the_child_of_a_fork",
    "test_once_interrupted.py::test_child_runs_what_another_thread_ran_at_the_fork",
    "test_once_interrupted.py::test_run_that_forks_goes_on_in_both_processes",
    "test_rlock.py::test_child_finds_the_lock_of_another_thread_held_until_it_is_reset",
    "test_rlock.py::test_child_of_the_owner_holds_the_lock",
]

ASK = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
done = threading.Event()
other = threading.Thread(target=done.wait)
other.start()
child = os.fork()
if child == 0:
    for _ in range(3):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    os._exit(0)
_, status = os.waitpid(child, 0)
done.set()
other.join()
raise SystemExit(status != 0)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    concerned = [item for item in items if any(test in item.nodeid for test in TESTS)]
    if concerned and subprocess.run([sys.executable, "-c", ASK], capture_output=True).returncode:
        for item in concerned:
            item.add_marker(pytest.mark.skip(reason=FORKED))
