"""Ends requests that take too long, whatever the client does.

A client that reads one byte a second of its answer never runs into a socket's time-out, and holds a
thread for as long as it likes. So each request has a deadline. Past it, one thread shuts the socket
down, and the thread that serves it gets an error.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nogil_sync import Event, SyncMap, pin


class Deadlines:
    """The requests that are being served, and until when."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until: SyncMap[socket.socket, float] = pin(SyncMap())
        self._stop = Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, connection: socket.socket) -> Iterator[None]:
        self._until[connection] = time.monotonic() + self.seconds
        try:
            yield
        finally:
            self._until.pop(connection, None)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(min(1.0, self.seconds / 2)):
            now = time.monotonic()
            for connection, until in self._until.items():
                if now >= until:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
