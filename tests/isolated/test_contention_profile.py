"""The contention profile: waits, call sites, holders, the table, the page and the command."""

import os
import re
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from marks import needs_fork, starts_processes
from processes import in_own_process
from support import FREE_THREADED, NATIVE, TIMEOUT, eventually, settle, started
from waits import WAITS, unlocked

from nogil_sync import (
    AtomicBool,
    AtomicInt64,
    AtomicRef,
    Channel,
    Event,
    Mutex,
    RWMutex,
    Semaphore,
    TaskGroup,
)
from nogil_sync.diagnostics import detect_deadlocks, label, profile_contention, waits

pytestmark = starts_processes


def functions(site):
    return [call.name for call in site.stack]


def found(profile, function):
    """The sites at which this function waited, each with its object."""
    return [
        (each, site)
        for each in profile.objects
        for site in each.sites
        if function in functions(site)
    ]


# ---- What is recorded ----


def operation_of(name):
    """The operation of an entry of `WAITS`, as the profile calls it."""
    name = "select" if " in a select" in name else name.partition(" ")[0]
    names = {
        "RWMutex.read.acquire": "RWMutexReader.acquire",
        "RWMutex.write.acquire": "RWMutexWriter.acquire",
        "Semaphore.hold": "Semaphore.acquire",
        "Cond.wait_for": "Cond.wait",
    }
    return names.get(name, name)


@pytest.mark.parametrize("name", WAITS)
@in_own_process
def test_profile_has_each_wait_with_its_operation_its_call_site_and_its_end(name):
    trial = unlocked(name)

    def wait_here():
        trial.call_unlocked()

    def time_out_here(seconds):
        trial.call_unlocked(seconds)

    def check(profile, function, failed):
        operation = operation_of(name)
        sites = [site for _, site in found(profile, function) if site.operation == operation]
        if not sites:
            return False
        assert [(site.waits, site.failed) for site in sites] == [(1, failed)], profile.table()
        assert sites[0].seconds >= 0.15 * failed
        return True

    def timed_out(seconds):
        with profile_contention() as profile:
            time_out_here(seconds)
        return check(profile, "time_out_here", 1)

    # Longer than the main thread sleeps at a time. A busy machine may take that long to begin.
    assert timed_out(0.2) or timed_out(10)
    with profile_contention() as profile:
        thread, _ = started(wait_here)
        trial.serve()
        thread.join(TIMEOUT)
    assert check(profile, "wait_here", 0), profile.table()


@in_own_process
def test_call_that_need_not_wait_is_not_recorded():
    lock, rw, permits, channel, event = Mutex(), RWMutex(), Semaphore(2), Channel(1), Event()
    event.set()
    with profile_contention() as profile:
        for _ in range(100):
            with lock, rw.read, permits:
                channel.send(1)
                channel.recv()
                event.wait()
            assert not held_by_nobody_else(lock)
    assert profile.objects == []
    assert "0.00" in profile.table()


def held_by_nobody_else(lock):
    with lock:
        return lock.acquire(blocking=False)


@in_own_process
def test_hot_lock_among_a_hundred_is_named_with_its_two_sites_and_its_time():
    locks = [Mutex() for _ in range(100)]
    hot = locks[42]
    at_most = []  # for each wait: how long its call took
    at_least = []  # for each wait: how long it was known to go on
    rounds = 6

    def read_cache():
        begin = time.monotonic()
        hot.acquire()
        at_most.append(time.monotonic() - begin)
        hot.release()

    def write_cache():
        begin = time.monotonic()
        hot.acquire()
        at_most.append(time.monotonic() - begin)
        hot.release()

    def keep():
        for _ in range(rounds):
            with hot:
                threads = [threading.Thread(target=each) for each in (read_cache, write_cache)]
                for thread in threads:
                    thread.start()
                for lock in (*locks[:42], *locks[43:]):
                    with lock:
                        pass
                while [each.obj is hot for each in waits()] != [True, True]:
                    time.sleep(0.001)
                begin = time.monotonic()
                time.sleep(0.15)
                at_least.extend([time.monotonic() - begin] * 2)
            for thread in threads:
                thread.join()

    with profile_contention() as profile:
        keep()
    worst, *others = [each for each in profile.objects if each.contended]
    assert worst.name == "locks[42]"
    assert sum(each.seconds for each in others) < 0.1 * worst.seconds
    assert {site.stack[-1].name for site in worst.sites} == {"read_cache", "write_cache"}
    assert worst.waits == 2 * rounds
    assert sum(at_least) <= worst.seconds <= sum(at_most)
    # Who held it meanwhile, and where.
    assert worst.holders[0].thread == "MainThread"
    if NATIVE or not FREE_THREADED:  # else the stack of a thread that runs cannot be read
        assert "keep" in [call.name for call in worst.holders[0].stack]
    assert abs(sum(each.seconds for each in worst.holders) - worst.seconds) < 0.01
    table = profile.table()
    assert "locks[42]" in table.splitlines()[3]
    assert {"read_cache", "write_cache"} <= set(table.split())


