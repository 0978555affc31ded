"""Tuples as arguments of every call that takes an object of the user.

A tuple is what C code most easily takes apart by mistake: as the arguments of a call, as those of
an exception, as several values of a format.
"""

import re
import threading
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from marks import starts_threads
from support import TIMEOUT

from nogil_sync import (
    AtomicBool,
    AtomicInt64,
    AtomicRef,
    Barrier,
    Channel,
    Cond,
    Event,
    Mutex,
    Once,
    Pool,
    Semaphore,
    ShardedCounter,
    SyncMap,
    TaskGroup,
    WaitGroup,
    is_pinned,
    once,
    once_property,
    pin,
    pin_all,
)


class Point(NamedTuple):
    x: object
    y: object


class Sub(tuple):  # noqa: SLOT001
    """A tuple with attributes: its type is not tuple itself."""


TUPLES = {
    "empty": (),
    "one": (1,),
    "none": (None,),
    "empty in one": ((),),
    "strings": ("ab", "cd"),
    "pair": ("key", 1),
    "pairs": (("a", 1), ("b", 2)),
    "deep": (((((1,),),),), ()),
    "exception": (ValueError, "text", None),
    "named": Point("x", ("y",)),
    "subclass": Sub((1, 2)),
    "empty subclass": Sub(),
    "subclass in one": (Sub("ab"),),
}

OTHER = ("other",)


def fresh(value):
    """An equal tuple that is another object."""
    if type(value) is tuple:
        return (*value, None)[:-1]
    return type(value)(*value) if isinstance(value, Point) else type(value)(list(value))


def atomic_ref(t):
    ref = AtomicRef(t)
    assert ref.load() is t
    assert ref.swap(OTHER) is t
    ref.store(t)
    assert not ref.compare_and_swap(OTHER, None)
    assert ref.compare_and_swap(t, OTHER)
    assert ref.update(lambda old: t if old is OTHER else None) is t
    assert ref.update(lambda old: (old, t)) == (t, t)
    assert repr(AtomicRef(t)) == f"AtomicRef({t!r})"


def atomic_bool(t):
    flag = AtomicBool(t)
    assert flag.load() is bool(t)
    assert flag.swap(t) is bool(t)
    flag.store(t)
    assert flag.compare_and_swap(t, t)


def channel(t):
    ch = Channel(3)
    ch.send(t)
    assert ch.try_send(t)
    ch.send(value=t)
    assert ch.recv() is t
    assert ch.try_recv() is t
    assert next(ch) is t
    assert ch.try_recv(t) is t
    assert ch.try_recv(default=t) is t
    ch.send(t)
    ch.close()
    assert [each is t for each in ch] == [True]


def channel_rendezvous(t):
    ch = Channel()
    sender = threading.Thread(target=ch.send, args=(t,), daemon=True)
    sender.start()
    assert ch.recv(TIMEOUT) is t
    sender.join(TIMEOUT)


def cond(t):
    c = Cond()
    with c:
        assert c.wait_for(lambda: t, timeout=0) is t


def once_do(t):
    o = Once()
    assert o.do(lambda *args, **kwargs: (args, kwargs), t, t, k=t) == ((t, t), {"k": t})
    assert Once().do(lambda: t) is t
    o = Once()
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            o.do(fail, t)
        assert caught.value.args == (t,)


def once_function(t):
    @once
    def first():
        return t

    assert first() is t
    assert first() is t
    failing = once(lambda: fail(t))
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            failing()
        assert caught.value.args == (t,)


def property_once(t):
    class C:
        value = once_property(lambda self: t)

    obj = C()
    assert obj.value is t
    assert obj.value is t


def pool(t):
    log = []
    p = Pool(lambda: t, reset=lambda item: log.append(("reset", item)), max_idle=1)
    assert p.get() is t
    p.put(t)
    assert p.get() is t
    with p.use() as item:
        assert item is t
    assert log == [("reset", t)] * 2


def pool_drop(t):
    log = []
    p = Pool(list, drop=log.append)
    p.put(t)
    p.clear()
    assert log == [t]


def wait_group(t):
    log = []
    group = WaitGroup()
    group.go(lambda *args, **kwargs: log.append((args, kwargs)), t, t, k=t)
    assert group.wait(TIMEOUT)
    assert log == [((t, t), {"k": t})]


