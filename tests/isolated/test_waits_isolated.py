"""What holds for every call that waits, in processes of their own: exit, fork, Ctrl-C."""

import signal
import sys
import textwrap

import pytest
from marks import starts_processes
from processes import python
from waits import WAITS, names

every_wait = pytest.mark.parametrize("name", WAITS)
in_child = pytest.mark.parametrize("name", [n for n, wait in WAITS.items() if wait.in_child])
pytestmark = starts_processes


@every_wait
def test_exit_with_daemon_threads_that_wait(name):
    done = python(  # which gives up long before the first two do
        names(name)
        + textwrap.dedent(
            """
            for timeout in (100, 100, 0.13, 0.17):
                threading.Thread(target=call_anywhere, args=(timeout,), daemon=True).start()
            time.sleep(0.1)
            """
        )
    )
    assert done.stderr == ""


@every_wait
def test_exit_with_daemon_threads_that_are_served_just_then(name):
    done = python(
        names(name)
        + textwrap.dedent(
            """
            for _ in range(3):
                threading.Thread(target=call_anywhere, args=(100,), daemon=True).start()
            time.sleep(0.05)
            class Last:
                def __init__(self):
                    self.me = self
                def __del__(self, free=free):
                    free()
            last = Last()
            """
        )
    )
    assert done.stderr == ""


@every_wait
@pytest.mark.parametrize("others", [0, 3])
def test_wait_of_a_finaliser_at_exit_raises(name, others):
    # No other thread will ever run: what is not to be had at once never is. What is to be had is.
    had = others == 0 and not name.startswith("Cond") and WAITS[name].in_child
    done = python(
        names(name)
        + textwrap.dedent(
            f"""
            import sys
            for _ in range({others}):
                threading.Thread(target=call_anywhere, args=(600,), daemon=True).start()
            time.sleep(0.05)
            class Last:
                def __del__(self):
                    for timeout in (0, None, 0.01, 600):
                        try:
                            print(call_anywhere(timeout) == timed_out)
                        except RuntimeError as error:
                            print(type(error).__name__, error)
                    if {had}:
                        free()
                        print(call_anywhere(600) == served)
            sys.last_value = Last()  # the first thing that the interpreter lets go of at its end
            """
        )
    )
    error = "PythonFinalizationError" if sys.version_info >= (3, 13) else "RuntimeError"
    refused = f"{error} cannot wait at interpreter finalization\n"
    last = "True\n" if had else ""
    assert done.stdout == "True\n" + 3 * refused + last, done.stderr
    assert done.stderr == ""


@in_child
def test_a_fork_while_others_wait(name):
    done = python(
        names(name)
        + textwrap.dedent(
            """
            waiters = [
                threading.Thread(target=call_anywhere, args=(t,), daemon=True) for t in (60, 60, 60)
            ]
            for each in waiters:
                each.start()
            time.sleep(0.05)
            before = probe()
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        assert is_cond or probe() == before
                        assert call_anywhere(0.02) == timed_out
                        timer = threading.Timer(0.02, free)
                        if is_cond:
                            x.acquire()  # so that it is told only as it waits
                        timer.start()
                        assert call(20) == served
                        timer.join()
                        if is_cond:
                            x.release()
                        rest()
                        assert call_anywhere(0.02) == timed_out
                        code = 0
                    except BaseException:
                        import traceback
                        traceback.print_exc()
                    finally:
                        os._exit(code)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            """
        )
    )
    assert done.stderr == ""


@in_child
def test_a_fork_in_a_handler_that_interrupts_the_wait(name):
    # The child goes on in the handler, and then in the wait, which is its own.
    code = names(name) + textwrap.dedent(
        """
        threading.Thread(target=call_anywhere, args=(60,), daemon=True).start()
        parent, child = os.getpid(), None
        def handler(*_):
            global child
            child = os.fork()
            if child == 0:
                threading.Timer(0.1, free).start()
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        got = call_anywhere({limit})
        if os.getpid() == parent:
            assert got == timed_out, got
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            code = 0 if got == served else 3 if got == timed_out else 4
        os._exit(code)
        """
    )
    # The parent must time out and the child must not: on a busy machine that takes longer.
    for limit in (1, 5, 25):
        done = python(code.replace("{limit}", str(limit)), check=False)
        if done.returncode != 3:
            break
    assert done.returncode == 0, done.stderr


@every_wait
def test_ctrl_c_ends_a_program_that_waits(name):
    done = python(
        names(name)
        + textwrap.dedent(
            """
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            call_anywhere(60)
            """
        ),
        check=False,
    )
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0


@every_wait
def test_ctrl_c_as_the_exit_waits_for_threads_that_wait(name):
    # The main thread is through and waits for those that are no daemons; the interrupt ends that,
    # and the interpreter ends around them.
    done = python(
        names(name)
        + textwrap.dedent(
            """
            def interrupt():
                main.join()  # it has returned once the interpreter waits for its threads
                while True:  # one that comes right before the interpreter sleeps does not wake it
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.5)
            main = threading.main_thread()
            threads = [threading.Thread(target=call_anywhere, args=(t,)) for t in (300, 300, 300)]
            threads += [threading.Thread(target=call_anywhere, args=(0.2,), daemon=True)]
            threads += [threading.Thread(target=interrupt, daemon=True)]
            for thread in threads:
                thread.start()
            """
        ),
        check=False,
    )
    assert "KeyboardInterrupt" in done.stderr, done.stderr
    assert "Fatal" not in done.stderr
    assert done.returncode in (0, 1, 130, -signal.SIGINT), (done.returncode, done.stderr)
    assert "Timeout" not in done.stderr, done.stderr
