"""One session tests one backend; it says which."""

import os
import platform
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest
from processes import in_process, python
from support import SANITIZED, settle

import nogil_sync


def pytest_configure(config: pytest.Config) -> None:
    # Under -X dev the stress tests deserve the warning; its own tests run in their own processes.
    config.addinivalue_line("filterwarnings", "ignore::nogil_sync.PerformanceWarning")
    # A shell starts background jobs with interrupts ignored, and so they are ignored in all
    # processes that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Long tests come first, so that no process is left with one when the others are through.
    items.sort(key=lambda item: item.path.parent.name not in ("stress", "isolated", "outside"))


def pytest_report_header() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return f"nogil_sync: {nogil_sync.backend} backend, GIL {'on' if gil else 'off'}"


@pytest.fixture
def interrupt() -> Iterator[Callable[..., Callable[[], None]]]:
    """Have a signal handler call a function in the main thread, once or again and again.

    ``interrupt(function, after, every=None)``, in seconds, returns what ends it.  A single call
    comes once the main thread sleeps, however long it takes to get there.  A repeated call never
    interrupts itself.  (SIGALRM is pytest-timeout's.)
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
            if every is None:
                settle(threading.main_thread())
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


@pytest.fixture(scope="session")
def without_memory(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a function, or text, in a new process that can import `nomemory`."""
    helpers = Path(__file__).parent / "helpers"
    commands = [os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc"]
    found = [words for each in commands if (words := (each or "").split()) and which(words[0])]
    include = sysconfig.get_path("include")
    library, version = platform.libc_ver()
    if library != "glibc" or [int(part) for part in version.split(".")[:2]] < [2, 34]:
        # Older versions lack mallinfo2, or allocate when they resolve the replaced function.
        pytest.skip("needs the GNU C library, 2.34 or later")
    if SANITIZED:
        pytest.skip("a sanitizer has taken the C library's allocators")
    if not (found and Path(include, "Python.h").exists()):
        pytest.skip("needs a C compiler and Python's headers")
    folder = tmp_path_factory.mktemp("nomemory")
    module = folder / f"_nomemory{sysconfig.get_config_var('EXT_SUFFIX')}"
    options = ["-shared", "-fPIC", "-O1", "-fno-builtin", f"-I{include}"]
    command = [*found[0], *options, str(helpers / "nomemory.c"), "-o", str(module), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    # A mutant of the extension lies where PYTHONPATH leads.
    path = [str(folder), str(helpers), os.environ.get("PYTHONPATH", "")]
    env = {
        "LD_PRELOAD": str(module),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONTRACEMALLOC": "0",  # it aborts without memory
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # what is kept there counts as in use
    }

    def run(
        function: str | Callable[..., object], *args: object, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        if isinstance(function, str):
            return python(function, env=env, **options)  # type: ignore[arg-type]
        return in_process(function, *args, env=env, **options)

    return run
