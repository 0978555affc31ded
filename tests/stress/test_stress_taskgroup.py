"""Task groups at random, nested and interrupted: each task runs once, and leaving never hangs."""

import itertools
import queue
import random
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from marks import starts_threads
from processes import in_own_process
from support import STRESS, TIMEOUT, for_a_while, run_threads

from nogil_sync import AtomicInt64, TaskGroup
from nogil_sync._common import tasks

pytestmark = starts_threads

SECONDS = 1.0


class OnPurposeError(Exception):
    pass


@pytest.mark.parametrize("limit", [None, 1, 3])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_each_task_runs_once(limit, threads):
    pool = ThreadPoolExecutor(threads) if threads else None

    def tree(depth, ran, groups):
        ran.add()
        for tg in groups:
            for _ in range(3 if depth else 0):
                tg.go(tree, depth - 1, ran, groups)
        if depth == 2:
            # A group inside, on the same executor.
            with TaskGroup(limit, executor=pool) as inner:
                for _ in range(3):
                    inner.go(ran.add)

    for _ in for_a_while(SECONDS / 2):
        ran = AtomicInt64()
        with TaskGroup(limit, executor=pool) as tg:
            run_threads(lambda tg=tg, ran=ran: tg.go(tree, 3, ran, [tg]), times=2)
        # Of each tree: 1 + 3 + 9 + 27, and 3 in the groups of the three with depth 2.
        assert ran.load() == 2 * (40 + 9)
    if pool:
        pool.shutdown()


@pytest.mark.parametrize("threads", [0, 2])
def test_failures_and_cancellations_are_all_reported(threads):
    pool = ThreadPoolExecutor(threads) if threads else None
    rng = random.Random(threads)

    def task(tg):
        if (kind := rng.random()) < 0.05:
            raise OnPurposeError
        if kind < 0.1:
            time.sleep(0.0005)
        elif kind < 0.15:
            tg.cancel()
        elif kind < 0.2:
            futures.append(tg.go(task, tg))
        elif kind < 0.25 and futures:
            futures[rng.randrange(len(futures))].cancel()

    for _ in for_a_while(SECONDS):
        futures = []
        failed = 0
        try:
            with TaskGroup(rng.choice([None, 1, 4]), executor=pool) as tg:
                for _ in range(rng.randrange(40)):
                    futures.append(tg.go(task, tg))
                if rng.random() < 0.1:
                    raise OnPurposeError
        except* OnPurposeError as failures:
            failed = len(failures.exceptions)
        assert wait(futures, 0).not_done == set()
        errors = [f for f in futures if not f.cancelled() and f.exception()]
        assert len(errors) <= failed <= len(errors) + 1
        assert "running" not in repr(tg)
    if pool:
        pool.shutdown()
    assert not [t for t in threading.enumerate() if t.name == "TaskGroup worker"]


@in_own_process(timeout=TIMEOUT + 3 * STRESS)
def test_no_function_is_called_in_a_section():
    # A stored reference that was the last one would run finalisers there.
    local = threading.local()

    def take(guard, _):
        guard.lock.acquire()
        local.inside = True

    def release(guard):
        local.inside = False
        guard.lock.release()

    class Guard:
        held = property(None, take, release)

        def __init__(self, _):
            self.lock = threading.Lock()

    tasks.guard_of = Guard

    seen = set()

    def profile(frame, event, arg):
        if getattr(local, "inside", False) and event in ("call", "c_call"):
            below = frame
            while below is not None:
                # What these functions call would run before or after a real guard.
                if below.f_code in (take.__code__, release.__code__):
                    return
                below = below.f_back
            seen.add((event, frame.f_code.co_qualname, frame.f_back and frame.f_back.f_lineno))

    threading.setprofile(profile)
    sys.setprofile(profile)

    class Thing:
        def __del__(self):
            pass

    def task(thing):
        if random.random() < 0.02:
            raise ValueError
        time.sleep(random.random() * 0.001)
        return Thing()

    pool = ThreadPoolExecutor(3)
    end = time.monotonic() + 3 * STRESS
    while time.monotonic() < end:
        try:
            limit, executor = random.choice([None, 1, 2, 5]), random.choice([None, pool])
            with TaskGroup(limit, executor=executor) as tg:
                futures = [tg.go(task, Thing()) for _ in range(random.randrange(30))]
                if futures:
                    futures[-1].cancel()
                if random.random() < 0.2:
                    tg.cancel()
                if random.random() < 0.1:
                    time.sleep(0.6)
                    tg.go(int)
        except ExceptionGroup:
            pass
    sys.setprofile(None)
    threading.setprofile(None)
    pool.shutdown()
    assert not seen, seen


# Python's own code is not safe from interrupts everywhere: one inside `ThreadPoolExecutor.submit`
# can leave a pool that hangs. So the executor here is a simple one. The process must end by itself.
class SimpleExecutor:
    """An executor that an interrupt cannot break."""

    def __init__(self, threads):
        self.queue = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            future, fn = self.queue.get()
            fn()
            future.set_result(None)

    def submit(self, fn):
        future = Future()
        self.queue.put((future, fn))
        return future


@pytest.mark.skipif(sys.platform == "win32", reason="no timers by signal")
@pytest.mark.parametrize("on_executor", [False, True])
@in_own_process(timeout=TIMEOUT + 2 * STRESS)
def test_interrupted_group_ends_all_its_tasks(on_executor):
    armed = False

    def handler(*_):
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, handler)

    pool = SimpleExecutor(2)
    counts = dict.fromkeys(["quiet", "interrupted", "broken", "unleft", "helping"], 0)
    rng = random.Random(1)

    def one(kind):
        nonlocal armed
        futures, tg = [], TaskGroup(**kind)
        ran = itertools.count()

        def task():
            next(ran)

        n = rng.randrange(8)
        try:
            with tg:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 2e-3))
                for _ in range(n):
                    futures.append(tg.go(task))
                if rng.random() < 0.2:
                    tg.cancel()
            armed = False
            counts["quiet"] += 1
        except KeyboardInterrupt:
            counts["interrupted"] += 1
        except ExceptionGroup as group:
            # Of the executor's future, a plain one.
            assert kind.get("executor") is pool, group
            counts["broken"] += 1
            (error,) = group.exceptions
            assert "lock" in str(error), error
        signal.setitimer(signal.ITIMER_REAL, 0)
        armed = False
        if "left" not in repr(tg):
            # At the very entry to __exit__.
            counts["unleft"] += 1
            tg.__exit__(None, None, None)
        assert wait(futures, 20).not_done == set(), (tg, futures)
        assert "running" not in repr(tg), tg
        finished = [f for f in futures if not f.cancelled()]
        failed = [f for f in finished if f.exception()]
        counts["helping"] += len(failed)
        assert len(failed) <= 1
        # One more may have run, whose `go` was interrupted.
        assert len(finished) - len(failed) <= next(ran) <= len(finished) + 1
        if not tg.cancelled():
            assert len(finished) == len(futures)

    end = time.monotonic() + 2 * STRESS
    kinds = (
        [{"executor": pool}, {"limit": 1, "executor": pool}]
        if on_executor
        else [{}, {"limit": 1}, {"limit": 2}]
    )
    while time.monotonic() < end:
        one(rng.choice(kinds))
    names = [t.name for t in threading.enumerate() if t.is_alive()]
    assert "TaskGroup worker" not in names
    print(counts, flush=True)
