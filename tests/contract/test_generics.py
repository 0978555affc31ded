"""Generic classes and their subclasses: subscripted, copied, inspected."""

import collections.abc
import copy
import inspect
import types
import typing
import weakref

import pytest
from support import NEEDED, make

import nogil_sync
from nogil_sync import AtomicRef, Cache, Channel, Once, Pool, SyncMap, once, once_property

GENERIC = [AtomicRef, Cache, Channel, Once, Pool, SyncMap, once_property, type(once(lambda: None))]
A = typing.TypeVar("A")
B = typing.TypeVar("B")

every = pytest.mark.parametrize("cls", GENERIC, ids=lambda cls: cls.__name__)
derivable = pytest.mark.parametrize("cls", GENERIC[:-1], ids=lambda cls: cls.__name__)


def arguments(cls):
    """As many types, and type variables, as it takes."""
    return ((str, int), (A, B)) if issubclass(cls, SyncMap | Cache) else ((str,), (A,))


def new(cls):
    return cls(lambda self: 1) if issubclass(cls, once_property) else make(cls)


@every
def test_class_is_subscripted(cls):
    types_, variables = arguments(cls)
    alias = cls[types_ if len(types_) > 1 else types_[0]]
    assert typing.get_origin(alias) is cls
    assert typing.get_args(alias) == types_
    assert cls[variables].__parameters__ == variables
    assert cls[variables][types_] == alias
    assert alias == cls[types_]
    assert isinstance(alias, types.GenericAlias)


@derivable
def test_subclass_is_subscripted(cls):
    class Sub(cls):
        pass

    class SubSub(Sub):
        pass

    types_, variables = arguments(cls)
    for sub in (Sub, SubSub):
        alias = sub[types_]
        assert typing.get_origin(alias) is sub
        assert typing.get_args(alias) == types_
        assert sub[variables].__parameters__ == variables
        assert type(new(alias.__origin__)) is sub
    obj = Sub[types_](*((lambda self: 1,) if cls is once_property else NEEDED.get(cls, ())))
    assert type(obj) is Sub


@derivable
def test_subclass_of_a_subscripted_class(cls):
    types_, variables = arguments(cls)

    class Fixed(cls[types_]):
        pass

    class Open(cls[variables]):
        pass

    class Declared(cls[variables], typing.Generic[variables]):
        pass

    for sub in (Fixed, Open, Declared):
        assert issubclass(sub, cls)
        assert isinstance(new(sub), cls)
        assert (
            types.get_original_bases(sub)[0].__origin__ is cls
            if hasattr(types, "get_original_bases")
            else sub.__orig_bases__[0].__origin__ is cls
        )
    assert typing.get_origin(Open[types_]) is Open
    assert typing.get_origin(Declared[types_]) is Declared
    assert typing.get_args(Declared[types_]) == types_


@derivable
def test_subclass_in_annotations(cls):
    class Sub(cls):
        pass

    types_, _ = arguments(cls)

    def function(it: Sub[types_]) -> cls[types_]: ...

    hints = typing.get_type_hints(function)
    assert hints == {"it": Sub[types_], "return": cls[types_]}


# SyncMap


class Plain(SyncMap):
    pass


class Named(SyncMap):
    """One whose __init__ and __new__ want something else."""

    def __new__(cls, name):
        assert name
        return super().__new__(cls)

    def __init__(self, name):
        super().__init__(a=[1])
        self.name = name


class Slotted(SyncMap):
    __slots__ = ("__private", "empty", "slot")

    def __init__(self, *args):
        super().__init__(*args)
        self.slot = "slot"
        self.__private = "private"

    def private(self):
        return self.__private


class Both(Slotted):
    __slots__ = ("__dict__", "more")


class Mixed(Plain, collections.abc.MutableMapping):
    __slots__ = ()


ways = pytest.mark.parametrize("way", [lambda m: m.copy(), copy.copy], ids=["method", "module"])


