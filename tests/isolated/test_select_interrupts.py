"""Interrupts at random moments: in selects, in waits that are cancelled, in callbacks.

Nothing may be lost or done twice, no wait may be left asleep, and no trace may be left in a line.
"""

import threading
from functools import partial
from itertools import starmap

import pytest
from marks import starts_processes
from processes import in_own_process
from random_interrupts import InterruptError, RandomInterrupts

import nogil_sync
from nogil_sync import (
    Cancelled,
    Channel,
    Cond,
    Event,
    Mutex,
    RWMutex,
    Semaphore,
    WaitGroup,
    select,
    try_select,
)
from nogil_sync._backend import AsyncWaiter, Scope, enter_scope

pytestmark = starts_processes


def idle(*channels):
    """No receiver and no sender is left in these channels."""
    return all(try_select(c, c.sending(0)) is None for c in channels)


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
@in_own_process
def test_interrupted_select_loses_no_item(capacity, at_most):
    interrupts = RandomInterrupts()
    c, other, never = Channel(capacity), Channel(capacity), Event()
    busy = True
    sent = 0

    def send():
        nonlocal sent
        while busy:
            try:
                select(c.sending(sent + 1), other.sending(sent + 1), timeout=0.001)
                sent += 1
            except TimeoutError:
                pass

    thread = threading.Thread(target=send)
    thread.start()
    received = []
    cases = c, other, never, other
    for _ in interrupts.rounds():
        chosen = interrupts.call(partial(select, *cases, timeout=10), Channel(), at_most)
        if chosen:
            received.append(chosen.value)
    busy = False
    thread.join(10)
    assert not thread.is_alive()
    received += [each.recv() for each in (c, other) for _ in range(len(each))]
    assert sorted(received) == [*range(1, sent + 1)]
    assert capacity or idle(c, other)


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("capacity", [0, 2])
@in_own_process
def test_interrupted_select_duplicates_no_item(capacity, at_most):
    interrupts = RandomInterrupts()
    c, other, never = Channel(capacity), Channel(capacity), Event()
    over = Event()
    received = []

    def receive():
        while (chosen := select(c, other, over)).case is not over:
            received.append(chosen.value)

    thread = threading.Thread(target=receive)
    thread.start()
    sent = []
    for number, _ in enumerate(interrupts.rounds(), 1):
        cases = c.sending(number), never, other.sending(number)
        if interrupts.call(partial(select, *cases, timeout=10), Channel(), at_most):
            sent.append(number)
    over.set()
    thread.join(10)
    assert not thread.is_alive()
    received += [each.recv() for each in (c, other) for _ in range(len(each))]
    assert len(set(received)) == len(received)
    if nogil_sync.backend == "native":
        assert sorted(received) == sent
    else:  # in the instant of the interrupt it may have been accepted
        assert set(sent) <= set(received)
    assert capacity or idle(c, other)


@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_selects_that_meet_exchange_each_item_once(at_most):
    interrupts = RandomInterrupts()
    c, d = Channel(), Channel()
    over = Event()
    received, sent = [], []

    def note(chosen, item):
        if chosen.case is c or chosen.case is d:
            received.append(chosen.value)
        else:
            sent.append(item)

    def meet():
        number = 0
        while True:
            number -= 1
            chosen = select(c, d, c.sending(number), d.sending(number), over)
            if chosen.case is over:
                return
            note(chosen, number)

    thread = threading.Thread(target=meet)
    thread.start()
    for number, _ in enumerate(interrupts.rounds(), 1):
        cases = d, c.sending(number), d.sending(number)
        chosen = interrupts.call(partial(select, *cases, timeout=10), c, at_most)
        if chosen:
            note(chosen, number)
    over.set()
    thread.join(10)
    assert not thread.is_alive()
    while chosen := try_select(c, d):  # what an interrupted select had received
        received.append(chosen.value)
    assert len(set(received)) == len(received)
    if nogil_sync.backend == "native":
        assert sorted(received) == sorted(sent)
    else:  # in the instant of the interrupt it may have been accepted
        assert set(sent) <= set(received)
    assert idle(c, d)


@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_select_for_words_leaves_no_place(at_most):
    interrupts = RandomInterrupts()
    busy = True
    event, group, quiet = Event(), WaitGroup(), Channel()

    def change():
        while busy:
            event.set()
            event.clear()
            group.add()
            group.done()

    group.add()
    thread = threading.Thread(target=change)
    thread.start()
    chosen = 0
    cases = event, quiet, group, quiet.sending(1)
    for _ in interrupts.rounds(lambda: chosen > 0):
        if interrupts.call(partial(select, *cases, timeout=10), Channel(), at_most):
            chosen += 1
    busy = False
    thread.join(10)
    assert not thread.is_alive()
    event.clear()
    assert try_select(event, quiet) is None
    timer = threading.Timer(0.01, event.set)
    timer.start()
    assert select(event, quiet, timeout=10).case is event
    timer.join()


