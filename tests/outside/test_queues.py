"""CPython's tests of its queues, with our lock and condition inside."""

import sys
import threading
from importlib import util
from types import ModuleType
from typing import Any

import pytest

from outside import differences, stand_ins

theirs: Any = pytest.importorskip("test.test_queue", reason=differences.NO_TESTS)

pytestmark = differences.MARKS


def queue_with_ours() -> ModuleType:
    """A copy of the module `queue` whose `threading` has our classes."""
    spec = util.find_spec("queue")
    assert spec is not None
    assert spec.loader is not None
    queue = util.module_from_spec(spec)
    compiled, sys.modules["_queue"] = sys.modules.get("_queue"), None  # type: ignore[assignment]
    try:
        spec.loader.exec_module(queue)
    finally:
        del sys.modules["_queue"]
        if compiled is not None:
            sys.modules["_queue"] = compiled
    with_ours = ModuleType("threading")
    vars(with_ours).update(vars(threading), **stand_ins.STAND_INS)
    vars(queue)["threading"] = with_ours
    return queue


class QueueTest(theirs.PyQueueTest):
    queue = queue_with_ours()


class LifoQueueTest(theirs.PyLifoQueueTest):
    queue = QueueTest.queue


class PriorityQueueTest(theirs.PyPriorityQueueTest):
    queue = QueueTest.queue


class FailingQueueTest(theirs.PyFailingQueueTest):
    queue = QueueTest.queue


class SimpleQueueTest(theirs.PySimpleQueueTest):
    queue = QueueTest.queue
