"""Cancellation scopes, as the backends have them: what TaskGroup's cancellation is built on."""

import gc
import re
import threading
import time
import weakref
from functools import partial

import pytest
from marks import sets_handlers, starts_threads
from support import TIMEOUT, collected, eventually, run_threads, started
from waits import WAITS, unlocked

from nogil_sync import Cancelled, Channel, Cond, Event, Mutex, Semaphore, WaitGroup, select
from nogil_sync._backend import Scope, current_scope, enter_scope

LOCKS = [name for name in WAITS if name.startswith(("Mutex", "RLock", "RWMutex"))]
CANCELLABLE = [name for name in WAITS if name not in LOCKS]
MESSAGE = "^the TaskGroup was cancelled$"


def within(scope, function, *args):
    """The function's result, called in the scope; "Cancelled" if it raised that."""
    before = enter_scope(scope)
    try:
        return function(*args)
    except Cancelled:
        return "Cancelled"
    finally:
        assert enter_scope(before) is scope


def state_of(trial):
    """What a wait may change, without addresses."""
    return re.sub(r"0x\w+", "", str(trial.state()))


def closed_gate():
    gate = threading.Lock()
    gate.acquire()
    return gate


def cancelled_scope():
    scope = Scope()
    scope.cancel()
    return scope


# Being in a scope


def test_thread_is_in_the_scope_that_it_entered():
    outer, inner = Scope(), Scope()
    enter_scope(None)  # a group that another test has left open leaves the thread in its scope
    assert current_scope() is None
    assert enter_scope(outer) is None
    assert current_scope() is outer
    assert enter_scope(inner) is outer
    assert current_scope() is inner
    assert enter_scope(None) is inner
    assert current_scope() is None


@starts_threads
def test_other_threads_are_in_no_scope():
    enter_scope(Scope())
    try:
        thread, result = started(current_scope)
        thread.join(TIMEOUT)
        assert result == [None]
    finally:
        enter_scope(None)


def test_subclass_of_scope_is_entered():
    class Group(Scope):
        __slots__ = ("name",)

    scope = Group()
    scope.name = "a group"
    enter_scope(scope)
    assert current_scope() is scope
    enter_scope(None)
    scope.cancel()
    assert scope.cancelled


def test_scope_is_freed_after_the_thread_has_left_it():
    class Group(Scope):
        pass

    scope = Group()
    watch = weakref.ref(scope)
    enter_scope(scope)
    enter_scope(None)
    del scope
    assert collected(watch)


@starts_threads
def test_scope_is_freed_after_its_thread_has_ended():
    class Group(Scope):
        pass

    watches = []

    def end_inside():
        scope = Group()
        watches.append(weakref.ref(scope))
        enter_scope(scope)

    run_threads(end_inside)
    assert collected(*watches)


def test_scope_is_cancelled_once_and_for_all():
    scope = Scope()
    assert scope.cancelled is False
    scope.cancel()
    assert scope.cancelled is True
    scope.cancel()
    assert scope.cancelled is True


def test_closed_scope_counts_as_none():
    scope, cancelled = Scope(), cancelled_scope()
    for each in (scope, cancelled):
        each.close()
        each.close()
        each.cancel()
        assert each.cancelled is False
        assert within(each, Event().wait, 0.01) is False


# Gates


def test_cancel_opens_the_gates_that_are_watched():
    scope, gates = Scope(), [closed_gate() for _ in range(3)]
    for gate in gates:
        scope.watch(gate)
    scope.unwatch(gates[1])
    assert [gate.locked() for gate in gates] == [True, True, True]
    scope.cancel()
    assert [gate.locked() for gate in gates] == [False, True, False]


def test_cancelled_scope_opens_a_gate_at_once():
    gate = closed_gate()
    cancelled_scope().watch(gate)
    assert not gate.locked()


def test_gate_that_is_open_may_be_watched():
    gate = threading.Lock()
    scope = Scope()
    scope.watch(gate)
    scope.cancel()
    scope.watch(gate)
    assert not gate.locked()


