"""The sockets of clients and workers: each connection of a core is one DEALER socket.

The rules of this module:

* A socket never reconnects: messages queued for one broker must not reach the next.
* libzmq is given addresses only: names are looked up before (:mod:`~.resolving`).
* A message that finds no room waits in its connection's :class:`SendQueue`, in order.
* A socket is closed when the core says so, after its unsent messages if the core asks for that.
* Three things are logged once each: a broker speaks the RFC only; no broker can be reached; none says anything.
"""

from __future__ import annotations

import abc
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

import zmq

from ..core.numbers import MAX_FRAMES_READ
from ..core.peer.connector import Close, Connection, Connector, Open, Phase, Send
from ..core.peer.reasons import CloseReason
from ..security.credentials import Credentials
from . import logs
from .contexts import Context, SocketError, error_text, find_shortage, open_socket
from .link import Link
from .owner import Owner
from .resolving import Answer, look_up, split_name
from .slots import Slot

_log = logs.QueuedLogger("gmdp.connections")

#: Milliseconds after which libzmq would reconnect by itself: a socket is closed long before that.
NEVER = 24 * 3600 * 1000

#: What a repr shows for :attr:`~gmdp.core.peer.connector.Connector.speaks_extension`.
EXTENSION_LABELS = {None: "unprobed", True: "extended", False: "strict"}


def open_dealer(
    owner: Owner,
    context: Context | None,
    endpoint: str,
    connection: Connection | None,
    zmtp_heartbeat: tuple[float, float] | None,
    credentials: Credentials | None,
) -> Link:
    """Open a DEALER socket and begin to connect it.

    Args:
        owner: the owner of the new socket.
        context: the context to make the socket in; None: the one that the process shares.
        endpoint: where to connect.
        connection: the connection whose socket this will be.
        zmtp_heartbeat: seconds between ZMTP heartbeats, and seconds without an answer that end the
            connection; None: no ZMTP heartbeats.
        credentials: the keys or the password to show; None: none.

    Raises:
        SocketError: no descriptors are left, the context has too many sockets, or libzmq does not
            take the endpoint.
    """
    socket = open_socket(context, zmq.DEALER)
    link = owner.add_link(socket, MAX_FRAMES_READ, connection)
    try:
        socket.set(zmq.LINGER, 0)
        # Neither RECONNECT_IVL -1 nor IMMEDIATE: with either, libzmq drops the messages
        # that arrived and were not yet read when the connection ends.
        socket.set(zmq.RECONNECT_IVL, NEVER)
        link.set_heartbeat(zmtp_heartbeat)
        if "[" in endpoint:
            socket.set(zmq.IPV6, 1)
        if credentials is not None:
            credentials.apply(socket)
        if endpoint.startswith("inproc:"):
            # The bound of an inproc connection is the sum of both ends' bounds.  Without a
            # bound, EVENTS says whether there is a peer.
            socket.set(zmq.SNDHWM, 0)
        link.connect(endpoint, sends_ahead=credentials is None)
    except SocketError:
        link.close()
        raise
    return link


class SendQueue:
    """A connection's link, and the messages for which it had no room."""

    __slots__ = ("closing", "link", "unsent", "waiters")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.unsent: deque[list[bytes]] = deque()
        #: Slots that are set: to True once every message is sent, to False once the queue is closed.
        self.waiters: list[Slot] = []
        #: True if the socket will be closed as soon as every message is sent.
        self.closing = False

    def send_unsent(self) -> bool:
        """Send as many messages as there is room for.  Returns True if none is left."""
        while self.unsent:
            if self.link.send(self.unsent[0]) is not None:
                return False  # no room, or no peer any more: the monitor will report which
            self.unsent.popleft()
        while self.waiters:
            self.waiters.pop().set(True)
        return True

    def drop_unsent(self) -> None:
        """Drop the messages that are unsent: the socket is about to be closed."""
        self.closing = False
        self.unsent.clear()
        while self.waiters:
            self.waiters.pop().set(False)


