"""The metrics of prometheus_client, updated by many threads without a lock.

prometheus_client keeps each number under a lock, and takes a lock of the metric in each call of
``labels``. The classes here are subclasses of its own with the same arguments, methods and errors:
import them from here in place of there. They register in the same registries, and its own code
writes what they expose, so the text is the same.

>>> from prometheus_client import CollectorRegistry, generate_latest
>>> from nogil_sync.integrations.prometheus import Counter
>>> registry = CollectorRegistry()
>>> requests = Counter("requests", "Requests served", ["method"], registry=registry)
>>> requests.labels("get").inc()
>>> registry.get_sample_value("requests_total", {"method": "get"})
1.0

Counters, summaries and histograms are sharded, as :class:`~nogil_sync.ShardedFloatCounter`: each
thread adds to a cache line of its own. A gauge is one word that all threads change, since it can
also be set. Children are looked up in a :class:`~nogil_sync.SyncMap` by the values of their labels.
On Python 3.13t pin a metric that many threads update: ``pin(requests.labels("get"), deep=True)``.

With PROMETHEUS_MULTIPROC_DIR the numbers are in files that several processes share. Those stay
prometheus_client's own, and so does any other value class that was put in place of its default;
only the look-up of children is ours then.
"""

import time
from typing import Any, Self

try:
    from prometheus_client import Counter as _TheirCounter
except ModuleNotFoundError as _missing:
    if _missing.name != "prometheus_client":
        raise
    raise ImportError(
        "nogil_sync.integrations.prometheus needs prometheus_client: "
        "pip install 'nogil_sync[prometheus]'",
        name=_missing.name,
    ) from _missing
from prometheus_client import Enum as _TheirEnum
from prometheus_client import Gauge as _TheirGauge
from prometheus_client import Histogram as _TheirHistogram
from prometheus_client import Info as _TheirInfo
from prometheus_client import Summary as _TheirSummary
from prometheus_client import values as _values
from prometheus_client.metrics import MetricWrapperBase as _MetricWrapperBase
from prometheus_client.samples import Exemplar as _Exemplar
from prometheus_client.validation import _validate_exemplar

from nogil_sync import SyncMap as _SyncMap
from nogil_sync._backend import CounterValue as _CounterValue
from nogil_sync._backend import GaugeValue as _GaugeValue
from nogil_sync._backend import HistogramValue as _HistogramValue
from nogil_sync._backend import defer as _defer

__all__ = ["Counter", "Enum", "Gauge", "Histogram", "Info", "Summary", "install"]

# ---- Values: what prometheus_client calls a value class ----


class _Sum(_CounterValue):
    """The number of a counter, or one of the two of a summary."""

    __slots__ = ("_exemplar",)
    _multiprocess = False

    def __init__(self) -> None:
        super().__init__()
        self._exemplar: _Exemplar | None = None

    def set_exemplar(self, exemplar: _Exemplar | None) -> None:
        self._exemplar = exemplar

    def get_exemplar(self) -> _Exemplar | None:
        return self._exemplar


class _Gauge(_GaugeValue):
    """The number of a gauge."""

    __slots__ = ("_exemplar",)
    _multiprocess = False

    def __init__(self) -> None:
        super().__init__()
        self._exemplar: _Exemplar | None = None

    def set_exemplar(self, exemplar: _Exemplar | None) -> None:
        self._exemplar = exemplar

    def get_exemplar(self) -> _Exemplar | None:
        return self._exemplar


class _Bucket:
    """A bucket of a histogram, as prometheus_client reads it."""

    __slots__ = ("_all", "_exemplar", "_number")

    def __init__(self, every: _HistogramValue, number: int) -> None:
        self._all = every
        self._number = number
        self._exemplar: _Exemplar | None = None

    def get(self) -> float:
        return float(self._all.count(self._number))

    def set_exemplar(self, exemplar: _Exemplar | None) -> None:
        self._exemplar = exemplar

    def get_exemplar(self) -> _Exemplar | None:
        return self._exemplar


