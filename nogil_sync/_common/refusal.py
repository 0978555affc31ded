"""Words for arguments that do not fit, so that both backends say the same.

What a pure method says of too many arguments, or of an unknown keyword, is the interpreter's own
text, which changes from version to version.  The native backend borrows it: it repeats the call on
a Python function that has the same name and the same parameters, and does nothing.
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
