"""Forks while other threads change a SyncMap: the child finds it whole."""

import gc
import threading
import time

import pytest
from forks import in_child
from marks import forks, needs_fork
from processes import in_own_process
from support import FREE_THREADED, NATIVE

from nogil_sync import SyncMap

pytestmark = [
    forks,
    needs_fork,
    pytest.mark.skipif(
        FREE_THREADED and not NATIVE,
        reason="without the GIL a dict that a thread was using at the fork stays locked",
    ),
]


@in_own_process(timeout=120)
def test_child_finds_map_whole_that_threads_change():
    class Key:
        def __init__(self, n):
            self.n = n

        def __hash__(self):
            return hash(self.n)

        def __eq__(self, other):
            return isinstance(other, Key) and self.n == other.n

    stable = {f"stays {n}": [n] for n in range(100)} | {Key(n): [n] for n in range(100, 120)}
    m = SyncMap(stable)
    stop = False

    def churn(k):
        n = 0
        while not stop:
            for n in range(n, n + 300):
                m[k, n] = [n]
                m["shared", n % 50] = [n]
                m[Key(1000 + n % 50)] = [n]
            for n in range(n - 299, n + 1):
                assert m.pop((k, n)) == [n]
                m.pop(("shared", n % 50), None)
                m.pop(Key(1000 + n % 50), None)
            n += 1

    def check():
        gc.collect()
        for key, value in stable.items():
            assert m[key] == value, key
        keys = list(m)
        assert len(keys) == len(set(keys)) == len(m)
        assert set(stable) <= set(keys)
        gc.collect()
        for key in keys:
            m[key] = [-1]
            assert m[key] == [-1]
        for n in range(3000):
            assert m.insert(("child", n), n)
        threads = [
            threading.Thread(target=lambda: [m.pop(("child", n), None) for n in range(3000)])
            for _ in range(2)
        ]
        for t in threads:
            t.start()
        for t in threads:
            t.join(30)
        assert not any(t.is_alive() for t in threads)
        assert len(m) == len(keys)
        popped = dict(m.popitem() for _ in keys)
        assert set(popped) == set(keys)
        assert not m
        assert list(m) == []
        gc.collect()
        m["again"] = 1
        m.clear()
        assert len(m) == 0

    threads = [threading.Thread(target=churn, args=(k,), daemon=True) for k in range(3)]
    for t in threads:
        t.start()
    for _ in range(25):
        time.sleep(0.002)
        in_child(check)
    stop = True
    for t in threads:
        t.join(30)
    for key, value in stable.items():
        assert m[key] == value
    m.clear()
    assert not m
