"""Rounds: waits that end for all who wait at once, which Event and WaitGroup share."""

from time import monotonic

from .._common.sleep import closed_gate, sleep_at


class Round:
    """The wait for one moment.

    Whoever brings it about makes `over` true and takes the round off its object in one
    section, and then opens the gate once; each waiter that comes through opens it for the next.
    """

    __slots__ = ("gate", "over")

    def __init__(self) -> None:
        self.gate = closed_gate()
        self.over = False  # becomes true, once, before the gate is first opened

    def wait(self, seconds: float | None) -> bool:
        """Sleep until the round is over, at most so many seconds; return whether it is."""
        deadline = None if seconds is None else monotonic() + seconds
        try:
            # Not `while condition`: its jump back lies outside the try from 3.12 on, and a
            # Ctrl-C there would skip the cleanup.
            while True:
                if self.over or not sleep_at(self.gate, deadline):
                    break
        finally:
            # Whoever took the gate's one token (if only to be interrupted right after)
            # came here, and the round is over: so nobody is left behind.
            if self.over:
                try:
                    self.gate.release()
                except RuntimeError:
                    pass  # open already, and it stays so
        return self.over
