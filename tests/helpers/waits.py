"""Every call that waits, as source text: what it takes to wait, to be served, and to see no trace.

One table for the tests that must hold for all of them alike: time-outs, Ctrl-C, handlers, forks,
exit. Text, because some of them run it in other processes.
"""

import textwrap
import threading
from functools import cache
from typing import Any, NamedTuple

import nogil_sync


class Wait(NamedTuple):
    """One call that waits."""

    setup: str
    """Makes `x`, in a state in which the call waits."""
    call: str
    """The call, an expression with `{timeout}`."""
    served: str
    """What it gives when it is served: the text of an expression."""
    free: str
    """Serves the waiter; any thread may run it."""
    probe: str
    """The state of `x` that a call which failed must have left alone."""
    timed_out: str = "False"
    """What it gives when the time is over; the name of an exception if it raises that."""
    rest: str = "pass"
    """Gives back what a served call has got, so that it would wait again."""
    in_child: bool = True
    """Whether it would wait in the child of a fork, too."""


LOCKED = "(x.read.locked(), x.write.locked())"

WAITS = {
    "Mutex.acquire": Wait(
        "x = Mutex(); x.acquire()",
        "x.acquire(timeout={timeout})",
        "True",
        "x.release()",
        "x.locked()",
    ),
    "Event.wait": Wait(
        "x = Event()", "x.wait({timeout})", "True", "x.set()", "x.is_set()", rest="x.clear()"
    ),
    "RWMutex.read.acquire": Wait(
        "x = RWMutex(); x.write.acquire()",
        "x.read.acquire(timeout={timeout})",
        "True",
        "x.write.release()",
        LOCKED,
        rest="x.read.release(); x.write.acquire()",
    ),
    "RWMutex.write.acquire beside a reader": Wait(
        "x = RWMutex(); x.read.acquire()",
        "x.write.acquire(timeout={timeout})",
        "True",
        "x.read.release()",
        LOCKED,
        rest="x.write.release(); x.read.acquire()",
    ),
    "RWMutex.write.acquire beside two readers": Wait(
        "x = RWMutex(); x.read.acquire(); x.read.acquire()",
        "x.write.acquire(timeout={timeout})",
        "True",
        "x.read.release(); x.read.release()",
        LOCKED,
        rest="x.write.release(); x.read.acquire(); x.read.acquire()",
    ),
    "RWMutex.write.acquire beside a writer": Wait(
        "x = RWMutex(); x.write.acquire()",
        "x.write.acquire(timeout={timeout})",
        "True",
        "x.write.release()",
        LOCKED,
    ),
    "Semaphore.acquire": Wait(
        "x = Semaphore(); x.acquire()",
        "x.acquire(timeout={timeout})",
        "True",
        "x.release()",
        "x.available()",
    ),
    "Semaphore.acquire of many": Wait(
        "x = Semaphore(5); x.acquire(n=3)",
        "x.acquire(timeout={timeout}, n=4)",
        "True",
        "x.release(3)",
        "x.available()",
        rest="x.release()",
    ),
    "Semaphore.acquire of an unbounded one": Wait(
        "x = Semaphore(0, bounded=False); x.release(3)",
        "x.acquire(timeout={timeout}, n=4)",
        "True",
        "x.release()",
        "x.available()",
        rest="x.release(3)",
    ),
    "Semaphore.acquire where there is none": Wait(
        "x = Semaphore(0, bounded=False)",
        "x.acquire(timeout={timeout})",
        "True",
        "x.release()",
        "x.available()",
    ),
    "Semaphore.hold": Wait(
        "x = Semaphore(2); x.acquire()",
        "x.hold(2, {timeout}).__enter__()",
        "None",
        "x.release()",
        "x.available()",
        "TimeoutError",
        rest="x.release()",
    ),
    "WaitGroup.wait": Wait(
        "x = WaitGroup(); x.add(2)",
        "x.wait({timeout})",
        "True",
        "x.add(-2)",
        "repr(x)",
        rest="x.add(2)",
    ),
    "Channel.send": Wait(
        "x = Channel(1); x.send(0)",
        "x.send(1, {timeout})",
        "None",
        "x.try_recv()",
        "len(x)",
        "TimeoutError",
    ),
    "Channel.recv": Wait(
        "x = Channel(1)",
        "x.recv({timeout})",
        "1",
        "x.try_send(1)",
        "len(x)",
        "TimeoutError",
    ),
    "Cond.wait": Wait(
        "x = Cond(); x.acquire()",
        "x.wait({timeout})",
        "True",
        "x.acquire(); x.notify(); x.release()",
        "(x.locked(), repr(x))",
    ),
    "Cond.wait_for": Wait(
        "x = Cond(); x.acquire(); ready = []",
        "x.wait_for(ready.__len__, {timeout})",
        "True",
        "x.acquire(); ready.append(1); x.notify_all(); x.release()",
        "(x.locked(), repr(x))",
        rest="ready.clear()",
    ),
    "SyncMap.load_or_compute": Wait(
        "import threading; x, go, begun = SyncMap(), Event(), Event(); "
        "hold = lambda: begun.set() or go.wait(); "
        "start = lambda: (go.clear(), begun.clear(), "
        "threading.Thread(target=x.load_or_compute, args=('k', hold), daemon=True).start(), "
        "begun.wait()); start()",
        "x.load_or_compute('k', int, timeout={timeout})",
        "True",
        "go.set()",
        "'k' in x or go.is_set()",
        "TimeoutError",
        rest="x.clear(); start()",
        in_child=False,  # the thread that computes is gone
    ),
}


