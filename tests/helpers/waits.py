"""Every call that waits: what it takes to wait, to be served, and to leave no trace.

One table for the tests that must hold for all of these calls: time-outs, Ctrl-C, handlers, forks,
exit. Some of them import it in other processes.
"""

import re
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from nogil_sync import (
    Barrier,
    Cache,
    Channel,
    Cond,
    Event,
    Mutex,
    RLock,
    RWMutex,
    Semaphore,
    SyncMap,
    WaitGroup,
    after,
    select,
)


def do_nothing(_: Any) -> None:
    pass


class Wait(NamedTuple):
    """One call that waits. All functions are called with what `make` returned."""

    make: Callable[[], Any]
    """Makes an object, in a state in which the call waits."""
    bind: Callable[[Any, float | None], Callable[[], Any]]
    """The call with this time-out, as a function that is written in C where the method is."""
    serve: Callable[[Any], object]
    """Serves the waiter; any thread may call it."""
    state: Callable[[Any], object]
    """What a call that failed must have left as it was."""
    reset: Callable[[Any], object] = do_nothing
    """Gives back what a served call has got, so that the call would wait again."""
    served: Any = True
    """What the call returns when it is served."""
    timed_out: Any = False
    """What the call returns when the time is over; the error, as text, if it raises one."""
    in_child: bool = True
    """Whether the call would wait in the child of a fork, too."""
    only_waiters: bool = False
    """Whether `serve` serves those that wait already, and nobody that comes later."""
    serves_all: bool = False
    """Whether `serve` serves all that wait."""
    fails_for_all: bool = False
    """Whether a call that fails ends the waits of all others, as `serve` does."""


def held(lock: Any, **acquired: Any) -> Any:
    """The lock or semaphore, acquired."""
    assert lock.acquire(False, **acquired)
    return lock


def read_locked(readers: int) -> RWMutex:
    rw = RWMutex()
    for _ in range(readers):
        rw.read.acquire()
    return rw


def write_locked() -> RWMutex:
    rw = RWMutex()
    rw.write.acquire()
    return rw


def release_readers(rw: RWMutex, readers: int) -> None:
    for _ in range(readers):
        rw.read.release()


def read_lock_again(rw: RWMutex, readers: int) -> None:
    rw.write.release()
    for _ in range(readers):
        rw.read.acquire()


def write_lock_again(rw: RWMutex) -> None:
    rw.read.release()
    rw.write.acquire()


def rwmutex_state(rw: RWMutex) -> object:
    return rw.read.locked(), rw.write.locked()


def semaphore_with(permits: int) -> Semaphore:
    s = Semaphore(0, bounded=False)
    s.release(permits)
    return s


def counting(tasks: int) -> WaitGroup:
    group = WaitGroup()
    group.add(tasks)
    return group


def unbroken(b: Barrier) -> Barrier:
    """The barrier, as new if a call that failed has broken it."""
    if b.broken:
        b.reset()
    return b


def reset_once_awaited(b: Barrier) -> None:
    for _ in range(5_000):
        if b.n_waiting:
            break
        time.sleep(0.001)
    b.reset()


def full_channel() -> Channel[int]:
    c: Channel[int] = Channel(1)
    c.send(0)
    return c


class HeldElsewhere:
    """An RLock that another thread holds, since only the thread that holds it can release it."""

    def __init__(self) -> None:
        self.lock = RLock()
        # Kept: an interrupt must not hit the callback of `threading` that forgets a freed one.
        self.threads: list[threading.Thread] = []
        self.hold()

    def hold(self) -> None:
        held, release, released = Event(), Event(), Event()

        def hold() -> None:
            with self.lock:
                held.set()
                release.wait()
            released.set()

        # One attribute: the thread that is served may hold it anew while another still serves it.
        self.holder = release, released
        self.threads.append(threading.Thread(target=hold, daemon=True))
        self.threads[-1].start()
        held.wait()

    def serve(self) -> None:
        release, released = self.holder
        release.set()
        if not sys.is_finalizing():  # then no other thread runs
            released.wait()

    def reset(self) -> None:
        self.lock.release()
        self.hold()

    def state(self) -> object:
        return self.lock.locked(), self.lock._is_owned()


def notify(c: Cond) -> None:
    with c:
        c.notify()


def cond_state(c: Cond) -> object:
    # Whichever thread has the lock.
    return c.locked(), re.sub(r", owner=\d+", "", repr(c))


class Predicate(SimpleNamespace):
    """A Cond, held, and a list that its waiters wait to have an item."""

    def __init__(self) -> None:
        super().__init__(cond=held(Cond()), ready=[])

    def fulfil(self) -> None:
        with self.cond:
            self.ready.append(1)
            self.cond.notify_all()


class Computation:
    """A SyncMap, or Cache, in which another thread computes the value of "k"."""

    def __init__(self, make: Callable[[], Any] = SyncMap) -> None:
        self.map: Any = make()
        self.finish = Event()
        self.begin()

    def begin(self) -> None:
        begun = Event()
        self.map.clear()
        self.finish.clear()

        def compute() -> Any:
            begun.set()
            return self.finish.wait()

        compute_k = partial(self.map.load_or_compute, "k", compute)
        threading.Thread(target=compute_k, daemon=True).start()
        begun.wait()


