"""Running something once, for both backends: who runs it, who waits, and what everyone gets.

`once` and its kin are here; the flights of ``SyncMap.load_or_compute`` (`_syncmap`) run by
:func:`exclusively`, too, so that a circle of waits is found also when it goes through both.

A *run* is one call of :func:`exclusively`. It claims its key by ``setdefault`` in the table of
what is under way, which is one atomic step; whoever finds another's run there waits until that
is over and looks again. So nothing is locked while user code runs, and what nobody computes
takes no space here.

An interrupt leaves no trace. Signal handlers, and with them ``KeyboardInterrupt``, come only
after a call, on a backward jump and on entry to a Python function. What ends a run is
therefore straight-line code in a ``finally`` whose only call, at its end, is the one in C that
wakes a waiter. (That is why waiters sleep at a bare ``threading.Lock`` and not at an `Event`,
whose ``set`` is a Python function in one of the backends.) Such a *gate* is closed when it is
made and opened once; whoever comes through opens it for the next.

A wait that could never end is a ``RuntimeError``: that of a thread which would wait, directly or
through others, for a run of its own. Each thread first notes what it waits for and then follows
the notes of the others. All notes are made in one dict, which has a lock of its own, so of two
threads that close a circle at the same time the second at least sees the note of the first.

In the child of a fork only the runs of the forking thread go on. The child gets new tables, as
the old ones may be locked by a thread that is gone, and a run of an old table counts as over.
"""

import functools
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from itertools import pairwise
from time import monotonic, sleep
from types import FunctionType, TracebackType
from typing import Any, Final, Generic, NoReturn, ParamSpec, TypeVar, overload

T = TypeVar("T")
P = ParamSpec("P")
Self = TypeVar("Self", bound="once_property[Any]")

# The main thread runs the signal handlers; a signal that comes right before its sleep, or
# `_thread.interrupt_main()`, does not end it: so it sleeps in naps.
_NAP = 0.04

ABSENT: Final = object()


class _Run:
    """A call that runs something, or waits for another that does."""

    __slots__ = ("gate", "key", "outer", "over", "table", "thread", "waiting")

    def __init__(self, key: object, outer: "_Run | None") -> None:
        self.key = key
        self.outer = outer  # the run of this thread below it: it was called from there
        self.table = _running
        self.thread = threading.get_ident()
        self.waiting = False
        self.over = False  # becomes true before the gate is opened
        try:
            self.gate = threading.Lock()
        except RuntimeError:  # "can't allocate lock"
            raise MemoryError from None
        self.gate.acquire()


class _Local(threading.local):
    run: _Run | None = None  # this thread's innermost


_local = _Local()
_running: dict[object, _Run] = {}
_waits: dict[int, _Run] = {}  # which run each waiting thread waits for


def exclusively(
    key: object,
    deadline: float | None,
    look: Callable[P, T | None],
    work: Callable[P, T],
    /,
    *args: P.args,
    **kw: P.kwargs,
) -> T:
    """What `look(...)` finds as soon as that is not None, else what `work(...)` returns.

    Of all calls with this key one at a time works, while the others wait; at the deadline they
    give up by TimeoutError.
    """
    run = _Run(key, _local.run)
    _local.run = run
    try:
        while True:
            other = run.table.setdefault(key, run)
            if other is run:
                found = look(*args, **kw)
                return work(*args, **kw) if found is None else found
            _wait(run, other, deadline)
            found = look(*args, **kw)
            if found is not None:
                return found
    finally:
        _local.run = run.outer
        try:
            if run.table[key] is run:
                del run.table[key]
        except KeyError:
            pass
        run.over = True
        try:
            run.gate.release()
        except RuntimeError:
            pass  # open already: somebody saw that it is over


def _wait(run: _Run, other: _Run, deadline: float | None) -> None:
    """Sleep until the other run is over, or raise if that cannot be or takes too long."""
    me = run.thread
    nap = _NAP if me == threading.main_thread().ident else -1.0
    below = _waits.get(me)  # a wait of this thread that a signal handler interrupted
    run.waiting = True
    try:
        _waits[me] = other
        # Not `while condition`: its jump back lies outside the try from 3.12 on.
        while True:
            if other.over or other.table is not _running:
                break
            if _waits_for(other, me):
                raise RuntimeError("recursive call: it would wait for itself")
            if deadline is None:
                other.gate.acquire(True, nap)
                continue
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out waiting for another thread's call")
            other.gate.acquire(True, remaining if nap < 0 else min(remaining, nap))
    finally:
        run.waiting = False
        try:
            if below is None:
                del _waits[me]
            else:
                _waits[me] = below
        except KeyError:
            pass  # forked meanwhile
        if other.over:
            try:
                other.gate.release()
            except RuntimeError:
                pass  # open already


