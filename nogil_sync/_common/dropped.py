"""What must be done even if an interrupt comes, when something is dropped or fails.

``__del__`` is a function: when it begins, the interpreter looks for signals, and what a handler
raises then is reported as unraisable and lost, with all that the finaliser had to do. A generator
that is dropped while it is suspended in a ``try`` continues in the ``except`` clause of that. The
interpreter does not look for signals in between, so that clause is certain to begin. There it
repeats what is to be done until no interrupt comes, and then passes on the first.
"""

import _thread
import signal
from collections.abc import Callable, Generator
from operator import methodcaller

__all__ = ["calling", "in_two_steps", "when_dropped"]

_TRIES = 10  # how often that is tried which raises


def when_dropped(function: Callable[[], object]) -> Generator[None, None, None]:
    """Return an object that calls the function when nothing refers to it any more.

    The function must not refer to the object, and must do no harm when it is called again.
    """
    return calling(_nothing, function)


def calling(
    function: Callable[[], object], otherwise: Callable[[], object]
) -> Generator[None, None, None]:
    """Return a generator whose next step calls `function`.

    `otherwise` is called if `function` raises, or if the generator is dropped before that step.
    It may be called again (after an interrupt, say), so a repeated call must do no harm.
    """
    steps = in_two_steps(function, otherwise)
    next(steps)
    return steps


def _nothing() -> None:
    pass


def in_two_steps(
    function: Callable[[], object], otherwise: Callable[[], object]
) -> Generator[None, None, None]:
    """As `calling`, which makes the first step; that only gets the generator ready."""
    # The interpreter's end clears the names of the module before the last generators are dropped.
    most, raise_again = _TRIES, _raise_again
    try:
        yield
        function()
    except BaseException as error:
        later: BaseException | None = None
        tries = 0
        while True:  # twice: an interrupt can also come where a loop jumps back
            try:
                while tries < most:
                    tries += 1
                    try:
                        otherwise()
                        break
                    except BaseException as another:
                        later = later or another
                break
            except BaseException as another:
                later = later or another
        if not isinstance(error, GeneratorExit):
            raise
        if later is not None:
            raise_again(later)
        return
    yield


def _raise_again(error: BaseException) -> None:
    """Have the main thread raise it where it is not lost, if it is a Ctrl-C.

    Any other error of a generator that is dropped is reported as unraisable.
    """
    is_ctrl_c = isinstance(error, KeyboardInterrupt)
    if not (is_ctrl_c and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        raise error
    _ = _ctrl_c.again


class _CtrlC:
    interrupt = _thread.interrupt_main  # which is in C, and so no method
    # Interrupts the main thread. The interpreter looks for signals after a call, but not after it
    # has read an attribute: so what the handler raises is raised after the end of the finaliser.
    again = property(methodcaller("interrupt"))


_ctrl_c = _CtrlC()
