"""Parses any message that a broker reads: MDP/0.1, MDP/0.2, the majortomo dialect, the extension.

The rules of this module:

* A peer's dialect shows in the frames before the command; bodies and service names are never
  inspected for it:

  ======================================  =============================
  ``MDPC02`` / ``MDPW02``                 :data:`~.dialects.RFC18` (MDP/0.2)
  empty, ``MDPC01`` / ``MDPW01``          :data:`~.dialects.RFC7` (MDP/0.1)
  empty, ``MDPC02`` / ``MDPW02``          :data:`~.dialects.MAJORTOMO`; with RFC 18's own
                                          code of REQUEST, 0x01: :data:`~.dialects.DELIMITED`
  1 to 8 frames, then one of the two      the same, behind a return address
  rows that begin with an empty frame     that is given back verbatim
  the same, the last of the 1 to 8 being  MDP/0.1 or 0.2 in gmdp's extension:
  a frame of :mod:`~.extension`           :data:`~.dialects.EXTENDED`
  anything else                           malformed
  ======================================  =============================

* Parsing never raises.  A message that is no command gives ``None``; the caller counts it.
"""

from __future__ import annotations

from typing import NamedTuple

from .dialects import DELIMITED, EMPTY, EXTENDED, MAJORTOMO, MAX_SERVICE_NAME, RFC7, RFC18, Command, Dialect
from .extension import (
    CALL_MAGICS,
    CALL_SIZE,
    CALL_SIZES_1,
    MAGIC_SIZE,
    NO_FIELDS,
    SESSION_MAGICS,
    SESSION_SIZE,
    is_call,
    is_session,
)

#: The most frames of a return address before the empty delimiter.
MAX_STACK = 8
#: The most bytes of each of these frames, which are routing ids.
MAX_ADDRESS = 255

# Every look-up of the message path counts: a member of an Enum costs 0.1 µs in Python 3.11,
# and the constructor of a NamedTuple three times a tuple's.
_REQUEST, _READY, _PARTIAL, _FINAL = Command.REQUEST, Command.READY, Command.PARTIAL, Command.FINAL
_new = tuple.__new__


class Message(NamedTuple):
    """One parsed message, as a broker received it."""

    command: Command
    dialect: Dialect
    #: True if a client sent the message, False if a worker did.
    from_client: bool
    #: Return address between the routing id and the empty delimiter, `extra` not counted.
    stack: tuple[bytes, ...]
    #: The service of REQUEST and READY, the address of PARTIAL and FINAL.
    subject: bytes
    body: list[bytes]
    #: The extension's frame; empty in the dialects of the RFCs.
    extra: bytes = b""


def _heads(dialect: Dialect) -> dict[bytes, tuple[Dialect, bool, bytes | None]]:
    """Return by header frame: the dialect, True for a client, and the command frame of its REQUEST."""
    return {
        dialect.client_head[-1]: (dialect, True, dialect.client_request),
        dialect.worker_head[-1]: (dialect, False, None),
    }


_DIRECT = _heads(RFC18)
_DELIMITED = _heads(RFC7) | _heads(MAJORTOMO)
_EXTENDED = _heads(EXTENDED[RFC7]) | _heads(EXTENDED[RFC18])
_CALLS = {head: found for head, found in _EXTENDED.items() if found[1]}
_SESSIONS = {head: found for head, found in _EXTENDED.items() if not found[1]}
_CALL_MAGIC_1, _CALL_MAGIC = CALL_MAGICS.values()
_SESSION_MAGIC_1, _SESSION_MAGIC = SESSION_MAGICS.values()
#: A frame without optional fields ends before these offsets.  (Of a large frame no more is copied than that.)
_CALL_END, _SESSION_END = CALL_SIZE + 3, SESSION_SIZE + 3
_NO_STACK: tuple[bytes, ...] = ()


