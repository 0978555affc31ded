"""Calls near the recursion limit: they do their work or raise RecursionError, and nothing hangs."""

import functools
import sys
import threading
import time

import pytest
from marks import starts_processes
from processes import in_own_process
from waits import WAITS, unlocked

from nogil_sync import Cache

pytestmark = starts_processes


class EachDepth:
    """Calls a function at each depth of the stack, the deepest first."""

    def __init__(self, function):
        self.function = function
        self.returned = self.failed = 0
        sys.setrecursionlimit(100)
        self.descend()
        sys.setrecursionlimit(1000)

    def descend(self):
        try:
            self.descend()
        except RecursionError:
            pass
        try:
            self.function()
            self.returned += 1
        except RecursionError:
            self.failed += 1


@pytest.mark.parametrize("name", WAITS)
@in_own_process
def test_wait_near_recursion_limit_ends_and_leaves_no_trace(name):
    trial = unlocked(name)
    trial.lock()
    before = trial.state()
    tries = EachDepth(lambda: trial.call(0.001))
    assert trial.state() == before, (trial.state(), before)
    trial.unlock()
    assert tries.returned
    assert tries.failed
    trial.serve_soon(0.05)
    result = trial.call_unlocked(60)
    assert result == trial.served, result


# Those that one call serves.
SERVED_BY_ONE_CALL = [
    name
    for name, wait in WAITS.items()
    if not wait.only_waiters and name != "RWMutex.write.acquire beside two readers"
]


@pytest.mark.parametrize("name", SERVED_BY_ONE_CALL)
@in_own_process
def test_serving_near_recursion_limit_serves_once_or_not_at_all(name):
    trial = unlocked(name)
    results, served = [], []
    waiter = threading.Thread(target=lambda: results.append(trial.call(60)))
    waiter.start()
    time.sleep(0.05)

    def serve():
        if not served:
            trial.serve()
            served.append(1)

    tries = EachDepth(serve)
    assert served
    assert tries.failed
    waiter.join(60)
    assert results == [trial.served], results


@pytest.mark.parametrize(
    ("parameter", "method"), [("weigher", "put"), ("weigher", "__setitem__"), ("clock", "__len__")]
)
@in_own_process
def test_cache_whose_function_is_its_own_method_recurses_to_the_limit(parameter, method):
    c = Cache.__new__(Cache)
    c.__init__(10, **{parameter: getattr(c, method)})
    with pytest.raises(RecursionError):
        c.put("k", 1, ttl=5)
        len(c)


@pytest.mark.parametrize("method", ["get", "pop", "put", "load_or_compute"])
@in_own_process
def test_equality_that_is_a_method_of_the_cache_recurses_to_the_limit(method):
    class Key:
        __eq__ = None

        def __hash__(self):
            return 1

    c = Cache(10)
    c[Key()] = 1
    other = Key()
    Key.__eq__ = staticmethod(functools.partial(getattr(c, method), other))
    with pytest.raises(RecursionError):
        getattr(c, method)(other, int)
