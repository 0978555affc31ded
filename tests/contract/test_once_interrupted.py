"""once: Ctrl-C, signal handlers and forks during a run or a wait."""

import faulthandler
import gc
import os
import signal
import threading
import time

import pytest
from ctrl_c import INTERRUPTS, interrupt_call
from forks import exit_code_of, in_child
from marks import needs_fork, sets_handlers, starts_processes, starts_threads
from onces import Counted, ended, every, settling, start
from processes import in_own_process
from support import TIMEOUT, eventually, run_threads, settle

from nogil_sync import Once, once, once_property

# Interrupts


class FirstRunHangs:
    """A function whose first run waits for `go`, and the three kinds of object that run it once."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.runs = 0
        self.function, self.object = once(self.work), Once()

    def work(self):
        self.runs += 1
        self.begun.set()
        if self.runs == 1:
            self.go.wait()
        return 10**9

    @once_property
    def property(self):
        return self.work()


CALLS = {
    "function": lambda it: it.function(),
    "object": lambda it: it.object.do(it.work),
    "property": lambda it: it.property,
}


kinds = pytest.mark.parametrize("kind", CALLS)


@starts_processes
@kinds
@in_own_process
def test_interrupted_first_run_leaves_it_unrun(kind):
    it = FirstRunHangs()

    def call():
        return CALLS[kind](it)

    def wait_until_it_sleeps():
        # An interrupt that comes right before the sleep would not wake it.
        it.begun.wait()
        time.sleep(0.3)

    interrupt_call(call, before=wait_until_it_sleeps)
    assert not it.function.done()
    assert not it.object.done()
    assert call() == 10**9
    assert it.runs == 2


@starts_processes
@kinds
@pytest.mark.parametrize("way", INTERRUPTS)
@in_own_process
def test_ctrl_c_ends_wait_for_run_of_another_thread(kind, way):
    it = FirstRunHangs()

    def call():
        return CALLS[kind](it)

    others = [threading.Thread(target=call, daemon=True) for _ in range(3)]
    for other in others:
        other.start()
    it.begun.wait()
    interrupt_call(call, way)
    it.go.set()
    for other in others:
        other.join(10)
    assert call() == 10**9
    assert it.runs == 1


@sets_handlers
@every
def test_handler_calls_function_that_its_thread_runs(make, interrupt):
    log = []

    def handler():
        try:
            call()
        except RuntimeError as error:
            log.append(str(error))

    def act():
        assert eventually(lambda: bool(log))
        return 5

    call = make(act)
    interrupt(handler, 0.05)
    assert call() == 5
    assert "recursive" in log[0]


@sets_handlers
@every
def test_handler_calls_function_that_its_thread_waits_for(make, interrupt):
    fn = Counted(held=True)
    call = make(fn)
    other = start(call)
    assert fn.begun.wait(TIMEOUT)
    log = []
    interrupt(lambda: (threading.Timer(0.1, fn.go.set).start(), log.append(call())), 0.05)
    result = call()
    assert ended(other) == [(result, None)]
    assert log == [result]
    assert fn.runs == 1


@sets_handlers
@settling
def test_handler_runs_another_once_during_a_wait(make, interrupt):
    fn = Counted(held=True)
    call = make(fn)
    other = start(call)
    assert fn.begun.wait(TIMEOUT)
    quick = make(lambda: 3)
    log = []
    interrupt(lambda: (log.append(quick()), fn.go.set()), 0.05)
    call()
    ended(other)
    assert log == [3]


@starts_threads
def test_finaliser_calls_the_function():
    f = once(Counted())
    results = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            results.append(f())

    Last()
    gc.collect()
    assert results == [f()]


# Forks


class ReturnsProcess:
    """A function that returns the number of its process, and objects that run it once.

    In the process that made it, the function waits for `go`.
    """

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.parent = os.getpid()
        self.body = self.wait_in_parent
        self.function, self.object = once(self.work), Once()

    def wait_in_parent(self):
        if os.getpid() == self.parent:
            self.begun.set()
            self.go.wait()
        return os.getpid()

    def work(self):
        return self.body()

    @once_property
    def property(self):
        return self.work()


@starts_processes
@needs_fork
@kinds
@in_own_process
def test_child_runs_what_another_thread_ran_at_the_fork(kind):
    it = ReturnsProcess()

    def call():
        return CALLS[kind](it)

    def child():
        assert call() == os.getpid() != it.parent
        run_threads(call, call)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    it.begun.wait()
    # A thread that is still on its way may hold a lock of CPython's, of the object's __dict__ for
    # one, which would stay locked in the child.
    for thread in threads:
        settle(thread)
    in_child(child)
    it.go.set()
    assert call() == it.parent
    for thread in threads:
        thread.join()


@starts_processes
@needs_fork
@kinds
@in_own_process
def test_run_that_forks_goes_on_in_both_processes(kind):
    it = ReturnsProcess()
    waiter, results = [], []

    def call():
        return CALLS[kind](it)

    def fork():
        if os.fork() == 0:
            try:
                call()
            except RuntimeError as error:
                assert "recursive" in str(error)
                waiter.append(threading.Thread(target=lambda: results.append(call())))
                waiter[0].start()
                time.sleep(0.05)
                assert not results
            else:
                os._exit(3)
        return os.getpid()

    it.body = fork
    assert call() == os.getpid()
    if os.getpid() != it.parent:
        waiter[0].join(10)
        os._exit(0 if results == [os.getpid()] else 4)
    _, status = os.wait()
    assert status == 0, status


@starts_processes
@needs_fork
@kinds
@in_own_process
def test_wait_goes_on_in_both_processes_after_handler_forks(kind):
    it = ReturnsProcess()
    children = []

    def call():
        return CALLS[kind](it)

    def handler(*_):
        child = os.fork()
        if child:
            children.append(child)

    signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=call)
    thread.start()
    it.begun.wait()

    def later():
        time.sleep(0.2)
        os.kill(it.parent, signal.SIGUSR1)
        while not children:  # or the child may find the locks of `go` held
            time.sleep(0.01)
        it.go.set()

    faulthandler.cancel_dump_traceback_later()  # the child has no thread that would end it
    threading.Thread(target=later).start()
    assert call() == os.getpid()
    if os.getpid() != it.parent:
        os._exit(0)
    assert exit_code_of(children[0]) == 0
    thread.join()
