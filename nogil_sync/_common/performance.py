"""The warning of both backends about sharded objects that threads share without pinning them."""

import warnings

__all__ = ["PerformanceWarning"]


class PerformanceWarning(RuntimeWarning):
    """An object is used in a way that keeps threads from scaling.

    Given in development mode (``-X dev``) only, by the native backend only, and once for
    each line of code that creates such objects: a sharded object (``ShardedCounter``, …)
    was used by several threads more than 100 000 times without being pinned, so that the
    threads contend for its reference count instead of its value.

    Either remedy ends it: pin the object with :func:`nogil_sync.pin` at start-up, or fetch
    the bound method once per thread (``add = counter.add``) and call that.
    """

    __module__ = "nogil_sync"


# Creation sites that have had their warning.  Only `setdefault` touches it: one atomic call.
_reported: dict[tuple[str, int], object] = {}


def report(filename: str | None, lineno: int, type_name: str) -> None:
    """Warn about the objects created at this line, the first time only.  Never raises."""
    try:
        token = object()
        filename = filename or "<unknown>"
        if _reported.setdefault((filename, lineno), token) is not token:
            return
        warnings.warn_explicit(
            f"several threads share the {type_name} created here without it being pinned, and "
            "contend for its reference count: pin it with nogil_sync.pin() at start-up, and also "
            "the object whose attribute it is or the closure that holds it; or fetch the bound "
            "method once per thread and call that",
            PerformanceWarning,
            filename,
            lineno,
        )
    except BaseException as error:  # a filter turned the warning into an error
        Unraisable(error)


class Unraisable:
    """Takes an error to ``sys.unraisablehook``, as only a finaliser can."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error
