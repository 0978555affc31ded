"""The switch between the backends, and the GIL."""

import importlib.util
import inspect
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from marks import starts_processes
from support import FREE_THREADED, NATIVE

import nogil_sync

pytestmark = starts_processes


def imported(code="", backend=None, package=None):
    """Import nogil_sync in a process of its own, with this backend asked for."""
    env = {k: v for k, v in os.environ.items() if k != "NOGIL_SYNC_BACKEND"}
    if backend is not None:
        env["NOGIL_SYNC_BACKEND"] = backend
    if package is not None:
        env["PYTHONPATH"] = str(package)
    source = "import nogil_sync, sys\n" + code
    return subprocess.run(
        # -S: without site-packages, where an editable install would come first.
        [sys.executable, "-P", *(["-S"] if package else []), "-W", "error", "-c", source],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_backend_is_one_of_two():
    assert nogil_sync.backend in ("native", "threading")
    if not FREE_THREADED:
        assert nogil_sync.backend == "threading"


@pytest.mark.parametrize(
    "name", [n for n in nogil_sync.__all__ if inspect.isclass(getattr(nogil_sync, n))]
)
def test_classes_name_their_home(name):
    cls = getattr(nogil_sync, name)
    assert cls.__module__ == "nogil_sync"
    assert cls.__name__ == cls.__qualname__ == name


def test_forced_threading():
    done = imported("print(nogil_sync.backend, nogil_sync.Mutex.__flags__)", "threading")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "threading"


def test_empty_variable_means_the_default():
    default = imported("print(nogil_sync.backend)")
    empty = imported("print(nogil_sync.backend)", "")
    assert default.stdout == empty.stdout
    assert default.returncode == empty.returncode


def test_native_can_be_required():
    done = imported("print(nogil_sync.backend)", "native")
    if FREE_THREADED and (NATIVE or has_extension()):
        assert done.stdout == "native\n", done.stderr
    else:
        assert done.returncode == 1
        assert "ImportError" in done.stderr
        assert "free-threaded" in done.stderr


def has_extension():
    return importlib.util.find_spec("nogil_sync._native._core") is not None


def test_unknown_backend_raises():
    done = imported("", "quick")
    assert done.returncode == 1
    assert "ImportError: NOGIL_SYNC_BACKEND must be" in done.stderr
    assert "quick" in done.stderr


def copied_without_extension(tmp_path):
    """The package as installed, less its compiled part."""
    home = Path(nogil_sync.__file__).parent
    target = tmp_path / "nogil_sync"
    for source in home.rglob("*.py"):
        copy = target / source.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    return tmp_path


def test_native_without_the_extension_raises(tmp_path):
    package = copied_without_extension(tmp_path)
    done = imported("print(nogil_sync.backend)", package=package)
    if FREE_THREADED:
        assert done.returncode == 1
        assert "ImportError" in done.stderr
        assert "C compiler" in done.stderr
        assert "NOGIL_SYNC_BACKEND=threading" in done.stderr
    else:
        assert done.stdout == "threading\n", done.stderr


def test_forced_threading_needs_no_extension(tmp_path):
    package = copied_without_extension(tmp_path)
    done = imported("print(nogil_sync.backend, nogil_sync.__file__)", "threading", package=package)
    assert done.stdout.split()[0] == "threading", done.stderr
    assert str(tmp_path) in done.stdout


@pytest.mark.skipif(not FREE_THREADED, reason="a standard build always has its GIL")
@pytest.mark.parametrize("backend", ["native", "threading"] if NATIVE else ["threading"])
def test_gil_stays_off_after_import(backend):
    done = imported("print(sys._is_gil_enabled())", backend)
    assert done.stdout == "False\n", done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(not NATIVE, reason="about the extension")
def test_extension_is_loaded_from_the_package():
    from nogil_sync._native import _core

    assert _core.__name__ == "nogil_sync._native._core"
    assert _core.__file__.endswith(sysconfig.get_config_var("EXT_SUFFIX"))
    assert nogil_sync.Mutex is _core.Mutex


def test_import_is_quick_and_light():
    done = imported(
        "heavy = {'asyncio', 'inspect', 'dataclasses', 'logging', 'ctypes'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    if done.returncode == 0:
        assert done.stdout == "[]\n"


def test_package_is_marked_as_typed():
    home = Path(inspect.getfile(nogil_sync)).parent
    assert (home / "py.typed").exists()
