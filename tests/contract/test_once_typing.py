"""once: annotations and type parameters."""

import functools
import inspect
import sys
import typing

import pytest

from nogil_sync import Once, once, once_property

# What the interpreter and `typing` know about functions


def annotated() -> "int":
    return 1


def plainly() -> int:
    return 1


def bare():
    return 1


@pytest.mark.parametrize("fn", [annotated, plainly, bare])
def test_annotations_are_those_of_the_function(fn):
    f = once(fn)
    assert f.__annotations__ == fn.__annotations__
    assert f.__annotations__ is f.__annotations__
    assert typing.get_type_hints(f) == typing.get_type_hints(fn)
    assert inspect.get_annotations(f) == inspect.get_annotations(fn)
    assert inspect.signature(f) == inspect.signature(fn)
    f()
    assert f.__annotations__ == fn.__annotations__
    assert inspect.signature(f) == inspect.signature(fn)
    assert fn.__annotations__ == once(fn).__annotations__


def test_annotations_pass_through_wrappers():
    f = once(plainly)

    @functools.wraps(f)
    def wrapper():
        return f()

    assert wrapper.__annotations__ == {"return": int}
    assert typing.get_type_hints(wrapper) == {"return": int}
    assert once(f).__annotations__ == {"return": int}


def test_annotations_can_be_replaced():
    f = once(plainly)
    f.__annotations__ = {"return": str}
    assert f.__annotations__ == {"return": str}
    assert inspect.signature(f).return_annotation is str
    del f.__annotations__
    g = once(plainly)
    g.__annotations__["more"] = int
    assert g.__annotations__ == {"return": int, "more": int}


def test_annotations_of_functions_without_any():
    f = once(functools.partial(int, 5))
    assert f.__annotations__ == {}
    assert inspect.signature(f) == inspect.Signature()
    assert f() == 5


@pytest.mark.skipif(sys.version_info < (3, 14), reason="evaluated at once")
def test_annotations_are_evaluated_when_asked_for():
    scope = {"once": once}
    exec("@once\ndef f() -> Later:\n    return 1", scope)
    f = scope["f"]
    assert f() == 1
    with pytest.raises(NameError, match="Later"):
        f.__annotations__
    scope["Later"] = int
    assert f.__annotations__ == {"return": int}


def test_annotations_of_the_class():
    kind = type(once(int))
    assert kind.__annotations__ == {}

    class Typed(kind):  # type: ignore[misc,valid-type]
        limit: int

    assert Typed.__annotations__ == {"limit": int}
    assert Typed(plainly)() == 1


class Named(once_property):
    pass


class Lazily(Once):
    pass


class Decorated(type(once(int))):  # type: ignore[misc]
    pass


@pytest.mark.parametrize("cls", [once_property, Named, Once, Lazily, type(once(int)), Decorated])
def test_classes_and_their_subclasses_take_parameters(cls):
    alias = cls[int]
    assert typing.get_origin(alias) is cls
    assert typing.get_args(alias) == (int,)
    assert cls[typing.TypeVar("T")] is not None


def test_instances_of_a_parametrised_subclass():
    class Page:
        words = Named[int](lambda page: 5)

    assert Page().words == 5
    assert type(vars(Page)["words"]) is Named

    class Special(Named[int]):
        pass

    assert Special[str] is not None
    assert Special(len).func is len
