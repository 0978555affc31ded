"""cached: functions, methods and coroutines whose results are kept."""

import asyncio
import functools
import gc
import inspect
import math
import pickle
import sys
import threading
import weakref
from unittest.mock import MagicMock, Mock

import pytest
from marks import starts_threads
from support import TIMEOUT, run_threads

from nogil_sync import Cache, CachedFunction, cached


def counted(**options):
    """A cached function, and the arguments of its runs."""
    runs = []

    @cached(**options)
    def double(n, *args, **kwargs):
        """Twice."""
        runs.append(n)
        return [n * 2]

    return double, runs


def test_function_runs_once_for_each_arguments():
    double, runs = counted()
    assert double(2) is double(2)
    assert double("a") is double("a")
    assert double(2, 3) is double(2, 3)
    assert double(2, k=3) is double(2, k=3)
    assert double((2, 3)) is not double(2, 3)
    assert runs == [2, "a", 2, 2, (2, 3)]


def test_keyword_and_position_are_different_keys():
    double, runs = counted()
    double(n=1)
    double(1)
    double(n=1)
    assert runs == [1, 1]


def test_decorator_takes_options_or_none():
    @cached
    def plain(n):
        return n

    @cached(5, 60)
    def sized(n):
        return n

    assert plain(1) == sized(1) == 1
    assert plain.cache_parameters() == {"maxsize": 128, "ttl": None, "typed": False}
    assert sized.cache_parameters() == {"maxsize": 5, "ttl": 60, "typed": False}
    assert plain.cache_parameters() is not plain.cache_parameters()
    assert type(plain) is type(sized) is CachedFunction


def test_info_and_clear_are_those_of_lru_cache():
    @functools.lru_cache(3)
    def theirs(n):
        return n

    mine, runs = counted(maxsize=3)
    for function in (mine, theirs):
        for n in (1, 2, 1, 1, 3):
            function(n)
    assert mine.cache_info() == theirs.cache_info() == (2, 3, 3, 3)
    assert str(mine.cache_info()) == str(theirs.cache_info())
    mine.cache_clear()
    theirs.cache_clear()
    assert mine.cache_info() == theirs.cache_info() == (0, 0, 3, 0)
    mine(1)
    assert mine.cache_info() == (0, 1, 3, 1)
    assert runs == [1, 2, 3, 1]


@pytest.mark.parametrize("maxsize", [0, None])
def test_maxsize_zero_and_none_are_those_of_lru_cache(maxsize):
    theirs = functools.lru_cache(maxsize)(abs)
    mine = cached(maxsize)(abs)
    for function in (mine, theirs):
        for n in (1, 1, 2):
            function(n)
    assert mine.cache_info() == theirs.cache_info()


def test_function_looks_like_the_one_it_was_made_of():
    double, _ = counted()
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice."
    assert double.__module__ == __name__
    assert "double" in double.__qualname__
    assert double.__wrapped__.__name__ == "double"
    assert [*inspect.signature(double).parameters] == ["n", "args", "kwargs"]
    assert "double" in repr(double)
    assert callable(double)


def test_annotations_are_those_of_the_function():
    @cached
    def area(width: int, height: int) -> int:
        return width * height

    assert area.__annotations__ == {"width": int, "height": int, "return": int}
    assert inspect.signature(area).return_annotation is int


def test_methods_are_cached_by_instance():
    class Squares:
        runs = 0

        @cached
        def of(self, n):
            self.runs += 1
            return n * n

        @classmethod
        @cached
        def name(cls, n):
            return cls, n

        @staticmethod
        @cached
        def twice(n):
            return [n]

    a, b = Squares(), Squares()
    assert a.of(3) == a.of(3) == b.of(3) == 9
    assert (a.runs, b.runs) == (1, 1)
    assert Squares.of(a, 3) == 9
    assert a.runs == 1
    assert Squares.of.cache_info().hits == 2
    bound = a.of
    assert bound(3) == 9
    assert a.name(1) is Squares.name(1)
    assert a.twice(1) is Squares.twice(1)


def test_key_function_chooses_the_key():
    double, runs = counted(key=lambda n, *args, **kwargs: n % 10)
    assert double(3) is double(13, "ignored", k=[])
    assert runs == [3]
    assert double.cache_key(27) == 7
    assert list(double.cache) == [3]


def test_cache_key_finds_the_result():
    double, _ = counted()
    result = double(1, 2, k=3)
    assert double.cache[double.cache_key(1, 2, k=3)] is result
    assert double.cache.pop(double.cache_key(1, 2, k=3)) is result
    assert double(1, 2, k=3) is not result
    assert isinstance(double.cache, Cache)


def test_unhashable_argument_is_a_type_error():
    double, runs = counted()
    with pytest.raises(TypeError, match="unhashable"):
        double([])
    with pytest.raises(TypeError, match="unhashable"):
        double(1, k=[])
    assert runs == []


