"""Converts arguments before any state changes.  User code may run here, never under a guard."""

import operator
from typing import SupportsIndex

from .._common.timeouts import TIMEOUT_MAX, exact_float, lock_timeout, wait_timeout

__all__ = ["TIMEOUT_MAX", "exact_float", "exact_int", "lock_timeout", "wait_timeout"]


def exact_int(value: SupportsIndex) -> int:
    """An exact int, whose arithmetic runs no user code; ``TypeError`` for floats and others."""
    return int.__index__(operator.index(value))
