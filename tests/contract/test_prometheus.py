"""nogil_sync.integrations.prometheus: what it does beside prometheus_client's own classes."""

import copy
import doctest
import enum
import gc
import math
import pickle
import re
import signal
import sys
import threading
import weakref

import forks
import pytest
from marks import needs_fork, starts_processes, starts_threads
from processes import in_own_process, in_process
from support import NATIVE, collected, many, run_threads

prometheus_client = pytest.importorskip("prometheus_client", reason="prometheus_client is missing")

from prometheus_client import CollectorRegistry, generate_latest  # noqa: E402
from prometheus_client.openmetrics.exposition import (  # noqa: E402
    generate_latest as generate_openmetrics,
)

from nogil_sync import is_pinned, pin  # noqa: E402
from nogil_sync._backend import CounterValue, GaugeValue, HistogramValue  # noqa: E402
from nogil_sync.integrations import prometheus  # noqa: E402

ERRORS = (AttributeError, TypeError, ValueError, RuntimeError, OverflowError)


class Label(str, enum.Enum):  # noqa: UP042  (equal to "x", but prometheus_client takes its str())
    X = "x"


def exposed(registry):
    """The text in both formats, without times."""
    text = generate_latest(registry).decode() + generate_openmetrics(registry).decode()
    text = re.sub(r"(?m)^(\S+_created\S*) .*$", r"\1 TIME", text)
    return re.sub(r"(?m)(# \{.*\} \S+) \S+$", r"\1 TIME", text)


def use_counters(library, registry):
    c = library.Counter("c", "a counter", registry=registry)
    c.inc()
    c.inc(0.1)
    c.inc(0.2, {"trace": "abc"})
    with pytest.raises(KeyError), c.count_exceptions(KeyError):
        {}["missing"]
    lost = library.Counter("lost", "was reset", unit="seconds", registry=registry)
    lost.inc(5)
    lost.reset()
    lost.inc(exemplar={})
    labelled = library.Counter("l", "has labels", ["a", "b"], namespace="n", registry=registry)
    for values in (("z", 1), ("a", 2), ("m", None), ("z", "1"), (Label.X, ""), ("x", "")):
        labelled.labels(*values).inc(2)
    labelled.labels(a="kw", b="1").inc()
    labelled.labels(b="1", a="kw").inc()
    labelled.remove("a", 2)
    labelled.labels("a", "2").inc()
    library.Counter("none", "has no child", ["a"], registry=registry)


def use_gauges(library, registry):
    g = library.Gauge("g", "a gauge", registry=registry)
    for value in (3, -0.0, 1e300, math.inf):
        g.set(value)
    g.set(2.5)
    g.inc()
    g.dec(0.25)
    with g.track_inprogress():
        g.inc(3)
    library.Gauge("nan", "NaN", registry=registry).set(math.nan)
    library.Gauge("called", "calls", registry=registry).set_function(lambda: 7)
    timed = library.Gauge("timed", "times", ["a"], registry=registry)
    with timed.labels("x").time():
        pass
    timed.labels("x").set_to_current_time()
    timed.labels("x").set(0)
    timed.clear()
    timed.labels("y").set(1)
    recent = library.Gauge("recent", "", registry=registry, multiprocess_mode="mostrecent")
    recent.set(4)


def use_distributions(library, registry):
    s = library.Summary("s", "a summary", ["a"], registry=registry)
    s.labels("x").observe(0.5)
    s.labels("x").observe(-3)
    with s.labels("y").time():
        pass
    s.remove_by_labels({"a": "y"})
    h = library.Histogram("h", "a histogram", registry=registry)
    for amount in (0, 0.005, 0.0051, 1, 1.5, 10, 10.1, math.inf, -1, True):
        h.observe(amount)
    h.observe(0.3, {"trace": "abc"})
    own = library.Histogram("own", "own buckets", ["a"], buckets=(-1, 0, 2), registry=registry)
    for amount in (-2, -1, 0.5, 3):
        own.labels("x").observe(amount)
    nan = library.Histogram("nans", "NaN", registry=registry)
    nan.observe(math.nan, {"trace": "none"})


def use_others(library, registry):
    library.Info("i", "an info", registry=registry).info({"version": "1"})
    library.Info("il", "with labels", ["a"], registry=registry).labels("x").info({"version": "2"})
    e = library.Enum("e", "an enum", states=["off", "on"], registry=registry)
    e.state("on")
    labelled = library.Enum("el", "with labels", ["a"], states=["off", "on"], registry=registry)
    labelled.labels(a="x").state("on")


