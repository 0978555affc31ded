"""Fixtures that several files of this folder use."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest

from nogil_sync import TaskGroup


@pytest.fixture
def no_gc():
    """Collections come only when the test asks for one."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=["threads", "limit", "executor", "executor and limit"])
def group(request):
    """Make a group of one kind or another, with room for two tasks at least."""
    if "executor" not in request.param:
        yield lambda: TaskGroup(limit=3 if request.param == "limit" else None)
        return
    with ThreadPoolExecutor(4) as pool:
        limit = 3 if "limit" in request.param else None
        yield lambda: TaskGroup(limit, executor=pool)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as made:
        yield made
