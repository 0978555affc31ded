"""Handing items from thread to thread: `Channel` beside the queues of `queue`.

`queue.SimpleQueue` is the fastest queue of the standard library, but has no bound, so its senders
never wait. `queue.Queue` does what a channel does (from 3.13 on it can be closed, too).
"""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import TYPE_CHECKING

from rows import LOOP_ALONE, Operation, Row, hoisted, ours
from suite import main

from nogil_sync import Channel

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each thread makes its own item: no other thread touches its reference count before it is sent.
KEPT = "item = object()"


def through(row: Row) -> Row:
    """Each thread puts into the queue `q` and takes from it, alternately."""
    return replace(row, body="q.put(item)\nq.get()", prologue=KEPT)


SIMPLE_QUEUE = Row("queue.SimpleQueue", "stdlib", "", lambda: {"q": queue.SimpleQueue()})


def queue_of(capacity: int) -> Row:
    return Row(f"queue.Queue({capacity})", "stdlib", "", lambda: {"q": queue.Queue(capacity)})


def channel_of(capacity: int) -> Row:
    return Row(f"Channel({capacity})", "ours", "", lambda: {"c": Channel(capacity)})


def in_turn() -> Operation:
    """Each thread sends and then receives, so no thread ever waits."""
    simple = through(SIMPLE_QUEUE)
    mine = replace(channel_of(1024), body="c.send(item)\nc.recv()", prologue=KEPT)
    tries = replace(
        mine, name="Channel(1024), try_send and try_recv", body="c.try_send(item)\nc.try_recv()"
    )
    return Operation(
        "Channel, send and recv by each thread",
        simple.name,
        (
            LOOP_ALONE,
            simple,
            hoisted(simple, put="q.put", get="q.get"),
            through(queue_of(1024)),
            *ours(mine, "c", send="c.send", receive="c.recv"),
            *ours(tries, "c"),
        ),
    )


def roles(threads: int) -> Mapping[str, object]:
    """Half of the threads send, half receive; of an odd number the last does nothing."""
    some = [(True, False), (False, True)] * (threads // 2)
    return {"roles": [*some, (False, False)]}


def one_way(
    name: str, item: str, reference: Row, *others: Row, channels: tuple[int, ...]
) -> Operation:
    """Some threads only send, the others only receive."""
    body = f"if sends:\n    {{put}}({item})\nif receives:\n    {{get}}()"
    # `pop` gives each thread a role of its own.
    prologue = f"{KEPT}\nsends, receives = roles.pop(0)"

    def row(base: Row, put: str, get: str) -> Row:
        return replace(base, body=body.format(put=put, get=get), prologue=prologue, sized=roles)

    mine = [row(channel_of(capacity), "c.send", "c.recv") for capacity in channels]
    return Operation(
        name,
        reference.name,
        (
            LOOP_ALONE,
            row(reference, "q.put", "q.get"),
            *(row(other, "q.put", "q.get") for other in others),
            *ours(mine[0], "c", send="c.send", receive="c.recv"),
            *mine[1:],
        ),
        threads=(2, 4, 8, 16),
    )


def operations(_peers: list[str]) -> list[Operation]:
    queues = queue_of(1024), SIMPLE_QUEUE
    return [
        in_turn(),
        one_way("Channel, half send, half receive", "item", *queues, channels=(1024, 64)),
        one_way("Channel, half send new items, half receive", "[item]", *queues, channels=(1024,)),
        replace(
            one_way("Channel, rendezvous and one place", "item", queue_of(1), channels=(1, 0)),
            threads=(2, 8),
            quick=False,
        ),
    ]


if __name__ == "__main__":
    main(operations)
