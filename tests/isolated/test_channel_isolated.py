"""Channel in processes of their own: Ctrl-C, interrupts at random moments, forks."""

import os
import signal
import threading
import time

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from forks import exit_code_of, in_child
from marks import needs_fork, starts_processes
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import settle

import nogil_sync
from nogil_sync import Channel

pytestmark = starts_processes


def full():
    c = Channel(1)
    c.send(0)
    return c


# How to make the channel, and the call that waits.
CALLS = {
    "send": (full, lambda c: c.send(1)),
    "send with time-out": (full, lambda c: c.send(1, 60)),
    "recv": (lambda: Channel(1), lambda c: c.recv()),
    "recv with time-out": (lambda: Channel(1), lambda c: c.recv(60)),
    "iteration": (lambda: Channel(1), list),
    "rendezvous, send": (Channel, lambda c: c.send(1)),
    "rendezvous, recv": (Channel, lambda c: c.recv()),
}


@pytest.mark.parametrize("way", INTERRUPTS)
@pytest.mark.parametrize("name", CALLS)
@in_own_process
def test_interrupted_call_sends_and_receives_nothing(name, way):
    make, wait = CALLS[name]
    c = make()
    size = len(c)
    interrupt_call(lambda: wait(c), way)
    assert len(c) == size
    # Nothing was sent, and no receiver is left behind.
    assert [c.try_recv() for _ in range(2)] == [0 if size else None, None]
    assert c.try_send(2) == (not name.startswith("rendezvous"))


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
@in_own_process
def test_interrupted_recv_loses_no_item(capacity, at_most):
    interrupts = RandomInterrupts()
    c = Channel(capacity)
    busy = True
    sent = 0

    def send():
        nonlocal sent
        while busy:
            try:
                c.send(sent + 1, 0.001)
                sent += 1
            except TimeoutError:
                pass

    thread = threading.Thread(target=send)
    thread.start()
    received = 0
    for _ in interrupts.rounds():
        item = interrupts.call(c.recv, 10, at_most)
        if item:
            assert item == received + 1, (item, received)
            received = item
    busy = False
    thread.join(10)
    assert not thread.is_alive()
    while len(c):
        item = c.recv()
        assert item == received + 1, (item, received)
        received = item
    assert received == sent
    assert c.try_recv() is None


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
@in_own_process
def test_interrupted_send_duplicates_no_item(capacity, at_most):
    interrupts = RandomInterrupts()
    c = Channel(capacity)
    received = []

    def receive():
        received.extend(c)

    thread = threading.Thread(target=receive)
    thread.start()
    sent = []
    for number, _ in enumerate(interrupts.rounds(), 1):
        # `None` if it was sent, `False` if an interrupt hit it.
        if interrupts.call(c.send, number, at_most) is None:
            sent.append(number)
    c.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(set(received)) == len(received)
    assert received == sorted(received)
    if nogil_sync.backend == "native":
        assert received == sent
    else:  # in the instant of the interrupt it may have been accepted
        assert set(sent) <= set(received)


# Fork


@needs_fork
@in_own_process
def test_forked_child_has_the_items_and_no_waiters():
    def start(function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        thread.start()
        return thread

    full, empty, open_, over = Channel(2), Channel(3), Channel(), Channel(2)
    for n in range(2):
        full.send([n])
    over.send("last")
    over.close()
    for f in (lambda: full.send(2), empty.recv, lambda: open_.recv(), lambda: open_.recv()):
        settle(start(f))

    def child():
        assert len(full) == 2
        assert not full.closed()
        assert not full.try_send(3)
        assert full.recv() == [0]
        full.send([2], 0)
        assert [full.recv(), full.recv()] == [[1], [2]]
        assert full.try_recv() is None
        assert empty.try_recv() is None
        assert not open_.try_send(1)  # its receivers are gone
        try:
            open_.send(1, 0.02)
        except TimeoutError:
            pass
        else:
            raise AssertionError
        empty.send(1)
        assert len(empty) == 1
        assert over.closed()
        assert list(over) == ["last"]
        # All objects work for threads of the child.
        threads = [start(lambda: open_.send(open_.recv(10) + 1)), start(full.send, 5)]
        open_.send(1, 10)
        assert open_.recv(10) == 2
        assert full.recv(10) == 5
        for t in threads:
            t.join(10)
        assert not any(t.is_alive() for t in threads)

    for _ in range(5):
        in_child(child)
    assert len(full) == 2


@needs_fork
@pytest.mark.parametrize("capacity", [0, 1, 3, 64])
@in_own_process(timeout=90)
def test_forked_child_finds_a_busy_channel_whole(capacity):
    c = Channel(capacity)
    stop = False

    def send(k):
        n = 0
        while not stop:
            try:
                c.send([k, n, [k, n]], 0.001)
                n += 1
            except TimeoutError:
                pass

    def receive():
        while not stop:
            try:
                c.recv(0.001)
            except TimeoutError:
                pass

    def check():
        last = [-1, -1]
        count = 0
        assert len(c) <= capacity
        while True:
            item = c.try_recv()
            if item is None:
                break
            k, n, copy = item
            assert copy == [k, n]
            assert n > last[k], (k, n, last)
            last[k] = n
            count += 1
        assert count <= capacity
        assert len(c) == 0
        for lap in range(3):
            for n in range(capacity):
                c.send(n, 0)
            assert not c.try_send("too many")
            for n in range(capacity):
                assert c.recv(0) == n
        assert c.try_recv() is None
        thread = threading.Thread(target=lambda: [c.send(n, 10) for n in range(200)])
        thread.start()
        assert [c.recv(10) for _ in range(200)] == list(range(200))
        thread.join(10)
        c.close()
        assert list(c) == []

    threads = [
        threading.Thread(target=f, args=a, daemon=True)
        for f, a in ((send, (0,)), (send, (1,)), (receive, ()), (receive, ()))
    ]
    for t in threads:
        t.start()
    for _ in range(12):
        time.sleep(0.003)
        in_child(check)
    stop = True
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)


@needs_fork
@pytest.mark.parametrize("receives", [False, True])
@in_own_process
def test_rendezvous_goes_on_in_both_processes_after_handler_forks(receives):
    # Each process has a partner of its own.
    c = Channel()
    child = None

    def send():
        return c.send(7, 20)

    def receive():
        return c.recv(20)

    wait, answer = (receive, send) if receives else (send, receive)

    def partner():
        time.sleep(0.1)
        answer()

    def fork(*_):
        nonlocal child
        child = os.fork()
        threading.Thread(target=partner, daemon=True).start()

    signal.signal(signal.SIGUSR1, fork)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    assert wait() == (7 if receives else None)
    if child == 0:
        os._exit(0)
    assert child
    assert exit_code_of(child) == 0