class Chosen:
    """Equal to what a select returns that chose a case with this value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return getattr(other, "closed", None) is False and self.value == getattr(other, "value", 0)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return f"Chosen({self.value!r})"


def select_among_others(case: Any, timeout: float | None) -> Callable[[], Any]:
    """A select of this case beside idle ones of each kind."""
    idle: Channel[int] = Channel()
    return partial(
        select,
        *(idle, idle.sending(1), Event(), counting(1), after(3600.0), case),
        timeout=timeout,
    )


WAITS = {
    "Mutex.acquire": Wait(
        make=lambda: held(Mutex()),
        bind=lambda m, timeout: partial(m.acquire, timeout=timeout),
        serve=lambda m: m.release(),
        state=lambda m: m.locked(),
    ),
    "RLock.acquire": Wait(
        make=HeldElsewhere,
        bind=lambda x, timeout: partial(x.lock.acquire, timeout=timeout),
        serve=lambda x: x.serve(),
        state=lambda x: x.state(),
        reset=lambda x: x.reset(),
        in_child=False,  # the thread that holds it is gone
    ),
    "Event.wait": Wait(
        make=Event,
        bind=lambda e, timeout: partial(e.wait, timeout),
        serve=lambda e: e.set(),
        state=lambda e: e.is_set(),
        reset=lambda e: e.clear(),
        serves_all=True,
    ),
    "RWMutex.read.acquire": Wait(
        make=write_locked,
        bind=lambda rw, timeout: partial(rw.read.acquire, timeout=timeout),
        serve=lambda rw: rw.write.release(),
        state=rwmutex_state,
        reset=write_lock_again,
    ),
    "RWMutex.write.acquire beside a reader": Wait(
        make=lambda: read_locked(1),
        bind=lambda rw, timeout: partial(rw.write.acquire, timeout=timeout),
        serve=lambda rw: rw.read.release(),
        state=rwmutex_state,
        reset=lambda rw: read_lock_again(rw, 1),
    ),
    "RWMutex.write.acquire beside two readers": Wait(
        make=lambda: read_locked(2),
        bind=lambda rw, timeout: partial(rw.write.acquire, timeout=timeout),
        serve=lambda rw: release_readers(rw, 2),
        state=rwmutex_state,
        reset=lambda rw: read_lock_again(rw, 2),
    ),
    "RWMutex.write.acquire beside a writer": Wait(
        make=write_locked,
        bind=lambda rw, timeout: partial(rw.write.acquire, timeout=timeout),
        serve=lambda rw: rw.write.release(),
        state=rwmutex_state,
    ),
    "Semaphore.acquire": Wait(
        make=lambda: held(Semaphore()),
        bind=lambda s, timeout: partial(s.acquire, timeout=timeout),
        serve=lambda s: s.release(),
        state=lambda s: s.available(),
    ),
    "Semaphore.acquire of many": Wait(
        make=lambda: held(Semaphore(5), n=3),
        bind=lambda s, timeout: partial(s.acquire, timeout=timeout, n=4),
        serve=lambda s: s.release(3),
        state=lambda s: s.available(),
        reset=lambda s: s.release(),
    ),
    "Semaphore.acquire of an unbounded one": Wait(
        make=lambda: semaphore_with(3),
        bind=lambda s, timeout: partial(s.acquire, timeout=timeout, n=4),
        serve=lambda s: s.release(),
        state=lambda s: s.available(),
        reset=lambda s: s.release(3),
    ),
    "Semaphore.acquire where there is none": Wait(
        make=lambda: Semaphore(0, bounded=False),
        bind=lambda s, timeout: partial(s.acquire, timeout=timeout),
        serve=lambda s: s.release(),
        state=lambda s: s.available(),
    ),
    "Semaphore.hold": Wait(
        make=lambda: held(Semaphore(2)),
        bind=lambda s, timeout: s.hold(2, timeout).__enter__,
        serve=lambda s: s.release(),
        state=lambda s: s.available(),
        reset=lambda s: s.release(),
        served=None,
        timed_out="TimeoutError",
    ),
    "WaitGroup.wait": Wait(
        make=lambda: counting(2),
        bind=lambda g, timeout: partial(g.wait, timeout),
        serve=lambda g: g.add(-2),
        state=repr,
        reset=lambda g: g.add(2),
        serves_all=True,
    ),
    "Barrier.wait": Wait(
        make=lambda: Barrier(100),
        bind=lambda b, timeout: partial(unbroken(b).wait, timeout),
        serve=reset_once_awaited,  # how it passes: test_barrier.py
        state=lambda b: b.parties,  # a call that failed breaks it, until `bind` makes it as new
        served="BrokenBarrierError: the barrier is broken, or was reset",
        timed_out="BrokenBarrierError: timed out waiting for the other threads",
        only_waiters=True,
        serves_all=True,
        fails_for_all=True,
    ),
    "Channel.send": Wait(
        make=full_channel,
        bind=lambda c, timeout: partial(c.send, 1, timeout),
        serve=lambda c: c.try_recv(),
        state=len,
        served=None,
        timed_out="TimeoutError",
    ),
    "Channel.recv": Wait(
        make=lambda: Channel(1),
        bind=lambda c, timeout: partial(c.recv, timeout),
        serve=lambda c: c.try_send(1),
        state=len,
        served=1,
        timed_out="TimeoutError",
    ),
    "select of one channel": Wait(
        make=lambda: Channel(1),
        bind=lambda c, timeout: partial(select, c, timeout=timeout),
        serve=lambda c: c.try_send(1),
        state=len,
        served=Chosen(1),
        timed_out="TimeoutError",
    ),
    "select to receive": Wait(
        make=lambda: Channel(1),
        bind=select_among_others,
        serve=lambda c: c.try_send(1),
        state=len,
        served=Chosen(1),
        timed_out="TimeoutError",
    ),
    "select to send": Wait(
        make=full_channel,
        bind=lambda c, timeout: select_among_others(c.sending(1), timeout),
        serve=lambda c: c.try_recv(),
        state=len,
        served=Chosen(None),
        timed_out="TimeoutError",
    ),
    "Event in a select": Wait(
        make=Event,
        bind=select_among_others,
        serve=lambda e: e.set(),
        state=lambda e: e.is_set(),
        reset=lambda e: e.clear(),
        served=Chosen(None),
        timed_out="TimeoutError",
    ),
    "WaitGroup in a select": Wait(
        make=lambda: counting(2),
        bind=select_among_others,
        serve=lambda g: g.add(-2),
        state=repr,
        reset=lambda g: g.add(2),
        served=Chosen(None),
        timed_out="TimeoutError",
    ),
    "Cond.wait": Wait(
        make=lambda: held(Cond()),
        bind=lambda c, timeout: partial(c.wait, timeout),
        serve=notify,
        state=cond_state,
        only_waiters=True,
    ),
    "Cond.wait_for": Wait(
        make=Predicate,
        bind=lambda x, timeout: partial(x.cond.wait_for, x.ready.__len__, timeout),
        serve=lambda x: x.fulfil(),
        state=lambda x: cond_state(x.cond),
        reset=lambda x: x.ready.clear(),
        only_waiters=True,
        serves_all=True,
    ),
    "SyncMap.load_or_compute": Wait(
        make=Computation,
        bind=lambda x, timeout: partial(x.map.load_or_compute, "k", int, timeout=timeout),
        serve=lambda x: x.finish.set(),
        state=lambda x: "k" in x.map or x.finish.is_set(),
        reset=lambda x: x.begin(),
        timed_out="TimeoutError",
        in_child=False,  # the thread that computes is gone
    ),
    "Cache.load_or_compute": Wait(
        make=lambda: Computation(lambda: Cache(10)),
        bind=lambda x, timeout: partial(x.map.load_or_compute, "k", int, timeout=timeout),
        serve=lambda x: x.finish.set(),
        state=lambda x: "k" in x.map or x.finish.is_set(),
        reset=lambda x: x.begin(),
        timed_out="TimeoutError",
        in_child=False,  # the thread that computes is gone
    ),
}


def outcome(call: Callable[[], Any]) -> Any:
    """What the call returns; the error, as text, if that is how it says how it ended."""
    try:
        return call()
    except TimeoutError as error:
        return type(error).__name__
    except threading.BrokenBarrierError as error:
        return f"{type(error).__name__}: {error}"


class WaitTrial:
    """A call that waits, with an object of its own. Only the holder of its lock may use a Cond."""

    def __init__(self, name: str) -> None:
        self.wait = WAITS[name]
        self.x = self.wait.make()
        self.cond: Cond | None = getattr(self.x, "cond", self.x if name == "Cond.wait" else None)
        self.served = self.wait.served
        self.timed_out = self.wait.timed_out

    def bind(self, timeout: float | None) -> Callable[[], Any]:
        return self.wait.bind(self.x, timeout)

    def call(self, timeout: float | None = 60.0) -> Any:
        return outcome(self.bind(timeout))

    def call_unlocked(self, timeout: float | None = 60.0) -> Any:
        """Wait, in a thread that does not hold the Cond's lock."""
        self.lock()
        try:
            return self.call(timeout)
        finally:
            self.unlock()

    def lock(self) -> None:
        if self.cond is not None:
            self.cond.acquire()

    def unlock(self) -> None:
        if self.cond is not None:
            self.cond.release()

    def serve(self) -> None:
        self.wait.serve(self.x)

    def serve_soon(self, seconds: float = 0.02) -> threading.Timer:
        timer = threading.Timer(seconds, self.serve)
        timer.start()
        return timer

    def reset(self) -> None:
        self.wait.reset(self.x)

    def state(self) -> Any:
        return self.wait.state(self.x)


def unlocked(name: str) -> WaitTrial:
    """A trial whose Cond no thread holds."""
    trial = WaitTrial(name)
    trial.unlock()
    return trial
