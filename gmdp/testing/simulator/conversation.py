"""The check that a broker sends only messages that MDP and the extension allow at that moment."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ...protocol import extension, wire
from ...protocol.dialects import CLIENT_01, CLIENT_02, EMPTY, WORKER_01, WORKER_02, Command
from .failures import require

_Address = tuple[bytes, ...]

_DISCONNECTS = {WORKER_01: b"\x05", WORKER_02: b"\x06"}


class Origin(NamedTuple):
    """The last request of a call: the address to which answers go."""

    attempt: int
    service: bytes
    peer: _Address
    when: float
    #: The version of its call frame.
    version: int


class Conversation:
    """The messages of one start of a broker, as far as later ones depend on them.

    Attributes:
        cancelled: The ids of calls that were cancelled.
        begun_anew: Per call, the tries that came after a handler's answer to an earlier one was sent.
    """

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.now = 0.0
        #: When each connection and session (EMPTY: all sessions) was sent DISCONNECT, or last sent a message since.
        self._disconnected: dict[tuple[_Address, bytes], float] = {}
        #: When each connection and session last sent DISCONNECT.
        self._disconnects_received: dict[tuple[_Address, bytes], float] = {}
        #: When each connection last sent READY.
        self._ready: dict[_Address, float] = {}
        #: Per call of a gmdp client, the requests without a FINAL; a retry that joined counts, too.
        self._calls: Counter[bytes] = Counter()
        #: When each call last had a FINAL, or was cancelled.
        self._answered: dict[bytes, float] = {}
        #: The last request of each call.
        self._origins: dict[bytes, Origin] = {}
        self.cancelled: set[bytes] = set()
        self.begun_anew: Counter[bytes] = Counter()
        #: The calls to which a handler's answer was sent since their last request.
        self._ran: set[bytes] = set()
        #: Per strict client, the requests without a FINAL.
        self._open: Counter[_Address] = Counter()
        #: Per strict address, the probes without an answer.
        self._probes: Counter[_Address] = Counter()
        #: The peers that may get the broker's offer unasked.
        self._told: set[_Address] = set()

    def on_received(self, frames: list[bytes], now: float, expiry: float) -> None:
        """Take note of a message that the broker received, routing id first."""
        self.now = now
        message = wire.parse(frames)
        if message is None:
            return
        peer = (frames[0], *message.stack)
        if not message.from_client:
            if message.command is Command.READY:
                self._disconnected.pop((peer, EMPTY), None)
                self._ready[peer] = now
                return
            if (last := self._disconnected.get((peer, EMPTY))) is not None:
                # A broker remembers its DISCONNECT for one expiry after the peer's last message.
                self._disconnected[(peer, EMPTY)] = now
                if now >= last + expiry:
                    del self._disconnected[(peer, EMPTY)]
            if message.command is Command.DISCONNECT:
                session = EMPTY
                if message.extra:
                    session = extension.mark_session(message.extra, 0)
                if session == EMPTY:
                    # The broker forgets the connection, and with it which session numbers were used.
                    for key in [key for key in self._disconnected if key[0] == peer]:
                        del self._disconnected[key]
                self._disconnected[(peer, session)] = self._disconnects_received[(peer, session)] = now
        elif message.extra:
            call = extension.read_call(message.extra)
            if call.flags & extension.GRANT:
                return
            if call.flags & extension.CANCEL:
                self.cancelled.add(call.id)
                self._answered[call.id] = now
                return
            self.cancelled.discard(call.id)
            self.begun_anew[call.id] += call.id in self._ran
            self._ran.discard(call.id)
            self._calls[call.id] += 1
            origin = self._origins.get(call.id)
            # The broker ignores a request to another service under an id in use.  A late message of an
            # earlier try does not redirect the answer.
            answered_since = origin is None or self._answered.get(call.id, -1.0) > origin.when
            if (
                origin is None
                or answered_since
                or (call.attempt >= origin.attempt and origin.service == message.subject)
            ):
                self._origins[call.id] = Origin(
                    call.attempt, message.subject, peer, now, extension.version_of(message.extra)
                )
        else:
            if message.subject == extension.PROBE_SERVICE:
                self._told.discard(peer)
                if extension.read_probe(list(map(bytes, message.body))) & extension.Feature.LEAVING:
                    self._told.add(peer)
                self._probes[peer] += 1
            else:
                self._open[peer] += 1

    def on_unsent(self, frames: list[bytes], slow: bool) -> None:
        """Check a message whose peer was gone; `slow`: whether the peer had messages unread."""
        at, extra, _, _ = parse_outgoing(frames)
        if extension.is_call(extra):
            self._check_origin(extra, tuple(frames[: at - 1]), slow)

    def on_sent(self, frames: list[bytes], slow: bool) -> None:
        """Check a message that the broker sent; `slow`: whether the peer had messages unread."""
        at, extra, head, command = parse_outgoing(frames)
        if head in (CLIENT_01, CLIENT_02):
            self._check_answer(frames, extra, at, head == CLIENT_01 or command != b"\x02", slow)
            return
        peer, session = tuple(frames[:at]), EMPTY
        if extension.is_session(extra):
            peer, session = peer[:-1], extension.mark_session(extra, 0)
        disconnected = self._disconnected
        for key in ((peer, EMPTY), (peer, session)):
            # The broker may have decided on this message before the worker's DISCONNECT came.
            just_now = self._disconnects_received.get(key) == self.now
            require(key not in disconnected or just_now, "a worker was sent a message after DISCONNECT:", frames)
        # The broker may have decided on this DISCONNECT before the worker's READY came.
        if command == _DISCONNECTS[head] and self._ready.get(peer) != self.now:
            disconnected[(peer, session)] = self.now

    def _check_answer(self, frames: list[bytes], extra: bytes, at: int, final: bool, slow: bool) -> None:
        if extension.is_call(extra):
            call = extension.read_call(extra)
            require((call.status == extension.Status.PARTIAL) is not final, "status and command differ")
            require(self._calls[call.id] > 0, "a message to a client follows a FINAL, or answers no request:", frames)
            self._check_origin(extra, tuple(frames[: at - 1]), slow)
            if final:
                self._calls[call.id] -= 1
                self._answered[call.id] = self.now
                if call.status in (extension.Status.OK, extension.Status.HANDLER_FAILED):
                    self._ran.add(call.id)
            return
        key = tuple(frames[:at])
        if frames[at] == EMPTY and frames[at + 1] == CLIENT_02:
            final = frames[at + 2] != b"\x03"  # majortomo's codes
        if extension.PROBE_SERVICE in frames:
            require(self._probes[key] > 0 or key in self._told, "an offer to a peer that did not ask:", frames)
            self._probes[key] = max(0, self._probes[key] - 1)
            return
        require(self._open[key] > 0, "a message to a client follows a FINAL, or answers no request:", frames)
        if final:
            self._open[key] -= 1

    def _check_origin(self, extra: bytes, peer: _Address, slow: bool) -> None:
        """Check that an answer goes to the address of the call's last request, in the version of that request."""
        origin = self._origins[extension.read_call(extra).id]
        # The broker may have decided on this answer before the retry came.
        settled = origin.when < self.now and not slow
        require(not settled or origin.peer == peer, "an answer goes to", peer, "and not to", origin.peer)
        version = extension.version_of(extra)
        require(not settled or origin.version == version, "an answer of version", version, "to", origin.version)


def is_request(frames: list[bytes]) -> bool:
    """Return whether this message, which a broker sends, is a REQUEST to a worker."""
    _, _, head, command = parse_outgoing(frames)
    return head in (WORKER_01, WORKER_02) and command == b"\x02"


def parse_outgoing(frames: list[bytes]) -> tuple[int, bytes, bytes, bytes]:
    """Take apart a message to a peer, routing id first.

    Returns the index of its delimiter or header, the last frame of its return address, the
    header, and the command.
    """
    at = 1
    extra = EMPTY
    if frames[1] not in (EMPTY, CLIENT_02, WORKER_02):
        at = frames.index(EMPTY, 2)
        extra = frames[at - 1]
    if frames[at] == EMPTY:
        return at, extra, frames[at + 1], frames[at + 2]
    return at, extra, frames[at], frames[at + 1]
