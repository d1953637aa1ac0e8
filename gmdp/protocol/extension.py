"""The frames that gmdp peers add to the RFCs' messages, byte by byte.

A message in the extension has one frame more: the last one of its return
address, before the empty delimiter.  The RFC's own header and command codes
follow.  A broker that speaks only an RFC never gets a message in the extension: peers
ask first (the probe ``mmi.gmdp``, below).  All numbers are big-endian.

**Call frame**, between client and broker, both ways:

======  ====  ===========================================================
offset  size  field
======  ====  ===========================================================
0       4     magic, ``89 4D 44 43`` (``\\x89MDC``)
4       1     version, 1
5       1     status, see :class:`Status`; 0 in a request
6       1     flags of a request: 1 fail if no worker is registered,
              2 cancel the call; others are ignored.  In an answer: the
              try that the broker accepted; later ones joined it
7       1     priority, from 0 (least) to 3; 1 is that of strict clients
8       1     in a request: the client's try, from 1; in an answer: how
              often the broker gave the request to a worker (255: and more)
9       16    the client's nonce      } together the request id
25      8     the number of the call  }
33      4     milliseconds the caller still waits; ``FFFFFFFF``: unknown
37      55    a W3C ``traceparent``, or nothing
======  ====  ===========================================================

An answer carries the frame of its request, with status, try and attempts set.  A
client does not join parts that answer different tries.  Such parts show that the client
read too slowly: the rest of the first try's answer was lost, and the retry came too late
to join that request.

A status that is neither *ok* nor *partial* belongs to a FINAL that says why there is
no answer.  That FINAL's body is one empty frame, or for *handler failed* the
error's type name and message.

A request id is a secret of its client: any peer that knows the id can cancel the call.
A *cancel* is a REQUEST with that flag and any body.

**Session frame**, between worker and broker, both ways:

======  ====  ===========================================================
offset  size  field
======  ====  ===========================================================
0       4     magic, ``89 4D 44 57`` (``\\x89MDW``)
4       1     version, 1
5       1     flags: in a broker's HEARTBEAT, 1: the caller of the session's
              request has gone; in a worker's FINAL or DISCONNECT,
              2: it is the session's last, and nothing was begun since; else 0
6       4     number of the session, from 1; a connection's next session
              has a higher number than all before
======  ====  ===========================================================

Each session is one worker by the RFC: READY, one request at a time,
DISCONNECT (after which its number is never used again).  HEARTBEAT and
DISCONNECT without a session frame are the connection's.  A worker that is stopped
says *last*: no request that was sent to the session meanwhile has run.  The broker
gives that request to another worker, as if it had never been sent.

**Probe**: a request for the service ``mmi.gmdp`` is answered ``200`` and JSON
(:class:`Offer`).
"""

from __future__ import annotations

import enum
import json
import re
import struct
from typing import NamedTuple

VERSION = 1
CALL_MAGIC = b"\x89MDC" + bytes((VERSION,))
SESSION_MAGIC = b"\x89MDW" + bytes((VERSION,))
#: Bytes of a magic and its version.
MAGIC_SIZE = 5

CLIENT_NONCE_SIZE = 16
#: Flags of a call frame.
FAIL_WITHOUT_WORKER = 1
CANCEL = 2
#: Flags of a session frame.
CALLER_GONE = 1
LAST = 2

#: Priorities of a request: more urgent ones are higher.
PRIORITIES = range(4)
MOST_URGENT = PRIORITIES[-1]
NORMAL_PRIORITY = 1

PROBE_SERVICE = b"mmi.gmdp"

_TRACEPARENT_SIZE = 55
#: W3C Trace Context, 3.2: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")

_CALL = struct.Struct(">5sBBBB24sI")
_ID = struct.Struct(">16sQ")
_SESSION = struct.Struct(">5sBI")
_STATUS = 5
_PRIORITY = 7
_ID_AT = 9
_UNKNOWN = 0xFFFFFFFF
_CALL_SIZE = _CALL.size
_new = tuple.__new__  # costs a third of a NamedTuple's own constructor

#: The lengths of the two frames.
CALL_SIZES = frozenset({_CALL.size, _CALL.size + _TRACEPARENT_SIZE})
SESSION_SIZE = _SESSION.size
MAX_SESSION = 2**32 - 1


class Status(enum.IntEnum):
    """Says what an answer is, or why there is none."""

    OK = 0
    PARTIAL = 1
    NO_WORKER = 2
    EXPIRED = 3
    OVERLOADED = 4
    WORKER_LOST = 5
    HANDLER_FAILED = 6
    NOT_ALLOWED = 7
    TOO_LARGE = 8
    SHUTTING_DOWN = 9


