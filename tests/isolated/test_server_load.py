"""`./dev load`, short, and what a Ctrl-C in the middle of it leaves: nothing."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from marks import starts_processes
from servers import EXAMPLES, needs_server, until
from support import TIMEOUT

pytestmark = [
    starts_processes,
    needs_server,
    pytest.mark.skipif(
        not sysconfig.get_config_var("Py_GIL_DISABLED"),
        reason="./dev load runs on free-threaded interpreters",
    ),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk"),
    pytest.mark.skipif(importlib.util.find_spec("psutil") is None, reason="needs psutil"),
]


def load(*options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "server.load", *options],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES), "PYTHONWARNINGS": ""},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_load_compares_both_states_and_says_where_time_goes(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ("--threads", "2", "--seconds", "1", "--inside-seconds", "0.1", "--connections", "4")
    process = load(*options, "--json", str(results))
    output, errors = process.communicate(timeout=4 * TIMEOUT)
    assert process.returncode == 0, errors
    assert not errors
    for part in ("Inside the application", "End to end", "ratio", "HTTP server", "p99"):
        assert part in output
    assert "broken" not in output
    found = json.loads(results.read_text())
    for where in ("inside", "end to end"):
        assert [(backend, threads) for backend, threads, _ in found[where]] == [
            ("plain", 2),
            ("ours", 2),
        ]
        for _, _, result in found[where]:
            assert result["requests"] > 0
            assert 0 < result["p50"] <= result["p99"]
    if sys.platform == "linux":
        assert "HTTP server" in found["profiles"]["ours"]["layers"]


def test_interrupted_load_leaves_no_process() -> None:
    import psutil

    process = load("--threads", "2", "--seconds", "600", "--inside-seconds", "0.05")
    children: list[psutil.Process] = []

    def wrk_runs() -> bool:
        nonlocal children
        children = psutil.Process(process.pid).children(recursive=True)
        return any(each.name() == "wrk" for each in children)

    try:
        until(wrk_runs, "wrk does not run")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, errors
    assert output.endswith("interrupted: the server and wrk are stopped\n")
    assert not errors
    assert len(children) == 2
    assert not any(each.is_running() for each in children)
