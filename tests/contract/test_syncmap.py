"""SyncMap as a mapping, and the atomic operations that dict lacks."""

import collections
import collections.abc
import copy
import gc
import pickle
import sys
import threading
import types
import weakref

import pytest
from marks import starts_threads
from processes import in_own_process
from support import NATIVE, TIMEOUT, background, collected, run_threads

from nogil_sync import SyncMap

keeps_back = pytest.mark.thread_unsafe(
    reason="a thread that the system stops amid a lookup keeps back what others delete meanwhile"
)

CONTENTS = [
    {},
    {"a": 1},
    {"a": 1, "b": None, "": ...},
    {0: "zero", -1: "minus", 2**70: "huge", 1.5: "float", (1, "x"): "tuple", None: "none"},
    {n: str(n) for n in range(1000)},
]
contents = pytest.mark.parametrize("plain", CONTENTS, ids=len)


class Key:
    """A key of a user's class, with a hash and an equality of its own."""

    def __init__(self, name, code=None):
        self.name = name
        self.code = hash(name) if code is None else code

    def __hash__(self):
        return self.code

    def __eq__(self, other):
        return isinstance(other, Key) and self.name == other.name

    def __repr__(self):
        return f"Key({self.name!r})"


# Making one


def test_constructor_takes_what_dict_takes():
    class Mapping:
        def keys(self):
            return iter("ab")

        def __getitem__(self, key):
            return key * 2

    for args, kwargs in (
        ((), {}),
        (({},), {}),
        (({"a": 1},), {"b": 2}),
        (({"a": 1},), {"a": 2}),
        (([("a", 1), ("a", 2), ["b", 3], "xy"],), {}),
        ((iter([(1, 2)]),), {"self": 1, "key": 2, "mapping_or_pairs": 3}),
        ((Mapping(),), {}),
        ((collections.ChainMap({"a": 1}, {"b": 2}),), {}),
        ((types.MappingProxyType({"a": 1}),), {}),
        ((collections.OrderedDict(a=1),), {"z": 1}),
        ((SyncMap(a=1, b=2),), {"b": 3}),
    ):
        copied = [list(a) if isinstance(a, collections.abc.Iterator) else a for a in args]
        m = SyncMap(*copied, **kwargs)
        assert m.snapshot() == dict(*copied, **kwargs)
        assert len(m) == len(dict(*copied, **kwargs))


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((5,), TypeError),
        ((None,), TypeError),
        (({}, {}), TypeError),
        (([1],), TypeError),
        (([(1, 2), (1,)],), ValueError),
        (([(1, 2, 3)],), ValueError),
        (("ab",), ValueError),
        (([([], 1)],), TypeError),
    ],
)
def test_wrong_contents_raise(args, error):
    with pytest.raises(error):
        dict(*args)
    with pytest.raises(error):
        SyncMap(*args)


def test_wrong_contents_leave_it_uninitialized():
    m = SyncMap.__new__(SyncMap)
    for wrong in (5, [1], [(1, 2, 3)]):
        with pytest.raises((TypeError, ValueError)):
            m.__init__(wrong)
        with pytest.raises(RuntimeError, match="not initialized"):
            len(m)
    m.__init__([(1, 2)])
    assert m == {1: 2}


# Operations, beside dict


@contents
def test_lookups_find_stored_keys(plain):
    m = SyncMap(plain)
    assert len(m) == len(plain)
    assert bool(m) is bool(plain)
    for key, value in plain.items():
        assert m[key] == value
        assert m.get(key) == m.get(key, 5) == value
        assert key in m
    for missing in ("missing", 10**9, (), Key("x")):
        assert missing not in m
        assert m.get(missing) is None
        assert m.get(missing, 5) == 5
        with pytest.raises(KeyError) as caught:
            m[missing]
        assert caught.value.args == (missing,)


def test_equal_keys_are_one():
    m = SyncMap({1: "int"})
    for equal in (1.0, True):
        assert m[equal] == "int"
        m[equal] = "again"
        assert [type(key) for key in m] == [int]
        m[equal] = "int"
    first, second = Key("x"), Key("x")
    m[first] = 1
    m[second] = 2
    assert m[first] == 2
    assert next(key for key in m if isinstance(key, Key)) is first
    m["abc"] = 1
    assert m["ABC".lower()] == 1  # another object


