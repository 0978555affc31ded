"""AsyncWaiter, pure Python: waiters that are called back instead of woken. asyncio uses them.

An AsyncWaiter is the gate of a place in the line, or the round, of its object (see `_wait`). The
thread that serves it opens its gate, and so calls `AsyncWaiter.release`. That looks at the state,
as a thread that wakes does, and calls back if the waiter is served.

Callbacks do not nest: what a callback does may serve further waiters, and those are called back by
the same loop. An interrupt in this loop is raised when the loop is done; the callback in which it
came is called again.
"""

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Final
from weakref import ref

from .._common.channel_closed import ChannelClosed
from .._common.dropped import when_dropped
from .._common.guard import Guard, guard_of
from .._common.originals import get_ident, local
from .._common.performance import Unraisable
from ._wait import Line, Place, Request, Waiter, Word, callbacks
from .barrier import Barrier, _Parties, _Round
from .channel import Channel, _Receive, _Send
from .cond import Cond
from .event import Event
from .mutex import Mutex, _MutexPlace
from .rwmutex import RWMutexReader, RWMutexWriter
from .select import _NO_GATE, _NoGate, _Selection
from .semaphore import Semaphore
from .waitgroup import WaitGroup

__all__ = ["AsyncWaiter"]

_TRIES = 10  # how often a callback is called that raises

_ENTERING: Final = "entering"
_OPEN: Final = "open"  # in line, or served
_COLLECTED: Final = "collected"  # its result was
_CANCELLED: Final = "cancelled"
_FORGOTTEN: Final = "forgotten"  # in the child of a fork


class _Calling(local):
    queue: "deque[AsyncWaiter] | None" = None  # those that the loop in `release` calls back


_calling = _Calling()


class _LinePlace(Waiter):
    """A place in a line. What its request has got is in the request."""

    __slots__ = ("is_final",)

    def __init__(self, line: Line, request: Any, gate: "AsyncWaiter") -> None:
        super().__init__(line, request)
        self.thread = 0
        self.outer = None
        self.gate = gate
        self.is_final = False  # served, which cannot be undone

    def enter(self) -> None:
        """Be served, or queue up."""
        self.line.join_without_thread(self)

    def look(self) -> None:
        """Be served if that is possible by now."""
        self.line.look_for(self)

    def served(self) -> bool:
        return self.is_final or (self.joined and self not in self.line.state[1])

    def leave(self) -> bool:
        """Give back what it was served, or leave the queue; false if it cannot be given back."""
        self.line.leave(self, False)
        self.is_final = not self.line.returns(self.request)
        return not self.is_final

    def expire(self) -> bool:
        """Leave the queue unless it was served, which it keeps; whether it left."""
        if self.joined:
            self.line.leave(self, True)
        return not self.served()

    def outcome(self) -> tuple[Any, BaseException | None]:
        """What the call returns, or the error that it raises."""
        request = self.request
        if isinstance(request, Request) and not request.done:
            return None, ChannelClosed("the channel is closed")
        return request.item if isinstance(request, _Receive) else None, None


class _BarrierPlace(_LinePlace):
    """A place at a barrier."""

    __slots__ = ("pid",)

    def __init__(self, line: _Parties, gate: "AsyncWaiter") -> None:
        super().__init__(line, Request(), gate)
        self.pid = os.getpid()

    def waits_on(self) -> bool:
        """Break the barrier, unless all have come; whether it is still waited for."""
        self.line.change(self.line.give_up, self)  # type: ignore[attr-defined]
        return not self.served()

    def expire(self) -> bool:
        """Break the barrier; false if all have come, and it is waited for."""
        return not self.waits_on()

    def leave(self) -> bool:
        """Leave the barrier, and break it unless all have come; false if it was passed."""
        if self.joined:
            self.waits_on()
        self.line.leave(self, False)
        told = self.request.item
        self.is_final = isinstance(told, _Round) and bool(told.item)
        return not self.is_final

    def outcome(self) -> tuple[Any, BaseException | None]:
        """What the call returns, or the error that it raises. The leader runs the action."""
        failure: BaseException | None = None
        try:
            return self.line.collect(self, self.pid), None  # type: ignore[attr-defined]
        except BaseException as error:
            failure = error
        while True:  # twice: an interrupt can also come where a loop jumps back
            try:
                while True:
                    try:
                        self.leave()
                        break
                    except BaseException:
                        pass  # the first error is under way
                break
            except BaseException:
                pass
        return None, failure


