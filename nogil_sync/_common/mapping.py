"""The parts of SyncMap that both backends share: everything that is not on a fast path.

A backend's class derives from `SharedMap` and adds the primitives, each of them atomic for its
key: ``[]``, ``in``, ``len``, iteration over keys, `get`, `setdefault`, `pop`, `popitem`,
`clear`, `insert`, `swap`, `compare_and_swap`, `compare_and_delete`, `modify`, `snapshot`,
`load_or_compute`, and for us

``_plain``
    the public class itself. This module calls its methods and not those of a subclass, as ``dict``
    ignores what a subclass overrides.
``_pairs()``
    an iterator over ``(key, value)``, as iteration gives them.
``_Flag``
    the backend's AtomicBool.
``_flights()``
    a second, plain map that belongs to the map; the first call makes it. It also has ``_fence()``,
    which a call that runs a flight calls first.
``_land(key, value, detached)``
    one atomic step: the given value if the flag is set, else what ``setdefault(key, value)``
    returns.

**Flights.** A miss of `load_or_compute` is a *flight*: an object in the map ``_flights()``
under the same key. It runs once: `runs.exclusively` picks the call that runs, and the others wait,
by the flight's id, so no user code takes part. (A task runs and waits by `exclusively_async`;
threads and tasks wait for each other's flights.) When the run is over, the flight is over: with a
value, with a failure, or with nothing if it was interrupted or found the key in the map. After
nothing, the waiting calls start again. (With the native backend, a call that meets no other flight
makes one of the extension, ``flight.h``. That runs in the call that made it, and others wait for it
by `runs.await_run`.)

A flight that is over can stay in the map: its removal runs the users' equality, which can raise. It
has no meaning any more, and the next call for its key that misses replaces it, or a deletion of the
key removes it. Until then the map keeps key and value, and each deletion, and each store in a
Cache, looks for flights in Python code.

**Landing.** Once a flight's value is in the map, another thread can pop it before the flight is
over. A call that begins after that pop must not get the value. So a flight is marked before its
value is stored, and a call that joins a marked flight waits until the flight is over and then looks
into the map again. A call that joined an unmarked flight began before the value was stored.

**Detaching.** A call that deletes a key calls ``_detach(key)`` *first* and deletes *then*. The flag
is set before the deletion, and `_land` checks the flag in the step in which it inserts. So either
`_land` sees the flag and inserts nothing, or it inserts before the deletion, which deletes the new
entry. The native backend keeps the number of flights in a word, to see that there is none to
detach. The word must be read in a sequentially consistent way: a thread that changes the source of
the value and then deletes the key must not miss a flight that has read the old source. So the call
that runs a flight calls ``_fence`` between its claim and all that it reads.
"""

from _thread import get_ident
from collections.abc import (
    Awaitable,
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from functools import partial
from operator import itemgetter
from time import monotonic
from types import MappingProxyType, MemberDescriptorType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Self,
    TypeVar,
    TypeVarTuple,
    overload,
)

from .failures import Failure
from .object import subscripted
from .once import ABSENT
from .runs import AT_ONCE, await_run, await_run_async, exclusively, exclusively_async
from .timeouts import wait_timeout

__all__ = ["SyncMapItems", "SyncMapKeys", "SyncMapValues"]

K = TypeVar("K")
V = TypeVar("V")
Ts = TypeVarTuple("Ts")

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem

    _Base = MutableMapping
else:
    # Registered as a MutableMapping below: a metaclass written in Python would slow down the C
    # type.
    _Base = Generic


