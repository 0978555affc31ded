"""once and Once, pure Python: objects around a cell of `_common.once`, which does the work."""

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from .._common.object import SyncObject, before_init, subscripted, uninitialized, until_init
from .._common.once import ABSENT, Cell, Dressed, FunctionCell, once_property

__all__ = ["Once", "OnceFunction", "once", "once_property"]

T = TypeVar("T")
P = ParamSpec("P")


class OnceFunction(Dressed, SyncObject, Generic[T]):
    """A function made by :func:`once`, which says how it behaves.

    It takes no arguments, and looks like the function that it was made of: it has its name,
    its docstring and its attributes.

    >>> from nogil_sync import OnceFunction, once
    >>> limit: OnceFunction[int] = once(lambda: 7)
    >>> limit(), limit.done()
    (7, True)
    """

    __module__ = "nogil_sync"
    __slots__ = ("__cell", "__dict__")

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.__cell: FunctionCell[T] = until_init(self)

    def __init__(self, fn: Callable[[], T], /, *, retry: bool = False) -> None:
        cell = FunctionCell(fn, bool(retry))
        super().__init__()
        cell.dress(self)
        self.__cell = cell

    def __repr__(self) -> str:
        cell = self.__cell
        if before_init(cell):
            return uninitialized(self)
        return cell.describe(self)

    def __call__(self) -> T:
        """Return the result of the function, or raise its exception; the first call runs it."""
        cell = self.__cell
        value: T = cell.value
        return cell.call() if value is ABSENT else value

    def done(self) -> bool:
        """Whether the function has run, for good: its result, or its exception, is settled."""
        return self.__cell.done()


@overload
def once(fn: Callable[[], T], /, *, retry: bool = False) -> OnceFunction[T]: ...
@overload
def once(
    fn: None = None, /, *, retry: bool = False
) -> Callable[[Callable[[], T]], OnceFunction[T]]: ...
def once(fn: Any = None, /, *, retry: bool = False) -> Any:
    """Make a function that runs once, however many threads call it.

    To be used as ``@once`` or ``@once(retry=True)`` on a function that needs no arguments;
    one with a parameter without default is a ``TypeError``. Calls take no arguments. The
    first one runs the function, those that come meanwhile wait for it, and all get its
    result. What the function did is visible to all of them. After that a call costs about as
    much as that of an empty function, and the function itself has been let go (so
    ``__wrapped__`` is there only until then).

    An exception is an outcome, too: every call raises it, the same object, with the
    traceback from that call to its origin. (Free-threaded Python 3.13 does not survive one
    exception in several threads at the same time. There each call in another thread than the
    one that ran the function raises a copy.)

    With ``retry=True`` a run that fails does not count: its error reaches its own caller
    only, and the next call, or one of those that waited, runs the function again.
    ``KeyboardInterrupt``, ``SystemExit`` and whatever else is no ``Exception`` never count.

    A call that would have to wait for itself, from inside the function or in a circle through
    others and their threads, is a ``RuntimeError``. A Ctrl-C ends the wait for another
    thread's run. In the child of a fork a run of another thread counts as not begun.

    ``done()`` of the result tells whether there is an outcome. (Go's ``sync.OnceValue``.)

    >>> from nogil_sync import once
    >>> @once
    ... def settings():
    ...     print("reading")
    ...     return {"debug": False}
    >>> settings.done()
    False
    >>> settings() is settings()
    reading
    True
    """
    return (
        functools.partial(OnceFunction, retry=retry)
        if fn is None
        else OnceFunction(fn, retry=retry)
    )


class Once(SyncObject, Generic[T]):
    """What is run once per object, whatever the arguments and however many threads call.

    The rules are those of :func:`once`: all get the result or the exception of the first
    run, with ``retry=True`` that of the first one that succeeds. (Go's ``sync.Once``, with a
    result.)

    >>> from nogil_sync import Once
    >>> start: Once[str] = Once()
    >>> start.do("{} {}".format, "started", 1)
    'started 1'
    >>> start.do("{} {}".format, "started", 2)
    'started 1'
    """

    __module__ = "nogil_sync"
    __slots__ = ("__cell",)

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.__cell: Cell[T] = until_init(self)

    def __init__(self, *, retry: bool = False) -> None:
        cell: Cell[T] = Cell(bool(retry))
        super().__init__()
        self.__cell = cell

    def __repr__(self) -> str:
        cell = self.__cell
        if before_init(cell):
            return uninitialized(self)
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {cell.state()}>"

    def do(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``fn(*args, **kwargs)``, or the result there is already.

        Only the first call runs its function, those that come meanwhile wait for it, and
        later ones ignore their arguments. The function and its arguments are not kept. An
        `fn` that cannot be called is a ``TypeError``, and does not count.

        >>> from nogil_sync import Once
        >>> first = Once()
        >>> first.do(int, "17")
        17
        >>> first.do(int, "18")
        17
        """
        cell = self.__cell
        value: T = cell.value
        return cell.do(fn, *args, **kwargs) if value is ABSENT else value

    def done(self) -> bool:
        """Whether there is a result, or an exception that takes its place.

        >>> from nogil_sync import Once
        >>> first = Once()
        >>> first.done()
        False
        >>> first.do(int)
        0
        >>> first.done()
        True
        """
        return self.__cell.done()
