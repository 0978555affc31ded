"""select and try_select, pure Python: one call that stands in the lines of several objects.

The cases of a select compete for its *contest*. It has a place (see `_wait`) in the line of each
channel, and in a round of each event and wait group; all places have one gate. What serves one of
them first has it win the contest; from then on the others are passed by. A step that serves a
case of a channel wins the contest in the same section that installs the new state, and it finds
there that nobody else has won it. So all channels share one guard. A round that ends, a time that
has come and a channel that is closed take nothing from anybody: these the select finds by itself,
when it looks, and then wins its own contest.

Two selects that meet in a channel win both contests in one section. The two cases of one select
never meet: see `_pair` in `channel`.

A select that ends wins its contest for no case, unless that was won already. So it knows whether it
was served before it leaves the lines.

A signal handler's call for one of the channels takes the place of the suspended select, as it does
that of a `recv`: all cases of the select are away meanwhile, and what it had been granted goes
back. Then the select looks at all its cases again.

**Without a thread** (`async_waiter`) the same cases have an `AsyncWaiter` for their gate. It looks
at all of them in the thread that opens it. Times it leaves to its owner.
"""

from collections.abc import Callable
from math import inf
from random import Random
from time import monotonic
from typing import Any

from .._common.awaited import warn_blocking
from .._common.cancelled import MESSAGE, Cancelled
from .._common.cases import Case
from .._common.channel_closed import ChannelClosed
from .._common.guard import Receipt
from .._common.selected import Selected
from .._common.sleep import closed_gate, sleep_at
from ._arguments import wait_timeout
from ._wait import WARNS, Contest, Gate, Place, Round, Step, Waiter, Word, need_room
from .channel import Channel, Sending, _guard, _Items, _Receive, _Send
from .event import Event
from .scope import Scope, here
from .waitgroup import WaitGroup

__all__ = ["select", "try_select"]

# Winners that are no case's number; those begin at 1.
_NONE = 0  # the select has ended
_PENDING = -1  # a case that is Python code is being asked


class _NoGate:
    """The gate of a case that nobody is to open any more: so it does not refer to its waiter."""

    def release(self) -> None:
        pass


_NO_GATE = _NoGate()

_random: Callable[[], float] = Random().random  # noqa: S311  (no secrets)


def _win(contest: Contest, number: int) -> None:
    """Win the contest for this case, unless it was won."""
    _guard.held = True
    try:
        if contest.winner is None:
            contest.winner = number
    finally:
        del _guard.held


class _Seat(Waiter):
    """A place in the line of a channel."""

    __slots__ = ("contest",)

    def __init__(self, line: _Items, request: Any, contest: Contest) -> None:
        self.contest = contest
        super().__init__(line, request)

    @property
    def away(self) -> bool:
        """Whether the thread is in a nested call for an object of any of the cases."""
        return self.contest.away

    @away.setter
    def away(self, away: bool) -> None:
        self.contest.away = away


class _ToSend(_Send):
    """What one case asks for."""

    __slots__ = ("contest", "number")

    def __init__(self, item: Any, contest: Contest, number: int) -> None:
        super().__init__(item)
        self.contest = contest
        self.number = number


class _ToReceive(_Receive):
    """What one case asks for."""

    __slots__ = ("contest", "number")

    def __init__(self, contest: Contest, number: int) -> None:
        super().__init__()
        self.contest = contest
        self.number = number


