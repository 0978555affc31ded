"""The public names: nogil_sync.__all__ is the one list of them, and all that must agree with it."""

import ast
import inspect
import pydoc
import re
from pathlib import Path

import pytest
from support import NATIVE

import nogil_sync
from nogil_sync import _backend, _threading

HOME = Path(nogil_sync.__file__).parent
PUBLIC = sorted(nogil_sync.__all__)
# Those that are one for both backends.
VIEWS = {"SyncMapItems", "SyncMapKeys", "SyncMapValues"}
SHARED = {
    *("After", "CacheStats", "Cancelled", "Left", "PinReport", "Selected", "SemaphoreHoldAsync"),
    *("TaskGroup", "Ticker", "after", "backend", "pin_report", "select_async", "shield"),
}
# Submodules with names of their own.
MODULES = {"contention", "diagnostics", "integrations"}
# For nogil_sync._common.
INTERNAL = {
    *("AsyncWaiter", "CounterValue", "GaugeValue", "HistogramValue", "Scope"),
    *("current_scope", "defer", "enter_scope", "guard_of"),
}


def literal_all(tree):
    """The ``__all__`` that type checkers read, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def seen_by_type_checkers(body):
    """Statements of a module, where TYPE_CHECKING is true."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.orelse if "not " in ast.unparse(node.test) else node.body
        else:
            yield node


def starred(tree, path):
    """The names that come by star imports, whose modules have a literal ``__all__`` in the end."""
    found = []
    for node in seen_by_type_checkers(tree.body):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            target = path.parents[node.level - 1].joinpath(*node.module.split("."))
            target = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
            inner = ast.parse(target.read_text())
            found += literal_all(inner) or starred(inner, target)
    return found


def test_the_package_has_the_names_of_its_list_and_no_other():
    assert len(PUBLIC) == len(set(PUBLIC))
    names = {name for name in vars(nogil_sync) if not name.startswith("_")}
    assert names - MODULES == {*PUBLIC}
    scope = {}
    exec("from nogil_sync import *", scope)
    assert scope.keys() - {"__builtins__"} == {*PUBLIC}


def test_type_checkers_find_each_name_where_it_is_defined():
    path = HOME / "__init__.py"
    tree = ast.parse(path.read_text())
    assert sorted(literal_all(tree)) == PUBLIC
    assert {*starred(tree, path), "backend"} - INTERNAL == {*PUBLIC}


def test_both_backends_have_the_rest_of_the_list():
    rest = sorted({*PUBLIC} - SHARED)
    assert sorted(_backend.__all__) == sorted([*rest, "backend"])
    path = HOME / "_threading" / "__init__.py"
    assert sorted({*starred(ast.parse(path.read_text()), path)} - INTERNAL) == rest
    for name in rest:
        assert hasattr(_threading, name)


@pytest.mark.skipif(not NATIVE, reason="about the extension")
def test_the_extension_has_the_rest_of_the_list_and_no_more():
    from nogil_sync._native import _core

    mine = {name for name in vars(_core) if not name.startswith("_")}
    assert mine - INTERNAL == {*PUBLIC} - SHARED - VIEWS


def test_help_lists_each_name_once_by_group():
    description = inspect.getdoc(nogil_sync)
    groups = re.findall(r"^[A-Z][a-z ]+:\n    (.*)$", description, re.MULTILINE)
    assert ", ".join(groups).split(", ") == nogil_sync.__all__
    assert all(group in pydoc.plain(pydoc.render_doc(nogil_sync)) for group in groups)
