"""For tests that fork: run a function in the child, and see how the child ends."""

import os
import signal
import time
import traceback
from collections.abc import Callable


def exit_code_of(child: int, limit: float = 20) -> int:
    """Wait until the child ends; return its exit code.

    A child that hangs shows the stacks of its threads, by faulthandler, and fails.
    """
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGABRT)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def in_child(function: Callable[[], object], limit: float = 20) -> None:
    """Fork, and call the function in the child, which then ends; fails if it raises."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = exit_code_of(child, limit)
    assert code == 0, code
