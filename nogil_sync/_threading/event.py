"""Event, pure Python: a word (see `_wait`) that is 1 while the flag is set."""

from .._common.awaited import AwaitedEvent
from .._common.object import SyncObject
from ._arguments import wait_timeout
from ._wait import Word, need_room

__all__ = ["Event"]


class Event(SyncObject, AwaitedEvent):
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
    __slots__ = ("__word",)

    def _SyncObject__fill(self) -> None:
        self.__word = Word(0)

    def __init__(self) -> None:
        super().__init__()

    def __repr__(self) -> str:
        state = "set" if self.__word.value else "unset"
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self.__word.value != 0

    def set(self) -> None:
        """Set the flag and wake all who wait for it.

        They return true even if :meth:`clear` follows at once.
        """
        word = self.__word
        if word.round is not None:
            need_room()
        ended = None
        later: BaseException | None = None
        try:
            with word.guard:
                word.value = 1
                ended = word.round
                if ended is not None:
                    ended.over = True
                    word.round = None
        finally:  # also when a Ctrl-C arrives right after the section
            if ended is not None:
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while True:
                            try:
                                ended.open()
                                break
                            except BaseException as another:
                                later = later or another
                        break
                    except BaseException as another:
                        later = later or another
        if later is not None:  # and it was the first
            raise later

    def clear(self) -> None:
        """Reset the flag: :meth:`wait` blocks again."""
        word = self.__word
        with word.guard:
            word.value = 0

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the flag is set, at most `timeout` seconds; return whether it was.

        ``None`` waits for ever, zero or less does not wait. NaN is a ``ValueError``, a
        time-out too large for the system an ``OverflowError``. A Ctrl-C interrupts the
        wait in the main thread, and the cancellation of the task group for which this thread
        works does so in any (:exc:`Cancelled`).
        """
        return self.__word.wait(1, wait_timeout(timeout))

    def _at_fork_reinit(self) -> None:
        """Nothing to do in the child: no lock is held, and rounds keep no list of threads."""
