"""The documentation in a browser: its pages are found, read and searched without an error."""

import fcntl
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import in_browser, needs_browser, opened
from marks import starts_processes

DOCS = Path(__file__).parents[2] / "docs"

PHONE = {"width": 390, "height": 844}

pytestmark = [
    starts_processes,
    needs_browser,
    pytest.mark.skipif(
        not (find_spec("sphinx") and find_spec("furo")),
        reason="needs Sphinx and furo, which the leg `standard` has",
    ),
    pytest.mark.skipif(not DOCS.is_dir(), reason="not run in the source tree"),
]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built pages.  The processes that share the tests share it, too."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    pages = shared / "pages"
    with (shared / "pages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not pages.exists():
            build = ("-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-d")
            done = subprocess.run(
                [sys.executable, "-P", *build, str(shared / "doctrees"), str(DOCS), str(pages)],
                env={**os.environ, "PYTHONWARNINGS": ""},
                cwd=shared,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return str(pages)


def every_page(page):
    """The addresses that the table of contents of the first page leads to."""
    page.goto("index.html")
    links = page.locator(".sidebar-tree a.reference.internal")
    return sorted({link.get_attribute("href").partition("#")[0] for link in links.all()} - {""})


def colours(page):
    """The colours of the text and of its background, each as red + green + blue."""
    return page.evaluate(
        """() => {
            const sum = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => +a + +b, 0);
            const style = getComputedStyle(document.body);
            return [sum(style.color), sum(style.backgroundColor)];
        }"""
    )


def overflow(page):
    """By how many pixels the page is wider than the screen."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


@in_browser
def test_every_page_opens_without_an_error(site):
    with opened(site) as page:
        addresses = every_page(page)
        assert len(addresses) > 25, addresses
        for address in addresses:
            page.goto(address)
            assert page.locator("h1").first.is_visible(), address
            for picture in page.locator("article img").all():
                assert picture.evaluate("image => image.naturalWidth") > 0, address
            for link in page.locator("article a.image-reference").all():
                whole = link.evaluate("link => link.href")
                assert page.request.get(whole).ok, whole


@in_browser
def test_links_lead_from_the_first_page_to_a_class(site):
    with opened(site) as page:
        page.goto("index.html")
        page.locator("article").get_by_role("link", name="tutorial").click()
        assert page.locator("h1").inner_text().startswith("Tutorial")
        page.locator("article").get_by_role("link", name="Choosing an object").click()
        page.locator("article").get_by_role("link", name="Mutex").first.click()
        assert page.locator("h1").inner_text().startswith("Locks")
        assert page.locator("[id='nogil_sync.Mutex']").is_visible()
        page.locator(".related-pages .next-page").click()  # to the next page in order
        page.go_back()
        assert page.locator("h1").inner_text().startswith("Locks")


@in_browser
def test_search_finds_a_method_and_a_guide(site):
    with opened(site) as page:
        page.goto("index.html")
        for words, expected in {
            "load_or_compute": "SyncMap.load_or_compute",
            "hangs": "My program hangs, or does not scale",
        }.items():
            field = page.locator(".sidebar-search")
            field.fill(words)
            field.press("Enter")
            found = page.locator("#search-results li a").filter(has_text=expected).first
            found.wait_for()
            found.click()
            page.locator("h1").first.wait_for()
            assert "search.html" not in page.url
            assert words in page.locator("article").inner_text()


@in_browser
def test_pages_follow_the_system_to_dark_and_back(site):
    with opened(site) as page:
        page.goto("guide/choosing.html")
        page.emulate_media(color_scheme="dark")
        text, background = colours(page)
        assert text > background + 300
        page.emulate_media(color_scheme="light")
        text, background = colours(page)
        assert background > text + 300


@in_browser
def test_button_changes_between_light_and_dark(site):
    with opened(site) as page:
        page.goto("tutorial.html")
        button = page.locator(".theme-toggle:visible").first
        seen = set()
        for _ in range(3):
            seen.add(page.evaluate("document.body.dataset.theme"))
            button.click()
        assert seen == {"auto", "light", "dark"}


@in_browser
def test_pages_fit_a_phone(site):
    with opened(site, viewport=PHONE) as page:
        for address in ["index.html", *every_page(page)]:
            page.goto(address)
            assert overflow(page) <= 0, address


@in_browser
def test_phone_opens_the_menu_and_follows_it(site):
    with opened(site, viewport=PHONE) as page:
        page.goto("index.html")
        entry = page.locator(".sidebar-tree").get_by_role("link", name="Tutorial").first
        assert not entry.is_visible() or entry.bounding_box()["x"] < 0
        page.locator(".mobile-header .nav-overlay-icon").click()
        entry.click()
        assert page.locator("h1").inner_text().startswith("Tutorial")
