"""Event: threading.Event's interface, wake-ups that are never lost, and interrupts."""

import pytest
from marks import starts_threads
from support import TIMEOUT, run_threads

from nogil_sync import Event


def test_set_and_clear_change_is_set():
    e = Event()
    assert e.is_set() is False
    assert e.set() is None
    assert e.is_set() is True
    assert e.set() is None
    assert e.is_set() is True
    assert e.clear() is None
    assert e.clear() is None
    assert e.is_set() is False


def test_wrong_numbers_of_arguments_raise():
    e = Event()
    for call in (
        lambda: Event(1),
        lambda: e.set(1),
        lambda: e.clear(1),
        lambda: e.is_set(1),
        lambda: e.wait(1, 2),
        lambda: e.wait(seconds=1),
    ):
        with pytest.raises(TypeError):
            call()


def test_at_fork_reinit_frees_it():
    e = Event()
    e._at_fork_reinit()
    assert not e.is_set()
    e.set()
    e._at_fork_reinit()
    assert e.wait(0)


@starts_threads
def test_two_threads_take_turns():
    ping, pong = Event(), Event()
    n = 300

    def left():
        for _ in range(n):
            ping.set()
            assert pong.wait(TIMEOUT)
            pong.clear()

    def right():
        for _ in range(n):
            assert ping.wait(TIMEOUT)
            ping.clear()
            pong.set()

    run_threads(left, right)
