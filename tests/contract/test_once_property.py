"""once_property: one value for each instance."""

import inspect
import threading

import pytest
from marks import starts_threads
from onces import Obstinate, Page
from support import TIMEOUT, run_threads

from nogil_sync import once_property


def test_property_is_computed_once_per_instance():
    page, other = Page(), Page()
    assert page.words is page.words
    assert page.words is not other.words
    assert page.length == 2
    assert page.computed == ["words", "length"]
    assert page.__dict__["words"] is page.words


def test_property_is_set_and_deleted():
    page = Page()
    first = page.words
    del page.words
    assert page.words is not first
    page.words = 5
    assert page.words == 5
    assert page.computed == ["words", "words"]
    del page.words
    with pytest.raises(AttributeError):
        del page.words


def test_property_of_the_class():
    assert isinstance(Page.words, once_property)
    assert Page.words.attrname == "words"
    assert Page.words.__doc__ == "The words."
    assert Page.words.func(Page()) == ["to", "be"]
    assert inspect.getdoc(once_property)


def test_property_of_a_class_without_dict_raises():
    class Slotted:
        __slots__ = ()

        @once_property
        def value(self):
            raise AssertionError("called")

    with pytest.raises(TypeError, match="__dict__"):
        Slotted().value


def test_property_with_read_only_dict_raises():
    class Meta(type):
        @once_property
        def value(cls):
            return 1

    class Made(metaclass=Meta):
        pass

    with pytest.raises(TypeError, match="__dict__"):
        Made.value


def test_property_without_a_name_raises():
    class Bare:
        pass

    Bare.value = once_property(lambda self: 1)
    with pytest.raises(TypeError, match="__set_name__"):
        Bare().value
    Bare.value.__set_name__(Bare, "value")
    assert Bare().value == 1


def test_property_with_two_names_raises():
    # Up to Python 3.11 a RuntimeError wraps the errors of __set_name__.
    with pytest.raises((TypeError, RuntimeError)):

        class Twice:
            a = b = once_property(lambda self: 1)

    shared = once_property(lambda self: type(self).__name__)

    class First:
        value = shared

    class Second:
        value = shared

    assert (First().value, Second().value) == ("First", "Second")


def test_property_of_unhashable_instances():
    class Odd(Obstinate):
        @once_property
        def value(self):
            return 10**9

    odd = Odd()
    assert odd.value is odd.value


def test_property_overridden_in_a_subclass():
    class Longer(Page):
        @once_property
        def words(self):
            return [*super().words, "or", "not"]

    page = Longer()
    assert page.words == ["to", "be", "or", "not"]
    assert page.words is page.words
    assert page.length == 4
    assert page.computed == ["words", "length"]


def test_recursive_property_raises():
    class Loop:
        @once_property
        def a(self):
            return self.b

        @once_property
        def b(self):
            return self.a

    loop = Loop()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="recursive"):
            loop.a
    assert not loop.__dict__


def test_property_uses_that_of_another_instance():
    class Node:
        def __init__(self, below):
            self.below = below

        @once_property
        def depth(self):
            return 0 if self.below is None else self.below.depth + 1

    node = None
    for _ in range(20):
        node = Node(node)
    assert node.depth == 19


@starts_threads
def test_properties_of_one_instance_do_not_wait_for_each_other():
    meet = threading.Barrier(2)

    class Pair:
        @once_property
        def a(self):
            return meet.wait(TIMEOUT)

        @once_property
        def b(self):
            return meet.wait(TIMEOUT)

    pair = Pair()
    assert sorted(run_threads(lambda: pair.a, lambda: pair.b)) == [0, 1]


@starts_threads
def test_property_deleted_by_other_threads_runs_again():
    class Counter:
        @once_property
        def value(self):
            return object()

    counter = Counter()

    def read():
        for _ in range(500):
            assert type(counter.value) is object

    def delete():
        for _ in range(500):
            counter.__dict__.pop("value", None)

    run_threads(read, read, delete)


def test_finished_runs_leave_nothing_in_the_tables():
    from nogil_sync._common import runs as _runs

    assert threading.get_ident() not in _runs._waits
    mine = [run for run in list(_runs._running.values()) if run.thread == threading.get_ident()]
    assert not mine
