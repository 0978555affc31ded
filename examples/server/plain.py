"""The shared state on `threading`, `dict` and the Prometheus client as it is, to compare with."""

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prometheus_client import CollectorRegistry

from . import configuration
from .configuration import Config
from .limits import next_turn
from .metrics import Metrics
from .state import turn


class Session:
    """One session: its visits, and when it ends."""

    __slots__ = ("ends", "visits")

    def __init__(self) -> None:
        self.visits = 1
        self.ends = time.monotonic() + configuration.SESSION_SECONDS


class Shared:
    """The state of one server."""

    name = "plain"

    def __init__(self, config: Config) -> None:
        self._config = config
        self._config_lock = threading.Lock()  # of writers; readers read one attribute
        # Those that came longest ago are first, and go first when there are too many.
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._sessions_lock = threading.Lock()
        self._clients: OrderedDict[str, int] = OrderedDict()
        self._clients_lock = threading.Lock()
        self._buffers: deque[bytearray] = deque(maxlen=64)  # append and pop are atomic
        self._reports = threading.Semaphore(configuration.REPORTS)
        self.registry = CollectorRegistry()
        self._metrics = Metrics(self.registry)
        self._metrics.sessions.set_function(self.sessions)
        self.observe = self._metrics.observe

    def keep(self, objects: list[object]) -> None:
        """Do nothing."""

    def config(self) -> Config:
        return self._config

    def change_config(self, change: Callable[[Config], Config]) -> Config:
        with self._config_lock:
            self._config = changed = change(self._config)
            return changed

    def visit(self, session: str) -> int:
        with self._sessions_lock:
            found = self._sessions.get(session)
            if found is None:
                return 0
            if found.ends < time.monotonic():
                del self._sessions[session]
                return 0
            self._sessions.move_to_end(session)
            found.visits += 1
            return found.visits

    def begin_session(self) -> str:
        session = secrets.token_urlsafe(16)
        with self._sessions_lock:
            while len(self._sessions) >= configuration.SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[session] = Session()
        return session

    def end_session(self, session: str) -> bool:
        with self._sessions_lock:
            return self._sessions.pop(session, None) is not None

    def sessions(self) -> int:
        return len(self._sessions)

    def delay(self, client: str) -> float:
        config = self._config
        with self._clients_lock:
            now = time.monotonic_ns()  # not before: the wait for the lock may be long
            turn, wait = next_turn(self._clients.get(client, 0), now, config.rate, config.burst)
            if not wait:
                self._clients[client] = turn
                self._clients.move_to_end(client)
                if len(self._clients) > configuration.CLIENTS:
                    self._clients.popitem(last=False)
            return wait / 1e9

    @contextmanager
    def buffer(self) -> Iterator[bytearray]:
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(configuration.BUFFER)
        try:
            yield buffer
        finally:
            self._buffers.append(buffer)

    def report_turn(self) -> AbstractContextManager[None]:
        return turn(self._reports)
