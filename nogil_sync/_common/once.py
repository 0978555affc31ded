"""The cells of `once` and its relatives, and what their wrappers look like, for both backends.

A cell runs its function by `exclusively` (`runs`), and keeps what it returned, or its `Failure`.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from .failures import Failure
from .object import SyncObject, subscripted, until_init
from .runs import exclusively, is_running

T = TypeVar("T")
P = ParamSpec("P")
Self = TypeVar("Self", bound="once_property[Any]")

ABSENT: Final = object()


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
        return "running" if is_running(id(self)) else "not run"

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
