"""Checks whether what threads saw of an object is explained by its operations one after another.

A *history* is the calls that threads made on one object, each with the time at which it began
and ended, what it was and what came out. It is *linearizable* (Herlihy and Wing 1990) if the
calls can be put in an order that contradicts neither time (a call that ended before another
began comes first) nor the object's sequential specification.

The search is that of Wing and Gong (1993): any call that began before all others have ended may
be the first; take one whose outcome the specification allows, go on with the rest, and step
back where there is none. With Lowe's addition (2017) no configuration (which calls are
done, and the state they lead to) is looked at twice. Histories of independent parts of an object,
such as the keys of a map, are recorded and checked apart, which is as good and much faster
(Horn and Kroening 2015).

**Calls that wait** take effect more than once: at one moment such a call gets in line, at a later
one it gets what it waits for, or times out; in between other calls go on. They are specified as
the *dual* data structures of Scherer and Scott (2004): a call is replaced by its steps, which
all have its times (`in_steps`). The state says which thread has taken which step, so that no
step comes before the one it follows. So the order of the queue, and that no call overtakes another,
are part of the specification.

**Calls that meet**, as a send and a receive without a buffer, take effect together or not at all,
which is no order of single calls: they are *set-linearizable* (Neiger 1994). What they exchanged
shows which calls met, so the two are replaced by one, which happened while both were running
(`met`).

All calls of a history have returned. A plan with calls that wait must include calls that end
those waits; a call that does not return fails the test.
"""

import random
import sys
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from time import monotonic, perf_counter_ns, sleep
from typing import Any, NamedTuple

from support import FREE_THREADED, STRESS, TIMEOUT, cores

GIL = not FREE_THREADED
Step = tuple[str, tuple[Any, ...]]  # a method and its arguments

# What a thread does to an object: steps, or a generator that gets the result of each.
Plan = Iterable[Step] | Generator[Step, Any, None]
Choose = Callable[[random.Random, Any], Plan]


class Call(NamedTuple):
    """A call that a thread made."""

    thread: int
    begin: int
    end: int
    name: str
    args: tuple[Any, ...]
    result: Any  # the type of the exception, if that was the outcome

    def __str__(self) -> str:
        args = ", ".join(map(repr, self.args))
        return (
            f"thread {self.thread}  {self.begin:>9} .. {self.end:<9}"
            f"  {self.name}({args}) -> {self.result!r}"
        )


History = list[Call]

IMPOSSIBLE = object()

# From the state and a call to the next state, or IMPOSSIBLE if it cannot have had its result.
Specification = Callable[[Any, Call], Any]


def linearizable(history: Iterable[Call], initial: Hashable, after: Specification) -> bool:
    """Whether the calls can have come one after the other, from this state on."""
    calls = sorted(history, key=lambda call: call.begin)
    everything = (1 << len(calls)) - 1
    stack: list[tuple[int, Any]] = [(0, initial)]
    seen = set(stack)
    while stack:
        done, state = stack.pop()
        if done == everything:
            return True
        left = [(i, call) for i, call in enumerate(calls) if not done >> i & 1]
        first_end = min(call.end for _, call in left)
        for i, call in left:
            if call.begin > first_end:
                break  # one that is left ended before this one and all that follow began
            state_after = after(state, call)
            configuration = done | 1 << i, state_after
            if state_after is not IMPOSSIBLE and configuration not in seen:
                seen.add(configuration)
                stack.append(configuration)
    return False


def as_text(history: Iterable[Call]) -> str:
    """The history as text, for the message of a failed test."""
    calls = sorted(history, key=lambda call: call.begin)
    start = calls[0].begin if calls else 0
    return "\n".join(
        str(call._replace(begin=call.begin - start, end=call.end - start)) for call in calls
    )


def in_steps(history: History, steps: Callable[[Call], Iterable[str]]) -> History:
    """The calls replaced by their steps, which have their times and these names."""
    return [call._replace(name=name) for call in history for name in steps(call)]


def met(one: Call, other: Call, name: str) -> Call | None:
    """The two as one call that takes effect while both are there; None if they never were."""
    begin, end = max(one.begin, other.begin), min(one.end, other.end)
    return one._replace(begin=begin, end=end, name=name) if begin <= end else None


