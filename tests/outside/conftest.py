"""Tests from outside: CPython's own, with our classes in place of those they were written for.

They are taken from the interpreter's own `test` package, which some distributions leave out.
`differences.toml` lists the tests that ask for what our classes do otherwise on purpose.
"""

import tomllib
from pathlib import Path

import pytest

_DATA = tomllib.loads((Path(__file__).parent / "differences.toml").read_text())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.parent != here:
            continue
        item.add_marker(pytest.mark.thread_unsafe(reason="CPython's tests count and start threads"))
        # What CPython's tests leave behind or warn of is not ours to judge.
        item.add_marker(pytest.mark.filterwarnings("default"))
        of_file = _DATA.get(item.path.stem.removeprefix("test_"), {})
        test = ".".join(item.nodeid.split("::")[1:])
        if reason := of_file.get("endless", {}).get(test):
            item.add_marker(pytest.mark.skip(reason=reason))
        elif reason := of_file.get(test):
            # Strictly: a difference that is none any more is to be taken off the list.
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
