"""Mutants of the extension and of the package's Python code, each run against a few pytest tests.

Those of the extension are built as it is.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nogil_sync"
NATIVE = PACKAGE / "_native"
TESTS = ROOT / "tests"

# Set by the main thread after a Ctrl-C, of which the tests know nothing: they are in sessions of their own.
interrupted = threading.Event()

ONE_TEST = 40  # seconds, after which a test counts as hanging; most take less than one
TIMEOUT = "+ Timeout +"  # what pytest-timeout then writes, before the stacks of all threads
LAST = 1 << 20  # how many bytes at the end of the output are searched for it


def source_in(folder: Path, name: str) -> Path:
    """The file of that name, in any folder below. The name may begin with folders."""
    (path,) = folder.rglob(name) if "/" not in name else [folder / name]
    return path


class BuildError(SystemExit):
    """What meson wrote, or what shows that the build was not whole."""


def wait(process: subprocess.Popen[bytes], output: int, limit: float) -> int | None:
    """Wait until pytest ends, and return its exit status; None if it hangs.

    pytest cannot end threads that never detach: a test that timed out may keep it for ever.
    """
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.5)
        if interrupted.is_set():
            raise KeyboardInterrupt
        # pread leaves the position alone, which is pytest's as well.
        written = os.fstat(output).st_size
        if TIMEOUT.encode() in os.pread(output, LAST, max(0, written - LAST)):
            with suppress(subprocess.TimeoutExpired):
                return process.wait(5)
            return None
    return None


def last_test(text: str) -> str:
    seen = re.findall(r"^(?:FAILED |ERROR )?tests/(\S+::\w+)", text, re.MULTILINE)
    return seen[-1] if seen else "before any test"


class Tree:
    """A copy of the package with its own build folder, where only changed files are compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build_folder = folder / "build"
        folder.mkdir()
        for name in ["meson.build", "meson.options", "nogil_sync", "pyproject.toml"]:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        self.meson("setup", self.build_folder, folder, "-Dbuildtype=release", "-Doptimization=1")
        self.build()

    def meson(self, *arguments: object) -> None:
        command = ["meson", *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"mutants: {' '.join(command)}\n{done.stdout}{done.stderr}")

    def build(self) -> None:
        """Build, and copy the extension to where the tree is imported from."""
        self.meson("compile", "-C", self.build_folder)
        native = Path("nogil_sync", "_native")
        for extension in (self.build_folder / native).glob("_core.*.so"):
            shutil.copy(extension, self.folder / native)

    @contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """Build with that text in the file; put the old text back in the end."""
        is_python = file.endswith(".py")
        home = self.folder / "nogil_sync"
        path = source_in(home if is_python else home / "_native", file)
        before = path.read_text()
        path.write_text(text)
        try:
            if not is_python:
                self.build()
            yield
        finally:
            path.write_text(before)

    def run(self, tests: Iterable[str], limit: float, backend: str = "native") -> str:
        """Run the tests; return how one failed, or an empty string."""
        environment = {
            **{name: v for name, v in os.environ.items() if name != "NOGIL_SYNC_BACKEND"},
            **({} if backend == "native" else {"NOGIL_SYNC_BACKEND": backend}),
            "PYTHONDONTWRITEBYTECODE": "1",  # two mutants may be written in one second
            "PYTHONPATH": str(self.folder),
            "PYTHONSAFEPATH": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONWARNINGS": "error:The global interpreter lock (GIL):RuntimeWarning",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.folder / "hypothesis"),
        }
        command = [sys.executable, "-m", "pytest", "-x", "-v", "-p", "no:cacheprovider"]
        command += [f"--timeout={ONE_TEST}", *(str(TESTS / test) for test in tests)]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = wait(process, output.fileno(), limit)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            text = output.read()
        if status is None:
            return f"hang ({last_test(text)})"
        if "undefined symbol" in text:  # the linker leaves that to the import
            raise BuildError(f"mutants: {' '.join(command)}\n{text}")
        # A wrong name, or another backend, would make the result meaningless.
        if status == 4 and "while loading conftest" in text:
            return "crash (at its import)"
        if status in (4, 5) or (status == 0 and f"nogil_sync: {backend}" not in text):
            raise SystemExit(f"mutants: {' '.join(command)}\n{text}")
        if status == 0:
            return ""
        last = last_test(text)
        if TIMEOUT in text or "hanging: [" in text:
            return f"hang ({last})"
        return f"check ({last})" if status in (1, 2) else f"crash ({last})"
