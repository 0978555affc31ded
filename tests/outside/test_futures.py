"""CPython's tests of ThreadPoolExecutor, in processes where our classes replace threading's."""

import json
import os
from pathlib import Path

import pytest
from processes import python

from outside import differences

pytest.importorskip("test.test_concurrent_futures", reason=differences.NO_TESTS)

pytestmark = differences.MARKS

RUN = """
import json, sys, unittest, warnings
from outside import stand_ins
stand_ins.install()
import importlib, threading
from concurrent import futures

assert threading.Event().__class__.__module__ == "nogil_sync"
warnings.simplefilter("default")
module = importlib.import_module("test.test_concurrent_futures." + {module!r})
suite = unittest.TestSuite()
for name, cls in vars(module).items():
    if not (isinstance(cls, type) and issubclass(cls, unittest.TestCase)):
        continue
    # Without the tests of processes.
    executor = getattr(cls, "executor_type", futures.ThreadPoolExecutor)
    if cls.__module__ == module.__name__ and executor is futures.ThreadPoolExecutor:
        suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(cls))
result = unittest.TextTestRunner(verbosity=2).run(suite)
assert type(futures.Future()._condition).__module__ == "outside.stand_ins"
print()
json.dump(
    {{
        "run": result.testsRun,
        "failed": [test.id() for test, _ in result.failures + result.errors],
    }},
    sys.stdout,
)
"""


@pytest.mark.parametrize(
    "module",
    [
        "test_thread_pool",
        "test_wait",
        "test_as_completed",
        "test_init",
        "test_shutdown",
        "test_future",
    ],
)
def test_tests_of_thread_pool_executor_pass(module: str) -> None:
    path = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    done = python(RUN.format(module=module), timeout=200, env=env)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["run"]
    assert not result["failed"], done.stderr
