"""Several frames in the body of one HTTP message: multipart/mixed (RFC 2046, 5.1)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from email.message import Message

MIXED = "multipart/mixed"

#: RFC 2046, 5.1.1: a boundary.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
#: Characters of the longest content type: the time to parse one grows with the square of its length.
_MAX_TYPE = 1000
#: Bytes of the longest head of a part.
_MAX_HEAD = 16 * 1024
#: Lines that the heads of a body may have together: some for each part, and more.  Each takes time to check.
_MAX_LINES_PER_PART = 4
_MAX_MORE_LINES = 10_000
#: The head of a part: the rest of the boundary's line, headers, each with its end of line, and an empty line.
_PART_HEAD = re.compile(rb"[ \t]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_PART_HEADER = re.compile(rb"[!#-'*+.^-z|~0-9A-Z-]+[ \t]*:.*|[ \t].*")
_TRANSFER_ENCODING = re.compile(rb"^content-transfer-encoding[ \t]*:(.*)\r$", re.IGNORECASE | re.MULTILINE)
#: Encodings that leave the content as it is.
_IDENTITY_ENCODINGS = (b"7bit", b"8bit", b"binary")


class TooManyParts(ValueError):
    """A body has more parts than are allowed."""


def split(body: bytes, content_type: str, max_parts: int) -> list[bytes]:
    """Return the contents of the parts of a body, at least one.  The headers of parts are ignored.

    Args:
        body: The body.
        content_type: The value of its Content-Type header.
        max_parts: Parts the body may have; the closing boundary counts as one.

    Raises:
        TooManyParts: The body has more than `max_parts` parts.
        ValueError: The body or its boundary is malformed, a part is encoded, or the headers
            of a part have more than 16 KiB, or those of all parts are very many.
    """
    if len(content_type) > _MAX_TYPE:
        raise ValueError(f"the Content-Type has more than {_MAX_TYPE:,} characters")
    message = Message()
    message["Content-Type"] = content_type
    try:
        boundary = message.get_param("boundary")
    except Exception:  # the standard library raises TypeError and others for odd parameters
        boundary = None
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise ValueError("multipart/mixed needs a boundary of 1 to 70 characters")
    # RFC 2046, 5.1.1: "The CRLF preceding the boundary delimiter line is conceptually attached
    # to the boundary."  The first boundary may have no CRLF before it.
    delimiter = b"\r\n--" + boundary.encode()
    text = b"\r\n" + body
    count = text.count(delimiter)
    if count > max_parts:
        raise TooManyParts(f"the body has more than {max_parts} parts")
    frames: list[bytes] = []
    lines_left = _MAX_MORE_LINES + _MAX_LINES_PER_PART * count
    for part in text.split(delimiter)[1:]:
        if part.startswith(b"--"):
            if not frames:
                break
            return frames
        head = _PART_HEAD.match(part, 0, _MAX_HEAD)
        lines = [] if head is None else head[1].splitlines()
        lines_left -= len(lines)
        if lines_left < 0:
            raise ValueError("the parts of the multipart body have too many headers")
        if head is None or not all(map(_PART_HEADER.fullmatch, lines)):
            raise ValueError(
                f"part {len(frames) + 1} of the multipart body does not begin with headers (16 KiB at most) "
                "and an empty line, each ending in CRLF"
            )
        if any(value.strip(b" \t").lower() not in _IDENTITY_ENCODINGS for value in _TRANSFER_ENCODING.findall(head[1])):
            raise ValueError(f"part {len(frames) + 1} of the multipart body has a Content-Transfer-Encoding")
        frames.append(part[head.end() :])
    raise ValueError("the multipart body has no part, or no closing boundary; the lines of boundaries must end in CRLF")


def join(frames: Sequence[bytes]) -> tuple[str, bytes]:
    """Return a content type, and a body that has each frame as a part."""
    boundary = secrets.token_hex(16)
    while any(boundary.encode() in frame for frame in frames):
        boundary = secrets.token_hex(16)
    pieces = []
    for frame in frames:
        pieces += [f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(), frame, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"{MIXED}; boundary={boundary}", b"".join(pieces)
