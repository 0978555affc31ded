"""Atomic integers, booleans and references, pure Python.

Each operation checks and converts its arguments first, then does its work in one section
(see `_common.guard`).  A load is one read of one slot, which is atomic by itself.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, NoReturn, SupportsIndex, TypeVar, cast, overload

from .._common.guard import Guard, guard_of
from .._common.object import SyncObject, adopt, subscripted
from .._common.originals import get_ident
from .._common.recording import record_retry, recording
from ._arguments import exact_int

__all__ = ["AtomicBool", "AtomicInt32", "AtomicInt64", "AtomicRef", "AtomicUint32", "AtomicUint64"]

T = TypeVar("T")


class _Atomic(SyncObject):
    """What all atomics share."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        """Raise ``TypeError``: the truth of the object would say nothing about its value."""
        raise TypeError(
            f"the truth of {type(self).__name__!r} object would always be true; "
            "compare its value instead"
        )


class _AtomicInteger(_Atomic):
    """The integer types; `low` and `high` are the ends of their range."""

    __slots__ = ("__guard", "__value")

    __low: ClassVar[int]
    __high: ClassVar[int]
    __kind: ClassVar[str]

    def __init_subclass__(cls, *, low: int = 0, high: int = 0, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if high:
            cls.__low = low
            cls.__high = high
            signed = "a signed" if low else "an unsigned"
            cls.__kind = f"{signed} {(high - low).bit_length()}-bit integer"
            adopt(cls, _AtomicInteger)

    def _SyncObject__fill(self) -> None:
        self.__value = 0
        self.__guard: Guard = guard_of(self)

    def __init__(self, value: SupportsIndex = 0) -> None:
        number = self.__checked(value)
        super().__init__()
        self.__value = number

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__value})"

    def __checked(self, number: SupportsIndex) -> int:
        """An exact int within the range of this type."""
        exact = exact_int(number)
        if self.__low <= exact <= self.__high:
            return exact
        raise OverflowError(f"Python int does not fit {self.__kind}")

    def load(self) -> int:
        """Return the value.

        Sequentially consistent, like every operation of an atomic: all threads see all of
        them in one order. One plain load in the native backend.
        """
        return self.__value

    def store(self, value: SupportsIndex) -> None:
        """Set the value.

        Whatever this thread did before is visible to a thread that then loads `value`.
        """
        number = self.__checked(value)
        with self.__guard:
            self.__value = number

    def swap(self, value: SupportsIndex) -> int:
        """Set the value and return the one it replaced, in one step."""
        number = self.__checked(value)
        with self.__guard:
            old = self.__value
            self.__value = number
        return old

    def compare_and_swap(self, old: SupportsIndex, new: SupportsIndex) -> bool:
        """Set the value to `new` if it is `old`; return whether it was.

        One compare-and-swap instruction in the native backend, which does not fail
        spuriously. The way to build what has no method of its own: load, compute, and try
        again whenever another thread was faster.

        >>> from nogil_sync import AtomicInt64
        >>> high_water = AtomicInt64(7)
        >>> high_water.compare_and_swap(7, 9)
        True
        >>> high_water.compare_and_swap(7, 11)
        False
        """
        expected = self.__checked(old)
        number = self.__checked(new)
        with self.__guard:
            equal = self.__value == expected
            if equal:
                self.__value = number
        if not equal and recording.on:
            record_retry(self, "compare_and_swap")
        return equal

    def add(self, n: SupportsIndex = 1) -> int:
        """Add `n` and return the new value, as Go does. Wraps at the ends of the range.

        An `n` outside the range of the type is an ``OverflowError``; for the unsigned types
        that includes a negative one: use :meth:`sub`.
        """
        number = self.__checked(n)
        low, high = self.__low, self.__high
        with self.__guard:
            value = self.__value + number
            if value > high:
                value += low - high - 1
            elif value < low:
                value += high - low + 1
            self.__value = value
        return value

    def sub(self, n: SupportsIndex = 1) -> int:
        """Subtract `n` and return the new value. Wraps at the ends of the range.

        An `n` outside the range of the type is an ``OverflowError``.
        """
        number = self.__checked(n)
        low, high = self.__low, self.__high
        with self.__guard:
            value = self.__value - number
            if value > high:
                value += low - high - 1
            elif value < low:
                value += high - low + 1
            self.__value = value
        return value

    def fetch_and(self, mask: SupportsIndex) -> int:
        """Keep only the bits that `mask` has too; return the value before."""
        bits = self.__checked(mask)
        with self.__guard:
            old = self.__value
            self.__value = old & bits
        return old

    def fetch_or(self, mask: SupportsIndex) -> int:
        """Set the bits of `mask`; return the value before.

        >>> from nogil_sync import AtomicUint32
        >>> flags = AtomicUint32(0b0001)
        >>> flags.fetch_or(0b0100)
        1
        >>> flags
        AtomicUint32(5)
        """
        bits = self.__checked(mask)
        with self.__guard:
            old = self.__value
            self.__value = old | bits
        return old

    def fetch_xor(self, mask: SupportsIndex) -> int:
        """Flip the bits of `mask`; return the value before."""
        bits = self.__checked(mask)
        with self.__guard:
            old = self.__value
            self.__value = old ^ bits
        return old

    def fetch_max(self, n: SupportsIndex) -> int:
        """Raise the value to `n` if it is less; return the value before.

        A loop of compare-and-swaps in the native backend. It stores a value again that is
        already as large, so that the call is ordered as all others are.
        """
        number = self.__checked(n)
        with self.__guard:
            old = self.__value
            if number > old:
                self.__value = number
        return old

    def fetch_min(self, n: SupportsIndex) -> int:
        """Lower the value to `n` if it is greater; return the value before.

        A loop of compare-and-swaps in the native backend. It stores a value again that is
        already as small, so that the call is ordered as all others are.
        """
        number = self.__checked(n)
        with self.__guard:
            old = self.__value
            if number < old:
                self.__value = number
        return old


class AtomicInt64(_AtomicInteger, low=-(1 << 63), high=(1 << 63) - 1):
    """A signed 64-bit integer that threads change without a lock.

    Each operation is one indivisible step, and all of them are sequentially consistent: a
    thread that sees a value sees everything its writer did before. Arithmetic wraps in
    two's complement, as in Go and C. Arguments may be anything with ``__index__`` (not
    floats: ``TypeError``); one that does not fit 64 bits is an ``OverflowError`` and
    changes nothing.

    There are no operators, since ``a += 1`` would not be one step.

    One hardware instruction in the native backend (a lock in the threading one). Threads
    that all write one atomic still take turns with its cache line: to count events,
    :class:`ShardedCounter` scales where this does not.

    >>> from nogil_sync import AtomicInt64
    >>> a = AtomicInt64(40)
    >>> a.add(2)
    42
    >>> a.swap(-1)
    42
    >>> a.load()
    -1
    >>> AtomicInt64(2**63 - 1).add()
    -9223372036854775808
    """

    __module__ = "nogil_sync"
    __slots__ = ()


class AtomicUint64(_AtomicInteger, low=0, high=(1 << 64) - 1):
    """An unsigned 64-bit integer that threads change without a lock.

    As :class:`AtomicInt64`, with values from 0 to 2**64 - 1. A negative argument is an
    ``OverflowError``: to subtract, use :meth:`sub`, which wraps below zero.

    >>> from nogil_sync import AtomicUint64
    >>> a = AtomicUint64()
    >>> a.sub()
    18446744073709551615
    >>> a.add(2)
    1
    """

    __module__ = "nogil_sync"
    __slots__ = ()


class AtomicInt32(_AtomicInteger, low=-(1 << 31), high=(1 << 31) - 1):
    """A signed 32-bit integer that threads change without a lock.

    As :class:`AtomicInt64`, with values from -2**31 to 2**31 - 1: for code that relies on
    wrapping at that width.

    >>> from nogil_sync import AtomicInt32
    >>> AtomicInt32(2**31 - 1).add()
    -2147483648
    """

    __module__ = "nogil_sync"
    __slots__ = ()


class AtomicUint32(_AtomicInteger, low=0, high=(1 << 32) - 1):
    """An unsigned 32-bit integer that threads change without a lock.

    As :class:`AtomicUint64`, with values from 0 to 2**32 - 1.

    >>> from nogil_sync import AtomicUint32
    >>> AtomicUint32(2**32 - 1).add()
    0
    """

    __module__ = "nogil_sync"
    __slots__ = ()


class AtomicBool(_Atomic):
    """A boolean that threads change without a lock.

    Takes any value by its truth, returns real bools. Each operation is one indivisible
    step, and all are sequentially consistent. Its own truth value is a ``TypeError``, since
    it would always be true: use :meth:`load`.

    >>> from nogil_sync import AtomicBool
    >>> started = AtomicBool()
    >>> started.compare_and_swap(False, True)  # true for exactly one thread
    True
    >>> started.load()
    True
    """

    __module__ = "nogil_sync"
    __slots__ = ("__guard", "__value")

    def _SyncObject__fill(self) -> None:
        self.__value = False
        self.__guard: Guard = guard_of(self)

    def __init__(self, value: object = False) -> None:
        truth = bool(value)
        super().__init__()
        self.__value = truth

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__value})"

    def load(self) -> bool:
        """Return the value."""
        return self.__value

    def store(self, value: object) -> None:
        """Set the value to the truth of `value`."""
        truth = bool(value)
        with self.__guard:
            self.__value = truth

    def swap(self, value: object) -> bool:
        """Set the value to the truth of `value`; return the one it replaced, in one step."""
        truth = bool(value)
        with self.__guard:
            old = self.__value
            self.__value = truth
        return old

    def compare_and_swap(self, old: object, new: object) -> bool:
        """Set the value to the truth of `new` if it is that of `old`; return whether it was."""
        expected = bool(old)
        truth = bool(new)
        with self.__guard:
            equal = self.__value is expected
            if equal:
                self.__value = truth
        if not equal and recording.on:
            record_retry(self, "compare_and_swap")
        return equal


# Pairs of an AtomicRef's id and a thread that is in its repr: a value may refer back to it.
_in_repr: set[tuple[int, int]] = set()


class AtomicRef(_Atomic, Generic[T]):
    """A reference to any object, which threads read and replace without a lock.

    Publishes immutable or finished objects: a configuration, a snapshot, a table. Readers
    load it and use what they got; a writer prepares the next one and stores it. A thread
    that loads an object sees everything its storer did before. Objects are compared by
    identity. All operations are sequentially consistent.

    In the native backend a load takes no lock: it takes a reference and checks that the
    slot still holds the object. A replaced object is let go at once, after the step, so its
    finaliser may use this very reference.

    >>> from nogil_sync import AtomicRef
    >>> settings = AtomicRef({"debug": False})
    >>> settings.load()["debug"]
    False
    >>> settings.update(lambda current: {**current, "debug": True})
    {'debug': True}
    """

    __module__ = "nogil_sync"
    __slots__ = ("__guard", "__value")

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.__value: T = cast("T", None)
        self.__guard: Guard = guard_of(self)

    @overload
    def __init__(self: "AtomicRef[T | None]", value: None = None) -> None: ...
    @overload
    def __init__(self, value: T) -> None: ...
    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.__value = value

    def __repr__(self) -> str:
        name = type(self).__name__
        value = self.__value
        entry = (id(self), get_ident())
        if entry in _in_repr:
            return f"{name}(...)"
        _in_repr.add(entry)
        try:
            return f"{name}({value!r})"
        finally:
            _in_repr.discard(entry)

    def load(self) -> T:
        """Return the object."""
        return self.__value

    def store(self, value: T) -> None:
        """Set the reference to `value`."""
        with self.__guard:
            old = self.__value  # kept alive until the guard is free: its finaliser may run
            self.__value = value
        del old

    def swap(self, value: T) -> T:
        """Set the reference to `value` and return the object it replaced, in one step."""
        with self.__guard:
            old = self.__value
            self.__value = value
        return old

    def compare_and_swap(self, old: T, new: T) -> bool:
        """Set the reference to `new` if it refers to the very object `old`; return whether.

        Compares with ``is``, so equal numbers and strings need not be the same object: pass
        what :meth:`load` returned.
        """
        with self.__guard:
            current = self.__value
            same = current is old
            if same:
                self.__value = new
        if not same and recording.on:
            record_retry(self, "compare_and_swap")
        return same

    def update(self, fn: Callable[[T], T]) -> T:
        """Replace the object by ``fn(object)`` and return the new one.

        `fn` runs without a lock, and again for each time another thread was faster, so it
        should be free of side effects. If it raises, nothing changes.

        >>> from nogil_sync import AtomicRef
        >>> members = AtomicRef(frozenset())
        >>> sorted(members.update(lambda current: current | {"ann"}))
        ['ann']
        """
        while True:
            current = self.__value
            new = fn(current)
            with self.__guard:
                same = self.__value is current
                if same:
                    self.__value = new
            if same:
                return new
            if recording.on:
                record_retry(self, "update")
