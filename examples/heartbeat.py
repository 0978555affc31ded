"""A heartbeat beside other work: at a fixed interval, in a thread that also waits for jobs.

Use a Ticker, and select where one thread waits for ticks and for something else. The ticks keep to
their schedule however long the work between them takes; those that came too late are dropped. No
thread is needed for the ticks, and none looks at the clock again and again.

The naive version looks for a job, works, and sleeps. Each beat comes later than the one before it
by what the work took, and jobs wait for the sleeper.
"""

import queue
import time

from measure import compare, options, run

from nogil_sync import Channel, ChannelClosed, Event, TaskGroup, Ticker, after, select

INTERVAL = 0.01


def work() -> None:
    time.sleep(0.002)  # whatever the job is


def naive(jobs: "queue.Queue[int]", seconds: float) -> list[float]:
    beats: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        beats.append(time.monotonic())
        while True:
            try:
                jobs.get_nowait()
            except queue.Empty:
                break
            work()
        time.sleep(INTERVAL)
    return beats


def ticked(jobs: Channel[int], seconds: float) -> list[float]:
    beats: list[float] = []
    ticker, over = Ticker(INTERVAL), after(seconds)
    while True:
        selected = select(jobs, ticker, over)
        if selected.case is ticker:
            beats.append(time.monotonic())
        elif selected.case is over or selected.closed:
            return beats
        else:
            work()


def late(beats: list[float]) -> str:
    """How far the last beat is behind the schedule of the most punctual one."""
    count = len(beats)
    # By the schedule of a first beat that came late, all others would be early.
    begin = min(beat - number * INTERVAL for number, beat in enumerate(beats))
    behind = beats[-1] - begin - (count - 1) * INTERVAL
    missed = round(behind / INTERVAL)
    return f"{count} beats; the last one {behind * 1000:,.0f} ms behind ({missed} missed)"


def demonstrate(seconds: float) -> None:
    waiting: queue.Queue[int] = queue.Queue()
    jobs, stop = Channel[int](8), Event()

    def produce() -> None:
        for _ in Ticker(0.004):
            if stop.is_set():
                return
            waiting.put(1)
            try:
                jobs.try_send(1)
            except ChannelClosed:
                return

    with TaskGroup() as group:
        group.go(produce)
        try:
            slept = naive(waiting, seconds)
            while jobs.try_recv():
                pass
            kept = ticked(jobs, seconds)
        finally:
            stop.set()
    compare(
        "beats a second",
        ("sleeping between jobs, naive", len(slept) / seconds, late(slept)),
        ("select with a Ticker", len(kept) / seconds, late(kept)),
    )


def main() -> None:
    demonstrate(options(__doc__, threads=1, seconds=0.3).seconds)


if __name__ == "__main__":
    run(main)
