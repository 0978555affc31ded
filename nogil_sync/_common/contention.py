"""The contention profile: who waits for which object, where, how long, and who held it meanwhile.

The waits are recorded by the threads that wait (`recording`).  Each profile has a thread, its
*recorder*.  In every round the recorder takes what was recorded and adds it up.  Then it looks at
the threads that wait at that moment: the stacks of the threads that hold the objects are samples of
what holders do while others wait.  So waits are counted and timed exactly; only the shares of the
holders are sampled.

Only its recorder changes a profile's sums.  Recorders are never the main thread, so no signal
handler and no interrupt comes between.  A thread that reads the sums copies them first, by single
calls in C.

In the child of a fork there are no recorders, and no profile runs.
"""

import threading
from collections.abc import Iterable
from heapq import heapify, heappush, heappushpop
from itertools import chain
from pathlib import Path
from time import monotonic, thread_time
from traceback import FrameSummary, StackSummary
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias
from weakref import ref

from .contention_text import printable, table
from .forked import in_child
from .labels import global_names, name_of
from .originals import LockType, allocate_lock
from .recording import WITHOUT_OBJECT, Recorded, Token, forget, switch, take, threads
from .sleep import closed_gate, sleep_at
from .spawn import Thread
from .waiting import Sleeper, sleepers, stacks_of

if TYPE_CHECKING:
    from os import PathLike

__all__ = [
    "ContendedObject",
    "ContentionHolder",
    "ContentionProfile",
    "ContentionSite",
    "profile_contention",
]

_ROUND = 0.01  # seconds between two rounds of a recorder
_REST = 50  # a recorder rests at least so many times as long as its last round computed,
_LONG_ROUND = 0.1  # but at most so many seconds; so also while nobody waits
_SHOWN_AFTER = 0.1  # seconds for which a wait that may go on is held back
_PAUSE = 1.0  # seconds; two sleeps with a longer pause between them belong to two waits
_INTERVALS = 240  # the max of single waits that are kept of an object, the longest ones
_BUCKETS = 256  # the max of buckets in which the waits of an object are summed up over time
_SAMPLES = 1024  # the max of samples of holders that are kept of an object
_HOME = __file__.rpartition("_common")[0]
# Files of frames that are left out at the outer end of a stack.
_UNTOLD = (_HOME, threading.__file__, "<frozen runpy>")

# A frame: file, line, function. Stacks are innermost first.
Call: TypeAlias = tuple[str, int, str]
Calls: TypeAlias = tuple[Call, ...]

# A thread in one of these waits for something to happen, and not for a thread that is in the way.
_MEETINGS = frozenset(
    (
        *("Barrier", "Channel", "ChannelSender", "Cond", "Event", "Future", "Sending"),
        *("TaskGroup", "Ticker", "WaitGroup", "select"),
    )
)


# ---- What a profile says ----


class ContentionSite(NamedTuple):
    """One place in a program at which threads waited for an object."""

    #: The call that waited, ``"Mutex.acquire"`` say.
    operation: str
    #: The calls that led to it, the outermost first.
    stack: StackSummary
    #: How often a thread waited here.
    waits: int
    #: How long threads waited here, all together.
    seconds: float
    #: The longest of these waits, in seconds.
    longest: float
    #: How many of the waits ended without what they waited for: timed out, cancelled, interrupted.
    failed: int
    #: How often an atomic operation found that another thread had been faster.
    retries: int


class ContentionHolder(NamedTuple):
    """A thread that held an object while others waited for it, and where it was meanwhile."""

    #: The name of the thread.
    thread: str
    #: Where it was, the outermost call first. (With the threading backend on a free-threaded
    #: interpreter: where it took the object, if it had waited for that.)
    stack: StackSummary
    #: The part of the waiting time that fell to it here: samples, so an estimate.
    seconds: float


