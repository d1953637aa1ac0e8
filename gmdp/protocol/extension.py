"""The frames that gmdp peers add to the RFCs' messages, byte by byte.

A message in the extension has one frame more: the last one of its return
address, before the empty delimiter.  The RFC's own header and command codes
follow.  A broker that speaks only an RFC never gets a message in the extension: peers
ask first (the probe ``mmi.gmdp``, below).  All numbers are big-endian.

There are two versions.  They differ in the version byte and in the end of each frame:
a frame of version 2 ends in optional fields, for which later features add types.  An
answer has the version of its request, and a session has the version of its READY.

**Call frame**, between client and broker, both ways:

======  ====  ===========================================================
offset  size  field
======  ====  ===========================================================
0       4     magic, ``89 4D 44 43`` (``\\x89MDC``)
4       1     version, 1 or 2
5       1     status, see :class:`Status`; 0 in a request
6       1     flags of a request: 1 fail if no worker is registered,
              2 cancel the call, 4 the caller stated the time it waits
              (feature ``stated``), 8 the caller grants credits, 16 a grant;
              others are ignored.  In an answer: the try that the broker
              accepted; later ones joined it
7       1     priority, from 0 (least) to 3; 1 is that of strict clients
8       1     in a request: the client's try, from 1; in an answer: how
              often the broker gave the request to a worker (255: and more)
9       16    the client's nonce      } together the request id
25      8     the number of the call  }
33      4     milliseconds the caller still waits; ``FFFFFFFF``: unknown
37            version 1: a W3C ``traceparent`` of 55 bytes, or nothing
37      2     version 2: the bytes of all optional fields together
39            version 2: the optional fields
======  ====  ===========================================================

An answer carries the frame of its request, with status, try and attempts set; in
version 2 it has its own optional fields in place of the request's.  A client does not
join parts that answer different tries.  Such parts show that the client
read too slowly: the rest of the first try's answer was lost, and the retry came too late
to join that request.

A status that is neither *ok* nor *partial* belongs to a FINAL that says why there is
no answer.  That FINAL's body is one empty frame, or for *handler failed* the
error's type name and message.  *Not run*, from a broker that stops, says that no worker has had the
request: its client may send the request elsewhere.  A client that did not name the feature
``not-run`` hears *shutting down* in its place.  To a client that has named the feature ``reasons``, a broker
says in words why there is no answer: the field *reason*, of at most :data:`MAX_REASON` bytes.  The client shows
the words to people, and takes no decision by them.  Such a client hears *expired* shortly before its time is up
(:func:`gmdp.core.outcomes.notice_time`) if its request waits in a queue then.

A request id is a secret of its client: any peer that knows the id can cancel the call.
A *cancel* is a REQUEST with that flag and any body.

**Credits** bound what is on the way from a handler that yields parts to the reader of its answer
(feature *credits*).  The *weight* of a part is the bytes of its body's frames, and
:data:`FRAME_WEIGHT` more for each.  The reader of a call with flag 8 has granted
:data:`INITIAL_CREDIT` by its request.  A *grant* is a REQUEST with the call's id, flag 16, the field
*credit* and any body: the sum of all weights that the reader will take, those already sent
included.  The broker passes it on to the worker, as the field *credit* in a HEARTBEAT to the session.  A worker
whose token has flag 2 sends a further part as long as the parts sent weigh less than the
credit: so a part of any size has room where there is any.  A FINAL needs no credit.
A stream whose reader grants nothing for too long ends with the status *stalled*.

**Session frame**, between worker and broker, both ways:

======  ====  ===========================================================
offset  size  field
======  ====  ===========================================================
0       4     magic, ``89 4D 44 57`` (``\\x89MDW``)
4       1     version, 1 or 2
5       1     flags: in a broker's HEARTBEAT, 1: nobody waits for the answer
              of the session's request any more; besides, 4: since its
              stream has stalled; in a worker's FINAL or DISCONNECT,
              2: it is the session's last, and nothing was begun since; else 0
6       4     number of the session, from 1; a connection's next session
              has a higher number than all before; 0 in *begun*
10      2     version 2: the bytes of all optional fields together
12            version 2: the optional fields
======  ====  ===========================================================

Each session is one worker by the RFC: READY, one request at a time,
DISCONNECT (after which its number is never used again).  HEARTBEAT and
DISCONNECT without a session frame are the connection's.  A worker that is stopped
says *last*: no request that was sent to the session meanwhile has run.  The broker
gives that request to another worker, as if it had never been sent.

RFC 7 has no PARTIAL.  With the feature ``parts``, a session of MDP/0.1 may send one, laid out like
REPLY, with the command code ``06``.

A worker of several sessions that names the feature *begun* says which requests it is about to
begin: a HEARTBEAT of session 0 with the optional field BEGUN, once for all that it has read at
a time, and before the first of their handlers runs.  It says nothing of a request that it begins
while it has no other: what a connection was given first, of all that it has, counts as begun.  A
broker may take back what the worker has not begun: it says DISCONNECT to that session.  A worker
that has not run for a while reads everything before it begins anything.

**Optional fields** follow each other without a gap.  A reader skips types that it does not
know, stops at a field that is longer than what is left and after :data:`MAX_FIELDS` fields, and takes
the last of several fields of one type:

======  ====  ===========================================================
offset  size  field
======  ====  ===========================================================
0       1     type, see :class:`Field`
1       2     the bytes of the value
3             the value
======  ====  ===========================================================

**Probe**: a request for the service ``mmi.gmdp``.  Its body is one frame: JSON that says
what the peer speaks, ``{"extension": 2, "features": ["credits", ...]}``
(:func:`probe_body`), or nothing, as peers of version 1 send.  It is answered ``200`` and JSON:
the broker's version and features under the same names, and its limits (:class:`Offer`).
A peer uses the lower of the two versions.  It sends what belongs to a :class:`Feature` only to a
peer that has named the feature, and skips the names that it does not know.

A peer that has named the feature ``leaving`` may get the answer to its probe again at any time, as the
broker's offer then is.  ``"leaving": true`` in an offer says that the broker drains: no call and no session is to
begin there any more, and the connection is to be closed once those that have begun have ended.  A broker also
sends its offer again to a client that waits for an answer for long, to learn whether the client is still there.
"""

