"""What the child of a fork does first, and what it keeps of its parent, untouched.

Python calls the hooks of a child in the order in which they were registered, so those of modules
that were imported before this package come first. They may use locks of ours: `logging` calls
``_at_fork_reinit`` of the locks that its handlers were given. So the calls that are meant for the
child see to it that our hooks have run (`finish_fork`).
"""

import os
from collections.abc import Callable

# Dicts and the like. Without the GIL each has a lock, which a thread that is gone may have had, or
# have been about to get. Freeing one could wait for that lock.
left_at_fork: list[object] = []

_Hook = Callable[[], object]


class _Process:
    """Of this process, or of the parent in whose child the hooks have not run yet."""

    pid = os.getpid()
    early = 0  # the process in which they ran before it was their turn
    hooks: tuple[_Hook, ...] = ()


_process = _Process()


def in_child(hook: _Hook) -> None:
    """Have it called in the child of each fork, after those that were given before."""
    if not _process.hooks and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_take_turn)
    _process.hooks = (*_process.hooks, hook)


def finish_fork() -> None:
    """For calls that are meant for the child of a fork: call the hooks, unless that was done."""
    if _process.pid != os.getpid():
        _process.early = os.getpid()
        _call_hooks()


def _take_turn() -> None:
    if _process.early != os.getpid():
        _call_hooks()
    _process.early = 0  # a later process may get the same number


def _call_hooks() -> None:
    _process.pid = os.getpid()
    failure: BaseException | None = None
    for hook in _process.hooks:
        try:
            hook()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure
