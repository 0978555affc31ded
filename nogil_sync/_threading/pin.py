"""``pin``: objects whose reference count no thread touches again."""

import sys
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["is_pinned", "pin", "pin_all"]

T = TypeVar("T")

if sys.version_info >= (3, 12):
    # An immortal object's count is a fixed, huge number, which no real one comes near.
    _HUGE = sys.getrefcount(None) // 2
else:
    _HUGE = sys.maxsize  # nothing is immortal


def pin(obj: T, *, deep: bool = False) -> T:  # noqa: ARG001
    """Make `obj` live for the rest of the process, and return the object to use.

    Threads that use one object contend for its reference count, however well its methods
    scale. The count of a pinned object is never written again, so that contention is gone.
    The objects of this library need it on Python 3.13t only: from 3.14 on they see to it
    themselves. What is yours and shared by all threads needs it on every version.
    For an exact ``str`` the object to use is the interned one, else it is `obj` itself.
    Idempotent, safe from any thread and for any object.

    Pinning is a deliberate leak, for the few long-lived objects that all threads use:

    - finalisers and weak reference callbacks of a pinned object never run, not even at exit,
      so never pin what must be closed;
    - everything it refers to stays alive too, and cycles through it leak;
    - it stops all threads for a moment (some 0.2 ms when they are busy), so it belongs at
      start-up; :func:`pin_all` pins many objects in one pause.

    The items of a pinned list are not pinned. With ``deep=True`` the whole graph is that
    `obj` reaches through built-in containers, attributes and slots, and through the closures
    and defaults of functions, in one pause: for parsed configuration, routing tables and
    other data that threads only read. Modules and classes are not entered. What has to be
    closed, released or joined is left as it is, and so is what has such a thing inside; see
    :func:`pin_report`, which tells it beforehand. The graph must be complete: what is added
    to it later is not pinned.

    The threading backend returns `obj` unchanged.

    >>> from nogil_sync import pin
    >>> config = pin({"hosts": ["a", "b"]}, deep=True)
    >>> config["hosts"][0]
    'a'
    """
    return obj


def pin_all(iterable: Iterable[T]) -> list[T]:
    """Pin every object of `iterable` in one pause; return the objects to use, in order.

    See :func:`pin`.

    >>> from nogil_sync import ShardedCounter, pin_all
    >>> hits, misses = pin_all([ShardedCounter(), ShardedCounter()])
    >>> hits.add()
    """
    return list(iterable)


def is_pinned(obj: object) -> bool:
    """Whether no thread touches the reference count of `obj` any more.

    True of what :func:`pin` pinned and of what the interpreter itself made immortal: None,
    small ints, and on free-threaded builds interned strings. On standard builds, where
    :func:`pin` does nothing, it tells only the latter, and before Python 3.12 nothing is
    immortal.

    >>> from nogil_sync import is_pinned
    >>> is_pinned(object())
    False
    """
    return sys.getrefcount(obj) >= _HUGE


pin.__module__ = pin_all.__module__ = is_pinned.__module__ = "nogil_sync"
