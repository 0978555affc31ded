"""Channel: capacity, order, rendezvous, close, misuse, time-outs."""

import gc
import linecache
import math
import sys
import threading
import time
import weakref
from itertools import chain, count

import pytest
from channels import Item
from marks import starts_threads
from support import (
    NATIVE,
    TIMEOUT,
    WRONG_TIMEOUTS,
    eventually,
    run_threads,
    started,
)

from nogil_sync import Channel, ChannelClosed

MOST = 2**59 - 1


CAPACITIES = [0, 1, 3, 8]


def in_line(function, *args):
    """A thread that calls the function, which waits by now; the list gets the result."""
    entered = threading.Event()

    def call():
        entered.set()
        return function(*args)

    pair = started(call)
    assert entered.wait(TIMEOUT)
    time.sleep(0.03)
    return pair


# The interface


def test_send_and_receive():
    c = Channel(2)
    assert len(c) == 0
    assert c.send("a") is None
    assert c.try_send("b") is True
    assert len(c) == 2
    assert c.try_send("c") is False
    assert c.recv() == "a"
    assert c.try_recv() == "b"
    assert c.try_recv() is None
    assert c.try_recv("default") == "default"
    assert c.try_recv(default=5) == 5
    c.send(value=1, timeout=1)
    assert c.recv(timeout=1) == 1
    assert len(c) == 0


@pytest.mark.parametrize("capacity", range(1, 10))
def test_channel_holds_exactly_its_capacity(capacity):
    c = Channel(capacity)
    sent = received = 0
    for lap in range(3 * capacity):
        items = 1 + lap % capacity
        for held in range(items):
            assert len(c) == held
            c.send(sent)
            sent += 1
        if items == capacity:
            assert not c.try_send(None)
        for _ in range(items):
            assert c.recv(0) == received
            received += 1
        assert c.try_recv("nothing") == "nothing"


def test_unbuffered_channel_holds_no_item():
    c = Channel()
    assert len(c) == 0
    assert c.try_send(1) is False
    assert c.try_recv(2) == 2
    with pytest.raises(TimeoutError):
        c.send(1, 0.01)
    with pytest.raises(TimeoutError):
        c.recv(0.01)
    assert len(c) == 0
    assert not c.closed()


def test_items_arrive_unchanged():
    items = [None, False, 0, "", (), [], object(), Exception(), Channel(), TimeoutError("x")]
    c = Channel(len(items))
    items.append(c)
    for item in items[:-1]:
        c.send(item)
    for item in items[:-1]:
        assert c.recv() is item
    c.send(c)
    assert c.recv() is c


def test_channel_holds_an_item_only_until_it_is_received():
    c = Channel(3)
    item = Item()
    watch = weakref.ref(item)
    c.send(item)
    del item
    gc.collect()
    assert watch() is not None
    item = c.recv()
    assert watch() is item
    del item
    gc.collect()
    assert watch() is None


def test_send_and_recv_keep_no_references():
    if not hasattr(sys, "getrefcount"):
        pytest.skip("no reference counts here")
    c = Channel(1)
    item = Item()
    before = sys.getrefcount(item)
    for _ in range(100):
        c.send(item)
        assert c.try_send(item) is False
        with pytest.raises(TimeoutError):
            c.send(item, 0)
        assert c.recv() is item
    c.close()
    for _ in range(100):
        with pytest.raises(ChannelClosed):
            c.send(item)
        with pytest.raises(ChannelClosed):
            c.try_send(item)
    gc.collect()
    assert sys.getrefcount(item) <= before + 1


def test_close_ends_sends_and_receives():
    c = Channel(3)
    c.send(1)
    c.send(2)
    assert c.closed() is False
    assert c.close() is None
    assert c.closed() is True
    c.close()
    for send in (c.send, c.try_send, lambda item: c.send(item, 0)):
        with pytest.raises(ChannelClosed, match="the channel is closed"):
            send(3)
    assert len(c) == 2
    assert c.recv() == 1
    assert c.try_recv() == 2
    for receive in (c.recv, c.try_recv, lambda: c.recv(0), lambda: c.try_recv("default")):
        with pytest.raises(ChannelClosed, match="the channel is closed"):
            receive()
    assert list(c) == []


