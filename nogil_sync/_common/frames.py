"""Frames of calls that sleep: which call of which object it is, and its stack.

Without the GIL a thread cannot read the frames of another one: they may end meanwhile, and be freed
(python/cpython#152355).  So there a thread reads its own frames before it sleeps at a gate, and the
native backend stops the threads that run when it reads theirs.
"""

import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Final, TypeAlias

Line: TypeAlias = tuple[CodeType, int | None]

HAS_GIL: Final = getattr(sys, "_is_gil_enabled", lambda: True)()
MAX_DEPTH: Final = 64  # frames of a stack; as in contention.c
_PACKAGE = __name__.partition(".")[0]

# The name of the call that waits, where a class has one: also if it was made through another.
_CALLS = {
    "Barrier": "wait",
    "Cache": "load_or_compute",
    "Cond": "wait",
    "Event": "wait",
    "Mutex": "acquire",
    "RLock": "acquire",
    "RWMutexReader": "acquire",
    "RWMutexWriter": "acquire",
    "Semaphore": "acquire",
    "SyncMap": "load_or_compute",
    "TaskGroup": "__exit__",
    "WaitGroup": "wait",
}


def _is_public(obj: object) -> bool:
    """Whether the object is of a public class of ours, or of one derived from it."""
    return any(cls.__module__ == _PACKAGE for cls in type(obj).__mro__)


def public_class(obj: object) -> str:
    """The name of the object's class, or of the public class that it is derived from."""
    for cls in type(obj).__mro__:
        if cls.__module__ == _PACKAGE:
            return cls.__name__
    return "" if obj is None else type(obj).__name__


def lines_from(frame: FrameType | None) -> Iterator[Line]:
    """The stack of this frame, the innermost first."""
    depth = 0
    while frame is not None and depth < MAX_DEPTH:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back
        depth += 1


def is_ours(frame: FrameType) -> bool:
    """Whether the frame runs code of this package.

    It reads no dict: threads come here before each sleep, and on 3.13t `dict.get` takes the
    dict's lock. If the interpreter ends just when it hands that lock to a thread, the thread stops
    with it for ever, and so does the interpreter, as soon as it clears that module.
    """
    return frame.f_code.co_filename.startswith(_FOLDER)


# As the interpreter has it in the code that was compiled along with this.
_FOLDER: Final = is_ours.__code__.co_filename[: -len("_common/frames.py")]


def subject(frame: FrameType | None) -> tuple[object, str]:
    """The object and the call, "Semaphore.acquire" say, to which this frame of ours belongs.

    None for an object that cannot be told, as that of a `select`.
    """
    obj: object = None
    name = outermost = inner = ""
    while frame is not None and is_ours(frame):
        outermost = frame.f_code.co_qualname
        inner = inner or frame.f_code.co_filename
        this = frame.f_locals.get("self")
        if obj is None and this is not None and _is_public(this):
            obj = this
        if obj is not None and this is obj:
            name = frame.f_code.co_name
        frame = frame.f_back
    if obj is None:
        return None, "once" if inner.endswith("runs.py") else outermost
    cls = public_class(obj)
    if cls == "SemaphoreHold":
        obj, cls = getattr(obj, "_whole", obj), "Semaphore"
    if cls == "Channel":
        return obj, "Channel.send" if "send" in name else "Channel.recv"
    return obj, f"{cls}.{_CALLS[cls] if cls in _CALLS else name}"  # noqa: SIM401 (.get takes a lock)


def look_at(frame: FrameType | None, stack: bool) -> tuple[object, str, tuple[Line, ...]]:
    """Return the object and the call of this frame of ours, and its stack."""
    return *subject(frame), tuple(lines_from(frame)) if stack else ()
