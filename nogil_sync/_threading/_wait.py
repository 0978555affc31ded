"""How the objects of this backend wait: in line, or for a word.

**In line** (Semaphore, RWMutex, RLock, Cond, Barrier, Channel).  The state of a `Line` is one
immutable tuple: a value (what is free, what is held) and the waiters, first come first served.  An
operation reads it, computes the next state in ordinary code, which nobody else sees, and installs
it in a section (see `_common.guard`) if it is still the one it read; else another thread, handler
or finaliser was faster, and it starts again.  So the rules of each object are functions from state
to state, without locks, and every step is whole or not at all.

All steps are made by one function, `Line.__step`.  A waiter that is not in the queue any more was
*granted* what it asked for, by the step that took it out; the thread that made that step opens its
gate.  What a step did to the state, it also writes down in the waiter or the receipt of the
operation, so that an interrupt right after it finds out what to undo.  That is done in a `finally`:
the end of an `except` clause is on 3.12 a place where another interrupt can come.

What a step hands over is stored before the state that says so: without the GIL, a waiter that sees
from that state that it was served may look for its item while the section is still under way.

A wait that a signal handler or finaliser interrupted is suspended until that returns.  While the
handler uses the same object, its thread's waiter is *away*: it keeps its place and is passed by,
and looks for itself when it is back.  If it had been granted something, that goes back for the
handler to use.  Once a waiter is `kept` its call is as good as returned.  (A limit: what another
thread grants to a waiter while the handler does something else is idle until the handler returns.)

**For a word** (Event, WaitGroup).  All its waiters go on at once, so there is no queue: those that
wait between two changes share one `Round`, with one gate.  A waiter that something else may wake as
well has a `Place` in the round, with a gate of its own.

**Without a thread.**  A waiter's gate is all that a line or a round knows of its thread.  The gate
of an `AsyncWaiter` (`async_waiter`) is an object whose `release` looks at the state in the thread
that calls it, and then calls back.

**Cancellation.**  A wait in a cancellation scope (`scope`) has the scope watch its gate.  Another
thread that cancels the scope opens the gate; the waiting thread then looks why, in `sleep`, and
leaves as after a time-out.  If it was served before it left, the call has succeeded.
"""

import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .._common.awaited import warn_blocking
from .._common.cancelled import MESSAGE, Cancelled
from .._common.exit import check_exit
from .._common.forked import in_child
from .._common.guard import NO_RECEIPT, Guard, Receipt, guard_of
from .._common.object import lacks
from .._common.originals import get_ident, local
from .._common.sleep import closed_gate, sleep_at
from .scope import Scope, here

if TYPE_CHECKING:
    from weakref import ref

    from .async_waiter import AsyncWaiter


# Whether a wait that would block an event loop warns.
WARNS = sys.flags.dev_mode


class Gate(Protocol):
    """What is opened when a waiter is to look at the state: a lock, or an `AsyncWaiter`."""

    def release(self) -> None: ...


def open_gate(gate: Gate) -> None:
    try:
        gate.release()
    except RuntimeError:
        pass  # open already


class Contest:
    """What the cases of one select compete for: one of them is done."""

    __slots__ = ("away", "winner")

    def __init__(self) -> None:
        self.winner: int | None = None  # the number of the case
        self.away = False  # as `Waiter.away`, for all cases


UNCONTESTED = Contest()  # for a waiter that is alone; nobody ever wins it


class Request:
    """A request that is more than a number: a waiter that is served gets an item, or gives one.

    The step that serves it also has it win its contest, by its number.
    """

    __slots__ = ("done", "item")
    contest = UNCONTESTED
    number: int | None = None

    def __init__(self) -> None:
        self.done = False
        self.item: Any = None


NOBODY = Request()  # where no request is meant


class Step:
    """What the steps of one operation did, written down by the sections that did it."""

    __slots__ = ("joined", "kept", "loser", "wake")

    def __init__(self) -> None:
        self.joined = False  # the waiter is in the queue, or was granted what it asked for
        self.kept = False  # granted, and not to be taken back by a nested call
        self.wake: tuple[Waiter, ...] = ()  # the waiters it let in, whose gates are to be opened
        self.loser = NOBODY  # the request from which the next step takes back what it was given


