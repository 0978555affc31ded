"""A signal that shows who waits: see `register`.

With the native backend all of it is done in C, by handlers that may run at any moment: ours writes
the records of those that sleep, and the interpreter's `faulthandler` the stacks. With the threading
backend, which has no C, `faulthandler` writes the stacks to a pipe; a thread that does nothing else
reads them, writes them on, and adds who waits.
"""

import contextlib
import os
import signal
import sys
from select import select
from threading import Thread
from typing import IO, Any, Protocol

from .. import _backend


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


_QUIET = 0.05  # seconds after which what `faulthandler` writes is complete

# The reading and the writing end of the pipe of each signal.
_pipes: dict[int, tuple[int, int]] = {}
# The files, which must stay open.
_files: dict[int, IO[str] | _HasFileno] = {}


def _faulthandler() -> Any:
    try:
        import faulthandler  # which other interpreters of the process cannot import
    except ImportError:
        raise RuntimeError("only the main interpreter can have a signal show who waits") from None
    return faulthandler


def register(
    signum: int = getattr(signal, "SIGUSR1", 0), file: IO[str] | _HasFileno | None = None
) -> None:
    """Have this signal write who waits, and the stacks of all threads, to the file.

    By default to ``sys.stderr``. The file must have a descriptor, and stay open. It works however
    stuck the program is, as :func:`faulthandler.register`: with the native backend even if every
    thread is, the main thread in C included. (With the threading backend a thread writes
    it, so no thread may keep the GIL for ever.) A handler that the program had set for the signal
    is replaced until :func:`unregister`. Not on systems without ``faulthandler.register``, which
    is Windows, and not in a subinterpreter: ``RuntimeError``.

    >>> import signal
    >>> from nogil_sync import diagnostics
    >>> diagnostics.register(signal.SIGUSR2)    # from a shell: kill -USR2 PID
    >>> diagnostics.unregister(signal.SIGUSR2)
    True
    """
    faulthandler = _faulthandler()
    if not hasattr(faulthandler, "register"):
        raise RuntimeError("this system has no signals for programs")
    target = sys.stderr if file is None else file
    descriptor = target.fileno()
    unregister(signum)
    if _backend.backend == "native":
        _backend.register_signal(signum, descriptor)
        try:
            faulthandler.register(signum, file=descriptor, all_threads=True, chain=True)
        except BaseException:  # one that it refuses, SIGSEGV say: it is as it was
            _backend.unregister_signal(signum)
            raise
    else:
        pipe = os.pipe()
        try:
            faulthandler.register(signum, file=pipe[1], all_threads=True)
        except BaseException:
            os.close(pipe[0])
            os.close(pipe[1])
            raise
        _pipes[signum] = pipe
        Thread(target=_write, args=(pipe[0], descriptor), daemon=True, name="dump_waits").start()
    _files[signum] = target


def unregister(signum: int) -> bool:
    """Have the signal do what it did before :func:`register`; whether it was registered."""
    if _files.pop(signum, None) is None:
        return False
    _faulthandler().unregister(signum)
    if _backend.backend == "native":
        _backend.unregister_signal(signum)
    else:
        os.close(_pipes.pop(signum)[1])  # its thread ends
    return True


def _write(pipe: int, descriptor: int) -> None:
    """Write on what comes through the pipe, and after each piece who waits."""
    from .wait import describe_one
    from .waiting import sleepers

    with os.fdopen(pipe, "rb", buffering=0) as source, contextlib.suppress(OSError):
        while piece := source.read(65536):
            while select([source], (), (), _QUIET)[0] and (more := source.read(65536)):
                piece += more
            found = sorted(sleepers(stacks=False).values(), key=lambda each: -each.seconds)
            lines = ["", "Waits of threads in objects of nogil_sync:", *map(describe_one, found)]
            text = "\n".join([*lines, "(That is all.)", ""])
            data = piece + text.encode(errors="backslashreplace")
            while data:
                data = data[os.write(descriptor, data) :]
