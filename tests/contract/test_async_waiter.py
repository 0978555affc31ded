"""AsyncWaiter, as the backends have it: a waiter that is called back, for asyncio's twins."""

import gc
import threading
import weakref

import pytest
from marks import starts_threads
from support import TIMEOUT, collected, eventually, run_threads, started

from nogil_sync import (
    Barrier,
    Channel,
    ChannelClosed,
    Cond,
    Event,
    Mutex,
    RWMutex,
    Selected,
    Semaphore,
    TaskGroup,
    WaitGroup,
    backend,
    select,
    try_select,
)
from nogil_sync._backend import AsyncWaiter


class Call:
    """What a waiter needs: the object, and how it is made to wait, served, and asked."""

    def __init__(self, obj, operation, argument, take, serve, free, *, result=None):
        self.args = obj, operation, argument
        self.take = take  # so that the call waits
        self.serve = serve
        self.free = free  # whether the object is as if it had never been asked for anything
        self.result = result

    def waiter(self, callback):
        return AsyncWaiter(*self.args, callback)


def mutex():
    m = Mutex()
    return Call(m, "acquire", None, m.acquire, m.release, lambda: not m.locked())


def read():
    rw = RWMutex()
    return Call(
        rw.read,
        "acquire",
        None,
        rw.write.acquire,
        rw.write.release,
        lambda: not rw.read.locked() and not rw.write.locked(),
    )


def write():
    rw = RWMutex()
    return Call(
        rw.write,
        "acquire",
        None,
        rw.read.acquire,
        rw.read.release,
        lambda: not rw.read.locked() and not rw.write.locked(),
    )


def semaphore():
    s = Semaphore(3)
    return Call(
        s,
        "acquire",
        2,
        lambda: s.acquire(n=2),
        lambda: s.release(2),
        lambda: s.available() == 3,
    )


def receive():
    c = Channel(1)
    return Call(c, "recv", None, int, lambda: c.send("item"), lambda: len(c) == 1, result="item")


def rendezvous():
    c = Channel()
    return Call(
        c, "recv", None, int, lambda: c.try_send("item"), lambda: len(c) == 1, result="item"
    )


def chosen():
    c, d, e = Channel(1), Channel(), Event()
    return Call(
        None,
        "select",
        (d, e, c),
        int,
        lambda: c.send("item"),
        lambda: len(c) == 1 and not d.try_send(0),
        result=Selected(c, "item", False),
    )


# Waiters whose grant is used up, and can be given back.
TAKING = {
    "Mutex": mutex,
    "RWMutex.read": read,
    "RWMutex.write": write,
    "Semaphore": semaphore,
    "recv": receive,
    "recv of a rendezvous": rendezvous,
    "select": chosen,
}
every_taking = pytest.mark.parametrize("name", TAKING)


def event():
    e = Event()
    return Call(e, "wait", None, int, e.set, lambda: True)


def wait_group():
    g = WaitGroup()
    return Call(g, "wait", None, g.add, g.done, lambda: True)


def cond():
    c = Cond()
    c.acquire()
    return Call(c, "wait", None, int, c.notify, lambda: "0 waiting" in repr(c))


def send():
    c = Channel(1)
    return Call(c, "send", "mine", lambda: c.send("full"), c.recv, lambda: len(c) == 1)


def select_event():
    e = Event()
    return Call(
        None, "select", (Channel(), e), int, e.set, lambda: True, result=Selected(e, None, False)
    )


def select_group():
    g = TaskGroup()
    return Call(
        None, "select", (Channel(), g), int, g.cancel, lambda: True, result=Selected(g, None, False)
    )


ALL = {
    **TAKING,
    "Event": event,
    "WaitGroup": wait_group,
    "Cond": cond,
    "send": send,
    "select of an event": select_event,
    "select of a group": select_group,
}
every_call = pytest.mark.parametrize("name", ALL)


