"""Running a function once, for both backends: which thread runs it, which wait, what all get.

`once` and its relatives are here. The flights of ``SyncMap.load_or_compute`` (`mapping`) run by
:func:`exclusively` as well, so a circle of waits is found even if it goes through both.

A *run* is one call of :func:`exclusively`. It claims its key by ``setdefault`` in the table of runs
that are under way, which is one atomic step. A thread that finds another run there waits until it
is over, and looks again. So nothing is locked while user code runs, and a key takes no space here
unless a run is under way.

An interrupt leaves no trace. Signal handlers, and with them ``KeyboardInterrupt``, run only after a
call, on a backward jump and on entry to a Python function. So a run ends with straight-line code in
a ``finally``, whose only call comes last: the one in C that wakes a waiter. (For that reason
waiters sleep at a lock of the interpreter and not at an `Event`, whose ``set`` is a Python function
in one of the backends.) Such a *gate* is closed when it is made, and opened once; each thread that
passes it opens it for the next.

A wait in a scope (see `cancelled`) can end for two reasons, of which one concerns this thread
alone. So it has a gate of its own, which the scope opens when it is cancelled, and the run at its
end. Opening several gates takes several calls, and an interrupt may come after each: then the
thread goes through them once more.

A wait that could never end raises ``RuntimeError``: the thread would wait, directly or through
others, for a run of its own. Each thread first notes what it waits for, and then follows the notes
of the others. All notes are in one dict, which has a lock of its own. So if two threads close a
circle at the same time, at least the second sees the note of the first.

A task that runs a function (`exclusively_async`) has no thread of its own: its run belongs to the
task, and is under way in the thread of the task's loop. A task that waits for a run has a gate of
its own, which the end of the run opens, too (`loops.Call`). A wait of a thread blocks
the tasks of the loop that runs in it. So a run of a task waits for what the task waits for, and for
what its thread waits for.

In the child of a fork only the runs of the forking thread go on. The child gets new tables, since a
thread that is gone may hold the lock of an old one, and keeps the old ones without touching them. A
run in an old table counts as over.

A run of the extension (``flight.h``) is in no table: the thread that makes it runs it. Others find
it as a flight of a map, wait for it and look for circles through it as for any other run.
"""

import functools
import os
import sys
import sysconfig
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from types import (
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    TracebackType,
)
from typing import TYPE_CHECKING, Any, Final, Generic, NoReturn, ParamSpec, TypeVar, overload
from weakref import ref

from .cancelled import MESSAGE, Cancelled, scopes
from .forked import left_at_fork
from .loops import Call, TaskWait
from .object import SyncObject, subscripted, until_init
from .originals import LockType, get_ident, local
from .sleep import closed_gate, sleep_at

if TYPE_CHECKING:
    from .._backend import Scope

T = TypeVar("T")
P = ParamSpec("P")
Self = TypeVar("Self", bound="once_property[Any]")

ABSENT: Final = object()
AT_ONCE: Final = -inf  # the deadline of a call that looks and does not wait
TIMED_OUT: Final = "timed out waiting for another thread's call"


class _Run:
    """One call of `exclusively`: it runs a function, or waits for another run."""

    __slots__ = ("gate", "gates", "key", "outer", "over", "owner", "table", "thread", "waiting")

    def __init__(self, key: object, outer: "_Run | None", owner: object = None) -> None:
        self.key = key
        self.outer = outer  # the run of the same thread from which this one was called
        self.table = _running
        self.thread = get_ident()
        self.owner: object = self.thread if owner is None else owner
        self.waiting = False
        self.over = False  # becomes true before the gate is opened
        self.gate = closed_gate()
        # What the end opens besides: the own gates of threads that wait in a scope, and the calls
        # of tasks. One that waits adds its gate, and then looks at `over`; the end makes `over`
        # true, and then opens the gates. So one of the two sees the other.
        self.gates: dict[LockType | Call, None] = {}

    def is_over(self) -> bool:
        """Whether it has ended, or belongs to a thread that did not survive a fork."""
        return self.over or self.table is not _running

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self.over

    def holders(self) -> tuple[int, ...]:
        return (self.thread,)


class _Local(local):
    run: _Run | None = None  # the innermost run of this thread


