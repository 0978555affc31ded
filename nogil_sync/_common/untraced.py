"""Removes the line numbers from sections (see `guard`), so that no trace function runs in one.

The interpreter calls a debugger or a coverage tool written in Python before each line. Between two
lines of a section such a tool would find the object half changed, and might use it, or let other
code of its thread use it. An instruction without a line number belongs to no line, so the
interpreter reports nothing there.

The table of positions is described in CPython's ``InternalDocs/code_objects.md``.
"""

import sys
from collections.abc import Iterator
from opcode import opmap
from types import CodeType, FunctionType
from typing import Any

Position = tuple[int | None, int | None, int | None, int | None]

_HELD = "held"
_NOWHERE: Position = (None, None, None, None)
_STORE, _DELETE = opmap["STORE_ATTR"], opmap["DELETE_ATTR"]
_LOAD = opmap["LOAD_ATTR"]
# The instruction that enters a `with`; from 3.14 on it looks up the method, and a call follows.
_WITH = opmap["LOAD_SPECIAL" if sys.version_info >= (3, 14) else "BEFORE_WITH"]


def hide_sections(namespace: dict[str, Any]) -> None:
    """Remove the line numbers from the sections in all functions and methods of a module."""
    home = namespace["__name__"]
    for value in list(namespace.values()):
        if getattr(value, "__module__", None) not in (home, "nogil_sync"):
            continue
        for each in [value, *vars(value).values()] if isinstance(value, type) else [value]:
            function = getattr(each, "fget", None) or getattr(each, "__func__", None) or each
            if isinstance(function, FunctionType):
                function.__code__ = _without_lines(function.__code__)


def _without_lines(code: CodeType) -> CodeType:
    if not any(name == _HELD or name.endswith("guard") for name in code.co_names):
        return code
    before = list(code.co_positions())
    after = before.copy()
    for start, end in (*_by_store(code), *_by_with(code, before)):
        after[start:end] = [_NOWHERE] * (end - start)
    if after == before:
        return code
    changed = code.replace(co_linetable=b"".join(_encoded(after, code.co_firstlineno)))
    return changed if list(changed.co_positions()) == after else code


def _found(where: bytes, what: int) -> Iterator[int]:
    at = where.find(what)
    while at >= 0:
        yield at
        at = where.find(what, at + 1)


def _by_store(code: CodeType) -> Iterator[tuple[int, int]]:
    """The code from after ``guard.held = True`` to the next ``del guard.held``."""
    if _HELD in code.co_names:
        operations, arguments = code.co_code[::2], code.co_code[1::2]
        held = code.co_names.index(_HELD)
        ends = [at for at in _found(operations, _DELETE) if arguments[at] == held]
        for at in _found(operations, _STORE):
            if arguments[at] == held:
                yield at + 1, next(end for end in ends if end > at)


def _by_with(code: CodeType, positions: list[Position]) -> Iterator[tuple[int, int]]:
    """The body of ``with guard:``: the code until the ``with`` statement's own line comes again."""
    operations, arguments = code.co_code[::2], code.co_code[1::2]
    for at in _found(operations, _WITH):
        line = positions[at][0]
        read = operations.rfind(_LOAD, 0, at)
        name = code.co_names[arguments[read] >> (sys.version_info >= (3, 12))]
        if positions[read][0] == line and name.endswith("guard"):
            start = at
            while positions[start][0] == line:
                start += 1
            end = start
            while positions[end][0] != line:
                end += 1
            yield start, end


def _encoded(positions: list[Position], line: int) -> Iterator[bytes]:
    """The table of positions: entries of up to eight code units each."""
    at = 0
    while at < len(positions):
        here = positions[at]
        end = at
        while end < len(positions) and end - at < 8 and positions[end] == here:
            end += 1
        if here[0] is None:
            yield bytes([0x80 | 15 << 3 | end - at - 1])
        else:
            first, last, column, end_column = (-1 if each is None else each for each in here)
            delta = first - line
            line = first
            numbers = (
                -delta << 1 | 1 if delta < 0 else delta << 1,
                last - first,
                column + 1,
                end_column + 1,
            )
            yield bytes([0x80 | 14 << 3 | end - at - 1]) + b"".join(map(_number, numbers))
        at = end


def _number(value: int) -> bytes:
    """Six bits a byte, the lowest first."""
    parts = []
    while value >= 64:
        parts.append(64 | value & 63)
        value >>= 6
    return bytes([*parts, value])
