"""WaitGroup: counts, waits for zero, and threads that count themselves."""

import contextvars
import threading
import time
import weakref

import pytest
from marks import starts_processes, starts_threads
from processes import in_own_process, in_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, run_threads

from nogil_sync import WaitGroup

MOST = 2**31 - 1


def pending(group):
    """The count, which only the repr shows."""
    return int(repr(group).split(", ")[-1].split()[0])


# Counting


def test_add_and_done_change_the_count():
    g = WaitGroup()
    assert pending(g) == 0
    assert g.add() is None
    assert g.add(3) is None
    assert pending(g) == 4
    assert g.done() is None
    g.add(-2)
    g.add(n=-1)
    assert pending(g) == 0
    g.add(0)
    assert g.wait() is True


def test_repr():
    g = WaitGroup()
    g.add(3)
    assert repr(g) == f"<nogil_sync.WaitGroup object at {id(g):#x}, 3 pending>"


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("n", [-3, -(2**31), -(2**63), -(10**30)])
def test_count_below_zero_raises(before, n):
    g = WaitGroup()
    g.add(before)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="negative WaitGroup counter"):
            g.add(n)
        assert pending(g) == before
    g.add(-before)
    with pytest.raises(RuntimeError, match="negative WaitGroup counter"):
        g.done()
    assert g.wait(0) is True


@pytest.mark.parametrize("before", [1, MOST - 1, MOST])
@pytest.mark.parametrize("n", [MOST, 2**31, 2**63, 10**30])
def test_count_above_max_raises(before, n):
    g = WaitGroup()
    g.add(before)
    with pytest.raises(OverflowError, match="WaitGroup counter is too large"):
        g.add(n)
    assert pending(g) == before
    g.add(-before)
    g.add(MOST)
    with pytest.raises(OverflowError):
        g.add()
    assert pending(g) == MOST


def test_add_accepts_any_integer():
    g = WaitGroup()

    class Number:
        def __index__(self):
            g.add()  # may use the group
            return 2

    g.add(Number())
    assert pending(g) == 3
    g.add(True)
    assert pending(g) == 4
    for wrong in (1.0, "1", None):
        with pytest.raises(TypeError):
            g.add(wrong)

    class Failing:
        def __index__(self):
            raise LookupError

    with pytest.raises(LookupError):
        g.add(Failing())
    assert pending(g) == 4


def test_wrong_numbers_of_arguments_raise():
    g = WaitGroup()
    for call in (
        lambda: WaitGroup(1),
        lambda: g.add(1, 2),
        lambda: g.done(1),
        lambda: g.wait(1, 2),
        lambda: g.wait(seconds=1),
        lambda: g.go(),
    ):
        with pytest.raises(TypeError):
            call()
    assert pending(g) == 0


# Waiting


@pytest.mark.parametrize("timeout", [None, 0, -1, 5, threading.TIMEOUT_MAX])
def test_wait_at_zero_returns_at_once(timeout):
    g = WaitGroup()
    assert g.wait() is True
    assert g.wait(timeout) is True
    assert g.wait(timeout=timeout) is True


@starts_threads
@pytest.mark.parametrize("n", [1, 5, 50])
def test_zero_wakes_all_waiters(n):
    g = WaitGroup()
    g.add(2)
    results = []
    waiters = [
        threading.Thread(target=lambda: results.append(g.wait(TIMEOUT)), daemon=True)
        for _ in range(n)
    ]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.02)
    g.done()
    time.sleep(0.02)
    assert not results
    g.done()
    for waiter in waiters:
        waiter.join(TIMEOUT)
    assert results == [True] * n


@starts_threads
def test_group_can_be_reused():
    g = WaitGroup()
    done = [0] * 4

    def work(k, rounds):
        for _ in range(rounds):
            done[k] += 1
            g.done()
            barrier.wait(TIMEOUT)

    barrier = threading.Barrier(5)
    g.add(4)
    workers = [threading.Thread(target=work, args=(k, 50), daemon=True) for k in range(4)]
    for worker in workers:
        worker.start()
    for r in range(50):
        assert g.wait(TIMEOUT)
        assert done == [r + 1] * 4
        g.add(4)
        barrier.wait(TIMEOUT)
    for worker in workers:
        worker.join(TIMEOUT)
    assert pending(g) == 4


