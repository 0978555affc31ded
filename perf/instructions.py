"""How many instructions an operation takes at one thread, in several builds of nogil_sync.

    python perf/instructions.py before=/path/of/python after=/path/of/other/python

Each Python is that of an environment with one build installed. To get its path, run
`./dev python -c 'import sys; print(sys.executable)'` in that build's checkout. The other builds are
compared with the first. Valgrind's callgrind counts, so other load on the machine changes nothing.
The cost of the empty loop is subtracted. A call that allocates costs up to 45 instructions more if
the allocator's page has few free blocks: compare `own`, in the main thread's heap, with `foreign`.

Three situations: the measuring thread made the object (`own`); another thread made it, and its
reference count is an ordinary one (`foreign`); other threads have used it often (`often`), so that
from 3.14 on it defers its count.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).parent
# callgrind starts a new part at each call of this function of the C library.
MARK = "getppid"
SITUATIONS = ("own", "foreign", "often")
# Uses by another thread: FEW do not make an object defer its count, OFTEN do (sharing.h).
FEW, MANY, OFTEN = 400, 1_000, 5_000
NOTABLE = 0.02


def rows(only: str = "") -> dict[str, tuple[str, str]]:
    """The operations: by name, an expression that makes `it`, and the body of the loop."""
    every = {
        "ShardedCounter.add": ("ShardedCounter()", "it.add(1)"),
        "ShardedFloatCounter.add": ("ShardedFloatCounter()", "it.add(1.5)"),
        "AtomicInt64.load": ("AtomicInt64()", "it.load()"),
        "AtomicInt64.add": ("AtomicInt64()", "it.add(1)"),
        "AtomicBool.load": ("AtomicBool()", "it.load()"),
        "AtomicRef.load": ("AtomicRef(None)", "it.load()"),
        "AtomicRef.store": ("AtomicRef(None)", "it.store(None)"),
        "with mutex": ("Mutex()", "with it: pass"),
        "mutex.acquire, release": ("Mutex()", "it.acquire(); it.release()"),
        "with rlock": ("RLock()", "with it: pass"),
        "rlock.acquire, release": ("RLock()", "it.acquire(); it.release()"),
        "with rw.read": ("RWMutex()", "with it.read: pass"),
        "rw.read.acquire, release": ("RWMutex()", "it.read.acquire(); it.read.release()"),
        "with rw.write": ("RWMutex()", "with it.write: pass"),
        "with cond": ("Cond()", "with it: pass"),
        "with semaphore": ("Semaphore(9)", "with it: pass"),
        "with sem.hold()": ("Semaphore(9)", "with it.hold(): pass"),
        "event.is_set": ("set_event()", "it.is_set()"),
        "event.wait, set": ("set_event()", "it.wait()"),
        "waitgroup.add, done": ("WaitGroup()", "it.add(); it.done()"),
        "barrier.wait, of one": ("Barrier(1)", "it.wait()"),
        "once, after the first call": ("settled()", "it()"),
        "Once.do, done": ("done()", "it.do(int)"),
        "m[k]": ("SyncMap({1000: None})", "it[1000]"),
        "m.get(k)": ("SyncMap({1000: None})", "it.get(1000)"),
        "m[k] = v": ("SyncMap({1000: None})", "it[1000] = None"),
        "m[k] = v; del m[k]": ("SyncMap()", "it[1000] = None; del it[1000]"),
        "m[n] = v, growing": ("SyncMap()", "it[_] = None"),
        "k in m": ("SyncMap({1000: None})", "1000 in it"),
        "iter(m)": ("SyncMap({1000: None})", "iter(it)"),
        "c[k]": ("cache()", "it[1000]"),
        "c.get(k)": ("cache()", "it.get(1000)"),
        "c[k] = v": ("cache()", "it[1000] = None"),
        "c[n] = v, evicting": ("Cache(1000)", "it[_] = None"),
        "cached, a hit": ("cached_function()", "it(1000)"),
        "lru_cache, a hit": ("lru_function()", "it(1000)"),
        "cached, a miss": ("cached(maxsize=8)(lambda n: None)", "it(_)"),
        "lru_cache, a miss": ("functools.lru_cache(maxsize=8)(lambda n: None)", "it(_)"),
        "m.load_or_compute, a miss": ("SyncMap()", "it.load_or_compute(0, int); del it[0]"),
        "pool.get, put": ("pool()", "it.put(it.get())"),
        "with pool.use()": ("pool()", "with it.use(): pass"),
        "channel.send, recv": ("Channel(4)", "it.send(None); it.recv()"),
        "SimpleQueue.put, get": ("SimpleQueue()", "it.put(None); it.get()"),
        "channel.send": ("Channel(10**6)", "it.send(None)"),
        "channel.send, select": ("Channel(4)", "it.send(None); select(it)"),
        "select of a set event": ("set_event()", "select(it)"),
        "select of one ready of 4": (
            "set_event()",
            "select(it, idle, idle, idle)",
        ),
        "try_select of an event": ("Event()", "try_select(it)"),
        "try_select of 4 events": ("Event()", "try_select(it, it, it, it)"),
        "Mutex()": ("Mutex", "it()"),
        "Event()": ("Event", "it()"),
        "ShardedCounter()": ("ShardedCounter", "it()"),
        "WaitGroup()": ("WaitGroup", "it()"),
        "RLock()": ("RLock", "it()"),
        "RWMutex()": ("RWMutex", "it()"),
    }
    return {name: row for name, row in every.items() if re.search(only, name)}


LOOP = """
def loop(it, mark, items):
    mark()
    for _ in items:
        {body}
    mark()
