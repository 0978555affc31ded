"""Mutants of the extension: each is built as the extension is, and run against a few tests of pytest."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "nogil_sync" / "_native"
TESTS = ROOT / "tests"

ONE_TEST = 40  # seconds, after which it hangs; most take a small part of one


def source_in(folder: Path, name: str) -> Path:
    """The file of that name, in whichever folder below."""
    (path,) = folder.rglob(name)
    return path


class BuildError(SystemExit):
    """What meson wrote."""


class Tree:
    """A copy of the package with a build folder of its own, which compiles again only what changed."""

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
        """Build, and leave the extension where the copy is imported from."""
        self.meson("compile", "-C", self.build_folder)
        native = Path("nogil_sync", "_native")
        for extension in (self.build_folder / native).glob("_core.*.so"):
            shutil.copy(extension, self.folder / native)

    @contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """With that text in the file."""
        path = source_in(self.folder / "nogil_sync" / "_native", file)
        before = path.read_text()
        path.write_text(text)
        try:
            self.build()
            yield
        finally:
            path.write_text(before)

    def run(self, tests: Iterable[str], limit: float) -> str:
        """How a test failed, or nothing."""
        environment = {
            **{name: v for name, v in os.environ.items() if name != "NOGIL_SYNC_BACKEND"},
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
                status = process.wait(limit)
            except subprocess.TimeoutExpired:  # pytest cannot end threads that never let go
                return "hang"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            text = output.read()
        # A wrong name of a test, or tests of something else, would tell nothing.
        if status == 4 and "while loading conftest" in text:
            return "crash (at its import)"
        if status in (4, 5) or (status == 0 and "nogil_sync: native" not in text):
            raise SystemExit(f"mutants: {' '.join(command)}\n{text}")
        if status == 0:
            return ""
        seen = re.findall(r"^(?:FAILED |ERROR )?tests/(\S+::\w+)", text, re.MULTILINE)
        last = seen[-1] if seen else "before any test"
        if "+ Timeout +" in text or "hanging: [" in text:
            return f"hang ({last})"
        return f"check ({last})" if status in (1, 2) else f"crash ({last})"