def test_gate_that_is_not_watched_may_be_unwatched():
    scope, gate = Scope(), closed_gate()
    scope.unwatch(gate)
    scope.watch(gate)
    scope.unwatch(gate)
    scope.unwatch(gate)
    scope.cancel()
    assert gate.locked()


@starts_threads
def test_each_gate_is_open_after_cancel_or_watch_whichever_comes_last():
    for _ in range(50):
        scope, gates = Scope(), [closed_gate() for _ in range(20)]

        def watch(scope=scope, gates=gates):
            for gate in gates:
                scope.watch(gate)

        run_threads(watch, scope.cancel)
        assert not any(gate.locked() for gate in gates)


def test_gate_is_freed_after_it_was_unwatched():
    scope = Scope()
    gate = closed_gate()
    watch = weakref.ref(gate)
    scope.watch(gate)
    scope.unwatch(gate)
    del gate
    assert collected(watch)


class WatchedGate:
    """A gate that notes whether its scope was cancelled when it was opened."""

    def __init__(self, scope, *, cancels=False):
        self.scope = scope
        self.cancels = cancels
        self.seen = []

    def release(self):
        self.seen.append(self.scope.cancelled)

    def __hash__(self):
        """On the threading backend, while the gate is put among those that are watched."""
        if self.cancels:
            self.cancels = False
            self.scope.cancel()
        return id(self)

    __eq__ = object.__eq__


def test_cancel_says_so_before_it_opens_the_gates():
    scope = Scope()
    gate = WatchedGate(scope)
    scope.watch(gate)
    scope.cancel()
    assert gate.seen == [True]


def test_gate_is_watched_before_the_scope_is_looked_at():
    scope = Scope()
    gate = WatchedGate(scope, cancels=True)
    scope.watch(gate)
    if not scope.cancelled:
        scope.cancel()
    assert gate.seen


# Waits


@starts_threads
@pytest.mark.parametrize("timeout", [None, TIMEOUT])
@pytest.mark.parametrize("name", CANCELLABLE)
def test_cancel_ends_the_wait_and_leaves_no_trace(name, timeout):
    trial, scope = unlocked(name), Scope()
    before = trial.state()
    thread, result = started(within, scope, trial.call_unlocked, timeout)
    assert not result
    scope.cancel()
    thread.join(TIMEOUT)
    assert result == ["Cancelled"]
    assert trial.state() == before
    trial.lock()
    assert trial.call(0.01) == trial.timed_out
    timer = trial.serve_soon()
    assert trial.call() == trial.served
    timer.join()


@starts_threads
@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_in_a_cancelled_scope_does_not_begin(name):
    trial, scope = unlocked(name), cancelled_scope()
    before = trial.state()
    for timeout in (None, TIMEOUT):
        assert within(scope, trial.call_unlocked, timeout) == "Cancelled"
    assert within(scope, trial.call_unlocked, 0) == trial.timed_out
    assert trial.state() == before
    trial.serve()  # what it waited for ends too


@starts_threads
@pytest.mark.parametrize("name", LOCKS)
def test_wait_for_a_lock_is_not_ended(name):
    trial, scope = unlocked(name), Scope()
    results = []

    def wait_twice():
        results.append(trial.call())
        within(None, trial.reset)
        trial.serve_soon()
        results.append(trial.call())

    thread, _ = started(within, scope, wait_twice)
    scope.cancel()
    time.sleep(0.02)
    assert not results
    trial.serve()
    thread.join(TIMEOUT)
    assert results == [trial.served] * 2


@starts_threads
@pytest.mark.parametrize("name", CANCELLABLE)
def test_wait_that_is_served_as_it_is_cancelled_has_one_outcome(name):
    if name.startswith(("Barrier", "Cache", "Cond", "SyncMap")):
        pytest.skip("cannot be served before, or asked afterwards whether it was served")
    served = unlocked(name)
    served.serve()
    unused = state_of(served)
    assert served.call() == served.served
    used = state_of(served)
    for n in range(40):
        trial, scope = unlocked(name), Scope()
        thread, result = started(within, scope, trial.call)
        steps = [trial.serve, scope.cancel]
        run_threads(*steps[:: (1, -1)[n % 2]])
        thread.join(TIMEOUT)
        assert result in ([trial.served], ["Cancelled"])
        assert state_of(trial) == (unused if result == ["Cancelled"] else used)


