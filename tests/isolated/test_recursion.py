"""Calls near the recursion limit: they do their work or raise RecursionError, and nothing hangs."""

import textwrap

import pytest
from marks import starts_processes
from processes import python
from waits import WAITS, names

pytestmark = starts_processes

# Calls a function at each depth of the stack, the deepest first.
DIG = textwrap.dedent(
    """
    import sys
    tries = [0, 0]
    def dig(function):
        try:
            dig(function)
        except RecursionError:
            pass
        try:
            function()
            tries[0] += 1
        except RecursionError:
            tries[1] += 1
    """
)


@pytest.mark.parametrize("name", WAITS)
def test_wait_near_recursion_limit_ends_and_leaves_no_trace(name):
    python(
        names(name)
        + DIG
        + textwrap.dedent(
            """
            if is_cond:
                x.acquire()
            before = probe()
            sys.setrecursionlimit(100)
            dig(lambda: call(0.001))
            sys.setrecursionlimit(1000)
            assert probe() == before, (probe(), before)
            if is_cond:
                x.release()
            assert all(tries), tries
            threading.Timer(0.05, free).start()
            result = call_anywhere(60)
            assert result == served, result
            """
        )
    )


@pytest.mark.parametrize("name", [name for name, wait in WAITS.items() if ";" not in wait.free])
def test_serving_near_recursion_limit_serves_once_or_not_at_all(name):
    python(
        names(name)
        + DIG
        + textwrap.dedent(
            """
            results = []
            waiter = threading.Thread(target=lambda: results.append(call(60)))
            waiter.start()
            time.sleep(0.05)
            served_at = []
            def serve():
                if not served_at:
                    free()
                    served_at.append(1)
            sys.setrecursionlimit(100)
            dig(serve)
            sys.setrecursionlimit(1000)
            assert served_at and tries[1], tries
            waiter.join(60)
            assert results == [served], results
            """
        )
    )
