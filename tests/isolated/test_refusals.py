"""The kernel refuses a system call that it allowed at import: a seccomp filter comes later."""

import ctypes
import errno
import os
import platform
import struct
import sys
import threading
import time

import pytest
from forks import in_child
from marks import starts_processes
from processes import in_own_process
from support import NATIVE

from nogil_sync import SyncMap

MEMBARRIER = {"x86_64": 324, "aarch64": 283}.get(platform.machine())

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not NATIVE, reason="only the native backend calls membarrier"),
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or MEMBARRIER is None,
        reason="membarrier is used on Linux, on x86-64 and ARMv8",
    ),
]


LIBC = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """A filter, as prctl takes it."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def refuse(number, error):
    """Have the system call of this number fail with this error from now on."""
    # Load the call's number; if it is this one, fail with that error; else allow the call.
    lines = [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x50000 | error),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    text = ctypes.create_string_buffer(code)
    program = Program(4, ctypes.addressof(text))
    if LIBC.prctl(38, 1, 0, 0, 0) or LIBC.prctl(22, 2, ctypes.byref(program), 0, 0):
        print("no filters:", os.strerror(ctypes.get_errno()))
        os._exit(0)
    assert LIBC.syscall(number, 0, 0, 0) == -1
    assert ctypes.get_errno() == error


def has_membarrier(number):
    known = LIBC.syscall(number, 0, 0, 0)
    return known > 0 and known & 8 and known & 16


class Key:
    def __init__(self, n):
        self.n = n

    def __hash__(self):
        return hash(self.n)

    def __eq__(self, other):
        return isinstance(other, Key) and self.n == other.n


def run(*functions):
    threads = [threading.Thread(target=f, args=a, daemon=True) for f, *a in functions]
    for t in threads:
        t.start()
    return threads


def join(threads):
    for t in threads:
        t.join(30)
    assert not any(t.is_alive() for t in threads)


class Churn:
    """Threads that add, delete and read keys of one map; the deleted keys are counted."""

    def __init__(self):
        self.map = SyncMap({n: [n] for n in range(100)})
        self.made, self.deleted = [], []
        self.stop = False
        deleted = self.deleted

        class CountedKey(Key):
            # Not weakref.finalize: it sets an attribute of its class, whose lock CPython can leave
            # taken in the child of a fork (a thread keeps the first lock of two while it waits for
            # the second).
            def __del__(self):
                deleted.append(None)

        self.counted_key = CountedKey

    def write(self, k):
        n = 0
        while not self.stop:
            n += 1
            for i in range(50):
                self.map[self.counted_key((k, n, i))] = [n]
                self.made.append(None)
            for i in range(50):
                assert self.map.pop(Key((k, n, i))) == [n]

    def read(self):
        while not self.stop:
            for n in range(100):
                assert self.map[n] == [n]
            assert self.map.get("none") is None

    def check_that_keys_are_freed(self):
        def add_and_delete():
            for n in range(2000):
                self.map[Key(n)] = n
            for n in range(2000):
                del self.map[Key(n)]

        end = time.monotonic() + 20
        before = len(self.deleted)
        while len(self.deleted) <= before and time.monotonic() < end:
            self.map[self.counted_key("counted")] = 1
            del self.map[Key("counted")]
            join(run((add_and_delete,)))
        assert len(self.deleted) > before


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EPERM, errno.ENOSYS])
@in_own_process(timeout=120)
def test_new_thread_waits_until_all_have_fences(error):
    # It cannot put a fence into a thread that takes itself to be alone: it waits for its stores.
    m = SyncMap({n: [n] for n in range(100)})
    m["here"] = 1
    worked = has_membarrier(MEMBARRIER)
    refuse(MEMBARRIER, error)
    waited = []

    def first():
        begin = time.monotonic()
        assert m["here"] == 1
        waited.append(time.monotonic() - begin)

    join(run((first,)))
    join(run((first,)))
    assert waited[0] >= 0.049 or not worked, waited


@in_own_process(timeout=120)
def test_threads_go_on_through_the_refusal():
    # The filter holds for the thread that installs it, and for those that it starts.
    churn = Churn()

    def filtered():
        refuse(MEMBARRIER, errno.ENOMEM)
        join(run((churn.write, 2), (churn.write, 3), (churn.read,)))

    others = run((churn.write, 0), (churn.write, 1), (churn.read,))
    time.sleep(0.2)
    threads = run((filtered,))
    time.sleep(1)
    churn.stop = True
    join(threads + others)
    assert sorted(churn.map) == list(range(100))
    churn.check_that_keys_are_freed()
    assert len(churn.made) - len(churn.deleted) < 5000


@in_own_process(timeout=120)
def test_forked_child_goes_on_after_the_refusal():
    churn = Churn()
    refuse(MEMBARRIER, errno.ENOMEM)
    threads = run((churn.write, 0), (churn.write, 1), (churn.read,))

    def child():
        churn.stop = False
        threads = run((churn.write, 2), (churn.read,))
        time.sleep(0.05)
        churn.stop = True
        join(threads)
        for n in range(100):
            assert churn.map.pop(n) == [n]
        churn.check_that_keys_are_freed()

    for _ in range(5):
        time.sleep(0.02)
        in_child(child)
    churn.stop = True
    join(threads)
    assert sorted(churn.map) == list(range(100))
    churn.check_that_keys_are_freed()