class Waiter(Step):
    """One call that acquires, or waits for a notification: a place in one line."""

    __slots__ = (
        "away",
        "cancelled",
        "gate",
        "line",
        "outer",
        "request",
        "scope",
        "sent_away",
        "thread",
    )
    contest = UNCONTESTED

    def __init__(self, line: "Line", request: Any) -> None:
        super().__init__()
        self.line = line
        self.request = request
        self.thread = get_ident()
        self.gate: Any = None  # a `Gate`, made when it has to wait
        self.away = False  # its thread is in a nested call for the same object
        self.scope: Scope | None = None  # the scope that watches the gate
        self.cancelled = False  # it stopped waiting because of that scope
        # The call of this thread that was waiting, for anything, when this one began.
        self.outer = _thread.waiter
        self.sent_away: Waiter | None = None  # the waiter that is away because of this call

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self not in self.line.state[1]

    def holders(self) -> tuple[int, ...]:
        return self.line.holders(self.line.state[0])


Waiters: TypeAlias = tuple[Waiter, ...]
# The new value, the waiters that stay in the queue, those that are granted.
Change: TypeAlias = tuple[Any, Waiters, Waiters]


class _Thread(local):
    waiter: Waiter | None = None  # the innermost call of this thread that waits


_thread = _Thread()

# All calls that wait, for the child of a fork to find; and all waiters without a thread.
_waiting: dict[Waiter, None] = {}
callbacks: "set[ref[AsyncWaiter]]" = set()


def places_without_thread() -> list[Any]:
    """The places of all waiters without a thread."""
    return [each.place for each in (found() for found in list(callbacks)) if each]


def need_room(calls: int = 16) -> None:
    """Raise RecursionError unless the stack has room for so many calls.

    A step that has to be finished or undone, whatever interrupts it, asks first: with the stack
    at its limit all further tries would fail alike.
    """
    if calls:
        need_room(calls - 1)


def _recall(waiter: Waiter) -> None:
    """Have it look at the state again."""
    if waiter.gate is not None:
        open_gate(waiter.gate)


def _wake(waiters: Waiters) -> None:
    """Recall them all, and then raise what interrupted."""
    error: BaseException | None = None
    while True:
        try:
            for waiter in waiters:
                _recall(waiter)
            break
        except BaseException as another:
            error = error or another
    if error is not None:
        raise error


