"""What every object of this backend has in common."""

import os
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, NoReturn

from ._guard import Guard

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
        raise TypeError(f"cannot pickle or copy {type(self).__name__!r} object")


def uninitialized(obj: object) -> str:
    """The repr of an object whose ``__init__`` was not called."""
    return f"<{type(obj).__name__} object, not initialized>"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_claiming._at_fork_reinit)