class _NoDefault(str):
    """The default of a parameter that has none.

    A str, since the signature of a function in C may name constants only, and is shown by them.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<no default>"


NO_DEFAULT: Final = _NoDefault()

# Pairs (id of a map or view, thread) whose repr is under way: a value may refer back to the map.
_in_repr: set[tuple[int, int]] = set()


def _pair(entry: Any) -> tuple[Any, Any]:
    # A function, not a generator: CPython 3.13 miscounts the references to the code of a generator
    # that it has no memory for.
    key, value = entry
    return key, value


class SharedMap(_Base[K, V]):
    """The base of SyncMap in both backends."""

    __slots__ = ()

    _plain: ClassVar[Any]
    _Flag: ClassVar[Any]

    __class_getitem__ = subscripted

    def __repr__(self) -> str:
        name = type(self).__name__
        plain = self._plain
        try:
            plain.__len__(self)
        except RecursionError:
            raise
        except RuntimeError:
            return f"<{name} object, not initialized>"
        entry = id(self), get_ident()
        if entry in _in_repr:
            return f"{name}({{...}})"
        try:
            _in_repr.add(entry)
            return f"{name}({{{', '.join(f'{k!r}: {v!r}' for k, v in plain._pairs(self))}}})"
        finally:
            _in_repr.discard(entry)

    def __eq__(self, other: object, /) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        plain = self._plain
        length, get = len, other.get
        if isinstance(other, SharedMap):
            length, get = other._plain.__len__, partial(other._plain.get, other)
        if plain.__len__(self) != length(other):
            return False
        for key, value in plain._pairs(self):
            others = get(key, ABSENT)
            if others is ABSENT or not (value is others or value == others):
                return False
        return True

    __hash__: ClassVar[None]  # type: ignore[assignment]
    __reversed__: ClassVar[None] = None

    def keys(self) -> "SyncMapKeys[K]":
        """Return a view of the keys: a set that follows the map.

        >>> from nogil_sync import SyncMap
        >>> SyncMap(a=1, b=2).keys() & {"b", "c"}
        {'b'}
        """
        return SyncMapKeys(self)

    def values(self) -> "SyncMapValues[V]":
        """Return a view of the values, which follows the map.

        >>> from nogil_sync import SyncMap
        >>> sum(SyncMap(a=1, b=2).values())
        3
        """
        return SyncMapValues(self)

    def items(self) -> "SyncMapItems[K, V]":
        """Return a view of the entries as ``(key, value)`` pairs, which follows the map.

        >>> from nogil_sync import SyncMap
        >>> ("a", 1) in SyncMap(a=1, b=2).items()
        True
        """
        return SyncMapItems(self)

    @overload
    def update(self, other: "SupportsKeysAndGetItem[K, V]", /) -> None: ...
    @overload
    def update(
        self: "SharedMap[str, V]", other: "SupportsKeysAndGetItem[str, V]", /, **kwargs: V
    ) -> None: ...
    @overload
    def update(self, other: Iterable[tuple[K, V]], /) -> None: ...
    @overload
    def update(
        self: "SharedMap[str, V]", other: Iterable[tuple[str, V]], /, **kwargs: V
    ) -> None: ...
    @overload
    def update(self: "SharedMap[str, V]", /, **kwargs: V) -> None: ...
    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Set the entries of a mapping, or of an iterable of pairs, and of the keyword arguments.

        >>> from nogil_sync import SyncMap
        >>> ports = SyncMap()
        >>> ports.update({"http": 80}, https=443)
        >>> ports["https"]
        443
        """
        store = self._plain.__setitem__
        for key, value in self._entries(other):
            store(self, key, value)
        for name, value in kwargs.items():
            store(self, name, value)

    @staticmethod
    def _entries(other: Any) -> Iterable[tuple[Any, Any]]:
        """The entries of an argument of `update`."""
        if isinstance(other, SharedMap):
            return other._plain._pairs(other)  # type: ignore[no-any-return]
        if type(other) is dict:
            return other.items()
        if hasattr(other, "keys"):
            return map(lambda key: (key, other[key]), other.keys())  # noqa: C417 - see _pair
        return map(_pair, other)

    def copy(self) -> Self:
        """Return a new map with the same entries; so does ``copy.copy``.

        The copy of a subclass's object is of that class and has the same attributes; its
        ``__new__`` and ``__init__`` are not called.

        >>> from nogil_sync import SyncMap
        >>> SyncMap(a=1).copy()
        SyncMap({'a': 1})
        """
        plain = self._plain
        pairs = plain._pairs(self)
        new: Self = plain.__new__(type(self))
        plain.__init__(new, pairs)
        if type(self) is not plain:
            _copy_attributes(self, new, plain)
        return new

    __copy__ = copy

    # The type of the result is declared in the pure class, which this module does not know.
    def __or__(self, other: Mapping[Any, Any], /) -> Any:
        """Return a new map with the entries of both; those of `other` win."""
        if not isinstance(other, Mapping):
            return NotImplemented
        new = self._plain(self)
        new.update(other)
        return new

    def __ror__(self, other: Mapping[Any, Any], /) -> Any:
        """Return a new map with the entries of both; those of this map win."""
        if not isinstance(other, Mapping):
            return NotImplemented
        new = self._plain(other)
        new.update(self)
        return new

    @overload  # type: ignore[misc]
    def __ior__(self, other: "SupportsKeysAndGetItem[K, V]", /) -> Self: ...
    @overload
    def __ior__(self, other: Iterable[tuple[K, V]], /) -> Self: ...
    def __ior__(self, other: Any, /) -> Any:  # type: ignore[misc]
        """Set the entries of a mapping, or of an iterable of pairs, as :meth:`update` does."""
        SharedMap.update(self, other)
        return self

    async def load_or_compute_async(
        self,
        key: K,
        afn: Callable[[*Ts], Awaitable[V]],
        /,
        *args: *Ts,
        timeout: float | None = None,
    ) -> V:
        """:meth:`SyncMap.load_or_compute` for a task: if the key is missing, awaits ``afn(*args)``.

        The event loop goes on meanwhile. Threads and the tasks of all loops have one flight for
        each key: a task waits for a thread's function, and a thread for a task's. What is said
        there of time-outs, stores, deletions and failures holds here, too. If the task that runs
        `afn` is cancelled, one of those that wait for it runs its own function. A circle of waits
        is a ``RuntimeError``; a blocking call is one, too, if it would wait for a task of the loop
        that it blocks.

        >>> import asyncio
        >>> from nogil_sync import SyncMap
        >>> async def fetch(url):
        ...     return f"the page at {url}"
        >>> pages = SyncMap()
        >>> asyncio.run(pages.load_or_compute_async("/", fetch, "/"))
        'the page at /'
        >>> pages["/"]
        'the page at /'
        """
        seconds = wait_timeout(timeout)
        value: Any = self._plain.get(self, key, ABSENT)
        if value is ABSENT:
            value = await load_or_compute_async(self, key, afn, args, seconds)
        found: V = value
        return found

    def _detach(self, key: Any) -> None:
        """Have the flights for this key store nothing. To be called before the key is deleted."""
        flights = self._plain._flights(self)
        flight = flights.get(key)
        if flight is not None:
            flight.detached.store(True)
            flights.compare_and_delete(key, flight)

    def _flag_of(self, key: Any) -> Any:
        """The flag by which a step that sets the key detaches its flight; None if it has none."""
        flight = self._plain._flights(self).get(key)
        return None if flight is None else flight.detached

    def _detach_all(self) -> None:
        """`_detach` for all keys."""
        flights = self._plain._flights(self)
        for key, flight in flights._pairs():
            flight.detached.store(True)
            flights.compare_and_delete(key, flight)


