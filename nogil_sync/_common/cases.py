"""Cases of a select that are written in Python, for both backends: timers and task groups.

A select asks each such case by `Case._case_take`. It sleeps until one of the events is set, or
until the earliest due time, and asks again: another thread may have been faster. Then it sleeps on.
"""

from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._backend import Event


class Case:
    """The base of the classes whose objects ``select`` takes as cases."""

    __slots__ = ()

    def _case_event(self) -> "Event | None":
        """The event that is set once the case can go ahead; always the same one.

        ``None`` if no other thread can make the case ready, so that only time counts. A select asks
        this of each case before it does any: it raises if ``__init__`` was not called.
        """
        return None

    def _case_due(self) -> float:
        """The ``time.monotonic()`` at which the case will be ready; ``inf`` if it never will.

        Once that has come and the case was taken, here or by another thread, it must say another
        time: a select asks a case that is due again and again, without a sleep. (While a case stays
        due and is not ready, ``try_select`` does not end, nor does the time-out end a select. No
        public class does that. The times that a case says at two looks are not compared: the native
        backend converts them to its own clock, which gives slightly different numbers.)
        """
        return inf

    def _case_take(self) -> tuple[Any, bool] | None:
        """If the case is ready, do it: the value, and whether it is closed. Else ``None``."""
        raise NotImplementedError