_local = _Local()
_running: dict[object, _Run] = {}
_waits: dict[object, _Run] = {}  # which run each waiting thread or task waits for


def exclusively(
    key: object,
    deadline: float | None,
    look: Callable[P, T | None],
    work: Callable[P, T],
    /,
    *args: P.args,
    **kw: P.kwargs,
) -> T:
    """Return what `look(...)` finds as soon as that is not None, else what `work(...)` returns.

    Of all calls with this key one at a time calls `work`, while the others wait. At the deadline
    a waiting call raises TimeoutError; if that is AT_ONCE, it does not wait.
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
            pass  # open already: a waiter has seen that the run is over
        finally:
            if run.gates:
                try:
                    open_gates(run.gates)
                finally:
                    if run.gates:  # an interrupt came before it began
                        open_gates(run.gates)


def await_run(box: list[Any], deadline: float | None) -> None:
    """Sleep until a run of the extension is over; raise as `exclusively` does."""
    _wait(_Run(None, None), box[0], deadline)


def _this_task() -> object:
    """What stands for the calling task as the owner of a run, or for a caller that is no task.

    It does not keep the task alive. A task whose loop was closed never gets to its end: it ends
    its run as it is freed.
    """
    import asyncio

    task = asyncio.current_task()
    if task is None:
        return object()
    owner = ref(task)
    hash(owner)  # the reference keeps it: without that, it has none once the task is gone
    return owner


async def await_run_async(
    box: list[Any], deadline: float | None, about: tuple[object, str]
) -> None:
    """The same for a task."""
    run = _Run(None, None, _this_task())
    await _wait_async(run, box[0], deadline, about)


def _wait(run: _Run, other: _Run, deadline: float | None) -> None:
    """Sleep until the other run is over; raise if it would wait for us, or at the deadline."""
    scope = scopes.current()
    if scope is None:
        _sleep(run, other, deadline, other.gate, None)
        return
    gate = closed_gate()
    try:
        other.gates[gate] = None
        scope.watch(gate)
        _sleep(run, other, deadline, gate, scope)
    finally:
        other.gates.pop(gate, None)
        scope.unwatch(gate)


def _sleep(
    run: _Run, other: _Run, deadline: float | None, gate: LockType, scope: "Scope | None"
) -> None:
    """Sleep at this gate, and raise if the scope is cancelled meanwhile, too."""
    me = run.thread
    below = _waits.get(me)  # a wait of this thread that a signal handler interrupted
    run.waiting = True
    try:
        _waits[me] = other
        # Not `while condition`: its jump back lies outside the try from 3.12 on.
        while True:
            if other.is_over():
                break
            if _waits_for(other, me):
                raise RuntimeError("recursive call: it would wait for itself")
            if deadline == AT_ONCE:
                raise TimeoutError(TIMED_OUT)
            if scope is not None and scope.cancelled:
                raise Cancelled(MESSAGE)
            if not sleep_at(gate, deadline, about=other):
                raise TimeoutError(TIMED_OUT)
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


def open_gates(gates: "dict[LockType | Call, None]") -> None:
    """Open the gates of a run that is over, and then raise what interrupted."""
    later: BaseException | None = None
    while gates:
        try:
            for gate in list(gates):
                try:
                    gate.release()
                except RuntimeError:
                    pass  # open already: its scope was cancelled
                gates.pop(gate, None)
        except BaseException as interrupt:
            later = later or interrupt
    if later is not None:
        raise later


def _waits_for(run: _Run, me: int, task: object = None) -> bool:
    """Whether the run waits for the thread `me`, or for its task if one is given, or is theirs.

    A wait of a task does not hold up other tasks of its loop; that of a thread does.
    """
    # Each way is a list of runs, each with the thread or task through which the one before it
    # waits for it.
    ways: list[list[tuple[object, _Run]]] = [[(None, run)]]
    seen = {run}
    while ways:
        way = ways.pop()
        last = way[-1][1]
        if last.owner in (me, task) or (task is None and last.thread == me):
            # The links were read one after the other. If all still exist now, all existed at the
            # same time.
            if not any(each.over for _, each in way) and all(
                _waits.get(who) is each for who, each in way[1:]
            ):
                return True
            continue
        for who in {last.owner, last.thread}:
            after = _waits.get(who)
            if after is not None and after not in seen:
                seen.add(after)
                ways.append([*way, (who, after)])
    return False


async def exclusively_async(
    key: object,
    deadline: float | None,
    about: tuple[object, str],
    look: Callable[P, T | None],
    work: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kw: P.kwargs,
) -> T:
    """`exclusively` for a task: it awaits `work(...)`, and lets its loop run while it waits.

    `about` is the object and the operation, for those that look who waits.
    """
    run = _Run(key, None, _this_task())
    try:
        while True:
            other = run.table.setdefault(key, run)
            if other is run:
                found = look(*args, **kw)
                return await work(*args, **kw) if found is None else found
            await _wait_async(run, other, deadline, about)
            found = look(*args, **kw)
            if found is not None:
                return found
    finally:  # as in `exclusively`: written out, for the entry to a function can be interrupted
        try:
            if run.table[key] is run:
                del run.table[key]
        except KeyError:
            pass
        run.over = True
        try:
            run.gate.release()
        except RuntimeError:
            pass  # open already: a waiter has seen that the run is over
        finally:
            if run.gates:
                try:
                    open_gates(run.gates)
                finally:
                    if run.gates:  # an interrupt came before it began
                        open_gates(run.gates)


async def _wait_async(
    run: _Run, other: _Run, deadline: float | None, about: tuple[object, str]
) -> None:
    """Let the loop run until the other run is over; raise as `_wait` does."""
    seconds = None
    if deadline is not None:
        seconds = deadline - monotonic()
        if seconds <= 0 and not other.over:
            raise TimeoutError(TIMED_OUT)
    call = Call()
    waits = _waits
    waits[run.owner] = other
    try:
        other.gates[call] = None
        if other.is_over():
            return
        if _waits_for(other, run.thread, run.owner):
            raise RuntimeError("recursive call: it would wait for itself")
        with TaskWait(*about):
            await call.sleep(seconds)
        if not other.over and deadline is not None and monotonic() >= deadline:
            raise TimeoutError(TIMED_OUT)
    finally:
        waits.pop(run.owner, None)
        other.gates.pop(call, None)


def _forget_other_threads() -> None:
    """In the child of a fork: only the runs of this thread go on."""
    global _running, _waits
    left_at_fork.append((_running, _waits))
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
    """The result of a function that runs once, or the exception that it raised."""

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


# Before 3.14 an interpreter without the GIL crashes if threads raise one exception object at the
# same time (concurrent.futures has the same problem): each frame that the exception passes replaces
# its traceback without a lock. There each thread raises a copy of its own.
_SHAREABLE = sys.version_info >= (3, 14) or not sysconfig.get_config_var("Py_GIL_DISABLED")

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that is not built in
_PARTS = [
    vars(BaseException)[name]
    for name in ("args", "__cause__", "__context__", "__suppress_context__")
]
_dict_of = vars(BaseException)["__dict__"].__get__
_set_context = vars(BaseException)["__context__"].__set__  # runs no `__setattr__` of the class


def _copy_field(field: Any, source: BaseException, target: BaseException) -> None:
    """Copy one slot, of the class or of its built-in base."""
    try:
        value = field.__get__(source)
    except AttributeError:
        return  # not set
    try:
        # In some slots None means unset, so a value is stored only if it differs.
        differs = field.__get__(target) is not value
    except AttributeError:
        differs = True
    if differs:
        try:
            field.__set__(target, value)
        except (AttributeError, TypeError):
            pass  # read-only: the constructor has set it from the arguments


def _copied(error: BaseException) -> BaseException:
    """A copy with the same parts, attributes and slots, made without calling the class's code."""
    kind = type(error)
    built_in: Any = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
    copied: BaseException = built_in.__new__(kind, *error.args)
    if type(copied) is not kind:
        raise TypeError
    attributes = _dict_of(copied)
    attributes.update(_dict_of(error))
    notes = attributes.get("__notes__")
    if type(notes) is list:
        attributes["__notes__"] = notes.copy()
    for each in kind.__mro__:
        for name, field in vars(each).items() if issubclass(each, BaseException) else ():
            if isinstance(field, MemberDescriptorType | GetSetDescriptorType) and name[:2] != "__":
                _copy_field(field, error, copied)
    for part in _PARTS:
        part.__set__(copied, part.__get__(error))
    return copied


