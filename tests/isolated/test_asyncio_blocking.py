"""Development mode: a blocking wait inside a running event loop gives a warning."""

import re

import pytest
from marks import starts_processes
from processes import python

pytestmark = starts_processes

PROGRAM = """
import asyncio, threading, warnings
from concurrent.futures import ThreadPoolExecutor
from nogil_sync import *

def in_another_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()

{before}

async def main():
    for _ in range(2):
        {call}  # here

asyncio.run(main())
print("done")
"""

CALLS = {
    "Mutex": "m.acquire(); m.acquire(timeout=0.01); m.release()",
    "RWMutexWriter": "w.acquire(); w.acquire(timeout=0.01); w.release()",
    "Semaphore": "Semaphore(0).acquire(timeout=0.01)",
    "Event": "Event().wait(0.01)",
    "WaitGroup": "g.wait(0.01)",
    "Cond": "c.acquire(); c.wait(0.01); c.release()",
    "Channel": "recv(Channel())",
    "select": "select(after(0.01))",
}
BEFORE = """
m, w, g, c = Mutex(), RWMutex().write, WaitGroup(), Cond()
g.add()
def recv(channel):
    threading.Timer(0.01, channel.send, ("item",)).start()
    return channel.recv()
"""


@pytest.mark.parametrize("name", CALLS)
def test_blocking_wait_in_a_running_loop_warns_once_for_its_line(name):
    done = python(PROGRAM.format(before=BEFORE, call=CALLS[name]), options=("-X", "dev"))
    assert done.stdout == "done\n", done.stderr
    found = re.findall(r"RuntimeWarning: (a blocking wait.*) stops the event loop", done.stderr)
    assert found == [f"a blocking wait for {name}"], done.stderr


@pytest.mark.parametrize(
    "call",
    [
        "m.acquire(); m.release()",
        "g.done() if not _ else None; g.wait(1)",
        "await Event().wait_async(0.01)",
        "await asyncio.to_thread(Event().wait, 0.01)",
        "TaskGroup().__enter__().go(print, end='')",
        "m.acquire(); m.acquire(False); m.acquire(timeout=0); m.release()",
    ],
)
def test_no_warning_without_a_blocking_wait(call):
    done = python(PROGRAM.format(before=BEFORE, call=call), options=("-X", "dev"))
    assert done.stdout == "done\n", done.stderr
    assert "event loop" not in done.stderr


def test_no_warning_outside_of_a_loop_or_of_development_mode():
    call = CALLS["Event"]
    done = python(PROGRAM.format(before=BEFORE, call=call))
    assert (done.stdout, done.stderr) == ("done\n", "")
    done = python(f"from nogil_sync import *\n{call}", options=("-X", "dev"))
    assert "event loop" not in done.stderr


def test_warning_as_an_error_is_reported_and_the_wait_goes_on():
    done = python(
        PROGRAM.format(before=BEFORE, call="assert not Event().wait(0.01)"),
        options=("-X", "dev", "-W", "error::RuntimeWarning"),
    )
    assert done.stdout == "done\n", done.stderr
    assert "RuntimeWarning: a blocking wait for Event" in done.stderr
