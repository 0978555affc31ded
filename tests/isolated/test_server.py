"""The server of examples/server under cheroot and gunicorn: bad requests, slow clients, stops."""

import contextlib
import importlib
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from marks import needs_fork, starts_processes
from servers import EXAMPLES, Server, needs_server, rest, running, status, until
from support import TIMEOUT

pytestmark = [starts_processes, needs_server, needs_fork]

if str(EXAMPLES) not in sys.path:
    sys.path.append(str(EXAMPLES))

SERVERS = ("cheroot", "gunicorn")
THREADS = 2

GET = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"
LARGE = b"GET /report?rows=1000 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# What a server must refuse, and the statuses that are right.
BAD = {
    b"GET / HTTP/9.9\r\n\r\n": (400, 505),
    b"nonsense\r\n\r\n": (400,),
    b"GET\r\n\r\n": (400,),
    b"GET / HTTP/1.1\nHost: test\n\n": (400,),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n": (400,),
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n": (400,),
    b"GET /%s HTTP/1.1\r\nHost: test\r\n\r\n" % (b"x" * 20000): (400, 404, 414),
    b"GET / HTTP/1.1\r\nHost: test\r\nX: %s\r\n\r\n" % (b"x" * 40000): (400, 413, 431),
    b"GET /nowhere HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n": (404,),
    b"FETCH / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n": (400, 405),
    # A body that is too large, whether or not somebody would read it.
    POST + b"Content-Length: 99999999999\r\n\r\n": (413,),
    POST + b"Content-Length: %s\r\n\r\n" % (b"9" * 8000): (413,),
    GET + b"Content-Length: 100000\r\n\r\nab": (413,),
    CHUNKED + b"20000\r\n%s\r\n0\r\n\r\n" % (b"x" * 0x20000): (413,),
    CHUNKED + b"1\r\nx\r\n" * 30000: (413,),
    # A body of which it is not clear where it ends.
    POST + b"Content-Length: -5\r\n\r\nab": (400,),
    POST + b"Content-Length: +5\r\n\r\nab": (400,),
    POST + b"Content-Length: 2, 5\r\n\r\nab": (400,),
    POST + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\nab": (400,),
    POST + b"Content-Length : 5\r\n\r\nab": (400,),
    POST + b"Content-Length:\r\n 5\r\n\r\nab": (400,),
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab": (400,),
    POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nab": (400, 501),
    POST + b"Transfer-Encoding: gzip\r\n\r\nab": (400, 501),
    CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"5\r\nab": (400,),
    CHUNKED + b"zz\r\n\r\n": (400,),
    CHUNKED + b"+5\r\nab": (400,),
    CHUNKED + b"0x5\r\nab": (400,),
    CHUNKED + b"2\r\nabcd": (400,),
}

# The two parts in which a slow client sends a request, and the body of the answer.
SLOW = (
    (b"GET /healthz HTTP/1.1\r\nHost:", b" test\r\nConnection: close\r\n\r\n", b"ok\n"),
    (POST + b"Content-Length: 4\r\n\r\nab", b"cd", b"abcd"),
    (POST + b"Content-Length: 0000000000000000000004\r\n\r\nab", b"cd", b"abcd"),
    (CHUNKED + b"4\r\nab", b"cd\r\n5;x=y\r\n\r\n0\r\n\r\n0\r\nX: y\r\n\r\n", b"abcd\r\n0\r\n"),
    (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"y\r\n\r\n", b"a"),
    # Nobody reads this body.
    (GET + b"Connection: close\r\nContent-Length: 4\r\n\r\nab", b"cd", b"ok\n"),
    # The second of two requests.
    (GET + b"\r\n" + POST + b"Content-Length: 4\r\n\r\nab", b"cd", b"abcd"),
)


def test_request_is_whole_at_its_last_byte_however_it_arrives() -> None:
    arrival = importlib.import_module("server.arrival").Arrival()
    for first, then, _ in SLOW[:-1]:
        request = first + then
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(0)
            for at in range(len(request)):
                assert not arrival.is_whole(near), (request, at)
                far.sendall(request[at : at + 1])
            assert arrival.is_whole(near), request
            assert arrival.take() == request
            assert not arrival.is_whole(near)
            far.sendall(b"\r\n" + request + request + b"GET")
            for _ in range(2):
                assert arrival.is_whole(near), request
                assert arrival.take() == request
            assert not arrival.is_whole(near)
            assert arrival.data == b"GET"
            far.shutdown(socket.SHUT_WR)
            with pytest.raises(EOFError):
                arrival.is_whole(near)
            assert status(rest(far)) == 400
            arrival.take(rest=True)


