"""Channel and the collector: cycles, finalisers, collections while items pass."""

import gc
import weakref

import pytest
from channels import Item
from marks import starts_threads
from support import (
    TIMEOUT,
    background,
    collect_often,
    for_a_while,
    run_threads,
)

from nogil_sync import Channel

collects = pytest.mark.thread_unsafe(reason="collects, which is slow on many threads at once")


# Garbage collection


@collects
@pytest.mark.parametrize("capacity", [1, 3])
def test_cycles_through_items_are_collected(capacity):
    for closed in (False, True):
        c = Channel(capacity)
        item = Item()
        item.channel = c
        for _ in range(capacity):
            c.send(item)
        if closed:
            c.close()
        watches = weakref.ref(c), weakref.ref(item)
        del c, item
        gc.collect()
        assert [watch() for watch in watches] == [None, None]


@collects
def test_cycle_of_channels_is_collected():
    first = previous = Channel(2)
    for _ in range(10):
        c = Channel(2)
        c.send(previous)
        previous = c
    first.send(previous)
    watch = weakref.ref(first)
    del first, previous, c
    gc.collect()
    assert watch() is None


@collects
def test_items_in_a_channel_are_not_collected():
    c = Channel(5)
    for n in range(5):
        item = Item()
        item.me = item
        item.list = [n]
        c.send(item)
    del item
    for _ in range(3):
        gc.collect()
    for n in range(5):
        assert c.recv().list == [n]
        gc.collect()


@collects
def test_finaliser_in_a_cycle_can_use_the_channel():
    seen = []

    class Last:
        def __del__(self):
            c = self.channel
            seen.append(len(c))
            while c.try_send("more"):
                pass
            try:
                c.send("late", 0)
            except TimeoutError:
                seen.append(c.try_recv() is not None)
            c.close()
            seen.append(len(list(c)))

    c = Channel(3)
    last = Last()
    last.channel = c
    c.send(last)
    watch = weakref.ref(c)
    del c, last
    gc.collect()
    gc.collect()
    assert seen == [1, True, 2]
    assert watch() is None


@collects
def test_items_are_freed_with_their_channel():
    seen = []

    class Last:
        def __init__(self, n):
            self.n = n

        def __del__(self):
            seen.append(self.n)

    c = Channel(4)
    for n in range(6):  # into the second lap
        c.send(Last(n))
        if n < 3:
            c.recv()
    assert seen == [0, 1, 2]
    del c
    gc.collect()
    assert seen == [0, 1, 2, 3, 4, 5]


@starts_threads
def test_finalisers_use_the_channel_during_its_operations():
    c = Channel(2)

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            c.try_send(None)
            c.try_recv()

    def work():
        for _ in range(40):
            Last()
            c.try_send(Last())
            item = c.try_recv()
            del item
            gc.collect(0)

    run_threads(work, times=3)
    gc.collect()
    while len(c):
        c.try_recv()


@starts_threads
@pytest.mark.parametrize("capacity", [0, 2, 16])
def test_collections_run_while_items_pass(capacity):
    # Each item is a cycle to which only the channel, or a thread in a call, refers for a while.
    c = Channel(capacity)

    def send():
        for n in for_a_while(0.7):
            item = Item()
            item.me = item
            item.content = [n]
            c.send(item, TIMEOUT)
            del item
        c.close()

    def receive():
        for expected, item in enumerate(c):
            assert item.me is item
            assert item.content == [expected]

    with background(collect_often):
        run_threads(send, receive)