class _HistogramSum:
    """The sum of a histogram, as prometheus_client reads it."""

    __slots__ = ("get",)

    def __init__(self, every: _HistogramValue) -> None:
        self.get = every.sum


def _new_value(typ: str | None, *_: object, **__: object) -> _Sum | _Gauge:
    """Make a value; called as prometheus_client calls its value class."""
    return _Gauge() if typ == "gauge" else _Sum()


def _is_ours_to_replace(value: object) -> bool:
    """Whether prometheus_client made the value without having been told to make another."""
    return type(value) in (_values.MutexValue, _Sum, _Gauge)


def install() -> bool:
    """Have prometheus_client's own classes keep their numbers as the ones here do.

    For metrics that other libraries make. It replaces ``prometheus_client.values.ValueClass``,
    which the library calls for each number of a new metric. Metrics that are there already stay as
    they are, so call it before those libraries are imported. Returns False, and changes nothing, if
    that is not the library's default: where several processes share their numbers
    (PROMETHEUS_MULTIPROC_DIR), or another value class is there.

    Such a metric still runs the library's Python code, and takes its lock in ``labels``: where you
    make a metric yourself, the classes here cost less.
    """
    if _values.ValueClass not in (_values.MutexValue, _new_value):
        return False
    _values.ValueClass = _new_value
    return True


# ---- Metrics ----

# What threads call often has no `super()`: that needs a cell of a closure, and each call would
# change the cell's reference count, for which all threads contend.


class _Metric(_MetricWrapperBase):
    """Children are found without a lock.

    The children are in `_metrics`, prometheus_client's own, in the order in which they are exposed,
    and it changes that under `_lock`. `_children` is an index of it, which also changes only under
    that lock, and has no child that is not there: so nobody gets a child once its removal has
    returned. A child's keys there are the values of its labels and, for calls by name, its aliases:
    None, the names in the order of the call, and the values. An alias is there only while the
    values are, and these go last: then an interrupted removal can be repeated.
    """

    _children: _SyncMap[tuple[str | None, ...], Self]
    _aliases: tuple[tuple[str | None, ...], ...] = ()  # a child's keys of calls by name

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        """Return the child for these values of the labels, by position or by name.

        It is made when it is first asked for: under the metric's lock, as are removals. After
        that it is found without a lock.
        """
        key: tuple[str | None, ...]
        if not labelkwargs:
            key = tuple(map(str, labelvalues))
        elif not labelvalues:
            key = (None, *labelkwargs, *map(str, labelkwargs.values()))
        else:
            return _MetricWrapperBase.labels(self, *labelvalues, **labelkwargs)  # raises
        try:
            child = self._children.get(key)
        except AttributeError:  # no child yet; or this is one, or there are no labels
            child = None
        return self._add_child(key, labelkwargs) if child is None else child

    def _add_child(self, key: tuple[str | None, ...], names: dict[str, object]) -> Self:
        if names:
            child = super().labels(**dict(zip(names, key[1 + len(names) :], strict=True)))
        else:
            child = super().labels(*key)
        labels = child._labelvalues
        with self._lock:
            if self._metrics.get(labels) is child:
                if "_children" not in vars(self):
                    self._children = _SyncMap()
                    _defer(self)
                before = self._children.get(labels, child)
                if before is not child:  # it was removed, and its removal is not over yet
                    self._forget_aliases(before)
                self._children[labels] = child
                if key != labels:
                    if key not in child._aliases:
                        child._aliases += (key,)
                    self._children[key] = child
        return child

    def remove(self, *labelvalues: Any) -> None:
        values = tuple(map(str, labelvalues))
        try:
            super().remove(*values)
        finally:  # also if an interrupt comes
            self._forget(values)

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        try:
            super().remove_by_labels(labels)
        finally:
            self._forget()

    def clear(self) -> None:
        try:
            super().clear()
        finally:
            self._forget()

    def _forget(self, *removed: tuple[str, ...]) -> None:
        """Take children out of the index that were removed: those, or all."""
        if "_children" not in vars(self):
            return
        children = self._children
        with self._lock:
            for key in removed or list(children):
                child = children.get(key)
                if child is not None and self._metrics.get(child._labelvalues) is not child:
                    self._forget_aliases(child)
                    children.pop(child._labelvalues, None)

    def _forget_aliases(self, child: Self) -> None:
        for key in child._aliases:
            self._children.pop(key, None)

    def _metric_init(self) -> None:
        super()._metric_init()  # type: ignore[no-untyped-call]
        # All threads that update it would contend for its reference count. From 3.14 on the
        # interpreter then does not count the references on its stacks.
        _defer(self)