def test_str_finds_key_of_a_str_subclass():
    class Text(str):
        __slots__ = ()

    m = SyncMap({Text("k"): 1})
    assert m["k"] == 1
    assert "k" in m
    m["k"] = 2
    assert len(m) == 1


@starts_threads
def test_equal_key_of_another_thread_is_found():
    # Another thread can take a reference to such a key only under the lock.
    class Text(str):
        __slots__ = ()

    m, made, go = SyncMap(), threading.Event(), threading.Event()
    wanted = f"the map {id(m)}"

    def insert():
        m[f"the map {id(m)}"] = 1
        m[f"no other {id(m)}"] = 1
        made.set()
        go.wait(TIMEOUT)

    thread = threading.Thread(target=insert)
    thread.start()
    made.wait(TIMEOUT)
    for _ in range(50):
        assert m[Text(wanted)] == 1
    go.set()
    thread.join()
    # Only the map and the loop refer to the keys.
    assert len({sys.getrefcount(key) for key in m}) == 1
    assert m.pop(wanted) == 1
    assert len(m) == 1


def test_nan_is_found_by_identity():
    m = SyncMap()
    nan, other = float("nan"), float("nan")
    m[nan] = 1
    m[other] = 2
    assert m[nan] == 1
    assert m[other] == 2
    assert len(m) == 2
    assert float("nan") not in m
    assert m == {nan: 1, other: 2}
    m["value"] = nan
    assert nan in m.values()
    assert other not in m.values()
    assert m.compare_and_swap("value", nan, 0)
    assert m["value"] == 0
    m["value"] = nan
    assert not m.compare_and_swap("value", other, 0)


def test_none_and_false_are_values():
    m = SyncMap()
    for value in (None, False, 0, NotImplemented, ...):
        m[value] = value
        assert m[value] is value
        assert m.get(value, 1) is value
        assert m.setdefault(value, 1) is value
        assert m.swap(value, value, 1) is value
        assert not m.insert(value, 1)
        assert m.compare_and_swap(value, value, value)
        assert m.modify(value, lambda v: v, 1) is value
        assert m.load_or_compute(value, int) is value
        assert m.pop(value, 1) is value


@contents
def test_items_are_set_and_deleted(plain):
    m, d = SyncMap(), {}
    for key, value in plain.items():
        m[key] = d[key] = value
        m[key] = d[key] = (value,)
    assert m == d
    for n, key in enumerate(plain):
        if n % 2:
            del m[key]
            with pytest.raises(KeyError) as caught:
                del m[key]
            assert caught.value.args == (key,)
        else:
            assert m.pop(key) == d[key]
        del d[key]
        assert m == d or n > 20  # comparing all is slow
    assert len(m) == 0
    assert list(m) == []


def test_setdefault_keeps_the_first_value():
    m = SyncMap()
    assert m.setdefault("a") is None
    assert m.setdefault("a", 1) is None
    assert m.setdefault("b", 1) == 1
    assert m.setdefault("b", 2) == 1
    assert m == {"a": None, "b": 1}


def test_pop_removes_and_returns():
    m = SyncMap(a=1)
    assert m.pop("x", 5) == 5
    assert m.pop("x", None) is None
    assert m.pop("a", 5) == 1
    with pytest.raises(KeyError) as caught:
        m.pop(("a", 1))
    assert caught.value.args == (("a", 1),)


@contents
def test_popitem_removes_any_item(plain):
    m = SyncMap(plain)
    popped = [m.popitem() for _ in plain]
    assert all(type(pair) is tuple for pair in popped)
    assert dict(popped) == plain
    for _ in range(2):
        with pytest.raises(KeyError):
            m.popitem()
    m["again"] = 1
    assert m.popitem() == ("again", 1)


def test_popitem_takes_constant_time():
    m = SyncMap({n: n for n in range(100_000)})
    for n in range(50_000):
        m.pop(n, None)  # popitem may have taken it
        m.popitem()
        if not m:
            break
    assert len(m) < 50_000


@contents
def test_clear_removes_all(plain):
    m = SyncMap(plain)
    m.clear()
    assert not m
    assert m == {}
    for key in plain:
        assert key not in m
        assert m.insert(key, 1)
    m.clear()
    m.clear()


