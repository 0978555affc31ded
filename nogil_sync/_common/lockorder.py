"""In which order threads take locks: `record_lock_order`.

While it records, the methods of the locks' classes are Python functions that note what they do; at
all other times they are what they are, so that nothing is paid for it.  (As Linux's lockdep, which
also keeps a graph of which lock was taken while which was held, and looks for a circle whenever it
gets a new edge, before the lock is taken: an inversion shows even if the threads never meet.)

A lock that a thread other than its holder releases is left out from then on.  An attempt that does
not wait for ever adds no edge, because it cannot be part of a deadlock.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import FrameType, TracebackType
from typing import Any, Self
from weakref import ref

from .. import _backend
from .frames import Line, lines_from
from .originals import local
from .wait import name_of_object
from .waiting import summary


class LockOrderWarning(RuntimeWarning):
    """Two locks are taken in one order here and in the other order there."""

    __module__ = "nogil_sync.diagnostics"


class _Lock:
    """What is known of one lock."""

    __slots__ = ("after", "before", "foreign", "ref")

    def __init__(self, obj: object, gone: Callable[[Any], object]) -> None:
        self.ref = ref(obj, gone)
        self.foreign = False
        # The locks that were taken while this was held, and where. Not by their addresses: a new
        # lock may have that of a freed one.
        self.after: dict[_Lock, tuple[Line, ...]] = {}
        self.before: set[_Lock] = set()  # those that have this in `after`

    def forget(self) -> None:
        """The lock is gone."""
        for each in list(self.before):
            each.after.pop(self, None)
        for each in list(self.after):
            each.before.discard(self)


class _Thread(local):
    def __init__(self) -> None:
        self.held: list[tuple[int, object]] = []
        self.busy = False  # in a wrapper: an inner one notes nothing


_CLASSES = ("Mutex", "RLock", "RWMutexReader", "RWMutexWriter")
_recordings: "list[LockOrder]" = []  # the one that is under way, or none


class LockOrder:
    """A recording of the order in which locks are taken, made by :func:`record_lock_order`.

    A context manager that stops the recording when it is left. `inversions` lists the texts of
    the warnings so far.
    """

    __module__ = "nogil_sync.diagnostics"

    def __init__(self) -> None:
        self.inversions: list[str] = []
        self.__locks: dict[int, _Lock] = {}
        self.__thread = _Thread()
        self.__told: set[frozenset[_Lock]] = set()
        self.__originals: list[tuple[type, str, Any]] = []

    def __enter__(self) -> Self:
        """Return the recording, which has begun already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """Stop recording. To stop once more does nothing."""
        if self in _recordings:
            _recordings.remove(self)
            for cls, name, original in self.__originals:
                _put(cls, name, original)

    def _start(self) -> None:
        for name in _CLASSES:
            cls = getattr(_backend, name)
            for method in ("acquire", "__enter__"):
                self.__replace(cls, method, self.__taking)
            for method in ("release", "__exit__"):
                self.__replace(cls, method, self.__releasing)

    def __replace(self, cls: type, name: str, wrap: Callable[[Any], Any]) -> None:
        original = vars(cls)[name]
        self.__originals.append((cls, name, original))
        wrapper = wrap(original)
        wrapper.__name__ = name
        wrapper.__qualname__ = f"{cls.__name__}.{name}"
        wrapper.__module__ = "nogil_sync"
        wrapper.__doc__ = original.__doc__
        _put(cls, name, wrapper)

    def __taking(self, original: Any) -> Any:
        def take(self_: Any, *args: Any, **kwargs: Any) -> Any:
            thread = self.__thread
            if thread.busy or self not in _recordings:
                return original(self_, *args, **kwargs)
            thread.busy = True
            try:
                if _waits_for_ever(*args, **kwargs):
                    self.__before(self_, sys._getframe(1))
                taken = original(self_, *args, **kwargs)
                if taken:
                    thread.held.append((id(self_), self_))
            finally:
                thread.busy = False
            return taken

        return take

    def __releasing(self, original: Any) -> Any:
        def let_go(self_: Any, *args: Any, **kwargs: Any) -> Any:
            thread = self.__thread
            if thread.busy or self not in _recordings:
                return original(self_, *args, **kwargs)
            thread.busy = True
            try:
                result = original(self_, *args, **kwargs)
                self.__after_release(self_)
            finally:
                thread.busy = False
            return result

        return let_go

    def __after_release(self, obj: object) -> None:
        held = self.__thread.held
        for index in range(len(held) - 1, -1, -1):
            if held[index][0] == id(obj):
                del held[index]
                return
        self.__lock(obj).foreign = True  # another thread took it, or it was taken before

    def __lock(self, obj: object) -> _Lock:
        key = id(obj)
        lock = self.__locks.get(key)
        if lock is None or lock.ref() is not obj:
            lock = self.__locks[key] = _Lock(obj, partial(self.__gone, key))
        return lock

    def __gone(self, key: int, gone: "ref[Any]") -> None:
        lock = self.__locks.get(key)
        if lock is not None and lock.ref is gone:
            del self.__locks[key]
            lock.forget()

    def __before(self, obj: object, frame: FrameType) -> None:
        """Note the edges from all locks that the thread holds to this one."""
        held = self.__thread.held
        key = id(obj)
        if not held or any(each == key for each, _ in held):
            return
        mine = self.__lock(obj)
        for _, other in held:
            lock = self.__lock(other)
            if lock.foreign or mine.foreign or mine in lock.after:
                continue
            lines = tuple(lines_from(frame))
            way = _way(mine, lock)
            if way:
                self.__tell(way, lines)
            lock.after[mine] = lines
            mine.before.add(lock)

    def __tell(self, way: list[_Lock], lines: tuple[Line, ...]) -> None:
        """Tell that the first lock of the way is taken here while the last one is held."""
        pair = frozenset((way[0], way[-1]))
        if pair in self.__told:
            return
        self.__told.add(pair)
        parts = [
            f"{_text(way[0])} is taken while {_text(way[-1])} is held:\n",
            *summary(lines).format(),
        ]
        for first, second in pairwise(way):
            parts.append(f"but {_text(second)} while {_text(first)} is held:\n")
            parts.extend(summary(first.after.get(second, ())).format())
        text = "locks in different orders, which can deadlock: " + "".join(parts).rstrip("\n")
        self.inversions.append(text)
        warnings.warn(text, LockOrderWarning, stacklevel=4)