def test_closed_full_channel_gives_its_items():
    c = Channel(1)
    c.send(1)
    c.close()
    with pytest.raises(ChannelClosed):
        c.send(2, timeout=10)
    assert list(c) == [1]


@pytest.mark.parametrize("capacity", [0, 1])
def test_closed_empty_channel_raises(capacity):
    c = Channel(capacity)
    c.close()
    assert list(c) == []
    with pytest.raises(ChannelClosed):
        c.recv()
    with pytest.raises(ChannelClosed):
        c.send(1)


def test_channel_closed_is_a_public_exception():
    assert issubclass(ChannelClosed, Exception)
    assert ChannelClosed.__module__ == "nogil_sync"
    assert not issubclass(ChannelClosed, (OSError, LookupError))


def test_with_closes_the_channel():
    with Channel(1) as c:
        assert isinstance(c, Channel)
        c.send(1)
        assert not c.closed()
    assert c.closed()
    assert list(c) == [1]
    with pytest.raises(LookupError), Channel() as c:
        raise LookupError
    assert c.closed()
    with c:
        pass


def test_iteration_ends_when_closed():
    c = Channel(3)
    for n in range(3):
        c.send(n)
    assert iter(c) is c
    assert next(c) == 0
    c.close()
    assert list(c) == [1, 2]
    assert next(c, "end") == "end"
    with pytest.raises(StopIteration):
        next(c)
    c = Channel(1)
    seen = []
    c.send(0)
    for n in c:
        seen.append(n)
        if n < 5:
            c.send(n + 1)
        else:
            c.close()
    assert seen == list(range(6))


def test_truth_value_is_that_of_its_length():
    c = Channel(1)
    assert not c
    c.send(None)
    assert c


def test_repr():
    c = Channel(3)
    where = f"<nogil_sync.Channel object at {id(c):#x}, "
    assert repr(c) == f"{where}0 of 3 items>"
    c.send(1)
    assert repr(c) == f"{where}1 of 3 items>"
    c.close()
    assert repr(c) == f"{where}1 of 3 items, closed>"
    assert repr(Channel()).endswith(" 0 of 0 items>")

    class Sub(Channel):
        pass

    assert "Sub" in repr(Sub(2))


def test_channel_is_not_comparable_or_indexable():
    c = Channel(1)
    c.send(1)
    with pytest.raises(TypeError):
        c[0]
    with pytest.raises(TypeError):
        c < c
    with pytest.raises(TypeError):
        reversed(c)
    assert len(c) == 1


def test_size_grows_with_the_capacity():
    if NATIVE:
        assert sys.getsizeof(Channel(100)) >= sys.getsizeof(Channel()) + 100 * 16


@pytest.mark.parametrize("name", ["send", "recv"])
def test_object_without_init_raises(name):
    c = Channel.__new__(Channel)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not initialized"):
            getattr(c, name)(*(["x"] if name == "send" else []))
        with pytest.raises(RuntimeError, match="not initialized"):
            len(c)
        with pytest.raises(RuntimeError, match="not initialized"):
            next(c)
        with pytest.raises(RuntimeError, match="not initialized"):
            list(c)
    c.__init__(1)
    c.send(1)
    assert c.recv() == 1


class Number:
    def __index__(self):
        return 2


def test_valid_capacities_are_accepted():
    for capacity in (2, Number(), True + 1):
        c = Channel(capacity)
        c.send(1)
        c.send(2)
        assert not c.try_send(3)
    assert Channel(True).try_send(1)
    assert not Channel(False).try_send(1)
    assert Channel(capacity=1).try_send(1)


