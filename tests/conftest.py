"""One session tests one backend; it says which."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import nogil_sync


def pytest_configure(config: pytest.Config) -> None:
    # Under -X dev the stress tests earn it; its own tests run in processes of their own.
    config.addinivalue_line("filterwarnings", "ignore::nogil_sync.PerformanceWarning")


def pytest_report_header() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return f"nogil_sync: {nogil_sync.backend} backend, GIL {'on' if gil else 'off'}"


@pytest.fixture
def interrupt() -> Iterator[Callable[..., Callable[[], None]]]:
    """Have a signal handler call a function in the main thread, once or again and again.

    ``interrupt(function, after, every=None)``, in seconds, returns what ends it.  A repeated
    call never interrupts itself.  (SIGALRM is pytest-timeout's.)
    """
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("no signals between threads on this system")
    main = threading.get_ident()
    functions: list[Callable[[], object]] = []
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def handler(*_: object) -> None:
        if functions:
            functions.pop()()

    def send(function: Callable[[], object], after: float, every: float | None) -> None:
        delay: float | None = after
        while delay is not None and not stop.wait(delay):
            done = threading.Event()

            def call(done: threading.Event = done) -> None:
                try:
                    function()
                finally:
                    done.set()

            functions.append(call)
            signal.pthread_kill(main, signal.SIGUSR1)
            while not done.wait(0.01) and not stop.is_set():
                pass
            delay = every

    def halt() -> None:
        stop.set()
        for thread in threads:
            thread.join()
        functions.clear()

    def start(
        function: Callable[[], object], after: float, every: float | None = None
    ) -> Callable[[], None]:
        threads.append(threading.Thread(target=send, args=(function, after, every), daemon=True))
        threads[-1].start()
        return halt

    before = signal.signal(signal.SIGUSR1, handler)
    yield start
    halt()
    signal.signal(signal.SIGUSR1, before)
