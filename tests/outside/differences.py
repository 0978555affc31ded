"""Tests of CPython's that ask for what our classes do otherwise on purpose: differences.toml."""

import functools
import tomllib
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_DATA = tomllib.loads((Path(__file__).parent / "differences.toml").read_text())

NO_TESTS = "this interpreter comes without CPython's own tests"

# CPython's tests may leave threads behind, or warn.
MARKS = [
    pytest.mark.thread_unsafe(reason="CPython's tests count and start threads"),
    pytest.mark.filterwarnings("default"),
]


def _copy(method: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own, as marks of an inherited one would be its base class's, too."""

    @functools.wraps(method)
    def test(self: unittest.TestCase) -> None:
        method(self)

    return test


def mark(file: str, *classes: type) -> None:
    """Mark the tests of these classes that the data list: to fail, strictly, or not to be run."""
    data: dict[str, Any] = _DATA[file]
    for cls in classes:
        for name in dir(cls):
            test = f"{cls.__name__}.{name}"
            if reason := data.get("endless", {}).get(test):
                setattr(cls, name, pytest.mark.skip(reason=reason)(_copy(getattr(cls, name))))
            elif reason := data.get(test):
                fails = pytest.mark.xfail(reason=reason, strict=True)
                setattr(cls, name, fails(_copy(getattr(cls, name))))
