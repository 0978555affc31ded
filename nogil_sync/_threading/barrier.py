"""Barrier, pure Python: the threads that wait are in one line, of the round under way.

The value says which round that is, whether the barrier is broken, and which waiter is the *leader*:
the one that came last and runs the action. The end of a round is one step, which takes all waiters
out of the line, makes a new round, and hands the old one over to its outcome. So a waiter that
wakes late still finds how its own round ended.
"""

import os
from collections.abc import Callable
from typing import Any, Final, SupportsIndex, TypeAlias

from .._common.awaited import AwaitedBarrier
from .._common.cancelled import MESSAGE, Cancelled
from .._common.object import SyncObject, before_init, lacks, uninitialized, until_init
from .._common.originals import BrokenBarrierError, get_ident
from ._arguments import exact_int, wait_timeout
from ._wait import NOBODY, Change, Line, Request, Waiter, Waiters, need_room
from .scope import here

__all__ = ["Barrier"]

_MAX = (1 << 31) - 1


class _Round(Request):
    """Once `done`, its `item` has the waiters that passed, in their order; or it was broken."""

    __slots__ = ()


# What an arrival is told besides the round that it belongs to.
_REFUSED: Final = object()  # the barrier is broken
_LATE: Final = object()  # an action is running: arrive again when it is over
_LEADS: Final = object()  # it came last, and runs the action
_NESTED: Final = object()  # its thread is running the action

_NOBODY_PASSED: Final[Waiters] = ()

# The leader, the process and the thread in which it became that, and all parties in their order. In
# the child of a fork it is none: if its thread lives on there, it passes by itself.
_Leader: TypeAlias = tuple[Waiter, int, int, Waiters]
# What a step hands over: to whom, and what.
_Handed: TypeAlias = tuple[Request, Any]
_Value: TypeAlias = tuple[_Round, _Leader | None, bool, _Handed | None]