def task_group(t):
    with TaskGroup() as tg:
        future = tg.go(lambda *args, **kwargs: (args, kwargs), t, k=t)
        assert future.result(TIMEOUT) == ((t,), {"k": t})
        assert tg.go(lambda: t).result(TIMEOUT) is t
    with pytest.raises(ExceptionGroup) as caught, TaskGroup() as tg:
        tg.go(fail, t)
    assert caught.value.exceptions[0].args == (t,)


def fail(value):
    raise KeyError(value)


def map_key(t):
    m = SyncMap()
    m[t] = 1
    assert m[t] == 1
    assert m[fresh(t)] == 1
    assert t in m
    assert fresh(t) in m
    assert list(m) == [t]
    assert m.keys() == {t}
    assert t in m.keys()  # noqa: SIM118
    assert (t, 1) in m.items()
    assert m.snapshot() == {t: 1} == m
    assert repr(m) == f"SyncMap({{{t!r}: 1}})"
    assert m.get(t) == m.get(fresh(t)) == m.get(key=t) == 1
    assert m.insert(t, 2) is False
    assert m.setdefault(t, 2) == 1
    assert m.swap(t, 3) == 1
    assert m.compare_and_swap(t, 3, 4)
    assert m.modify(fresh(t), lambda n: n + 1, 0) == 5
    assert m.load_or_compute(t, fail, t) == 5
    assert m.compare_and_delete(t, 5)
    assert m.load_or_compute(t, lambda: 6) == 6
    del m[t]
    m[t] = 7
    assert m.pop(t) == 7
    m[t] = 8
    assert m.popitem() == (t, 8)
    assert m.setdefault(t) is None
    assert m.pop(fresh(t)) is None


def map_missing_key(t):
    m = SyncMap()
    for miss in (m.__getitem__, m.__delitem__, m.pop):
        with pytest.raises(KeyError) as caught:
            miss(t)
        assert caught.value.args == (t,)
    assert not m.compare_and_swap(t, t, t)
    assert not m.compare_and_delete(t, t)
    with pytest.raises(KeyError) as caught:
        m.load_or_compute(t, fail, t)
    assert caught.value.args == (t,)


def map_default(t):
    m = SyncMap()
    assert m.get("k", t) is t
    assert m.pop("k", t) is t
    assert m.swap("k", 1, t) is t
    m.clear()
    assert m.setdefault("k", t) is t
    m.clear()
    assert m.modify("k", lambda default: (default, default), t) == (t, t)


def map_value(t):
    m = SyncMap(k=t)
    assert m["k"] is t
    assert m.get("k") is t
    assert m.swap("k", OTHER) is t
    m["k"] = t
    assert t in m.values()
    assert list(m.values()) == [t]
    assert list(m.items()) == [("k", t)]
    assert m.compare_and_swap("k", fresh(t), OTHER)
    assert m.modify("k", lambda old: (old, t), None) == (OTHER, t)
    m["k"] = t
    assert m.compare_and_delete("k", fresh(t))
    assert m.insert("k", t)
    assert m.setdefault("k", OTHER) is t
    assert m.popitem()[1] is t
    assert m.load_or_compute("k", lambda *args: args[0], t, OTHER) is t
    assert m.pop("k") is t


def map_during_a_call(t):
    # Then Python code deletes the key.
    m = SyncMap()

    def delete():
        for remove in (m.__delitem__, m.pop, lambda key: m.compare_and_delete(key, 1)):
            m[t] = 1
            remove(t)
        m[t] = 1
        assert m.popitem() == (t, 1)
        m[t] = 1
        m.clear()
        return "computed"

    assert m.load_or_compute(t, delete) == "computed"
    assert m.load_or_compute("other", delete) == "computed"
    assert m == {}


def map_source(t):
    try:
        wanted = dict(t)
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            SyncMap(t)
        with pytest.raises(type(error)):
            SyncMap().update(t)
        return
    assert SyncMap(t) == wanted
    m = SyncMap()
    m.update(t)
    assert m == wanted
    m = SyncMap()
    m |= t
    assert m == wanted


def map_pairs(t):
    assert SyncMap(((t, t),)) == {t: t}
    assert SyncMap([(t, t)]) == {t: t}
    assert SyncMap({t: t}) | {1: t} == {t: t, 1: t}
    assert {1: t} | SyncMap({t: t}) == {t: t, 1: t}
    m = SyncMap()
    m.update(((t, t),), k=t)
    assert m == {t: t, "k": t}
    assert m.copy() == m


