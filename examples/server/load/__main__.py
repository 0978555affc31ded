"""``./dev load``: drives the server with wrk, ours beside the plain one, for about a minute."""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from . import outside, tables

BACKENDS = ("plain", "ours")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev load", description=__doc__)
    add = parser.add_argument
    add("--threads", default="1,2,4,8", help="numbers of threads, with commas (1,2,4,8)")
    add("--seconds", type=int, default=3, help="of each run with wrk (3)")
    add("--inside-seconds", type=float, default=1.0, help="of each run without HTTP (1)")
    add("--connections", type=int, default=32, help="that wrk keeps open (32)")
    add("--server", choices=("cheroot", "gunicorn"), default="cheroot", help="the HTTP server")
    add("--no-profile", action="store_true", help="do not show where the processor time goes")
    add("--json", metavar="FILE", help="write the results there, too")
    chosen = parser.parse_args(arguments)
    try:
        chosen.threads = [int(each) for each in chosen.threads.split(",")]
    except ValueError:
        chosen.threads = []
    if not chosen.threads or min(chosen.threads) < 1:
        parser.error("--threads needs numbers of 1 or more, with commas between them")
    if chosen.seconds < 1 or chosen.inside_seconds <= 0 or chosen.connections < 1:
        parser.error("--seconds, --inside-seconds and --connections must be positive")
    return chosen


def measure(chosen: argparse.Namespace, out: Console) -> dict[str, Any]:
    tables.head(out, chosen.server, chosen.connections)
    inside: dict[tuple[str, int], tables.Result] = {}
    outer: dict[tuple[str, int], tables.Result] = {}
    with out.status("") as shown:
        for threads in chosen.threads:
            for backend in BACKENDS:
                shown.update(f"inside the application: {backend}, {threads} threads")
                inside[backend, threads] = _inside(backend, threads, chosen.inside_seconds)
    out.print(tables.rates("Inside the application, without HTTP", "calls", inside))
    with out.status("") as shown:
        for threads in chosen.threads:
            for backend in BACKENDS:
                shown.update(f"{chosen.server}: {backend}, {threads} threads")
                outer[backend, threads] = outside.drive(
                    backend, threads, chosen.seconds, chosen.connections, server=chosen.server
                )
    out.print(tables.rates(f"End to end: {chosen.server}, driven by wrk", "req", outer))
    for trouble in tables.troubles(outer):
        out.print(f"[red]{trouble}[/red]")
    profiles = {} if chosen.no_profile else _profiles(chosen, out)
    return {
        "inside": [[*key, result] for key, result in inside.items()],
        "end to end": [[*key, result] for key, result in outer.items()],
        "profiles": profiles,
    }


def _inside(backend: str, threads: int, seconds: float) -> tables.Result:
    command = [sys.executable, "-m", "server.load.inside", backend, str(threads), str(seconds)]
    with outside.child(*command) as process:
        output, _ = process.communicate(timeout=seconds + 60)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    result: tables.Result = json.loads(output)
    return result


def _profiles(chosen: argparse.Namespace, out: Console) -> dict[str, Any]:
    """Where the time goes with the most threads. The sampling itself slows the server somewhat."""
    threads, found = max(chosen.threads), {}
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "profile.json")
            with out.status(f"profile: {backend}, {threads} threads"):
                result = outside.drive(
                    backend,
                    threads,
                    chosen.seconds,
                    chosen.connections,
                    server=chosen.server,
                    profile=str(path),
                )
            found[backend] = json.loads(path.read_text(encoding="utf-8"))
        title = f"Where the server's processor time goes: {backend}, {threads} threads"
        for table in tables.profile(title, found[backend], result):
            out.print(table)
    return found


def main() -> int:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    chosen = options()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    out = tables.console()
    try:
        results = measure(chosen, out)
    except KeyboardInterrupt:
        out.print("interrupted: the server and wrk are stopped")
        return 130
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
