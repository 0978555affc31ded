"""Histories of concurrent calls, thousands of short ones, against what each object is to do."""

import itertools
import random
import time

import pytest
from linearizability import IMPOSSIBLE, Call, linearizable, overlapping, record, told
from support import LONG, STRESS, for_a_while

from nogil_sync import (
    AtomicBool,
    AtomicInt64,
    AtomicRef,
    AtomicUint32,
    Event,
    Mutex,
    Once,
    RWMutex,
    Semaphore,
    ShardedCounter,
    ShardedFloatCounter,
    SyncMap,
    WaitGroup,
)

threads = pytest.mark.thread_unsafe(reason="starts threads itself")

ABSENT = "absent"


def verify(make, choose, initial, after, **options):
    """Check histories of objects that `make(number)` makes.

    A thousand of them, and more if too few had calls that overlapped, as on a busy machine; but no
    longer than a second.
    """
    checked = overlapped = 0
    for _ in for_a_while(1):
        objects = [make(checked + n) for n in range(200)]
        histories = record(objects, choose, seed=checked, **options)
        for history in histories:
            assert linearizable(history, initial, after), f"not linearizable:\n{told(history)}"
        checked += len(histories)
        overlapped += overlapping(histories)
        if checked >= 1000 and overlapped >= 200 * STRESS:
            break
    print(checked, "histories,", overlapped, "with overlapping calls")


# The checker itself


def register(state, call):
    """The specification of a variable."""
    if call.name == "store":
        return call.args[0]
    return state if call.result == state else IMPOSSIBLE


def history(*calls):
    """From rows of begin, end, name, argument or result."""
    return [
        Call(n, begin, end, name, (value,), None)
        if name == "store"
        else Call(n, begin, end, name, (), value)
        for n, (begin, end, name, value) in enumerate(calls)
    ]


@pytest.mark.parametrize(
    ("calls", "possible"),
    [
        ([], True),
        ([(0, 1, "store", 1), (2, 3, "load", 1)], True),
        ([(0, 1, "store", 1), (2, 3, "load", 0)], False),
        ([(0, 3, "store", 1), (1, 2, "load", 0)], True),
        ([(0, 3, "store", 1), (1, 2, "load", 1)], True),
        # Seen, and then not seen any more.
        ([(0, 9, "store", 1), (1, 2, "load", 1), (3, 4, "load", 0)], False),
        ([(0, 9, "store", 1), (1, 2, "load", 0), (3, 4, "load", 1)], True),
        ([(0, 9, "store", 1), (1, 4, "load", 1), (3, 5, "load", 0)], True),
        # Two readers that do not agree on the order of two stores.
        (
            [
                (0, 1, "store", 1),
                (0, 1, "store", 2),
                (2, 3, "load", 1),
                (4, 5, "load", 2),
            ],
            False,
        ),
        ([(0, 1, "load", 5)], False),
        ([(0, 1, "store", 1), (1, 2, "load", 0)], True),  # they may touch
    ],
)
def test_of_the_checker(calls, possible):
    assert linearizable(history(*calls), 0, register) is possible
    assert told(history(*calls)).count("\n") == max(0, len(calls) - 1)


def by_all_orders(calls, initial, after):
    """The definition, word for word."""
    for order in itertools.permutations(calls):
        if any(later.end < each.begin for each, later in itertools.combinations(order, 2)):
            continue
        state = initial
        for call in order:
            state = after(state, call)
            if state is IMPOSSIBLE:
                break
        else:
            return True
    return False


def test_the_checker_agrees_with_the_definition():
    rng = random.Random(1)
    outcomes = []
    for _ in range(1500):
        calls = []
        for _ in range(rng.randint(1, 6)):
            begin = rng.randrange(10)
            name = rng.choice(["store", "load"])
            calls.append((begin, begin + rng.randrange(6), name, rng.randrange(3)))
        calls = history(*calls)
        outcomes.append(by_all_orders(calls, 0, register))
        assert linearizable(calls, 0, register) is outcomes[-1], told(calls)
    assert 200 < sum(outcomes) < 1300


class StaleMap(dict):
    """Wrong: it lets another in between the look and the store."""

    def insert(self, key, value):
        if key in self:
            return False
        time.sleep(0)
        self[key] = value
        return True


