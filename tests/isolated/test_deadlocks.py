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
import traceback
import warnings
from pathlib import Path

import pytest
from forks import in_child
from marks import needs_fork, starts_processes
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
def test_thread_takes_its_own_mutex_twice():
    detect_deadlocks("raise", after=AFTER)
    mutex = Mutex()
    with mutex, pytest.raises(DeadlockError, match="it holds that itself"):
        mutex.acquire()
    assert not mutex.locked()
    with mutex:
        pass


# Deadlocks: functions to be called in threads, how many threads wait then, in which calls, and the
# function in their stacks. Those with `Event.wait` count as every thread is asleep for ever: there
# the main thread waits in an event of ours.


def philosophers():
    forks, barrier = [Mutex(), RLock(), Mutex()], threading.Barrier(3)
    return [taking(barrier, forks[i], forks[(i + 1) % 3]) for i in range(3)]


def three_kinds():
    a, rw, semaphore, barrier = Mutex(), RWMutex(), Semaphore(1), threading.Barrier(3)
    return [
        taking(barrier, a, rw.write),
        taking(barrier, rw.write, semaphore),
        taking(barrier, semaphore, a),
    ]


def own_mutex():
    mutex = Mutex()

    def take_twice():
        with mutex, mutex:
            pass

    return [take_twice]


def channel_that_nobody_fills():
    channel = Channel()

    def consume():
        channel.recv()

    return [consume]


DEADLOCKS = [
    (philosophers, 3, ["Mutex.acquire", "RLock.acquire"], "take"),
    # Who holds the semaphore is not known: it counts as every thread is asleep for ever.
    (
        three_kinds,
        4,
        ["Mutex.acquire", "RWMutexWriter.acquire", "Semaphore.acquire", "Event.wait"],
        "take",
    ),
    (own_mutex, 1, ["Mutex.acquire"], "take_twice"),
    (channel_that_nobody_fills, 2, ["Channel.recv", "Event.wait"], "consume"),
]


def told_of(number, action):
    """Have these threads deadlock; end once that was told or raised."""
    all_threads_are_known()
    told = (Event if "Event.wait" in DEADLOCKS[number][2] else threading.Event)()
    show, hook = warnings.showwarning, threading.excepthook

    def show_and_note(*args):
        show(*args)
        told.set()

    def hook_and_note(args):
        hook(args)
        told.set()

    warnings.showwarning, threading.excepthook = show_and_note, hook_and_note
    detect_deadlocks(action, after=AFTER)
    for function in DEADLOCKS[number][0]():
        threading.Thread(target=function, daemon=True).start()
    try:
        told.wait()
    except DeadlockError:
        traceback.print_exc(file=sys.stderr)


@pytest.mark.parametrize("action", ["raise", "warn"])
@pytest.mark.parametrize("number", range(4), ids=[each[0].__name__ for each in DEADLOCKS])
def test_deadlock_is_told_with_its_calls_and_stacks(number, action):
    done = in_process(told_of, number, action)
    _, threads, calls, function = DEADLOCKS[number]
    kind = "DeadlockError" if action == "raise" else "DeadlockWarning"
    text = f"{kind}: deadlock of {threads} thread{'s' * (threads > 1)}:"
    assert done.stderr.count(text) == 1, done.stderr
    for call in calls:
        assert f" waits in {call} of " in done.stderr
    shown = re.findall(rf"in (?:.*\.)?{function}$", done.stderr, re.MULTILINE)
    assert len(shown) >= threads - ("Event.wait" in calls)


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
def test_locks_in_tasks_of_a_group():
    detect_deadlocks("raise", after=AFTER)
    a, b, barrier = Mutex(), Mutex(), threading.Barrier(2)
    with pytest.raises(ExceptionGroup) as caught, TaskGroup() as group:
        group.go(taking(barrier, a, b))
        group.go(taking(barrier, b, a))
    assert caught.group_contains(DeadlockError)
    assert len(caught.value.exceptions) == 1


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
def test_cond_that_takes_its_lock_again_warns_and_does_not_raise():
    warned, errors = [], []
    warnings.showwarning = lambda message, *_: warned.append(str(message))
    threading.excepthook = errors.append
    cond, outer = Cond(), Mutex()

    def wait():
        outer.acquire()
        with cond:
            cond.wait()

    def nest():
        with cond, outer:
            pass

    def waited_in(operation):
        return eventually(lambda: any(each.operation == operation for each in waits()))

    threads = [threading.Thread(target=each) for each in (wait, nest)]
    for thread, operation in zip(threads, ("Cond.wait", "Mutex.acquire"), strict=True):
        thread.start()
        assert waited_in(operation)
    detect_deadlocks("raise", after=AFTER)  # of no concern to the second wait: it has begun
    cond.notify()
    assert eventually(lambda: warned)
    outer.release()
    for thread in threads:
        thread.join()
    assert [each.partition(":")[0] for each in warned] == ["deadlock of 2 threads"]
    assert "in nest" in warned[0]
    assert errors == []
    assert not cond.locked()