@in_own_process
def test_wait_that_has_not_ended_counts_for_as_long_as_it_is():
    lock = Mutex()
    lock.acquire()
    with profile_contention() as profile:
        thread, _ = started(lock.acquire)
        time.sleep(0.05)
        assert profile.seconds >= 0.05
    assert [(each.waits, each.seconds >= 0.05) for each in profile.objects] == [(1, True)]
    lock.release()
    thread.join(TIMEOUT)
    assert profile.objects[0].waits == 1


@in_own_process
def test_wait_in_which_a_thread_wakes_now_and_then_is_one_wait():
    """With the threading backend it wakes to look for deadlocks, and each sleep is recorded."""
    detect_deadlocks("warn", after=0.15)
    lock = Mutex()
    lock.acquire()
    with profile_contention() as profile:
        thread, _ = started(lock.acquire)
        assert eventually(lambda: any(each.seconds > 0.8 for each in waits()))
        assert all(each.waits == 1 for each in profile.objects)
        lock.release()
        thread.join(TIMEOUT)
    (found_lock,) = profile.objects
    assert (found_lock.waits, found_lock.sites[0].failed) == (1, 0)
    assert found_lock.seconds == found_lock.longest > 0.5  # it begins a little after the wait


@in_own_process
def test_profile_can_be_read_while_it_runs():
    lock = Mutex()
    with profile_contention() as profile:
        for turn in range(1, 4):
            with lock:
                thread, _ = started(lock.acquire)
            thread.join(TIMEOUT)
            lock.release()
            assert eventually(lambda: [each.waits for each in profile.objects] == [turn])
            assert "running" in repr(profile)
    assert [each.waits for each in profile.objects] == [3]
    assert "over" in repr(profile)


@in_own_process
def test_profiles_of_several_threads_and_inside_each_other_have_all_waits():
    lock, begun, go = Mutex(), Event(), Event()
    inner = []

    def profile_elsewhere():
        with profile_contention() as profile:
            begun.set()
            go.wait()
        inner.append(profile)

    other = threading.Thread(target=profile_elsewhere)
    other.start()
    begun.wait()
    with profile_contention() as outside, profile_contention() as inside:
        with lock:
            thread, _ = started(lock.acquire)
        thread.join(TIMEOUT)
    go.set()
    other.join(TIMEOUT)
    for profile in (outside, inside, *inner):
        assert [each.waits for each in profile.objects if each.type == "Mutex"] == [1]
    with profile_contention() as later:
        pass
    assert later.objects == []


@in_own_process
def test_profile_runs_once():
    profile = profile_contention()
    assert "not begun" in repr(profile)
    assert (profile.seconds, profile.threads, profile.objects) == (0, 0, [])
    assert profile.folded() == ""
    with profile:
        pass
    assert profile.seconds > 0
    try:
        with profile:
            pass
    except RuntimeError as error:
        assert str(error) == "a contention profile can be run once"
    else:
        raise AssertionError
    assert threading.active_count() == 1


@in_own_process
def test_error_in_the_block_ends_the_profile_and_is_raised():
    try:
        with profile_contention() as profile:
            raise KeyError(1)
    except KeyError:
        pass
    assert "over" in repr(profile)
    assert threading.active_count() == 1


@in_own_process
def test_profiled_objects_are_freed_and_later_ones_are_others():
    def contend():
        lock = Mutex()
        with lock:
            thread, _ = started(lock.acquire)
        thread.join(TIMEOUT)

    with profile_contention() as profile:
        for _ in range(3):
            contend()
            assert eventually(lambda: len(profile.objects) > 0)
    assert [each.waits for each in profile.objects] == [1, 1, 1]
    assert len({each.name for each in profile.objects}) == 3
    assert all(re.fullmatch(r"Mutex #\d+", each.name) for each in profile.objects)


@in_own_process
def test_object_is_named_by_its_label_before_its_variable():
    wait_here = Mutex()
    cache = {"lock": Mutex()}
    for lock in (wait_here, cache["lock"]):
        lock.acquire()
    with profile_contention() as profile:
        for lock in (wait_here, cache["lock"]):
            thread, _ = started(lock.acquire)
            lock.release()
            thread.join(TIMEOUT)
            lock.release()
        del lock
    assert {each.name for each in profile.objects} == {"wait_here", "cache['lock']"}
    label(wait_here, "the\x1b[1m lock\n")
    assert wait_here.acquire()
    with profile_contention() as profile:
        thread, _ = started(wait_here.acquire)
        wait_here.release()
        thread.join(TIMEOUT)
    assert profile.objects[0].name == "the\x1b[1m lock\n"
    assert r"the\x1b[1m lock\n" in profile.table()


