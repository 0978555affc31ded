"""The common base of all objects of this backend."""

from collections.abc import Callable
from types import FunctionType, GenericAlias
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from .guard import guard_of
from .untraced import hide_sections

# The `__class_getitem__` of our generic classes. It is annotated here and not in the classes: up to
# 3.13 an annotation in a class hides the `__annotations__` of its base (see `once.Dressed`).
subscripted: Final[Any] = classmethod(GenericAlias)


class Uninitialized:
    """What stands in a slot until ``__init__`` fills it: using it is the error.

    So methods need no check of their own, as long as each of them reads an attribute of what the
    slot holds, or calls it.
    """

    __slots__ = ("_name",)

    def __init__(self, owner: object) -> None:
        self._name = type(owner).__name__

    def __call__(self, *_: object) -> NoReturn:
        """Raise ``RuntimeError``."""
        raise RuntimeError(f"{self._name} object is not initialized: its __init__() was not called")

    if not TYPE_CHECKING:

        def __getattr__(self, _attribute: str) -> NoReturn:
            """Raise ``RuntimeError``."""
            self()


def until_init(owner: object) -> Any:
    """An `Uninitialized`, for a slot of any type."""
    return Uninitialized(owner)


def before_init(held: object) -> bool:
    """Whether this is what `until_init` put into a slot."""
    return isinstance(held, Uninitialized)


class SyncObject:
    """Base: valid from ``__new__`` on, initialized once, weak-referenceable, not pickled or copied.

    ``__new__`` has `__fill` fill the slots: with defaults or, in a class whose methods make no
    sense without the arguments of ``__init__``, with what `until_init` returns. Classes override it
    by its mangled name, which no user's subclass has for a method of its own.
    """

    __slots__ = ("__claimed", "__weakref__")
    __claimed: bool

    def __new__(cls, *_: object, **__: object) -> Self:
        self = super().__new__(cls)
        self.__claimed = False
        self.__fill()
        return self

    def __fill(self) -> None:
        raise NotImplementedError

    def __init__(self) -> None:
        # Subclasses check their arguments and make what is to go into their slots. Then they call
        # this. Then they fill the slots, without another call: no interrupt comes between.
        guard = guard_of(self)
        guard.held = True
        try:
            first = not self.__claimed
            self.__claimed = True
        finally:
            del guard.held
        if not first:
            raise RuntimeError(f"{type(self).__name__} object is already initialized")

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: it is not pickled."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


class Part:
    """The base of objects that only other objects make, such as views and context managers."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> Self:
        raise TypeError(f"cannot create {cls.__name__!r} instances")

    def __init_subclass__(cls) -> None:
        for base in cls.__mro__[1:]:
            if base.__module__ == "nogil_sync":
                raise TypeError(f"type {base.__name__!r} is not an acceptable base type")
        super().__init_subclass__()

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: it is not pickled."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


def adopt(cls: type, base: type, put: Callable[[type, str, FunctionType], None] = setattr) -> None:
    """Give a public class the methods of its private base as functions of its own.

    Errors about their arguments then name the public class.
    """
    for name, function in vars(base).items():
        if isinstance(function, FunctionType) and name not in vars(cls):
            mine = FunctionType(
                function.__code__,
                function.__globals__,
                name,
                function.__defaults__,
                function.__closure__,
            )
            mine.__dict__.update(function.__dict__)
            mine.__kwdefaults__ = function.__kwdefaults__
            mine.__annotations__ = function.__annotations__
            mine.__doc__ = function.__doc__
            mine.__module__ = function.__module__
            mine.__qualname__ = f"{cls.__qualname__}.{name}"
            put(cls, name, mine)


def lacks(obj: object, cls: type, slot: str) -> bool:
    """Whether this slot of the class, once filled, is empty: then the collector emptied it.

    A thread can get hold of garbage, before 3.14 through a weak reference that a finaliser made,
    and be inside when the collector empties it. What is repeated until it succeeds asks this.
    """
    try:
        vars(cls)[slot].__get__(obj)
    except AttributeError:
        return True
    return False


def uninitialized(obj: object) -> str:
    """The repr of an object whose ``__init__`` was not called."""
    return f"<{type(obj).__name__} object, not initialized>"


hide_sections(globals())
