"""The application on cheroot: a selector thread, and worker threads that serve requests.

Three things are ours. A connection waits at the selector until it has sent a whole request (see
arrival.py); in cheroot's own way a new one occupies a worker at once, and a few idle or slow
clients block the server. A request has a deadline (see deadlines.py). And a stop loses no request:
see `Server.stop`.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from cheroot import server, wsgi

from .arrival import HEADERS, TOO_SLOW, wake_at, wanted
from .configuration import MAX_BODY
from .deadlines import Deadlines

IDLE = 10.0  # seconds until a connection that sends nothing is closed
REQUEST = 30.0  # seconds that one request may take
LINGER = 1.0  # seconds that a stopping server waits for kept connections at most


class _Connection(server.HTTPConnection):
    wanted = 0  # the bytes that must be there before the request is whole, if some are
    begun = 0.0  # when the first of them were there
    served = False  # whether it has had a request

    def communicate(self) -> bool:
        self.served = True
        with self.server.deadlines.limit(self.socket):
            return bool(super().communicate())  # type: ignore[no-untyped-call]

    def is_whole(self) -> bool:
        """Say whether a worker can serve it; if not, the selector is to wait for more."""
        before = self.wanted
        self.wanted = 0 if self.rfile.has_data() else wanted(self.socket, before)
        if self.wanted != before:
            wake_at(self.socket, self.wanted or 1)
        if before <= 1:
            self.begun = time.monotonic()
        return not self.wanted

    def close(self) -> None:
        self.server.waiting.discard(self)
        if self.wanted > 1:
            with contextlib.suppress(OSError):
                self.socket.send(TOO_SLOW)
        super().close()
        # cheroot leaves the writer to the collector, which reports that its socket is closed.
        with contextlib.suppress(OSError):
            self.wfile.close()


class _Gateway(wsgi.Gateway_10):
    def respond(self) -> None:
        super().respond()
        if self.req.chunked_read and not self.req.rfile.closed:
            # What the application left of the body must not be taken for the next request.
            self.req.close_connection = True


class Server(wsgi.Server):
    """One server. `serve_in_thread` starts it, `stop` ends it."""

    ConnectionClass = _Connection

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
            request_queue_size=1024,  # connections that the kernel may hold for us
            accepted_queue_size=-1,
            timeout=idle,  # type: ignore[arg-type]
            shutdown_timeout=request,  # type: ignore[arg-type]
            server_name="localhost",
        )
        self.gateway = _Gateway
        self.keep_alive_conn_limit = None  # type: ignore[assignment]
        self.max_request_header_size = HEADERS
        # The application has its own limit, and a better answer; this is for what nobody reads.
        self.max_request_body_size = 2 * MAX_BODY
        self.software = "nogil_sync"
        self.deadlines = Deadlines(request)
        self.draining = False
        # Connections that wait for a request.
        self.waiting: set[Any] = set()
        self._thread: threading.Thread | None = None

    def process_conn(self, conn: Any) -> None:
        """Take a connection from the selector: give it to a worker, or back if it is not whole."""
        self.waiting.discard(conn)
        if conn.is_whole():
            super().process_conn(conn)
        elif time.monotonic() - conn.begun > self.deadlines.seconds:
            conn.close()
        else:
            self.put_conn(conn)

    def put_conn(self, conn: Any) -> None:
        """Let a connection wait for its next request."""
        self.waiting.add(conn)
        super().put_conn(conn)

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

        For a moment all goes on, but each answer closes its connection, so clients that keep
        connections open send what they were sending, and go elsewhere. Then the listener and the
        connections that are idle are closed, and the workers end after what is in their queue.
        """
        self.draining = True
        until = time.monotonic() + LINGER
        while time.monotonic() < until and (self._busy() or self.requests.qsize):
            time.sleep(0.01)
        super().stop()
        if self._thread is not None:
            self._thread.join()
        self.deadlines.stop()

    def _busy(self) -> bool:
        """Say whether a connection waits that was used; new ones may send nothing for ever."""
        with contextlib.suppress(RuntimeError):  # the set changed meanwhile
            return any(conn.served for conn in self.waiting)
        return True

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
        """Leave out what clients that go away cause, which is no error of the server."""
        if level >= 30:
            super().error_log(msg, level, traceback)
