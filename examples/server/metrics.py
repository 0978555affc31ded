"""The metrics of the server, for Prometheus. Its client's classes come as arguments."""

from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Upper bounds of the histogram, in seconds: four for each power of two from 8 µs to 8 s.
BOUNDS = tuple(8e-6 * 2 ** (n / 4) for n in range(81))


T = TypeVar("T")


def as_it_is(metric: T) -> T:
    return metric


class Metrics:
    """Counts requests by route and status, and their durations.

    `keep` is called with each metric that threads will update.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        counter: type[Counter] = Counter,
        histogram: type[Histogram] = Histogram,
        keep: Callable[[Any], Any] = as_it_is,
    ) -> None:
        self._keep = keep
        self.requests = counter(
            "server_requests",
            "Requests that were answered.",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = keep(
            histogram(
                "server_request_seconds",
                "Time inside the application.",
                buckets=BOUNDS,
                registry=registry,
            )
        )
        self.sessions = Gauge("server_sessions", "Sessions that are kept.", registry=registry)
        # labels() takes a lock and is slow: each pair is looked up once. Two threads may both do
        # so at first; they get the same child.
        self.counters: dict[tuple[str, int], Any] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        counter = self.counters.get((route, status))
        if counter is None:
            counter = self._keep(self.requests.labels(route, str(status)))
            self.counters[route, status] = counter
        counter.inc()
        self.seconds.observe(seconds)
