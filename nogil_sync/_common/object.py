"""What every object of this backend has in common."""

import os
from types import FunctionType, GenericAlias, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from .guard import Guard

# The `__class_getitem__` of our generic classes. It is annotated here and not in the classes: up to
# 3.13 an annotation in a class hides the `__annotations__` of its base (see `_once.Dressed`).
subscripted: Final[Any] = classmethod(GenericAlias)

# Held while an object is claimed by its __init__. Reentrant: a signal handler or finaliser
# that comes between may make objects, too.
_claiming = Guard()


class SyncObject:
    """Base: initialised exactly once, weak-referenceable, neither pickled nor copied.

    The state of an object lives in slots.  One that was made without ``__init__`` has them
    empty, so that its first operation ends in ``__getattr__``, at no cost to the others.
    """

    __slots__ = ("__ready", "__weakref__")

    def __init__(self) -> None:
        # Subclasses check their arguments, then call this, then fill their slots.
        _claiming.held = True
        try:
            object.__getattribute__(self, "_SyncObject__ready")
        except AttributeError:
            self.__ready = True
            return
        finally:
            del _claiming.held
        raise RuntimeError(f"{type(self).__name__} object is already initialized")

    if not TYPE_CHECKING:  # it would make every attribute exist for a type checker

        def __getattr__(self, name: str) -> Any:
            """Raise ``RuntimeError`` if ``__init__`` was not called, else ``AttributeError``."""
            slot = getattr(type(self), name, None)
            owner = slot.__objclass__ if isinstance(slot, MemberDescriptorType) else object
            if owner.__module__.partition(".")[0] == "nogil_sync":
                raise RuntimeError(
                    f"{type(self).__name__} object is not initialized: "
                    "its __init__() was not called"
                )
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
            )

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: it is not pickled."""
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


class Part:
    """Base of what only methods of other objects make, as a view or a context manager."""

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


def adopt(cls: type, base: type) -> None:
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
            setattr(cls, name, mine)


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_claiming._at_fork_reinit)
