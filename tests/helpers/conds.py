"""What the tests of Cond share: locks, and threads that wait."""

import threading

from support import TIMEOUT, eventually, started

from nogil_sync import Cond, Mutex, RLock, RWMutex, Semaphore


class Duck:
    """A lock of no library: just acquire and release."""

    def __init__(self):
        self.lock = threading.Lock()

    def acquire(self, blocking=True, timeout=-1):
        return self.lock.acquire(blocking, timeout)

    def release(self):
        self.lock.release()


class Sub(Mutex):
    """A subclass with a method of its own."""

    count = 0

    def release(self):
        self.count += 1
        super().release()


LOCKS = {
    "default": lambda: None,
    "Mutex": Mutex,
    "Lock": threading.Lock,
    "RLock": threading.RLock,
    "our RLock": RLock,
    "write": lambda: RWMutex().write,
    "read": lambda: RWMutex().read,
    "duck": Duck,
    "subclass": Sub,
    "Semaphore": Semaphore,
    "Condition": threading.Condition,
    "Cond": Cond,
}


def waiting(c):
    """How many threads wait, which only the repr shows."""
    return int(repr(c).split(", ")[-1].split()[0])


def wait_in(c, timeout=TIMEOUT):
    with c:
        return c.wait(timeout)


def waiters(c, n, *args):
    """Start threads that wait, in this order."""
    result = []
    for k in range(n):
        result.append(started(wait_in, c, *args))
        assert eventually(lambda k=k: waiting(c) == k + 1)
    return result


def notify(c, *args):
    with c:
        c.notify(*args)


def notify_all(c):
    with c:
        c.notify_all()