@every_call
def test_waiter_is_called_back_once_when_it_is_served(name):
    call, called = ALL[name](), []
    call.take()
    waiter = call.waiter(called.append)
    assert not waiter.served
    assert not called
    call.serve()
    assert called == [waiter]
    assert waiter.served
    assert waiter.result() == call.result
    assert called == [waiter]
    assert not waiter.cancel()


@every_call
def test_waiter_that_is_served_at_once_is_not_called_back(name):
    if name in ("Cond", "recv of a rendezvous"):
        pytest.skip("nobody can serve it before")
    call, called = ALL[name](), []
    call.take()
    call.serve()
    waiter = call.waiter(called.append)
    assert waiter.served
    assert waiter.result() == call.result
    assert not called


@every_call
def test_cancelled_waiter_is_not_called_back_and_leaves_no_trace(name):
    call, called = ALL[name](), []
    call.take()
    waiter = call.waiter(called.append)
    assert waiter.cancel()
    assert not waiter.served
    assert waiter.cancel()
    call.serve()
    if name not in ("recv of a rendezvous", "send"):
        assert call.free()
    assert not called


@every_taking
def test_cancelled_waiter_gives_back_what_it_was_served(name):
    call, called = ALL[name](), []
    call.take()
    first, second = call.waiter(called.append), call.waiter(called.append)
    call.serve()
    assert first.served
    assert first.cancel()
    assert not first.served
    assert second.served
    assert [each for each in called if each is second] == [second]
    assert second.cancel()
    assert call.free()


def test_accepted_send_is_not_cancelled():
    c = Channel(1)
    c.send(0)
    waiter = AsyncWaiter(c, "send", 1, bool)
    assert c.recv() == 0
    assert waiter.served
    assert not waiter.cancel()
    assert c.recv() == 1


def test_accepted_send_of_a_select_is_not_cancelled():
    c = Channel()
    sending = c.sending(1)
    waiter = AsyncWaiter(None, "select", (Event(), sending), bool)
    assert c.recv() == 1
    assert not waiter.cancel()
    assert try_select(c, sending) is None


@pytest.mark.parametrize("operation", ["send", "recv"])
def test_close_refuses_waiters(operation):
    c, called = Channel(), []
    waiters = [AsyncWaiter(c, operation, 1, called.append) for _ in range(3)]
    c.close()
    assert called == waiters
    for waiter in waiters:
        assert waiter.served
        with pytest.raises(ChannelClosed, match=r"^the channel is closed$"):
            waiter.result()
    assert AsyncWaiter(c, operation, 1, called.append).served


def test_close_is_seen_by_a_select():
    c, full, d, called = Channel(), Channel(1), Channel(), []
    full.send(0)
    receiving = AsyncWaiter(None, "select", (d, c), called.append)
    sending = AsyncWaiter(None, "select", (d, full.sending(1)), called.append)
    c.close()
    full.close()
    assert called == [receiving, sending]
    assert receiving.result() == (c, None, True)
    with pytest.raises(ChannelClosed, match=r"^the channel is closed$"):
        sending.result()
    assert try_select(d, d.sending(1)) is None


def test_waiters_are_served_in_order_with_one_grant_each():
    s, called = Semaphore(2), []
    s.acquire(n=2)
    waiters = [AsyncWaiter(s, "acquire", n, called.append) for n in (1, 2, 1)]
    s.release()
    assert called == waiters[:1]
    s.release()
    assert called == waiters[:1]
    waiters[0].result()
    s.release()
    assert called == waiters[:2]
    s.release(2)
    assert called == waiters
    assert s.available() == 1


@starts_threads
def test_threads_and_waiters_stand_in_one_line():
    c, order = Channel(), []
    first, _ = started(lambda: order.append(("thread", c.recv())))
    waiter = AsyncWaiter(c, "recv", None, lambda w: order.append(("waiter", w.result())))
    last, _ = started(lambda: order.append(("thread", c.recv())))
    assert not waiter.served
    for n in range(3):
        c.send(n)
        while len(order) <= n:
            threading.Event().wait(0.001)
    for thread in (first, last):
        thread.join(TIMEOUT)
    assert order == [("thread", 0), ("waiter", 1), ("thread", 2)]


