"""Tells pools of each collection, and lets them release what grew old, outside of it.

One function stands in ``gc.callbacks`` from the import on.  It runs inside the collector, at the
beginning of each collection, and must do next to nothing.  What it does is to leave behind a
*sweeper*: an object that refers to itself, and to which nobody else refers.  The collection
that is just beginning finds it to be garbage and runs its finaliser, as any other's, on the
thread that collects.  There the pools are visited, and items are released.  So items that
nobody uses go when the collector runs, also if nobody ever calls the pool again.

Which collections count.  On free-threaded builds all of them are full ones.  Elsewhere the full
ones count, and of the many small ones at most one a second: a program whose garbage dies young may
never see a full one.
"""

import gc
import sysconfig
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

_EVERY_ONE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
_FULL = 2
_SPACING = 1.0  # seconds between small collections that count


class Aged(Protocol):
    """What wants to be told."""

    def collected(self) -> None: ...


# By the identity of the weak reference, since the hash of one is that of its object: user code.
# Only calls that are atomic touch it.
_pools: dict[int, weakref.ref[Any]] = {}


def _forget(
    ref: weakref.ref[Any], pop: Callable[..., object] = _pools.pop, identity: Any = id
) -> None:
    pop(identity(ref), None)


def register(pool: Aged) -> None:
    """Each collection from now on calls its ``collected``."""
    ref = weakref.ref(pool, _forget)
    _pools[id(ref)] = ref


class _Sweeper:
    __slots__ = ("hook", "me")

    def __init__(self, hook: "_Hook") -> None:
        self.hook = hook
        self.me = self

    def __del__(self) -> None:
        hook = self.hook
        if not hook.due:  # one that was left over
            return
        hook.due = False
        for ref in hook.pools.copy().values():
            pool = ref()
            if pool is not None:
                pool.collected()


class _Hook:
    """The function, with what it needs at hand also while modules are taken apart."""

    __slots__ = ("clock", "due", "last", "pools", "sweeper")

    def __init__(self) -> None:
        self.clock = time.monotonic
        self.due = False  # a collection began, and no sweeper was there yet
        self.last = time.monotonic()
        self.pools = _pools
        self.sweeper = _Sweeper

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


gc.callbacks.append(_Hook())
