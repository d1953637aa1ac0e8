"""The token that a broker gives a worker as client address.

RFC 7 and RFC 18 hand a worker the "client address (envelope stack)" and take
it back in the reply.  A gmdp broker sends a token instead.  A token is made for one
assignment and says nothing about the client, so a reply can be neither forged, nor
repeated, nor redirected.
All numbers are big-endian:

======  ====  =========================================================
offset  size  field
======  ====  =========================================================
0       4     magic, ``89 4D 44 54`` (``\\x89MDT``)
4       1     version, 1
5       8     nonce of this broker's start
13      8     number of the assignment
21      1     status: 0; a gmdp worker sets 1 where its handler failed
22      4     milliseconds left for the caller; ``FFFFFFFF``: unknown
26      1     which attempt this is, from 1 (255 and more: 255)
27      1     flags: 1 the caller understands typed failures,
              2 it grants credits for the parts of the answer
28      55    the caller's W3C ``traceparent``, or nothing
======  ====  =========================================================

A broker compares the first 21 bytes with the worker's present assignment, and reads
the status.  It reads nothing else.  A worker may read the rest if it knows the magic
and version.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .extension import from_milliseconds, to_milliseconds

MAGIC = b"\x89MDT"
VERSION = 1
NONCE_SIZE = 8
#: The first bytes of a token, which identify the assignment.
PREFIX_SIZE = 21
#: The offset of the status, and its values.
STATUS = 21
OK = 0
HANDLER_FAILED = 1
#: The flag: a failure's body is to be the error's type name and message, not the configured reply.
TYPED_FAILURES = 1
#: The flag: parts are sent as far as the caller's credits go (:mod:`~.extension`).
CREDITS = 2

_NUMBER = struct.Struct(">Q").pack
_TAIL = struct.Struct(">BIBB")
_SIZE = PREFIX_SIZE + _TAIL.size
_new = tuple.__new__  # costs a third of a NamedTuple's own constructor


class Reading(NamedTuple):
    """What a token says to a worker."""

    #: How often a worker has had the request, this one included.
    attempt: int
    #: Seconds that the caller still waited when the broker sent the request; None: unknown.
    time_left: float | None
    #: True if the caller understands typed failures.
    typed_failures: bool
    #: True if the caller grants credits for the parts of its answer.
    credits: bool
    #: The caller's W3C ``traceparent``, or nothing.
    traceparent: bytes


def start(nonce: bytes) -> bytes:
    """Return the 13 bytes with which every token begins until the broker starts again."""
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"the nonce must be {NONCE_SIZE} bytes, not {len(nonce)}")
    return MAGIC + bytes((VERSION,)) + nonce


def prefix(begin: bytes, number: int) -> bytes:
    """Return the bytes that identify an assignment; `begin` is from :func:`start`."""
    return begin + _NUMBER(number)


def assignment_number(prefix: bytes) -> int:
    """Return the number of the assignment that these bytes from :func:`prefix` identify."""
    return int.from_bytes(prefix[PREFIX_SIZE - 8 :], "big")


def tail(attempt: int, time_left: float | None = None, flags: int = 0, traceparent: bytes = b"") -> bytes:
    """Return the bytes after the prefix; `time_left` is in seconds."""
    if attempt > 255:
        attempt = 255
    return _TAIL.pack(OK, to_milliseconds(time_left), attempt, flags) + traceparent


def read(address: bytes) -> Reading | None:
    """Return what `address` says to a worker; None if it is no token."""
    if len(address) < _SIZE or address[:4] != MAGIC or address[4] != VERSION:
        return None
    _, milliseconds, attempt, flags = _TAIL.unpack_from(address, PREFIX_SIZE)
    typed_failures, credits = flags & TYPED_FAILURES != 0, flags & CREDITS != 0
    return _new(Reading, (attempt, from_milliseconds(milliseconds), typed_failures, credits, address[_SIZE:]))


def mark_failed(address: bytes) -> bytes:
    """Return `address` with its status set to "handler failed", if it is a token; else as it is."""
    if read(address) is None:
        return address
    return address[:STATUS] + bytes((HANDLER_FAILED,)) + address[STATUS + 1 :]


def says_failed(address: bytes) -> bool:
    """True if a worker's FINAL to `address` says that its handler failed."""
    return len(address) > STATUS and address[STATUS] == HANDLER_FAILED