@pytest.mark.parametrize(
    ("capacity", "error", "message"),
    [
        (-1, ValueError, "channel capacity must be >= 0"),
        (-(10**30), ValueError, "channel capacity must be >= 0"),
        (MOST + 1, OverflowError, "channel capacity is too large"),
        (2**63, OverflowError, "channel capacity is too large"),
        (10**30, OverflowError, "channel capacity is too large"),
        (1.0, TypeError, None),
        ("1", TypeError, None),
        (None, TypeError, None),
    ],
)
def test_wrong_capacities_raise(capacity, error, message):
    c = Channel.__new__(Channel)
    with pytest.raises(error, match=message):
        c.__init__(capacity)
    assert "not initialized" in repr(c)
    c.__init__(1)
    assert c.try_send(1)


def test_capacity_too_large_for_memory_raises():
    try:
        c = Channel(MOST)  # more than any processor can address
    except MemoryError:
        assert NATIVE
    else:
        assert not NATIVE
        c.send(1)


def test_large_capacity_takes_memory_only_for_its_items():
    c = Channel(10**6)
    for n in range(1000):
        c.send(n)
    assert len(c) == 1000
    assert [c.recv() for _ in range(1000)] == list(range(1000))


@pytest.mark.parametrize("timeout", [0, -1, -0.5, -math.inf, 0.001])
@pytest.mark.parametrize("capacity", [0, 1])
def test_zero_timeouts_do_not_wait(timeout, capacity):
    c = Channel(capacity)
    with pytest.raises(TimeoutError, match="timed out waiting to receive"):
        c.recv(timeout)
    if capacity:
        c.send(1, timeout)
    with pytest.raises(TimeoutError, match="timed out waiting to send"):
        c.send(2, timeout)
    assert len(c) == capacity
    if capacity:
        assert c.recv(timeout) == 1


@pytest.mark.parametrize(("timeout", "error"), [*WRONG_TIMEOUTS, ([], TypeError)])
def test_wrong_timeouts_raise(timeout, error):
    c = Channel(2)
    c.send(1)
    with pytest.raises(error):
        c.send(2, timeout)
    with pytest.raises(error):
        c.recv(timeout)
    assert len(c) == 1
    assert c.recv(threading.TIMEOUT_MAX) == 1
    c.send(3, threading.TIMEOUT_MAX)
    assert c.recv(None) == 3


def test_wrong_arguments_raise():
    c = Channel(2)
    for call in (
        lambda: c.send(),
        lambda: c.send(1, 2, 3),
        lambda: c.send(item=1),
        lambda: c.recv(1, 2),
        lambda: c.recv(default=1),
        lambda: c.try_send(),
        lambda: c.try_send(1, 1),
        lambda: c.try_recv(1, 2),
        lambda: c.close(1),
        lambda: c.closed(1),
        lambda: Channel(1, 2),
        lambda: Channel(size=1),
    ):
        with pytest.raises(TypeError):
            call()
    assert len(c) == 0
    assert not c.closed()


# Waiting


@starts_threads
@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("pairs", [1, 3])
def test_items_arrive_once_and_in_order_of_their_sender(capacity, pairs):
    c = Channel(capacity)
    each = 300
    left = [None] * (pairs - 1)

    def send(k):
        for n in range(each):
            c.send((k, n))
        try:
            left.pop()
        except IndexError:  # the last
            c.close()

    def receive():
        return list(c)

    results = run_threads(*[lambda k=k: send(k) for k in range(pairs)], *[receive] * pairs)[pairs:]
    assert sorted(chain(*results)) == [(k, n) for k in range(pairs) for n in range(each)]
    for result in results:
        for k in range(pairs):
            numbers = [n for sender, n in result if sender == k]
            assert numbers == sorted(numbers)


@starts_threads
def test_unbuffered_send_returns_once_the_item_is_received():
    c = Channel()
    thread, sent = in_line(c.send, "x")
    assert not sent
    assert len(c) == 0
    assert c.recv() == "x"
    thread.join(TIMEOUT)
    assert sent == [None]
    thread, received = in_line(c.recv)
    assert eventually(lambda: c.try_send("y"))
    thread.join(TIMEOUT)
    assert received == ["y"]
    thread, sent = in_line(c.send, "z")
    assert eventually(lambda: c.try_recv() == "z")
    thread.join(TIMEOUT)
    assert sent == [None]


