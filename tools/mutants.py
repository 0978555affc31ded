"""Breaks the code on purpose, one place at a time, and checks that its tests notice.

A mutant replaces a piece of text in one file of core/.  tests/mutants/*.toml lists the mutants:

    find, replace   the text, which must be in `file` exactly once (or `times`), and its replacement
    tests           those of tests/c that must notice
    portable        built without futexes
    survives        why no test can notice it
    chance          why a test notices it only sometimes
    since, before   the versions of Python in which a test can notice it: from this one on; before this one

Each mutant is applied to a copy, which is built with the mutant's tests in five ways (BUILDS) and run until a test
fails: by a check, a race that the thread sanitizer reports, a crash, or a hang.  A mutant that no test kills is a hole
in the tests, unless the data explain it.

With `kind = "extension"` the file is one of the extension's, and `tests` are pytest's: see extension_mutants.py.  With
`kind = "python"` it is a Python file of the package, and the tests run on `backend`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from extension_mutants import NATIVE, PACKAGE, BuildError, Tree, interrupted, source_in

ROOT = Path(__file__).resolve().parent.parent
CORE = NATIVE / "core"
TESTS = ROOT / "tests" / "c"
DATA = ROOT / "tests" / "mutants"

# Times and tables so small that rare paths become common.
SHRUNK = [
    *("-DNS_MUTEX_STARVING=20000", "-DNS_MUTEX_BARGING=300", "-DNS_MUTEX_AWAKE=1000"),
    *("-DNS_BARRIER_SPIN=0", "-DNS_SEMAPHORE_SPIN=0"),
    *("-DNS_RW_READER_SPIN=0", "-DNS_RW_WAITER_SPIN=0"),
    *("-DNS_LOCK_SPINS=0", "-DNS_WAKES=2", "-DNS_SLOTS_CELLS=2"),
    *("-DNS_CELL_MEETINGS=1", "-DNS_RW_REOPEN_MEETINGS=1"),
    *("-DNS_SEGMENT_MAX=16", "-DNS_SWEEP=1", "-DNS_FIGHTS=1", "-DNS_SMALL=1", "-DNS_DEQUE_SIZE=2"),
    *("-DNS_LIMBO_SPREAD=2", "-DNS_LIMBO_FIRST=2", "-DNS_LIMBO_MAX=8"),
    *("-DNS_CHANNEL_SPIN=0", "-DNS_LINGER=0"),
    *("-DNS_CACHE_BATCH=2", "-DNS_CACHE_PATIENCE=4"),
]
# Seconds for one test of the unbroken core: many, since the machine may be busy. run() notices
# earlier that all threads sleep.
UNBROKEN = 600
FLAGS = ["-std=gnu11", "-g", "-D_GNU_SOURCE", "-pthread", f"-I{TESTS}"]
THREAD = ["-O1", "-fsanitize=thread"]
ADDRESS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@dataclass(frozen=True)
class Build:
    """One way to build a test."""

    name: str
    flags: tuple[str, ...]

    @property
    def sanitized(self) -> bool:
        return "-fsanitize=thread" in self.flags


BUILDS = [
    Build("plain", ("-O2", *SHRUNK)),
    Build("shaken", ("-O2", *SHRUNK, "-DNS_SHAKE", "-DROUNDS=2000")),
    Build("thread sanitizer", (*THREAD, *SHRUNK)),
    Build("thread sanitizer, usual times", tuple(THREAD)),
    Build("address sanitizer", (*ADDRESS, *SHRUNK)),
]


def version(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


@dataclass
class Mutant:
    """One replacement, and the tests that must notice it."""

    name: str
    file: str
    find: str
    replace: str
    tests: list[str]
    survives: str = ""
    chance: str = ""
    since: str = ""
    before: str = ""
    portable: bool = False
    times: int = 1
    kind: str = "core"
    backend: str = "native"

    @property
    def versions(self) -> str:
        """In which versions of Python it can be noticed; nothing: in all."""
        limits = [("from", self.since, "on"), ("before", self.before, "")]
        return " ".join(word for limit in limits if limit[1] for word in limit if word)

    @property
    def is_of_this_version(self) -> bool:
        """Whether this interpreter has what it breaks."""
        now = sys.version_info[:2]
        return not (self.since and now < version(self.since)) and not (
            self.before and now >= version(self.before)
        )

    @property
    def only_weakens_an_ordering(self) -> bool:
        """Whether it differs in memory orderings alone, which only the sanitizer can see."""
        orders = re.compile(
            r"NS_(ACQUIRE|RELEASE|RELAXED|SEQ_CST|CHANNEL_READ|CHANNEL_PASS)|memory_order_\w+"
        )
        return orders.sub("", self.find) == orders.sub("", self.replace)

    def text(self) -> str:
        """The text of the file with the mutant applied."""
        home = {"core": CORE, "extension": NATIVE, "python": PACKAGE}[self.kind]
        text = source_in(home, self.file).read_text()
        if text.count(self.find) != self.times:
            raise SystemExit(
                f"mutants: '{self.name}': its text is {text.count(self.find)} times in {self.file}, "
                f"not {self.times}: bring tests/mutants up to date"
            )
        return text.replace(self.find, self.replace)


def is_there(test: str) -> bool:
    """Whether this pytest test exists; `test` is a file, file::name or file::name[parameter]."""
    file, _, name = test.partition("[")[0].partition("::")
    path = ROOT / "tests" / file
    return path.exists() and (not name or f"\ndef {name}(" in path.read_text())


def read(names: list[str]) -> list[Mutant]:
    mutants = []
    for path in sorted(DATA.glob("*.toml")):
        data = tomllib.loads(path.read_text())
        defaults = {key: value for key, value in data.items() if key != "mutant"}
        mutants += [Mutant(**{**defaults, **entry}) for entry in data["mutant"]]
    titles = [f"{m.file} {m.name}" for m in mutants]
    assert len(set(titles)) == len(titles), "two mutants have one name"
    for mutant in mutants:  # before hours of work: do the data fit the sources and the tests?
        mutant.text()
        for test in mutant.tests:
            if mutant.kind != "core" and not is_there(test):
                raise SystemExit(f"mutants: '{mutant.name}': there is no test {test}")
    return [
        m for m in mutants if not names or any(n in f"{m.kind} {m.file} {m.name}" for n in names)
    ]


def included(test: str) -> set[str]:
    """The sources that a test includes, to run code between their steps; they are not linked again."""
    text = (TESTS / f"test_{test}.c").read_text()
    return {Path(name).name for name in re.findall(r'^#include "(\S+\.c)"', text, re.MULTILINE)}


class Compiler:
    """Compiles the core and a test; each unchanged file only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[tuple[object, ...], Path] = {}
        self.locks: dict[tuple[object, ...], threading.Lock] = {}
        self.lock = threading.Lock()

    def program(self, test: str, build: Build, core: Path, mutant: Mutant | None) -> Path:
        changed = mutant.file if mutant else ""
        parts = included(test)
        futex = [] if mutant and mutant.portable else ["-DNS_PARK_FUTEX"]
        sources = [*sorted(core.rglob("*.c")), TESTS / f"test_{test}.c"]
        objects = []
        for source in sources:
            if source.name in parts:
                continue
            is_test = source.parent == TESTS
            own = changed == source.name or (is_test and changed in parts) or changed.endswith(".h")
            home = core if own else CORE
            file = source if own or is_test else CORE / source.relative_to(core)
            objects.append(self.compiled(file, home, (*build.flags, *futex), core if own else None))
        program = core / f"{test}-{build.name.replace(' ', '-')}"
        self.cc("-o", program, *objects, *FLAGS, *build.flags)
        return program

    def compiled(self, source: Path, home: Path, flags: tuple[str, ...], own: Path | None) -> Path:
        key = (source.name, flags, own)
        with self.lock:
            lock = self.locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self.objects:
                where = own or self.folder
                out = where / f"{source.stem}-{abs(hash(flags)):x}.o"
                self.cc("-c", "-o", out, source, f"-I{home}", *FLAGS, *flags)
                self.objects[key] = out
            return self.objects[key]

    def cc(self, *arguments: object) -> None:
        command = [*os.environ.get("CC", "cc").split(), *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"mutants: {' '.join(command)}\n{done.stderr}")


