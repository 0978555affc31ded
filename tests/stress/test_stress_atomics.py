"""Threads hammer shared atomics and counters; sums and identities must come out exact."""

import gc
import itertools
import threading

import pytest
from marks import starts_threads
from support import COUNTERS, INTEGERS, RANGES, background, cores, for_a_while, run_threads

from nogil_sync import (
    AtomicBool,
    AtomicInt64,
    AtomicRef,
    AtomicUint64,
    ShardedCounter,
    ShardedFloatCounter,
    pin,
)

pytestmark = starts_threads

SECONDS = 0.4
THREADS = max(4, min(16, cores() + 2))


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("cls", INTEGERS)
def test_concurrent_adds_and_subs_sum_up(cls, pinned):
    a = pin(cls(5)) if pinned else cls(5)

    def work(k):
        total = 0
        for i in for_a_while(SECONDS):
            n = (i * 7 + k) % 100
            if i % 3:
                a.add(n)
                total += n
            else:
                a.sub(n)
                total -= n
        return total

    totals = run_threads(*[lambda k=k: work(k) for k in range(THREADS)])
    low, high = RANGES[cls]
    assert a.load() == (5 + sum(totals) - low) % (high - low + 1) + low


@pytest.mark.parametrize("cls", INTEGERS)
def test_each_result_of_add_is_returned_once(cls):
    a = cls()
    seen = run_threads(lambda: [a.add() for _ in range(3000)], times=THREADS)
    assert sorted(itertools.chain(*seen)) == list(range(1, 3000 * THREADS + 1))


def test_compare_and_swap_loop():
    a = AtomicUint64()

    def work():
        done = 0
        for _ in for_a_while(SECONDS):
            while True:
                current = a.load()
                if a.compare_and_swap(current, (current * 3 + 1) % 2**63):
                    break
            done += 1
        return done

    done = sum(run_threads(work, times=THREADS))
    value = 0
    for _ in range(done):
        value = (value * 3 + 1) % 2**63
    assert a.load() == value


def test_threads_set_and_clear_their_own_bits():
    a = AtomicUint64()

    def work(k):
        mine = 0b111 << (3 * k)
        for _ in for_a_while(SECONDS):
            assert not a.fetch_or(mine) & mine
            assert a.load() & mine == mine
            assert a.fetch_xor(mine) & mine == mine
            assert not a.fetch_or(mine) & mine
            assert a.fetch_and(~mine & (2**64 - 1)) & mine == mine

    run_threads(*[lambda k=k: work(k) for k in range(min(THREADS, 20))])
    assert a.load() == 0


def test_concurrent_max_and_min_find_the_extremes():
    highest, lowest = AtomicInt64(), AtomicInt64()

    def work(k):
        mine = []
        for i in for_a_while(SECONDS):
            n = (i * 7919 + k) % 1_000_003
            mine.append(n)
            assert highest.fetch_max(n) <= max(n, highest.load())
            lowest.fetch_min(-n)
        return max(mine)

    assert highest.load() == 0
    top = max(run_threads(*[lambda k=k: work(k) for k in range(THREADS)]))
    assert highest.load() == top
    assert lowest.load() == -top


def test_swaps_pass_on_every_value():
    a = AtomicInt64(-1)

    def work(k):
        return [a.swap(k * 10**6 + i) for i in range(4000)]

    got = list(itertools.chain(*run_threads(*[lambda k=k: work(k) for k in range(THREADS)])))
    got.append(a.load())
    assert sorted(got) == sorted(
        [-1, *(k * 10**6 + i for k in range(THREADS) for i in range(4000))]
    )


def test_bool_works_as_a_spin_lock():
    flag = AtomicBool()
    total = 0

    def work():
        nonlocal total
        for _ in range(300):
            while not flag.compare_and_swap(False, True):
                pass
            seen = total
            total = seen + 1
            flag.store(False)

    run_threads(work, times=4)
    assert total == 1200


def test_store_and_load_of_two_flags_are_sequentially_consistent():
    # Sequential consistency: of two threads that each store to one and load the other,
    # at least one sees the other's store.
    for _ in range(300):
        x, y = AtomicInt64(), AtomicInt64()
        a, b = run_threads(
            lambda x=x, y=y: (x.store(1), y.load())[1], lambda x=x, y=y: (y.store(1), x.load())[1]
        )
        assert a or b


class Payload:
    live = AtomicInt64()

    def __init__(self, n):
        self.n = n
        self.twice = 2 * n
        Payload.live.add()

    def __del__(self):
        Payload.live.sub()


def collect_all():
    for _ in range(3):
        gc.collect()


