"""Many URLs fetched at once: all results in order, or the first error at once.

Use a TaskGroup where a block starts threads and needs all of them done: it limits how many run,
keeps each result with its task, and when one fails it starts no more, ends the waits of those that
run, and raises what failed. A wait that is not this library's, such as that for a server's answer,
is ended by what the task gave to `on_cancel`.

The naive version starts a thread for each URL. Results come in any order, an error is printed
somewhere and forgotten, and nothing stops the others. (The server is one of http.server's, on a
free port of this machine; it takes 20 ms for a page.)
"""

import contextlib
import http.client
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from measure import options, run

from nogil_sync import Event, ShardedCounter, TaskGroup

asked = ShardedCounter()
closing = Event()  # the server is


class Pages(BaseHTTPRequestHandler):
    timeout = 2  # for a client that connects and then asks for nothing

    def do_GET(self) -> None:
        asked.add()
        if self.path == "/stuck":
            closing.wait()
        time.sleep(0.02)
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()
        self.wfile.write(f"page {self.path}".encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() waits for them
    request_queue_size = 128
    timeout = 0.05  # of handle_request()

    def handle_error(self, *_: object) -> None:
        pass  # a client that was interrupted has gone away


def fetch(port: int, path: str, group: TaskGroup | None = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.connect()
        if group is not None:
            group.on_cancel(hang_up, connection.sock)
        connection.request("GET", path)
        with connection.getresponse() as response:
            text = response.read().decode()
            if response.status != 200:
                raise OSError(f"{path}: status {response.status}")
            return text
    finally:
        connection.close()


def hang_up(connection: socket.socket) -> None:
    """End what another thread does with the connection; perhaps it is closed already."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def fetch_naively(port: int, paths: list[str]) -> list[str]:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda path=path: results.append(fetch(port, path)))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def fetch_all(port: int, paths: list[str], at_once: int) -> list[str]:
    """All pages, in order; or the first error, and then no page is waited for any more."""
    try:
        with TaskGroup(limit=at_once) as group:
            pages = [group.go(fetch, port, path, group) for path in paths]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [page.result() for page in pages]


def demonstrate(port: int, pages: int, threads: int) -> None:
    paths = [f"/{n}" for n in range(pages)]
    begin = time.perf_counter()
    one_by_one = [fetch(port, path) for path in paths]
    serial = time.perf_counter() - begin

    begin = time.perf_counter()
    assert fetch_all(port, paths, threads) == one_by_one
    took = time.perf_counter() - begin
    print(f"one after the other: {pages / serial:8,.0f} pages a second")
    print(f"TaskGroup:           {pages / took:8,.0f} pages a second, {serial / took:.1f} x")
    print(f"TaskGroup: all {pages} results, in the order of the URLs\n")

    paths[pages // 4] = "/broken"
    printed: list[object] = []
    usual, threading.excepthook = threading.excepthook, printed.append
    try:
        got = fetch_naively(port, paths)
    finally:
        threading.excepthook = usual
    print(f"a broken URL, naive:     {len(got)} of {pages} pages, no exception,")
    print(f"                         {len(printed)} traceback printed by a thread")

    paths[0] = "/stuck"  # never answered: the naive version would not end
    asked.reset()
    begin = time.perf_counter()
    try:
        fetch_all(port, paths, max(threads, 2))
    except OSError as failed:
        took = time.perf_counter() - begin
        print(f"a broken URL, TaskGroup: {failed}; {asked.value()} pages asked for;")
        print(f"                         over after {took:.2f} s, with another URL never answered")


def main() -> None:
    chosen = options(__doc__, threads=8, pages=32)
    stop = Event()

    def serve() -> None:
        while not stop.is_set():
            server.handle_request()

    with Server(("127.0.0.1", 0), Pages) as server, TaskGroup() as group:
        try:
            group.go(serve)
            demonstrate(server.server_address[1], chosen.pages, chosen.threads)
        finally:
            closing.set()
            stop.set()


if __name__ == "__main__":
    run(main)