def still(pid: int) -> tuple[int, ...] | None:
    """The number of context switches of each thread; None if one of them is running."""
    counts = []
    try:
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            status = (task / "status").read_text()
            if "State:\tS" not in status:
                return None
            counts += [int(n) for n in re.findall(r"ctxt_switches:\t(\d+)", status)]
    except OSError:
        return None
    return tuple(counts)


def wait_for(process: subprocess.Popen[bytes], limit: float) -> bool:
    """Wait until a test of the core ends, and return True; False if it hangs."""
    begin = quiet_since = time.monotonic()
    before: tuple[int, ...] | None = None
    while process.poll() is None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        time.sleep(0.02)
        now = time.monotonic()
        switches = still(process.pid)
        if switches is None or switches != before:
            quiet_since = now
        before = switches
        # All threads sleep, and none has run for much longer than any test sleeps.
        if now - quiet_since > 4 or now - begin > limit:
            return False
    return True


def run(program: Path, limit: float) -> str:
    """Run a test of the core; return how it failed, or an empty string."""
    command = [str(program)]
    if shutil.which("setarch"):
        command[:0] = ["setarch", "--addr-no-randomize"]
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
        try:
            ended = wait_for(process, limit)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not ended:
            return "hang"
        if process.returncode == 0:
            return ""
        output.seek(0)
        text = output.read()
        if "check failed:" in text:
            return "check"
        return "race" if "WARNING: ThreadSanitizer" in text else "crash"


