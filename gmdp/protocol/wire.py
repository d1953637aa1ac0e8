"""Frames to commands and back: MDP/0.1, MDP/0.2 and the majortomo dialect.

The rules of this module:

* A peer's dialect shows in the first frame after the routing id, and nowhere
  else; bodies and service names are never inspected for it:

  ======================================  =============================
  ``MDPC02`` / ``MDPW02``                 :data:`RFC18` (MDP/0.2)
  empty, ``MDPC01`` / ``MDPW01``          :data:`RFC7` (MDP/0.1)
  empty, ``MDPC02`` / ``MDPW02``          :data:`MAJORTOMO`
  1 to 8 frames, then one of the two      the same, behind a return address
  rows that begin with an empty frame     that is given back verbatim
  the same, the last of the 1 to 8 being  MDP/0.1 or 0.2 in gmdp's extension:
  a frame of :mod:`~.extension`           `EXTENDED`
  anything else                           malformed
  ======================================  =============================

* Parsing never raises.  What is no command is ``None``; the caller counts it.
* Building trusts its arguments: they are ours, or were parsed here before.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .extension import CALL_MAGIC, CALL_SIZES, MAGIC_SIZE, SESSION_MAGIC, SESSION_SIZE

#: Frames of return address that may precede the empty delimiter, and the bytes of
#: each: they are routing ids.
MAX_STACK = 8
MAX_ADDRESS = 255

#: A service name is 1 to this many bytes.
MAX_SERVICE_NAME = 255

#: RFC 8: "An MMI broker implementation MUST handle all services that start
#: with "mmi." internally."
MMI_PREFIX = b"mmi."

EMPTY = b""
CLIENT_01 = b"MDPC01"
WORKER_01 = b"MDPW01"
CLIENT_02 = b"MDPC02"
WORKER_02 = b"MDPW02"


class Command(enum.Enum):
    """What a message says, whatever the dialect."""

    __hash__ = object.__hash__  # a message costs less than with Enum's own

    #: A client's request, or a broker's request to a worker.
    REQUEST = "request"
    READY = "ready"
    PARTIAL = "partial"
    #: The end of an answer; MDP/0.1 calls it REPLY.
    FINAL = "final"
    HEARTBEAT = "heartbeat"
    DISCONNECT = "disconnect"


# What a message costs is counted in single look-ups: a member of an Enum is 0.1 µs in
# Python 3.11, and a NamedTuple's own constructor three times a tuple's.
_REQUEST, _READY, _PARTIAL, _FINAL = Command.REQUEST, Command.READY, Command.PARTIAL, Command.FINAL
_new = tuple.__new__


class Message(NamedTuple):
    """One parsed message, as a broker received it."""

    command: Command
    dialect: Dialect
    #: True if a client spoke, False if a worker did.
    client: bool
    #: Return address between the routing id and the empty delimiter, `extra` not counted.
    stack: tuple[bytes, ...]
    #: The service of REQUEST and READY, the address of PARTIAL and FINAL.
    subject: bytes
    body: list[bytes]
    #: The extension's frame; empty in the dialects of the RFCs.
    extra: bytes = b""


@dataclass(frozen=True, eq=False, repr=False)
class Dialect:
    """One way to write MDP.  Instances: `RFC7`, `RFC18`, `MAJORTOMO`, and those of `EXTENDED`."""

    name: str
    #: The version a user names: "0.1" or "0.2".
    version: str
    #: True if an answer may come in several messages.
    streams: bool
    #: Frames before a client's or worker's command.
    client_head: tuple[bytes, ...]
    worker_head: tuple[bytes, ...]
    #: Command frames; RFC 7 has none between client and broker.
    client_request: bytes | None
    client_partial: bytes | None
    client_final: bytes | None
    #: False where replies to clients do not repeat the service.
    reply_names_service: bool
    #: The dialect of a package that sends bodies of no frames: one empty frame.
    empty_bodies: bool
    worker_codes: Mapping[Command, bytes]
    #: True if a frame of the extension comes before each message.
    extended: bool = False
    #: What a client's REPLY, or FINAL, and a PARTIAL begin with.
    final_head: tuple[bytes, ...] = field(init=False)
    partial_head: tuple[bytes, ...] = field(init=False)
    #: The commands a worker may send, by code.
    spoken_by_workers: dict[bytes, Command] = field(init=False)
    _commands: dict[bytes, Command] = field(init=False)
    _replies: dict[bytes, Command] = field(init=False)

    def __post_init__(self) -> None:
        commands = {code: command for command, code in self.worker_codes.items()}
        object.__setattr__(self, "_commands", commands)
        spoken = {code: command for code, command in commands.items() if command is not Command.REQUEST}
        object.__setattr__(self, "spoken_by_workers", spoken)
        replies = {}
        if self.client_partial is not None and self.client_final is not None:
            replies = {self.client_partial: Command.PARTIAL, self.client_final: Command.FINAL}
        object.__setattr__(self, "_replies", replies)
        for name, code in (("final_head", self.client_final), ("partial_head", self.client_partial)):
            object.__setattr__(self, name, (*self.client_head, code) if code is not None else self.client_head)

    def __repr__(self) -> str:
        return f"<Dialect {self.name}>"

    # Building

    def request(self, service: bytes, body: Sequence[bytes]) -> list[bytes]:
        """A client's REQUEST (RFC 7 and 18, MDP/Client)."""
        command = () if self.client_request is None else (self.client_request,)
        return [*self.client_head, *command, service, *body]

    def reply(self, service: bytes, body: Sequence[bytes], final: bool = True) -> list[bytes]:
        """A broker's REPLY, PARTIAL or FINAL to a client."""
        head = self.final_head if final else self.partial_head
        return [*head, service, *body] if self.reply_names_service else [*head, *body]

    def worker(self, command: Command, *rest: bytes) -> list[bytes]:
        """A command between worker and broker, either way; `rest` follows it."""
        return [*self.worker_head, self.worker_codes[command], *rest]

    # Parsing what a broker sent

    def parse_reply(self, frames: list[bytes], start: int = 0) -> tuple[Command, bytes | None, list[bytes]] | None:
        """What a client received, from frame `start` on: (PARTIAL or FINAL, service if named, body)."""
        head = self.client_head
        at = start + len(head)
        if len(frames) <= at or frames[at - 1] != head[-1] or frames[start] != head[0]:  # there are one or two
            return None
        command: Command | None = _FINAL
        if self.client_final is not None:
            command = self._replies.get(frames[at])
            at += 1
        if command is None:
            return None
        service = None
        if self.reply_names_service:
            if len(frames) <= at:
                return None
            service = frames[at]
            at += 1
        body = frames[at:]
        return (command, service, body) if body else None

    def parse_for_worker(self, frames: list[bytes], start: int = 0) -> tuple[Command, bytes, list[bytes]] | None:
        """What a worker received, from frame `start` on: (REQUEST, HEARTBEAT or DISCONNECT, address, body)."""
        head = self.worker_head
        at = start + len(head)
        if len(frames) <= at or frames[at - 1] != head[-1] or frames[start] != head[0]:  # there are one or two
            return None
        command = self._commands.get(frames[at])
        if command is _REQUEST:
            # "The REQUEST and the REPLY commands MUST contain precisely one client
            # address frame. This frame MUST be followed by an empty (zero sized) frame."
            if len(frames) < at + 4 or frames[at + 2] != EMPTY:
                return None
            return command, frames[at + 1], frames[at + 3 :]
        if command in (Command.HEARTBEAT, Command.DISCONNECT) and len(frames) == at + 1:
            return command, EMPTY, []
        return None


