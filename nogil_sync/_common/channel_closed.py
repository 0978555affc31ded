"""ChannelClosed, for both backends: the exception at the end of a channel."""

__all__ = ["ChannelClosed"]


class ChannelClosed(Exception):  # noqa: N818  (the name of an event, as StopIteration)
    """The channel is closed: nothing can be sent any more, or nothing is left to receive.

    :meth:`Channel.send` raises it from the close on, :meth:`Channel.recv` once all items that
    had been sent before are received.

    >>> from nogil_sync import Channel, ChannelClosed
    >>> with Channel(1) as channel:
    ...     channel.send("last")
    >>> channel.recv()
    'last'
    >>> try:
    ...     channel.recv()
    ... except ChannelClosed as error:
    ...     print(error)
    the channel is closed
    """

    __module__ = "nogil_sync"