@pytest.mark.parametrize("use", [use_counters, use_gauges, use_distributions, use_others])
def test_exposed_text_is_the_same(use):
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    use(prometheus_client, theirs)
    use(prometheus, ours)
    assert exposed(ours) == exposed(theirs)


def calls_that_fail(library):
    counter = library.Counter("c", "", registry=None)
    labelled = library.Counter("c", "", ["a", "b"], registry=None)
    gauge = library.Gauge("g", "", ["a"], registry=None)
    recent = library.Gauge("g", "", registry=None, multiprocess_mode="mostrecent")
    histogram = library.Histogram("h", "", registry=None)
    parent = library.Histogram("h", "", ["a"], registry=None)
    summary = library.Summary("s", "", ["a"], registry=None)
    return [
        lambda: counter.inc(-1),
        lambda: counter.inc("1"),
        lambda: counter.inc(10**400),
        lambda: counter.inc(1, {"too long": "x" * 200}),
        lambda: counter.labels("x"),
        lambda: counter.remove("x"),
        labelled.inc,
        lambda: labelled.inc(-1),
        lambda: labelled.inc(1, {"a": "b"}),
        lambda: labelled.labels("x"),
        labelled.labels,
        lambda: labelled.labels("x", "y", "z"),
        lambda: labelled.labels("x", b="y"),
        lambda: labelled.labels(a="x"),
        lambda: labelled.labels(a="x", c="y"),
        lambda: labelled.labels("x", "y").labels("x", "y"),
        lambda: labelled.remove("x"),
        lambda: labelled.remove_by_labels({"c": "x"}),
        lambda: labelled.remove_by_labels([]),
        gauge.inc,
        gauge.dec,
        lambda: gauge.set(1),
        lambda: gauge.labels("x").set("much"),
        lambda: gauge.labels("x").inc("1"),
        recent.inc,
        recent.dec,
        lambda: histogram.observe("1"),
        lambda: histogram.observe(1, {"too long": "x" * 200}),
        lambda: parent.observe(1),
        lambda: summary.observe(1),
        lambda: library.Histogram("h", "", buckets=(2, 1), registry=None),
        lambda: library.Enum("e", "", registry=None),
    ]


def test_misuse_is_refused_as_they_refuse_it():
    for theirs, ours in zip(
        calls_that_fail(prometheus_client), calls_that_fail(prometheus), strict=True
    ):
        with pytest.raises(ERRORS) as expected:
            theirs()
        with pytest.raises(expected.type) as found:
            ours()
        if expected.type in (ValueError, RuntimeError):
            assert str(found.value) == str(expected.value)


@starts_threads
def test_threads_lose_no_change():
    registry = CollectorRegistry()
    times = many(500)
    counter = prometheus.Counter("c", "", ["a", "b"], registry=registry)
    gauge = prometheus.Gauge("g", "", registry=registry)
    histogram = prometheus.Histogram("h", "", ["a"], registry=registry, buckets=(1, 2))
    summary = prometheus.Summary("s", "", registry=registry)

    def use():
        for i in range(times):
            counter.labels("x", i % 3).inc(0.5)
            counter.labels(b=i % 3, a="x").inc(0.5)
            gauge.inc(2)
            gauge.dec()
            histogram.labels("x").observe(i % 3 + 0.5)
            summary.observe(2)

    run_threads(*[use] * 4)
    total = 4 * times
    each = [registry.get_sample_value("c_total", {"a": "x", "b": str(i)}) for i in range(3)]
    assert sum(each) == total
    assert registry.get_sample_value("g") == total
    assert registry.get_sample_value("h_count", {"a": "x"}) == total
    observed = 4 * sum(i % 3 + 0.5 for i in range(times))
    assert registry.get_sample_value("h_sum", {"a": "x"}) == observed
    assert registry.get_sample_value("s_count") == total
    assert registry.get_sample_value("s_sum") == 2 * total


@starts_threads
def test_threads_that_look_up_one_label_set_get_one_child():
    counter = prometheus.Counter("c", "", ["a"], registry=None)
    for i in range(many(50)):
        found = run_threads(*[lambda i=i: counter.labels(i), lambda i=i: counter.labels(a=i)] * 2)
        assert len({id(child) for child in found}) == 1