def _twin(error: BaseException) -> BaseException:
    """An exception for another thread to raise: a copy, or an error that says why there is none."""
    try:
        return _copied(error)
    except Exception:
        pass
    try:  # perhaps a class in C with a constructor of its own
        from copy import copy

        copied = copy(error)
        if type(copied) is type(error) and copied is not error:
            return copied
    except Exception:
        pass
    wrapped = RuntimeError("another thread's exception, which cannot be copied for this one")
    wrapped.__cause__ = error
    return wrapped


class Failure:
    """An exception that each call raises again, in the state of the first time."""

    __slots__ = ("context", "error", "model", "thread", "traceback")

    def __init__(self, error: Exception, foreign: bool = False) -> None:
        self.error = error
        self.context = error.__context__
        # The traceback without our own frame, which caught the exception, unless C code did.
        whole = error.__traceback__
        self.traceback: TracebackType | None = whole if foreign else whole and whole.tb_next
        self.thread = get_ident()
        # No thread raises or changes the model, so all can copy it at the same time.
        self.model = None if _SHAREABLE else _twin(error)

    def throw(self) -> NoReturn:
        error: BaseException = self.error
        if self.model is not None and get_ident() != self.thread:
            error = _twin(self.model)
        BaseException.with_traceback(error, self.traceback)
        try:
            raise error
        finally:
            # The context is the first one, not the exception that this caller handles.
            _set_context(error, self.context)
            del self, error  # the traceback has this frame


