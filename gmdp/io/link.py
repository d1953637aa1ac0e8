"""A ZeroMQ socket as its owner uses it."""

from __future__ import annotations

import errno
import functools
import itertools
import math
import operator
import os
import sys
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import zmq
import zmq.green

from ..core.peer.connector import HANDSHAKE, MISMATCH, REFUSED
from ..validation import MOST_INT
from .census import Visitors
from .ipc import has_listener

if TYPE_CHECKING:
    from .owner import Owner

# Plain integers and the backend's own functions: a frame costs half as much, and
# zmq.green's versions wait where an owner must not.
_DONTWAIT = int(zmq.DONTWAIT)
_DONTWAIT_SNDMORE = int(zmq.DONTWAIT | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)
_SRCFD = int(zmq.SRCFD)
_send = zmq.backend.Socket.send
_receive = zmq.backend.Socket.recv
_get = zmq.backend.Socket.get

# What a monitor tells of a connecting socket.  The end of a connection may be told
# before what arrived last can be read; when it is told that another attempt is
# planned, everything can.
_UP = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_GONE = int(zmq.EVENT_CONNECT_RETRIED)
_WHY = {
    int(zmq.EVENT_DISCONNECTED): "the connection was closed",
    int(zmq.EVENT_CLOSED): "connection refused",
}
_HUNG_UP = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
_REFUSED = {
    _HUNG_UP: "the connection was closed in the handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): MISMATCH,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): REFUSED,
}
_ALL = functools.reduce(operator.or_, [*_WHY, *_REFUSED], _UP | _GONE)
_monitor_names = itertools.count(1)

# What a monitor tells of a bound socket.
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_LISTENER_CLOSED = int(zmq.EVENT_CLOSED)
_FAILED = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "handshake",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "protocol",
}
_BOUND = functools.reduce(operator.or_, _FAILED, _ACCEPTED | _DISCONNECTED | _UP)


#: Sockets of a parent process, kept so that nobody closes them here.
_inherited: list[Any] = []

#: Bytes from which on a frame that is passed on is not copied.
LARGE = 8192


def milliseconds(seconds: float) -> int:
    """`seconds` as a socket option: at least 1 ms, at most the largest that fits."""
    return min(max(1, math.ceil(seconds * 1000)), MOST_INT)


class Large:
    """A frame as ZeroMQ holds it: what only passes through is never copied.

    As long as its bytes, which ``bytes()`` makes; an index or slice of it is one of
    them.  Equal to nothing but itself.
    """

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return bytes(memoryview(self.data))

    def __getitem__(self, at: Any) -> Any:
        found = memoryview(self.data)[at]
        return found if isinstance(found, int) else bytes(found)


