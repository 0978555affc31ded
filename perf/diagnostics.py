"""What diagnostics cost where nobody waits: nanoseconds an operation, off and on.

    ./dev python perf/diagnostics.py [--rounds 201] [--loops 4000]

Each round takes the processor time of an operation in four states, in random order: with nothing
on, the same again, with deadlocks detected, and in a contention profile. The differences to *off*
are medians over the rounds, of times that were taken within milliseconds of each other, so that
what disturbs the machine disturbs both. *Off again* shows how far they can be trusted.
"""

from __future__ import annotations

import argparse
import random
import signal
from statistics import median
from time import thread_time_ns
from typing import TYPE_CHECKING, Any

from harness import check_gil, describe_build

from nogil_sync import Channel, Mutex, RWMutex, Semaphore  # noqa: F401  (for the expressions)
from nogil_sync.diagnostics import detect_deadlocks, profile_contention

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATIONS = {
    "with mutex": ("Mutex()", "with it: pass"),
    "with semaphore": ("Semaphore(9)", "with it: pass"),
    "with rw.read": ("RWMutex()", "with it.read: pass"),
    "with rw.write": ("RWMutex()", "with it.write: pass"),
    "channel.send, recv": ("Channel(4)", "it.send(None); it.recv()"),
}
LOOP = """
def loop(it, items):
    for _ in items:
        {body}
"""
STATES = ("off", "off again", "deadlocks", "profile")


def timed(loop: Callable[[Any, Any], None], it: Any, loops: int, state: str) -> float:
    """Nanoseconds of one turn of the loop in this state."""

    def run() -> float:
        loop(it, range(loops // 10))  # a state may have just begun
        begin = thread_time_ns()
        loop(it, range(loops))
        return (thread_time_ns() - begin) / loops

    if state == "profile":
        with profile_contention():
            return run()
    detect_deadlocks("raise" if state == "deadlocks" else None)
    try:
        return run()
    finally:
        detect_deadlocks(None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--loops", type=int, default=4_000)
    args = parser.parse_args()
    check_gil()
    print(describe_build())
    print(f"{'':20}{'off':>8} ns" + "".join(f"{state:>12}" for state in STATES[1:]))
    for name, (make, body) in OPERATIONS.items():
        scope: dict[str, Any] = {}
        exec(LOOP.format(body=body), scope)
        it = eval(make, globals())
        rounds = []
        for _ in range(args.rounds):
            order = random.sample(STATES, len(STATES))
            rounds.append({s: timed(scope["loop"], it, args.loops, s) for s in order})
        shares = [median(each[s] / each["off"] - 1 for each in rounds) for s in STATES[1:]]
        off = median(each["off"] for each in rounds)
        print(f"{name:20}{off:8.1f}   " + "".join(f"{share:+11.1%} " for share in shares))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it at once
    main()