RFC7 = Dialect(
    name="MDP/0.1",
    version="0.1",
    streams=False,
    client_head=(EMPTY, CLIENT_01),
    worker_head=(EMPTY, WORKER_01),
    client_request=None,
    client_partial=None,
    client_final=None,
    reply_names_service=True,
    empty_bodies=False,
    worker_codes={
        Command.READY: b"\x01",
        Command.REQUEST: b"\x02",
        Command.FINAL: b"\x03",
        Command.HEARTBEAT: b"\x04",
        Command.DISCONNECT: b"\x05",
    },
)

_CODES_02 = {
    Command.READY: b"\x01",
    Command.REQUEST: b"\x02",
    Command.PARTIAL: b"\x03",
    Command.FINAL: b"\x04",
    Command.HEARTBEAT: b"\x05",
    Command.DISCONNECT: b"\x06",
}

RFC18 = Dialect(
    name="MDP/0.2",
    version="0.2",
    streams=True,
    client_head=(CLIENT_02,),
    worker_head=(WORKER_02,),
    client_request=b"\x01",
    client_partial=b"\x02",
    client_final=b"\x03",
    reply_names_service=True,
    empty_bodies=False,
    worker_codes=_CODES_02,
)

MAJORTOMO = Dialect(
    name="MDP/0.2 (majortomo)",
    version="0.2",
    streams=True,
    client_head=(EMPTY, CLIENT_02),
    worker_head=(EMPTY, WORKER_02),
    client_request=b"\x02",
    client_partial=b"\x03",
    client_final=b"\x04",
    reply_names_service=False,
    empty_bodies=True,
    worker_codes=_CODES_02,
)

