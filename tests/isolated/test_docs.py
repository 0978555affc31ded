"""The documentation: its code runs, its links lead somewhere, it leaves out no public name."""

import re
import runpy
import tarfile
from pathlib import Path

import pytest
from marks import starts_processes
from processes import python

import nogil_sync
from nogil_sync import diagnostics

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
README = ROOT / "README.md"
# Texts that are read where they lie, with relative links.
TEXTS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name / "README.md" for name in ("examples", "perf")),
    *(DOCS / page for page in PAGES),
]

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not DOCS.is_dir(), reason="not run in the source tree"),
]


def fenced(kind, text):
    """The contents of the text's blocks of that kind."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def programs():
    """The files that have code, each with its blocks in order."""
    for path in (README, *(DOCS / page for page in PAGES)):
        if blocks := fenced("python", path.read_text()):
            yield pytest.param("\n".join(blocks), id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("program", list(programs()))
def test_code_of_a_page_runs_from_top_to_bottom(program):
    done = python(program, options=("-W", "ignore:This process:DeprecationWarning"))
    assert done.stderr == ""


def test_tour_ends_when_a_task_fails():
    (tour,) = fenced("python", (DOCS / "tour.md").read_text())
    failing, count = re.subn(
        r"^    return sum.*log.*$", '    raise OSError("disk full")', tour, flags=re.MULTILINE
    )
    assert count == 1
    done = python(failing, check=False)
    assert done.returncode == 1
    assert "OSError: disk full" in done.stderr
    assert "Cancelled" not in done.stderr


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
        for tree in fenced("{toctree}", (DOCS / page).read_text()):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(Path(page).parent / name).as_posix() for name in names}
    assert listed == {page.removesuffix(".md") for page in PAGES}


def links(text):
    """Where the links and pictures of a text in Markdown lead, without the names of headings."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", prose, re.MULTILINE)
    return [(inline or defined).partition("#")[0] for inline, defined in found]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(path):
    inside = [link for link in links(path.read_text()) if link and ":" not in link]
    assert [link for link in inside if not (path.parent / link).exists()] == []


def test_readme_defines_each_link_and_uses_each_definition():
    text = README.read_text()
    used = re.findall(r"\]\[([^\]]+)\]", text)
    defined = re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE)
    assert sorted(set(used)) == defined


@pytest.mark.parametrize("repository", ["", "https://example.invalid/owner/name/"])
def test_readme_for_a_package_index_has_no_relative_link(repository):
    if all(":" in link for link in links(README.read_text())):
        pytest.skip("this tree is a release's sdist: its README is that of an index")
    convert = runpy.run_path(str(ROOT / "tools" / "readme.py"))["for_an_index"]
    text = convert(README.read_text(), repository, "v1.2")
    assert fenced("python", text) == fenced("python", README.read_text())
    where = links(text)
    assert all(link.startswith("https://") for link in where)
    if repository:
        assert "https://example.invalid/owner/name/blob/v1.2/docs/tutorial.md" in where
        assert "https://example.invalid/owner/name/raw/v1.2/docs/scaling.svg" in where
    assert ("Each panel" in text) is bool(repository)  # the caption goes with its picture
    assert "tutorial" in text
    assert "][" not in text or repository


def test_sdist_gets_the_readme_of_a_package_index(tmp_path):
    tool = runpy.run_path(str(ROOT / "tools" / "readme.py"))
    files = {
        "README.md": "See [the guide](docs/guide.md).\n",
        "PKG-INFO": "Name: x\n\nSee [the guide](docs/guide.md).\n",
        "docs/guide.md": "[Back](../README.md)\n",
    }
    for name, text in files.items():
        (tmp_path / "x-1.0" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x-1.0" / name).write_text(text)
    sdist = tmp_path / "x-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(tmp_path / "x-1.0", "x-1.0")
    tool["convert"](sdist, "https://example.invalid/x", "v1.0")
    with tarfile.open(sdist) as archive:
        read = {name: archive.extractfile(f"x-1.0/{name}").read().decode() for name in files}
    link = "See [the guide](https://example.invalid/x/blob/v1.0/docs/guide.md).\n"
    assert read["README.md"] == link
    assert read["PKG-INFO"] == f"Name: x\n\n{link}"
    assert read["docs/guide.md"] == files["docs/guide.md"]


@pytest.mark.parametrize(
    ("status", "info", "expected"),
    [
        ("working", "", "alive"),
        ("redirected", "https://example.invalid/new", "moved"),
        ("broken", "404 Client Error: Not Found for url: https://example.invalid/", "dead"),
        ("broken", "410 Client Error: Gone for url: https://example.invalid/", "dead"),
        ("broken", "Anchor 'usage' not found", "dead"),
        ("broken", "403 Client Error: Forbidden for url: https://example.invalid/", "not asked"),
        ("broken", "429 Client Error: Too Many Requests for url: x", "not asked"),
        ("broken", "503 Server Error: Service Unavailable for url: x", "not asked"),
        ("broken", "HTTPSConnectionPool: Max retries exceeded (NameResolutionError)", "not asked"),
        ("timeout", "HTTPSConnectionPool: Read timed out.", "not asked"),
    ],
)
def test_link_is_dead_only_if_its_host_says_so(status, info, expected):
    judged = runpy.run_path(str(ROOT / "tools" / "links.py"))["judged"]
    link = {"filename": "a.md", "lineno": 3, "status": status, "info": info, "uri": "https://x"}
    assert {verdict: len(found) for verdict, found in judged([link]).items() if found} == {
        expected: 1
    }
