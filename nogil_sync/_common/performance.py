"""The warning of both backends about sharded objects that threads contend for, on 3.13t."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["PerformanceWarning"]


class PerformanceWarning(RuntimeWarning):
    """An object is used in a way that keeps threads from scaling.

    Given in development mode (``-X dev``) only, by the native backend on 3.13t only, and once for
    each line of code that creates such objects: a sharded object (``ShardedCounter``, …)
    was used by several threads more than 100 000 times, and they contended for something
    else than its value. The warning names what it was, and the remedy:

    - the object's own reference count: pin it with :func:`nogil_sync.pin` at start-up, or fetch
      the bound method once per thread (``add = counter.add``) and call that;
    - the reference count of the object whose attribute it is, often a ``self`` that threads share:
      pin that object as well, or fetch the bound method once per thread;
    - the reference count of a bound method that threads share: fetch it once per thread;
    - the lock of a closure's variable: copy the variable to a local one, once per thread.

    From 3.14 on none of these needs a remedy, and none is reported.
    """

    __module__ = "nogil_sync"


# The creation sites already reported.  Only `setdefault`, one atomic call, changes the dict.
_reported: dict[tuple[str, int], object] = {}


class Found(NamedTuple):
    """What threads contend for."""

    #: The object's own count.
    counted: bool
    #: The count of an object of this type, whose attribute it is.
    holder: str | None
    #: The count of a bound method.
    method: bool
    #: The lock of this variable of a closure.
    variable: str | None


def report(
    filename: str | None,
    lineno: int,
    type_name: str,
    found: tuple[bool, str | None, bool, str | None],
) -> None:
    """Warn about the objects created at this line, the first time only.  Never raises."""
    try:
        token = object()
        filename = filename or "<unknown>"
        if _reported.setdefault((filename, lineno), token) is not token:
            return
        parts = "; and for ".join(_parts(Found(*found)))
        warnings.warn_explicit(
            f"several threads share the {type_name} created here, and contend for {parts}",
            PerformanceWarning,
            filename,
            lineno,
        )
    except BaseException as error:  # a filter turned the warning into an error
        Unraisable(error)


def _parts(found: Found) -> Iterator[str]:
    if found.counted:
        yield (
            "its reference count, as it is not pinned: pin it with nogil_sync.pin() at start-up, "
            "or fetch the bound method once per thread and call that"
        )
    if found.holder is not None:
        yield (
            f"the reference count of the {found.holder} whose attribute it is: pin that "
            f"{found.holder} with nogil_sync.pin() at start-up, or fetch the bound method once per "
            "thread and call that"
        )
    if found.method:
        yield (
            "the reference count of a bound method that they share: let each thread fetch the "
            "bound method for itself"
        )
    if found.variable is not None:
        yield (
            f"the lock of the closure's variable {found.variable!r}: let each thread copy that "
            "variable to a local one"
        )


class Unraisable:
    """Passes an error to ``sys.unraisablehook``, which only a finaliser can do."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error