MutableMapping.register(SharedMap)  # type: ignore[type-abstract]


def _copy_attributes(old: Any, new: Any, plain: type) -> None:
    """Give `new` the attributes that the classes below `plain` gave `old`, in its dict or slots."""
    if hasattr(old, "__dict__"):
        new.__dict__.update(old.__dict__)
    for cls in type(old).__mro__:
        if cls not in plain.__mro__ and "__slots__" in vars(cls):
            for slot in list(vars(cls).values()):
                if isinstance(slot, MemberDescriptorType):
                    try:
                        value = slot.__get__(old)
                    except AttributeError:
                        continue  # it is empty
                    slot.__set__(new, value)


def _view_repr(view: Any, name: str) -> str:
    entry = id(view), get_ident()
    if entry in _in_repr:
        return "..."
    try:
        _in_repr.add(entry)
        return f"{type(view._mapping).__name__}.{name}({list(view)!r})"
    finally:
        _in_repr.discard(entry)


class SyncMapKeys(KeysView[K]):
    """The keys of a :class:`SyncMap`: a set that follows the map.

    >>> from nogil_sync import SyncMap, SyncMapKeys
    >>> keys: SyncMapKeys[str] = SyncMap(a=1, b=2).keys()
    >>> "a" in keys, keys & {"b", "c"}
    (True, {'b'})
    """

    __module__ = "nogil_sync"
    __slots__ = ()
    _mapping: Any

    @property
    def mapping(self) -> MappingProxyType[K, V]:
        """The map, read-only."""
        return MappingProxyType(self._mapping)

    def __iter__(self) -> Iterator[K]:
        """Return an iterator over the keys."""
        return iter(self._mapping)

    def __repr__(self) -> str:
        return _view_repr(self, "keys")


