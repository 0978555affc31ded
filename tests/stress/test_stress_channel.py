"""Channel under load: every item arrives exactly once, in its sender's order."""

import threading
import time
import weakref
from functools import partial

import pytest
from marks import starts_threads
from support import STRESS, TIMEOUT, background, collect_often, for_a_while, run_threads

from nogil_sync import Channel, ChannelClosed

pytestmark = [
    starts_threads,
    pytest.mark.timeout(120 * max(1, STRESS)),
]


class Item:
    """A cycle by itself, so that the collector looks at it; made to be counted and watched."""

    def __init__(self, sender, number):
        self.me = self
        self.sender = sender
        self.number = number
        self.copy = [sender, number]


def check(sent, received):
    """Each sender's items are all there, once; each receiver had them in their order."""
    numbers = [[] for _ in sent]
    for items in received:
        last = [-1] * len(sent)
        for sender, number in items:
            assert number > last[sender]
            last[sender] = number
            numbers[sender].append(number)
    for sender, count in enumerate(sent):
        assert sorted(numbers[sender]) == list(range(count))


@pytest.mark.parametrize("capacity", [0, 1, 64])
def test_eight_senders_and_eight_receivers_lose_nothing(capacity):
    c = Channel(capacity)
    left = threading.Semaphore(7)

    def send(k):
        count = 0
        for count in for_a_while(0.8):
            c.send(Item(k, count), TIMEOUT)
        if not left.acquire(blocking=False):
            c.close()
        return count + 1

    def receive():
        got = []
        for item in c:
            assert item.me is item
            assert item.copy == [item.sender, item.number]
            got.append((item.sender, item.number))
        return got

    with background(collect_often):
        results = run_threads(*[lambda k=k: send(k) for k in range(8)], *[receive] * 8)
    check(results[:8], results[8:])
    print(sum(results[:8]), "items,", [len(got) for got in results[8:]])


@pytest.mark.parametrize("capacity", [0, 1, 5, 64])
def test_all_ways_to_send_and_receive_lose_nothing(capacity):
    """Time-outs and tries, some of which fail, lose nothing and repeat nothing."""
    c = Channel(capacity)
    left = threading.Semaphore(2)

    def send(k):
        number = 0
        for n in for_a_while(0.8):
            try:
                if n % 3 == 0:
                    number += c.try_send((k, number))
                else:
                    c.send((k, number), n % 7 / 5000)
                    number += 1
            except TimeoutError:
                pass
        if not left.acquire(blocking=False):
            c.close()
        return number

    def receive():
        got = []
        try:
            while True:
                try:
                    item = c.try_recv() if len(got) % 3 else c.recv(len(got) % 5 / 5000)
                except TimeoutError:
                    item = None
                got.append(item or c.recv())
        except ChannelClosed:
            return got

    results = run_threads(*[lambda k=k: send(k) for k in range(3)], *[receive] * 3)
    check(results[:3], results[3:])


@pytest.mark.parametrize("capacity", [0, 1, 64])
def test_concurrent_closes_lose_no_accepted_item(capacity):
    for _ in for_a_while(1.5):
        c = Channel(capacity)

        def send(k, c=c):
            number = 0
            try:
                while True:
                    c.send((k, number))
                    number += 1
            except ChannelClosed:
                return number

        def close(c=c):
            time.sleep(0.002)
            c.close()

        functions = partial(send, 0), partial(send, 1), partial(list, c), partial(list, c), close
        results = run_threads(*functions)
        check(results[:2], results[2:4])


def test_pipeline_with_feedback_ends():
    """Threads that both send and receive, on channels that are full or empty all the time."""
    stages = [Channel(2) for _ in range(4)]
    count = fed = 0

    def work(k):
        for number in stages[k]:
            stages[k + 1].send(number + 1, TIMEOUT)
        stages[k + 1].close()

    def feed():
        nonlocal fed
        for _ in for_a_while(1):
            stages[0].send(0, TIMEOUT)
            fed += 1
        stages[0].close()

    def drain():
        nonlocal count
        for number in stages[3]:
            assert number == 3
            count += 1

    run_threads(feed, *[lambda k=k: work(k) for k in range(3)], drain)
    assert count == fed > 0


def test_channels_come_and_go_with_their_items():
    """A channel may end in one thread while its items are received in another."""
    carrier = Channel(4)
    watches = []

    def send():
        for n in for_a_while(1):
            inner = Channel(3)
            item = Item(0, n)
            item.channel = inner
            for _ in range(3):
                inner.send(item)
            if n % 16 == 0:
                watches.append(weakref.ref(item))
            del item
            carrier.send(inner, TIMEOUT)
        carrier.close()

    def receive():
        for inner in carrier:
            assert inner.recv().channel is inner
            inner.try_recv()

    with background(collect_often):
        run_threads(send, receive, receive)
    collect_often()
    collect_often()
    assert not any(watch() for watch in watches)
