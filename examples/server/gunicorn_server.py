"""The application on gunicorn: a master that forks workers, each with threads (`gthread`).

The state is made before the fork, so each worker has its own copy of it. With the GIL several
workers are how a server uses several cores; without it, one worker with many threads does, and all
clients share one state.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from .arrival import TOO_SLOW, wake_at, wanted
from .deadlines import Deadlines

REQUEST = 30.0  # seconds that one request may take
LINGER = 0.2  # seconds that a closed connection waits for its client to close, too


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """Serves with threads; a connection that has sent no whole request occupies none of them."""

    deadlines: Deadlines

    def init_process(self) -> None:
        self.deadlines = Deadlines(REQUEST)
        self.deadlines.start()
        super().init_process()

    def handle(self, conn: Any) -> Any:
        # In gunicorn's own way a thread waits for the first byte for seconds, and for the others
        # for ever. What it defers is closed after `keepalive` seconds without news.
        now = time.monotonic()
        before = getattr(conn, "wanted", 0)
        conn.wanted = 0 if _has_data(conn) else wanted(conn.sock, before)
        if conn.wanted != before:
            wake_at(conn.sock, conn.wanted or 1)
        if before <= 1:
            conn.begun = now
        if conn.wanted and now - conn.begun > REQUEST:
            conn.sock.send(TOO_SLOW)
            return False
        if conn.wanted:
            return gthread._DEFER
        conn.data_ready = True
        with self.deadlines.limit(conn.sock):
            keep = super().handle(conn)
            if not keep:
                # gunicorn would wait in its only accepting thread, for 2 s, for a client that does
                # not close its end.
                util.close_graceful(conn.sock, timeout=LINGER)
            return keep


def _has_data(conn: Any) -> bool:
    """Say whether gunicorn has already read a part of the next request."""
    return conn.parser is not None and bool(conn.parser.unreader.buf.getvalue())


class Server(BaseApplication):  # type: ignore[misc]
    """One master. `run` returns by SystemExit after a stop."""

    def __init__(
        self,
        listener: tuple[str, int],
        application: Callable[..., Any],
        threads: int,
        workers: int,
        *,
        started: Callable[[], object],
        stopped: Callable[[], object],
    ) -> None:
        self.application = application
        self.options: dict[str, Any] = {
            "bind": "{}:{}".format(*listener),
            "workers": workers,
            "threads": threads,
            "worker_class": Worker,
            "worker_connections": 10_000,
            "backlog": 1024,
            "keepalive": 10,
            "graceful_timeout": int(REQUEST),
            "limit_request_field_size": 8190,
            "loglevel": "warning",
            "control_socket_disable": True,
            "when_ready": lambda _: _stop_gracefully_at_interrupt(),
            "post_worker_init": lambda _: _leave_interrupts_to_master(started),
            "worker_exit": lambda _, __: stopped(),
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        return self.application


def _stop_gracefully_at_interrupt() -> None:
    """Have the first Ctrl-C stop as SIGTERM does; gunicorn would drop what is being served."""
    quick = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, quick)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)


def _leave_interrupts_to_master(then: Callable[[], object]) -> None:
    # A Ctrl-C at a terminal reaches the workers as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    then()


def free_port(host: str) -> int:
    """Find a port for a gunicorn that is to say its address before its workers listen."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])
