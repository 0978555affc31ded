"""Runs a program under qemu-x86_64 with the plugin of this folder, and reads what that wrote."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("plugin.c")
ROOT = Path(__file__).resolve().parents[2]
EMULATOR = "qemu-x86_64"

# The phases of a measured thread: see plugin.c.
WARM_UP, FEW, MANY, COMPANY = range(4)


class UnavailableError(Exception):
    """What is missing on this machine."""


@dataclass
class Phase:
    """What the measured threads did in one phase, all together."""

    instructions: int = 0
    accesses: int = 0
    transfers: int = 0
    upgrades: int = 0
    ticks: int = 0


@dataclass(frozen=True)
class Site:
    """An access to a line that another thread had written or read, and how often it was made.

    `written` is the address that the other thread wrote last.
    """

    phase: int
    upgrade: bool
    pc: int
    address: int
    written: int
    count: int


@dataclass
class Counts:
    """A report of the plugin."""

    threads: int = 0
    phases: list[Phase] = field(default_factory=lambda: [Phase() for _ in range(4)])
    sites: list[Site] = field(default_factory=list)


def cache_folder() -> Path:
    """The folder that ./dev uses."""
    named = os.environ.get("NOGIL_SYNC_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nogil_sync"
    return (Path(named) if named else base) / "transfers"


def built(name: str, sources: list[Path], depends: list[Path], options: list[str]) -> Path:
    """What the compiler makes of these sources, in the cache, by their text."""
    compiler = os.environ.get("CC") or "cc"
    if shutil.which(compiler) is None:
        raise UnavailableError(f"a C compiler is needed, and {compiler} is not a command")
    texts = b"".join(path.read_bytes() for path in (*sources, *depends))
    program = cache_folder() / f"{name}-{hashlib.sha256(texts).hexdigest()[:12]}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        stage = program.with_suffix(f".{os.getpid()}")
        command = [compiler, "-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", *options]
        subprocess.run([*command, "-o", str(stage), *map(str, sources), "-lpthread"], check=True)
        stage.rename(program)
    return program


@cache
def plugin() -> Path:
    """The plugin."""
    return built("plugin.so", [SOURCE], [], ["-fPIC", "-shared", "-fvisibility=hidden"])


@cache
def core_program() -> Path:
    """The program that measures the C core alone."""
    tests, core = ROOT / "tests" / "c", ROOT / "nogil_sync" / "_native" / "core"
    options = ["-D_GNU_SOURCE", "-DNS_PARK_FUTEX", "-DNDEBUG", f"-I{core}", f"-I{tests}"]
    sources = [tests / "transfers.c", *sorted(core.rglob("*.c"))]
    return built("core", sources, [tests / "harness.h", *sorted(core.rglob("*.h"))], options)


@cache
def fixed_layout() -> list[str]:
    """A prefix for commands whose addresses should be the same in each run, where that can be."""
    prefix = ["setarch", "--addr-no-randomize"]
    try:
        done = subprocess.run([*prefix, "true"], check=False, stderr=subprocess.DEVNULL)
    except OSError:
        return []
    return prefix if done.returncode == 0 else []


def emulated(command: list[str], report: Path, **options: int) -> list[str]:
    """The command that runs this one, counted."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise UnavailableError("transfers are counted on Linux on x86-64 only")
    for program, package in ((EMULATOR, "qemu-user"), ("nm", "binutils")):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not here (on Debian it comes with {package})")
    plug = ",".join([str(plugin()), f"out={report}", *(f"{k}={v}" for k, v in options.items())])
    return [*fixed_layout(), EMULATOR, "-plugin", plug, *command]


def read_report(report: Path) -> Counts:
    """What the plugin wrote when the program asked for it."""
    counts = Counts()
    with report.open() as lines:
        for line in lines:
            kind, first, *rest = line.split()
            if kind == "thread":
                which, *numbers = map(int, rest)
                counts.threads = max(counts.threads, int(first) + 1)
                phase = counts.phases[which]
                phase.instructions += numbers[0]
                phase.accesses += numbers[1]
                phase.transfers += numbers[2]
                phase.upgrades += numbers[3]
                phase.ticks += numbers[4]
            else:
                pc, address, written = (int(each, 16) for each in rest[:3])
                site = Site(int(first), kind == "upgrade", pc, address, written, int(rest[3]))
                counts.sites.append(site)
    return counts
