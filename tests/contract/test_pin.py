"""pin, pin_all, is_pinned, pin(deep=True) and pin_report, on both backends."""

import collections
import dataclasses
import functools
import gc
import socket
import sys
import threading
import types
import warnings
import weakref

import pytest
from marks import starts_threads
from processes import in_process
from support import CLASSES, NATIVE, TIMEOUT, eventually, make, run_threads

import nogil_sync
from nogil_sync import (
    Mutex,
    PerformanceWarning,
    PinReport,
    RWMutex,
    is_pinned,
    pin,
    pin_all,
    pin_report,
)

pytestmark = pytest.mark.leaks(reason="pins objects, and names new places to report()")

native_only = pytest.mark.skipif(not NATIVE, reason="on standard builds pin changes nothing")


class Plain:
    pass


class Slotted:
    __slots__ = ("x",)


class Weird:
    """Raises whatever is asked of it."""

    def _fail(self, *args):
        raise AssertionError("asked")

    __eq__ = __hash__ = __bool__ = __repr__ = __getattribute__ = __len__ = _fail


def samples():
    """Fresh objects of every built-in kind."""

    def generator():
        yield 1

    async def coroutine():
        pass

    running = coroutine()
    running.close()
    yield from (
        10**30,
        -(10**30),
        3.25,
        1j,
        str(id(generator)) + "text",
        b"".join([b"some", b"bytes"]),
        bytearray(b"x"),
        memoryview(b"x"),
        [1],
        (object(),),
        {},
        {"a": 1},
        set(),
        frozenset([object()]),
        range(10**6),
        slice(1, 2),
        object(),
        Plain(),
        Slotted(),
        type("Made", (), {}),
        lambda: 1,
        Plain().__init__,
        [].append,
        generator(),
        running,
        (x for x in ()),
        iter([1]),
        iter({}),
        map(str, []),
        types.ModuleType("made"),
        types.SimpleNamespace(a=1),
        types.MappingProxyType({}),
        compile("1", "made", "eval"),
        threading.Lock(),
        threading.RLock(),
        threading.local(),
        weakref.ref(Plain),
        property(),
        staticmethod(len),
        classmethod(len),
        super(Plain, Plain()),
        ValueError("made"),
        sys._getframe(),
        *(make(cls) for cls in CLASSES),
    )


def test_pin_returns_the_object():
    for obj in samples():
        got = pin(obj)
        assert got == obj if type(obj) is str else got is obj
        if NATIVE:
            assert is_pinned(got), type(obj)


def test_pin_all_returns_the_objects_in_order():
    objects = [Plain(), [], 10**40, object(), object()]
    got = pin_all(iter(objects))
    assert type(got) is list
    assert len(got) == len(objects)
    assert all(a is b for a, b in zip(got, objects, strict=True))
    assert pin_all([]) == []
    assert pin_all(()) == []
    if NATIVE:
        assert all(map(is_pinned, got))


def test_pin_is_idempotent():
    obj = Plain()
    for _ in range(3):
        assert pin(obj) is obj
        assert pin_all([obj, obj]) == [obj, obj]


def test_immortal_objects_count_as_pinned():
    for obj in (None, True, False, 0, 5, (), "", b"", ..., NotImplemented, int, object):
        assert pin(obj) is obj
    if sys.version_info >= (3, 12):
        for obj in (None, True, 5, "", int):
            assert is_pinned(obj)
    if NATIVE:
        assert is_pinned(sys.intern("some interned text"))
    assert not is_pinned(object())
    assert not is_pinned(Plain())


def test_wrong_arguments_raise():
    for call in (pin, pin_all, is_pinned, lambda: pin(1, 2), lambda: pin_all(1)):
        with pytest.raises(TypeError):
            call()

    def failing():
        yield Plain()
        raise LookupError

    with pytest.raises(LookupError):
        pin_all(failing())


def test_pin_calls_no_method_of_the_object():
    obj = Weird()
    assert pin(obj) is obj
    assert is_pinned(obj) in (True, False)
    assert pin_all([obj])[0] is obj


def test_pinned_objects_work_as_before():
    items = pin([1, 2])
    items.append(3)
    assert items == [1, 2, 3]
    table = pin({"a": 1})
    table["b"] = 2
    assert table == {"a": 1, "b": 2}
    obj = pin(Plain())
    obj.x = items
    assert obj.x is items
    for cls in CLASSES:
        pin(make(cls))
    gc.collect()
    assert items == [1, 2, 3]
    assert table == {"a": 1, "b": 2}


