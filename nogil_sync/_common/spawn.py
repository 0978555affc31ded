"""Threads whose start no interrupt can cut short, and the threads of ``WaitGroup.go``."""

import _thread
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from time import sleep
from typing import Any

from .originals import Thread as InterpretersThread
from .originals import get_ident, main_thread
from .sleep import closed_gate, sleep_at


class Thread(InterpretersThread):
    """A non-daemon thread whose start no interrupt can cut short.

    ``threading.Thread.start`` takes locks of the `threading` module in Python code. An interrupt
    there can leave one of them locked: then the new thread never gets to `run`, and from 3.14 on
    no thread of the process can start or end any more. Only the main thread gets interrupts. So it
    starts an auxiliary thread, by one call in C, and the auxiliary thread calls the real ``start``.
    `start` returns after the auxiliary thread has ended: a subinterpreter that ends while that
    thread still runs would abort the process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, daemon=False, **kwargs)
        self.__gate = closed_gate()
        self.__launched = False
        self.__error: BaseException | None = None

    def start(self) -> None:
        """Start the thread, or raise the reason why there is none."""
        if get_ident() != main_thread().ident:
            super().start()
            return
        process = os.getpid()
        auxiliary = _Auxiliary(self.__launch)
        while not self.__launched:
            sleep_at(self.__gate, None, briefly=True)
            if os.getpid() != process:
                return  # a handler forked: the child has no such thread
        auxiliary.join()
        error, self.__error = self.__error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def __launch(self) -> None:
        try:
            super().start()
        except BaseException as error:
            self.__error = error
        finally:
            self.__launched = True
            self.__gate.release()


class Worker(Thread):
    """Runs a function in a context of its own, and counts the group down at the end.

    The ticket is a dict with one entry, "done", the function that counts down. The thread that pops
    it has to call it: this thread, or the thread that fails to start this one. The pop is one step,
    so the group is counted down exactly once, whatever is interrupted.
    """

    def __init__(
        self,
        ticket: dict[str, Any],
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be callable, not {type(fn).__name__}")
        super().__init__(target=fn, args=args, kwargs=kwargs)
        self.__ticket = ticket
        self.__own = [contextvars.copy_context()]

    def run(self) -> None:
        done = self.__ticket.pop("done", None)
        if done is None:
            return  # start() was interrupted, but the thread has started all the same
        try:
            try:
                self.__own.pop().run(super().run)  # run() drops the function and its arguments
            except BaseException:
                _report(self)
        finally:
            done()


def _report(thread: Thread) -> None:
    """Pass the exception to ``threading.excepthook``, as a thread does when it ends."""
    try:
        args = threading.ExceptHookArgs((*sys.exc_info(), thread))
        threading.excepthook(args)
    except Exception:
        sys.excepthook(*sys.exc_info())


if sys.version_info >= (3, 13):

    class _Auxiliary:
        """A thread without a `threading.Thread`; the interpreter waits for it at its end."""

        def __init__(self, function: Callable[[], object]) -> None:
            self.__handle = _thread.start_joinable_thread(function, daemon=False)

        def join(self) -> None:
            self.__handle.join()

else:

    class _Auxiliary:
        """A thread without a `threading.Thread`."""

        def __init__(self, function: Callable[[], object]) -> None:
            self.__process = os.getpid()
            self.__lives: list[_thread.LockType] = []
            _thread.start_new_thread(self.__run, (function,))

        def __run(self, function: Callable[[], object]) -> None:
            try:
                lives = _thread._set_sentinel()  # type: ignore[attr-defined]
                lives.acquire()  # the interpreter releases it when the thread ends
                self.__lives.append(lives)
            finally:
                function()

        def join(self) -> None:
            """Wait until the thread has ended; its function is about to return."""
            # Polls, because an interrupt after an acquire() here would leave the lock locked.
            while any(lock.locked() for lock in self.__lives) and os.getpid() == self.__process:
                sleep(0.0001)