def test_insert_adds_only_missing_keys():
    m = SyncMap()
    assert m.insert("a", 1) is True
    assert m.insert("a", 2) is False
    assert m.insert(key="b", value=3) is True
    assert m == {"a": 1, "b": 3}


def test_swap_returns_the_old_value():
    m = SyncMap()
    assert m.swap("a", 1) is None
    assert m.swap("a", 2) == 1
    assert m.swap("b", 1, 7) == 7
    assert m.swap(key="b", value=2, default=7) == 1
    assert m == {"a": 2, "b": 2}


def test_compare_and_swap_replaces_equal_values():
    m = SyncMap(a=1)
    assert m.compare_and_swap("a", 2, 3) is False
    assert m.compare_and_swap("a", 1.0, 3) is True
    assert m.compare_and_swap(key="a", old=3, new=4) is True
    assert m.compare_and_swap("b", None, 1) is False
    assert m == {"a": 4}


def test_compare_and_delete_removes_equal_values():
    m = SyncMap(a=1, b=None)
    assert m.compare_and_delete("a", 2) is False
    assert m.compare_and_delete("c", None) is False
    assert m.compare_and_delete(key="b", old=None) is True
    assert m.compare_and_delete("a", True) is True
    assert not m


def test_modify_stores_what_the_function_returns():
    m = SyncMap()
    assert m.modify("a", lambda n: n + 1, 10) == 11
    assert m.modify(key="a", fn=lambda n: n + 1, default=0) == 12
    assert m.modify("a", lambda n: None, 0) is None
    assert m == {"a": None}
    with pytest.raises(ZeroDivisionError):
        m.modify("b", lambda n: 1 / n, 0)
    with pytest.raises(TypeError):
        m.modify("a", None, 0)
    assert m == {"a": None}


def test_modify_keeps_an_unchanged_value():
    m = SyncMap(a=[1])
    value = m["a"]
    assert m.modify("a", lambda same: same, None) is value
    assert m["a"] is value


UNHASHABLE = [
    lambda m, k: m[k],
    lambda m, k: m.__setitem__(k, 1),
    lambda m, k: m.__delitem__(k),
    lambda m, k: k in m,
    lambda m, k: m.get(k),
    lambda m, k: m.setdefault(k, 1),
    lambda m, k: m.pop(k, 1),
    lambda m, k: m.insert(k, 1),
    lambda m, k: m.swap(k, 1),
    lambda m, k: m.compare_and_swap(k, 1, 2),
    lambda m, k: m.compare_and_delete(k, 1),
    lambda m, k: m.modify(k, int, 1),
    lambda m, k: m.load_or_compute(k, int),
    lambda m, k: m.update([(k, 1)]),
    lambda m, k: m.__ior__([(k, 1)]),
    lambda m, k: k in m.keys(),  # noqa: SIM118
    lambda m, k: (k, 1) in m.items(),
]


@pytest.mark.parametrize("use", UNHASHABLE)
def test_unhashable_keys(use):
    for m in (SyncMap(), SyncMap(a=1)):
        before = len(m)
        for key in ([], {}, ([],), SyncMap()):
            with pytest.raises(TypeError, match="unhashable"):
                use(m, key)
        assert len(m) == before


def test_wrong_arguments_raise():
    m = SyncMap(a=1)
    for call in (
        lambda: m.get(),
        lambda: m.get("a", 1, 2),
        lambda: m.get(default="a"),
        lambda: m.pop(),
        lambda: m.pop("a", 1, 2),
        lambda: m.pop(default="a"),
        lambda: m.setdefault(),
        lambda: m.setdefault("a", 1, 2),
        lambda: m.popitem(1),
        lambda: m.clear(1),
        lambda: m.insert("b"),
        lambda: m.insert("b", 1, 2),
        lambda: m.insert("b", val=1),
        lambda: m.swap("a"),
        lambda: m.swap("a", 1, 2, 3),
        lambda: m.compare_and_swap("a", 1),
        lambda: m.compare_and_swap("a", 1, 2, 3),
        lambda: m.compare_and_delete("a"),
        lambda: m.compare_and_delete("a", 1, 2),
        lambda: m.modify("a", int),
        lambda: m.modify("a", int, 1, 2),
        lambda: m.snapshot(1),
        lambda: m.copy(1),
        lambda: m.keys(1),
        lambda: m.update(1),
        lambda: m.update({}, {}),
        lambda: m.load_or_compute("a"),
        lambda: m.load_or_compute("a", fn=int),
        lambda: m.load_or_compute("a", int, wait=1),
    ):
        with pytest.raises(TypeError):
            call()
    assert m == {"a": 1}


