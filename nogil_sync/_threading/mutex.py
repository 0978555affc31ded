"""Mutex, pure Python.

State, changed only in sections (see `_common.guard`):

- `holder`: the thread that took the lock, 0 while it is free, NO_THREAD if a task took it;
- a queue of waiters, first come first served, linked through themselves;
- each waiter's `granted` (the lock was handed to it) and `queued`.

The lock is taken by any thread that finds it free, unless the first waiter has waited for a
millisecond: then it belongs to that one, and a release hands it over without it ever being
free.  (Go's mutex, with its starvation mode decided by the clock of the first waiter.)

No waiter is lost, because of this invariant: *while the lock is free and somebody is queued,
the first waiter is awake or its gate is about to be opened.*  A waiter queues only in a
section that leaves the lock taken; every section that frees the lock, or takes the first
waiter out while it is free, opens the gate of the then first waiter right after it, in a
`finally`, so that a Ctrl-C cannot come between.

A thread that finds the lock free but reserved hands it to the first waiter itself instead of
relying on another wake-up: the first waiter might be suspended in the frame below this one.

Sections cannot call, so the few lines that take a waiter out of the queue are written out
wherever it is done.

The gate of a waiter without a thread is an `AsyncWaiter` (`async_waiter`).  It counts as one that
has waited for long: whenever it is first in line and the lock is released, it is handed the lock.

A limit: the lock can be handed to a thread that a signal handler keeps busy meanwhile, and is
then idle until the handler returns.  The handler itself may use the lock, in place of its thread
(`__stand_in`); waiting in it for another thread that needs the lock is a deadlock, as it would be
had the signal come just after the acquire.
"""

from math import inf
from time import monotonic
from typing import Any

from .._common.awaited import AwaitedLock, warn_blocking
from .._common.forked import finish_fork, in_child
from .._common.guard import NO_RECEIPT, Guard, Receipt, guard_of
from .._common.object import SyncObject, lacks
from .._common.originals import get_ident, local
from .._common.sleep import closed_gate, sleep_at
from ._arguments import lock_timeout
from ._wait import WARNS, Gate, open_gate, places_without_thread

__all__ = ["Mutex"]

NO_THREAD = -1  # the holder, if the lock was handed to a waiter without a thread

_PATIENCE = 0.001  # seconds after which the first waiter gets the next turn


class _Waiter:
    """One call that waits."""

    __slots__ = ("gate", "granted", "mutex", "next", "outer", "prev", "queued", "since", "thread")

    def __init__(
        self, mutex: "Mutex", outer: "_Waiter | None", since: float, gate: Gate | None = None
    ) -> None:
        self.mutex = mutex
        self.since = since
        self.thread = get_ident()
        self.gate: Any = closed_gate() if gate is None else gate
        self.granted = False  # the lock is ours; only `__stand_in` takes it back
        self.queued = False
        self.prev: _Waiter | None = None
        self.next: _Waiter | None = None
        # The call of this thread that was waiting, for any mutex, when a signal handler or
        # finaliser began this one: it is suspended until we return.
        self.outer = outer

    def is_served(self) -> bool:
        """For those that look who sleeps: see `sleep.Awaited`."""
        return self.granted or not self.mutex._Mutex__holder  # type: ignore[attr-defined]

    def holders(self) -> tuple[int, ...]:
        return self.mutex._Mutex__holders()  # type: ignore[attr-defined,no-any-return]


class _Thread(local):
    waiter: _Waiter | None = None  # the innermost call of this thread that waits


_thread = _Thread()

# All calls that wait, for the child of a fork to find.
_waiting: dict[_Waiter, None] = {}


