"""Waits while the interpreter is finalized, for both backends.

At finalization all threads but one have stopped. No thread is left that could end a wait of the
last one, so its waits raise ``PythonFinalizationError``, or ``RuntimeError`` before Python 3.13.
"""

import builtins
import sys
from time import sleep

from .originals import get_ident, main_thread

_FinalizationError: type[RuntimeError] = getattr(builtins, "PythonFinalizationError", RuntimeError)


def check_exit() -> None:
    """Raise if no thread is left that could end a wait."""
    if sys.is_finalizing():
        if get_ident() != main_thread().ident:
            sleep(0.05)  # only the thread that finalizes returns from it
        raise _FinalizationError("cannot wait at interpreter finalization")
