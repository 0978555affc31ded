"""Run a program, and say where its threads waited for each other.

::

    python -m nogil_sync.contention [-o FILE] [--folded FILE] script.py [argument ...]
    python -m nogil_sync.contention [-o FILE] [--folded FILE] -m module [argument ...]

The program runs as ``__main__``, with its own ``sys.argv`` and ``sys.path``. The profile ends when
the program's main thread and all its other threads but daemons have ended. Then a table goes to
standard error, a page of HTML to the file of ``-o``, and the stacks for a flame graph to that of
``--folded``. The exit status is the program's.

A program that ends by ``os._exit`` or by a signal that it does not handle has no profile.
See :func:`nogil_sync.diagnostics.profile_contention`.
"""

import argparse
import importlib.util
import sys
import threading
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nogil_sync.diagnostics import ContentionProfile, profile_contention

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nogil_sync.contention",
        description="Run a program, and say where its threads waited for each other.",
        allow_abbrev=False,
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="write a page of HTML to this file")
    parser.add_argument(
        "--folded", metavar="FILE", help="write the stacks for a flame graph to this file"
    )
    parser.add_argument(
        "-n", "--limit", type=int, default=20, help="the max of objects in the table (20)"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module")
    parser.add_argument("program", help="a script, or with -m a module")
    parser.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="arguments of the program"
    )
    return parser


def _writable(parser: argparse.ArgumentParser, path: str | None) -> Path | None:
    """The path, made absolute: the program may change the working directory."""
    if path is None:
        return None
    absolute = Path(path).absolute()
    if absolute.is_dir() or not absolute.parent.is_dir():
        parser.error(f"cannot write to {path!r}")
    return absolute


def _script(parser: argparse.ArgumentParser, path: str) -> tuple[CodeType, dict[str, Any]]:
    """The code of a script, and what its ``__main__`` has."""
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        parser.error(f"cannot read {path!r}: {error.strerror}")
    if not sys.flags.safe_path:
        sys.path[0] = str(Path(path).resolve().parent)
    return compile(source, path, "exec", dont_inherit=True), {"__file__": path}


def _module(parser: argparse.ArgumentParser, name: str) -> tuple[CodeType, dict[str, Any]]:
    """The same of a module, or of a package's ``__main__``."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        parser.error(f"cannot find {name!r}: {error}")
    get_code = getattr(spec.loader, "get_code", None) if spec is not None else None
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or not isinstance(code, CodeType):
        parser.error(f"no module named {name!r} that can be run")
    return code, {
        "__file__": spec.origin,
        "__spec__": spec,
        "__loader__": spec.loader,
        "__package__": spec.parent,
    }


def _run(code: CodeType, names: dict[str, Any]) -> BaseException | None:
    """Run the program until its threads have ended; return what ended its main thread."""
    program = ModuleType("__main__")
    vars(program).update(names)
    sys.modules["__main__"] = program
    ended: BaseException | None = None
    try:
        exec(code, vars(program))  # noqa: S102  (what the command is for)
    except BaseException as error:
        ended = error
        if not isinstance(error, SystemExit):
            # Without the frame of this function.
            trace = error.__traceback__ and error.__traceback__.tb_next
            sys.excepthook(type(error), error.with_traceback(trace), trace)
    try:
        while others := [
            each
            for each in threading.enumerate()
            if each is not threading.current_thread() and not each.daemon
        ]:
            others[0].join()
    except KeyboardInterrupt as error:
        return ended or error
    return ended


def _report(profile: ContentionProfile, options: argparse.Namespace) -> None:
    sys.stderr.write(profile.table(options.limit))
    if options.output is not None:
        profile.write_html(options.output)
    if options.folded is not None:
        profile.write_folded(options.folded)


def main(arguments: list[str] | None = None) -> int:
    """Run the program that the arguments name, ``sys.argv`` by default; return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.output = _writable(parser, options.output)
    options.folded = _writable(parser, options.folded)
    load = _module if options.module else _script
    code, names = load(parser, options.program)
    sys.argv[:] = [names["__file__"] or options.program, *options.arguments]
    with profile_contention() as profile:
        ended = _run(code, names)
    _report(profile, options)
    if isinstance(ended, SystemExit):
        raise ended
    if isinstance(ended, KeyboardInterrupt):
        sys.excepthook = lambda *_: None  # it was told already
        raise ended
    return 0 if ended is None else 1


if __name__ == "__main__":
    sys.exit(main())
