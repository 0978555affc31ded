"""Where the server's processor time goes: by function, sampled by one thread.

A few hundred times a second the thread asks the system which threads are running, and not waiting
(Linux, by thread), and then looks at their current functions. Work in the kernel counts for the
function that called it.
"""

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

PAUSE = 0.004  # seconds between two looks
_HERE = str(Path(__file__).parent)
# What the innermost known function belongs to.
_LAYERS = {"cheroot": "HTTP server", "gunicorn": "HTTP server", "prometheus_client": "metrics"}


class Sampler:
    """Samples from `start` to `stop`, and then writes `path`. Without a path it does nothing."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._functions: Counter[tuple[str, str]] = Counter()
        self._layers: Counter[str] = Counter()

    def start(self) -> None:
        if self._path:
            self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is None or self._path is None:
            return
        self._stop.set()
        self._thread.join()
        functions = [[*name, samples] for name, samples in self._functions.most_common()]
        text = json.dumps({"layers": dict(self._layers), "functions": functions})
        Path(self._path).write_text(text, encoding="utf-8")

    def _run(self) -> None:
        while not self._stop.wait(PAUSE):
            running = [
                thread
                for thread in threading.enumerate()
                if thread is not self._thread and _is_running(thread.native_id or 0)
            ]
            frames = sys._current_frames() if running else {}
            for thread in running:
                frame = frames.get(thread.ident or 0)
                if frame is not None:
                    layer, function = _place(frame)
                    self._functions[layer, function] += 1
                    self._layers[layer] += 1


def _is_running(thread: int) -> bool:
    """Say whether a thread computes, or would if it had a processor."""
    try:
        text = Path(f"/proc/self/task/{thread}/stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    # After the name, which is in parentheses and may contain anything, the state follows.
    return text.rpartition(")")[2].split()[0] == "R"


def _place(frame: FrameType) -> tuple[str, str]:
    """The layer that a thread is in, and its function."""
    code = frame.f_code
    function = f"{Path(code.co_filename).name}:{getattr(code, 'co_qualname', code.co_name)}"
    inner: FrameType | None = frame
    while inner is not None:
        path = inner.f_code.co_filename
        if path.startswith(_HERE):
            name = Path(path).name
            if name in ("cheroot_server.py", "gunicorn_server.py", "deadlines.py"):
                return "HTTP server", function
            if name in ("ours.py", "plain.py", "limits.py"):
                return "shared state", function
            if name == "metrics.py":
                return "metrics", function
            if name == "status.py":
                return "status page", function
            return "application", function
        for package, layer in _LAYERS.items():
            if f"/{package}/" in path:
                return layer, function
        inner = inner.f_back
    return "other", function