def test_children_are_found_by_position_and_by_name():
    counter = prometheus.Counter("c", "", ["a", "b"], registry=None)
    by_name = counter.labels(b="y", a="x")
    assert counter.labels(a="x", b="y") is by_name
    assert counter.labels("x", "y") is by_name
    assert counter.labels("y", "x") is not by_name
    with pytest.raises(ValueError, match="Incorrect label count"):
        counter.labels("b", "a", "y", "x")
    assert counter.labels(a="y", b="x") is counter.labels("y", "x")


@pytest.mark.parametrize(
    "remove",
    [
        lambda metric: metric.remove("x", 1),
        lambda metric: metric.remove_by_labels({"b": 1}),
        lambda metric: metric.clear(),
    ],
    ids=["remove", "remove_by_labels", "clear"],
)
def test_removed_child_is_not_found_again(remove):
    counter = prometheus.Counter("c", "", ["a", "b"], registry=None)
    remove(counter)
    child, other = counter.labels("x", "1"), counter.labels(a="x", b="2")
    assert counter.labels(a="x", b=1) is child
    assert counter.labels(b=1, a="x") is child
    remove(counter)
    fresh = counter.labels(b=1, a="x")
    assert fresh is not child
    assert counter.labels("x", 1) is counter.labels(a="x", b=1) is fresh
    if counter.labels("x", "2") is other:
        assert counter.labels(a="x", b="2") is other


@starts_threads
def test_child_that_is_found_after_a_removal_is_exposed():
    registry = CollectorRegistry()
    counter = prometheus.Counter("c", "", ["a"], registry=registry)
    mine = {"a": "mine"}

    def use_mine():
        for _ in range(many(50)):
            counter.labels(**mine).inc()
            assert registry.get_sample_value("c_total", mine) == 1
            counter.remove("mine")
            assert registry.get_sample_value("c_total", mine) is None

    def use_others():
        for _ in range(many(50)):
            counter.labels("other").inc()
            counter.labels(a="other").inc()
            counter.remove("other")

    run_threads(use_mine, use_others, use_others)


def test_removal_forgets_the_names_of_a_child_that_is_made_anew_meanwhile():
    counter = prometheus.Counter("c", "", ["a", "b"], registry=None)
    removed = counter.labels(a="x", b="y")
    made = []
    forget = counter._forget

    def make_and_forget(*keys):  # as another thread does that comes before the removal is over
        made.append(counter.labels(b="y", a="x"))
        forget(*keys)

    counter._forget = make_and_forget
    counter.remove("x", "y")
    assert made[0] is not removed
    assert counter.labels(a="x", b="y") is counter.labels("x", "y") is made[0]


def test_removed_children_are_freed():
    counter = prometheus.Counter("c", "", ["a"], registry=None)
    child = counter.labels("x")
    assert counter.labels(a="x") is child
    watch = weakref.ref(child)
    counter.clear()
    del child
    assert collected(watch)


def test_values_have_what_a_value_class_has():
    # as prometheus_client and the tests of programs call them
    counter = prometheus.Counter("c", "", registry=None)
    counter._value.set(5)
    counter.inc()
    assert counter._value.get() == 6
    assert counter._value.get_exemplar() is None
    histogram = prometheus.Histogram("h", "", registry=None, buckets=(1,))
    histogram.observe(0.5)
    assert histogram._sum.get() == 0.5
    assert [bucket.get() for bucket in histogram._buckets] == [1, 0]


@pytest.mark.thread_unsafe(reason="doctest replaces sys.stdout")
def test_docstring_example_runs():
    assert doctest.testmod(prometheus) == (0, 6)


def test_hot_methods_have_no_cell_to_contend_for():
    # `super()` needs one, and each call changes its reference count
    hot = [prometheus.Counter.labels, prometheus.Counter.inc, prometheus.Summary.observe]
    hot += [prometheus.Gauge.inc, prometheus.Gauge.dec, prometheus.Gauge.set]
    for method in (*hot, prometheus.Histogram.observe):
        assert method.__closure__ is None


def test_repr_names_the_class():
    counter = prometheus.Counter("c", "", registry=None)
    assert repr(counter) == "nogil_sync.integrations.prometheus.Counter(c)"
    assert isinstance(counter, prometheus_client.Counter)


def test_subclasses_have_children_of_their_own_class():
    class Doubled(prometheus.Counter):
        def inc(self, amount=1, exemplar=None):
            super().inc(2 * amount, exemplar)

    registry = CollectorRegistry()
    counter = Doubled("c", "", ["a"], registry=registry)
    counter.labels("x").inc()
    assert type(counter.labels("x")) is Doubled
    assert registry.get_sample_value("c_total", {"a": "x"}) == 2


