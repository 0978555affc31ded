"""Guards: the locks under which this backend changes the state of its objects.

A *section* is the body of ``with guard:``.  One rule makes the whole backend safe: a section
is **straight-line code: no call, no loop, no import, no ``raise``, and no allocation of a
container**.  It reads and stores slots, compares, and adds exact ints and floats.  An exact dict
whose keys are exact ints is a set of slots, too: its lookups and stores call nothing.

Signal handlers, thread switches, garbage collections (with the finalisers they run) and
``KeyboardInterrupt`` come only where the interpreter looks for them: after a call, on a
backward jump, and on entry to a Python function; on 3.11 a collection also where a container
is allocated.  A section has none of these places, and ``with`` itself looks only after the
lock was released.  It follows that

- no handler or finaliser ever runs while its own thread holds a guard, so it may use the same
  object;
- a section runs to its end or not at all: no ``KeyboardInterrupt`` lands inside it, and local
  variables set in it tell surely, also to an ``except`` clause, what it did;
- with the GIL, no other thread runs during a section, so no fork finds one under way.

A trace function (a debugger) does run between the lines of a section; that is why sections
take a real lock even where the GIL would exclude other threads by itself.  From 3.14 on the
interpreter also looks between the entry of ``with`` and its body, where a lock would already be
held; so there the GIL must do alone, and entering a section does nothing.  (Without the GIL,
3.14 keeps the lock: this backend is then no more than a makeshift.)

Without the GIL (this backend can be forced there) a section of another thread may be under
way at a fork; the child then gets its guards free, and finds the data before or after that
section's last store.  Sections that store several things keep each prefix harmless.
"""

import os
import sys
import sysconfig
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

Guard: TypeAlias = AbstractContextManager[Any, None]

_COUNT = 64
_locks = [threading.Lock() for _ in range(_COUNT)]
_guards: list[Guard] = [*_locks]
if sys.version_info >= (3, 14) and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    _guards = [nullcontext()] * _COUNT


def guard_of(obj: object) -> Guard:
    """The guard of this object: one of a fixed few, so that a fork can free them all."""
    return _guards[id(obj) // 64 % _COUNT]


class Receipt:
    """Filled in by a section: tells what it did also when an interrupt follows it."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


NO_RECEIPT = Receipt()  # for those who do not ask


def _free_all() -> None:
    for lock in _locks:
        lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)
