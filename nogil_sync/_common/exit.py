"""Waits at the interpreter's end, for both backends.

While the interpreter is finalized all threads but one have stopped, so that one would sleep in
vain: its waits raise ``PythonFinalizationError``, or ``RuntimeError`` before Python 3.13.
"""

import builtins
import sys
from time import sleep

from .originals import get_ident, main_thread

_FinalizationError: type[RuntimeError] = getattr(builtins, "PythonFinalizationError", RuntimeError)


def check_exit() -> None:
    """Raise if nobody is left who could end a wait."""
    if sys.is_finalizing():
        if get_ident() != main_thread().ident:
            sleep(0.05)  # from which only the thread that finalizes returns
        raise _FinalizationError("cannot wait at interpreter finalization")
