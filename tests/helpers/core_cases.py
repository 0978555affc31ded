"""Calls that allocate in the C core, as cases for `nomemory.each_fails`."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nomemory import Case
from waits import WAITS, WaitTrial

from nogil_sync import (
    Cache,
    Channel,
    Cond,
    Event,
    Pool,
    RWMutex,
    Semaphore,
    ShardedCounter,
    ShardedFloatCounter,
    SyncMap,
    TaskGroup,
    WaitGroup,
)
from nogil_sync._backend import HistogramValue

Trial = Generator[Callable[[], object], bool, None]


def in_thread(function: Callable[..., object], *args: object) -> None:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


@contextmanager
def crowd(function: Callable[[], object], n: int = 20) -> Iterator[None]:
    """Keep this many threads alive that have called the function."""
    begun, over = threading.Barrier(n + 1), threading.Event()

    def run() -> None:
        function()
        begun.wait()
        over.wait()

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


# Waits


def wait(name: str) -> Case:
    def case() -> Trial:
        trial = WaitTrial(name)
        before = trial.state()
        yield lambda: trial.call(0.001)
        assert trial.state() == before
        timer = trial.serve_soon(0)
        assert trial.call() == trial.served
        timer.join()

    return case


# Counters


def counter(cls: type, n: Any) -> Case:
    def case() -> Trial:
        c = cls()
        in_thread(c.add, n)  # now it is another thread's
        raised = yield lambda: c.add(n)
        assert not raised  # it is slower without its table
        assert c.value() == 2 * n
        c.add(n)
        in_thread(c.add, n)
        assert c.reset() == 4 * n
        assert c.value() == 0

    return case


def histogram() -> Trial:
    values: list[HistogramValue] = []
    raised = yield lambda: values.append(HistogramValue((1, 2)))
    assert raised == (not values)
    for value in values:
        assert (value.observe(1.5), value.count(1), value.sum()) == (1, 1, 1.5)


class Peer:
    """Another thread, which makes one call for each call of this thread."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.turn, self.done = threading.Lock(), threading.Lock()
        self.turn.acquire()
        self.done.acquire()
        self.over = False

        def run() -> None:
            while self.turn.acquire() and not self.over:
                function()
                self.done.release()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def __call__(self) -> None:
        self.turn.release()
        self.done.acquire()

    def end(self) -> None:
        self.over = True
        self.turn.release()
        self.thread.join()


def meeting(first: bool, others: int) -> Case:
    """Threads that meet in a counter get cells; their order decides which thread makes one."""

    def case() -> Trial:
        c = ShardedCounter()
        peers = [Peer(c.add) for _ in range(others)]
        if first:
            c.add()

        def meet(rounds: int = 12) -> None:
            for _ in range(rounds):
                for peer in peers:
                    peer()
                c.add()

        raised = yield meet
        assert not raised  # they share a word
        meet(2)
        for peer in peers:
            peer.end()
        assert c.value() == (12 + 2) * (others + 1) + first

    return case


def meeting_in_turn(others: int = 6, rounds: int = 10) -> Case:
    """One thread meets each of the others by itself, so that it is the one that makes room.

    The first two that meet get a table of few places. One of the others has the place of this
    thread's cell, so the table grows. They meet there an even number of times until it does, and
    the other thread comes first.
    """

    def case() -> Trial:
        c = ShardedCounter()
        peers = [Peer(c.add) for _ in range(others)]

        def meet() -> None:
            for peer in peers:
                for _ in range(rounds):
                    peer()
                    c.add()

        raised = yield meet
        assert not raised
        for peer in peers:
            peer.end()
        assert c.value() == 2 * rounds * others

    return case


# RWMutex


def readers() -> Trial:
    x = RWMutex()
    x.read.acquire()
    raised = yield x.read.acquire
    assert not raised
    for _ in range(2):
        assert not x.write.acquire(timeout=0)
        x.read.release()
    with x.write:
        assert not x.read.acquire(timeout=0)
    with x.read, x.read:
        assert not x.write.acquire(timeout=0)


# Pool


class Item:
    pass


def pool(times: int, **options: Any) -> Case:
    def case() -> Trial:
        gone: list[Item] = []
        p = Pool(Item, drop=gone.append, **options)
        items = [Item() for _ in range(times)]

        def put() -> None:
            for item in items:
                p.put(item)

        raised = yield put
        assert not raised  # what finds no place is dropped
        got = [p.get() for _ in range(p.idle())]
        assert len(set(got)) == len(got)
        assert {*got, *gone} == {*items}
        assert len(got) + len(gone) == len(items)
        for item in items:
            p.put(item)
        most = options.get("max_idle", times)
        # (A shard whose reservation was for the failed thread, gone since, may keep one.)
        assert most - 1 <= p.idle() <= most
        p.clear()
        assert p.idle() == 0

    return case


