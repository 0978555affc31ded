"""The documentation: the code on its pages runs, and the reference leaves out no public name."""

import re
from pathlib import Path

import pytest
from marks import starts_processes
from processes import python

import nogil_sync
from nogil_sync import diagnostics

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))

pytestmark = starts_processes


def fenced(kind, page):
    """The texts of the page's blocks of that kind."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def programs():
    """The pages that have code, each with its blocks in order."""
    for page in PAGES:
        blocks = re.findall(
            r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
        )
        if blocks:
            yield pytest.param("\n".join(blocks), id=page)


@pytest.mark.parametrize("program", list(programs()))
def test_code_of_a_page_runs_from_top_to_bottom(program):
    done = python(program, options=("-W", "ignore:This process:DeprecationWarning"))
    assert done.stderr == ""


def test_reference_has_every_public_name():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    listed = re.findall(r"^\.\. auto\w+:: nogil_sync\.(\w+)(?:\(\*args\))?$", text, re.MULTILINE)
    assert sorted(listed) == sorted({*nogil_sync.__all__} - {"backend"})


def test_reference_has_every_name_of_diagnostics():
    text = (DOCS / "reference" / "diagnostics.md").read_text()
    listed = re.findall(r"^\.\. auto\w+:: nogil_sync\.diagnostics\.(\w+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(diagnostics.__all__)


def test_every_page_is_in_a_table_of_contents():
    listed = {"index"}
    for page in PAGES:
        for tree in re.findall(
            r"^```{toctree}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
        ):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(Path(page).parent / name).as_posix() for name in names}
    assert listed == {page.removesuffix(".md") for page in PAGES}
