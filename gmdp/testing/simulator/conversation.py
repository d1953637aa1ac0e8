"""What a broker and its peers say to each other, and whether they may."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ...protocol import extension, wire
from ...protocol.dialects import CLIENT_01, CLIENT_02, EMPTY, WORKER_01, WORKER_02, Command
from .failures import require

_Address = tuple[bytes, ...]

_DISCONNECTS = {WORKER_01: b"\x05", WORKER_02: b"\x06"}


class _Origin(NamedTuple):
    """Where a call was last asked from."""

    attempt: int
    service: bytes
    peer: _Address
    when: float


class Conversation:
    """What one start of a broker said, and to whom."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.now = 0.0
        #: Connections, and sessions of some, that were told DISCONNECT; and when each
        #: was last heard or told anything.
        self._disconnected: dict[tuple[_Address, bytes], float] = {}
        #: The same: when each last said DISCONNECT.
        self._left: dict[tuple[_Address, bytes], float] = {}
        #: When a READY last came on a connection.
        self._ready: dict[_Address, float] = {}
        #: Gmdp clients' calls: requests without a FINAL, where a retry that joined counts.
        self._calls: Counter[bytes] = Counter()
        #: When each last had a FINAL, or was cancelled.
        self._answered: dict[bytes, float] = {}
        #: Where each was last asked from.
        self._origins: dict[bytes, _Origin] = {}
        #: Calls that were cancelled.
        self.cancelled: set[bytes] = set()
        #: Strict clients: requests without a FINAL.
        self._open: Counter[_Address] = Counter()

    def received(self, frames: list[bytes], now: float, expiry: float) -> None:
        self.now = now
        message = wire.parse(frames)
        if message is None:
            return
        peer = (frames[0], *message.stack)
        if not message.client:
            if message.command is Command.READY:
                self._disconnected.pop((peer, EMPTY), None)
                self._ready[peer] = now
                return
            if (told := self._disconnected.get((peer, EMPTY))) is not None:
                # A broker remembers whom it has told for one expiry after they last spoke.
                self._disconnected[(peer, EMPTY)] = now
                if now >= told + expiry:
                    del self._disconnected[(peer, EMPTY)]
            if message.command is Command.DISCONNECT:
                session = EMPTY
                if message.extra:
                    session = extension.session_frame(extension.read_session(message.extra)[1])
                self._disconnected[(peer, session)] = self._left[(peer, session)] = now
        elif message.extra:
            call = extension.read_call(message.extra)
            if call.flags & extension.CANCEL:
                self.cancelled.add(call.id)
                self._answered[call.id] = now
                return
            self.cancelled.discard(call.id)
            self._calls[call.id] += 1
            known = self._origins.get(call.id)
            # One that asks another service under an id in use is not heard, and what comes late
            # from an earlier try does not call the answer back.
            anew = known is None or self._answered.get(call.id, -1.0) > known.when
            if known is None or anew or (call.attempt >= known.attempt and known.service == message.subject):
                self._origins[call.id] = _Origin(call.attempt, message.subject, peer, now)
        else:
            self._open[peer] += 1

    def unsent(self, frames: list[bytes], slow: bool) -> None:
        at, extra, _, _ = parse_outgoing(frames)
        if extension.is_call(extra):
            self._check_origin(extension.read_call(extra).id, tuple(frames[: at - 1]), slow)

    def sent(self, frames: list[bytes], slow: bool) -> None:
        at, extra, head, command = parse_outgoing(frames)
        if head in (CLIENT_01, CLIENT_02):
            self._answer(frames, extra, at, head == CLIENT_01 or command != b"\x02", slow)
            return
        peer, session = tuple(frames[:at]), EMPTY
        if extension.is_session(extra):
            peer, session = peer[:-1], extension.session_frame(extension.read_session(extra)[1])
        told = self._disconnected
        for key in ((peer, EMPTY), (peer, session)):
            # What was decided before its DISCONNECT may leave after it.
            just_now = self._left.get(key) == self.now
            require(key not in told or just_now, "something went to a worker after DISCONNECT:", frames)
        # What was decided before a READY may leave after it.
        if command == _DISCONNECTS[head] and self._ready.get(peer) != self.now:
            told[(peer, session)] = self.now

    def _answer(self, frames: list[bytes], extra: bytes, at: int, final: bool, slow: bool) -> None:
        if extension.is_call(extra):
            call = extension.read_call(extra)
            require((call.status == extension.Status.PARTIAL) is not final, "status and command differ")
            require(self._calls[call.id] > 0, "something follows a FINAL, or answers nothing:", frames)
            self._check_origin(call.id, tuple(frames[: at - 1]), slow)
            if final:
                self._calls[call.id] -= 1
                self._answered[call.id] = self.now
            return
        key = tuple(frames[:at])
        if frames[at] == EMPTY and frames[at + 1] == CLIENT_02:
            final = frames[at + 2] != b"\x03"  # majortomo's codes
        require(self._open[key] > 0, "something follows a FINAL, or answers nothing:", frames)
        if final:
            self._open[key] -= 1

    def _check_origin(self, identity: bytes, peer: _Address, slow: bool) -> None:
        """An answer goes to where it was asked for."""
        origin = self._origins[identity]
        # What was decided before a retry came may leave after it.
        settled = origin.when < self.now and not slow
        require(not settled or origin.peer == peer, "an answer goes elsewhere:", peer, "not", origin.peer)


def is_request(frames: list[bytes]) -> bool:
    """Is this message, which a broker sends, a REQUEST to a worker?"""
    _, _, head, command = parse_outgoing(frames)
    return head in (WORKER_01, WORKER_02) and command == b"\x02"


def parse_outgoing(frames: list[bytes]) -> tuple[int, bytes, bytes, bytes]:
    """Of a message to a peer: where its delimiter or header is, the last frame of its return address,
    the header and the command."""
    at = 1
    extra = EMPTY
    if frames[1] not in (EMPTY, CLIENT_02, WORKER_02):
        at = frames.index(EMPTY, 2)
        extra = frames[at - 1]
    if frames[at] == EMPTY:
        return at, extra, frames[at + 1], frames[at + 2]
    return at, extra, frames[at], frames[at + 1]
