"""Histories of calls of threads and of tasks on one object: awaited waits among blocking ones.

Each thread has an event loop of its own, in which it awaits some of its calls; the others block. A
call is specified in the same way, however it waits: the specifications are those of the other
files. None is cancelled: an item that is taken back from a cancelled task has been away for a
moment, in which others may have overtaken it (test_asyncio_lines.py has cancellation at random).
"""

import asyncio
import random
import threading

import pytest
from histories.test_linearizability_channel import ender, meetings, queue, rendezvous, worker
from linearizability import assert_rejected, verify
from marks import starts_threads

from nogil_sync import Channel, ChannelClosed

pytestmark = starts_threads


class Own:
    """A loop that is closed when nothing refers to it any more."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()

    def __del__(self):
        self.loop.close()


_thread = threading.local()


def awaited(make):
    """The result of a coroutine, in the loop of this thread."""
    if not hasattr(_thread, "own"):
        _thread.own = Own()
    return _thread.own.loop.run_until_complete(make())


class Mixed(Channel):
    """A channel whose calls block or are awaited, at random."""

    def send(self, value, timeout=None):
        if random.randrange(3) == 0:
            return Channel.send(self, value, timeout)
        return awaited(lambda: self.send_async(value, timeout))

    def recv(self, timeout=None):
        if random.randrange(3) == 0:
            return Channel.recv(self, timeout)
        return awaited(lambda: self.recv_async(timeout))

    def __next__(self):
        if random.randrange(2):
            return Channel.__next__(self)
        try:
            return awaited(lambda: self.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_channel_of_threads_and_tasks_is_linearizable(capacity):
    verify(
        lambda _: Mixed(capacity),
        worker,
        ((), False),
        queue(capacity),
        lead=ender,
        threads=3,
        batch=50,
    )


def test_rendezvous_of_threads_and_tasks_is_linearizable():
    how = {"views": meetings, "lead": ender, "threads": 3, "batch": 50}
    verify(lambda _: Mixed(), worker, False, rendezvous, **how)


# Wrong ones


class Eating(Mixed):
    """Wrong: a receive that times out keeps the item that it was given in that moment."""

    def recv(self, timeout=None):
        if timeout is None:
            return Mixed.recv(self)
        try:
            item = Channel.recv(self, 0)
        except (TimeoutError, ChannelClosed):
            raise
        if random.randrange(2):
            raise TimeoutError
        return item


@pytest.mark.parametrize("cls", [Eating])
def test_wrong_channels_are_caught(cls):
    assert_rejected(
        lambda _: cls(2), worker, ((), False), queue(2), lead=ender, threads=3, batch=50
    )