class _Parties(Line):
    """The value is a `_Value`, a request what its arrival is told."""

    __slots__ = ("action", "parties", "seconds")
    state: tuple[_Value, Waiters]
    hands_over = True

    def __init__(
        self, parties: int, action: Callable[[], object] | None, seconds: float | None
    ) -> None:
        super().__init__((_Round(), None, False, None))
        self.parties = parties
        self.action = action
        self.seconds = seconds

    def hand_over(self, value: _Value) -> tuple[_Value, Request, Any, Request]:
        this, leader, broken, handed = value
        taker, item = handed or (NOBODY, None)
        return (this, leader, broken, None), taker, item, NOBODY

    def admit(self, value: _Value, waiters: Waiters) -> Change:
        this, leader, broken, _ = value
        if leader is not None and leader[1] != os.getpid():
            late = tuple(each for each in waiters if each.request.item is _LATE)
            waiters = tuple(each for each in waiters if each not in late)
            value, waiters, granted = self.admit((this, None, broken, None), waiters)
            return value, waiters, granted + late
        me = waiters[-1] if waiters else None
        if me is None or me.request.item is not None:  # it is in line already
            return (this, leader, broken, None), waiters, ()
        if broken:
            return (this, leader, broken, (me.request, _REFUSED)), waiters[:-1], (me,)
        if leader is not None:
            if leader[2] == get_ident():  # the thread that arrives is the one that calls this
                return (this, leader, broken, (me.request, _NESTED)), waiters[:-1], (me,)
            return (this, leader, broken, (me.request, _LATE)), waiters, ()
        if len(waiters) < self.parties:
            return (this, leader, broken, (me.request, this)), waiters, ()
        if self.action is None:
            return self.__end(this, False, waiters, waiters)
        leader = me, os.getpid(), get_ident(), waiters
        leads = (this, leader, broken, (me.request, _LEADS))
        return leads, waiters[:-1], (me,)

    def give(self, value: _Value, waiters: Waiters, _request: Any) -> Change:
        """Nothing is taken back: the others went on."""
        return value, waiters, ()

    def returns(self, _request: Any) -> bool:
        return False

    def __end(self, this: _Round, broken: bool, passed: Waiters, waiters: Waiters) -> Change:
        return (_Round(), None, broken, (this, passed)), (), waiters

    def end(self, value: _Value, waiters: Waiters, broken: bool) -> Change:
        """Of an abort or a reset."""
        return self.__end(value[0], broken, _NOBODY_PASSED, waiters)

    def finish(self, value: _Value, waiters: Waiters, me: Waiter, pid: int) -> Change:
        """The leader's action succeeded."""
        this, leader, _, _ = value
        if leader is not None and leader[0] is me and leader[1] == os.getpid():
            return self.__end(this, False, leader[3], waiters)
        if pid == os.getpid():
            raise _broken()
        return value, waiters, ()

    def give_up(self, value: _Value, waiters: Waiters, me: Waiter) -> Change:
        """Break the round, unless all have arrived, or this waiter is not of it any more.

        A leader that gives up does not get to the end of its action, and breaks it too.
        """
        this, leader, _, _ = value
        if leader is not None and leader[1] == os.getpid():
            breaks = leader[0] is me
        else:
            breaks = me in waiters
        if breaks:
            return self.__end(this, True, _NOBODY_PASSED, waiters)
        return value, waiters, ()

    def pass_once(self, seconds: float | None) -> int | None:
        """Wait for the round to end; the index, or None to arrive again."""
        arrival = Request()
        me = Waiter(self, arrival)
        pid = os.getpid()
        timed_out = keep = settled = False
        later: BaseException | None = None
        # The last to come need not stand in line. (Another thread may be faster.)
        comes_last = len(self.state[1]) + 1 >= self.parties
        if comes_last and self.action is None:
            need_room()  # for waking the others
        else:
            need_room(40)  # for giving up, which itself needs room for a change
        try:
            if comes_last:
                self.attempt(me)
            if not me.kept:
                if comes_last:
                    need_room(40)
                self.join(me, None if seconds == 0 else here.scope)
            while True:
                if not me.kept:
                    self.sleep(me, seconds)
                if me.kept or me.cancelled:
                    break
                self.change(self.give_up, me)
                timed_out = me not in self.state[1]
                if timed_out:
                    break
                seconds = None  # all have arrived: now it is up to the action
            if arrival.item is _LEADS:
                if self.action is not None:
                    self.action()
                self.change(self.finish, me, pid)
            keep = me.kept or not me.cancelled
            settled = me.kept and me.gate is None and me.sent_away is None
        finally:
            if not settled:
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while True:
                            try:
                                if not keep and not lacks(self, Line, "state"):  # no garbage
                                    self.change(self.give_up, me)
                                self.leave(me, keep)
                                break
                            except BaseException as another:
                                keep = False
                                later = later or another
                        break
                    except BaseException as another:
                        keep = False
                        later = later or another
        if later is not None:  # and it was the first
            raise later
        if me.cancelled and not me.kept:
            raise Cancelled(MESSAGE)
        return self.__outcome(arrival.item, me, timed_out)

    def __outcome(self, told: Any, me: Waiter, timed_out: bool) -> int | None:
        if told is _LATE:
            return None
        if told is _NESTED:
            raise RuntimeError("the action of a barrier cannot wait for it")
        if told is None or told is _LEADS:
            return self.parties - 1
        if told is _REFUSED or not told.item:
            raise _broken(timed_out)
        passed: Waiters = told.item
        return passed.index(me)

    def collect(self, me: Waiter, pid: int) -> int | None:
        """What the call returns for a waiter without a thread, which was served."""
        told = me.request.item
        if told is _LEADS:
            if self.action is not None:
                self.action()
            self.change(self.finish, me, pid)
        return self.__outcome(told, me, False)

    def waiting(self) -> int:
        """How many have arrived in this round."""
        (_, leader, _, _), waiters = self.state
        if leader is not None and leader[1] == os.getpid():
            return self.parties
        return len(waiters)


def _broken(timed_out: bool = False) -> BrokenBarrierError:
    if timed_out:
        return BrokenBarrierError("timed out waiting for the other threads")
    return BrokenBarrierError("the barrier is broken, or was reset")