def test_pin_is_not_deep_by_default():
    inner = Plain()
    pin([inner])
    assert not is_pinned(inner)


@native_only
def test_pinned_string_is_the_interned_one():
    text = " ".join(["not", "interned", str(id(test_pin_is_not_deep_by_default))])
    got = pin(text)
    assert got is sys.intern(
        " ".join(["not", "interned", str(id(test_pin_is_not_deep_by_default))])
    )
    assert is_pinned(got)

    class Text(str):
        __slots__ = ()

    special = Text("special")
    assert pin(special) is special


@native_only
def test_pinned_object_lives_for_ever():
    class Loud:
        def __del__(self):
            raise AssertionError("finalised")

    obj = Loud()
    watch = weakref.ref(obj, lambda _: pytest.fail("called back"))
    pin(obj)
    del obj
    gc.collect()
    assert watch() is not None


@native_only
def test_pinned_string_of_a_subclass_lives_for_ever():
    class Text(str):
        __slots__ = ("__dict__", "__weakref__")

    obj = pin(Text("special"))
    # A debug build asserts that immortal strings are interned, which this one cannot be.
    assert is_pinned(obj) is not hasattr(sys, "gettotalrefcount")
    watch = weakref.ref(obj)
    del obj
    gc.collect()
    assert watch() is not None


@native_only
def test_locks_of_an_rwmutex_are_pinned_with_it():
    m = pin(RWMutex())
    assert is_pinned(m.read)
    assert is_pinned(m.write)


@native_only
@starts_threads
def test_string_of_another_thread_is_not_pinned_itself():
    text = str(id(pin)) + " is the identity"
    (pinned,) = run_threads(lambda: pin(text))
    assert pinned == text
    assert is_pinned(pinned)
    assert not is_pinned(text)


@native_only
@starts_threads
def test_object_with_unmerged_counts_is_pinned():
    # Drop a reference that the owner counted: the object is queued for the owner, which sleeps.
    handed, ready, go = [], threading.Event(), threading.Event()

    def own():
        handed.extend([Plain()] * 2)
        ready.set()
        go.wait(TIMEOUT)

    owner = threading.Thread(target=own)
    owner.start()
    ready.wait(TIMEOUT)
    obj = handed.pop()
    handed.clear()
    pin(obj)
    go.set()
    owner.join()
    gc.collect()
    assert is_pinned(obj)
    assert type(obj) is Plain


@native_only
@starts_threads
def test_object_pinned_during_a_collection_is_kept_alive():
    # As above, but in a finaliser that the collector calls: no other collection can merge them.
    handed, ready, go, watches = [], threading.Event(), threading.Event(), []

    def own():
        handed.extend([Plain()] * 2)
        ready.set()
        go.wait(TIMEOUT)

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            obj = handed.pop()
            handed.clear()
            assert pin(obj) is obj
            assert not is_pinned(obj)
            watches.append(weakref.ref(obj))

    owner = threading.Thread(target=own)
    owner.start()
    ready.wait(TIMEOUT)
    Last()
    assert eventually(lambda: gc.collect() >= 0 and watches)
    go.set()
    owner.join()
    for _ in range(3):
        gc.collect()
    (watch,) = watches
    assert type(watch()) is Plain


@native_only
def test_count_of_pinned_object_is_not_written():
    obj = pin(Plain())
    before = sys.getrefcount(obj)
    held = [obj] * 1000
    assert sys.getrefcount(obj) == before
    del held


@starts_threads
def test_object_of_another_thread_is_pinned():
    objects = list(samples())
    results = run_threads(lambda: [pin(obj) for obj in objects], times=4)
    for result in results:
        assert all(a is b or type(a) is str for a, b in zip(result, objects, strict=True))
    if NATIVE:
        for obj in results[0]:
            assert is_pinned(obj), type(obj)


def count_is_fixed(obj):
    before = sys.getrefcount(obj)
    held = [obj] * 1000
    return sys.getrefcount(held[0]) == before


