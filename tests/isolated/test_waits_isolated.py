"""Every call that waits, in processes of their own: exit, fork, Ctrl-C."""

import os
import signal
import sys
import threading
import time

import pytest
from forks import in_child
from marks import needs_fork, starts_processes
from processes import in_process
from support import settle, started
from waits import WAITS, unlocked

every_wait = pytest.mark.parametrize("name", WAITS)
every_wait_in_child = pytest.mark.parametrize(
    "name", [n for n, wait in WAITS.items() if wait.in_child]
)
pytestmark = starts_processes


@every_wait
def test_interpreter_exits_while_daemon_threads_wait(name):
    def program(name):
        trial = unlocked(name)
        for timeout in (100, 100, 0.13, 0.17):
            threading.Thread(target=trial.call_unlocked, args=(timeout,), daemon=True).start()
        time.sleep(0.1)

    done = in_process(program, name)  # which gives up long before the first two do
    assert done.stderr == ""


@every_wait
def test_interpreter_exits_while_finaliser_serves_daemon_threads(name):
    def program(name):
        trial = unlocked(name)
        for _ in range(3):
            started(trial.call_unlocked, 100)

        class Last:
            def __init__(self):
                self.me = self

            def __del__(self, serve=trial.serve):
                serve()

        _last = Last()  # collected as the interpreter ends

    done = in_process(program, name)
    assert done.stderr == ""


@every_wait
@pytest.mark.parametrize("others", [0, 3])
def test_wait_of_a_finaliser_at_exit_raises(name, others):
    # No other thread will ever run: what is not available at once never will be. What is available
    # can be had.
    available = others == 0 and not WAITS[name].only_waiters and WAITS[name].in_child

    def program(name, others, available):
        trial = unlocked(name)
        for _ in range(others):
            waiting = threading.Thread(target=trial.call_unlocked, args=(600,), daemon=True)
            waiting.start()
            # A thread that the end stops amid an operation of a dict may keep the dict's own lock.
            settle(waiting)

        class Last:
            def __del__(self):
                for timeout in (0, None, 1e-9, 600):  # the third is over before it can sleep
                    try:
                        print(trial.call_unlocked(timeout) == trial.timed_out)
                    except RuntimeError as error:
                        print(type(error).__name__, error)
                if available:
                    trial.serve()
                    print(trial.call_unlocked(600) == trial.served)

        sys.last_value = Last()  # the first object that the interpreter releases at its end

    done = in_process(program, name, others, available)
    error = "PythonFinalizationError" if sys.version_info >= (3, 13) else "RuntimeError"
    refused = f"{error} cannot wait at interpreter finalization\n"
    last = "True\n" if available else ""
    assert done.stdout == "True\n" + 3 * refused + last, done.stderr
    assert done.stderr == ""


@needs_fork
@every_wait_in_child
def test_child_of_a_fork_forgets_the_waiters(name):
    def program(name):
        trial = unlocked(name)
        for _ in range(3):
            started(trial.call_unlocked, 60)
        before = trial.state()

        def child():
            assert trial.cond is not None or trial.state() == before
            assert trial.call_unlocked(0.02) == trial.timed_out
            trial.lock()  # so that a Cond is notified only once its waiter waits
            timer = trial.serve_soon(0.02)
            assert trial.call(20) == trial.served
            timer.join()
            trial.unlock()
            trial.reset()
            assert trial.call_unlocked(0.02) == trial.timed_out

        for _ in range(5):
            in_child(child)

    done = in_process(program, name)
    assert done.stderr == ""


@needs_fork
@every_wait_in_child
def test_interrupted_wait_goes_on_in_both_processes_after_handler_forks(name):
    # The child goes on in the handler, and then in the wait, which is its own.
    def program(name, limit):
        trial = unlocked(name)
        threading.Thread(target=trial.call_unlocked, args=(60,), daemon=True).start()
        parent, child = os.getpid(), None

        def handler(*_):
            nonlocal child
            child = os.fork()
            if child == 0:
                trial.serve_soon(0.1)

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        got = trial.call_unlocked(limit)
        if os.getpid() == parent:
            assert got == trial.timed_out, got
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            code = 0 if got == trial.served else 3 if got == trial.timed_out else 4
        os._exit(code)

    # The parent must time out and the child must not: on a busy machine that takes longer.
    for limit in (1, 5, 25):
        done = in_process(program, name, limit, check=False)
        if done.returncode != 3:
            break
    assert done.returncode == 0, done.stderr


@every_wait
def test_ctrl_c_ends_a_program_that_waits(name):
    def program(name):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        unlocked(name).call_unlocked(60)

    done = in_process(program, name, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0


@every_wait
def test_ctrl_c_as_the_exit_waits_for_threads_that_wait(name):
    # The main thread is through and waits for those that are no daemons; the interrupt ends that,
    # and the interpreter ends around them.
    def program(name):
        trial = unlocked(name)

        def interrupt():
            main.join()  # it has returned once the interpreter waits for its threads
            while True:  # one that comes right before the interpreter sleeps does not wake it
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

        main = threading.main_thread()
        wait = trial.call_unlocked
        threads = [threading.Thread(target=wait, args=(t,)) for t in (300, 300, 300)]
        # One that gives up breaks a barrier for the others.
        soon = 300 if name == "Barrier.wait" else 0.2
        threads += [threading.Thread(target=wait, args=(soon,), daemon=True)]
        threads += [threading.Thread(target=interrupt, daemon=True)]
        for thread in threads:
            thread.start()

    done = in_process(program, name, check=False)
    assert "KeyboardInterrupt" in done.stderr, done.stderr
    assert "Fatal" not in done.stderr
    assert done.returncode in (0, 1, 130, -signal.SIGINT), (done.returncode, done.stderr)
    assert "Timeout" not in done.stderr, done.stderr