@starts_threads
@pytest.mark.parametrize("capacity", [0, 1])
def test_receivers_are_served_in_order(capacity):
    c = Channel(capacity)
    order = []

    def work(k):
        order.append((k, c.recv(TIMEOUT)))

    workers = [in_line(work, k)[0] for k in range(5)]
    for n in range(5):
        c.send(n)
        workers[n].join(TIMEOUT)
        assert order[-1] == (n, n)
    assert c.try_recv() is None


@starts_threads
@pytest.mark.parametrize("capacity", [0, 2])
def test_senders_are_served_in_order(capacity):
    c = Channel(capacity)
    for n in range(capacity):
        c.send(n)
    senders = [in_line(c.send, n, TIMEOUT) for n in range(capacity, capacity + 5)]
    assert len(c) == capacity
    for n in range(capacity + 5):
        assert c.recv() == n
        if n < 5:
            senders[n][0].join(TIMEOUT)
            assert senders[n][1] == [None]
            assert len(c) == capacity
            assert not c.try_send("overtakes") or capacity == 0
    assert c.try_recv() is None


@starts_threads
def test_timed_out_send_sends_nothing():
    c = Channel(1)
    c.send(0)

    def send():
        try:
            c.send("late", 0.05)
        except TimeoutError:
            return "gave up"

    thread, result = in_line(send)
    behind, sent = in_line(c.send, 1, TIMEOUT)
    thread.join(TIMEOUT)
    assert result == ["gave up"]
    assert not sent
    assert c.recv() == 0
    behind.join(TIMEOUT)
    assert sent == [None]
    assert c.recv() == 1
    assert c.try_recv() is None


@starts_threads
def test_timed_out_send_releases_item():
    c = Channel(1)
    for n in range(2):  # items travel between threads here
        thread, _ = in_line(c.recv)
        c.send(Item())
        thread.join(TIMEOUT)
        c.send(n)  # full
        item = Item()
        watch = weakref.ref(item)
        others = [item]
        waiting, gone = threading.Event(), threading.Event()

        def drop(others=others, waiting=waiting, gone=gone):
            assert waiting.wait(TIMEOUT)
            others.clear()
            gone.set()

        thread = threading.Thread(target=drop)
        thread.start()
        waiting.set()
        while not gone.is_set():
            with pytest.raises(TimeoutError):
                c.send(item, 0.05)
        thread.join(TIMEOUT)
        del item
        assert eventually(lambda watch=watch: watch() is None)
        assert c.recv() == n


@starts_threads
def test_timed_out_recv_receives_nothing():
    c = Channel()

    def receive(timeout):
        try:
            c.recv(timeout)
        except TimeoutError:
            return "gave up"

    for timeout in (0.001, 0.05):
        thread, result = in_line(receive, timeout)
        thread.join(TIMEOUT)
        assert result == ["gave up"]
        assert not c.try_send(1)


@starts_threads
@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_close_wakes_all_waiters(capacity):
    c = Channel(capacity)

    def closed(function, *args):
        try:
            return function(*args)
        except ChannelClosed:
            return "closed"

    waiters = [in_line(closed, c.recv, t) for t in (None, TIMEOUT)]
    waiters.append(in_line(lambda: list(c)))
    c.close()
    for thread, _ in waiters:
        thread.join(TIMEOUT)
    assert [result for _, result in waiters] == [["closed"], ["closed"], [[]]]

    c = Channel(capacity)
    for n in range(capacity):
        c.send(n)
    items = [Item() for _ in range(3)]
    watches = [weakref.ref(item) for item in items]
    waiters = [in_line(closed, c.send, item, t) for item, t in zip(items, (None, TIMEOUT, None))]
    c.close()
    for thread, _ in waiters:
        thread.join(TIMEOUT)
    assert [result for _, result in waiters] == [["closed"]] * 3
    assert list(c) == list(range(capacity))
    del items, waiters, thread
    gc.collect()
    assert eventually(lambda: [w() for w in watches] == [None] * 3)


