"""Checks the arm64 machine code of the core's fast paths: its orderings are the intended ones.

Compiles tests/c/fast_paths.c and the core with each cross-compiler that is there
(aarch64-linux-gnu-gcc, clang), for ARMv8.0 (with and without helper functions that choose at run time, "outline atomics"),
8.1 and 8.3, and disassembles the result with objdump.

Each fast path must acquire or release where that is intended, and do nothing stronger: `casal` and
the like only where sequential consistency is promised.  Barriers (dmb) may come only from the
functions in FENCES. The debug information says which function an inlined instruction comes from.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "nogil_sync" / "_native" / "core"
PATHS = ROOT / "tests" / "c" / "fast_paths.c"
TRIPLE = "aarch64-linux-gnu"

# The functions that may have a full barrier, and why.
FENCES = {
    "ns_fence_here": "only where the system cannot put a fence into all threads (membarrier)",
    "ns_epoch_stamp": "the thread that takes something out pays for readers, which have no fence",
    "ns_try_fence_everywhere": "the fence of the rare side",
    "put_back": "an item comes back only if the wait that received it was cancelled",
    "unlist": "a pool's search takes the shard of a thread that is gone off its list",
    "end_solitude": "a thread's first use of the library, and strays",
    "ns_try_incref": "3.14 and later: CPython reads an immortal count without an acquire (dmb ishld)",
    "ns_has_flights": "a deletion, or a store in a Cache, once there have been a few flights",
    "ns_fence_flight": "a flight, once there have been a few",
}

COMPILERS = {
    "gcc": [f"{TRIPLE}-gcc"],
    "clang": ["clang", f"--target={TRIPLE}"],
}
TARGETS = {
    "ARMv8.0, outline": ["-march=armv8-a", "-moutline-atomics"],
    "ARMv8.0, inline": ["-march=armv8-a", "-mno-outline-atomics"],
    "ARMv8.1": ["-march=armv8.1-a"],
    "ARMv8.3": ["-march=armv8.3-a"],
}
OPTIONS = [
    "-std=gnu11",
    "-O2",
    "-gdwarf-4",
    "-DNDEBUG",
    "-D_GNU_SOURCE",
    "-DNS_PARK_FUTEX",
    "-fPIC",
    f"-I{CORE}",
]


@dataclass(frozen=True)
class FastPath:
    """A fast path: its name in the documents, and the orderings that it must and may have."""

    operation: str
    function: str
    acquires: bool = False
    releases: bool = False
    consistent: bool = False  # sequentially: one instruction may acquire and release
    fenced: bool = False  # may have a barrier from FENCES


FAST = [
    FastPath("`ShardedCounter.add`", "fast_counter_add"),
    FastPath("`ShardedFloatCounter.add`", "fast_counter_add_double"),
    FastPath("`AtomicInt64.load`", "fast_atomic_load", acquires=True),
    FastPath("`AtomicInt64.store`", "fast_atomic_store", releases=True),
    FastPath("`AtomicInt64.add`", "fast_atomic_add", True, True, True),
    FastPath("`AtomicInt64.swap`", "fast_atomic_swap", True, True, True),
    FastPath("`AtomicInt64.compare_exchange`", "fast_atomic_compare_exchange", True, True, True),
    FastPath("`Mutex.acquire`", "fast_mutex_acquire", acquires=True),
    FastPath("`Mutex.release`", "fast_mutex_release", releases=True),
    FastPath("`RWMutex.read.acquire`", "fast_read_acquire", acquires=True),
    FastPath("`RWMutex.read.release`", "fast_read_release", releases=True),
    FastPath("`RWMutex.write.acquire`", "fast_write_acquire", acquires=True),
    FastPath("`RWMutex.write.release`", "fast_write_release", releases=True),
    FastPath("`Semaphore.acquire`", "fast_semaphore_acquire", acquires=True),
    FastPath("`Semaphore.release`", "fast_semaphore_release", releases=True),
    FastPath("`Event.is_set`", "fast_event_is_set", acquires=True),
    FastPath("`WaitGroup.add`, `done`", "ns_waitgroup_add", releases=True),
    FastPath("`Channel.send`", "fast_channel_send", acquires=True, releases=True),
    FastPath("`Channel.receive`", "fast_channel_receive", acquires=True, releases=True),
    FastPath("`Pool.get`", "fast_pool_get", acquires=True),
    FastPath("`Pool.put`", "fast_pool_put", releases=True),
    FastPath("a pool's second item: push", "fast_deque_push", acquires=True, releases=True),
    FastPath("a pool's second item: pop", "fast_deque_pop", True, True, True),
    FastPath("epoch: enter", "fast_epoch_enter", acquires=True, releases=True, fenced=True),
    FastPath("epoch: leave", "fast_epoch_leave", releases=True),
    FastPath("epoch: stamp", "fast_epoch_stamp", acquires=True, fenced=True),
    FastPath(
        "`SyncMap` lookup, without the value's reference",
        "fast_table_get",
        acquires=True,
        releases=True,
        fenced=True,
    ),
    FastPath("`SyncMap` store over a key", "fast_table_replace", True, True, True, fenced=True),
    FastPath("a segment's lock: take", "fast_lock_take", acquires=True),
    FastPath("a segment's lock: release", "fast_lock_release", releases=True),
]

HEADING = re.compile(r"^[0-9a-f]+ <(?P<name>[^>]+)>:$")
SECTION = re.compile(r"^Disassembly of section (?P<name>\S+):$")
CODE = re.compile(r"^ *(?P<at>[0-9a-f]+):\t(?P<op>\S+)(?P<rest>.*)$")
OUTLINE = re.compile(
    r"__aarch64_(?P<op>cas|swp|ldadd|ldclr|ldeor|ldset)\d+_(?P<how>relax|acq_rel|acq|rel)\b"
)
SUFFIX = {"relax": "", "acq": "a", "rel": "l", "acq_rel": "al"}
ATOMIC = re.compile(
    r"^(ldar|ldapr|ldapur|stlr|stlur|ldaxr|ldxr|stlxr|stxr|cas|swp|ldadd|ldclr|ldeor|ldset|stadd|stclr|steor|stset|dmb|dsb)"
)
# The instructions that acquire, that release, and those that do both.
BOTH = re.compile(r"^(cas|swp|ldadd|ldclr|ldeor|ldset)alb?h?$")
ACQUIRES = re.compile(r"^(ldap?u?r|ldaxr|(cas|swp|ldadd|ldclr|ldeor|ldset)a)[bh]?$")
RELEASES = re.compile(
    r"^(stlu?r|stlxr|(cas|swp|ldadd|ldclr|ldeor|ldset|stadd|stclr|steor|stset)l)[bh]?$"
)


@dataclass(frozen=True)
class Instruction:
    section: str
    function: str
    at: str
    op: str  # of a call of an outline atomic: the instruction that it stands for
    rest: str


def disassemble(program: Path) -> list[Instruction]:
    """All instructions of a program; calls of outline atomics become what they stand for."""
    text = subprocess.run(
        [f"{TRIPLE}-objdump", "-dr", "--no-show-raw-insn", program],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    section = function = ""
    found: list[Instruction] = []
    for line in text.splitlines():
        if heading := SECTION.match(line):
            section = heading["name"]
        elif heading := HEADING.match(line):
            function = heading["name"]
        elif code := CODE.match(line):
            op, rest = code["op"], code["rest"].split("//")[0].strip()
            if op in ("bl", "b") and (call := OUTLINE.search(rest)):
                op, rest = call["op"] + SUFFIX[call["how"]], ""
            found.append(Instruction(section, function, code["at"], op, rest))
        elif found and "R_AARCH64_CALL26" in line and (call := OUTLINE.search(line)):
            # In an object file the name is only in the relocation that follows.
            last = found.pop()
            op = call["op"] + SUFFIX[call["how"]]
            found.append(Instruction(last.section, last.function, last.at, op, ""))
    return found


def innermost(program: Path, instructions: list[Instruction]) -> Iterator[tuple[Instruction, str]]:
    """Each instruction with the source function that it comes from, inlined or not."""
    sections = {each.section for each in instructions}
    for section in sorted(sections):
        of = [each for each in instructions if each.section == section]
        # A linked program has addresses of its own; in an object file each section begins at 0.
        where = ["-j", section] if program.suffix == ".o" else []
        lines = subprocess.run(
            [f"{TRIPLE}-addr2line", "-f", "-e", program, *where, *(each.at for each in of)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        yield from zip(of, lines[::2], strict=True)


def barriers(program: Path) -> Iterator[tuple[str, str, str]]:
    """Each full barrier: the instruction, the function around it, and the one it comes from."""
    found = [each for each in disassemble(program) if each.op in ("dmb", "dsb")]
    for each, source in innermost(program, found):
        yield f"{each.op} {each.rest}", each.function, source


def misplaced(program: Path) -> list[str]:
    return [
        f"{program.name}: {what} in {function}, which comes from {source}"
        for what, function, source in barriers(program)
        # A compiler's copy of a function may have a name with a suffix.
        if source.split(".")[0] not in FENCES
    ]


def ordering(instructions: list[Instruction], function: str) -> list[str]:
    """The ordering instructions of a function, in the order of the code, without the plain ones.

    Of the two that make up one read-modify-write of ARMv8.0, one may carry nothing: both are kept.
    """
    return [each.op for each in instructions if each.function == function and ATOMIC.match(each.op)]


def judge(path: FastPath, ops: list[str], inline: bool) -> list[str]:
    """What is wrong with the code of a fast path."""
    wrong = []
    acquires = any(ACQUIRES.match(op) or BOTH.match(op) for op in ops)
    releases = any(RELEASES.match(op) or BOTH.match(op) for op in ops)
    if path.acquires and not acquires:
        wrong.append("does not acquire")
    if path.releases and not releases:
        wrong.append("does not release")
    if not path.fenced and any(op.startswith(("dmb", "dsb")) for op in ops):
        wrong.append("has a barrier")
    if not path.consistent:
        wrong += [f"{op} is more than it needs" for op in ops if BOTH.match(op)]
        # Two ordered halves of a read-modify-write count like one instruction with both.
        pairs = [op for op in ops if op.startswith(("ldaxr", "ldxr", "stlxr", "stxr"))]
        for load, store in zip(pairs[::2], pairs[1::2], strict=False):
            if inline and load.startswith("ldaxr") and store.startswith("stlxr"):
                wrong.append(f"{load} with {store} is more than it needs")
    return wrong


def compilers() -> dict[str, list[str]]:
    return {
        name: command
        for name, command in COMPILERS.items()
        if shutil.which(command[0]) and shutil.which(f"{TRIPLE}-objdump")
    }


def build(command: list[str], target: str, source: Path, folder: Path) -> Path:
    program = folder / f"{source.stem}-{abs(hash((tuple(command), target)))}.o"
    subprocess.run(
        [*command, *OPTIONS, *TARGETS[target], "-c", source, "-o", program],
        check=True,
        timeout=300,
    )
    return program


def look(
    folder: Path, commands: dict[str, list[str]], sources: list[Path]
) -> tuple[dict[tuple[str, str], list[Instruction]], list[str]]:
    """The code of the fast paths, by compiler and target; and all faults found in the core."""
    jobs = [
        (name, target, source)
        for name in commands
        for source in sources
        # Barriers are the same for all targets, so one is enough.
        for target in (TARGETS if source == PATHS else ["ARMv8.1"])
    ]

    def one(job: tuple[str, str, Path]) -> tuple[Path, list[str]]:
        name, target, source = job
        program = build(commands[name], target, source, folder)
        return program, [f"{name}, {target}: {line}" for line in misplaced(program)]

    code, wrong = {}, []
    with ThreadPoolExecutor(2) as pool:
        for (name, target, source), (program, lines) in zip(jobs, pool.map(one, jobs), strict=True):
            wrong += lines
            if source == PATHS:
                code[name, target] = disassemble(program)
    for (name, target), instructions in code.items():
        for path in FAST:
            wrong += [
                f"{name}, {target}: {path.operation}: {what} ({' '.join(ops)})"
                for ops in [ordering(instructions, path.function)]
                for what in judge(path, ops, "inline" in target)
            ]
    return code, wrong


def markdown(code: dict[tuple[str, str], list[Instruction]]) -> None:
    """The table of docs/arm64.md. Each instruction is named once; compilers agree unless it says so."""
    kinds = {
        "ARMv8.1, or ARMv8.0 by helper functions": lambda target: "inline" not in target,
        "ARMv8.0, inline": lambda target: "inline" in target,
    }
    print("| | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for path in FAST:
        cells = []
        for fits in kinds.values():
            seen: dict[frozenset[str], tuple[str, ...]] = {}
            for (_, target), instructions in code.items():
                if fits(target):
                    ops = tuple(dict.fromkeys(ordering(instructions, path.function)))
                    seen.setdefault(frozenset(ops), ops)
            cells.append("; or ".join(" ".join(f"`{op}`" for op in ops) for ops in seen.values()))
        print(f"| {path.operation} | " + " | ".join(cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, help="look at this one, for barriers alone")
    parser.add_argument("--markdown", action="store_true", help="print the table of the documents")
    parser.add_argument("--compiler", choices=COMPILERS, help="with this one only")
    parser.add_argument("--source", choices=[PATHS.stem, *(c.stem for c in CORE.rglob("*.c"))])
    options = parser.parse_args()
    if options.library:
        wrong = misplaced(options.library)
        count = sum(1 for _ in barriers(options.library))
        print(f"{options.library.name}: {count} barriers, {len(wrong)} where none is intended")
    else:
        commands = {n: c for n, c in compilers().items() if options.compiler in (None, n)}
        if not commands:
            print("no cross-compiler for arm64 is here")
            return 2
        with tempfile.TemporaryDirectory() as folder:
            sources = [
                each
                for each in [PATHS, *sorted(CORE.rglob("*.c"))]
                if options.source in (None, each.stem)
            ]
            code, wrong = look(Path(folder), commands, sources)
        if options.markdown:
            markdown(code)
        else:
            by = ", ".join(f"{name} for {target}" for name, target in code)
            print(f"{len(FAST)} fast paths, by {by or 'none'}: {len(wrong)} findings")
    for line in wrong:
        print(line)
    return bool(wrong)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