from __future__ import annotations

import enum
import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from .text import show_words

#: The version that gmdp speaks.  Peers of version 1 are served in that version.
VERSION = 2
#: By version: a frame's magic and version.
CALL_MAGICS = {1: b"\x89MDC\x01", 2: b"\x89MDC\x02"}
SESSION_MAGICS = {1: b"\x89MDW\x01", 2: b"\x89MDW\x02"}
_CALL_MAGIC, _SESSION_MAGIC = CALL_MAGICS[VERSION], SESSION_MAGICS[VERSION]
#: Bytes of a magic and its version.
MAGIC_SIZE = 5

CLIENT_NONCE_SIZE = 16
#: Flags of a call frame.
FAIL_WITHOUT_WORKER = 1
CANCEL = 2
TIME_STATED = 4
GRANTS_CREDITS = 8
GRANT = 16
#: Flags of a session frame.
CALLER_GONE = 1
LAST = 2
STALLED = 4

#: The credit of a stream before its reader grants any.
INITIAL_CREDIT = 64 * 1024
#: The weight of each frame of a part in addition to its bytes: even an empty one takes memory.
FRAME_WEIGHT = 64

#: Priorities of a request: more urgent ones are higher.
PRIORITIES = range(4)
MOST_URGENT = PRIORITIES[-1]
NORMAL_PRIORITY = 1

PROBE_SERVICE = b"mmi.gmdp"

