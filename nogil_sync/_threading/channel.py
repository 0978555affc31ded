"""Channel, pure Python: a queue of items, and one (see `_wait`) of waiters.

The items are kept in two stacks of linked pairs, the next to be received on top of one, the last
that was sent on top of the other: so a state is never changed, and the next one shares
almost all of it.

One step hands an item to one receiver at most, and accepts one waiting sender's at most: a section
has room for no more. Waiters that could be served as well are recalled, and look for themselves.

A receive that is interrupted puts its item back where it was, even if there is no room for it any
more, as its sender has gone on. A send cannot be undone once its item was accepted: if the
interrupt came in that very moment, it is sent although `send` raised.
"""

from collections.abc import Iterator
from typing import Any, Generic, Self, SupportsIndex, TypeAlias, TypeVar, final, overload

from .._common.awaited import AwaitedChannel
from .._common.channel_closed import ChannelClosed
from .._common.guard import Guard, Receipt, guard_of
from .._common.object import Part, SyncObject, before_init, subscripted, uninitialized, until_init
from ._arguments import exact_int, wait_timeout
from ._wait import NOBODY, UNCONTESTED, Change, Contest, Line, Request, Waiter, Waiters

__all__ = ["Channel", "ChannelSender", "Sending"]

T = TypeVar("T")
D = TypeVar("D")

_MAX = (2**63 - 1) // 16  # what the native backend's memory could hold

# One for all channels, as a step of one takes a select away from the others.
_guard = guard_of(Contest)

# Items to be received, items as they were sent, how many, whether closed, how many senders were
# taken and not left; and what the step that led here did: the receiver, its item, and the sender
# whose item was accepted.
_Value: TypeAlias = tuple[Any, Any, int, bool, int, Request, Any, Request]


class _Send(Request):
    """A request to send its item; `done` once it is accepted, else it was refused."""

    __slots__ = ()

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item


class _Receive(Request):
    """A request to receive an item; `done` once it has one, else it was refused."""

    __slots__ = ()


class _Items(Line):
    """The value is what there is to be received, a request is to send or to receive."""

    __slots__ = ("capacity",)
    state: tuple[_Value, Waiters]
    hands_over = True

    def __init__(self, capacity: int) -> None:
        super().__init__(((), (), 0, False, 0, NOBODY, None, NOBODY), _guard)
        self.capacity = capacity

    def hand_over(self, value: _Value) -> tuple[_Value, Request, Any, Request]:
        *kept, taker, item, giver = value
        return (*kept, NOBODY, None, NOBODY), taker, item, giver

    def returns(self, request: Request) -> bool:
        return isinstance(request, _Receive) or not request.done

    def take(self, value: _Value, request: Request) -> _Value | None:
        value, _, granted = self.admit(value, (Waiter(self, request),))
        return value if granted else None

    def admit(self, value: _Value, waiters: Waiters) -> Change:
        front, back, count, closed, producers, taker, item, giver = value
        if not waiters:
            return value, waiters, ()
        receivers: list[Waiter] = []
        senders: list[Waiter] = []
        for waiter in waiters:
            if not waiter.away and waiter.contest.winner is None:
                (receivers if isinstance(waiter.request, _Receive) else senders).append(waiter)
        granted: list[Waiter] = []  # they leave the queue
        recalled: list[Waiter] = []  # they stay, and look for themselves
        if closed and senders:
            granted, recalled = _split(senders)
            senders = []
        pair = _pair(receivers, senders) if receivers and senders else ()
        if taker is NOBODY and ((receivers and count) or pair):
            receiver = receivers[0] if count else pair[0]
            taker = receiver.request
            granted.append(receiver)
            if count:
                front, back, item = _first(front, back)
                count -= 1
            else:
                sender = pair[1]
                giver, item = sender.request, sender.request.item
                granted.append(sender)
                senders = _others(senders, sender)
                receivers = _others(receivers, sender)
            receivers = _others(receivers, receiver)
            if senders:
                senders = _others(senders, receiver)
        if senders and giver is NOBODY and count < self.capacity:
            sender = senders[0]
            giver = sender.request
            back = (giver.item, back)
            count += 1
            granted.append(sender)
            senders = _others(senders, sender)
            if receivers:
                receivers = _others(receivers, sender)
        if receivers and closed and not count:
            refused, more = _split(receivers)
            granted += refused
            recalled += more
            receivers = []
        value = front, back, count, closed, producers, taker, item, giver
        staying = tuple([waiter for waiter in waiters if waiter not in granted])
        if (
            (receivers and count)
            or (senders and count < self.capacity)
            or (receivers and senders and _pair(receivers, senders))
        ):
            # There is more to be had than one step can give.
            recalled += receivers
            recalled += senders
        return value, staying, (*granted, *recalled)

    def refuses(self, value: _Value, request: Request) -> bool:
        """Whether the channel is closed to this request."""
        return value[3] and (isinstance(request, _Send) or not value[2])

    def give(self, value: _Value, waiters: Waiters, request: Request) -> Change:
        if isinstance(request, _Receive) and request.done:
            front, back, count, *rest = value
            value = ((request.item, front), back, count + 1, *rest)
        return self.admit(value, waiters)

    def shut(self, value: _Value, waiters: Waiters) -> Change:
        front, back, count, _, *rest = value
        return self.admit((front, back, count, True, *rest), waiters)

    def with_sender(self, value: _Value, waiters: Waiters) -> Change:
        front, back, count, closed, senders, *rest = value
        return (front, back, count, closed, senders + 1, *rest), waiters, ()

    def without_sender(
        self, value: _Value, waiters: Waiters, sender: "ChannelSender[Any]"
    ) -> Change:
        if sender._left.done or not sender._entered:
            raise RuntimeError("the sender is not entered")
        front, back, count, closed, senders, *rest = value
        closed = closed or senders == 1
        return self.admit((front, back, count, closed, senders - 1, *rest), waiters)

    def sleep(self, me: Waiter, seconds: float | None) -> None:
        self.look_for(me)
        super().sleep(me, seconds)

    def look_for(self, me: Waiter) -> None:
        while me in self.state[1] and not self.settled(me):
            self.look_again()

    def settled(self, me: Waiter) -> bool:
        """Whether another step would serve nobody."""
        _, staying, _ = self.admit(*self.state)
        return me in staying


