"""Closed sockets whose last messages are still on their way.

The rules of this module:

* ZeroMQ closes a socket in its own thread, and has the linger time to give what was not sent yet to the
  operating system.  The socket's monitor reports the end of that.
* A TCP connection that is closed with unread bytes, or that gets bytes later, is reset, and the peer
  loses what it has not read yet.  ZMTP heartbeats are such bytes.  A slow reader lost seven answers of
  eight to them.  So each connection is kept by a copy of its descriptor, beyond ZeroMQ's own.  It is shut down for
  sending only, what comes is thrown away, and it is closed once the peer has closed its own end.
* A peer that has got everything, as far as the operating system knows, and yet does not close its end within
  :data:`PATIENCE` is not waited for: it may be stopped.
* The monitor's reader stays until the last report has come, even if no waiter is left: with a reader that is gone,
  the thread that closes ZeroMQ's sockets would wait for ever to report, and with it all sockets of the context.
* ZeroMQ's linger time cannot be cut short once a connecting socket is closed, not even by the end of its connection;
  until then its context does not end.  A connecting socket with more than :data:`MAX_FINAL_LINGER` is kept open
  instead, until its peer's system has had everything for :data:`QUIET_TIME`, its connection has ended or nobody waits
  any longer.
* A descriptor may belong to another connection by the time it is copied.  ZeroMQ reports the end of a connection
  before it frees the descriptor.  So the reports are read once more after the copy was made.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from fcntl import ioctl
from termios import TIOCOUTQ
from time import monotonic
from typing import Any

import zmq

from .monitor import CONNECTION_ENDED, LISTENER_CLOSED, SOCKET_CLOSED, Monitor

#: Seconds that a peer may take to close its end once it has got everything, and that ZeroMQ may
#: take to free a bound endpoint.
PATIENCE = 1.0

#: The most seconds that ZeroMQ has for the last messages, however long a stop may take.
MAX_LINGER = 3600.0
#: Seconds that ZeroMQ has for the last messages of a connecting socket once it is closed, and that its context may
#: have to wait for it.
MAX_FINAL_LINGER = 10.0
#: Seconds for which nothing is on its way to a peer before nothing seems to be left to send.
QUIET_TIME = 0.05
#: Seconds between two looks at what is on its way.
_CHECK_INTERVAL = 0.02
#: Sockets of a parent process, kept so that the garbage collector does not close them here.
_inherited: list[Any] = []
#: Descriptors that are left to the rest of the process.
_SPARE_DESCRIPTORS = 64
#: Bytes that are thrown away at a time.
_CHUNK = 65_536
#: Chunks that are thrown away in one go; a peer that sends for ever must not stop the owner.
_CHUNKS = 16


def copy_connections(descriptors: Iterable[int], closed: Callable[[], Collection[int]]) -> list[socket.socket]:
    """Return a copy of each of ZeroMQ's connections, by its descriptor.

    Connections for which no descriptors are left have no copy.

    Args:
        descriptors: the descriptors of the connections.
        closed: called once the copies are made; returns the descriptors whose connections had ended before.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    copies: dict[int, socket.socket] = {}
    for descriptor in descriptors:
        try:
            copy = os.dup(descriptor)
        except OSError:
            continue  # closed, or none are left
        if limit != resource.RLIM_INFINITY and copy >= limit - _SPARE_DESCRIPTORS:
            os.close(copy)
            break
        try:
            copies[descriptor] = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)  # no socket any more
    for descriptor in closed():
        stale = copies.pop(descriptor, None)
        if stale is not None:
            stale.close()
    return list(copies.values())


