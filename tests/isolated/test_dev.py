"""What `./dev` prints about interpreters that it cannot use or get; it builds none here."""

import http.server
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from marks import starts_processes
from support import eventually

ROOT = Path(__file__).parents[2]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
NEWEST = "3.15"
ARCHIVE = "python3.15_3.15.0~rc2.orig.tar.xz"

pytestmark = [
    starts_processes,
    pytest.mark.skipif("NOGIL_SYNC_BACKEND" in os.environ, reason="no matter of the backend"),
    pytest.mark.skipif(not (ROOT / "dev").exists(), reason="not run in the source tree"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="./dev is a script for bash"),
]

Dev = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def dev(tmp_path: Path) -> Dev:
    """Run ./dev where no interpreter, no mirror and no cache is but what the test puts there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apt-get", "uv"):
        script(programs / name, "exit 1")

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        dropped = ("NOGIL_SYNC_PYTHON", "NOGIL_SYNC_PGO", "PYTHONWARNINGS")
        inherited = {k: v for k, v in os.environ.items() if k not in dropped}
        places = {"PATH": f"{programs}:/usr/bin:/bin", "NOGIL_SYNC_CACHE": str(tmp_path / "cache")}
        return subprocess.run(
            [str(ROOT / "dev"), *arguments],
            env=inherited | places | environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def quoted(path: Path | str) -> str:
    """The path in a script for the shell; it may have blanks."""
    return shlex.quote(str(path))


def only_error(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of a command that failed."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("dev: error: ")
    return line


def error_after_steps(done: "subprocess.CompletedProcess[str]") -> str:
    """The same where it says what it does as well."""
    assert done.returncode == 1, done
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    return line


def left(tmp_path: Path) -> list[str]:
    """What is in the cache, but for empty folders and locks."""
    cache = tmp_path / "cache"
    files = [path.relative_to(cache) for path in cache.rglob("*") if path.is_file()]
    return sorted(str(path) for path in files if path.parts[0] != "lock")


VERBS = ["python", "test", "bench", "debug", "sanitize", "leaks", "soak", "stress", "pythons"]


@pytest.mark.parametrize(
    ("name", "verb"),
    [(name, "python") for name in ("3.14", "3.9t", "3", "3.13.5t", "3.13tt")]
    + [("3.12t", verb) for verb in VERBS],
)
def test_unknown_versions_are_refused(dev: Dev, tmp_path: Path, name: str, verb: str) -> None:
    line = only_error(dev("--python", name, verb))
    assert f"'{name}'" in line
    assert "3.13t 3.14t 3.15t" in line
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["/bin/ls", "/bin/false", "/etc/passwd", "/tmp", ".", "./x", "/", "x"]
)
def test_path_that_is_no_interpreter_is_refused(dev: Dev, tmp_path: Path, name: str) -> None:
    line = only_error(dev("--python", name, "python", "-c", "1"))
    assert "is not a program" in line or "is not a Python interpreter" in line
    assert left(tmp_path) == []


def test_interpreter_can_be_named_by_its_own_path(dev: Dev) -> None:
    assert "is not a Python interpreter" in only_error(dev("--python", str(ROOT / "dev"), "python"))


def test_variable_is_read_as_the_option(dev: Dev) -> None:
    assert "'3.12t'" in only_error(dev("python", NOGIL_SYNC_PYTHON="3.12t"))


@pytest.mark.parametrize("arguments", [(), ("",), ("", "python")])
def test_option_without_a_name_is_refused(dev: Dev, arguments: tuple[str, ...]) -> None:
    assert "needs a version or a path" in only_error(dev("--python", *arguments))


@pytest.mark.skipif(FREE_THREADED, reason="of standard interpreters")
def test_standard_interpreter_is_refused(dev: Dev) -> None:
    assert "is a standard Python" in only_error(dev("--python", sys.executable, "test"))


@pytest.mark.skipif(not FREE_THREADED, reason="of free-threaded interpreters")
@pytest.mark.parametrize("lacking", ["Python.h", "ensurepip"])
def test_interpreter_without_a_module_is_refused(dev: Dev, tmp_path: Path, lacking: str) -> None:
    # Like distributions' Python packages that leave a module to another package.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, sysconfig\n"
        + (
            "sysconfig.get_path = lambda name: '/nonexistent'"
            if lacking == "Python.h"
            else "sys.modules['ensurepip'] = None"
        )
    )
    lead = f"PYTHONPATH={quoted(tmp_path)} exec {quoted(sys.executable)}"
    poor = script(tmp_path / "poor", f'{lead} "$@"')
    line = only_error(dev("--python", str(poor), "python", "-c", "1"))
    assert lacking in line
    assert left(tmp_path) == []


nothing_newer = pytest.mark.skipif(
    any(Path(folder, f"python{NEWEST}t").exists() for folder in ("/usr/bin", "/bin")),
    reason="the system has one",
)


@nothing_newer
def test_tampered_source_archive_is_refused(dev: Dev, tmp_path: Path) -> None:
    sources = tmp_path / "cache" / "src"
    sources.mkdir(parents=True)
    (sources / ARCHIVE).write_bytes(b"not what it was")
    line = error_after_steps(dev("--python", f"{NEWEST}t", "python", "-c", "1"))
    assert ARCHIVE in line
    assert "SHA-256" in line
    assert left(tmp_path) == [f"src/{ARCHIVE}"]


@nothing_newer
def test_tampered_archive_of_a_mirror_is_removed(dev: Dev, tmp_path: Path) -> None:
    class Tampered(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not what it was")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tampered) as mirror:
        threading.Thread(target=mirror.serve_forever).start()
        try:
            script(tmp_path / "bin" / "apt-get", f"echo http://127.0.0.1:{mirror.server_port}/x")
            line = error_after_steps(dev("--python", f"{NEWEST}t", "python", "-c", "1"))
        finally:
            mirror.shutdown()
    assert ARCHIVE in line
    if "SHA-256" not in line:
        pytest.skip("there is no helper of apt's to fetch it")
    assert "it was removed" in line
    assert left(tmp_path) == []


@nothing_newer
def test_missing_source_archive_is_an_error(dev: Dev, tmp_path: Path) -> None:
    line = error_after_steps(dev("--python", f"{NEWEST}t", "python", "-c", "1"))
    assert ARCHIVE in line
    assert "--python PATH" in line
    assert left(tmp_path) == []


@nothing_newer
def test_mirror_without_the_archive_is_an_error(dev: Dev, tmp_path: Path) -> None:
    # No server listens there.
    script(tmp_path / "bin" / "apt-get", "echo http://127.0.0.1:9/debian")
    line = error_after_steps(dev("--python", f"{NEWEST}t", "python", "-c", "1"))
    assert ARCHIVE in line
    assert left(tmp_path) == []


@nothing_newer
def test_summary_names_a_leg_that_is_not_available(dev: Dev) -> None:
    done = dev("test", "--leg", f"native-{NEWEST}t")
    assert done.returncode == 1  # as it was asked for by its name
    *_, named, total = done.stdout.splitlines()
    assert named.startswith(f"native-{NEWEST}t")
    assert "not available here" in named
    assert ARCHIVE in named
    assert total == "total: 0 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize("leg", ["nativ", "native-3.12t", "standard-4", ""])
def test_unknown_legs_are_refused(dev: Dev, leg: str) -> None:
    line = only_error(dev("test", "--leg", leg))
    assert f"'{leg}'" in line
    assert "native-3.14t" in line


@pytest.mark.parametrize("verb", ["check", "docs", "wheels", "pythons"])
def test_unknown_arguments_are_refused(dev: Dev, verb: str) -> None:
    assert f"{verb} takes" in only_error(dev(verb, "--wrong"))


def with_cache(cache: str, cwd: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """Run the command after tools/common.sh, in this folder and with this NOGIL_SYNC_CACHE."""
    return subprocess.run(
        ["bash", "-euc", f". {quoted(ROOT / 'tools' / 'common.sh')}; {command}"],
        env=os.environ | {"NOGIL_SYNC_CACHE": cache},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_cache_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = with_cache("file", tmp_path, "locked name echo made")
    assert f"{tmp_path}/file" in only_error(done)


def test_relative_cache_is_the_same_folder_for_a_program_started_elsewhere(tmp_path: Path) -> None:
    done = with_cache("folder", tmp_path, "cd /; printenv NOGIL_SYNC_CACHE")
    assert done.returncode == 0
    assert done.stdout.strip() == f"{tmp_path}/folder"


@pytest.mark.parametrize("tool", ["models.py", "mutants.py"])
def test_name_that_no_model_and_no_mutant_has_is_an_error(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), "no-such-name"]
    environment = {**os.environ, "PYTHONSAFEPATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-name" in done.stderr


def test_verb_tells_its_own_usage(dev: Dev) -> None:
    done = dev("check", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("  check [--fix]")
    assert len(done.stdout.splitlines()) == 1


def test_cache_is_in_the_home_that_the_system_knows_where_none_is_set() -> None:
    command = "unset HOME NOGIL_SYNC_CACHE XDG_CACHE_HOME; . tools/common.sh; echo $CACHE"
    done = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{pwd.getpwuid(os.getuid()).pw_dir}/.cache/nogil_sync"


@nothing_newer
def test_list_names_the_interpreters(dev: Dev) -> None:
    done = dev("pythons")
    assert done.returncode == 0
    listed = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "not here" in listed[f"{NEWEST}t"]
    assert {"3.13t", "3.14t"} <= set(listed)


def interrupted(command: list[str], begun: Path, **environment: str) -> tuple[int, str]:
    """Send the command a Ctrl-C once that file is there; return its status and its output."""
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert eventually(lambda: begun.exists() or process.poll() is not None)
            os.killpg(process.pid, signal.SIGINT)
            said, _ = process.communicate(timeout=60)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said


def test_interrupt_ends_all_legs(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    # Like pytest and mypy, the program in the foreground catches the Ctrl-C.
    catches = tmp_path / "catches.py"
    catches.write_text(f"""
