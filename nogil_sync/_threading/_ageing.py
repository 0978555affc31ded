"""Lets pools release old items at each garbage collection, but outside of the collector.

The first pool that ages puts a hook, one function, into ``gc.callbacks``.  (The hook is written in
Python, so an interrupt that arrives while it runs is lost; a program without pools has no hook.)
If the module is imported again, it uses the existing hook.  The collector calls the hook at the
beginning of each collection, where it must do almost nothing.  It makes a *sweeper*: an object that
refers to itself, and that nothing else refers to.  The collection that has just begun finds that
the sweeper is garbage, and calls its finaliser on the collecting thread.  The finaliser visits the
pools, and these release items.  So unused items are released when the collector runs, even if no
thread ever calls the pool again.

The finaliser first revives the sweeper.  The collector neither counts a revived object nor keeps it
(``gc.DEBUG_SAVEALL``), so ``while gc.collect(): pass`` ends.  The next sweeper replaces it.

Which collections count.  On free-threaded builds every collection is a full one, and counts.
Elsewhere the full ones count, and at most one a second of the many small ones, because a program
whose garbage dies young may never have a full one.
"""

import gc
import sysconfig
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

_EVERY_ONE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
_FULL = 2
_SPACING = 1.0  # seconds between small collections that count


class Aged(Protocol):
    """An object that is notified of collections."""

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
        if not hook.due:  # a sweeper left over from an earlier collection
            return
        hook.due = False
        for ref in hook.pools.copy().values():
            pool = ref()
            if pool is not None:
                pool.collected()


class _Hook:
    """The hook; it holds all that it uses, also for the time when modules are torn down."""

    __slots__ = ("clock", "due", "forget", "last", "pools", "sweeper", "swept")

    def __init__(self) -> None:
        self.clock = time.monotonic
        self.due = False  # a collection has begun, and no sweeper has run since
        self.last = time.monotonic()
        # Keyed by the identity of the weak reference: its hash would be that of the pool, which may
        # be user code. Only atomic calls access the dict.
        self.pools: dict[int, weakref.ref[Any]] = {}
        self.sweeper = _Sweeper
        self.swept: _Sweeper | None = None  # the latest one
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


_found: dict[str, Any] = {}  # the hook that this module uses, once it uses one


def _hook() -> Any:
    """The hook in ``gc.callbacks``; an earlier import of this module may have put it there.

    Without a lock, which an interrupt could leave locked. Two threads may both append a hook; one
    of them then has no pools and does nothing.
    """
    hook = _found.get("hook")
    if hook is None:
        callbacks = [*gc.callbacks]
        mine = [
            each
            for each in callbacks
            if type(each).__qualname__ == "_Hook" and type(each).__module__ == __name__
        ]
        hook = mine[0] if mine else _Hook()
        if not mine:
            gc.callbacks.append(hook)
        hook = _found.setdefault("hook", hook)
    return hook


def register(pool: Aged) -> None:
    """From now on each collection calls ``pool.collected()``."""
    hook = _hook()
    ref = weakref.ref(pool, hook.forget)
    hook.pools[id(ref)] = ref
