"""Building and installing as users do, in copies of the tree and environments of their own."""

import contextlib
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import package_index
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
    copy_tree(copy)
    git = ("git", "-C", copy, "-c", "user.name=test", "-c", "user.email=test@example.invalid")
    run(*git, "init", "--quiet")
    run(*git, "add", "--all")
    run(*git, "-c", "commit.gpgsign=false", "commit", "--quiet", "--message=all")
    return copy


@pytest.fixture(scope="module")
def archive(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    # No compiler is needed to make it on a standard interpreter, whatever CC says.
    return build_sdist(checkout, tmp_path_factory.mktemp("archive"), **without_compiler())


@pytest.fixture(scope="module")
def sdist(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    return unpacked(archive, tmp_path_factory.mktemp("sdist"))


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


def copy_tree(copy: Path) -> None:
    """Copy what builds need into a folder."""
    for name in ("nogil_sync", "tests/c", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "build_backend.py", copy / "tools")
    for name in ("pyproject.toml", "meson.build", "meson.options", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)


def build_sdist(tree: Path, folder: Path, **variables: str) -> Path:
    build = (
        "import os, sys; os.chdir(sys.argv[1]); sys.path.insert(0, 'tools'); "
        "import build_backend; build_backend.build_sdist(sys.argv[2])"
    )
    run(sys.executable, "-c", build, tree, folder, **variables)
    (built,) = folder.glob("*.tar.gz")
    return built


def unpacked(archive: Path, folder: Path) -> Path:
    run("tar", "-x", "-C", folder, "-f", archive)
    (tree,) = folder.iterdir()
    return tree


def build_wheel(source: Path, folder: Path, *options: str, **variables: str) -> Path:
    run(*PIP, "wheel", *WITHOUT_ISOLATION, *options, "--wheel-dir", folder, source, **variables)
    (built,) = folder.glob("*.whl")
    return built


def install(python: Path, *what: str | Path, **variables: str) -> None:
    run(*PIP, "--python", python, "install", *what, **variables)


def report(python: Path, **variables: str) -> tuple[str, bool, Path]:
    backend, gil, file = run(python, "-P", "-c", REPORT, **variables).strip().split("|")
    return backend, gil == "True", Path(file)


def listed(archive: Path) -> list[str]:
    """Return the names of an sdist's files."""
    with tarfile.open(archive) as files:
        return sorted(member.name for member in files if member.isfile())


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith("nogil_sync/")}


def test_sdist_holds_what_a_build_needs(checkout: Path, sdist: Path) -> None:
    for path in ("LICENSE", "README.md", "meson.options", "nogil_sync/_native", "tests/c"):
        assert (sdist / path).exists()
    sources = {path.relative_to(checkout) for path in (checkout / "nogil_sync").rglob("*.[chp]*")}
    sources |= {path.relative_to(checkout) for path in (checkout / "examples").iterdir()}
    assert sources <= {path.relative_to(sdist) for path in sdist.rglob("*")}


def test_sdist_of_a_tree_without_git_is_the_same(
    archive: Path, sdist: Path, tmp_path: Path
) -> None:
    # As an archive from a website, and as the unpacked sdist itself, which others patch.
    tree = tmp_path / "tree"
    tree.mkdir()
    copy_tree(tree)
    (tmp_path / "built").mkdir()
    built = build_sdist(tree, tmp_path / "built", **without_compiler())
    assert listed(built) == listed(archive)
    (tmp_path / "again").mkdir()
    again = build_sdist(sdist, tmp_path / "again", **without_compiler())
    assert listed(again) == listed(archive)


def test_wheel_holds_the_package_and_no_sources(wheel: Path) -> None:
    held = names(wheel)
    for folder in map("nogil_sync{}".format, ("", "/_common", "/_threading", "/integrations")):
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
def test_standard_wheel_needs_no_compiler_and_no_free_threaded_interpreter_takes_it(
    wheel: Path,
) -> None:
    # pip's cache has one folder for both builds of a version: py3-none-any would do for both.
    *_, python, abi, platform = wheel.stem.split("-")
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert (python, abi) == (version, version)
    assert platform != "any"
    assert f"{python}-{abi}-linux_x86_64" not in accepted(VERSION + "t")


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
    assert not any("_native/" in name for name in names(pure))
    python = environment()
    install(python, "--no-index", pure)
    attempt = "try: import nogil_sync\nexcept ImportError as error: print('ImportError:', error)"
    said = run(python, "-P", "-c", attempt)
    assert said.startswith("ImportError: ")
    assert "C compiler" in said
    assert "NOGIL_SYNC_BACKEND=threading" in said
    backend, gil, _ = report(python, NOGIL_SYNC_BACKEND="threading")
    assert (backend, gil) == ("threading", False)
    # To build it once more would not help where the tree hides what is installed.
    said = run(python, "-P", "-c", attempt, PYTHONPATH=str(checkout))
    assert said.startswith("ImportError: this nogil_sync is the source tree")
    assert "another folder" in said


@free_threaded
def test_missing_compiler_is_named_with_what_installs_it(sdist: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for needed in ("env", "git", "meson", "ninja", "sh"):
        (tmp_path / "bin" / needed).symlink_to(str(shutil.which(needed)))
    command = ("env", "-u", "CC", *PIP, "wheel", *WITHOUT_ISOLATION, sdist)
    with pytest.raises(AssertionError) as failed:
        run(*command, PATH=str(tmp_path / "bin"))
    said = str(failed.value)
    assert "no working C compiler was found" in said
    assert "apt-get install gcc libc6-dev" in said


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


# ---- What pip takes ----

VERSION = "{}.{}".format(*sys.version_info)
THIS = VERSION + ("t" if FREE_THREADED else "")
INTERPRETERS = [
    *("3.11", "3.12", "3.13", "3.14", "3.15", "3.16"),
    *("3.13t", "3.14t", "3.15t", "3.16t"),
]
RELEASED = ("3.13t", "3.14t", "3.15t")  # those that have a wheel with the extension


def native_tag(version: str, platform: str = "manylinux_2_5_x86_64") -> str:
    digits = version.rstrip("t").replace(".", "")
    return f"cp{digits}-cp{digits}t-{platform}"


def accepted(name: str, machine: str = "x86_64", oldest: str = "2_5") -> list[str]:
    """Return the tags that pip on this interpreter accepts on Linux, best first."""
    tags = pytest.importorskip("packaging.tags")
    version = tuple(map(int, name.rstrip("t").split(".")))
    abi = f"cp{version[0]}{version[1]}{'t' * name.endswith('t')}"
    platforms = [f"manylinux_{glibc}_{machine}" for glibc in ("2_36", oldest)]
    platforms.append(f"linux_{machine}")
    own = tags.cpython_tags(version, [abi], platforms)
    rest = tags.compatible_tags(version, f"cp{version[0]}{version[1]}", platforms)
    return [str(tag) for tag in (*own, *rest)]


def tags_of(name: str) -> set[str]:
    tags = pytest.importorskip("packaging.tags")
    return {str(tag) for tag in tags.parse_tag(name)}


@pytest.mark.parametrize(("machine", "oldest"), [("x86_64", "2_5"), ("aarch64", "2_17")])
@pytest.mark.parametrize("name", INTERPRETERS)
def test_tags_give_each_interpreter_its_own_backend(name: str, machine: str, oldest: str) -> None:
    natives = {
        (version, other): native_tag(version, f"manylinux_2_36_{other}")
        for version in RELEASED
        for other in ("x86_64", "aarch64")
    }
    offered = [package_index.PURE_TAG, *natives.values()]
    taken = [tag for tag in offered if tags_of(tag) & set(accepted(name, machine, oldest))]
    if not name.endswith("t"):
        assert taken == [package_index.PURE_TAG]
    else:
        # A version without a wheel of its own builds the sdist.
        assert taken == ([natives[name, machine]] if name in RELEASED else [])


@pytest.mark.parametrize("name", RELEASED)
def test_free_threaded_interpreters_accept_wheels_for_any_platform(name: str) -> None:
    # Whatever such a wheel names besides. So ours has an ABI tag, which needs platforms.
    digits = name.rstrip("t").replace(".", "")
    assert {"py3-none-any", f"cp{digits}-none-any"} <= set(accepted(name))


@pytest.fixture(scope="module")
def offers(
    sdist: Path, archive: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """All files of a release.  Of those that another interpreter is to take the tags matter."""
    folder = tmp_path_factory.mktemp("offers")
    pure = wheel
    if FREE_THREADED:
        setting = "--config-settings=setup-args=-Dnative=disabled"
        pure = build_wheel(sdist, folder / "pure", setting, CC="/bin/false")
    offered = {"sdist": archive}
    machine = platform.machine()
    offered["pure"] = package_index.retagged(pure, package_index.PURE_TAG, folder)
    for name in RELEASED:
        source = wheel if name == THIS else pure
        tag = native_tag(name, f"manylinux_{glibc()}_{machine}")
        offered[name] = package_index.retagged(source, tag, folder)
    return offered


def glibc() -> str:
    """Return the C library's version as manylinux tags have it: that of this machine."""
    name, version = platform.libc_ver()
    if name != "glibc":
        pytest.skip("the tags are those of Linux with glibc")
    return version.replace(".", "_")


@pytest.fixture
def take(
    environment: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[..., package_index.Installed]]:
    """Have pip take nogil_sync from an index of these files; one cache serves all calls."""
    python = environment(tools=True)
    # What is cached goes by the address that it came from.
    addresses: dict[tuple[Path, ...], str] = {}
    count = itertools.count()

    with contextlib.ExitStack() as indices:

        def install(
            files: Iterable[Path], *options: str, by: str | Path = python, **variables: str
        ) -> package_index.Installed:
            offered = tuple(files)
            if offered not in addresses:
                index = package_index.serving(offered, tmp_path / f"index-{len(addresses)}")
                addresses[offered] = indices.enter_context(index)
            target = tmp_path / f"target-{next(count)}"
            cache = tmp_path / "cache"
            return package_index.install(
                by, addresses[offered], target, cache, *options, **(QUICK | variables)
            )

        yield install


def standard_of_this_version() -> str | None:
    """Return a standard interpreter that shares its folder of pip's cache with this one."""
    home = Path(os.environ.get("NOGIL_SYNC_CACHE", "~/.cache/nogil_sync")).expanduser()
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    named = shutil.which(f"python{VERSION}")
    candidates = [
        *([Path(named)] if named else []),
        *pyenv.glob(f"versions/{VERSION}*/bin/python3"),
        *home.glob(f"python/{VERSION}*-standard/bin/python3"),
    ]
    for candidate in candidates:
        # What a version manager has on PATH may fail.
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            if package_index.about(candidate) == (VERSION, False):
                return str(candidate)
    return None


def test_pip_takes_the_wheel_for_this_interpreter(
    offers: dict[str, Path], take: Callable[..., package_index.Installed]
) -> None:
    wanted = offers[THIS if FREE_THREADED else "pure"]
    for _ in ("with an empty cache", "with a warm one"):
        taken = take(offers.values(), CC="/bin/false")
        assert taken.native is FREE_THREADED
        assert {*taken.tags} == tags_of("-".join(wanted.stem.split("-")[-3:]))


@free_threaded
def test_pip_builds_the_extension_where_the_index_has_no_wheel_for_it(
    offers: dict[str, Path], take: Callable[..., package_index.Installed]
) -> None:
    others = [file for name, file in offers.items() if name != THIS]
    partner = standard_of_this_version()
    if partner:
        # What a standard interpreter has built lies in pip's cache, in the folder for this version.
        options = ("--no-binary", "nogil_sync")
        tools = str(Path(mesonpy.__file__).parents[1])
        built = take(others, *options, by=partner, CC="/bin/false", PYTHONPATH=tools)
        assert (built.native, built.origin) == (False, "built")
    taken = take(others)
    assert (taken.native, taken.origin) == (True, "built")
    again = take(others, CC="/bin/false")
    assert (again.native, again.origin) == (True, "built")
    assert "cached" in again.output.lower()


@free_threaded
def test_interrupted_release_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while it builds: one line, no folder, and what `dist` had stays."""
    modules, temporary = tmp_path / "modules", tmp_path / "temporary"
    modules.mkdir()
    temporary.mkdir()
    begun = tmp_path / "begun"
    (modules / "build.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(600)\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    with subprocess.Popen(
        [sys.executable, ROOT / "tools" / "wheels.py"],
        env=inherited | {"PYTHONPATH": str(modules), "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "wheels: interrupted: dist/ is as it was\n"
    assert not list(temporary.iterdir())
