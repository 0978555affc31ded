"""``WaitGroup.go``: a thread that counts; for both backends."""

import contextvars
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol


class _Group(Protocol):
    def add(self) -> None: ...

    def done(self) -> None: ...


class _Worker(threading.Thread):
    """Runs in a context of its own, and tells the group when nothing of it is left."""

    def __init__(
        self,
        group: _Group,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__(target=fn, args=args, kwargs=kwargs, daemon=False)
        # Whoever takes the group out counts down: the thread, or the one who fails to start it.
        self.__group = [group]
        self.__own = [contextvars.copy_context()]

    def run(self) -> None:
        try:
            group = self.__group.pop()
        except IndexError:
            return  # start() was interrupted, and the thread started nevertheless
        try:
            try:
                self.__own.pop().run(super().run)  # which drops the function and its arguments
            except BaseException:
                _report(self)
        finally:
            group.done()

    def abandon(self) -> None:
        """The thread did not start, or must not do anything."""
        try:
            group = self.__group.pop()
        except IndexError:
            return  # it is under way already, and counts down itself
        group.done()


def _report(thread: threading.Thread) -> None:
    """Hand the exception to ``threading.excepthook``, as a thread does when it ends."""
    try:
        args = threading.ExceptHookArgs((*sys.exc_info(), thread))
        threading.excepthook(args)
    except Exception:
        sys.excepthook(*sys.exc_info())


def spawn(
    group: _Group, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> threading.Thread:
    """Count one and call the function in a thread, which counts down when it is done."""
    if not callable(fn):
        raise TypeError(f"fn must be callable, not {type(fn).__name__}")
    worker = _Worker(group, fn, args, kwargs)
    group.add()
    try:
        worker.start()
    except BaseException:
        worker.abandon()
        raise
    return worker
