"""SyncMap.load_or_compute: one call in flight for a key, and what ends, joins or detaches it."""

import gc
import math
import os
import signal
import threading
import time
import traceback
import weakref

import pytest
from forks import in_child
from marks import starts_processes, starts_threads
from processes import in_own_process
from random_interrupts import RandomInterrupts
from support import TIMEOUT, eventually, run_threads, same_error, settle

from nogil_sync import Once, SyncMap, once, once_property
from nogil_sync._common import mapping as _syncmap
from nogil_sync._common import runs as _runs


class Held:
    """A function that says when it has begun and waits to be let on."""

    def __init__(self, act=lambda: "computed"):
        self.act = act
        self.runs = 0
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, *args):
        self.runs += 1
        self.begun.set()
        assert self.go.wait(TIMEOUT)
        return self.act(*args)


class Call(threading.Thread):
    """A call in a thread of its own; `outcome` becomes its result or its exception."""

    def __init__(self, function, *args, **kwargs):
        super().__init__(daemon=True)
        self.call = function, args, kwargs
        self.outcome = None
        self.start()

    def run(self):
        function, args, kwargs = self.call
        try:
            self.outcome = function(*args, **kwargs)
        except BaseException as error:
            self.outcome = error

    def ended(self):
        self.join(TIMEOUT)
        assert not self.is_alive(), "hanging"
        return self.outcome


def raises(error):
    def act(*_):
        raise error

    return act


def fails(error, function, *args, **kwargs):
    with pytest.raises(error):
        function(*args, **kwargs)


def flying(m, held, key="k"):
    """A call for this key that has begun."""
    call = Call(m.load_or_compute, key, held)
    assert held.begun.wait(TIMEOUT)
    return call


def joined(m, count=1, key="k", fn=raises(AssertionError("ran"))):
    """Calls that wait for the one that has begun."""
    calls = [Call(m.load_or_compute, key, fn) for _ in range(count)]
    assert eventually(lambda: all(call.ident in _runs._waits for call in calls))
    return calls


# One thread


def test_computes_a_missing_value_and_keeps_it():
    m = SyncMap(a=1)
    assert m.load_or_compute("a", raises(AssertionError)) == 1
    assert m.load_or_compute("b", lambda: 2) == 2
    assert m.load_or_compute("b", raises(AssertionError)) == 2
    assert m.load_or_compute("c", pow, 2, 5, timeout=None) == 32
    assert m.load_or_compute("d", dict, timeout=0) == {}
    assert m == {"a": 1, "b": 2, "c": 32, "d": {}}


@pytest.mark.parametrize("value", [None, False, 0, NotImplemented, ..., ()])
def test_any_value_is_kept(value):
    m = SyncMap()
    assert m.load_or_compute(value, lambda: value) is value
    assert m.load_or_compute(value, raises(AssertionError)) is value
    assert m[value] is value


def test_wrong_arguments_raise():
    m = SyncMap(a=1)
    for wrong in (None, 5, "fn"):
        with pytest.raises(TypeError, match="not callable"):
            m.load_or_compute("k", wrong)
    for timeout, error in (
        (math.nan, ValueError),
        (threading.TIMEOUT_MAX * 2, OverflowError),
        (math.inf, OverflowError),
        ("1", TypeError),
    ):
        for key in "ka":
            with pytest.raises(error):
                m.load_or_compute(key, int, timeout=timeout)
    assert m == {"a": 1}


def test_exception_is_not_kept():
    m = SyncMap()
    for error in (LookupError(), OSError(1)):
        with pytest.raises(type(error)) as caught:
            m.load_or_compute("k", raises(error))
        assert caught.value is error
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[0] == "test_exception_is_not_kept"
        assert names[-1] == "act"
    assert "k" not in m
    assert m.load_or_compute("k", int) == 0


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_base_exception_is_not_kept(kind):
    m = SyncMap()
    with pytest.raises(kind):
        m.load_or_compute("k", raises(kind()))
    assert len(m) == 0
    assert m.load_or_compute("k", int) == 0


def test_function_may_use_other_keys_and_maps():
    m, other = SyncMap(), SyncMap()

    def fib(n):
        return (
            n
            if n < 2
            else m.load_or_compute(n - 1, fib, n - 1) + other.load_or_compute(n - 2, fib, n - 2)
        )

    assert m.load_or_compute(20, fib, 20) == 6765
    assert m[15] == 610


