"""Does pooling pay? The latency of a log line, and how often `new` is called.

    ./dev python perf/pooling.py [--threads 1,2] [--seconds 1]

A line is formatted into a buffer, as a formatter of logging does it. The buffer is made for it, or
comes from a Pool (pinned, as the pool of a module should be): an io.StringIO, a bytearray that
grows as it is written to, and one of 4 and of 64 KiB that is written to in place, as for a socket
or a file. The clock is read before and after each line; what that costs is in all figures alike.
"""

from __future__ import annotations

import argparse
import io
import signal
import statistics
import sys
import threading
import time
from typing import TYPE_CHECKING

from harness import check_gil, compile_source, describe_build, together
from rows import Row
from suite import parse_threads

import nogil_sync
from nogil_sync import Pool, ShardedCounter, pin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The loop: the clock is read before and after each line.
_LATENCY = """
def loop(_repeat, _rounds, _clock, _meet, _seconds, _now, {names}):
    {prologue}
    _samples = []
    _note = _samples.append
    _deadline = _meet() + _seconds
    while _clock() < _deadline:
        for _ in _repeat(None, 100):
            _began = _now()
            {body}
            _note(_now() - _began)
    return _samples
"""

TEXT = """\
write = out.write
write("2026-01-01 00:00:00,000 INFO ")
write(name)
write(": %s took %d ms" % (name, 17))
write("\\n")
text = out.getvalue()
"""

GROWN = """\
out += b"2026-01-01 00:00:00,000 INFO "
out += name
out += b": %s took %d ms" % (name, 17)
out += b"\\n"
"""

IN_PLACE = """\
line = b"2026-01-01 00:00:00,000 INFO %s took %d ms\\n" % (name, 17)
out[:len(line)] = line
"""


def wipe(out: io.StringIO) -> None:
    out.seek(0)
    out.truncate()


def new_and_pooled(
    what: str,
    new: Callable[[], object],
    line: str,
    reset: Callable[..., object] | None = None,
) -> tuple[str, Row, Row]:
    prologue = 'name = "request"' if line is TEXT else 'name = b"request"'

    def shared() -> Mapping[str, object]:
        return {"p": pin(Pool(new, reset=reset)), "new": new}

    fresh = Row("new", "stdlib", f"out = new()\n{line}", lambda: {"new": new}, prologue)
    pooled = Row("pooled", "ours", f"out = p.get()\n{line}p.put(out)", shared, prologue)
    return what, fresh, pooled


def of_4_kib() -> bytearray:
    return bytearray(4096)


def of_64_kib() -> bytearray:
    return bytearray(65536)


CASES = (
    new_and_pooled("io.StringIO", io.StringIO, TEXT, wipe),
    new_and_pooled("bytearray, growing", bytearray, GROWN, bytearray.clear),
    new_and_pooled("bytearray of 4 KiB", of_4_kib, IN_PLACE),
    new_and_pooled("bytearray of 64 KiB", of_64_kib, IN_PLACE),
)


def latencies(row: Row, threads: int, seconds: float) -> list[int]:
    """The latencies of all lines of all threads, in nanoseconds."""
    shared = row.objects(threads)
    names = list(shared)
    code = compile_source(_LATENCY, row, names)
    results = together(threads, code, (seconds, time.perf_counter_ns, *shared.values()))
    return [sample for samples in results for sample in samples]  # type: ignore[misc]


def log_lines(counts: list[int], seconds: float) -> None:
    print("\nA line of a log, ns: median (99th percentile)\n")
    print(f"{'':22}{'threads':>8}{'new':>16}{'pooled':>16}   median")
    for what, fresh, pooled in CASES:
        for threads in counts:
            # Alternately, so that a disturbance of the machine affects both.
            samples: dict[str, list[int]] = {fresh.name: [], pooled.name: []}
            for _ in range(4):
                for row in (fresh, pooled):
                    samples[row.name] += latencies(row, threads, seconds / 4)
            medians = [statistics.median(each) for each in samples.values()]
            tails = [statistics.quantiles(each, n=100)[98] for each in samples.values()]
            cells = (f"{m:.0f} ({t:.0f})" for m, t in zip(medians, tails, strict=True))
            change = medians[1] / medians[0] - 1
            print(
                f"{what:22}{threads:8}" + "".join(f"{c:>16}" for c in cells) + f"   {change:+.0%}"
            )


def new_calls(counts: list[int], seconds: float) -> None:
    print("\nAn object that takes 1 ms to make, used for about 0.1 ms: calls of new()\n")
    print(f"{'threads':>8}{'uses':>12}{'new calls':>12}")
    for threads in counts:
        made, used = ShardedCounter(), ShardedCounter()

        def new(made: ShardedCounter = made) -> object:
            made.add()
            time.sleep(0.001)
            return object()

        pool = Pool(new)

        def work(pool: Pool[object] = pool, used: ShardedCounter = used) -> None:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                with pool.use():
                    time.sleep(0.0001)
                used.add()

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(f"{threads:8}{used.value():12}{made.value():12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=parse_threads, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell")
    args = parser.parse_args()
    warning = check_gil()
    if warning:
        print(f"note: {warning}", file=sys.stderr)
    print(f"Python {sys.version.split()[0]}, {describe_build()}; {nogil_sync.backend} backend")
    log_lines(args.threads, args.seconds)
    new_calls(args.threads, args.seconds)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it at once
    main()
