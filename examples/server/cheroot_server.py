"""The application on cheroot: a selector thread, and worker threads that serve requests.

Three things are ours. A connection waits at the selector until it has sent a whole request, which a
worker then reads from memory (see arrival.py); in cheroot's own way a new one occupies a worker at
once, and a few idle or slow clients block the server. A request has a deadline (see deadlines.py).
And a stop loses no request: see `Server.stop`.
"""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from cheroot import server, wsgi
from cheroot.makefile import MakeFile

from .arrival import CHUNKED, HEADERS, TOO_SLOW, Arrival
from .deadlines import Deadlines

IDLE = 10.0  # seconds until a connection that sends nothing is closed
REQUEST = 30.0  # seconds that one request may take
LINGER = 1.0  # seconds that a stopping server waits for open connections at most
BACKLOG = 1024  # connections that the kernel may hold for us


class _Request(io.BytesIO):
    """One request, as cheroot reads it."""

    def has_data(self) -> bool:
        """Say no: what is left of it is no next request."""
        return False


def _file(connection: Any, mode: str, size: int) -> Any:
    """Make what cheroot reads from, or writes to. It never reads from the connection."""
    if "r" in mode:
        return _Request()
    return MakeFile(connection, mode, size)


class _Connection(server.HTTPConnection):
    def __init__(self, owner: Any, connection: Any, _: Any) -> None:
        super().__init__(owner, connection, _file)
        # It does not block, except while a worker sends an answer.
        connection.settimeout(0)
        self.arrival = Arrival()

    def communicate(self) -> bool:
        self.rfile = _Request(self.arrival.take())
        self.socket.settimeout(self.server.timeout)
        with self.server.deadlines.limit(self.socket):
            keep = bool(super().communicate())  # type: ignore[no-untyped-call]
        self.socket.settimeout(0)
        return keep

    def close(self) -> None:
        self.server.waiting.discard(self)
        if self.arrival.begun:
            self.arrival.refuse(self.socket, TOO_SLOW)
        super().close()
        # cheroot leaves the writer to the collector, which reports that its socket is closed.
        with contextlib.suppress(OSError):
            self.wfile.close()


class Server(wsgi.Server):
    """One server. `serve_in_thread` starts it, `stop` ends it."""

    ConnectionClass = _Connection
    _connections: Any  # cheroot's selector, and what accepts connections

    def __init__(
        self,
        address: tuple[str, int],
        application: Callable[..., Iterable[bytes]],
        threads: int,
        *,
        idle: float = IDLE,
        request: float = REQUEST,
    ) -> None:
        super().__init__(
            address,
            application,
            numthreads=threads,
            request_queue_size=BACKLOG,
            accepted_queue_size=-1,
            timeout=idle,  # type: ignore[arg-type]
            shutdown_timeout=request,  # type: ignore[arg-type]
            server_name="localhost",
        )
        self.keep_alive_conn_limit = None  # type: ignore[assignment]
        self.max_request_header_size = HEADERS
        self.max_request_body_size = CHUNKED
        self.software = "nogil_sync"
        self.deadlines = Deadlines(request)
        self.draining = False
        #: Connections that have no whole request.
        self.waiting: set[Any] = set()
        self._thread: threading.Thread | None = None

    def process_conn(self, conn: Any) -> None:
        """Take a connection: give it to a worker if it has a whole request, else let it wait."""
        self.waiting.discard(conn)
        try:
            whole = conn.arrival.is_whole(conn.socket)
        except (EOFError, OSError):
            conn.close()
            return
        if whole:
            super().process_conn(conn)
        elif conn.arrival.is_late(self.deadlines.seconds):
            conn.close()
        else:
            self.waiting.add(conn)
            super().put_conn(conn)

    def put_conn(self, conn: Any) -> None:
        """Take a connection back from a worker."""
        if self.ready:
            self.process_conn(conn)
        else:
            conn.close()

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Say whether an answer may leave its connection open."""
        return self.ready and not self.draining

    @property
    def address(self) -> str:
        host, port = self.bind_addr[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve_in_thread(self, failed: Callable[[], object]) -> None:
        """Bind, and serve in a thread. `failed` is called if that ends without a stop."""
        self.prepare()
        self.deadlines.start()

        def serve() -> None:
            try:
                self.serve()
            finally:
                if self.ready:
                    failed()

        self._thread = threading.Thread(target=serve, name="selector")
        self._thread.start()

    def stop(self) -> None:
        """Stop so that no request is lost that has arrived.

        From now on each answer closes its connection, and new clients are refused, so all go
        elsewhere. For a moment the open connections may still send what they were sending. Then
        they are closed, and the workers end after what is in their queue.
        """
        self.draining = True
        self._close_listener()
        until = time.monotonic() + LINGER
        while time.monotonic() < until and (self.waiting or self.requests.qsize):
            time.sleep(0.01)
        super().stop()
        if self._thread is not None:
            self._thread.join()
        self.deadlines.stop()

    def _close_listener(self) -> None:
        """Take the connections that the kernel has accepted for us, so that it resets none."""
        self._connections._selector.unregister(self.socket.fileno())
        self.socket.settimeout(0)
        with contextlib.suppress(OSError):  # too many files are open
            for _ in range(BACKLOG):
                conn = self._connections._from_server_socket(self.socket)
                if conn is None:
                    break
                self.process_conn(conn)
        self.socket.close()

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Leave out what clients that go away cause, which is no error of the server."""
        if level >= 30:
            super().error_log(msg, level, traceback)