def test_recursive_computation_raises():
    m, other = SyncMap(), SyncMap()

    def again():
        return m.load_or_compute("k", again)

    for timeout in (None, 0, 1):
        with pytest.raises(RuntimeError, match="recursive"):
            m.load_or_compute("k", again, timeout=timeout)

    def round_about():
        return other.load_or_compute("k", lambda: m.load_or_compute("l", round_about))

    with pytest.raises(RuntimeError, match="recursive"):
        m.load_or_compute("l", round_about)
    assert not m
    assert not other


def test_recursion_through_once_raises():
    m, o = SyncMap(), Once(retry=True)

    @once(retry=True)
    def function():
        return m.load_or_compute("k", lambda: o.do(lambda: Holder().value))

    class Holder:
        @once_property
        def value(self):
            return function()

    with pytest.raises(RuntimeError, match="recursive"):
        function()
    assert not m
    assert not o.done()


def test_caught_recursion_leaves_the_map_usable():
    m = SyncMap()

    def again():
        with pytest.raises(RuntimeError):
            m.load_or_compute("k", again)
        return 5

    assert m.load_or_compute("k", again) == 5
    assert m == {"k": 5}


def test_value_that_the_function_stores_wins():
    m = SyncMap()
    for store in (
        lambda: m.__setitem__("k", "stored"),
        lambda: m.insert("k", "stored"),
        lambda: m.setdefault("k", "stored"),
        lambda: m.swap("k", "stored"),
        lambda: m.update(k="stored"),
        lambda: m.modify("k", lambda old: "stored", None),
    ):
        assert m.load_or_compute("k", lambda store=store: store() and "computed") == "stored"
        assert m == {"k": "stored"}
        m.clear()


def test_only_map_and_caller_hold_a_value_stored_meanwhile():
    class Object:
        pass

    def fn():
        m["k"] = Object()
        return Object()

    m = SyncMap()
    value = m.load_or_compute("k", fn)
    watch = weakref.ref(value)
    assert m["k"] is value
    del value
    gc.collect()
    assert watch() is m["k"]
    del m["k"]
    gc.collect()
    assert watch() is None


DELETIONS = {
    "del": lambda m: m.__delitem__("k"),
    "pop": lambda m: m.pop("k"),
    "clear": lambda m: m.clear(),
    "compare_and_delete": lambda m: m.compare_and_delete("k", "stored"),
    "popitem": lambda m: m.popitem(),
}


@pytest.mark.parametrize("delete", DELETIONS.values(), ids=DELETIONS)
def test_function_that_deletes_its_key_detaches_the_flight(delete):
    m = SyncMap()

    def compute():
        m["k"] = "stored"
        delete(m)
        return "computed"

    assert m.load_or_compute("k", compute) == "computed"
    assert not m

    def compute_and_store_again():
        compute()
        m["k"] = "again"
        return "computed"

    assert m.load_or_compute("k", compute_and_store_again) == "computed"
    assert m == {"k": "again"}


@pytest.mark.parametrize(
    "delete",
    [
        lambda m: m.pop("k", None),
        lambda m: m.clear(),
        lambda m: fails(KeyError, m.pop, "k"),
        lambda m: fails(KeyError, m.__delitem__, "k"),
    ],
)
def test_deletion_of_a_missing_key_detaches_the_flight(delete):
    m = SyncMap()
    assert m.load_or_compute("k", lambda: (delete(m) and None) or "old") == "old"
    assert not m


def test_other_calls_do_not_detach_the_flight():
    m = SyncMap()

    def compute():
        m.pop("other", None)
        m.compare_and_delete("k", "x")
        m.compare_and_swap("k", "x", "y")
        m.get("k")
        return "computed"

    assert m.load_or_compute("k", compute) == "computed"
    assert m == {"k": "computed"}


def test_popitem_detaches_no_other_key():
    m = SyncMap()

    def compute():
        m["other"] = 1
        assert m.popitem() == ("other", 1)
        with pytest.raises(KeyError):
            m.popitem()
        return "computed"

    assert m.load_or_compute("k", compute) == "computed"
    assert m == {"k": "computed"}


class Hooked:
    """Keys with one hash; comparing two runs the hook."""

    hook = None

    def __hash__(self):
        return 1

    def __eq__(self, other):
        if Hooked.hook is not None:
            Hooked.hook()
        return self is other