@in_own_process
def test_locks_come_before_what_threads_wait_for_without_contention():
    lock, jobs = Mutex(), Channel()
    with profile_contention() as profile:
        consumer, _ = started(jobs.recv)
        with lock:
            thread, _ = started(lock.acquire)
        thread.join(TIMEOUT)
        time.sleep(0.05)
        jobs.send(1)
        consumer.join(TIMEOUT)
    assert [(each.name, each.contended) for each in profile.objects] == [
        ("lock", True),
        ("jobs", False),
    ]


@in_own_process
def test_calls_of_a_stack_are_the_programs_own():
    lock = Mutex()

    def inner():
        with lock:
            pass

    def outer():
        inner()

    lock.acquire()
    with profile_contention() as profile, TaskGroup() as group:
        group.go(outer)
        assert eventually(lambda: any(each.obj is lock for each in waits()))
        lock.release()
    (site,) = next(each for each in profile.objects if each.type == "Mutex").sites
    assert [call.name for call in site.stack] == ["outer", "inner"]


@in_own_process
def test_program_that_replaces_threading_by_ours_is_profiled():
    threading.Lock = Mutex
    condition = threading.Condition(Mutex())
    with profile_contention() as profile:
        with condition:
            thread, _ = started(condition.acquire)
        thread.join(TIMEOUT)
    assert [each.waits for each in profile.objects if each.contended] == [1]


@needs_fork
@in_own_process
def test_child_of_a_fork_is_not_profiled_and_the_parent_goes_on():
    lock = Mutex()

    def contend():
        with lock:
            thread, _ = started(lock.acquire)
        thread.join(TIMEOUT)
        lock.release()

    with profile_contention() as profile:
        contend()
        child = os.fork()
        if child == 0:
            contend()
            before = profile.objects
            contend()
            ok = profile.objects == before
            with profile_contention() as fresh:
                contend()
            ok = ok and [each.waits for each in fresh.objects] == [1]
            os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        contend()
    assert [each.waits for each in profile.objects] == [2]


@in_own_process
def test_interrupt_in_a_profiled_wait_takes_nothing():
    import _thread

    lock = Mutex()
    lock.acquire()

    def interrupt():
        if eventually(lambda: any(each.obj is lock for each in waits())):
            _thread.interrupt_main()

    with profile_contention() as profile:
        for _ in range(5):
            thread = threading.Thread(target=interrupt)
            thread.start()
            try:
                lock.acquire()
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError
            thread.join()
    assert lock.locked()
    lock.release()
    assert not lock.locked()
    assert [(site.waits, site.failed) for site in profile.objects[0].sites] == [(5, 5)]


@in_own_process
def test_lost_compare_and_swaps_are_retries():
    published = AtomicRef("old")
    number = AtomicInt64(1)
    flag = AtomicBool()
    calls = []

    def replace(current):
        calls.append(current)
        if len(calls) <= 3:
            published.store(f"{len(calls)} of another thread")
        return "new"

    with profile_contention() as profile:
        published.update(replace)
        for wrong in (5, 6):
            assert not number.compare_and_swap(wrong, 7)
        assert number.compare_and_swap(1, 2)
        assert not flag.compare_and_swap(True, False)
    assert len(calls) == 4
    retries = {site.operation: site.retries for each in profile.objects for site in each.sites}
    assert retries == {
        "AtomicRef.update": 3,
        "AtomicInt64.compare_and_swap": 2,
        "AtomicBool.compare_and_swap": 1,
    }
    first = profile.objects[0]
    assert (first.name, first.waits, first.retries) == ("published", 0, 3)
    assert "published (AtomicRef)" in profile.table()
    assert (published.load(), number.load()) == ("new", 2)


# ---- Folded stacks and the page ----


@in_own_process
def test_folded_stacks_have_the_calls_the_object_and_microseconds():
    first_lock = Mutex()

    def first():
        second()

    def second():
        with first_lock:
            pass

    with profile_contention() as profile:
        with first_lock:
            thread, _ = started(first)
        thread.join(TIMEOUT)
    (line,) = profile.folded().splitlines()
    path, _, microseconds = line.rpartition(" ")
    calls = path.split(";")
    assert [call.partition(" ")[0] for call in calls] == [
        "started.<locals>.run" if "." in calls[0].partition(" ")[0] else "run",
        "first",
        "second",
        "Mutex.acquire",
        "first_lock",
    ]
    assert int(microseconds) == round(profile.objects[0].seconds * 1e6)