class Link:
    """One ZeroMQ socket, its watchers, and what it is connected to.

    Made and used by one owner only.
    """

    #: Seconds ZeroMQ's thread may take for what it does in milliseconds: to free a
    #: bound endpoint, to tell all about a lost connection.
    patience = 1.0

    __slots__ = (
        "_kept",
        "_look_at",
        "_monitor",
        "_new_until",
        "_owner",
        "_routes",
        "_touched",
        "_watchers",
        "blocked",
        "closed",
        "frame",
        "inproc",
        "large",
        "lost",
        "lost_at",
        "secured",
        "socket",
        "tag",
        "visitors",
    )

    def __init__(self, owner: Owner, socket: zmq.green.Socket[bytes], max_frames: int, tag: Any) -> None:
        self._owner = owner
        self.socket = socket
        self._routes = socket.type == zmq.ROUTER
        #: Of a message's frames after those read first: as many are kept, which is one more
        #: than `max_frames` in all, to show that there were more.
        self._kept = range(max_frames - 1 if self._routes else max_frames)
        #: Whatever the engine knows this link by.
        self.tag = tag
        self.closed = False
        #: Bytes from which on a frame is received as :class:`Large`.
        self.large = sys.maxsize
        #: True after a message found no room: until there is some.
        self.blocked = False
        self.inproc = False
        self._touched = owner.touched
        #: Why the connection ended, once it has.
        self.lost = ""
        self.lost_at = 0.0
        self._monitor: zmq.green.Socket[bytes] | None = None
        #: Of a bound socket: who is connected to it.
        self.visitors: Visitors | None = None
        #: When to look at the monitor in any case.
        self._look_at = 0.0
        #: Until when a connecting socket has not been waited for long.
        self._new_until = 0.0
        #: True if connections have users; then :attr:`frame` is one of the last message.
        self.secured = False
        self.frame: zmq.Frame | None = None
        self._watchers: list[Any] = []
        _stop_green_watcher(socket)
        self._watch(socket)

    def _watch(self, socket: zmq.green.Socket[bytes]) -> None:
        watcher = self._owner.loop.io(_get(socket, zmq.FD), 1)
        watcher.start(self._signal if socket is self.socket else self._signal_news)
        self._watchers.append(watcher)

    def _signal(self) -> None:
        self._owner.ready.add(self)
        self._owner.wake()

    def _signal_news(self) -> None:
        self._look_at = 0.0
        self._signal()

    def watch_visitors(self, visitors: Visitors) -> None:
        """Before the socket is bound: tell `visitors` who comes and goes.  ZMQError if that is impossible."""
        self.visitors = visitors
        self._monitor = _monitor(self.socket, _BOUND)
        self._watch(self._monitor)

    def listen(self, endpoint: str) -> str:
        """Bind to `endpoint`; returns it, wildcards resolved.  ZMQError if that is impossible."""
        if endpoint.startswith("ipc:") and has_listener(endpoint):
            raise zmq.ZMQError(zmq.EADDRINUSE)
        self.socket.bind(endpoint)
        resolved: Any = self.socket.get(zmq.LAST_ENDPOINT)
        return str(resolved.rstrip(b"\0").decode())

    def connect(self, endpoint: str) -> None:
        """Connect to `endpoint`; the engine hears `up` or `down`.  ZMQError if that is impossible."""
        self.inproc = endpoint.startswith("inproc:")
        self._new_until = monotonic() + self.patience
        if not self.inproc:
            self._monitor = _monitor(self.socket, _ALL)
            self._watch(self._monitor)
        self.socket.connect(endpoint)

    def send(self, frames: list[bytes]) -> str | None:
        """Send one whole message at once; None, or why not: "full" or "gone"."""
        socket = self.socket
        self._touched.add(self)
        last = frames.pop()  # cheaper than to count
        try:
            for frame in frames:
                try:
                    _send(socket, frame, _DONTWAIT_SNDMORE)
                except TypeError:  # to look at each costs more
                    _send(socket, frame.data, _DONTWAIT_SNDMORE)  # type: ignore[attr-defined]
            try:
                _send(socket, last, _DONTWAIT)
            except TypeError:
                _send(socket, last.data, _DONTWAIT)  # type: ignore[attr-defined]
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
        """One whole message, None if there is none."""
        socket = self.socket
        # A frame that is not copied knows whether more follow; to ask the socket costs more.
        # What a ROUTER reads first is a routing id, and something always follows: one that
        # is copied costs a fifth.
        try:
            if self._routes:
                frames = [_receive(socket, _DONTWAIT)]
                frame = _receive(socket, _DONTWAIT, False)
                frames.append(frame.bytes)
            else:
                frame = _receive(socket, _DONTWAIT, False)
                frames = [frame.bytes]
        except zmq.ZMQError:
            return None
        large = self.large
        for _ in self._kept:
            if not frame.more:
                break
            frame = _receive(socket, _DONTWAIT, False)
            frames.append(frame.bytes if len(frame) < large else Large(frame))  # type: ignore[arg-type]
        else:
            while frame.more:
                frame = _receive(socket, _DONTWAIT, False)
        if self.secured:
            self.frame = frame
        return frames

    @property
    def known_by(self) -> str:
        """Where connections have users: what the gate said that of the last message is known by."""
        return str(self._told("User-Id", ""))

    @property
    def address(self) -> str:
        """The same for its address."""
        return str(self._told("Peer-Address", ""))

    @property
    def descriptor(self) -> int:
        """The same for its connection's descriptor, by which a monitor knows it."""
        return int(self._told(_SRCFD, -1))

    def _told(self, what: str | int, default: Any) -> Any:
        try:
            return self.frame.get(what) if self.frame is not None else default
        except zmq.ZMQError:
            return default  # there is none

    def events(self) -> int:
        """The socket's EVENTS: whoever reads them re-arms the descriptor."""
        return int(_get(self.socket, _EVENTS))

    def is_empty(self) -> bool:
        """True if nothing is left to be read, and nothing else to be known of the socket before it is used again."""
        events = self.events()
        if events & POLLIN:
            return False
        if not self.blocked and not self.inproc:
            self._touched.discard(self)
        return True

    def _events(self) -> Iterator[tuple[int, int]]:
        """What the monitor has to tell: (event, value)."""
        while self._monitor is not None:
            try:
                told = _receive(self._monitor, _DONTWAIT)
                _receive(self._monitor, _DONTWAIT)
            except zmq.ZMQError:
                return
            yield int.from_bytes(told[:2], "little"), int.from_bytes(told[2:6], "little")

    def take_stock(self, now: float) -> None:
        """Of a bound socket: see who came and went."""
        visitors = self.visitors
        if visitors is None:
            return
        for event, value in self._events():
            if event == _ACCEPTED:
                visitors.came(value, now)
            elif event == _DISCONNECTED:
                visitors.left(value)
            elif event == _UP:
                visitors.succeeded(now)
            elif event in _FAILED:
                visitors.failed(_FAILED[event])

    def news(self, now: float) -> tuple[bool, bool]:
        """What became of the connection since last asked: (it stands, it is gone)."""
        if now < self._look_at:  # nothing new, and not yet time to make sure
            return False, False
        self._look_at = now + self.patience
        if self._routes:
            self.take_stock(now)
            return False, False
        up = gone = False
        for event, value in self._events():
            up = up or event == _UP
            gone = gone or event == _GONE or event in _REFUSED
            if not self.lost:
                self.lost = _WHY.get(event, "") or _REFUSED.get(event, "")
                if event == _HUNG_UP and value == errno.EPIPE and now < self._new_until:
                    # It has read what we said, and hung up at once.  A proxy that has nobody
                    # behind it does not read; one that takes no more for the moment is slow.
                    self.lost = HANDSHAKE
                self.lost_at = monotonic()
        if self.lost and not gone:
            if monotonic() > self.lost_at + self.patience:
                gone = True  # no other attempt is planned
            else:
                self._look_at = 0.0
        if self.inproc:
            # It has no bound and no monitor: no way out means no peer.
            self._look_at = 0.0
            if not self.events() & POLLOUT:
                gone, self.lost = True, "the broker closed its endpoint"
        return up, gone

    def close_bound(self, endpoints: Sequence[str], linger: float) -> None:
        """Close a socket that is bound to `endpoints`, and wait until they are free.

        Closing goes on in another thread: who binds again at once would find the
        address in use.
        """
        self._stop_monitor()
        try:
            # Of nothing else: who is told of what no one reads any more stops, and it is
            # the thread that carries all the messages of the context.
            monitor = _monitor(self.socket, _LISTENER_CLOSED)
        except zmq.ZMQError:  # no descriptors left: it cannot be known when they are free
            self.close(linger)
            return
        listeners = 0
        for endpoint in endpoints:
            if endpoint.startswith("inproc:"):
                self.socket.unbind(endpoint)  # frees the name, and leaves the peers alone
            else:
                listeners += 1
        self.close(linger)
        until = monotonic() + self.patience
        try:
            while listeners and monotonic() < until:
                try:
                    _receive(monitor, _DONTWAIT)
                    _receive(monitor, _DONTWAIT)
                    listeners -= 1
                except zmq.ZMQError:
                    gevent.sleep(0.0005)
        finally:
            monitor.close(0)

    def close(self, linger: float = 0) -> None:
        """Close the socket; what is unsent has `linger` seconds, in the background."""
        if self.closed:
            return
        self.closed = True
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._owner.forget(self)
        self._stop_monitor()
        self.socket.close(int(linger * 1000))

    def abandon(self) -> None:
        """In the child of a fork: the socket is the parent's.  Any use of it would never return."""
        self.closed = True
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        _inherited.append((self.socket, self._monitor))
        self._monitor = None
        del self.socket

    def _stop_monitor(self) -> None:
        """Before the socket that reads it is closed: nothing is told any more."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            try:
                self.socket.disable_monitor()
            except zmq.ZMQError:
                pass
            monitor.close(0)


def _monitor(socket: zmq.green.Socket[bytes], events: int) -> zmq.green.Socket[bytes]:
    """A socket that receives what happens to the connections of `socket`."""
    name = f"inproc://gmdp-monitor-{os.getpid()}-{next(_monitor_names)}"
    monitor: zmq.green.Socket[bytes] = socket.context.socket(zmq.PAIR)
    _stop_green_watcher(monitor)
    # An undrained monitor stops all traffic once it is full: no bound here.
    monitor.set(zmq.RCVHWM, 0)
    monitor.set(zmq.LINGER, 0)
    try:
        socket.monitor(name, events)
        monitor.connect(name)
    except zmq.ZMQError:
        socket.disable_monitor()  # it would wait for a reader
        monitor.close(0)
        raise
    return monitor


def _stop_green_watcher(socket: zmq.green.Socket[bytes]) -> None:
    """zmq.green watches each socket for its own blocking calls, which no owner
    uses: without this, every message would wake two watchers."""
    watcher = getattr(socket, "_state_event", None)
    if watcher is not None:
        watcher.stop()