def _others(waiters: list[Waiter], served: Waiter) -> list[Waiter]:
    """Those that can still be served when this one is: of a select that is only one."""
    if served.contest is UNCONTESTED:
        return [waiter for waiter in waiters if waiter is not served]
    return [waiter for waiter in waiters if waiter.contest is not served.contest]


def _pair(receivers: list[Waiter], senders: list[Waiter]) -> tuple[Waiter, ...]:
    """The first receiver and sender that can meet: not two cases of one select."""
    for receiver in receivers:
        for sender in senders:
            if receiver.contest is UNCONTESTED or receiver.contest is not sender.contest:
                return receiver, sender
    return ()


def _split(waiters: list[Waiter]) -> tuple[list[Waiter], list[Waiter]]:
    """Those that wait for this channel alone, and the others."""
    return (
        [waiter for waiter in waiters if waiter.contest is UNCONTESTED],
        [waiter for waiter in waiters if waiter.contest is not UNCONTESTED],
    )


def _first(front: Any, back: Any) -> tuple[Any, Any, Any]:
    """The stacks without the first item, and that."""
    if not front:
        while back:
            item, back = back
            front = (item, front)
    item, front = front
    return front, back, item


@final
class Sending(Part, Generic[T]):
    """What :meth:`Channel.sending` returns: the case of a :func:`select` that sends an item.

    It can be used again and again, also by several threads at the same time: each select that
    chooses it sends the item once more.

    >>> from nogil_sync import Channel, Sending, try_select
    >>> channel = Channel(1)
    >>> case: Sending[str] = channel.sending("item")
    >>> try_select(case).case is case, try_select(case)
    (True, None)
    >>> channel.recv()
    'item'
    """

    __module__ = "nogil_sync"
    __slots__ = ("_channel", "_item", "_line")
    _channel: "Channel[T]"
    _item: T
    _line: _Items

    __class_getitem__ = subscripted

    def __repr__(self) -> str:
        return f"<nogil_sync.Sending object at {id(self):#x}, to {self._channel!r}>"


@final
class ChannelSender(Part, Generic[T]):
    """What :meth:`Channel.sender` returns: one of the producers that share a channel.

    A context manager that can be entered once: anything else is a ``RuntimeError``. Entering it
    returns the channel. The channel is closed when the last of its senders is left.

    >>> from nogil_sync import Channel, ChannelSender
    >>> channel = Channel(2)
    >>> first: ChannelSender[str] = channel.sender()
    >>> second = channel.sender()
    >>> with first as output:
    ...     output.send("from the first")
    >>> with second as output:
    ...     output.send("from the second")
    >>> list(channel)
    ['from the first', 'from the second']
    """

    __module__ = "nogil_sync"
    __slots__ = ("_channel", "_entered", "_guard", "_left", "_line")
    _channel: "Channel[T]"
    _entered: bool
    _guard: Guard
    _left: Receipt
    _line: _Items

    __class_getitem__ = subscripted

    def __repr__(self) -> str:
        return f"<nogil_sync.ChannelSender object at {id(self):#x}, of {self._channel!r}>"

    def __enter__(self) -> "Channel[T]":
        """Return the channel."""
        self._guard.held = True
        try:
            first = not self._entered
            self._entered = True
        finally:
            del self._guard.held
        if not first:
            raise RuntimeError("a sender can be entered only once")
        return self._channel

    def __exit__(self, *exc_info: object) -> None:
        """Count as a producer no longer; the last one closes the channel."""
        self._line.change(self._line.without_sender, self, receipt=self._left)


