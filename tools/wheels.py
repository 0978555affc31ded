"""Build the sdist and all wheels of a release, and check them: `./dev wheels`.

The files reach dist/ only after all checks have passed: the packaging checks, an import of each wheel in a fresh
environment, and, with each interpreter, the choice that pip makes from an index of all the files.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

import package_index  # noqa: E402
import readme  # noqa: E402

OUT = ROOT / "dist"
EMULATED = ", arm64 (emulated)"
PURE = "--config-settings=setup-args=-Dnative=disabled"

# Run by an interpreter for another machine, under emulation. meson and the compiler are this machine's.
CROSS_BUILD = """
import os, sys
source, folder, cross_file = sys.argv[1:]
os.chdir(source)
sys.path.insert(0, "tools")
import build_backend
# The linker leaves out the symbols: this machine's strip knows no files of another.
settings = [f"--cross-file={cross_file}", "-Dc_link_args=-s"]
build_backend.build_wheel(folder, {"setup-args": settings})
"""

SMOKE = """
import sys, nogil_sync
from importlib.metadata import version
assert version("nogil_sync") == nogil_sync.__version__
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
print(nogil_sync.backend, "with the GIL" if gil else "without the GIL")
"""

# The environment has no prometheus_client: the module is there, and says what it needs.
INTEGRATIONS = """
import nogil_sync.integrations
try:
    import nogil_sync.integrations.prometheus
except ImportError as error:
    assert "nogil_sync[prometheus]" in str(error), error
else:
    raise AssertionError("imported without what it needs")
"""


def step(text):
    print(f"wheels: {text}", file=sys.stderr, flush=True)


def run(*command, cwd="/", **environment):
    """Run a command; if it fails, show what it printed and end."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nwheels: error: {' '.join(map(str, command))} failed")
    return done.stdout


def tool(module, *arguments, **options):
    return run(sys.executable, "-m", module, *arguments, **options)


def by(python):
    """The search path with which this interpreter's own tools are found."""
    return f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"


def built(python, sdist, folder, *settings, **environment):
    """The wheel that this interpreter builds of the sdist."""
    folder.mkdir()
    run(
        *(
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "wheel",
            "--no-cache-dir",
            "--no-deps",
        ),
        *("--no-build-isolation", *settings, "--wheel-dir", folder, sdist),
        PATH=by(python),
        **environment,
    )
    (wheel,) = folder.iterdir()
    return wheel


def cross_built(emulated, python, cross_file, sdist, folder):
    """The wheel for the machine of an emulated interpreter.

    `python` is an interpreter of the same version for this machine; its build tools serve both.
    """
    unpacked, out = folder / "source", folder / "wheel"
    unpacked.mkdir(parents=True)
    out.mkdir()
    run("tar", "-x", "-C", unpacked, "-f", sdist)
    (source,) = unpacked.iterdir()
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    run(
        *(emulated, "-c", CROSS_BUILD, source, out, cross_file),
        PATH=by(python),
        PYTHONPATH=run(python, "-c", query).strip(),
    )
    (wheel,) = out.iterdir()
    return wheel


def repaired(wheel, folder, *options):
    """The wheel with the oldest manylinux tag that its symbols allow."""
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, folder))
    before = set(folder.iterdir())
    tool("auditwheel", "repair", *options, "--wheel-dir", folder, wheel)
    (new,) = set(folder.iterdir()) - before
    return new


def fresh(python, home):
    run(python, "-m", "venv", "--without-pip", "--clear", home)
    return home / "bin" / "python"


def smoke(python, wheel, home, *, pip=None, remark=""):
    """Install the wheel into a fresh environment, import it and run the README's program there.

    `pip` is another interpreter, whose pip does it if this one has none.
    """
    inside = fresh(python, home)
    pip = (pip or python, "-m", "pip", "--disable-pip-version-check", "--python", inside)
    run(*pip, "install", "--no-index", "--no-deps", wheel)
    run(*pip, "check")
    said = run(inside, "-P", "-c", SMOKE).strip()
    version, free_threaded = package_index.about(python)
    assert said == ("native without the GIL" if free_threaded else "threading with the GIL"), said
    run(inside, "-P", "-c", program())
    run(inside, "-P", "-c", INTEGRATIONS)
    name = f"{version}{'t' * free_threaded}{remark}"
    step(f"{name}: installs, imports ({said}) and runs the README's program")


def program():
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )[0]


def checked(files, pure):
    tool("twine", "check", "--strict", *files)
    step("twine check --strict: passed")
    wheels = [file for file in files if file.suffix == ".whl"]
    tool("check_wheel_contents", "--config", ROOT / "pyproject.toml", *wheels)
    step("check-wheel-contents: passed")
    # Only this one has the tag of the stable ABI, and nothing in it can break that.
    tool("abi3audit", "--strict", pure)
    assert not [name for name in package_index.members(pure) if name.endswith((".so", ".pyd"))]
    step("abi3audit: passed")


