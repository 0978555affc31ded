"""One database connection, opened by the first thread that needs it.

Use ``@once`` for what is costly to make, needed by many threads, and perhaps by none: the first
caller runs the function, the others wait for its result, and later calls cost what a call of an
empty function does. ``once_property`` does the same for an attribute.

The naive version asks ``if connection is None`` and opens one. All threads that come before the
first is done open their own: too many connections, and all but one are never closed. A
threading.Lock around the question makes it right, but every later call has to take it.
"""

import sqlite3
import threading
import time
from collections.abc import Callable

from measure import Over, compare, options, rate_of, run, seconds_for

from nogil_sync import Mutex, once, pin

opened: list[sqlite3.Connection] = []


def connect() -> sqlite3.Connection:
    time.sleep(0.02)  # a connection over a network takes its time
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    opened.append(connection)
    return connection


class Naive:
    connection: sqlite3.Connection | None = None

    def get(self) -> sqlite3.Connection:
        if self.connection is None:
            self.connection = connect()
        return self.connection


class Locked(Naive):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def get(self) -> sqlite3.Connection:
        with self.lock:
            return super().get()


@once
def database() -> sqlite3.Connection:
    return connect()


def measure(
    get: Callable[[], sqlite3.Connection], threads: int, seconds: float
) -> tuple[float, str]:
    one_at_a_time = Mutex()  # sqlite3's connections are not for two threads at once

    def use() -> None:
        connection = get()
        with one_at_a_time:
            assert connection.execute("select 1").fetchone() == (1,)

    def call(over: Over) -> int:
        calls = 0
        while not over():
            for _ in range(20):
                get()
            calls += 20
        return calls

    try:
        seconds_for(use, threads)
        return rate_of(call, threads, seconds).per_second, f"{len(opened)} opened"
    finally:
        while opened:
            opened.pop().close()


def main() -> None:
    chosen = options(__doc__, threads=16, seconds=0.2)
    pin(database)  # needed on 3.13t, see counting.py; the connection itself is still counted
    rows = [
        ("if connection is None, naive", *measure(Naive().get, chosen.threads, chosen.seconds)),
        ("threading.Lock", *measure(Locked().get, chosen.threads, chosen.seconds)),
        ("@once", *measure(database, chosen.threads, chosen.seconds)),
    ]
    assert rows[1][2] == rows[2][2] == "1 opened"
    compare("calls a second", *rows)


if __name__ == "__main__":
    run(main)