@pytest.fixture
def hook():
    def install(function):
        Hooked.hook = function

    yield install
    Hooked.hook = None


@pytest.mark.thread_unsafe(reason="the hook is everybody's")
def test_equality_that_raises_in_popitem_leaves_the_entry(hook):
    m, computed, stored = SyncMap(), Hooked(), Hooked()

    def compute():
        m[stored] = 1
        hook(raises(LookupError))
        with pytest.raises(LookupError):
            m.popitem()
        hook(None)
        assert m[stored] == 1
        assert m.popitem() == (stored, 1)
        return "computed"

    assert m.load_or_compute(computed, compute) == "computed"
    assert m.snapshot() == {computed: "computed"}


@pytest.mark.thread_unsafe(reason="the hook is everybody's")
@pytest.mark.parametrize("more", [False, True])
def test_popitem_retries_when_its_entry_goes_meanwhile(hook, more):
    m, computed, stored = SyncMap(), Hooked(), Hooked()

    def steal():
        hook(None)
        m.clear()
        if more:
            m["more"] = 2

    def compute():
        m[stored] = 1
        hook(steal)
        if more:
            assert m.popitem() == ("more", 2)
        else:
            with pytest.raises(KeyError, match="empty"):
                m.popitem()
        return "computed"

    assert m.load_or_compute(computed, compute) == "computed"
    assert not m


def test_deletions_after_many_concurrent_computations():
    # Calls inside each other, so that there are as many at the same time.
    m = SyncMap()

    def compute(depth):
        if depth > 0:
            m.load_or_compute(depth, compute, depth - 1)
        m["stored"] = depth
        m.pop("stored")
        m.pop(depth + 1, None)  # detaches the innermost one that is still under way
        return depth

    for _ in range(3):
        assert m.load_or_compute("k", compute, 50) == 50
        assert m == {"k": 50}
        del m["k"]
        assert not m
        assert len(m._flights()) == 0


def test_finished_flights_leave_nothing_behind():
    class Value:
        pass

    def use(outcome):
        held = Value()

        def compute(held=held):
            if outcome is not None:
                raise outcome
            return held

        try:
            m.load_or_compute("k", compute)
        except BaseException:
            pass
        m.pop("k", None)
        return weakref.ref(held)

    m = SyncMap()
    enabled = gc.isenabled()
    gc.disable()  # no cycles either
    try:
        for outcome in (None, LookupError, KeyboardInterrupt):
            assert use(outcome)() is None
        assert len(m._flights()) == 0
    finally:
        if enabled:
            gc.enable()


# Many threads


@starts_threads
def test_all_threads_get_what_one_computed():
    m = SyncMap()
    keys = range(300)
    runs = []

    def compute(key):
        runs.append(key)
        return object()

    results = run_threads(lambda: [m.load_or_compute(key, compute, key) for key in keys], times=4)
    assert sorted(runs) == [*keys]
    assert all(result == [m[key] for key in keys] for result in results)


@starts_threads
def test_waiters_share_the_value():
    m, held = SyncMap(), Held()
    first = flying(m, held)
    others = joined(m, 3)
    assert m.load_or_compute("other", int) == 0  # not held up
    assert "k" not in m
    held.go.set()
    assert {call.ended() for call in (first, *others)} == {"computed"}
    assert held.runs == 1
    assert m == {"k": "computed", "other": 0}


@starts_threads
def test_equal_keys_share_a_flight():
    m, held = SyncMap(), Held()
    first = flying(m, held, ("a", 1))
    others = joined(m, 2, ("a", 1.0))
    held.go.set()
    assert {call.ended() for call in (first, *others)} == {"computed"}
    assert held.runs == 1


@starts_threads
def test_waiters_share_the_exception():
    error = LookupError()
    m, held = SyncMap(), Held(raises(error))
    first = flying(m, held)
    others = joined(m, 3)
    held.go.set()
    assert all(same_error(call.ended(), error) for call in (first, *others))
    assert held.runs == 1
    assert not m
    assert m.load_or_compute("k", int) == 0


@starts_threads
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupted_thread_stops_and_the_next_computes(kind):
    m, held = SyncMap(), Held(raises(kind()))
    first = flying(m, held)
    runs = []

    def compute():
        runs.append(1)
        return "next"

    others = joined(m, 3, fn=compute)
    held.go.set()
    assert isinstance(first.ended(), kind)
    assert [call.ended() for call in others] == ["next"] * 3
    assert len(runs) == 1
    assert m == {"k": "next"}