class Counter(_Metric, _TheirCounter):
    """A ``prometheus_client.Counter`` to which threads add without a lock."""

    def _metric_init(self) -> None:
        super()._metric_init()
        if _is_ours_to_replace(self._value):
            self._value = _Sum()

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Increment the counter by the amount, which is not negative."""
        if exemplar:
            _TheirCounter.inc(self, amount, exemplar)
            return
        try:
            self._value.up(amount)
        except AttributeError:  # labels are missing, or the value is not ours
            _TheirCounter.inc(self, amount)


class Gauge(_Metric, _TheirGauge):
    """A ``prometheus_client.Gauge`` that threads change without a lock."""

    def _metric_init(self) -> None:
        super()._metric_init()
        if _is_ours_to_replace(self._value):
            self._value = _Gauge()

    def inc(self, amount: float = 1) -> None:
        """Increment the gauge by the amount."""
        if self._is_most_recent:
            _TheirGauge.inc(self, amount)  # raises
        try:
            value = self._value
        except AttributeError:
            _TheirGauge.inc(self, amount)  # raises: labels are missing
            return
        value.inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Decrement the gauge by the amount."""
        if self._is_most_recent:
            _TheirGauge.dec(self, amount)  # raises
        try:
            value = self._value
        except AttributeError:
            _TheirGauge.dec(self, amount)  # raises: labels are missing
            return
        value.inc(-amount)

    def set(self, value: float) -> None:
        """Set the gauge to the value."""
        if self._is_most_recent:
            _TheirGauge.set(self, value)
            return
        try:
            kept = self._value
        except AttributeError:
            _TheirGauge.set(self, value)  # raises: labels are missing
            return
        kept.set(float(value))


class Summary(_Metric, _TheirSummary):
    """A ``prometheus_client.Summary`` to which threads add without a lock."""

    def _metric_init(self) -> None:
        super()._metric_init()
        if _is_ours_to_replace(self._sum):
            self._count = _Sum()
            self._sum = _Sum()

    def observe(self, amount: float) -> None:
        """Observe the amount."""
        try:
            count = self._count
        except AttributeError:
            _TheirSummary.observe(self, amount)  # raises: labels are missing
            return
        count.inc(1)
        self._sum.inc(amount)


class Histogram(_Metric, _TheirHistogram):
    """A ``prometheus_client.Histogram`` to which threads add without a lock."""

    _kept: _HistogramValue | None

    def _metric_init(self) -> None:
        super()._metric_init()
        self._kept = None
        if _is_ours_to_replace(self._sum):
            self._kept = every = _HistogramValue(self._upper_bounds)
            self._sum = _HistogramSum(every)
            self._buckets = [_Bucket(every, i) for i in range(len(self._upper_bounds))]

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Observe the amount."""
        try:
            kept = self._kept
        except AttributeError:
            _TheirHistogram.observe(self, amount)  # raises: labels are missing
            return
        if kept is None:
            _TheirHistogram.observe(self, amount, exemplar)
            return
        bucket = kept.observe(amount)
        if exemplar and bucket >= 0:
            _validate_exemplar(exemplar)
            self._buckets[bucket].set_exemplar(_Exemplar(exemplar, amount, time.time()))


class Info(_Metric, _TheirInfo):
    """A ``prometheus_client.Info``, whose children are looked up without a lock."""


class Enum(_Metric, _TheirEnum):
    """A ``prometheus_client.Enum``, whose children are looked up without a lock."""
