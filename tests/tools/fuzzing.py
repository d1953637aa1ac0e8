"""Hostile bytes for the cores, led by the branches that they reach (row B4).

``python tests/tools/fuzzing.py TARGET [OPTION OF LIBFUZZER | FOLDER]...`` runs one target
under atheris (``pip install atheris``), from the inputs in ``tests/corpus/TARGET`` unless
folders are named.  New inputs are kept in the first folder that is named.  ``python
tests/tools/fuzzing.py all --runs N`` runs each target in a process of its own, and prints how
many executions there were.

A target is a function of bytes that raises where a promise is broken; :func:`run_target`
calls it, and needs no atheris.  The bytes are decisions: which message comes, which peer sends
it, how much time passes.  So any bytes are an input, and similar bytes lead to similar runs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.argv[1:2] not in ([], ["all"], ["-h"], ["--help"]):
    import atheris

    # Modules imported here report which of their branches are taken.
    with atheris.instrument_imports(include=["gmdp"]):
        import gmdp.core.broker.core
        import gmdp.core.peer.client
        import gmdp.core.peer.worker  # noqa: F401

from gmdp.core.broker.access import CALL, REVOKED, SERVE, Access, Rules
from gmdp.core.broker.complaints import Complaint
from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.decisions import DeadLetter, Event, Refusal
from gmdp.core.broker.options import BrokerOptions
from gmdp.core.broker.reasons import DropReason
from gmdp.core.broker.records import STRICT, Place, Service, charged_bytes
from gmdp.core.broker.reports import About
from gmdp.core.broker.statistics import BrokerStatistics
from gmdp.core.outcomes import EndReason, Outcome
from gmdp.core.peer.calls import Call, CallState, Ended, Part
from gmdp.core.peer.client import ClientCore
from gmdp.core.peer.connector import Close, Open, Phase, Send
from gmdp.core.peer.reasons import CloseReason
from gmdp.core.peer.reconnect import Reconnect
from gmdp.core.peer.sessions import CallerGone, Failure, Resumed, SessionState, Work
from gmdp.core.peer.statistics import ClientCounters, WorkerCounters
from gmdp.core.peer.worker import WorkerCore
from gmdp.protocol import extension, token, wire
from gmdp.protocol.dialects import EXTENDED, MAJORTOMO, RFC7, RFC18, Command
from gmdp.protocol.extension import CALL_MAGICS, SESSION_MAGICS, Feature, Offer, Status


class Source:
    """Reads bytes as decisions; zeros follow the last byte."""

    __slots__ = ("_at", "_data", "_size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0

    def __bool__(self) -> bool:
        """True if bytes are left."""
        return self._at < self._size

    def byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._data[at] if at < self._size else 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, or fewer at the end."""
        at = self._at
        self._at = at + count
        return self._data[at : at + count]

    def rest(self) -> bytes:
        return self.take(self._size)

    def of(self, choices):
        return choices[self.byte() % len(choices)]


# Messages, spelled out byte by byte

EXT7, EXT18 = EXTENDED[RFC7], EXTENDED[RFC18]
DIALECTS = (RFC7, RFC18, MAJORTOMO, EXT7, EXT18)

C01, C02, W01, W02 = b"MDPC01", b"MDPC02", b"MDPW01", b"MDPW02"
#: Client head; codes of REQUEST, PARTIAL and FINAL; whether replies name the service; worker head.
LAYOUT = {
    RFC7: ([b"", C01], [], None, [], True, [b"", W01]),
    RFC18: ([C02], [b"\x01"], [b"\x02"], [b"\x03"], True, [W02]),
    MAJORTOMO: ([b"", C02], [b"\x02"], [b"\x03"], [b"\x04"], False, [b"", W02]),
    EXT7: ([b"", C01], [], None, [], True, [b"", W01]),
    EXT18: ([b"", C02], [b"\x01"], [b"\x02"], [b"\x03"], True, [b"", W02]),
}
_CODES_01 = [Command.READY, Command.REQUEST, Command.FINAL, Command.HEARTBEAT, Command.DISCONNECT]
_CODES_02 = [Command.READY, Command.REQUEST, Command.PARTIAL, Command.FINAL, Command.HEARTBEAT, Command.DISCONNECT]
#: By version: which command a code is.
CODES = {
    version: {bytes((code,)): command for code, command in enumerate(commands, 1)}
    for version, commands in (("0.1", _CODES_01), ("0.2", _CODES_02))
}
CODE_OF = {version: {command: code for code, command in codes.items()} for version, codes in CODES.items()}

#: The dialect of a header: directly after the routing id, behind a delimiter, behind a call
#: frame, behind a session frame.
_DIRECT = {C02: RFC18, W02: RFC18}
_DELIMITED = {C01: RFC7, W01: RFC7, C02: MAJORTOMO, W02: MAJORTOMO}
_BEHIND_CALL = {C01: EXT7, C02: EXT18}
_BEHIND_SESSION = {W01: EXT7, W02: EXT18}


def command(dialect, which, *rest):
    """A command of a worker or broker, without a return address."""
    return [*LAYOUT[dialect][5], CODE_OF[dialect.version][which], *rest]


def is_call_foretold(frame):
    """True if `frame` is a call frame, by the table in `gmdp.protocol.extension`."""
    if frame[:5] == b"\x89MDC\x02":
        return len(frame) >= 39 and len(frame) == 39 + frame[37] * 256 + frame[38]
    return frame[:5] == b"\x89MDC\x01" and len(frame) in (37, 92)


def is_session_foretold(frame):
    """True if `frame` is a session frame, by the same table."""
    if frame[:5] == b"\x89MDW\x02":
        return len(frame) >= 12 and len(frame) == 12 + frame[10] * 256 + frame[11]
    return frame[:5] == b"\x89MDW\x01" and len(frame) == 10


def fields_foretold(rest):
    """The optional fields in the bytes after a frame's length of them, by type."""
    fields = {}
    while len(rest) >= 3:
        size = rest[1] * 256 + rest[2]
        if len(rest) < 3 + size:
            break
        fields[rest[0]] = rest[3 : 3 + size]
        rest = rest[3 + size :]
    return fields


def message_foretold(frames):
    """The fields of the Message that a broker reads in `frames`, by the table in `gmdp.protocol.wire`; or None."""
    chain, extra = [], b""
    if len(frames) > 1 and frames[1] in _DIRECT:
        kinds, rest = _DIRECT, frames[1:]
    else:
        if b"" not in frames[1:10]:
            return None
        at = frames.index(b"", 1)
        chain, rest = frames[1:at], frames[at + 1 :]
        kinds = _DELIMITED
        if chain and is_call_foretold(chain[-1]):
            kinds, extra = _BEHIND_CALL, chain.pop()
        elif chain and is_session_foretold(chain[-1]):
            kinds, extra = _BEHIND_SESSION, chain.pop()
    if any(len(frame) > 255 for frame in chain) or not rest or rest[0] not in kinds:
        return None
    header, *rest = rest
    dialect = kinds[header]
    stack = tuple(chain)
    if header in (C01, C02):
        code = LAYOUT[dialect][1]
        if rest[: len(code)] != code:
            return None
        service, *body = rest[len(code) :] or [b""]
        if dialect is MAJORTOMO:
            body = body or [b""]
        if not 1 <= len(service) <= 255 or not body:
            return None
        return Command.REQUEST, dialect, True, stack, service, body, extra
    said, *rest = rest or [b"none"]
    which = CODES[dialect.version].get(said)
    subject, body = b"", []
    if which is Command.READY:
        if len(rest) != 1 or not 1 <= len(rest[0]) <= 255:
            return None
        subject = rest[0]
    elif which in (Command.PARTIAL, Command.FINAL):
        if len(rest) < 2 or rest[1] != b"":
            return None
        subject, body = rest[0], rest[2:]
        if dialect is MAJORTOMO:
            body = body or [b""]
        if not body:
            return None
    elif which not in (Command.HEARTBEAT, Command.DISCONNECT) or rest:
        return None
    return which, dialect, False, stack, subject, body, extra