def kill(mutant: Mutant, compiler: Compiler, limits: dict[tuple[str, str], float]) -> str:
    """Run the tests on the mutant; return what killed it, or an empty string."""
    with tempfile.TemporaryDirectory(dir=compiler.folder) as folder:
        core = Path(folder) / "core"
        shutil.copytree(CORE, core)
        source_in(core, mutant.file).write_text(mutant.text())
        builds = BUILDS
        if mutant.only_weakens_an_ordering:
            builds = [build for build in BUILDS if build.sanitized]
        for build in builds:
            for test in mutant.tests:
                program = compiler.program(test, build, core, mutant)
                how = run(program, limits[test, build.name])
                if how:
                    return f"{how} ({test}; {build.name})"
    return ""


class Extensions:
    """Runs mutants of the extension and of Python code, in a copy of the package for each worker."""

    def __init__(self, folder: Path, copies: int, tests: dict[str, set[str]]) -> None:
        self.trees: SimpleQueue[Tree] = SimpleQueue()
        for n in range(copies):
            self.trees.put(Tree(folder / f"tree-{n}"))
        tree = self.trees.get()
        begin = time.monotonic()
        for backend, names in tests.items():
            how = tree.run(sorted(names), 1200, backend) if names else ""
            if how:
                raise SystemExit(f"mutants: without any, a test ({backend}) fails by a {how}")
        self.limit = 20 + time.monotonic() - begin  # seconds for the tests of one mutant
        self.trees.put(tree)

    def kill(self, mutant: Mutant) -> str:
        """Run the tests on the mutant; return what killed it, or an empty string."""
        tree = self.trees.get()
        try:
            with tree.changed(mutant.file, mutant.text()):
                return tree.run(mutant.tests, self.limit, mutant.backend)
        except BuildError as error:
            if interrupted.is_set():  # the Ctrl-C ended the build
                raise
            # The data are wrong: a hole, and no reason to stop.
            print(error)
            mutant.survives = mutant.chance = ""
            return ""
        finally:
            self.trees.put(tree)


