"""once: exceptions of the function."""

import functools
import traceback

import pytest
from onces import (
    Counted,
    Obstinate,
    by_function,
    by_object,
    by_property,
    every,
    names_of,
    raises,
    settling,
)

from nogil_sync import once

# Exceptions


@settling
def test_exception_is_raised_by_every_call(make):
    error = ValueError("x")
    fn = Counted(raises(error))
    call = make(fn)
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            call()
        assert caught.value is error
        assert call.done()
    assert fn.runs == 1


@settling
def test_traceback_leads_to_the_origin_and_does_not_grow(make):
    def origin():
        raise ValueError

    def middle():
        origin()

    call = make(middle)

    def user():
        try:
            call()
        except ValueError as error:
            return names_of(error)

    first = user()
    assert first[0] == "user"
    assert first[-2:] == ["middle", "origin"]
    for _ in range(10):
        assert user() == first

    def another():
        try:
            call()
        except ValueError as error:
            return names_of(error)

    assert another() == ["another", *first[1:]]


def test_exception_of_a_c_function_is_raised_again():
    f = once(functools.partial(int, "x"))

    def user():
        with pytest.raises(ValueError) as caught:
            f()
        return names_of(caught.value)

    assert user() == user()


@settling
def test_exception_context_does_not_change(make):
    def origin():
        try:
            raise KeyError
        except KeyError:
            raise ValueError from None

    call = make(origin)

    def caught():
        try:
            call()
        except ValueError as error:
            return error

    error = caught()
    context = error.__context__
    assert type(context) is KeyError
    for _ in range(3):
        try:
            raise OSError
        except OSError:
            assert caught() is error
            assert error.__context__ is context
            assert error.__cause__ is None
    wrapper = RuntimeError()
    try:
        raise wrapper from error
    except RuntimeError:
        assert caught() is error
        assert error.__context__ is context
        assert wrapper.__cause__ is error
    try:
        raise error
    except ValueError:
        assert caught() is error
        assert error.__context__ is context
    assert len(traceback.format_exception(error)) < 30


@settling
def test_run_inside_except_block_keeps_its_context(make):
    call = make(raises(ValueError()))
    outer = OSError()
    try:
        raise outer
    except OSError:
        with pytest.raises(ValueError) as caught:
            call()
        assert caught.value.__context__ is outer
    with pytest.raises(ValueError) as caught:
        call()
    assert caught.value.__context__ is outer


@pytest.mark.parametrize(
    "make",
    [
        lambda fn: by_function(fn, retry=True),
        lambda fn: by_object(fn, retry=True),
        by_property,
    ],
    ids=["function", "object", "property"],
)
def test_failed_run_with_retry_runs_again(make):
    errors = [OSError(), ValueError(), KeyError()]
    left = [*errors, None]

    def act():
        error = left.pop(0)
        if error is not None:
            raise error
        return "at last"

    fn = Counted(act)
    call = make(fn)
    for error in errors:
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error
        assert not call.done()
    assert call() == call() == "at last"
    assert fn.runs == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseException])
@every
def test_base_exception_never_settles(make, error):
    left = [error(), error(), None]

    def act():
        each = left.pop(0)
        if each is not None:
            raise each
        return 5

    call = make(act)
    for _ in range(2):
        with pytest.raises(error):
            call()
        assert not call.done()
    assert call() == 5


def test_exception_class_with_odd_methods_is_raised_again():
    class StubbornError(Exception):
        def with_traceback(self, tb):
            raise AssertionError("called")

        def __eq__(self, other):
            raise AssertionError("called")

        __hash__ = None

        def __bool__(self):
            raise AssertionError("called")

    f = once(raises(StubbornError()))
    for _ in range(2):
        with pytest.raises(StubbornError):
            f()


@every
def test_results_are_returned_unchanged(make):
    call = make(Obstinate)
    assert type(call()) is Obstinate
    assert call() is call()
