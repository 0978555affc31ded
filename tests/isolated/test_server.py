"""The server of examples/server under cheroot and gunicorn: bad requests, slow clients, stops."""

import contextlib
import signal
import socket
import threading
from pathlib import Path

import pytest
from marks import needs_fork, starts_processes
from servers import Server, needs_server, rest, running, status, until
from support import TIMEOUT

pytestmark = [starts_processes, needs_server, needs_fork]

SERVERS = ("cheroot", "gunicorn")

# What a server must refuse, and the statuses that are right; 0: it may also just close.
BAD = {
    b"GET / HTTP/9.9\r\n\r\n": (400, 505),
    b"nonsense\r\n\r\n": (400,),
    b"GET\r\n\r\n": (400,),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n": (400,),
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n": (400,),
    b"GET /%s HTTP/1.1\r\nHost: test\r\n\r\n" % (b"x" * 20000): (400, 404, 414),
    b"GET / HTTP/1.1\r\nHost: test\r\nX: %s\r\n\r\n" % (b"x" * 40000): (400, 413, 431),
    b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n": (400,),
    b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999999\r\n\r\n": (413,),
    b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n": (400,),
    b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"20000\r\n%s\r\n0\r\n\r\n" % (b"x" * 0x20000): (413,),
    b"GET /nowhere HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n": (404,),
    b"FETCH / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n": (400, 405),
}


@pytest.mark.parametrize("server", SERVERS)
def test_bad_requests_get_proper_answers_and_slow_clients_harm_nobody(server: str) -> None:
    with running("--server", server, "--threads", "2", "--workers", "1") as served:
        for request, right in BAD.items():
            with served.connect() as connection, contextlib.suppress(ConnectionError):
                connection.sendall(request)
                answer = connection.recv(65536)
                assert status(answer) in right, (request[:60], answer[:200])
        # A client that ends in the middle is noticed at once: there is no time-out (408).
        for part in (b"GET /healthz HTTP/1.1\r\nHost:", b"POST /echo HTTP/1.1\r\nContent-Len"):
            with served.connect() as connection:
                connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                assert status(rest(connection)) in (0, 400)
        # Ten clients for each thread stop in the middle of headers or body, and a thousand say
        # nothing: the others are answered by the two threads all the same.
        with contextlib.ExitStack() as open_ones:
            slow = [open_ones.enter_context(served.connect()) for _ in range(20)]
            for each in slow[:10]:
                each.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            for each in slow[10:]:
                each.sendall(
                    b"POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
                    b"Content-Length: 4\r\n\r\nab"
                )
            for _ in range(1000):
                open_ones.enter_context(served.connect())
            for _ in range(5):
                assert status(served.get("/healthz")) == 200
            for each in slow[:10]:
                each.sendall(b" test\r\nConnection: close\r\n\r\n")
            for each in slow[10:]:
                each.sendall(b"cd")
            assert all(rest(each).endswith(b"\r\n\r\nok\n") for each in slow[:10])
            assert all(rest(each).endswith(b"\r\n\r\nabcd") for each in slow[10:])
        # Two requests at once on one connection are answered in order.
        pair = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
        pair += b"GET /nowhere HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        answer = served.ask(pair)
        assert [line[9:12] for line in answer.splitlines() if line[:5] == b"HTTP/"] == [
            b"200",
            b"404",
        ]


def test_client_that_trickles_is_cut_off() -> None:
    with (
        running("--threads", "1", "--request", "0.3", "--idle", "0.5") as served,
        served.connect() as half,
        served.connect() as chunked,
        served.connect() as idle,
    ):
        half.sendall(b"GET /healthz HTTP/1.1\r\n")
        chunked.sendall(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: a\r\n\r\n")
        # The chunked request holds the only thread, but not for long.
        assert status(served.get("/healthz")) == 200
        assert status(rest(half)) == 408
        assert status(rest(chunked)) in (0, 400, 408)
        assert rest(idle) == b""


def served_in_full(answers: "list[bytes]") -> int:
    return sum(answer.endswith(b"\r\n\r\nok\n") for answer in answers)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stop_answers_every_request_that_was_accepted(server: str, how: signal.Signals) -> None:
    with running("--server", server, "--threads", "1") as served, contextlib.ExitStack() as line:
        first = line.enter_context(served.connect())
        # The only thread waits for the rest of this body; three requests are in line behind it.
        first.sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        first.sendall(b"3\r\nabc\r\n")
        queued = [line.enter_context(served.connect()) for _ in range(3)]
        for each in queued:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda each=each: answers.append(rest(each))) for each in queued
        ]
        for thread in threads:
            thread.start()
        with served.connect() as probe:  # those before it have been accepted once it has been
            probe.sendall(b"GET /heal")
            ended: list[str] = []
            ender = threading.Thread(target=lambda: ended.append(served.end(how)))
            accepted(served)
            ender.start()
            first.sendall(b"3\r\ndef\r\n0\r\n\r\n")
            assert rest(first).endswith(b"\r\n\r\nabcdef")
            for thread in threads:
                thread.join(TIMEOUT)
            assert served_in_full(answers) == 3
        ender.join(TIMEOUT)
        assert "stopped: 4 requests answered" in ended[0]


def accepted(served: Server) -> None:
    """Wait until the server has accepted all connections: none is in the kernel's queue."""
    with contextlib.suppress(FileNotFoundError):
        line = f":{served.port:04X} 00000000:0000 0A "

        def queue_is_empty() -> bool:
            with Path("/proc/net/tcp").open(encoding="ascii") as file:
                found = [each.split()[4] for each in file if line in each]
            return bool(found) and all(each.endswith(":00000000") for each in found)

        until(queue_is_empty, "connections are not accepted")


@pytest.mark.parametrize("server", SERVERS)
def test_stop_under_load_breaks_no_answer(server: str) -> None:
    """Clients ask again and again; what the server counted is what they received, in full."""
    options = ("--server", server, "--threads", "3", "--backend", "ours")
    with running(*options) as served:
        answers: list[bytes] = []

        def ask() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    answers.append(served.get("/healthz"))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(answers) > 50, "no answers")
        output = served.end()
        for thread in threads:
            thread.join(TIMEOUT)
        complete = served_in_full(answers)
        assert f"stopped: {complete} requests answered" in output
        assert all(answer == b"" or answer.endswith(b"\r\n\r\nok\n") for answer in answers)


def test_workers_of_gunicorn_have_states_of_their_own() -> None:
    with running("--server", "gunicorn", "--workers", "2", "--threads", "2") as served:
        for _ in range(20):
            assert b'"visits": 1}' in served.get("/hello")
        output = served.end()
        counts = [int(line.split()[1]) for line in output.splitlines() if "stopped:" in line]
        assert len(counts) == 2
        assert sum(counts) == 20
