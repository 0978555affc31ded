"""Selected, for both backends: what a select did."""

from typing import Any, NamedTuple

__all__ = ["Selected"]


class Selected(NamedTuple):
    """What :func:`nogil_sync.select` did: the one case that went ahead.

    >>> from nogil_sync import Channel, select
    >>> numbers = Channel(1)
    >>> numbers.send(7)
    >>> selected = select(numbers)
    >>> selected.case is numbers, selected.value, selected.closed
    (True, 7, False)
    """

    case: Any
    """The case, as it was passed to ``select``."""

    value: Any
    """The item of a Channel, or the time at which the tick of a Ticker was due; else ``None``."""

    closed: bool
    """Whether there is no value because the Channel is closed and empty, or the Ticker stopped."""


Selected.__module__ = "nogil_sync"
