"""The kernel refuses what it granted at import: a seccomp filter that is installed later."""

import errno
import platform
import sys

import pytest
from marks import starts_processes
from processes import python
from support import NATIVE

MEMBARRIER = {"x86_64": 324, "aarch64": 283}.get(platform.machine())

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not NATIVE, reason="only the native backend calls membarrier"),
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or MEMBARRIER is None,
        reason="membarrier is used on Linux, on x86-64 and ARMv8",
    ),
]

HEADER = (
    FORKS
    + """
import ctypes, struct

libc = ctypes.CDLL(None, use_errno=True)

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

def refuse(number, error):
    # Load the call's number; is it this one? Then fail with that error, else go on.
    code = b"".join(
        struct.pack("HBBI", *line)
        for line in [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error),
                     (0x06, 0, 0, 0x7FFF0000)]
    )
    text = ctypes.create_string_buffer(code)
    program = Program(4, ctypes.addressof(text))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        print("no filters:", os.strerror(ctypes.get_errno()))
        os._exit(0)
    assert libc.syscall(number, 0, 0, 0) == -1 and ctypes.get_errno() == error

def works():
    known = libc.syscall(MEMBARRIER, 0, 0, 0)
    return known > 0 and known & 8 and known & 16

class Key:
    def __init__(self, n):
        self.n = n
    def __hash__(self): return hash(self.n)
    def __eq__(self, other): return isinstance(other, Key) and self.n == other.n

class Watched(Key):
    # Not weakref.finalize: it sets an attribute of its class, whose lock CPython can leave taken
    # in the child of a fork (a thread keeps the first lock of two while it waits for the second).
    def __del__(self): gone.append(None)

m = SyncMap({n: [n] for n in range(100)})
gone = []
stop = False

def churn(k):
    # Keys whose end is noticed, among readers.
    n = 0
    while not stop:
        n += 1
        for i in range(50):
            m[Watched((k, n, i))] = [n]
            made.append(None)
        for i in range(50):
            assert m.pop(Key((k, n, i))) == [n]

made = []

def read():
    while not stop:
        for n in range(100):
            assert m[n] == [n]
        assert m.get("none") is None

def run(*functions):
    threads = [threading.Thread(target=f, args=a, daemon=True) for f, *a in functions]
    for t in threads: t.start()
    return threads

def join(threads):
    for t in threads: t.join(30)
    assert not any(t.is_alive() for t in threads)

def reclaims():
    # What is deleted is released in the end.
    def some():
        for n in range(2000):
            m[Key(n)] = n
        for n in range(2000):
            del m[Key(n)]
    end = time.monotonic() + 20
    before = len(gone)
    while len(gone) <= before and time.monotonic() < end:
        m[Watched("watched")] = 1
        del m[Key("watched")]
        join(run((some,)))
    assert len(gone) > before
"""
)


def run(code, error=errno.ENOMEM):
    python(
        HEADER + f"MEMBARRIER, ERROR = {MEMBARRIER}, {error}\n" + code,
        timeout=120,
    )


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EPERM, errno.ENOSYS])
def test_new_thread_waits_until_all_have_fences(error):
    # It cannot put a fence into a thread that thinks that it is alone: it waits for its stores.
    run(
        """
m["here"] = 1
worked = works()
refuse(MEMBARRIER, ERROR)
waited = []
def first():
    begin = time.monotonic()
    assert m["here"] == 1
    waited.append(time.monotonic() - begin)
join(run((first,)))
join(run((first,)))
assert waited[0] >= 0.049 or not worked, waited
""",
        error,
    )


def test_threads_go_on_through_the_refusal():
    # The filter holds for the thread that installs it, and for those that it starts.
    run(
        """
def filtered():
    refuse(MEMBARRIER, ERROR)
    join(run((churn, 2), (churn, 3), (read,)))
others = run((churn, 0), (churn, 1), (read,))
time.sleep(0.2)
threads = run((filtered,))
time.sleep(1)
stop = True
join(threads + others)
assert sorted(m) == list(range(100))
reclaims()
assert len(made) - len(gone) < 5000
"""
    )


def test_forked_child_goes_on_after_the_refusal():
    run(
        """
refuse(MEMBARRIER, ERROR)
threads = run((churn, 0), (churn, 1), (read,))
def child():
    global stop
    stop = False
    threads = run((churn, 2), (read,))
    time.sleep(0.05)
    stop = True
    join(threads)
    for n in range(100):
        assert m.pop(n) == [n]
    reclaims()
for _ in range(5):
    time.sleep(0.02)
    in_child(child)
stop = True
join(threads)
assert sorted(m) == list(range(100))
reclaims()
"""
    )
