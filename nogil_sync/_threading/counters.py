"""Counters, pure Python: one number, since threads do not run in parallel."""

from typing import NoReturn, SupportsFloat, SupportsIndex

from .._common.guard import Guard, guard_of
from .._common.object import SyncObject
from ._arguments import exact_float, exact_int

__all__ = ["ShardedCounter", "ShardedFloatCounter"]

_LOW = -(1 << 63)
_HIGH = (1 << 63) - 1
_SPAN = 1 << 64


class _Counter(SyncObject):
    """The base of both counters."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        """Raise ``TypeError``: the truth of the object would say nothing about its value."""
        raise TypeError(
            f"the truth of {type(self).__name__!r} object would always be true; "
            "compare its value instead"
        )


def _checked(value: SupportsIndex) -> int:
    number = exact_int(value)
    if _LOW <= number <= _HIGH:
        return number
    raise OverflowError("Python int does not fit a signed 64-bit integer")


class ShardedCounter(_Counter):
    """An integer that many threads add to at once.

    In the native backend each thread adds to a cache line of its own, so that threads do
    not slow each other down, and reading sums them up: for what is counted often and read
    seldom (requests, bytes, errors). It stays small until a second thread comes. The idea
    is that of Java's LongAdder and of the kernel's per-CPU counters. On Python 3.13t pin
    one that all threads use (see :func:`pin`), or they contend for its reference count.

    Wraps in two's complement at 64 bits, as :class:`AtomicInt64` does. Where each
    addition needs the sum it makes, use that one.

    >>> from nogil_sync import ShardedCounter
    >>> requests = ShardedCounter()
    >>> requests.add()
    >>> requests.add(41)
    >>> requests.value()
    42
    """

    __module__ = "nogil_sync"
    __slots__ = ("__guard", "__value")

    def _SyncObject__fill(self) -> None:
        self.__value = 0
        self.__guard: Guard = guard_of(self)

    def __init__(self, value: SupportsIndex = 0) -> None:
        number = _checked(value)
        super().__init__()
        self.__value = number

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__value})"

    def add(self, n: SupportsIndex = 1) -> None:
        """Add `n`, which may be negative.

        Anything with ``__index__``; else ``TypeError``, and ``OverflowError`` where it does
        not fit 64 bits. In the native backend an addition to a cache line of this thread's,
        without a lock.
        """
        number = _checked(n)
        with self.__guard:
            value = self.__value + number
            if value > _HIGH:
                value -= _SPAN
            elif value < _LOW:
                value += _SPAN
            self.__value = value

    def value(self) -> int:
        """Return the sum.

        Exact once the writers are quiet; meanwhile it holds every addition that happened
        before the call, and some of those that run beside it. With only positive additions,
        successive calls never decrease. Costs in proportion to the number of threads.
        """
        return self.__value

    def reset(self) -> int:
        """Set the counter to zero and return the sum it had.

        Every addition is in exactly one total, also while threads go on adding.

        >>> from nogil_sync import ShardedCounter
        >>> requests = ShardedCounter(7)
        >>> requests.reset(), requests.reset()
        (7, 0)
        """
        with self.__guard:
            total = self.__value
            self.__value = 0
        return total


class ShardedFloatCounter(_Counter):
    """A floating-point sum that many threads add to at once.

    As :class:`ShardedCounter`, for seconds, bytes per second, weights. The order of the
    additions, and with it the rounding of the sum, is not specified, nor is the sign of a
    sum of zero. Infinities and NaN are added as any float.

    >>> from nogil_sync import ShardedFloatCounter
    >>> seconds = ShardedFloatCounter()
    >>> seconds.add(0.25)
    >>> seconds.add(2)
    >>> seconds.value()
    2.25
    """

    __module__ = "nogil_sync"
    __slots__ = ("__guard", "__value")

    def _SyncObject__fill(self) -> None:
        self.__value = 0.0
        self.__guard: Guard = guard_of(self)

    def __init__(self, value: SupportsFloat | SupportsIndex = 0.0) -> None:
        number = exact_float(value)
        super().__init__()
        self.__value = number

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__value})"

    def add(self, n: SupportsFloat | SupportsIndex = 1.0) -> None:
        """Add `n`, any real number; ``TypeError`` for what has no float value.

        In the native backend an addition to a cache line of this thread's, without a lock.
        """
        number = exact_float(n)
        with self.__guard:
            self.__value += number

    def value(self) -> float:
        """Return the sum.

        Exact, but for rounding, once the writers are quiet; meanwhile it holds every
        addition that happened before the call, and some of those that run beside it.
        Costs in proportion to the number of threads.
        """
        return self.__value

    def reset(self) -> float:
        """Set the counter to zero and return the sum it had.

        Every addition is in exactly one total, also while threads go on adding.
        """
        with self.__guard:
            total = self.__value
            self.__value = 0.0
        return total
