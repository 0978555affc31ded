"""Cache, pure Python: entries in buckets, as in `syncmap`, and in the queues of the policy.

An *entry* belongs to one key, and its key, value, weight and deadline never change: a new value is
a new entry, which takes over the old one's place. So a reader that has fetched an entry has a value
and the deadline that belongs to it.

**Policy.** After S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
2023). A new key enters the small queue. An entry that was used there moves to the main queue, one
that was not used is evicted, and its hash remembered among the *ghosts*; one whose hash is a ghost
came *back*, and may move as well. Entries of the main queue that were used since they were last
looked at go round once more. A hit only counts its entry's uses, up to three. Two changes make
loops and scans harmless, and let new favourites displace old ones:

- A candidate for a full main queue *duels* with the oldest entries there (the admission of TinyLFU,
  Einziger, Friedman and Manes 2017, with the entries' own counts of uses), as often as its own uses
  say, and replaces the first that was not used. Each other one goes round with half of its uses.
- Entries come to the main queue with one use. Else a loop would evict each before it is wanted.

While the main queue has room, as many candidates in a row as there are entries may have no use: in
a long loop, for instance. Then more of them move to the main queue, and stay there.

A queue is a dict from *tickets* to entries. Tickets only grow, so the lowest one is the oldest
entry, and an entry anywhere in the queue can be removed in one step.

**Sections.** A change computes the next bucket in ordinary code, and installs it in a section (see
`_common.guard`) if the bucket it started from is still there. The same section changes the queue
and the total weight. So a cache is never above its limit: a thread that wants to insert an entry
first evicts others, and inserts only where there is room.

**Time.** Entries with a deadline are also in a timing wheel (Varghese and Lauck, SOSP 1987) of five
levels. A *slot* of it is a dict of the entries whose deadlines lie in one tick of its level. Each
insertion removes the entries of the slots that are over, or moves them to a lower level. The same
section that puts an entry into a queue, or takes it out, does so with the wheel.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, TypeVarTuple, overload

from .._common.cache import (
    NEVER,
    CacheStats,
    SharedCache,
    check_callable,
    check_maxsize,
    clock_nanoseconds,
    load,
    report,
    ttl_nanoseconds,
)
from .._common.guard import Guard, guard_of
from .._common.mapping import NO_DEFAULT
from .._common.object import SyncObject, before_init, uninitialized, until_init
from .._common.once import ABSENT
from ._arguments import exact_int, wait_timeout
from .atomics import AtomicBool
from .syncmap import SyncMap

__all__ = ["Cache"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_NONE, _SMALL, _MAIN = 0, 1, 2  # which queue an entry is in; none: it is no longer in the cache
_MAX_USES: Final = 3
_NO_LIMIT: Final = (1 << 63) - 1
_NO_TIME: Final = -(1 << 63)  # the clock was not read, as no entry has a deadline
_MAX_WEIGHT: Final = _NO_LIMIT
_PATIENCE: Final = 64  # so many looks at entries, and the next one is evicted even if it was used

# The wheel: nanoseconds of a tick, as shifts, by level.
_SHIFTS: Final = (24, 30, 36, 42, 48)
_SPAN: Final = 6  # a level has 2**6 ticks before the next level's begin

# The share of the small queue begins at a tenth of the limit, and moves between two bounds.
_AT_FIRST, _MIN_SHARE, _MAX_SHARE, _STEP = 10, 20, 5, 64
_JUST_EVICTED: Final = 50  # the newest ghosts of a queue: for so many entries, one
# In how many duels a candidate may look for a victim: if it is new, or came back; by its uses.
_DUELS: Final = ((0, 4, 8, 8), (1, 8, 8, 8))


class _Entry:
    """A key and its value. `queue`, `ticket` and `uses` change in sections only."""

    __slots__ = (
        *("back", "deadline", "key", "queue", "slot"),
        *("ticket", "uses", "value", "weight", "which"),
    )

    def __init__(self, which: int, key: Any, value: Any, weight: int, deadline: int) -> None:
        self.which = which  # the key's hash
        self.key = key
        self.value = value
        self.weight = weight
        self.deadline = deadline
        self.queue = _NONE
        self.ticket = 0
        self.uses = 0
        self.back = False  # whether its hash was a ghost
        self.slot = -1  # of the wheel; -1: none


Bucket = tuple[_Entry, ...]


class _Table:
    """All that `clear` replaces."""

    __slots__ = (
        "buckets",
        "count",
        "main",
        "main_low",
        "next",
        "small",
        "small_low",
        "small_weight",
        "tick",
        "weight",
        "wheel",
    )

    def __init__(self, tick: int) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.count = 0
        self.weight = 0
        self.small: dict[int, _Entry] = {}
        self.small_weight = 0
        self.main: dict[int, _Entry] = {}
        self.next = 0  # the next ticket
        self.small_low = 0  # no entry of the queue has a lower ticket
        self.main_low = 0
        self.wheel: dict[int, dict[int, _Entry]] = {}  # tick * 8 + level, to entries by id
        self.tick = tick  # of level 0, up to which the wheel has been turned


def _find(bucket: Bucket | None, key: object) -> _Entry | None:
    """The bucket's entry with this key. Runs code of users."""
    if bucket is not None:
        for each in bucket:
            if each.key is key or each.key == key:
                return each
    return None


