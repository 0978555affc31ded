"""Signals at random moments, from a timer and from another thread, for every call that waits."""

import signal
import sys

import pytest
from marks import starts_processes
from processes import python
from support import NATIVE
from waits import WAITS, names

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals between threads"),
]

# Both signals strike after random microseconds. As in support.RAIN, handlers run in the call or not
# at all: none comes between its return and the store that disarms them.
STORM = """
import random, signal, threading, time
from functools import partial
from itertools import starmap
from nogil_sync import *

class Stop(BaseException): pass  # like KeyboardInterrupt: it settles nothing
armed = busy = False
struck = raised = 0
reenter = None

def soon():
    return random.choice((2e-5, 1e-4, 1e-3)) * (0.5 + random.random())

def handler(*_):
    global armed, busy, struck
    struck += 1
    if stormy:
        signal.setitimer(signal.ITIMER_REAL, soon())
    if reenter is not None:
        if not busy:
            busy = True
            reenter()
            busy = False
    elif armed:
        armed = False
        raise Stop

def strike():
    while stormy:
        time.sleep(soon() * 3)
        signal.pthread_kill(main, signal.SIGUSR1)

def struck_call(function):
    # Its result, or Stop.
    global armed, raised
    try:
        try:
            armed = True
            for result in starmap(function, [()]):
                armed = False
            return result
        except TimeoutError:
            armed = False
            return "TimeoutError"
    except Stop:
        armed = False
        raised += 1
        return Stop

def storm(seconds):
    global stormy
    stormy = True
    signal.setitimer(signal.ITIMER_REAL, soon())
    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
    stormy = False
    thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)

stormy = False
main = threading.get_ident()
for each in signal.SIGALRM, signal.SIGUSR1:
    signal.signal(each, handler)
"""


def bound(call):
    """The text of a call as that of a function, in C where the call is."""
    if call.endswith(".__enter__()"):
        return call.removesuffix("()")
    function, _, arguments = call.partition("(")
    return f"partial({function}, {arguments}"


@pytest.mark.parametrize("name", WAITS)
def test_waits(name):
    within = bound(WAITS[name].call)
    print(
        python(
            STORM
            + names(name)
            + f"""
if is_cond: x.acquire()
before = probe()

# Nobody serves it: it times out or raises, and leaves no trace.
for _ in storm(0.4):
    assert struck_call({within.format(timeout=0.0005)}) in (timed_out, Stop)
    assert probe() == before

# It is served at some moment. If it raised, it has not taken what the next one then gets.
lost = {name == "Cond.wait" or (not NATIVE and name == "Channel.send")}
servings = 0
for _ in storm(0.4) if not lost else ():
    thread = threading.Thread(target=lambda: (time.sleep(soon()), free()))
    thread.start()
    result = struck_call({within.format(timeout=30)})
    if is_cond: x.release()
    thread.join()
    if is_cond: x.acquire()
    if result is Stop:
        result = call(30)
    assert result == served, result
    servings += 1
    rest()
    assert probe() == before or not {NATIVE}

# The handler waits for the same, and goes away.
def reenter():
    mine = is_cond and x.acquire(False)  # free while the other one waits
    assert call(0.0001) == timed_out
    repr(x)
    if mine: x.release()
for _ in storm(0.3):
    assert call(0.001) == timed_out
    assert probe() == before
reenter = None
if is_cond: x.release()
print(struck, "signals,", raised, "raised,", servings, "served")
assert raised and struck > raised
"""
        ).stdout
    )


# Code of users' that an object calls, interrupted anywhere: what it does, and what must hold.
CALLS = {
    "with": (
        "m, rw, s, k = Mutex(), RWMutex(), Semaphore(3), Cond()",
        "m: 1\n    with rw.read: 1\n    with rw.write: 1\n    with s.hold(2), k: 1",
        "assert not any(x.locked() for x in (m, rw.read, rw.write, k)) and s.available() == 3",
    ),
    "Once": (
        "o = Once()",
        "Once().do(sum, range(50)) == 1225 and o.do(sum, range(50))",
        "assert not o.done() or o.do(int) == 1225; o = Once()",
    ),
    "SyncMap.load_or_compute": (
        "x = SyncMap()",
        "x.load_or_compute('k', lambda: sum(range(50))); x.pop('k')",
        "assert x.load_or_compute('k', lambda: 1225) == 1225; x.clear(); assert len(x) == 0",
    ),
    "SyncMap, Python's equality": (
        "x = SyncMap()",
        "[x.setdefault(key, 1) for key in keys]; [x.pop(key) for key in keys]",
        "assert len(x) == len(list(x)) == len(set(map(id, x))) == sum(x.values()); x.clear()",
    ),
    "SyncMap, many": (
        "x = SyncMap()",
        "x.update(zip(range(300), range(300))); x.modify(1, abs, 0); x |= {1: 1}; x.copy()",
        "assert len(x) == len(list(x)) and all(k == v for k, v in x.items()); x.clear()",
    ),
    "Pool": (
        "p = Pool(lambda: [0], reset=lambda i: None, drop=lambda i: None, max_idle=20)",
        "i = p.get(); i[0] += 1; p.put([0]); i[0] -= 1; p.put(i)",
        "i = [p.get() for _ in range(p.idle())]; assert len(set(map(id, i))) == len(i) <= 20",
    ),
    "AtomicRef.update": (
        "r = AtomicRef((0, 0))",
        "r.update(lambda pair: (pair[0] + 1, pair[1] + 1))",
        "a, b = r.load(); assert a == b",
    ),
    "Channel": (
        "c = Channel(50)",
        "c.send(1); next(iter(c)); c.try_send(1); c.try_recv(); list(Closed)",
        "while len(c): assert c.recv() == 1",
    ),
    "Event, WaitGroup, atomics": (
        "e, g, a, f = Event(), WaitGroup(), AtomicInt64(), ShardedCounter()",
        "e.set(); e.wait(); e.clear(); e.wait(0.0001); g.wait(0.0001); a.add(); f.add()",
        "e.set(); assert e.wait(1) and g.wait(1); assert 0 <= a.load() - f.value() <= raised",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    setup, call, holds = CALLS[name]
    if name == "with" and (not NATIVE or sys.version_info >= (3, 14)):
        pytest.skip(
            "a lock in Python, and from 3.14 on any lock, can be left taken between `with` and its "
            "body: see the README, and test_with_is_not_entered_while_an_interrupt_is_pending"
        )
    if name == "with":
        call = "with " + call
    print(
        python(
            STORM
            + f"""
class Key:
    def __init__(self, n): self.n = n
    def __hash__(self): return self.n // 3
    def __eq__(self, other): return isinstance(other, Key) and self.n == other.n
keys = [Key(n) for n in range(30)]
Closed = Channel(1); Closed.close()
{setup}
def call():
    global x
    {call}
def check():
    global o
    {holds.replace(chr(10), chr(10) + "    ")}
for _ in storm(0.6):
    struck_call(call)  # which leaves them disarmed
    check()
check()
call()
check()
print(struck, "signals,", raised, "raised")
assert raised
"""
        ).stdout
    )