@ways
def test_copy_keeps_class_and_attributes(way):
    m = Plain(a=[1], b=2)
    m.attribute = ["x"]
    c = way(m)
    assert type(c) is Plain
    assert c == m
    assert c["a"] is m["a"]
    assert c.attribute is m.attribute
    c["new"] = c.new = 1
    del c["b"]
    assert m.snapshot() == {"a": [1], "b": 2}
    assert not hasattr(m, "new")
    assert weakref.ref(c)() is c


@ways
def test_copy_does_not_call_the_subclass(way):
    c = way(Named("name"))
    assert type(c) is Named
    assert c.name == "name"
    assert c == {"a": [1]}


@ways
def test_copy_keeps_slots(way):
    m = Slotted({"a": 1})
    c = way(m)
    assert type(c) is Slotted
    assert (c.slot, c.private(), c["a"]) == ("slot", "private", 1)
    assert not hasattr(c, "empty")
    both = Both()
    both.more = both.attribute = 1
    del both.slot
    c = way(both)
    assert (c.more, c.attribute, c.private()) == (1, 1, "private")
    assert not hasattr(c, "slot")


@ways
def test_copy_of_other_subclasses(way):
    m = Mixed(a=1)
    m.attribute = 1
    assert type(way(m)) is Mixed
    assert way(m).attribute == way(m)["a"] == 1

    class Overriding(SyncMap):
        def __setitem__(self, key, value):
            raise AssertionError("called")

        update = setdefault = __iter__ = items = keys = __getitem__ = get = __len__ = __setitem__

    assert way(Overriding(a=1)).snapshot() == {"a": 1}
    with pytest.raises(RuntimeError, match="not initialized"):
        way(Plain.__new__(Plain))


def test_operators_give_plain_maps():
    # As dict's do.
    m = Plain(a=1)
    assert type(m | {"b": 2}) is type({"b": 2} | m) is SyncMap
    m |= {"b": 2}
    assert type(m) is Plain


def test_truth_value_is_that_of_the_mapping():
    assert not SyncMap()
    assert SyncMap(a=None)
    m = Plain()
    assert not m
    m["a"] = 1
    assert m
    del m["a"]
    assert not m
    with pytest.raises(RuntimeError, match="not initialized"):
        bool(SyncMap.__new__(SyncMap))


def test_truth_of_subclasses():
    class Full(SyncMap):
        def __len__(self):
            return 1

    class Truth(SyncMap):
        def __bool__(self):
            return True

    class Failing(SyncMap):
        def __len__(self):
            raise LookupError

    assert Full()
    assert Truth()
    assert not SyncMap.__bool__(Truth())
    with pytest.raises(LookupError):
        bool(Failing())


VIEWS = [SyncMap.keys, SyncMap.values, SyncMap.items]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("cls", [SyncMap, Plain])
def test_views_have_a_mapping_attribute(cls, view):
    m = cls(a=1)
    mapping = view(m).mapping
    assert type(mapping) is types.MappingProxyType
    assert mapping["a"] == 1
    assert mapping == m
    m["b"] = 2
    assert mapping["b"] == 2
    with pytest.raises(TypeError):
        mapping["c"] = 1
    with pytest.raises(AttributeError):
        view(m).mapping = {}
    assert "c" not in m


def test_defaults_by_name():
    # As Mapping.get, MutableMapping.pop and MutableMapping.setdefault take them.
    m = SyncMap(a=1)
    assert m.get("a", default=5) == m.get(key="a", default=5) == 1
    assert m.get("b", default=5) == m.get(default=5, key="b") == 5
    assert m.get(key="b") is None
    assert m.pop("b", default=5) == m.pop(key="b", default=5) == 5
    assert m.pop(key="a") == 1
    with pytest.raises(KeyError):
        m.pop(key="a")
    assert m.setdefault("c", default=5) == m.setdefault(key="c", default=6) == 5
    assert m.setdefault(key="d") is None
    for call in (
        lambda: m.get("a", key="a"),
        lambda: m.get("a", 1, default=2),
        lambda: m.get("a", fallback=1),
        lambda: m.get(default=1),
        lambda: m.pop("a", 1, default=2),
        lambda: m.setdefault(default=1),
    ):
        with pytest.raises(TypeError):
            call()
    assert m.snapshot() == {"c": 5, "d": None}