class _OfChannel:
    """A case that sends to a channel or receives from it."""

    __slots__ = ("case", "contest", "line", "request", "returned", "seat", "seen", "step")

    def __init__(self, case: object, line: _Items, request: Any) -> None:
        self.case = case
        self.contest: Contest = request.contest
        self.line = line
        self.request = request
        self.step = self.seat = _Seat(line, request, request.contest)
        self.seen: Any = None
        self.returned = Receipt()

    def attempt(self) -> None:
        """Do it if that is possible at once; to be followed by `leave`."""
        self.line.attempt(self.seat)
        self.__find_closed()

    def glance(self) -> bool:
        """Whether it was impossible; from here on `unchanged` tells whether it still is."""
        self.seen = state = self.line.state
        return not (
            self.line.would_serve(state, self.seat) or self.line.refuses(state[0], self.request)
        )

    def unchanged(self) -> bool:
        return self.line.state is self.seen

    def join(self, gate: Gate) -> None:
        """Queue up; to be followed by `leave`."""
        self.line.join_with_gate(self.seat, gate)

    def look(self, _timed: bool) -> bool:
        """Find out whether it can be done by now, and do it.

        True if the other cases are to look again.
        """
        self.line.look_for(self.seat)
        self.__find_closed()
        return False

    def leave(self, keep: bool) -> None:
        """Leave the line; keep what was granted, or give it back."""
        seat = self.seat
        if seat.joined or seat.gate is not None or seat.sent_away is not None:
            self.line.leave(seat, keep)

    def due(self) -> float:
        """When it will be possible without any other thread's help."""
        return inf

    def outcome(self) -> tuple[Any, bool]:
        """The value, and whether the channel is closed; or the error."""
        request = self.request
        if isinstance(request, _Receive):
            return request.item, not request.done
        if not request.done:
            raise ChannelClosed("the channel is closed")
        return None, False

    def enter(self, gate: Gate) -> None:
        """Queue up without a thread, or be served at once."""
        seat = self.seat
        seat.thread = 0
        seat.outer = None
        seat.gate = gate
        self.line.join_without_thread(seat)

    def withdraw(self) -> None:
        """Leave the queue after `enter`, if it is there."""
        line = self.line
        if self.seat in line.state[1]:
            line.change(line.without, self.seat)

    def forget_gate(self) -> None:
        """Let go of the gate that `enter` got, which nobody is to open any more."""
        self.seat.gate = _NO_GATE

    def give_back(self) -> bool:
        """Give back what was granted, after `enter`; whether that can be done."""
        line = self.line
        if not line.returns(self.request):
            return False
        if not self.returned.done:
            line.change(line.give, self.request, receipt=self.returned)
        return True

    def __find_closed(self) -> None:
        """Win the contest if the channel refuses the request."""
        line = self.line
        contest = self.contest
        number = self.request.number
        while True:
            state = line.state
            if contest.winner is not None or not line.refuses(state[0], self.request):
                return
            _guard.held = True
            try:
                if contest.winner is None and line.state is state:
                    contest.winner = number
            finally:
                del _guard.held


class _OfWord:
    """A case that is ready when an event is set or a wait group has come to zero."""

    __slots__ = ("case", "contest", "number", "place", "seen", "step", "value", "word")

    def __init__(self, case: object, word: Word, value: int, contest: Contest, number: int) -> None:
        self.case = case
        self.word = word
        self.value = value
        self.contest = contest
        self.number = number
        self.step = Step()
        self.place: Place | None = None
        self.seen: Round | None = None

    def attempt(self) -> None:
        if self.word.value == self.value:
            _win(self.contest, self.number)

    def glance(self) -> bool:
        self.seen = self.word.begin_round(self.value)
        return self.seen is not None

    def unchanged(self) -> bool:
        return self.seen is not None and not self.seen.over

    def join(self, gate: Gate) -> None:
        self.place = place = Place(gate)
        if self.word.join(self.value, place):
            _win(self.contest, self.number)

    def look(self, _timed: bool) -> bool:
        place = self.place
        if place is not None and place.round is not None and place.round.over:
            _win(self.contest, self.number)
        return False

    def leave(self, _keep: bool) -> None:
        if self.place is not None:
            self.word.leave(self.place)

    def due(self) -> float:
        return inf

    def outcome(self) -> tuple[Any, bool]:
        return None, False

    enter = join

    def withdraw(self) -> None:
        self.leave(False)

    def forget_gate(self) -> None:
        if self.place is not None:
            self.place.gate = _NO_GATE

    def give_back(self) -> bool:
        return True


