"""Deadlocks are detected, and nothing else is taken for one; each program in its own process."""

import _thread
import faulthandler
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from marks import starts_processes
from processes import in_own_process, in_process
from support import NATIVE, eventually

from nogil_sync import (
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    RLock,
    RWMutex,
    Semaphore,
    SyncMap,
    TaskGroup,
    WaitGroup,
    select,
)
from nogil_sync.diagnostics import (
    DeadlockError,
    DeadlockWarning,
    detect_deadlocks,
    label,
    register,
    waits,
)

pytestmark = starts_processes

AFTER = 0.2


def all_threads_are_known():
    """End the thread of the watchdog that `processes` starts, of which Python does not know."""
    faulthandler.cancel_dump_traceback_later()


def in_threads(*functions):
    """Call each in a thread of its own; the exceptions of those that raised."""
    errors = []

    def run(function):
        try:
            function()
        except DeadlockError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,), name=each.__name__) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def taking(barrier, *locks):
    """A function that takes the first lock, waits for the others to have theirs, goes on."""

    def take():
        with locks[0]:
            barrier.wait()
            for lock in locks[1:]:
                with lock:
                    pass

    return take


# Deadlocks


@in_own_process
def test_two_locks_in_opposite_order():
    detect_deadlocks("raise", after=AFTER)
    a, b = Mutex(), Mutex()
    label(a, "accounts")
    barrier = threading.Barrier(2)
    (error,) = in_threads(taking(barrier, a, b), taking(barrier, b, a))
    assert "'accounts'" in str(error)
    assert str(error).count("in take") == 2
    assert {each.operation for each in error.waits} == {"Mutex.acquire"}
    assert {each.thread for each in error.waits} == {each.holders[0] for each in error.waits}
    assert not a.locked()
    assert not b.locked()


@in_own_process
def test_three_philosophers():
    detect_deadlocks("raise", after=AFTER)
    forks = [Mutex(), RLock(), Mutex()]
    barrier = threading.Barrier(3)
    errors = in_threads(*(taking(barrier, forks[i], forks[(i + 1) % 3]) for i in range(3)))
    assert len(errors) == 1
    assert len(errors[0].waits) == 3
    assert not any(fork.locked() for fork in forks)


@in_own_process
def test_mutex_against_rwmutex_against_semaphore():
    # Who holds the semaphore is not known: it counts as every thread is asleep for ever.
    all_threads_are_known()
    detect_deadlocks("raise", after=AFTER)
    a, rw, semaphore = Mutex(), RWMutex(), Semaphore(1)
    barrier = threading.Barrier(3)
    errors = in_threads(
        taking(barrier, a, rw.write),
        taking(barrier, rw.write, semaphore),
        taking(barrier, semaphore, a),
    )
    assert errors
    assert {each.operation for each in errors[0].waits} == {
        "Mutex.acquire",
        "RWMutexWriter.acquire",
        "Semaphore.acquire",
    }


@in_own_process
def test_thread_takes_its_own_mutex_twice():
    detect_deadlocks("raise", after=AFTER)
    mutex = Mutex()
    with mutex, pytest.raises(DeadlockError, match="it holds that itself"):
        mutex.acquire()
    assert not mutex.locked()
    with mutex:
        pass


@in_own_process
def test_consumer_of_a_channel_that_nobody_fills():
    all_threads_are_known()
    detect_deadlocks("raise", after=AFTER)
    with pytest.raises(DeadlockError, match=r"Channel\.recv"):
        Channel().recv()


@in_own_process
def test_consumers_of_a_channel_whose_producer_has_failed():
    all_threads_are_known()
    detect_deadlocks("raise", after=AFTER)
    channel, group = Channel(), WaitGroup()
    errors = in_threads(channel.recv, channel.recv, Event().wait, lambda: select(Channel(), group))
    assert errors


