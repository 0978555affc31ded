"""What runs under qemu: threads that repeat an operation, and what their addresses belong to.

Reads a list of runs as JSON from the file that is its argument; writes a line of JSON for each.
"""

from __future__ import annotations

import bisect
import collections
import gc
import itertools
import json
import marshal
import os
import queue
import random
import sys
import textwrap
import threading
import types
from pathlib import Path
from typing import Any

from counting import read_report
from operations import KEYS
from symbols import Symbols, read_maps

import nogil_sync

# An object's header in a build without the GIL: field by offset.
FIELDS = (
    (0, "ob_tid"),
    (8, "ob_flags"),
    (10, "ob_mutex"),
    (11, "ob_gc_bits"),
    (12, "ob_ref_local"),
    (16, "ob_ref_shared"),
    (24, "ob_type"),
)
HEADER = 32

TEMPLATE = """
def loop(_sizes, _tell, _null, _cycle, _islice, {names}):
    {each}
    _items = _cycle({through})
    for {item} in _islice(_items, _sizes[0]):
        {body}
    _tell(_null, {word}, 0)
    for _size in _sizes[1:]:
        for {item} in _islice(_items, _size):
            {deeper}
        _tell(_null, {word}, 0)
    return locals()
"""


def own_key() -> str:
    return "".join(["key:", str(1_000)])


def stored_keys() -> list[str]:
    return [f"key:{n:07d}" for n in range(KEYS)]


def own_keys() -> list[str]:
    keys = stored_keys()
    random.Random(next(SEEDS)).shuffle(keys)
    for key in keys:
        hash(key)
    return keys


PRIVATE = itertools.count(1)
SEEDS = itertools.count(1)


def private_keys() -> list[str]:
    first = next(PRIVATE) * 1_000_000
    keys = [f"own:{first + n}" for n in range(512)]
    for key in keys:
        hash(key)
    return keys


def values() -> list[object]:
    return [object() for _ in range(KEYS)]


SCOPE: dict[str, Any] = {
    **{name: getattr(nogil_sync, name) for name in nogil_sync.__all__},
    "collections": collections,
    "queue": queue,
    "threading": threading,
    "own_key": own_key,
    "own_keys": own_keys,
    "private_keys": private_keys,
    "stored_keys": stored_keys,
    "values": values,
}


# What the plugin listens to: see there.
WORD, REPORT = 0x7472616E73660000, 0xFFFF
NULL = os.open("/dev/null", os.O_RDONLY)


def tell(number: int) -> None:
    os.lseek(NULL, WORD + number, 0)


def compiled(names: list[str], each: str, body: str, through: str) -> types.CodeType:
    """The loop of an operation; every thread makes its own function from it."""

    def block(text: str, depth: int) -> str:
        return textwrap.indent(text.strip() or "pass", " " * depth).lstrip()

    source = TEMPLATE.format(
        word=WORD,
        names=", ".join(names),
        each=block(each, 4),
        body=block(body, 8),
        deeper=block(body, 12),
        through=through or "(None,)",
        item="k" if through else "_",
    )
    # As from a .pyc file, which makes constants immortal.
    code = marshal.loads(marshal.dumps(compile(source, "<loop>", "exec")))
    return next(each for each in code.co_consts if isinstance(each, types.CodeType))


def run(job: dict[str, Any], report: Path) -> dict[str, Any]:
    """Count the transfers of one operation; what was found."""
    scope = {**SCOPE, "threads": job["threads"]}
    before = {*scope, "__builtins__", "k", "v"}
    exec(job["setup"], scope)
    shared = {name: made for name, made in scope.items() if name not in before}
    if job["pinned"]:
        for name in job["pins"].split():
            nogil_sync.pin(shared[name])
    code = compiled(list(shared), job["each"], job["body"], job["through"])
    arguments = (job["sizes"], os.lseek, NULL, itertools.cycle, itertools.islice, *shared.values())
    kept: list[Any] = [shared]

    def work() -> None:
        own = types.FunctionType(code, {"__builtins__": __builtins__, **scope})
        try:
            kept.append(own(*arguments))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    tell(job["threads"])
    threads = [threading.Thread(target=work) for _ in range(job["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell(REPORT)
    return read(report, kept)


class Objects:
    """Which live object an address lies in."""

    def __init__(self, roots: list[Any]) -> None:
        # What the collector knows, and what that refers to: strings, numbers.
        tracked = [*roots, *gc.get_objects()]
        self.found = {id(each): each for each in (*tracked, *gc.get_referents(*tracked))}
        self.starts = sorted(self.found)

    def label(self, address: int) -> str:
        """`kind:name of the place`, or nothing."""
        at = bisect.bisect_right(self.starts, address) - 1
        if at < 0:
            return ""
        found = self.found[self.starts[at]]
        kind, offset = type(found), address - self.starts[at]
        if offset < HEADER:
            field = next(name for begin, name in reversed(FIELDS) if begin <= offset)
            return f"header:{kind.__qualname__}.{field}"
        try:
            size = found.__sizeof__()
        except Exception:
            size = kind.__basicsize__
        if offset >= size:
            return ""
        owner = "ours" if kind.__module__.startswith("nogil_sync") else "interpreter"
        return f"{owner}:{kind.__qualname__}+{offset}"


def read(path: Path, kept: list[Any]) -> dict[str, Any]:
    with Path("/proc/self/maps").open() as lines:
        maps = read_maps(lines)
    symbols = Symbols(maps)
    objects = Objects(kept)

    def where(address: int) -> str:
        """`@address` in a file, for the symbol; the label of an object; or "?"."""
        if symbols.file(address):
            return f"@{address:x}"
        return objects.label(address) or "?"

    counts = read_report(path)
    labels: dict[int, str] = {}

    def label(address: int) -> str:
        if address not in labels:
            labels[address] = where(address)
        return labels[address]

    sites: collections.Counter[tuple[int, bool, int, str, str]] = collections.Counter()
    for site in counts.sites:
        # Another word of the line than the one that the other thread wrote.
        apart = site.address // 8 != site.written // 8
        beside = label(site.written) if apart else ""
        sites[site.phase, site.upgrade, site.pc, label(site.address), beside] += site.count
    return {
        "phases": [vars(phase) for phase in counts.phases],
        "sites": [[*key, count] for key, count in sites.items()],
        "maps": maps,
    }


def main() -> None:
    threading.stack_size(512 * 1024)
    jobs, report = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for job in jobs:
        print(json.dumps(run(job, report)), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
