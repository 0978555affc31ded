"""How evenly a lock serves its threads, and the longest wait of one thread.

Two runs per lock, since reading the clock around every acquire would change the throughput: the
shares come from a run that looks at the clock once per batch, the longest wait from another.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness import check_gil, compile_source, cores, environment, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from rows import Row

BATCH = 100

_SHARE = """
def loop(_repeat, _rounds, _clock, _meet, _seconds, {names}):
    _start = _meet()
    _deadline = _start + _seconds
    while _clock() < _start:
        pass
    _done = 0
    while _clock() < _deadline:
        for _ in _repeat(None, {batch}):
            {body}
        _done += {batch}
    return _done, _clock() - _start
"""

_LONGEST_WAIT = """
def loop(_repeat, _rounds, _clock, _meet, _seconds, {names}):
    _start = _meet()
    _deadline = _start + _seconds
    while _clock() < _start:
        pass
    _worst = 0.0
    _asked = _start
    while _asked < _deadline:
        _asked = _clock()
        m.acquire()
        _got = _clock()
        cell[0] += 1
        m.release()
        if _got - _asked > _worst:
            _worst = _got - _asked
    return _worst, _got - _start
"""


def _run(template: str, row: Row, threads: int, seconds: float) -> list[tuple[float, float]]:
    """Run the loop in all threads on one new lock; return what each loop returned."""
    shared = row.objects(threads)
    code = compile_source(template, row, list(shared), batch=BATCH)
    return together(threads, code, (seconds, *shared.values()))


def measure(row: Row, threads: int, seconds: float) -> dict[str, object]:
    shares = _run(_SHARE, row, threads, seconds)
    while not any(done for done, _ in shares):  # too busy a machine for one turn in that time
        shares = _run(_SHARE, row, threads, seconds)
    total = sum(done for done, _ in shares)
    mean = total / threads
    waits = _run(_LONGEST_WAIT, row, threads, seconds)
    return {
        "lock": row.name,
        "row_kind": row.kind,
        "threads": threads,
        "seconds": seconds,
        "mops": total / max(elapsed for _, elapsed in shares) / 1e6,
        "smallest_share": min(done for done, _ in shares) / mean,
        "largest_share": max(done for done, _ in shares) / mean,
        "longest_wait_ms": max(worst for worst, _ in waits) * 1e3,
    }


def main(contenders: Callable[[], list[Row]]) -> None:
    """With `--fairness` on the command line: measure and exit. Otherwise do nothing."""
    if "--fairness" not in sys.argv:
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--fairness", metavar="FILE", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=max(2, cores()))
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    check_gil()
    locks = []
    for row in contenders():
        locks.append(measure(row, args.threads, args.seconds))
        print("@" + json.dumps({"event": "fairness", **locks[-1]}), flush=True)
    args.fairness.write_text(json.dumps({"environment": environment(), "locks": locks}, indent=1))
    sys.exit(0)