#: The end of a frame of version 2 that has no optional fields: their bytes together, 0.
NO_FIELDS = b"\0\0"

_TRACEPARENT_SIZE = 55
#: W3C Trace Context, 3.2: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")

_CALL = struct.Struct(">5sBBBB24sI")
_unpack_call = _CALL.unpack_from
_ID = struct.Struct(">16sQ")
_SESSION = struct.Struct(">5sBI")
_FIELD = struct.Struct(">BH")
_VERSION = 4
_STATUS = 5
_PRIORITY = 7
_ID_AT = 9
_UNKNOWN = 0xFFFFFFFF
_new = tuple.__new__  # costs a third of a NamedTuple's own constructor

#: Bytes of the parts that both versions of a frame have.
CALL_SIZE = _CALL.size
SESSION_SIZE = _SESSION.size
#: The lengths of a call frame of version 1.
CALL_SIZES_1 = frozenset({CALL_SIZE, CALL_SIZE + _TRACEPARENT_SIZE})
MAX_SESSION = 2**32 - 1
#: The most optional fields of a frame that are read.
MAX_FIELDS = 64
#: The most bytes of a field REASON that are sent, and that are shown.
MAX_REASON = 1_000
#: The most bytes of a probe's body that a broker reads.
MAX_PROBE = 4_096
#: The largest limit, and the most seconds, that an offer may name.
MOST_LIMIT = 2**63 - 1
MOST_SECONDS = 1e9


class Feature(enum.IntFlag):
    """Features that a peer may have beyond the frames above; 0: a peer of version 1, or a strict one.

    The names on the wire are those of the members, in small letters and with dashes.
    """

    #: Flow control of streams.
    CREDITS = 1
    #: A worker says which of its sessions are about to begin.
    BEGUN = 2
    #: A refusal says that the request never reached a worker.
    NOT_RUN = 4
    #: The answer to the probe may come again; it says whether the broker drains.
    LEAVING = 8
    #: An answer's field REASON tells people why there is none.
    REASONS = 16
    #: A call's flag says that its caller stated the time.
    STATED = 32
    #: A session of MDP/0.1 may send PARTIAL, with the command code 6.
    PARTS = 64


#: The features that this release speaks, on either side.
SUPPORTED = Feature(sum(Feature))
_FEATURE_NAMES = {feature: str(feature.name).lower().replace("_", "-") for feature in Feature}
_FEATURES = {name: feature for feature, name in _FEATURE_NAMES.items()}


class Field(enum.IntEnum):
    """The types of optional fields."""

    __hash__ = int.__hash__  # an IntEnum's own is a Python function

    #: Of a request: a W3C ``traceparent``, 55 bytes.
    TRACEPARENT = 1
    #: Of an answer with a status that says why there is none: the same in words, for people, as UTF-8.
    REASON = 2
    #: Of a grant: the credit of a stream, 8 bytes.
    CREDIT = 3
    #: Of a worker's HEARTBEAT of session 0: the numbers of the sessions whose requests begin, 4 bytes each.
    BEGUN = 4


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
    NOT_RUN = 10
    STALLED = 11


_TRACEPARENT_FIELD = int(Field.TRACEPARENT)
_REASON_FIELD = int(Field.REASON)
_CREDIT_FIELD = int(Field.CREDIT)
_BEGUN_FIELD = int(Field.BEGUN)
#: The offset of a session's number, and how many numbers fit into one field.
_NUMBER_AT = 6
_MOST_BEGUN = 10_000
_SESSION_0 = bytes(4)
_SESSION_NUMBER = struct.Struct(">I")
#: The optional fields of a frame that has none.
EMPTY_FIELDS: Mapping[int, bytes] = MappingProxyType({})


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
    #: The optional fields, by type; those of unknown types, too.
    fields: Mapping[int, bytes]