class _OfPython(_OfWord):
    """A case that is Python code: it is asked when its event is set, and when it is due."""

    __slots__ = ("taken",)
    case: Case

    def __init__(self, case: Case, contest: Contest, number: int) -> None:
        event = case._case_event()
        word = Word(0) if event is None else event._Event__word  # type: ignore[attr-defined]
        super().__init__(case, word, 1, contest, number)
        self.taken: tuple[Any, bool] | None = None

    def attempt(self) -> None:
        self.__ask()

    def glance(self) -> bool:
        return super().glance() and self.case._case_due() > monotonic()

    def unchanged(self) -> bool:
        return super().unchanged() and self.case._case_due() > monotonic()

    def look(self, timed: bool) -> bool:
        super().look(timed)
        return timed and self.case._case_due() <= monotonic() and not self.__ask()

    def due(self) -> float:
        return self.case._case_due()

    def outcome(self) -> tuple[Any, bool]:
        # Its event is set, if it was not asked: then it stays ready.
        return self.taken or self.case._case_take() or (None, False)

    def __ask(self) -> bool:
        """Do it if it is ready, and win the contest.

        False if it was not ready, but others may have passed the select by meanwhile.
        """
        contest = self.contest
        _win(contest, _PENDING)
        if contest.winner != _PENDING:
            return True
        try:
            self.taken = self.case._case_take()
        finally:
            contest.winner = None if self.taken is None else self.number
        return contest.winner is not None


_Case = _OfChannel | _OfWord


def _case(case: object, contest: Contest, number: int) -> _Case:
    if isinstance(case, Channel):
        line: _Items = case._Channel__line  # type: ignore[attr-defined]
        line.state  # noqa: B018  (an error before __init__)
        return _OfChannel(case, line, _ToReceive(contest, number))
    if isinstance(case, Sending):
        return _OfChannel(case, case._line, _ToSend(case._item, contest, number))
    if isinstance(case, Event):
        word: Word = case._Event__word  # type: ignore[attr-defined]
        return _OfWord(case, word, 1, contest, number)
    if isinstance(case, WaitGroup):
        return _OfWord(case, case._WaitGroup__word, 0, contest, number)  # type: ignore[attr-defined]
    if isinstance(case, Case):
        return _OfPython(case, contest, number)
    raise TypeError(f"select: {type(case).__name__!r} object is not a case")