K = TypeVar("K", bound=Connector[Any, Any])


class ConnectorEngine(abc.ABC, Generic[K]):
    """Drives a core that has connections: opens, feeds and closes their sockets.  For its owner only.

    Args:
        core: a client's or worker's core.
        context: the context to make sockets in; None: the one that the process shares.
        zmtp_heartbeat: seconds between ZMTP heartbeats, and seconds without an answer that end a
            connection; None: no ZMTP heartbeats.
        credentials: the keys or the password to show; None: none.
    """

    #: Seconds that the last messages of a socket have: in the background, unless `linger_until` is set.
    linger = 1.0
    #: While the owner waits until the last messages have arrived: when that ends (monotonic seconds).
    linger_until: float | None = None

    owner: Owner

    def __init__(
        self,
        core: K,
        context: Context | None,
        zmtp_heartbeat: tuple[float, float] | None,
        credentials: Credentials | None,
    ) -> None:
        self.core = core
        self._context = context
        self._zmtp_heartbeat = zmtp_heartbeat
        self._credentials = credentials
        #: Queues with unsent messages.
        self._unsent_queues: dict[SendQueue, None] = {}
        #: For each host that is being looked up: what cancels that, and the connections that need it, with ports.
        self._lookups: dict[str, tuple[Callable[[], None], dict[Connection, str]]] = {}
        self._logged_strict = False
        self._logged_unreachable = False
        self._logged_silent = False

    # What the owner calls

    def on_message(self, link: Link, frames: list[bytes], now: float) -> None:
        """One whole message was received."""
        self.core.feed(link.connection, frames, now, random.random())

    def on_transport_connected(self, link: Link, now: float) -> None:
        """A connection's handshake may go on: its probe is sent ahead."""
        connection = link.connection
        assert connection is not None  # each link of this engine has a connection
        link.awaits_room = self.core.on_transport_connected(connection, now)
        if connection.phase is not Phase.CONNECTING:
            link.widen()

    def on_connected(self, link: Link, now: float) -> None:
        """A connection is established."""
        self.core.on_connected(link.connection, now, link.handshake_reported)

    def on_disconnected(self, link: Link, reason: CloseReason, now: float) -> None:
        """A connection is gone, or could not be made."""
        connection = link.connection
        assert connection is not None  # each link of this engine has a connection
        if connection.handle.closing:
            self._close(connection)
        shortage = find_shortage() if reason is CloseReason.NOT_MADE else ""
        self.core.on_disconnected(connection, reason, now, random.random(), shortage)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.core.tick(now, random.random())

    def perform_actions(self, now: float) -> None:
        """Carry out what the core decided, until it has decided nothing more."""
        for unsent_queue in list(self._unsent_queues):
            self._send_unsent(unsent_queue)
        core = self.core
        while core.actions or core.events:
            actions, events = core.take()
            try:
                for action in actions:
                    if type(action) is Send:
                        connection, frames = action
                        queue: SendQueue = connection.handle
                        if queue.unsent or queue.link.send(frames) is not None:
                            queue.unsent.append(frames)
                            self._unsent_queues[queue] = None
                    elif type(action) is Open:
                        self._open(action.connection, now)
                    elif type(action) is Close:
                        self._log_unreachable()
                        self._log_silent()
                        last_queue: SendQueue | None = action.connection.handle
                        if last_queue is None:
                            continue  # its socket could not even be opened
                        if action.after_sending and last_queue.unsent:
                            last_queue.closing = True
                        else:
                            self._close(action.connection)
                            self._on_socket_closed(action)
            except BaseException:
                self._on_actions_failed(events)
                raise
            if events:
                self._on_events(events, now)
        if not self._logged_strict and core.speaks_extension is False:
            self._logged_strict = True
            _log.info("%s: %s speaks the RFC's protocol only, without gmdp's extension", self.owner.name, core.endpoint)

    def close_unsent_queues(self) -> None:
        """Close every socket that is kept open for its unsent messages."""
        for queue in list(self._unsent_queues):
            self._close_queue(queue)
        self._unsent_queues.clear()

    def cancel_lookups(self) -> None:
        """Wait for no answer to a name any more."""
        for cancel, _ in self._lookups.values():
            cancel()
        self._lookups.clear()

    # For subclasses

    @abc.abstractmethod
    def _on_events(self, events: list[Any], now: float) -> None:
        """Pass on to callers or handlers what the core decided for them."""

    def _on_actions_failed(self, events: list[Any]) -> None:
        """A bug, or an interrupt, ends the owner before `events` were passed on."""

    def _on_socket_closed(self, action: Close) -> None:
        """The socket of `action` was closed at once, without waiting for unsent messages."""

    # Sockets

    def _log_unreachable(self) -> None:
        """Log that no broker can be reached, once until one is reached again."""
        logged, self._logged_unreachable = self._logged_unreachable, bool(self.core.unreachable)
        if self._logged_unreachable and not logged:
            _log.warning("%s: no broker can be reached (%s); still trying", self.owner.name, self.core.unreachable)

    def _log_silent(self) -> None:
        """Log that a broker takes connections and says nothing, once until one speaks."""
        logged, self._logged_silent = self._logged_silent, bool(self.core.silent)
        if self._logged_silent and not logged:
            _log.warning("%s: %s", self.owner.name, self.core.silent)

    def _send_unsent(self, queue: SendQueue) -> None:
        if not queue.send_unsent():
            self._unsent_queues[queue] = None
            return
        self._unsent_queues.pop(queue, None)
        if queue.closing:
            self._close_queue(queue)

    def _close(self, connection: Connection) -> None:
        queue: SendQueue = connection.handle
        self._unsent_queues.pop(queue, None)
        self._close_queue(queue)

    def _close_queue(self, queue: SendQueue) -> None:
        """Close the socket of a queue, and drop the messages that are unsent."""
        queue.drop_unsent()
        link = queue.link
        if self.linger_until is None or link.inproc:  # on inproc the messages are in the peer's hands at once
            link.close(self.linger)
        else:
            self.owner.linger(link, self.linger_until - monotonic(), self.linger_until)

    def _look_up(self, connection: Connection, host: str, port: str, now: float) -> None:
        """Begin to look up the addresses of a connection's host; returns at once."""
        self.core.on_lookup(connection, now)
        found = self._lookups.get(host)
        if found is None:
            cancel = look_up(host, partial(self.owner.post, self._on_looked_up, host))
            self._lookups[host] = cancel, {connection: port}
            return
        # A name server may never answer.  Each endpoint keeps one closed connection at most.
        waiting = found[1]
        for other in [other for other in waiting if other.phase is Phase.CLOSED]:
            if other.endpoint == connection.endpoint:
                del waiting[other]
        waiting[connection] = port

    def _on_looked_up(self, host: str, answer: Answer) -> None:
        """A host was looked up.  The answer is kept even if its connections are closed by now."""
        _, waiting = self._lookups.pop(host, (None, {}))
        for connection, port in waiting.items():
            detail = f"{host}: {answer.error}"
            self.core.on_looked_up(connection, answer.endpoints(port), detail, monotonic(), random.random())

    def _open(self, connection: Connection, now: float) -> None:
        name = None if connection.address else split_name(connection.endpoint)
        if name is not None:
            self._look_up(connection, *name, now)
            return
        try:
            link = open_dealer(
                self.owner,
                self._context,
                connection.address or connection.endpoint,
                connection,
                self._zmtp_heartbeat,
                self._credentials,
            )
        except SocketError as error:
            reason, detail = CloseReason.NO_SOCKET, error_text(error)
            self.core.on_disconnected(connection, reason, now, random.random(), detail)
            return
        connection.handle = SendQueue(link)
        if link.inproc:
            self.core.on_connected(connection, now)
