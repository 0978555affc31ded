"""Time-outs of calls that wait, converted before any state changes.  User code may run here."""

import math
import threading
from typing import SupportsFloat, SupportsIndex

TIMEOUT_MAX = threading.TIMEOUT_MAX


def exact_float(value: SupportsFloat | SupportsIndex) -> float:
    """An exact float of any real number; ``TypeError`` for strings and others."""
    return math.ldexp(value, 0)


def exact_seconds(value: SupportsFloat | SupportsIndex, name: str) -> float:
    """An exact float of an argument that is a time, of this name in errors."""
    seconds = exact_float(value)
    if math.isnan(seconds):
        raise ValueError(f"{name} must not be NaN")
    if seconds > TIMEOUT_MAX:
        raise OverflowError(f"{name} value is too large")
    return seconds


def lock_timeout(blocking: bool, timeout: float | None) -> float | None:
    """The arguments of ``threading.Lock.acquire`` as seconds to wait; ``None`` is for ever."""
    waits = bool(blocking)
    if timeout is None:
        timeout = -1
    else:
        timeout = exact_float(timeout)
        if math.isnan(timeout):
            raise ValueError("timeout must not be NaN")
    if not waits:
        if timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        return 0.0
    if timeout == -1:
        return None
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return timeout


def wait_timeout(timeout: float | None) -> float | None:
    """A time-out as seconds to wait, ``None`` for ever; zero or less does not wait."""
    if timeout is None:
        return None
    return max(exact_seconds(timeout, "timeout"), 0.0)
