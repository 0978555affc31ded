"""Channel: signal handlers that use the channel."""

import threading

import pytest
from marks import sets_handlers
from support import (
    NATIVE,
    TIMEOUT,
    eventually,
    for_a_while,
    started,
)

from nogil_sync import Channel, ChannelClosed

# Handlers


@sets_handlers
@pytest.mark.parametrize("capacity", [0, 1])
def test_handler_uses_channel_that_its_thread_waits_for(interrupt, capacity):
    c = Channel(capacity)
    log = []

    def handler():
        log.append(c.try_recv("empty"))
        if capacity:
            c.send("mine")
            log.append(c.recv())
            c.send("yours")
        else:
            log.append(c.try_send("nobody takes it"))
            started(c.send, "yours")

    interrupt(handler, 0.05)
    assert c.recv(TIMEOUT) == "yours"
    assert log == ["empty", "mine" if capacity else False]
    assert len(c) == 0


@sets_handlers
def test_handler_receives_to_make_room_for_its_threads_send(interrupt):
    c = Channel(1)
    c.send(0)
    log = []
    handled = threading.Event()

    def handler():
        log.append(c.recv())
        c.send("handler's")
        handled.set()

    def receive():
        assert handled.wait(TIMEOUT)
        log.append(c.recv())

    interrupt(handler, 0.05)
    thread, _ = started(receive)
    c.send("last", TIMEOUT)
    thread.join(TIMEOUT)
    assert log == [0, "handler's"]
    assert c.recv() == "last"


@sets_handlers
@pytest.mark.parametrize("receives", [False, True])
def test_handler_takes_the_item_and_its_threads_recv_waits_on(interrupt, receives):
    c = Channel()
    log = []

    def receive_twice():
        for _ in range(2):
            log.append(c.recv(TIMEOUT))

    def handler():
        if receives:
            started(c.send, "for the handler")
            log.append(c.recv(TIMEOUT))
            started(c.send, "for the call")
        else:
            threading.Timer(0.1, receive_twice).start()
            c.send("from the handler", TIMEOUT)

    interrupt(handler, 0.05)
    if receives:
        log.append(c.recv(TIMEOUT))
        assert log == ["for the handler", "for the call"]
    else:
        c.send("from the call", TIMEOUT)
        assert eventually(lambda: len(log) == 2)
        # In the threading backend the handler overtakes the call only once it sends.
        assert (log if NATIVE else sorted(log, reverse=True)) == [
            "from the handler",
            "from the call",
        ]


@sets_handlers
@pytest.mark.parametrize("receives", [False, True])
def test_handler_closes_channel_that_its_thread_waits_for(interrupt, receives):
    c = Channel(0)
    interrupt(c.close, 0.05)
    with pytest.raises(ChannelClosed):
        if receives:
            c.recv(TIMEOUT)
        else:
            c.send(1, TIMEOUT)
    assert c.closed()


@sets_handlers
def test_handler_closes_channel_that_its_thread_iterates_over(interrupt):
    c = Channel(3)
    c.send(1)

    def handler():
        c.send(2)
        c.close()

    interrupt(handler, 0.1)
    assert list(c) == [1, 2]


@sets_handlers
@pytest.mark.parametrize("capacity", [0, 1, 3])
def test_handlers_use_the_channel_during_its_operations(interrupt, capacity):
    c = Channel(capacity)
    stop = threading.Event()
    received = []
    from_handlers = []

    def receive():
        received.extend(c)

    def handler():
        try:
            c.send(("handler", len(from_handlers)), 0.002)
        except TimeoutError:
            return
        from_handlers.append(("handler", len(from_handlers)))

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    halt = interrupt(handler, 0.005, 0.005)
    sent = []
    for n in for_a_while(0.7):
        c.send(("main", n), TIMEOUT)
        sent.append(("main", n))
    halt()
    stop.set()
    c.close()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert [item for item in received if item[0] == "main"] == sent
    assert [item for item in received if item[0] == "handler"] == from_handlers