def parse(frames: list[bytes]) -> Message | None:
    """Parse one message as a ROUTER socket gives it, routing id first; None if it is malformed."""
    count = len(frames)
    if count < 3:
        return None
    stack = _NO_STACK
    extra = EMPTY
    head = frames[1]
    if not head:
        # An empty frame comes first: a delimiter without a return address.
        at = 3
        found = _DELIMITED.get(frames[2])
    else:
        at = 2
        found = _DIRECT.get(head)
        if found is None:
            # No header of MDP/0.2: the first frame of a return address.  The delimiter follows.
            if frames[2]:
                try:
                    at = frames.index(EMPTY, 3, MAX_STACK + 2)
                except ValueError:
                    return None
            # The last frame of the return address may be the extension's.
            heads = _DELIMITED
            last = frames[at - 1]
            magic = last[:MAGIC_SIZE]
            if magic == _CALL_MAGIC:
                if last[CALL_SIZE:_CALL_END] == NO_FIELDS:
                    heads, extra = _CALLS, last
                elif is_call(last):
                    heads, extra = _CALLS, bytes(last)
            elif magic == _SESSION_MAGIC:
                if last[SESSION_SIZE:_SESSION_END] == NO_FIELDS:
                    heads, extra = _SESSIONS, last
                elif is_session(last):
                    heads, extra = _SESSIONS, bytes(last)
            elif magic == _CALL_MAGIC_1:
                if len(last) in CALL_SIZES_1:
                    heads, extra = _CALLS, last
            elif magic == _SESSION_MAGIC_1 and len(last) == SESSION_SIZE:
                heads, extra = _SESSIONS, last
            if not extra or at > 2:
                stack = tuple(frames[1 : at - 1 if extra else at])
                if max(map(len, stack)) > MAX_ADDRESS:
                    return None
            at += 2
            found = heads.get(frames[at - 1]) if at <= count else None
    if found is None or at >= count:
        return None
    dialect, from_client, request = found
    if from_client:
        if request is not None:
            # "A REQUEST command consists of a multipart message of 4 or more frames"
            if frames[at] != request:
                if dialect is not MAJORTOMO or frames[at] != DELIMITED.client_request:
                    return None
                dialect = DELIMITED
            at += 1
            if at >= count:
                return None
        subject = frames[at]
        if not 0 < len(subject) <= MAX_SERVICE_NAME:
            return None
        body = frames[at + 1 :]
        if not body:
            if not dialect.empty_bodies:
                return None
            body = [EMPTY]
        return _new(Message, (_REQUEST, dialect, True, stack, subject, body, extra))
    command = dialect.spoken_by_workers.get(frames[at])
    if command is _FINAL or command is _PARTIAL:
        # "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client
        # address frame. This frame MUST be followed by an empty (zero sized) frame."
        if count < at + 3 or frames[at + 2]:
            return None
        body = frames[at + 3 :]
        if not body:
            if not dialect.empty_bodies:
                return None
            body = [EMPTY]
        return _new(Message, (command, dialect, False, stack, frames[at + 1], body, extra))
    if command is _READY:
        if count != at + 2 or not 0 < len(frames[at + 1]) <= MAX_SERVICE_NAME:
            return None
        return _new(Message, (command, dialect, False, stack, frames[at + 1], [], extra))
    if command is None or count != at + 1:
        return None
    return _new(Message, (command, dialect, False, stack, EMPTY, [], extra))


def parse_without_delimiter(frames: list[bytes]) -> Message | None:
    """Parse a strict worker's PARTIAL or FINAL that lacks the empty frame between address and body.

    The guide's PHP worker sends such replies.  None if `frames` are anything else.
    """
    try:
        at = 1 if frames[1] in _DIRECT else frames.index(EMPTY, 1, MAX_STACK + 2) + 1
    except (IndexError, ValueError):
        return None
    at += 3  # past the header, the command and the address
    if len(frames) <= at:
        return None
    message = parse([*frames[:at], EMPTY, *frames[at:]])
    if message is None or message.extra or message.command not in (_PARTIAL, _FINAL):
        return None
    return message
