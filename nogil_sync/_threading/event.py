"""Event, pure Python.

All who wait between two ``set`` share one round (see `_round`).  So ``set`` is one step and one
wake-up however many wait, a ``clear`` right after it takes nothing back, and there is no queue
that an interrupted waiter could be left in.
"""

from .._common.guard import Guard, guard_of
from .._common.object import SyncObject, uninitialized
from ._arguments import wait_timeout
from ._round import Round

__all__ = ["Event"]


class Event(SyncObject):
    """A flag that threads wait for, as ``threading.Event``.

    What a thread did before :meth:`set` is visible to those whose :meth:`wait` or
    :meth:`is_set` saw it. :meth:`is_set`, and :meth:`wait` on a set event, are one load.

    >>> import threading
    >>> from nogil_sync import Event
    >>> ready = Event()
    >>> thread = threading.Thread(target=ready.set)
    >>> thread.start()
    >>> ready.wait(timeout=10)
    True
    >>> thread.join()
    """

    __module__ = "nogil_sync"
    __slots__ = ("__flag", "__guard", "__round")

    def __init__(self) -> None:
        super().__init__()
        self.__round: Round | None = None
        self.__flag = False
        self.__guard: Guard = guard_of(self)

    def __repr__(self) -> str:
        try:
            state = "set" if self.__flag else "unset"
        except RecursionError:
            raise
        except RuntimeError:
            return uninitialized(self)
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self.__flag

    def set(self) -> None:
        """Set the flag and wake all who wait for it.

        They return true even if :meth:`clear` follows at once.
        """
        ended = None
        try:
            with self.__guard:
                self.__flag = True
                ended = self.__round
                if ended is not None:
                    ended.over = True
                    self.__round = None
        finally:  # also when a Ctrl-C arrives right after the section
            if ended is not None:
                try:
                    ended.gate.release()
                except RuntimeError:
                    pass  # already open: one of those who wait looked at `over` first

    def clear(self) -> None:
        """Reset the flag: :meth:`wait` blocks again."""
        with self.__guard:
            self.__flag = False

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the flag is set, at most `timeout` seconds; return whether it was.

        ``None`` waits for ever, zero or less does not wait. NaN is a ``ValueError``, a
        time-out too large for the system an ``OverflowError``. A Ctrl-C interrupts the
        wait in the main thread.
        """
        seconds = wait_timeout(timeout)
        if Event.is_set(self):
            return True
        if seconds == 0:
            return False
        fresh = Round()
        with self.__guard:
            this = self.__round or fresh
            was_set = self.__flag  # looked at again where no `set` can come between
            if not was_set:
                self.__round = this
        if was_set:
            return True
        return this.wait(seconds)

    def _at_fork_reinit(self) -> None:
        """Nothing to do in the child: no lock is held, and rounds keep no list of threads."""
        self.__flag  # noqa: B018  (an uninitialised object is an error here, too)
