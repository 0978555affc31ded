"""Runs the tests of other libraries with and without our classes in place of threading's.

    ./dev python tools/outside_suites.py [--list] [NAME...]

outside_suites.toml lists the libraries and their versions.  For each one the source distribution (for its tests) and an
environment are made once, in the cache.  The suite runs unchanged, and then with Mutex, Cond, Semaphore and Event in
place of `threading`'s Lock, Condition, Semaphore, BoundedSemaphore and Event, from before the first import, also in
subprocesses.  (RLock stays: our locks are not reentrant.)  An entry may name other classes or values that ours stand in
for: `stand_ins`.  A test that failed only with ours is run again by itself, both ways.

Exit status: 1 if a test fails each time with ours and never without, or a run with ours did not end; else 2 if a suite
could not be had.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import nogil_sync

HERE = Path(__file__).resolve().parent
STAND_INS = HERE.parent / "tests" / "outside" / "stand_ins.py"
CACHE = Path(
    os.environ.get("NOGIL_SYNC_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "nogil_sync")
)
AGAIN = 3

# Each interpreter of an environment runs this at start-up.
START = """\
import os
if os.environ.get("NOGIL_SYNC_STAND_INS"):
    import nogil_sync_stand_ins
    nogil_sync_stand_ins.install(os.environ["NOGIL_SYNC_STAND_INS"])
"""

# A pytest plugin that writes each result to a file at once, so that a crash loses no results.
PLUGIN = """\
import json, os, sys, threading

FILE = os.environ["NOGIL_SYNC_RESULTS"]
MAIN = os.getpid()

def write(**entry):
    if os.getpid() == MAIN:  # not in the children that tests fork
        with open(FILE, "a") as file:
            file.write(json.dumps(entry) + "\\n")

def pytest_sessionstart(session):
    installed = getattr(sys.modules.get("nogil_sync_stand_ins"), "installed", "")
    write(lock=repr(threading.Lock), installed=installed)

def pytest_runtest_logstart(nodeid, location):
    write(begins=nodeid)

def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        write(test=report.nodeid, outcome=report.outcome, text=str(report.longrepr or "")[-3000:])

def pytest_collectreport(report):
    if report.outcome == "failed":
        write(test=report.nodeid, outcome="failed", text=str(report.longrepr or "")[-3000:])

def pytest_sessionfinish(session, exitstatus):
    write(end=int(exitstatus), gil=getattr(sys, "_is_gil_enabled", lambda: True)())