class Lingering:
    """A socket that was closed, until its last messages have arrived.  For one owner only.

    Args:
        watched: ZeroMQ's socket, which this object closes.
        connections: copies of its connections (:func:`copy_connections`); None: its last messages are sent in
            the background, and only `listeners` are waited for.
        listeners: how many endpoints will be free once the socket is closed.
        linger: seconds that ZeroMQ has for the last messages.
        until: when to wait no longer (monotonic seconds).
        connects: True for a connecting socket, which has one connection.
        loop: the loop of the owner's hub.
        wake: ends the owner's wait.

    Raises:
        zmq.ZMQError: no descriptors are left; the socket is not closed.
    """

    def __init__(
        self,
        watched: Any,
        connections: list[socket.socket] | None,
        listeners: int,
        linger: float,
        until: float,
        *,
        connects: bool = False,
        loop: Any,
        wake: Callable[[], None],
    ) -> None:
        self._connections = connections or []
        self._waits_for_messages = connections is not None
        self._listeners = listeners
        self._until = until
        self._loop = loop
        self._wake = wake
        self._watchers: list[Any] = []
        #: The socket, while it is open.
        self._watched: Any = watched
        #: When nothing seems to be left to send, and when to look again at what is on its way.
        self._quiet_at = self._check_at = 0.0
        #: True once ZeroMQ has given everything to the operating system, and nothing more will be reported.
        self._sent = False
        #: When peers that have everything are not waited for any longer.
        self._patient_until = 0.0
        #: Connections whose peers had not got everything when ZeroMQ had sent everything.
        self._slow: set[socket.socket] = set()
        self.finished = False
        try:
            # For these events alone: unread reports would stop ZeroMQ's thread, which
            # carries all the messages of the context.
            events = LISTENER_CLOSED | SOCKET_CLOSED if self._waits_for_messages else LISTENER_CLOSED
            if connects:
                events |= CONNECTION_ENDED
            self._monitor = Monitor(watched, events, self._on_report)
        except zmq.ZMQError:
            self._close_connections()
            raise
        if connects and self._connections and linger > MAX_FINAL_LINGER:
            self._note_traffic(monotonic())
        else:
            self._close_watched(linger)

    def _close_watched(self, linger: float) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            watched.close(int(min(max(0.0, linger), MAX_LINGER) * 1000))

    def _note_traffic(self, now: float) -> None:
        self._quiet_at = now + QUIET_TIME
        self._check_at = now + _CHECK_INTERVAL

    def _check_traffic(self, now: float) -> None:
        """Close a socket that was kept open once nothing seems to be left to send."""
        self._check_at = now + _CHECK_INTERVAL
        if any(map(_count_unsent, self._connections)):
            self._note_traffic(now)
        elif now >= self._quiet_at:
            self._close_watched(min(self._until - now, MAX_FINAL_LINGER))

    @property
    def due_at(self) -> float:
        """When :meth:`poll` is needed at the latest (monotonic seconds)."""
        if self._watched is not None:
            return min(self._until, self._check_at)
        return min(self._until, self._patient_until) if self._sent and not self._slow else self._until

    def limit(self, until: float) -> None:
        """Wait until `until` at the latest."""
        self._until = min(self._until, until)

    def poll(self, now: float) -> bool:
        """Do what can be done now.  Returns True once nothing is left to wait for."""
        if not self.finished:
            if self._watched is not None and now >= self._check_at:
                self._check_traffic(now)
            if not self._sent and self._has_last_report():
                self._on_sent(now)
            if self._sent:
                self._read_connections(now)
            if now >= self._until:
                self.close()
            elif self._sent and not self._connections:
                self._finish()
        return self.finished

    def close(self) -> None:
        """Wait no longer, and have ZeroMQ drop what it has not sent yet.

        A connecting socket that is closed already has its linger time, :data:`MAX_FINAL_LINGER` at most.
        """
        if not self.finished:
            self._close_watched(0)
            if not self._sent:
                for connection in self._connections:
                    _shut_down(connection, socket.SHUT_RDWR)
            self._finish()

    def abandon(self) -> None:
        """In the child of a fork: let go of the parent's descriptors, and do nothing to its connections."""
        self._stop_watchers()
        self._close_connections()
        if self._watched is not None:
            _inherited.append(self._watched)
        if not self._sent:
            self._monitor.abandon()
        self.finished = True

    def _on_report(self) -> None:
        """In the hub: ZeroMQ has reported something."""
        if not self.finished:
            self._wake()
        elif self._has_last_report():
            self._monitor.close()

    def _has_last_report(self) -> bool:
        """Read the reports.  Returns True once ZeroMQ has sent everything, or freed the endpoints if that will do."""
        for event, _ in self._monitor.read():
            if event == SOCKET_CLOSED:
                return True
            if event == CONNECTION_ENDED:
                self._close_watched(0)  # nobody is left to send to: a connecting socket never reconnects
            else:
                self._listeners -= 1
        return not self._waits_for_messages and self._listeners <= 0

    def _on_sent(self, now: float) -> None:
        """ZeroMQ has reported everything."""
        self._sent = True
        self._patient_until = now + PATIENCE
        self._monitor.close()
        for connection in self._connections:
            if _count_unsent(connection):
                self._slow.add(connection)
            _shut_down(connection, socket.SHUT_WR)
            self._watch(connection.fileno())

    def _read_connections(self, now: float) -> None:
        """Throw away what came, and close the connections that their peers have closed."""
        impatient = now >= self._patient_until
        for connection in self._connections[:]:
            if _has_ended(connection) or (impatient and connection not in self._slow):
                # A watcher of a closed descriptor would make the loop spin: all are made anew.
                self._stop_watchers()
                self._connections.remove(connection)
                self._slow.discard(connection)
                connection.close()
        if not self._watchers:
            for connection in self._connections:
                self._watch(connection.fileno())

    def _watch(self, descriptor: int) -> None:
        watcher = self._loop.io(descriptor, 1)
        watcher.start(self._wake)
        self._watchers.append(watcher)

    def _stop_watchers(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._slow.clear()

    def _finish(self) -> None:
        self.finished = True
        self._stop_watchers()
        if not self._sent:
            self._on_report()  # the monitor is closed by the last report, whenever that comes
        self._close_connections()


def _shut_down(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        pass  # it has ended


def _count_unsent(connection: socket.socket) -> int:
    """Return how many bytes the peer's system has not got; 0 if this system cannot tell."""
    try:
        count: int = struct.unpack("i", ioctl(connection, TIOCOUTQ, bytes(4)))[0]
    except OSError:
        return 0
    return count


def _has_ended(connection: socket.socket) -> bool:
    """Throw away what came.  Returns True if the peer has closed its end."""
    for _ in range(_CHUNKS):
        try:
            if not connection.recv(_CHUNK, socket.MSG_DONTWAIT):
                return True
        except BlockingIOError:
            return False
        except OSError:
            return True
    return False