"""

HELPERS = """
import functools
from queue import SimpleQueue

idle = Event()

def set_event():
    event = Event(); event.set(); return event

def settled():
    function = once(lambda: None); function(); return function

def done():
    cell = Once(); cell.do(int); return cell

def cache():
    made = Cache(10); made[1000] = None; return made

def cached_function():
    made = cached(lambda n: None); made(1000); return made

def lru_function():
    made = functools.lru_cache(lambda n: None); made(1000); return made

def pool():
    made = Pool(list); made.put(made.get()); return made
"""


def measure(loops: int, only: str) -> None:
    """Run under callgrind: each loop is enclosed by two marks."""
    import nogil_sync

    gc.collect()
    gc.disable()  # a collection would be counted with the loop that it happens in
    scope: dict[str, object] = {name: getattr(nogil_sync, name) for name in nogil_sync.__all__}
    exec(HELPERS, scope)
    mark = getattr(os, MARK)

    def compiled(body: str) -> object:
        exec(LOOP.format(body=body), scope)
        return scope["loop"]

    def run_in_situation(loop: object, make: str, situation: str) -> None:
        it = eval(make, scope)

        def run(count: int) -> None:
            loop(it, mark, range(count))  # type: ignore[operator]

        # Warm up with another object: bytecode is specialised, lazy initialization is done.
        warm = eval(make, scope)
        loop(warm, int, range(OFTEN))  # type: ignore[operator]
        if situation == "own":
            run(loops)
            return

        def other() -> None:
            loop(it, int, range(OFTEN if situation == "often" else FEW))  # type: ignore[operator]
            run(loops)

        worker = threading.Thread(target=other)
        worker.start()
        worker.join()

    for make, body in (("None", "pass"), *rows(only).values()):
        loop = compiled(body)
        for situation in SITUATIONS:
            run_in_situation(loop, make, situation)


def count(python: str, loops: int, only: str) -> dict[str, float]:
    """Instructions of each operation in each situation, with that Python's nogil_sync."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += [f"--dump-before={MARK}", "--fair-sched=yes", python, "-P", __file__]
        command += ["--measure", str(loops), "--only", only]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        if done.returncode:
            sys.exit(f"error: {python}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        parts = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [int(found[1]) for part in parts if (found := TOTAL.search(part.read_text()))]
    # The parts alternate: what precedes a loop, then the loop.
    spans = totals[1::2]
    names = ["loop alone", *rows(only)]
    expected = len(names) * len(SITUATIONS)
    if len(spans) < expected:
        sys.exit(f"error: callgrind wrote {len(totals)} parts, not {2 * expected}")
    cells = iter(spans)
    found_ = {(name, situation): next(cells) for name in names for situation in SITUATIONS}
    return {
        f"{name}: {situation}": (found_[name, situation] - found_["loop alone", situation]) / loops
        for name in rows(only)
        for situation in SITUATIONS
    }


TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("builds", nargs="*", metavar="NAME=PYTHON")
    parser.add_argument("--loops", type=int, default=MANY)
    parser.add_argument("--only", metavar="EXPR", default="", help="of the operations' names")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also store it as JSON")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.only)
        return
    builds = dict(build.split("=", 1) for build in args.builds)
    if not builds:
        parser.error("name at least one build")
    counted = {name: count(python, args.loops, args.only) for name, python in builds.items()}
    base, *others = counted
    print("Instructions an operation\n")
    print(f"{'':32}{'':10}" + "".join(f"{name:>12}" for name in counted))
    for cell, before in counted[base].items():
        name, _, situation = cell.rpartition(": ")
        line = f"{name:32}{situation:10}{before:12.1f}"
        for other in others:
            after = counted[other][cell]
            line += f"{after:12.1f} {(after / before - 1) * 100:+6.1f} %"
            line += " !" if after > before * (1 + NOTABLE) else ""
        print(line)
    if args.output:
        args.output.write_text(json.dumps(counted, indent=1))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
