"""Histories of locks.

The waiters of a `Semaphore` or an `RWMutex` stand in a queue, whose order is part of the contract.
So a call that may wait has two steps. It enters the queue, and is served at once if nothing is in
its way; later it finds that it was served, or leaves. The state has what is held, the queue, and
the threads that were served and do not know yet. (No test sees when a thread enters the queue; the
order shows where a call is refused because another waits.)
"""

import random
import time
from typing import Any

from linearizability import IMPOSSIBLE, assert_rejected, in_steps, verify
from marks import starts_threads

from nogil_sync import Mutex, RLock, RWMutex, Semaphore

pytestmark = starts_threads

# For calls that may wait: for ever, and for so short a time that it passes now and then.
TIMEOUTS = (-1, -1, -1, 0.0002, 0.001)


# Mutex


def mutex(state, call):
    """The state is whether it is locked. Any thread that finds it free may take it: no line."""
    if call.name == "acquire":
        return True if call.result is not state else IMPOSSIBLE
    if call.name == "release":
        return False if call.result is (None if state else RuntimeError) else IMPOSSIBLE
    return state if call.result is state else IMPOSSIBLE


def test_mutex_without_waiting():
    def choose(rng, _):
        return rng.choices([("acquire", (False,)), ("release", ()), ("locked", ())], k=10)

    verify(lambda _: Mutex(), choose, False, mutex)


def holder(rng, _):
    """Take it, hold it for a moment, let it go; now and then without waiting, or not for long."""
    for _ in range(4):
        if rng.random() < 0.3:
            yield "locked", ()
        how = (False,) if rng.random() < 0.3 else (True, rng.choice(TIMEOUTS))
        if (yield "acquire", how):
            if rng.random() < 0.2:
                time.sleep(rng.choice((0, 0.0003)))
            yield "release", ()


def test_mutex():
    verify(lambda _: Mutex(), holder, False, mutex, threads=3)


class Optimistic(Mutex):
    """Wrong: a thread that has waited for long enough gets it."""

    def acquire(self, blocking=True, timeout=-1):
        return Mutex.acquire(self, blocking, timeout) or timeout > 0


def test_wrong_mutex_is_caught():
    assert_rejected(lambda _: Optimistic(), holder, False, mutex, threads=3)


# RLock


def rlock(state, call):
    """The state is who holds it, and how often."""
    owner, count = state
    mine = owner == call.thread
    if call.name == "acquire":
        if call.result is not (count == 0 or mine):
            # A thread that finds it free, or holds it, gets it.
            return IMPOSSIBLE
        return (call.thread, count + 1) if call.result else state
    if call.name == "release":
        if call.result is not (None if mine else RuntimeError):
            return IMPOSSIBLE
        return state if not mine else (owner, count - 1) if count > 1 else (None, 0)
    seen = count > 0 if call.name == "locked" else mine
    return state if call.result is seen else IMPOSSIBLE


def test_rlock_without_waiting():
    calls = [("acquire", (False,)), ("release", ()), ("locked", ()), ("_is_owned", ())]

    def choose(rng, _):
        return rng.choices(calls, k=10)

    verify(lambda _: RLock(), choose, (None, 0), rlock)


def holder_of_several(rng, _):
    """Take it once or more often, and let it go as often."""
    for _ in range(4):
        if (yield "acquire", (True, rng.choice(TIMEOUTS))):
            more = rng.randrange(3)
            for _ in range(more):
                yield "acquire", (False,)
            yield "locked", ()
            for _ in range(more + 1):
                yield "release", ()


def test_rlock():
    verify(lambda _: RLock(), holder_of_several, (None, 0), rlock, threads=3)


class Forgetful(RLock):
    """Wrong: its second acquire is not counted."""

    def acquire(self, blocking=True, timeout=-1):
        return self._is_owned() or RLock.acquire(self, blocking, timeout)


def test_wrong_rlock_is_caught():
    assert_rejected(lambda _: Forgetful(), holder_of_several, (None, 0), rlock, threads=3)


# What there is a line for


