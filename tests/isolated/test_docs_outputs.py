"""The programs of docs/guide/hangs.md print what the page says, but for numbers."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from marks import starts_processes
from support import FREE_THREADED, NATIVE, TIMEOUT

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "hangs.md"

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not PAGE.is_file(), reason="not run in the source tree"),
]


def programs():
    """The programs of the page, each with its name and the output that the page shows."""
    if PAGE.is_file():
        for name, program, output in re.findall(
            r"^```python\n# file: (\S+)\n(.*?)^```\n\n```text\n(.*?)^```",
            PAGE.read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        ):
            yield pytest.param(name, program, output, id=name)


def without_numbers(text):
    """The text with each number and its unit, and each run of spaces, made one character."""
    text = re.sub(r"\b(0x[0-9a-f]+|[\d.]+( (s|ms|µs))?(?![\w.]))", "#", text)
    text = re.sub(r"worker # and # more", "worker #", text)
    return re.sub(r"[ \t]+", " ", text)


@pytest.mark.parametrize(("name", "program", "output"), list(programs()))
def test_program_of_the_page_prints_what_the_page_shows(tmp_path, name, program, output):
    if "held by worker" in output and FREE_THREADED and not NATIVE:
        pytest.skip("the stack of a thread that runs cannot be read")
    # One line before it, as in the page.
    (tmp_path / name).write_text(f"# file: {name}\n{program}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", name],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Nothing may follow what is left out at the end.
    output = re.sub(r"\.\.\.\n\Z", "...", output)
    printed = done.stdout.replace(f"{tmp_path}{os.sep}", "")
    assert doctest.OutputChecker().check_output(
        without_numbers(output), without_numbers(printed), doctest.ELLIPSIS
    ), printed


def test_page_has_four_programs_with_outputs():
    assert len(list(programs())) == 4
