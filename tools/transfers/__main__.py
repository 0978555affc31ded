"""Counts the cache lines that travel between threads, for each operation: see docs/transfers.md."""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import counting
from counting import FEW, MANY, Counts, Site, UnavailableError
from operations import CORE, KEYS, OPERATIONS, Operation
from symbols import Mapping, Symbols, read_maps
from table import INTERPRETER, KINDS, OURS, as_markdown, as_text, into_page

GUEST = Path(__file__).with_name("guest.py")
NATIVE = "/nogil_sync/_native/"  # in the path of our extension

# Transfers an operation below which a place is not named.
WORTH_NAMING = 0.05

# Operations a thread, which are counted twice and so drop out.
FEWER = 20

Result = dict[str, Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev transfers", description=__doc__)
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="parts of names")
    parser.add_argument("--threads", default="8", metavar="N,...", help="default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pinned", action="store_true", help="only with the object pinned")
    which.add_argument("--unpinned", action="store_true", help="only with it as it comes")
    parser.add_argument("--where", action="store_true", help="also what was accessed, and by whom")
    parser.add_argument("--core", action="store_true", help="the C core alone, without Python")
    parser.add_argument("--exactly", action="store_true", help="whole names, not parts")
    parser.add_argument("--list", action="store_true", help="name the operations, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also store all that was found")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="PAGE",
        help="also put the tables into this page, between its marks",
    )
    parser.add_argument(
        "--report",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="count nothing: the tables of what --json stored earlier",
    )
    own = parser.add_argument_group("an operation of your own")
    own.add_argument("--setup", help="makes what all threads share: it = Mutex()")
    own.add_argument("--each", default="", help="what each thread runs first")
    own.add_argument("--loop", default="it()", help="the operation: with it: pass")
    own.add_argument("--through", default="", help="a sequence that the loop goes through, as k")
    own.add_argument("--pins", default="it", help="the names to pin (default: %(default)s)")
    how = parser.add_argument_group("the schedule")
    how.add_argument(
        "--counted", type=int, metavar="N", help="operations a thread (default: by their number)"
    )
    how.add_argument("--slice", type=int, default=40, help="instructions ahead of the others")
    how.add_argument("--cost", type=int, default=300, help="of a transfer, in instructions")
    how.add_argument("--wake", type=int, default=10_000, help="of a wake-up, in instructions")
    how.add_argument(
        "--processors",
        type=int,
        metavar="N",
        help="tell the program that there are so many (default: as many as threads; 0: the truth)",
    )
    how.add_argument(
        "--program",
        nargs=argparse.REMAINDER,
        help="count for this command, which marks its phases itself, as tests/helpers/falsesharing.c does",
    )
    # ./dev transfers --python 3.13t,3.14t: as 3.13t=/path/of/python, several times.
    parser.add_argument("--interpreter", action="append", default=[], help=argparse.SUPPRESS)
    return parser.parse_args()


def schedule(args: argparse.Namespace) -> dict[str, int]:
    return {"slice": args.slice, "cost": args.cost, "wake": args.wake}


def processors(args: argparse.Namespace, threads: int) -> dict[str, int]:
    """As many processors as threads, unless told otherwise."""
    return {"processors": threads if args.processors is None else args.processors}


def wanted(name: str, parts: list[str], *, whole: bool) -> bool:
    """Whether an operation of this name is asked for."""
    if whole:
        return name in parts
    return any(part.lower() in name.lower() for part in parts)


