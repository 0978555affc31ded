"""What the application reads of a request, and how it refuses one."""

from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qs

Environ = dict[str, Any]


class Response(NamedTuple):
    """An answer: its status, its body, the type of that, and more headers."""

    status: int
    body: bytes
    kind: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class RefusedError(Exception):
    """The request gets an error for an answer."""

    def __init__(self, status: int, why: str = "", *headers: tuple[str, str]) -> None:
        super().__init__(why)
        phrase = HTTPStatus(status).phrase
        text = f"{status} {phrase}: {why}\n" if why else f"{status} {phrase}\n"
        self.response = Response(status, text.encode(), headers=headers)


def cookie(environ: Environ, name: str) -> str:
    """Give the value of a cookie, or nothing; a header that is no list of cookies has none."""
    header = environ.get("HTTP_COOKIE", "")
    if header.startswith(f"{name}=") and ";" not in header and '"' not in header:
        return str(header[len(name) + 1 :])  # the usual case, without the parser
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def number(environ: Environ, name: str, default: int, most: int) -> int:
    """Give a number from 0 to `most` in the query."""
    try:
        value = int(parse_qs(environ.get("QUERY_STRING", "")).get(name, [default])[-1])
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise RefusedError(400, f"{name} must be a number from 0 to {most}")
    return value


def body(environ: Environ, most: int) -> bytes:
    """Read the body, of `most` bytes at most."""
    stream = environ["wsgi.input"]
    header = environ.get("CONTENT_LENGTH") or ""
    if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
        data = _read(stream, most + 1)
    elif header:
        if not (header.isascii() and header.isdigit()):
            raise RefusedError(400, "Content-Length must be a number")
        length = int(header) if len(header) < 1000 else most + 1  # Python has a limit, too
        data = _read(stream, length) if length <= most else bytes(most + 1)
        if len(data) < length <= most:
            raise RefusedError(400, "the body is shorter than its Content-Length")
    else:
        data = b""
    if len(data) > most:
        raise RefusedError(413, f"a body may have {most:,} bytes")
    return data


def _read(stream: Any, most: int) -> bytes:
    parts, size = [], 0
    while size < most:
        try:
            part = stream.read(most - size)
        except OSError as error:
            if error.errno is None and "Too Large" in str(error):  # cheroot's limit, above ours
                raise RefusedError(413, "the body is too large") from None
            raise  # the connection broke, or the client was too slow
        except Exception:  # each HTTP server has its own errors for bad chunks
            raise RefusedError(400, "the body cannot be read") from None
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)