class CallFrame(NamedTuple):
    """A call frame, taken apart."""

    status: int
    #: In an answer, the try that it answers.
    flags: int
    priority: int
    attempt: int
    id: bytes
    #: Seconds; None if unknown.
    time_left: float | None
    #: 55 bytes, or none.
    traceparent: bytes


def is_call(frame: bytes) -> bool:
    """True if `frame` has the magic, version and length of a call frame."""
    return frame[:MAGIC_SIZE] == CALL_MAGIC and len(frame) in CALL_SIZES


def is_session(frame: bytes) -> bool:
    """True if `frame` has the magic, version and length of a session frame."""
    return frame[:MAGIC_SIZE] == SESSION_MAGIC and len(frame) == SESSION_SIZE


def to_milliseconds(time_left: float | None) -> int:
    """Return seconds as the number that a call frame or token holds."""
    if time_left is None:
        return _UNKNOWN
    milliseconds = int(time_left * 1000 + 0.999)  # rounded up: no peer may give up a call before its caller does
    if 0 <= milliseconds < _UNKNOWN:
        return milliseconds
    return 0 if milliseconds < 0 else _UNKNOWN - 1


def from_milliseconds(milliseconds: int) -> float | None:
    """Return the seconds that a number of :func:`to_milliseconds` stands for; None: unknown."""
    return None if milliseconds == _UNKNOWN else milliseconds / 1000


def request_id(nonce: bytes, number: int) -> bytes:
    """Return the id of a client's call, 24 bytes."""
    return _ID.pack(nonce, number)


def call_number(identity: bytes, nonce: bytes) -> int | None:
    """Return the number in a request id; None if the id is not of the client with this nonce."""
    client_nonce, number = _ID.unpack(identity)
    return number if client_nonce == nonce else None


def call_frame(
    identity: bytes,
    *,
    flags: int = 0,
    priority: int = NORMAL_PRIORITY,
    attempt: int = 1,
    time_left: float | None = None,
    traceparent: bytes = b"",
) -> bytes:
    """Return a request's call frame; `identity` is from :func:`request_id`."""
    milliseconds = to_milliseconds(time_left)
    return _CALL.pack(CALL_MAGIC, 0, flags, priority, min(attempt, 255), identity, milliseconds) + traceparent


def read_call(frame: bytes) -> CallFrame:
    """Take a frame apart for which :func:`is_call` is true.

    Numbers are as they were sent, but a priority above the highest is read as the highest.
    """
    _, status, flags, priority, attempt, identity, milliseconds = _CALL.unpack_from(frame)
    if priority > MOST_URGENT:
        priority = MOST_URGENT
    seconds = None if milliseconds == _UNKNOWN else milliseconds / 1000
    return _new(CallFrame, (status, flags, priority, attempt, identity, seconds, frame[_CALL_SIZE:]))


def answer_frame(frame: bytes, status: Status, joined_try: int, attempts: int) -> bytes:
    """Return a request's call frame as its answer carries it; `joined_try` is the try that the broker accepted."""
    return frame[:_STATUS] + bytes((status, joined_try, frame[_PRIORITY], min(attempts, 255))) + frame[_ID_AT:]


def session_frame(number: int, flags: int = 0) -> bytes:
    """Return a session frame."""
    return _SESSION.pack(SESSION_MAGIC, flags, number)


def read_session(frame: bytes) -> tuple[int, int]:
    """Take a frame apart for which :func:`is_session` is true: (flags, number)."""
    _, flags, number = _SESSION.unpack(frame)
    return flags, number


def is_traceparent(value: bytes) -> bool:
    """True if `value` is a ``traceparent`` of W3C Trace Context, of the length of version 00."""
    return _TRACEPARENT.match(value) is not None


class Offer(NamedTuple):
    """A broker's answer to the probe: its limits."""

    #: The most calls that a client's connection may have open at a time.
    max_in_flight: int
    #: The most sessions of a worker's connection.
    max_sessions: int
    #: The most frames of a message, its envelope included.
    max_frames: int
    #: The most bytes of a frame.
    max_frame_size: int
    #: Seconds between the broker's heartbeats.
    heartbeat_interval: float


def offer_body(offer: Offer) -> list[bytes]:
    """Return the body of the answer to a probe."""
    return [b"200", json.dumps({"extension": VERSION, **offer._asdict()}, separators=(",", ":")).encode()]


def read_offer(body: list[bytes]) -> Offer | None:
    """Return the offer in a broker's answer to a probe; None if the broker does not speak the extension."""
    if len(body) != 2 or body[0] != b"200":
        return None
    try:
        offer = json.loads(body[1])
        version = offer["extension"]
        values = [offer[name] for name in Offer._fields]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(version) is not int or version < VERSION:
        return None
    if not all(type(value) is int and value >= 1 for value in values[:-1]):
        return None
    if type(values[-1]) not in (int, float) or not values[-1] > 0:
        return None
    return Offer(*values)