class FunctionCell(Cell[T]):
    """The result of a decorated function; the function is released once there is a result."""

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
        """Give the wrapper, which callers call, the name, docs and attributes of the function."""
        functools.update_wrapper(wrapper, self.fn)
        self.attributes = wrapper.__dict__

    def describe(self, wrapper: Any) -> str:
        name = self.attributes.get("__qualname__", "of an object")
        return f"<once function {name} at {id(wrapper):#x}, {self.state()}>"

    def call(self) -> T:
        fn = self.fn  # None once there is a result
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
        # The common case does not need `inspect`.
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
        return None  # a C function without a signature
    for parameter in signature.parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            return parameter.name
    return None


class _Signature:
    """``__signature__`` of a decorated function: no parameters, and the function's annotation."""

    def __get__(self, wrapper: Any, owner: type) -> Any:
        if wrapper is None:
            raise AttributeError("__signature__")  # the class has its own
        import inspect

        return inspect.Signature(
            return_annotation=wrapper.__annotations__.get("return", inspect.Signature.empty)
        )


class _Annotations:
    """``__annotations__`` of a decorated function, as a function's own; empty if it has none.

    Up to 3.13 `functools.update_wrapper` copies the dict, which then hides this. From 3.14 on it
    copies ``__annotate__``, which makes the dict on the first access.
    """

    def __get__(self, wrapper: Any, owner: type) -> dict[str, Any]:
        if wrapper is None:
            return {}
        attributes: dict[str, Any] = wrapper.__dict__
        annotate = attributes.get("__annotate__")
        value = 1  # annotationlib.Format.VALUE
        annotations: dict[str, Any] = {} if annotate is None else annotate(value)
        return attributes.setdefault("__annotations__", annotations)  # type: ignore[no-any-return]


class Annotated:
    """The base of classes of wrappers that have the annotations of the decorated function."""

    __slots__ = ()
    # Types as comments: an annotation would make __annotations__ of the class itself.
    __annotations__ = _Annotations()  # type: Any


class Dressed(Annotated):
    """The base of the wrappers' classes: signature and annotations of the decorated function."""

    __slots__ = ()
    __signature__ = _Signature()  # type: Any


class once_property(SyncObject, Generic[T]):  # noqa: N801  (named as `property` is)
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

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.func: Callable[[Any], T] = until_init(self)
        self.attrname: str | None = None

    def __init__(self, func: Callable[[Any], T]) -> None:
        if not callable(func):
            raise TypeError(f"once_property: {type(func).__name__!r} object is not callable")
        super().__init__()
        self.func = func
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