def waiting(serve, release, look):
    """The specification of an object with a line.

    `serve(held, line, event)`: what is held, and who is served, after something happened.
    `release(held, thread, *arguments)`: what is held after a release. `look(held, call)`: whether
    that is what a call that changes nothing saw.
    """

    def after(state, call):
        held, line, served = state
        me = call.thread
        if call.name in ("served", "leave"):  # the end of a wait
            if call.name == "served":
                return (held, line, served - {me}) if me in served else IMPOSSIBLE
            if me in served:
                return IMPOSSIBLE
            line = tuple(each for each in line if each[0] != me)
        elif call.name in ("enter", "try"):
            line = (*line, (me, call.args[0]))
        elif call.name == "release":
            if call.result is not None:
                return IMPOSSIBLE
            held = release(held, *call.args)
        else:
            return state if look(held, call) else IMPOSSIBLE
        held, fresh = serve(held, line, call)
        line = tuple(each for each in line if each[0] not in fresh)
        served |= set(fresh)
        if call.name == "try":
            if call.result is not (me in served):
                return IMPOSSIBLE
            line = tuple(each for each in line if each[0] != me)
            served -= {me}
        return held, line, served

    return after


def waits(history, _):
    def steps(call):
        if call.name not in ("acquire", "hold"):
            return (call.name,)
        return ("enter", "served" if call.result else "leave")

    return [in_steps(history, steps)]


NOBODY: tuple[Any, ...] = ((), frozenset())  # in line, and served


# Semaphore


def semaphore(total):
    def after(free, call):
        """The state is how many units are free."""
        n = call.args[-1] if call.args else 1
        if call.name == "available":
            return free if call.result == free else IMPOSSIBLE
        if call.name == "release":
            fits = free + n <= total
            if call.result is not (None if fits else ValueError):
                return IMPOSSIBLE
            return free + n if fits else free
        if call.result is not (n <= free):
            return IMPOSSIBLE
        return free - n if n <= free else free

    return after


def semaphore_call(s, name, args):
    if name == "acquire":
        blocking, n = args
        return s.acquire(blocking, n=n)
    return getattr(s, name)(*args)


def test_semaphore_without_waiting():
    def choose(rng, _):
        n = rng.randrange(1, 4)
        return rng.choices([("acquire", (False, n)), ("release", (n,)), ("available", ())], k=10)

    verify(lambda _: Semaphore(3), choose, 3, semaphore(3), call=semaphore_call)


def first_come(free, line, _):
    """Serve no waiter before earlier ones, however little it asks for."""
    served = []
    for who, n in line:
        if n > free:
            break
        free -= n
        served.append(who)
    return free, served


def available(free, call):
    return call.result == free


fair_semaphore = waiting(first_come, lambda free, n: free + n, available)


def borrower(rng, _):
    for _ in range(4):
        n = rng.randrange(1, 4)
        how = rng.choice(["acquire", "acquire", "hold", "try"])
        if (yield how, (n, rng.choice(TIMEOUTS))):
            if rng.random() < 0.3:
                yield "available", ()
            yield "release", (n,)


def call_semaphore(s, name, args):
    if name == "hold":
        n, timeout = args
        try:
            s.hold(n, None if timeout < 0 else timeout).__enter__()
        except TimeoutError:
            return False
        return True
    if name in ("acquire", "try"):
        n, timeout = args
        return s.acquire(name != "try", None if name == "try" or timeout < 0 else timeout, n=n)
    return getattr(s, name)(*args)


FAIR = {"views": waits, "threads": 3}


def test_semaphore():
    verify(
        lambda _: Semaphore(3), borrower, (3, *NOBODY), fair_semaphore, call=call_semaphore, **FAIR
    )


def signaller(rng, _):
    """Release an unbounded semaphore without an acquire before, and acquire it."""
    for _ in range(5):
        if rng.random() < 0.5:
            yield "release", (rng.randrange(1, 4),)
        else:
            how = rng.choice(["acquire", "acquire", "hold", "try"])
            yield how, (rng.randrange(1, 4), rng.choice((0.0002, 0.001)))
        if rng.random() < 0.3:
            yield "available", ()


def signals(_):
    return Semaphore(0, bounded=False)


def test_unbounded_semaphore():
    verify(signals, signaller, (0, *NOBODY), fair_semaphore, call=call_semaphore, **FAIR)


def test_bounded_semaphore_in_place_of_an_unbounded_one_is_caught():
    assert_rejected(
        lambda _: Semaphore(3), signaller, (0, *NOBODY), fair_semaphore, call=call_semaphore, **FAIR
    )