def jobs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A job for each figure: what guest.py is told."""
    if args.setup:
        own = Operation(args.setup, args.loop, args.each, args.through, args.pins)
        chosen = {" ".join(args.loop.split()): own}
    else:
        chosen = {
            name: operation
            for name, operation in OPERATIONS.items()
            if not args.operations or wanted(name, args.operations, whole=args.exactly)
        }
    if not chosen:
        sys.exit("error: no operation has such a name (--list names them)")
    ways = [pin for pin, left_out in ((True, args.unpinned), (False, args.pinned)) if not left_out]
    return [
        {
            "name": name,
            "threads": threads,
            "pinned": pinned,
            # First without a schedule: often enough for what only begins after some uses.
            "sizes": [
                4_000 // threads + 100,
                2 * KEYS // threads + 50 if operation.through else 30,
                FEWER,
                FEWER + (args.counted or max(1_600 // threads, 50)),
                FEWER,
            ],
            **vars(operation),
        }
        for threads in map(int, args.threads.split(","))
        for name, operation in chosen.items()
        for pinned in ways
    ]


def guests(
    python: str, todo: list[dict[str, Any]], options: dict[str, int]
) -> Iterator[tuple[dict[str, Any], Result]]:
    """Each job with what the interpreter under qemu says of it, as they come."""
    with tempfile.TemporaryDirectory() as folder:
        report, listed = Path(folder) / "report", Path(folder) / "jobs"
        listed.write_text(json.dumps(todo))
        command = [python, str(GUEST), str(listed), str(report)]
        # PYTHONSAFEPATH would keep guest.py from what lies beside it.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHON_GIL": "0"}
        process = subprocess.Popen(
            counting.emulated(command, report, **options),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            for job, line in zip(todo, process.stdout, strict=False):
                yield job, json.loads(line)
            if process.wait():
                sys.exit(f"error: the interpreter under qemu ended with {process.returncode}")
        finally:
            process.kill()
            process.wait()


def owner(label: str, pc: int, symbols: Symbols) -> tuple[str, str]:
    """Whose memory a place is that guest.py labelled, and what it is."""
    if label.startswith("@"):
        address = int(label[1:], 16)
        kind = OURS if NATIVE in symbols.file(address) else INTERPRETER
        return kind, symbols.name(address)
    if label.startswith("?"):
        # Nothing that lives at the end. The core's memory is touched by its own code only.
        ours = NATIVE in symbols.file(pc)
        return (OURS, "allocated") if ours else (INTERPRETER, "heap or stack")
    kind, _, what = label.partition(":")
    return kind, what


def evaluate(job: dict[str, Any], told: Result) -> Result:
    """The figures of one job: what the many operations took more than the few, for each of them."""
    counts, symbols = told["phases"], Symbols([Mapping(*each) for each in told["maps"]])
    operations = (job["sizes"][3] - job["sizes"][2]) * job["threads"]
    result: Result = {key: job[key] for key in ("name", "threads", "pinned")}
    for name in ("instructions", "accesses", "transfers", "upgrades", "ticks"):
        result[name] = (counts[MANY][name] - counts[FEW][name]) / operations
    owners: collections.Counter[str] = collections.Counter()
    places: collections.Counter[tuple[bool, str, str, str, str]] = collections.Counter()
    for phase, upgrade, pc, label, beside, count in told["sites"]:
        if phase not in (FEW, MANY):
            continue
        signed = count if phase == MANY else -count
        kind, what = owner(label, pc, symbols)
        code = symbols.name(pc, offset=False)
        written = owner(beside, pc, symbols)[1] if beside else ""
        places[upgrade, kind, what, code, written] += signed
        if not upgrade:
            owners[kind] += signed
    result["owners"] = {kind: owners[kind] / operations for kind in KINDS}
    result["places"] = [
        {
            "upgrade": upgrade,
            "kind": kind,
            "what": what,
            "code": code,
            "beside": written,
            "count": count / operations,
        }
        for (upgrade, kind, what, code, written), count in places.most_common()
        if count / operations >= WORTH_NAMING
    ]
    return result


def count_all(args: argparse.Namespace, interpreters: dict[str, str]) -> list[Result]:
    results = []
    todo = jobs(args)
    total, begin = len(todo) * len(interpreters), time.monotonic()
    for version, python in interpreters.items():
        for threads, some in itertools.groupby(todo, key=lambda job: job["threads"]):
            options = schedule(args) | processors(args, threads)
            for job, told in guests(python, list(some), options):
                result = evaluate(job, told) | {"version": version}
                results.append(result)
                print(
                    f"[{len(results)}/{total}, {time.monotonic() - begin:.0f} s] {version}, "
                    f"{threads} threads, {'pinned' if job['pinned'] else 'unpinned'}: "
                    f"{job['name']}: {result['transfers']:.2f}",
                    file=sys.stderr,
                    flush=True,
                )
    return results


def count_core(args: argparse.Namespace) -> list[Result]:
    """The same of the C core's fast paths."""
    results = []
    program = counting.core_program()
    todo = [
        (threads, name)
        for threads in map(int, args.threads.split(","))
        for name in CORE
        if not args.operations or wanted(name, args.operations, whole=args.exactly)
    ]
    for threads, name in todo:
        many = FEWER + (args.counted or max(1_600 // threads, 50))
        options = schedule(args) | processors(args, threads)
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report"
            command = [str(program), name, str(threads), str(FEWER), str(many)]
            done = subprocess.run(
                counting.emulated(command, report, **options),
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            counts = counting.read_report(report)
        symbols = Symbols(maps := read_maps(done.stdout.splitlines()))

        def label(address: int, symbols: Symbols = symbols) -> str:
            return f"{OURS}:{symbols.name(address) if symbols.file(address) else 'allocated'}"

        sites = [
            (
                site.phase,
                site.upgrade,
                site.pc,
                label(site.address),
                label(site.written) if site.address // 8 != site.written // 8 else "",
                site.count,
            )
            for site in counts.sites
        ]
        job = {"name": f"core: {name}", "threads": threads, "pinned": None}
        told = {"phases": [vars(each) for each in counts.phases], "sites": sites, "maps": maps}
        sizes = [0, 0, FEWER, many, FEWER]
        results.append(evaluate({**job, "sizes": sizes}, told) | {"version": "core"})
    return results


def count_program(command: list[str], options: dict[str, int]) -> Result:
    """What a program that marks its own phases did in the third of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        subprocess.run(counting.emulated(command, report, **options), check=True, stdout=sys.stderr)
        counts: Counts = counting.read_report(report)
    sites: list[Site] = [site for site in counts.sites if site.phase == MANY]
    return {
        "threads": counts.threads,
        **vars(counts.phases[MANY]),
        "sites": [[s.upgrade, s.pc, s.address, s.written, s.count] for s in sites],
    }


def results_of(args: argparse.Namespace) -> list[Result]:
    """Those stored earlier, or new ones."""
    if args.report:
        return [each for path in args.report for each in json.loads(path.read_text())]
    if args.core:
        return count_core(args)
    interpreters = dict(each.split("=", 1) for each in args.interpreter)
    own = f"{sys.version_info[0]}.{sys.version_info[1]}t"
    return count_all(args, interpreters or {own: sys.executable})


def main() -> None:
    args = parse()
    if args.list:
        print("\n".join(OPERATIONS))
        return
    # What runs under qemu must end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if args.program:
            found: Any = count_program(args.program, schedule(args))
            text = json.dumps(found)
        else:
            found = results_of(args)
            text = as_text(found, places=args.where)
    except UnavailableError as missing:
        sys.exit(f"error: {missing}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.markdown:
        into_page(args.markdown, as_markdown(found))


if __name__ == "__main__":
    main()