@in_own_process
def test_names_that_raise_hide_no_deadlock():
    class Name(str):
        __slots__ = ()

        def raise_(self, *_):
            raise ZeroDivisionError

        __str__ = __repr__ = __format__ = __len__ = __hash__ = raise_

    class Nameless(threading.Thread):
        @property
        def name(self):
            raise ZeroDivisionError

        @name.setter
        def name(self, _):
            pass

    class Hostile(Mutex):
        __repr__ = __hash__ = __eq__ = Name.raise_

    errors = []

    def take_twice():
        with pytest.raises(DeadlockError, match="the Hostile 'twice', for") as caught, lock:
            lock.acquire()
        errors.append(caught.value)

    detect_deadlocks("raise", after=AFTER)
    lock = Hostile()
    label(lock, Name("twice"))
    thread = Nameless(target=take_twice)
    thread.start()
    thread.join()
    assert len(errors) == 1


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


@needs_fork
@in_own_process
def test_child_of_a_fork_has_no_waits_and_detects_its_own():
    detect_deadlocks("raise", after=AFTER)
    held, event = Mutex(), Event()
    held.acquire()
    threads = [threading.Thread(target=each) for each in (held.acquire, event.wait)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(waits()) == 2)

    def child():
        assert waits() == []
        with pytest.raises(DeadlockError):
            held.acquire()

    in_child(child)
    held.release()
    event.set()
    for thread in threads:
        thread.join()


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


def circle_through_a_lock_that_others_release():
    a, b = Mutex(), Mutex()
    a.acquire()
    thread = threading.Thread(target=a.release)
    thread.start()
    thread.join()
    barrier = threading.Barrier(3)

    def take(first, second):
        first.acquire()
        barrier.wait()
        second.acquire()

    def let_go():
        barrier.wait()
        time.sleep(LONG)
        a.release()
        assert eventually(lambda: not waits() or waits()[0].obj is not a)
        b.release()

    assert not in_threads(lambda: take(a, b), lambda: take(b, a), let_go)


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


def event_set_by_a_signal_handler():
    if not hasattr(signal, "setitimer"):
        return
    event = Event()
    signal.signal(signal.SIGALRM, lambda *_: event.set())
    signal.setitimer(signal.ITIMER_REAL, LONG)
    event.wait()


def served_by_a_thread_whose_wait_times_out():
    channel = Channel()

    def serve():
        Event().wait(LONG)
        channel.send(1)

    threading.Thread(target=serve).start()
    assert channel.recv() == 1


def joined_with_a_timeout():
    event = Event()

    def serve():
        threading.current_thread().other.join(LONG)
        event.set()

    threads = [threading.Thread(target=each) for each in (serve, event.wait)]
    threads[0].other = threads[1]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()


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
    circle_through_a_lock_that_others_release,
    with_a_timeout,
    released_by_a_signal_handler,
    event_set_by_a_signal_handler,
    served_by_a_thread_whose_wait_times_out,
    joined_with_a_timeout,
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
    all_threads_are_known()  # else no wait counts as one that nobody can end
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