class SyncMapValues(ValuesView[V]):
    """The values of a :class:`SyncMap`, as they are when they are looked at.

    >>> from nogil_sync import SyncMap, SyncMapValues
    >>> values: SyncMapValues[int] = SyncMap(a=1, b=2).values()
    >>> sum(values)
    3
    """

    __module__ = "nogil_sync"
    __slots__ = ()
    _mapping: Any

    @property
    def mapping(self) -> MappingProxyType[K, V]:
        """The map, read-only."""
        return MappingProxyType(self._mapping)

    def __iter__(self) -> Iterator[V]:
        """Return an iterator over the values."""
        return map(itemgetter(1), self._mapping._pairs())

    def __contains__(self, value: object) -> bool:
        """Whether a value is the given one, or equal to it: looks at all of them."""
        for each in self:  # noqa: SIM110 - see _pair
            if each is value or each == value:
                return True
        return False

    def __repr__(self) -> str:
        return _view_repr(self, "values")


class SyncMapItems(ItemsView[K, V]):
    """The entries of a :class:`SyncMap` as ``(key, value)`` pairs: a set that follows the map.

    >>> from nogil_sync import SyncMap, SyncMapItems
    >>> items: SyncMapItems[str, int] = SyncMap(a=1, b=2).items()
    >>> ("a", 1) in items, sorted(items)
    (True, [('a', 1), ('b', 2)])
    """

    __module__ = "nogil_sync"
    __slots__ = ()
    _mapping: Any

    @property
    def mapping(self) -> MappingProxyType[K, V]:
        """The map, read-only."""
        return MappingProxyType(self._mapping)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        """Return an iterator over the entries."""
        pairs: Iterator[tuple[K, V]] = self._mapping._pairs()
        return pairs

    def __contains__(self, item: object) -> bool:
        """Whether the map has this key with this value."""
        # What cannot be an entry is none, as with a dict's.
        return isinstance(item, tuple) and len(item) == 2 and super().__contains__(item)

    def __repr__(self) -> str:
        return _view_repr(self, "items")


class Flight:
    """A value that is being computed. When its run has ended it is over, and never runs again."""

    __slots__ = ("detached", "failure", "landing", "over", "value")

    is_run: Final = False  # a flight of the extension is its own run

    def __init__(self, detached: Any) -> None:
        self.detached = detached  # set: its value is not stored
        self.landing = False  # becomes true before its value is stored
        self.over = False
        self.value: Any = ABSENT
        self.failure: Failure | None = None


def _deadline(seconds: float | None) -> float | None:
    if seconds is None:
        return None
    return monotonic() + seconds if seconds > 0 else AT_ONCE


