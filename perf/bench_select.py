"""Waiting for the first of several: `select` beside the calls that wait for one.

The standard library has nothing like it: with `queue` a program polls, or uses a thread for each.
"""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import TYPE_CHECKING

from rows import LOOP_ALONE, Operation, Row, hoisted
from suite import main

from nogil_sync import Channel, Event, select, try_select

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEPT = "item = object()"


def shared() -> Mapping[str, object]:
    """One channel; idle events, and one that is set."""
    ready = Event()
    ready.set()
    return {
        "c": Channel(1024),
        "ready": ready,
        **{f"idle{n}": Event() for n in range(4)},
        "select": select,
        "try_select": try_select,
    }


def row(name: str, body: str, prologue: str = "") -> Row:
    return Row(name, "ours", body, shared, prologue)


def one_is_ready() -> Operation:
    """Each thread sends an item and then takes one, so a case is ready whenever it looks."""
    receive = row("recv", "c.send(item)\nc.recv()", KEPT)
    return Operation(
        "select, one case is ready",
        receive.name,
        (
            LOOP_ALONE,
            Row(
                "queue.SimpleQueue",
                "stdlib",
                "q.put(item)\nq.get()",
                lambda: {"q": queue.SimpleQueue()},
                KEPT,
            ),
            receive,
            hoisted(receive, send="c.send", receive="c.recv"),
            replace(receive, name="select of it", body="c.send(item)\nselect(c)"),
            replace(
                receive,
                name="select of it and 3 idle events",
                body="c.send(item)\nselect(c, idle0, idle1, idle2)",
            ),
            row("select of a set event", "select(ready)"),
            row("try_select of an idle event", "try_select(idle0)"),
            row("try_select of 4 idle events", "try_select(idle0, idle1, idle2, idle3)"),
        ),
    )


PING_PONG = """\
if begins:
    there.{put}(item)
    {back}
elif answers:
    {there}
    back.{put}(item)
"""


def pairs(threads: int, make: Callable[[], object]) -> Mapping[str, object]:
    """A pair of channels for every two threads; of an odd number the last does nothing."""
    roles: list[tuple[object, ...]] = []
    for _ in range(threads // 2):
        there, back = make(), make()
        roles += [(True, False, there, back), (False, True, there, back)]
    return {"roles": [*roles, (False, False, None, None)]}


def wake_up() -> Operation:
    """Two threads answer each other, so each of them waits for each item."""

    def waiting(name: str, call: str) -> Row:
        return Row(
            name,
            "ours",
            PING_PONG.format(put="send", back=call.format("back"), there=call.format("there")),
            shared,
            f"{KEPT}\nbegins, answers, there, back = roles.pop(0)",
            lambda threads: pairs(threads, lambda: Channel(1)),
        )

    simple = replace(
        waiting("queue.SimpleQueue", "{}.get()"),
        kind="stdlib",
        body=PING_PONG.format(put="put", back="back.get()", there="there.get()"),
        sized=lambda threads: pairs(threads, queue.SimpleQueue),
    )
    receive = waiting("recv", "{}.recv()")
    return Operation(
        "select, woken by one of its cases",
        receive.name,
        (
            simple,
            receive,
            waiting("select of it", "select({})"),
            waiting("select of it and 4 idle events", "select({}, idle0, idle1, idle2, idle3)"),
        ),
        threads=(2, 4, 8),
    )


def operations(_peers: list[str]) -> list[Operation]:
    return [one_is_ready(), wake_up()]


if __name__ == "__main__":
    main(operations)