@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_and_cancelled_recv_loses_no_item(at_most):
    interrupts = RandomInterrupts()
    c = Channel()
    busy = True
    sent = 0
    scopes = []

    def send():
        nonlocal sent
        while busy:
            try:
                c.send(sent + 1, 0.001)
                sent += 1
            except TimeoutError:
                pass

    def cancel():
        while busy:
            for scope in scopes[:]:
                scope.cancel()

    threads = [threading.Thread(target=each) for each in (send, cancel)]
    for thread in threads:
        thread.start()
    received = 0
    for _ in interrupts.rounds():
        scope = Scope()
        scopes[:] = [scope]
        enter_scope(scope)
        try:
            item = interrupts.call(c.recv, 10, at_most)
        except Cancelled:
            item = None
        enter_scope(None)
        if item:
            assert item == received + 1, (item, received)
            received = item
    busy = False
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    while len(c):
        item = c.recv()  # an interrupted recv gave it back
        assert item == received + 1, (item, received)
        received = item
    assert received == sent
    assert idle(c)


@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_and_cancelled_acquire_keeps_the_permits(at_most):
    interrupts = RandomInterrupts()
    s, event = Semaphore(3), Event()
    busy = True
    scopes = []

    def use():
        while busy:
            if s.acquire(timeout=0.001, n=2):
                s.release(2)

    def cancel():
        while busy:
            for scope in scopes[:]:
                scope.cancel()

    threads = [threading.Thread(target=each) for each in (use, use, cancel)]
    for thread in threads:
        thread.start()
    for _ in interrupts.rounds():
        scope = Scope()
        scopes[:] = [scope]
        enter_scope(scope)
        try:
            if interrupts.call(partial(s.acquire, timeout=10, n=3), True, at_most):
                s.release(3)
            interrupts.call(event.wait, 10, at_most)
        except Cancelled:
            pass
        enter_scope(None)
    busy = False
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert s.available() == 3
    assert s.acquire(n=3, timeout=0)


@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_cancel_wakes_all(at_most):
    interrupts = RandomInterrupts()

    def wait():
        enter_scope(scope)
        begun.done()
        try:
            c.recv(20)
        except Cancelled:
            ended.append(1)

    for _ in interrupts.rounds():
        scope, c, begun, ended = Scope(), Channel(), WaitGroup(), []
        begun.add(3)
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        interrupts.call(lambda scope: scope.cancel(), scope, at_most)
        if not scope.cancelled:
            scope.cancel()  # it was interrupted before it began
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert len(ended) == 3


# How to make an object, what to take of it, how to serve a waiter.
SERVED = {
    "Mutex": (Mutex, "acquire", lambda m: m.acquire(), lambda m: m.release()),
    "Semaphore": (Semaphore, "acquire", lambda s: s.acquire(), lambda s: s.release()),
    "RWMutex": (
        lambda: RWMutex().write,
        "acquire",
        lambda w: w.acquire(),
        lambda w: w.release(),
    ),
    "Event": (Event, "wait", lambda e: None, lambda e: e.set()),
    "WaitGroup": (WaitGroup, "wait", lambda g: g.add(2), lambda g: g.add(-2)),
    "Channel": (Channel, "recv", lambda c: None, lambda c: c.try_send(1)),
    "Cond": (lambda: Cond(Semaphore()), "wait", lambda c: c.acquire(), lambda c: c.notify()),
    "select": (Channel, "select", lambda c: None, lambda c: c.try_send(1)),
}


@pytest.mark.parametrize("at_most", [1, 3])
@pytest.mark.parametrize("name", SERVED)
@in_own_process
def test_interrupted_thread_calls_back_what_it_serves(name, at_most):
    interrupts = RandomInterrupts()
    make, operation, take, serve = SERVED[name]
    called = []
    for _ in interrupts.rounds():
        x = make()
        take(x)
        called.clear()
        if name == "select":
            waiter = AsyncWaiter(None, "select", (Event(), x, Channel()), called.append)
        else:
            waiter = AsyncWaiter(x, operation, 1, called.append)
        assert not waiter.served
        interrupts.call(serve, x, at_most)
        if not waiter.served:
            assert not called
            serve(x)  # it was interrupted before it began
        assert waiter.served
        assert set(called) == {waiter}
        waiter.result()


@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_waiter_without_thread_leaves_no_trace(at_most):
    interrupts = RandomInterrupts()
    m, s, c, d, e = Mutex(), Semaphore(), Channel(), Channel(1), Event()
    m.acquire()
    s.acquire()
    d.send(0)

    calls = [
        (m, "acquire", None, print),
        (s, "acquire", 1, print),
        (c, "recv", None, print),
        (d, "send", 1, print),
        (e, "wait", None, print),
        (None, "select", (c, d.sending(1), e), print),
    ]
    made = []

    def wait_and_cancel(calls):
        made.extend(starmap(AsyncWaiter, calls))  # none is made and not in the list
        return [waiter.cancel() for waiter in made]

    whole = 0
    for _ in interrupts.rounds(lambda: whole > 0):
        if interrupts.call(wait_and_cancel, calls, at_most):
            whole += 1
        for waiter in made:
            assert waiter.cancel()
        made.clear()
        assert m.locked()
        assert s.available() == 0
        assert len(d) == 1
        assert not c.try_send(1)
    assert d.recv() == 0
    assert d.try_recv() is None
    m.release()
    s.release()
    e.set()
    assert not m.locked()
    assert s.available() == 1


@in_own_process
def test_callback_that_an_interrupt_hits_is_called_again():
    seen = []

    def callback(waiter):
        seen.append(waiter)
        if len(seen) < 3:
            raise InterruptError

    c = Channel()
    waiter = AsyncWaiter(c, "recv", None, callback)
    assert c.try_send(1)
    assert seen == [waiter] * 3
    assert waiter.result() == 1
