"""The application on gunicorn: a master that forks workers, each with threads (`gthread`).

The state is made before the fork, so each worker has its own copy of it. With the GIL several
workers are how a server uses several cores; without it, one worker with many threads does, and all
clients share one state.
"""

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from .arrival import TOO_SLOW, Arrival
from .deadlines import Deadlines

REQUEST = 30.0  # seconds that one request may take
BACKLOG = 1024  # connections that the kernel may hold for us


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """Serves with threads; a connection that has sent no whole request occupies none of them."""

    deadlines: Deadlines
    sockets: list[Any]

    def init_process(self) -> None:
        self.deadlines = Deadlines(REQUEST)
        self.deadlines.start()
        super().init_process()

    def handle(self, conn: Any) -> Any:
        # In gunicorn's own way a thread waits for the first byte for seconds, and for the others
        # for ever. What it defers is closed after `keepalive` seconds without news.
        conn.init()
        conn.arrival = arrival = getattr(conn, "arrival", None) or Arrival()
        unreader = conn.parser.unreader
        arrival.data += unreader.take_buffered()  # what came with the request before
        conn.sock.setblocking(False)
        try:
            if not arrival.is_whole(conn.sock):
                if not arrival.is_late(REQUEST):
                    return gthread._DEFER
                arrival.refuse(conn.sock, TOO_SLOW)
                return _end(conn)
        except (EOFError, OSError):
            return _end(conn)
        # With what came after it, so that gunicorn goes on at once.
        unreader.unread(arrival.take(rest=True))
        conn.data_ready = True
        with self.deadlines.limit(conn.sock):
            return super().handle(conn) or _end(conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        # It stops. In gunicorn's own way the listener is open until the last request is answered,
        # and then the kernel resets what it has accepted.
        for listener in self.sockets:
            with contextlib.suppress(OSError):  # too many files are open
                for _ in range(BACKLOG):
                    if not select.select([listener], [], [], 0)[0]:
                        break
                    self.accept(listener)
            listener.close()
        self.sockets = []


def _end(conn: Any) -> bool:
    """Have nobody wait for the client to close: gunicorn would, in its only accepting thread."""
    with contextlib.suppress(OSError):
        conn.sock.shutdown(socket.SHUT_RDWR)
    return False


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
            "backlog": BACKLOG,
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