@pytest.mark.parametrize("name", ["get", "pop", "setdefault"])
def test_methods_have_parameters_of_mutable_mapping(name):
    mine = inspect.signature(getattr(SyncMap, name)).parameters.values()
    theirs = inspect.signature(getattr(collections.abc.MutableMapping, name)).parameters.values()
    assert [p.name for p in mine] == [p.name for p in theirs]
    assert [p.kind for p in mine][1:] == [p.kind for p in theirs][1:]


def test_signatures_show_no_unreadable_default():
    for method in (SyncMap.pop, SyncMap().pop, Plain.pop):
        default = inspect.signature(method).parameters["default"].default
        assert repr(default) == "<no default>"
    assert SyncMap(a=default) != {"b": default}


def callables():
    for name in nogil_sync.__all__:
        thing = getattr(nogil_sync, name)
        if callable(thing):
            yield name, thing
        if inspect.isclass(thing) and thing.__module__ == "nogil_sync":
            for each in dir(thing):
                if not each.startswith("_") and callable(getattr(thing, each)):
                    yield f"{name}.{each}", getattr(thing, each)


@pytest.mark.parametrize("thing", [pytest.param(thing, id=name) for name, thing in callables()])
def test_defaults_are_readable(thing):
    # No address of an object, and no ellipsis in place of something else.
    try:
        signature = inspect.signature(thing)
    except ValueError:  # an exception's
        return
    for parameter in signature.parameters.values():
        assert " at 0x" not in repr(parameter.default)
        assert parameter.default is not ...


NO_STRINGS = [{1: 2}, {(): 1}, {None: 1}, {"a": 1, 2: 3}, {b"a": 1}]


@pytest.mark.parametrize("keywords", NO_STRINGS, ids=str)
def test_keywords_are_strings(keywords):
    looked = []

    class Source:
        def keys(self):
            looked.append(1)
            return ["a"]

        def __getitem__(self, key):
            return 1

    for call in (
        lambda: SyncMap(**keywords),
        lambda: SyncMap({"x": 1}, **keywords),
        lambda: SyncMap(Source(), **keywords),
        lambda: Plain(**keywords),
        lambda: SyncMap().update(**keywords),
    ):
        with pytest.raises(TypeError, match="keywords must be strings"):
            call()
    assert not looked
    m = SyncMap.__new__(SyncMap)
    with pytest.raises(TypeError, match="keywords must be strings"):
        m.__init__(**keywords)
    m.__init__(a=1)
    assert m == {"a": 1}

    class Name(str):
        __slots__ = ()

    assert SyncMap(**{Name("n"): 1}) == {"n": 1}


def test_repr_of_map_that_holds_its_own_views():
    m = SyncMap()
    m["me"] = view = m.values()
    assert repr(m) == "SyncMap({'me': SyncMap.values([...])})"
    assert repr(view) == "SyncMap.values([...])"
    assert repr(m.values()) == "SyncMap.values([SyncMap.values([...])])"
    m["me"] = [m, m.items(), m.keys(), {"deeper": m.values()}]
    for each in (m, m.values(), m.items(), m.keys()):
        assert len(repr(each)) < 1000
    m["me"] = m.keys()
    assert repr(m) == "SyncMap({'me': SyncMap.keys(['me'])})"
    m.clear()
    m[m.values()] = 1
    assert repr(m) == "SyncMap({SyncMap.values([1]): 1})"
    one, other = Plain(), Plain()
    one["other"] = other.items()
    other["one"] = one.items()
    assert repr(one.items()).count("...") == 1
    # Nothing is left of a repr that failed.

    class Bad:
        def __repr__(self):
            raise LookupError

    m = SyncMap(a=Bad())
    for each in (m, m.values(), m.items()):
        for _ in range(2):
            with pytest.raises(LookupError):
                repr(each)