@starts_threads
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_concurrent_close_loses_no_accepted_item(capacity):
    for _ in range(5):
        c = Channel(capacity)

        def send(k, c=c):
            accepted = []
            try:
                for n in range(10**6):
                    c.send((k, n))
                    accepted.append((k, n))
            except ChannelClosed:
                return accepted
            raise AssertionError

        def receive(c=c):
            return list(c)

        def close(c=c):
            time.sleep(0.003)
            c.close()

        results = run_threads(*[lambda k=k: send(k) for k in range(2)], receive, receive, close)
        assert sorted(results[0] + results[1]) == sorted(results[2] + results[3])
        assert len(c) == 0


@starts_threads
@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_timeouts_and_tries_lose_nothing(capacity):
    c = Channel(capacity)
    done = threading.Event()

    def send(k):
        accepted = []
        end = time.monotonic() + 0.4
        for n in count():
            if accepted and time.monotonic() > end:
                break
            try:
                if n % 3:
                    c.send((k, n), n % 5 / 2000)
                elif not c.try_send((k, n)):
                    continue
            except TimeoutError:
                continue
            accepted.append((k, n))
        return accepted

    def receive():
        received = []
        while True:
            try:
                if len(received) % 2:
                    received.append(c.recv(0.0007))
                else:
                    item = c.try_recv()
                    if item is not None:
                        received.append(item)
                    elif done.is_set():
                        return received
                    else:
                        received.append(c.recv(0.001))
            except TimeoutError:
                if done.is_set() and not len(c):
                    return received

    def run():
        results = run_threads(*[lambda k=k: send(k) for k in range(2)])
        done.set()
        return results

    accepted, *received = run_threads(run, receive, receive)
    assert sorted(chain(*accepted)) == sorted(chain(*received))
    assert all(accepted)


@pytest.mark.skipif(NATIVE, reason="about the sections of the other backend")
@pytest.mark.thread_unsafe(reason="traces, and starts threads itself")
@pytest.mark.parametrize("receives", [False, True])
def test_finaliser_during_a_send_sees_the_item(receives):
    # Without the GIL, or under a debugger, other threads run between the lines of a section.
    slow = {"taker.done = giver.done = True", "self.state = new", "me.joined = True"}
    c = Channel()
    served = threading.Event()

    def tracer(frame, event, _arg):
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and line in slow:
            time.sleep(0.01)
        return tracer

    def partner():
        while not served.is_set():
            try:
                if receives:
                    c.send("item", 0.005)
                else:
                    assert c.recv(0.005) == "item"
                served.set()
            except TimeoutError:
                pass

    def traced():
        sys.settrace(tracer)
        try:
            if receives:
                assert c.recv(TIMEOUT) == "item"
            else:
                c.send("item", TIMEOUT)
        finally:
            sys.settrace(None)
            served.set()

    for _ in range(3):
        served.clear()
        run_threads(traced, partner)


@starts_threads
def test_reply_arrives_through_a_second_channel():
    requests = Channel(2)

    def serve():
        for value, answer in requests:
            answer.send(value * 2)

    def ask():
        for n in range(200):
            answer = Channel(1)
            requests.send((n, answer))
            assert answer.recv(TIMEOUT) == 2 * n

    server = threading.Thread(target=serve)
    server.start()
    run_threads(ask, times=3)
    requests.close()
    server.join(TIMEOUT)
    assert not server.is_alive()


@starts_threads
@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_two_threads_take_turns(capacity):
    to, fro = Channel(capacity), Channel(capacity)

    def echo():
        for n in to:
            fro.send(n)
        fro.close()

    def play():
        for n in range(500):
            to.send(n)
            assert fro.recv() == n
        to.close()
        assert list(fro) == []

    run_threads(echo, play)


@starts_threads
def test_other_threads_run_and_collect_while_one_waits():
    c = Channel()
    receiver, received = in_line(c.recv)
    for _ in range(3):
        gc.collect()
    assert not received
    c.send([1])
    receiver.join(TIMEOUT)
    assert received == [[1]]
    sender, sent = in_line(c.send, [2])
    for _ in range(3):
        gc.collect()
    assert not sent
    assert c.recv() == [2]
    sender.join(TIMEOUT)