class Barrier(SyncObject, AwaitedBarrier):
    """Lets a number of threads wait for each other, as ``threading.Barrier``.

    Each of the `parties` threads calls :meth:`wait`, and all of them go on when the last has
    come; then the barrier can be used again. The last to come first calls `action`, if
    there is one. `timeout`, in seconds, is that of each :meth:`wait` that is given none.
    What a thread did before its :meth:`wait` is visible to `action`, and to all of them
    after theirs.

    All pass, or none: if a thread gives up (a time-out, a Ctrl-C, the cancellation of the task
    group that runs it), or `action` raises, the barrier is *broken*. The waits of the others
    then raise ``threading.BrokenBarrierError``, also those that come later, until
    :meth:`reset`. Once all threads have come only `action`, :meth:`abort` or :meth:`reset` can
    keep them from passing.

    Fewer than one party is a ``ValueError``, more than 2**31 - 1 an ``OverflowError``. An
    `action` that cannot be called is a ``TypeError``. It may use the barrier, but not wait
    for it: that is a ``RuntimeError``.

    Arriving takes a short lock. The last to come wakes all others, and waits for none of
    them: a thread may come for the next round while others still leave this one.

    >>> import threading
    >>> from nogil_sync import Barrier
    >>> rows, sums = [[1, 2], [3, 4], [5, 6]], []
    >>> everyone = Barrier(3, lambda: sums.append("all rows are summed"))
    >>> def work(row):
    ...     sums.append(sum(row))
    ...     everyone.wait()
    ...     assert len(sums) == 4
    >>> threads = [threading.Thread(target=work, args=(row,)) for row in rows]
    >>> for thread in threads: thread.start()
    >>> for thread in threads: thread.join()
    >>> sums[-1]
    'all rows are summed'
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line",)

    def _SyncObject__fill(self) -> None:
        self.__line: _Parties = until_init(self)

    def __init__(
        self,
        parties: SupportsIndex,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
    ) -> None:
        number = exact_int(parties)
        if number < 1:
            raise ValueError("parties must be >= 1")
        if number > _MAX:
            raise OverflowError("parties is too large")
        if action is not None and not callable(action):
            raise TypeError("action must be callable or None")
        line = _Parties(number, action, wait_timeout(timeout))
        super().__init__()
        self.__line = line

    def __repr__(self) -> str:
        line = self.__line
        if before_init(line):
            return uninitialized(self)
        cls = type(self)
        state = "broken" if line.state[0][2] else f"waiters={line.waiting()}/{line.parties}"
        return f"<{cls.__module__}.{cls.__qualname__} at {id(self):#x}: {state}>"

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come; return how many had come before this thread.

        So each gets another number, from 0 to ``parties - 1``: to choose one of them for
        something, for example. At most `timeout` seconds pass until the last one has come, or
        those of the barrier if it is ``None``; then the barrier is broken. Zero or less does
        not wait. NaN is a ``ValueError``, a time-out too large for the system an
        ``OverflowError``.

        ``threading.BrokenBarrierError`` if the barrier is or gets broken, or is reset. A
        Ctrl-C interrupts the wait in the main thread; so does the cancellation of the task
        group that the wait is in: ``Cancelled``. Either breaks the barrier unless all have come.

        >>> from nogil_sync import Barrier
        >>> Barrier(1).wait()
        0
        >>> Barrier(2).wait(timeout=0.01)
        Traceback (most recent call last):
        threading.BrokenBarrierError: timed out waiting for the other threads
        """
        seconds = wait_timeout(timeout)
        line = self.__line
        if timeout is None:
            seconds = line.seconds
        while True:
            index = line.pass_once(seconds)
            if index is not None:
                return index

    def reset(self) -> None:
        """Make the barrier as new; threads that wait get ``threading.BrokenBarrierError``."""
        self.__line.change(self.__line.end, False)

    def abort(self) -> None:
        """Break the barrier: for a thread that will not come."""
        self.__line.change(self.__line.end, True)

    @property
    def _default_timeout(self) -> float | None:
        return self.__line.seconds

    @property
    def parties(self) -> int:
        """How many threads wait for each other."""
        return self.__line.parties

    @property
    def n_waiting(self) -> int:
        """How many have come and wait for the others."""
        return self.__line.waiting()

    @property
    def broken(self) -> bool:
        """Whether the barrier is broken."""
        return self.__line.state[0][2]
