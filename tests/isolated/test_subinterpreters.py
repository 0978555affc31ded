"""A subinterpreter gets objects that work, or an ImportError of our own, and never a crash."""

import importlib.util

import pytest
from support import python

pytestmark = [
    pytest.mark.thread_unsafe(reason="starts processes itself"),
    pytest.mark.skipif(
        not any(map(importlib.util.find_spec, ("_interpreters", "_xxsubinterpreters"))),
        reason="this interpreter has no subinterpreters to test with",
    ),
]

HEADER = """
import sys
try:
    import _interpreters
    def create(kind):
        return _interpreters.create(kind)
    def run(i, code):
        failure = _interpreters.run_string(i, code)
        assert failure is None, failure.formatted
    destroy = _interpreters.destroy
except ImportError:
    import _xxsubinterpreters as _interpreters
    def create(kind):
        return _interpreters.create(isolated=kind == "isolated")
    def run(i, code):
        _interpreters.run_string(i, code)
    destroy = _interpreters.destroy

USE = '''
import sys
sys.path[:0] = %r
try:
    import nogil_sync
except ImportError as error:
    # Clear, and ours.
    assert "nogil_sync" in str(error) or "_core" in str(error), error
    print("ImportError:", error)
else:
    import threading
    from nogil_sync import *
    m, e, c, a, r = Mutex(), Event(), ShardedCounter(), AtomicInt64(), AtomicRef([1])
    with m:
        assert not m.acquire(timeout=0.01)
    def work():
        for _ in range(100):
            c.add()
            a.add()
            with m: pass
            r.store([2])
            r.load()
        e.wait(10)
    try:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads: t.start()
    except RuntimeError:  # daemon or any threads may be disabled
        threads = []
        e.set()
        work(); work()
    e.set()
    for t in threads: t.join()
    assert c.value() == a.load() == 200
    pin(r); pin_all([[]]); is_pinned(r)
    r.store(r)
    ch = Channel(2)
    ch.send(r); ch.close()
    assert list(ch) == [r]
    try: ch.recv()
    except ChannelClosed: pass
    f, o = once(lambda: [r]), Once()
    assert f() is f() and o.do(int) == 0
    class Lazy:
        value = once_property(lambda self: f)
    assert Lazy().value is f
    import gc
    gone = []
    pool = Pool(list, drop=gone.append)
    for _ in range(9): pool.put([pool])
    with pool.use() as item: assert item == [pool]
    for _ in range(3): gc.collect()
    assert pool.idle() == 0 and len(gone) == 9
    pool.put(pool)
    print("used")
''' % (sys.path,)
"""


@pytest.mark.parametrize("first", [True, False], ids=["main first", "sub first"])
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_in_a_subinterpreter(kind, first):
    done = python(
        HEADER
        + f"""
if {first}:
    exec(USE)
for _ in range(3):
    i = create({kind!r})
    run(i, USE)
    destroy(i)
exec(USE)
sys.stdout.flush()
""",
        # A debug build of CPython 3.13 that traces memory crashes by itself when it makes an
        # isolated interpreter after it ended another.
        env={"PYTHONWARNINGS": "ignore", "PYTHONTRACEMALLOC": "0"},
    )
    lines = done.stdout.splitlines()
    assert lines.count("used") >= 1
    # All three fared alike.
    assert len(set(lines[1:-1] if first else lines[:-1])) == 1, lines
    print(lines)


def test_two_at_once():
    python(
        HEADER
        + """
import threading
subs = [create("legacy") for _ in range(2)]
for i in subs:
    run(i, USE)
for i in subs:
    run(i, USE)
for i in subs:
    destroy(i)
exec(USE)
"""
    )
