"""Functions of a test that run in an interpreter of their own.

A test that forks, exits, sets signal handlers, or needs an interpreter that has done nothing yet is
an ordinary function all the same. Its source is sent to a new interpreter, with those definitions,
constants and imports of its file that it uses; nothing else of the file is imported there.

    @in_own_process
    def test_mutex_is_free_in_new_interpreter():
        m = Mutex()
        assert m.acquire()

A test that looks at the output or at the exit code calls `in_process(function, *args)` itself.

The function's body becomes the body of the program, and its variables become global ones: so they
live until the interpreter ends, and functions inside it share them without a closure. (Without the
GIL each read of a closure's variable locks a cell. The child of a fork finds it locked for ever, if
another thread was just reading it.)
"""

import ast
import copy
import functools
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nogil_sync

# An interpreter that takes longer hangs: it shows the stacks of all threads and ends.
LIMIT = 60.0

HELPERS = str(Path(__file__).parent)

PRELUDE = """\
import faulthandler, sys
faulthandler.enable()
faulthandler.dump_traceback_later({limit}, exit=True)
sys.path.append({helpers!r})
"""

# From 3.12 on CPython warns of each fork of a process with threads.
QUIET_FORKS = ("-W", "ignore:This process:DeprecationWarning")


def python(
    code: str,
    *,
    timeout: float = LIMIT,
    options: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, which can import the helpers.

    An assertion that fails in a thread or finaliser, which Python only prints, fails the test as
    well, and so does a name that is missing there.
    """
    prelude = PRELUDE.format(limit=timeout, helpers=HELPERS)
    source = prelude + textwrap.dedent(code)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *QUIET_FORKS, *options, "-c", source],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout + 30,
        )

    done = run()
    threading_backend = nogil_sync.backend == "threading"
    if threading_backend and done.returncode < 0 and "The futex facility" in done.stderr:
        # The C library ends a process when a futex call returns an error code that it does not
        # know. CPython 3.13t's own locks meet this in about one of ten runs of two seconds under
        # constant signals; no code of this package is below them.
        done = run()
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert not re.search(r"^(Assertion|Name)Error\b", done.stderr, re.MULTILINE), done.stderr
    return done


def in_process(
    function: Callable[..., object], *args: Any, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Call the function in a new interpreter; the options are those of `python`."""
    return python(program(function, *args), **options)


def in_own_process(test: Any = None, **options: Any) -> Any:
    """Decorate a test that is to run in a new interpreter, with options of `python`."""
    if test is None:
        return functools.partial(in_own_process, **options)

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        given = inspect.signature(test).bind(*args, **kwargs).args
        print(in_process(test, *given, **options).stdout)

    return run


def program(function: Callable[..., object], *args: Any) -> str:
    """The text of a program whose body is the function's."""
    tree = parsed(inspect.getsourcefile(function) or "")
    entry = definition(tree, function)
    names = [parameter.arg for parameter in entry.args.args]
    values = [expression(each) for each in args]
    given = [f"{name} = {value}" for name, value in zip(names, values, strict=True)]
    definitions = [ast.unparse(node) for node in needed_by(entry, function, tree)]
    body = [ast.unparse(Globals(function).visit(node)) for node in entry.body]
    return "\n".join([*definitions, *given, *body, ""])


class Globals(ast.NodeTransformer):
    """Makes the function's variables global in the functions inside it."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.shared = {*function.__code__.co_cellvars}

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.stmt:
        assert self.shared.issuperset(node.names), f"of an inner function: {node.names}"
        return ast.Global(node.names)


def expression(value: Any) -> str:
    """The text of an expression whose value this is: a literal, or something of a module."""
    if isinstance(value, type) or inspect.isroutine(value):
        return f"__import__({value.__module__!r}, fromlist=['*']).{value.__qualname__}"
    assert ast.literal_eval(repr(value)) == value, f"not a literal: {value!r}"
    return repr(value)


def needed_by(
    entry: ast.FunctionDef, function: Callable[..., object], tree: ast.Module
) -> list[ast.stmt]:
    """The statements of the file that the function cannot do without."""
    code = function.__code__
    assert not code.co_freevars, "it uses variables of the function around it"
    own = {*code.co_varnames, *code.co_cellvars}
    bindings: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for name in bound_by(node):
            bindings.setdefault(name, []).append(node)
    used: set[str] = set()

    def add(node: ast.AST, hidden: set[str]) -> None:
        for each in ast.walk(node):
            name = each.id if isinstance(each, ast.Name) else ""
            if name in bindings and name not in used | hidden:
                assert name not in own, f"a global variable and one of the function: {name}"
                used.add(name)
                for binding in bindings[name]:
                    add(binding, set())

    add(entry, own)
    return [part for node in tree.body for part in parts(node) if used & {*bound_by(part)}]


def parts(node: ast.stmt) -> list[ast.stmt]:
    """An import of each name by itself; any other statement as it is."""
    if isinstance(node, ast.Import):
        return [ast.Import([alias]) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]
    return [node]


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def definition(tree: ast.Module, function: Callable[..., object]) -> ast.FunctionDef:
    """The definition of the function in its file, without its decorators."""
    name, line = function.__name__, function.__code__.co_firstlineno
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if first == line:
                bare = copy.copy(node)
                bare.decorator_list = []
                return ast.copy_location(bare, node)
    raise AssertionError(f"{name} is not defined in its file")


def bound_by(node: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a file binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))