@starts_threads
def test_wait_that_was_served_before_the_cancel_succeeds():
    for _ in range(20):
        c, scope = Channel(), Scope()
        thread, result = started(within, scope, c.recv)
        c.send("item")
        scope.cancel()
        thread.join(TIMEOUT)
        assert result == ["item"]


@starts_threads
def test_cancelled_waiters_let_the_next_in_line_pass():
    s, scope = Semaphore(3), Scope()
    s.acquire(n=2)
    large, denied = started(within, scope, s.acquire, True, None)
    assert denied == [True]  # one was free
    large, denied = started(within, scope, lambda: s.acquire(n=3))
    small, taken = started(lambda: s.acquire(n=1))
    s.release()
    assert not taken
    scope.cancel()
    for thread in (large, small):
        thread.join(TIMEOUT)
    assert denied == ["Cancelled"]
    assert taken == [True]
    assert s.available() == 0


@starts_threads
def test_only_waits_in_the_scope_end():
    c, scope, other = Channel(), Scope(), Scope()
    inside, cancelled = started(within, scope, c.recv)
    outside, received = started(c.recv)
    elsewhere, also_received = started(within, other, c.recv)
    scope.cancel()
    inside.join(TIMEOUT)
    assert cancelled == ["Cancelled"]
    for _ in range(2):
        c.send("item", TIMEOUT)
    for thread in (outside, elsewhere):
        thread.join(TIMEOUT)
    assert received + also_received == ["item"] * 2


@starts_threads
def test_many_waits_of_one_scope_end():
    c, d, e, g, s, scope = Channel(), Channel(), Event(), WaitGroup(), Semaphore(0), Scope()
    g.add()
    calls = [c.recv, lambda: c.sending(1) and d.send(1), e.wait, g.wait, s.acquire]
    calls.append(lambda: select(c, e, g))
    threads = [started(within, scope, calls[n % len(calls)]) for n in range(30)]
    scope.cancel()
    for thread, result in threads:
        thread.join(TIMEOUT)
        assert result == ["Cancelled"]
    assert not c.try_send(1)
    assert d.try_recv() is None


@starts_threads
def test_cond_has_its_lock_again_when_it_is_cancelled():
    for lock in (None, Semaphore(), threading.RLock()):
        cond, scope = Cond(lock), Scope()

        def wait(cond=cond):
            with cond:
                try:
                    cond.wait()
                finally:
                    held.append(cond._is_owned())

        held = []
        thread, result = started(within, scope, wait)
        with cond:
            scope.cancel()
            time.sleep(0.01)
            assert not result
        thread.join(TIMEOUT)
        assert result == ["Cancelled"]
        assert held == [True]
        assert cond.acquire(False)


@starts_threads
def test_cancelled_cond_waiter_passes_its_notification_on():
    for _ in range(20):
        cond, scope = Cond(), Scope()

        def wait(cond=cond):
            with cond:
                return cond.wait(TIMEOUT)

        first, cancelled = started(within, scope, wait)
        second, notified = started(wait)
        with cond:
            cond.notify()
            scope.cancel()
        first.join(TIMEOUT)
        # The first was notified before; or else the notification is the second's.
        if cancelled == ["Cancelled"]:
            second.join(TIMEOUT)
        else:
            assert cancelled == [True]
            with cond:
                cond.notify()
            second.join(TIMEOUT)
        assert notified == [True]


@starts_threads
def test_scope_keeps_nothing_of_ended_waits():
    class Item:
        pass

    scope, c = Scope(), Channel(1)
    c.send(0)
    for _ in range(3):
        item = Item()
        watch = weakref.ref(item)
        with pytest.raises(TimeoutError):
            within(scope, c.send, item, 0.001)
        with pytest.raises(TimeoutError):
            within(scope, partial(select, c.sending(item), Event(), timeout=0.001))
        del item
        assert collected(watch)


