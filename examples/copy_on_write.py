"""Copy-on-write configuration: readers take no lock, writers replace the whole.

Use an AtomicRef to something that nobody changes: a frozen dataclass, a tuple, a dict that is
treated as read-only. ``update(fn)`` makes a new one from the current one, and tries again if
another writer was faster, so no change is lost. A reader keeps what it loaded for as long as it
needs it.

The naive version reads, copies and assigns: each reader is safe, but two writers that copy the same
version lose one of their changes. With a threading.Lock around it all, readers wait for each other.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from measure import Over, compare, options, rate_of, run, seconds_for

from nogil_sync import AtomicRef, pin


@dataclass(frozen=True)
class Config:
    host: str = "localhost"
    changes: int = 0


def changed(config: Config) -> Config:
    return replace(config, changes=config.changes + 1)


class Naive:
    def __init__(self) -> None:
        self.config = Config()

    def load(self) -> Config:
        return self.config

    def change(self) -> None:
        self.config = changed(self.config)


class Locked(Naive):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def load(self) -> Config:
        with self.lock:
            return self.config

    def change(self) -> None:
        with self.lock:
            super().change()


class CopyOnWrite:
    def __init__(self) -> None:
        self.config = pin(AtomicRef(Config()))  # pin: needed on 3.13t, see counting.py
        self.load = self.config.load

    def change(self) -> None:
        self.config.update(changed)


def reads(load: Callable[[], Config]) -> Callable[[Over], int]:
    def read(over: Over) -> int:
        done = 0
        while not over():
            for _ in range(10):
                load().host  # noqa: B018
            done += 10
        return done

    return read


def main() -> None:
    chosen = options(__doc__, threads=8, changes=200, seconds=0.2)

    rows = []
    stores: dict[str, Naive | CopyOnWrite] = {
        "assignment, naive": Naive(),
        "threading.Lock": Locked(),
        "AtomicRef": CopyOnWrite(),
    }
    for name, store in stores.items():
        rate = rate_of(reads(store.load), chosen.threads, chosen.seconds)

        def write(change: Callable[[], None] = store.change) -> None:
            for _ in range(chosen.changes):
                change()

        seconds_for(write, chosen.threads)
        made, kept = chosen.threads * chosen.changes, store.load().changes
        rows.append((name, rate.per_second, f"{kept:,} of {made:,} changes kept"))
        assert kept == made or type(store) is Naive
    compare("reads a second", *rows)
    print("\nOne configuration read by all threads is counted by all: pin() what is long-lived.")


if __name__ == "__main__":
    run(main)
