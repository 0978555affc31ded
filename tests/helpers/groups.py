"""What the tests of TaskGroup share."""

import threading

from support import TIMEOUT, eventually, settle


def raising(error):
    raise error


def caught(function):
    """What the function raises."""
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing raised")


def own_threads():
    return [t for t in threading.enumerate() if t.name == "TaskGroup worker"]


def begun(tg, fn, *args):
    """Have the group call the function; return the future once it is running."""
    future = tg.go(fn, *args)
    assert eventually(lambda: future.running() or future.done())
    return future


class Gate:
    """Holds tasks back; counts how many arrived, and how many at most at once."""

    def __init__(self):
        self.event = threading.Event()
        self.lock = threading.Lock()
        self.inside = self.most = self.arrived = 0

    def __call__(self, result=None):
        with self.lock:
            self.inside += 1
            self.arrived += 1
            self.most = max(self.most, self.inside)
        assert self.event.wait(TIMEOUT)
        with self.lock:
            self.inside -= 1
        return result

    def open(self):
        self.event.set()


def asleep(tg, fn, *args):
    """Have the group call the function; return the future once the call waits."""
    thread = []

    def run():
        thread.append(threading.current_thread())
        return fn(*args)

    future = tg.go(run)
    assert eventually(lambda: thread)
    settle(thread[0])
    return future
