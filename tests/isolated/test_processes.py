"""The helper that runs tests in processes of their own: what fails there fails the test."""

import signal
import sys
import threading

import pytest
from processes import in_own_process, in_process

from nogil_sync import Mutex

NUMBERS = [1]
NUMBERS += [2]


class Outer:
    base = NUMBERS


def inner(values):
    return Outer.base + values


@pytest.mark.parametrize(("text", "cls"), [("a\n'\"", int), ("", Mutex)])
@in_own_process
def test_arguments_and_definitions_are_sent(text, cls):
    """With a docstring."""
    count = 0

    def add():
        nonlocal count
        count += 1

    add()
    assert count == 1
    assert text in ("a\n'\"", "")
    assert cls.__name__ in ("int", "Mutex")
    assert inner([3]) == [1, 2, 3]
    assert not Mutex().locked()
    assert "pytest" not in sys.modules


def fails():
    assert inner([]) == [7], "what differs"


def fails_in_thread():
    def check():
        assert inner([]) == [7], "what differs"

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()


def fails_in_finaliser():
    class Watched:
        def __del__(self):
            assert inner([]) == [7], "what differs"

    Watched()


def lacks_name():
    def use():
        print("what differs")
        print(undefined)  # noqa: F821

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()


def exits():
    sys.exit("what differs")


@pytest.mark.parametrize("function", [fails, fails_in_thread, fails_in_finaliser, exits])
def test_failure_in_the_process_fails_the_test(function):
    with pytest.raises(AssertionError, match="what differs"):
        in_own_process(function)()


def test_missing_name_in_a_thread_fails_the_test():
    with pytest.raises(AssertionError, match="NameError"):
        in_own_process(lacks_name)()


def test_signal_fails_the_test():
    def function():
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(AssertionError, match="exit code"):
        in_process(function)


def test_hanging_process_shows_its_stacks_and_fails_the_test():
    def function():
        def wait_for_ever():
            threading.Event().wait()

        wait_for_ever()

    with pytest.raises(AssertionError, match="wait_for_ever"):
        in_process(function, timeout=1)


def test_variables_of_the_function_around_it_are_refused():
    here = 1

    def function():
        assert here == 1

    with pytest.raises(AssertionError, match="function around it"):
        in_process(function)


def test_argument_that_is_no_literal_is_refused():
    with pytest.raises((AssertionError, SyntaxError, ValueError)):
        in_process(inner, [object()])
