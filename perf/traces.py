"""Traces for `cache_policies.py`: which keys a program asks a cache for, in order.

A seeded generator makes the synthetic traces. Four are real: the names in source code, the calls
of `ast.unparse`, the files that imports open, and the files of a build. Keys are numbers.
"""

from __future__ import annotations

import ast
import bisect
import functools
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

ROOT = Path(__file__).parents[1]


class Trace(NamedTuple):
    name: str
    sizes: tuple[int, ...]  # of the cache, in entries
    keys: list[int]


def numbered(keys: Iterable[Hashable]) -> list[int]:
    """The same trace with a number for each different key."""
    number: dict[Hashable, int] = {}
    return [number.setdefault(key, len(number)) for key in keys]


# ---- Synthetic traces ----


@functools.cache
def _weights(skew: float, count: int) -> list[float]:
    return list(itertools.accumulate(1 / rank**skew for rank in range(1, count + 1)))


def zipf(skew: float, count: int, requests: int, seed: int = 1) -> Iterator[int]:
    """Key n is asked for in proportion to 1 / n**skew."""
    weights, generator = _weights(skew, count), random.Random(seed)
    for _ in range(requests):
        yield bisect.bisect_left(weights, generator.random() * weights[-1])


def with_scans(skew: float, count: int, requests: int, length: int) -> Iterator[int]:
    """Zipf, and now and then a scan over keys that nobody asks for again; a third of all."""
    fresh = itertools.count(count)
    asked = zipf(skew, count, requests * 2 // 3)
    while part := list(itertools.islice(asked, 2 * length)):
        yield from part
        yield from itertools.islice(fresh, length)


def loop(count: int, requests: int) -> Iterator[int]:
    """The same keys over and over, in the same order."""
    return itertools.islice(itertools.cycle(range(count)), requests)


def zipf_and_loop(skew: float, count: int, length: int, requests: int) -> Iterator[int]:
    """Every other request belongs to a loop."""
    around = itertools.cycle(range(count, count + length))
    for key in zipf(skew, count, requests // 2):
        yield key
        yield next(around)


def shifting(skew: float, count: int, requests: int, every: int) -> Iterator[int]:
    """Zipf whose popular keys are others after each `every` requests."""
    shift = 0
    for at, key in enumerate(zipf(skew, count, requests)):
        if at % every == 0:
            shift = (shift + 7919) % count
        yield (key + shift) % count


def drifting(skew: float, count: int, requests: int, every: int) -> Iterator[int]:
    """Zipf over the newest `count` keys: a new key comes with each `every` requests."""
    for at, age in enumerate(zipf(skew, count, requests)):
        yield count + at // every - age


def pairs(distance: int, requests: int) -> Iterator[int]:
    """Each key twice: the second time after `distance` other requests, and then never."""
    for at in range(requests // 2):
        yield at
        if at >= distance // 2:
            yield at - distance // 2


def phases(requests: int, size: int) -> Iterator[int]:
    """By turns what suits LFU, what suits LRU, and a loop."""
    part = requests // 6
    for turn in range(2):
        yield from zipf(0.9, 20 * size, part, seed=turn)
        yield from (10**6 * (turn + 1) + key for key in pairs(size, part))
        yield from (10**7 + key for key in loop(size * 5 // 4, part))


# ---- Traces of real programs ----


def _library(count: int) -> list[Path]:
    """Modules of the standard library: the first `count` by name."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = sorted(folder.glob("*.py")) + sorted(folder.glob("[a-l]*/*.py"))
    return [path for path in found if "test" not in str(path.relative_to(folder))][:count]


def names_in_source(modules: int, requests: int) -> Iterator[str]:
    """The names in the standard library's source: a cache of what a compiler knows of each."""
    left = itertools.count(requests, -1)
    for path in _library(modules):
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.NAME:
                    if not next(left):
                        return
                    yield token.string


def functions_called(modules: int, requests: int) -> list[int]:
    """The lines from which a real program calls: `ast.unparse` over the standard library."""
    called: list[tuple[int, int]] = []

    def note(frame: object, event: str, _: object) -> None:
        if event == "call":
            caller = frame.f_back  # type: ignore[attr-defined]
            called.append((id(frame.f_code), caller.f_lineno))  # type: ignore[attr-defined]

    for path in _library(modules):
        tree = ast.parse(path.read_bytes())
        sys.setprofile(note)
        try:
            ast.unparse(tree)
        finally:
            sys.setprofile(None)
        if len(called) >= requests:
            break
    return numbered(called[:requests])


def files_imported(requests: int) -> list[int]:
    """The files that interpreters open which import one part of the standard library each.

    An audit hook in each notes them.
    """
    program = (
        "import sys; opened = []\n"
        "sys.addaudithook(lambda name, args: name == 'open' and opened.append(args[0]))\n"
        "for name in sys.argv[1:]:\n"
        "    try: __import__(name)\n"
        "    except Exception: pass\n"
        "print('\\n'.join(str(path) for path in opened))\n"
    )
    modules = [path.stem for path in _library(200) if path.stem.isidentifier()]
    modules = [name for name in modules if name not in {"antigravity", "this", "idlelib"}]
    generator = random.Random(1)
    found: list[str] = []
    while len(found) < requests:
        some = generator.sample(modules, 3)
        command = [sys.executable, "-S", "-E", "-c", program, *some]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found += done.stdout.split()
    return numbered(found[:requests])


def headers_read() -> list[int]:
    """The files that the C compiler reads to build this library's core and types, in order."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    native = ROOT / "nogil_sync" / "_native"
    if compiler is None or not native.is_dir():
        return []
    include = (native, native / "core", sysconfig.get_path("include"))
    options = [option for folder in include for option in ("-I", str(folder))]
    found: list[str] = []
    for source in sorted(native.rglob("*.c")):
        command = [compiler, "-std=c11", "-M", "-MG", *options, str(source)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            found += done.stdout.replace("\\\n", " ").split()[1:]
    return numbered(found)


def traces(part: float = 1.0, only: str = "") -> Iterator[Trace]:
    """Those whose name matches the pattern `only`, `part` of their usual length."""
    size = max(10, round(1000 * part))
    count, requests = 20 * size, 300 * size
    made: dict[str, Callable[[], Iterable[int]]] = {}
    for skew in (0.7, 0.8, 0.9, 1.0, 1.1, 1.2):
        made[f"Zipf {skew}"] = functools.partial(zipf, skew, count, requests)
    for name, length in (("short", size // 2), ("long", 3 * size)):
        scans = functools.partial(with_scans, 0.9, count, requests, length)
        made[f"Zipf 0.9, {name} scans"] = scans
    for percent in (105, 125, 150, 300):
        made[f"loop, {percent} %"] = functools.partial(loop, size * percent // 100, requests)
    made["Zipf 0.9 and a loop"] = lambda: zipf_and_loop(0.9, count, 2 * size, requests)
    for times in (5, 50):
        shifts = functools.partial(shifting, 0.9, count, requests, times * size)
        made[f"Zipf 0.9, shifts each {times} sizes"] = shifts
    made["Zipf 0.9, drifts"] = lambda: drifting(0.9, count, requests, 10)
    for percent in (50, 90):
        apart = functools.partial(pairs, size * percent // 100, requests)
        made[f"pairs, {percent} % apart"] = apart
    made["LFU's, LRU's and a loop, by turns"] = lambda: phases(requests, size)
    for name, keys in made.items():
        if re.search(only, name):
            plain = re.fullmatch(r"Zipf [\d.]+", name)
            yield Trace(name, (size // 5, size, 4 * size) if plain else (size,), list(keys()))
    real: dict[str, Callable[[], list[int]]] = {
        "names in source": lambda: numbered(names_in_source(300, requests)),
        "calls of ast.unparse": lambda: functions_called(100, requests),
        "files of imports": lambda: files_imported(6 * size),
        "files of a build": headers_read,
    }
    for name, program in real.items():
        if re.search(only, name) and (found := program()):
            different = len(set(found))
            sizes = tuple(max(4, different * percent // 100) for percent in (5, 20, 50))
            yield Trace(name, sizes, found)
