"""Several frames as the body of one HTTP message: multipart/mixed (RFC 2046, 5.1)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from email.message import Message

MIXED = "multipart/mixed"

#: RFC 2046, 5.1.1: a boundary.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
#: Characters a content type may have: taking one apart takes the square of the time.
_LONGEST_TYPE = 1000
#: Bytes in which a part must have come to its content.
_LONGEST_HEAD = 16 * 1024
#: The rest of a boundary's line, the headers of its part, each with its end of line, and an empty line.
_PART_HEAD = re.compile(rb"[ \t]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_PART_HEADER = re.compile(rb"[!#-'*+.^-z|~0-9A-Z-]+[ \t]*:.*|[ \t].*")
_ENCODING = re.compile(rb"^content-transfer-encoding[ \t]*:(.*)\r$", re.IGNORECASE | re.MULTILINE)
_PLAIN_ENCODINGS = (b"7bit", b"8bit", b"binary")


class TooManyParts(ValueError):
    """There are more than were asked for."""


def split(body: bytes, content_type: str, most: int) -> list[bytes]:
    """The contents of the parts of `body`, one at least; their headers are ignored.

    Raises TooManyParts if there are more than `most`, ValueError if the body or its boundary
    is malformed, if a part is encoded, or if its headers have more than 16 KiB.
    """
    if len(content_type) > _LONGEST_TYPE:
        raise ValueError(f"the Content-Type has more than {_LONGEST_TYPE:,} characters")
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise ValueError("multipart/mixed needs a boundary of 1 to 70 characters")
    # RFC 2046, 5.1.1: "The CRLF preceding the boundary delimiter line is conceptually attached
    # to the boundary"; the first one may have none before it.
    delimiter = b"\r\n--" + boundary.encode()
    text = b"\r\n" + body
    if text.count(delimiter) > most:
        raise TooManyParts(f"the body has more than {most} parts")
    frames: list[bytes] = []
    for part in text.split(delimiter)[1:]:
        if part.startswith(b"--"):
            if not frames:
                break
            return frames
        head = _PART_HEAD.match(part, 0, _LONGEST_HEAD)
        if head is None or not all(map(_PART_HEADER.fullmatch, head[1].splitlines())):
            raise ValueError(
                f"part {len(frames) + 1} of the multipart body does not begin with headers (16 KiB at most) "
                "and an empty line; these lines end in CRLF"
            )
        if any(one.strip(b" \t").lower() not in _PLAIN_ENCODINGS for one in _ENCODING.findall(head[1])):
            raise ValueError(f"part {len(frames) + 1} of the multipart body has a Content-Transfer-Encoding")
        frames.append(part[head.end() :])
    raise ValueError("the multipart body has no part, or no end; the lines of its boundaries end in CRLF")


def joined(frames: Sequence[bytes]) -> tuple[str, bytes]:
    """A content type and a body of which each frame is a part."""
    boundary = secrets.token_hex(16)
    while any(boundary.encode() in frame for frame in frames):
        boundary = secrets.token_hex(16)
    pieces = []
    for frame in frames:
        pieces += [f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(), frame, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"{MIXED}; boundary={boundary}", b"".join(pieces)
