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
from typing import Any, Generic, Self, SupportsIndex, TypeAlias, TypeVar, overload

from .._common.awaited import AwaitedChannel
from .._common.channel_closed import ChannelClosed
from .._common.object import SyncObject, before_init, subscripted, uninitialized, until_init
from ._arguments import exact_int, wait_timeout
from ._wait import NOBODY, Change, Line, Request, Waiter, Waiters

__all__ = ["Channel"]

T = TypeVar("T")
D = TypeVar("D")

_MAX = (2**63 - 1) // 16  # what the native backend's memory could hold

# Items to be received, items as they were sent, how many, whether closed; and what the step that
# led here did: the receiver, its item, and the sender whose item was accepted.
_Value: TypeAlias = tuple[Any, Any, int, bool, Request, Any, Request]


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
        super().__init__(((), (), 0, False, NOBODY, None, NOBODY))
        self.capacity = capacity

    def hand_over(self, value: _Value) -> tuple[_Value, Request, Any, Request]:
        front, back, count, closed, taker, item, giver = value
        return (front, back, count, closed, NOBODY, None, NOBODY), taker, item, giver

    def returns(self, request: Request) -> bool:
        return isinstance(request, _Receive) or not request.done

    def take(self, value: _Value, request: Request) -> _Value | None:
        value, _, granted = self.admit(value, (Waiter(self, request),))
        return value if granted else None

    def admit(self, value: _Value, waiters: Waiters) -> Change:
        front, back, count, closed, taker, item, giver = value
        present = [waiter for waiter in waiters if not waiter.away]
        receivers = [w for w in present if isinstance(w.request, _Receive)]
        senders = [w for w in present if isinstance(w.request, _Send)]
        granted: list[Waiter] = []
        if closed:
            granted += senders
            senders = []
        if receivers and taker is NOBODY and (count or senders):
            receiver = receivers.pop(0)
            taker = receiver.request
            granted.append(receiver)
            if count:
                front, back, item = _first(front, back)
                count -= 1
            else:
                sender = senders.pop(0)
                giver, item = sender.request, sender.request.item
                granted.append(sender)
        if senders and giver is NOBODY and count < self.capacity:
            sender = senders.pop(0)
            giver = sender.request
            back = (giver.item, back)
            count += 1
            granted.append(sender)
        if receivers and closed and not count:
            granted += receivers
            receivers = []
        value = front, back, count, closed, taker, item, giver
        staying = tuple(waiter for waiter in waiters if waiter not in granted)
        if (receivers and (count or senders)) or (senders and count < self.capacity):
            # There is more to be had than one step can give.
            granted += receivers
            granted += senders
        return value, staying, tuple(granted)

    def give(self, value: _Value, waiters: Waiters, request: Request) -> Change:
        if isinstance(request, _Receive) and request.done:
            front, back, count, *rest = value
            value = ((request.item, front), back, count + 1, *rest)
        return self.admit(value, waiters)

    def shut(self, value: _Value, waiters: Waiters) -> Change:
        front, back, count, _, *rest = value
        return self.admit((front, back, count, True, *rest), waiters)

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


def _first(front: Any, back: Any) -> tuple[Any, Any, Any]:
    """The stacks without the first item, and that."""
    if not front:
        while back:
            item, back = back
            front = (item, front)
    item, front = front
    return front, back, item


class Channel(SyncObject, AwaitedChannel[T], Generic[T]):
    """A queue between threads that holds `capacity` items and has an end: Go's channel.

    Any number of threads send, any number receive; each item is received once, and those of
    one sender in the order in which it sent them. A thread that finds the channel full, or
    empty, waits, and is served first come, first served. With a `capacity` of 0, the default,
    nothing is held: each send waits for its receiver, and returns once that has taken the item.

    :meth:`close` says that nothing more will be sent. What was sent before can still be
    received; then receivers get :exc:`ChannelClosed`, and loops over the channel end. Leaving
    a ``with`` block closes it.

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

        >>> from nogil_sync import Channel
        >>> channel = Channel(1)
        >>> channel.send("first")
        >>> channel.send("second", timeout=0.01)
        Traceback (most recent call last):
        TimeoutError: timed out waiting to send
        """
        request = _Send(value)
        if not self.__line.acquire(request, wait_timeout(timeout)):
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
        is received. Signal handlers run meanwhile and may use this channel.

        >>> from nogil_sync import Channel
        >>> channel = Channel(1)
        >>> channel.send("item")
        >>> channel.recv()
        'item'
        >>> channel.recv(timeout=0.01)
        Traceback (most recent call last):
        TimeoutError: timed out waiting to receive
        """
        request = _Receive()
        if not self.__line.acquire(request, wait_timeout(timeout)):
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