def _way(start: _Lock, goal: _Lock) -> list[_Lock]:
    """The locks from start to goal, each taken while the one before it was held; or none."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop()
        if way[-1].foreign:
            continue
        for after in list(way[-1].after):
            if after is goal:
                return [*way, after]
            if after not in seen and after.ref() is not None:
                seen.add(after)
                ways.append([*way, after])
    return []


def _text(lock: _Lock) -> str:
    obj = lock.ref()
    return "a lock" if obj is None else name_of_object(obj)


def _waits_for_ever(blocking: object = True, timeout: object = -1) -> bool:
    return bool(blocking) and timeout in (-1, None)


def _put(cls: type, name: str, value: Any) -> None:
    put = getattr(_backend, "put", None)  # the extension's: some of its types are immutable
    if put is None:
        setattr(cls, name, value)
    else:
        put(cls, name, value)


def record_lock_order() -> LockOrder:
    """Record in which order threads take locks, and warn of orders that could deadlock.

    From here until the result's :meth:`LockOrder.stop`, or the end of its ``with`` block, each
    acquire of a Mutex, an RLock or a side of an RWMutex notes which of these locks the thread
    holds. If a lock is about to be taken while another is held, and ever the other, directly or
    through further locks, while the first was held, that is a :class:`LockOrderWarning` with the
    places of both, once for each pair of locks. The threads need not meet, so a single run of the
    tests tells of deadlocks that a program would meet once in a year.

    Attempts with a time-out add nothing, and a lock that a thread releases which did not take it
    is left out. ``RuntimeError`` if a recording is under way. It makes taking a lock several times
    as slow, and is for tests: a Ctrl-C in the middle of an acquire may leave the lock taken.

    >>> import warnings
    >>> from nogil_sync import Mutex
    >>> from nogil_sync.diagnostics import label, record_lock_order
    >>> a, b = Mutex(), Mutex()
    >>> label(a, "a"), label(b, "b")
    (None, None)
    >>> with warnings.catch_warnings(), record_lock_order() as order:
    ...     warnings.simplefilter("ignore")
    ...     with a, b:
    ...         pass
    ...     with b, a:
    ...         pass
    >>> order.inversions[0].partition(":")[0]
    'locks in different orders, which can deadlock'
    """
    if _recordings:
        raise RuntimeError("a recording of the lock order is under way")
    order = LockOrder()
    _recordings.append(order)
    order._start()
    return order