def record(
    objects: Sequence[Any],
    choose: Choose,
    seed: int = 0,
    call: Callable[..., Any] = lambda each, name, args: getattr(each, name)(*args),
    threads: int | None = None,
    lead: Choose | None = None,
) -> list[History]:
    """Have threads do to each object what `choose` says; return what they saw of each.

    `choose(random, object)` is asked by each thread for each object, beforehand; instead of it
    `lead`, if given, by one of them: that which ends what the others wait for. The threads go
    over the objects in step, so that they meet at each of them.
    """
    threads = threads or min(max(cores(), 2), 4)
    reached = [-1] * threads
    seen: list[list[list[Call]]] = [[[] for _ in objects] for _ in range(threads)]
    errors: list[BaseException] = []

    def work(me: int) -> None:
        rng = random.Random(f"{seed} {me}")
        mine = choose if lead is None or me else lead
        try:
            plans = [mine(rng, each) for each in objects]
            for i, each in enumerate(objects):
                steps = plans[i]
                plan = steps if isinstance(steps, Generator) else (step for step in steps)
                reached[me] = i
                spins = 0
                while min(reached) < i:
                    spins += 1
                    if errors:
                        return
                    if spins > 300 or GIL:
                        sleep(0)
                result = None
                while True:
                    try:
                        name, args = plan.send(result)
                    except StopIteration:
                        break
                    begin = perf_counter_ns()
                    try:
                        result = call(each, name, args)
                    except Exception as error:
                        result = type(error)
                    end = perf_counter_ns()
                    seen[me][i].append(Call(me, begin, end, name, args, result))
            reached[me] = len(objects)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(2 * TIMEOUT)
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]
    assert not any(worker.is_alive() for worker in workers), "hanging"
    return [[call for part in seen for call in part[i]] for i in range(len(objects))]


def overlapping(histories: Iterable[History]) -> int:
    """In how many histories calls of different threads overlap: the others prove nothing."""
    count = 0
    for history in histories:
        calls = sorted(history, key=lambda call: call.begin)
        latest = calls[:1]
        for call in calls[1:]:
            if call.begin <= latest[0].end and call.thread != latest[0].thread:
                count += 1
                break
            if call.end > latest[0].end:
                latest = [call]
    return count


# From a history and its object to the histories that must be linearizable: itself, in steps,
# or those of its parts. It asserts what needs no search.
Views = Callable[[History, Any], Iterable[History]]


def as_it_is(history: History, _: Any) -> list[History]:
    return [history]


def explain(
    histories: Iterable[History],
    objects: Iterable[Any],
    initial: Hashable,
    after: Specification,
    views: Views = as_it_is,
) -> None:
    """Assert that these histories of these objects can have been."""
    for history, each in zip(histories, objects, strict=True):
        for view in views(history, each):
            assert linearizable(view, initial, after), f"not linearizable:\n{as_text(view)}"


def verify(
    make: Callable[[int], Any],
    choose: Choose,
    initial: Hashable,
    after: Specification,
    views: Views = as_it_is,
    batch: int = 200,
    **options: Any,
) -> None:
    """Check histories of objects that `make(number)` makes.

    A thousand of them, and more if too few had calls that overlapped, as on a busy machine; but not
    much longer than half a second, unless none had.
    """
    checked = overlapped = 0
    begin = monotonic()
    while monotonic() < begin + (0.7 * STRESS if overlapped else TIMEOUT):
        objects = [make(checked + n) for n in range(batch)]
        histories = record(objects, choose, seed=checked, **options)
        explain(histories, objects, initial, after, views)
        checked += len(histories)
        overlapped += overlapping(histories)
        if checked >= 1000 and overlapped >= 200 * STRESS:
            break
    print(checked, "histories,", overlapped, "with overlapping calls")
    assert overlapped, "the threads never met"


def assert_rejected(
    make: Callable[[int], Any],
    choose: Choose,
    initial: Hashable,
    after: Specification,
    views: Views = as_it_is,
    batch: int = 100,
    **options: Any,
) -> None:
    """Assert that what `verify` does rejects a wrong implementation."""
    end = monotonic() + TIMEOUT
    checked = 0
    while monotonic() < end:
        objects = [make(checked + n) for n in range(batch)]
        histories = record(objects, choose, seed=checked, **options)
        checked += len(histories)
        try:
            explain(histories, objects, initial, after, views)
        except AssertionError:
            print("caught within", checked, "histories")
            return
    raise AssertionError("not caught")
