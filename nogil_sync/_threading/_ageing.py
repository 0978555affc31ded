"""Tells pools of each collection, and lets them release what grew old, outside of it.

The first pool that ages puts a hook, one function, into ``gc.callbacks``.  (An interrupt that
comes during a collection is lost in such a function, since it is written in Python; a program
without pools has none.)  A module that is imported again uses the hook that is there.  The hook
runs inside the collector, at the beginning of each collection, and must do next to nothing.  It
leaves a *sweeper* behind: an object that refers to itself, and to which nobody else refers.  The
collection that is just beginning finds the sweeper to be garbage and calls its finaliser on the
thread that collects.  The finaliser visits the pools, which release items.  So unused items go
when the collector runs, also if nobody ever calls the pool again.

The finaliser first revives the sweeper.  The collector neither counts a revived object nor keeps
it (``gc.DEBUG_SAVEALL``), so ``while gc.collect(): pass`` ends.  The next sweeper takes its place.

Which collections count.  On free-threaded builds all of them are full ones.  Elsewhere the full
ones count, and of the many small ones at most one a second: a program whose garbage dies young may
never see a full one.
"""

import gc
import os
import sysconfig
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from .._common.originals import RLock

_EVERY_ONE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
_FULL = 2
_SPACING = 1.0  # seconds between small collections that count


class Aged(Protocol):
    """What wants to be told."""

    def collected(self) -> None: ...


class _Sweeper:
    __slots__ = ("hook", "me")

    def __init__(self, hook: "_Hook") -> None:
        self.hook = hook
        self.me: _Sweeper | None = self

    def __del__(self) -> None:
        hook = self.hook
        hook.swept = self
        self.me = None
        if not hook.due:  # one that was left over
            return
        hook.due = False
        for ref in hook.pools.copy().values():
            pool = ref()
            if pool is not None:
                pool.collected()


class _Hook:
    """The function, with what it needs at hand also while modules are taken apart."""

    __slots__ = ("clock", "due", "forget", "last", "pools", "sweeper", "swept")

    def __init__(self) -> None:
        self.clock = time.monotonic
        self.due = False  # a collection began, and no sweeper was there yet
        self.last = time.monotonic()
        # By the identity of the weak reference, since the hash of one is that of its object: user
        # code. Only calls that are atomic touch it.
        self.pools: dict[int, weakref.ref[Any]] = {}
        self.sweeper = _Sweeper
        self.swept: _Sweeper | None = None  # the one that came last
        self.forget = partial(_forget, self.pools.pop)

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase != "start" or not self.pools:
            return
        if not _EVERY_ONE and info["generation"] < _FULL:
            now = self.clock()
            if now - self.last < _SPACING:
                return
            self.last = now
        self.due = True
        self.sweeper(self)


def _forget(pop: Callable[..., object], ref: weakref.ref[Any], identity: Any = id) -> None:
    pop(identity(ref), None)


_installing = RLock()  # reentrant: a finaliser may make a pool, too


_found: list[Any] = []  # the hook that this module uses, once it uses one


def _hook() -> Any:
    """The one in ``gc.callbacks``: perhaps that of a module that was imported before this one."""
    if not _found:
        with _installing:
            _found.extend(
                each
                for each in gc.callbacks
                if type(each).__qualname__ == "_Hook" and type(each).__module__ == __name__
            )
            if not _found:
                hook = _Hook()
                gc.callbacks.append(hook)
                _found.append(hook)
    return _found[0]


def register(pool: Aged) -> None:
    """Each collection from now on calls its ``collected``."""
    hook = _hook()
    ref = weakref.ref(pool, hook.forget)
    hook.pools[id(ref)] = ref


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_installing._at_fork_reinit)  # type: ignore[attr-defined]