class Channel(SyncObject, AwaitedChannel[T], Generic[T]):
    """A queue between threads that holds `capacity` items and has an end: Go's channel.

    Any number of threads send, any number receive; each item is received once, and those of
    one sender in the order in which it sent them. A thread that finds the channel full, or
    empty, waits, and is served first come, first served. With a `capacity` of 0, the default,
    nothing is held: each send waits for its receiver, and returns once that has taken the item.

    :meth:`close` says that nothing more will be sent. What was sent before can still be
    received; then receivers get :exc:`ChannelClosed`, and loops over the channel end. Leaving
    a ``with`` block closes it. Where several threads send, each takes a :meth:`sender`, and the
    last one that is done closes the channel.

    :func:`select` waits for several channels at the same time, to receive or to send
    (:meth:`sending`).

    What a thread did before it sent an item is visible to the one that receives it. Items
    are never lost or duplicated, whatever is interrupted or times out. In the child of a fork
    the channel holds what it held, and nobody waits.

    `capacity` may be any number of items for which there is memory: below 0 is a
    ``ValueError``, above 2**59 - 1 an ``OverflowError``. The native backend reserves 16 bytes
    for each at once (or raises ``MemoryError``), which the system provides as they are used;
    the `threading` backend takes memory for what the channel holds.

    In the native backend sending and receiving take no lock while there is room and there are
    items: one compare-and-swap each, in a ring of slots that count turns. (Dmitry Vyukov's
    bounded MPMC queue, 2010.) A waiter is handed an item, or its own is taken, as in Go.

    >>> import threading
    >>> from nogil_sync import Channel
    >>> words, lengths = Channel(10), Channel(10)
    >>> def work():
    ...     for word in words:
    ...         lengths.send(len(word))
    ...     lengths.close()
    >>> worker = threading.Thread(target=work)
    >>> worker.start()
    >>> with words:
    ...     for word in ("one", "three", "eleven"):
    ...         words.send(word)
    >>> list(lengths)
    [3, 5, 6]
    >>> worker.join()
    """

    __module__ = "nogil_sync"
    __slots__ = ("__line",)

    __class_getitem__ = subscripted

    def _SyncObject__fill(self) -> None:
        self.__line: _Items = until_init(self)

    def __init__(self, capacity: SupportsIndex = 0) -> None:
        number = exact_int(capacity)
        if number < 0:
            raise ValueError("channel capacity must be >= 0")
        if number > _MAX:
            raise OverflowError("channel capacity is too large")
        line = _Items(number)
        super().__init__()
        self.__line = line

    def __repr__(self) -> str:
        line = self.__line
        if before_init(line):
            return uninitialized(self)
        cls = type(self)
        _, _, count, closed, *_ = line.state[0]
        return (
            f"<{cls.__module__}.{cls.__qualname__} object at {id(self):#x}, "
            f"{count} of {line.capacity} items{', closed' if closed else ''}>"
        )

    def send(self, value: T, timeout: float | None = None) -> None:
        """Send an item: wait until there is room for it, or without capacity for a receiver.

        Waits for ever by default, or at most `timeout` seconds, and then raises
        ``TimeoutError``, with nothing sent; zero or less does not wait. NaN is a
        ``ValueError``, a time-out above ``threading.TIMEOUT_MAX`` an ``OverflowError``.
        :exc:`ChannelClosed` if the channel is closed, or is while this waits.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and nothing
        is sent. (In the `threading` backend the item may be, if it was accepted in the
        instant of the interrupt.) Signal handlers run meanwhile and may use this channel.
        The cancellation of the task group for which this thread works ends the wait, too:
        :exc:`Cancelled`, and nothing is sent.

        >>> from nogil_sync import Channel
        >>> channel = Channel(1)
        >>> channel.send("first")
        >>> channel.send("second", timeout=0.01)
        Traceback (most recent call last):
        TimeoutError: timed out waiting to send
        """
        seconds = wait_timeout(timeout)
        request = _Send(value)
        if not self.__line.acquire(request, seconds):
            raise TimeoutError("timed out waiting to send")
        if not request.done:
            raise ChannelClosed("the channel is closed")

    def recv(self, timeout: float | None = None) -> T:
        """Receive the next item: wait until there is one.

        Waits for ever by default, or at most `timeout` seconds, and then raises
        ``TimeoutError``; zero or less does not wait. NaN is a ``ValueError``, a time-out
        above ``threading.TIMEOUT_MAX`` an ``OverflowError``. :exc:`ChannelClosed` once the
        channel is closed and all its items are received.

        A Ctrl-C in the main thread interrupts the wait: ``KeyboardInterrupt``, and nothing
        is received. Signal handlers run meanwhile and may use this channel. The cancellation
        of the task group for which this thread works ends the wait, too: :exc:`Cancelled`,
        and nothing is received.

        >>> from nogil_sync import Channel
        >>> channel = Channel(1)
        >>> channel.send("item")
        >>> channel.recv()
        'item'
        >>> channel.recv(timeout=0.01)
        Traceback (most recent call last):
        TimeoutError: timed out waiting to receive
        """
        seconds = wait_timeout(timeout)
        request = _Receive()
        if not self.__line.acquire(request, seconds):
            raise TimeoutError("timed out waiting to receive")
        # No call from here to the end: an interrupt would lose the item.
        if request.done:
            item: T = request.item
            return item
        raise ChannelClosed("the channel is closed")

    def try_send(self, value: T) -> bool:
        """Send an item if that is possible without waiting; return whether it was sent.

        Without capacity that is if a receiver waits. :exc:`ChannelClosed` if the channel is
        closed.

        >>> from nogil_sync import Channel
        >>> channel = Channel(1)
        >>> channel.try_send("first"), channel.try_send("second")
        (True, False)
        """
        request = _Send(value)
        if not self.__line.acquire(request, 0.0):
            return False
        if request.done:
            return True
        raise ChannelClosed("the channel is closed")

    @overload
    def try_recv(self) -> T | None: ...
    @overload
    def try_recv(self, default: D) -> T | D: ...
    def try_recv(self, default: Any = None) -> Any:
        """Receive the next item if there is one, or if a sender waits; else return `default`.

        :exc:`ChannelClosed` once the channel is closed and all its items are received.

        >>> from nogil_sync import Channel
        >>> channel = Channel(1)
        >>> channel.send("item")
        >>> channel.try_recv(), channel.try_recv("nothing")
        ('item', 'nothing')
        """
        request = _Receive()
        if not self.__line.acquire(request, 0.0):
            return default
        if request.done:
            item: T = request.item
            return item
        raise ChannelClosed("the channel is closed")

    def sending(self, value: T) -> Sending[T]:
        """Return a case for :func:`select` that sends this item. Nothing is sent by this call.

        >>> from nogil_sync import Channel, select
        >>> first, second = Channel(), Channel(1)
        >>> chosen = select(first.sending("item"), second.sending("item"))
        >>> second.recv()
        'item'
        """
        line = self.__line
        line.state  # noqa: B018  (an error before __init__)
        case: Sending[T] = object.__new__(Sending)
        case._channel = self
        case._item = value
        case._line = line
        return case

    def sender(self) -> ChannelSender[T]:
        """Count one more producer; return the context manager that it leaves when it is done.

        The channel closes as soon as every sender taken so far has been left. So take all of
        them before the first producer starts, and hand them to the threads. A sender that is
        never entered keeps the channel open.

        >>> from nogil_sync import Channel, TaskGroup
        >>> numbers = Channel(10)
        >>> def produce(sender, start):
        ...     with sender as output:
        ...         output.send(start)
        ...         output.send(start + 1)
        >>> with TaskGroup() as group:
        ...     for sender, start in (numbers.sender(), 1), (numbers.sender(), 5):
        ...         future = group.go(produce, sender, start)
        >>> sorted(numbers)
        [1, 2, 5, 6]
        """
        line = self.__line
        left = Receipt()
        guard = guard_of(left)
        sender: ChannelSender[T] = object.__new__(ChannelSender)
        line.change(line.with_sender)
        sender._channel = self
        sender._entered = False
        sender._guard = guard
        sender._left = left
        sender._line = line
        return sender

    def close(self) -> None:
        """Say that nothing more will be sent; it may be said again.

        Sends raise :exc:`ChannelClosed` from here on, those that wait included, whose items
        are not sent. Receives go on until the channel is empty. Any thread may do this.
        """
        self.__line.change(self.__line.shut)

    def closed(self) -> bool:
        """Whether the channel is closed.

        There may still be items to be received.
        """
        return self.__line.state[0][3]

    def __len__(self) -> int:
        """How many items there are to be received; those of waiting senders do not count."""
        count: int = self.__line.state[0][2]
        return count

    def __iter__(self) -> Iterator[T]:
        """Return the channel itself: a loop over it receives until it is closed and empty."""
        return self

    def __next__(self) -> T:
        """Receive the next item; the end is when the channel is closed and all are received."""
        request = _Receive()
        self.__line.acquire(request, None)
        if request.done:
            item: T = request.item
            return item
        raise StopIteration

    def __enter__(self) -> Self:
        """Return the channel, which leaving the block closes."""
        self.__line.state  # noqa: B018  (an error before __init__)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the channel."""
        self.__line.change(self.__line.shut)