class _Selection:
    """One call of select."""

    __slots__ = ("__cases", "__contest", "__gate", "__order", "__scope")

    def __init__(self, cases: tuple[object, ...]) -> None:
        if not cases:
            raise ValueError("select needs at least one case")
        self.__contest = contest = Contest()
        self.__cases = [_case(case, contest, number) for number, case in enumerate(cases, 1)]
        self.__order = self.__cases[:]  # at random, from the first attempt on
        self.__gate: Any = None
        self.__scope: Scope | None = None

    def perform(self, seconds: float | None) -> Selected | None:
        """Do one of the cases, waiting at most so many seconds; None if none was ready."""
        chosen: Selected | None = None
        keep = cancelled = False
        later: BaseException | None = None
        try:
            if seconds == 0:
                self.__attempt_as_of_one_moment()
            else:
                self.__attempt()
                if self.__contest.winner is None:
                    cancelled = self.__wait(seconds)
            chosen = self.__chosen()
            keep = True
        finally:
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while True:
                        try:
                            self.__leave(keep)
                            break
                        except BaseException as another:
                            keep = False
                            later = later or another
                    break
                except BaseException as another:
                    keep = False
                    later = later or another
        # No call from here to the end of `select`: an interrupt would lose the item.
        if later is not None:  # and it was the first
            raise later
        if cancelled and chosen is None:
            raise Cancelled(MESSAGE)
        return chosen

    def enter_with(self, gate: Gate) -> None:
        """Stand in the lines of all cases without a thread, or have one done at once."""
        need_room()
        order = self.__order
        start = int(_random() * len(order))
        for each in order[start:] + order[:start]:
            each.enter(gate)
            if self.served():
                break
        self.look()

    def look(self) -> None:
        """Find out, after `enter_with`, whether a case can be done by now, and do it."""
        for each in self.__order:
            each.look(False)
        if self.served():
            self.__withdraw()

    def served(self) -> bool:
        winner = self.__contest.winner
        return winner is not None and winner > 0

    def leave(self) -> bool:
        """Leave all lines after `enter_with`, or give back what a case was granted.

        False if that cannot be given back. It is to be repeated if it is interrupted.
        """
        _win(self.__contest, _NONE)
        self.__withdraw()
        winner = self.__contest.winner
        left = not winner or self.__cases[winner - 1].give_back()
        if left:
            self.__forget_gate()
        return left

    def expire(self) -> bool:
        """Let no case be done any more, unless one was, which is kept; whether none was."""
        _win(self.__contest, _NONE)
        return not self.served()

    def outcome(self) -> tuple[Selected | None, BaseException | None]:
        """What the call returns, or the error that it raises."""
        self.__withdraw()
        self.__forget_gate()
        try:
            return self.__chosen(), None
        except ChannelClosed as error:
            return None, error

    def __withdraw(self) -> None:
        for each in self.__order:
            each.withdraw()

    def __forget_gate(self) -> None:
        """The gate refers to the selection: end the cycle, or only the collector frees them."""
        for each in self.__order:
            each.forget_gate()

    def __attempt(self) -> None:
        """Try the cases, one after the other, at random."""
        order = self.__order
        for at in range(len(order)):
            other = at + int(_random() * (len(order) - at))
            each = order[other]
            order[other] = order[at]
            order[at] = each
            each.attempt()
            if self.__contest.winner is not None:
                break

    def __attempt_as_of_one_moment(self) -> None:
        """Try the cases until one was done, or all were not ready at one moment."""
        contest = self.__contest
        while True:
            self.__attempt()
            if contest.winner is not None:
                return
            # None is ready when it is looked at first. If none has changed when it is looked at the
            # second time, then none was ready in between.
            if all(each.glance() for each in self.__order) and all(
                each.unchanged() for each in self.__order
            ):
                return

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self.__contest.winner is not None

    def holders(self) -> tuple[int, ...]:
        return ()

    def __wait(self, seconds: float | None) -> bool:
        """Wait until a case was done, at most so many seconds; whether it was cancelled instead."""
        if WARNS:
            warn_blocking()
        contest = self.__contest
        deadline = inf if seconds is None else monotonic() + seconds
        scope = here.scope
        if scope is not None and scope.is_cancelled:
            # An item may have moved from one channel to another while the cases were tried.
            self.__attempt_as_of_one_moment()
            _win(contest, _NONE)
            return True
        need_room()
        self.__gate = gate = closed_gate()
        if scope is not None:
            self.__scope = scope
            scope.watch(gate)
        for each in self.__order:
            each.join(gate)
        ended = cancelled = False
        while True:
            again = False
            for each in self.__order:
                again = each.look(True) or again
            winner = contest.winner
            if winner is not None and winner > 0:
                self.__cases[winner - 1].step.kept = True  # nothing comes between
                return False
            if winner == _NONE:
                return cancelled
            if ended:
                _win(contest, _NONE)
            elif scope is not None and scope.is_cancelled:
                ended = cancelled = True
            elif not again:
                until = min(deadline, *(each.due() for each in self.__order))
                sleep_at(gate, None if until == inf else until, about=self)
                ended = deadline != inf and monotonic() >= deadline

    def __chosen(self) -> Selected | None:
        winner = self.__contest.winner
        if winner is None or winner <= 0:
            return None
        each = self.__cases[winner - 1]
        value, closed = each.outcome()
        return Selected(each.case, value, closed)

    def __leave(self, keep: bool) -> None:
        """Leave all lines, keep what was granted or give it back; again if it is interrupted."""
        winner = self.__contest.winner
        done = self.__cases[winner - 1] if winner is not None and winner > 0 else None
        for each in reversed(self.__order):
            each.leave(keep and each is done)
        if self.__scope is not None:
            self.__scope.unwatch(self.__gate)