class Mutex(SyncObject, AwaitedLock):
    """A lock, as ``threading.Lock``, that stays fast when threads fight over it.

    Stands in for ``threading.Lock``, also inside ``threading.Condition`` and
    ``queue.Queue``. Not reentrant; any thread may release it. What a thread did before it
    released the lock is visible to the next that acquires it.

    A running thread may take a free lock ahead of those that sleep for it, which keeps the
    lock busy; but a waiter of a millisecond or more gets the next turn, so that none
    starves. (The starvation mode of Go's mutex.)

    Taking or releasing it costs one compare-and-swap in the native backend when nobody
    waits. At most one of the waiters is awake, for some tens of microseconds, and none
    where holders have kept the lock for long lately; the others sleep.

    >>> from nogil_sync import Mutex
    >>> mutex = Mutex()
    >>> with mutex:
    ...     mutex.locked()
    True
    >>> mutex.locked()
    False
    """

    __module__ = "nogil_sync"
    __slots__ = ("__foreign", "__guard", "__head", "__holder", "__tail")

    def _SyncObject__fill(self) -> None:
        self.__head: _Waiter | None = None
        self.__tail: _Waiter | None = None
        self.__holder = 0
        self.__foreign = False  # whether a thread other than the holder ever released it
        self.__guard: Guard = guard_of(self)

    def __init__(self) -> None:
        super().__init__()

    def __repr__(self) -> str:
        holder = self.__holder
        state = "locked" if holder else "unlocked"
        if holder not in (0, NO_THREAD):
            state += f", owner={holder}"
        waiters = sum(each.mutex is self for each in [*_waiting, *_places()])
        if waiters:
            state += f", waiters={waiters}"
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, {state}>"

    def acquire(self, blocking: bool = True, timeout: float | None = -1) -> bool:
        """Take the lock; return whether it was taken.

        Waits for ever by default, or with a `timeout` of -1 or None; else at most `timeout`
        seconds. With ``blocking=False`` it does not wait (a time-out is a ``ValueError``
        then). A `timeout` that is negative or NaN is a ``ValueError``, one above
        ``threading.TIMEOUT_MAX`` an ``OverflowError``.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and the lock
        is not taken. Signal handlers run meanwhile and may use this lock.

        >>> from nogil_sync import Mutex
        >>> mutex = Mutex()
        >>> mutex.acquire()
        True
        >>> mutex.acquire(blocking=False)
        False
        >>> mutex.acquire(timeout=0.01)
        False
        >>> mutex.release()
        """
        seconds = lock_timeout(blocking, timeout)
        taken = False
        me = get_ident()
        try:
            with self.__guard:
                if not self.__holder and self.__head is None:
                    self.__holder = me
                    taken = True
        except BaseException:
            wake = None
            while taken:  # whatever interrupts
                try:
                    with self.__guard:
                        taken = False
                        self.__holder = 0
                        wake = self.__head
                except BaseException:
                    pass
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while wake is not None:
                        try:
                            wake.gate.release()
                            wake = None
                        except RuntimeError:
                            wake = None  # open already
                        except BaseException:
                            pass  # the first error is under way
                    break
                except BaseException:
                    pass
            raise
        return taken or self.__wait(seconds)

    def release(self) -> None:
        """Let the lock go, or hand it to the first waiter if that has waited for long.

        Any thread may do so. ``RuntimeError`` if the lock is not taken.
        """
        Mutex.__exit__(self)

    def locked(self) -> bool:
        """Whether the lock is taken, by any thread."""
        return self.__holder != 0

    def __enter__(self) -> bool:
        """Take the lock; return True."""
        return Mutex.acquire(self)

    def __exit__(self, *exc_info: object) -> None:
        """Let the lock go."""
        # The release itself, for `with`: a Ctrl-C that comes on entry to this function, the one
        # moment that cannot be guarded, leaves the lock taken; a call more would be a second one.
        wake = None
        now = 0.0
        me = 0
        holder = NO_THREAD
        receipt = NO_RECEIPT
        later: BaseException | None = None
        try:
            # From `_release`. (No call here, and nothing that needs memory: an exception would lose
            # the receipt.)
            if exc_info and exc_info[-1].__class__ is Receipt:
                receipt = exc_info[-1]  # type: ignore[assignment]
            me = get_ident()
            if self.__head is not None:  # else no waiter could have waited for long
                now = monotonic()
        finally:
            try:
                with self.__guard:
                    holder = self.__holder
                    if holder:
                        receipt.done = True
                        if holder != me and me and holder != NO_THREAD:
                            self.__foreign = True
                        wake = self.__head
                        if wake is None or now - wake.since < _PATIENCE:
                            self.__holder = 0
                        else:
                            # Handed over.  (Dequeue the first.)
                            self.__holder = wake.thread
                            wake.granted = True
                            wake.queued = False
                            self.__head = wake.next
                            if wake.next is None:
                                self.__tail = None
                            else:
                                wake.next.prev = None
            finally:
                while True:  # twice: an interrupt can also come where a loop jumps back
                    try:
                        while wake is not None:
                            try:
                                wake.gate.release()
                                wake = None
                            except RuntimeError:
                                wake = None  # open already
                            except BaseException as another:
                                later = later or another
                        break
                    except BaseException as another:
                        later = later or another
        if later is not None:
            raise later
        if not holder:
            raise RuntimeError("release unlocked lock")

    def __holders(self) -> tuple[int, ...]:
        """The thread that will release it, unless it is free or that may be any thread."""
        holder = self.__holder
        return () if holder in (0, NO_THREAD) or self.__foreign else (holder,)

    def _release(self, receipt: Receipt) -> None:
        """Release, and tell surely whether it was done: for Cond."""
        Mutex.__exit__(self, None, None, None, receipt)

    def _at_fork_reinit(self) -> None:
        """Make the lock free and forget its waiters: for the child of a fork."""
        finish_fork()
        self.__holder = 0
        self.__forget()

    def __forget(self) -> None:
        """Empty the queue. A waiter that is still there finds out and queues again."""
        self.__head = self.__tail = None
        for waiter in list(_waiting):
            if waiter.mutex is self:
                waiter.queued = False
                open_gate(waiter.gate)
        for waiter in _places():
            if waiter.mutex is self and waiter.queued:
                waiter.queued = False
                waiter.enter()
                open_gate(waiter.gate)

    def __wait(self, seconds: float | None) -> bool:
        """Acquire with a queue; zero seconds means one try."""
        if WARNS and seconds != 0:
            warn_blocking()
        now = monotonic()
        deadline = None if seconds is None else now + seconds
        expired = seconds == 0
        keep = False
        later: BaseException | None = None

        below = _thread.waiter
        me = _Waiter(self, below, now)
        while below is not None and below.mutex is not self:
            below = below.outer  # a call of this thread suspended in a wait for this lock

        # From here until it is taken off the list, `me` is found by a nested call and after a fork.
        # No interrupt comes between the two stores and the `try`.
        _waiting[me] = None
        _thread.waiter = me
        try:
            if below is not None:
                self.__stand_in(me, below)
            while True:
                self.__try(me, now, expired)
                if me.granted or expired:
                    break
                expired = not sleep_at(me.gate, deadline, about=me)
                now = monotonic()
            # Nothing can take the lock away from here on: no interrupt comes before `me`
            # is off the list.
            keep = me.granted
        finally:
            # Leave no trace of a call that gave up, and let the one below go on waiting.
            # (Written out here because the entry to a function can be interrupted.)
            _thread.waiter = me.outer
            del _waiting[me]
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while not keep or below is not None:
                        wake = None
                        try:
                            with self.__guard:
                                if me.queued:
                                    me.queued = False
                                    if me.prev is None:
                                        self.__head = me.next
                                    else:
                                        me.prev.next = me.next
                                    if me.next is None:
                                        self.__tail = me.prev
                                    else:
                                        me.next.prev = me.prev
                                if below is not None and not below.granted and not below.queued:
                                    below.queued = True  # at its old place, which was the front
                                    below.prev = None
                                    below.next = head = self.__head
                                    self.__head = below
                                    if head is None:
                                        self.__tail = below
                                    else:
                                        head.prev = below
                                if me.granted and not keep:  # handed over in the last moment
                                    me.granted = False
                                    self.__holder = 0
                                if not self.__holder:
                                    wake = self.__head
                            if wake is not None:
                                try:
                                    wake.gate.release()
                                except RuntimeError:
                                    pass  # open already
                            break
                        except BaseException as another:
                            keep = False
                            later = later or another
                            if lacks(self, Mutex, "_Mutex__guard"):
                                break
                    break
                except BaseException as another:
                    keep = False
                    later = later or another
        if later is not None:  # and it was the first
            raise later
        return keep

    def __try(self, me: _Waiter, now: float, expired: bool) -> None:
        """Take the lock or queue for it; on expiry, queue no longer.  Sets `me.granted`."""
        wake = None
        later: BaseException | None = None
        try:
            with self.__guard:
                if not me.granted and not self.__holder:
                    first = self.__head
                    if first is None or first is me or now - first.since < _PATIENCE:
                        self.__holder = me.thread
                        me.granted = True
                    else:  # it is the first one's turn
                        self.__holder = first.thread
                        wake = first
                        first.granted = True
                        first.queued = False
                        self.__head = first.next
                        if first.next is None:
                            self.__tail = None
                        else:
                            first.next.prev = None
                if me.granted or expired:
                    if me.queued:
                        me.queued = False
                        if me.prev is None:
                            self.__head = me.next
                        else:
                            me.prev.next = me.next
                        if me.next is None:
                            self.__tail = me.prev
                        else:
                            me.next.prev = me.prev
                elif not me.queued:
                    me.queued = True
                    me.next = None
                    me.prev = last = self.__tail
                    self.__tail = me
                    if last is None:
                        self.__head = me
                    else:
                        last.next = me
        finally:
            while True:  # twice: an interrupt can also come where a loop jumps back
                try:
                    while wake is not None:
                        try:
                            wake.gate.release()
                            wake = None
                        except RuntimeError:
                            wake = None  # open already
                        except BaseException as another:
                            later = later or another
                    break
                except BaseException as another:
                    later = later or another
        if later is not None:
            raise later

    def __stand_in(self, me: _Waiter, below: _Waiter) -> None:
        """This call interrupts another of this thread for the same lock: act in its place.

        The other cannot run until we return.  So if the lock was handed to it, that is ours
        to use; and while we wait, it must not be handed the lock.
        """
        with self.__guard:
            if below.granted:
                below.granted = False
                me.granted = True
            elif below.queued:
                below.queued = False
                if below.prev is None:
                    self.__head = below.next
                else:
                    below.prev.next = below.next
                if below.next is None:
                    self.__tail = below.prev
                else:
                    below.next.prev = below.prev
        # If that left the lock free with somebody queued, `me` comes right now and takes it,
        # or hands it on, or wakes the first when it leaves.

    def __admit(self, me: _Waiter) -> None:
        """Hand the lock to a waiter without a thread if it is free and that is the first."""
        with self.__guard:
            if not self.__holder and self.__head is me:
                self.__holder = NO_THREAD
                me.granted = True
                me.queued = False
                self.__head = me.next
                if me.next is None:
                    self.__tail = None
                else:
                    me.next.prev = None

    def __withdraw(self, me: _Waiter, keep: bool = False) -> bool:
        """Have a waiter without a thread leave no trace; repeat that if it is interrupted.

        With `keep` it keeps the lock that it was granted: false, then.
        """
        with self.__guard:
            if keep and me.granted:
                return False
            if me.queued:
                me.queued = False
                if me.prev is None:
                    self.__head = me.next
                else:
                    me.prev.next = me.next
                if me.next is None:
                    self.__tail = me.prev
                else:
                    me.next.prev = me.prev
            if me.granted:
                me.granted = False
                self.__holder = 0
            wake = None if self.__holder else self.__head
        if wake is not None:
            open_gate(wake.gate)
        return True