@native_only
@starts_threads
@pytest.mark.parametrize("when", ["by the owner", "while the owner lives", "after the owner"])
def test_every_kind_stays_pinned_after_its_thread_and_collections(when):
    made, facts, go = [], [], threading.Event()

    def own():
        made.extend(samples())
        facts.extend((is_pinned(obj), count_is_fixed(obj)) for obj in made)
        if when == "by the owner":
            made[:] = pin_all(made)
        if when == "while the owner lives":
            go.wait(TIMEOUT)

    owner = threading.Thread(target=own)
    owner.start()
    if when == "while the owner lives":
        assert eventually(lambda: len(facts) == len(made) > 40)
        made[:] = map(pin, made)
        go.set()
    owner.join()
    if when == "after the owner":
        made[:] = map(pin, made)
    assert len({type(obj) for obj in made}) > 40
    assert all(told == fixed for told, fixed in facts)
    watches = []
    for obj in made:
        try:
            watches.append(weakref.ref(obj))
        except TypeError:
            pass
    for _ in range(3):
        gc.collect()
        for obj in made:
            assert is_pinned(obj), type(obj)
            assert count_is_fixed(obj), type(obj)
    del obj
    made.clear()
    for _ in range(3):
        gc.collect()
    assert len(watches) > 20
    assert all(watch() is not None for watch in watches)


@starts_threads
def test_pin_works_in_a_finaliser():
    seen = []

    class Last:
        def __init__(self):
            self.me = self

        def __del__(self):
            seen.append(pin(Plain()))
            pin([])

    for _ in range(20):
        Last()
    gc.collect()
    assert len(seen) == 20
    if NATIVE:
        assert all(map(is_pinned, seen))


def test_pin_in_a_finaliser_resurrects():
    kept = []

    class Phoenix:
        def __del__(self):
            kept.append(pin(self))

    Phoenix()
    gc.collect()
    assert len(kept) == 1
    gc.collect()
    assert type(kept[0]) is Phoenix


def test_pinned_objects_allow_clean_shutdown():
    def program():
        kept = [
            nogil_sync.pin(x)
            for x in (
                [1],
                {"a": [2]},
                object(),
                "te" + sys.platform,
                10**50,
                lambda: 1,
                type("T", (), {}),
                threading.Lock(),
                nogil_sync.Mutex(),
                nogil_sync.ShardedCounter(),
                nogil_sync.Event(),
                nogil_sync.AtomicRef([1]),
                ValueError("x"),
                (i for i in ()),
                sys._getframe(),
            )
        ]
        kept.append(kept)
        nogil_sync.pin(kept)

        class Chain:
            pass

        first = nogil_sync.pin(Chain())
        first.me = first
        first.more = [Chain() for _ in range(100)]

    done = in_process(program)
    assert done.stderr == ""


@pytest.mark.parametrize("function", [pin, pin_all, is_pinned])
def test_functions_belong_to_the_public_module(function):
    assert function.__module__ == "nogil_sync"
    assert getattr(nogil_sync, function.__name__) is function


# PerformanceWarning


def test_performance_warning_is_a_runtime_warning():
    assert issubclass(PerformanceWarning, RuntimeWarning)
    assert PerformanceWarning.__module__ == "nogil_sync"


# What the detector reports: threads contend for the object's own count alone.
COUNT_CONTENDED = (True, None, False, None)


@pytest.mark.thread_unsafe(reason="catches warnings, which are the process's")
def test_report_warns_once_for_each_site(tmp_path):
    from nogil_sync._common.performance import report

    site = str(tmp_path / "site.py")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            report(site, 3, "ShardedCounter", COUNT_CONTENDED)
        report(site, 4, "ShardedCounter", COUNT_CONTENDED)
    assert [(w.category, w.filename, w.lineno) for w in caught] == [
        (PerformanceWarning, site, 3),
        (PerformanceWarning, site, 4),
    ]
    message = str(caught[0].message)
    assert "ShardedCounter" in message
    assert "pin" in message
    assert "bound method" in message


@pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook")
def test_report_never_raises(tmp_path, monkeypatch):
    from nogil_sync._common.performance import report

    unraised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: unraised.append(info.exc_type))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(str(tmp_path / "site.py"), 3, "ShardedCounter", COUNT_CONTENDED)
    assert unraised == [PerformanceWarning]


def test_samples_are_of_many_kinds():
    assert len({type(obj) for obj in samples()}) > 40


# Whole graphs: `deep`


def real(n):
    """A fresh float, which unlike a constant is not immortal."""
    return n + float("0.5")


@dataclasses.dataclass
class Route:
    name: str
    hosts: list
    options: dict


class Client:
    """Has a lock inside."""

    def __init__(self):
        self.lock = threading.Lock()
        self.hosts = [real(1)]


