"""Pinning objects that other threads use: no thread may see a value that was never stored."""

import gc
import sys
import threading
import time

import pytest
from marks import starts_threads
from support import (
    CLASSES,
    NATIVE,
    background,
    collect_often,
    for_a_while,
    make,
    many,
    run_threads,
)

from nogil_sync import AtomicRef, is_pinned, pin, pin_all, pin_report

pytestmark = starts_threads

SECONDS = 0.8
MARK = "a value of the test"


class Value:
    __slots__ = ("mark", "n")

    def __init__(self, n):
        self.mark = MARK
        self.n = n


class Holder:
    def __init__(self):
        self.value = Value(0)


def right(x):
    assert type(x) is Value, f"alien: {type(x)}"
    assert x.mark is MARK


def store_in_dict(table, value):
    table["value"] = value


def store_in_list(items, value):
    items[0] = value


def store_in_attribute(holder, value):
    holder.value = value


PLACES = {
    "dict": (lambda: {"value": Value(0)}, store_in_dict, lambda t: t["value"]),
    "list": (lambda: [Value(0)], store_in_list, lambda t: t[0]),
    "attribute": (Holder, store_in_attribute, lambda h: h.value),
    "AtomicRef": (lambda: AtomicRef(Value(0)), AtomicRef.store, AtomicRef.load),
}


@pytest.mark.parametrize("collecting", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_references_show_only_values_stored_in_them(place, collecting):
    # A reader that loaded a reference looks again whether it is still there, unless the
    # object looks immortal: so a just-freed block must never come back as a pinned object of
    # another kind before all readers had a pause.
    make, store, load = PLACES[place]
    container = make()

    def read():
        for _ in range(300):
            right(load(container))

    def churn():
        for i in range(100):
            store(container, Value(i))

    others = []

    def pin_others():
        # Of the size of a Value, so that they reuse its freed blocks.
        others.append(pin((object(), object())))
        pin([None])
        pin(object())

    with background(read, read, churn, *([collect_often] if collecting else [])):
        for i in for_a_while(SECONDS):
            if i > 3000:
                break
            pin_others()
    right(load(container))


@pytest.mark.parametrize("place", PLACES)
def test_pinned_values_come_and_go(place):
    make, store, load = PLACES[place]
    container = make()

    def read():
        for _ in range(300):
            x = load(container)
            right(x)
            y = x
            right(y)

    pinned = []
    with background(read, read, lambda: store(container, Value(1))):
        for i in for_a_while(SECONDS):
            if i > 3000:
                break
            value = Value(i)
            if i % 2:
                pin(value)
                store(container, value)
            else:
                store(container, value)
                pin(value)
            pinned.append(value)
    for i, value in enumerate(pinned):
        right(value)
        assert value.n == i
        if NATIVE:
            assert is_pinned(value)


def make_all():
    return [
        object(),
        [1],
        (object(),),
        {"a": 1},
        {1},
        frozenset([object()]),
        10**30,
        1.5,
        b"some bytes"[1:],
        str(id(object())),
        bytearray(2),
        lambda: None,
        Value(1),
        Holder(),
        (i for i in ()),
        [].append,
        ValueError(1),
        threading.Lock(),
        range(10**5),
        sys._getframe(),
        *(make(cls) for cls in CLASSES),
    ]


def test_all_kinds_are_pinned_from_all_threads_during_collections():
    done = []

    def work():
        for i in for_a_while(SECONDS):
            if i >= 60:
                break
            objects = make_all()
            for before, after in zip(objects, pin_all(objects), strict=True):
                assert after is before or type(before) is str
            done.append(objects)

    with background(collect_often):
        run_threads(work, times=3)
    if NATIVE:
        for objects in done:
            for obj in objects:
                assert type(obj) is str or is_pinned(obj), type(obj)


def test_all_threads_pin_one_object():
    for _ in range(40):
        obj = Value(1)
        table = {"value": obj}

        def work(obj=obj, table=table):
            for _ in range(20):
                assert pin(obj) is obj
                held = [table["value"]] * 10
                assert held[3] is obj

        run_threads(work, times=4)
        if NATIVE:
            assert is_pinned(obj)


def test_objects_in_use_by_other_threads_are_pinned():
    handed = []
    stop = threading.Event()

    def own():
        while not stop.is_set():
            value = Value(1)
            handed.append(value)
            for _ in range(200):
                held = [value, value]
                right(held[1])
                del held
            right(value)

    owners = [threading.Thread(target=own, daemon=True) for _ in range(2)]
    for owner in owners:
        owner.start()
    count = 0
    for _ in for_a_while(SECONDS):
        if handed:
            value = handed.pop()
            assert pin(value) is value
            if NATIVE:
                assert is_pinned(value)
            count += 1
    stop.set()
    for owner in owners:
        owner.join()
    assert count


def test_pin_works_in_finalisers_during_collections():
    pinned = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            pinned.append(pin(Value(2)))
            pin(self.__dict__)

    def churn():
        for _ in range(20):
            Last()

    with background(churn, collect_often):
        for i in for_a_while(SECONDS):
            if i > 500:
                break
            pin(Value(3))
    gc.collect()
    assert pinned
    for value in pinned:
        right(value)


class Link:
    __slots__ = ("next",)


def test_deep_pins_a_graph_of_all_kinds(tmp_path):
    """A lock, an open file, a cycle, a long chain, while other threads use the graph."""
    length = many(300_000)  # at two words of stack for each it would not fit
    chain = None
    for _ in range(length):
        link = Link()
        link.next = chain
        chain = link
    with (tmp_path / "file").open("w") as file:
        lock = threading.Lock()
        graph = {"lock": [lock], "file": {"it": file}, "chain": chain, "items": [[]]}
        graph["me"] = graph

        def use():
            with graph["lock"][0]:
                items = graph["items"][0]
                items.append([float(len(items))])
                if len(items) > 1000:
                    graph["items"][0] = []
            time.sleep(0.0001)

        with background(use):
            report = pin_report(graph)
            assert pin(graph, deep=True) is graph
        assert {id(each.obj) for each in report.left} == {id(lock), id(file)}
        assert {each.path for each in report.left} == {"obj['lock'][0]", "obj['file']['it']"}
        assert report.by_type[f"{Link.__module__}.Link"][0] == length
        if NATIVE:
            assert not is_pinned(lock)
            assert not is_pinned(file)
            assert is_pinned(graph)
            while chain is not None:
                assert is_pinned(chain)
                chain = chain.next
    assert file.closed


def test_threads_that_end_leave_pinned_objects_whole():
    kept = []

    def short():
        value = Value(4)
        kept.append(pin(value))
        kept.append(pin([value]))

    for _ in range(100):
        run_threads(short, times=2)
    gc.collect()
    for obj in kept:
        right(obj if type(obj) is Value else obj[0])