@pytest.mark.parametrize("server", SERVERS)
def test_bad_requests_get_proper_answers_and_slow_clients_harm_nobody(server: str) -> None:
    with running("--server", server, "--threads", str(THREADS), "--workers", "1") as served:
        # One such client more than there are threads: others are answered all the same.
        for request, right in BAD.items():
            with contextlib.ExitStack() as stack:
                bad = [stack.enter_context(served.connect()) for _ in range(THREADS + 1)]
                for each in bad:
                    each.sendall(request)
                assert status(served.get("/healthz")) == 200, request[:80]
                for each in bad:
                    answer = each.recv(65536)
                    assert status(answer) in right, (request[:80], answer[:200])
        for first, then, body in SLOW:
            with contextlib.ExitStack() as stack:
                slow = [stack.enter_context(served.connect()) for _ in range(THREADS + 1)]
                for each in slow:
                    each.sendall(first)
                assert status(served.get("/healthz")) == 200, first
                for each in slow:
                    each.sendall(then)
                for each in slow:
                    answer = rest(each)
                    assert answer.endswith(b"\r\n\r\n" + body), (first, answer)
        # A client that ends in the middle is noticed at once: there is no time-out (408).
        for part in (b"GET /healthz HTTP/1.1\r\nHost:", b"POST /echo HTTP/1.1\r\nContent-Len"):
            with served.connect() as connection:
                connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                assert status(rest(connection)) == 400
        # A thousand clients say nothing.
        with contextlib.ExitStack() as stack:
            for _ in range(1000):
                stack.enter_context(served.connect())
            for _ in range(5):
                assert status(served.get("/healthz")) == 200
        # Two requests at once on one connection are answered in order.
        answer = served.ask(
            GET + b"\r\n" + GET.replace(b"healthz", b"no") + b"Connection: close\r\n\r\n"
        )
        assert statuses(answer) == [200, 404]
        # What is left of a body nobody has read, or of trailers, is no request.
        hidden = b"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n"
        answer = served.ask(
            GET
            + b"Content-Length: %d\r\n\r\n%s" % (len(hidden), hidden)
            + GET
            + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n"
            + GET
            + b"Connection: close\r\n\r\n"
        )
        assert statuses(answer) == [200, 200, 200]
        # A name with an underscore does not pass for one with a hyphen.
        answer = served.ask(POST + b"Content-Length: 2\r\nContent_Length: 5\r\n\r\nab")
        assert answer.endswith(b"\r\n\r\nab")


@pytest.mark.parametrize("server", SERVERS)
def test_client_that_waits_to_be_asked_for_its_body_is_asked_once(server: str) -> None:
    with running("--server", server, "--threads", "1") as served:
        for framing, body in (
            (b"Content-Length: 2\r\n\r\n", b"ab"),
            (b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n0\r\n\r\n"),
        ):
            with served.connect() as connection:
                connection.sendall(POST + b"Expect: 100-Continue\r\n" + framing)
                assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
                connection.sendall(body)
                answer = rest(connection)
                assert statuses(answer) == [200]
                assert answer.endswith(b"\r\n\r\nab")
        answer = served.ask(POST + b"Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n")
        assert statuses(answer) == [413]


def test_client_that_trickles_is_cut_off() -> None:
    with (
        running("--threads", "1", "--request", "0.3", "--idle", "0.5") as served,
        served.connect() as half,
        served.connect() as chunked,
        served.connect() as idle,
        served.connect() as trickling,
    ):
        half.sendall(b"GET /healthz HTTP/1.1\r\n")
        chunked.sendall(CHUNKED + b"5\r\nab")
        trickling.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert status(served.get("/healthz")) == 200
        with contextlib.suppress(ConnectionError):
            while True:  # it is never idle
                trickling.sendall(b"x")
                time.sleep(0.02)
        assert status(rest(half)) == 408
        assert status(rest(chunked)) == 408
        assert rest(idle) == b""
        # A client that does not read its answer holds the only thread, but not for long.
        with slow_reader(served) as deaf:
            deaf.sendall(LARGE)
            assert deaf.recv(1)
            assert status(served.get("/healthz")) == 200


def statuses(answers: bytes) -> "list[int]":
    """The statuses of several answers."""
    return [int(line[9:12]) for line in answers.splitlines() if line.startswith(b"HTTP/1.")]


def served_in_full(answers: "list[bytes]") -> int:
    return sum(answer.endswith(b"\r\n\r\nok\n") for answer in answers)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_stop_answers_every_request_that_was_accepted(server: str, how: signal.Signals) -> None:
    with (
        running("--server", server, "--threads", "1") as served,
        contextlib.ExitStack() as line,
        slow_reader(served) as first,
    ):
        for _ in range(5):
            assert status(served.get("/healthz")) == 200
        # The only thread waits until this client reads; others are in line behind it.
        first.sendall(LARGE)
        answer = first.recv(1)

        def ask_three() -> list[socket.socket]:
            clients = [line.enter_context(served.connect()) for _ in range(3)]
            for each in clients:
                each.sendall(GET + b"\r\n")
            return clients

        queued = ask_three()
        accepted(served)
        with served.frozen():  # the server has not accepted the next three, but the kernel has
            queued += ask_three()
            served.process.send_signal(how)
        ended: list[str] = []
        ender = threading.Thread(target=lambda: ended.append(served.ended()))
        ender.start()
        # New clients are refused while those before them still wait.
        until(lambda: refuses(served), "it still listens")
        answer += rest(first)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
        assert served_in_full([rest(each) for each in queued]) == 6
        ender.join(TIMEOUT)
        assert "stopped: 12 requests answered" in ended[0]


def slow_reader(served: Server) -> socket.socket:
    """Connect so that an answer of 60,000 bytes waits until it is read: buffers are small."""
    connection = socket.socket()
    connection.settimeout(TIMEOUT)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as few as the kernel allows
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # the server's follows
    connection.connect(("127.0.0.1", served.port))
    return connection


def refuses(served: Server) -> bool:
    try:
        served.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it came in at the last moment
        pass
    return False


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