@starts_threads
def test_mutex_goes_to_the_waiter_before_threads_behind_it():
    m, order = Mutex(), []
    m.acquire()
    waiter = AsyncWaiter(m, "acquire", None, lambda _: order.append("waiter"))

    def acquire():
        with m:
            order.append("thread")

    thread, _ = started(acquire)
    m.release()
    assert order == ["waiter"]
    assert not m.acquire(False)
    waiter.result()
    m.release()
    thread.join(TIMEOUT)
    assert order == ["waiter", "thread"]
    assert not m.locked()


@starts_threads
def test_mutex_goes_to_the_waiter_when_threads_before_it_give_up():
    m, called = Mutex(), []
    m.acquire()
    thread, result = started(m.acquire, True, 0.05)
    waiter = AsyncWaiter(m, "acquire", None, called.append)
    thread.join(TIMEOUT)
    assert result == [False]
    m.release()
    assert called == [waiter]
    assert waiter.cancel()
    assert not m.locked()


@every_taking
def test_callback_uses_the_object(name):
    call, log = ALL[name](), []
    call.take()

    def callback(waiter):
        log.append(waiter.cancel())
        log.append(call.free())

    call.waiter(callback)
    call.serve()
    assert log == [True, True]


def test_callbacks_do_not_nest():
    m, depth, deepest, called = Mutex(), 0, 0, []
    m.acquire()

    def callback(waiter):
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        called.append(waiter)
        waiter.result()
        m.release()
        depth -= 1

    waiters = [AsyncWaiter(m, "acquire", None, callback) for _ in range(2000)]
    m.release()
    assert called == waiters
    assert deepest == 1
    assert not m.locked()


@pytest.mark.thread_unsafe(reason="uses each waiter of the process")
@pytest.mark.parametrize("is_select", [False, True])
@pytest.mark.parametrize("method", ["result", "cancel"])
def test_waiter_that_is_being_made_is_found_by_a_callback(method, is_select):
    def callback(waiter):
        for each in gc.get_objects():
            if type(each) is AsyncWaiter and each is not waiter and id(each) not in older:
                try:
                    got.append(getattr(each, method)())
                except RuntimeError:
                    pass

    c, got, item = Channel(), [], object()
    older = {id(each) for each in gc.get_objects() if type(each) is AsyncWaiter}
    sending = AsyncWaiter(c, "send", item, callback)
    if is_select:
        receiving = AsyncWaiter(None, "select", (c, Event()), bool)
    else:
        receiving = AsyncWaiter(c, "recv", None, bool)
    assert sending.served
    try:
        got.append(receiving.result())
    except RuntimeError:
        pass
    got.append(c.try_recv())
    received = [each for each in got if each is item or getattr(each, "value", None) is item]
    assert len(received) == 1


def test_callback_that_raises_is_reported_and_harms_nobody(monkeypatch):
    c, reported, called = Channel(), [], []
    monkeypatch.setattr("sys.unraisablehook", lambda args: reported.append(args.exc_type))

    def callback(waiter):
        called.append(waiter)
        raise ZeroDivisionError

    waiter = AsyncWaiter(c, "recv", None, callback)
    assert c.try_send("item")
    gc.collect()
    assert set(reported) == {ZeroDivisionError}
    assert set(called) == {waiter}
    assert waiter.result() == "item"
    assert not c.try_send("item")


@pytest.mark.parametrize("args", [(1, "acquire"), (Mutex(), "recv"), (Event(), "eat")])
def test_waiter_for_what_cannot_be_done_raises(args):
    with pytest.raises((TypeError, ValueError)):
        AsyncWaiter(*args, None, int)


def test_select_waiter_checks_its_cases():
    c = Channel(1)
    for cases, error in (((), ValueError), ((c, 1), TypeError)):
        with pytest.raises(error):
            AsyncWaiter(None, "select", cases, int)
    assert c.try_send(1)


# References