# As a whole


@contents
def test_iteration_gives_each_key_once(plain):
    m = SyncMap(plain)
    for given, wanted in (
        (m, plain),
        (m.keys(), plain.keys()),
        (m.values(), plain.values()),
        (m.items(), plain.items()),
    ):
        assert sorted(map(repr, given)) == sorted(map(repr, wanted))
        assert len(given) == len(wanted)
        iterator = iter(given)
        assert iter(iterator) is iterator
        list(iterator)
        assert list(iterator) == []


def test_views_follow_the_map():
    m = SyncMap(a=1)
    keys, values, items = m.keys(), m.values(), m.items()
    m["b"] = 2
    del m["a"]
    assert list(keys) == ["b"]
    assert list(values) == [2]
    assert list(items) == [("b", 2)]
    assert len(keys) == len(values) == len(items) == 1
    assert "b" in keys
    assert "a" not in keys
    assert 2 in values
    assert 1 not in values
    assert ("b", 2) in items
    assert ("b", 1) not in items
    assert ("a", 1) not in items
    for view in (keys, values, items):
        with pytest.raises(TypeError):
            reversed(view)
        with pytest.raises(TypeError):
            pickle.dumps(view)


def test_views_are_views():
    m, d = SyncMap(a=1, b=2), {"a": 1, "b": 2}
    assert isinstance(m.keys(), collections.abc.KeysView)
    assert isinstance(m.values(), collections.abc.ValuesView)
    assert isinstance(m.items(), collections.abc.ItemsView)
    assert m.keys() == d.keys() == {"a", "b"}
    assert m.items() == d.items()
    assert m.keys() & {"a", "c"} == {"a"}
    assert m.keys() | {"c"} == {"a", "b", "c"}
    assert m.keys() - {"a"} == {"b"}
    assert m.keys() ^ {"a", "c"} == {"b", "c"}
    assert m.items() - {("a", 1)} == {("b", 2)}
    for odd in (5, ("a",), ["a", 1], ("a", 1, 2)):
        assert odd not in m.items()
        assert odd not in d.items()
    assert m.keys() > {"a"}
    assert m.keys().isdisjoint({"c"})
    assert repr(SyncMap(a=1).keys()) == "SyncMap.keys(['a'])"
    assert repr(SyncMap(a=1).values()) == "SyncMap.values([1])"
    assert repr(SyncMap(a=1).items()) == "SyncMap.items([('a', 1)])"


def test_map_equals_mappings_with_equal_items():
    m = SyncMap(a=1, b=2)
    for equal in ({"b": 2, "a": 1}, SyncMap(b=2.0, a=True), collections.OrderedDict(a=1, b=2)):
        assert m == equal
        assert equal == m
        assert (m != equal) is False
    for unequal in ({}, {"a": 1}, {"a": 1, "b": 3}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}):
        assert m != unequal
        assert unequal != m
        assert m != SyncMap(unequal)
    assert m != [("a", 1), ("b", 2)]
    assert m != None  # noqa: E711
    assert m.__eq__(5) is NotImplemented
    counter = collections.Counter()
    assert SyncMap(a=0) != counter
    default = collections.defaultdict(int)
    assert SyncMap(a=0) != default
    assert not default


def test_map_is_not_hashable():
    with pytest.raises(TypeError, match="unhashable"):
        hash(SyncMap())
    assert not isinstance(SyncMap(), collections.abc.Hashable)


def test_maps_have_no_order():
    with pytest.raises(TypeError):
        reversed(SyncMap(a=1))
    with pytest.raises(TypeError):
        SyncMap(a=1) < SyncMap(a=2)
    assert not isinstance(SyncMap(), collections.abc.Reversible)
    assert not hasattr(SyncMap, "fromkeys")


def test_missing_method_is_not_called():
    class Sub(SyncMap):
        def __missing__(self, key):
            raise AssertionError

    with pytest.raises(KeyError):
        Sub()["a"]


