"""The threading backend rests on sections being straight-line code (see _common/guard.py)."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

from nogil_sync import _threading

HOME = Path(_threading.__file__).parent
COMMON = HOME.parent / "_common"
FILES = sorted(
    [*HOME.glob("*.py"), *(COMMON / f"{name}.py" for name in ("taskgroup", "tasks", "workers"))],
    key=lambda path: path.name,
)

# Syntax that calls, loops, raises, waits or allocates a container.
FORBIDDEN = (
    ast.Call,
    ast.For,
    ast.While,
    ast.Try,
    ast.With,
    ast.Raise,
    ast.Assert,
    ast.Import,
    ast.ImportFrom,
    ast.Delete,
    ast.Subscript,
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Dict,
    ast.JoinedStr,
    ast.Lambda,
    ast.FunctionDef,
    ast.ClassDef,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.Yield,
    ast.YieldFrom,
    ast.Await,
    ast.Starred,
    ast.Pow,
    ast.Mult,
    ast.Div,
)


def is_slot_of_a_dict(node):
    """``buckets[which]``: an exact dict with exact ints as keys, which calls nothing.

    So are the others; in the wheel of a cache the numbers are `id`s and slots.
    """
    if isinstance(node, ast.Delete):
        return all(is_slot_of_a_dict(target) for target in node.targets)
    return isinstance(node, ast.Subscript) and ast.unparse(node) in (
        "buckets[which]",
        "entries[number]",
        "entries[number_of_old]",
        "queue[ticket]",
        "wheel[before]",
        "wheel[slot]",
    )


def is_guard(node):
    return isinstance(node, ast.Attribute) and node.attr.endswith("guard")


def sections_by_with(tree):
    """The bodies of ``with guard:``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any(is_guard(item.context_expr) for item in node.items):
            assert len(node.items) == 1
            yield node.body


def sections_by_store(tree):
    """The bodies of ``guard.held = True``, ``try:``, …, ``finally: del guard.held``."""
    for block in ast.walk(tree):
        for field in "body", "orelse", "finalbody":
            statements = getattr(block, field, None)
            for before, node in pairwise(statements if isinstance(statements, list) else []):
                text = ast.unparse(before)
                if text.endswith("guard.held = True"):
                    guard = text.removesuffix(" = True")
                    assert isinstance(node, ast.Try), f"line {node.lineno}"
                    assert not node.handlers
                    assert not node.orelse
                    assert [ast.unparse(each) for each in node.finalbody] == [f"del {guard}"]
                    yield node.body


def sections(tree):
    yield from sections_by_with(tree)
    yield from sections_by_store(tree)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_sections_are_straight_line_code(path):
    for section in sections(ast.parse(path.read_text())):
        for statement in section:
            for node in ast.walk(statement):
                assert not isinstance(node, FORBIDDEN) or is_slot_of_a_dict(node), (
                    f"{path.name}:{node.lineno}: {type(node).__name__} in a section"
                )


def guarded_loops(tree):
    """The `while` loops in the body of a `try`, unless that is itself done again if interrupted."""
    again = {
        id(node)
        for loop in ast.walk(tree)
        if isinstance(loop, ast.While) and isinstance(loop.test, ast.Constant)
        for node in loop.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and id(node) not in again:
            for statement in node.body:
                yield from (n for n in ast.walk(statement) if isinstance(n, ast.While))


@pytest.mark.parametrize("path", sorted(HOME.glob("*.py")), ids=lambda path: path.name)
def test_loops_in_try_are_unconditional(path):
    # From 3.12 on the jump back of `while condition` lies outside the try that it is in, and a
    # KeyboardInterrupt there would skip the cleanup.
    for loop in guarded_loops(ast.parse(path.read_text())):
        assert isinstance(loop.test, ast.Constant), f"{path.name}:{loop.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_between_taking_a_guard_and_its_section(path):
    tree = ast.parse(path.read_text())
    taken = sum(
        text.endswith("guard.held = True") for text in map(str.strip, ast.unparse(tree).split("\n"))
    )
    assert taken == len(list(sections_by_store(tree)))


@pytest.mark.parametrize("name", ["taskgroup.py", "tasks.py", "waitgroup.py", "workers.py"])
def test_with_is_not_used_where_an_interrupt_may_skip_a_section(name):
    # From 3.14 on `with` looks for interrupts before it takes the guard.
    (path,) = [each for each in FILES if each.name == name]
    assert not list(sections_by_with(ast.parse(path.read_text())))


def test_checker_finds_the_sections():
    count = {p.name: len(list(sections(ast.parse(p.read_text())))) for p in FILES}
    assert count["atomics.py"] > 10
    assert count["counters.py"] == 4
    assert count["mutex.py"] >= 4
    assert count["event.py"] == 2
    assert count["_wait.py"] == 4
    assert count["syncmap.py"] == 5
    assert count["cache.py"] == 15
    assert count["async_waiter.py"] == 3
    assert count["scope.py"] == 2
    assert count["select.py"] == 2
    assert count["taskgroup.py"] == 2
    assert count["tasks.py"] == 12
    assert count["workers.py"] == 6
