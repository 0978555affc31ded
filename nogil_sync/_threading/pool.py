"""Pool, pure Python: two stacks of idle items, newest first.

Items that were put since the latest collection are in `fresh`; items that it found idle are in
`stale` (Go's victim cache).  The next collection releases what is still in `stale`, and `fresh`
becomes `stale`.  Both are linked lists, so that each step is a section (see `_common.guard`).
"""

import sys
import time
from collections.abc import Callable
from typing import Any, Generic, SupportsIndex, TypeVar, final

from .._common.guard import Guard, guard_of
from .._common.object import Part, SyncObject, before_init, subscripted, uninitialized, until_init
from .._common.performance import Unraisable
from ._ageing import register
from ._arguments import exact_int

__all__ = ["Pool", "PoolUse"]

T = TypeVar("T")

# If there was no collection for this many seconds, a put counts as one.
_A_WHILE = 60.0


class _Node:
    """An idle item, and the item put before it."""

    __slots__ = ("below", "item")

    def __init__(self, item: Any) -> None:
        self.item: Any = item
        self.below: _Node | None = None


class _Items(Generic[T]):
    """The state of a pool, apart from the public class."""

    __slots__ = (
        "__weakref__",
        "ages",
        "drop",
        "fresh",
        "guard",
        "idle",
        "most",
        "new",
        "reset",
        "since",
        "stale",
        "stale_count",
    )

    def __init__(
        self,
        new: Callable[[], T],
        reset: Callable[[T], object] | None,
        drop: Callable[[T], object] | None,
        most: int,
        ages: bool,
    ) -> None:
        self.new = new
        self.reset = reset
        self.most = most
        self.ages = ages
        self.since = time.monotonic()
        self.fresh: _Node | None = None
        self.stale: _Node | None = None
        self.idle = 0  # the items in both stacks
        self.stale_count = 0
        self.guard: Guard = guard_of(self)
        self.drop = drop  # last: with it, __del__ clears
        if ages:
            register(self)

    def __del__(self) -> None:
        # Without it the list releases them, without a Python frame for each; and an interrupted
        # __init__ has not set it.
        if getattr(self, "drop", None) is not None:
            self.clear()

    def get(self) -> T:
        node = None
        try:
            with self.guard:
                node = self.fresh
                if node is not None:
                    self.fresh = node.below
                    self.idle -= 1
                else:
                    node = self.stale
                    if node is not None:
                        self.stale = node.below
                        self.stale_count -= 1
                        self.idle -= 1
            if node is None:
                return self.new()
            item: T = node.item
            return item
        except BaseException:  # an interrupt: the caller gets no item
            if node is not None:
                self.keep(node)
            raise

    def put(self, item: T) -> None:
        reset = self.reset
        if reset is not None:
            try:
                kept = reset(item) is not False
            except BaseException:
                self.let_go(item)
                raise
            if not kept:
                self.let_go(item)
                return
        if not self.keep(_Node(item)):
            self.let_go(item)
        if self.ages and time.monotonic() - self.since >= _A_WHILE:
            self.collected()

    def keep(self, node: _Node) -> bool:
        with self.guard:
            kept = self.idle < self.most
            if kept:
                node.below = self.fresh
                self.fresh = node
                self.idle += 1
        return kept

    def collected(self) -> None:
        """Begin a new age: what was stale goes."""
        self.since = time.monotonic()
        with self.guard:
            old = self.stale
            self.stale = self.fresh
            self.fresh = None
            self.idle -= self.stale_count
            self.stale_count = self.idle
        self.let_all_go(old)

    def clear(self) -> None:
        with self.guard:
            fresh = self.fresh
            stale = self.stale
            self.fresh = None
            self.stale = None
            self.stale_count = 0
            self.idle = 0
        self.let_all_go(fresh)
        self.let_all_go(stale)

    def let_all_go(self, node: _Node | None) -> None:
        while node is not None:
            item = node.item
            node = node.below
            self.let_go(item)

    def let_go(self, item: T) -> None:
        if self.drop is not None:
            try:
                self.drop(item)
            except BaseException as error:
                Unraisable(error)


_NOTHING: Any = object()


@final
class PoolUse(Part, Generic[T]):
    """What :meth:`Pool.use` returns: a context manager that gets an item and puts it back.

    Entering it twice at once, or leaving it without having entered, is a ``RuntimeError``.

    >>> from nogil_sync import Pool, PoolUse
    >>> lists = Pool(list)
    >>> use: PoolUse[list] = lists.use()
    >>> with use as mine:
    ...     mine
    []
    """

    __module__ = "nogil_sync"
    __slots__ = ("_guard", "_item", "_items")
    _guard: Guard
    _item: Any
    _items: _Items[T]

    def __enter__(self) -> T:
        """Get an item of the pool."""
        if self._item is _NOTHING:
            item = self._items.get()
            with self._guard:
                entered = self._item is _NOTHING
                if entered:
                    self._item = item
            if entered:
                return item
            self._items.keep(_Node(item))  # another thread has entered meanwhile
        raise RuntimeError("already in use: call use() for each with statement")

    def __exit__(self, *exc_info: object) -> None:
        """Put the item back, or drop it if the block raised."""
        with self._guard:
            item = self._item
            self._item = _NOTHING
        if item is _NOTHING:
            raise RuntimeError("not in use")
        if not exc_info or exc_info[0] is None:
            self._items.put(item)
        else:
            self._items.let_go(item)