def graph():
    """A graph of every kind that is entered."""
    slotted = Slotted()
    slotted.x = [real(2)]
    first, second = real(3), [real(4)]

    def function(a=[real(5)], *, b={real(6): None}):
        return first, second, a, b

    routes = [Route(f"route-{n}", [f"host-{n}"], {n: float(n)}) for n in range(5)]
    found = {
        "routes": routes,
        "tuple": ({real(7)}, frozenset([real(8)])),
        "deque": collections.deque([real(9)]),
        "slotted": slotted,
        "function": function,
        "method": routes[0].__repr__,
        "proxy": types.MappingProxyType({"inner": [real(10)]}),
        "partial": functools.partial(function, [real(11)]),
    }
    found["me"] = found
    return found


def leaves(obj, seen):
    """Every float that is reached."""
    if id(obj) in seen or isinstance(obj, (type, types.ModuleType)):
        return
    seen[id(obj)] = obj
    if isinstance(obj, types.FunctionType):
        parts = [obj.__closure__, obj.__defaults__, obj.__kwdefaults__]
    else:
        parts = gc.get_referents(obj)
    for part in parts:
        leaves(part, seen)


def test_deep_pins_the_whole_graph():
    obj = graph()
    assert pin(obj, deep=True) is obj
    assert obj["routes"][3].options == {3: 3.0}
    if NATIVE:
        seen = {}
        leaves(obj, seen)
        floats = [each for each in seen.values() if type(each) is float]
        assert {real(n) for n in range(2, 12)} < set(floats)
        assert all(map(is_pinned, floats))
        assert is_pinned(obj["routes"][2].hosts)
        assert is_pinned(obj["function"])
        assert not is_pinned(Route.__dict__)
        # A debug build checks that each immortal string is interned: it keeps these alive.
        kept = {"str"} if hasattr(sys, "gettotalrefcount") else set()
        assert set(pin_report(obj).by_type) == kept


def test_deep_skips_objects_that_must_be_closed(tmp_path):
    class Loud:
        def __del__(self):
            pass

    with (tmp_path / "file").open("w") as file, socket.socket() as connection:
        obj = {
            "lock": threading.Lock(),
            "file": file,
            "client": Client(),
            "event": threading.Event(),
            "thread": threading.Thread(),
            "running": (x for x in ()),
            "loud": Loud(),
            "ours": [make(Mutex), make(RWMutex)],
            "socket": connection,
            "good": [real(1)],
        }
        report = pin_report(obj)
        assert {each.path for each in report.left} == {
            *(f"obj[{key!r}]" for key in obj if key not in ("good", "ours", "event")),
            "obj['event']._cond",
            "obj['ours'][0]",
            "obj['ours'][1]",
        }
        assert all(each.reason for each in report.left)
        assert {id(each.obj) for each in report.left} > {id(obj["client"]), id(file)}
        pin(obj, deep=True)
    for key, value in obj.items():
        assert is_pinned(value) is (NATIVE and key in ("good", "ours", "event")), key


def test_deep_pins_the_object_itself_in_any_case():
    client = Client()
    assert pin(client, deep=True) is client
    if NATIVE:
        assert is_pinned(client)
        assert not is_pinned(client.lock)
        assert is_pinned(client.hosts)


@pytest.mark.timeout(1200)  # a minute of work on a debug build with tracemalloc
@pytest.mark.parametrize("kind", [list, dict, Slotted])
def test_deep_pins_a_long_chain(kind):
    chain = None
    for _ in range(100_000):
        if kind is Slotted:
            link = Slotted()
            link.x = chain
        else:
            link = [chain] if kind is list else {1: chain}
        chain = link
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    assert pin_report(chain).by_type[name][0] == 100_000
    pin(chain, deep=True)
    if NATIVE:
        assert pin_report(chain).objects == 0


def test_deep_pins_objects_without_parts():
    for obj in (None, 5, 10**40, "text", object(), int, gc, len):
        pin(obj, deep=True)
    with pytest.raises(TypeError):
        pin([], True)


def test_deep_calls_no_method_of_the_objects():
    obj = [Weird(), {1: Weird()}]
    assert pin(obj, deep=True) is obj
    if NATIVE:
        assert is_pinned(obj[0])


