"""The application alone: threads call it as an HTTP server would, without HTTP.

Run as a program it measures one state with so many threads, and prints the result as JSON. Each
needs a process of its own, as what one leaves behind would slow down the next.
"""

import io
import itertools
import json
import sys
import threading
import time
from typing import Any

from ..application import Application
from ..configuration import Config
from ..state import new_state

SESSIONS = 256
_KEPT = 50_000  # durations that a thread keeps, of those at even distances


def measure(backend: str, threads: int, seconds: float) -> dict[str, float]:
    state = new_state(backend, Config())
    application = Application(state, behind_proxy=True)
    sessions = [state.begin_session() for _ in range(SESSIONS)]
    barrier = threading.Barrier(threads + 1)
    results: list[tuple[int, list[int]]] = []
    over = threading.Event()

    def call(number: int) -> None:
        # Texts of its own, as each request brings its own: threads share no reference count.
        own = [text[:1] + text[1:] for text in sessions[number:] + sessions[:number]]
        environs = [_environ(session, at) for at, session in enumerate(own)]

        def start_response(*_: Any) -> None:
            pass

        took: list[int] = []
        clock, is_over, calls = time.perf_counter_ns, over.is_set, 0
        barrier.wait()
        for environ in itertools.cycle(environs):
            began = clock()
            application({**environ}, start_response)
            if calls < _KEPT or not calls % 16:
                took.append(clock() - began)
            calls += 1
            if not calls % 16 and is_over():
                break
        results.append((calls, took))

    workers = [
        threading.Thread(target=call, args=(number * 31,), daemon=True) for number in range(threads)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    began, cpu = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    over.set()
    for worker in workers:
        worker.join()
    passed, used = time.perf_counter() - began, time.process_time() - cpu
    took = sorted(itertools.chain.from_iterable(each for _, each in results))
    calls = sum(calls for calls, _ in results)
    return {
        "requests": calls,
        "seconds": passed,
        "p50": took[len(took) // 2] / 1e9,
        "p99": took[len(took) * 99 // 100] / 1e9,
        "cpu": used,
    }


def _environ(session: str, number: int) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/hello",
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_COOKIE": f"session={session}",
        "HTTP_X_FORWARDED_FOR": f"10.0.{number // 250}.{number % 250}",
        "wsgi.input": io.BytesIO(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
