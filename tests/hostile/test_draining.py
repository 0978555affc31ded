"""Emptying objects that hold many items: the cost of each does not grow with their number.

The cost is processor time, which other programs hardly change, for one number of things and for
sixteen times as many. What is linear costs about as much for each; the caches make that up to
three times as much. What looks at all that is left costs far more than five times as much.
"""

import random
import threading
import time

import pytest
from support import NATIVE, run_threads

from nogil_sync import Channel, Pool, SyncMap

pytestmark = pytest.mark.thread_unsafe(reason="measures, and starts threads itself")

SMALL = 25_000 if NATIVE else 8_000
FACTOR = 16
MOST = 5.0
# Several threads slow each other down where there are many things; where there are few, the first
# thread is done before the second one comes. So their numbers are further apart.
BY_SEVERAL, FACTOR_BY_SEVERAL, MOST_BY_SEVERAL = (6_000 if NATIVE else 500), 64, 16.0


def check_linear(fill, drain, count=None):
    """Each thing costs the same, however many there are; `drain` is called by `count` threads."""
    if count is None:
        small, factor, most = SMALL, FACTOR, MOST
    else:
        small, factor, most = BY_SEVERAL, FACTOR_BY_SEVERAL, MOST_BY_SEVERAL
    best = [float("inf")] * 2
    for _ in range(6):
        for i, number in enumerate((small, small * factor)):
            full = fill(number)

            def timed(full=full):
                begin = time.thread_time()
                drain(full)
                return time.thread_time() - begin

            cost = timed() if count is None else sum(run_threads(timed, times=count))
            assert len(full) == 0
            best[i] = min(best[i], cost / number)
        if best[1] <= best[0] * most:
            break
    assert best[1] <= best[0] * most


def ints(number):
    return SyncMap((n, None) for n in range(number))


def strings(number):
    return SyncMap((f"key-{n}", n) for n in range(number))


def pairs(number):
    return SyncMap(((n, str(n)), n) for n in range(number))


def popitem_while_true(m):
    while m:
        m.popitem()


def popitem_while_not_empty(m):
    try:
        while True:
            m.popitem()
    except KeyError:
        pass


def pop_each(m):
    for key in list(m):
        m.pop(key, None)
        assert bool(m) or not len(m)  # once: another thread drains it too


def pop_in_disorder(m):
    keys = list(m)
    random.Random(1).shuffle(keys)
    for key in keys:
        m.pop(key, None)


def delete_each(m):
    for key in list(m):
        del m[key]


def compare_and_delete_each(m):
    for key, value in m.items():
        m.compare_and_delete(key, value)


def clear(m):
    m.clear()


def insert_and_popitem(m):
    # One comes for each two that go.
    n = -1
    while m:
        m.popitem()
        if m:
            m.popitem()
            m[n] = n
            n -= 1
            if n % 2:
                m.popitem()


def popitem_in_a_computation(m):
    m.load_or_compute(-1, lambda: popitem_while_true(m))
    m.pop(-1)


WAYS = [
    *(popitem_while_true, popitem_while_not_empty, pop_each, pop_in_disorder, delete_each),
    *(compare_and_delete_each, clear, insert_and_popitem, popitem_in_a_computation),
]


@pytest.mark.parametrize("drain", WAYS, ids=lambda way: way.__name__)
def test_map_of_ints_is_drained_in_linear_time(drain):
    check_linear(ints, drain)


@pytest.mark.parametrize("fill", [strings, pairs], ids=lambda fill: fill.__name__)
def test_map_is_drained_by_popitem_in_linear_time(fill):
    check_linear(fill, popitem_while_true)


@pytest.mark.parametrize(
    "drain", [popitem_while_not_empty, pop_each, clear], ids=lambda w: w.__name__
)
def test_map_is_drained_by_several_threads_in_linear_time(drain):
    check_linear(ints, drain, 2)


def test_map_is_drained_beside_an_idle_thread_in_linear_time():
    # Deleted keys are then freed once no reader can refer to them.
    leave = threading.Event()
    used = threading.Barrier(2)

    def stay():
        assert SyncMap(a=1).pop("a") == 1
        used.wait()
        leave.wait()

    other = threading.Thread(target=stay, daemon=True)
    other.start()
    used.wait()
    try:
        check_linear(ints, popitem_while_true)
    finally:
        leave.set()
        other.join()


def test_channel_is_drained_in_linear_time():
    def fill(number):
        channel = Channel(number)
        for n in range(number):
            channel.send(n)
        return channel

    def drain(channel):
        while len(channel):
            channel.recv()

    check_linear(fill, drain)


class Items(Pool):
    __len__ = Pool.idle


def test_pool_is_drained_in_linear_time():
    def fill(number):
        pool = Items(object, age=False)
        for _ in range(number):
            pool.put(object())
        return pool

    def drain(pool):
        while pool.idle():
            pool.get()

    check_linear(fill, drain)