def test_counter_value_sums_up():
    c = CounterValue()
    for amount in (3, True, 0.5, 2**40, -(2**40)):
        c.inc(amount)
    c.up(2)
    c.up(-0.0)
    for negative in (-1, -0.5, -(10**30)):
        with pytest.raises(ValueError, match="non-negative amounts"):
            c.up(negative)
    for refused in ("1", None, 1j):
        for add in (c.inc, c.up):
            with pytest.raises(TypeError):
                add(refused)
    with pytest.raises(OverflowError):
        c.up(10**400)
    assert c.get() == 6.5
    assert (c.reset(), c.get()) == (6.5, 0)
    c.up(math.nan)
    assert math.isnan(c.get())


@starts_threads
def test_set_replaces_what_threads_added():
    c = CounterValue()
    for _ in range(many(5)):
        run_threads(*[lambda: [c.inc(1) for _ in range(many(2000))]] * 3)
        assert c.get() > 0
        run_threads(lambda: c.set(3), lambda: c.set(value=4.5, timestamp=None))
        assert c.get() in (3, 4.5)
        c.inc(1)
        assert c.get() in (4, 5.5)
    for bad in ("1", None, 10**400):
        with pytest.raises((TypeError, OverflowError)):
            c.set(bad)
    assert c.get() in (4, 5.5)


@starts_processes
@in_own_process
def test_counter_is_reset_by_a_signal_handler_that_interrupts_a_reset():
    counter = prometheus.Counter("c", "", registry=None)
    handled = 0

    def handle(*_):
        nonlocal handled
        counter.reset()
        handled += 1

    def send():
        while handled < 200:
            signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, handle)
    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        counter.reset()
    sender.join()
    assert counter._value.get() == 0


def test_gauge_value_is_any_float():
    g = GaugeValue()
    assert g.get() == 0.0
    for value in (3, True, -0.0, 1e308, math.inf, -math.inf):
        g.set(value)
        assert repr(g.get()) == repr(float(value))
    g.inc(math.inf)
    assert math.isnan(g.get())
    g.set(1, None)
    g.set(value=2, timestamp=3.5)
    g.inc(-5)
    assert g.get() == -3
    for refused in ("1", None, 1j):
        with pytest.raises(TypeError):
            g.inc(refused)
        with pytest.raises(TypeError):
            g.set(refused)
    for wrong in (lambda: g.set(), lambda: g.set(1, 2, 3), lambda: g.inc(), lambda: g.get(1)):
        with pytest.raises(TypeError):
            wrong()
    assert g.get() == -3


def test_histogram_value_counts_in_the_first_bucket_that_fits():
    h = HistogramValue([-1, 0.5, 2, math.inf])
    found = [h.observe(amount) for amount in (-5, -1, 0, 0.5, 0.6, 2, 3, math.inf)]
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [h.count(i) for i in range(4)] == [2] * 4
    assert h.sum() == math.inf
    assert h.observe(math.nan) == -1
    assert math.isnan(h.sum())
    assert [h.count(i) for i in range(4)] == [2] * 4
    for wrong in (4, -1):
        with pytest.raises(IndexError, match=r"^no such bucket$"):
            h.count(wrong)
    empty = HistogramValue(())
    assert empty.observe(1) == -1
    assert empty.sum() == 1
    for refused in (("x",), 1, None):
        with pytest.raises(TypeError):
            HistogramValue(refused)
    with pytest.raises(TypeError):
        HistogramValue()
    with pytest.raises(TypeError):
        h.observe("1")


@pytest.mark.parametrize(
    "value",
    [CounterValue(), GaugeValue(), HistogramValue((1, 2))],
    ids=["counter", "gauge", "histogram"],
)
def test_values_are_objects_of_the_library(value):
    assert weakref.ref(value)() is value
    assert sys.getsizeof(value) > 0
    for refused in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot pickle or copy"):
            refused(value)


def test_values_survive_what_their_arguments_do():
    class Restless:
        def __float__(self):
            gc.collect()
            g.set(1)
            h.observe(1)
            return 2.0

    class Failing:
        def __float__(self):
            raise KeyError("no number")

    g, h = GaugeValue(), HistogramValue((1, 2))
    g.inc(Restless())
    h.observe(Restless())
    assert g.get() == 1
    assert (h.count(0), h.count(1), h.sum()) == (2, 1, 4)
    for use in (g.inc, g.set, h.observe, lambda bad: HistogramValue([1, bad])):
        with pytest.raises(KeyError):
            use(Failing())