class Line:
    """A value and the queue of the waiters, until it allows what they ask for.

    Subclasses say what that means, in three functions without side effects.  One whose requests
    are more than numbers says besides what a step hands over.
    """

    __slots__ = ("__guard", "state")
    hands_over = False
    cancellable = True  # whether a wait ends when its scope is cancelled

    def __init__(self, value: Any, guard: Guard | None = None) -> None:
        self.state: tuple[Any, Waiters] = (value, ())
        self.__guard: Guard = guard or guard_of(self)

    def take(self, value: Any, request: Any) -> Any:
        """The value after granting the request, or None if it does not allow that now."""
        raise NotImplementedError

    def admit(self, value: Any, waiters: Waiters) -> Change:
        """Grant to waiters what the value allows and the rules of the queue say."""
        raise NotImplementedError

    def give(self, value: Any, waiters: Waiters, request: Any) -> Change:
        """Take back what was granted, and grant to waiters what that allows."""
        raise NotImplementedError

    def hand_over(self, value: Any) -> tuple[Any, Request, Any, Request]:
        """Split the value after a step: what remains, the receiver, its item, and the sender."""
        raise NotImplementedError

    def returns(self, _request: Any) -> bool:
        """Whether what was granted to the request can be taken back."""
        return True

    def holders(self, _value: Any) -> tuple[int, ...]:
        """The threads that hold it in a way that keeps all others out, as far as known."""
        return ()

    def change(
        self, edit: Callable[..., Change], *args: Any, receipt: Receipt = NO_RECEIPT
    ) -> None:
        """Install what `edit` makes of the state, unless it raises; wake the waiters it grants."""
        below = self.__suspended()
        if below is None or below.away:
            self.__install(edit, args, receipt)
            return
        need_room()
        below.away = True
        try:
            self.__install(edit, args, receipt)
        finally:
            below.away = False
            _recall(below)

    def __install(
        self, edit: Callable[..., Change], args: tuple[Any, ...] = (), receipt: Receipt = NO_RECEIPT
    ) -> None:
        step = Step()
        later: BaseException | None = None
        try:
            self.__step(step, False, edit, args, receipt)
        finally:
            if step.wake:
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while True:
                            try:
                                _wake(step.wake)
                                break
                            except BaseException as another:
                                later = later or another
                        break
                    except BaseException as another:
                        later = later or another
        if later is not None:
            raise later

    def __step(
        self,
        me: Step,
        joined: bool,
        plan: Callable[..., Change | None],
        args: tuple[Any, ...],
        receipt: Receipt = NO_RECEIPT,
    ) -> None:
        """Install what `plan` makes of the state, unless that is None; write down what was done.

        Afterwards `me.joined` is as given, and `me.wake` has those that are to be woken.
        """
        while True:
            old = self.state
            change = plan(*old, *args)
            if change is None:
                return
            value, waiters, granted = change
            kept = joined and me not in waiters
            taker = giver = NOBODY
            item = None
            if self.hands_over:
                value, taker, item, giver = self.hand_over(value)
            _replaced = taker.item  # which must not end in the section
            takers = taker.contest
            givers = giver.contest
            loser = me.loser
            new = (value, waiters)
            wake = me.wake
            if granted and granted != (me,):
                if me.__class__ is Step:  # an acquire has asked already
                    need_room()
                wake += tuple(each for each in granted if each is not me)
            done = False
            with self.__guard:
                if self.state is old and takers.winner is None and givers.winner is None:
                    loser.done = False
                    loser.contest.winner = None
                    taker.item = item
                    taker.done = giver.done = True
                    takers.winner = taker.number
                    givers.winner = giver.number
                    self.state = new
                    me.joined = joined
                    me.kept = kept
                    me.wake = wake
                    receipt.done = done = True
            if done:
                return

    def acquire(self, request: Any, seconds: float | None) -> bool:
        """Be granted the request, at most after so many seconds; zero is one try."""
        me = Waiter(self, request)
        keep = settled = False
        later: BaseException | None = None
        try:
            below = self.__suspended()
            if below is not None:
                need_room()
            self.__arrive(me, below, join=False)
            if not me.kept and seconds != 0:
                if WARNS:
                    warn_blocking()
                check_exit()  # before it needs a lock that a stopped thread may hold
                self.__enlist(me, here.scope if self.cancellable else None)
                if not me.cancelled:
                    self.__arrive(me, below, join=True)
                    self.sleep(me, seconds)
            keep = True
            # When there was no need to wait, and nothing is to be put right.
            settled = me.kept and me.gate is None and me.sent_away is None
        finally:
            if not settled and (me.joined or me.gate is not None or me.sent_away is not None):
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while True:
                            try:
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
        return me.kept

    def attempt(self, me: Waiter) -> None:
        """Be granted what can be had at once; to be followed by `leave`, whatever happens."""
        below = self.__suspended(me.contest)
        if below is not None:
            need_room()
        self.__arrive(me, below, join=False)

    def would_serve(self, state: tuple[Any, Waiters], me: Waiter) -> bool:
        """Whether an attempt would be granted something in this state."""
        return self.__with(*state, me, self.__suspended(me.contest), False) is not None

    def join_with_gate(self, me: Waiter, gate: Gate) -> None:
        """Queue up at a gate that others open, too; to be followed by `leave`."""
        below = self.__suspended(me.contest)
        me.gate = gate
        _waiting[me] = None
        me.outer = _thread.waiter
        _thread.waiter = me
        self.__arrive(me, below, join=True)

    def join(self, me: Waiter, scope: Scope | None) -> None:
        """Queue up; to be followed by `leave`, whatever happens."""
        self.__enlist(me, scope)
        self.__arrive(me, None, join=True)

    def join_without_thread(self, me: Waiter) -> None:
        """Queue up, or be served at once; to be followed by `leave` if this raises."""
        need_room()
        below = self.__suspended()
        if below is None or below.away:
            self.__arrive(me, None, join=True)
            return
        below.away = True
        try:
            self.__arrive(me, None, join=True)
        finally:
            below.away = False
            _recall(below)

    def sleep(self, me: Waiter, seconds: float | None) -> None:
        """Sleep until granted or cancelled, at most so many seconds; zero is one look."""
        deadline = None if seconds is None else monotonic() + seconds
        while me.gate is not None:
            if me not in self.state[1]:
                me.kept = True  # nothing comes between the look at the state and this
                break
            if me.scope is not None and me.scope.is_cancelled:
                me.cancelled = True
                break
            if seconds == 0 or not sleep_at(me.gate, deadline, about=me):
                break
            if me in self.state[1]:  # what we wait for may have come while we were away
                self.look_again()

    def look_again(self) -> None:
        """Grant what can be granted by now."""
        self.__install(self.admit)

    def look_for(self, me: Waiter) -> None:
        """Grant to this waiter what it can be granted by now."""
        if me in self.state[1]:
            self.look_again()

    def without(self, value: Any, waiters: Waiters, waiter: Waiter) -> Change:
        """Take a waiter without a thread out of the queue, if it is there."""
        return self.admit(value, tuple(each for each in waiters if each is not waiter))

    def leave(self, me: Waiter, keep: bool) -> None:
        """Make an end: keep what was granted, or leave no trace.  `me.kept` tells which.

        It can be interrupted anywhere.  It must then be called again until it comes to its end,
        no longer to keep anything.
        """
        if lacks(self, Line, "state"):
            me.joined = False  # garbage: nobody is in line any more
        me.loser = NOBODY
        while me.joined:
            if keep and me not in self.state[1]:
                me.kept = True  # nothing comes between the look at the state and this
                break
            self.__step(me, False, self.__without, (me, keep))
        _wake(me.wake)
        if _thread.waiter is me:
            _thread.waiter = me.outer
        _waiting.pop(me, None)
        if me.scope is not None:
            me.scope.unwatch(me.gate)
        if me.sent_away is not None:
            me.sent_away.away = False
            _recall(me.sent_away)

    def __without(self, value: Any, waiters: Waiters, me: Waiter, keep: bool) -> Change | None:
        """Take me out of the queue, or give back what I was granted unless that is to be kept."""
        if me in waiters:
            others = tuple(each for each in waiters if each is not me)
            return self.admit(value, others)
        return None if keep else self.give(value, waiters, me.request)

    def __suspended(self, contest: Contest | None = None) -> Waiter | None:
        """The call of this thread for the same object that we interrupt.

        Of a select the case that was granted something, if there is one. The cases of this
        contest are our own.
        """
        found: Waiter | None = None
        below = _thread.waiter
        while below is not None:
            mine = below.contest is contest
            if below.line is self and below.joined and not below.kept and not mine:
                found = found or below
                if below.contest is UNCONTESTED or below.contest is not found.contest:
                    break
                if below not in self.state[1]:
                    found = below
                    break
            below = below.outer
        return found

    def __enlist(self, me: Waiter, scope: Scope | None) -> None:
        """From here to the end of `leave`, a nested call and the child of a fork find it.

        So does the thread that cancels the scope; unless that has happened.
        """
        need_room()
        me.gate = closed_gate()
        _waiting[me] = None
        _thread.waiter = me
        if scope is not None:
            me.scope = scope
            scope.watch(me.gate)
            me.cancelled = scope.is_cancelled

    def __arrive(self, me: Waiter, below: Waiter | None, join: bool) -> None:
        """Get what is asked for, if it is our turn; else queue up, if told so."""
        if below is not None and not below.away:
            below.away = True
            me.sent_away = below
        self.__step(me, True, self.__with, (me, below, join))
        _wake(me.wake)

    def __with(
        self, value: Any, waiters: Waiters, me: Waiter, below: Waiter | None, join: bool
    ) -> Change | None:
        """Add me to the queue, and grant what can be granted; None if I would have to wait."""
        me.loser = NOBODY
        if below is None or below in waiters or not self.returns(below.request):
            value, waiters, granted = self.admit(value, (*waiters, me))
        else:  # it was granted what it waits for: ours to use, in its place
            if self.hands_over:
                me.loser = below.request
            value = self.give(value, (), below.request)[0]
            rest = self.take(value, me.request)
            if rest is None:
                value, waiters, granted = self.admit(value, (below, me, *waiters))
            else:
                value, waiters, granted = self.admit(rest, (below, *waiters))
        if me in waiters and not join:
            return None
        return value, waiters, granted


