"""A Ctrl-C in the main thread at each step of a call: a run of the call for each.

The interpreter looks for signals only in some places: where a Python function begins, after a call
and where a loop jumps back. So the handler runs where a program's would: in the first such place
after the given instruction, however deep in a callback or finaliser that is.
"""

import _thread
import opcode
import signal
import sys
from collections.abc import Callable, Iterator
from operator import methodcaller
from types import FrameType
from typing import Any

# Instructions that neither look for signals nor call anything: an interrupt that comes at one of
# them is the same as one that comes at the next.
_QUIET = ("LOAD_FAST", "LOAD_CONST", "LOAD_GLOBAL", "POP_JUMP", "COPY", "PUSH_NULL", "RETURN")


class _CtrlC:
    interrupt = _thread.interrupt_main
    # The interpreter does not look for signals after it has read an attribute.
    now = property(methodcaller("interrupt"))


_ctrl_c = _CtrlC()


class EveryStep:
    """Interrupts the call of each round, at the next step of what it runs in this thread.

    The first round interrupts nothing: it only counts the steps. It must run all code that later
    rounds run.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        """The numbers of the instructions at which an interrupt comes."""
        self.raised: list[str] = []
        """The functions that were interrupted."""
        self._is_armed = False
        self._number = 0
        self._at: int | None = None
        signal.signal(signal.SIGINT, self._handle)

    def rounds(self) -> Iterator[None]:
        yield
        assert self.steps
        for self._at in self.steps:
            yield
        print(len(self.steps), "steps,", len(self.raised), "interrupts")
        assert self.raised

    def call(self, function: Callable[[], object]) -> bool:
        """Call it; whether it came to its end."""
        self._number = 0
        ended = False
        try:
            self._is_armed = True
            sys.settrace(self._trace)
            for _ in map(_called, (function,)):  # an iterator's item: no interrupt comes after it
                ended = True
                self._is_armed = False
        except KeyboardInterrupt:
            pass
        finally:
            self._is_armed = False
            sys.settrace(None)
        return ended

    def _handle(self, _signal: int, frame: FrameType | None) -> None:
        if self._is_armed and frame is not None:
            self._is_armed = False
            self.raised.append(frame.f_code.co_name)
            raise KeyboardInterrupt

    def _trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        if frame.f_code.co_filename == __file__:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            self._number += 1
            if self._at is None:
                name = opcode.opname[frame.f_code.co_code[frame.f_lasti]]
                if not name.startswith(_QUIET):
                    self.steps.append(self._number)
            elif self._number == self._at:
                sys.settrace(None)  # else the handler would run in the next call of this function
                _ = _ctrl_c.now
        return self._trace


def _called(function: Callable[[], object]) -> object:
    return function()
