"""``./dev serve``: the server and its status page, until SIGTERM or Ctrl-C."""

import argparse
import gc
import os
import resource
import signal
import sys
import webbrowser
from collections.abc import Callable, Sequence

from . import cheroot_server
from .application import Application
from .configuration import Config
from .sampling import Sampler
from .state import State, new_state
from .status import VIEWERS, Status

STOPS = (signal.SIGINT, signal.SIGTERM)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev serve", description=__doc__)
    add = parser.add_argument
    add("--backend", choices=("ours", "plain"), default="ours", help="what holds the shared state")
    add("--server", choices=("cheroot", "gunicorn"), default="cheroot", help="the HTTP server")
    add("--threads", type=int, default=8, help="threads that serve requests (8)")
    add("--workers", type=int, default=1, help="processes, of gunicorn only (1)")
    add("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    add("--port", type=int, default=8080, help="the server's port; 0: any that is free (8080)")
    add("--status-port", type=int, help="the status page's port; 0: any (the server's, plus one)")
    add("--behind-proxy", action="store_true", help="clients are whom X-Forwarded-For names")
    add("--rate", type=int, default=Config.rate, help="requests a second that a client may make")
    add("--burst", type=int, default=Config.burst, help="requests that it may make at once")
    add("--idle", type=float, default=10.0, help="seconds until an idle connection is closed (10)")
    add("--request", type=float, default=30.0, help="seconds that a request may take (30)")
    add("--open", action="store_true", help="open the status page in a browser")
    add("--profile", metavar="FILE", help="write the processor time by function, at the end")
    chosen = parser.parse_args(arguments)
    if chosen.threads < 1 or chosen.workers < 1:
        parser.error("--threads and --workers must be at least 1")
    if chosen.workers > 1 and chosen.server == "cheroot":
        parser.error("cheroot has one process; --workers is for gunicorn")
    if chosen.status_port is None:
        chosen.status_port = chosen.port + 1 if chosen.port else 0
    return chosen


def main() -> int:
    chosen = options()
    # Each connection is a file; the usual limit is 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 16_384)), hard))
    state = new_state(chosen.backend, Config().changed(rate=chosen.rate, burst=chosen.burst))
    token = os.environ.get("SERVER_TOKEN")
    application = Application(state, token=token, behind_proxy=chosen.behind_proxy)
    status = Status(state, chosen.server, chosen.threads)
    gc.freeze()  # what is made by now stays: collections need not look at it
    try:
        return (_cheroot if chosen.server == "cheroot" else _gunicorn)(chosen, application, status)
    except OSError as error:
        print(f"cannot serve: {error}", file=sys.stderr)
        return 1


def _say(name: str, address: str) -> None:
    print(f"{name:12} {address}/", flush=True)


def _status_server(chosen: argparse.Namespace, status: Status, port: int) -> cheroot_server.Server:
    return cheroot_server.Server((chosen.host, port), status, VIEWERS + 2, request=1e9)


def _cheroot(chosen: argparse.Namespace, application: Application, status: Status) -> int:
    # Blocked here, and so in all threads; sigwait takes them. No handler runs anywhere.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    server = cheroot_server.Server(
        (chosen.host, chosen.port),
        application,
        chosen.threads,
        idle=chosen.idle,
        request=chosen.request,
    )
    page = _status_server(chosen, status, chosen.status_port)

    def failed() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    sampler = Sampler(chosen.profile)
    status.start()
    page.serve_in_thread(failed)
    server.serve_in_thread(failed)
    sampler.start()
    _say("server", server.address)
    _say("status page", page.address)
    if chosen.open:
        webbrowser.open(page.address)
    signal.sigwait(STOPS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # a second one ends it at once
    print("stopping: what has arrived is answered first", flush=True)
    server.stop()
    sampler.stop()
    status.stop()
    page.stop()
    _total(application.state)
    return 0


def _total(state: State) -> None:
    samples = (sample for family in state.registry.collect() for sample in family.samples)
    total = sum(each.value for each in samples if each.name == "server_requests_total")
    print(f"stopped: {total:.0f} requests answered", flush=True)


def _gunicorn(chosen: argparse.Namespace, application: Application, status: Status) -> int:
    from . import gunicorn_server

    port = chosen.port or gunicorn_server.free_port(chosen.host)
    pages: list[cheroot_server.Server] = []
    sampler = Sampler(chosen.profile)

    def started() -> None:
        status.start()
        page = _first_free(chosen, status)
        pages.append(page)
        sampler.start()
        _say("status page", page.address)
        _say("server", f"http://{chosen.host}:{port}")

    def stopped() -> None:
        sampler.stop()
        status.stop()
        for page in pages:
            page.stop()
        _total(application.state)

    server = gunicorn_server.Server(
        (chosen.host, port),
        application,
        chosen.threads,
        chosen.workers,
        started=started,
        stopped=stopped,
    )
    try:
        server.run()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def _first_free(chosen: argparse.Namespace, status: Status) -> cheroot_server.Server:
    """Serve the status page of one worker: each has its own port, one after the other."""
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    for offset in range(chosen.workers + 1):
        port = chosen.status_port and chosen.status_port + offset
        page = _status_server(chosen, status, port)
        try:
            page.serve_in_thread(nothing)
        except OSError:
            continue
        return page
    raise OSError(f"no port for the status page from {chosen.status_port} on")


if __name__ == "__main__":
    sys.exit(main())