class StaleRegister:
    """Wrong: it may give a value that was replaced before the call began."""

    def __init__(self):
        self.value = self.before = 0

    def store(self, value):
        self.before, self.value = self.value, value

    def load(self):
        return random.choice((self.value, self.before))


class LossyCounter:
    """Wrong: two may read the same number."""

    def __init__(self):
        self.value = 0

    def add(self):
        value = self.value
        time.sleep(0)
        self.value = value + 1
        return self.value


def counter(state, call):
    return state + 1 if call.result == state + 1 else IMPOSSIBLE


def only_insert(state, call):
    if call.result is not (state is ABSENT):
        return IMPOSSIBLE
    return call.args[1] if state is ABSENT else state


@threads
@pytest.mark.parametrize(
    ("make", "choose", "initial", "after"),
    [
        (StaleMap, lambda rng, _: [("insert", ("k", 1))], ABSENT, only_insert),
        (LossyCounter, lambda rng, _: [("add", ())] * 2, 0, counter),
        (
            StaleRegister,
            lambda rng, _: [("store", (rng.randrange(9),)), ("load", ())],
            0,
            register,
        ),
    ],
    ids=["map", "counter", "register"],
)
def test_wrong_implementations_are_caught(make, choose, initial, after):
    end = time.monotonic() + LONG
    for seed in itertools.count():
        histories = record([make() for _ in range(100)], choose, seed=seed)
        if not all(linearizable(each, initial, after) for each in histories):
            return
        assert time.monotonic() < end, "not caught"


# SyncMap, key by key


def entry(state, call):
    """The specification of one key: the state is its value, or ABSENT."""
    name, args, result = call.name, call.args[1:], call.result
    there = state is not ABSENT
    # What comes out, and what the value is then.
    if name == "__getitem__":
        outcome, then = state if there else KeyError, state
    elif name == "get":
        outcome, then = state if there else args[0], state
    elif name == "__contains__":
        outcome, then = there, state
    elif name == "__setitem__":
        outcome, then = None, args[0]
    elif name == "__delitem__":
        outcome, then = None if there else KeyError, ABSENT
    elif name == "pop":
        outcome, then = state if there else args[0], ABSENT
    elif name in ("setdefault", "load_or_compute"):
        new = state if there else args[-1]
        outcome, then = new, new
    elif name == "insert":
        outcome, then = not there, state if there else args[0]
    elif name == "swap":
        outcome, then = state if there else args[1], args[0]
    elif name == "compare_and_swap":
        equal = there and state == args[0]
        outcome, then = equal, args[1] if equal else state
    elif name == "compare_and_delete":
        equal = there and state == args[0]
        outcome, then = equal, ABSENT if equal else state
    else:
        assert name == "modify"
        new = args[0](state if there else args[1])
        outcome, then = new, new
    return then if outcome == result else IMPOSSIBLE


def same(value):
    return value


def longer(value):
    return (value, 1)


# From a value of few, which two can have in common, to the arguments after the key.
ARGUMENTS = {
    "__getitem__": lambda value: (),
    "get": lambda value: ("default",),
    "__contains__": lambda value: (),
    "__setitem__": lambda value: (value,),
    "setdefault": lambda value: (value,),
    "insert": lambda value: (value,),
    "swap": lambda value: (value, "default"),
    "compare_and_swap": lambda value: (value, value + 1),
    "modify": lambda value: (longer, value),
    "__delitem__": lambda value: (),
    "pop": lambda value: ("default",),
    "compare_and_delete": lambda value: (value,),
    "load_or_compute": lambda value: (same, value),
}
DELETIONS = ("__delitem__", "pop", "compare_and_delete")
# What is computed while the key is deleted is not stored: there it is not a setdefault.
WITHOUT_COMPUTING = [name for name in ARGUMENTS if name != "load_or_compute"]
WITHOUT_DELETING = [name for name in ARGUMENTS if name not in DELETIONS]


