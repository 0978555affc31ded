"""The status page: what the server does, second by second, by server-sent events.

One thread takes a snapshot each second, and keeps the last ones, so a page that is opened later
shows what was before. All figures come from the metrics, as a monitoring system would see them, and
from `nogil_sync.diagnostics`. The contention profile runs only while somebody looks.

The page has a port and threads of its own: an open page would occupy a thread of the server.
"""

import json
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from traceback import StackSummary
from typing import Any

import nogil_sync
from nogil_sync.diagnostics import profile_contention, waits

from .state import State

INTERVAL = 1.0  # seconds between snapshots
KEPT = 120  # snapshots
VIEWERS = 8  # pages that may be open at once
WINDOW = 10.0  # seconds of one contention profile, after which the next one begins
PAGE = Path(__file__).with_name("status.html")
_SECURITY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)


class Status:
    """Takes the snapshots; as a WSGI application it shows them."""

    def __init__(self, state: State, server: str, threads: int) -> None:
        self.state = state
        self.about = {
            "backend": state.name,
            "objects": f"{nogil_sync.backend} backend"
            if state.name == "ours"
            else "threading, dict",
            "server": server,
            "threads": threads,
            "python": platform.python_version() + ("" if _gil() else "t, no GIL"),
            "cores": os.cpu_count(),
        }
        # What the state calls its objects; they live as long as it does.
        self._names = {id(each): name.strip("_") for name, each in vars(state).items()}
        self._snapshots: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._changed = threading.Condition()
        self._stopped = False
        self._viewers = 0
        self._thread: threading.Thread | None = None
        self._counted: dict[str, float] = {}
        self._buckets: dict[float, float] = {}
        self._taken = self._cpu = 0.0

    def start(self) -> None:
        """Begin with the snapshots; after a fork, in the process that serves."""
        self.about |= {"pid": os.getpid(), "since": time.time()}
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the snapshots, and all open streams."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # ---- Snapshots ----

    def _run(self) -> None:
        profile, began = None, 0.0
        self._snapshot()
        self._taken = time.monotonic()
        while True:
            with self._changed:
                due = self._taken + INTERVAL
                while not self._stopped and time.monotonic() < due:
                    self._changed.wait(due - time.monotonic())
                if self._stopped:
                    break
                watched = self._viewers > 0
            snapshot = self._snapshot()
            if profile is not None:
                snapshot["hot"] = _hot(profile)
                snapshot["window"] = profile.seconds
            if profile is not None and (not watched or time.monotonic() - began > WINDOW):
                profile.__exit__(None, None, None)
                profile = None
            if watched and profile is None:
                profile, began = profile_contention(), time.monotonic()
                profile.__enter__()
            with self._changed:
                self._snapshots.append(snapshot)
                self._changed.notify_all()
        if profile is not None:
            profile.__exit__(None, None, None)

    def _snapshot(self) -> dict[str, Any]:
        counted: dict[str, float] = {}
        buckets: dict[float, float] = {}
        for family in self.state.registry.collect():
            for sample in family.samples:
                if sample.name == "server_requests_total":
                    counted["{route} {status}".format(**sample.labels)] = sample.value
                elif sample.name == "server_request_seconds_bucket":
                    buckets[float(sample.labels["le"])] = sample.value
        now, cpu = time.monotonic(), time.process_time()
        passed = max(now - self._taken, 1e-9)
        new = {name: value - self._counted.get(name, 0) for name, value in counted.items()}
        recent = {le: value - self._buckets.get(le, 0) for le, value in buckets.items()}
        used = cpu - self._cpu
        self._counted, self._buckets, self._taken, self._cpu = counted, buckets, now, cpu
        return {
            "time": time.time(),
            "total": sum(counted.values()),
            "rate": sum(new.values()) / passed,
            "cpu": used / passed,
            "p50": quantile(recent, 0.5),
            "p99": quantile(recent, 0.99),
            "sessions": self.state.sessions(),
            "routes": [
                {"route": route, "status": status, "rate": new[name] / passed, "total": value}
                for name, value in sorted(counted.items(), key=lambda item: -item[1])
                for route, status in [name.split(" ")]
            ],
            "waits": [
                {
                    "object": self._names.get(id(wait.obj), type(wait.obj).__name__),
                    "operation": wait.operation,
                    "thread": getattr(wait.thread, "name", None) or "a task",
                    "seconds": wait.seconds,
                    "place": _place(wait.stack),
                }
                for wait in waits()[:20]
                if getattr(wait.thread, "name", None) != "deadlines"
            ],
            "hot": [],
            "window": 0.0,
        }

    # ---- The page ----

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO"), environ.get("REQUEST_METHOD")
        headers = [
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _SECURITY),
            ("X-Content-Type-Options", "nosniff"),
        ]

        def answer(status: str, kind: str, body: bytes) -> list[bytes]:
            headers.extend([("Content-Type", kind), ("Content-Length", str(len(body)))])
            start_response(status, headers)
            return [] if method == "HEAD" else [body]

        if method not in ("GET", "HEAD"):
            headers.append(("Allow", "GET, HEAD"))
            return answer("405 Method Not Allowed", "text/plain", b"405 Method Not Allowed\n")
        if path == "/":
            return answer("200 OK", "text/html; charset=utf-8", PAGE.read_bytes())
        if path == "/events" and method == "GET":
            with self._changed:
                if self._stopped:  # a stream that ends at once: the browser comes back later
                    return answer("200 OK", "text/event-stream", b"retry: 1000\n\n")
                if self._viewers >= VIEWERS:
                    headers.append(("Retry-After", "5"))
                    return answer("503 Service Unavailable", "text/plain", b"too many viewers\n")
                self._viewers += 1
            start_response("200 OK", [*headers, ("Content-Type", "text/event-stream")])
            return _Stream(self)
        return answer("404 Not Found", "text/plain", b"404 Not Found\n")

    def leave(self) -> None:
        """Say that a viewer has gone."""
        with self._changed:
            self._viewers -= 1

    def events(self) -> Iterator[bytes]:
        """What one viewer gets: first what is known, then each snapshot."""
        with self._changed:
            known = list(self._snapshots)
        last = known[-1]["time"] if known else 0.0
        yield b"retry: 1000\n" + _event("about", {**self.about, "history": known})
        while True:
            with self._changed:
                while not self._stopped and not self._newer(last):
                    self._changed.wait(INTERVAL)
                if self._stopped:
                    return
                new = self._newer(last)
            for snapshot in new:
                last = snapshot["time"]
                yield _event("snapshot", snapshot)

    def _newer(self, last: float) -> list[dict[str, Any]]:
        return [each for each in self._snapshots if each["time"] > last]