def reply_foretold(dialect, frames):
    """The fields that a client reads in `frames`; or None."""
    head, _, partial, final, names_service, _ = LAYOUT[dialect]
    if frames[: len(head)] != head:
        return None
    rest = frames[len(head) :]
    which = Command.FINAL
    if partial is not None:
        if rest[:1] not in (partial, final):
            return None
        which = Command.PARTIAL if rest[:1] == partial else Command.FINAL
        rest = rest[1:]
    service, body = (rest[0] if rest else None, rest[1:]) if names_service else (None, rest)
    return (which, service, body) if body else None


def command_foretold(dialect, frames):
    """The fields that a worker reads in `frames`; or None."""
    head = LAYOUT[dialect][5]
    rest = frames[len(head) :]
    if frames[: len(head)] != head or not rest:
        return None
    which = CODES[dialect.version].get(rest[0])
    if which is Command.REQUEST and len(rest) >= 4 and rest[2] == b"":
        return which, rest[1], rest[3:]
    if which in (Command.HEARTBEAT, Command.DISCONNECT) and len(rest) == 1:
        return which, b"", []
    return None


# Frames

NONCE = b"nonce-of"
CLIENT_NONCE = b"a-client's-nonce"
TRACE = b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"
IDENTITIES = tuple(extension.request_id(CLIENT_NONCE, number) for number in range(1, 5))
SERVICES = (b"alpha", b"beta", b"gamma", b"delta", b"\xff\x00", b"omega")
REPORTS = tuple(
    b"mmi." + name for name in (b"service", b"services", b"workers", b"statistics", b"broker", b"gmdp", b"none")
)
SESSIONS = tuple(
    extension.session_frame(number, flags, version=1 + number % 2)
    for number in (1, 2, 3, 0xFFFFFFFF)
    for flags in (0, 1, 2, 3)
)
FIELDS = ((), (), ((9, b"later"),), ((2, b"why"), (9, b""), (2, b"not")))
WORDS = (
    *(b"", C01, C02, W01, W02, b"", b"", C01, C02, W01, W02),
    *(bytes((code,)) for code in range(8)),
    *SERVICES[:3],
    *REPORTS,
    *(SESSIONS[0], SESSIONS[4], SESSIONS[6]),
    extension.call_frame(IDENTITIES[0]),
    extension.call_frame(IDENTITIES[1], flags=extension.CANCEL, traceparent=TRACE, version=1),
    token.prefix(token.start(NONCE), 1) + token.tail(1),
)


def a_frame(source: Source) -> bytes:
    """A word of the protocol, any bytes, or a frame close to the longest that is allowed."""
    kind = source.byte()
    if kind < 144:
        return WORDS[kind % len(WORDS)]
    if kind < 240:
        return source.take(kind % 48)
    return bytes((kind,)) * (248 + source.byte() % 64)


def some_frames(source: Source, most: int) -> list[bytes]:
    frames = []
    while source and len(frames) < most:
        frames.append(a_frame(source))
    return frames


