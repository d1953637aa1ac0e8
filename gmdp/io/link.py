"""A ZeroMQ socket as its owner uses it: its messages, its watchers, and what becomes of its connections.

The rules of this module:

* A link belongs to one owner, which alone uses it.
* A link knows no owner.  It adds itself to the owner's sets, and calls ``wake`` and ``on_closed``.
* In the child of a fork a link is abandoned: its socket is kept, and never used or closed.
* A connection is established when its handshake is reported.  A peer of ZMTP 2.0 makes no such report.
  Therefore a link without credentials has room for one message at first, which is sent as soon as the
  transport is connected.  ZeroMQ takes that message once the handshake is over: room for another
  message shows that the connection is established.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import zmq
import zmq.green

from ..core.peer.reasons import CloseReason
from ..validation import MAX_INT
from .census import PeerCensus
from .contexts import require_descriptors
from .frames import POLLIN, POLLOUT, MessageSocket, get_option, stop_green_watcher
from .ipc import TemporaryEndpoint, refusal
from .lingering import MAX_LINGER, Lingering, copy_connections
from .monitor import ConnectionMonitor, Monitor, PeerMonitor

if TYPE_CHECKING:
    from ..core.peer.connector import Connection

#: Descriptors that ZeroMQ takes to bind an endpoint.
_DESCRIPTORS_TO_BIND = 4

#: Sockets of a parent process, kept so that the garbage collector does not close them here.
_inherited: list[Any] = []

#: Messages for which a connecting socket has room once its connection is established: libzmq's default.
_ROOM = 1000


def milliseconds(seconds: float) -> int:
    """Return `seconds` as a socket option takes them: at least 1 ms, at most the largest number that fits."""
    return min(max(1, math.ceil(seconds * 1000)), MAX_INT)


class Link(MessageSocket):
    """One ZeroMQ socket, its watchers and its monitor.  For one owner only.

    Args:
        socket: the socket, neither bound nor connected yet.
        max_frames: frames of a message that are received.
        connection: the connection whose socket this is, where a core has connections.
        loop: the loop of the owner's hub.
        ready: the owner's set of links that may have something to read.
        used: the owner's set of links that were used.
        wake: ends the owner's wait.
        on_closed: called with the link when it is closed.
    """

    #: Seconds that ZeroMQ's thread may take for what usually takes it milliseconds: to report
    #: all about a lost connection.
    patience = 1.0

    __slots__ = (
        "_loop",
        "_monitor",
        "_narrow",
        "_on_closed",
        "_poll_at",
        "_ready",
        "_temporary",
        "_wake",
        "_watcher",
        "awaits_room",
        "closed",
        "connection",
        "inproc",
        "loss",
        "transport_connected",
    )

    def __init__(
        self,
        socket: zmq.green.Socket[bytes],
        max_frames: int,
        connection: Connection | None = None,
        *,
        loop: Any,
        ready: set[Link],
        used: set[Link],
        wake: Callable[[], None],
        on_closed: Callable[[Link], None],
    ) -> None:
        super().__init__(socket, max_frames, used)
        self.connection = connection
        self.closed = False
        self.inproc = False
        #: True if a connecting link may get its first message: the owner takes note and resets it.
        self.transport_connected = False
        #: True if room in the socket shows that the connection is established.
        self.awaits_room = False
        #: True while the socket has room for one message.
        self._narrow = False
        #: Why the connection ended, once it has.
        self.loss: CloseReason | None = None
        self._ready = ready
        self._wake = wake
        self._on_closed = on_closed
        self._monitor: Monitor | None = None
        #: When to read the monitor even if its descriptor has not become readable.
        self._poll_at = 0.0
        #: The sockets that ``ipc://*`` stands for: removed when the link is closed.
        self._temporary: list[TemporaryEndpoint] = []
        stop_green_watcher(socket)
        self._loop = loop
        self._watcher = loop.io(get_option(socket, zmq.FD), 1)
        self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        self._ready.add(self)
        self._wake()

    def _on_report(self) -> None:
        self._poll_at = 0.0
        self._on_readable()

    def set_heartbeat(self, times: tuple[float, float] | None) -> None:
        """Have ZeroMQ ask the processes at the other ends whether they are alive; for later connections.

        `times`: seconds between the questions, and seconds without an answer that end a connection; None: ZeroMQ
        does not ask.
        """
        if times is not None:
            self.socket.set(zmq.HEARTBEAT_IVL, milliseconds(times[0]))
            self.socket.set(zmq.HEARTBEAT_TIMEOUT, milliseconds(times[1]))

    # To be bound

    def watch_peers(self, census: PeerCensus) -> None:
        """Before the socket is bound: tell `census` of every connection.  ZMQError if that is impossible."""
        self._monitor = PeerMonitor(self.socket, census, self._on_report)

    def listen(self, endpoint: str) -> str:
        """Bind to `endpoint`; returns it with wildcards resolved.  ZMQError if that is impossible."""
        require_descriptors(_DESCRIPTORS_TO_BIND)  # libzmq ends the process if it cannot list the interfaces
        if endpoint == "ipc://*":
            try:
                self._temporary.append(TemporaryEndpoint())
            except OSError as error:
                raise zmq.ZMQError(error.errno) from None
            endpoint = self._temporary[-1].endpoint
        number = refusal(endpoint) if endpoint.startswith("ipc:") else 0
        if number:
            raise zmq.ZMQError(number)
        # For IPv6 addresses alone: with the option, * is an IPv6 address, and an IPv4 address a mapped one.
        self.socket.set(zmq.IPV6, "[" in endpoint)
        self.socket.bind(endpoint)
        resolved: Any = self.socket.get(zmq.LAST_ENDPOINT)
        return str(resolved.rstrip(b"\0").decode())

    def stop_listening(self, endpoint: str) -> None:
        """Give up an endpoint that :meth:`listen` returned."""
        self.socket.unbind(endpoint)

    def poll_peers(self, now: float) -> None:
        """Tell the census what happened to the peers of a bound socket."""
        monitor = self._monitor
        if isinstance(monitor, PeerMonitor):
            monitor.poll(now)
            self.checks_descriptors = self.has_users or monitor.census.unreported > 0

    def poll_new_peers(self, now: float) -> None:
        """Before a message counts: tell the census of the peer that may have sent it."""
        if self._monitor is not None and self._monitor.has_reports():
            self.poll_peers(now)

    # To connect

    def connect(self, endpoint: str, sends_ahead: bool = False) -> None:
        """Connect to `endpoint`; :meth:`poll_connection` says how that goes.  ZMQError if it is impossible.

        `sends_ahead`: True if the first message may be sent once the transport is connected.  (With credentials
        that is of no use: no peer of ZMTP 2.0 knows any.)
        """
        self.inproc = endpoint.startswith("inproc:")
        if not self.inproc:
            if sends_ahead:
                self._narrow = True
                self.socket.set(zmq.SNDHWM, 1)
            self._monitor = ConnectionMonitor(self.socket, self.patience, self._on_report)
        self.socket.connect(endpoint)

    def has_news(self) -> bool:
        """Return whether a message or a report can be read, or the peer on inproc has gone."""
        if self._monitor is not None and self._monitor.has_reports():
            self._poll_at = 0.0
            return True
        events = self.events()
        return bool(events & POLLIN or (self.inproc and not events & POLLOUT))

    def poll_connection(self, now: float) -> tuple[bool, bool]:
        """Return what became of the connection since the last call: (it was established, it is gone).

        For a bound socket neither is ever true: its peers are counted in its census.
        """
        if now < self._poll_at and not self._narrow:  # nothing was reported, and it is not yet time to make sure
            return False, False
        self._poll_at = now + self.patience
        if self._is_router:
            self.poll_peers(now)
            return False, False
        established = gone = False
        if isinstance(self._monitor, ConnectionMonitor):
            established, gone = self._monitor.poll(now)
            if self._narrow:
                established, gone = self._poll_room(self._monitor, established, gone, now)
            self.loss = self._monitor.loss
            if self.loss is not None and not gone:
                self._poll_at = 0.0
        if self.inproc:
            # It has no bound and no monitor: without room to send there is no peer.
            self._poll_at = 0.0
            if not self.events() & POLLOUT:
                gone, self.loss = True, CloseReason.ENDPOINT_CLOSED
        return established, gone

    def _poll_room(self, monitor: ConnectionMonitor, handshake: bool, gone: bool, now: float) -> tuple[bool, bool]:
        """Return what became of a connection without credentials: (it was established, it is gone)."""
        if handshake:
            self.awaits_room = True
        elif monitor.transport_connected and not self.awaits_room:
            self.transport_connected = True
        monitor.transport_connected = False
        if not self.awaits_room or not self.events() & POLLOUT:
            return False, gone
        # The handshake may have been reported meanwhile.
        gone = gone or monitor.poll(now)[1]
        self.widen()
        return True, gone

    def widen(self) -> None:
        """Make room for many messages: the connection is established, and the socket has room."""
        if self._narrow:
            self._narrow = False
            # Before it has room, libzmq would not notice that there is more.
            self.socket.set(zmq.SNDHWM, _ROOM)
            if isinstance(self._monitor, ConnectionMonitor):
                self._monitor.established = True

    @property
    def handshake_reported(self) -> bool:
        """False if the peer makes no report of its handshake: it speaks ZMTP 2.0."""
        return not isinstance(self._monitor, ConnectionMonitor) or self._monitor.handshake_reported

    # Closing

    def linger(self, linger: float, until: float, listeners: int = 0, messages: bool = True) -> Lingering | None:
        """Close the socket, and return what says when its last messages have arrived and its endpoints are free.

        None if the socket was closed before, nothing is to be waited for, or no descriptors are left: then ZeroMQ
        sends the last messages in the background.

        Args:
            linger: seconds that ZeroMQ has for the last messages.
            until: when to wait no longer (monotonic seconds).
            listeners: how many endpoints must be free before the wait ends.
            messages: False if the last messages are not waited for.
        """
        if self.closed:
            return None
        if not messages and not listeners:
            self.close(linger)
            return None
        connections: list[socket.socket] | None = None
        if messages:
            monitor = self._monitor
            connections = copy_connections(monitor.descriptors(), monitor.read_ended) if monitor is not None else []
        if self._narrow:
            linger = 0.0  # a connection that was never established does not wait for messages sent ahead
        connects = isinstance(self._monitor, ConnectionMonitor)
        self._end_use()
        loop, wake = self._loop, self._wake
        try:
            return Lingering(
                self.socket, connections, listeners, linger, until, connects=connects, loop=loop, wake=wake
            )
        except zmq.ZMQError:
            self.socket.close(int(min(linger, MAX_LINGER) * 1000))
            return None
        finally:
            self._remove_temporary()

    def unbind_inproc(self, endpoints: Sequence[str]) -> int:
        """Free those of the `endpoints` that are names in this process.  Returns how many others there are.

        Its peers are left alone.  ZeroMQ frees the other endpoints, in its own thread, when the socket is closed.
        """
        others = 0
        for endpoint in endpoints:
            if endpoint.startswith("inproc:"):
                self.socket.unbind(endpoint)
            else:
                others += 1
        return others

    def close(self, linger: float = 0) -> None:
        """Close the socket; ZeroMQ has `linger` seconds for unsent messages, in the background."""
        if self.closed:
            return
        self._end_use()
        # A connection that was never established does not wait for messages sent ahead.
        self.socket.close(0 if self._narrow else int(linger * 1000))
        self._remove_temporary()

    def _end_use(self) -> None:
        """End everything but the socket itself, which is about to be closed."""
        self.closed = True
        self._stop_watcher()
        self._on_closed(self)
        self._stop_monitor()

    def _remove_temporary(self) -> None:
        """Remove the directories of temporary endpoints: the socket is closed."""
        for temporary in self._temporary:
            temporary.remove()

    def abandon(self) -> None:
        """In the child of a fork: let go of the parent's socket.  Any use of it would never return."""
        self.closed = True
        self._stop_watcher()
        _inherited.append(self.socket)
        if self._monitor is not None:
            self._monitor.abandon()
            self._monitor = None
        del self.socket

    def _stop_watcher(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _stop_monitor(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()
