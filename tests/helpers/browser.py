"""HTML pages in a headless Chromium, which Playwright drives.

Playwright needs greenlet, and on 3.13t greenlet switches the GIL on. So pytest's own process never
imports it: each test runs in a process of its own.

    pytestmark = [starts_processes, needs_browser]

    @in_browser
    def test_page_has_a_heading(folder):
        with opened(folder) as page:
            page.goto("index.html")
            assert page.get_by_role("heading").first.is_visible()
"""

import functools
import importlib.util
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from processes import in_own_process

# Where Debian, other Linux systems and macOS have it.
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No name has an address: the pages must do without other hosts.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

# In seconds: a Chromium on a loaded machine takes several to start.
LIMIT = 180.0


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str:
    """What is missing to open a page, or nothing."""
    if chromium() is None:
        return "needs Chromium"
    if importlib.util.find_spec("playwright") is None:
        return "needs Playwright, which the leg `standard` has"
    return ""


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing())

# pytest's own run has warnings as errors; Playwright and greenlet may give some.
in_browser = functools.partial(in_own_process, timeout=LIMIT, env={"PYTHONWARNINGS": ""})


@contextmanager
def opened(folder: str, **options: Any) -> Iterator[Any]:
    """Serve the folder and give an empty page of a new Chromium, to `goto` the folder's files.

    At the end it asserts what `opened_at` does.
    """
    with served(folder) as address, opened_at(address, **options) as page:
        yield page


@contextmanager
def opened_at(address: str, expected: tuple[str, ...] = (), **options: Any) -> Iterator[Any]:
    """Give an empty page of a new Chromium, to `goto` what is served at the address.

    Asserts at the end that nothing was wrong: an error or a warning on the console, an exception
    in a script, a request that failed or that went to another host; but for errors with an
    `expected` text.
    """
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        sync_playwright() as playwright,
    ):
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=chromium(),
            args=ARGUMENTS,
            base_url=address,
            **options,
        )

        def answered(response: Any) -> None:
            if response.status >= 400:
                wrong.append(f"{response.status}: {response.url}")

        def begun(request: Any) -> None:
            if not request.url.startswith((address, "data:", "blob:")):
                wrong.append(f"another host: {request.url}")

        def failed(request: Any) -> None:
            # The browser aborts what a page still loads when the test goes to the next one.
            if request.failure != "net::ERR_ABORTED":
                wrong.append(f"failed: {request.url}: {request.failure}")

        def said(message: Any) -> None:
            if message.type in ("error", "warning"):
                wrong.append(f"console: {message.type}: {message.text}")

        context.on("console", said)
        context.on("weberror", lambda error: wrong.append(f"exception: {error.error}"))
        context.on("request", begun)
        context.on("response", answered)
        context.on("requestfailed", failed)
        page = context.pages[0] if context.pages else context.new_page()
        yield page
        context.close()
    wrong = [each for each in wrong if not any(text in each for text in expected)]
    assert not wrong, "\n".join(wrong)


@contextmanager
def served(folder: str) -> Iterator[str]:
    """Serve the folder's files on this machine; the address ends with a slash."""
    handler = functools.partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """Does not report each request, and has an answer to the browser's own question for an icon."""

    def do_GET(self) -> None:
        if self.path == "/favicon.ico":
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass
