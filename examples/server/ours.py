"""The shared state on nogil_sync: requests of different clients meet nowhere.

Every object that all threads use is pinned, which 3.13t needs: see docs/guide/sharing.md.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from prometheus_client import CollectorRegistry

from nogil_sync import AtomicInt64, AtomicRef, Cache, Pool, Semaphore, pin, pin_all
from nogil_sync.diagnostics import label
from nogil_sync.integrations.prometheus import Counter, Histogram

from . import configuration
from .configuration import Config
from .limits import next_turn
from .metrics import Metrics
from .state import turn


def new_buffer() -> bytearray:
    return bytearray(configuration.BUFFER)


class Shared:
    """The state of one server."""

    name = "ours"

    def __init__(self, config: Config) -> None:
        self._config = pin(AtomicRef(pin(config)))
        # The names of sessions, and their visits. Neither the look-up nor the visit takes a lock.
        self._sessions: Cache[str, AtomicInt64] = pin(
            Cache(configuration.SESSIONS, ttl=configuration.SESSION_SECONDS)
        )
        # Each client's number for the rate limit (see limits.py).
        self._clients: Cache[str, AtomicInt64] = pin(Cache(configuration.CLIENTS))
        self._buffers = pin(Pool(new_buffer, max_idle=64))
        self._reports = pin(Semaphore(configuration.REPORTS))
        self.registry = CollectorRegistry()
        self._metrics = Metrics(self.registry, Counter, Histogram, keep=partial(pin, deep=True))
        self._metrics.sessions.set_function(self.sessions)
        self.observe = self._metrics.observe
        self.keep([self, self._metrics, self._metrics.counters, self.observe])
        for name, each in vars(self).items():
            if name.startswith("_") and name != "_metrics":
                label(each, name[1:])

    def keep(self, objects: list[object]) -> None:
        pin_all(objects)

    def config(self) -> Config:
        return self._config.load()

    def change_config(self, change: Callable[[Config], Config]) -> Config:
        return self._config.update(change)

    def visit(self, session: str) -> int:
        visits = self._sessions.get(session)
        return 0 if visits is None else visits.add()

    def begin_session(self) -> str:
        session = secrets.token_urlsafe(16)
        self._sessions.put(session, AtomicInt64(1))
        return session

    def end_session(self, session: str) -> bool:
        return self._sessions.pop(session, None) is not None

    def sessions(self) -> int:
        return len(self._sessions)

    def delay(self, client: str) -> float:
        config = self._config.load()
        turn = self._clients.get(client)
        if turn is None:
            turn = self._clients.load_or_compute(client, AtomicInt64)
        while True:
            last = turn.load()
            following, wait = next_turn(last, time.monotonic_ns(), config.rate, config.burst)
            # If another request of the client was faster, look again.
            if wait or turn.compare_and_swap(last, following):
                return wait / 1e9

    def buffer(self) -> AbstractContextManager[bytearray]:
        return self._buffers.use()

    def report_turn(self) -> AbstractContextManager[None]:
        return turn(self._reports)
