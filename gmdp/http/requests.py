"""What an HTTP request asks for: its method, its headers, its query and its body.

The functions raise :class:`~.answers.RequestRefused` for wrong values.  Headers come as WSGI
has them (PEP 3333): text, or None where a header is missing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from ..protocol.extension import NORMAL_PRIORITY, PRIORITIES, is_traceparent
from .answers import RequestRefused, bad_request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: Bytes of a body that are read at a time.
_PIECE = 65536
#: Digits of the longest Content-Length; int() raises for thousands of digits.
_MAX_DIGITS = 18

_SECONDS = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([Ee][+-]?[0-9]+)?")
#: RFC 9110, 12.4.2: "a value of 0 means 'not acceptable'".
_NOT_ACCEPTABLE = re.compile(r";[ \t]*q[ \t]*=[ \t]*0(\.0*)?[ \t]*(;|$)", re.IGNORECASE)


class InputError(Exception):
    """Reading the body failed.  The cause is what the server's input raised."""


def check_method(method: str, *allowed: str) -> None:
    """Refuse other methods than the allowed ones."""
    if method not in allowed:
        names = ", ".join(allowed)
        raise RequestRefused(405, "MethodNotAllowed", f"allowed here: {names}", ("Allow", names))


def read_time_limit(header: str | None, longest: float) -> float:
    """Return the seconds a call may take: those of X-Request-Timeout, but at most `longest`."""
    if header is None:
        return longest
    seconds = float(header) if _SECONDS.fullmatch(header.strip()) else 0.0
    if seconds <= 0:
        raise bad_request("X-Request-Timeout must be seconds greater than 0, like 2.5 or 1e-3")
    return min(seconds, longest)


def read_priority(header: str | None) -> int:
    """Return the priority in X-Request-Priority; the normal one without the header."""
    if header is None:
        return NORMAL_PRIORITY
    priorities = {str(priority): priority for priority in PRIORITIES}
    if header.strip() not in priorities:
        raise bad_request(f"X-Request-Priority must be a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    return priorities[header.strip()]


def read_traceparent(header: str) -> str | None:
    """Return the traceparent, if it is valid."""
    # W3C Trace Context, 3.2.2: "If parsing fails, [the vendor] ... creates a new traceparent."
    # A tracer does that; the gateway passes nothing on.
    value = header.strip()
    return value if is_traceparent(value.encode("utf-8", "replace")) else None


def wants_events(accept: str) -> bool:
    """Return whether the Accept header asks for server-sent events."""
    return any(
        media_type(entry) == "text/event-stream" and not _NOT_ACCEPTABLE.search(entry) for entry in accept.split(",")
    )


def wants_chunks(query: str) -> bool:
    """Return whether the query asks for a stream of chunks."""
    values = parse_qs(query, keep_blank_values=True, errors="replace").get("stream", ["0"])
    if values not in (["0"], ["1"]):
        raise bad_request("stream must be 1 or 0")
    return values == ["1"]


def read_query_body(query: str) -> list[bytes]:
    """Return the frames in a query: the values of ``body``; one empty frame if there is no query."""
    # Latin-1 gives each byte, however it was written.
    parameters = parse_qs(query, keep_blank_values=True, encoding="latin-1")
    if parameters and "body" not in parameters:
        raise bad_request("the query of a GET has the request's frames in parameters named body, like ?body=hello")
    return [value.encode("latin-1") for value in parameters.get("body", [""])]


def media_type(header: str) -> str:
    """Return the media type in a header, in lower case and without its parameters."""
    return header.partition(";")[0].strip().lower()


def read_body(environ: WSGIEnvironment, max_body: int) -> bytes:
    """Return the body of a request, of at most `max_body` bytes.

    Raises InputError if the server's input cannot be read.
    """
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and coding.strip().lower() != "chunked":
        raise bad_request("Transfer-Encoding can be chunked, and nothing else")
    length = environ.get("CONTENT_LENGTH") or None
    if length is not None:
        if not (length.isascii() and length.isdigit()):
            raise bad_request("Content-Length must be a number of bytes")
        if len(length) > _MAX_DIGITS or int(length) > max_body:
            raise _too_large(max_body)
        missing = int(length)
    elif environ.get("wsgi.input_terminated"):
        # The server ends the input where the body ends.  One byte more than allowed is read.
        missing = max_body + 1
    elif coding is not None:
        raise bad_request("a Content-Length is needed: this server does not tell where a chunked body ends")
    else:
        return b""
    pieces = []
    while missing > 0:
        try:
            piece = environ["wsgi.input"].read(min(missing, _PIECE))
        except RequestRefused:
            raise
        except Exception as error:
            raise InputError from error
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    if length is not None and missing:
        raise bad_request("the body ended before its Content-Length")
    if length is None and not missing:
        raise _too_large(max_body)
    return b"".join(pieces)


def _too_large(max_body: int) -> RequestRefused:
    return RequestRefused(413, "MessageTooLarge", f"the body has more than {max_body} bytes")
