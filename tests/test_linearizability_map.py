"""Histories of SyncMap, key by key."""

import time

import pytest
from linearizability import IMPOSSIBLE, verify

from nogil_sync import SyncMap

pytestmark = pytest.mark.thread_unsafe(reason="starts threads itself")

ABSENT = "absent"


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


def test_popitem():
    def choose(rng, _):
        steps = []
        for _ in range(4):
            key = rng.randrange(3)
            insert = "insert", (key, rng.randrange(100))
            steps.append(rng.choice([insert, insert, ("pop", (key, None)), ("popitem", ())]))
        return steps

    verify(lambda _: SyncMap(), choose, frozenset(), whole)