class ContendedObject(NamedTuple):
    """One object for which threads waited."""

    #: Its label; without one the global variable that has it; without one its type and a number.
    name: str
    #: Its type's name.
    type: str
    #: Whether threads waited because others held it (a lock, a semaphore, a computation), and
    #: not for something to happen (a channel, an event, …), which may be all that they had to do.
    contended: bool
    #: How often threads waited for it.
    waits: int
    #: How long threads waited for it, all together.
    seconds: float
    #: The longest of these waits, in seconds.
    longest: float
    #: How often atomic operations found that another thread had been faster.
    retries: int
    #: Where they waited, the place with the most waiting time first.
    sites: list[ContentionSite]
    #: Who held it meanwhile, the one with the largest part of the waiting time first.
    holders: list[ContentionHolder]


for _public in (ContentionSite, ContentionHolder, ContendedObject):
    _public.__module__ = "nogil_sync.diagnostics"


# ---- Sums ----


class _Site:
    """The sums of one call site."""

    __slots__ = ("failed", "longest", "retries", "seconds", "waits")

    def __init__(self) -> None:
        self.waits = self.failed = self.retries = 0
        self.seconds = self.longest = 0.0

    def add(self, seconds: float, served: bool) -> None:
        self.waits += 1
        self.seconds += seconds
        self.longest = max(self.longest, seconds)
        self.failed += not served


def _thread_name(token: Token) -> str:
    return f"thread {token.ident}" if token.thread is None else token.thread.name


class Interval(NamedTuple):
    """One wait, in seconds from the profile's begin. They are compared by their length."""

    seconds: float
    began: float
    thread: str
    site: tuple[str, Calls]


class Ending(NamedTuple):
    """When a wait ended, in seconds from the profile's begin, and how."""

    at: float
    served: bool


