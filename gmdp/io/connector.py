"""What worker and client sockets have in common."""

from __future__ import annotations

import abc
import logging
import random
from collections import deque
from typing import Any, Generic, TypeVar

import zmq
import zmq.green

from ..core.peer.connector import Close, Connection, Connector, Open, Send
from ..security.credentials import Credentials
from ..validation import MAX_FRAMES
from .link import Link, milliseconds
from .owner import Owner
from .slots import Slot

_log = logging.getLogger("gmdp.connections")

#: Milliseconds before libzmq would reconnect by itself: a socket is long closed then.
NEVER = 24 * 3600 * 1000


def open_dealer(
    owner: Owner,
    context: zmq.green.Context[Any],
    endpoint: str,
    tag: Any,
    heartbeat: float,
    expiry: float,
    credentials: Credentials | None,
) -> Link:
    """A new DEALER socket being connected to `endpoint`.

    It does not reconnect (whoever owns it closes it first): what was queued for one broker must not reach the
    next.  `heartbeat`: seconds between ZMTP heartbeats; `expiry`: seconds without
    an answer to one that end the connection.  ZMQError if there are no descriptors left.
    """
    socket = context.socket(zmq.DEALER)
    link = owner.add_link(socket, MAX_FRAMES, tag)
    try:
        socket.set(zmq.LINGER, 0)
        # Neither RECONNECT_IVL -1 nor IMMEDIATE: with either, libzmq throws away
        # what arrived and was not yet read when the connection ends.
        socket.set(zmq.RECONNECT_IVL, NEVER)
        socket.set(zmq.HEARTBEAT_IVL, milliseconds(heartbeat))
        socket.set(zmq.HEARTBEAT_TIMEOUT, milliseconds(expiry))
        if "[" in endpoint:
            socket.set(zmq.IPV6, 1)
        if credentials is not None:
            credentials.apply(socket)
        if endpoint.startswith("inproc:"):
            # Its bound is the sum of both ends'; without one, EVENTS tells
            # whether there is a peer.
            socket.set(zmq.SNDHWM, 0)
        link.connect(endpoint)
    except zmq.ZMQError:
        link.close()
        raise
    return link


class SendQueue:
    """A connection's socket, and what it had no room for."""

    __slots__ = ("closing", "link", "stuck", "waiters")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.stuck: deque[list[bytes]] = deque()
        #: Told True once nothing is stuck any more, False if that will not be.
        self.waiters: list[Slot] = []
        #: True while the socket is to be closed as soon as nothing is stuck.
        self.closing = False

    def send_stuck(self) -> bool:
        """Send what there is room for; True if nothing is stuck any more."""
        while self.stuck:
            if self.link.send(self.stuck[0]) is not None:
                return False  # no room, or no peer any more: the socket will tell which
            self.stuck.popleft()
        while self.waiters:
            self.waiters.pop().set(True)
        return True

    def close(self, linger: float) -> None:
        """Close the socket."""
        self.closing = False
        self.stuck.clear()
        while self.waiters:
            self.waiters.pop().set(False)
        self.link.close(linger)


K = TypeVar("K", bound=Connector[Any, Any])


class ConnectorEngine(abc.ABC, Generic[K]):
    """Between a core that has connections and their sockets."""

    #: Seconds the last messages have to leave, in the background.
    linger = 1.0

    owner: Owner

    def __init__(
        self,
        core: K,
        context: zmq.green.Context[Any],
        heartbeat: float,
        expiry: float,
        credentials: Credentials | None,
    ) -> None:
        self.core = core
        self._context = context
        self._heartbeat = heartbeat
        self._expiry = expiry
        self._credentials = credentials
        #: Lines on which something is stuck.
        self._stuck: dict[SendQueue, None] = {}
        self._told_strict = False
        self._told_unreachable = False

    # What the owner calls

    def on_message(self, link: Link, frames: list[bytes], now: float) -> None:
        """One whole message was read."""
        self.core.feed(link.connection, frames, now, random.random())

    def on_connected(self, link: Link, now: float) -> None:
        """A connection stands."""
        self.core.connected(link.connection, now)

    def on_disconnected(self, link: Link, reason: str, now: float) -> None:
        """A connection is gone, or could not be made."""
        connection = link.connection
        assert connection is not None  # every link here was made for one
        if connection.handle.closing:
            self._close(connection)
        self.core.disconnected(connection, reason, now, random.random())

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.core.tick(now, random.random())

    def perform_actions(self, now: float) -> None:
        """Carry out what was decided."""
        for line in list(self._stuck):
            self._unstick(line)
        core = self.core
        while core.actions or core.events:
            actions, events = core.take()
            for action in actions:
                if type(action) is Send:
                    connection, frames = action
                    line = connection.handle
                    if line.stuck or line.link.send(frames) is not None:
                        line.stuck.append(frames)
                        self._stuck[line] = None
                elif type(action) is Open:
                    self._connect(action.connection, now)
                elif type(action) is Close:
                    self._log_unreachable()
                    line = action.connection.handle
                    if line is None:
                        continue  # it could not even be opened
                    if action.after_sending and line.stuck:
                        line.closing = True
                    else:
                        self._close(action.connection)
                        self._closed(action)
            if events:
                self._on_events(events, now)
        if not self._told_strict and core.speaks_extension is False:
            self._told_strict = True
            _log.info("%s: %s speaks the RFC's protocol only, without gmdp's extension", self.owner.name, core.endpoint)

    def close_stuck(self) -> None:
        """Close every socket that is kept open for what is stuck on it."""
        for line in list(self._stuck):
            line.close(self.linger)
        self._stuck.clear()

    # For subclasses

    @abc.abstractmethod
    def _on_events(self, events: list[Any], now: float) -> None:
        """Pass on to callers or handlers what the core decided for them."""

    def _log_unreachable(self) -> None:
        """Where no broker can be reached, say so once for as long as that lasts."""
        told, self._told_unreachable = self._told_unreachable, bool(self.core.unreachable)
        if self._told_unreachable and not told:
            _log.warning("%s: no broker can be reached (%s); trying on", self.owner.name, self.core.unreachable)

    def _closed(self, action: Close) -> None:
        """A socket was closed."""

    def _unstick(self, line: SendQueue) -> None:
        if not line.send_stuck():
            self._stuck[line] = None
            return
        self._stuck.pop(line, None)
        if line.closing:
            line.close(self.linger)

    def _close(self, connection: Connection) -> None:
        line: SendQueue = connection.handle
        self._stuck.pop(line, None)
        line.close(self.linger)

    def _connect(self, connection: Connection, now: float) -> None:
        try:
            link = open_dealer(
                self.owner,
                self._context,
                connection.endpoint,
                connection,
                self._heartbeat,
                self._expiry,
                self._credentials,
            )
        except zmq.ZMQError as error:
            self.core.disconnected(connection, error.strerror or str(error), now, random.random())
            return
        connection.handle = SendQueue(link)
        if link.inproc:
            self.core.connected(connection, now)


#: How a repr says whether a broker speaks gmdp's extension.
EXTENSION_LABELS = {None: "unprobed", True: "extended", False: "strict"}
