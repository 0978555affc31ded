"""Cancellation scopes, pure Python: what a thread is in, and what ends its waits.

A scope keeps the gates (see `_common.sleep`) of the threads that wait in it. A thread has the scope
watch its gate and then looks whether the scope is cancelled; a thread that cancels it first says so
and then opens the gates. So one of them sees the other, and a wait is never left asleep.
"""

from .._common.guard import Guard, guard_of
from .._common.originals import LockType, local

__all__ = ["Scope", "current_scope", "enter_scope"]


class Scope:
    """What can be cancelled as a whole: the waits of the threads that are in it.

    Internal: a TaskGroup has one.
    """

    __module__ = "nogil_sync"
    __slots__ = ("__closed", "__gates", "__guard", "__weakref__", "is_cancelled")

    def __init__(self) -> None:
        self.is_cancelled = False  # read without a call; changed by `cancel` and `close`
        self.__closed = False
        self.__gates: dict[LockType, None] = {}
        self.__guard: Guard = guard_of(self)

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, and is not closed."""
        return self.is_cancelled

    def cancel(self) -> None:
        """Cancel it, unless it is closed: wake all threads that wait in it."""
        later: BaseException | None = None
        while True:  # twice: an interrupt can also come where a loop jumps back
            try:
                while True:
                    try:
                        with self.__guard:
                            if not self.__closed:
                                self.is_cancelled = True
                        for gate in list(self.__gates):
                            try:
                                gate.release()
                            except RuntimeError:
                                pass  # open already
                        break
                    except BaseException as another:
                        later = later or another
                break
            except BaseException as another:
                later = later or another
        if later is not None:
            raise later

    def close(self) -> None:
        """Have it count as no scope from here on, whether or not it was cancelled."""
        self.__guard.held = True
        try:
            self.__closed = True
            self.is_cancelled = False
        finally:
            del self.__guard.held

    def watch(self, gate: LockType, /) -> None:
        """Have `cancel` open this gate, or open it now if the scope is cancelled."""
        self.__gates[gate] = None
        if self.is_cancelled:
            try:
                gate.release()
            except RuntimeError:
                pass  # open already

    def unwatch(self, gate: LockType, /) -> None:
        """Forget the gate; it may be forgotten already."""
        self.__gates.pop(gate, None)


class _Here(local):
    scope: Scope | None = None  # the scope that this thread is in


here = _Here()


def current_scope() -> Scope | None:
    """The scope that this thread is in."""
    return here.scope


def enter_scope(scope: Scope | None, /) -> Scope | None:
    """Have this thread be in the scope, or in none; return the one that it was in."""
    before = here.scope
    here.scope = scope
    return before
