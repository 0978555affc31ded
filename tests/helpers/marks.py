"""Marks that several test files use."""

import os
import sys
from typing import Any

import pytest
from support import SANITIZED

# pytest-run-parallel runs such a test once, and not in several threads at the same time.
starts_threads = pytest.mark.thread_unsafe(reason="starts threads itself")
starts_processes = pytest.mark.thread_unsafe(reason="starts processes itself")
sets_handlers = pytest.mark.thread_unsafe(reason="sets a signal handler of the process")
forks = pytest.mark.thread_unsafe(reason="forks")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def watches_memory(test: Any) -> Any:
    """Mark a test that watches the resident size of a process."""
    no_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    sanitized = pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory for a while")
    return no_proc(sanitized(test))
