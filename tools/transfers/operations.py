"""The operations whose transfers are counted.

Each is text: `setup` makes what all threads share, by names that become locals of the loop;
`each` runs once in each thread before anything is counted; `body` is the operation. With `through`
the loop goes through that sequence, an item `k` at a time, beginning anew at its end.
`pins` names what is pinned where pinned objects are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One row of the table."""

    setup: str
    body: str
    each: str = ""
    through: str = ""
    pins: str = "it"


KEYS = 4_096

# What a program looks up is equal to the stored key, and not the same object.
OWN_KEYS = "keys = own_keys()"
FILLED = "it = {make}()\nfor k, v in zip(stored_keys(), values()): it[k] = v"
HOT = "it = {make}()\nit[own_key()] = None"
ONE_KEY = "k = own_key(); hash(k)"
CHURN = "v = object(); keys = private_keys()"

OURS: dict[str, Operation] = {
    "ShardedCounter.add": Operation("it = ShardedCounter()", "it.add(1)"),
    "AtomicInt64.load": Operation("it = AtomicInt64()", "it.load()"),
    "AtomicInt64.add": Operation("it = AtomicInt64()", "it.add(1)"),
    "with rw.read": Operation("it = RWMutex()", "with it.read: pass"),
    "Event.is_set": Operation("it = Event()", "it.is_set()"),
    # With an item for each thread, as after the first round of a program.
    "Pool get + put": Operation("it = Pool(list)", "it.put(it.get())", "it.put([])"),
    "with pool.use()": Operation("it = Pool(list)", "with it.use(): pass", "it.put([])"),
    "once, after its first call": Operation("it = once(lambda: None)", "it()"),
    "map, hot key, immortal value": Operation(HOT.format(make="SyncMap"), "it[k]", ONE_KEY),
    "cache, hot key, immortal value": Operation(
        HOT.format(make="(lambda: Cache(8192))"), "it[k]", ONE_KEY
    ),
    "making a Mutex": Operation("it = Mutex", "it()", pins=""),
    "map, m[k] over 4,096 keys": Operation(
        FILLED.format(make="SyncMap"), "it[k]", OWN_KEYS, "keys"
    ),
    "map, store over 4,096 keys": Operation(
        FILLED.format(make="SyncMap"), "it[k] = v", OWN_KEYS + "; v = object()", "keys"
    ),
    "cache, c[k] over 4,096 keys": Operation(
        FILLED.format(make="(lambda: Cache(8192))"), "it[k]", OWN_KEYS, "keys"
    ),
    "map, insert + delete own keys": Operation(
        FILLED.format(make="SyncMap"), "it[k] = v; del it[k]", CHURN, "keys"
    ),
    "WaitGroup add + done": Operation("it = WaitGroup()", "it.add(); it.done()"),
    "with Semaphore(64)": Operation("it = Semaphore(threads + 64)", "with it: pass"),
    "Channel send + recv": Operation("it = Channel(1024)", "it.send(v); it.recv()", "v = object()"),
    "with Mutex": Operation("it = Mutex()", "with it: pass"),
    # Each of the threads is a party: an iteration of all of them is a round.
    "Barrier.wait": Operation("it = Barrier(threads)", "it.wait()"),
}

BESIDE: dict[str, Operation] = {
    "with threading.Lock": Operation("it = threading.Lock()", "with it: pass"),
    "dict, hot key, immortal value": Operation(HOT.format(make="dict"), "it[k]", ONE_KEY),
    "dict, m[k] over 4,096 keys": Operation(FILLED.format(make="dict"), "it[k]", OWN_KEYS, "keys"),
    "dict, store over 4,096 keys": Operation(
        FILLED.format(make="dict"), "it[k] = v", OWN_KEYS + "; v = object()", "keys"
    ),
    "dict, insert + delete own keys": Operation(
        FILLED.format(make="dict"), "it[k] = v; del it[k]", CHURN, "keys"
    ),
    "SimpleQueue put + get": Operation(
        "it = queue.SimpleQueue()", "it.put(v); it.get()", "v = object()"
    ),
    "with threading.Semaphore": Operation(
        "it = threading.Semaphore(threads + 64)", "with it: pass"
    ),
    "threading.Barrier.wait": Operation("it = threading.Barrier(threads)", "it.wait()"),
    "deque append + popleft": Operation(
        "it = collections.deque()", "it.append(v); it.popleft()", "v = object()"
    ),
}

OPERATIONS = OURS | BESIDE

# Those of the C core alone, by the names that tests/c/transfers.c knows.
CORE = ("counter", "event", "rwmutex", "pool", "mutex", "semaphore", "waitgroup", "channel")
