"""Histories of Cache, key by key, without evictions and with them."""

import pytest
from linearizability import IMPOSSIBLE, verify
from marks import starts_threads

from nogil_sync import Cache

pytestmark = starts_threads

ABSENT = "absent"


def entry(state, call):
    """The specification of one key that is not evicted: the state is its value, or ABSENT."""
    name, args, result = call.name, call.args[1:], call.result
    there = state is not ABSENT
    if name == "__getitem__":
        outcome, then = state if there else KeyError, state
    elif name == "get":
        outcome, then = state if there else args[0], state
    elif name == "__contains__":
        outcome, then = there, state
    elif name in ("__setitem__", "put"):
        outcome, then = None, args[0]
    elif name == "__delitem__":
        outcome, then = None if there else KeyError, ABSENT
    elif name == "pop":
        outcome, then = state if there else args[0], ABSENT
    else:
        assert name == "load_or_compute"
        outcome = then = state if there else args[-1]
    return then if outcome == result else IMPOSSIBLE


def evicted_at_times(state, call):
    """The specification of one key that may be evicted before any call."""
    then = entry(state, call)
    return entry(ABSENT, call) if then is IMPOSSIBLE else then


def same(value):
    return value


ARGUMENTS = {
    "__getitem__": lambda value: (),
    "get": lambda value: ("default",),
    "__contains__": lambda value: (),
    "__setitem__": lambda value: (value,),
    "put": lambda value: (value, 1000),
    "__delitem__": lambda value: (),
    "pop": lambda value: ("default",),
    "load_or_compute": lambda value: (same, value),
}
# A value that is loaded while the key is deleted is not stored.
WITHOUT_LOADING = [name for name in ARGUMENTS if name != "load_or_compute"]
WITHOUT_DELETING = [name for name in ARGUMENTS if name not in ("__delitem__", "pop")]


class OneHash:
    """A key that only the interpreter can compare."""

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return self.name // 3

    def __eq__(self, other):
        return isinstance(other, OneHash) and self.name == other.name


@pytest.mark.parametrize("names", [WITHOUT_LOADING, WITHOUT_DELETING])
@pytest.mark.parametrize("make_key", [int, str, OneHash])
@pytest.mark.parametrize(
    ("maxsize", "specification"), [(None, entry), (1000, entry), (2, evicted_at_times)]
)
def test_cache(maxsize, specification, make_key, names):
    c = Cache(maxsize)

    def choose(rng, number):
        # Each thread has its own, equal key.
        chosen = [rng.choice(names) for _ in range(8)]
        return [(name, (make_key(number), *ARGUMENTS[name](rng.randrange(2)))) for name in chosen]

    verify(
        lambda number: number,
        choose,
        ABSENT,
        specification,
        call=lambda _, name, args: getattr(c, name)(*args),
    )