def test_union_operators_make_new_maps():
    m = SyncMap(a=1, b=2)
    for other in ({"b": 3, "c": 4}, SyncMap(b=3, c=4), collections.ChainMap({"b": 3, "c": 4})):
        union = m | other
        assert type(union) is SyncMap
        assert union == {"a": 1, "b": 3, "c": 4}
    union = {"b": 3, "c": 4} | m
    assert type(union) is SyncMap
    assert union == {"a": 1, "b": 2, "c": 4}
    assert m == {"a": 1, "b": 2}
    same = m
    m |= {"b": 3}
    m |= [("c", 4)]
    m |= SyncMap(d=5)
    assert m is same
    assert m == {"a": 1, "b": 3, "c": 4, "d": 5}
    for wrong in (None, 5, [("a", 1)]):
        with pytest.raises(TypeError):
            m | wrong
        with pytest.raises(TypeError):
            wrong | m
    for wrong in (None, 5):
        with pytest.raises(TypeError):
            m |= wrong


def test_update_takes_what_dict_takes():
    m = SyncMap(a=1)
    assert m.update() is None
    m.update({"a": 2}, b=3)
    m.update([("c", 4), ["d", 5]])
    m.update(SyncMap(e=6))
    m.update(m)
    m.update(self=7, other=8)
    assert m == {"a": 2, "b": 3, "c": 4, "d": 5, "e": 6, "self": 7, "other": 8}
    with pytest.raises(ValueError):
        m.update([("x", 1), (1, 2, 3)])
    assert m["x"] == 1  # as dict does


@pytest.mark.parametrize("way", [SyncMap.copy, copy.copy, SyncMap])
def test_copies_are_independent(way):
    m = SyncMap(a=[1], b=2)
    c = way(m)
    assert type(c) is SyncMap
    assert c == m
    assert c is not m
    assert c["a"] is m["a"]
    c["c"] = 3
    assert "c" not in m


def test_snapshot_is_a_dict():
    m = SyncMap(a=[1])
    s = m.snapshot()
    assert type(s) is dict
    assert s == {"a": [1]}
    assert s["a"] is m["a"]
    s["b"] = 1
    assert "b" not in m


def test_deep_copies_and_pickles():
    for m in (SyncMap(), SyncMap(a=1)):
        with pytest.raises(TypeError, match="SyncMap"):
            copy.deepcopy(m)
        with pytest.raises(TypeError, match="SyncMap"):
            pickle.dumps(m)


def test_repr():
    assert repr(SyncMap()) == "SyncMap({})"
    assert repr(SyncMap(a=1)) == "SyncMap({'a': 1})"
    assert eval(repr(SyncMap({1: "x", (2,): None}))) == {1: "x", (2,): None}
    m = SyncMap()
    m["me"] = m
    assert repr(m) == "SyncMap({'me': SyncMap({...})})"
    m["me"] = [m.values()]
    assert "..." in repr(m)

    class Sub(SyncMap):
        pass

    assert repr(Sub(a=1)) == "Sub({'a': 1})"


def test_is_a_mutable_mapping():
    assert issubclass(SyncMap, collections.abc.MutableMapping)
    assert isinstance(SyncMap(), collections.abc.MutableMapping)
    for name in dir(collections.abc.MutableMapping):
        if not name.startswith("_"):
            assert hasattr(SyncMap, name)

    class Sub(SyncMap):
        pass

    match Sub(a=1, b=2):
        case {"a": 1, **rest}:
            assert rest == {"b": 2}
        case _:
            raise AssertionError
    assert dict(SyncMap(a=1)) == {**SyncMap(a=1)} == {"a": 1}
    assert collections.ChainMap(SyncMap(a=1), {"b": 2})["b"] == 2
    assert "{a}".format_map(SyncMap(a=1)) == "1"


def test_class_takes_parameters_at_run_time():
    alias = SyncMap[str, int]
    assert alias.__origin__ is SyncMap
    assert alias.__args__ == (str, int)
    m = alias(a=1)
    assert type(m) is SyncMap

    class Sub(SyncMap[str, int]):
        pass

    assert Sub(a=1)["a"] == 1


