"""Building and installing as users do, in copies of the tree and environments of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

mesonpy = pytest.importorskip("mesonpy", reason="needs the build tools")

ROOT = Path(__file__).parents[2]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

free_threaded = pytest.mark.skipif(not FREE_THREADED, reason="of free-threaded interpreters")
standard = pytest.mark.skipif(FREE_THREADED, reason="of standard interpreters")
pytestmark = [
    pytest.mark.thread_unsafe,
    pytest.mark.timeout(600),
    pytest.mark.skipif("NOGIL_SYNC_BACKEND" in os.environ, reason="no matter of the backend"),
    pytest.mark.skipif(not (ROOT / "meson.build").exists(), reason="not run in the source tree"),
    pytest.mark.skipif(shutil.which("git") is None, reason="an sdist is made by git"),
]

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
WITHOUT_ISOLATION = ("--no-build-isolation", "--no-deps")

# How the compiler optimizes is no matter here, and takes it more than half of its time.
QUICK = {"CFLAGS": os.environ.get("CFLAGS", "") + " -O0"}

# What an import reports, independent of the environment and the working directory.
REPORT = """
import sys, nogil_sync
assert nogil_sync.AtomicInt64(1).add(1) == 2
assert not nogil_sync.Mutex().locked()
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
print(nogil_sync.backend, gil, nogil_sync.__file__, sep="|")
"""


def run(*command: str | Path, **environment: str) -> str:
    """Run a command with these additions to the environment; return what it printed."""
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | QUICK | environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with all that the tree holds now committed: builds leave the tree itself alone."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("nogil_sync", "tests/c", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "meson.build", "meson.options", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    git = ("git", "-C", copy, "-c", "user.name=test", "-c", "user.email=test@example.invalid")
    run(*git, "init", "--quiet")
    run(*git, "add", "--all")
    run(*git, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=all")
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    build = "import os, sys, mesonpy; os.chdir(sys.argv[1]); mesonpy.build_sdist(sys.argv[2])"
    # No compiler is needed to make it on a standard interpreter, whatever CC says.
    run(sys.executable, "-c", build, checkout, folder, **without_compiler())
    (archive,) = folder.glob("*.tar.gz")
    run("tar", "-x", "-C", folder, "-f", archive)
    archive.unlink()
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the source distribution."""
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"), **without_compiler())


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make an empty environment and return its interpreter; `tools`: it sees the build tools."""

    def make(*, tools: bool = False) -> Path:
        home = tmp_path / "env"
        run(sys.executable, "-m", "venv", "--without-pip", home)
        python = home / "bin" / "python"
        if tools:
            query = "import sysconfig; print(sysconfig.get_path('purelib'))"
            site = Path(run(python, "-c", query).strip())
            (site / "tools.pth").write_text(str(Path(mesonpy.__file__).parents[1]))
        return python

    yield make
    shutil.rmtree(tmp_path, ignore_errors=True)


def without_compiler() -> dict[str, str]:
    """Return the variables that leave a build without compiler where it must not need one."""
    return {} if FREE_THREADED else {"CC": "/bin/false"}


def build_wheel(source: Path, folder: Path, *options: str, **variables: str) -> Path:
    run(*PIP, "wheel", *WITHOUT_ISOLATION, *options, "--wheel-dir", folder, source, **variables)
    (built,) = folder.glob("*.whl")
    return built


def install(python: Path, *what: str | Path, **variables: str) -> None:
    run(*PIP, "--python", python, "install", *what, **variables)


def report(python: Path, **variables: str) -> tuple[str, bool, Path]:
    backend, gil, file = run(python, "-P", "-c", REPORT, **variables).strip().split("|")
    return backend, gil == "True", Path(file)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith("nogil_sync/")}


def test_sdist_holds_what_a_build_needs(checkout: Path, sdist: Path) -> None:
    for path in ("LICENSE", "README.md", "meson.options", "nogil_sync/_native", "tests/c"):
        assert (sdist / path).exists()
    sources = {path.relative_to(checkout) for path in (checkout / "nogil_sync").rglob("*.[chp]*")}
    sources |= {path.relative_to(checkout) for path in (checkout / "examples").iterdir()}
    assert sources <= {path.relative_to(sdist) for path in sdist.rglob("*")}


def test_wheel_holds_the_package_and_no_sources(wheel: Path) -> None:
    held = names(wheel)
    for folder in ("nogil_sync", "nogil_sync/_common", "nogil_sync/_threading"):
        assert {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")} <= held
    assert "nogil_sync/py.typed" in held
    others = {name for name in held if not name.endswith((".py", "/py.typed"))}
    assert all(name.startswith("nogil_sync/_native/_core.") for name in others)
    assert len(others) == FREE_THREADED


@free_threaded
def test_free_threaded_wheel_is_for_this_platform(wheel: Path) -> None:
    *_, python, abi, platform = wheel.stem.split("-")
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert (python, abi) == (version, f"{version}{sys.abiflags}")
    assert platform != "any"


@standard
def test_standard_wheel_is_for_all_and_needs_no_compiler(wheel: Path) -> None:
    assert wheel.stem.endswith("-py3-none-any")


def test_wheel_of_the_sdist_works(wheel: Path, environment: Callable[..., Path]) -> None:
    python = environment()
    install(python, "--no-index", wheel)
    backend, gil, file = report(python)
    assert backend == ("native" if FREE_THREADED else "threading")
    assert gil is not FREE_THREADED
    assert file.is_relative_to(python.parents[1])


def test_pip_install_from_the_tree(checkout: Path, environment: Callable[..., Path]) -> None:
    # The whole way, with build isolation: pip gets the tools that pyproject.toml names.
    python = environment()
    install(python, checkout, **without_compiler())
    backend, gil, file = report(python)
    assert backend == ("native" if FREE_THREADED else "threading")
    assert gil is not FREE_THREADED
    assert file.is_relative_to(python.parents[1])


def test_editable_install(checkout: Path, environment: Callable[..., Path]) -> None:
    python = environment(tools=True)
    install(python, *WITHOUT_ISOLATION, "--editable", checkout, **without_compiler())
    backend, gil, file = report(python)
    assert backend == ("native" if FREE_THREADED else "threading")
    assert gil is not FREE_THREADED
    assert file == checkout / "nogil_sync" / "__init__.py"


@free_threaded
def test_free_threaded_without_the_extension_says_what_to_do(
    checkout: Path, tmp_path: Path, environment: Callable[..., Path]
) -> None:
    pure = build_wheel(
        checkout,
        tmp_path / "wheel",
        "--config-settings=setup-args=-Dnative=disabled",
        CC="/bin/false",
    )
    assert pure.stem.endswith("-py3-none-any")
    python = environment()
    install(python, "--no-index", pure)
    attempt = "try: import nogil_sync\nexcept ImportError as error: print('ImportError:', error)"
    said = run(python, "-P", "-c", attempt)
    assert said.startswith("ImportError: ")
    assert "C compiler" in said
    assert "NOGIL_SYNC_BACKEND=threading" in said
    backend, gil, _ = report(python, NOGIL_SYNC_BACKEND="threading")
    assert (backend, gil) == ("threading", False)


@standard
def test_standard_has_no_native_backend() -> None:
    attempt = "try: import nogil_sync\nexcept ImportError as error: print('ImportError:', error)"
    said = run(sys.executable, "-P", "-c", attempt, NOGIL_SYNC_BACKEND="native")
    assert said.startswith("ImportError: ")
    assert "free-threaded" in said


@free_threaded
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm lists the symbols")
def test_extension_exports_only_its_entry() -> None:
    query = "import nogil_sync._native._core as core; print(core.__file__)"
    extension = run(sys.executable, "-P", "-c", query).strip()
    listed = run("nm", "-g", "--defined-only", extension).split("\n")
    symbols = {line.split()[-1].lstrip("_") for line in listed if line}
    assert symbols - {"init", "fini", "end", "edata", "bss_start"} == {"PyInit__core"}