class Pool(SyncObject, Generic[T]):
    """Idle objects that are reused instead of made anew: buffers, parsers, connections.

    ``get()`` returns an idle item, or ``new()`` if there is none; ``put(item)`` gives it back when
    the work is done. Each item is in one place only: no two threads get the same one. What a
    thread did with an item before it put it is visible to the thread that gets it. (Go's
    ``sync.Pool``.) It does not bound how many items are in use: combine it with a
    :class:`Semaphore` for that.

    `reset`, if given, is called with each item that is put, before anyone else can get it: to
    empty a buffer, say. If it raises, the item is dropped and the error is the caller's; if it
    returns exactly ``False``, the item is dropped: too large to be kept, perhaps.

    `drop`, if given, is called with each item that the pool lets go, never under a lock nor
    inside a callback of the collector: to close a connection, say. That may happen on any
    thread and, as for a finaliser, in the middle of anything else; what it raises is reported
    by ``sys.unraisablehook``. When the pool itself dies, it lets go of all its items. A pool in a
    reference cycle does so once, like a finaliser, when the collector finds it to be garbage and
    all it refers to is still whole: items that finalisers put into it later go without `drop`.

    `max_idle` is how many items are kept at most, in total, exact to within one item a thread;
    what is put beyond is dropped. ``None`` sets no limit, 0 keeps none; a negative number is a
    ``ValueError``.

    With `age`, items that two collections in a row found idle are released, so that a burst
    does not occupy memory for ever. (On standard builds full collections count, and one
    of the smaller ones a second.) Where none happens for a minute, a `put` now and then
    stands in for it. ``age=False`` keeps them.

    In the native backend each thread has items of its own: `get` then `put` on one thread are
    an atomic exchange and a store in its own cache. A thread that has none takes the oldest of
    another's, but leaves alone an item that the other thread is getting and putting back just
    then, and makes its own instead: so threads that are busy do not take turns with too few
    items. Items of finished threads stay available. `new`, `reset` and `drop` may use the pool
    themselves. An item must not be used any more once it was put, nor be put twice: the pool
    would hand it out twice.

    >>> from nogil_sync import Pool
    >>> buffers: Pool[bytearray] = Pool(bytearray, reset=bytearray.clear, max_idle=100)
    >>> with buffers.use() as buffer:
    ...     buffer += b"message"
    ...     len(buffer)
    7
    >>> buffers.idle()
    1
    >>> buffers.get()
    bytearray(b'')
    """

    __module__ = "nogil_sync"
    __slots__ = ("__items",)

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.__items: _Items[T] = until_init(self)

    def __init__(
        self,
        new: Callable[[], T],
        *,
        reset: Callable[[T], object] | None = None,
        drop: Callable[[T], object] | None = None,
        max_idle: SupportsIndex | None = None,
        age: bool = True,
    ) -> None:
        if not callable(new):
            raise TypeError("new must be callable")
        for name, function in (("reset", reset), ("drop", drop)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable or None")
        most = sys.maxsize if max_idle is None else exact_int(max_idle)
        if most < 0:
            raise ValueError("max_idle must be >= 0")
        ages = bool(age)
        items = _Items(new, reset, drop, most, ages)
        super().__init__()
        self.__items = items

    def __repr__(self) -> str:
        items = self.__items
        if before_init(items):
            return uninitialized(self)
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {items.idle} idle>"

    def get(self) -> T:
        """Return an idle item, or the result of ``new()``.

        This thread's newest item if it has any, else the oldest of another thread's. None that
        lies idle during the whole call is overlooked. (The threading backend keeps them all in
        one place.) Does not wait. An exception of `new` is the caller's, and leaves the pool as
        it was.

        >>> from nogil_sync import Pool
        >>> lists = Pool(list)
        >>> lists.get()
        []
        """
        return self.__items.get()

    def put(self, item: T) -> None:
        """Give `item` back, to be got by any thread.

        `reset` runs first; see the class for what it may do. Any object is accepted, also one
        that was not got here.

        >>> from nogil_sync import Pool
        >>> lists = Pool(list, reset=list.clear)
        >>> lists.put([1, 2])
        >>> lists.get()
        []
        """
        self.__items.put(item)

    def use(self) -> PoolUse[T]:
        """Return a context manager: a ``with`` statement that gets an item and puts it back.

        If the body raises, the item is dropped, without `reset`: who knows its state. Each
        call serves one ``with`` statement at a time; entering it twice at once is a
        ``RuntimeError``.

        >>> from nogil_sync import Pool
        >>> lists = Pool(list, reset=list.clear)
        >>> with lists.use() as mine:
        ...     mine.append(1)
        >>> lists.idle()
        1
        """
        items = self.__items
        items.guard  # noqa: B018  (an error before __init__)
        use: PoolUse[T] = object.__new__(PoolUse)
        use._items = items
        use._item = _NOTHING
        use._guard = guard_of(use)
        return use

    def clear(self) -> None:
        """Let go of all idle items.

        Those that other threads put at the same time may stay.

        >>> from nogil_sync import Pool
        >>> lists = Pool(list)
        >>> lists.put([])
        >>> lists.clear()
        >>> lists.idle()
        0
        """
        self.__items.clear()

    def idle(self) -> int:
        """How many items are idle: exact when no other thread is using the pool."""
        return self.__items.idle
