"""The whole server in a process of its own, driven by wrk over loopback."""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

SESSIONS = 256
_SCRIPT = Path(__file__).with_name("clients.lua")
_LIMIT = 60.0  # seconds that anything may take beyond its time


@contextmanager
def child(*command: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program, and end it however the block is left.

    It has a session of its own, so a Ctrl-C at the terminal reaches us alone, and we end it.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, stdin=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=_LIMIT)
        finally:
            process.kill()


def drive(
    backend: str,
    threads: int,
    seconds: float,
    connections: int,
    *,
    server: str = "cheroot",
    profile: str | None = None,
) -> dict[str, Any]:
    """Start a server, drive it, stop it; give what wrk saw and what the server used."""
    options = ["--backend", backend, "--server", server, "--threads", str(threads)]
    options += ["--port", "0", "--behind-proxy"]
    if profile:
        options += ["--profile", profile]
    with child(sys.executable, "-m", "server", *options) as process:
        address = _address(process)
        # wrk holds connections open; those of gunicorn's workers are of the master's children.
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        with tempfile.TemporaryDirectory() as folder:
            sessions = Path(folder, "sessions")
            sessions.write_text("\n".join(_session(address) for _ in range(SESSIONS)) + "\n")
            before = [each.cpu_times() for each in family]
            seen = _wrk(address, sessions, seconds, connections)
            after = [each.cpu_times() for each in family]
    user = sum(b.user - a.user for a, b in zip(before, after, strict=True))
    system = sum(b.system - a.system for a, b in zip(before, after, strict=True))
    return {**seen, "cpu": user + system, "system": system}


def _address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if found := re.match(r"server +(http://\S+)/", line):
            return found[1]
    raise RuntimeError("the server did not start")


def _session(address: str) -> str:
    with urllib.request.urlopen(f"{address}/hello", timeout=_LIMIT) as answer:
        found = re.match("session=([^;]+)", answer.headers["Set-Cookie"])
    assert found is not None
    return found[1]


def _wrk(address: str, sessions: Path, seconds: float, connections: int) -> dict[str, Any]:
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command = ["wrk", *options, "-s", str(_SCRIPT), address, "--", str(sessions)]
    with child(*command) as process:
        output, _ = process.communicate(timeout=seconds + _LIMIT)
    found = re.search(r"^RESULT (\{.*\})$", output, re.MULTILINE)
    if process.returncode or not found:
        raise RuntimeError(f"wrk failed:\n{output}")
    seen: dict[str, Any] = json.loads(found[1])
    return seen