def a_call(source: Source) -> bytes:
    """A call frame, sometimes with one byte changed."""
    terms, more = source.byte(), source.byte()
    left = (None, 0.0, 0.4, 3.0, 100.0)[more % 5]
    frame = extension.call_frame(
        IDENTITIES[terms % 4],
        flags=(0, 0, extension.FAIL_WITHOUT_WORKER, extension.CANCEL)[terms // 4 % 4],
        priority=(1, 1, 0, 2, 3, 7)[terms // 16 % 6],
        attempt=1 + more // 5 % 3,
        time_left=left,
        traceparent=TRACE if more >= 200 else b"",
        fields=FIELDS[more // 15 % 4],
        version=1 + terms // 8 % 2,
    )
    if terms >= 240:
        at = source.byte() % len(frame)
        frame = frame[:at] + source.take(1) + frame[at + 1 :]
    return frame


def a_session(source: Source) -> bytes:
    kind = source.byte()
    if kind < 240:
        number, flags = 1 + kind % 8, (0, 0, 0, 0, 0, 0, 1, 2)[kind // 8 % 8]
        fields = extension.field_bytes(FIELDS[kind // 64])
        return extension.session_frame(number, flags, fields=fields, version=1 + kind % 2)
    return SESSION_MAGICS[1 + kind % 2] + source.take(5 + kind % 2 * 8)


def changed(source: Source, frames: list[bytes]) -> list[bytes]:
    """A message with a frame dropped, doubled, changed, put in, or cut off."""
    if not frames:
        return frames
    how = source.byte()
    at = how // 5 % len(frames)
    how %= 5
    if how == 0:
        return frames[:at] + frames[at + 1 :]
    if how == 1:
        return frames[: at + 1] + frames[at:]
    if how == 2:
        return [*frames[:at], a_frame(source), *frames[at + 1 :]]
    if how == 3:
        return [*frames[:at], a_frame(source), *frames[at:]]
    return frames[:at]


# Parsers


def check_parsers(frames: list[bytes]) -> None:
    """Parsers read what the tables above foretell, and do not change their input."""
    kept = frames[:]
    assert wire.parse(frames) == message_foretold(frames), "a broker reads something else"
    for dialect in DIALECTS:
        for start in (0, 1):
            assert dialect.parse_reply(frames, start) == reply_foretold(dialect, frames[start:]), "a client misreads"
            assert dialect.parse_for_worker(frames, start) == command_foretold(dialect, frames[start:]), (
                "a worker misreads"
            )
    assert frames == kept, "reading changes what is read"


def fuzz_wire(data: bytes) -> None:
    """Any frames at all."""
    check_parsers(some_frames(Source(data), 24))


def an_address(source: Source) -> bytes:
    kind = source.byte()
    if kind < 120:
        return b"a hop's routing id"[: 1 + kind % 18]
    if kind < 160:
        return source.take(kind % 16)
    if kind < 200:
        return bytes((kind,)) * (252 + kind % 8)
    if kind < 220:
        return a_call(source)
    return a_session(source) if kind < 240 else source.of(WORDS)


def fuzz_envelope(data: bytes) -> None:
    """A routing id, a return address (perhaps too long), perhaps the extension's frame, and a command."""
    source = Source(data)
    shape = source.byte()
    chain = [an_address(source) for _ in range(shape % 11)]
    behind = shape // 11
    dialect = DIALECTS[behind % 5]
    client = behind // 5 % 2 == 0
    if dialect.extended:
        chain.append(a_call(source) if client else a_session(source))
    kind = source.byte()
    service = (SERVICES[0], b"", b"n" * 255, b"n" * 256)[kind % 4] if kind < 64 else source.take(kind % 64)
    body = some_frames(source, kind % 4)
    if client:
        said = [*LAYOUT[dialect][0], *LAYOUT[dialect][1], service, *body]
    else:
        which = (_CODES_01 if dialect.version == "0.1" else _CODES_02)[kind // 4 % len(CODES[dialect.version])]
        rest = {Command.READY: [service], Command.HEARTBEAT: [], Command.DISCONNECT: []}
        said = command(dialect, which, *rest.get(which, [service, b"", *body]))
    routing_id = source.take(source.byte() % 6)
    frames = [routing_id, *chain, *said]
    if source:
        frames = changed(source, frames)
    kept = frames[:]
    message = wire.parse(frames)
    assert frames == kept, "reading changes what is read"
    assert message == message_foretold(frames), "a broker reads something else"
    if message is not None:
        assert len(message.stack) + bool(message.extra) <= wire.MAX_STACK
        assert all(0 < len(frame) <= wire.MAX_ADDRESS for frame in message.stack)


# The extension

_HEX = frozenset(b"0123456789abcdef")


def is_traceparent(value: bytes) -> bool:
    fields = value.split(b"-")
    return (
        [len(field) for field in fields] == [2, 32, 16, 2]
        and all(_HEX.issuperset(field) for field in fields)
        and fields[0] != b"ff"
        and any(fields[1].replace(b"0", b""))
        and any(fields[2].replace(b"0", b""))
    )


def check_frame(frame: bytes) -> None:
    """One frame of a peer, which may hold any bytes."""
    assert extension.is_call(frame) is is_call_foretold(frame)
    assert extension.is_session(frame) is is_session_foretold(frame)
    assert extension.is_traceparent(frame) is is_traceparent(frame)
    if extension.is_call(frame):
        check_call(frame)
    if extension.is_session(frame):
        flags, number = extension.read_session(frame)
        version = extension.version_of(frame)
        assert extension.session_frame(number, flags, fields=frame[10:], version=version) == frame
        assert extension.mark_session(frame, flags, frame[10:]) == frame
        assert extension.mark_session(frame, 7) == extension.session_frame(number, 7, version=version)
        assert extension.session_fields(frame) == (fields_foretold(frame[12:]) if version == 2 else {})
    check_token(frame)


def check_call(frame: bytes) -> None:
    call = extension.read_call(frame)
    assert call.priority in extension.PRIORITIES
    assert call.time_left is None or 0 <= call.time_left < 2**32 / 1000
    assert len(call.id) == 24
    again = extension.call_frame(
        call.id,
        flags=call.flags,
        priority=frame[7],
        attempt=call.attempt,
        time_left=call.time_left,
        traceparent=call.traceparent if frame[4] == 1 else b"",
        version=frame[4],
    )
    assert again[:5] + frame[5:6] + again[6:33] == frame[:33]
    if frame[4] == 1:
        assert (again[37:], call.fields) == (frame[37:], {})
    else:
        assert call.fields == fields_foretold(frame[39:])
        trace = call.fields.get(1, b"")
        assert call.traceparent == (trace if len(trace) == 55 else b"")
        told = extension.field_bytes(call.fields.items())
        assert fields_foretold(told[2:]) == call.fields
        assert len(told) == 2 + int.from_bytes(told[:2], "big")
    assert call.priority == min(frame[7], 3)
    left = int.from_bytes(frame[33:37], "big")
    again_left = int.from_bytes(again[33:37], "big")
    assert left == again_left or (left < 2**32 - 1 and abs(left - again_left) <= 1), "milliseconds were lost"
    assert (call.time_left is None) is (left == 2**32 - 1)
    for nonce in (CLIENT_NONCE, call.id[:16]):
        number = extension.call_number(call.id, nonce)
        assert number == (int.from_bytes(call.id[16:], "big") if call.id[:16] == nonce else None)
        assert number is None or extension.request_id(nonce, number) == call.id
    bare = extension.bare_call(frame)
    assert bare == (frame if frame[4] == 1 else frame[:37] + b"\0\0")
    call = extension.read_call(bare)
    for status in Status:
        answer = extension.answer_frame(bare, status, 7, 300)
        assert extension.is_call(answer)
        assert extension.read_call(answer) == call._replace(status=status, flags=7, attempt=255)
        answer = extension.with_fields(answer, extension.field_bytes([(2, b"why")]))
        assert extension.read_call(answer).fields == ({2: b"why"} if frame[4] == 2 else {})


def check_token(frame: bytes) -> None:
    reading = token.read(frame)
    assert (reading is not None) is (len(frame) >= 28 and frame[:5] == b"\x89MDT\x01")
    failed = token.mark_failed(frame)
    assert token.says_failed(frame) is (frame[21:22] == b"\x01")
    if reading is None:
        assert failed == frame
        return
    assert token.says_failed(failed)
    assert failed[:21] + failed[22:] == frame[:21] + frame[22:]
    assert token.read(failed) == reading
    left = int.from_bytes(frame[22:26], "big")
    time_left = None if left == 2**32 - 1 else left / 1000
    assert reading == (frame[26], time_left, bool(frame[27] & 1), bool(frame[27] & 2), frame[28:])


def check_offer(body: list[bytes]) -> None:
    offer = extension.read_offer(body)
    if offer is None:
        return
    assert body[0] == b"200"
    assert all(type(value) is int and value >= 1 for value in offer[:4])
    assert offer.heartbeat_interval > 0
    assert offer.version >= 1
    assert extension.read_offer(extension.offer_body(offer)) == offer


def check_probe(frame: bytes) -> None:
    features = extension.read_probe([frame])
    assert 0 <= features <= sum(Feature)
    assert extension.read_probe(extension.probe_body(2, features)) == features
    assert extension.read_probe(extension.probe_body(1, features)) == 0


_NAMES = ("extension", *Offer._fields[:5], "features")
_FEATURES = ("[]", '["credits"]', '["credits","later","not-run",1,"credits"]', "null", '"credits"', '{"credits":1}')
_VALUES = ("1", "2", "0", "-1", "1.5", "true", "null", '"1"', "[1]", "{}", "1e999", "-0.0", "NaN", "9" * 30, "1000")


def some_json(source: Source) -> bytes:
    """JSON that is, or nearly is, an offer."""
    shape = source.byte()
    values = [source.of(("1", "2", "3")), "10", "500", "1000", "16777216", "2.5", source.of(_FEATURES)]
    for _ in range(shape % 4):
        values[source.byte() % 6] = source.of(_VALUES)
    names = _NAMES[: (7, 5, 6, 7)[shape // 4 % 4]]
    text = ",".join(f'"{name}":{value}' for name, value in zip(names, values, strict=False)).encode()
    text = b"{" + text + b"}"
    if shape >= 128:
        at = source.byte() % len(text)
        text = text[:at] + source.take(shape % 8) + text[at + shape % 3 :]
    return text


def a_traceparent(source: Source) -> bytes:
    value = bytearray(TRACE)
    for at in range(source.byte() % 4):
        value[source.byte() % len(value)] = source.byte()
        if at == 2:
            value = value[: source.byte() % 60]
    if source.byte() % 4 == 3:
        value[3:35] = b"0" * 32
    return bytes(value)


def fuzz_extension(data: bytes) -> None:
    """Frames that are, or nearly are, the extension's."""
    source = Source(data)
    kind = source.byte() % 8
    if kind == 0:
        check_frame(source.rest())
    elif kind == 1:
        check_frame(CALL_MAGICS[1 + source.byte() % 2] + source.rest())
    elif kind == 2:
        frame = CALL_MAGICS[1] + source.take(32).ljust(32, b"\0")
        if source.byte() % 2:
            check_frame(frame + TRACE)
        else:
            rest = source.rest()
            check_frame(CALL_MAGICS[2] + frame[5:] + len(rest).to_bytes(2, "big") + rest)
    elif kind == 3:
        size = source.byte()
        frame = source.take(size % 8)
        if size < 128:
            check_frame(SESSION_MAGICS[1] + frame)
        else:
            rest = source.rest()
            check_frame(SESSION_MAGICS[2] + frame + len(rest).to_bytes(2, "big") + rest)
    elif kind == 4:
        check_frame(token.MAGIC + b"\x01" + source.rest())
    elif kind == 5:
        check_frame(a_traceparent(source))
    elif kind == 6:
        rest = source.rest()
        check_offer([b"200", rest])
        check_probe(rest)
    else:
        body = [(b"200", b"200", b"200", b"501")[source.byte() % 4], some_json(source)]
        check_probe(body[1])
        check_offer(body[: source.byte() % 4] if source.byte() == 255 else body)


# The broker

USERS = ("ann", "bob", "eve")
PEERS = (b"peer-0", b"peer-1", b"peer-2", b"peer-3", b"peer-4")
#: The broker's socket holds `hwm` messages; a connection may have half as many sessions.
ABOUT = About(hwm=10)
_ANN = {"user": "ann", "serve": "*", "call": "*", "inspect": "*"}
_RULES = Rules([_ANN, {"user": "[be]*", "serve": ["alpha", "*t*"], "call": ["[a-g]*"], "inspect": "mmi.service"}])
_POLICIES = (
    _RULES,
    Rules([_ANN, {"user": "bob", "call": ["alpha", "beta"]}, {"user": "eve", "serve": "alpha"}]),
    Rules([{"user": ["bob", ""], "serve": "*", "call": "*", "inspect": "*"}]),
    lambda user, action, service: None if service == b"beta" else _RULES(user, action, service),
)
#: The first frame of a request's body names its user; no other frame has these bytes by chance.
_MARKS = {user: b"\xa5\x1f%d\x93\xd7\x08" % at for at, user in enumerate(("", *USERS, REVOKED))}
_OWNERS = {mark: user for user, mark in _MARKS.items()}
_SIZES = (0, 0, 5, 40, 150, 299, 300, 301)
_PAUSES = (0.0, 2**-10, 0.002, 0.06, 0.3, 0.5, 0.9, 1.0, 1.0, 2.1, 3.0, 3.1, 7.0, 20.0)

OPTIONS = BrokerOptions(
    request_ttl=6.0,
    busy_timeout=9.0,
    attempts=2,
    max_queue=5,
    heartbeat_interval=1.0,
    liveness=3,
    max_services=4,
    max_workers=6,
    max_in_flight=4,
    max_queue_bytes=7_000,
    max_frames=16,
    max_frame_size=300,
    max_user_services=2,
    max_user_workers=5,
    max_user_bytes=4_200,
    max_user_rate=50.0,
    services={"b*": {"attempts": 3, "max_queue": 2}, "ga*": {"request_ttl": 2.0, "busy_timeout": 2.0}},
)


#: Kinds of warnings about the message that was fed last, and about strict clients' requests that end without an answer.
WARNINGS = {
    "no_delimiter",
    *(
        DropReason[name].value
        for name in (
            "MALFORMED",
            "TOO_MANY_FRAMES",
            "FRAME_TOO_LARGE",
            "STRAY_REPLY",
            "RESERVED_NAME",
            "WORKERS_FULL",
            "SESSIONS_FULL",
            "SERVICES_FULL",
            "BYTES_FULL",
            "DRAINING",
        )
    ),
}
ENDS_WITHOUT_ANSWER = {
    EndReason[name].value for name in ("EXPIRED", "OVERLOADED", "EVICTED", "TOO_LARGE", "CLIENT_FULL")
}


#: A drain takes a step in each pass, and no more of them than this before it waits for something.
STEPS_OF_A_DRAIN = 10


class Assignment:
    """A request that the broker sent to a worker."""

    __slots__ = ("body", "dialect", "peer", "session", "stack", "token")

    def __init__(self, peer, stack, session, dialect, address, body):
        self.peer = peer
        self.stack = stack
        self.session = session
        self.dialect = dialect
        self.token = address
        self.body = body


class BrokerRun:
    """A broker, its owner, and peers that do as the bytes say."""

    #: How many assignments are remembered, to be answered again and again.
    MEMORY = 24

    def __init__(self, source: Source) -> None:
        self.source = source
        self.now = 1000.0
        kind = source.byte() % 4
        self.policy = _POLICIES[0]
        access = None
        if kind:
            policy = None if kind == 1 else lambda user, action, service: self.policy(user, action, service)
            access = Access(policy, OPTIONS.max_user_rate if kind < 3 else 3.0)
        self.ruled = kind > 1
        self.core = BrokerCore(OPTIONS, NONCE, self.now, about=ABOUT, access=access)
        self.core._sweep_at = 3  # so that routing ids are forgotten
        #: The user behind each routing id.
        self.users = {peer: USERS[at % 3] if access else "" for at, peer in enumerate(PEERS)}
        self.has_users = access is not None
        #: The user of the last message of each routing id.
        self.heard: dict[bytes, str] = {}
        #: All users that have spoken.
        self.callers: set[str] = set()
        #: The users that sent requests under each request id.
        self.asked: dict[bytes, set[str]] = {}
        self.assignments: list[Assignment] = []
        self.full: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.tokens: set[bytes] = set()

    def run(self) -> None:
        source = self.source
        while source:
            step = _BROKER_STEPS[source.byte() % len(_BROKER_STEPS)]
            step(self)
            self.check()
        self.check_tables()
        self.flush()
        self.check()
        self.end()

    # Steps

    def speaker(self) -> tuple[bytes, int]:
        """The next speaker: a routing id and the index of its dialect.  Its user may change now."""
        said = self.source.byte()
        peer = PEERS[said % 5]
        dialect = said % 5
        if said >= 190:
            dialect = said // 5 % 5
        if said >= 220 and self.has_users:
            self.users[peer] = (*USERS, REVOKED)[self.source.byte() % 4]
        return peer, dialect

    def stack(self, dialect, shape: int) -> list[bytes]:
        if dialect is RFC18 or shape < 200:
            return []
        return [[b"hop"], [b"hop", b"another"], [b"h" * 255, b"h"], [b"h"] * 7, [b"h" * 256]][shape % 5]

    def name(self) -> bytes:
        kind = self.source.byte()
        if kind < 180:
            return SERVICES[kind % len(SERVICES)]
        return REPORTS[kind % len(REPORTS)] if kind < 240 else self.source.take(kind % 8)

    def body(self, peer: bytes) -> list[bytes]:
        shape = self.source.byte()
        size = _SIZES[shape // 4 % len(_SIZES)]
        return [_MARKS[self.users[peer]], *[bytes((shape,)) * size] * (shape % 4)]

    def request(self) -> None:
        peer, at = self.speaker()
        dialect = DIALECTS[at]
        shape = self.source.byte()
        envelope = self.stack(dialect, shape)
        if dialect.extended:
            envelope.append(a_call(self.source))
        name = self.name()
        body = [SERVICES[shape % len(SERVICES)]] if name.startswith(b"mmi.") else self.body(peer)
        frames = [peer, *envelope, *LAYOUT[dialect][0], *LAYOUT[dialect][1], name, *body]
        self.feed(frames if shape % 16 != 15 else [peer, *changed(self.source, frames[1:])])

    def worker(self) -> None:
        """READY, HEARTBEAT or DISCONNECT."""
        peer, at = self.speaker()
        dialect = DIALECTS[at]
        shape = self.source.byte()
        frames = [peer, *self.stack(dialect, shape)]
        which = (Command.READY, Command.READY, Command.READY, Command.HEARTBEAT, Command.DISCONNECT)[shape % 5]
        plain = dialect.extended and which is not Command.READY and shape // 5 % 2
        if dialect.extended and not plain:
            frames.append(a_session(self.source))
        if plain:
            dialect = RFC7 if dialect is EXT7 else RFC18
        frames += command(dialect, which, *([self.name()] if which is Command.READY else []))
        self.feed(frames if shape % 16 != 15 else [peer, *changed(self.source, frames[1:])])

    def answer(self) -> None:
        """PARTIAL or FINAL, mostly from the worker that has the request, and mostly a proper one."""
        shape = self.source.byte()
        if not self.assignments:
            return
        assignment = self.assignments[-1 - self.source.byte() % len(self.assignments)]
        dialect, session, address, peer = assignment.dialect, assignment.session, assignment.token, assignment.peer
        body = assignment.body
        if shape >= 128:
            odd = shape // 8 % 6
            if odd == 0:
                address = token.mark_failed(address)
            elif odd == 1:
                at = self.source.byte() % (len(address) + 1)
                address = address[:at] + self.source.take(1) + address[at + 1 :]
                body = [b"forged"]
            elif odd == 2:
                peer, _ = self.speaker()
            elif odd == 3 and session:
                session = extension.mark_session(session, self.source.byte() % 4)
            elif odd == 4:
                body = [*body, b"more" * (shape % 64)]
            else:
                dialect = self.source.of(DIALECTS)
        which = Command.PARTIAL if shape % 4 == 0 and dialect.version == "0.2" else Command.FINAL
        envelope = [*assignment.stack, session] if session else assignment.stack
        self.feed([peer, *envelope, *command(dialect, which, address, b"", *body)])

    def last_words(self) -> None:
        """A session's last FINAL, or its DISCONNECT which says that nothing was begun since."""
        shape = self.source.byte()
        sessions = [assignment for assignment in self.assignments if assignment.session]
        if not sessions:
            return
        assignment = sessions[-1 - shape // 2 % len(sessions)]
        session = extension.mark_session(assignment.session, extension.LAST)
        said = command(assignment.dialect, Command.DISCONNECT)
        if shape % 2:
            said = command(assignment.dialect, Command.FINAL, assignment.token, b"", *assignment.body)
        self.feed([assignment.peer, *assignment.stack, session, *said])

    def crowd(self) -> None:
        """Many requests, or sessions, of one connection for one service."""
        peer, at = self.speaker()
        shape = self.source.byte()
        dialect = DIALECTS[at]
        name = SERVICES[shape % 3]
        for number in range(1, 2 + shape // 6 % 6):
            if shape // 3 % 2 == 0:
                version = 1 + shape // 18 % 2
                session = [extension.session_frame(shape // 36 + number, version=version)] if dialect.extended else []
                self.feed([peer, *session, *command(dialect, Command.READY, name)])
            elif dialect.extended:
                call = extension.call_frame(IDENTITIES[number % 4], priority=number % 4)
                self.feed([peer, call, *LAYOUT[dialect][0], *LAYOUT[dialect][1], name, _MARKS[self.users[peer]]])
            else:
                self.feed([peer, *LAYOUT[dialect][0], *LAYOUT[dialect][1], name, _MARKS[self.users[peer]]])

    def noise(self) -> None:
        """Any frames."""
        peer, _ = self.speaker()
        count = self.source.byte()
        frames = [self.source.take(6) if count >= 250 else peer, *some_frames(self.source, count % 20)]
        self.feed(frames if count != 249 else [])

    def flush(self) -> None:
        """Send and report as the owner does."""
        core, now = self.core, self.now
        rounds = 0
        while True:
            outbox, events = core.take()
            if not outbox and not events:
                return
            rounds += 1
            assert rounds < 100, "there is always more to send"
            for outgoing in outbox:
                frames = outgoing.frames
                assert type(frames) is list, frames
                assert len(frames) >= 2, frames
                assert set(map(type, frames)) == {bytes}, frames
                if core.backlogs.hold_back(outgoing, now):
                    continue
                if frames[0] in self.gone:
                    core.send_failed(outgoing, False, now)
                elif frames[0] in self.full:
                    core.send_failed(outgoing, True, now)
                else:
                    self.sent(frames)
            for event in events:
                assert isinstance(event, (Event, DeadLetter))
                assert not isinstance(event, DeadLetter) or event.age >= 0 < event.attempts
        self.check_tables()

    def time(self) -> None:
        pause = self.source.byte()
        core = self.core
        self.now += _PAUSES[pause % len(_PAUSES)]
        if pause < 200:
            core.on_wake(self.now)
        if pause < 100:
            core.on_caught_up(self.now)
        core.tick(self.now)
        if core.deadline() <= self.now:
            # A connection that could not be reached is lost in the next pass, once all is read.
            core.on_caught_up(self.now)
        for _ in range(STEPS_OF_A_DRAIN if core.draining else 0):
            core.tick(self.now)
        assert core.deadline() > self.now, "the broker would spin"

    def reach(self) -> None:
        """A peer goes away, stops reading, or reads again."""
        said = self.source.byte()
        peer = PEERS[said % 5]
        if said >= 128:
            self.full.discard(peer)
            self.gone.discard(peer)
        else:
            (self.full if said // 5 % 2 else self.gone).add(peer)

    def leave(self) -> None:
        """A connection is closed."""
        peer = PEERS[self.source.byte() % 5]
        self.core.on_connection_closed(peer, self.now)
        assert all(outgoing.frames[0] != peer for outgoing in self.core._state.outbox), (
            "a message goes to a peer that has left"
        )

    def reconsider(self) -> None:
        said = self.source.byte()
        if said >= 128:
            self.flush()
        self.policy = _POLICIES[said % 4]
        revoked = {user for at, user in enumerate(USERS) if said >> (at + 3) & 1} if self.has_users else set()
        self.core.reconsider(self.now, revoked)
        for peer, user in self.users.items():
            if user in revoked:
                self.users[peer] = REVOKED
        for connection in self.core._registry.connections.values():
            assert connection.user not in revoked, "a revoked user serves"
        self.check_tables()

    def other(self) -> None:
        """What happens rarely: the broker's own requests, statistics, draining, the end."""
        said = self.source.byte()
        core = self.core
        if said < 100:
            name = SERVICES[said % len(SERVICES)]
            assert core.inject(name, [bytes(said)] * (1 + said % 3), self.now) in (True, False)
        elif said < 240:
            statistics = core.statistics(self.now)
            json.dumps(statistics.as_dict())
        elif said < 250:
            core.drain()
            assert core.draining
        else:
            while not core.finish(self.now):
                pass
            assert (core.queued, core.assigned, core.worker_count) == (0, 0, 0)

    def feed(self, frames: list[bytes]) -> None:
        core = self.core
        user = ""
        if frames:
            user = self.users.get(frames[0], self.users[PEERS[0]])
            self.heard[frames[0]] = user
            self.callers.add(user)
        for frame in frames[1:10]:
            if extension.is_call(frame):
                self.asked.setdefault(frame[9:33], set()).add(user)
        core.feed(frames, self.now, user)
        self.take_refusals(user)

    def take_refusals(self, user: str | None = None) -> None:
        """Take what is reported of the message of `user` that was fed last; None: no message was fed since."""
        for refusal in self.core.take_refusals():
            if isinstance(refusal, Complaint):
                assert refusal.same_peer >= 0 <= refusal.other_peers
                if refusal.kind in ENDS_WITHOUT_ANSWER:
                    assert refusal.user in self.callers, "a request of nobody ended"
                    continue
                assert refusal.kind in WARNINGS, refusal
            else:
                assert isinstance(refusal, Refusal)
                assert self.has_users
            assert refusal.user == user

    # Messages that go out

    def sent(self, frames: list[bytes]) -> None:
        """A peer reads a message; no other user's answer is among them."""
        peer = frames[0]
        assert peer in self.heard, "a message is sent to a stranger"
        extra = b""
        if frames[1] in (C02, W02):
            at = 1
        elif b"" in frames[1:]:
            at = frames.index(b"", 1)
        else:
            # In MDP/0.2 a command to an extended connection itself, not to a session, has no delimiter.
            at = len(frames) - 2
            assert frames[at] == W02, frames
        stack, rest = frames[1:at], frames[at:]
        if stack and rest[0] == b"" and (extension.is_call(stack[-1]) or extension.is_session(stack[-1])):
            extra = stack.pop()
        if rest[rest[0] == b""] in (C01, C02):
            self.sent_client(peer, extra, rest)
        else:
            self.sent_worker(peer, stack, extra, rest)

    def sent_client(self, peer: bytes, extra: bytes, rest: list[bytes]) -> None:
        user = self.heard[peer]
        owner = next((_OWNERS[frame] for frame in rest if frame in _OWNERS), user)
        assert owner == user, f"{user!r} gets an answer of {owner!r}"
        if extra:
            assert user in self.asked.get(extra[9:33], ()), f"{user!r} did not ask this"
            assert extra[5] in list(Status)

    def sent_worker(self, peer: bytes, stack: list[bytes], extra: bytes, rest: list[bytes]) -> None:
        delimited = rest[0] == b""
        if extra:
            dialect = EXT7 if rest[1] == W01 else EXT18
        elif not delimited:
            dialect = RFC18
        else:
            dialect = RFC7 if rest[1] == W01 else MAJORTOMO
        parsed = command_foretold(dialect, rest)
        assert parsed is not None, rest
        which, address, body = parsed
        if which is Command.REQUEST:
            assert address not in self.tokens, "two assignments have one token"
            assert token.read(address) is not None
            self.tokens.add(address)
            self.assignments.append(Assignment(peer, stack, extra, dialect, address, body))
            del self.assignments[: -self.MEMORY]

    # Checks

    def check(self) -> None:
        self.take_refusals()
        core = self.core
        counters = core.counters
        queued, assigned = core.queued, core.assigned
        assert counters.requests == counters.replies + sum(counters.ended.values()) + queued + assigned
        assert queued >= 0 <= assigned <= core.worker_count
        assert 0 <= core.held_bytes <= OPTIONS.max_queue_bytes
        assert len(core.services) <= OPTIONS.max_services
        assert 0 <= core.worker_count <= OPTIONS.max_workers
        assert type(core.deadline()) is float
        assert not (core.drained and assigned)

    def check_tables(self) -> None:
        """Each request and worker is in one place, and counted there."""
        core = self.core
        state, delivery, services, workers = core._state, core._delivery, core._services, core._registry
        queued = []
        openers: Counter[str] = Counter()
        for name, service in services.by_name.items():
            mine = list(service.queue)
            assert len(mine) == len(service.queue) <= service.options.max_queue
            assert service.name == name
            assert service.workers or mine, "a service without workers and requests is kept"
            assert (name in services.without_worker) is (not service.workers)
            assert service.failing_without_worker == sum(request.terms.fail_without_worker for request in mine)
            assert service.workers or not service.failing_without_worker, "a request waits that should have failed"
            assert service.queue.suspects == sum(request.suspect for request in mine)
            for worker in service.idle:
                assert worker.registered
                assert worker.request is None
                assert worker.service is service
                barred = worker.connection.suspect is not None
                assert not mine or (barred and all(request.suspect for request in mine)), "idle, and a request waits"
            for request in mine:
                assert request.place is Place.QUEUED
                assert request.service is service
                assert request.waiting
                assert request.worker is None is not request.timer
            if service.opener:
                openers[service.opener] += 1
            queued += mine
        for subject in services.ending:
            if isinstance(subject, Service) and services.by_name.get(subject.name) is not subject:
                queued += list(subject.queue)  # it gave way, and its requests end in bursts
        assert services.without_worker.keys() <= services.by_name.keys()
        assert services._opened_by_user == openers
        assert all(number <= OPTIONS.max_user_services for number in openers.values())
        assigned = []
        count = 0
        members: Counter[object] = Counter()
        users: Counter[str] = Counter()
        for key, connection in workers.connections.items():
            assert connection.key == key
            assert connection.timer[0] <= self.now + OPTIONS.heartbeat_interval, "a connection is not watched"
            assert connection.workers or connection.dialect.extended
            assert len(connection.workers) <= ABOUT.max_sessions
            suspects = []
            for session, worker in connection.workers.items():
                count += 1
                members[worker.service] += 1
                if connection.user:
                    users[connection.user] += 1
                assert worker in worker.service.members
                assert worker.registered
                assert worker.connection is connection
                assert worker.session == session
                assert services.by_name.get(worker.service.name) is worker.service
                idle = worker in (worker.service.mute if connection.mute else worker.service.idle)
                assert idle is (worker.request is None) is (worker.token == b"")
                assert (worker in worker.service.idle) + (worker in worker.service.mute) == idle
                assert not self.ruled or self.policy(connection.user, SERVE, worker.service.name), (
                    "a worker serves without permission"
                )
                request = worker.request
                if request is not None:
                    assigned.append(request)
                    assert request.place is Place.ASSIGNED
                    assert request.worker is worker
                    assert request.timer is None
                    assert 1 <= request.attempts <= request.service.options.attempts
                    if request.suspect:
                        suspects.append(request)
            assert len(suspects) <= 1
            assert connection.suspect is (suspects[0] if suspects else None)
        assert workers.count == count
        assert members == {service: service.workers for service in services.by_name.values() if service.workers}
        assert workers._workers_by_user == users
        assert all(number <= OPTIONS.max_user_workers for number in users.values())
        assert services.queued == len(queued)
        assert delivery.assigned == len(assigned)
        assert len(state.timers) == len(workers.connections) + len(queued) + core.backlogs.count
        self.check_accounts(queued, assigned)

    def check_accounts(self, queued, assigned) -> None:
        core, state, accounts = self.core, self.core._state, self.core._accounts
        held: Counter[object] = Counter()
        opened: Counter[object] = Counter()
        waiting: Counter[object] = Counter()
        typed: Counter[object] = Counter()
        calls = {}
        clients = set(accounts.clients.values())
        for request in (*queued, *assigned):
            client = request.client
            if client is None:
                assert request.abandon_reason, "a request is on no account"
                continue
            assert client.gone or accounts.clients[client.key] is client
            clients.add(client)
            stack = request.address[1:]
            envelope = sum(map(len, stack)) + 64 * len(stack) + len(request.terms.traceparent)
            assert request.size == 1000 + envelope + charged_bytes(request.body)
            assert request.joined_bytes == (0 if request.joined_parts is None else charged_bytes(request.joined_parts))
            held[client.account or client] += request.size + request.joined_bytes
            opened[client] += 1
            waiting[client] += request.place is Place.QUEUED
            typed[client] += request.terms is not STRICT
            if request.terms.identity is not None:
                calls[request.terms.identity] = request
            if request.address and self.ruled and not request.abandon_reason and not client.gone:
                assert self.policy(client.user, CALL, request.service.name), "a call without permission goes on"
        assert calls == accounts.calls
        backlogs = 0
        users: Counter[object] = Counter()
        for client in clients:
            assert client.open == opened[client]
            assert client.queued == waiting[client]
            assert client.open or client.backlog is not None, "a client without requests is kept"
            if client.key:  # else the client is the broker itself
                assert typed[client] <= OPTIONS.max_in_flight + self.core.counters.joins
            if client.account is not None:
                assert client.bytes == 0
                users[client.account] += 1
            backlog = client.backlog
            if backlog is not None:
                backlogs += 1
                assert not client.gone
                assert backlog.timer is not None
                held[client.account or client] += sum(
                    charged_bytes(message.frames) for message in (*backlog.front, *backlog.waiting)
                )
        assert backlogs == core.backlogs.count
        assert users == {account: account.open for account in accounts.users.values()}
        assert sum(held.values()) == state.held_bytes
        for account, size in held.items():
            assert account.bytes == size
            # The news of an overload may take as much room again.
            assert not account.user or size <= 2 * OPTIONS.max_user_bytes

    def end(self) -> None:
        core = self.core
        statistics = core.statistics(self.now)
        assert isinstance(statistics, BrokerStatistics)
        assert statistics.busy + statistics.idle == statistics.workers == core.worker_count
        while not core.finish(self.now):
            pass
        self.flush()
        self.check()
        assert (core.queued, core.assigned, core.worker_count) == (0, 0, 0)
        assert not core.services


_BROKER_STEPS = (
    *[BrokerRun.request] * 8,
    *[BrokerRun.worker] * 6,
    *[BrokerRun.answer] * 6,
    *[BrokerRun.flush] * 4,
    *[BrokerRun.time] * 3,
    *[BrokerRun.crowd] * 2,
    BrokerRun.last_words,
    BrokerRun.noise,
    BrokerRun.reach,
    BrokerRun.leave,
    BrokerRun.reconsider,
    BrokerRun.other,
)


def fuzz_broker(data: bytes) -> None:
    """Any acts of peers and an owner, in any order."""
    BrokerRun(Source(data)).run()


# Workers and clients

_ENDPOINTS = ("one", "two")
_LOSSES = (
    CloseReason.CONNECTION_CLOSED,
    CloseReason.NOT_ALLOWED,
    CloseReason.MISMATCH,
    CloseReason.HUNG_UP,
)
#: The phases of connections that are being made or probed.
PENDING = (Phase.CONNECTING, Phase.PROBING)
_LIMITS = ((2, 2, 16), (1, 1, 8), (10**9, 2**40, 8))
_OFFERS = (
    [b"501"],
    *(
        extension.offer_body(Offer(calls, sessions, frames, 300, 1.0, version, sum(Feature)))
        for version, (calls, sessions, frames) in enumerate(_LIMITS, 1)
    ),
    [b"200"],
    [b"200", b"{"],
)


class PeerRun:
    """What the runs of workers and clients share: connections to brokers that speak as the bytes say."""

    core: WorkerCore | ClientCore

    def __init__(self, source: Source) -> None:
        self.source = source
        self.now = 1000.0
        shape = source.byte()
        self.dialect = (RFC7, RFC18, MAJORTOMO)[shape % 3]
        self.core = self.make(shape // 3)
        #: All connections, closed ones included.
        self.connections: list = []
        self.open: set = set()
        self.closed = False

    def run(self) -> None:
        source = self.source
        self.carry_out()
        while source and not self.closed:
            step = self.STEPS[source.byte() % len(self.STEPS)]
            step(self)
            self.carry_out()
            self.check()
        if not self.closed:
            self.close()
            self.carry_out()
        self.check()
        assert not self.open, "a connection stays open"
        assert not self.core._connections

    def make(self, shape: int):
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError

    def says(self, connection) -> list[bytes]:
        raise NotImplementedError

    def on_event(self, event) -> None:
        raise NotImplementedError

    def sent(self, connection, frames) -> None:
        """A message was sent."""

    def close(self) -> None:
        self.closed = True
        self.core.close(self.now)

    def carry_out(self) -> None:
        core = self.core
        rounds = 0
        while core.actions or core.events:
            rounds += 1
            assert rounds < 100, "there is always more to do"
            actions, events = core.take()
            for action in actions:
                if type(action) is Send:
                    assert action.connection in self.open, "a message is sent on a closed connection"
                    assert action.frames
                    assert set(map(type, action.frames)) == {bytes}, action.frames
                    self.sent(*action)
                elif type(action) is Open:
                    self.connections.append(action.connection)
                    self.open.add(action.connection)
                else:
                    assert type(action) is Close
                    self.open.remove(action.connection)
            for event in events:
                self.on_event(event)
        assert self.open == core._connections
        pending = sum(connection.phase in PENDING for connection in self.open)
        assert core._pending == pending
        assert type(core.deadline()) is float

    def connection(self):
        """One of the connections so far, closed or not, mostly the newest; None before the first."""
        said = self.source.byte()
        if not self.connections:
            return None
        if said < 160:
            return self.connections[-1]
        return self.connections[-1 - said % min(len(self.connections), 6)]

    # Steps

    def connected(self) -> None:
        connection = self.connection()
        if connection is not None:
            self.core.on_connected(connection, self.now)

    def established(self) -> None:
        """A connection stands, and its broker answers the probe."""
        connection = self.connection()
        if connection is not None:
            self.core.on_connected(connection, self.now)
            offer = self.source.of(_OFFERS)
            self.core.feed(connection, self.reply(self.dialect, b"mmi.gmdp", offer), self.now, self.jitter())

    def disconnected(self) -> None:
        connection = self.connection()
        if connection is not None:
            said = self.source.byte()
            self.core.on_disconnected(connection, _LOSSES[said % 4], self.now, said / 255)

    def hear(self) -> None:
        connection = self.connection()
        if connection is not None:
            frames = self.says(connection)
            # A message has at least one frame.
            self.core.feed(connection, frames or [b""], self.now, self.jitter())

    def time(self) -> None:
        said = self.source.byte()
        self.now += _PAUSES[said % len(_PAUSES)]
        self.core.tick(self.now, self.jitter())
        assert self.core.deadline() > self.now, "the client would spin"

    def jitter(self) -> float:
        return self.source.byte() / 255

    @staticmethod
    def reply(dialect, service: bytes, body: list[bytes], final: bool = True) -> list[bytes]:
        head, _, partial, code, names_service, _ = LAYOUT[dialect]
        code = code if final or partial is None else partial
        return [*head, *code, *([service] if names_service else []), *body]


class WorkerRun(PeerRun):
    """A worker."""

    def make(self, shape: int) -> WorkerCore:
        core = WorkerCore(
            b"alpha",
            self.dialect,
            Reconnect(_ENDPOINTS[: 1 + shape % 2], 0.5),
            WorkerCounters(),
            concurrency=1 + shape // 2 % 3,
            heartbeat_interval=1.0,
            liveness=3,
            error_reply=[b"500"],
            now=self.now,
            reveal_errors=bool(shape & 8),
            enforce_deadline=bool(shape & 16),
            require_extensions=bool(shape & 32) and self.dialect is not MAJORTOMO,
        )
        #: Work whose handlers run.
        self.running: list[Work] = []
        #: Work that is held, and how much of it was lost before it began.
        self.held: list[Work] = []
        self.never_began = 0
        core.start(self.now)
        return core

    def says(self, connection) -> list[bytes]:
        source = self.source
        kind = source.byte()
        if kind >= 240:
            return some_frames(source, 1 + kind % 16)
        which = (Command.REQUEST, Command.REQUEST, Command.HEARTBEAT, Command.DISCONNECT)[kind % 4]
        extended = connection.phase is Phase.EXTENDED
        dialect = self.core.extended if extended else self.dialect
        frames = []
        if extended and kind // 4 % 4:
            sessions = list(connection.sessions) or [SESSIONS[0]]
            session = sessions[kind // 16 % len(sessions)]
            flags = source.byte() % 4 if which is Command.HEARTBEAT else 0
            frames.append(extension.mark_session(session, flags))
            if kind // 4 % 4 == 3 and which is Command.DISCONNECT:
                frames = [a_session(source)]
        elif extended:
            dialect = self.dialect
        rest = []
        if which is Command.REQUEST:
            said = source.byte()
            address = token.prefix(token.start(NONCE), said) + token.tail(
                said % 4, (None, 0.0, 0.5, 3.0)[said // 4 % 4], said % 2
            )
            rest = [address if said < 230 else source.take(said % 40), b"", *[b"body"] * (1 + said % 3)]
        frames += command(dialect, which, *rest)
        return changed(source, frames) if kind >= 224 else frames

    def on_event(self, event) -> None:
        if type(event) is Work:
            assert all(work.session is not event.session for work in self.running), "two handlers of one session"
            self.running.append(event)
            self.held = [work for work in self.held if work is not event]
        else:
            assert any(work is event.work for work in self.running), "news of work that has not begun"
            if type(event) is Resumed:
                lost = event.work.session.work is not event.work
                assert lost or event.work.hints.credits, "a handler waits for no credit"
            else:
                assert type(event) is CallerGone

    def some_work(self) -> Work | None:
        said = self.source.byte()
        return self.running[said % len(self.running)] if self.running else None

    def partial(self) -> None:
        work = self.some_work()
        if work is not None:
            shape = self.source.byte()
            body = [b"p" * _SIZES[shape // 4 % len(_SIZES)]] * (1 + shape % 12)
            assert self.core.partial(work, body, self.now) in (True, False)

    def final(self) -> None:
        work = self.some_work()
        if work is not None:
            shape = self.source.byte()
            body = None if shape % 8 == 0 else [b"f" * _SIZES[shape // 4 % len(_SIZES)]] * (shape % 13)
            failure = Failure("Error", "\udc80 it failed" * (shape % 300)) if shape >= 192 else None
            self.running.remove(work)
            assert self.core.final(work, body, failure, self.now) in (True, False)

    def time(self) -> None:
        core = self.core
        said = self.source.byte()
        self.now += _PAUSES[said % len(_PAUSES)]
        if said < 240:
            core.on_wake(self.now)
        if said < 200:
            core.on_caught_up(self.now)
        core.tick(self.now, self.jitter())
        assert core.deadline() > self.now, "the worker would spin"
        for usable in core._usable:
            watched = usable.timer is not None and usable.timer[0] <= self.now + 1.0
            assert watched or not usable.sessions, "a broker is not watched"

    def stop(self) -> None:
        said = self.source.byte()
        if said < 200:
            self.core.drain(self.now)
        else:
            self.close()

    def close(self) -> None:
        super().close()
        self.carry_out()
        for work in self.running:
            self.core.final(work, [b"late"], None, self.now)
        self.running.clear()
        assert self.core.closed

    def note_held(self) -> None:
        """See which work is held now, and which was lost before it began."""
        held = [event for event in self.core._held if type(event) is Work]
        assert not held or self.core._reads_first
        self.never_began += sum(all(work is not other for other in held) for work in self.held)
        self.held = held

    def check(self) -> None:
        core = self.core
        self.note_held()
        registered = 0
        for session in core.sessions:
            connection = session.connection
            assert (connection is None) is not session.registered
            if connection is not None:
                registered += 1
                assert connection.sessions.get(session.frame) is session
                assert connection in core._usable
            assert session.work is None or session.handling
            assert (session.state is SessionState.BUSY) is (session.work is not None)
            assert session.handling is any(work.session is session for work in (*self.running, *self.held))
            free = session in core._waiting
            waits = session.state is SessionState.DETACHED and not session.handling and session.timer is None
            assert free is waits, "a session is lost, or waits twice"
        assert core.registered == registered
        assert core.closed is all(session.state is SessionState.CLOSED for session in core.sessions)
        assert len(core._connections) <= len(core.sessions) + 1
        counters = core.counters
        ended = counters.replies + counters.late_replies + self.never_began
        assert counters.requests == ended + len(self.running) + len(self.held)

    STEPS = (
        *[PeerRun.hear] * 8,
        *[PeerRun.established] * 4,
        *[final] * 4,
        *[partial] * 2,
        *[time] * 3,
        PeerRun.connected,
        PeerRun.disconnected,
        stop,
    )


class ClientRun(PeerRun):
    """A client."""

    def make(self, shape: int) -> ClientCore:
        #: Calls that have not ended.
        self.calls: list[Call] = []
        self.ended: set[Call] = set()
        #: Requests that were sent: (connection, call frame or nothing, service).
        self.asked: list = []
        return ClientCore(
            self.dialect,
            Reconnect(_ENDPOINTS[: 1 + shape % 2], 0.5),
            1 + shape // 2 % 3,
            ClientCounters(),
            nonce=CLIENT_NONCE,
            max_in_flight=1 + shape // 8 % 4,
            require_extensions=bool(shape & 32) and self.dialect is not MAJORTOMO,
        )

    def sent(self, connection, frames: list[bytes]) -> None:
        extra = frames[0] if extension.is_call(frames[0]) else b""
        at = 3 if self.dialect is MAJORTOMO else 2
        if extra:
            at = 3 if self.dialect is RFC7 else 4
        self.asked.append((connection, extra, frames[at]))
        del self.asked[:-16]

    def submit(self) -> None:
        shape, more = self.source.byte(), self.source.byte()
        call = Call(
            SERVICES[shape % 3],
            [b"b" * _SIZES[more % len(_SIZES)]] * (1 + more // 8 % 12),
            timeout=(0.0, 0.5, 3.0, 1e9)[shape // 4 % 4],
            deadline=(math.inf, 0.0, 1.0, 5.0)[shape // 16 % 4],
            retries=shape // 64,
            flags=shape % 2,
            priority=more % 4,
            traceparent=TRACE if more >= 200 else b"",
        )
        self.calls.append(call)
        self.core.submit(call, self.now)

    def cancel(self) -> None:
        said = self.source.byte()
        if self.calls:
            call = self.calls[said % len(self.calls)]
            self.core.cancel(call, Outcome.OVERFLOW if said >= 128 else Outcome.CANCELLED, self.now)

    def says(self, connection) -> list[bytes]:
        source = self.source
        kind = source.byte()
        if kind >= 240 or not self.asked:
            return some_frames(source, 1 + kind % 16)
        asked = self.asked[-1 - kind // 8 % len(self.asked)]
        if kind % 8:  # else an answer to a request on another connection
            mine = [request for request in self.asked if request[0] is connection]
            asked = mine[-1 - kind // 8 % len(mine)] if mine else asked
        _, extra, service = asked
        shape = source.byte()
        if shape >= 240:
            service = source.of(SERVICES)
        body = [b"a" * (shape % 5)] * (1 + shape // 64)
        if not extra:
            frames = self.reply(self.dialect, service, body, final=shape % 4 != 0)
        else:
            status = (Status.OK, Status.OK, Status.PARTIAL, Status.PARTIAL, *Status, 77)[shape % 15]
            final = (status != Status.PARTIAL) is not (shape >= 224)
            frame = extra[:5] + bytes((status,)) + extra[6:8] + bytes((shape % 5,)) + extra[9:]
            frames = [frame, *self.reply(self.core.extended, service, body, final)]
        return changed(source, frames) if kind >= 224 else frames

    def on_event(self, event) -> None:
        assert event.call not in self.ended, "an event comes after a call's end"
        if type(event) is Part:
            assert event.body
            ended = event.final
        else:
            assert type(event) is Ended
            ended = True
        if ended:
            self.ended.add(event.call)
            self.calls.remove(event.call)

    def close(self) -> None:
        super().close()
        self.carry_out()
        assert not self.calls, "a call has not ended"

    def stop(self) -> None:
        if self.source.byte() >= 128:
            self.close()

    def check(self) -> None:
        core: Any = self.core
        counters = core.counters
        statistics = core.statistics()
        open_calls = statistics.waiting + statistics.in_flight
        ended = counters.replies + counters.timeouts + counters.cancelled + counters.errors
        assert counters.requests == ended + open_calls, "calls do not add up"
        assert open_calls == len(self.calls)
        assert statistics.sockets <= core._max_connections + len(core._draining)
        for call in self.calls:
            assert call.state is (CallState.WAITING if call.connection is None else CallState.SENT)
            assert call.timer is not None
            assert (call in core._waiting) is (call.connection is None)
            assert call.connection is None or call.connection.calls.get(call.number) is call
        for connection in core._connections:
            strict = connection.phase is Phase.STRICT
            assert len(connection.calls) <= (1 if strict else core._max_in_flight)
            assert not strict or (connection in core._idle) is (not connection.calls)

    STEPS = (
        *[PeerRun.hear] * 8,
        *[submit] * 6,
        *[PeerRun.established] * 4,
        *[PeerRun.time] * 3,
        *[PeerRun.disconnected] * 2,
        *[cancel] * 2,
        PeerRun.connected,
        stop,
    )


def fuzz_worker(data: bytes) -> None:
    """Anything that brokers, handlers and time can do to a worker."""
    WorkerRun(Source(data)).run()


def fuzz_client(data: bytes) -> None:
    """Anything that brokers, callers and time can do to a client."""
    ClientRun(Source(data)).run()


# Running them

TARGETS = {
    "wire": fuzz_wire,
    "extension": fuzz_extension,
    "envelope": fuzz_envelope,
    "broker": fuzz_broker,
    "worker": fuzz_worker,
    "client": fuzz_client,
}
#: The most bytes of an input, unless -max_len says otherwise.
LENGTHS = {"wire": 200, "extension": 150, "envelope": 300, "broker": 250, "worker": 150, "client": 150}
CORPUS = Path(__file__).parent.parent / "corpus"


def run_target(name: str, data: bytes) -> None:
    """Run one input; raises what its target raises."""
    TARGETS[name](data)


def corpus(name: str) -> list[Path]:
    """The inputs that are kept for a target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def by_chance(name: str, runs: int, seed: int = 0) -> None:
    """Run `runs` inputs, random ones and changed ones of the corpus; raises what the target raises."""
    chance = random.Random(f"{name} {seed}")
    kept = [path.read_bytes() for path in corpus(name)] or [b""]
    for number in range(runs):
        data = bytearray(chance.choice(kept) if number % 2 else chance.randbytes(chance.randrange(LENGTHS[name])))
        for _ in range(chance.randrange(8) if data else 0):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3)) or data[-at:]
            data = data[: LENGTHS[name]] or bytearray(1)
        run_target(name, bytes(data))


def fuzz(name: str, options: list[str]) -> None:
    """Run one target under atheris, as libFuzzer's options say; does not return."""
    if not any(option.startswith("-max_len=") for option in options):
        options = [*options, f"-max_len={LENGTHS[name]}"]
    kept = corpus(name)
    if kept and all(option.startswith("-") for option in options):
        options = [*options, "-seed_inputs=" + ",".join(map(str, kept))]
    # libFuzzer starts this command again for -merge=1.
    atheris.Setup([f"{sys.executable} {__file__} {name}", *options], TARGETS[name])
    atheris.Fuzz()


def fuzz_all(runs: int) -> int:
    """Run each target `runs` times, in a process of its own; returns 0 if none fails."""
    total, failed = 0, []
    kept = Path(tempfile.mkdtemp(prefix="fuzzing-"))
    for name in TARGETS:
        command = [sys.executable, __file__, name, f"-runs={runs}", "-timeout=60", f"-artifact_prefix={kept}/{name}-"]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        done = re.search(r"^Done (\d+) runs in (\d+) second", ended.stderr, re.M)
        if done is None or ended.returncode:
            failed.append(name)
            print(ended.stdout[-4000:], ended.stderr[-2000:], file=sys.stderr)
            print(f"{name}: failed; its input is in {kept}", flush=True)
            continue
        total += int(done[1])
        print(f"{name}: {int(done[1]):,} executions in {done[2]} s", flush=True)
    print(f"all: {total:,} executions, {len(failed)} of {len(TARGETS)} targets failed", flush=True)
    if not failed:
        kept.rmdir()
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz gmdp's cores.", epilog="Other options are libFuzzer's.")
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--runs", type=int, default=20_000, help="with all: executions of each target")
    chosen, options = parser.parse_known_args(arguments)
    if chosen.target == "all":
        if options:
            parser.error(f"all takes --runs only, not {options[0]}")
        return fuzz_all(chosen.runs)
    fuzz(chosen.target, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