#: The dialects a client or worker of ours may be told to speak.
VERSIONS = {"0.1": RFC7, "0.2": RFC18}

#: The same dialects in the extension: with the RFCs' own command codes after an empty frame.
EXTENDED = {
    RFC7: replace(RFC7, name="MDP/0.1 (gmdp)", extended=True),
    RFC18: replace(
        RFC18,
        name="MDP/0.2 (gmdp)",
        client_head=(EMPTY, CLIENT_02),
        worker_head=(EMPTY, WORKER_02),
        extended=True,
    ),
}


def _heads(dialect: Dialect) -> dict[bytes, tuple[Dialect, bool, bytes | None]]:
    """By header: the dialect, whether a client speaks, and what its REQUEST begins with."""
    return {
        dialect.client_head[-1]: (dialect, True, dialect.client_request),
        dialect.worker_head[-1]: (dialect, False, None),
    }


_DIRECT = _heads(RFC18)
_DELIMITED = _heads(RFC7) | _heads(MAJORTOMO)
_EXTENDED = _heads(EXTENDED[RFC7]) | _heads(EXTENDED[RFC18])
_CALLS = {head: found for head, found in _EXTENDED.items() if found[1]}
_SESSIONS = {head: found for head, found in _EXTENDED.items() if not found[1]}
_NO_STACK: tuple[bytes, ...] = ()


def parse(frames: list[bytes]) -> Message | None:
    """One message as a ROUTER socket gives it, routing id first; None if malformed."""
    count = len(frames)
    if count < 3:
        return None
    stack = _NO_STACK
    extra = EMPTY
    head = frames[1]
    if not head:
        at = 3
        found = _DELIMITED.get(frames[2])
    else:
        at = 2
        found = _DIRECT.get(head)
        if found is None:
            if frames[2]:
                try:
                    at = frames.index(EMPTY, 3, MAX_STACK + 2)
                except ValueError:
                    return None
            heads = _DELIMITED
            last = frames[at - 1]
            magic = last[:MAGIC_SIZE]
            if magic == CALL_MAGIC and len(last) in CALL_SIZES:
                heads, extra = _CALLS, last
            elif magic == SESSION_MAGIC and len(last) == SESSION_SIZE:
                heads, extra = _SESSIONS, last
            if not extra or at > 2:
                stack = tuple(frames[1 : at - 1 if extra else at])
                if max(map(len, stack)) > MAX_ADDRESS:
                    return None
            at += 2
            found = heads.get(frames[at - 1]) if at <= count else None
    if found is None or at >= count:
        return None
    dialect, client, request = found
    if client:
        if request is not None:
            # "A REQUEST command consists of a multipart message of 4 or more frames"
            if frames[at] != request or at + 1 >= count:
                return None
            at += 1
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
