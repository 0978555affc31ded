"""Takes requests off their connections, each as a whole, so that no client keeps a thread waiting.

A thread that reads a request from its socket waits for the client, and a few slow clients occupy
all threads. Here the thread that watches the sockets takes the bytes as they come, and never waits
for more. Once a request is whole, the HTTP server reads it from memory, where it ends at its last
byte: what that server makes of it can neither wait nor reach into the next request.

Where a request ends is the old trap of HTTP: where two parsers disagree, one's body is the other's
next request (request smuggling). So what is not plain is refused: RFC 9112, sections 5 to 7.
"""

import re
import socket
import time
from collections.abc import Generator
from contextlib import suppress
from http import HTTPStatus

from .configuration import MAX_BODY
from .requests import RefusedError

HEADERS = 32_768  # the max of bytes in a request's headers
CHUNKED = 2 * MAX_BODY  # the max of bytes in a chunked body, with what is around its chunks
TOO_SLOW = RefusedError(408)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINE = 4096  # the max of bytes in a line between chunks
_RECEIVE = 65_536  # how many bytes to take at once, before other connections have their turn

# A request line, and fields whose names are tokens. Nothing is folded, and no CR or LF is alone.
_HEAD = re.compile(rb"[^\r\n]+(?:\r\n[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\r\n]*)*")
_ALONE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|expect):([^\r\n]*)", re.IGNORECASE)
# An expectation is met here. A name with an underscore would pass for the one with a hyphen, since
# both are the same in WSGI: `X_Forwarded_For` must not be taken for what the proxy says.
_DROPPED = re.compile(rb"\r\n(?:expect|[^\r\n:]*_[^\r\n:]*):[^\r\n]*", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-f]{1,16})[ \t]*(?:;[^\r\n]*)?", re.IGNORECASE)

# Yields what is to be sent when it needs more bytes, and returns a position.
_Steps = Generator[bytes, None, int]


