"""What holds for every call that waits: time-outs, Ctrl-C, handlers, finalisers, collections."""

import _thread
import gc
import signal
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from operator import call

import pytest
from support import LONG
from waits import WAITS, Play, code

import nogil_sync

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
@pytest.mark.parametrize("timeout", [0, LONG])
def test_handler_takes_what_its_thread_was_granted(name, timeout):
    # The interrupted call is served while the handler runs, and then the handler wants the same.
    if name.startswith(("Event", "Cond", "WaitGroup", "SyncMap")):
        pytest.skip("serves all, or only those who waited before")
    play = Play(name)
    results = []

    def take():
        play.free()
        results.append(play.call(timeout))
        play.rest()
        results.append(play.call(0))
        play.free_soon()

    with alarm(take):
        results.append(play.call())
    assert results == [play.served, play.timed_out, play.served]


@every_wait
def test_handler_that_does_nothing_runs_all_the_time(name):
    play = Play(name)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        assert play.call(0.1) == play.timed_out
        play.free_soon(0.2)
        assert play.call() == play.served
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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


ENTERED = {
    "Mutex": ("x = Mutex()", "x", "x.locked()"),
    "RWMutex.read": ("x = RWMutex()", "x.read", "x.read.locked()"),
    "RWMutex.write": ("x = RWMutex()", "x.write", "x.write.locked()"),
    "Semaphore": ("x = Semaphore(3)", "x", "x.available() < 3"),
    "Semaphore.hold": ("x = Semaphore(3)", "x.hold(2)", "x.available() < 3"),
    "Cond": ("x = Cond()", "x", "x.locked()"),
    "Cond over a lock": ("import threading; x = Cond(threading.RLock())", "x", "x._is_owned()"),
    "Pool.use": ("x = Pool(list); x.put([])", "x.use()", "x.idle() < 1"),
}
every_entry = pytest.mark.parametrize("name", ENTERED)


def entry(name):
    setup, enter, taken = ENTERED[name]
    scope = {n: getattr(nogil_sync, n) for n in nogil_sync.__all__}
    exec(code(setup, "exec"), scope)
    context = eval(code(enter, "eval"), scope)
    return context, lambda: eval(code(taken, "eval"), scope)


@every_entry
@pytest.mark.skipif(
    nogil_sync.backend == "native" and sys.version_info < (3, 14),
    reason="nothing looks for signals between __enter__ and the body of `with` there",
)
def test_with_is_not_entered_while_an_interrupt_is_pending(name):
    # `map` calls one after the other, and handlers run only where one of them asks for them.
    context, taken = entry(name)
    with pytest.raises(KeyboardInterrupt):
        list(map(call, (_thread.interrupt_main, context.__enter__)))
    assert not taken()
    with context:
        assert taken()
    assert not taken()


@every_entry
def test_with_is_entered_after_a_handler_that_returns(name):
    context, taken = entry(name)
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(taken()))
    try:
        interrupt = partial(_thread.interrupt_main, signal.SIGALRM)
        list(map(call, (interrupt, context.__enter__)))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(seen) == 1
    assert taken()
    context.__exit__(None, None, None)
    assert not taken()
