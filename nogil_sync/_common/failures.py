"""Exceptions of functions whose result several threads get, and which each of them raises.

Before 3.14 an interpreter without the GIL crashes if threads raise one exception object at the
same time (concurrent.futures has the same problem): each frame that the exception passes replaces
its traceback without a lock. There each thread raises a copy of its own.
"""

import sys
import sysconfig
from types import GetSetDescriptorType, MemberDescriptorType, TracebackType
from typing import Any, NoReturn

from .originals import get_ident

_SHAREABLE = sys.version_info >= (3, 14) or not sysconfig.get_config_var("Py_GIL_DISABLED")

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that is not built in
_PARTS = [
    vars(BaseException)[name]
    for name in ("args", "__cause__", "__context__", "__suppress_context__")
]
_dict_of = vars(BaseException)["__dict__"].__get__
_set_context = vars(BaseException)["__context__"].__set__  # runs no `__setattr__` of the class


def _copy_field(field: Any, source: BaseException, target: BaseException) -> None:
    """Copy one slot, of the class or of its built-in base."""
    try:
        value = field.__get__(source)
    except AttributeError:
        return  # not set
    try:
        # In some slots None means unset, so a value is stored only if it differs.
        differs = field.__get__(target) is not value
    except AttributeError:
        differs = True
    if differs:
        try:
            field.__set__(target, value)
        except (AttributeError, TypeError):
            pass  # read-only: the constructor has set it from the arguments


def _copied(error: BaseException) -> BaseException:
    """A copy with the same parts, attributes and slots, made without calling the class's code."""
    kind = type(error)
    built_in: Any = next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)
    copied: BaseException = built_in.__new__(kind, *error.args)
    if type(copied) is not kind:
        raise TypeError
    attributes = _dict_of(copied)
    attributes.update(_dict_of(error))
    notes = attributes.get("__notes__")
    if type(notes) is list:
        attributes["__notes__"] = notes.copy()
    for each in kind.__mro__:
        for name, field in vars(each).items() if issubclass(each, BaseException) else ():
            if isinstance(field, MemberDescriptorType | GetSetDescriptorType) and name[:2] != "__":
                _copy_field(field, error, copied)
    for part in _PARTS:
        part.__set__(copied, part.__get__(error))
    return copied


def _twin(error: BaseException) -> BaseException:
    """An exception for another thread to raise: a copy, or an error that says why there is none."""
    try:
        return _copied(error)
    except Exception:
        pass
    try:  # perhaps a class in C with a constructor of its own
        from copy import copy

        copied = copy(error)
        if type(copied) is type(error) and copied is not error:
            return copied
    except Exception:
        pass
    wrapped = RuntimeError("another thread's exception, which cannot be copied for this one")
    wrapped.__cause__ = error
    return wrapped


class Failure:
    """An exception that each call raises again, in the state of the first time."""

    __slots__ = ("context", "error", "model", "thread", "traceback")

    def __init__(self, error: Exception, foreign: bool = False) -> None:
        self.error = error
        self.context = error.__context__
        # The traceback without our own frame, which caught the exception, unless C code did.
        whole = error.__traceback__
        self.traceback: TracebackType | None = whole if foreign else whole and whole.tb_next
        self.thread = get_ident()
        # No thread raises or changes the model, so all can copy it at the same time.
        self.model = None if _SHAREABLE else _twin(error)

    def throw(self) -> NoReturn:
        error: BaseException = self.error
        if self.model is not None and get_ident() != self.thread:
            error = _twin(self.model)
        BaseException.with_traceback(error, self.traceback)
        try:
            raise error
        finally:
            # The context is the first one, not the exception that this caller handles.
            _set_context(error, self.context)
            del self, error  # the traceback has this frame
