"""The WSGI application. What its threads share is all in a `State`."""

import hmac
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus
from time import perf_counter
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from . import requests
from .configuration import BUFFER, MAX_BODY, Config
from .requests import Environ, RefusedError, Response
from .state import OverloadedError, State

Handler = Callable[[Environ], Response]

# Interned texts have no reference count for threads to contend for.
_STATUS = {each.value: sys.intern(f"{each.value} {each.phrase}") for each in HTTPStatus}
_ROW = b"%06d  the quick brown fox jumps over the lazy dog  %06d\n"
_JSON = "application/json"


class Application:
    """Answers requests. `token` is what may change the configuration; without one nobody may.

    Behind a proxy, a client is who the proxy says it is, by ``X-Forwarded-For``.
    """

    def __init__(
        self, state: State, *, token: str | None = None, behind_proxy: bool = False
    ) -> None:
        self.state = state
        self.token = token
        self.behind_proxy = behind_proxy
        self.routes: dict[str, dict[str, Handler]] = {
            "/": {"GET": self.index},
            "/hello": {"GET": self.hello},
            "/session": {"DELETE": self.end_session},
            "/report": {"GET": self.report},
            "/echo": {"POST": self.echo},
            "/config": {"GET": self.show_config, "PUT": self.change_config},
            "/metrics": {"GET": self.metrics},
            "/healthz": {"GET": lambda _: Response(200, b"ok\n")},
        }
        for methods in self.routes.values():
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]
        handlers = [each for methods in self.routes.values() for each in methods.values()]
        state.keep([self, self.routes, *self.routes.values(), *handlers])

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        began = perf_counter()
        path = environ.get("PATH_INFO") or "/"
        methods = self.routes.get(path)
        try:
            response = self._answer(environ, methods)
        except RefusedError as refused:
            response = refused.response
        except OSError:  # nobody is there to be answered
            self.state.observe("broken" if methods is None else path, 499, perf_counter() - began)
            raise
        except Exception:
            print(traceback.format_exc(), end="", file=environ.get("wsgi.errors", sys.stderr))
            response = Response(500, b"500 Internal Server Error\n")
        headers = [
            ("Content-Type", response.kind),
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
            *response.headers,
        ]
        # An unknown path is no label: a client could make any number of them.
        route = "other" if methods is None else path
        self.state.observe(route, response.status, perf_counter() - began)
        start_response(_STATUS[response.status], headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [response.body]

    def _answer(self, environ: Environ, methods: dict[str, Handler] | None) -> Response:
        if methods is None:
            raise RefusedError(404)
        handler = methods.get(environ.get("REQUEST_METHOD", ""))
        if handler is None:
            raise RefusedError(405, "", ("Allow", ", ".join(sorted(methods))))
        delay = self.state.delay(self._client(environ))
        if delay:
            raise RefusedError(429, "", ("Retry-After", str(int(delay) + 1)))
        return handler(environ)

    def _client(self, environ: Environ) -> str:
        if self.behind_proxy:
            # The last address is what our proxy saw; those before it are the client's own words.
            forwarded: str = environ.get("HTTP_X_FORWARDED_FOR", "")
            client = forwarded.rpartition(",")[2].strip()
            if 0 < len(client) <= 45:
                return client
        return str(environ.get("REMOTE_ADDR", ""))

    # ---- The routes ----

    def index(self, _: Environ) -> Response:
        lines = (f"{', '.join(sorted(each)):10}  {path}" for path, each in self.routes.items())
        return Response(200, ("\n".join(lines) + "\n").encode())

    def hello(self, environ: Environ) -> Response:
        """Greet, and count the visits of the session. A client without one gets a new one."""
        session = requests.cookie(environ, "session")
        visits = self.state.visit(session) if session else 0
        headers: tuple[tuple[str, str], ...] = ()
        if not visits:
            session, visits = self.state.begin_session(), 1
            headers = (("Set-Cookie", f"session={session}; HttpOnly; SameSite=Lax; Path=/"),)
        text = {"greeting": self.state.config().greeting, "visits": visits}
        return Response(200, json.dumps(text).encode() + b"\n", _JSON, headers)

    def end_session(self, environ: Environ) -> Response:
        if not self.state.end_session(requests.cookie(environ, "session")):
            raise RefusedError(404, "no such session")
        return Response(200, b"ended\n")

    def report(self, environ: Environ) -> Response:
        """Put a report together in a buffer that is used again.

        ``wait=20`` stands for a database that takes 20 ms.
        """
        wait = requests.number(environ, "wait", 0, 1000)
        rows = requests.number(environ, "rows", 100, BUFFER // len(_ROW % (0, 0)))
        try:
            with self.state.report_turn(), self.state.buffer() as buffer:
                if wait:
                    time.sleep(wait / 1000)
                size = 0
                for row in range(rows):
                    line = _ROW % (row, rows)
                    buffer[size : size + len(line)] = line
                    size += len(line)
                with memoryview(buffer) as view:
                    return Response(200, bytes(view[:size]))
        except OverloadedError:
            raise RefusedError(503, "too many reports", ("Retry-After", "1")) from None

    def echo(self, environ: Environ) -> Response:
        return Response(200, requests.body(environ, MAX_BODY), "application/octet-stream")

    def show_config(self, _: Environ) -> Response:
        return Response(200, json.dumps(vars(self.state.config())).encode() + b"\n", _JSON)

    def change_config(self, environ: Environ) -> Response:
        given = environ.get("HTTP_AUTHORIZATION", "").encode()
        if not self.token or not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise RefusedError(403, "a change needs the token with which the server was started")
        try:
            values = json.loads(requests.body(environ, MAX_BODY))
            if not isinstance(values, dict):
                raise ValueError("settings are an object")

            def changed(config: Config) -> Config:
                return config.changed(**values)

            self.state.change_config(changed)
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, str(error)) from None
        return self.show_config(environ)

    def metrics(self, _: Environ) -> Response:
        return Response(200, generate_latest(self.state.registry), CONTENT_TYPE_LATEST)
