"""Exceptions that a timer raises in the main thread, at random moments of a call."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any


class InterruptError(Exception):
    """What the signal handler raises."""


class RandomInterrupts:
    """Interrupts calls of the main thread. A call that is interrupted must have done nothing.

    Signal handlers run after a call, but not after a step of `for`. So no handler runs between the
    return of the function that `call` calls and the store that disarms the handler.
    """

    def __init__(self, error: type[BaseException] = InterruptError) -> None:
        self.error = error
        """What the handler raises."""
        self.remaining = 0
        """How often the handler may still raise in the present call."""
        self.raised = 0
        """How many calls have been interrupted."""
        signal.signal(signal.SIGALRM, self.handle)

    def handle(self, *_: object) -> None:
        if self.remaining:
            self.remaining -= 1
            raise self.error

    def call(self, function: Callable[[Any], Any], argument: Any, at_most: int = 1) -> Any:
        """The function's result, or False if the call was interrupted, once or more often."""
        try:
            self.remaining = at_most
            for result in map(function, [argument]):
                self.remaining = 0
            return result
        except self.error:
            self.remaining = 0
            self.raised += 1
            return False
        finally:
            self.remaining = 0  # before anything else, if it raised something of its own

    def rounds(self, enough: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Rounds of a loop while the timer runs.

        For half a second, or less in the short test; on a busy machine until a call was interrupted
        and there is enough.
        """
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.00017)
        begin = time.monotonic()
        end = begin + min(0.5, float(os.environ.get("NOGIL_SYNC_STRESS", "1")))
        while time.monotonic() < end or (
            not (self.raised and enough()) and time.monotonic() < begin + 20
        ):
            yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(self.raised, "calls interrupted")
        assert self.raised