def pool_of_many_threads() -> Trial:
    p = Pool(Item)

    def put() -> None:
        for _ in range(2):
            p.put(Item())

    with crowd(put, 10):
        raised = yield put
        assert not raised
        assert 20 <= p.idle() <= 22
        got = [p.get() for _ in range(p.idle())]
        assert len(set(got)) == len(got)


def bounded_pool() -> Trial:
    p: Pool[Item] = Pool.__new__(Pool)
    raised = yield lambda: p.__init__(Item, max_idle=3)  # type: ignore[misc]
    if raised:
        try:
            p.get()
        except RuntimeError as error:
            assert "not initialized" in str(error)
        else:
            raise AssertionError
        p.__init__(Item, max_idle=3)  # type: ignore[misc]
    p.put(Item())
    assert p.idle() == 1


# SyncMap


class Key:
    """Compared by Python code; `same` of them have one hash."""

    def __init__(self, n: int, same: int = 1) -> None:
        self.n = n
        self.hash = hash(n // same)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.n == other.n


KEYS: dict[str, Sequence[Any]] = {
    "int": range(6000),
    "str": [f"key {n}" for n in range(3000)],
    "Python's equality": [Key(n) for n in range(1500)],
    "few hashes": [Key(n, 60) for n in range(300)],
}


def growth(kind: str, *, stubborn: bool) -> Case:
    keys = KEYS[kind]

    def case() -> Trial:
        m: SyncMap[Any, Any] = SyncMap()
        done: list[Any] = []

        def fill() -> None:
            for key in keys:
                try:
                    m[key] = key
                except MemoryError:
                    assert key not in m
                    if not stubborn:
                        raise
                    m[key] = key
                done.append(key)

        yield fill
        assert len(m) == len(done)
        assert all(m[key] is key for key in done)
        assert len(list(m)) == len(done)
        for key in keys[len(done) :]:
            m[key] = key
        assert len(m) == len(keys)
        assert set(m) == set(keys)

    return case


def cache(**options: Any) -> Case:
    """Insertions into a cache, of which the first half is inserted again."""
    keys = [*range(3000), *range(1500)]

    def case() -> Trial:
        c: Cache[int, int] = Cache(1000, **options)

        def fill() -> None:
            for key in keys:
                c[key] = key
                c.get(key)

        yield fill
        assert len(c) <= 1000
        assert all(c.get(key, key) == key for key in keys)
        fill()
        assert len(c) == 1000
        c.clear()
        assert len(c) == 0

    return case


def shrinking(emptied: Callable[[Any, Any], object]) -> Case:
    # Too many for three segments, so that the table has limbo lists (table.h). The secret of a
    # process may keep ints together, in fewer and larger segments; it spreads hashes of strings.
    keys = KEYS["str"]

    def case() -> Trial:
        m = SyncMap(zip(keys, keys, strict=True))

        def empty() -> None:
            for key in keys[100:]:
                emptied(m, key)

        raised = yield empty
        assert not raised  # what cannot shrink stays large
        assert m == dict(zip(keys[:100], keys[:100], strict=True))
        for key in keys:
            m[key] = key
        assert len(m) == len(keys)

    return case


def churn() -> Trial:
    m: SyncMap[int, int] = SyncMap()
    kept = 40
    last = [0]

    def go() -> None:
        for n in range(3000):
            m[n] = n
            last[0] = n + 1
            m.pop(n - kept, None)

    yield go
    end = last[0]
    # The failed item was not stored; the one before it is there.
    assert set(m) == set(range(max(0, end - kept), end))
    for n in range(end, end + 3000):
        m[n] = n
        assert m.pop(n) == n


def first(use: Callable[[Any], object]) -> Case:
    """An operation on an empty map."""

    def case() -> Trial:
        m: SyncMap[Any, Any] = SyncMap()
        raised = yield lambda: use(m)
        if raised:
            assert len(m) == 0
            assert list(m) == []
        use(m)
        assert m == {"a": 1}

    return case


def made(make: Callable[[], Any]) -> Case:
    def case() -> Trial:
        results: list[Any] = []
        raised = yield lambda: results.append(make())
        assert raised == (not results)
        assert make() == {"a": 1, "b": 2}
        assert all(m == {"a": 1, "b": 2} for m in results)

    return case


FIRST: dict[str, Callable[[Any], object]] = {
    "[]=": lambda m: m.__setitem__("a", 1),
    "insert": lambda m: m.insert("a", 1),
    "setdefault": lambda m: m.setdefault("a", 1),
    "swap": lambda m: m.swap("a", 1),
    "modify": lambda m: m.modify("a", lambda n: 1, 0),
    "load_or_compute": lambda m: m.load_or_compute("a", lambda: 1),
    "update": lambda m: m.update(a=1),
    "|=": lambda m: m.__ior__({"a": 1}),
}
SOURCE = SyncMap(a=1, b=2)
MADE: dict[str, Callable[[], Any]] = {
    "SyncMap(**)": lambda: SyncMap(a=1, b=2),
    "copy": SOURCE.copy,
    "|": lambda: SOURCE | {"b": 2},
}


# What `use`, `hold` and `iter` return, of objects that defer their reference counts


def spare(
    make: Callable[[], Any], use: Callable[[Any], object], other: Callable[[Any], object]
) -> Case:
    def case() -> Trial:
        x = make()

        def often() -> None:
            for _ in range(3000):
                other(x)

        in_thread(often)  # from 3.14 on it defers now, and nothing is kept yet
        results: list[object] = []
        raised = yield lambda: results.extend(use(x) for _ in range(3))
        assert not raised  # what cannot be kept for the next use is freed
        assert results == [use(x)] * 3

    return case


def used(p: Any) -> object:
    with p.use() as item:
        return item


def held(s: Any) -> object:
    with s.hold():
        return s.available()


SPARES: dict[str, Case] = {
    "Pool.use": spare(lambda: Pool(list), used, lambda p: p.put(p.get())),
    "Semaphore.hold": spare(lambda: Semaphore(2), held, lambda s: (s.acquire(), s.release())),
    "iter(SyncMap)": spare(SOURCE.copy, list, lambda m: m.get("a")),
}


# How Python's threads wait for the core


def wait_group() -> Trial:
    x = WaitGroup()
    ran: list[int] = []
    raised = yield lambda: [x.go(ran.append, 1) for _ in range(3)]
    assert not raised
    assert x.wait(60)
    assert len(ran) == 3


def task_group() -> Trial:
    ran: list[int] = []

    def use() -> None:
        try:
            with TaskGroup() as group:
                group.go(ran.append, 1)
                group.wait_cancelled(0.001)  # in the group: the wait takes memory
        except* MemoryError as failures:
            raise failures.exceptions[0] from None

    yield use
    assert ran in ([1], [])


def gathering() -> Trial:
    """One of many that wait."""
    x, c, ch = Event(), Cond(), Channel[int]()

    def notified() -> None:
        with c:
            c.wait(60)

    threads = [threading.Thread(target=f) for f in (x.wait, x.wait, notified, notified)]
    threads += [threading.Thread(target=ch.recv) for _ in range(2)]
    for thread in threads:
        thread.start()

    def use() -> None:
        x.wait(0.001)
        with c:
            c.wait(0.001)

    yield use
    assert not c.locked()
    x.set()
    for _ in range(2):
        ch.send(1)
    while any(thread.is_alive() for thread in threads):
        with c:
            c.notify_all()
        threads[0].join(0.001)


CASES: dict[str, Case] = {
    **{name: wait(name) for name in WAITS},
    "ShardedCounter.add": counter(ShardedCounter, 3),
    "ShardedFloatCounter.add": counter(ShardedFloatCounter, 0.5),
    "ShardedCounter, two meet": meeting(first=False, others=1),
    "ShardedCounter, two meet, the first": meeting(first=True, others=1),
    "ShardedCounter, many meet in turn": meeting_in_turn(),
    "ShardedCounter, many meet, the first": meeting(first=True, others=4),
    "HistogramValue": histogram,
    "RWMutex, two readers": readers,
    "Pool.put": pool(100),
    "Pool.put, bounded": pool(100, max_idle=50),
    "Pool.put, one": pool(3, max_idle=1),
    "Pool of many threads": pool_of_many_threads,
    "Pool(max_idle=)": bounded_pool,
    **{f"SyncMap grows, {kind}": growth(kind, stubborn=False) for kind in KEYS},
    **{f"SyncMap grows nevertheless, {kind}": growth(kind, stubborn=True) for kind in KEYS},
    "SyncMap shrinks by pop": shrinking(lambda m, key: m.pop(key)),
    "SyncMap shrinks by compare_and_delete": shrinking(lambda m, k: m.compare_and_delete(k, k)),
    "SyncMap, ever new keys": churn,
    "Cache": cache(),
    "Cache with a time to live": cache(ttl=1000),
    "Cache of few, then of many": cache(weigher=lambda key, _: 1000 if key < 3 else 1),
    **{f"empty SyncMap, {name}": first(use) for name, use in FIRST.items()},
    **{f"SyncMap made by {name}": made(make) for name, make in MADE.items()},
    **{f"spare objects of {name}": case for name, case in SPARES.items()},
    "WaitGroup.go": wait_group,
    "TaskGroup": task_group,
    "many that wait": gathering,
}