"""


class UnavailableError(Exception):
    """A suite that cannot be had here; the text says why."""


@dataclass
class Suite:
    name: str
    version: str
    tests: list[str]
    minutes: float
    needs: list[str] = field(default_factory=list)
    skips: str = ""
    env: dict[str, str] = field(default_factory=dict)
    stand_ins: str = "threading"
    library: str = ""  # if it is not the name

    @property
    def requirement(self) -> str:
        return f"{self.library or self.name}=={self.version}"


@dataclass
class Run:
    outcomes: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    lock: str = ""
    installed: str = ""
    last: str = ""  # the test that was running at the end
    ended: bool = False
    gil: bool = True
    seconds: float = 0.0
    output: str = ""

    def those(self, outcome: str) -> set[str]:
        return {test for test, found in self.outcomes.items() if found == outcome}


def say(text: str) -> None:
    print(text, flush=True)


def command(*words: object, env: dict[str, str] | None = None, minutes: float = 10) -> None:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=minutes * 60,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        raise UnavailableError("\n    ".join([f"{words[1:5]} failed:", *lines[-6:]]))


def source(suite: Suite) -> Path:
    """The unpacked source distribution."""
    folder = CACHE / "suites" / "sources"
    folder.mkdir(parents=True, exist_ok=True)

    def found(pattern: str) -> Path | None:
        wanted = suite.requirement.replace("==", "-").replace(".", "_").replace("-", "_").lower()
        for path in folder.glob(pattern):
            name = path.name.removesuffix(".tar.gz")
            if name.replace(".", "_").replace("-", "_").lower() == wanted:
                return path
        return None

    if tree := found("*[0-9]"):
        return tree
    if not found("*.tar.gz"):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-binary",
            suite.library or suite.name,
        ]
        command(*pip, "--dest", folder, suite.requirement, env=suite.env)
    archive = found("*.tar.gz")
    if archive is None:
        raise UnavailableError("it has no source distribution")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    if tree := found("*[0-9]"):
        return tree
    raise UnavailableError(f"{archive.name} unpacks to another name")


def environment(suite: Suite) -> Path:
    """The environment with the library and what its tests need."""
    what = [sys.executable, sys.version, suite.requirement, *suite.needs, PLUGIN, START]
    version = sysconfig.get_python_version() + (sysconfig.get_config_var("abiflags") or "")
    key = hashlib.sha256("\0".join(what).encode()).hexdigest()[:8]
    home = CACHE / "suites" / f"{suite.name}-{suite.version}-{version}-{key}"
    python = home / "bin" / "python"
    if not (home / ".complete").exists():
        base = Path(sys.base_prefix, "bin", Path(sys.executable).resolve().name)
        command(base, "-m", "venv", "--clear", home)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--prefer-binary"]
        packages = [suite.requirement, *suite.needs, "pytest", "pytest-timeout"]
        command(*pip, *packages, env=suite.env, minutes=15)
        (home / ".complete").touch()
    return home


def prepare(home: Path) -> None:
    """Lay this tree's package and the stand-ins into the environment."""
    version = f"python{sysconfig.get_python_version()}"
    site = next((home / "lib").glob(f"{version}*")) / "site-packages"
    package = Path(nogil_sync.__file__).parent
    if not any((package / "_native").glob("_core.*")) and nogil_sync.backend == "native":
        raise SystemExit("run it by ./dev python, which has the package installed")
    link = site / "nogil_sync"
    link.unlink(missing_ok=True)
    link.symlink_to(package)
    (site / "nogil_sync_stand_ins.py").write_text(STAND_INS.read_text())
    (site / "nogil_sync_results.py").write_text(PLUGIN)
    (site / "nogil_sync_start.py").write_text(START)
    (site / "nogil_sync_start.pth").write_text("import nogil_sync_start\n")


def run(suite: Suite, home: Path, tree: Path, *, ours: bool, tests: list[str] | None = None) -> Run:
    results = home / "results"
    results.unlink(missing_ok=True)
    env = {**os.environ, **suite.env, "NOGIL_SYNC_RESULTS": str(results), "PYTHONFAULTHANDLER": "1"}
    env["NOGIL_SYNC_STAND_INS"] = suite.stand_ins if ours else ""
    for name in ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONWARNINGS"):
        env.pop(name, None)
    env["PATH"] = f"{home / 'bin'}{os.pathsep}{env['PATH']}"
    arguments = ["-q", "-o", "addopts=", "-p", "nogil_sync_results", "-p", "no:cacheprovider"]
    arguments += ["--timeout=60", "--timeout-method=signal"]
    # New deprecation warnings do not matter here, and some suites turn them into errors.
    for warning in ("DeprecationWarning", "pytest.PytestUnknownMarkWarning"):
        arguments += ["-W", f"ignore::{warning}"]
    selected = suite.tests
    if tests is not None:
        # Keep the options; `tests` replaces the files.
        options = [word for word in suite.tests if word.startswith("-") and "=" in word]
        options += [
            word
            for at, word in enumerate(suite.tests)
            if word == "-p" or suite.tests[at - 1] == "-p"
        ]
        selected = [*options, *tests]
    output = home / "output"
    begin = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            [home / "bin" / "python", "-m", "pytest", *arguments, *selected],
            cwd=tree,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(suite.minutes * 60)
        except subprocess.TimeoutExpired:
            # Shows all stacks, then ends.
            os.killpg(process.pid, signal.SIGABRT)
            process.wait()
        finally:
            try:  # end processes that the tests left running
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    found = Run(seconds=time.monotonic() - begin, output=output.read_text(errors="replace"))
    for line in results.read_text().splitlines() if results.exists() else ():
        entry = json.loads(line)
        found.lock = entry.get("lock", found.lock)
        found.installed = entry.get("installed", found.installed)
        found.last = entry.get("begins", found.last)
        if "end" in entry:
            found.ended, found.gil = True, entry["gil"]
        if "test" in entry and found.outcomes.get(entry["test"]) != "failed":
            found.outcomes[entry["test"]] = entry["outcome"]
            found.texts[entry["test"]] = entry["text"]
    return found