def names(name: str) -> str:
    """Text that makes its parts callable in a process: call(timeout), free(), rest(), probe()."""
    wait = WAITS[name]
    return textwrap.dedent(
        f"""
        import os, signal, threading, time, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # forks of processes with threads
        from nogil_sync import *
        {wait.setup}
        def call(timeout):
            try:
                return {wait.call.format(timeout="timeout")}
            except TimeoutError as error:
                return type(error).__name__
        def free():
            {wait.free}
        def rest():
            {wait.rest}
        def probe():
            return {wait.probe}
        served = {wait.served}
        timed_out = {wait.timed_out if wait.timed_out == "False" else repr(wait.timed_out)}
        is_cond = {name.startswith("Cond")}
        def call_anywhere(timeout):
            # Only the holder of its lock may wait on a Cond.
            if is_cond:
                x.acquire()
            try:
                return call(timeout)
            finally:
                if is_cond:
                    x.release()
        if is_cond:
            x.release()
        """
    )


@cache
def code(text: str, mode: str) -> Any:
    # Once: free-threaded interpreters never free the constants of compiled code.
    return compile(text, "<wait>", mode)


class Play:
    """A wait being tried in this process."""

    def __init__(self, name: str) -> None:
        self.wait = WAITS[name]
        self.scope: dict[str, Any] = {n: getattr(nogil_sync, n) for n in nogil_sync.__all__}
        self.run(self.wait.setup)

    def run(self, text: str) -> None:
        exec(code(text, "exec"), self.scope)

    def value(self, text: str, **names: Any) -> Any:
        return eval(code(text, "eval"), self.scope, names)

    def call(self, timeout: float | None = 60.0) -> Any:
        """Wait; the name of the exception if that is how it says that the time is over."""
        try:
            return self.value(self.wait.call.format(timeout="timeout"), timeout=timeout)
        except TimeoutError as error:
            return type(error).__name__

    def free(self) -> None:
        self.run(self.wait.free)

    def free_soon(self, seconds: float = 0.02) -> threading.Timer:
        timer = threading.Timer(seconds, self.free)
        timer.start()
        return timer

    def rest(self) -> None:
        self.run(self.wait.rest)

    def probe(self) -> Any:
        return self.value(self.wait.probe)

    @property
    def served(self) -> Any:
        return self.value(self.wait.served)

    @property
    def timed_out(self) -> Any:
        return False if self.wait.timed_out == "False" else self.wait.timed_out