@starts_threads
def test_waiters_time_out():
    m, held = SyncMap(), Held()
    first = flying(m, held)
    for timeout in (0, -1, 0.001, 0.02):
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            m.load_or_compute("k", raises(AssertionError), timeout=timeout)
        assert time.monotonic() - begin >= max(timeout, 0) - 0.001
    results = run_threads(
        lambda: fails(TimeoutError, m.load_or_compute, "k", int, timeout=0.01), times=3
    )
    assert len(results) == 3
    held.go.set()
    assert first.ended() == "computed"
    assert m.load_or_compute("k", raises(AssertionError), timeout=0) == "computed"


@starts_threads
def test_timeout_does_not_bound_the_own_call():
    m = SyncMap()
    assert m.load_or_compute("k", lambda: time.sleep(0.05) or 1, timeout=0.001) == 1


@starts_threads
@pytest.mark.parametrize("store", ["setitem", "insert", "swap", "setdefault", "modify", "update"])
def test_store_during_the_computation_wins(store):
    m, held = SyncMap(), Held()
    first = flying(m, held)
    others = joined(m, 2)
    {
        "setitem": lambda: m.__setitem__("k", "stored"),
        "insert": lambda: m.insert("k", "stored"),
        "swap": lambda: m.swap("k", "stored"),
        "setdefault": lambda: m.setdefault("k", "stored"),
        "modify": lambda: m.modify("k", lambda old: "stored", None),
        "update": lambda: m.update(k="stored"),
    }[store]()
    assert m.load_or_compute("k", raises(AssertionError), timeout=0) == "stored"
    held.go.set()
    assert {call.ended() for call in (first, *others)} == {"stored"}
    assert m == {"k": "stored"}


@starts_threads
@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("delete", ["pop", "clear", "del", "compare_and_delete", "popitem"])
def test_deletion_detaches_the_flight(delete, missing):
    if missing and delete in ("compare_and_delete", "popitem"):
        pytest.skip("deletes nothing where nothing is")
    m, held = SyncMap(), Held(lambda: "old")
    first = flying(m, held)
    others = joined(m, 2)
    if not missing:
        m["k"] = "stored"
    if missing and delete != "clear":
        assert m.pop("k", None) is None
    else:
        DELETIONS[delete](m)
    # A thread that asks from now on computes the value again, beside the running computation.
    assert m.load_or_compute("k", lambda: "new", timeout=0) == "new"
    held.go.set()
    assert {call.ended() for call in (first, *others)} == {"old"}
    assert m == {"k": "new"}


@starts_threads
def test_flight_is_detached_twice():
    m = SyncMap()
    helds = [Held(lambda n=n: n) for n in range(3)]
    calls = []
    for held in helds:
        calls.append(flying(m, held))
        m.pop("k", None)
    for held in reversed(helds):
        held.go.set()
    assert [call.ended() for call in calls] == [0, 1, 2]
    assert not m


@starts_threads
def test_interrupted_detached_flight_runs_again():
    m, held = SyncMap(), Held(raises(SystemExit()))
    first = flying(m, held)
    others = joined(m, 2, fn=lambda: "own")
    m.clear()
    held.go.set()
    assert isinstance(first.ended(), SystemExit)
    assert [call.ended() for call in others] == ["own"] * 2
    assert m == {"k": "own"}


@starts_threads
@pytest.mark.parametrize("popitem", [False, True])
def test_value_computed_before_its_deletion_is_not_returned(popitem):
    # A thread that changes the source and then deletes the key never finds the old value again.
    m, source = SyncMap(), [0]
    stop = threading.Event()

    def read():
        while not stop.is_set():
            m.load_or_compute("k", lambda: source[0])

    readers = [Call(read) for _ in range(2)]
    try:
        for n in range(1, 2000):
            source[0] = n
            if popitem:
                try:
                    m.popitem()
                except KeyError:
                    continue  # nothing was deleted
            elif n % 3 == 0:
                m.clear()
            else:
                m.pop("k", None)
            assert m.get("k", n) == n
    finally:
        stop.set()
    for reader in readers:
        assert reader.ended() is None


