"""What the tests of once, Once and once_property share."""

import threading
import traceback

import pytest
from support import TIMEOUT

from nogil_sync import Once, once, once_property


class Counted:
    """A function that counts its runs and waits to be let on."""

    def __init__(self, act=object, *, held=False):
        self.act = act
        self.runs = 0
        self.begun = threading.Event()
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self):
        self.runs += 1
        self.begun.set()
        assert self.go.wait(TIMEOUT)
        return self.act()


# Each way to run something once, as a maker of a call without arguments.


def by_function(fn, **options):
    return once(**options)(fn)


def by_object(fn, **options):
    o = Once(**options)

    def call():
        return o.do(fn)

    call.done = o.done
    return call


def by_property(fn, **options):
    class Holder:
        @once_property
        def value(self):
            return fn()

    holder = Holder()

    def call():
        return holder.value

    call.done = lambda: "value" in holder.__dict__
    return call


def start(function):
    """A thread that calls it; `outcome` becomes a pair of result and error."""

    def run():
        try:
            thread.outcome = function(), None
        except BaseException as error:
            thread.outcome = None, error

    thread = threading.Thread(target=run, daemon=True)
    thread.outcome = None
    thread.start()
    return thread


def ended(*started):
    for thread in started:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "hanging"
    return [thread.outcome for thread in started]


every = pytest.mark.parametrize("make", [by_function, by_object, by_property])


settling = pytest.mark.parametrize("make", [by_function, by_object])


def raises(error):
    def act():
        raise error

    return act


def names_of(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


class Obstinate:
    """An object that cannot be compared, hashed or converted."""

    def fail(self, *args):
        raise AssertionError("called")

    __eq__ = __hash__ = __bool__ = __repr__ = fail


# once_property


class Page:
    """Counts how often each attribute is computed."""

    def __init__(self):
        self.computed = []

    @once_property
    def words(self):
        """The words."""
        self.computed.append("words")
        return ["to", "be"]

    @once_property
    def length(self):
        self.computed.append("length")
        return len(self.words)