def select(*cases: object, timeout: float | None = None) -> Selected:
    """Wait until one of several cases can go ahead, and do that one: Go's ``select``.

    A case is one of these, and what is in brackets is the value that comes with it:

    - a :class:`Channel`: receive from it (the item)
    - what :meth:`Channel.sending` returns: send that item (``None``)
    - an :class:`Event`: wait until it is set (``None``)
    - a :class:`WaitGroup`: wait until its count is zero (``None``)
    - a :class:`TaskGroup`: wait until it is cancelled (``None``)
    - a :class:`Ticker`: wait for its next tick (the tick)
    - what :func:`after` returns: wait until its time has come, which happens once (``None``)

    Exactly one case is done, and the others are as if they had never been asked for. Which one
    tells :class:`Selected`, a named tuple: the `case` that was passed, its `value`, and whether it
    is `closed`. A channel that is closed and empty is always ready, with `closed` true and no
    value; so is a stopped ticker. Leave such a case out of the next select: a loop would find it
    ready again and again. A send to a closed channel raises :exc:`ChannelClosed`.

    If several cases are ready, the choice is random, so that none starves. The same channel may
    stand in several cases, to receive and to send, too; the cases of one select never meet each
    other.

    Waits for ever by default, or at most `timeout` seconds, and then raises ``TimeoutError``; zero
    or less does not wait. NaN is a ``ValueError``, a time-out above ``threading.TIMEOUT_MAX`` an
    ``OverflowError``. No case at all is a ``ValueError``, anything else as a case a ``TypeError``;
    nothing is done then.

    A Ctrl-C in the main thread interrupts the wait, and the cancellation of the task group for
    which this thread works ends it (:exc:`Cancelled`): then no case was done. (In the `threading`
    backend an item may have been sent, if it was accepted in the instant of the interrupt.) Signal
    handlers run meanwhile and may use these objects.

    The thread sleeps once for all cases, in the line of each. It costs about a
    :meth:`Channel.recv` for each case. (The algorithm is that of Go's ``selectgo``.)

    >>> from nogil_sync import Channel, Event, select
    >>> jobs, answers, stop = Channel(1), Channel(1), Event()
    >>> jobs.send(3)
    >>> job = select(jobs, stop).value
    >>> select(answers.sending(job * job), stop).case is stop
    False
    >>> answers.recv()
    9
    >>> stop.set()
    >>> select(jobs, stop).case is stop
    True
    >>> jobs.close()
    >>> select(jobs).closed
    True
    """
    seconds = wait_timeout(timeout)
    chosen = _Selection(cases).perform(seconds)
    if chosen is None:
        raise TimeoutError("timed out waiting for a case")
    return chosen


def try_select(*cases: object) -> Selected | None:
    """Do one of several cases if one can go ahead now; else return ``None``.

    Takes the same cases as :func:`select`. It looks at all of them as of one moment: ``None`` means
    that there was a moment during the call at which none of them was ready. A time that has come
    while it looked counts as ready.

    >>> from nogil_sync import Channel, try_select
    >>> first, second = Channel(1), Channel(1)
    >>> print(try_select(first, second))
    None
    >>> second.send("item")
    >>> try_select(first, second).value
    'item'
    """
    return _Selection(cases).perform(0.0)


select.__module__ = try_select.__module__ = "nogil_sync"