def test_object_keeps_its_waiters():
    class Callback:
        def __call__(self, waiter):
            log.append(waiter.result())

    log = []
    c = Channel()
    callback = Callback()
    watch = weakref.ref(callback)
    AsyncWaiter(c, "recv", None, callback)
    del callback
    gc.collect()
    assert watch() is not None
    c.send("item", 0)
    assert log == ["item"]
    assert collected(watch)


@every_call
def test_nothing_is_kept_of_a_waiter_that_has_ended(name):
    class Callback:
        def __call__(self, waiter):
            pass

    call = ALL[name]()
    call.take()
    callback = Callback()
    watch = weakref.ref(callback)
    waiter = call.waiter(callback)
    waiter.cancel()
    del waiter
    waiter = call.waiter(callback)
    call.serve()
    waiter.result()
    del waiter, callback
    assert collected(watch)


# Many at once


@starts_threads
@pytest.mark.parametrize("name", ["Mutex", "RWMutex.read", "RWMutex.write", "Semaphore"])
def test_locks_pass_between_threads_and_waiters(name):
    call = TAKING[name]()
    obj, operation, argument = call.args
    units = {"n": argument} if argument else {}
    rounds, entered = 200, []
    exclusive = name != "RWMutex.read"
    inside = 0

    def body():
        nonlocal inside
        inside += 1
        entered.append(inside)
        inside -= 1

    def leave():
        obj.release(*units.values())

    def use_thread():
        for _ in range(rounds):
            assert obj.acquire(timeout=TIMEOUT, **units)
            body()
            leave()

    def use_waiters():
        for _ in range(rounds):
            ended = threading.Event()
            waiter = AsyncWaiter(obj, operation, argument, lambda _, ended=ended: ended.set())
            assert waiter.served or ended.wait(TIMEOUT)
            waiter.result()
            body()
            leave()

    run_threads(use_thread, use_waiters, use_waiters)
    assert len(entered) == 3 * rounds
    if exclusive:
        assert set(entered) == {1}
    assert call.free()


@starts_threads
def test_items_are_neither_lost_nor_doubled_by_cancelled_waiters():
    c, d = Channel(), Channel(2)
    rounds = 300
    received, stop = [], Event()

    def send(k):
        for n in range(rounds):
            select(c.sending((k, n)), d.sending((k, n)), timeout=TIMEOUT)

    def wait(cancel):
        while not stop.is_set():
            served = threading.Event()
            args = [(c, "recv", None), (None, "select", (c, d))][len(received) % 2]
            waiter = AsyncWaiter(*args, lambda _, served=served: served.set())
            if not waiter.served:
                served.wait(0.0005 if cancel else 0.01)
                if waiter.cancel():
                    continue
            elif cancel and waiter.cancel():
                continue
            result = waiter.result()
            received.append(result.value if args[1] == "select" else result)

    def send_all():
        run_threads(lambda: send(0), lambda: send(1))
        while len(c) + len(d):
            selected = try_select(c, d)  # a waiter may be faster
            if selected is not None:
                received.append(selected.value)
        stop.set()

    run_threads(send_all, lambda: wait(False), lambda: wait(True))
    received += [each.recv() for each in (c, d) for _ in range(len(each))]
    assert sorted(received) == [(k, n) for k in range(2) for n in range(rounds)]
    assert try_select(c, d, c.sending(0)) is None


@every_taking
def test_dropped_waiter_gives_back_what_it_was_served(name):
    call = TAKING[name]()
    call.take()
    called = []
    waiter = call.waiter(called.append)
    call.serve()
    assert called == [waiter]
    called.clear()
    del waiter
    assert eventually(lambda: gc.collect() >= 0 and call.free())


@every_taking
def test_waiter_that_is_served_at_once_and_dropped_gives_back(name):
    call = TAKING[name]()
    if name == "recv of a rendezvous":
        pytest.skip("nobody waits to send")
    if call.result is not None:
        call.serve()
    waiter = call.waiter(print)
    assert waiter.served
    del waiter
    assert eventually(lambda: gc.collect() >= 0 and call.free())