@starts_threads
@pytest.mark.parametrize(
    ("delete", "gives"),
    [
        (lambda m, key: m.pop(key), "computed"),
        (lambda m, key: m.pop(key, None), "computed"),
        (lambda m, key: m.__delitem__(key), None),
    ],
)
def test_value_stored_during_a_deletion_is_deleted(delete, gives):
    me = threading.get_ident()
    land = []

    class Key:
        def __hash__(self):
            return 1

        def __eq__(self, other):
            if land and threading.get_ident() == me:
                land.pop()()
            return True

    m, held = SyncMap(), Held()
    first = flying(m, held, Key())
    land.append(lambda: held.go.set() or first.ended())
    assert delete(m, Key()) == gives
    assert first.ended() == "computed"
    assert list(m) == []


@pytest.mark.parametrize("fails", [False, True])
def test_abandoned_flight_is_run_once_more(fails):
    """As one is in the child of a fork that came between its mark and its end."""
    m = SyncMap()
    flight = _syncmap.Flight(m._Flag())
    flight.landing = True
    m._flights().setdefault("k", flight)
    calls = []

    def compute():
        calls.append(None)
        if fails:
            raise ValueError("first")
        return "computed"

    if fails:
        with pytest.raises(ValueError, match="first"):
            m.load_or_compute("k", compute)
    else:
        assert m.load_or_compute("k", compute) == "computed"
    assert len(calls) == 1


@starts_threads
@pytest.mark.parametrize("stored", [False, True])
def test_value_popped_before_its_flight_is_over_is_not_shared(stored):
    """The pop began before the flight did, so it does not detach it; it gets the flight's value.

    That is what the flight computed, or what another thread stored before the flight looked.
    """
    popper, landed, held = threading.get_ident(), Held(), Held()

    class Looking:
        """The table of flights."""

        def __init__(self, flights):
            self.flights = flights
            self.compare_and_delete = flights.compare_and_delete

        def get(self, key):
            found = self.flights.get(key)
            looked.set()
            calls.append(Call(m.load_or_compute, "k", lambda: "computed"))
            assert landed.begun.wait(TIMEOUT)
            return found

    class Slow(SyncMap):
        def load_or_compute(self, key, fn):  # the steps in Python, on both backends
            return _syncmap.load_or_compute(self, key, fn, (), None)

        def _flights(self):
            flights = SyncMap._flights(self)
            if threading.get_ident() == popper:
                return Looking(flights)
            if stored and looked.is_set() and not landed.runs:
                SyncMap.setdefault(self, "k", "stored")
            return flights

        def get(self, key, default=None):
            found = SyncMap.get(self, key, default)
            if found == "stored":
                landed()
            return found

        def _land(self, key, value, detached):
            value = SyncMap._land(self, key, value, detached)
            if value == "computed":
                landed()
            return value

    Slow._plain = Slow
    m, calls, looked = Slow(), [], threading.Event()
    other = flying(m, held, "another key, as without any flight a pop does not look")
    value = "stored" if stored else "computed"
    assert m.pop("k") == value
    (late,) = joined(m, fn=lambda: "new")
    landed.go.set()
    assert calls[0].ended() == value
    assert late.ended() == "new"
    assert m["k"] == "new"
    held.go.set()
    assert other.ended() == "computed"


@starts_threads
def test_deadlock_through_threads_raises():
    m, other = SyncMap(), SyncMap()
    for _ in range(20):
        both = threading.Barrier(2)
        reached = []

        def work(mine, his, key, both=both, reached=reached):
            both.wait(TIMEOUT)
            try:
                return his.load_or_compute(key, raises(AssertionError("not in flight")))
            except RuntimeError:
                reached.append(key)
                return "broken"

        a = Call(m.load_or_compute, "a", work, m, other, "b")
        b = Call(other.load_or_compute, "b", work, other, m, "a")
        assert (a.ended(), b.ended()) == ("broken", "broken")
        assert reached  # both if they close the circle at the same time
        m.clear()
        other.clear()


@starts_threads
def test_deadlock_through_keys_and_once_raises():
    m, o = SyncMap(), Once(retry=True)
    three = threading.Barrier(3)

    def then(call):
        def act():
            three.wait(TIMEOUT)
            return call()

        return act

    calls = [
        Call(m.load_or_compute, "a", then(lambda: m.load_or_compute("b", int))),
        Call(m.load_or_compute, "b", then(lambda: o.do(int))),
        Call(o.do, then(lambda: m.load_or_compute("a", int))),
    ]
    # One thread closes the circle. Its waiters get its error, or run their own function.
    outcomes = [call.ended() for call in calls]
    assert any(isinstance(outcome, RuntimeError) for outcome in outcomes)
    assert all(isinstance(outcome, RuntimeError) or outcome == 0 for outcome in outcomes)


