"""What ZeroMQ's monitors report of a socket's connections.

The rules of this module:

* All monitors report to one socket (:mod:`~.reports`).
* A monitor is disabled before the socket that reads it is closed.
* A connecting socket has one connection at most.  Its end may be reported before the last
  message can be read.  When a further attempt is reported as planned, everything can be read.
* A peer of ZMTP 2.0 (libzmq 3, jeromq 0.3) makes no report of its handshake.  The end of its connection
  is reported as a handshake that failed.
"""

from __future__ import annotations

import errno
import functools
import operator
from collections.abc import Callable
from time import monotonic

import zmq
import zmq.green

from ..core.peer.reasons import CloseReason
from .census import PeerCensus
from .contexts import explained
from .reports import Reports

_HANDSHAKE_SUCCEEDED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)

# A connecting socket's events
_CONNECTED = int(zmq.EVENT_CONNECTED)
#: The connection has ended; more messages may still be read from it.
CONNECTION_ENDED = _DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_RETRY_PLANNED = int(zmq.EVENT_CONNECT_RETRIED)
_HUNG_UP = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
#: Events after which the connection is gone, but may still have messages to be read.
_ENDED = {
    _DISCONNECTED: CloseReason.CONNECTION_CLOSED,
    int(zmq.EVENT_CLOSED): CloseReason.CONNECTION_REFUSED,
}
#: Events after which the connection was never established.
_NEVER_ESTABLISHED = {
    _HUNG_UP: CloseReason.CLOSED_IN_HANDSHAKE,
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): CloseReason.MISMATCH,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): CloseReason.NOT_ALLOWED,
}
_CONNECTING_EVENTS = functools.reduce(
    operator.or_, [*_ENDED, *_NEVER_ESTABLISHED], _CONNECTED | _HANDSHAKE_SUCCEEDED | _RETRY_PLANNED
)

# A bound socket's events
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_FAILED_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_BOUND_EVENTS = _ACCEPTED | _DISCONNECTED | _HANDSHAKE_SUCCEEDED | _HUNG_UP | _FAILED_PROTOCOL

LISTENER_CLOSED = int(zmq.EVENT_CLOSED)
#: The socket's last report: everything was given to the operating system, or the linger time is over.
SOCKET_CLOSED = int(zmq.EVENT_MONITOR_STOPPED)


def _do_nothing() -> None:
    """Do nothing: the owner looks for the reports itself."""


class Monitor:
    """Receives the `events` of the connections of the socket `watched`.

    `on_report`: called in the hub when something was reported that is not yet read.  ZMQError if a limit
    does not allow another socket.
    """

    def __init__(
        self, watched: zmq.green.Socket[bytes], events: int, on_report: Callable[[], None] = _do_nothing
    ) -> None:
        self._watched = watched
        self._reports = Reports(watched.context, on_report)
        try:
            watched.monitor(self._reports.endpoint, events)
            self._reports.begin()
        except zmq.ZMQError as error:
            self.close()  # otherwise the monitor would wait for a reader
            raise explained(error) from None

    def read(self) -> list[tuple[int, int]]:
        """Return everything that was reported since the last call, as (event, value)."""
        return self._reports.take()

    def has_reports(self) -> bool:
        """Return whether there is something to be read."""
        return self._reports.waiting

    def descriptors(self) -> list[int]:
        """Return the descriptors of the connections that have not ended, as far as it is reported."""
        return []

    def read_ended(self) -> set[int]:
        """Return the descriptors of the connections that have ended since :meth:`descriptors`."""
        return set()

    def close(self) -> None:
        """End the reports, and close."""
        try:
            self._watched.disable_monitor()
        except zmq.ZMQError:
            pass
        self._reports.close()

    def abandon(self) -> None:
        """In the child of a fork: leave the parent's sockets alone."""
        self._reports.abandon()


class ConnectionMonitor(Monitor):
    """Watches the one connection of a connecting socket.

    `patience`: seconds that ZeroMQ's thread may take to report all about a lost connection.
    """

    def __init__(
        self, watched: zmq.green.Socket[bytes], patience: float, on_report: Callable[[], None] = _do_nothing
    ) -> None:
        super().__init__(watched, _CONNECTING_EVENTS, on_report)
        self._patience = patience
        #: True once the transport is connected: the handshake goes on, or is over.
        self.transport_connected = False
        #: True once the handshake was reported as successful.
        self.handshake_reported = False
        #: True once the connection is established, whether or not its handshake was reported.
        self.established = False
        #: Until when the connection counts as new.
        self._new_until = monotonic() + patience
        #: Why the connection ended, once it has; it may still have messages to be read.
        self.loss: CloseReason | None = None
        #: The descriptor of the connection; -1 before it is made.
        self.descriptor = -1
        self._lost_at = 0.0

    def poll(self, now: float) -> tuple[bool, bool]:
        """Return what became of the connection since the last call: (it was established, it is gone).

        It counts as gone once everything about it has been reported.
        """
        established = gone = False
        for event, value in self.read():
            if event == _CONNECTED:
                self.transport_connected = True
                self.descriptor = value
            elif event == _HANDSHAKE_SUCCEEDED:
                established = self.established = self.handshake_reported = True
            elif event == _HUNG_UP and self.established:
                event = _DISCONNECTED  # of a peer whose handshake was never reported
            gone = gone or event == _RETRY_PLANNED or event in _NEVER_ESTABLISHED
            if self.loss is None:
                self.loss = _ENDED.get(event) or _NEVER_ESTABLISHED.get(event)
                if event == _HUNG_UP and value == errno.EPIPE and now < self._new_until:
                    # The broker has read our handshake, and hung up at once.  A proxy without
                    # a broker behind it does not read; a broker that is full is slow.
                    self.loss = CloseReason.HUNG_UP
                self._lost_at = monotonic()
        if self.loss is not None and not gone:
            # Past this time no further attempt is planned, and none will be reported.
            gone = monotonic() > self._lost_at + self._patience
        return established, gone

    def descriptors(self) -> list[int]:
        """Return the descriptor of the connection, unless it is known to have ended."""
        self.poll(monotonic())
        return [self.descriptor] if self.descriptor >= 0 and self.loss is None else []

    def read_ended(self) -> set[int]:
        """Return the descriptor of the connection if it has ended since."""
        self.poll(monotonic())
        return set() if self.loss is None else {self.descriptor}


class PeerMonitor(Monitor):
    """Watches the connections of a bound socket for a census."""

    def __init__(
        self, watched: zmq.green.Socket[bytes], census: PeerCensus, on_report: Callable[[], None] = _do_nothing
    ) -> None:
        super().__init__(watched, _BOUND_EVENTS, on_report)
        self.census = census

    def poll(self, now: float) -> None:
        """Tell the census what was reported since the last call."""
        census = self.census
        census.age(now)
        for event, value in self.read():
            if event == _ACCEPTED:
                census.on_accepted(value, now)
            elif event == _DISCONNECTED:
                census.on_closed(value)
            elif event == _HANDSHAKE_SUCCEEDED:
                census.on_handshake(now)
            elif event == _HUNG_UP:
                census.on_broken_off()
            elif event == _FAILED_PROTOCOL:
                census.on_handshake_failed("protocol")

    def descriptors(self) -> list[int]:
        """Return the descriptors of the connections that are not known to have ended."""
        self.poll(monotonic())
        return list(self.census)

    def read_ended(self) -> set[int]:
        """Return the descriptors that have been freed since, even if another connection has got them."""
        return {value for event, value in self.read() if event in (_ACCEPTED, _DISCONNECTED)}
