"""What the environment and the interpreter's options ask for when the package is imported."""

import os
import sys


def start_as_asked() -> None:
    """Detect deadlocks if NOGIL_SYNC_DEADLOCK says so, or in development mode."""
    asked = os.environ.get("NOGIL_SYNC_DEADLOCK", "")
    if asked not in ("", "off", "raise", "warn"):
        raise ImportError(f"NOGIL_SYNC_DEADLOCK must be 'raise', 'warn' or 'off', not {asked!r}")
    if asked == "off" or not (asked or sys.flags.dev_mode):
        return
    from .deadlock import start

    start("raise" if asked == "raise" else "warn")