def _find_again(
    bucket: Bucket | None, key: object, found: object, unequal: dict[int, object]
) -> _Entry | None:
    """As `_find`, without comparing any two keys again (see `syncmap`)."""
    if bucket is None:
        return None
    for each in bucket:
        if each.key is found:
            return each
    for each in bucket:
        if each.key is key or (id(each.key) not in unequal and each.key == key):
            return each
        unequal[id(each.key)] = each.key
    return None


def _without(bucket: Bucket, entry: _Entry) -> Bucket | None:
    return tuple(each for each in bucket if each is not entry) or None


class Cache(SyncObject, SharedCache[K, V]):
    """A bounded map for many threads: what ``functools.lru_cache`` is for functions, for data.

    `maxsize` is the number of entries that it keeps at most; ``None`` sets no limit, and 0 keeps
    nothing. An entry that is inserted into a full cache evicts another one: those go first that
    were not used, or least. Keys are hashable, compared by ``is`` or ``==``.

    >>> from nogil_sync import Cache
    >>> users = Cache(10_000, ttl=300)
    >>> users.load_or_compute("ann", str.upper, "ann")
    'ANN'
    >>> users["ann"], users.get("bob"), len(users)
    ('ANN', None, 1)

    `ttl`, in seconds, is how long an entry lives from when it was stored; ``None`` is for ever, and
    :meth:`put` sets it for one entry. An expired entry is never returned. Its memory is freed by
    later calls that store something: there is no thread. `clock` is a function that returns the
    time in seconds, in place of ``time.monotonic``: for tests.

    `weigher`, if given, is called as ``weigher(key, value)`` before an entry is stored, and returns
    its weight, an int that is not negative. `maxsize` is then the sum of the weights, and an entry
    that weighs more than that is not kept.

    `on_evict`, if given, is called as ``on_evict(key, value, cause)`` for each entry that the cache
    lets go by itself: `cause` is ``"size"`` or ``"expired"``. It is called by the thread whose call
    has caused it, after the change and under no lock, and may use the cache. What it raises goes
    to ``sys.unraisablehook``. It is not called for what the program deletes or replaces.

    **Never more than maxsize.** A thread makes room before it inserts, so a call of another thread
    does not find more than `maxsize` entries either.

    **Cost.** In the native backend a hit takes no lock and writes to no shared memory except the
    reference count of the value, and the entry's count of uses until that has reached three.
    Whatever stores or deletes an entry takes one lock of the cache for a moment. Without a `ttl` no
    clock is read.

    **Which entry is evicted.** S3-FIFO (Yang et al., SOSP 2023), with an admission as TinyLFU's: a
    scan over many keys, each used once, does not displace what is used often. How many places are
    for new entries follows what is asked for again just after its eviction.

    **Atomicity.** Operations on one key are atomic and sequentially consistent. ``len``, iteration
    and :meth:`clear` go entry by entry. Keys, values and functions given to a method are used
    under no lock: ``__hash__``, ``__eq__``, finalisers, `weigher` and `on_evict` may use the cache,
    block or raise.

    A cache cannot be pickled or copied. In the child of a fork it is intact.
    """

    __module__ = "nogil_sync"
    __slots__ = (
        "__clock",
        "__evictions",
        "__expirations",
        "__failures",
        "__flights",
        "__ghosts",
        "__guard",
        "__hits",
        "__idle",
        "__loads",
        "__maxsize",
        "__misses",
        "__numbers",
        "__on_evict",
        "__share",
        "__table",
        "__ttl",
        "__weigher",
    )

    _Flag = AtomicBool

    def _SyncObject__fill(self) -> None:
        self.__guard: Guard = guard_of(self)
        self.__flights: SyncMap[K, Any] | None = None
        self.__hits = 0
        self.__misses = 0
        self.__loads = 0
        self.__failures = 0
        self.__evictions = 0
        self.__expirations = 0
        self.__maxsize: int | None = None
        self.__ttl = 0
        self.__weigher: Callable[[K, V], int] | None = None
        self.__on_evict: Callable[[K, V, str], object] | None = None
        self.__clock: Callable[[], float] | None = None
        # Hashes, to the eviction's number, the queue, and its number among those of that queue.
        self.__ghosts: dict[int, tuple[int, int, int]] = {}
        self.__numbers = [0, 0, 0]  # of the next eviction, and of the next one from each queue
        self.__share = 1  # of the limit, for the small queue
        self.__idle = 0  # candidates in a row that had no use, while the main queue has room
        self.__table: _Table = until_init(self)

    def __init__(
        self,
        maxsize: int | None,
        *,
        ttl: float | None = None,
        weigher: "Callable[[K, V], int] | None" = None,
        on_evict: "Callable[[K, V, str], object] | None" = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        limit = check_maxsize(maxsize)
        time_to_live = ttl_nanoseconds(ttl)
        check_callable("weigher", weigher)
        check_callable("on_evict", on_evict)
        check_callable("clock", clock)
        table = _Table(0)
        super().__init__()
        self.__maxsize = limit
        self.__share = 1 if limit is None else max(1, limit // _AT_FIRST)
        self.__ttl = time_to_live
        self.__weigher = weigher
        self.__on_evict = on_evict
        self.__clock = clock
        self.__table = table

    def __repr__(self) -> str:
        if before_init(self.__table):
            return uninitialized(self)
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, "
            f"{Cache.__len__(self)} entries, maxsize={self.__maxsize}>"
        )

    # Lookups

    def __getitem__(self, key: K, /) -> V:
        """Return the value of the key; ``KeyError`` if there is none, or it has expired."""
        value = self.__lookup(key)
        if value is ABSENT:
            raise KeyError(key)
        found: V = value
        return found

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    @overload
    def get(self, key: K, default: T) -> V | T: ...
    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if the key is missing or has expired."""
        value = self.__lookup(key)
        return default if value is ABSENT else value

    def __contains__(self, key: object, /) -> bool:
        """Whether the cache has the key. Does not count as a use of it."""
        return self._peek(key, ABSENT) is not ABSENT

    def __len__(self) -> int:
        """How many entries there are.

        It may count entries that have expired within the last 17 ms.
        """
        table = self.__table
        table.count  # noqa: B018  (an error before __init__)
        self.__expire()
        return self.__table.count

    def __iter__(self) -> Iterator[K]:
        """Return an iterator over the keys that are there now, in no particular order.

        It is an iterator over a list, so what changes later does not change it.
        """
        buckets = self.__table.buckets
        now = self.__now() if self.__table.wheel else _NO_TIME
        entries = [each for bucket in list(buckets.values()) for each in bucket]
        return iter([each.key for each in entries if each.deadline > now])

    # Changes

    def __setitem__(self, key: K, value: V, /) -> None:
        """Set the value of the key, which lives as long as the cache's `ttl` says."""
        self.__put(key, value, self.__ttl)

    @overload
    def put(self, key: K, value: V) -> None: ...
    @overload
    def put(self, key: K, value: V, ttl: float | None) -> None: ...
    def put(self, key: Any, value: Any, ttl: Any = NO_DEFAULT) -> None:
        """Set the value of `key`, with a time to live of its own.

        `ttl` is in seconds; ``None`` is for ever, and the default is the cache's. One that is not
        positive, or NaN, is a ``ValueError``. Each store restarts the time.

        >>> from nogil_sync import Cache
        >>> tokens = Cache(1000, ttl=3600)
        >>> tokens.put("ann", "secret", ttl=60)
        >>> tokens["ann"]
        'secret'
        """
        self.__put(key, value, self.__ttl if ttl is NO_DEFAULT else ttl_nanoseconds(ttl))

    def __delitem__(self, key: K, /) -> None:
        """Remove the key; ``KeyError`` if there is none."""
        if self.__take(key) is ABSENT:
            raise KeyError(key)

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V) -> V: ...
    @overload
    def pop(self, key: K, default: T) -> V | T: ...
    def pop(self, key: Any, default: Any = NO_DEFAULT) -> Any:
        """Delete `key` and return its value.

        Return `default` if it is missing, which without a default is a ``KeyError``. Of several
        threads one gets the value. A load of the key that is under way goes on detached: its
        callers get their value, and it is not stored.

        >>> from nogil_sync import Cache
        >>> prices = Cache(100)
        >>> prices["fig"] = 3
        >>> prices.pop("fig"), prices.pop("fig", None)
        (3, None)
        """
        value = self.__take(key)
        if value is not ABSENT:
            return value
        if default is NO_DEFAULT:
            raise KeyError(key)
        return default

    def clear(self) -> None:
        """Delete all entries, and detach all loads. The counts of :meth:`stats` stay.

        What others insert meanwhile may remain or go.
        """
        table = self.__table
        table.count  # noqa: B018  (an error before __init__)
        flights = self.__flights
        if flights is not None:
            self.__detach_all(flights)
        new = _Table(table.tick)
        with self.__guard:
            table = self.__table
            self.__table = new
        del table  # here: with it go the entries, whose finalisers may use the cache

    def load_or_compute(
        self, key: K, fn: Callable[[*Ts], V], /, *args: *Ts, timeout: float | None = None
    ) -> V:
        """Return the value of `key`; if it is missing, store and return ``fn(*args)``.

        At most one thread at a time computes the value of a key; others that ask for it meanwhile
        wait, and get the same value. The rules are those of :meth:`SyncMap.load_or_compute`: what
        is stored meanwhile wins; what is deleted meanwhile is not stored; an ``Exception`` reaches
        all who waited, and is not kept; a call that would wait for itself is a ``RuntimeError``.
        `timeout` bounds the wait for another thread's call, in seconds (``TimeoutError``).

        >>> from nogil_sync import Cache
        >>> squares = Cache(100)
        >>> squares.load_or_compute(12, pow, 12, 2)
        144
        """
        seconds = wait_timeout(timeout)
        value = self.__lookup(key)
        if value is ABSENT:
            value = load(self, key, fn, args, seconds)
        found: V = value
        return found

    def stats(self) -> CacheStats:
        """Return what the cache has done so far, as a :class:`CacheStats`, and its weight.

        Each number is exact once the others are quiet.
        """
        return CacheStats(
            self.__hits,
            self.__misses,
            self.__loads,
            self.__failures,
            self.__evictions,
            self.__expirations,
            self.__table.weight,
        )

    def __sizeof__(self) -> int:
        """Return the size in bytes, without keys and values."""
        table = self.__table
        entry = object.__sizeof__(_Entry(0, 0, 0, 0, 0)) + 64
        return (
            object.__sizeof__(self)
            + table.buckets.__sizeof__()
            + table.small.__sizeof__()
            + table.main.__sizeof__()
            + table.count * entry
        )

    # How it is done: time

    def __now(self) -> int:
        clock = self.__clock
        return time.monotonic_ns() if clock is None else clock_nanoseconds(clock())

    def __expire(self) -> None:
        """Remove the entries that have expired since the wheel was last turned."""
        table = self.__table
        if not table.wheel:
            return
        self.__expire_by(table, self.__now())

    def __expire_by(self, table: _Table, now: int) -> None:
        tick = now >> _SHIFTS[0]
        if tick == table.tick:
            return
        table.tick = tick  # perhaps an earlier one: a clock can be set back
        gone: list[tuple[Any, Any, str]] = []
        try:
            for slot in list(table.wheel):
                if slot >> 3 <= now >> _SHIFTS[slot & 7]:
                    self.__turn(table, slot, now, gone)
        finally:
            self.__report(gone)

    def __turn(self, table: _Table, slot: int, now: int, gone: list[tuple[Any, Any, str]]) -> None:
        """Remove what has expired of this slot, and move the rest to where it belongs now."""
        entries = table.wheel.get(slot, {})
        for entry in list(entries.values()):
            if entry.deadline > now:
                self.__reschedule(table, entry, now)
            elif not self.__remove(table, entry, "expired", gone):
                number = id(entry)
                with self.__guard:  # its insertion may have failed for lack of memory
                    if entry.queue == _NONE and number in entries:
                        del entries[number]
        wheel = table.wheel
        with self.__guard:
            if not entries and slot in wheel and wheel[slot] is entries:
                del wheel[slot]

    @staticmethod
    def __slot(deadline: int, now: int) -> int:
        """Where the wheel has an entry with this deadline, which is not over."""
        rest = deadline - now
        level = 0
        while level < 4 and rest >> _SHIFTS[level + 1]:
            level += 1
        return (deadline >> _SHIFTS[level]) << 3 | level

    def __reschedule(self, table: _Table, entry: _Entry, now: int) -> None:
        """Move the entry to a lower level of the wheel, if it is time."""
        slot = self.__slot(entry.deadline, now)
        number = id(entry)
        fresh: dict[int, _Entry] = {}
        wheel = table.wheel
        with self.__guard:
            before = entry.slot
            if slot != before and entry.queue != _NONE:
                entries = wheel[slot] if slot in wheel else fresh  # noqa: SIM401
                entries[number] = entry
                wheel[slot] = entries
                entry.slot = slot
                if before in wheel:
                    entries = wheel[before]
                    if number in entries:
                        del entries[number]

    # How it is done: lookups

    def __lookup(self, key: Any) -> Any:
        """The value of the key, or ABSENT. Counts."""
        entry = _find(self.__table.buckets.get(hash(key)), key)
        if entry is not None:
            if entry.deadline == NEVER or entry.deadline > self.__now():
                with self.__guard:
                    self.__hits += 1
                    if entry.uses < _MAX_USES:
                        entry.uses += 1
                return entry.value
            self.__remove_expired(entry)
        with self.__guard:
            self.__misses += 1
        return ABSENT

    def _peek(self, key: object, default: Any) -> Any:
        """The value of the key, or the default. Counts nothing."""
        entry = _find(self.__table.buckets.get(hash(key)), key)
        if entry is None:
            return default
        if entry.deadline != NEVER and entry.deadline <= self.__now():
            self.__remove_expired(entry)
            return default
        return entry.value

    def __remove_expired(self, entry: _Entry) -> None:
        gone: list[tuple[Any, Any, str]] = []
        self.__remove(self.__table, entry, "expired", gone)
        self.__report(gone)

    def __report(self, gone: list[tuple[Any, Any, str]]) -> None:
        if gone and self.__on_evict is not None:
            report(self.__on_evict, gone)

    # How it is done: edits

    def __put(self, key: Any, value: Any, ttl: int) -> None:
        self.__store(key, value, ttl, None)

    def __store(self, key: Any, value: Any, ttl: int, unless: AtomicBool | None) -> Any:
        """Store the value; with the flag `unless`, only if the key is missing and the flag not set.

        Returns the value that was present, if that kept the new one out. Else returns `value`, even
        if it was not stored: because the flag is set, or because the value is too heavy.
        """
        which = hash(key)
        weight = 1
        if self.__weigher is not None:
            weight = exact_int(self.__weigher(key, value))
            if weight < 0:
                raise ValueError("weight must not be negative")
            if weight >= _MAX_WEIGHT:
                raise OverflowError("weight is too large")
        table = self.__table
        now = self.__now() if ttl or table.wheel else _NO_TIME
        if table.wheel:
            self.__expire_by(table, now)
        limit = _NO_LIMIT if self.__maxsize is None else self.__maxsize
        flights = self.__flights
        overtaken: AtomicBool | None = None
        if unless is None and flights is not None:
            if weight > limit:
                # It deletes the key: a load must not bring back what was there before.
                self.__detach(flights, key)
            else:
                # Nor may a load bring back something older once this value is evicted.
                flight = flights.get(key)
                overtaken = None if flight is None else flight.detached
        deadline = min(now + ttl, NEVER - 1) if ttl else NEVER
        new = _Entry(which, key, value, weight, deadline)
        if ttl:
            new.slot = self.__slot(deadline, now)
        gone: list[tuple[Any, Any, str]] = []
        try:
            table = self.__table
            bucket = table.buckets.get(which)
            old = _find(bucket, key)
            unequal: dict[int, object] = {}
            while True:
                if unless is not None:
                    if old is not None and old.deadline > now:
                        return old.value
                    if unless.load():
                        return value
                if weight > limit:
                    if old is None or self.__remove(table, old, "", []):
                        with self.__guard:
                            self.__evictions += 1
                        gone.append((key, value, "size"))
                        return value
                elif self.__room(table, weight, old, limit, gone):
                    new.key = key if old is None else old.key  # the first one stays, as in a dict
                    if self.__install(table, bucket, old, new, (unless, overtaken)):
                        return value
                if bucket is not None:
                    for each in bucket:
                        if each is old:
                            break
                        unequal[id(each.key)] = each.key
                table = self.__table
                bucket = table.buckets.get(which)
                old = _find_again(bucket, key, ABSENT if old is None else old.key, unequal)
        finally:
            self.__report(gone)

    def __install(
        self,
        table: _Table,
        bucket: Bucket | None,
        old: _Entry | None,
        new: _Entry,
        flags: tuple[AtomicBool | None, AtomicBool | None],
    ) -> bool:
        """Store the new entry in place of the old one, or as a new one, if that fits; whether.

        The first flag, if it is set, forbids it. The second is set in the same step.
        """
        unless, overtaken = flags
        limit = _NO_LIMIT if self.__maxsize is None else self.__maxsize
        which = new.which
        if bucket is None:
            next_bucket: Bucket = (new,)
        elif old is None:
            next_bucket = (*bucket, new)
        else:
            next_bucket = tuple(new if each is old else each for each in bucket)
        back = new.back = which in self.__ghosts if old is None else old.back
        number = id(new)
        number_of_old = id(old)
        fresh: dict[int, _Entry] = {}
        wheel = table.wheel
        done = False
        with self.__guard:
            # What may fail for lack of memory comes first: numbers, and then the stores to dicts.
            buckets = table.buckets
            current = buckets[which] if which in buckets else None  # noqa: SIM401
            weight = table.weight + new.weight
            small_weight = table.small_weight
            count = table.count
            ticket = table.next
            next_ticket = ticket + 1
            place = _SMALL
            uses = 0
            if old is None:
                small_weight += new.weight
                count += 1
            else:
                weight -= old.weight
                place = old.queue
                ticket = old.ticket
                next_ticket = table.next
                uses = old.uses + 1 if old.uses < _MAX_USES else old.uses
                if place == _SMALL:
                    small_weight += new.weight - old.weight
            queue = table.small if place == _SMALL else table.main
            if (
                self.__table is table
                and current is bucket
                and weight <= limit
                and (unless is None or not unless._AtomicBool__value)  # type: ignore[attr-defined]
            ):
                if new.slot != -1:
                    slot = new.slot
                    entries = wheel[slot] if slot in wheel else fresh  # noqa: SIM401
                    entries[number] = new
                    wheel[slot] = entries
                queue[ticket] = new
                buckets[which] = next_bucket
                new.queue = place
                new.ticket = ticket
                new.uses = uses
                if old is not None:
                    old.queue = _NONE
                    slot = old.slot
                    if slot in wheel:
                        entries = wheel[slot]
                        if number_of_old in entries:
                            del entries[number_of_old]
                table.next = next_ticket
                table.small_weight = small_weight
                table.weight = weight
                table.count = count
                if overtaken is not None:
                    overtaken._AtomicBool__value = True  # type: ignore[attr-defined]
                done = True
        if done and back and old is None:
            self.__adapt(self.__ghosts.pop(which, None), limit, count - 1)
        return done

    def __remove(
        self, table: _Table, entry: _Entry, cause: str, gone: list[tuple[Any, Any, str]]
    ) -> bool:
        """Remove this very entry. Returns whether it was there. Runs no code of users."""
        which = entry.which
        while entry.queue != _NONE:
            bucket = table.buckets.get(which)
            if bucket is None or self.__table is not table or entry not in bucket:
                return False
            new = _without(bucket, entry)
            number = id(entry)
            wheel = table.wheel
            done = False
            with self.__guard:
                buckets = table.buckets
                current = buckets[which] if which in buckets else None  # noqa: SIM401
                if self.__table is table and current is bucket:
                    ticket = entry.ticket
                    small_weight = table.small_weight
                    queue = table.main
                    if entry.queue == _SMALL:
                        small_weight -= entry.weight
                        queue = table.small
                    weight = table.weight - entry.weight
                    count = table.count - 1
                    evictions = self.__evictions
                    expirations = self.__expirations
                    if cause == "size":
                        evictions += 1
                    elif cause == "expired":
                        expirations += 1
                    if new is None:
                        del buckets[which]
                    else:
                        buckets[which] = new
                    del queue[ticket]
                    slot = entry.slot
                    if slot in wheel:
                        entries = wheel[slot]
                        if number in entries:
                            del entries[number]
                    entry.queue = _NONE
                    table.small_weight = small_weight
                    table.weight = weight
                    table.count = count
                    self.__evictions = evictions
                    self.__expirations = expirations
                    done = True
            if done:
                if cause:
                    gone.append((entry.key, entry.value, cause))
                return True
        return False

    def __take(self, key: Any) -> Any:
        """Remove the key; return its value, or ABSENT."""
        which = hash(key)
        flights = self.__flights
        if flights is not None:
            self.__detach(flights, key)
        now: int | None = None  # read once: the clock may change the entry each time
        while True:
            table = self.__table
            entry = _find(table.buckets.get(which), key)
            if entry is None:
                return ABSENT
            if entry.deadline != NEVER:
                if now is None:
                    now = self.__now()
                if entry.deadline <= now:
                    self.__remove_expired(entry)
                    return ABSENT
            if self.__remove(table, entry, "", []):
                return entry.value

    # How it is done: eviction

    def __room(
        self,
        table: _Table,
        weight: int,
        old: _Entry | None,
        limit: int,
        gone: list[tuple[Any, Any, str]],
    ) -> bool:
        """Evict until an entry of this weight fits in place of the old one. False: look again."""
        for steps in range(1 << 30):
            more = weight - old.weight if old is not None and old.queue != _NONE else weight
            if table.weight + more <= limit:
                return True
            if self.__table is not table or (old is not None and old.queue == _NONE):
                return False
            self.__evict(table, weight, limit, steps >= _PATIENCE, gone)
        return False

    def __evict(
        self, table: _Table, weight: int, limit: int, now: bool, gone: list[tuple[Any, Any, str]]
    ) -> None:
        """Evict an entry, or move one, or lower its count of uses."""
        share = self.__share
        candidate = self.__oldest(table, _SMALL)
        hand = self.__oldest(table, _MAIN)
        if candidate is not None and (hand is None or table.small_weight + weight > share):
            room = limit - share - (table.weight - table.small_weight)
            self.__judge(table, candidate, room, now, gone)
        elif hand is not None:
            if hand.uses == 0 or now:
                self.__evict_entry(table, hand, gone)
            else:
                self.__move(table, hand, _MAIN, hand.uses // 2)

    def __judge(
        self,
        table: _Table,
        candidate: _Entry,
        room: int,
        now: bool,
        gone: list[tuple[Any, Any, str]],
    ) -> None:
        """Decide about the oldest entry of the small queue.

        It is evicted, or replaces an entry of the main queue, or goes round again with one use
        less. `room` is how much more fits into the main queue.
        """
        uses = candidate.uses
        if candidate.weight <= room:
            idle = self.__idle = 0 if candidate.back or uses else self.__idle + 1
            if candidate.back or uses >= 2 or (idle > table.count and not now):
                self.__move(table, candidate, _MAIN, 1)
                return
        for _ in range(0 if now else _DUELS[candidate.back][uses]):
            hand = self.__oldest(table, _MAIN)
            if hand is None:
                break
            if hand.uses == 0:
                self.__evict_entry(table, hand, gone)
                self.__move(table, candidate, _MAIN, 1)
                return
            self.__move(table, hand, _MAIN, hand.uses // 2)
        if uses >= 2 and not now:
            self.__move(table, candidate, _SMALL, uses - 1)
        else:
            self.__evict_entry(table, candidate, gone)

    def __oldest(self, table: _Table, place: int) -> _Entry | None:
        """The oldest entry of the queue."""
        queue = table.small if place == _SMALL else table.main
        ticket = table.small_low if place == _SMALL else table.main_low
        while queue:
            entry = queue.get(ticket)
            if entry is not None and entry.queue != _NONE:
                if place == _SMALL:
                    table.small_low = ticket
                else:
                    table.main_low = ticket
                return entry
            if entry is not None:
                # Its insertion or its move failed for lack of memory; or it has just been replaced,
                # by an entry that has its ticket now; or its insertion was under way. Look again:
                # an entry that this search passed would never be evicted.
                with self.__guard:
                    if entry.queue == _NONE and ticket in queue and queue[ticket] is entry:
                        del queue[ticket]
                continue
            if ticket >= table.next:
                break
            ticket += 1
        return None

    def __move(self, table: _Table, entry: _Entry, to: int, uses: int) -> None:
        """Move the entry to the end of a queue, unless it has left its own meanwhile."""
        before = entry.ticket
        with self.__guard:
            if self.__table is table and entry.queue != _NONE and entry.ticket == before:
                small_weight = table.small_weight
                if entry.queue == _SMALL:
                    small_weight -= entry.weight
                if to == _SMALL:
                    small_weight += entry.weight
                ticket = table.next
                next_ticket = ticket + 1
                queue = table.small if to == _SMALL else table.main
                queue[ticket] = entry
                queue = table.small if entry.queue == _SMALL else table.main
                entry.queue = to
                entry.ticket = ticket
                entry.uses = uses
                table.next = next_ticket
                table.small_weight = small_weight
                ticket = before
                del queue[ticket]

    def __evict_entry(self, table: _Table, entry: _Entry, gone: list[tuple[Any, Any, str]]) -> None:
        place = entry.queue
        if self.__remove(table, entry, "size", gone):
            # Two threads may take the same number: ghosts are hints.
            ghosts, numbers = self.__ghosts, self.__numbers
            number, turn = numbers[0], numbers[place]
            ghosts.pop(entry.which, None)
            ghosts[entry.which] = (number, place, turn)
            numbers[0], numbers[place] = number + 1, turn + 1
            oldest = number + 1 - 2 * table.count
            while ghosts:
                try:
                    which = next(iter(ghosts))
                    ghost = ghosts.get(which)
                    if ghost is not None and ghost[0] >= oldest:
                        break
                    ghosts.pop(which, None)
                except (RuntimeError, StopIteration):
                    break  # another thread changes it

    def __adapt(self, ghost: tuple[int, int, int] | None, limit: int, count: int) -> None:
        """Give the queue more room from which a key came that has only just been evicted."""
        if ghost is None:
            return
        _, place, turn = ghost
        if self.__numbers[place] - turn <= count // _JUST_EVICTED + 1:
            step = max(1, limit // _STEP)
            share = self.__share + (step if place == _SMALL else -step)
            share = min(share, limit - limit // _MAX_SHARE)
            self.__share = max(1, share, limit // _MIN_SHARE)

    # What _common/cache.py calls

    def _loaded(self, failed: bool) -> None:
        with self.__guard:
            if failed:
                self.__failures += 1
            else:
                self.__loads += 1

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
        """Store the value, unless detached or the key is there; return the key's value."""
        result: V = self.__store(key, value, self.__ttl, detached)
        return result

    def __detach(self, flights: "SyncMap[K, Any]", key: K) -> None:
        """Have the flights for this key store nothing. To be called before the key is deleted."""
        flight = flights.get(key)
        if flight is not None:
            flight.detached.store(True)
            flights.compare_and_delete(key, flight)
        # A call that saw the flag unset has stored its value after this.
        with self.__guard:
            pass

    def __detach_all(self, flights: "SyncMap[K, Any]") -> None:
        for key, flight in flights.items():
            flight.detached.store(True)
            flights.compare_and_delete(key, flight)
        with self.__guard:
            pass


Cache._plain_class = Cache
