"""The parts of Cache that both backends share: misses of `load_or_compute`, statistics, `cached`.

A backend's class derives from `SharedCache` and adds the mapping's operations and, for us

``_peek(key, default)``
    the value of a key, or the default. Counts nothing.
``_land(key, value, detached)``
    one atomic step: returns the value of the key if there is one; else the given value, which it
    first stores, as ``put`` does, unless the flag is set.
``_flights()``
    a plain SyncMap that belongs to the cache; the first call makes it.
``_loaded(failed)``
    counts the end of a load.
``_Flag``
    the backend's AtomicBool.

**Flights.** A load is a flight of `mapping.load_or_compute`, which works on any object that has
``get``, ``_land`` and ``_flights``: `_FlightParts` are those of a cache. So are the rules: a store
of the key wins over the value that is being loaded, and a deletion detaches the flight. An eviction
detaches nothing, since it must run no code of users. So a store detaches the flight, in the step
that stores. Else its value could be evicted, and then the load would bring back an older one. When
the flight lands, it finds the stored value, or stores nothing. A flight that begins after the store
has looked for one reads its source later than that, so it need not be detached.
"""

import operator
import sys
from collections.abc import Awaitable, Callable, Hashable
from functools import _CacheInfo, partial, update_wrapper
from types import CodeType, MethodType
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar, TypeVarTuple

from .mapping import load_or_compute, load_or_compute_async
from .object import subscripted
from .once import ABSENT
from .performance import Unraisable
from .timeouts import exact_float, exact_seconds, wait_timeout

__all__ = ["CacheStats"]

K = TypeVar("K")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")

_MAX_WEIGHT: Final = (1 << 63) - 1
NEVER: Final = (1 << 63) - 1  # the time, in nanoseconds, at which an entry without ttl expires


class CacheStats(NamedTuple):
    """What :meth:`Cache.stats` returns: what the cache did since it was made, and its weight.

    >>> from nogil_sync import Cache
    >>> squares = Cache(100)
    >>> [squares.load_or_compute(n % 2, pow, n, 2) for n in range(6)]
    [0, 1, 0, 1, 0, 1]
    >>> stats = squares.stats()
    >>> stats.hits, stats.misses, stats.loads, stats.weight
    (4, 2, 2, 2)
    """

    hits: int
    """Calls of ``cache[key]``, ``get`` and ``load_or_compute`` that found a value."""

    misses: int
    """Those that found none."""

    loads: int
    """Functions of ``load_or_compute`` that returned a value."""

    failures: int
    """Those that raised."""

    evictions: int
    """Entries that were removed because the cache was full."""

    expirations: int
    """Entries that were removed because their time was over."""

    weight: int
    """The sum of the weights of all entries; without a `weigher`, their number."""


CacheStats.__module__ = "nogil_sync"


def check_callable(name: str, function: object) -> None:
    """Raise ``TypeError`` for an argument that is neither None nor callable."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be callable or None, not {type(function).__name__!r}")


def check_maxsize(maxsize: Any) -> int | None:
    """The `maxsize` of a cache as an exact int."""
    if maxsize is None:
        return None
    limit = int.__index__(operator.index(maxsize))
    if limit < 0:
        raise ValueError("maxsize must not be negative")
    if limit >= _MAX_WEIGHT:
        raise OverflowError("maxsize is too large")
    return limit


def ttl_nanoseconds(ttl: Any) -> int:
    """A time to live in nanoseconds, 0 for None."""
    if ttl is None:
        return 0
    seconds = exact_seconds(ttl, "ttl")
    if seconds <= 0:
        raise ValueError("ttl must be positive")
    return max(1, int(seconds * 1e9))


def clock_nanoseconds(seconds: Any) -> int:
    """What a clock of the user returned, in nanoseconds."""
    number = exact_float(seconds)
    if number != number:  # noqa: PLR0124
        raise ValueError("clock value must not be NaN")
    if not -9.2e9 < number < 9.2e9:
        raise OverflowError("clock value is too large")
    return int(number * 1e9)


def report(on_evict: Any, evicted: list[tuple[Any, Any, str]]) -> None:
    """Tell the hook of what was evicted. Its errors go to ``sys.unraisablehook``."""
    for key, value, cause in evicted:
        try:
            on_evict(key, value, cause)
        except BaseException as error:
            Unraisable(error)


class _FlightParts:
    """What `mapping.load_or_compute` calls of a cache."""

    @staticmethod
    def get(cache: Any, key: Any, default: Any) -> Any:
        return cache._plain_class._peek(cache, key, default)

    @staticmethod
    def _land(cache: Any, key: Any, value: Any, detached: Any) -> Any:
        return cache._plain_class._land(cache, key, value, detached)

    @staticmethod
    def _flights(cache: Any) -> Any:
        return cache._plain_class._flights(cache)


def _load(cache: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the function of a load, and count it."""
    failed = True
    try:
        value = fn(*args, **kwargs)
        failed = False
    finally:
        cache._plain_class._loaded(cache, failed)
    return value