class Subject:
    """All that is known of one object."""

    def __init__(self, token: Token, number: int) -> None:
        self.obj = token.obj
        self.type = token.type.__name__ if token.type else token.operation
        self.label: str | None = None
        self.number = number
        self.contended = token.operation.partition(".")[0] not in _MEETINGS
        self.sites: dict[tuple[str, Calls], _Site] = {}
        self.holders: dict[tuple[str, Calls], float] = {}
        self.taken_at: dict[int, Calls] = {}  # where each thread was served last
        self.intervals: list[Interval] = []  # a heap
        self.width = 0.001  # of a bucket, in seconds
        self.buckets: dict[int, float] = {}  # seconds waited, by the time of waiting
        self.samples: list[tuple[float, str]] = []  # when this thread was found to hold it
        self.skipped = self.stride = 0  # of the samples every so many is kept

    def add(self, token: Token, began: float, ended: float, served: bool) -> None:
        """Add one wait, its times in seconds from the profile's begin."""
        where, site = self.__site(token)
        site.add(ended - began, served)
        if served:
            self.taken_at[token.ident] = where[1]
        self.__keep(Interval(ended - began, began, _thread_name(token), where))
        self.__spread(began, ended)

    def extend(self, token: Token, began: float, first: "Ending", last: "Ending") -> None:
        """Have a wait that was added with the first ending have the last one."""
        where, site = self.__site(token)
        site.seconds += last.at - first.at
        site.longest = max(site.longest, last.at - began)
        site.failed += first.served - last.served
        if last.served:
            self.taken_at[token.ident] = where[1]
        before = Interval(first.at - began, began, _thread_name(token), where)
        if before in self.intervals:
            self.intervals.remove(before)
            heapify(self.intervals)
        self.__keep(before._replace(seconds=last.at - began))
        self.__spread(first.at, last.at)

    def __keep(self, interval: Interval) -> None:
        if len(self.intervals) < _INTERVALS:
            heappush(self.intervals, interval)
        else:
            heappushpop(self.intervals, interval)

    def add_retries(self, token: Token, retries: int) -> None:
        """Add that an operation was tried again so many times."""
        self.__site(token)[1].retries += retries

    def __site(self, token: Token) -> tuple[tuple[str, Calls], _Site]:
        obj = self.obj() if self.obj is not None else None
        if obj is not None:
            self.label = name_of(obj)
        where = (token.operation, _calls(token.stack))
        return where, self.sites.get(where) or self.sites.setdefault(where, _Site())

    def __spread(self, began: float, ended: float) -> None:
        while ended >= self.width * _BUCKETS:
            merged: dict[int, float] = {}
            for at, seconds in self.buckets.items():
                merged[at // 2] = merged.get(at // 2, 0.0) + seconds
            self.buckets = merged
            self.width *= 2
        for at in range(int(began / self.width), int(ended / self.width) + 1):
            start = at * self.width
            inside = min(ended, start + self.width) - max(began, start)
            self.buckets[at] = self.buckets.get(at, 0.0) + max(inside, 0.0)

    def sample(self, now: float, thread: str, calls: Calls, seconds: float) -> None:
        """Note that this thread holds the object, and let it have so much of the waiting time."""
        self.holders[thread, calls] = self.holders.get((thread, calls), 0.0) + seconds
        self.skipped += 1
        if self.skipped > self.stride:
            self.skipped = 0
            self.samples.append((now, thread))
            if len(self.samples) > _SAMPLES:
                self.samples = self.samples[::2]
                self.stride = 2 * self.stride + 1


def _calls(stack: Iterable[Any]) -> Calls:
    """A stack as it is shown: without our own frames at its ends, and those that start programs."""
    each = iter(stack)
    pairs: Iterable[tuple[CodeType, int | None]] = zip(each, each, strict=True)
    calls = [(code.co_filename, line or 0, code.co_qualname) for code, line in pairs]
    first, last = 0, len(calls)
    while first < last and calls[first][0].startswith(_HOME):
        first += 1
    while first < last and calls[last - 1][0].startswith(_UNTOLD):
        last -= 1
    return tuple(calls[first:last] or calls[:1])


def _summary(calls: Calls) -> StackSummary:
    return StackSummary.from_list(
        [FrameSummary(*call, lookup_line=False) for call in reversed(calls)]
    )


class Snapshot(NamedTuple):
    """An object with what only the page shows of it."""

    number: int
    shown: ContendedObject
    intervals: list[Interval]
    width: float
    buckets: dict[int, float]
    samples: list[tuple[float, str]]


# ---- Recording ----


class _Recorders:
    """All recorders that are at work."""

    def __init__(self) -> None:
        self.lock: LockType = allocate_lock()  # only recorders take it
        self.all: tuple[_Recorder, ...] = ()

    def add(self, recorder: "_Recorder") -> None:
        """Let this one have what is recorded from now on."""
        with self.lock:
            self.__hand_out()
            self.all = (*self.all, recorder)
            switch(True)

    def remove(self, recorder: "_Recorder") -> list[Sleeper]:
        """Give this one what was recorded so far, for the last time.

        Returns the waits that go on.
        """
        with self.lock:
            now = monotonic()
            going = sleepers()
            self.__hand_out()
            self.all = tuple(each for each in self.all if each is not recorder)
            if not self.all:
                switch(False)
        ended = {each.token.ident for each in recorder.inbox if each.ended >= now}
        return [each for ident, each in going.items() if ident not in ended]

    def collect(self, recorder: "_Recorder") -> list[Recorded]:
        """What was recorded since this one was here last."""
        with self.lock:
            self.__hand_out()
            waits, recorder.inbox = recorder.inbox, []
        return waits

    def __hand_out(self) -> None:
        waits = take()
        for each in self.all:
            each.inbox += waits

    def forget(self) -> None:
        """In the child of a fork."""
        self.lock = allocate_lock()
        forget()
        if self.all:
            self.all = ()
            switch(False)
            take()


_recorders = _Recorders()
in_child(_recorders.forget)


class _Recorder(Thread):
    """The thread of one profile, and its sums."""

    def __init__(self) -> None:
        super().__init__(name="nogil_sync contention profile")
        self.daemon = True  # a profile that nobody ends keeps no process alive
        self.inbox: list[Recorded] = []
        # Waits that may go on, by their threads: those held back, and those that were added.
        self.unfinished: dict[int, Recorded] = {}
        self.shown: dict[int, Recorded] = {}
        self.subjects: dict[object, Subject] = {}
        self.began = self.looked = self.ended = 0.0
        self.threads: set[int] = set()
        self.at_work = closed_gate()
        self.stop = closed_gate()

    def run(self) -> None:
        """Record until `cease` is called."""
        _recorders.add(self)
        self.began = self.looked = monotonic()
        self.at_work.release()
        try:
            rest = _ROUND
            while not self.stop.acquire(True, rest):
                before = thread_time()
                waits = _recorders.collect(self)
                self.__add_up(waits)
                if self.__look(monotonic()) or waits:
                    rest = max(_ROUND, (thread_time() - before) * _REST)
                else:  # nobody waits: look less often
                    rest *= 2
                rest = min(rest, _LONG_ROUND)
        finally:  # also without memory
            going = _recorders.remove(self)
            now = monotonic()
            self.__add_up(self.inbox)
            self.__add_going(going, now)
            self.shown.clear()
            self.ended = now

    def cease(self) -> None:
        """Have it end."""
        try:
            self.stop.release()
        except RuntimeError:
            pass  # it was told before

    def __add_up(self, waits: list[Recorded]) -> None:
        for each in waits:
            if each.retries:
                self.__subject(each.token).add_retries(each.token, each.retries)
                continue
            ident = each.token.ident
            before = self.unfinished.pop(ident, None)
            shown = self.shown.pop(ident, None)
            if before is not None and _goes_on_with(before, each):
                wait = each._replace(began=before.began, token=before.token)
            elif shown is not None and _goes_on_with(shown, each):
                wait = each._replace(began=shown.began, token=shown.token)
                self.__extend(shown, wait)
                if wait.goes_on:
                    self.shown[ident] = wait
                continue
            else:
                wait = each
                if before is not None:
                    self.__add(before)
            if wait.goes_on:
                self.unfinished[ident] = wait
            else:
                self.__add(wait)
        self.__show(monotonic() - _SHOWN_AFTER)

    def __show(self, before: float) -> None:
        """Add the waits that have not gone on since this time."""
        for ident, wait in list(self.unfinished.items()):
            if wait.ended <= before:
                self.shown[ident] = self.unfinished.pop(ident)
                self.__add(wait)

    def __add(self, wait: Recorded) -> None:
        self.threads.add(wait.token.ident)
        began, ended = self.__times(wait)
        self.__subject(wait.token).add(wait.token, began, ended, wait.served)

    def __extend(self, before: Recorded, wait: Recorded) -> None:
        """Have a wait that was added end later."""
        began, first = self.__times(before)
        _, last = self.__times(wait)
        endings = Ending(first, before.served), Ending(last, wait.served)
        self.__subject(wait.token).extend(wait.token, began, *endings)

    def __times(self, wait: Recorded) -> tuple[float, float]:
        """When it began and ended, in seconds from the profile's begin."""
        began = max(wait.began - self.began, 0.0)
        return began, max(wait.ended - self.began, began)

    def __add_going(self, going: list[Sleeper], now: float) -> None:
        """Add the waits that go on as if they ended now."""
        for each in going:
            gate = getattr(each.sleep, "gate", None)
            before = self.unfinished.pop(each.thread, None)
            shown = self.shown.get(each.thread)
            if before is not None and before.gate is gate:
                self.__add(before._replace(ended=now, served=True))
                continue
            if before is not None:
                self.__add(before)
            if shown is not None and shown.gate is gate:
                self.__extend(shown, shown._replace(ended=now, served=True))
            elif _is_told(each):
                self.__add(Recorded(now - each.seconds, now, True, 0, _token(each)))
        self.__show(now)

    def __subject(self, token: Token) -> Subject:
        key = token.operation if token.obj is None else id(token.obj)
        subject = self.subjects.get(key)
        if subject is None:
            subject = self.subjects[key] = Subject(token, len(self.subjects) + 1)
        return subject

    def __look(self, now: float) -> bool:
        """Look who holds what others wait for; whether anybody waits so."""
        asleep = sleepers()
        waits = [each for each in asleep.values() if each.holder and _is_told(each)]
        if waits:
            running = stacks_of({each.holder for each in waits} - asleep.keys())
            names = {each.ident: each.name for each in threading.enumerate()}
            for each in waits:
                subject = self.__subject(_token(each))
                if each.holder in asleep:
                    calls = _calls(chain.from_iterable(asleep[each.holder].lines))
                elif each.holder in running:
                    calls = _calls(chain.from_iterable(running[each.holder]))
                else:
                    calls = subject.taken_at.get(each.holder, ())
                name = names.get(each.holder) or f"thread {each.holder}"
                waited = min(each.seconds, now - self.looked)
                subject.sample(now - self.began, name, calls, waited)
        self.looked = now
        return bool(waits)


def _goes_on_with(wait: Recorded, sleep: Recorded) -> bool:
    """Whether this is the next sleep of the wait."""
    return sleep.gate is wait.gate and sleep.began - wait.ended < _PAUSE


def _is_told(sleep: Sleeper) -> bool:
    """Whether a program knows what waits there."""
    return sleep.obj is not None or sleep.operation in WITHOUT_OBJECT


def _token(sleep: Sleeper) -> Token:
    return Token(
        None if sleep.obj is None else ref(sleep.obj),
        None if sleep.obj is None else type(sleep.obj),
        sleep.operation,
        sleep.thread,
        threads.get(sleep.thread),
        tuple(chain.from_iterable(sleep.lines)),
    )


# ---- The profile ----


def _write(path: "str | PathLike[str]", text: str) -> None:
    with Path(path).open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


class ContentionProfile:
    """Who waited for which object of ours while the profile ran, where, how long, and for whom.

    Made by :func:`profile_contention`, and run by ``with``, once. It can be read while it runs, and
    then shows what was recorded up to some hundredths of a second ago.
    """

    __module__ = "nogil_sync.diagnostics"

    def __init__(self) -> None:
        self.__recorder: _Recorder | None = None
        self.__result: list[Snapshot] | None = None

    def __repr__(self) -> str:
        recorder = self.__recorder
        if recorder is None:
            state = "not begun"
        else:
            state = f"{self.seconds:.1f} s, {'over' if recorder.ended else 'running'}"
        return f"<{type(self).__module__}.{type(self).__qualname__}, {state}>"

    def __enter__(self) -> Self:
        """Begin to record. A profile that has begun before is a ``RuntimeError``."""
        if self.__recorder is not None:
            raise RuntimeError("a contention profile can be run once")
        self.__recorder = recorder = _Recorder()
        try:
            recorder.start()
            while not recorder.began:
                sleep_at(recorder.at_work, None, briefly=True)
        except BaseException:
            recorder.cease()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop recording. Waits that have not ended yet count for as long as they are by now."""
        if self.__recorder is not None:
            self.__recorder.cease()
            self.__recorder.join()

    @property
    def seconds(self) -> float:
        """How long the profile ran, or has run so far."""
        recorder = self.__recorder
        if recorder is None:
            return 0.0
        return (recorder.ended or monotonic()) - recorder.began

    @property
    def threads(self) -> int:
        """How many threads waited, by their names."""
        return 0 if self.__recorder is None else len(self.__recorder.threads.copy())

    @property
    def objects(self) -> list[ContendedObject]:
        """The objects for which threads waited.

        First those that were held by other threads, then those at which threads waited for
        something to happen; each with the most waiting time first.
        """
        return [each.shown for each in self._snapshots()]

    def _snapshots(self) -> list[Snapshot]:
        """The objects as `objects` has them, with what only the page shows."""
        if self.__result is not None:
            return self.__result
        recorder = self.__recorder
        if recorder is None:
            return []
        over = bool(recorder.ended)
        subjects = list(recorder.subjects.copy().values())
        living = {id(each): each.obj() for each in subjects if each.obj is not None}
        names = global_names(each for each in living.values() if each is not None)
        found = [
            _snapshot(each, names.get(id(living.get(id(each))))) for each in subjects if each.sites
        ]
        found.sort(
            key=lambda each: (not each.shown.contended, -each.shown.seconds, -each.shown.retries)
        )
        if over:
            self.__result = found
        return found

    def table(self, limit: int = 20) -> str:
        """The profile as text: at most so many objects of either kind, with sites and holders."""
        return "\n".join(table(self, limit)) + "\n"

    def folded(self) -> str:
        """The stacks in which threads waited, for flame graphs.

        One line for each: the calls from the outermost to the operation, with semicolons between
        them, the object, and the microseconds waited. This is the format that ``flamegraph.pl``,
        speedscope and inferno read.
        """
        lines = []
        for each in self.objects:
            for site in each.sites:
                calls = [f"{call.name} ({call.filename}:{call.lineno})" for call in site.stack]
                frames = [*calls, site.operation, each.name]
                path = ";".join(printable(frame).replace(";", ",") for frame in frames)
                lines.append(f"{path} {round(site.seconds * 1e6)}\n")
        return "".join(lines)

    def write_folded(self, path: "str | PathLike[str]") -> None:
        """Write :meth:`folded` to a file."""
        _write(path, self.folded())

    def write_html(self, path: "str | PathLike[str]") -> None:
        """Write the profile as a page of HTML that needs no other file and no network.

        It ranks the objects by the time for which threads waited, and shows the call sites and
        their calls, who held the objects meanwhile, and a time line of the worst ones.
        """
        from .contention_page import page

        _write(path, page(self))


def profile_contention() -> ContentionProfile:
    """Record who waits for which object of this library, where, how long, and for whom.

    To be used with ``with``; the profile is what comes of it. It covers all threads of the process.
    Profiles can be nested, and run in several threads at the same time.

    Each wait is counted and timed exactly, for each call site. So is each lost compare-and-swap of
    an atomic object: another thread had been faster, and the operation had to be tried again. Who
    held the object meanwhile, and where that thread was, is sampled, about a hundred times a second
    while somebody waits.
    Waits of asyncio's tasks are not recorded.

    While no profile runs it costs nothing. While one runs, a call that waits costs some
    microseconds more; a call that need not wait costs nothing. (The idea is that of Go's mutex and
    block profiles.)

    >>> import threading
    >>> from nogil_sync import Mutex
    >>> from nogil_sync.diagnostics import profile_contention
    >>> mutex = Mutex()
    >>> def use():
    ...     with mutex:
    ...         pass
    >>> with profile_contention() as profile:
    ...     with mutex:
    ...         thread = threading.Thread(target=use)
    ...         thread.start()
    ...         thread.join(0.05)
    ...     thread.join()
    >>> worst = profile.objects[0]
    >>> worst.type, worst.waits, worst.sites[0].operation
    ('Mutex', 1, 'Mutex.acquire')
    """
    return ContentionProfile()


profile_contention.__module__ = "nogil_sync.diagnostics"


def _snapshot(subject: Subject, variable: str | None) -> Snapshot:
    sites = []
    for (operation, calls), site in subject.sites.copy().items():
        sites.append(
            ContentionSite(
                operation,
                _summary(calls),
                site.waits,
                site.seconds,
                site.longest,
                site.failed,
                site.retries,
            )
        )
    sites.sort(key=lambda each: (-each.seconds, -each.retries))
    seconds = sum(each.seconds for each in sites)
    held = subject.holders.copy()
    whole = sum(held.values()) or 1.0
    holders = [
        ContentionHolder(thread, _summary(calls), seconds * part / whole)
        for (thread, calls), part in held.items()
    ]
    holders.sort(key=lambda each: -each.seconds)
    shown = ContendedObject(
        subject.label or variable or f"{subject.type} #{subject.number}",
        subject.type,
        subject.contended,
        sum(each.waits for each in sites),
        seconds,
        max(each.longest for each in sites),
        sum(each.retries for each in sites),
        sites,
        holders,
    )
    return Snapshot(
        subject.number,
        shown,
        sorted(subject.intervals.copy(), key=lambda each: each.began),
        subject.width,
        subject.buckets.copy(),
        subject.samples.copy(),
    )