def choices(interpreters, emulated, files, folder):
    """What pip takes on each interpreter: a table.

    `emulated` are interpreters for another machine, each with one whose pip can be used.
    """
    # Which build of a version is first with a warm cache is what matters: a standard one.
    interpreters = sorted(interpreters, key=package_index.about)
    rows = [("interpreter", "whole index", "only the sdist", "the same, with a warm cache")]
    with (
        package_index.serving(files, folder / "whole") as whole,
        package_index.serving([f for f in files if f.suffix != ".whl"], folder / "sdist") as sdist,
    ):
        for python in interpreters:
            version, free_threaded = package_index.about(python)
            name = version + "t" * free_threaded
            row = [name]
            for number, index in enumerate((whole, sdist, sdist)):
                # Without a compiler, unless the extension has to be built.
                building = free_threaded and number == 1
                variables = {"CFLAGS": "-O0"} if building else {"CC": "/bin/false"}
                taken = package_index.install(
                    python,
                    index,
                    folder / f"{name}-{number}",
                    folder / "cache",
                    pip=python,
                    PATH=by(python),
                    **variables,
                )
                assert taken.native is free_threaded, (name, index, taken)
                backend = "native" if taken.native else "pure"
                tag = min(taken.tags)
                source = "the wheel" if taken.origin == "wheel" else "builds the sdist"
                if number == 2:
                    assert "cached" in taken.output.lower()
                    source = "what it built"
                row.append(f"{source} {'-'.join(tag.split('-')[:2])}: {backend}")
            rows.append(tuple(row))
            step(f"pip's choice on {name} is as it should be")
        for number, (python, pip) in enumerate(emulated):
            version, free_threaded = package_index.about(python)
            name = f"{version}{'t' * free_threaded}{EMULATED}"
            target = folder / f"emulated-{number}"
            taken = package_index.install(
                python, whole, target, folder / "cache", pip=pip, CC="/bin/false"
            )
            assert taken.native is free_threaded, (name, taken)
            tag = "-".join(min(taken.tags).split("-")[:2])
            # To build under emulation would take too long.
            rows.append((name, f"the wheel {tag}: native", "not tried", "not tried"))
            step(f"pip's choice on {name} is as it should be")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print(
            "|", " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), "|"
        )


def delivered(files):
    """Replace what an earlier run left in `dist` by these files; a Ctrl-C meanwhile is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("nogil_sync-*"):
        old.unlink()
    for file in files:
        shutil.copy(file, OUT)
    signal.signal(signal.SIGINT, before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    option = {"action": "append", "default": [], "metavar": "PYTHON"}
    parser.add_argument(
        "--native", help="a free-threaded interpreter with the build tools", **option
    )
    parser.add_argument("--standard", help="a standard one with the build tools", **option)
    parser.add_argument(
        "--emulated",
        nargs=3,
        metavar=("PYTHON", "TOOLS", "CROSS_FILE"),
        action="append",
        default=[],
        help="an interpreter for another machine, one of this machine of the same version with the "
        "build tools, and meson's cross file",
    )
    arguments = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nogil_sync-wheels-") as name:
        work = Path(name)
        stage = work / "dist"
        stage.mkdir()
        tool("build", "--sdist", "--no-isolation", "--outdir", stage, ROOT)
        (sdist,) = stage.iterdir()
        # What the index shows; the wheels are built of it.
        version = sdist.name.removesuffix(".tar.gz").partition("-")[2]
        readme.convert(sdist, readme.repository(), f"v{version}")
        step(f"built {sdist.name}")
        wheels = []
        for python in arguments.native:
            raw = built(python, sdist, work / f"raw-{len(wheels)}")
            wheels.append(repaired(raw, stage, "--strip"))
            step(f"built {wheels[-1].name}")
        others = []
        for number, (emulated, python, cross_file) in enumerate(arguments.emulated):
            raw = cross_built(emulated, python, cross_file, sdist, work / f"cross-{number}")
            others.append((emulated, python, repaired(raw, stage)))
            step(f"built {others[-1][-1].name}")
        raw = built(sys.executable, sdist, work / "pure", PURE, CC="/bin/false")
        pure = package_index.retagged(raw, package_index.PURE_TAG, stage)
        step(f"built {pure.name}")

        files = sorted(stage.iterdir())
        checked(files, pure)
        for number, (python, wheel) in enumerate(
            [
                *zip(arguments.native, wheels, strict=True),
                *((python, pure) for python in arguments.standard),
            ]
        ):
            smoke(python, wheel, work / f"env-{number}")
        for number, (emulated, python, wheel) in enumerate(others):
            smoke(emulated, wheel, work / f"emulated-{number}", pip=python, remark=EMULATED)
        choices(
            [*arguments.standard, *arguments.native],
            [(emulated, python) for emulated, python, _ in others],
            files,
            work / "choices",
        )

        delivered(files)
    step(f"{len(files)} files in {OUT}, in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        step("interrupted: dist/ is as it was")
        sys.exit(130)