class _Stream:
    """The events of one viewer. The HTTP server calls `close` whatever happens."""

    def __init__(self, status: Status) -> None:
        self._status: Status | None = status
        self._events = status.events()

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        status, self._status = self._status, None
        if status is not None:
            with suppress(ValueError):  # it runs, in the thread that closes it
                self._events.close()  # type: ignore[attr-defined]
            status.leave()


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def quantile(buckets: dict[float, float], share: float) -> float | None:
    """Estimate a quantile, in seconds, from the cumulative counts of a histogram."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if total <= 0:
        return None
    below, lower = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if bound == float("inf"):
                return lower
            part = (share * total - below) / max(buckets[bound] - below, 1e-9)
            return lower + (bound - lower) * part
        below, lower = buckets[bound], bound
    return lower


def _hot(profile: Any) -> list[dict[str, Any]]:
    """The objects that threads waited for, or tried again on, the worst first."""
    found = [each for each in profile.objects if each.contended]
    return [
        {
            "object": each.name,
            "type": each.type,
            "waits": each.waits / profile.seconds,
            "seconds": each.seconds / profile.seconds,
            "longest": each.longest,
            "retries": each.retries / profile.seconds,
            "place": _place(each.sites[0].stack) if each.sites else "",
        }
        for each in found[:10]
    ]


def _place(stack: StackSummary) -> str:
    if not stack:
        return ""
    frame = stack[-1]
    return f"{frame.name} ({Path(frame.filename).name}:{frame.lineno})"


def _gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())