@pytest.mark.parametrize("pinned", [False, True])
def test_loads_beside_stores_return_live_objects(pinned):
    r = AtomicRef(Payload(0))
    if pinned:
        pin(r)
    before = Payload.live.load()

    def read():
        for _ in for_a_while(SECONDS):
            for _ in range(100):
                x = r.load()
                assert type(x) is Payload
                assert x.twice == 2 * x.n

    def write():
        for i in for_a_while(SECONDS):
            r.store(Payload(i))
            old = r.swap(Payload(-i))
            assert old.twice == 2 * old.n
            r.compare_and_swap(r.load(), Payload(7))

    run_threads(*[read] * (THREADS // 2), *[write] * (THREADS // 2))
    collect_all()
    assert Payload.live.load() == before
    r.store(None)
    collect_all()
    assert Payload.live.load() == before - 1


def test_ref_returns_only_values_stored_in_it():
    # A value that one reference releases leaves its memory to the next value of the other.
    class One:
        __slots__ = ()

    class Other:
        __slots__ = ()

    one, other = AtomicRef(One()), AtomicRef(Other())

    def read():
        for _ in for_a_while(SECONDS):
            assert type(one.load()) is One
            assert type(other.load()) is Other

    def write():
        for _ in for_a_while(SECONDS):
            one.store(One())
            other.store(Other())

    run_threads(read, read, write, write)


def test_loads_beside_stores_of_any_kind_of_object():
    kinds = [
        lambda i: (i, i),
        lambda i: [i, i],
        lambda i: {i: i},
        lambda i: f"{i} and {i}",
        lambda i: i + 10**20,
        lambda i: i + 0.5,
        lambda i: None,
        lambda i: frozenset([i]),
        lambda i: lambda: i,
        lambda i: type("Made", (), {}) if i % 50 == 0 else int,
        lambda i: b"%d" % i,
        lambda i: AtomicRef((i,)),
    ]
    allowed = (tuple, list, dict, str, int, float, type(None), frozenset, type(kinds[0]), type)
    allowed = (*allowed, bytes, AtomicRef)
    r = AtomicRef()

    def read():
        for _ in for_a_while(SECONDS):
            x = r.load()
            assert type(x) in allowed
            repr(x)

    def write():
        for i in for_a_while(SECONDS):
            r.store(kinds[i % len(kinds)](i))

    def collect():
        for _ in for_a_while(SECONDS):
            gc.collect()

    run_threads(read, read, write, write, collect)


def test_concurrent_updates_of_a_ref_sum_up():
    r = AtomicRef(0)
    done = run_threads(
        lambda: sum(1 for _ in for_a_while(SECONDS) if r.update(lambda n: n + 1)), times=THREADS
    )
    assert r.load() == sum(done)


def test_ref_works_as_a_lock_free_stack():
    # Treiber's stack; reclamation is the interpreter's, so there is no ABA problem.
    top = AtomicRef(None)

    def work(k):
        got = []
        for i in range(1500):
            top.update(lambda rest, i=i: ((k, i), rest))
            while True:
                node = top.load()
                if node is None:
                    break
                if top.compare_and_swap(node, node[1]):
                    got.append(node[0])
                    break
        return got

    got = list(itertools.chain(*run_threads(*[lambda k=k: work(k) for k in range(4)])))
    while top.load() is not None:
        got.append(top.swap(top.load()[1])[0])
    assert sorted(got) == [(k, i) for k in range(4) for i in range(1500)]


# Counters


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("cls", COUNTERS)
def test_totals_with_resets_are_exact(cls, pinned):
    c = pin(cls()) if pinned else cls()
    totals = []

    def reset():
        for _ in for_a_while(SECONDS):
            totals.append(c.reset())
            assert c.value() >= 0

    def work(k):
        total = 0
        add = c.add
        for i in for_a_while(SECONDS):
            add(i % 100)
            total += i % 100
        return total

    results = run_threads(reset, reset, *[lambda k=k: work(k) for k in range(THREADS)])
    assert sum(totals) + c.reset() == sum(results[2:])
    assert c.value() == 0


@pytest.mark.parametrize("cls", COUNTERS)
def test_totals_are_exact_with_short_lived_threads_and_readers(cls):
    c = cls()
    last = [0]

    def watch():
        now = c.value()
        assert now >= last[0]
        last[0] = now

    started = 0
    with background(watch):
        for _ in for_a_while(1):
            threads = [threading.Thread(target=c.add, args=(3,)) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            started += 20
    assert c.value() == 3 * started


def test_many_counters_count_at_once():
    counters = [ShardedCounter() for _ in range(200)]

    def work():
        for _ in range(20):
            for c in counters:
                c.add()

    run_threads(work, times=THREADS)
    assert [c.value() for c in counters] == [20 * THREADS] * 200


@pytest.mark.parametrize("cls", [ShardedCounter, ShardedFloatCounter])
def test_counters_come_and_go(cls):
    def work():
        for _ in for_a_while(SECONDS):
            c = cls()
            inner = [threading.Thread(target=c.add) for _ in range(2)]
            for thread in inner:
                thread.start()
            c.add()
            for thread in inner:
                thread.join()
            assert c.value() == 3

    run_threads(work, times=3)