async def _load_async(cache: Any, afn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`_load` for a task."""
    failed = True
    try:
        value = await afn(*args)
        failed = False
    finally:
        cache._plain_class._loaded(cache, failed)
    return value


def load(
    cache: Any, key: Any, fn: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
) -> Any:
    """The slow path of ``Cache.load_or_compute``, for a key that is missing."""
    if not callable(fn):
        raise TypeError(f"{type(fn).__name__!r} object is not callable")
    return load_or_compute(cache, key, _load, (cache, fn, args, {}), seconds)


class SharedCache(Generic[K, V]):
    """The base of Cache in both backends."""

    __slots__ = ()

    _plain: ClassVar[Any] = _FlightParts
    _plain_class: ClassVar[Any]
    _Flag: ClassVar[Any]

    __reversed__: ClassVar[None] = None

    __class_getitem__ = subscripted

    async def load_or_compute_async(
        self,
        key: K,
        afn: Callable[[*Ts], Awaitable[V]],
        /,
        *args: *Ts,
        timeout: float | None = None,
    ) -> V:
        """:meth:`load_or_compute` for a task: if the key is missing, awaits ``afn(*args)``.

        The event loop goes on meanwhile. Threads and the tasks of all loops have one flight for
        each key, by the rules of :meth:`SyncMap.load_or_compute_async`.

        >>> import asyncio
        >>> from nogil_sync import Cache
        >>> async def fetch(url):
        ...     return f"the page at {url}"
        >>> pages = Cache(100)
        >>> asyncio.run(pages.load_or_compute_async("/", fetch, "/"))
        'the page at /'
        """
        seconds = wait_timeout(timeout)
        value: Any = self._plain_class.get(self, key, ABSENT)
        if value is ABSENT:
            if not callable(afn):
                raise TypeError(f"{type(afn).__name__!r} object is not callable")
            value = await load_or_compute_async(self, key, _load_async, (self, afn, args), seconds)
        found: V = value
        return found


# ---- cached ----

_FAST = (int, str)  # of these types a single argument is the key, as with lru_cache
_KEYWORDS: Final = object()  # stands before the keyword arguments in a key


def call_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """The key of a call, as ``functools.lru_cache`` makes it."""
    if kwargs:
        return (*args, _KEYWORDS, *(each for item in kwargs.items() for each in item))
    if len(args) == 1 and type(args[0]) in _FAST:
        return args[0]  # type: ignore[no-any-return]
    return args


_COROUTINE: Final = 0x80  # inspect.CO_COROUTINE: a function does not need that module
# How a function says that its result is to be awaited: by the value that a module has under this
# name, in this attribute.
_MARKS: Final = (
    ("inspect", "_is_coroutine_mark", "_is_coroutine_marker"),
    ("asyncio.coroutines", "_is_coroutine", "_is_coroutine"),
)


def is_async(fn: Any) -> bool:
    """Whether calling the function returns a coroutine, as ``inspect.iscoroutinefunction`` says."""
    while isinstance(fn, MethodType | partial):
        fn = fn.__func__ if isinstance(fn, MethodType) else fn.func
    code = getattr(fn, "__code__", None)
    if isinstance(code, CodeType) and code.co_flags & _COROUTINE:
        return True
    for home, name, attribute in _MARKS:
        mark = getattr(sys.modules.get(home), name, None)
        # A mock has any attribute: it is the value that counts.
        if mark is not None and getattr(fn, attribute, None) is mark:
            return True
    return False


class CachedCalls:
    """What a cached function has besides its cache: for both backends, and not in a hit's way."""

    __slots__ = ("base", "cache", "fn", "is_async", "key", "maxsize", "parameters")

    def __init__(self, cache: Any, fn: Any, maxsize: int | None, ttl: float | None, key: Any):
        if not callable(fn):
            raise TypeError(f"cached: {type(fn).__name__!r} object is not callable")
        check_callable("key", key)
        self.cache = cache
        self.fn = fn
        self.key = key
        self.maxsize = maxsize
        self.parameters = {"maxsize": maxsize, "ttl": ttl, "typed": False}
        self.is_async = is_async(fn)
        self.base = (0, 0)  # hits and misses at the last `clear`

    def key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The key of a call with these arguments."""
        return call_key(args, kwargs) if self.key is None else self.key(*args, **kwargs)

    def compute(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of a call whose key was not found."""
        # With no more frames than need be: the function may call itself, hundreds of times.
        return load_or_compute(self.cache, key, _load, (self.cache, self.fn, args, kwargs), None)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.fn(*args, **kwargs)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call."""
        key = self.key_of(args, kwargs)
        cache = self.cache
        if self.is_async:
            return _call_async(cache, key, self.run, args, kwargs)
        value = cache.get(key, ABSENT)
        return self.compute(key, args, kwargs) if value is ABSENT else value

    def info(self) -> _CacheInfo:
        stats = self.cache.stats()
        hits, misses = self.base
        return _CacheInfo(stats.hits - hits, stats.misses - misses, self.maxsize, len(self.cache))

    def clear(self) -> None:
        self.cache.clear()
        stats = self.cache.stats()
        self.base = (stats.hits, stats.misses)

    def dress(self, wrapper: Any) -> None:
        """Give the wrapper, which callers call, the name, docs and attributes of the function."""
        update_wrapper(wrapper, self.fn)
        if self.is_async:
            _mark_coroutine_function(wrapper)


async def _call_async(
    cache: Any, key: Any, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return await cache.load_or_compute_async(key, fn, args, kwargs)


def _mark_coroutine_function(wrapper: Any) -> None:
    """Have `inspect` and `asyncio` take the wrapper for a coroutine function, as it is one."""
    from importlib import import_module

    for home, name, attribute in _MARKS:
        mark = getattr(import_module(home), name, None)
        if mark is not None:
            setattr(wrapper, attribute, mark)


def describe(wrapper: Any) -> str:
    """The repr of a cached function."""
    name = getattr(wrapper, "__qualname__", "of an object")
    return f"<cached function {name} at {id(wrapper):#x}>"


def bound(wrapper: Any, instance: object) -> Any:
    """The wrapper as a method of an instance."""
    return wrapper if instance is None else MethodType(wrapper, instance)


def decorator(cls: Any, maxsize: Any, ttl: Any, key: Any) -> Any:
    """What ``cached`` returns."""
    if callable(maxsize):  # @cached
        return cls(maxsize, maxsize=128, ttl=ttl, key=key)
    if maxsize is not None and not hasattr(maxsize, "__index__"):
        kind = type(maxsize).__name__
        raise TypeError(f"cached() takes a function, or an int or None as maxsize, not {kind!r}")
    check_maxsize(maxsize)
    ttl_nanoseconds(ttl)
    check_callable("key", key)

    def decorate(fn: Any) -> Any:
        return cls(fn, maxsize=maxsize, ttl=ttl, key=key)

    return decorate