class Arrival:
    """What has arrived on one connection. Only one thread at a time may use it."""

    def __init__(self) -> None:
        #: What no server has taken yet.
        self.data = bytearray()
        #: When its first byte was seen; 0.0 without one.
        self.begun = 0.0
        self._whole = 0  # the size of the request at the beginning of data, once that is whole
        self._steps = self._find_end()

    def is_whole(self, connection: socket.socket) -> bool:
        """Take what has come; say whether a request is whole. The socket must not block.

        A bad request gets its answer here, and never becomes whole. What its client still sends is
        thrown away until it closes: closing first could make the client lose the answer.

        Raises:
            EOFError, OSError: The connection has ended: close it.

        """
        if self._advance(connection):  # more than one request came at once
            return True
        try:
            data = connection.recv(_RECEIVE)
        except BlockingIOError:
            return False
        if not data:
            if self.data:
                self.refuse(connection, RefusedError(400, "the request has no end"))
            raise EOFError("the client has closed the connection")
        self.data += data
        return self._advance(connection)

    def is_late(self, seconds: float) -> bool:
        """Say whether a request has been on its way for longer than that."""
        return bool(self.begun) and time.monotonic() - self.begun > seconds

    def take(self, *, rest: bool = False) -> bytes:
        """Give the request, which must be whole; with `rest`, also all that came after it."""
        size = len(self.data) if rest else self._whole
        request = bytes(self.data[:size])
        del self.data[:size]
        self.begun, self._whole, self._steps = 0.0, 0, self._find_end()
        return request

    def refuse(self, connection: socket.socket, error: RefusedError) -> None:
        """Send the error, without waiting, and nothing after it."""
        response = error.response
        head = (
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
            f"Content-Type: {response.kind}\r\nContent-Length: {len(response.body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        with suppress(OSError):
            connection.send(head.encode() + response.body)
            connection.shutdown(socket.SHUT_WR)
        self._steps = self._discard()

    def _advance(self, connection: socket.socket) -> bool:
        """Look at what is there now."""
        if self.data and not self.begun:
            self.begun = time.monotonic()
        try:
            if answer := next(self._steps):
                with suppress(OSError):
                    connection.send(answer)
        except StopIteration as end:
            self._whole = end.value
        except RefusedError as error:
            self.refuse(connection, error)
        return self._whole > 0

    # ---- The steps: each goes on from where it was when more has come ----

    def _find_end(self) -> _Steps:
        """Find where the request ends with which the data begins."""
        start = yield from self._find_head()
        head = bytes(self.data[: start - 4])
        if not _HEAD.fullmatch(head):
            raise RefusedError(400, "a header is malformed")
        size, chunked, expects = _framing(head)
        if size > MAX_BODY:
            raise RefusedError(413, f"a body may have {MAX_BODY:,} bytes")
        kept = _DROPPED.sub(b"", head)
        self.data[: len(head)] = kept
        start += len(kept) - len(head)
        if expects and len(self.data) == start:
            yield _CONTINUE
        return (yield from self._find_last_chunk(start) if chunked else self._reach(start + size))

    def _find_head(self) -> _Steps:
        """Find where the head ends, its empty line included."""
        searched = 0
        while True:
            if self.data.startswith(b"\r\n"):  # one empty line may come first
                del self.data[:2]
            if (end := self.data.find(b"\r\n\r\n", searched, HEADERS)) >= 0:
                return end + 4
            if _ALONE.search(self.data, searched):
                raise RefusedError(400, "lines end with CR LF")
            if len(self.data) >= HEADERS:
                raise RefusedError(431, f"headers may have {HEADERS:,} bytes")
            searched = max(0, len(self.data) - 3)
            yield b""

    def _find_last_chunk(self, start: int) -> _Steps:
        """Find where a chunked body ends, its trailers included."""
        at, body = start, 0
        while True:
            end = yield from self._find_line(at)
            chunk = _CHUNK.fullmatch(self.data, at, end)
            if chunk is None:
                raise RefusedError(400, "the size of a chunk is malformed")
            at, size = end + 2, int(chunk[1], 16)
            if not size:
                break
            body += size
            if body > MAX_BODY or at + size > start + CHUNKED:
                raise RefusedError(413, f"a body may have {MAX_BODY:,} bytes")
            at = yield from self._reach(at + size + 2)
            if self.data[at - 2 : at] != b"\r\n":
                raise RefusedError(400, "a chunk is longer than its size")
        while (end := (yield from self._find_line(at))) > at:
            at = end + 2
            if at > start + CHUNKED:
                raise RefusedError(413, "the trailers are too long")
        return at + 2

    def _find_line(self, start: int) -> _Steps:
        """Find where a line ends, its CR LF not included."""
        while (end := self.data.find(b"\r\n", start, start + _LINE)) < 0:
            if len(self.data) >= start + _LINE:
                raise RefusedError(400, "a line in the body is too long")
            yield b""
        return end

    def _reach(self, size: int) -> _Steps:
        """Wait until there is so much."""
        while len(self.data) < size:
            yield b""
        return size

    def _discard(self) -> _Steps:
        while True:
            self.data.clear()
            yield b""


def _framing(head: bytes) -> tuple[int, bool, bool]:
    """Give the body's size, whether it is chunked, and whether its client waits to be asked."""
    fields = [(name.lower(), value.strip(b" \t").lower()) for name, value in _FRAMING.findall(head)]
    if not fields:
        return 0, False, False
    sizes = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    is_new = head.partition(b"\r\n")[0].endswith(b" HTTP/1.1")
    if len(sizes) > 1 or not all(size.isdigit() for size in sizes):
        raise RefusedError(400, "Content-Length must be a number")
    if codings and (sizes or not is_new):
        raise RefusedError(400, "it is not clear where the body ends")
    if codings and codings != [b"chunked"]:
        raise RefusedError(501, "a body may be chunked, and no more")
    # Python refuses to convert thousands of digits.
    size = (int(sizes[0]) if len(sizes[0]) < 1000 else MAX_BODY + 1) if sizes else 0
    expects = is_new and (b"expect", b"100-continue") in fields
    return size, bool(codings), expects and bool(size or codings)