def test_overridden_methods_are_not_called():
    # As with dict.
    class Sub(SyncMap):
        def __setitem__(self, key, value):
            raise AssertionError

        __getitem__ = __delitem__ = get = keys = items = __iter__ = __contains__ = __setitem__

    m = Sub({"a": 1}, b=2)
    m.update(c=3)
    m |= {"d": 4}
    assert m.setdefault("e", 5) == 5
    assert m.load_or_compute("f", lambda: 6) == 6
    assert m.copy().snapshot() == m.snapshot() == dict(zip("abcdef", range(1, 7), strict=True))
    assert m == m.copy()
    assert len(m | {}) == 6


@keeps_back
@in_own_process  # other threads that have used a map put off what is freed
def test_getsizeof_follows_the_items():
    empty = sys.getsizeof(SyncMap())
    assert empty <= 4096
    m = SyncMap((n, n) for n in range(10_000))
    full = sys.getsizeof(m)
    assert full > 10_000 * 16
    for n in range(10_000):
        del m[n]
    assert sys.getsizeof(m) < empty + full / 50
    m.clear()
    assert sys.getsizeof(m) < empty + full / 50


@keeps_back
@in_own_process  # other threads that have used a map put off what is freed
def test_insertions_and_deletions_do_not_grow_the_map():
    m = SyncMap()
    sizes = []
    for n in range(20_000):
        m[n] = n
        if n >= 100:
            del m[n - 100]
        if n % 1000 == 999:
            sizes.append(sys.getsizeof(m))
    assert len(m) == 100
    assert max(sizes) <= 4 * min(sizes)


# Lifetimes


class Object:
    pass


@pytest.mark.parametrize(
    "end",
    [
        lambda m: m.clear(),
        lambda m: m.pop("a"),
        lambda m: m.__delitem__("a"),
        lambda m: m.popitem(),
        lambda m: m.__setitem__("a", 1),
        lambda m: m.swap("a", 1),
        lambda m: m.compare_and_swap("a", m["a"], 1),
        lambda m: m.compare_and_delete("a", m["a"]),
        lambda m: m.modify("a", lambda old: 1, None),
        lambda m: m.update(a=1),
    ],
)
def test_deleted_value_is_released_at_once(end):
    m = SyncMap(a=Object())
    watch = weakref.ref(m["a"])
    iterator, view = iter(m), m.values()
    end(m)
    assert watch() is None
    assert list(iterator) in (["a"], [])
    assert list(view) in ([1], [])


def test_looked_up_key_is_released():
    class Equal:
        def __eq__(self, other):
            return type(other) is Equal

        def __hash__(self):
            return 1

    m, key = SyncMap(), Equal()
    watch = weakref.ref(key)
    m[key] = 1
    del key
    assert m[Equal()] == 1
    assert m.setdefault(Equal(), 2) == 1
    m[Equal()] = 3
    assert m.pop(Equal()) == 3
    del m
    assert collected(watch)


def test_iterator_holds_its_remaining_keys():
    m = SyncMap()
    for _ in range(5):
        m[Object()] = 1
    watches = [weakref.ref(key) for key in m]
    keys = iter(m)
    next(keys)
    m.clear()
    if NATIVE:
        assert any(watch() is not None for watch in watches)
    assert list(keys) == []
    assert collected(*watches)
    for _ in range(5):
        m[Object()] = 1
    watches = [weakref.ref(key) for key in m]
    keys = iter(m)
    next(keys)
    del keys  # with all the others
    m.clear()
    assert collected(*watches)


def test_retried_modify_keeps_no_reference():
    m, made = SyncMap(), []

    def fn(old):
        if not made:
            m["k"] = "faster"
        value = Object()
        made.append(weakref.ref(value))
        return value

    assert m.modify("k", fn, None) is m["k"]
    gc.collect()
    assert [watch() is None for watch in made] == [True, False]


def test_value_replaced_during_comparison_is_not_swapped():
    class Value:
        def __eq__(self, other):
            m["k"] = "newer"
            return True

        __hash__ = None

    m = SyncMap(k=Value())
    assert m.compare_and_swap("k", "any", "mine") is False
    assert m["k"] == "newer"
    m["k"] = Value()
    assert m.compare_and_delete("k", "any") is False
    assert m["k"] == "newer"