class _WordPlace(Place):
    """A place in a round."""

    __slots__ = ("value", "was_there", "word")

    def __init__(self, word: Word, value: int, gate: "AsyncWaiter") -> None:
        super().__init__(gate)
        self.word = word
        self.value = value
        self.was_there = False

    def enter(self) -> None:
        """Be served, or take part in the round."""
        self.was_there = self.word.join(self.value, self)

    def look(self) -> None:
        """Nothing: the thread that ends the round has said so."""

    def served(self) -> bool:
        return self.was_there or (self.round is not None and self.round.over)

    def leave(self) -> bool:
        """Leave the round; true, as there is nothing to give back."""
        self.word.leave(self)
        return True

    def expire(self) -> bool:
        """Whether the round goes on: there is nothing to keep."""
        return not self.served()

    def outcome(self) -> tuple[None, None]:
        """What the call returns."""
        return None, None


class _SelectPlace(_Selection):
    """The places of a select."""

    __slots__ = ("gate",)

    def __init__(self, cases: tuple[object, ...], gate: "AsyncWaiter | _NoGate") -> None:
        super().__init__(cases)
        self.gate = gate

    def enter(self) -> None:
        """Have one case done, or queue up for all."""
        self.enter_with(self)

    def release(self) -> None:
        """Pass on that a case may be ready: this is the gate of all places."""
        self.gate.release()


_Place = _LinePlace | _WordPlace | _MutexPlace | _SelectPlace


class _End:
    """What is left to do when an `AsyncWaiter` is dropped. It does not refer to that."""

    __slots__ = ("place", "reached")

    def __init__(self, place: _Place) -> None:
        self.place = place
        self.reached = False  # it was collected, cancelled or forgotten

    def reach(self) -> None:
        """Give back what nobody has collected."""
        if not self.reached:
            self.place.leave()
            self.reached = True


def _place(obj: Any, operation: str, argument: Any, gate: "AsyncWaiter") -> _Place:
    """A place for this call."""
    if operation == "acquire":
        if isinstance(obj, Mutex):
            return _MutexPlace(obj, gate)
        if isinstance(obj, RWMutexReader | RWMutexWriter):
            return _LinePlace(obj._line, obj._write, gate)
        if isinstance(obj, Semaphore):
            units: Any = obj._Semaphore__line  # type: ignore[attr-defined]
            return _LinePlace(units, units.checked(1 if argument is None else argument), gate)
    elif operation == "wait":
        if isinstance(obj, Event):
            return _WordPlace(obj._Event__word, 1, gate)  # type: ignore[attr-defined]
        if isinstance(obj, WaitGroup):
            return _WordPlace(obj._WaitGroup__word, 0, gate)  # type: ignore[attr-defined]
        if isinstance(obj, Cond):
            return _LinePlace(obj._Cond__line, 1, gate)  # type: ignore[attr-defined]
        if isinstance(obj, Barrier):
            return _BarrierPlace(obj._Barrier__line, gate)  # type: ignore[attr-defined]
    elif operation in ("send", "recv") and isinstance(obj, Channel):
        request = _Send(argument) if operation == "send" else _Receive()
        return _LinePlace(obj._Channel__line, request, gate)  # type: ignore[attr-defined]
    elif operation == "select":
        return _SelectPlace(argument, gate)
    raise TypeError(f"cannot {operation} {type(obj).__name__!r} object")


