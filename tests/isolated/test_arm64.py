"""The core's machine code for arm64, by a cross-compiler; and what `./dev test --arch` says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulated
import pytest
from marks import starts_processes

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "arm64_code.py"
GCC = "aarch64-linux-gnu-gcc"

pytestmark = [
    starts_processes,
    pytest.mark.skipif("NOGIL_SYNC_BACKEND" in os.environ, reason="no matter of the backend"),
    pytest.mark.skipif(not TOOL.exists(), reason="not run in the source tree"),
]
compiled = pytest.mark.skipif(
    shutil.which(GCC) is None, reason=f"needs a cross-compiler for arm64 ({GCC})"
)


def look(*options: str, tree: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, tree / "tools" / TOOL.name, *options],
        env={k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"},
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the tool needs of the tree, to be changed."""
    for part in ("tools", "tests/c", "nogil_sync/_native/core"):
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


@compiled
@pytest.mark.timeout(1200)
def test_fast_paths_use_the_intended_instructions() -> None:
    done = look()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 findings" in done.stdout


IS_SET = "return ns_event_is_set(e);"

# What a fast path does, what it is changed to, and what the tool then finds.
CHANGES = [
    (IS_SET, "return ns_or(&e->word, 0, NS_SEQ_CST);", "ldsetal is more than it needs"),
    (IS_SET, "return ns_or(&e->word, 0, NS_SEQ_CST);", "ldaxr with stlxr is more than it needs"),
    (IS_SET, "return ns_load(&e->word, NS_RELAXED);", "`Event.is_set`: does not acquire"),
    (IS_SET, f"ns_fence(NS_SEQ_CST); {IS_SET}", "`Event.is_set`: has a barrier"),
    ("ns_epoch_leave(section);", "(void)section;", "epoch: leave: does not release"),
]


@compiled
@pytest.mark.parametrize(("is_now", "becomes", "finding"), CHANGES)
def test_tool_finds_changed_ordering(copy: Path, is_now: str, becomes: str, finding: str) -> None:
    path = copy / "tests" / "c" / "fast_paths.c"
    text = path.read_text()
    assert text.count(is_now) == 1
    path.write_text(text.replace(is_now, becomes))
    done = look("--compiler", "gcc", "--source", "fast_paths", tree=copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert finding in done.stdout


@compiled
def test_tool_finds_barrier_outside_fast_paths(copy: Path) -> None:
    path = copy / "nogil_sync" / "_native" / "core" / "waiting" / "waitq.c"
    path.write_text(
        path.read_text() + "\nvoid added(void);\nvoid added(void) { ns_fence(NS_SEQ_CST); }\n"
    )
    done = look("--compiler", "gcc", "--source", "waitq", tree=copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "dmb ish in added, which comes from added" in done.stdout


def dev(*arguments: str, path: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    dropped = ("NOGIL_SYNC_PYTHON", "PYTHONWARNINGS")
    inherited = {k: v for k, v in os.environ.items() if k not in dropped}
    return subprocess.run(
        [str(ROOT / "dev"), *arguments],
        env=inherited | {"PATH": path, "NOGIL_SYNC_CACHE": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("test", emulated.TESTS)
def test_what_is_skipped_under_emulation_exists(test: str) -> None:
    file, function = test.split("::")
    assert f"\ndef {function}(" in (ROOT / "tests" / "contract" / file).read_text()


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="./dev is a script for bash")


@needs_bash
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--arch", "riscv"), "'riscv'"),
        (("--arch",), "''"),
        (("--arch", "arm64", "--leg", "native"), "--arch has legs of its own"),
    ],
)
def test_unknown_options_are_refused(tmp_path: Path, arguments: tuple[str, ...], word: str) -> None:
    done = dev("test", *arguments, path=os.environ["PATH"], cache=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("dev: error: ")
    assert word in line


@pytest.fixture
def without_tools(tmp_path: Path) -> Path:
    """A folder with this machine's programs, but without compiler, emulator and packages."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            link = programs / program.name
            if "aarch64" not in program.name and program.name != "dpkg-query" and not link.exists():
                link.symlink_to(program)
    for name in ("apt-get", "dpkg-query"):
        (programs / name).unlink(missing_ok=True)
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    return programs


@needs_bash
def test_missing_tools_are_named(tmp_path: Path, without_tools: Path) -> None:
    """One line says what to install, and nothing is left."""
    cache = tmp_path / "cache"
    done = dev("test", "--leg", "core-arm64", path=str(without_tools), cache=cache)
    assert done.returncode == 1
    named = next(line for line in done.stdout.splitlines() if line.startswith("core-arm64"))
    assert "not available here" in named
    assert "gcc-aarch64-linux-gnu" in named
    assert not [file for file in cache.rglob("*.ini") if file.is_file()]


@needs_bash
def test_wheels_need_the_tools_before_anything_is_built(
    tmp_path: Path, without_tools: Path
) -> None:
    cache = tmp_path / "cache"
    done = dev("wheels", "--arch", "arm64", path=str(without_tools), cache=cache)
    assert done.returncode == 1
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert last.startswith("dev: error: arm64 needs the Debian packages")
    assert "gcc-aarch64-linux-gnu" in last
    assert {folder.name for folder in cache.iterdir()} <= {"log"}


@needs_bash
def test_emulator_that_moved_is_found_by_an_interpreter_that_was_built_before(
    tmp_path: Path,
) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "python3.13t"
    script.write_text("#!/bin/sh\nexec /nowhere/qemu-aarch64 -L /usr/aarch64-linux-gnu\n")
    commands = f"""
        set -euo pipefail
        . {ROOT}/tools/common.sh
        . {ROOT}/tools/arm64.sh
        arm64_qemu() {{ echo echo; }}
        arm64_libc() {{ echo /libc; }}
        renew_arm64_script {tmp_path} python3.13t
        renew_arm64_script {tmp_path} python3.13t
    """
    subprocess.run(["bash", "-c", commands], check=True, timeout=60)
    (found,) = script.parent.iterdir()
    said = subprocess.run([found, "-V"], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == [
        *("-L", "/libc", "-0", str(script), f"{tmp_path}/emulated/python3.13t", "-V")
    ]
