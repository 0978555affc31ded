"""Guards, the locks under which Python code changes its objects: see _common/guard.py."""

import gc
import threading

import pytest
from forks import in_child
from marks import starts_threads
from processes import in_own_process
from support import TIMEOUT, started

from nogil_sync._backend import guard_of

pytestmark = starts_threads


def take(guard):
    guard.held = True


def release(guard):
    del guard.held


def pass_through(guard):
    guard.held = True
    del guard.held
    return "through"


def test_thread_waits_for_the_guard_of_another():
    guard = guard_of(object())
    take(guard)
    thread, result = started(pass_through, guard)
    assert thread.is_alive()
    assert result == []
    release(guard)
    thread.join(TIMEOUT)
    assert result == ["through"]


def test_owner_takes_the_guard_again_and_releases_it_as_often():
    guard = guard_of(object())
    for _ in range(3):
        take(guard)
    thread, result = started(pass_through, guard)
    for _ in range(2):
        release(guard)
    thread.join(0.1)
    assert result == []
    release(guard)
    thread.join(TIMEOUT)
    assert result == ["through"]
    assert pass_through(guard) == "through"


def test_only_the_owner_releases_the_guard():
    guard = guard_of(object())
    with pytest.raises(RuntimeError):
        release(guard)
    take(guard)
    errors = []

    def other():
        try:
            release(guard)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(TIMEOUT)
    assert len(errors) == 1
    release(guard)
    with pytest.raises(RuntimeError):
        release(guard)
    assert pass_through(guard) == "through"


def test_threads_waiting_for_a_guard_do_not_block_the_collector():
    guard = guard_of(object())
    take(guard)
    waiting = [started(pass_through, guard) for _ in range(3)]
    gc.collect()
    release(guard)
    for thread, result in waiting:
        thread.join(TIMEOUT)
        assert result == ["through"]


def test_updates_under_a_guard_are_not_lost():
    guard = guard_of(object())
    counts = {"all": 0}

    def work():
        for _ in range(5000):
            guard.held = True
            try:
                counts["all"] += 1
            finally:
                del guard.held

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    assert counts["all"] == 4 * 5000


@in_own_process
def test_guard_of_a_thread_that_is_gone_is_free_in_a_forked_child():
    thing = object()
    guard = guard_of(thing)
    taken, over = threading.Event(), threading.Event()

    def hold():
        guard.held = True
        taken.set()
        over.wait(60)
        del guard.held

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)

    def child():
        for _ in range(2):
            guard.held = True
            del guard.held

    for _ in range(3):
        in_child(child)
    over.set()
    thread.join()
    child()
