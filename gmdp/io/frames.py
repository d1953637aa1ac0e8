"""Whole messages on a ZeroMQ socket: the path that every frame of every message takes.

The rules of this module:

* No call waits: a message is sent, or received, at once or not at all.
* A message is sent as a whole or fails at its first frame.
* Frames of :attr:`MessageSocket.large` bytes and more are received as :class:`Large`: they are never copied.
* A message with a frame above :attr:`MessageSocket.max_frame_size` is received with more frames than the limit allows.
* The code is written for speed.  Calls go to the functions of pyzmq's backend, with flags that are plain
  integers.  This halves the cost of a frame, and avoids the methods of zmq.green: they wait, and an
  owner must not.
"""

from __future__ import annotations

import sys
from typing import Any

import zmq
import zmq.green

DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_SNDMORE = int(zmq.DONTWAIT | zmq.SNDMORE)
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)
_SRCFD = int(zmq.SRCFD)
_send = zmq.backend.Socket.send
receive_frame = _receive = zmq.backend.Socket.recv
get_option = _get = zmq.backend.Socket.get

#: Frames of this many bytes or more are not copied where they only pass through.
LARGE = 8192


class Large:
    """A frame as ZeroMQ holds it, so that a frame which only passes through is never copied.

    ``len()`` gives its size, ``bytes()`` its content; an index or a slice gives what the
    bytes would give.  A frame is equal to nothing but itself.
    """

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return bytes(memoryview(self.data))

    def __getitem__(self, index: Any) -> Any:
        content = memoryview(self.data)[index]
        return content if isinstance(content, int) else bytes(content)


class MessageSocket:
    """A ZeroMQ socket that sends and receives whole messages.

    `max_frames`: frames of a message that are kept; one more is kept to show that the message
    had more.  `used`: the set to which the socket adds itself whenever it is used.
    """

    __slots__ = (
        "_is_router",
        "_kept_frames",
        "_used",
        "blocked",
        "checks_descriptors",
        "has_users",
        "large",
        "last_frame",
        "max_frame_size",
        "socket",
    )

    def __init__(self, socket: zmq.green.Socket[bytes], max_frames: int, used: set[Any]) -> None:
        self.socket = socket
        self._is_router = socket.type == zmq.ROUTER
        #: Counts the frames that are kept beside those read first (on a ROUTER two, else one).
        self._kept_frames = range(max_frames - 1 if self._is_router else max_frames)
        self._used = used
        #: Frames of this many bytes or more are received as :class:`Large`.
        self.large = sys.maxsize
        #: The most bytes of a frame; frames above :attr:`large` are checked.
        self.max_frame_size = sys.maxsize
        #: True from a message that found no room until there is some.
        self.blocked = False
        #: True if connections have users, which :attr:`last_frame` tells.
        self.has_users = False
        #: True if the owner has to look at the :attr:`descriptor` of each message.
        self.checks_descriptors = False
        #: The last frame of the message received last, on a ROUTER.
        self.last_frame: zmq.Frame | None = None

    def send(self, frames: list[bytes]) -> str | None:
        """Send one whole message at once.  Returns None, or why that failed: "full" or "gone"."""
        socket = self.socket
        self._used.add(self)
        last = frames.pop()  # cheaper than counting
        try:
            for frame in frames:
                try:
                    _send(socket, frame, _DONTWAIT_SNDMORE)
                except TypeError:  # a Large; looking at each frame's type would cost more
                    _send(socket, frame.data, _DONTWAIT_SNDMORE)  # type: ignore[attr-defined]
            try:
                _send(socket, last, DONTWAIT)
            except TypeError:
                _send(socket, last.data, DONTWAIT)  # type: ignore[attr-defined]
        except zmq.Again:
            self.blocked = True
            return "full"
        except zmq.ZMQError:
            return "gone"
        finally:
            frames.append(last)
        self.blocked = False
        return None

    def receive(self) -> list[bytes] | None:
        """Receive and return one whole message; None if there is none."""
        socket = self.socket
        # A frame that is not copied knows whether more follow; asking the socket would cost more.
        # A ROUTER reads a routing id first, and another frame always follows.  Copying the
        # routing id at once costs a fifth as much.
        try:
            if self._is_router:
                frames = [_receive(socket, DONTWAIT)]
                frame = _receive(socket, DONTWAIT, False)
                frames.append(frame.bytes)
            else:
                frame = _receive(socket, DONTWAIT, False)
                frames = [frame.bytes]
        except zmq.ZMQError:
            return None
        large = self.large
        for _ in self._kept_frames:
            if not frame.more:
                break
            frame = _receive(socket, DONTWAIT, False)
            if len(frame) < large:
                frames.append(frame.bytes)
            else:
                frames.append(Large(frame))  # type: ignore[arg-type]
                if len(frame) > self.max_frame_size:
                    # Padded beyond the limit of frames, the message needs no further check to be refused.
                    frames += [b""] * len(self._kept_frames)
        else:
            while frame.more:  # more than the limit allows: read and dropped
                frame = _receive(socket, DONTWAIT, False)
        if self._is_router:
            self.last_frame = frame
        return frames

    def events(self) -> int:
        """Return the socket's EVENTS.  Reading them re-arms its descriptor, which is edge-triggered."""
        return int(_get(self.socket, EVENTS))

    # About the message received last, on a ROUTER

    @property
    def user_id(self) -> str:
        """The User-Id that the gate gave to the connection of the last message; empty if there is none."""
        return str(self._metadata("User-Id", ""))

    @property
    def address(self) -> str:
        """The IP address from which the last message came; empty if ZeroMQ knows none."""
        return str(self._metadata("Peer-Address", ""))

    @property
    def descriptor(self) -> int:
        """The descriptor of the last message's connection, by which monitors know it; -1 if there is none."""
        return int(self._metadata(_SRCFD, -1))

    def _metadata(self, name: str | int, default: Any) -> Any:
        try:
            return self.last_frame.get(name) if self.last_frame is not None else default
        except zmq.ZMQError:  # this connection has no such property
            return default


def stop_green_watcher(socket: zmq.green.Socket[bytes]) -> None:
    """Stop the watcher that zmq.green has for its blocking calls, which no owner uses.

    Otherwise every message would wake two watchers.
    """
    watcher = getattr(socket, "_state_event", None)
    if watcher is not None:
        watcher.stop()
