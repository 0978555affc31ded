"""Whether a request has arrived whole, so that a slow client keeps no thread waiting.

The bytes stay in the kernel until they are all there: we look at them without taking any, and set
the socket's low-water mark (``SO_RCVLOWAT``), so that the selector reports the socket again only
when more have come. Then a worker reads the request without ever waiting for the client.
"""

import re
import socket

from .configuration import MAX_BODY

HEADERS = 32_768  # the max of bytes in a request's headers
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain\r\nContent-Length: 20\r\n"
    b"Connection: close\r\n\r\n408 Request Timeout\n"
)
_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r?\n", re.IGNORECASE)


def wanted(connection: socket.socket, before: int) -> int:
    """Give how many bytes must be there before it is worth looking again; 0: serve it now.

    `before` is what an earlier call said, for which the selector has waited, or 0.

    Chunked bodies, and what no server would accept, are served at once: the first may wait for its
    client, until its deadline, and the second is refused.
    """
    timeout = connection.gettimeout()
    connection.settimeout(0)
    try:
        data = connection.recv(HEADERS + MAX_BODY, socket.MSG_PEEK)
    except BlockingIOError:
        return 1
    except OSError:
        return 0
    finally:
        connection.settimeout(timeout)
    end = _END.search(data)
    if end is None:
        # Empty: the client has closed the connection.
        whole = len(data) + 1 if 0 < len(data) < HEADERS else 0
        return _unless_ended(whole, before)
    length = _LENGTH.search(data, 0, end.end())
    if length is None or int(length[1]) > MAX_BODY:
        return 0
    whole = end.end() + int(length[1])
    return _unless_ended(whole, before) if whole > len(data) else 0


def _unless_ended(whole: int, before: int) -> int:
    """Give 0 if the socket was reported although no more came: the client sends no more."""
    return 0 if whole == before else whole


def wake_at(connection: socket.socket, size: int) -> None:
    """Have selectors report the socket once so many bytes are there, or it is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