class OneHash:
    """A key whose comparison lets others run."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return self.name // 3

    def __eq__(self, other):
        time.sleep(0)
        return isinstance(other, OneHash) and self.name == other.name

    def __repr__(self):
        return f"OneHash({self.name})"


@threads
@pytest.mark.parametrize("names", [WITHOUT_COMPUTING, WITHOUT_DELETING])
@pytest.mark.parametrize(
    "make_key",
    [lambda n: n, lambda n: f"key {n}", lambda n: ("key", n), OneHash],
    ids=["int", "str", "tuple", "one hash"],
)
def test_syncmap(make_key, names):
    m = SyncMap()

    def choose(rng, number):
        # Each thread has its own, equal key.
        chosen = [rng.choice(names) for _ in range(8)]
        return [(name, (make_key(number), *ARGUMENTS[name](rng.randrange(2)))) for name in chosen]

    verify(
        lambda number: number,
        choose,
        ABSENT,
        entry,
        call=lambda _, name, args: getattr(m, name)(*args),
    )


def whole(state, call):
    """The specification of a map of few keys: the state is a frozenset of its entries."""
    entries = dict(state)
    if call.name == "insert":
        key, value = call.args
        outcome = key not in entries
        entries.setdefault(key, value)
    elif call.name == "pop":
        outcome = entries.pop(*call.args) if call.args[0] in entries else call.args[1]
    elif call.result is KeyError:
        outcome = KeyError if not entries else None
    else:
        outcome = call.result if call.result in state else None
        entries.pop(call.result[0], None)
    return frozenset(entries.items()) if outcome == call.result else IMPOSSIBLE


@threads
def test_popitem():
    def choose(rng, _):
        steps = []
        for _ in range(4):
            key = rng.randrange(3)
            insert = "insert", (key, rng.randrange(100))
            steps.append(rng.choice([insert, insert, ("pop", (key, None)), ("popitem", ())]))
        return steps

    verify(lambda _: SyncMap(), choose, frozenset(), whole)


# Atomics


def signed(number):
    return (number + 2**63) % 2**64 - 2**63


INTEGER_STEPS = {
    "load": (lambda value: (value, value), ()),
    "store": (lambda value, new: (None, new), (5,)),
    "swap": (lambda value, new: (value, new), (7,)),
    "compare_and_swap": (lambda v, old, new: (v == old, new if v == old else v), (5, 6)),
    "add": (lambda value, n=1: (value + n,) * 2, (3,)),
    "sub": (lambda value, n=1: (value - n,) * 2, (1,)),
    "fetch_and": (lambda value, mask: (value, value & mask), (6,)),
    "fetch_or": (lambda value, mask: (value, value | mask), (8,)),
    "fetch_xor": (lambda value, mask: (value, value ^ mask), (3,)),
    "fetch_max": (lambda value, n: (value, max(value, n)), (9,)),
    "fetch_min": (lambda value, n: (value, min(value, n)), (4,)),
}


def integer(wrap):
    def after(state, call):
        outcome, then = INTEGER_STEPS[call.name][0](state, *call.args)
        if call.name in ("add", "sub"):
            outcome = wrap(outcome)
        return wrap(then) if outcome == call.result else IMPOSSIBLE

    return after


@threads
@pytest.mark.parametrize(
    ("cls", "wrap"), [(AtomicInt64, signed), (AtomicUint32, lambda number: number % 2**32)]
)
def test_atomic_integers(cls, wrap):
    def choose(rng, _):
        names = [rng.choice([*INTEGER_STEPS]) for _ in range(10)]
        return [(name, INTEGER_STEPS[name][1]) for name in names]

    verify(lambda _: cls(5), choose, 5, integer(wrap))


def reference(state, call):
    """AtomicBool and AtomicRef."""
    name, args = call.name, call.args
    if name == "update":
        new = args[0](state)
        return new if call.result == new else IMPOSSIBLE
    outcome, then = INTEGER_STEPS[name][0](state, *args)
    return then if outcome == call.result else IMPOSSIBLE


@threads
def test_atomic_bool():
    def choose(rng, _):
        a, b = rng.random() < 0.5, rng.random() < 0.5
        steps = [("load", ()), ("store", (a,)), ("swap", (a,)), ("compare_and_swap", (a, b))]
        return rng.choices(steps, k=10)

    verify(lambda _: AtomicBool(), choose, False, reference)


LETTERS = ("x", "y", "z")  # each the same object wherever it is used


@threads
def test_atomic_ref():
    def choose(rng, _):
        a, b = rng.choice(LETTERS), rng.choice(LETTERS)
        steps = [
            ("load", ()),
            ("store", (a,)),
            ("swap", (a,)),
            ("compare_and_swap", (a, b)),
            ("update", (longer,)),
        ]
        return rng.choices(steps, k=10)

    verify(lambda _: AtomicRef(LETTERS[0]), choose, "x", reference)


# Counters: a sum is not taken at one moment, so it is not linearizable, but bounded.


@threads
@pytest.mark.parametrize("cls", [ShardedCounter, ShardedFloatCounter])
def test_counters(cls):
    def choose(rng, _):
        add = "add", (rng.randrange(1, 100),)
        return rng.choices([add, add, ("value", ()), ("add", ())], k=10)

    counters = [cls() for _ in range(int(max(1, STRESS) * 500))]
    for each, calls in zip(counters, record(counters, choose), strict=True):
        adds = [(call, call.args[0] if call.args else 1) for call in calls if call.name == "add"]
        for look in (call for call in calls if call.name == "value"):
            # All that was added before it began, and nothing that began after its end.
            assert sum(n for call, n in adds if call.end < look.begin) <= look.result, told(calls)
            assert look.result <= sum(n for call, n in adds if call.begin <= look.end), told(calls)
            for later in calls:
                if later.name == "value" and later.begin > look.end:
                    assert later.result >= look.result, told(calls)
        assert each.value() == sum(n for _, n in adds)


@threads
@pytest.mark.parametrize("cls", [ShardedCounter, ShardedFloatCounter])
def test_each_increment_is_in_one_total(cls):
    def choose(rng, _):
        return rng.choices([("add", (rng.randrange(100),)), ("reset", ())], k=10)

    counters = [cls() for _ in range(int(max(1, STRESS) * 500))]
    for each, calls in zip(counters, record(counters, choose), strict=True):
        added = sum(call.args[0] for call in calls if call.name == "add")
        totals = sum(call.result for call in calls if call.name == "reset")
        assert totals + each.value() == added, told(calls)


# Locks and what else is waited for


def mutex(state, call):
    """The state is whether it is locked."""
    if call.name == "acquire":
        return True if call.result is not state else IMPOSSIBLE
    if call.name == "release":
        return False if call.result is (None if state else RuntimeError) else IMPOSSIBLE
    return state if call.result is state else IMPOSSIBLE


@threads
def test_mutex_without_waiting():
    def choose(rng, _):
        return rng.choices([("acquire", (False,)), ("release", ()), ("locked", ())], k=10)

    verify(lambda _: Mutex(), choose, False, mutex)


@threads
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


@threads
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


@threads
def test_semaphore_without_waiting():
    def choose(rng, _):
        n = rng.randrange(1, 4)
        return rng.choices([("acquire", (False, n)), ("release", (n,)), ("available", ())], k=10)

    verify(lambda _: Semaphore(3), choose, 3, semaphore(3), call=semaphore_call)


@threads
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


def event(state, call):
    if call.name in ("set", "clear"):
        return call.name == "set"
    return state if call.result is state else IMPOSSIBLE


@threads
def test_event():
    def choose(rng, _):
        return rng.choices([("set", ()), ("clear", ()), ("is_set", ()), ("wait", (0,))], k=10)

    verify(lambda _: Event(), choose, False, event)


def waitgroup(count, call):
    if call.name == "wait":
        return count if call.result is (count == 0) else IMPOSSIBLE
    n = call.args[0] if call.name == "add" else -1
    fits = count + n >= 0
    if call.result is not (None if fits else RuntimeError):
        return IMPOSSIBLE
    return count + n if fits else count


@threads
def test_waitgroup():
    def choose(rng, _):
        steps = [("add", (1,)), ("add", (2,)), ("add", (-2,)), ("done", ()), ("wait", (0,))]
        return rng.choices(steps, k=10)

    verify(lambda _: WaitGroup(), choose, 0, waitgroup)


def first_result(state, call):
    """Once: the state is the result, or ABSENT."""
    if call.name == "done":
        return state if call.result is (state is not ABSENT) else IMPOSSIBLE
    result = call.args[1] if state is ABSENT else state
    return result if call.result == result else IMPOSSIBLE


@threads
def test_once():
    def choose(rng, _):
        return rng.choices([("do", (same, rng.randrange(10**6))), ("done", ())], k=10)

    verify(lambda _: Once(), choose, ABSENT, first_result)