def _forget_waiters() -> None:
    """In the child of a fork: of all threads that waited, only this one is left.

    (Its wait, if any, was interrupted by a handler that forked, and goes on in the child.)
    It runs by itself there, so it needs no section.
    """
    this_thread = get_ident()
    forgotten = [each for each in (found() for found in list(callbacks)) if each]
    callbacks.clear()
    for each in forgotten:
        each.forget()  # from here on it calls nobody back
    contested = [each for each in _waiting if each.contest is not UNCONTESTED and each.joined]
    for waiter in contested:
        waiter.contest.winner = None  # a thread that is gone may have been about to serve it
    for waiter in contested:
        if waiter not in waiter.line.state[1]:
            waiter.contest.winner = waiter.request.number
    for line in {waiter.line for waiter in _waiting}:
        value, waiters = line.state
        mine = tuple(waiter for waiter in waiters if waiter.thread == this_thread)
        value, mine, granted = line.admit(value, mine)
        if line.hands_over:
            value, taker, item, giver = line.hand_over(value)
            taker.item = item
            taker.done = giver.done = True
            taker.contest.winner = taker.number
            giver.contest.winner = giver.number
        line.state = (value, mine)
        _wake(granted)
    for waiter in list(_waiting):
        if waiter.thread != this_thread:
            del _waiting[waiter]
    for each in forgotten:
        each.withdraw()


in_child(_forget_waiters)


