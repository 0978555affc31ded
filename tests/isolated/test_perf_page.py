"""The page that `./dev bench` writes, in a browser: both colour schemes, wide and narrow."""

import sys
from pathlib import Path

import pytest
from browser import in_browser, needs_browser, opened
from marks import starts_processes

PERF = Path(__file__).parents[2] / "perf"

pytestmark = [
    starts_processes,
    needs_browser,
    pytest.mark.skipif(not PERF.is_dir(), reason="not run in the source tree"),
]


@pytest.fixture(name="paths")
def folder_and_scripts(tmp_path):
    """As arguments of a test that runs in a process of its own."""
    return str(tmp_path), str(PERF)


def write_page(paths, versions):
    """The page of made-up results of these versions of Python."""
    folder, scripts = paths
    sys.path.insert(0, scripts)
    import page
    from results import Line, Panel, Results

    def panel(operation, **mops):
        rows = {
            "loop alone": ("floor", 100.0),
            "threading.Lock": ("stdlib", 4.0),
            "a <peer>": ("peer", 3.0),
            operation: ("ours", mops["ours"]),
            f"{operation}, pinned": ("ours", mops["ours"] * 1.5),
            "Go: sync.Mutex": ("go", 60.0),
        }
        made = Panel(operation, "threading.Lock")
        for name, (kind, rate) in rows.items():
            made.lines[name] = line = Line(name, kind)
            for threads in (1, 2, 4):
                line.add(threads, [threads / rate / 1e6] * 5)
        return made

    found = []
    for version in versions:
        environment = {
            "python_version": version,
            "python_build": "free-threaded",
            "usable_cores": "4",
            "go_version": "1.24.1",
        }
        share = {"smallest_share": 0.75, "largest_share": 1.25, "longest_wait_ms": 12.5}
        lock = {"lock": "Mutex", "row_kind": "ours", "threads": 4, "mops": 5.0, **share}
        counts = [0] * 6 + [1000, 100, 10, 1] + [0] * 54
        found.append(
            Results(
                [panel("Mutex", ours=8.0), panel("Slow <i>lock</i>", ours=1.0)],
                environment,
                [lock],
                label=version,
                growth={name: [{"counts": counts}] for name in ("dict", "SyncMap")},
            )
        )
    page.write(found, Path(folder) / "report.html")


@in_browser
def test_page_says_what_is_gained_and_lost_and_plots_it(paths):
    write_page(paths, ["3.99t"])
    with opened(paths[0]) as page:
        page.goto("report.html")
        assert "beside the standard library" in page.locator("h1").inner_text()
        said = page.locator("dl.said").inner_text()
        assert "Mutex 3.0\N{MULTIPLICATION SIGN}" in said
        assert "1 of 2 operations" in said
        assert "Slow <i>lock</i>: 0.38\N{MULTIPLICATION SIGN} threading.Lock" in said
        assert page.locator("i:not([class])").count() == 0  # no text became an element
        strip = page.get_by_role("img", name="Mutex: threading.Lock 1.00\N{MULTIPLICATION SIGN}")
        assert strip.is_visible()
        assert "Go: sync.Mutex 15.0\N{MULTIPLICATION SIGN}" in strip.get_attribute("aria-label")
        places = [dot.bounding_box()["x"] for dot in strip.locator(".dot").all()]
        reference, peer, go, plain, best = places
        assert peer < reference < plain < best < go
        plot = page.get_by_role("img", name="Mutex", exact=True)
        assert plot.is_visible()
        assert "Mutex, pinned, at 4 threads: 12.0 Mops/s" in plot.text_content()
        assert page.get_by_role("img", name="Lookups while the map grows").is_visible()
        fair = page.get_by_role("img", name="Mutex: smallest share 0.75; largest share 1.25")
        assert fair.is_visible()
        table = page.locator("details", has_text="Slow <i>lock</i>").first
        assert not table.locator("table").is_visible()
        table.locator("summary").click()
        assert table.get_by_role("cell", name="a <peer>").first.is_visible()


@in_browser
def test_page_follows_the_scheme_and_fits_a_phone(paths):
    write_page(paths, ["3.98t", "3.99t"])
    with opened(paths[0]) as page:
        page.goto("report.html")
        brightness = "e => getComputedStyle(e).backgroundColor.match(/\\d+/g)[1]"
        for scheme, bright in (("light", True), ("dark", False)):
            page.emulate_media(color_scheme=scheme)
            for element in ("body", ".card"):
                found = int(page.locator(element).first.evaluate(brightness))
                assert (found > 128) is bright, (scheme, element)
        for width in (1200, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.get_by_role("heading", name="3.99t", exact=True).is_visible()