def is_call(frame: bytes) -> bool:
    """True if `frame` has the magic, version and length of a call frame."""
    magic = frame[:MAGIC_SIZE]
    if magic == _CALL_MAGIC:
        return _has_field_size(frame, CALL_SIZE)
    return magic == CALL_MAGICS[1] and len(frame) in CALL_SIZES_1


def is_session(frame: bytes) -> bool:
    """True if `frame` has the magic, version and length of a session frame."""
    magic = frame[:MAGIC_SIZE]
    if magic == _SESSION_MAGIC:
        return _has_field_size(frame, SESSION_SIZE)
    return magic == SESSION_MAGICS[1] and len(frame) == SESSION_SIZE


def _has_field_size(frame: bytes, at: int) -> bool:
    """True if the two bytes at `at` say how many bytes follow them."""
    return len(frame) - at - 2 == int.from_bytes(frame[at : at + 2], "big")


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


def field_bytes(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the end of a frame of version 2 that has these optional fields, (type, value) each."""
    encoded = b"".join([_FIELD.pack(kind, len(value)) + value for kind, value in fields])
    return len(encoded).to_bytes(2, "big") + encoded


def _read_fields(frame: bytes, at: int) -> Mapping[int, bytes]:
    """Return the optional fields after the two bytes at `at`, by type; any bytes will do."""
    fields = {}
    at += 2
    end = len(frame) - _FIELD.size
    for _ in range(MAX_FIELDS):
        if at > end:
            break
        kind, size = _FIELD.unpack_from(frame, at)
        at += _FIELD.size
        value = frame[at : at + size]
        if len(value) < size:
            break
        fields[kind] = value
        at += size
    return fields


def call_frame(
    identity: bytes,
    *,
    flags: int = 0,
    priority: int = NORMAL_PRIORITY,
    attempt: int = 1,
    time_left: float | None = None,
    traceparent: bytes = b"",
    fields: Iterable[tuple[int, bytes]] = (),
    version: int = VERSION,
) -> bytes:
    """Return a request's call frame; `identity` is from :func:`request_id`.

    `fields` are further optional fields, (type, value) each; version 1 has none.
    """
    milliseconds = to_milliseconds(time_left)
    if attempt > 255:
        attempt = 255
    frame = _CALL.pack(CALL_MAGICS[version], 0, flags, priority, attempt, identity, milliseconds)
    if version == 1:
        return frame + traceparent
    if traceparent:
        fields = ((_TRACEPARENT_FIELD, traceparent), *fields)
    return frame + field_bytes(fields) if fields else frame + NO_FIELDS


def read_call(frame: bytes) -> CallFrame:
    """Take a frame apart for which :func:`is_call` is true.

    Numbers are as they were sent, but a priority above the highest is read as the highest.
    """
    _, status, flags, priority, attempt, identity, milliseconds = _unpack_call(frame)
    if priority > MOST_URGENT:
        priority = MOST_URGENT
    seconds = None if milliseconds == _UNKNOWN else milliseconds / 1000
    if len(frame) <= BARE_SIZE:
        return _new(CallFrame, (status, flags, priority, attempt, identity, seconds, b"", EMPTY_FIELDS))
    traceparent, fields = b"", EMPTY_FIELDS
    if frame[_VERSION] == 1:
        traceparent = frame[CALL_SIZE:]
    else:
        fields = _read_fields(frame, CALL_SIZE)
        traceparent = fields.get(_TRACEPARENT_FIELD, b"")
        if len(traceparent) != _TRACEPARENT_SIZE:
            traceparent = b""
    return _new(CallFrame, (status, flags, priority, attempt, identity, seconds, traceparent, fields))


#: A call frame with no more bytes has neither traceparent nor optional fields.
BARE_SIZE = CALL_SIZE + len(NO_FIELDS)


def bare_call(frame: bytes) -> bytes:
    """Return a request's call frame without its optional fields, for :func:`answer_frame`."""
    return frame if len(frame) <= BARE_SIZE or frame[_VERSION] == 1 else frame[:CALL_SIZE] + NO_FIELDS


def answer_frame(frame: bytes, status: Status, joined_try: int, attempts: int) -> bytes:
    """Return a request's call frame as its answer carries it, without optional fields.

    Args:
        frame: The call frame, from :func:`bare_call`.
        status: Says what the answer is.
        joined_try: The try that the broker accepted.
        attempts: How often a worker had the request.
    """
    if attempts > 255:
        attempts = 255
    return frame[:_STATUS] + bytes((status, joined_try, frame[_PRIORITY], attempts)) + frame[_ID_AT:]


def with_fields(frame: bytes, fields: bytes) -> bytes:
    """Return a call frame from :func:`answer_frame` with optional fields, from :func:`field_bytes`.

    Version 1 has none, and such a frame is returned as it is.
    """
    return frame if frame[_VERSION] == 1 else frame[:CALL_SIZE] + fields


def session_frame(number: int, flags: int = 0, *, fields: bytes = NO_FIELDS, version: int = VERSION) -> bytes:
    """Return a session frame; `fields` is from :func:`field_bytes`, and left out in version 1."""
    frame = _SESSION.pack(SESSION_MAGICS[version], flags, number)
    return frame if version == 1 else frame + fields


def mark_session(session: bytes, flags: int, fields: bytes = NO_FIELDS) -> bytes:
    """Return a frame of the same session and version with these flags and optional fields."""
    head = session[:_STATUS] + bytes((flags,)) + session[_STATUS + 1 : SESSION_SIZE]
    return head if session[_VERSION] == 1 else head + fields


def begun_frames(sessions: Iterable[bytes]) -> Iterator[bytes]:
    """Return the session frames that say that the requests of these sessions of version 2 are about to begin."""
    numbers = [session[_NUMBER_AT:SESSION_SIZE] for session in sessions]
    for at in range(0, len(numbers), _MOST_BEGUN):
        yield session_frame(0, fields=field_bytes([(_BEGUN_FIELD, b"".join(numbers[at : at + _MOST_BEGUN]))]))


def is_session_0(frame: bytes) -> bool:
    """True if a session frame is of session 0, which stands for the connection."""
    return frame[_NUMBER_AT:SESSION_SIZE] == _SESSION_0


def read_begun(frame: bytes) -> Iterator[tuple[int]]:
    """Return the numbers of the sessions whose requests begin, by a frame of session 0; any fields will do.

    Each is a tuple of one number: so all are made without a step of Python's each.
    """
    numbers = session_fields(frame).get(_BEGUN_FIELD, b"")
    return _SESSION_NUMBER.iter_unpack(numbers[: len(numbers) & ~3])


def read_session(frame: bytes) -> tuple[int, int]:
    """Take a frame apart for which :func:`is_session` is true: (flags, number)."""
    _, flags, number = _SESSION.unpack_from(frame)
    return flags, number


def session_fields(frame: bytes) -> Mapping[int, bytes]:
    """Return the optional fields of a frame for which :func:`is_session` is true, by type."""
    return _read_fields(frame, SESSION_SIZE) if len(frame) > SESSION_SIZE + len(NO_FIELDS) else EMPTY_FIELDS


def reason_bytes(words: str) -> bytes:
    """Return the optional fields of an answer that says in words why there is none, for :func:`with_fields`."""
    shown = words.encode("utf-8", "backslashreplace")[:MAX_REASON].decode("utf-8", "ignore")  # no split character
    return field_bytes([(_REASON_FIELD, shown.encode())])


def read_reason(fields: Mapping[int, bytes]) -> str:
    """Return the words in an answer's optional fields, on one line; empty if there are none; any bytes will do."""
    return show_words(fields.get(_REASON_FIELD, b""), MAX_REASON)


def credit_bytes(credit: int) -> bytes:
    """Return the optional fields of a grant, for a session frame."""
    return field_bytes([(_CREDIT_FIELD, credit.to_bytes(8, "big"))])


def read_credit(fields: Mapping[int, bytes]) -> int:
    """Return the credit in a frame's optional fields; 0 if there is none."""
    return int.from_bytes(fields.get(_CREDIT_FIELD, b"")[:8], "big")


def part_weight(body: Sequence[bytes]) -> int:
    """Return how much a part of an answer weighs."""
    return sum(map(len, body)) + FRAME_WEIGHT * len(body)


def version_of(frame: bytes) -> int:
    """Return the version of a call frame or session frame."""
    return frame[_VERSION]


def is_traceparent(value: bytes) -> bool:
    """True if `value` is a ``traceparent`` of W3C Trace Context, of the length of version 00."""
    return _TRACEPARENT.match(value) is not None


class Offer(NamedTuple):
    """A broker's answer to the probe: its limits, and what it speaks."""

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
    #: The extension's version.
    version: int = VERSION
    #: The :class:`Feature` flags of the broker; 0 in version 1.
    features: int = 0
    #: True if the broker drains.
    leaving: bool = False
    #: Seconds for which a stream's reader may grant nothing; left out in version 1.
    stream_stall_timeout: float = 30.0


_LIMITS = Offer._fields[:5]


def probe_body(version: int = VERSION, features: int = 0) -> list[bytes]:
    """Return the body of a probe, which says what the peer speaks."""
    return [b"" if version == 1 else _to_json(version, features)]


def read_probe(body: list[bytes]) -> int:
    """Return the :class:`Feature` flags that a peer's probe names; 0 if it names none, or makes no sense."""
    if not 0 < len(body[0]) <= MAX_PROBE:
        return 0
    try:
        probe = json.loads(body[0])
        version = probe["extension"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return _read_features(probe) if type(version) is int and version >= 2 else 0


def offer_body(offer: Offer) -> list[bytes]:
    """Return the body of the answer to a probe."""
    names = _LIMITS if offer.version == 1 else (*_LIMITS, "stream_stall_timeout")
    limits = {name: getattr(offer, name) for name in names}
    if offer.leaving:
        limits["leaving"] = True
    return [b"200", _to_json(offer.version, offer.features, limits)]


def read_offer(body: list[bytes]) -> Offer | None:
    """Return the offer in a broker's answer to a probe; None if the broker does not speak the extension."""
    if len(body) != 2 or body[0] != b"200":
        return None
    try:
        offer = json.loads(body[1])
        version = offer["extension"]
        values = [offer[name] for name in _LIMITS]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(version) is not int or version < 1:
        return None
    if not all(type(value) is int and 1 <= value <= MOST_LIMIT for value in values[:-1]):
        return None
    if not _is_seconds(values[-1]):
        return None
    if version == 1:
        return Offer._make([*values, version, 0, False, Offer._field_defaults["stream_stall_timeout"]])
    patience = offer.get("stream_stall_timeout")
    if not _is_seconds(patience):
        patience = Offer._field_defaults["stream_stall_timeout"]
    return Offer._make([*values, version, _read_features(offer), offer.get("leaving") is True, patience])


def _is_seconds(value: Any) -> bool:
    """True if `value`, out of a peer's JSON, is a number of seconds with which a core can calculate."""
    return type(value) in (int, float) and 0 < value <= MOST_SECONDS


def _to_json(version: int, features: int, limits: Mapping[str, float] = MappingProxyType({})) -> bytes:
    content: dict[str, Any] = {"extension": version, **limits}
    if version >= 2:
        content["features"] = [name for feature, name in _FEATURE_NAMES.items() if features & feature]
    return json.dumps(content, separators=(",", ":")).encode()


def _read_features(content: Any) -> int:
    """Return the features that this JSON of a peer names; names that are not known are skipped."""
    names = content.get("features")
    features = 0
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str):
            features |= _FEATURES.get(name, 0)
    return int(features)