def pinned(t):
    mine = pin(t)
    assert mine == t
    assert [each == t for each in pin_all((t, fresh(t)))] == [True, True]
    assert is_pinned(t) in (True, False)


GOOD = [
    *(atomic_ref, atomic_bool, channel, channel_rendezvous, cond),
    *(once_do, once_function, property_once, pool, pool_drop, wait_group, task_group),
    *(map_key, map_missing_key, map_default, map_value, map_during_a_call, map_source, map_pairs),
    pinned,
]


@starts_threads
@pytest.mark.parametrize("use", GOOD, ids=lambda use: use.__name__)
@pytest.mark.parametrize("value", TUPLES.values(), ids=TUPLES)
def test_tuple_is_passed_as_one_object(use, value):
    use(value)


# Where something else is wanted.
BAD: dict[str, Any] = {
    "AtomicInt64": lambda t: AtomicInt64(t),
    "AtomicInt64.add": lambda t: AtomicInt64().add(t),
    "AtomicInt64.store": lambda t: AtomicInt64().store(t),
    "AtomicInt64.compare_and_swap": lambda t: AtomicInt64().compare_and_swap(0, t),
    "ShardedCounter": lambda t: ShardedCounter(t),
    "ShardedCounter.add": lambda t: ShardedCounter().add(t),
    "AtomicRef.update": lambda t: AtomicRef().update(t),
    "Channel": lambda t: Channel(t),
    "Channel.recv": lambda t: Channel().recv(t),
    "Channel.send": lambda t: Channel[int]().send(1, t),
    "Mutex.acquire": lambda t: Mutex().acquire(True, t),
    "Event.wait": lambda t: Event().wait(t),
    "Semaphore": lambda t: Semaphore(t),
    "Semaphore.release": lambda t: Semaphore().release(t),
    "Semaphore.hold": lambda t: Semaphore().hold(t),
    "WaitGroup.add": lambda t: WaitGroup().add(t),
    "WaitGroup.wait": lambda t: WaitGroup().wait(t),
    "Barrier": lambda t: Barrier(t),
    "Barrier.wait": lambda t: Barrier(1).wait(t),
    "Pool": lambda t: Pool(t),
    "Pool.reset": lambda t: Pool(list, reset=t),
    "Pool.max_idle": lambda t: Pool(list, max_idle=t),
    "Once.do": lambda t: Once().do(t),
    "once": lambda t: once(t),
    "once_property": lambda t: once_property(t),
    "SyncMap.modify": lambda t: SyncMap[str, int]().modify("k", t, 0),
    "SyncMap.load_or_compute": lambda t: SyncMap[str, int]().load_or_compute("k", t),
    "SyncMap.load_or_compute, timeout": lambda t: SyncMap(k=1).load_or_compute("k", int, timeout=t),
    "SyncMap.__or__": lambda t: SyncMap() | t,
    "SyncMap.__init__": lambda t: SyncMap(*cast("list[Any]", [t, t])),
    "TaskGroup": lambda t: TaskGroup(t),
    "unhashable": lambda t: SyncMap[Any, int]().get((*t, [])),
}


@pytest.mark.parametrize("use", BAD.values(), ids=BAD)
@pytest.mark.parametrize("value", TUPLES.values(), ids=TUPLES)
def test_tuple_is_refused_as_one_object(use, value):
    with pytest.raises(TypeError) as caught:
        use(value)
    # Not that some function got as many arguments as there are items.
    assert "given)" not in str(caught.value) or use is BAD["SyncMap.__init__"]


def test_no_call_from_c_unpacks_a_tuple():
    # As "O" alone does, which makes a tuple the arguments: "(O)" does not.
    folder = Path(__file__).parents[2] / "nogil_sync" / "_native"
    sources = {path.name: path.read_text() for path in folder.rglob("*.[ch]")}
    assert "syncmap_protocol.c" in sources
    calls = r"PyObject_Call(?:Method|Function)\s*\([^;]*?\"(?:O|N|S)\"\s*,"
    found = [(name, call) for name, text in sources.items() for call in re.findall(calls, text)]
    assert not found