HOSTILE = "</title><script>alert('x')</script>&amp;\x00\ud800\x1b[2J"


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed in order."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = set()
        self.addresses = []
        self.ids = []
        self.texts = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]
        self.ids += [value for name, value in attrs if name == "id"]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def contended_profile(name):
    """A profile with two contended locks, one of them with this label, and a channel."""
    hot, cold, jobs = Mutex(), Mutex(), Channel()
    label(hot, name)

    def read_cache():
        with hot:
            pass

    def write_cache():
        with hot:
            pass

    with profile_contention() as profile:
        consumer, _ = started(jobs.recv)
        for lock, users in ((hot, (read_cache, write_cache)), (cold, (cold.acquire,))):
            with lock:
                threads = [threading.Thread(target=each, name="worker <b>") for each in users]
                for thread in threads:
                    thread.start()
                    settle(thread)
                time.sleep(0.1 if lock is hot else 0.0)
            for thread in threads:
                thread.join(TIMEOUT)
        jobs.send(1)
        consumer.join(TIMEOUT)
    return profile


def write_pages(folder, name):
    profile = contended_profile(name)
    profile.write_html(f"{folder}/report.html")
    profile.write_folded(Path(folder, "report.folded"))


@pytest.mark.parametrize("name", ["the cache's lock", HOSTILE], ids=["plain", "hostile"])
def test_page_is_whole_and_needs_nothing_from_outside(tmp_path, name):
    in_own_process(write_report)(str(tmp_path), ascii(name))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.tags.isdisjoint({"script", "img", "iframe", "object", "base", "form"})
    inside = [address for address in page.addresses if address != "data:,"]  # no icon
    assert all(address.startswith("#") for address in inside)
    assert {address[1:] for address in inside} <= set(page.ids)
    for absent in ("@import", "url(", "http", "<script", "\x00", "\x1b"):
        assert absent not in text
    shown = "".join(page.texts)
    for expected in ("read_cache", "write_cache", "Mutex.acquire", "Channel.recv", "MainThread"):
        assert expected in shown
    if name.isprintable():
        assert name in shown


def write_report(folder, name):
    import ast

    write_pages(folder, ast.literal_eval(name))


# ---- The command ----


# The programs import what lies beside them.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "nogil_sync.contention", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=ENVIRONMENT,
    )


PROGRAM = """\
import sys
import threading
import time
from beside import lock
from nogil_sync.diagnostics import waits

def use():
    with lock:
        pass

def release():
    while not waits():
        time.sleep(0.001)
    lock.release()

if __name__ == "__main__":
    assert sys.modules["__main__"].use is use
    print(sys.argv[1:], __file__ == sys.argv[0], flush=True)
    lock.acquire()
    thread = threading.Thread(target=use)
    thread.start()
    threading.Thread(target=release).start()
    {end}
"""


@pytest.fixture
def program(tmp_path):
    """Writes a program, with a module beside it, and returns the folder."""

    def write(end="pass"):
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        (folder / "beside.py").write_text("from nogil_sync import Mutex\nlock = Mutex()\n")
        (folder / "program.py").write_text(PROGRAM.replace("{end}", end))
        return folder

    return write


@pytest.mark.parametrize("how", [["folder/program.py"], ["-m", "program"]], ids=["script", "-m"])
def test_command_runs_a_program_to_its_end_and_reports(program, how, tmp_path):
    folder = program()
    done = command(
        *("-o", "page.html", "--folded", "page.folded", *how, "-o", "1"),
        cwd=tmp_path if how[0] != "-m" else folder,
    )
    assert (done.returncode, done.stdout) == (0, "['-o', '1'] True\n"), done.stderr
    assert " lock (Mutex)\n" in done.stderr
    assert re.search(r"Mutex\.acquire at .* in use\n", done.stderr)
    written = tmp_path if how[0] != "-m" else folder
    assert ">lock</a>" in (written / "page.html").read_text(encoding="utf-8")
    assert "Mutex.acquire;lock" in (written / "page.folded").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("raise ValueError('wrong')", 1, "ValueError: wrong\n"),
        ("raise KeyboardInterrupt", None, "KeyboardInterrupt\n"),
    ],
)
def test_command_ends_as_the_program_ends(program, end, status, message):
    folder = program(end)
    alone = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, capture_output=True, env=ENVIRONMENT
    )
    done = command("program.py", cwd=folder)
    assert done.returncode == alone.returncode
    assert status is None or done.returncode == status
    assert message in done.stderr
    assert "contention.py" not in done.stderr
    assert " lock (Mutex)\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: program"),
        (["absent.py"], "cannot read 'absent.py'"),
        (["-m", "absent"], "no module named 'absent' that can be run"),
        (["-m", "absent.inside"], "cannot find 'absent.inside'"),
        (["-o", "absent/page.html", "program.py"], "cannot write to 'absent/page.html'"),
    ],
)
def test_command_refuses_what_it_cannot_do(program, arguments, message):
    done = command(*arguments, cwd=program())
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
