"""Development mode tells who fights over the reference count of a sharded object."""

import sys

import pytest
from marks import starts_processes
from processes import python

import nogil_sync

pytestmark = [
    starts_processes,
    pytest.mark.skipif(
        nogil_sync.backend != "native",
        reason="the threading backend shares no reference counts between cores",
    ),
    pytest.mark.skipif(
        sys.version_info >= (3, 14),
        reason="from 3.14 on objects that threads fight over defer their counts by themselves",
    ),
]

PROGRAM = """
import sys, threading, time, warnings
import nogil_sync

seen = []
warnings.showwarning = lambda *args: seen.append(args)
counters = [nogil_sync.{kind} for _ in range(2)]; line = sys._getframe().f_lineno
for counter in counters:
    {prepare}
done = time.monotonic() + {seconds}
calls = 0

def use(counter):
    global calls
    while not seen and (time.monotonic() < done or calls < 100_000):
        {use}
        calls += 1000  # races, which is near enough

for counter in counters:
    threads = [threading.Thread(target=use, args=(counter,)) for _ in range(3)]
    for thread in threads: thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.01)  # the main thread gives the warning
    done = time.monotonic() + {seconds}
for message, category, filename, at, *_ in seen:
    print(category.__name__, filename, at == line, message)
"""
KINDS = ["ShardedCounter", "ShardedFloatCounter"]
# Each call comes with one reference more: a fight over the count that needs no second processor.
KEEPING = "kept = []\n        for _ in range(1000): kept.append(counter); "
CALLS = KEEPING + "counter.add()"


def run(kind: str, seconds: float, use: str = CALLS, prepare: str = "pass") -> str:
    made = kind if "(" in kind else f"{kind}()"
    program = PROGRAM.format(kind=made, seconds=seconds, use=use, prepare=prepare)
    return python(program, options=("-X", "dev")).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_one_warning_for_a_creation_site(kind: str) -> None:
    lines = run(kind, 30).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("PerformanceWarning <string> True")
    assert "pin" in lines[0]
    assert "bound method" in lines[0]


def test_pool_warns_unless_pinned_or_bound() -> None:
    use = KEEPING + "counter.put(counter.get())"
    lines = run("Pool(list)", 30, use).splitlines()
    assert len(lines) == 1
    assert "Pool" in lines[0]
    assert run("Pool(list)", 0.1, use, prepare="nogil_sync.pin(counter)") == ""
    bound = "get, put = counter.get, counter.put\n        for _ in range(20_000): put(get())"
    assert run("Pool(list)", 0.1, bound) == ""


def test_map_internals_give_no_warning() -> None:
    use = (
        "kept = []\n"
        "        for n in range(1000):\n"
        "            kept.append(counter._flights())\n"
        "            counter.load_or_compute((n, id(kept)), int)"
    )
    assert run("SyncMap", 1, use, prepare="nogil_sync.pin(counter)") == ""


def test_pinned_objects_give_no_warning() -> None:
    assert run("ShardedCounter", 0.5, prepare="nogil_sync.pin(counter)") == ""


def test_bound_methods_give_no_warning() -> None:
    use = "add = counter.add\n        for _ in range(100_000): add()"
    assert run("ShardedCounter", 0.5, use) == ""