def test_scope_and_waits_in_a_cycle_are_collected():
    class Group(Scope):
        pass

    scope = Group()
    scope.channel = Channel(1)
    scope.channel.send(scope)
    watch = weakref.ref(scope)
    with pytest.raises(TimeoutError):
        within(scope, lambda: Channel().recv(0.001))
    del scope
    assert collected(watch)


# Handlers


@sets_handlers
def test_handler_cancels_the_wait_that_it_interrupts(interrupt):
    for call in (Channel().recv, Event().wait, Semaphore(0).acquire, lambda: select(Channel())):
        scope = Scope()
        interrupt(scope.cancel, 0.02)
        assert within(scope, call) == "Cancelled"


@sets_handlers
@pytest.mark.parametrize("kind", ["recv", "select"])
def test_wait_of_a_handler_is_cancelled_before_the_one_below(interrupt, kind):
    c, scope, log = Channel(), Scope(), []

    def wait():
        return c.recv() if kind == "recv" else select(c, Event()).value

    def handler():
        timer = threading.Timer(0.02, scope.cancel)
        timer.start()
        try:
            log.append(wait())
        except Cancelled as error:
            log.append(str(error))
        timer.join()

    interrupt(handler, 0.02)
    assert within(scope, wait) == "Cancelled"
    assert log == ["the TaskGroup was cancelled"]
    assert not c.try_send(1)


@sets_handlers
def test_handler_waits_outside_of_the_cancelled_scope(interrupt):
    c, scope, log = Channel(), Scope(), []

    def handler():
        scope.cancel()
        thread, _ = started(c.send, "for the handler")
        log.append(within(None, c.recv, TIMEOUT))
        thread.join(TIMEOUT)

    interrupt(handler, 0.02)
    assert within(scope, c.recv, TIMEOUT) == "Cancelled"
    assert log == ["for the handler"]


@sets_handlers
def test_interrupt_ends_the_wait_in_a_scope(interrupt):
    c, m, scope = Channel(), Mutex(), Scope()

    def raise_it():
        raise KeyboardInterrupt

    for call in (c.recv, Event().wait, lambda: select(c), lambda: Semaphore(0).acquire()):
        interrupt(raise_it, 0.02)
        with pytest.raises(KeyboardInterrupt), m:
            within(scope, call)
    scope.cancel()
    assert not c.try_send(1)
    assert not m.locked()


# Many at once


@starts_threads
def test_items_are_neither_lost_nor_doubled_by_cancelled_waits():
    c, d = Channel(), Channel(2)
    scopes = [Scope() for _ in range(60)]
    sent, received = [], []
    stop = Event()

    def send(k):
        for number, scope in enumerate(scopes):
            item = (k, number)
            if within(scope, lambda item=item: select(c.sending(item), d.sending(item))) != (
                "Cancelled"
            ):
                sent.append(item)

    def receive():
        for scope in scopes:
            while (got := within(scope, lambda: select(c, d, stop))) != "Cancelled":
                if got.case is stop:
                    return
                received.append(got.value)

    def cancel():
        for scope in scopes:
            time.sleep(0.0005)
            scope.cancel()
        stop.set()

    run_threads(lambda: send(0), lambda: send(1), receive, receive, cancel)
    received += [each.recv() for each in (c, d) for _ in range(len(each))]
    assert sorted(received) == sorted(sent)
    assert eventually(lambda: not c.try_send(0))


@starts_threads
def test_permits_are_neither_lost_nor_doubled_by_cancelled_waits():
    s, scopes = Semaphore(2), [Scope() for _ in range(50)]

    def use(n):
        for scope in scopes:
            while within(scope, lambda: s.acquire(n=n)) is True:
                s.release(n)
                if scope.cancelled:
                    break

    def cancel():
        for scope in scopes:
            time.sleep(0.0005)
            scope.cancel()

    run_threads(lambda: use(1), lambda: use(2), lambda: use(1), cancel)
    assert s.available() == 2
    gc.collect()
    assert s.acquire(n=2, timeout=0)