@in_own_process
def test_group_whose_tasks_wait_for_each_other_is_cancelled_by_the_error():
    all_threads_are_known()
    detect_deadlocks("raise", after=AFTER)
    one, two = Channel(), Channel()
    with pytest.raises(ExceptionGroup) as caught, TaskGroup() as group:
        group.go(one.recv)
        group.go(two.recv)
    assert caught.group_contains(DeadlockError)


@in_own_process
def test_once_against_a_mutex():
    detect_deadlocks("raise", after=AFTER)
    once, mutex = Once(), Mutex()
    barrier = threading.Barrier(2)

    def compute():
        barrier.wait()
        with mutex:
            return 1

    def hold():
        with mutex:
            barrier.wait()
            once.do(compute)

    errors = in_threads(lambda: once.do(compute), hold)
    assert errors  # if the function raised it, all callers of `do` do
    assert {len(each.waits) for each in errors} == {2}


@in_own_process
def test_flight_against_a_mutex():
    detect_deadlocks("raise", after=AFTER)
    cache, mutex = SyncMap(), Mutex()
    barrier = threading.Barrier(2)

    def compute():
        barrier.wait()
        with mutex:
            return 1

    def hold():
        with mutex:
            barrier.wait()
            cache.load_or_compute("key", compute)

    errors = in_threads(lambda: cache.load_or_compute("key", compute), hold)
    assert errors
    assert {len(each.waits) for each in errors} == {2}


@in_own_process
def test_deadlock_beside_a_thread_that_runs():
    detect_deadlocks("raise", after=AFTER)
    over = []
    runner = threading.Thread(target=lambda: eventually(lambda: bool(over), 60))
    runner.start()
    a, b = Mutex(), Mutex()
    barrier = threading.Barrier(2)
    (error,) = in_threads(taking(barrier, a, b), taking(barrier, b, a))
    over.append(1)
    runner.join()
    assert len(error.waits) == 2


def deadlock_of_two():
    a, b = Mutex(), Mutex()
    barrier = threading.Barrier(2)
    for lock, other in ((a, b), (b, a)):
        threading.Thread(target=taking(barrier, lock, other), daemon=True).start()


def deadlocked(seconds):
    """Two threads deadlock; wait until that was told or raised, at most so many seconds."""
    told = []
    show = warnings.showwarning

    def note(*args):
        show(*args)
        told.append(args)

    warnings.showwarning = note
    deadlock_of_two()
    eventually(lambda: told or threading.active_count() == 1, seconds)
    time.sleep(0.3)  # for one that is told twice


@pytest.mark.parametrize(
    ("options", "env"),
    [((), {"NOGIL_SYNC_DEADLOCK": "warn"}), (("-X", "dev"), {})],
    ids=["variable", "development mode"],
)
def test_warning_says_who_waits_and_shows_the_stacks(options, env):
    done = in_process(deadlocked, 40, options=options, env=env)
    assert done.stderr.count("DeadlockWarning: deadlock of 2 threads") == 1, done.stderr
    assert done.stderr.count("in take") >= 2


def test_variable_has_deadlocks_raise():
    done = in_process(deadlocked, 40, env={"NOGIL_SYNC_DEADLOCK": "raise"})
    assert done.stderr.count("DeadlockError: deadlock of 2 threads") == 1, done.stderr


def test_nothing_is_detected_unless_asked():
    for env in ({}, {"NOGIL_SYNC_DEADLOCK": "off", "PYTHONDEVMODE": "1"}):
        assert "eadlock" not in in_process(deadlocked, 1.6, env=env).stderr


def test_wrong_value_of_the_variable_is_an_error():
    done = in_process(deadlocked, 0, env={"NOGIL_SYNC_DEADLOCK": "yes"}, check=False)
    assert done.returncode != 0
    assert "NOGIL_SYNC_DEADLOCK must be 'raise', 'warn' or 'off', not 'yes'" in done.stderr


# No deadlocks