def compare(suite: Suite) -> tuple[str, int]:
    """Run both ways and print what differs; return a line of the summary and the exit status."""
    tree = source(suite)
    home = environment(suite)
    prepare(home)
    without = run(suite, home, tree, ours=False)
    if not without.outcomes or not any(without.those("passed")):
        tail = "\n    ".join(without.output.splitlines()[-8:])
        raise UnavailableError(f"no test passes here:\n    {tail}")
    within = run(suite, home, tree, ours=True)
    if within.lock:
        assert within.installed == suite.stand_ins, within.installed
        assert suite.stand_ins != "threading" or "nogil_sync" in within.lock, within.lock
    status = 0
    lines = []
    for which, each in (("without ours", without), ("with ours", within)):
        say(
            f"  {which:12} {len(each.those('passed'))} passed, {len(each.those('failed'))} failed, "
            f"{len(each.those('skipped'))} skipped in {each.seconds:.0f} s"
            + (
                ""
                if each.gil == without.gil and not (each.gil and nogil_sync.backend == "native")
                else "; the GIL was on"
            )
            + ("" if each.ended else f"; DID NOT END, in {each.last}")
        )
        if not each.ended:
            say("    " + "\n    ".join(each.output.splitlines()[-40:]))
    if not within.ended:
        status = 1 if without.ended else 2
        lines.append("did not end" if without.ended else "does not end either way")
    only = sorted(
        test
        for test in within.those("failed") - without.those("failed")
        if within.ended or test in without.outcomes
    )
    always = []
    for test in only:
        pairs = [
            ("failed" in run(suite, home, tree, ours=ours, tests=[test]).outcomes.values())
            for ours in (True, False) * AGAIN
        ]
        ours, theirs = sum(pairs[::2]), sum(pairs[1::2])
        say(
            f"  only with ours: {test}: when run again, {ours} of {AGAIN} with and {theirs} of {AGAIN} without ours"
        )
        say("      " + "\n      ".join(within.texts[test].splitlines()[-25:]))
        if ours == AGAIN and not theirs:
            always.append(test)
    for test in sorted(without.those("failed") - within.those("failed")):
        if test in within.outcomes:
            say(f"  only without ours: {test}")
    if always:
        status = 1
    both = without.those("passed") & within.those("passed")
    lines.append(
        f"{len(both)} pass both ways, {len(without.those('failed') & within.those('failed'))} fail both ways, "
        f"{len(only)} failed only with ours, {len(always)} of them each time"
    )
    return "; ".join(lines), status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--list", action="store_true", help="the libraries, and what of them is left out"
    )
    arguments = parser.parse_args()
    data = tomllib.loads((HERE / "outside_suites.toml").read_text())
    suites = {name: Suite(name, **entry) for name, entry in data.items()}
    if unknown := set(arguments.names) - set(suites):
        parser.error(
            f"no such library: {', '.join(sorted(unknown))} (there are: {', '.join(suites)})"
        )
    if arguments.list:
        for suite in suites.values():
            say(
                f"{suite.requirement:28} {('without ' + suite.skips) if suite.skips else ''}".rstrip()
            )
        return 0
    say(
        f"{sys.version.split()[0]}{sysconfig.get_config_var('abiflags')}, {nogil_sync.backend} backend"
    )
    # A shell starts background jobs with SIGINT ignored. Tests that wait for one would hang.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    summary, worst = [], 0
    for name in arguments.names or suites:
        stand_ins = suites[name].stand_ins
        of = "" if stand_ins == "threading" else f", with ours for its {stand_ins}"
        say(f"== {suites[name].requirement}{of}")
        try:
            line, status = compare(suites[name])
        except (UnavailableError, subprocess.TimeoutExpired) as error:
            line, status = f"could not be had: {str(error).splitlines()[0]}", 2
            say(f"  could not be had: {error}")
        summary.append(f"{suites[name].requirement + of:28} {line}")
        worst = 1 if 1 in (status, worst) else max(status, worst)
    say("== summary\n" + "\n".join(summary))
    return worst


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