def load_or_compute(
    self: Any, key: Any, fn: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
) -> Any:
    """The slow path of the method, for a key that is missing."""
    if not callable(fn):
        raise TypeError(f"{type(fn).__name__!r} object is not callable")
    deadline = _deadline(seconds)
    while True:
        # The traceback of an error refers to the frames of the call. If these referred to the
        # flight, which refers to the error, that would be a cycle. So they refer to it through a
        # box, which is emptied.
        box = [_join(self, key)]
        too_late = box[0].landing  # to share its value; read after the call has joined it
        found: tuple[Any, ...] = ()
        if box[0].is_run:
            await_run(box, deadline)
        else:
            found = exclusively(id(box[0]), deadline, _over, _run, box, self, key, fn, args)
        flight = box.pop()
        failure, value = flight.failure, flight.value
        del flight
        if found and found[0] is not ABSENT:
            return found[0]
        if too_late and not found:  # another call ran the flight
            continue
        if failure is not None:
            try:
                failure.throw()
            finally:
                del failure
        if value is not ABSENT:
            return value


async def load_or_compute_async(
    self: Any,
    key: Any,
    afn: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    seconds: float | None,
) -> Any:
    """The same for a task."""
    if not callable(afn):
        raise TypeError(f"{type(afn).__name__!r} object is not callable")
    deadline = _deadline(seconds)
    while True:
        box = [_join(self, key)]
        too_late = box[0].landing
        about = self, "load_or_compute"
        found: tuple[Any, ...] = ()
        if box[0].is_run:
            await await_run_async(box, deadline, about)
        else:
            found = await exclusively_async(
                id(box[0]), deadline, about, _over, _run_async, box, self, key, afn, args
            )
        flight = box.pop()
        failure, value = flight.failure, flight.value
        del flight
        if found and found[0] is not ABSENT:
            return found[0]
        if too_late and not found:
            continue
        if failure is not None:
            try:
                failure.throw()
            finally:
                del failure
        if value is not ABSENT:
            return value


def _join(self: Any, key: Any) -> Flight:
    """The flight of this key, or a new one."""
    flights = self._plain._flights(self)
    new = Flight(self._Flag())
    while True:
        flight: Flight = flights.setdefault(key, new)
        if not flight.over and not flight.detached.load():
            return flight
        if flights.compare_and_swap(key, flight, new):
            return new


def _over(box: list[Flight], *_: Any) -> tuple[Any, ...] | None:
    return () if box[0].over else None


def _run(
    box: list[Flight], self: Any, key: Any, fn: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Any, ...]:
    """The value, if the key is in the map; else ABSENT, and the flight has the run's result."""
    plain = self._plain
    flight = box[0]
    try:
        try:
            plain._flights(self)._fence()
            value = plain.get(self, key, ABSENT)  # another may have landed before this one began
            if value is not ABSENT:
                return (value,)
            value = fn(*args)
            flight.landing = True
            flight.value = plain._land(self, key, value, flight.detached)
        except Exception as error:
            flight.failure = Failure(error)
        finally:
            flight.over = True
    finally:
        try:
            plain._flights(self).compare_and_delete(key, flight)
        except Exception:
            pass  # an error of the keys' equality; the flight is over all the same
        del flight
    return (ABSENT,)


async def _run_async(
    box: list[Flight],
    self: Any,
    key: Any,
    afn: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
) -> tuple[Any, ...]:
    """`_run` for a task."""
    plain = self._plain
    flight = box[0]
    try:
        try:
            plain._flights(self)._fence()
            value = plain.get(self, key, ABSENT)
            if value is not ABSENT:
                return (value,)
            value = await afn(*args)
            flight.landing = True
            flight.value = plain._land(self, key, value, flight.detached)
        except Exception as error:
            flight.failure = Failure(error)
        finally:
            flight.over = True
    finally:
        try:
            plain._flights(self).compare_and_delete(key, flight)
        except Exception:
            pass
        del flight
    return (ABSENT,)
