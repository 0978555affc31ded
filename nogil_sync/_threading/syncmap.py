"""SyncMap, pure Python: entries in buckets, and the buckets in a dict whose keys are hashes.

A bucket is one immutable tuple, ``(key, value, key, value, ...)``, of the entries whose keys have
the same hash; nearly always it is one entry.  The dict that holds the buckets is keyed by exact
ints, so no code of a user runs in it and each of its steps is atomic.  A lookup hashes the key,
fetches the bucket, and then compares keys in it: its result was true when it fetched.

A change computes the next bucket in ordinary code, which nobody else sees, and installs it in a
section (see `_common.guard`) if the bucket it started from is still there.  Otherwise another
thread, or user code that it called itself, was faster, and it retries.  A retry compares no two
keys again, so equality that changes this very map cannot make it retry for ever.  Of all threads
that try, one always succeeds.

In these sections the dict is read and stored to, which the rule of `_common.guard` allows for exact
dicts with keys that are exact ints: it calls nothing, and whatever is replaced is still held
by a variable outside, so nothing is finalised there.

The length is the number of buckets, which the dict knows, plus the number of entries beyond the
first of their bucket, which is counted.

Without the GIL, where this backend runs only if it is forced, the child of a fork is not safe from
the threads that are gone: one may have stored such a bucket and not yet counted it, or be using the
dict, whose own lock then stays locked for ever.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, TypeVarTuple, final, overload

from .._common.guard import Guard, guard_of
from .._common.mapping import NO_DEFAULT, SharedMap, load_or_compute
from .._common.object import Part, SyncObject, until_init
from .._common.once import ABSENT
from ._arguments import wait_timeout
from .atomics import AtomicBool

__all__ = ["SyncMap", "SyncMapIterator"]

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
KT = TypeVar("KT")
VT = TypeVar("VT")
Ts = TypeVarTuple("Ts")

Bucket = tuple[Any, ...]

KEEP: Final = object()  # what an edit returns to change nothing

# Below this many bytes a table is not made smaller; above, when it takes so many an entry.
_SMALL = 4096
_WIDE = 400


class _Table:
    """All that `clear` replaces."""

    __slots__ = ("buckets", "candidates", "extra", "narrow", "version")

    def __init__(self) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.extra = 0  # entries beyond the first of their bucket
        self.version = 0  # counts the changes
        self.candidates: list[int] = []  # hashes that `popitem` tries next
        self.narrow = sys.maxsize  # it shrinks only when it has fewer buckets


def _find(bucket: Bucket | None, key: object, begin: int = 0) -> int:
    """Where in the bucket, from there on, the entry with this key is, or -1. Runs code of users."""
    if bucket is not None:
        for at in range(begin, len(bucket), 2):
            each = bucket[at]
            if each is key or each == key:
                return at
    return -1


def _find_again(
    bucket: Bucket | None, key: object, found: object, unequal: dict[int, object]
) -> int:
    """As `_find`, for a key that was looked for before.

    It was equal to the key `found` (unless that is ABSENT) and to none of the keys `unequal`,
    and is compared with neither again. They are noted by their ids, and kept alive.
    """
    if bucket is None:
        return -1
    for at in range(0, len(bucket), 2):
        if bucket[at] is found:
            return at
    for at in range(0, len(bucket), 2):
        each = bucket[at]
        if each is key or (id(each) not in unequal and each == key):
            return at
        unequal[id(each)] = each
    return -1


def _replaced(bucket: Bucket | None, at: int, key: object, value: object) -> Bucket | None:
    """The bucket with this value in that place, which is -1 for a new entry; None if empty."""
    if bucket is None:
        return (key, value)
    if value is ABSENT:
        return bucket[:at] + bucket[at + 2 :] or None
    if at < 0:
        return (*bucket, key, value)
    return (*bucket[: at + 1], value, *bucket[at + 2 :])


# Edits: functions from the value of a key, or ABSENT, to its next value.


def _put(_old: object, value: object) -> object:
    return value


def _put_first(old: object, value: object) -> object:
    return value if old is ABSENT else KEEP


def _remove(old: object) -> object:
    return KEEP if old is ABSENT else ABSENT


def _exchange(old: object, expected: object, new: object) -> object:
    return new if old is not ABSENT and (old is expected or old == expected) else KEEP


def _apply(old: object, fn: Callable[[Any], object], default: object) -> object:
    return fn(default if old is ABSENT else old)


class SyncMap(SyncObject, SharedMap[K, V]):
    """A dict for many threads, with the atomic operations that dict lacks: Go's ``sync.Map``.

    It is a ``MutableMapping``: what works with a dict works with it, from any thread and
    without a lock around it. Keys are hashable, compared by ``is`` or ``==``; None is a value
    like any other. `mapping_or_pairs` and keyword arguments are those of ``dict``.

    >>> from nogil_sync import SyncMap
    >>> stock = SyncMap({"apple": 3}, pear=5)
    >>> stock["fig"] = 1
    >>> stock.insert("apple", 9)  # is there already
    False
    >>> stock.modify("apple", lambda n: n + 1, 0)
    4
    >>> stock.compare_and_swap("pear", 5, 6), stock.pop("fig")
    (True, 1)
    >>> sorted(stock.items())
    [('apple', 4), ('pear', 6)]

    **Atomicity.** Operations on one key, and :meth:`popitem`, are atomic and sequentially
    consistent: a thread that finds a value sees what the thread that stored it did before.
    ``len``, :meth:`clear`, :meth:`update`, ``|=``, :meth:`copy`, :meth:`snapshot`, ``==`` and
    iteration go entry by entry: exact when nobody writes, otherwise each entry as it was at
    some moment during the call.

    **Iteration** never fails because of a change: it gives each key at most once, and every key
    that is there throughout exactly once. It holds no values: what it gives is in the map right
    then. No order is promised, so there is no ``reversed``; nor are there ``fromkeys`` and
    ``__missing__``. ``dict(map)`` and ``{**map}`` fetch first the keys and then each value, so
    they can meet a key that was deleted meanwhile (``KeyError``): use :meth:`snapshot`.

    **Cost.** In the native backend a lookup takes no lock and writes to no shared memory except
    the reference count of the value that it returns. A store for a key that is there takes no
    lock either; insertions and deletions lock a part of the table only.
    Memory follows the number of entries: churn of ever new keys neither grows nor slows the
    map. A value is let go at once when it is replaced or deleted, a key soon after;
    `sys.getsizeof` counts the keys that are still to go.

    **User code.** ``__hash__`` and ``__eq__`` of keys and values, finalisers and functions given
    to a method never run under a lock of the map. They may use it, block, or raise, which
    reaches the caller, and then nothing has changed.

    The map itself is not hashable. It can be copied, one level deep, and cannot be pickled. In
    the child of a fork it is intact.
    """

    __module__ = "nogil_sync"
    __slots__ = ("__flights", "__guard", "__table")

    _Flag = AtomicBool

    def _SyncObject__fill(self) -> None:
        self.__guard: Guard = guard_of(self)
        self.__flights: SyncMap[K, Any] | None = None
        self.__table: _Table = until_init(self)

    @overload
    def __init__(self, /) -> None: ...
    @overload
    def __init__(self: "SyncMap[str, V]", /, **kwargs: V) -> None: ...
    @overload
    def __init__(self, mapping_or_pairs: "SupportsKeysAndGetItem[K, V]", /) -> None: ...
    @overload
    def __init__(
        self: "SyncMap[str, V]",
        mapping_or_pairs: "SupportsKeysAndGetItem[str, V]",
        /,
        **kwargs: V,
    ) -> None: ...
    @overload
    def __init__(self, mapping_or_pairs: Iterable[tuple[K, V]], /) -> None: ...
    @overload
    def __init__(
        self: "SyncMap[str, V]", mapping_or_pairs: Iterable[tuple[str, V]], /, **kwargs: V
    ) -> None: ...
    def __init__(self, mapping_or_pairs: Any = (), /, **kwargs: Any) -> None:
        # Code that finds it through the collector could change a list, but not a tuple.
        entries = (*self._entries(mapping_or_pairs),)
        table = _Table()
        super().__init__()
        self.__table = table
        for key, value in entries:
            self.__edit(key, _put, value)
        for name, value in kwargs.items():
            self.__edit(name, _put, value)

    # Lookups

    if TYPE_CHECKING:  # both are SharedMap's, which knows no class of maps

        def __or__(self, other: Mapping[KT, VT], /) -> "SyncMap[K | KT, V | VT]": ...
        def __ror__(self, other: Mapping[KT, VT], /) -> "SyncMap[K | KT, V | VT]": ...

    def __getitem__(self, key: K, /) -> V:
        """Return the value of the key; ``KeyError`` if there is none."""
        bucket = self.__table.buckets.get(hash(key))
        if bucket is not None:
            first = bucket[0]  # nearly always the only key
            at = 0 if first is key or first == key else _find(bucket, key, 2)
            if at >= 0:
                value: V = bucket[at + 1]
                return value
        raise KeyError(key)

    def __contains__(self, key: object, /) -> bool:
        """Whether the map has the key."""
        return _find(self.__table.buckets.get(hash(key)), key) >= 0

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    @overload
    def get(self, key: K, default: T) -> V | T: ...
    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if the key is missing."""
        bucket = self.__table.buckets.get(hash(key))
        if bucket is not None:
            first = bucket[0]
            at = 0 if first is key or first == key else _find(bucket, key, 2)
            if at >= 0:
                return bucket[at + 1]
        return default

    def __len__(self) -> int:
        """How many entries there are."""
        table = self.__table
        return len(table.buckets) + table.extra

    def __bool__(self) -> bool:
        """Whether there are any entries."""
        # The native backend has this method, because its length costs more.
        return len(self) != 0

    # Changes

    def __setitem__(self, key: K, value: V, /) -> None:
        """Set the value of the key."""
        self.__edit(key, _put, value)

    def __delitem__(self, key: K, /) -> None:
        """Remove the key; ``KeyError`` if there is none."""
        self.__invalidate(key)
        if self.__edit(key, _remove)[0] is ABSENT:
            raise KeyError(key)

    @overload
    def setdefault(self: "SyncMap[K, T | None]", key: K, default: None = None) -> T | None: ...
    @overload
    def setdefault(self, key: K, default: V) -> V: ...
    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of `key`; if it is missing, insert it with `default` and return that.

        Of several threads one inserts, and all get its value. (Go's ``LoadOrStore``.)

        >>> from nogil_sync import SyncMap
        >>> members = SyncMap()
        >>> members.setdefault("ann", 1), members.setdefault("ann", 2)
        (1, 1)
        """
        found = self.__edit(key, _put_first, default)[0]
        return default if found is ABSENT else found

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V) -> V: ...
    @overload
    def pop(self, key: K, default: T) -> V | T: ...
    def pop(self, key: Any, default: Any = NO_DEFAULT) -> Any:
        """Delete `key` and return its value.

        Return `default` if it is missing, which without a default is a ``KeyError``.
        Of several threads one gets the value. (Go's ``LoadAndDelete``.)

        >>> from nogil_sync import SyncMap
        >>> sessions = SyncMap(ann=1)
        >>> sessions.pop("ann"), sessions.pop("ann", None)
        (1, None)
        """
        self.__invalidate(key)
        found = self.__edit(key, _remove)[0]
        if found is not ABSENT:
            return found
        if default is NO_DEFAULT:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Delete an arbitrary entry and return it as ``(key, value)``, in one step.

        Several threads never get the same one. An empty map is a ``KeyError``.

        >>> from nogil_sync import SyncMap
        >>> jobs = SyncMap(a=1)
        >>> jobs.popitem()
        ('a', 1)
        """
        while True:
            table = self.__table
            try:
                which = table.candidates.pop()
            except IndexError:
                table.candidates = hashes = list(table.buckets)
                if not hashes:
                    raise KeyError("popitem(): the map is empty") from None
                continue
            bucket = table.buckets.get(which)
            if bucket is not None:
                self.__invalidate(bucket[-2])
                if self.__install(which, bucket, bucket[:-2] or None):
                    return bucket[-2], bucket[-1]
                table.candidates.append(which)

    def clear(self) -> None:
        """Delete all entries.

        What others insert meanwhile may remain or go.
        """
        self.__table.buckets  # noqa: B018  (an error before __init__)
        if self.__flights is not None:
            self._detach_all()
        new = _Table()
        with self.__guard:
            table = self.__table
            self.__table = new
        del table  # here: with it go the entries, whose finalisers may use the map

    def insert(self, key: K, value: V) -> bool:
        """Insert `key` with `value` if it is missing; return whether it was.

        Of several threads one gets true, and its value stays.

        >>> from nogil_sync import SyncMap
        >>> seen = SyncMap()
        >>> seen.insert("id-1", None), seen.insert("id-1", None)
        (True, False)
        """
        return self.__edit(key, _put_first, value)[0] is ABSENT

    @overload
    def swap(self, key: K, value: V, default: None = None) -> V | None: ...
    @overload
    def swap(self, key: K, value: V, default: V) -> V: ...
    @overload
    def swap(self, key: K, value: V, default: T) -> V | T: ...
    def swap(self, key: Any, value: Any, default: Any = None) -> Any:
        """Set `key` to `value` and return the value it replaced, or `default` if it was missing.

        >>> from nogil_sync import SyncMap
        >>> owner = SyncMap(door="ann")
        >>> owner.swap("door", "bob"), owner.swap("gate", "bob", "nobody")
        ('ann', 'nobody')
        """
        found = self.__edit(key, _put, value)[0]
        return default if found is ABSENT else found

    def compare_and_swap(self, key: K, old: V, new: V) -> bool:
        """Set `key` to `new` if its value is `old`; return whether it was.

        Values are compared by ``is`` or ``==``. If the key is missing, nothing is stored.

        >>> from nogil_sync import SyncMap
        >>> state = SyncMap(job="queued")
        >>> state.compare_and_swap("job", "queued", "running")
        True
        >>> state.compare_and_swap("job", "queued", "running")
        False
        """
        return self.__edit(key, _exchange, old, new)[1] is not KEEP

    def compare_and_delete(self, key: K, old: V) -> bool:
        """Delete `key` if its value is `old`; return whether it was.

        Values are compared by ``is`` or ``==``. A missing key is false.

        >>> from nogil_sync import SyncMap
        >>> locks = SyncMap(printer="ann")
        >>> locks.compare_and_delete("printer", "bob")
        False
        >>> locks.compare_and_delete("printer", "ann")
        True
        """

        def remove(current: object) -> object:
            if current is ABSENT or not (current is old or current == old):
                return KEEP
            self.__invalidate(key)
            return ABSENT

        return self.__edit(key, remove)[1] is not KEEP

    def modify(self, key: K, fn: Callable[[V], V], default: V) -> V:
        """Set `key` to ``fn(value)``, or to ``fn(default)`` if it is missing; return the new value.

        `fn` runs without a lock, and again for each time another thread changed the value
        meanwhile, so it should be free of side effects. If it raises, nothing changes.

        >>> from nogil_sync import SyncMap
        >>> hits = SyncMap()
        >>> hits.modify("/", lambda n: n + 1, 0), hits.modify("/", lambda n: n + 1, 0)
        (1, 2)
        """
        value: V = self.__edit(key, _apply, fn, default)[1]
        return value

    def load_or_compute(
        self, key: K, fn: Callable[[*Ts], V], /, *args: *Ts, timeout: float | None = None
    ) -> V:
        """Return the value of `key`; if it is missing, insert it with ``fn(*args)``.

        At most one thread at a time computes the value of a key. Others that ask for this key
        wait and get the same value; other keys are not held up. What the function did is
        visible to all of them. `timeout` bounds the wait for another thread, in seconds
        (``TimeoutError``); zero or less does not wait, None waits for ever. NaN is a
        ``ValueError``, a time-out too large for the system an ``OverflowError``. A Ctrl-C
        interrupts the wait in the main thread.

        If the key is stored meanwhile, the stored value wins, and all return that. If the key is
        deleted meanwhile, by ``del``, :meth:`pop`, :meth:`clear` or a successful
        :meth:`compare_and_delete`, the call goes on detached: those who wait for it get its
        value, it is not stored, and who asks from then on has it computed anew. So a cache is
        invalidated by ``cache.pop(key, None)`` also while it is being filled.

        An ``Exception`` of `fn` reaches all who waited, the same object, and is not kept.
        ``KeyboardInterrupt``, ``SystemExit`` and whatever else is no ``Exception`` reaches its
        own thread only; one of those who waited then calls its own function. A call that would
        have to wait for itself, directly or in a circle through other keys, maps, ``once``
        functions and threads, is a ``RuntimeError``. In the child of a fork a call of another
        thread counts as not begun.

        >>> from nogil_sync import SyncMap
        >>> squares = SyncMap()
        >>> squares.load_or_compute(12, pow, 12, 2)
        144
        >>> squares[12]
        144
        """
        seconds = wait_timeout(timeout)
        value: Any = SyncMap.get(self, key, ABSENT)
        if value is ABSENT:
            value = load_or_compute(self, key, fn, args, seconds)
        found: V = value
        return found

    def _fence(self) -> None:
        """For a map of flights: nothing to do, as the interpreter orders what Python code does."""

    # As a whole

    def __iter__(self) -> "SyncMapIterator[K]":
        """Return an iterator over the keys; see the class for what it sees of changes."""
        return _iterator(self._bucket, list(self.__table.buckets), keys=True)

    def _pairs(self) -> "SyncMapIterator[tuple[K, V]]":
        """All entries, as iteration gives them."""
        return _iterator(self._bucket, list(self.__table.buckets), keys=False)

    def snapshot(self) -> dict[K, V]:
        """Return a dict of the entries.

        >>> from nogil_sync import SyncMap
        >>> SyncMap(a=1, b=2).snapshot() == {"a": 1, "b": 2}
        True
        """
        return dict(self._pairs())

    def __sizeof__(self) -> int:
        """Return the size in bytes, without keys and values."""
        table = self.__table
        buckets = table.buckets
        entry = sys.getsizeof(1 << 60) + sys.getsizeof((0, 0))
        return (
            object.__sizeof__(self)
            + sys.getsizeof(table)
            + sys.getsizeof(table.candidates)
            + buckets.__sizeof__()
            + len(buckets) * entry
        )

    # How it is done

    def __edit(
        self, key: Any, edit: Callable[..., Any], *args: Any, unless: Any = None
    ) -> tuple[Any, Any]:
        """Set the key to ``edit(value, *args)``; return the value, and that.

        ABSENT is the value of a missing key, and deletes it; KEEP changes nothing. Nothing changes
        once the flag `unless` is set.
        """
        which = hash(key)
        bucket = self.__table.buckets.get(which)
        at = _find(bucket, key)
        value = ABSENT if bucket is None or at < 0 else bucket[at + 1]
        new = edit(value, *args)
        found: Any = ABSENT
        unequal: dict[int, object] = {}
        while new is not KEEP:
            if self.__install(which, bucket, _replaced(bucket, at, key, new), unless):
                break
            if unless is not None and unless.load():
                break
            if bucket is not None:
                unequal |= {id(each): each for each in bucket[: at if at >= 0 else None : 2]}
                found = bucket[at] if at >= 0 else ABSENT
            bucket = self.__table.buckets.get(which)
            at = _find_again(bucket, key, found, unequal)
            current = ABSENT if bucket is None or at < 0 else bucket[at + 1]
            if current is not value:
                value = current
                new = edit(value, *args)
        return value, new

    def __install(
        self, which: int, old: Bucket | None, new: Bucket | None, unless: Any = None
    ) -> bool:
        """Put the new bucket in place of the old one, if that is still there; return whether."""
        more = (len(new) // 2 - 1 if new else 0) - (len(old) // 2 - 1 if old else 0)
        done = False
        with self.__guard:
            table = self.__table
            buckets = table.buckets
            current = buckets[which] if which in buckets else None  # noqa: SIM401
            if current is old and (unless is None or not unless._AtomicBool__value):
                extra = table.extra + more
                version = table.version + 1
                if new is None:
                    del buckets[which]
                else:
                    buckets[which] = new
                table.extra = extra
                table.version = version
                done = True
        if done and new is None:
            self.__fit(table)
        return done

    def __fit(self, table: _Table) -> None:
        """Make the table smaller if it has become too large for what is in it.

        Only if nothing changes meanwhile: if something does, next when half of it is gone.
        """
        buckets = table.buckets
        size = len(buckets)
        if buckets.__sizeof__() <= _SMALL + _WIDE * size or size > table.narrow:
            return
        version = table.version
        smaller = dict(buckets)
        half = size // 2
        with self.__guard:
            if table.version == version and table.buckets is buckets:
                table.buckets = smaller
                table.narrow = sys.maxsize
            else:
                table.narrow = half

    def __invalidate(self, key: K) -> None:
        """To be called before a key is deleted."""
        if self.__flights is not None:
            self._detach(key)
            # A call that saw the flag unset has stored its value after this.
            with self.__guard:
                pass

    def _bucket(self, which: int) -> Bucket | None:
        """The entries of the keys with this hash."""
        return self.__table.buckets.get(which)

    def _flights(self) -> "SyncMap[K, Any]":
        """The map of the calls under way that compute a value."""
        flights = self.__flights
        if flights is None:
            new: SyncMap[K, Any] = SyncMap()
            with self.__guard:
                flights = self.__flights
                if flights is None:
                    self.__flights = flights = new
        return flights

    def _land(self, key: K, value: V, detached: AtomicBool) -> V:
        """Insert the key, unless detached; return its value, or the given one if detached."""
        found = self.__edit(key, _put_first, value, unless=detached)[0]
        return value if found is ABSENT or detached.load() else found


@final
class SyncMapIterator(Part, Generic[T]):
    """An iterator over a :class:`SyncMap`: gives each key, or entry, that is there in its turn.

    Changes of the map do not end it. Threads may share one: each key goes to one of them.

    >>> from nogil_sync import SyncMap, SyncMapIterator
    >>> keys: SyncMapIterator[str] = iter(SyncMap(a=1, b=2))
    >>> sorted(keys)
    ['a', 'b']
    """

    __module__ = "nogil_sync"
    # What is in the buckets of these hashes; and the rest of the bucket that it is in.
    __slots__ = ("_bucket", "_hashes", "_keys", "_rest")
    _bucket: Callable[[int], Bucket | None]
    _hashes: list[int]  # taken from the end
    _keys: bool
    _rest: list[tuple[Any, Any]]

    def __iter__(self) -> "SyncMapIterator[T]":
        """Return the iterator itself."""
        return self

    def __next__(self) -> T:
        """Return the next key or entry."""
        entry: Any = None
        while entry is None:
            # Each step is atomic, so threads can share an iterator.
            if self._rest:
                try:
                    entry = self._rest.pop()
                    break
                except IndexError:
                    pass
            try:
                which = self._hashes.pop()
            except IndexError:
                raise StopIteration from None
            bucket = self._bucket(which)
            if bucket is not None:
                if len(bucket) == 2:
                    entry = bucket
                else:
                    self._rest.extend(zip(bucket[::2], bucket[1::2], strict=True))
        result: T = entry[0] if self._keys else entry
        return result


def _iterator(
    bucket: Callable[[int], Bucket | None], hashes: list[int], keys: bool
) -> SyncMapIterator[Any]:
    iterator: SyncMapIterator[Any] = object.__new__(SyncMapIterator)
    hashes.reverse()
    iterator._bucket = bucket
    iterator._hashes = hashes
    iterator._keys = keys
    iterator._rest = []
    return iterator


SyncMap._plain = SyncMap