class AsyncWaiter:
    """One call that waits without a thread: it is called back once it is served.

    `operation` is "acquire" (of a Mutex, a side of an RWMutex, or a Semaphore), "wait" (for an
    Event, a WaitGroup, a Barrier, or the notification of a Cond), "send" (the argument is the
    item), "recv", or "select" (a tuple of cases; of their times the owner takes care). It enters
    the line at once: if `served` is true then, the callback does not come. Else
    ``callback(waiter)`` is called once, or again if it raises, in the thread that serves it. Its
    owner ends it by `result` or `cancel`.
    A waiter that is dropped after it was served gives back what it was served.

    Internal: `_common.awaited` is built on it.
    """

    __module__ = "nogil_sync"
    __slots__ = (
        "__callback",
        "__called",
        "__caller",
        "__end",
        "__guard",
        "__object",
        "__phase",
        "__reference",
        "__tries",
        "__watch",
        "__weakref__",
        "place",
    )

    def __init__(
        self,
        obj: object,
        operation: str,
        argument: object,
        callback: "Callable[[AsyncWaiter], object]",
    ) -> None:
        self.__phase = _ENTERING
        self.__object = obj
        self.__callback = callback
        self.__called = True  # or is not to be called
        self.__caller = 0  # the thread that calls back
        self.__tries = 0
        self.__guard: Guard = guard_of(self)
        self.place = place = _place(obj, operation, argument, self)
        self.__end = end = _End(place)
        self.__watch = when_dropped(end.reach)
        entered = False
        try:
            self.__reference = ref(self, callbacks.discard)
            callbacks.add(self.__reference)
            place.enter()
            self.__called = served = place.served()
            self.__phase = _OPEN
            if served:
                place.gate = _NO_GATE
            elif place.served():
                self.release()  # the thread that served it may have come before it was open
            entered = True
        finally:
            if not entered:
                self.__phase = _FORGOTTEN
                end.reached = True
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while True:
                            try:
                                place.leave()
                                break
                            except BaseException:
                                pass  # the first error is under way
                        break
                    except BaseException:
                        pass

    @property
    def served(self) -> bool:
        """Whether it was served, and has not given that back."""
        phase = self.__phase
        return phase is _COLLECTED or (phase is _OPEN and self.place.served())

    def result(self) -> Any:
        """What the call returns, or raise its error; for a waiter that was served, once."""
        if not self.served:
            raise RuntimeError("the waiter was not served")
        value, error = self.place.outcome()
        callbacks.discard(self.__reference)
        mine = False
        self.__guard.held = True
        try:
            if self.__phase is _OPEN:
                self.__phase = _COLLECTED
                self.__end.reached = True
                self.place.gate = _NO_GATE
                mine = True
        finally:
            del self.__guard.held
        # No call from here to the end: an interrupt would lose the item.
        if mine and error is None:
            return value
        raise error if mine and error else RuntimeError("the waiter has no result any more")

    # After it has read an attribute the interpreter does not look for signals.
    outcome = property(result)

    def cancel(self) -> bool:
        """Leave the line, or give back what it was served; whether that was done.

        It cannot be done once the result was collected, nor for a send that was accepted.
        """
        later: BaseException | None = None
        mine = False
        self.__guard.held = True
        try:
            if self.__phase is _OPEN:
                self.__phase = _CANCELLED
                mine = True
        finally:
            del self.__guard.held
        if mine:
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while True:
                        try:
                            if not self.place.leave():
                                self.__phase = _OPEN  # as it was
                            break
                        except BaseException as another:
                            later = later or another
                    break
                except BaseException as another:
                    later = later or another
            if self.__phase is _CANCELLED:
                self.__end.reached = True
                self.place.gate = _NO_GATE
                callbacks.discard(self.__reference)
        if later is not None:
            raise later
        return self.__phase is _CANCELLED

    def time_out(self) -> bool:
        """Leave the line, unless it was served: that is kept. Whether it left.

        This and the look for that are one atomic step: nobody sees a lock taken by a call that
        then times out. A barrier for which all have come is waited for. If it is interrupted,
        `cancel` must follow.
        """
        if self.__phase is _OPEN and not self.place.expire():
            return False
        return self.cancel()

    def forget(self) -> None:
        """Never call back, and count as not served."""
        self.__phase = _FORGOTTEN
        self.__end.reached = True

    def withdraw(self) -> None:
        """Leave the line after `forget`, and give back what it was served."""
        while True:
            try:
                self.place.leave()
                break
            except BaseException:
                pass

    def release(self) -> None:
        """Call back if it is served by now; for the thread that opens this as a gate."""
        queue = _calling.queue
        if queue is not None:
            queue.append(self)  # for the loop below, which this thread is in
            return
        queue = deque((self,))
        later: BaseException | None = None
        _calling.queue = queue
        try:
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while True:
                        try:
                            while True:
                                if not queue:
                                    break
                                queue[0].__call_back()
                                queue.popleft()
                            break
                        except BaseException as another:
                            later = later or another
                    break
                except BaseException as another:
                    later = later or another
        finally:
            _calling.queue = None  # nothing comes between the look at the queue and this
        if later is not None:
            raise later

    def __call_back(self) -> None:
        """Call back if it is served by now and no other thread does; again if that raised."""
        if self.__called or self.__phase is not _OPEN:
            return
        self.place.look()
        if not self.place.served():
            return
        me = get_ident()
        mine = False
        self.__guard.held = True
        try:
            if not self.__called and self.__phase is _OPEN:
                mine = self.__caller == 0 or self.__caller == me  # noqa: PLR1714  (a section)
                if mine:
                    self.__caller = me
        finally:
            del self.__guard.held
        while mine:
            self.__tries += 1
            try:
                if self.__tries <= _TRIES:
                    self.__callback(self)
                self.__called = True
                self.place.gate = _NO_GATE
                break
            except Exception as error:
                if self.__tries == _TRIES:
                    Unraisable(error)
