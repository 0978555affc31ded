"""The server of examples/server in a process of its own, and clients that speak to it by bytes."""

import importlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import TIMEOUT

import nogil_sync

EXAMPLES = Path(__file__).parents[2] / "examples"
MISSING = [
    name
    for name in ("cheroot", "gunicorn", "prometheus_client", "psutil")
    if importlib.util.find_spec(name) is None
]
needs_server = pytest.mark.skipif(
    bool(MISSING) or not EXAMPLES.is_dir() or not hasattr(signal, "pthread_sigmask"),
    reason="needs requirements/server.txt, which the legs native and standard have",
)


class Server:
    """A server that runs. Its output is what it has printed up to now."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, status_port: int) -> None:
        self.process = process
        self.port = port
        self.status_port = status_port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)

    def ask(self, request: bytes) -> bytes:
        """Send the bytes, and give all that is answered until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return rest(connection)

    def get(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
        """Ask, and give the whole answer, headers included."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        return self.ask("\r\n".join([*lines, "", ""]).encode() + body)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have all its processes do nothing; the kernel goes on accepting connections."""
        psutil = importlib.import_module("psutil")
        main = psutil.Process(self.process.pid)
        processes = [main, *main.children(recursive=True)]
        for each in processes:
            each.suspend()
        try:
            yield
        finally:
            for each in processes:
                each.resume()

    def end(self, how: signal.Signals = signal.SIGTERM) -> str:
        """Have it stop; give the rest of what it prints."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> str:
        """Wait until it has stopped; give the rest of what it prints."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, output + errors
        assert not errors, errors
        return output


def rest(connection: socket.socket) -> bytes:
    parts = []
    while part := _received(connection):
        parts.append(part)
    return b"".join(parts)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:  # it had not read all that was sent
        return b""


def status(answer: bytes) -> int:
    """The status of an answer; 0 if there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0


@contextmanager
def running(*options: str, port: int = 0, status_port: int = 0, **env: str) -> Iterator[Server]:
    """Run a server with these options, and end it."""
    ports = "--port", str(port), "--status-port", str(status_port)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "server", *ports, *options],
        env={
            **os.environ,
            "PYTHONPATH": str(EXAMPLES),
            "NOGIL_SYNC_BACKEND": nogil_sync.backend,
            "PYTHONWARNINGS": "",
            **env,
        },
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        places, told = {}, 0
        workers = int(options[options.index("--workers") + 1]) if "--workers" in options else 1
        while told < 2 * workers:  # a stop before a worker of gunicorn is up would not be graceful
            line = process.stdout.readline()
            if found := re.fullmatch(r"(server|status page) +http://127.0.0.1:(\d+)/\n", line):
                places[found[1]] = int(found[2])
                told += 1
            elif not line:
                raise AssertionError(f"it ended: {process.communicate()}")
        yield Server(process, places["server"], places["status page"])
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def free_port() -> int:
    """Find a port for a server that is started more than once."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(condition: object, what: str) -> None:
    """Wait until a function returns something true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