def _waits_for(run: _Run, me: int) -> bool:
    """Whether this run is one of thread `me`, or waits for one, if through others."""
    chain = [run]
    while chain[-1].thread != me:
        after = _waits.get(chain[-1].thread)
        if after is None or after in chain:
            return False
        chain.append(after)
    # Seen one after the other; if they are all still there, they were there all at once.
    for a, b in pairwise(chain):
        if a.over or _waits.get(a.thread) is not b:
            return False
    return not chain[-1].over


def _forget_other_threads() -> None:
    """In the child of a fork: none of them is left."""
    global _running, _waits
    _running, _waits = {}, {}
    mine = []
    run = _local.run
    while run is not None:
        mine.append(run)
        run = run.outer
    for run in reversed(mine):
        run.table = _running
        if not run.waiting:
            _running.setdefault(run.key, run)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)


class Cell(Generic[T]):
    """The one result of something that runs once, or the exception in its place."""

    __slots__ = ("failure", "retry", "value")

    def __init__(self, retry: bool) -> None:
        self.retry = retry
        self.value: Any = ABSENT
        self.failure: Failure | None = None

    def done(self) -> bool:
        return self.value is not ABSENT or self.failure is not None

    def state(self) -> str:
        if self.failure is not None:
            return "failed"
        if self.value is not ABSENT:
            return "done"
        return "running" if id(self) in _running else "not run"

    def do(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result, from `fn` if there is none yet."""
        if not self.done():
            if not callable(fn):
                raise TypeError(f"{type(fn).__name__!r} object is not callable")
            exclusively(id(self), None, self._look, self._run, fn, args, kwargs)
        if self.failure is not None:
            self.failure.throw()
        result: T = self.value
        return result

    def _look(self, fn: Any, args: Any, kwargs: Any) -> "Cell[T] | None":  # noqa: ARG002
        return self if self.done() else None

    def _run(self, fn: Callable[..., T], args: Any, kwargs: Any) -> "Cell[T]":
        try:
            self.value = fn(*args, **kwargs)
        except Exception as error:
            if self.retry:
                raise
            self.failure = Failure(error)
        return self


# Before 3.14 an interpreter without the GIL does not survive threads that raise one exception
# object at the same time (concurrent.futures has the same trouble): each frame that it passes
# through replaces its traceback, unsynchronised. Only the interpreter could lock that. So raises
# in different threads are kept apart by this many seconds at least, within which an exception
# finds its handler, if its thread is let run. No proof, but in practice the difference between
# a crash within milliseconds and none. A safe interpreter needs no turns.
_TURN = 0.005 if sys.version_info < (3, 14) and sysconfig.get_config_var("Py_GIL_DISABLED") else 0.0


class _Turns:
    """Who may raise when: one thread in `_TURN` seconds, and a pause before another does."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken: dict[int, int] = {}

    def wait(self) -> None:
        """Take the first turn there is, which for the only thread is right now."""
        me = threading.get_ident()
        now = turn = int(monotonic() / _TURN)
        taken = self.taken
        while not (
            taken.get(turn - 1, me) == taken.get(turn + 1, me) == me
            and taken.setdefault(turn, me) == me
        ):
            turn += 1
        if len(taken) > 100:
            for old in [each for each in list(taken) if each < now - 1]:
                taken.pop(old, None)
        if turn != now:
            sleep(max(0.0, turn * _TURN - monotonic()))


class Failure:
    """An exception that is raised again and again, as it was the first time."""

    __slots__ = ("context", "error", "traceback", "turns")

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.context = error.__context__
        # Without our own frame, in which it was caught.
        whole = error.__traceback__
        self.traceback: TracebackType | None = whole and whole.tb_next
        self.turns = _Turns()

    def throw(self) -> NoReturn:
        if _TURN:
            self.turns.wait()
        error = self.error
        error.__traceback__ = self.traceback
        try:
            raise error
        finally:
            # Not what this caller happened to be handling.
            error.__context__ = self.context
            del self, error  # the traceback has this frame


class FunctionCell(Cell[T]):
    """The result of a decorated function, which is let go once it is settled."""

    __slots__ = ("attributes", "fn")

    def __init__(self, fn: Callable[[], T], retry: bool) -> None:
        if not callable(fn):
            raise TypeError(f"once: {type(fn).__name__!r} object is not callable")
        if (name := _required_parameter(fn)) is not None:
            raise TypeError(
                f"once: the function must need no arguments, but {name!r} has no default"
            )
        super().__init__(retry)
        self.fn: Any = fn
        self.attributes: dict[str, Any] = {}

    def dress(self, wrapper: Any) -> None:
        """Make the object that is called instead look like the function."""
        functools.update_wrapper(wrapper, self.fn)
        self.attributes = wrapper.__dict__

    def describe(self, wrapper: Any) -> str:
        name = self.attributes.get("__qualname__", "of an object")
        return f"<once function {name} at {id(wrapper):#x}, {self.state()}>"

    def call(self) -> T:
        fn = self.fn  # None only once it is settled
        try:
            return self.do(fn)
        finally:
            if fn is not None and self.done():
                self.fn = None
                if self.attributes.get("__wrapped__") is fn:
                    self.attributes.pop("__wrapped__", None)


def _required_parameter(fn: Callable[..., object]) -> str | None:
    """The name of a parameter without a default."""
    if isinstance(fn, FunctionType):
        # The common case, for which `inspect` need not be imported.
        code, names = fn.__code__, fn.__code__.co_varnames
        for name in names[: code.co_argcount - len(fn.__defaults__ or ())]:
            return name
        for name in names[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]:
            if name not in (fn.__kwdefaults__ or ()):
                return name
        return None
    import inspect

    try:
        signature = inspect.signature(fn, follow_wrapped=False)
    except ValueError:
        return None  # in C, and does not tell
    for parameter in signature.parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            return parameter.name
    return None


class Signature:
    """``__signature__`` of a decorated function: no parameters, and the function's annotation."""

    def __get__(self, wrapper: Any, owner: type) -> Any:
        if wrapper is None:
            raise AttributeError("__signature__")  # the class has its own
        import inspect

        annotations = getattr(wrapper, "__annotations__", {})
        return inspect.Signature(
            return_annotation=annotations.get("return", inspect.Signature.empty)
        )


class once_property(Generic[T]):  # noqa: N801  (named as `property` is)
    """An attribute that is computed when it is first read, once per instance.

    As ``functools.cached_property``, and safe where several threads read it first: one of
    them computes it, the others wait and get the same value, which
    ``functools.cached_property`` no longer promises since Python 3.12. Different instances, and
    different attributes of one instance, do not wait for each other.

    The value is stored in the instance's ``__dict__`` under the attribute's name, so a later
    read is a plain one, assignment replaces the value, and after ``del`` it is computed
    anew. An exception reaches the thread that computed; it is not stored, and those who
    waited compute for themselves, one after the other. Computing that needs its own result, also
    through other threads, is a ``RuntimeError``.

    An instance without ``__dict__`` is a ``TypeError``. Where a subclass overrides the
    attribute, ``super().name`` computes the value and does not store it.

    >>> from nogil_sync import once_property
    >>> class Page:
    ...     def __init__(self, text): self.text = text
    ...     @once_property
    ...     def words(self):
    ...         print("splitting")
    ...         return self.text.split()
    >>> page = Page("to be or not")
    >>> len(page.words), page.words[0]
    splitting
    (4, 'to')
    """

    __module__ = "nogil_sync"

    def __init__(self, func: Callable[[Any], T]) -> None:
        if not callable(func):
            raise TypeError(f"once_property: {type(func).__name__!r} object is not callable")
        self.func = func
        self.attrname: str | None = None
        self.__doc__ = func.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Note the name under which the value is stored; ``TypeError`` if it has another."""
        if self.attrname is None:
            self.attrname = name
        elif name != self.attrname:
            raise TypeError(
                "cannot assign the same once_property to two different names "
                f"({self.attrname!r} and {name!r})"
            )

    @overload
    def __get__(self: Self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Return the value for this instance, which the first read computes."""
        if instance is None:
            return self
        name = self.attrname
        if name is None:
            raise TypeError("a once_property needs a name: __set_name__() was not called on it")
        try:
            stored = instance.__dict__
        except AttributeError:
            raise TypeError(
                f"{type(instance).__name__!r} object has no __dict__ to store {name!r} in"
            ) from None
        if getattr(type(instance), name, None) is not self:
            return self.func(instance)

        found = self._look(instance, name, stored)
        if found is None:
            key = id(instance), id(self)
            found = exclusively(key, None, self._look, self._compute, instance, name, stored)
        return found[0]

    def _look(self, instance: Any, name: str, stored: Any) -> tuple[T] | None:  # noqa: ARG002
        value = stored.get(name, ABSENT)
        return None if value is ABSENT else (value,)

    def _compute(self, instance: Any, name: str, stored: Any) -> tuple[T]:
        value = self.func(instance)
        try:
            stored[name] = value
        except TypeError:
            raise TypeError(
                f"the __dict__ of {type(instance).__name__!r} object takes no items: "
                f"{name!r} cannot be stored"
            ) from None
        return (value,)

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: it is not pickled."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")