@starts_threads
def test_many_threads_count_exactly():
    g = WaitGroup()

    def work():
        for k in range(500):
            g.add(k)
            g.add(-k)
            g.wait(0)

    run_threads(work, times=4)
    assert pending(g) == 0
    g.add(2000)
    run_threads(lambda: [g.done() for _ in range(500)], times=4)
    assert pending(g) == 0


# go


@starts_threads
def test_go_runs_the_function_and_counts():
    g = WaitGroup()
    log = []

    def work(*args, **kwargs):
        log.append((args, kwargs, pending(g), threading.current_thread()))
        return "dropped"

    thread = g.go(work, 1, 2, x=3, fn=4, self=5)
    assert isinstance(thread, threading.Thread)
    assert thread.daemon is False
    assert g.wait(TIMEOUT)
    assert log == [((1, 2), {"x": 3, "fn": 4, "self": 5}, 1, thread)]
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert pending(g) == 0


@starts_threads
def test_go_runs_many_threads():
    g = WaitGroup()
    lock = threading.Lock()
    total = 0

    def work(n):
        nonlocal total
        with lock:
            total += n

    for n in range(50):
        g.go(work, n)
    assert g.wait(TIMEOUT)
    assert total == sum(range(50))


@starts_threads
def test_go_may_be_called_within_go():
    g = WaitGroup()
    log = []

    def work(depth):
        log.append(depth)
        if depth:
            g.go(work, depth - 1)
            g.go(work, depth - 1)

    g.go(work, 4)
    assert g.wait(TIMEOUT)
    assert len(log) == 31


