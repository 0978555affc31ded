"""Guards: the locks under which Python code of this package changes the state of its objects.

The threading backend is built on them, and so is TaskGroup, which both backends share.

A *section* is the body of ``with guard:``.  One rule makes it safe: a section is
**straight-line code: no call, no loop, no import, no ``raise``, and no allocation of a
container**.  It reads and stores slots, compares, and adds exact ints and floats.  An exact dict
whose keys are exact ints is a set of slots, too: its lookups and stores call nothing.

The interpreter runs signal handlers, thread switches, garbage collections (with the finalisers
they run) and ``KeyboardInterrupt`` only where it looks for them: after a call of a C function, on
a backward jump, and on entry to a Python function; on 3.11 it also collects where a container
is allocated.  A section has none of these places.  It follows that

- no handler or finaliser ever runs in the middle of a section of its own thread;
- a section runs to its end or not at all: no ``KeyboardInterrupt`` arrives inside it, and local
  variables that it sets say reliably, also in an ``except`` clause, what it did;
- with the GIL, no other thread runs during a section, so no fork finds one under way.

**Entering and leaving.**  A section has one of two forms:

    with guard:                     guard.held = True
        ...                         try:
                                        ...
                                    finally:
                                        del guard.held

The second is for sections that must not be skipped, such as those in a ``finally``: the interpreter
does not look for signals before, within or after it, because storing and deleting an attribute is
no call.  (`held` is a property whose setter and deleter are the lock's own methods, in C.)

At its end ``with`` calls ``__exit__``, a C function: the interpreter looks after the lock was
released.  Up to 3.13 it enters without looking.  From 3.14 on it looks after an ``__enter__`` in C,
when the lock is held and ``__exit__`` would not be called.  So there `Guard.__enter__` is a Python
function: the interpreter looks when the function begins, and an interrupt then skips the section;
it does not look when the function returns.

A thread that waits for a guard can be interrupted there; then it does not get the guard, and skips
the section.  With the GIL no thread ever waits, unless a trace function lets other threads run.
The native backend has a guard of its own (``guard_type.c``); no interrupt can end the wait for that
one.

**Trace functions** run wherever the interpreter reports something to them.  `untraced` takes
the line numbers from the instructions of sections, so that no line in the middle of one is
reported.  What is reported at the edges (the return of ``__enter__``, a profiler's calls) comes
before the first or after the last instruction of the body.  A trace function that uses the same
object there finds it whole, and enters its guard once more, as guards are reentrant.  A tool that
asks for every instruction or branch (``f_trace_opcodes``, ``sys.monitoring``) does come between;
it must not use the object that it watches.  A tool that changes the object at every line, for ever,
keeps a call from ending, if that call retries after each change by another.

Without the GIL a section of another thread may be under way at a fork.  The child then has free
guards, and may find only the first stores of that section done.  So in a section with several
stores each prefix of them must be harmless.
"""

import _thread
import sys
from typing import TYPE_CHECKING

from .forked import in_child

if TYPE_CHECKING:

    class Guard:
        """A reentrant lock; no handler can run between taking it and the next statement."""

        held: bool

        def __enter__(self) -> object: ...

        def __exit__(self, *_: object) -> None: ...

        def _at_fork_reinit(self) -> None: ...

else:

    class Guard(_thread.RLock):
        __slots__ = ()

        # Called as `acquire(True)`, the value stored being `blocking`.
        held = property(None, _thread.RLock.acquire, _thread.RLock.release)

        if sys.version_info >= (3, 14):

            def __enter__(self):
                self.held = True


_COUNT = 64
_guards = [Guard() for _ in range(_COUNT)]


def defer(_obj: object, /) -> None:
    """Let the object defer its reference count, if the backend can; this one cannot."""


def guard_of(obj: object) -> Guard:
    """The guard of this object: one of a fixed number, so that a fork can free all of them."""
    return _guards[id(obj) // 64 % _COUNT]


class Receipt:
    """Filled in by a section: says what it did even if an interrupt follows."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


NO_RECEIPT = Receipt()  # for callers that need none


def _free_all() -> None:
    for guard in _guards:
        guard._at_fork_reinit()


in_child(_free_all)
