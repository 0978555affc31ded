"""What all threads of the server share, as an interface: `ours.Shared` and `plain.Shared` have it.

The application knows only this. Every method may be called by any number of threads at once.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from .configuration import REPORT_PATIENCE, Config


class OverloadedError(Exception):
    """There was no turn for a report in time."""


@contextmanager
def turn(semaphore: Any) -> Iterator[None]:
    """Make a report in a turn of the semaphore; an OverloadedError if there is none in time."""
    if not semaphore.acquire(timeout=REPORT_PATIENCE):
        raise OverloadedError
    try:
        yield
    finally:
        semaphore.release()


class State(Protocol):
    """What the threads of one server share."""

    #: ``"ours"`` or ``"plain"``.
    name: str
    #: Where the metrics are, for `/metrics` and for the status page.
    registry: CollectorRegistry

    def keep(self, objects: list[object]) -> None:
        """Take note of objects that all threads read, and that are there as long as the state."""

    def config(self) -> Config:
        """Give the current configuration."""

    def change_config(self, change: Callable[[Config], Config]) -> Config:
        """Replace the configuration by what `change` makes of it; no other change is lost."""

    def visit(self, session: str) -> int:
        """Count a visit; give the session's visits, or 0 if there is no such session (any more)."""

    def begin_session(self) -> str:
        """Make a session with one visit, and give its name, which nobody can guess."""

    def end_session(self, session: str) -> bool:
        """Forget a session; say whether it was there."""

    def sessions(self) -> int:
        """Say how many sessions there are."""

    def delay(self, client: str) -> float:
        """Count a request of a client; give the seconds it has to wait, 0.0 if it may go on."""

    def buffer(self) -> AbstractContextManager[bytearray]:
        """Lend a buffer of `configuration.BUFFER` bytes with whatever is in it."""

    def report_turn(self) -> AbstractContextManager[object]:
        """Wait until fewer than `configuration.REPORTS` are made; at last an OverloadedError."""

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count an answer, and the time it took."""


def new_state(backend: str, config: Config) -> State:
    """Make a state: ``"ours"`` or ``"plain"``."""
    state: State = importlib.import_module(f".{backend}", __package__).Shared(config)
    return state
