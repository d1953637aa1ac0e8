"""What is wrong with a message that is not MDP, in words for the author of the peer.

Only messages that :func:`gmdp.protocol.wire.parse` refuses come here, so nothing here needs to be fast.
"""

from __future__ import annotations

from .dialects import CLIENT_01, CLIENT_02, EMPTY, MAX_SERVICE_NAME, WORKER_01, WORKER_02
from .text import show_frames, show_name
from .wire import MAX_ADDRESS, MAX_STACK

_HEADERS = {CLIENT_01: "RFC 7", WORKER_01: "RFC 7", CLIENT_02: "RFC 18", WORKER_02: "RFC 18"}
#: By header, the worker's commands: code, name, and how many frames follow the code at least.
_WORKER_COMMANDS = {
    WORKER_01: {b"\x01": ("READY", 1), b"\x03": ("REPLY", 3), b"\x04": ("HEARTBEAT", 0), b"\x05": ("DISCONNECT", 0)},
    WORKER_02: {
        b"\x01": ("READY", 1),
        b"\x03": ("PARTIAL", 3),
        b"\x04": ("FINAL", 3),
        b"\x05": ("HEARTBEAT", 0),
        b"\x06": ("DISCONNECT", 0),
    },
}


def diagnose(frames: list[bytes]) -> str:
    """Say what came and what would be right.

    Args:
        frames: A message that is not MDP, as a ROUTER socket gives it, routing id first.

    Returns:
        One line of at most some hundred characters.
    """
    received = frames[1:]
    at = next((at for at, frame in enumerate(received[: MAX_STACK + 3]) if frame in _HEADERS), None)
    wrong = _find_fault(received, at)
    return f"{wrong} ({show_frames(received)})"


def _find_fault(frames: list[bytes], at: int | None) -> str:
    """Say what is wrong with `frames`, whose header is at `at`; None: there is none."""
    if at is None:
        if EMPTY in frames[: MAX_STACK + 1]:
            found = frames.index(EMPTY) + 1
            if found < len(frames):
                shown = show_name(frames[found], 24)
                return f"the empty frame is followed by {shown}, not by a header such as 'MDPC01'"
        return "no frame is a header of MDP ('MDPC01', 'MDPW01', 'MDPC02' or 'MDPW02')"
    header = frames[at]
    name, rfc = show_name(header), _HEADERS[header]
    if header in (CLIENT_01, WORKER_01) and (not at or frames[at - 1]):
        return f"the empty frame before {name} is missing ({rfc}; a DEALER socket has to send it)"
    if at and frames[at - 1]:
        return f"{name} must come first, or after an empty frame"
    if at > MAX_STACK + 1:
        return f"more than {MAX_STACK} frames of a return address come before {name}"
    if any(len(frame) > MAX_ADDRESS for frame in frames[: max(at - 1, 0)]):
        return f"a frame of the return address has more than {MAX_ADDRESS} bytes"
    rest = frames[at + 1 :]
    if header in _WORKER_COMMANDS:
        return _find_worker_fault(header, name, rfc, rest)
    if header == CLIENT_02:
        if not rest:
            return f"{name} must be followed by the command REQUEST, a service name and a body ({rfc})"
        if rest[0] not in (b"\x01", b"\x02") or (rest[0] == b"\x02" and not at):
            return f"the command {show_name(rest[0], 24)} after {name} is not REQUEST, '\\x01' ({rfc})"
        rest = rest[1:]
    if not rest or not rest[0]:
        return f"a REQUEST needs a service name ({rfc})"
    if len(rest[0]) > MAX_SERVICE_NAME:
        return f"a service name has at most {MAX_SERVICE_NAME} bytes, not {len(rest[0])}"
    if len(rest) < 2:
        return f"a REQUEST needs a body of one frame at least, which may be empty ({rfc})"
    return "the frame before the empty one is not a frame of gmdp's extension that is known here"


def _find_worker_fault(header: bytes, name: str, rfc: str, rest: list[bytes]) -> str:
    """Say what is wrong with a worker's message, of which `rest` follows the header."""
    commands = _WORKER_COMMANDS[header]
    if not rest or rest[0] not in commands:
        what = f"the command {show_name(rest[0], 24)}" if rest else "nothing"
        return f"{what} after {name} is not a command of a worker ({rfc})"
    command, least = commands[rest[0]]
    rest = rest[1:]
    if command == "READY":
        if rest and len(rest[0]) > MAX_SERVICE_NAME:
            return f"a service name has at most {MAX_SERVICE_NAME} bytes, not {len(rest[0])}"
        return f"READY must be followed by a service name and no other frame ({rfc})"
    if not least:
        return f"{command} must not be followed by further frames ({rfc})"
    if len(rest) > 1 and rest[1]:
        return f"the empty frame between the client address and the body of {command} is missing ({rfc})"
    return f"{command} must be followed by the client address, an empty frame and a body ({rfc})"