def baseline(tests: set[str], compiler: Compiler) -> dict[tuple[str, str], float]:
    """Check that the unbroken core passes in all builds; return time limits for the mutants."""
    core = compiler.folder / "unbroken"
    shutil.copytree(CORE, core)
    limits = {}
    for build in BUILDS:
        for test in sorted(tests):
            program = compiler.program(test, build, core, None)
            begin = time.monotonic()
            how = run(program, UNBROKEN)
            if how:
                raise SystemExit(f"mutants: without any, {test} fails by a {how} ({build.name})")
            limits[test, build.name] = 20 + 5 * (time.monotonic() - begin)
    return limits


def table(mutants: list[Mutant], results: dict[int, str]) -> None:
    how = ["check", "race", "hang", "crash"]
    print(
        f"\n{'':20}{'mutants':>9}{'killed':>8}   by{how[0]:>6}",
        *(f"{h:>6}" for h in how[1:]),
        "  survive",
    )
    rows = {m.file for m in mutants}
    for file in [*sorted(rows), ""]:
        of = [m for m in mutants if m.file == file or not file]
        got = [results[id(m)].split(" ")[0] for m in of]
        counts = [got.count(h) for h in how]
        print(
            f"{file or 'all':20}{len(of):9}{sum(counts):8}     {counts[0]:6}",
            *(f"{c:6}" for c in counts[1:]),
            f"{got.count(''):9}",
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev mutants", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        help="only mutants with this in their kind (core, extension or python), file or name",
    )
    parser.add_argument("--list", action="store_true", help="name them and stop")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    mutants = read(options.names)
    if not mutants:
        parser.error(f"no mutant has one of these in its kind, file or name: {options.names}")
    if options.list:
        for mutant in mutants:
            print(
                f"{mutant.file:18} {mutant.name}"
                + (" (survives, explained)" if mutant.survives else "")
                + (f" ({mutant.versions})" if mutant.versions else "")
            )
        return 0
    for mutant in [each for each in mutants if not each.is_of_this_version]:
        mutants.remove(mutant)
        print(f"{mutant.file:18} {mutant.name:58} left out: {mutant.versions}", flush=True)
    results: dict[int, str] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        compiler = Compiler(Path(folder))
        tests: dict[str, set[str]] = {"core": set(), "native": set(), "threading": set()}
        for mutant in mutants:
            tests["core" if mutant.kind == "core" else mutant.backend] |= set(mutant.tests)
        limits = baseline(tests.pop("core"), compiler)
        extensions = None
        if any(tests.values()):
            extensions = Extensions(Path(folder), options.jobs, tests)

        def one(mutant: Mutant) -> None:
            how = results[id(mutant)] = (
                extensions.kill(mutant)
                if mutant.kind != "core" and extensions
                else kill(mutant, compiler, limits)
            )
            if how:
                verdict = how + (
                    ": but the data say that it cannot be noticed" if mutant.survives else ""
                )
            else:
                reason = mutant.survives or mutant.chance
                verdict = f"survives: {reason}" if reason else "SURVIVES"
            print(f"{mutant.file:18} {mutant.name:58} {verdict}", flush=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            try:
                for _ in pool.map(one, mutants):
                    pass
            except KeyboardInterrupt:
                interrupted.set()
                raise
    table(mutants, results)
    survivors = [m for m in mutants if not results[id(m)]]
    holes = [m for m in survivors if not m.survives and not m.chance]
    wrong = [m for m in mutants if results[id(m)] and m.survives]
    print(
        f"\n{len(mutants)} mutants in {time.monotonic() - begin:.0f} s: "
        f"{sum(map(bool, results.values()))} killed, "
        f"{len(survivors) - len(holes)} survive for a reason in the data, {len(holes)} survive without one"
    )
    return 1 if holes or wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
