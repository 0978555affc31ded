"""Which entries Cache evicts: in one thread those that the model of its policy evicts."""

import importlib.util
import random
from pathlib import Path

import pytest

from nogil_sync import Cache

MODELS = Path(__file__).parents[2] / "perf" / "policies.py"

pytestmark = pytest.mark.skipif(not MODELS.is_file(), reason="not run in the source tree")


def model_of(size):
    spec = importlib.util.spec_from_file_location("policies", MODELS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Ours(size)


def popular(rng):
    return int(rng.paretovariate(0.6))


def phases(seed, size, requests):
    """Popular keys that change, a scan, and a loop, by turns: keys that are ints."""
    rng = random.Random(seed)
    for phase in range(6):
        for number in range(requests // 6):
            if phase % 3 == 0:
                yield popular(rng) * (phase + 1)
            elif phase % 3 == 1:
                yield 10**9 + number if number % 3 else popular(rng)
            else:
                yield 10**8 + number % (size * 5 // 4)


@pytest.mark.parametrize("make_key", [int, str])
@pytest.mark.parametrize("size", [1, 2, 9, 60, 500])
def test_one_thread_evicts_the_entries_of_the_model(size, make_key):
    cache, model = Cache(size), model_of(size)
    hits = 0
    for key in phases(size, size, 12 * size + 3000):
        stored = make_key(key)
        found = cache.get(stored) is not None
        assert found == model.request(key)
        hits += found
        if not found:
            cache[stored] = key
    assert sorted(map(int, cache)) == sorted(model.uses)
    assert hits
