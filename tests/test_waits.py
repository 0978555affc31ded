"""What holds for every call that waits: time-outs, Ctrl-C, handlers, finalisers, collections."""

import _thread
import gc
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from support import LONG
from waits import WAITS, Play

every_wait = pytest.mark.parametrize("name", WAITS)
pytestmark = pytest.mark.thread_unsafe(reason="starts threads and sets signal handlers")


@contextmanager
def alarm(handler, seconds=0.04):
    """Run the handler once, `seconds` from now, in the main thread."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def still_waits_and_is_served(play):
    """The object is as if nobody had ever waited."""
    assert play.call(0.01) == play.timed_out
    play.free_soon()
    assert play.call() == play.served


@every_wait
@pytest.mark.parametrize("timeout", [0, 0.001, 0.1])
def test_time_out(name, timeout):
    play = Play(name)
    before = play.probe()
    begin = time.monotonic()
    assert play.call(timeout) == play.timed_out
    assert timeout - 0.001 <= time.monotonic() - begin < timeout + LONG / 10
    assert play.probe() == before
    still_waits_and_is_served(play)


@every_wait
def test_served_while_it_waits(name):
    play = Play(name)
    for turn in range(3):
        if turn:
            play.rest()  # and not after the last, as it may start a thread that waits
        timer = play.free_soon(0.02)
        assert play.call() == play.served
        timer.join()


@every_wait
def test_served_in_another_thread(name):
    if name.startswith("Cond"):
        pytest.skip("the thread that waits holds the lock")
    play = Play(name)
    results = []
    thread = threading.Thread(target=lambda: results.append(play.call()), daemon=True)
    thread.start()
    time.sleep(0.05)
    assert not results
    gc.collect()  # stops all threads, so it would hang if one of them never came to a stop
    play.free()
    thread.join(LONG)
    assert results == [play.served]


@every_wait
def test_collections_go_on_in_other_threads(name):
    play = Play(name)
    collected = []

    def collect():
        for _ in range(3):
            gc.collect()
        collected.append(1)
        play.free()

    thread = threading.Timer(0.02, collect)
    thread.start()
    assert play.call() == play.served
    assert collected
    thread.join()


@every_wait
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_interrupted_by_a_signal(name, timeout):
    if timeout is None and name.startswith(("Mutex", "RWMutex")):
        timeout = -1
    play = Play(name)
    before = play.probe()

    def interrupt():
        raise KeyboardInterrupt

    with alarm(interrupt), pytest.raises(KeyboardInterrupt):
        play.call(timeout)
    assert play.probe() == before
    still_waits_and_is_served(play)


@every_wait
def test_interrupted_without_a_signal(name):
    # _thread.interrupt_main() wakes nobody.
    play = Play(name)
    before = play.probe()
    timer = threading.Timer(0.05, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        play.call()
    timer.join()
    assert play.probe() == before
    still_waits_and_is_served(play)


@every_wait
def test_interrupted_in_the_moment_it_is_served(name):
    # Either outcome is right, and the interrupt may come right after the call; but the object is
    # either served or as before.
    other = Play(name)
    if not name.startswith("Cond"):
        other.free()
        assert other.call() == other.served
    after_it = other.probe()
    for _ in range(20):
        play, begun = Play(name), []

        def serve_and_interrupt(play=play, begun=begun):
            while not begun:  # an interrupt in Thread.start would be another test
                time.sleep(0.001)
            time.sleep(0.004)
            play.free()
            _thread.interrupt_main()

        thread = threading.Thread(target=serve_and_interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            begun.append(True)
            play.call()
            thread.join()
            time.sleep(LONG)
        thread.join()
        if not name.startswith("Cond"):
            assert play.probe() == after_it or play.call(0) == play.served
        play.rest()
        still_waits_and_is_served(play)


@every_wait
def test_served_in_the_moment_a_handler_runs(name):
    # The handler does nothing, so what it was served is not lost with the interruption.
    me = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        for _ in range(30):
            play = Play(name)

            def interrupt_and_serve(play=play):
                signal.pthread_kill(me, signal.SIGUSR1)
                play.free()

            timer = threading.Timer(0.003, interrupt_and_serve)
            timer.start()
            assert play.call(LONG) == play.served
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


@every_wait
def test_a_handler_serves_the_waiter_it_interrupts(name):
    play = Play(name)
    with alarm(play.free):
        assert play.call() == play.served


@every_wait
def test_a_handler_waits_for_the_same(name):
    play = Play(name)
    results = []

    def wait_too():
        if name.startswith("Cond"):
            play.scope["x"].acquire()
        results.append(play.call(0.02))
        if name.startswith("Cond"):
            play.scope["x"].release()
        play.free_soon()

    with alarm(wait_too):
        results.append(play.call())
    assert results == [play.timed_out, play.served]


@every_wait
def test_a_handler_is_served_in_place_of_its_thread(name):
    if name.startswith(("Event", "Cond", "WaitGroup")):
        pytest.skip("serves all, or only those who waited before")
    play = Play(name)
    results = []

    def wait_too():
        timer = play.free_soon(0.02)
        results.append(play.call())
        timer.join()
        play.rest()
        play.free_soon(0.02)

    with alarm(wait_too):
        results.append(play.call())
    assert results == [play.served, play.served]


@every_wait
def test_a_finaliser_serves_the_waiter_it_interrupts(name):
    play = Play(name)

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            play.free()

    def collect():
        Last()
        gc.collect()

    with alarm(collect):
        assert play.call() == play.served


@every_wait
def test_many_who_give_up(name):
    if name.startswith("Cond"):
        pytest.skip("the thread that waits holds the lock")
    play = Play(name)
    before = play.probe()
    threads = [
        threading.Thread(target=lambda: [play.call(0.002) for _ in range(20)]) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert play.probe() == before
    still_waits_and_is_served(play)