class Generous(Semaphore):
    """Wrong: one unit more."""

    def __init__(self, value):
        super().__init__(value + 1)


def test_wrong_semaphore_is_caught():
    assert_rejected(
        lambda _: Generous(3), borrower, (3, *NOBODY), fair_semaphore, call=call_semaphore, **FAIR
    )


# RWMutex


def rwmutex(state, call):
    """The state is how many read, and whether somebody writes."""
    readers, writer = state
    name, result = call.name, call.result
    if name == "read.acquire":
        then, outcome = (state, False) if writer else ((readers + 1, False), True)
    elif name == "read.release":
        then, outcome = ((readers - 1, writer), None) if readers else (state, RuntimeError)
    elif name == "write.acquire":
        then, outcome = (state, False) if writer or readers else ((0, True), True)
    elif name == "write.release":
        then, outcome = ((readers, False), None) if writer else (state, RuntimeError)
    elif name == "read.locked":
        then, outcome = state, readers > 0
    else:
        then, outcome = state, writer
    return then if result is outcome else IMPOSSIBLE


def test_rwmutex_without_waiting():
    def choose(rng, _):
        steps = [
            ("read.acquire", (False,)),
            ("write.acquire", (False,)),
            ("read.release", ()),
            ("write.release", ()),
        ]
        return rng.choices(steps, k=10)

    def call(rw, name, args):
        view, _, method = name.partition(".")
        return getattr(getattr(rw, view), method)(*args)

    verify(lambda _: RWMutex(), choose, (0, False), rwmutex, call=call)


def by_phases(held, line, event):
    """Serve readers or a writer.

    A waiting writer keeps out new readers; but a writer that lets go, also to read on,
    is followed by all readers that wait.
    """
    readers, writing = held
    if writing:
        return held, ()
    waiting_readers = [who for who, side in line if side == "read"]
    waiting_writers = [who for who, side in line if side == "write"]
    after_a_writer = event.name == "release" and event.args[0] in ("write", "downgrade")
    if waiting_writers and not (after_a_writer and waiting_readers):
        return (held, ()) if readers else ((0, True), waiting_writers[:1])
    return (readers + len(waiting_readers), False), waiting_readers


def let_go(held, what):
    readers, _ = held
    return {
        "read": (readers - 1, False),
        "write": (0, False),
        "downgrade": (1, False),
        "downgraded": (readers - 1, False),
    }[what]


def locked(held, call):
    readers, writing = held
    return call.result is (writing if call.args[0] == "write" else readers > 0)


fair_rwmutex = waiting(by_phases, let_go, locked)


def reader_or_writer(rng, _):
    for _ in range(4):
        if rng.random() < 0.2:
            yield "locked", (rng.choice(("read", "write")),)
        side = rng.choice(("read", "read", "write"))
        how = rng.choice(("acquire", "acquire", "try"))
        if (yield how, (side, rng.choice(TIMEOUTS))):
            if side == "write" and rng.random() < 0.4:
                yield "release", ("downgrade",)
                side = "downgraded"
            if rng.random() < 0.2:
                time.sleep(rng.choice((0, 0.0003)))
            yield "release", (side,)


def call_rwmutex(rw, name, args):
    side = args[0]
    if name == "release":
        return {
            "read": rw.read.release,
            "write": rw.write.release,
            "downgrade": rw.downgrade,
            "downgraded": random.choice((rw.write.release, rw.read.release)),
        }[side]()
    view = rw.write if side == "write" else rw.read
    if name == "locked":
        return view.locked()
    return view.acquire(False) if name == "try" else view.acquire(True, args[1])


def test_rwmutex():
    verify(
        lambda _: RWMutex(),
        reader_or_writer,
        ((0, False), *NOBODY),
        fair_rwmutex,
        call=call_rwmutex,
        **FAIR,
    )


class Yielding(RWMutex):
    """Wrong: another writer may come between."""

    def downgrade(self):
        self.write.release()
        time.sleep(0)
        self.write.acquire()
        super().downgrade()


def test_wrong_rwmutex_is_caught():
    assert_rejected(
        lambda _: Yielding(),
        reader_or_writer,
        ((0, False), *NOBODY),
        fair_rwmutex,
        call=call_rwmutex,
        **FAIR,
    )