LONG = 0.5


def handed_over_by_a_third_thread():
    mutex, other = Mutex(), Mutex()
    mutex.acquire()
    thread = threading.Thread(target=mutex.release)  # from here on any thread may release it
    thread.start()
    thread.join()
    mutex.acquire()
    with other:
        threading.Timer(LONG, mutex.release).start()
        mutex.acquire()


def with_a_timeout():
    a, b = Mutex(), Mutex()
    barrier = threading.Barrier(2)

    def take(first, second, timeout):
        with first:
            barrier.wait()
            if second.acquire(timeout=timeout):
                second.release()

    assert not in_threads(lambda: take(a, b, LONG), lambda: take(b, a, -1))


def released_by_a_signal_handler():
    if not hasattr(signal, "setitimer"):
        return
    mutex = Mutex()
    signal.signal(signal.SIGALRM, lambda *_: mutex.release())
    signal.setitimer(signal.ITIMER_REAL, LONG)
    mutex.acquire()
    mutex.acquire()


def condition_with_a_spare_thread():
    cond, state = Cond(), []

    def wait():
        with cond:
            cond.wait_for(lambda: bool(state))

    def spare():
        time.sleep(LONG)
        with cond:
            state.append(1)
            cond.notify_all()

    assert not in_threads(wait, wait, spare)


def channel_served_by_a_thread_that_sleeps_elsewhere():
    channel = Channel()
    threading.Timer(LONG, channel.send, args=(1,)).start()
    assert channel.recv() == 1


def semaphore_as_a_signal():
    semaphore = Semaphore(0, bounded=False)
    threading.Timer(LONG, semaphore.release).start()
    semaphore.acquire()


def holder_that_works_for_long():
    mutex = Mutex()

    def work():
        with mutex:
            time.sleep(LONG)

    assert not in_threads(work, work, work)


def readers_and_writers_in_turn():
    rw = RWMutex()

    def read():
        with rw.read:
            time.sleep(LONG / 2)

    def write():
        with rw.write:
            time.sleep(LONG / 2)

    assert not in_threads(read, write, read, write)


def group_that_is_cancelled():
    try:
        with TaskGroup(timeout=LONG) as group:
            group.go(Channel().recv)
            group.go(Event().wait)
            group.go(lambda: select(Channel()))
    except TimeoutError:
        pass


def loop_of_asyncio_serves():
    import asyncio

    channel = Channel()

    async def serve():
        await asyncio.sleep(LONG)
        await channel.send_async(1)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert channel.recv() == 1
    thread.join()


def once_that_takes_long():
    once = Once()
    assert not in_threads(*[lambda: once.do(time.sleep, LONG)] * 3)


def pipe_that_wakes_a_thread():
    source, sink = os.pipe()
    event = Event()

    def wait_for_io():
        os.read(source, 1)
        event.set()

    threading.Thread(target=wait_for_io).start()
    threading.Timer(LONG, os.write, args=(sink, b"x")).start()
    event.wait()


PROGRAMS = [
    handed_over_by_a_third_thread,
    with_a_timeout,
    released_by_a_signal_handler,
    condition_with_a_spare_thread,
    channel_served_by_a_thread_that_sleeps_elsewhere,
    semaphore_as_a_signal,
    holder_that_works_for_long,
    readers_and_writers_in_turn,
    group_that_is_cancelled,
    loop_of_asyncio_serves,
    once_that_takes_long,
    pipe_that_wakes_a_thread,
]


@pytest.mark.parametrize("number", range(len(PROGRAMS)), ids=[each.__name__ for each in PROGRAMS])
@in_own_process
def test_no_deadlock(number):
    warnings.simplefilter("error", DeadlockWarning)
    detect_deadlocks("raise", after=0.02)
    PROGRAMS[number]()


