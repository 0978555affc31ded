"""Where the server's processor time goes: by function, sampled by one thread.

The thread looks at all others a few hundred times a second: at their current function, and at how
much processor time each used since it looked before, which the system says (Linux, by thread). So
threads that wait count for nothing, and work in the kernel counts for the function that called it.
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
        functions = [[*name, used] for name, used in self._functions.most_common()]
        text = json.dumps({"layers": dict(self._layers), "functions": functions})
        Path(self._path).write_text(text, encoding="utf-8")

    def _run(self) -> None:
        used: dict[int, int] = {}
        while not self._stop.wait(PAUSE):
            threads = [each for each in threading.enumerate() if each.native_id is not None]
            before = {**used}
            for thread in threads:
                used[thread.native_id or 0] = _processor_time(thread.native_id or 0)
            frames = sys._current_frames()
            for thread in threads:
                number, frame = thread.native_id or 0, frames.get(thread.ident or 0)
                spent = used[number] - before.get(number, used[number])
                if spent > 0 and frame is not None and thread is not self._thread:
                    layer, function = _place(frame)
                    self._functions[layer, function] += spent
                    self._layers[layer] += spent


def _processor_time(thread: int) -> int:
    """The nanoseconds that a thread has run."""
    try:
        return int(
            Path(f"/proc/self/task/{thread}/schedstat").read_text(encoding="ascii").split()[0]
        )
    except (OSError, ValueError, IndexError):
        return 0


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
