"""Error texts for arguments that do not fit, so that both backends raise the same errors.

If a pure method gets too many arguments, or an unknown keyword, the interpreter writes the text of
the error, and its words change from version to version.  The native backend gets the same text: it
repeats the call on an empty Python function with the same name and parameters.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any


@cache
def _function(head: str) -> Callable[..., None]:
    """A function with this head, such as ``Mutex.acquire(self, blocking=None)``."""
    name, _, parameters = head.partition("(")
    namespace: dict[str, Any] = {}
    exec(f"def function({parameters}: pass", namespace)  # noqa: S102 - the extension's own text
    function: Callable[..., None] = namespace["function"]
    function.__qualname__ = name
    return function


def refuse(head: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> None:
    """Raise the ``TypeError`` of a call with arguments that the parameters do not take."""
    function = _function(head)
    if "." in function.__qualname__:
        args = (None, *args)  # self
    function(*args, **(kwargs or {}))
