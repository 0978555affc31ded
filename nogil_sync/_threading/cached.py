"""CachedFunction and `cached`, pure Python: over a `Cache`, by CachedCalls of `_common.cache`."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from .._common.cache import CachedCalls, bound, decorator, describe
from .._common.object import SyncObject, before_init, subscripted, uninitialized, until_init
from .._common.once import Annotated
from .cache import Cache

__all__ = ["CachedFunction", "cached"]

if TYPE_CHECKING:
    from functools import _CacheInfo as CacheInfo

R = TypeVar("R")
P = ParamSpec("P")


class CachedFunction(Annotated, SyncObject, Generic[P, R]):
    """A function made by :func:`cached`, which says how it behaves.

    It looks like the function that it was made of, and is a method where that is one.

    >>> from nogil_sync import CachedFunction, cached
    >>> double: CachedFunction[[int], int] = cached(lambda n: 2 * n)
    >>> double(4), double(4), double.cache_info()
    (8, 8, CacheInfo(hits=1, misses=1, maxsize=128, currsize=1))
    """

    __module__ = "nogil_sync"
    __slots__ = ("__calls", "__dict__")

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.__calls: CachedCalls = until_init(self)

    def __init__(
        self,
        fn: Callable[P, R],
        /,
        *,
        maxsize: int | None = 128,
        ttl: float | None = None,
        key: Callable[P, Hashable] | None = None,
    ) -> None:
        calls = CachedCalls(Cache(maxsize, ttl=ttl), fn, maxsize, ttl, key)
        super().__init__()
        calls.dress(self)
        self.__calls = calls

    def __repr__(self) -> str:
        return uninitialized(self) if before_init(self.__calls) else describe(self)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result of this call, or the function's, which is then cached."""
        result: R = self.__calls.call(args, kwargs)
        return result

    @overload
    def __get__(self, instance: None, owner: type | None = None, /) -> "CachedFunction[P, R]": ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """Return the function as a method of the instance."""
        return bound(self, instance)

    @property
    def cache(self) -> Cache[Hashable, R]:
        """The :class:`Cache` that holds the results."""
        cache: Cache[Hashable, R] = self.__calls.cache
        return cache

    def cache_key(self, /, *args: P.args, **kwargs: P.kwargs) -> Hashable:
        """Return the key under which the result of such a call is in :attr:`cache`.

        >>> from nogil_sync import cached
        >>> @cached
        ... def area(width, height):
        ...     return width * height
        >>> area(3, 4)
        12
        >>> area.cache.pop(area.cache_key(3, 4), None)  # have it computed again
        12
        """
        key: Hashable = self.__calls.key_of(args, kwargs)
        return key

    def cache_info(self) -> "CacheInfo":
        """Return hits, misses, maxsize and the number of results, as ``lru_cache`` does."""
        return self.__calls.info()

    def cache_clear(self) -> None:
        """Forget all results, and reset the counts of hits and misses."""
        self.__calls.clear()

    def cache_parameters(self) -> dict[str, Any]:
        """Return a new dict of `maxsize`, `ttl` and ``typed``, which is always false."""
        return dict(self.__calls.parameters)


@overload
def cached(fn: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached(
    maxsize: int | None = 128,
    ttl: float | None = None,
    key: Callable[..., Hashable] | None = None,
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
def cached(maxsize: Any = 128, ttl: Any = None, key: Any = None) -> Any:
    """Make a function that caches its results: ``functools.lru_cache`` for many threads.

    To be used as ``@cached`` or ``@cached(maxsize=1000, ttl=60)``. The results are in a
    :class:`Cache` of `maxsize` entries, each for `ttl` seconds. Calls at the same time with the
    same arguments run the function once, and all get its result or its exception, which is not
    kept. On an ``async def`` function the calls are awaited, and also run it once.

    `key`, called as the function is, returns the hashable under which the result is kept; without
    it all arguments are the key, as with ``lru_cache``, and must be hashable. In the native backend
    a hit takes no lock.

    >>> from nogil_sync import cached
    >>> @cached(maxsize=1000)
    ... def square(n):
    ...     print("computing")
    ...     return n * n
    >>> square(12), square(12)
    computing
    (144, 144)
    >>> square.cache_info()
    CacheInfo(hits=1, misses=1, maxsize=1000, currsize=1)

    Decorating a method caches by instance, too, and keeps the instance alive as long as the result.
    """
    return decorator(CachedFunction, maxsize, ttl, key)
