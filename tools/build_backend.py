"""The build backend: meson-python, and sdists of trees that git does not know."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import mesonpy
from mesonpy import (  # noqa: F401  (what frontends call)
    build_editable,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

# What builds and tools leave in a tree, and what an sdist adds to it.
LEFT_OUT = (".git", ".mesonpy-*", ".venv", "__pycache__", "PKG-INFO")


def build_sdist(sdist_directory, config_settings=None):
    """Archive what git has committed, or else all files of the tree.

    meson-python can only do the first: an unpacked archive, say, has no history. The tree is then committed to a
    repository that exists only for the moment.
    """
    if shutil.which("git") is None:
        raise SystemExit("error: git makes the sdist, and is not installed here")
    if in_git():
        return mesonpy.build_sdist(sdist_directory, config_settings)
    target = Path(sdist_directory).absolute()
    with tempfile.TemporaryDirectory(prefix="nogil_sync-sdist-") as folder:
        copy = Path(folder, "tree")
        shutil.copytree(".", copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        commit(copy)
        with contextlib.chdir(copy):
            return mesonpy.build_sdist(target, config_settings)


def in_git():
    """Whether git has this tree's files: a repository further up may not."""
    known = subprocess.run(
        ("git", "ls-files", "--error-unmatch", "meson.build"), capture_output=True, check=False
    )
    return known.returncode == 0


def commit(tree):
    """Commit all files, but those that .gitignore names, whatever the user's settings are."""
    settings = {
        "user.name": "nogil_sync",
        "user.email": "nogil_sync@example.invalid",
        "commit.gpgsign": "false",
        "core.hooksPath": os.devnull,
        "core.autocrlf": "false",
    }
    git = ["git", *(word for item in settings.items() for word in ("-c", "=".join(item)))]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    for command in ("init --quiet", "add --all", "commit --quiet --message=sdist"):
        subprocess.run([*git, *command.split()], cwd=tree, env=environment, check=True)