@needs_fork
@starts_processes
def test_child_of_a_fork_goes_on_counting():
    in_process(_fork_and_count)


def _fork_and_count():
    from prometheus_client import CollectorRegistry

    from nogil_sync.integrations import prometheus

    registry = CollectorRegistry()
    counter = prometheus.Counter("c", "", ["a"], registry=registry)
    counter.labels("x").inc()

    def child():
        counter.labels("x").inc()
        counter.labels(a="y").inc()
        counter.labels("x")._value.set(7)
        assert registry.get_sample_value("c_total", {"a": "x"}) == 7
        assert registry.get_sample_value("c_total", {"a": "y"}) == 1

    forks.in_child(child)
    assert registry.get_sample_value("c_total", {"a": "x"}) == 1
    assert registry.get_sample_value("c_total", {"a": "y"}) is None


@pytest.mark.skipif(not NATIVE, reason="there is nothing to pin")
@starts_processes
@in_own_process
def test_deep_pin_of_a_child_pins_its_value():
    counter = prometheus.Counter("c", "", ["a"], registry=None)
    child = pin(counter.labels("x"), deep=True)
    assert is_pinned(child)
    assert is_pinned(child._value)
    histogram = pin(prometheus.Histogram("h", "", registry=None), deep=True)
    assert is_pinned(histogram._kept)


@starts_processes
def test_processes_share_their_numbers_by_their_values(tmp_path):
    # theirs, in files, with ours in between: the look-up of children
    in_process(_share_numbers, env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    assert [*tmp_path.iterdir()]


def _share_numbers():
    import warnings

    from prometheus_client import CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    from nogil_sync.integrations import prometheus

    warnings.simplefilter("ignore", UserWarning)
    assert not prometheus.install()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    counter = prometheus.Counter("c", "", ["a"], registry=None)
    counter.labels("x").inc(3)
    assert type(counter.labels("x")._value).__name__ == "MmapedValue"
    prometheus.Gauge("g", "", registry=None, multiprocess_mode="mostrecent").set(2)
    prometheus.Histogram("h", "", registry=None, buckets=(1, 2)).observe(1.5)
    prometheus.Summary("s", "", registry=None).observe(1.5)
    assert registry.get_sample_value("c_total", {"a": "x"}) == 3
    assert registry.get_sample_value("g") == 2
    assert registry.get_sample_value("h_bucket", {"le": "2.0"}) == 1
    assert registry.get_sample_value("s_sum") == 1.5
    counter.clear()
    assert counter.labels("x")._value.get() == 3  # as theirs: still in the file


@starts_processes
@in_own_process
def test_installed_values_are_in_metrics_of_other_libraries():
    theirs = prometheus_client.Counter("before", "", registry=None)
    assert prometheus.install()
    assert prometheus.install()
    registry = CollectorRegistry()
    for library in (prometheus_client, prometheus):
        c = library.Counter(library.__name__.replace(".", "_"), "", registry=registry)
        c.inc(2, {"trace": "x"})
        assert type(c._value).__name__ == "_Sum"
        c.reset()
        h = library.Histogram("h" + c._name, "", registry=registry)
        h.observe(1)
        assert registry.get_sample_value("h" + c._name + "_count") == 1
    gauge = prometheus_client.Gauge("g", "", registry=registry)
    gauge.set(4)
    gauge.dec()
    assert type(gauge._value).__name__ == "_Gauge"
    assert registry.get_sample_value("g") == 3
    assert type(theirs._value).__name__ == "MutexValue"
    # another library's value class stays
    mine = type("Mine", (prometheus_client.values.MutexValue,), {})
    prometheus_client.values.ValueClass = mine
    assert not prometheus.install()
    assert prometheus_client.values.ValueClass is mine
    counter = prometheus.Counter("mine", "", registry=registry)
    counter.inc(2)
    assert type(counter._value) is mine
    histogram = prometheus.Histogram("h_mine", "", registry=registry)
    histogram.observe(1, {"trace": "x"})
    assert type(histogram._sum) is mine
    assert registry.get_sample_value("mine_total") == 2
    assert registry.get_sample_value("h_mine_count") == 1


@starts_processes
@in_own_process
def test_import_without_prometheus_client_says_what_to_install():
    sys.modules["prometheus_client"] = None
    try:
        import nogil_sync.integrations.prometheus  # noqa: F401
    except ImportError as error:
        assert "pip install 'nogil_sync[prometheus]'" in str(error)
    else:
        raise AssertionError