class Place:
    """The place of one waiter in a round, with a gate of its own."""

    __slots__ = ("gate", "round")

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.round: Round | None = None

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self.round is None or self.round.over

    def holders(self) -> tuple[int, ...]:
        return ()


class Round:
    """The wait for one moment, by all threads that wait for it.

    The thread that brings the moment about makes `over` true and takes the round off its word in
    one section, and then opens the gates, again if an interrupt came between. The gate of the round
    it opens once; each waiter that comes through opens it for the next.
    """

    __slots__ = ("gate", "over", "places")

    def __init__(self) -> None:
        self.gate = closed_gate()
        self.over = False  # becomes true, once, before the gate is first opened
        self.places: tuple[Place, ...] = ()

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self.over

    def holders(self) -> tuple[int, ...]:
        return ()

    def open(self) -> None:
        open_gate(self.gate)  # or a waiter looked at `over` first, and opened it
        for place in self.places:
            open_gate(place.gate)

    def wait(self, seconds: float | None) -> bool:
        """Sleep until the round is over, at most so many seconds; return whether it is."""
        deadline = None if seconds is None else monotonic() + seconds
        try:
            # Not `while condition`: its jump back lies outside the try from 3.12 on, and a
            # Ctrl-C there would skip the cleanup.
            while True:
                if self.over or not sleep_at(self.gate, deadline, about=self):
                    break
        finally:
            # A thread that took the gate's one token (if only to be interrupted right after) came
            # here, and the round is over: so nobody is left behind.
            if self.over:
                try:
                    self.gate.release()
                except RuntimeError:
                    pass  # open already, and it stays so
        return self.over


class Word:
    """A value that threads wait for, until it has been what they ask for.

    Its object changes it, in sections with its guard.  A section that makes it what is waited for
    ends the round, too: ``ended = word.round``, ``ended.over = True``, ``word.round = None``; after
    it the gates of that round are opened.  So however many wait, that is one step and one wake-up,
    unless they have places; a change right after it takes nothing back; and there is no queue that
    an interrupted waiter could be left in.
    """

    __slots__ = ("guard", "round", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self.round: Round | None = None
        self.guard: Guard = guard_of(self)

    def wait(self, value: int, seconds: float | None) -> bool:
        """Wait until it has been `value` since this began; zero seconds is one look."""
        if self.value == value:
            return True
        if seconds == 0:
            return False
        if WARNS:
            warn_blocking()
        if here.scope is not None:
            return self.__wait_in(here.scope, value, seconds)
        this = self.begin_round(value)
        return this is None or this.wait(seconds)

    def __wait_in(self, scope: Scope, value: int, seconds: float | None) -> bool:
        """Wait in a scope whose cancellation ends it."""
        deadline = None if seconds is None else monotonic() + seconds
        gate = closed_gate()
        me = Place(gate)
        served = cancelled = False
        later: BaseException | None = None
        try:
            scope.watch(gate)
            served = self.join(value, me)
            while True:
                if served or (me.round is not None and me.round.over):
                    served = True
                    break
                if scope.is_cancelled:
                    cancelled = True
                    break
                if not sleep_at(gate, deadline, about=me):
                    break
        finally:
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while True:
                        try:
                            scope.unwatch(gate)
                            self.leave(me)
                            break
                        except BaseException as another:
                            later = later or another
                    break
                except BaseException as another:
                    later = later or another
        if later is not None:  # and it was the first
            raise later
        if me.round is not None and me.round.over:
            return True
        if cancelled:
            raise Cancelled(MESSAGE)
        return served

    def join(self, value: int, me: Place) -> bool:
        """Take a place in the round that ends when it is `value`; true if it is that already."""
        while True:
            this = self.round or Round()
            before = this.places
            after = (*before, me)
            is_there = done = False
            with self.guard:
                is_there = self.value == value
                if (
                    not is_there
                    and not this.over
                    and this.places is before
                    and (self.round is None or self.round is this)
                ):
                    this.places = after
                    me.round = this
                    self.round = this
                    done = True
            if is_there or done:
                return is_there

    def begin_round(self, value: int) -> Round | None:
        """The round that ends when it is `value`, or None if it is that."""
        fresh = Round()
        with self.guard:
            this = self.round or fresh
            is_there = self.value == value  # looked at where nothing can come between
            if not is_there:
                self.round = this
        return None if is_there else this

    def leave(self, me: Place) -> None:
        """Give the place up; that is to be repeated if it is interrupted."""
        this = me.round
        while this is not None and not this.over:
            before = this.places
            after = tuple(each for each in before if each is not me)
            done = False
            with self.guard:
                if this.places is before:
                    this.places = after
                    done = True
            if done:
                break
