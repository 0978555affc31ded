"""Failures that many threads raise at once: of once, Once.do and SyncMap.load_or_compute."""

import subprocess
import threading
import time
import traceback

import pytest
from marks import starts_threads
from support import SHARED_ERRORS, STRESS, TIMEOUT, for_a_while, run_threads, same_error

from nogil_sync import Once, SyncMap, once

pytestmark = starts_threads

WAITERS = 100


def by_map(fn):
    cache = SyncMap()
    return lambda: cache.load_or_compute("key", fn)


def by_object(fn):
    first = Once()
    return lambda: first.do(fn)


every = pytest.mark.parametrize("make", [once, by_object, by_map])


class SlottedError(OSError):
    __slots__ = ("slot", "unset")


class OddError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        vars(self)["one"] = one

    def __reduce__(self):
        raise TypeError("cannot pickle this")

    def __setattr__(self, name, value):
        raise AttributeError(f"{name} cannot be set")


def os_error():
    error = SlottedError(2, "no such file", "file")
    error.slot = ["slot"]
    return error


def decode_error():
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error.with_traceback(None)


ERRORS = {
    "plain": ValueError,
    "arguments": lambda: KeyError("key", 2),
    "slots": os_error,
    "unicode": decode_error,
    "odd": lambda: OddError(1, 2),
    "group": lambda: ExceptionGroup("group", [ValueError(1), TypeError(2)]),
    "stop": lambda: StopIteration("value"),
    "import": lambda: ImportError("text", name="name", path="path"),
    "syntax": lambda: SyntaxError("text", ("file", 1, 2, "line", 3, 4)),
    "attribute": lambda: AttributeError("text", name="name", obj=[]),
    "subprocess": lambda: subprocess.CalledProcessError(3, "command", "output"),
}

FIELDS = [
    *("errno", "strerror", "filename", "slot", "encoding", "object", "start", "end", "reason"),
    *("one", "message", "exceptions", "value", "name", "path", "obj", "msg", "lineno", "text"),
    *("returncode", "cmd", "output", "extra"),
]


def fields(error):
    """What can be read of it."""
    return {name: getattr(error, name) for name in FIELDS if hasattr(error, name)}


def span_of_events(count):
    """How long this machine takes to wake so many threads, one right after another."""
    event, times = threading.Event(), []

    def work():
        assert event.wait(TIMEOUT)
        times.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    event.set()
    for thread in threads:
        thread.join(TIMEOUT)
    return max(times) - min(times)


def all_failing(make, fn, count):
    """Each thread's error, and when it had that, of calls that begin while the first one runs."""
    begun, go = threading.Event(), threading.Event()

    def held():
        begun.set()
        assert go.wait(TIMEOUT)
        return fn()

    call = make(held)
    errors, times = [], []

    def work():
        try:
            call()
        except Exception as error:
            times.append(time.monotonic())
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    threads[0].start()
    assert begun.wait(TIMEOUT)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.05)
    go.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(errors) == count
    return errors, times


@every
def test_many_waiters_raise_the_error_one_after_another(make):
    def fn():
        raise LookupError("of the run")

    # In turns of 10 ms this took a second.
    spans = []
    for _ in range(3):
        usual = span_of_events(WAITERS)
        errors, times = all_failing(make, fn, WAITERS)
        assert all(same_error(error, errors[0]) for error in errors)
        spans.append(max(times) - min(times) - 5 * usual)
    print(spans)
    assert min(spans) < 0.6


@every
@pytest.mark.parametrize("name", ERRORS)
def test_each_waiter_gets_the_whole_error(make, name):
    cause, context = RuntimeError("the cause"), NameError("the context")
    original = ERRORS[name]()
    vars(original).update(extra=object(), __notes__=["a note"])

    def origin():
        try:
            raise context
        except NameError:
            raise original from cause

    for error in all_failing(make, origin, 4)[0]:
        assert type(error) is type(original)
        assert error.args == original.args
        assert str(error) == str(original)
        assert error.__notes__ == ["a note"]
        assert error.__cause__ is cause
        assert error.__context__ is context
        assert error.__suppress_context__
        assert fields(error) == fields(original)
        assert not hasattr(error, "unset")
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[0] == "work"
        assert names[-1] == "origin"
        if SHARED_ERRORS:
            assert error is original


def test_notes_of_one_waiter_are_not_shared():
    def fn():
        error = ValueError()
        error.add_note("first")
        raise error

    errors, _ = all_failing(once, fn, 3)
    if not SHARED_ERRORS:
        assert len({id(error) for error in errors}) == 3
        errors[0].add_note("second")
        assert errors[1].__notes__ == errors[2].__notes__ == ["first"]


def test_running_thread_raises_the_original_error():
    error = ValueError()

    def fn():
        raise error

    call = once(fn)
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            call()
        assert caught.value is error


@pytest.mark.skipif(SHARED_ERRORS, reason="every thread gets the object itself")
def test_error_that_cannot_be_copied_is_described():
    from nogil_sync._common import failures

    error = ExceptionGroup("x", [ValueError()])
    error.args = ("no group has such arguments",)
    twin = failures._twin(error)
    assert type(twin) is RuntimeError
    assert twin.__cause__ is error
    again = failures._twin(twin)
    assert type(again) is RuntimeError
    assert again.__cause__ is error


@every
def test_many_threads_raise_the_error_repeatedly(make):
    # Threads that raise one object at the same time crash 3.13t within milliseconds.
    def fn():
        raise LookupError("x")

    for _ in for_a_while(1):
        for error in all_failing(make, fn, 8)[0]:
            assert str(error) == "x"


def test_settled_failure_is_raised_in_many_threads():
    def fn():
        raise LookupError("x")

    call = once(fn)

    def work():
        for _ in range(int(2000 * STRESS)):
            with pytest.raises(LookupError, match="x"):
                call()

    run_threads(work, times=8)
