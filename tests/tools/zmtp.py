"""Bare peers of ZMTP 2.0 (libzmq 3, jeromq 0.3) and ZMTP 3.0 (libzmq 4.0), on TCP sockets of gevent.

The bytes are written by hand, as the specifications of ZMTP have them.  No peer knows PING, which came with
ZMTP 3.1: peers count the commands that they get, and answer none.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import gevent
import gevent.socket

#: Seconds after which something that must come counts as missing.
DEADLINE = 20.0

#: The number of each socket type in the greeting of ZMTP 2.0.
_TYPES = {"REQ": 3, "REP": 4, "DEALER": 5, "ROUTER": 6}

_MORE, _LONG, _COMMAND = 1, 2, 4


class Zmtp:
    """One connection of a bare peer.

    Args:
        socket: a connected TCP socket of gevent.
        version: "2.0" or "3.0".
        kind: the socket type that the peer claims to be: "REQ", "REP", "DEALER" or "ROUTER".
        identity: of a peer of ZMTP 2.0: the routing id that it chooses.
    """

    def __init__(self, socket: gevent.socket.socket, version: str, kind: str, identity: bytes = b"") -> None:
        self._socket = socket
        self._socket.settimeout(DEADLINE)
        self._read = bytearray()
        #: The commands that came, without READY: a peer of ZMTP 3.0 or less expects none.
        self.commands: list[bytes] = []
        if version == "2.0":
            self._greet_2(kind, identity)
        else:
            self._greet_3(kind)

    @classmethod
    def connect(cls, endpoint: str, version: str, kind: str, identity: bytes = b"") -> Zmtp:
        """Connect to a ``tcp://`` endpoint."""
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        return cls(gevent.socket.create_connection((host, int(port)), DEADLINE), version, kind, identity)

    def _greet_2(self, kind: str, identity: bytes) -> None:
        # Signature, revision 1, socket type, and the identity as a frame.
        named = bytes([0, len(identity)]) + identity
        self._socket.sendall(b"\xff" + bytes(7) + b"\x01\x7f" + b"\x01" + bytes([_TYPES[kind]]) + named)
        greeting = self._take(11)
        assert (greeting[0], greeting[9]) == (0xFF, 0x7F), greeting
        # A peer that knows ZMTP 3 has sent its own revision; what follows is of ZMTP 2.0 all the same.
        assert greeting[10] >= 1, greeting
        self._take(1)  # the socket type
        assert self._frame() == (0, b"")  # the identity

    def _greet_3(self, kind: str) -> None:
        # Signature, version 3.0, the mechanism NULL, no server, filler.
        self._socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
        greeting = self._take(64)
        assert (greeting[0], greeting[9], greeting[10]) == (0xFF, 0x7F, 3), greeting
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind.encode() + b"\x08Identity" + bytes(4)
        self._socket.sendall(bytes([_COMMAND, len(ready)]) + ready)
        flags, content = self._frame()
        assert flags & _COMMAND, content
        assert content.startswith(b"\x05READY"), content

    def _take(self, count: int) -> bytes:
        """The next `count` bytes; EOFError if the connection ends before them."""
        while len(self._read) < count:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError(f"the connection ended after {bytes(self._read)!r}")
            self._read += data
        taken = bytes(self._read[:count])
        del self._read[:count]
        return taken

    def _frame(self) -> tuple[int, bytes]:
        flags = self._take(1)[0]
        size = int.from_bytes(self._take(8 if flags & _LONG else 1), "big")
        return flags, self._take(size)

    def send(self, *frames: bytes) -> None:
        """Send one message."""
        data = bytearray()
        for number, frame in enumerate(frames, 1):
            flags = _MORE if number < len(frames) else 0
            if len(frame) < 256:
                data += bytes([flags, len(frame)])
            else:
                data += bytes([flags | _LONG]) + len(frame).to_bytes(8, "big")
            data += frame
        self._socket.sendall(data)

    def recv(self, timeout: float = DEADLINE) -> list[bytes]:
        """The next message; EOFError if the connection ends first, TimeoutError after `timeout` seconds."""
        self._socket.settimeout(timeout)
        message = []
        while True:
            flags, content = self._frame()
            if flags & _COMMAND:
                self.commands.append(content)
                continue
            message.append(content)
            if not flags & _MORE:
                return message

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Zmtp:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class ZmtpServer:
    """A listening socket; `serve` gets each new connection of a bare ROUTER, in a greenlet of its own.

    Args:
        version: "2.0" or "3.0".
        serve: called with each connection; a connection that ends before its next message ends the call.
    """

    def __init__(self, version: str, serve: Callable[[Zmtp], None]) -> None:
        self._version = version
        self._serve = serve
        self._listener = gevent.socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        #: How many connections were made.
        self.accepted = 0
        self._greenlets = [gevent.spawn(self._accept)]

    def _accept(self) -> None:
        while True:
            socket, _ = self._listener.accept()
            self.accepted += 1
            self._greenlets.append(gevent.spawn(self._run, socket))

    def _run(self, socket: gevent.socket.socket) -> None:
        try:
            self._serve(Zmtp(socket, self._version, "ROUTER"))
        except (EOFError, ConnectionError, BrokenPipeError):
            pass  # the peer has gone
        finally:
            socket.close()

    def __enter__(self) -> ZmtpServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        gevent.killall(self._greenlets)
        self._listener.close()
