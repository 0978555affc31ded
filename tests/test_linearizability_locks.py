"""Histories of locks."""

import pytest
from linearizability import IMPOSSIBLE, verify

from nogil_sync import Mutex, RWMutex, Semaphore

pytestmark = pytest.mark.thread_unsafe(reason="starts threads itself")


def mutex(state, call):
    """The state is whether it is locked."""
    if call.name == "acquire":
        return True if call.result is not state else IMPOSSIBLE
    if call.name == "release":
        return False if call.result is (None if state else RuntimeError) else IMPOSSIBLE
    return state if call.result is state else IMPOSSIBLE


def test_mutex_without_waiting():
    def choose(rng, _):
        return rng.choices([("acquire", (False,)), ("release", ()), ("locked", ())], k=10)

    verify(lambda _: Mutex(), choose, False, mutex)


def test_mutex_with_waiting():
    def choose(rng, _):
        steps = [("acquire", ()), ("release", ())]
        return rng.choice([steps * 5, [*steps, ("locked", ())] * 3])

    verify(lambda _: Mutex(), choose, False, mutex)


def rwmutex(state, call):
    """The state is how many read, and whether somebody writes."""
    readers, writer = state
    name, result = call.name, call.result
    if name == "read.acquire":
        then, outcome = (state, False) if writer else ((readers + 1, False), True)
    elif name == "read.release":
        then, outcome = ((readers - 1, writer), None) if readers else (state, RuntimeError)
    elif name == "write.acquire":
        then, outcome = (state, False) if writer or readers else ((0, True), True)
    elif name == "write.release":
        then, outcome = ((readers, False), None) if writer else (state, RuntimeError)
    elif name == "read.locked":
        then, outcome = state, readers > 0
    else:
        then, outcome = state, writer
    return then if result is outcome else IMPOSSIBLE


def test_rwmutex_without_waiting():
    def choose(rng, _):
        steps = [
            ("read.acquire", (False,)),
            ("write.acquire", (False,)),
            ("read.release", ()),
            ("write.release", ()),
        ]
        return rng.choices(steps, k=10)

    def call(rw, name, args):
        view, _, method = name.partition(".")
        return getattr(getattr(rw, view), method)(*args)

    verify(lambda _: RWMutex(), choose, (0, False), rwmutex, call=call)


def semaphore(total):
    def after(free, call):
        """The state is how many units are free."""
        n = call.args[-1] if call.args else 1
        if call.name == "available":
            return free if call.result == free else IMPOSSIBLE
        if call.name == "release":
            fits = free + n <= total
            if call.result is not (None if fits else ValueError):
                return IMPOSSIBLE
            return free + n if fits else free
        if call.result is not (n <= free):
            return IMPOSSIBLE
        return free - n if n <= free else free

    return after


def semaphore_call(s, name, args):
    if name == "acquire":
        blocking, n = args
        return s.acquire(blocking, n=n)
    return getattr(s, name)(*args)


def test_semaphore_without_waiting():
    def choose(rng, _):
        n = rng.randrange(1, 4)
        return rng.choices([("acquire", (False, n)), ("release", (n,)), ("available", ())], k=10)

    verify(lambda _: Semaphore(3), choose, 3, semaphore(3), call=semaphore_call)


def test_semaphore_with_waiting():
    def choose(rng, _):
        n = rng.randrange(1, 4)
        return [("acquire", (True, n)), ("release", (n,))] * 4

    verify(
        lambda _: Semaphore(3),
        choose,
        3,
        semaphore(3),
        call=semaphore_call,
    )
