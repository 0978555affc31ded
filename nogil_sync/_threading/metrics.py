"""What nogil_sync.integrations keeps numbers in, pure Python."""

from bisect import bisect_left
from collections.abc import Iterable
from math import isnan
from typing import SupportsFloat, SupportsIndex

from .._common.guard import Guard, guard_of
from .._common.object import SyncObject
from ._arguments import exact_float

__all__ = ["CounterValue", "GaugeValue", "HistogramValue"]


class _Value(SyncObject):
    """A float that threads add to and set."""

    __slots__ = ("__guard", "__value")

    def _SyncObject__fill(self) -> None:
        self.__value = 0.0
        self.__guard: Guard = guard_of(self)

    def inc(self, amount: SupportsFloat | SupportsIndex, /) -> None:
        """Add `amount`."""
        number = exact_float(amount)
        with self.__guard:
            self.__value += number

    def get(self) -> float:
        """Return the value."""
        return self.__value

    def set(self, value: SupportsFloat | SupportsIndex, timestamp: object = None) -> None:  # noqa: ARG002
        """Replace the value; the time stamp is for values that several processes share."""
        self._swap(exact_float(value))

    def _swap(self, value: float) -> float:
        """Replace the value, and return what it was."""
        with self.__guard:
            before = self.__value
            self.__value = value
        return before


class CounterValue(_Value):
    """A float that threads add to."""

    __slots__ = ()

    def up(self, amount: SupportsFloat | SupportsIndex, /) -> None:
        """Add `amount`, which must not be negative."""
        number = exact_float(amount)
        if number < 0:
            raise ValueError("Counters can only be incremented by non-negative amounts.")
        _Value.inc(self, number)

    def reset(self) -> float:
        """Set the value to zero and return what it was."""
        return self._swap(0.0)


class GaugeValue(_Value):
    """A float that threads add to and set."""

    __slots__ = ()


class HistogramValue(SyncObject):
    """The sum of what was observed, and for each bound how many observations it was the first for.

    The bounds ascend. NaN is in no bucket, as it is at most nothing.
    """

    __slots__ = ("__bounds", "__buckets", "__guard", "__sum")

    def _SyncObject__fill(self) -> None:
        self.__bounds: tuple[float, ...] = ()
        self.__buckets: dict[int, int] = {}
        self.__sum = 0.0
        self.__guard: Guard = guard_of(self)

    def __init__(self, bounds: Iterable[SupportsFloat | SupportsIndex], /) -> None:
        numbers = tuple(map(exact_float, bounds))
        buckets = dict.fromkeys(range(len(numbers)), 0)
        super().__init__()
        self.__bounds = numbers
        self.__buckets = buckets

    def observe(self, amount: SupportsFloat | SupportsIndex, /) -> int:
        """Count an amount, and return the number of its bucket, or -1 if it is in none."""
        number = exact_float(amount)
        bounds = self.__bounds
        which = bisect_left(bounds, number)
        if which == len(bounds) or isnan(number):
            with self.__guard:
                self.__sum += number
            return -1
        buckets = self.__buckets
        with self.__guard:
            self.__sum += number
            buckets[which] += 1
        return which

    def count(self, number: int, /) -> int:
        """Return how many observations are in the bucket of this number."""
        try:
            return self.__buckets[number]
        except KeyError:
            raise IndexError("no such bucket") from None

    def sum(self) -> float:
        """Return the sum of all observations."""
        return self.__sum