@starts_threads
def test_random_keys_are_computed_once():
    m = SyncMap()
    runs = []

    def work():
        for n in range(300):
            key = n % 50
            value = m.load_or_compute(key, lambda key=key: runs.append(key) or key)
            assert value == key
            if n % 7 == 0:
                m.pop((n * 3) % 50, None)
            if n % 97 == 0:
                m.clear()

    run_threads(work, times=4)
    assert all(m[key] == key for key in m)
    assert eventually(lambda: not m._flights())


@starts_threads
def test_random_failures_are_not_kept():
    m = SyncMap()

    def compute(n):
        if n % 3 == 0:
            raise LookupError(n)
        if n % 7 == 0:
            raise SystemExit
        return n

    def work():
        for n in range(100):
            key = n % 5
            try:
                m.load_or_compute(key, compute, n)
            except (LookupError, SystemExit):
                pass
            m.pop(key, None)

    run_threads(work, times=3)
    assert eventually(lambda: not m._flights())


@starts_processes
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
@in_own_process
def test_interrupted_calls_do_all_or_nothing():
    # Wherever an exception is raised, the map is whole, and a computation can start again.
    interrupts = RandomInterrupts()
    m = SyncMap()
    go_on = True

    def others():
        n = 0
        while go_on:
            n += 1
            m.load_or_compute("k", lambda: n)
            m.pop("k", None)
            m.modify("count", lambda old: old, 0)

    thread = threading.Thread(target=others)
    thread.start()
    for done, _ in enumerate(interrupts.rounds()):
        interrupts.call(lambda key: m.load_or_compute(key, lambda: 1), "k", 1)
        interrupts.call(lambda key: m.load_or_compute(key, time.sleep, 0.0003), "mine", 1)
        interrupts.call(lambda key: m.pop(key, None), "mine", 2)
        m["count"] = 0
        for _ in range(20):
            before = m.get("own", 0)
            counted = interrupts.call(lambda key: m.modify(key, lambda old: old + 1, 0), "own", 1)
            # All of it or nothing; the exception may also come after it.
            assert m.get("own", 0) - before in ((1,) if counted else (0, 1))
        interrupts.call(lambda _, done=done: m.insert(done, done), 0, 1)
        if done % 10 == 9:
            interrupts.call(lambda _: m.clear(), 0, 1)
        assert len(list(m)) <= len(m) + 2
    go_on = False
    thread.join()
    m.clear()
    assert m.load_or_compute("k", lambda: "last", timeout=20) == "last"
    assert m.load_or_compute("mine", lambda: "last", timeout=20) == "last"
    assert m == {"k": "last", "mine": "last"}
    m.clear()
    assert len(m) == 0
    assert list(m) == []


@starts_processes
@in_own_process
def test_child_computes_what_another_thread_computed_at_the_fork():
    m = SyncMap(a=1)
    go, begun = threading.Event(), threading.Event()

    def compute():
        begun.set()
        go.wait()
        return "parent"

    thread = threading.Thread(target=m.load_or_compute, args=("k", compute))
    thread.start()
    begun.wait()
    waiting = threading.Thread(target=m.load_or_compute, args=("k", compute))
    waiting.start()
    settle(waiting)

    def child():
        assert m == {"a": 1}
        assert m.load_or_compute("k", lambda: "child", timeout=5) == "child"
        assert m.pop("k") == "child"
        m.clear()
        assert m.load_or_compute("k", lambda: "again", timeout=5) == "again"

    in_child(child)
    go.set()
    thread.join()
    waiting.join()
    assert m == {"a": 1, "k": "parent"}

    # From inside the call itself.
    def forks():
        def child():
            try:
                m.load_or_compute("f", int)
            except RuntimeError:
                pass
            else:
                raise AssertionError
            assert m.load_or_compute("g", lambda: 5) == 5

        in_child(child)
        return "forked"

    assert m.load_or_compute("f", forks) == "forked"


@starts_processes
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
@in_own_process
def test_computation_that_forks_goes_on_in_the_child():
    m = SyncMap()
    child = m.load_or_compute("k", os.fork)
    assert m["k"] == child
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
