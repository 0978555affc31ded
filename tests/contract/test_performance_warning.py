"""Development mode tells what threads that share a sharded object contend for."""

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
]
watched = pytest.mark.skipif(
    sys.version_info >= (3, 14),
    reason="from 3.14 on objects that threads fight over defer their counts by themselves",
)

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
# Each call takes one more reference: contention for the count that needs no second processor.
KEEPING = "kept = []\n        for _ in range(1000): kept.append(counter); "
CALLS = KEEPING + "counter.add()"


def run(kind: str, seconds: float, use: str = CALLS, prepare: str = "pass") -> str:
    made = kind if "(" in kind else f"{kind}()"
    program = PROGRAM.format(kind=made, seconds=seconds, use=use, prepare=prepare)
    return python(program, options=("-X", "dev")).stdout


@watched
@pytest.mark.parametrize("kind", KINDS)
def test_one_warning_for_a_creation_site(kind: str) -> None:
    lines = run(kind, 30).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("PerformanceWarning <string> True")
    assert "pin" in lines[0]
    assert "bound method" in lines[0]


@watched
def test_pool_warns_unless_pinned_or_bound() -> None:
    use = KEEPING + "counter.put(counter.get())"
    lines = run("Pool(list)", 30, use).splitlines()
    assert len(lines) == 1
    assert "Pool" in lines[0]
    assert run("Pool(list)", 0.1, use, prepare="nogil_sync.pin(counter)") == ""
    bound = "get, put = counter.get, counter.put\n        for _ in range(20_000): put(get())"
    assert run("Pool(list)", 0.1, bound) == ""


@watched
def test_map_internals_give_no_warning() -> None:
    use = (
        "kept = []\n"
        "        for n in range(1000):\n"
        "            kept.append(counter._flights())\n"
        "            counter.load_or_compute((n, id(kept)), int)"
    )
    assert run("SyncMap", 1, use, prepare="nogil_sync.pin(counter)") == ""


@watched
def test_pinned_objects_give_no_warning() -> None:
    assert run("ShardedCounter", 0.5, prepare="nogil_sync.pin(counter)") == ""


@watched
def test_bound_methods_give_no_warning() -> None:
    use = "add = counter.add\n        for _ in range(100_000): add()"
    assert run("ShardedCounter", 0.5, use) == ""


@watched
def test_no_warning_for_one_thread() -> None:
    assert warned("works = [closure(counter)]") == ""


# ---- What else they contend for ----

PATHS = """
import threading, time, warnings
from nogil_sync import ShardedCounter, SyncMap, pin

seen = []
warnings.showwarning = lambda *args: seen.append(str(args[0]))
end = time.monotonic() + {seconds}
calls = 0


class Server:
    def __init__(self, counter):
        self.counter = counter

    def work(self):
        for _ in range(1000):
            self.counter.add()

    def fetch(self):
        add = self.counter.add
        for _ in range(1000):
            add()


class Slots(Server):
    __slots__ = ("counter",)


class Shared(Server):
    counter = pin(ShardedCounter())

    def __init__(self):
        pass


class Computed:
    asked = 0

    def __init__(self, counter):
        self._counter = counter

    @property
    def counter(self):
        if threading.current_thread() is not threading.main_thread():
            Computed.asked += 1
        return self._counter

    work = Server.work


def closure(counter):
    def work():
        for _ in range(1000):
            counter.add()
    return work


def closure_of_server(server):
    def work():
        for _ in range(1000):
            server.counter.add()
    return work


def copied(counter):
    def work():
        mine = counter
        for _ in range(1000):
            mine.add()
    return work


def closure_of_map(table):
    def work():
        for _ in range(1000):
            table[1]
    return work


def of_global():
    for _ in range(1000):
        counter.add()


def of_global_method():
    for _ in range(1000):
        add()


def of_global_server():
    for _ in range(1000):
        server.counter.add()


counter = pin(ShardedCounter())
add = counter.add
server = Server(counter)
{works}


def run(work):
    global calls
    while not seen and (time.monotonic() < end or calls < 300_000):
        work()
        calls += 1000  # races, which is near enough


threads = [threading.Thread(target=run, args=(work,)) for work in works]
for thread in threads: thread.start()
while any(thread.is_alive() for thread in threads):
    time.sleep(0.01)  # the main thread gives the warning
{after}
for message in seen: print(message)
"""


def warned(works: str, seconds: float = 0.2, after: str = "") -> str:
    program = PATHS.format(works=works, seconds=seconds, after=after)
    return python(program, options=("-X", "dev")).stdout


VARIABLE = "the lock of the closure's variable '{}'"
HOLDER = "the reference count of the {} whose attribute it is"
METHOD = "the reference count of a bound method"
SHARED = {
    "an attribute of a shared self": ("[Server(counter).work] * 2", HOLDER.format("Server")),
    "in a slot": ("[Slots(counter).work] * 2", HOLDER.format("Slots")),
    "of the class": ("[Shared().work] * 2", HOLDER.format("Shared")),
    "of a global": ("[of_global_server] * 2", HOLDER.format("Server")),
    "a variable of a closure": ("[closure(counter)] * 2", VARIABLE.format("counter")),
    "a map in a closure": (
        "[closure_of_map(pin(SyncMap({1: None})))] * 2",
        VARIABLE.format("table"),
    ),
    "a bound method": ("[of_global_method] * 2", METHOD),
}


@watched
@pytest.mark.parametrize("what", SHARED)
def test_one_warning_for_other_shared_objects(what: str) -> None:
    works, words = SHARED[what]
    (line,) = warned(f"works = {works}", 30).splitlines()
    assert words in line
    assert "not pinned" not in line


@watched
def test_one_warning_names_all_that_threads_share() -> None:
    (line,) = warned("works = [closure_of_server(server)] * 2", 30).splitlines()
    assert HOLDER.format("Server") in line
    assert VARIABLE.format("server") in line


@watched
@pytest.mark.parametrize(
    "works",
    [
        pytest.param("[pin(Server(counter)).work] * 2", id="a pinned self"),
        pytest.param("[Server(counter).work for _ in range(2)]", id="a self for each thread"),
        pytest.param("[Server(counter).fetch] * 2", id="a bound method for each thread"),
        pytest.param("[closure(counter) for _ in range(2)]", id="a closure for each thread"),
        pytest.param("[copied(counter)] * 2", id="a copy of the closure's variable"),
        pytest.param("[of_global] * 2", id="a pinned global"),
    ],
)
def test_no_warning_where_threads_share_nothing_else(works: str) -> None:
    assert warned(f"works = {works}") == ""


@watched
def test_no_code_runs_to_find_out() -> None:
    # Each use calls the property once; inspecting the frame must not call it.
    out = warned(
        "works = [Computed(counter).work]", after="print(Computed.asked == counter.value())"
    )
    assert out == "True\n"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="3.13t needs the remedies")
@pytest.mark.parametrize("what", SHARED)
def test_no_warning_where_no_remedy_is_needed(what: str) -> None:
    works, _ = SHARED[what]
    assert warned(f"counter = ShardedCounter()\nworks = {works}") == ""