def test_items_are_freed_with_the_map():
    m = SyncMap()
    key, value = Key("k"), Object()
    watches = weakref.ref(key), weakref.ref(value)
    m[key] = value
    del key, value
    del m
    assert collected(*watches)


@pytest.mark.parametrize("through", ["values", "keys", "views", "iterators", "flights"])
def test_cycles_are_collected(through):
    class Holder:
        pass

    m, holder = SyncMap(), Holder()
    holder.map = m
    if through == "values":
        m["me"] = m
        m["holder"] = holder
    elif through == "keys":
        m[holder] = 1
    elif through == "views":
        m["views"] = [m.keys(), m.items(), holder]
    elif through == "iterators":
        m["iterators"] = [iter(m), iter(m.items()), holder]
    else:
        m.load_or_compute(holder, lambda m=m: m)
    watches = weakref.ref(holder), weakref.ref(m)
    del m, holder
    assert collected(*watches)


# Threads


@starts_threads
def test_one_thread_inserts_and_the_others_lose():
    m = SyncMap()
    keys = range(500)

    def insert():
        return [m.insert(key, threading.get_ident()) for key in keys]

    def set_default():
        return [m.setdefault(-1 - key, object()) for key in keys]

    def pop():
        return [m.pop(key, None) for key in keys]

    for inserted in zip(*run_threads(insert, times=4), strict=True):
        assert sorted(inserted) == [False, False, False, True]
    for mine in zip(*run_threads(set_default, times=4), strict=True):
        assert len(set(mine)) == 1
    for popped in zip(*run_threads(pop, times=4), strict=True):
        assert sum(each is not None for each in popped) == 1


@starts_threads
def test_modify_counts_every_call():
    m = SyncMap()

    def count():
        for n in range(1000):
            m.modify(n % 3, lambda old: old + 1, 0)

    run_threads(count, times=4)
    assert sum(m.values()) == 4000


@starts_threads
def test_concurrent_swaps_lose_nothing():
    m = SyncMap(total=0)
    seen = []

    def add():
        mine = []
        for n in range(500):
            while True:
                old = m["total"]
                if m.compare_and_swap("total", old, old + 1):
                    break
            mine.append(m.swap("token", (threading.get_ident(), n)))
        seen.extend(mine)

    run_threads(add, times=3)
    assert m["total"] == 1500
    tokens = [*seen, m["token"]]
    assert len(set(tokens)) == len(tokens) == 1501  # None, and every token once


@starts_threads
def test_every_item_is_popped_once():
    m = SyncMap((n, str(n)) for n in range(3000))
    popped = []

    def pop():
        while True:
            try:
                popped.append(m.popitem())
            except KeyError:
                return

    run_threads(pop, times=3)
    assert len(popped) == 3000
    assert dict(popped) == {n: str(n) for n in range(3000)}
    assert len(m) == 0


@starts_threads
def test_iteration_runs_beside_writers():
    stable = {("stable", n): n for n in range(300)}
    m = SyncMap(stable)
    numbers = iter(range(10**9))

    def churn():
        base = next(numbers) * 1000
        for n in range(base, base + 200):
            m[n] = n
            if n % 3:
                m.pop(n - 50, None)
        for n in range(base - 50, base + 200):
            m.pop(n, None)

    with background(churn, churn):
        for _ in range(40):
            for found in (list(m), list(m.keys()), [key for key, _ in m.items()]):
                assert len(set(found)) == len(found)
                assert stable.keys() <= set(found)
            values = list(m.values())
            assert len([v for v in values if v in range(300)]) >= 300
            assert m.snapshot().items() >= stable.items()
            assert m.copy().items() >= stable.items()
            for key, value in m.items():
                if key in stable:
                    assert value == stable[key]
            repr(m)
            m == stable
    assert m == stable


@starts_threads
def test_threads_share_an_iterator():
    m = SyncMap((n, n) for n in range(3000))
    iterator = iter(m)
    found = [each for part in run_threads(lambda: list(iterator), times=3) for each in part]
    assert sorted(found) == list(range(3000))


@starts_threads
def test_clear_runs_beside_writers():
    m = SyncMap()

    def write():
        for n in range(100):
            m[n] = n
            assert m.get(n, n) == n

    with background(write, write):
        for _ in range(200):
            m.clear()
    m.clear()
    assert len(m) == 0
    assert list(m.items()) == []