class _MutexPlace(_Waiter):
    """The place of a waiter without a thread: see `async_waiter`."""

    __slots__ = ()

    def __init__(self, mutex: Mutex, gate: Gate) -> None:
        super().__init__(mutex, None, -inf, gate)
        self.thread = NO_THREAD

    def enter(self) -> None:
        """Take the lock or queue for it."""
        self.mutex._Mutex__try(self, monotonic(), False)  # type: ignore[attr-defined]

    def look(self) -> None:
        """Take the lock if it can be had."""
        self.mutex._Mutex__admit(self)  # type: ignore[attr-defined]

    def served(self) -> bool:
        return self.granted

    def leave(self) -> bool:
        """Leave no trace; true, as that can always be."""
        return self.mutex._Mutex__withdraw(self)  # type: ignore[attr-defined, no-any-return]

    def expire(self) -> bool:
        """Leave the queue unless it was granted the lock, which it keeps; whether it left."""
        return self.mutex._Mutex__withdraw(self, True)  # type: ignore[attr-defined, no-any-return]

    def outcome(self) -> tuple[None, None]:
        """What the call returns."""
        return None, None


def _forget_waiters() -> None:
    """In the child of a fork: of all threads that waited, only this one is left.

    (Its wait, if any, was interrupted by a handler that forked, and goes on in the child.)
    It runs by itself there, so it needs no section.
    """
    this_thread = get_ident()
    waiters = list(_waiting)
    for waiter in waiters:
        if waiter.thread != this_thread:
            del _waiting[waiter]
    for waiter in waiters:
        waiter.mutex._Mutex__forget()  # type: ignore[attr-defined]


in_child(_forget_waiters)


def _places() -> list[_MutexPlace]:
    """The places of all waiters without a thread that wait for a mutex."""
    return [each for each in places_without_thread() if isinstance(each, _MutexPlace)]
