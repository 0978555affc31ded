"""The status page of examples/server in a browser, while its server is under load."""

from browser import in_browser, needs_browser, opened_at
from marks import starts_processes
from servers import needs_server

pytestmark = [starts_processes, needs_browser, needs_server]


def loaded(server, over):
    """Ask for reports until the event is set, with more threads than may make one at once."""
    import threading

    def ask():
        while not over.is_set():
            server.get("/report?rows=100&wait=30")
            server.get("/nowhere")

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    return threads


def number(page, name):
    text = page.locator(f"#{name}").inner_text().replace(",", "")
    return float(text.split()[0]) if text[0].isdigit() else 0.0


def luminance(page):
    colour = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    return sum(int(part) for part in colour[4:-1].split(",")[:3]) / 3


@in_browser
def test_figures_move_under_load_and_waits_are_shown():
    import threading

    from servers import running, until

    over = threading.Event()
    with (
        running("--threads", "6") as server,
        opened_at(f"http://127.0.0.1:{server.status_port}/") as page,
    ):
        threads = loaded(server, over)
        try:
            for scheme, bright in (("light", True), ("dark", False)):
                page.emulate_media(color_scheme=scheme)
                page.goto("/")
                page.locator("#link.live").wait_for()
                until(lambda: number(page, "rate") > 0, "no throughput")
                before = number(page, "total")
                until(lambda: number(page, "total") > before, "the figures do not move")
                assert (luminance(page) > 128) is bright
            assert number(page, "p99") >= 0
            assert "ours" in page.locator("#about").inner_text()
            # Two reports may be made at once, and six threads want to.
            page.locator("#hot td.name", has_text="reports").wait_for()
            page.locator("#waits td", has_text="Semaphore.acquire").first.wait_for()
            page.locator("#routes tr", has_text="other").wait_for()
            assert "M0,0" not in page.locator("#throughput path").get_attribute("d")
            page.set_viewport_size({"width": 390, "height": 800})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390
        finally:
            over.set()
            for thread in threads:
                thread.join()


@in_browser
def test_page_connects_again_after_a_restart():
    from servers import free_port, running

    places = {"port": free_port(), "status_port": free_port()}
    # Nobody listens for a moment. The browser itself reports that on the console.
    gone = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET")
    with running("--threads", "1", "--backend", "plain", **places) as server:
        address = f"http://127.0.0.1:{server.status_port}/"
        with opened_at(address, expected=gone) as page:
            page.goto("/")
            page.locator("#link.live").wait_for()
            page.get_by_text("nobody can say who waits").first.wait_for()
            server.end()
            page.get_by_text("trying again").wait_for()
            with running("--threads", "1", **places):
                page.get_by_text("restarted 1 time").wait_for()
                page.locator("#link.live").wait_for()
                assert "ours" in page.locator("#about").inner_text()
