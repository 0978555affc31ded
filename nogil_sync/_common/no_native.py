"""What of `diagnostics` the extension does and the threading backend has no part in."""

from collections.abc import Callable
from typing import Any


def native_sleepers(_stacks: bool, /) -> list[tuple[Any, ...]]:
    """Describe the threads that sleep in C: none."""
    return []


def set_deadlock_check(_look: Callable[..., float] | None, _after: float, /) -> None:
    """Have waits in C look for deadlocks: there are none."""


def own_wait() -> tuple[int, bool, bool]:
    """Return who holds what this thread waits for in C, whether it was served, cannot fail."""
    return 0, True, False


def register_signal(_signum: int, _file: int, /) -> None:
    """Have a handler in C write who waits."""
    raise NotImplementedError


def unregister_signal(_signum: int, /) -> bool:
    """Take that handler away."""
    raise NotImplementedError
