"""Hundreds of threads read a configuration that one thread changes now and then.

Use an RWMutex where readers need several values that belong together, and change is rare: readers
hold it at the same time, and on different cores they share no cache line. If the whole
configuration can be replaced at once, copy_on_write.py is simpler and faster still.

The naive version reads without a lock: a reader gets the port of one version and the replica of
another. One threading.Lock makes it right, but then readers wait for each other.
"""

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from measure import Over, compare, options, rate_of, run

from nogil_sync import RWMutex, ShardedCounter, pin


class ConfigStore:
    """The ports of a server and of its replica, which must fit each other."""

    def __init__(
        self, reading: AbstractContextManager[Any], writing: AbstractContextManager[Any]
    ) -> None:
        self.reading, self.writing = reading, writing
        self.port, self.replica = 8000, 8001

    def ports(self) -> tuple[int, int]:
        with self.reading:
            return self.port, self.replica

    def move(self, port: int) -> None:
        with self.writing:
            self.port = port
            time.sleep(0.0001)  # a new replica has to be found
            self.replica = port + 1


def measure(store: ConfigStore, threads: int, seconds: float) -> tuple[float, str]:
    torn = pin(ShardedCounter())

    def read(over: Over) -> int:
        ports, reads = store.ports, 0
        while not over():
            for _ in range(10):
                port, replica = ports()
                if replica != port + 1:
                    torn.add()
            reads += 10
        return reads

    def write(over: Over) -> None:
        port = 8000
        while not over():
            port += 2
            store.move(port)
            time.sleep(0.002)

    rate = rate_of(read, threads, seconds, meanwhile=write)
    return rate.per_second, f"{torn.value():,} wrong" if torn.value() else "all right"


def main() -> None:
    chosen = options(__doc__, threads=200, seconds=0.2)

    lock, rw = threading.Lock(), pin(RWMutex())  # pin: needed on 3.13t, see counting.py
    unprotected = ConfigStore(nullcontext(), nullcontext())
    locked = ConfigStore(lock, lock)
    shared = pin(ConfigStore(rw.read, rw.write))

    compare(
        "reads a second",
        ("no lock, naive", *measure(unprotected, chosen.threads, chosen.seconds)),
        ("threading.Lock", *measure(locked, chosen.threads, chosen.seconds)),
        ("RWMutex", *measure(shared, chosen.threads, chosen.seconds)),
    )


if __name__ == "__main__":
    run(main)