@in_own_process
def test_busy_locks_raise_no_alarm():
    """Waits are short, detection looks often, and the locks change hands all the time."""
    detect_deadlocks("raise", after=0.001)
    locks = [Mutex(), RLock(), RWMutex().write, Mutex()]
    end = time.monotonic() + 2

    def fight(start):
        while time.monotonic() < end:
            with locks[start]:
                for lock in locks[start + 1 :]:
                    with lock:
                        time.sleep(0.002)

    assert not in_threads(*[lambda i=i: fight(i % 3) for i in range(6)])


@in_own_process
def test_wait_without_any_frame_of_python_goes_on():
    """The call is all that the thread runs, so there is no frame that could be looked at."""
    detect_deadlocks("raise", after=0.02)
    failed, mutex, event = [], Mutex(), Event()
    sys.unraisablehook = failed.append
    mutex.acquire()
    _thread.start_new_thread(mutex.acquire, ())
    _thread.start_new_thread(event.wait, ())
    assert eventually(lambda: len(waits()) == 2)
    time.sleep(0.3)  # for some looks
    assert len(waits()) == 2, failed
    mutex.release()
    event.set()
    assert eventually(lambda: not waits() and mutex.locked())
    assert not failed


@pytest.mark.skipif(not NATIVE, reason="there the wait itself needs room")
@in_own_process
def test_no_room_on_the_stack_to_look_ends_no_wait():
    detect_deadlocks("raise", after=0.02)
    event, reached, failed = Event(), [], []

    def descend(depth):
        if depth:
            return descend(depth - 1)
        reached.append(depth)
        return event.wait()

    def run(depth):
        before = len(reached)
        try:
            descend(depth)
        except RecursionError:
            if len(reached) > before:
                failed.append(depth)

    limit = sys.getrecursionlimit()
    for depth in range(limit - 40, limit):
        count, thread = len(reached), threading.Thread(target=run, args=(depth,), daemon=True)
        thread.start()
        assert eventually(lambda thread=thread: waits() or not thread.is_alive())
        time.sleep(0.05)  # for some looks
        event.set()
        thread.join()
        event.clear()
        assert failed == []
        if len(reached) == count:
            break
    assert reached


# A signal


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals on this system")
def test_signal_that_cannot_be_registered_is_left_as_it_was():
    def crash():
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        before = len(list(Path("/dev/fd").iterdir()))
        with pytest.raises(RuntimeError, match="cannot be registered"):
            register(signal.SIGSEGV)
        assert len(list(Path("/dev/fd").iterdir())) == before
        os.kill(os.getpid(), signal.SIGSEGV)
        print("went on")

    done = in_process(crash, check=False)
    assert done.returncode == -signal.SIGSEGV, done.stdout + done.stderr


def stuck_for_ever():
    import ctypes

    register(signal.SIGUSR1)
    mutex = Mutex()
    mutex.acquire()
    for _ in range(2):
        threading.Thread(target=mutex.acquire, daemon=True).start()
    assert eventually(lambda: len(waits()) == 2)
    # In C, where no handler of Python's runs, and in a call that no signal ends.
    library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_init(lock, None)
    library.pthread_mutex_lock(lock)
    print("stuck", flush=True)
    library.pthread_mutex_lock(lock)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system")
def test_signal_shows_who_waits_though_the_main_thread_is_in_c():
    from processes import HELPERS, LIMIT, PRELUDE, program

    source = PRELUDE.format(limit=LIMIT, helpers=HELPERS) + program(stuck_for_ever)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "stuck\n", process.stderr.read()
        process.send_signal(signal.SIGUSR1)
        text = ""
        # The threading backend may write what `faulthandler` shows in several pieces.
        while not ("in <module>" in text and text.endswith("(That is all.)\n")):
            line = process.stderr.readline()
            assert line, text
            text += line
    finally:
        process.kill()
        process.communicate()
    assert len(re.findall("waits in Mutex.acquire of the .*held by", text)) >= 2, text