import pathlib, sys, time
try:
    pathlib.Path({str(begun)!r}).touch()
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(2)
""")
    program = f"""
        set -euo pipefail
        for part in common legs; do . tools/$part.sh; done
        leg_first() {{ {quoted(sys.executable)} {quoted(catches)}; }}
        leg_second() {{ echo second; }}
        end_on_interrupt
        run_legs first second --
        echo after
    """
    status, said = interrupted(["bash", "-c", program], begun, NOGIL_SYNC_CACHE=str(tmp_path))
    assert status == 130
    assert said.split() == ["====", "first", "===="]


def test_interrupted_configuration_is_begun_anew(tmp_path: Path) -> None:
    folder, begun = tmp_path / "build", tmp_path / "begun"
    program = f"""
        . tools/common.sh
        configure() {{
            mkdir {quoted(folder)}
            touch {quoted(folder)}/half
            [[ $1 ]] || {{ touch {quoted(begun)}; sleep 60; }}
        }}
    """
    call = f'configured {quoted(folder)} logged configuring configure "$@"; ls {quoted(folder)}'
    places = {"NOGIL_SYNC_CACHE": str(tmp_path)}
    status, said = interrupted(["bash", "-c", program + call, "bash", ""], begun, **places)
    assert (status, said) == (130, "dev: configuring\n")
    assert (folder / "half").exists()
    for _ in range(2):  # the second time it is there
        done = subprocess.run(
            ["bash", "-c", program + call, "bash", "whole"],
            cwd=ROOT,
            env=os.environ | places,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["half"]
    assert (folder / ".configured").exists()


@pytest.mark.skipif(FREE_THREADED, reason="the standard legs are enough")
@pytest.mark.parametrize(("tool", "stand_in"), [("models.py", "spin"), ("mutants.py", "test")])
def test_interrupted_tool_ends_its_children_and_says_nothing(
    tmp_path: Path, tool: str, stand_in: str
) -> None:
    begun = tmp_path / "begun"
    new, place = quoted(f"{begun}.new"), quoted(begun)
    waits = f"echo $$ >{new}; mv {new} {place}; exec sleep 60"
    if stand_in == "test":  # the compiler makes a test that sleeps, in a session of its own
        script(tmp_path / "waits", waits)
        copy = f'cp {quoted(tmp_path)}/waits "$2"'
        script(tmp_path / "cc", f'while [ "$1" != -o ]; do shift; done; {copy}')
    else:
        script(tmp_path / stand_in, waits)
    places = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "tools" / tool), "mutex"]
    status, said = interrupted(command, begun, PYTHONSAFEPATH="", CC="cc", **places)
    assert status == 130
    assert "Traceback" not in said
    assert eventually(lambda: not Path("/proc", begun.read_text().strip()).exists())


def test_bench_refuses_a_name_before_it_measures(dev: Dev) -> None:
    line = only_error(dev("bench", "--python", "3.13t,3.12t"))
    assert "3.12t" in line
    line = only_error(dev("bench", "--python=/nowhere,3.13t"))
    assert "/nowhere" in line
    assert "--python needs" in only_error(dev("bench", "--python"))


@pytest.mark.skipif(not FREE_THREADED, reason="of free-threaded interpreters")
def test_bench_skips_unavailable_interpreters(dev: Dev) -> None:
    done = dev("bench", "--python", f"{NEWEST}t,3.14t")
    assert done.returncode == 1
    steps = done.stderr.splitlines()
    assert f"dev: {NEWEST}t is left out" in steps
    assert "dev: 3.14t is left out" in steps
    assert steps[-1] == f"dev: error: none of these interpreters can be had: {NEWEST}t 3.14t"