def test_results_expire():
    double, runs = counted(ttl=1e-9)
    double(1)
    threading.Event().wait(0.001)
    double(1)
    assert runs == [1, 1]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"maxsize": -1}, ValueError),
        ({"maxsize": "x"}, TypeError),
        ({"ttl": 0}, ValueError),
        ({"ttl": math.nan}, ValueError),
        ({"key": 5}, TypeError),
    ],
)
def test_wrong_option_is_an_error(options, error):
    with pytest.raises(error):
        cached(**options)


NEITHER = [classmethod(len), property(len), "name", 1.5]  # type: ignore[arg-type]


@pytest.mark.parametrize("what", NEITHER)
def test_what_is_neither_function_nor_size_is_named_in_the_error(what):
    with pytest.raises(TypeError, match=f"takes a function, .* not '{type(what).__name__}'"):
        cached(what)


def test_what_cannot_be_called_is_a_type_error():
    with pytest.raises(TypeError, match="not callable"):
        cached(5)(6)
    with pytest.raises(TypeError):
        CachedFunction(5)


def test_failure_is_not_kept():
    runs = []

    @cached
    def fails(n):
        runs.append(n)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fails(1)
    assert runs == [1, 1]


def test_a_level_of_recursion_takes_ten_frames_at_most():
    def depth():
        frame, frames = inspect.currentframe(), 0
        while frame is not None:
            frame, frames = frame.f_back, frames + 1
        return frames

    @cached
    def nested(n):
        return nested(n - 1) if n else depth()

    assert nested(10) - depth() <= 11 * 10


def test_recursion_over_other_arguments_works():
    @cached(maxsize=None)
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(60) == 1548008755920
    assert fib.cache_info().misses == 61


@starts_threads
def test_threads_that_call_at_once_share_one_run():
    runs, go, waiting = [], threading.Event(), threading.Semaphore(0)

    @cached
    def load(key):
        runs.append(key)
        assert go.wait(TIMEOUT)
        return object()

    def call():
        waiting.release()
        return load("k")

    def let_go():
        for _ in range(10):
            waiting.acquire()
        go.set()

    *results, _ = run_threads(*[call] * 10, let_go)
    assert len(set(map(id, results))) == 1
    assert runs == ["k"]


def test_tasks_await_one_run():
    runs = []

    @cached(maxsize=10)
    async def fetch(url):
        runs.append(url)
        await asyncio.sleep(0)
        return [url]

    async def main():
        results = await asyncio.gather(*(fetch("/") for _ in range(5)))
        assert len(set(map(id, results))) == 1
        assert await fetch("/") is results[0]
        assert await fetch("/other") == ["/other"]

    asyncio.run(main())
    assert runs == ["/", "/other"]
    assert fetch.cache_info().currsize == 2
    # inspect has a mark for such functions from 3.12 on, asyncio up to 3.13 or so.
    asks = inspect if sys.version_info >= (3, 12) else asyncio
    assert asks.iscoroutinefunction(fetch)
    assert not asks.iscoroutinefunction(cached(len))


def test_async_method_is_cached():
    class Client:
        @cached
        async def get(self, n):
            return [n]

    async def main():
        client = Client()
        assert await client.get(1) is await client.get(1)

    asyncio.run(main())


@pytest.mark.parametrize("mock", [Mock, MagicMock])
def test_mock_is_a_function_like_another(mock):
    function = cached(mock(return_value=3))
    assert function(2) == function(2) == 3
    assert function.__wrapped__.call_count == 1


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="new in Python 3.12")
def test_function_that_is_marked_as_a_coroutine_function_is_awaited():
    runs = []

    def later(n):
        runs.append(n)
        return asyncio.sleep(0, n)

    function = cached(inspect.markcoroutinefunction(later))

    async def main():
        return [await function(1), await function(1)]

    assert asyncio.run(main()) == [1, 1]
    assert runs == [1]


def test_failure_of_a_task_is_not_kept():
    runs = []

    @cached
    async def fails():
        runs.append(1)
        raise ZeroDivisionError

    async def main():
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await fails()

    asyncio.run(main())
    assert runs == [1, 1]


def test_cached_function_is_not_pickled_and_takes_parameters():
    with pytest.raises(TypeError, match="CachedFunction"):
        pickle.dumps(counted()[0])
    assert CachedFunction[[int], int].__origin__ is CachedFunction


def test_methods_before_init_raise():
    function = CachedFunction.__new__(CachedFunction)
    for call in (function, function.cache_info, function.cache_clear, lambda: function.cache):
        with pytest.raises(RuntimeError, match="not initialized"):
            call()
    assert "not initialized" in repr(function)


def test_function_and_results_are_collected():
    class Result:
        pass

    @cached
    def make(n):
        return Result()

    watch = weakref.ref(make(1))
    function = weakref.ref(make)
    make.me = make
    del make
    gc.collect()
    assert function() is None
    assert watch() is None
