"""Channel in processes of its own: Ctrl-C, interrupts at any moment, forks."""

import os
import signal

import pytest
from support import FORKS, RAIN, python

pytestmark = pytest.mark.thread_unsafe(reason="starts processes itself")

CALLS = {
    "send": ("Channel(1)", "c.send(0)", "c.send(1)"),
    "send with time-out": ("Channel(1)", "c.send(0)", "c.send(1, 60)"),
    "recv": ("Channel(1)", "pass", "c.recv()"),
    "recv with time-out": ("Channel(1)", "pass", "c.recv(60)"),
    "iteration": ("Channel(1)", "pass", "list(c)"),
    "rendezvous, send": ("Channel()", "pass", "c.send(1)"),
    "rendezvous, recv": ("Channel()", "pass", "c.recv()"),
}


@pytest.mark.parametrize(
    "send", ["os.kill(os.getpid(), signal.SIGINT)", "_thread.interrupt_main()"]
)
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c(call, send):
    make, before, wait = CALLS[call]
    python(
        f"""
        import os, signal, sys, threading, time, _thread
        from nogil_sync import *
        def interrupter():
            global sent
            begun.wait(60)
            time.sleep(0.2)
            sent = time.monotonic()
            {send}
        c = {make}
        {before}
        size = len(c)
        begun = threading.Event()
        threading.Thread(target=interrupter).start()
        try:
            begun.set()
            {wait}
        except KeyboardInterrupt:
            took = time.monotonic() - sent
        else:
            sys.exit("not interrupted")
        assert took < 20, took
        assert len(c) == size
        # Nothing was sent, and no receiver is left behind.
        assert [c.try_recv() for _ in range(2)] == [0 if size else None, None]
        assert c.try_send(2) == ({make!r} == "Channel(1)")
        """
    )


@pytest.mark.parametrize("drops", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
def test_an_interrupt_at_any_moment_loses_nothing_received(capacity, drops):
    python(
        RAIN
        + f"""
from nogil_sync import Channel
c = Channel({capacity})
busy = True
sent = 0
def send():
    global sent
    while busy:
        try:
            c.send(sent + 1, 0.001)
            sent += 1
        except TimeoutError:
            pass
thread = threading.Thread(target=send)
thread.start()
received = 0
for _ in for_a_second():
    item = rain(c.recv, 10, {drops})
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
"""
    )


@pytest.mark.parametrize("drops", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
def test_an_interrupt_at_any_moment_duplicates_nothing_sent(capacity, drops):
    python(
        RAIN
        + f"""
import nogil_sync
from nogil_sync import Channel
c = Channel({capacity})
received = []
def receive():
    received.extend(c)
thread = threading.Thread(target=receive)
thread.start()
sent = []
number = 0
for _ in for_a_second():
    number += 1
    # `None` if it was sent, `False` if an interrupt hit it.
    if rain(c.send, number, {drops}) is None:
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
"""
    )


# Fork


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@fork
def test_the_child_of_a_fork_has_the_items_and_nobody_waits():
    python(
        FORKS
        + """
def start(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread
full, empty, open_, over = Channel(2), Channel(3), Channel(), Channel(2)
for n in range(2): full.send([n])
over.send("last")
over.close()
for f in (lambda: full.send(2), empty.recv, lambda: open_.recv(), lambda: open_.recv()):
    start(f)
time.sleep(0.05)

def child():
    assert len(full) == 2 and not full.closed()
    assert not full.try_send(3)
    assert full.recv() == [0]
    full.send([2], 0)
    assert [full.recv(), full.recv()] == [[1], [2]]
    assert full.try_recv() is None
    assert empty.try_recv() is None
    assert not open_.try_send(1)        # its receivers are gone
    try: open_.send(1, 0.02)
    except TimeoutError: pass
    else: raise AssertionError
    empty.send(1)
    assert len(empty) == 1
    assert over.closed() and list(over) == ["last"]
    # And all serve the threads of the child.
    threads = [start(lambda: open_.send(open_.recv(10) + 1)), start(full.send, 5)]
    open_.send(1, 10)
    assert open_.recv(10) == 2
    assert full.recv(10) == 5
    for t in threads: t.join(10)
    assert not any(t.is_alive() for t in threads)

for _ in range(5):
    in_child(child)
assert len(full) == 2
"""
    )


@fork
@pytest.mark.parametrize("capacity", [0, 1, 3, 64])
def test_forks_in_the_middle_of_everything(capacity):
    python(
        FORKS
        + f"""
c = Channel({capacity})
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
        try: c.recv(0.001)
        except TimeoutError: pass

def check():
    last = [-1, -1]
    count = 0
    assert len(c) <= {capacity}
    while True:
        item = c.try_recv()
        if item is None: break
        k, n, copy = item
        assert copy == [k, n]
        assert n > last[k], (k, n, last)
        last[k] = n
        count += 1
    assert count <= {capacity}
    assert len(c) == 0
    for lap in range(3):
        for n in range({capacity}):
            c.send(n, 0)
        assert not c.try_send("too many")
        for n in range({capacity}):
            assert c.recv(0) == n
    assert c.try_recv() is None
    thread = threading.Thread(target=lambda: [c.send(n, 10) for n in range(200)])
    thread.start()
    assert [c.recv(10) for _ in range(200)] == list(range(200))
    thread.join(10)
    c.close()
    assert list(c) == []

threads = [threading.Thread(target=f, args=a, daemon=True)
           for f, a in ((send, (0,)), (send, (1,)), (receive, ()), (receive, ()))]
for t in threads: t.start()
for _ in range(12):
    time.sleep(0.003)
    in_child(check)
stop = True
for t in threads: t.join(10)
assert not any(t.is_alive() for t in threads)
""",
        timeout=90,
    )


@fork
@pytest.mark.parametrize("receives", [False, True])
def test_a_handler_that_forks_in_a_rendezvous(receives):
    # The wait goes on in both processes, and each has its own partner.
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("no signals to send oneself")
    wait, partner = ("c.recv(20)", "c.send(7, 20)") if receives else ("c.send(7, 20)", "c.recv(20)")
    python(
        FORKS
        + f"""
c = Channel()
child = None
def partner():
    time.sleep(0.1)
    {partner}
def fork(*_):
    global child
    child = os.fork()
    threading.Thread(target=partner, daemon=True).start()
signal.signal(signal.SIGUSR1, fork)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
assert {wait} == {"7" if receives else "None"}
if child == 0:
    os._exit(0)
assert child
assert wait_for(child) == 0
"""
    )