@starts_threads
def test_deep_runs_while_other_threads_change_the_graph():
    obj = {"list": [], "dict": {}, "instances": [Plain() for _ in range(50)]}
    stop = threading.Event()

    def change():
        n = 0
        while not stop.is_set():
            n += 1
            obj["list"].append([n])
            obj["dict"][n % 100] = {n: [n]}
            obj["instances"][n % 50].attribute = [n]
            if len(obj["list"]) > 100:
                obj["list"] = []

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(20):
            pin_report(obj)
            pin(obj, deep=True)
    finally:
        stop.set()
        changer.join()


def test_report_counts_objects_and_bytes():
    obj = [bytearray(1000), bytearray(1000), real(1)]
    report = pin_report(obj)
    assert type(report) is PinReport
    assert report.objects == 4
    assert report.by_type["bytearray"][0] == 2
    assert report.bytes == sum(size for _, size in report.by_type.values()) > 2000
    assert report.left == []
    assert not is_pinned(obj)


class _Chosen(type):
    """Decides its own order of bases, which the usual rule refuses."""

    def mro(cls):
        return [cls, *_chosen, object]

    def __getattribute__(cls, name):
        raise RuntimeError(f"asked for {name}")


class _First:
    pass


class _Second:
    def close(self):
        pass


_chosen = (_First,)


@pytest.mark.parametrize("bases", [(_First,), (_Second,), (_Second, _First)])
def test_deep_finds_attributes_of_odd_metaclasses(bases, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "_chosen", bases)
    cls = _Chosen("cls", (_First, _Second), {})
    obj = [object.__new__(cls)]
    (left,) = pin_report(obj).left or [None]
    assert (left is not None) is (_Second in bases)
    if left is None:
        pin(obj, deep=True)
        assert is_pinned(obj[0]) is NATIVE


def test_deep_accepts_any_order_of_bases(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "_chosen", (_First, _Second))
    above = type("above", (_First, _Second), {}), type("below", (_Second, _First), {})
    obj = [object.__new__(_Chosen("cls", above, {}))]
    assert [each.path for each in pin_report(obj).left] == ["obj[0]"]
    assert pin(obj, deep=True) is obj


class _Secretive(type):
    def __getattribute__(cls, name):
        raise RuntimeError(f"asked for {name}")


class _OddDict(dict):
    """A `__dict__` that does not want to be read."""

    def items(self):
        raise RuntimeError

    values = keys = __iter__ = items


def test_report_calls_no_method_of_classes_and_attributes():
    odd = Plain()
    odd.__dict__ = _OddDict(attribute=[threading.Lock()])
    secretive = _Secretive("Secretive", (), {"__module__": 5})
    obj = [odd, object.__new__(secretive), [object.__new__(secretive), threading.Lock()]]
    report = pin_report(obj)
    assert report.by_type["Secretive"][0] == 2
    assert [each.path for each in report.left][:1] == ["obj[2][1]"]
    assert len(report.left) == 2
    assert pin(obj, deep=True) is obj


def many_locks_in_a_dict(n):
    return {key: threading.Lock() for key in range(n)}


def many_locks_apart(n):
    return [[threading.Lock()] for _ in range(n)]


def many_classes(n):
    """Each class is reached only through the one before it."""
    link = None
    for _ in range(n // 100):
        above = type("Link", (), {"__slots__": ("below", "some")})()
        above.below, above.some = link, [[] for _ in range(100)]
        link = above
    return [link, [threading.Lock()]]


def one_large_dict(n):
    shared = dict.fromkeys(range(n))
    links = [Plain() for _ in range(n)]
    for link in links:
        link.shared = shared
    return links


@pytest.mark.parametrize(
    "make_graph", [many_locks_in_a_dict, many_locks_apart, many_classes, one_large_dict]
)
def test_deep_takes_time_proportional_to_the_graph(make_graph):
    """Minutes if it were the square."""
    obj = make_graph(30_000)
    left = pin_report(obj).left
    assert pin(obj, deep=True) is obj
    if make_graph is many_locks_in_a_dict:
        assert {each.path for each in left} == {f"obj[{key}]" for key in obj}
    if make_graph is many_locks_apart:
        assert {each.path for each in left} == {f"obj[{at}][0]" for at in range(len(obj))}


def test_report_shortens_long_paths():
    obj = lock = [threading.Lock()]
    for _ in range(8):
        obj = [obj]
    assert [each.path for each in pin_report(obj).left] == ["obj" + "[0]" * 9]
    for _ in range(10):
        obj = [obj]
    (left,) = pin_report(obj).left
    assert left.path == "obj..." + "[0]" * 12
    assert left.obj is lock[0]
