"""The page of a contention profile in a browser: both colour schemes, wide and narrow."""

import threading

import pytest
from browser import in_browser, needs_browser, opened
from marks import starts_processes
from support import TIMEOUT, settle, started

from nogil_sync import Channel, Mutex
from nogil_sync.diagnostics import label, profile_contention

pytestmark = [starts_processes, needs_browser]


@pytest.fixture(name="folder")
def folder_of_the_page(tmp_path):
    return str(tmp_path)


def write_page(folder, name):
    """A page about a lock with this label, for which two functions waited, and a channel."""
    hot, jobs = Mutex(), Channel()
    label(hot, name)

    def read_cache():
        with hot:
            pass

    def write_cache():
        with hot:
            pass

    with profile_contention() as profile:
        consumer, _ = started(jobs.recv)
        for _ in range(3):
            with hot:
                threads = [
                    threading.Thread(target=each, name=f"worker {each.__name__}")
                    for each in (read_cache, write_cache)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    settle(thread)
            for thread in threads:
                thread.join(TIMEOUT)
        jobs.send(1)
        consumer.join(TIMEOUT)
    profile.write_html(f"{folder}/report.html")


def luminance(page, element):
    """How bright the background of an element is, from 0 to 255."""
    colour = page.locator(element).first.evaluate("e => getComputedStyle(e).backgroundColor")
    red, green, blue = (int(part) for part in colour[4:-1].split(",")[:3])
    return 0.3 * red + 0.6 * green + 0.1 * blue


@in_browser
def test_page_shows_the_lock_its_sites_and_its_time_line(folder):
    write_page(folder, "<b>the cache</b>")
    with opened(folder) as page:
        page.goto("report.html")
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="<b>the cache</b>"))
        assert row.is_visible()
        assert "Mutex" in row.inner_text()
        assert "MainThread" in row.inner_text()
        assert page.locator("b").count() == 0
        details = page.locator("details.card").first
        assert "read_cache" in details.inner_text()
        assert "write_cache" in details.inner_text()
        line = page.get_by_role("img", name="Time line of <b>the cache</b>")
        assert line.is_visible()
        assert "worker read_cache" in line.text_content()
        # 6 waits, of the two call sites.
        assert line.locator("rect.c0:has(title), rect.c1:has(title)").count() >= 6
        assert page.get_by_role("img", name="Flame graph").is_visible()
        assert page.get_by_text("Channel.recv").count() > 0


@in_browser
def test_link_in_the_ranking_leads_to_the_details(folder):
    write_page(folder, "the cache")
    with opened(folder) as page:
        page.goto("report.html")
        page.get_by_role("link", name="the cache").click()
        target = page.locator(":target")
        assert target.count() == 1
        assert "read_cache" in target.inner_text()
        assert target.get_attribute("open") is not None


@in_browser
def test_colours_follow_the_scheme_of_the_reader(folder):
    write_page(folder, "the cache")
    with opened(folder) as page:
        page.goto("report.html")
        page.emulate_media(color_scheme="light")
        assert min(luminance(page, "body"), luminance(page, ".card")) > 200
        page.emulate_media(color_scheme="dark")
        assert max(luminance(page, "body"), luminance(page, ".card")) < 60
        ink = page.locator("body").evaluate("e => getComputedStyle(e).color")
        assert int(ink[4:].split(",")[0]) > 200


@in_browser
def test_page_fits_a_narrow_window_and_plots_scroll_inside(folder):
    write_page(folder, "a name that is as long as names of locks can become " * 3)
    with opened(folder) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto("report.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@in_browser
def test_page_without_waits_says_so(folder):
    with profile_contention() as profile:
        pass
    profile.write_html(f"{folder}/report.html")
    with opened(folder) as page:
        page.goto("report.html")
        assert page.get_by_text("No thread waited").is_visible()