@starts_threads
def test_go_is_not_a_daemon_even_from_one():
    g = WaitGroup()
    result = []
    thread = threading.Thread(target=lambda: result.append(g.go(time.sleep, 0)), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert result[0].daemon is False
    assert g.wait(TIMEOUT)


@starts_threads
@pytest.mark.parametrize("wrong", [None, 1, "f"])
def test_go_of_a_non_callable_raises(wrong):
    g = WaitGroup()
    before = threading.active_count()
    with pytest.raises(TypeError):
        g.go(wrong)
    with pytest.raises(TypeError):
        g.go(fn=print)
    assert pending(g) == 0
    assert threading.active_count() == before


variable = contextvars.ContextVar("variable", default="default")


@starts_threads
def test_go_runs_in_a_copy_of_the_context():
    g = WaitGroup()
    seen = []

    def work():
        seen.append(variable.get())
        variable.set("theirs")

    token = variable.set("mine")
    try:
        g.go(work)
        variable.set("later")
        g.go(work)
        assert g.wait(TIMEOUT)
        assert sorted(seen) == ["later", "mine"]
        assert variable.get() == "later"
    finally:
        variable.reset(token)


@starts_threads
def test_exceptions_reach_the_hook_before_the_count(monkeypatch):
    g = WaitGroup()
    log = []

    def hook(args):
        log.append((args.exc_type, str(args.exc_value), args.thread, pending(g)))
        assert args.exc_traceback is not None
        time.sleep(0.05)
        log.append("hook done")

    def work():
        raise LookupError("of work")

    monkeypatch.setattr(threading, "excepthook", hook)
    thread = g.go(work)
    assert g.wait(TIMEOUT)
    assert log == [(LookupError, "of work", thread, 1), "hook done"]
    thread.join(TIMEOUT)
    assert len(log) == 2  # and only once


@starts_threads
def test_failing_excepthook_does_not_lose_the_count(monkeypatch, capsys):
    g = WaitGroup()

    def hook(args):
        raise ValueError("of the hook")

    monkeypatch.setattr(threading, "excepthook", hook)
    thread = g.go(lambda: 1 / 0)
    assert g.wait(TIMEOUT)
    thread.join(TIMEOUT)
    assert "of the hook" in capsys.readouterr().err


@starts_threads
@pytest.mark.parametrize("code", [(), (3,)])
def test_system_exit_is_not_reported(monkeypatch, capsys, code):
    g = WaitGroup()
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def work():
        raise SystemExit(*code)

    thread = g.go(work)
    assert g.wait(TIMEOUT)
    thread.join(TIMEOUT)
    assert capsys.readouterr().err == ""


@starts_threads
def test_other_exceptions_are_reported(monkeypatch, capsys):
    g = WaitGroup()
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def work():
        raise KeyboardInterrupt("somewhere else")

    thread = g.go(work)
    assert g.wait(TIMEOUT)
    thread.join(TIMEOUT)
    assert "somewhere else" in capsys.readouterr().err


@starts_threads
@pytest.mark.parametrize("fails", [False, True])
def test_references_are_released_before_the_count_goes_down(monkeypatch, fails):
    g = WaitGroup()

    class Thing:
        pass

    class Work:
        def __call__(self, thing, key=None):
            local = Thing()
            watches.append(weakref.ref(local))
            if fails:
                raise LookupError(Thing())

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    for _ in range(5):
        fn, thing, other = Work(), Thing(), Thing()
        watches = [weakref.ref(fn), weakref.ref(thing), weakref.ref(other)]
        thread = g.go(fn, thing, key=other)
        del fn, thing, other
        assert g.wait(TIMEOUT)
        # The thread may still run, but no object of the library refers to what it was given.
        assert [watch() for watch in watches] == [None] * 4
        thread.join(TIMEOUT)


@starts_threads
def test_thread_that_cannot_start_is_not_counted(monkeypatch):
    g = WaitGroup()
    log = []

    def start(self):
        log.append(pending(g))
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            g.go(print)
    assert log == [1]
    assert pending(g) == 0
    assert g.wait(0)
    g.add(MOST)
    with pytest.raises(OverflowError):
        g.go(print)
    assert pending(g) == MOST


@starts_threads
def test_start_interrupted_after_the_thread_began_is_counted(monkeypatch):
    # As by a Ctrl-C in Thread.start: either the function runs and counts, or neither.
    for delay in (0, 0.05):
        g = WaitGroup()
        log = []
        start = threading.Thread.start

        def late(self, start=start, delay=delay):
            start(self)
            time.sleep(delay)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", late)
            with pytest.raises(KeyboardInterrupt):
                g.go(lambda log=log: (time.sleep(0.1), log.append(1)))
        assert g.wait(TIMEOUT)
        time.sleep(0.15)
        assert pending(g) == 0
        assert len(log) <= 1


@starts_processes
def test_interpreter_waits_for_threads_of_go():
    def program():
        WaitGroup().go(lambda: (time.sleep(0.2), print("finished")))

    done = in_process(program)
    assert done.stdout == "finished\n"


# Ctrl-C, handlers, finalisers


@starts_processes
@pytest.mark.parametrize("at_most", [1, 3])
@in_own_process
def test_interrupted_waits_lose_no_wake_up(at_most):
    interrupts = RandomInterrupts()
    group = WaitGroup()
    busy = True
    rounds = [0, 0, 0]

    def counter():
        while busy:
            group.add()
            time.sleep(0.0005)
            group.done()
            rounds[0] += 1
            time.sleep(0.0001)

    def waiter(k):
        while busy:
            assert group.wait(30)
            rounds[k] += 1

    threads = [threading.Thread(target=counter)]
    threads += [threading.Thread(target=waiter, args=(k,)) for k in (1, 2)]
    for t in threads:
        t.start()
    for _ in interrupts.rounds(lambda: min(rounds) > 10):
        interrupts.call(group.wait, 30, at_most)
    busy = False
    for t in threads:
        t.join(10)
    assert not any(t.is_alive() for t in threads)
    assert min(rounds) > 10, rounds
    assert group.wait(0)


@starts_processes
@in_own_process
def test_interrupted_add_counts_nothing():
    interrupts = RandomInterrupts()
    group = WaitGroup()
    count = 0
    for _ in interrupts.rounds():
        if interrupts.call(group.add, 2, 1) is None:
            count += 2
    group.add(-count)
    assert group.wait(0), group


@starts_threads
def test_group_is_freed_while_counting_and_after_waits():
    for _ in range(50):
        g = WaitGroup()
        g.add()
        assert not g.wait(0.0001)
        del g
