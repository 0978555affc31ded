"""Ctrl-C for a main thread that waits, sent in each of the two ways there are."""

import _thread
import os
import signal
import threading
import time
from collections.abc import Callable

INTERRUPTS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGINT),
    "interrupt_main": _thread.interrupt_main,
}


def do_nothing() -> None:
    pass


def interrupt_call(
    call: Callable[[], object],
    way: str = "kill",
    *,
    before: Callable[[], object] = do_nothing,
    after: Callable[[], object] = do_nothing,
    times: int = 1,
    limit: float = 20,
) -> None:
    """Interrupt the call, of the main thread, while it waits; fails unless it raises in time.

    The thread that interrupts it, possibly several times, calls `before` and `after` then.
    """
    sent = 0.0
    begun = threading.Event()

    def interrupt() -> None:
        nonlocal sent
        begun.wait(60)
        time.sleep(0.3)
        before()
        sent = time.monotonic()
        for _ in range(times):
            INTERRUPTS[way]()
            if times > 1:
                time.sleep(0.05)
        after()

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        begun.set()  # not earlier: an interrupt that hits Thread.start would be another test
        call()
    except KeyboardInterrupt:
        took = time.monotonic() - sent
    else:
        raise AssertionError("not interrupted")
    print(f"{took * 1000:.1f} ms")
    assert took < limit, took
