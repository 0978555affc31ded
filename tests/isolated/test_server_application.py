"""The WSGI application of examples/server on both of its states: ours, and the plain one."""

import importlib
import io
import re
import sys
import threading
from wsgiref.validate import validator

import pytest
from marks import starts_threads
from servers import EXAMPLES, needs_server

pytestmark = [starts_threads, needs_server]

if str(EXAMPLES) not in sys.path:
    sys.path.append(str(EXAMPLES))


class Client:
    """Calls the application as a server does; `validator` checks both sides of the interface."""

    def __init__(self, state, **options):
        application = importlib.import_module("server.application")
        configuration = importlib.import_module("server.configuration")
        shared = importlib.import_module(f"server.{state}").Shared
        config = configuration.Config(
            **{name: options.pop(name) for name in ("rate", "burst") if name in options}
        )
        self.state = shared(config)
        self.application = application.Application(self.state, **options)
        self.checked = validator(self.application)

    def __call__(self, path, method="GET", body=b"", query="", **headers):
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "10.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **({"CONTENT_LENGTH": str(len(body))} if body else {}),
            **headers,
        }
        started = []

        def start_response(status, headers, exc_info=None):
            started.append((int(status[:3]), dict(headers)))
            return lambda _: None

        answer = self.checked(environ, start_response)
        text = b"".join(answer)
        answer.close()
        return *started[0], text


def in_threads(function, count):
    barrier, failures = threading.Barrier(count), []

    def run():
        try:
            barrier.wait()
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


@pytest.fixture(name="client", params=["ours", "plain"])
def client_of_each_state(request):
    return lambda **options: Client(request.param, **options)


def test_session_counts_visits_of_all_threads(client):
    ask = client()
    status, headers, text = ask("/hello")
    assert (status, text) == (200, b'{"greeting": "hello", "visits": 1}\n')
    session = headers["Set-Cookie"].partition(";")[0]

    def visit():
        for _ in range(50):
            assert ask("/hello", HTTP_COOKIE=session)[0] == 200

    in_threads(visit, 4)
    _, headers, text = ask("/hello", HTTP_COOKIE=f"other=1; {session}")
    assert b'"visits": 202' in text
    assert "Set-Cookie" not in headers
    assert ask.state.sessions() == 1
    assert ask("/session", "DELETE", HTTP_COOKIE=session)[0] == 200
    assert ask("/session", "DELETE", HTTP_COOKIE=session)[0] == 404
    # A name that the server did not give, or no longer knows, is not taken over.
    for name in (session, "session=chosen", "session=", 'session="', "\x00", "session"):
        assert b'"visits": 1}' in ask("/hello", HTTP_COOKIE=name)[2]


def test_client_above_its_rate_is_refused_and_others_are_not(client):
    ask = client(rate=1, burst=50, behind_proxy=True)
    statuses = []

    def come():
        for _ in range(30):
            statuses.append(ask("/healthz", HTTP_X_FORWARDED_FOR="1.1.1.1, 2.2.2.2")[0])

    in_threads(come, 4)
    assert 50 <= statuses.count(200) < 120  # fifty, and one for each second that it took
    assert statuses.count(200) + statuses.count(429) == 120
    status, headers, _ = ask("/healthz", HTTP_X_FORWARDED_FOR="2.2.2.2")
    assert status == 429
    assert int(headers["Retry-After"]) >= 1
    assert ask("/healthz", HTTP_X_FORWARDED_FOR="1.1.1.1")[0] == 200
    assert ask("/healthz")[0] == 200


def test_changes_of_configuration_by_several_threads_are_all_kept(client):
    ask = client(token="secret", burst=1000)

    def change():
        for _ in range(50):
            ask.state.change_config(lambda config: config.changed(burst=config.burst + 1))

    in_threads(change, 4)
    assert ask.state.config().burst == 1200
    right = {"HTTP_AUTHORIZATION": "Bearer secret"}
    status, _, text = ask("/config", "PUT", b'{"greeting": "salve"}', **right)
    assert (status, b"salve" in text) == (200, True)
    assert b"salve" in ask("/hello")[2]
    for body in (b"", b"{", b"[]", b'{"no": 1}', b'{"rate": "1"}', b'{"rate": 0}', b"[" * 60000):
        assert ask("/config", "PUT", body, **right)[0] == 400
    for wrong in ("", "Bearer ", "Bearer secret2", "Bearer \xe9"):
        assert ask("/config", "PUT", b"{}", HTTP_AUTHORIZATION=wrong)[0] == 403
    assert client()("/config", "PUT", b"{}", HTTP_AUTHORIZATION="Bearer None")[0] == 403


def test_reports_of_several_threads_do_not_share_a_buffer(client):
    ask = client()

    def report():
        for rows in (1, 3, 2):
            lines = ask("/report", query=f"rows={rows}")[2].splitlines()
            assert [line[-6:] for line in lines] == [b"%06d" % rows] * rows

    in_threads(report, 6)
    for query in ("rows=-1", "rows=x", "rows=999999999", "rows=" + "9" * 5000):
        assert ask("/report", query=query)[0] == 400


def test_unfit_requests_get_proper_answers(client):
    ask = client()
    assert ask("/no/such/path")[0] == 404
    status, headers, _ = ask("/echo")
    assert (status, headers["Allow"]) == (405, "POST")
    assert ask("/hello", "HEAD")[2] == b""
    assert ask("/echo", "POST", b"x" * 65536)[2] == b"x" * 65536
    assert ask("/echo", "POST", b"x" * 65537)[0] == 413
    assert ask("/echo", "POST", CONTENT_LENGTH="9" * 30)[0] == 413
    assert ask("/echo", "POST", b"short", CONTENT_LENGTH="6")[0] == 400
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    assert ask("/echo", "POST", b"x" * 70000, **chunked)[0] == 413


def test_failure_in_a_handler_is_a_500_that_tells_nothing(client, capsys):
    ask = client()

    def fail(environ):
        raise ZeroDivisionError("private")

    ask.application.routes["/healthz"]["GET"] = fail
    status, _, text = ask("/healthz")
    assert (status, text) == (500, b"500 Internal Server Error\n")
    assert "ZeroDivisionError: private" in capsys.readouterr().err
    assert ask("/hello")[0] == 200


def test_both_states_expose_the_same_metrics():
    shown = []
    for state in ("ours", "plain"):
        ask = Client(state)

        def visit(ask=ask):
            for _ in range(25):
                ask("/hello")
                ask("/nowhere")

        in_threads(visit, 4)
        _, headers, text = ask("/metrics")
        assert headers["Content-Type"].startswith("text/plain; version=")
        assert b'server_requests_total{route="/hello",status="200"} 100.0\n' in text
        assert b'server_requests_total{route="other",status="404"} 100.0\n' in text
        assert b"server_request_seconds_count 200.0\n" in text
        assert b'server_request_seconds_bucket{le="+Inf"} 200.0\n' in text
        # What depends on times, and the order in which two threads came first.
        lines = re.sub(
            rb"(_bucket\{.*\}|_sum|_created.*) [0-9.e+]+$", rb"\1", text, flags=re.MULTILINE
        )
        shown.append(sorted(lines.splitlines()))
    assert shown[0] == shown[1]
