"""The dialects of MDP as data, and how each writes and reads a peer's messages.

The rules of this module:

* A :class:`Dialect` holds header frames and command codes; no other code of gmdp spells them.
* Parsing never raises.  Frames that are no command give ``None``; the caller counts them.
* Building trusts its arguments: they come from gmdp, or gmdp has parsed them.

:mod:`~.wire` parses the messages that a broker reads, for all dialects at once.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

#: The most bytes of a service name; the least is 1.
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
    """A command of MDP, in any dialect."""

    __hash__ = object.__hash__  # Enum's own makes each message more expensive

    #: A client's request, or a broker's request to a worker.
    REQUEST = "request"
    READY = "ready"
    PARTIAL = "partial"
    #: The end of an answer; MDP/0.1 calls it REPLY.
    FINAL = "final"
    HEARTBEAT = "heartbeat"
    DISCONNECT = "disconnect"


# Members of an Enum cost 0.1 µs a look-up in Python 3.11, so the message path uses these names.
_REQUEST, _FINAL = Command.REQUEST, Command.FINAL


@dataclass(frozen=True, eq=False, repr=False)
class Dialect:
    """One way to write MDP.

    The instances are :data:`RFC7`, :data:`RFC18`, :data:`MAJORTOMO`, :data:`DELIMITED`, and those of :data:`EXTENDED`.
    """

    name: str
    #: The version as users name it: "0.1" or "0.2".
    version: str
    #: True if an answer may come in several messages.
    streams: bool
    #: Frames before a client's or worker's command.
    client_head: tuple[bytes, ...]
    worker_head: tuple[bytes, ...]
    #: The command frames between client and broker; RFC 7 has none.
    client_request: bytes | None
    client_partial: bytes | None
    client_final: bytes | None
    #: False where replies to clients do not repeat the service.
    reply_names_service: bool
    #: True if a body may have no frames; it is read as one empty frame.
    empty_bodies: bool
    worker_codes: Mapping[Command, bytes]
    #: True if a frame of the extension comes before each message.
    extended: bool = False
    #: The first frames of a FINAL (a REPLY in MDP/0.1) and of a PARTIAL to a client.
    final_head: tuple[bytes, ...] = field(init=False)
    partial_head: tuple[bytes, ...] = field(init=False)
    #: The commands that a worker may send, by code.
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
        """Return a client's REQUEST (RFC 7 and 18, MDP/Client)."""
        command = () if self.client_request is None else (self.client_request,)
        return [*self.client_head, *command, service, *body]

    def reply(self, service: bytes, body: Sequence[bytes], final: bool = True) -> list[bytes]:
        """Return a broker's REPLY, PARTIAL or FINAL to a client."""
        head = self.final_head if final else self.partial_head
        return [*head, service, *body] if self.reply_names_service else [*head, *body]

    def worker_command(self, command: Command, *rest: bytes) -> list[bytes]:
        """Return a command between worker and broker, in either direction, followed by the frames `rest`."""
        return [*self.worker_head, self.worker_codes[command], *rest]

    # Parsing a broker's messages

    def parse_reply(self, frames: list[bytes], start: int = 0) -> tuple[Command, bytes | None, list[bytes]] | None:
        """Parse a message to a client from frame `start` on.

        Returns (PARTIAL or FINAL, service or None if the dialect names none, body), or None.
        """
        head = self.client_head
        at = start + len(head)
        if len(frames) <= at or frames[at - 1] != head[-1] or frames[start] != head[0]:  # a head has one or two frames
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
        """Parse a message to a worker from frame `start` on.

        Returns (REQUEST, HEARTBEAT or DISCONNECT, address, body), or None.
        """
        head = self.worker_head
        at = start + len(head)
        if len(frames) <= at or frames[at - 1] != head[-1] or frames[start] != head[0]:  # a head has one or two frames
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

#: RFC 18 behind an empty delimiter: clients with a REQ socket speak it.  Workers behind a delimiter are MAJORTOMO's.
DELIMITED = replace(RFC18, name="MDP/0.2 (delimited)", client_head=(EMPTY, CLIENT_02), worker_head=(EMPTY, WORKER_02))

#: The dialects that gmdp's clients and workers speak, by version.
VERSIONS = {"0.1": RFC7, "0.2": RFC18}

#: The same dialects in gmdp's extension: the RFC's own header and command codes follow an empty frame.
#: MDP/0.1 has a PARTIAL besides, for workers whose broker has the feature PARTS.
EXTENDED = {
    RFC7: replace(
        RFC7, name="MDP/0.1 (gmdp)", extended=True, worker_codes={**RFC7.worker_codes, Command.PARTIAL: b"\x06"}
    ),
    RFC18: replace(
        RFC18,
        name="MDP/0.2 (gmdp)",
        client_head=(EMPTY, CLIENT_02),
        worker_head=(EMPTY, WORKER_02),
        extended=True,
    ),
}