def test_interrupted_call_leaves_nothing_taken_that_its_frames_do_not_keep():
    """A waiter is not kept by the place that it was served in."""
    c, waiters = Channel(), []

    def keep(waiter):
        waiters.append(weakref.ref(waiter))

    waiter = AsyncWaiter(c, "recv", None, keep)
    assert c.try_send("item")
    gc.disable()
    try:
        del waiter
        assert waiters[0]() is None
        assert c.recv(0) == "item"
    finally:
        gc.enable()


@pytest.mark.skipif(backend == "native", reason="a step of the threading backend")
@pytest.mark.thread_unsafe(reason="replaces a method")
def test_waiter_served_while_it_enters_is_called_back(monkeypatch):
    from nogil_sync._threading import async_waiter

    c, called = Channel(), []
    served = async_waiter._LinePlace.served
    steps = iter([lambda: c.try_send("item")])

    def look_and_serve(self):
        result = served(self)
        next(steps, int)()
        return result

    monkeypatch.setattr(async_waiter._LinePlace, "served", look_and_serve)
    waiter = AsyncWaiter(c, "recv", None, called.append)
    assert called == [waiter]
    assert waiter.result() == "item"


# Barriers, which cannot be given back


def test_waiters_of_a_barrier_pass_together():
    b, called = Barrier(3), []
    first, second = (AsyncWaiter(b, "wait", None, called.append) for _ in range(2))
    assert not first.served
    assert b.n_waiting == 2
    assert b.wait() == 2
    assert called == [first, second]
    assert [first.outcome, second.outcome] == [0, 1]


def test_waiter_that_comes_last_runs_the_action_when_its_outcome_is_asked_for():
    b, log = Barrier(2, lambda: log.append(1)), []
    first, leader = (AsyncWaiter(b, "wait", None, print) for _ in range(2))
    assert leader.served
    assert not first.served
    assert not log
    assert leader.outcome == 1
    assert log == [1]
    assert first.outcome == 0


@pytest.mark.parametrize("how", ["dropped", "cancelled"])
def test_leader_that_runs_no_action_breaks_the_barrier(how):
    b, called = Barrier(2, int), []
    first, leader = (AsyncWaiter(b, "wait", None, called.append) for _ in range(2))
    assert leader.served
    if how == "cancelled":
        leader.cancel()
    del leader
    assert eventually(lambda: gc.collect() >= 0 and b.broken)
    assert called == [first]
    with pytest.raises(threading.BrokenBarrierError):
        first.result()
    b.reset()
    assert b.n_waiting == 0


def test_waiter_that_gives_up_breaks_the_barrier_once():
    b, called = Barrier(3), []
    first, second = (AsyncWaiter(b, "wait", None, called.append) for _ in range(2))
    assert first.cancel()
    assert first.cancel()
    assert b.broken
    assert second.served
    assert not second.cancel() or not first.served
    assert second in called
    b.reset()
    third = AsyncWaiter(b, "wait", None, print)
    assert b.n_waiting == 1
    assert third.time_out()
    assert b.broken


def test_waiter_for_which_all_have_come_waits_on_when_its_time_is_over():
    b, log = Barrier(2, lambda: log.append(first.time_out())), []
    first = AsyncWaiter(b, "wait", None, log.append)
    assert b.wait() == 1
    assert log == [False, first]
    assert first.outcome == 0


def test_passed_barrier_cannot_be_given_back():
    b = Barrier(2)
    first = AsyncWaiter(b, "wait", None, print)
    b.wait()
    assert not first.cancel()
    assert not first.time_out()
    assert first.outcome == 0
    assert not b.broken


@every_call
def test_waiter_that_was_served_keeps_that_when_its_time_is_over(name):
    call = ALL[name]()
    call.take()
    waiter = call.waiter(bool)
    call.serve()
    assert not waiter.time_out()
    assert waiter.served
    assert waiter.result() == call.result


@every_taking
def test_waiter_leaves_the_line_when_its_time_is_over(name):
    call = TAKING[name]()
    call.take()
    waiter = call.waiter(print)
    assert waiter.time_out()
    assert not waiter.served
    call.serve()
    assert call.free() is not (name == "recv of a rendezvous")  # where nobody waits
