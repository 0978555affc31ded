"""Files of a release: what they are for, and a local package index that offers them to pip.

Used by the tests of packaging and by ``./dev wheels``.
"""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# The platforms of the wheel without an extension, for standard interpreters. Its ABI tag (abi3) is
# what a free-threaded interpreter does not accept, and a wheel with an ABI must name platforms.
# Elsewhere the sdist is built, which needs no compiler on a standard interpreter.
PURE_PLATFORMS = (
    "macosx_10_9_x86_64",
    "macosx_11_0_arm64",
    "manylinux_2_17_aarch64",
    "manylinux_2_5_x86_64",
    "musllinux_1_1_aarch64",
    "musllinux_1_1_x86_64",
)
PURE_TAG = f"cp311-abi3-{'.'.join(PURE_PLATFORMS)}"


def retagged(wheel: Path, tag: str, folder: Path) -> Path:
    """Put a copy of the wheel with another tag into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = Path(shutil.copy(wheel, folder))
    python, abi, platform = tag.split("-")
    options = (f"--python-tag={python}", f"--abi-tag={abi}", f"--platform-tag={platform}")
    command = (sys.executable, "-m", "wheel", "tags", "--remove", *options, str(copy))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return folder / done.stdout.split()[-1]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(files: Iterable[Path], folder: Path) -> Iterator[str]:
    """Serve an index (PEP 503) in the folder that holds these files; yield its address."""
    page = folder / "simple" / "nogil-sync"
    page.mkdir(parents=True)
    (folder / "files").mkdir()
    links = []
    for file in files:
        shutil.copy(file, folder / "files")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        link = f"../../files/{file.name}#sha256={digest}"
        links.append(f'<a href="{link}" data-requires-python="&gt;=3.11">{file.name}</a><br>\n')
    (page / "index.html").write_text(
        f"<!DOCTYPE html><html><body>\n{''.join(links)}</body></html>\n"
    )
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/simple/"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Installed:
    """What pip has installed: the wheel's tags, the backend that it has, and pip's output."""

    tags: list[str]
    native: bool
    output: str

    @property
    def origin(self) -> str:
        """Where it is from: a wheel of the index, or built from the sdist."""
        return "built" if any("-linux_" in tag for tag in self.tags) else "wheel"


def install(
    python: str | Path,
    index: str,
    target: Path,
    cache: Path,
    *options: str,
    pip: str | Path = sys.executable,
    **environment: str,
) -> Installed:
    """Have pip install nogil_sync from the index, and from nowhere else, for this interpreter.

    ``pip`` is an interpreter that has pip. Packages are built without isolation, by the tools that
    the interpreter finds.
    """
    # No setting of the user or the machine: one may name further indexes.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    command = (
        *(pip, "-m", "pip", "--python", python, "--disable-pip-version-check", "install"),
        *("--target", target, "--index-url", index, "--cache-dir", cache, "--no-deps"),
        *("--no-build-isolation", "--no-compile", *options, "nogil_sync"),
    )
    done = subprocess.run(
        list(map(str, command)),
        env=inherited | {"PIP_CONFIG_FILE": os.devnull} | environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout)
    (wheel,) = target.glob("nogil_sync-*.dist-info/WHEEL")
    lines = wheel.read_text().splitlines()
    return Installed(
        [line.removeprefix("Tag: ") for line in lines if line.startswith("Tag: ")],
        any(target.glob("nogil_sync/_native/_core*")),
        done.stdout,
    )


# What an interpreter tells of itself; it needs no package for that.
_ABOUT = """
import json, sys, sysconfig
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
print(json.dumps(["%d.%d" % sys.version_info[:2], free_threaded]))
"""


def about(python: str | Path) -> tuple[str, bool]:
    """Return the interpreter's version, and whether it is free-threaded."""
    done = subprocess.run(
        [str(python), "-c", _ABOUT], check=True, stdout=subprocess.PIPE, text=True
    )
    version, free_threaded = json.loads(done.stdout)
    return version, free_threaded


def members(wheel: Path) -> set[str]:
    """Return the names of the wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())
