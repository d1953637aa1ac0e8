"""Where ZeroMQ's monitors report: one socket for all monitors of a hub, in each context.

A monitor of ZeroMQ is a PAIR socket inside the library, with an ``inproc`` endpoint.  Its reader is usually one
more PAIR.  So a watched connection would cost three of a context's sockets, and four descriptors.  On ``inproc``
ZeroMQ lets any kind of socket connect.  Here a ROUTER connects to all monitors, under a routing id for each, and
a watched connection costs two sockets and three descriptors.

The rules of this module:

* The socket has no bound: a monitor whose reports are not taken stops all traffic of the socket it watches.
* It is read until it is empty, by the hub or by an owner of that hub.  Reading never switches greenlets.
* It is closed with the last monitor that reports to it.
* It is closed, too, once its context is being terminated: nothing can be read any more, and the context waits for it.
* In the child of a fork it is kept, and never used or closed.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import zmq

from . import forks
from .contexts import Context, SocketError, open_socket
from .frames import DONTWAIT, EVENTS, POLLIN, get_option, receive_frame, stop_green_watcher

_numbers = itertools.count(1)

#: Sockets of a parent process, kept so that the garbage collector does not close them here.
_inherited: list[Any] = []


class Reports:
    """The reports of one monitor: (event, value) pairs in :attr:`unread`.

    Args:
        context: the context of the watched socket.
        on_report: called in the hub when something was reported, unless :meth:`take` has taken it already.

    Raises:
        SocketError: the socket cannot be opened.
    """

    def __init__(self, context: Context, on_report: Callable[[], None]) -> None:
        number = next(_numbers)
        #: The inproc endpoint of the monitor.
        self.endpoint = f"inproc://gmdp-monitor-{os.getpid()}-{number}"
        self.key = b"%d" % number
        self.on_report = on_report
        self.unread: deque[tuple[int, int]] = deque()
        self._socket = _socket_for(context)

    def begin(self) -> None:
        """Connect to the monitor, which is bound.  SocketError if that is impossible."""
        self._socket.connect(self)

    def take(self) -> list[tuple[int, int]]:
        """Return everything that was reported since the last call."""
        self._socket.read()
        taken = list(self.unread)
        self.unread.clear()
        return taken

    @property
    def waiting(self) -> bool:
        """True if there may be something to take."""
        return bool(self.unread) or self._socket.waiting

    def close(self) -> None:
        """Take no more reports.  The monitor must have ended."""
        self._socket.remove(self)

    def abandon(self) -> None:
        """In the child of a fork: leave the parent's socket alone."""
        self._socket.abandon()


class _ReportSocket:
    """The socket to which all monitors of one hub and one context report."""

    def __init__(self, key: tuple[int, Any, Context]) -> None:
        self._key = key
        _, hub, context = key
        self._loop = hub.loop
        self._readers: dict[bytes, Reports] = {}
        #: Readers with reports that are not known to their owners yet.
        self._news: dict[Reports, None] = {}
        self._call_planned = False
        self._socket = open_socket(context, zmq.ROUTER)
        stop_green_watcher(self._socket)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, 0)
        self._watcher = self._loop.io(get_option(self._socket, zmq.FD), 1)
        self._watcher.start(self._on_readable)

    def connect(self, reader: Reports) -> None:
        self._readers[reader.key] = reader
        self._socket.set(zmq.CONNECT_ROUTING_ID, reader.key)
        self._socket.connect(reader.endpoint)
        # A call on the socket may have taken the edge of its descriptor: only an empty socket has another.
        self.read()

    @property
    def waiting(self) -> bool:
        """True if the socket has something to read: the caller reads it."""
        return bool(self._readers) and bool(int(get_option(self._socket, EVENTS)) & POLLIN)

    def remove(self, reader: Reports) -> None:
        self._news.pop(reader, None)
        self._readers.pop(reader.key, None)
        if not self._readers and _sockets.get(self._key) is self:
            del _sockets[self._key]
            self._stop_watcher()
            self._socket.close(0)

    def abandon(self) -> None:
        if self._readers:
            self._detach()
            _inherited.append(self._socket)

    def _detach(self) -> None:
        """Have no readers any more."""
        self._readers.clear()
        self._news.clear()
        _sockets.pop(self._key, None)
        self._stop_watcher()

    def _stop_watcher(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def read(self) -> None:
        """Read the socket until it is empty, and plan a call for those who have news."""
        if self._readers:
            self._read()
            if self._news and not self._call_planned:
                self._call_planned = True
                self._loop.run_callback(self._tell)

    def _read(self) -> None:
        socket = self._socket
        while True:
            try:
                key = receive_frame(socket, DONTWAIT)
                report = receive_frame(socket, DONTWAIT)
                receive_frame(socket, DONTWAIT)  # the endpoint
            except SocketError as error:
                if error.errno == zmq.ETERM:
                    self._detach()
                    self._socket.close(0)
                return
            reader = self._readers.get(key)
            if reader is not None:  # else its monitor has ended
                reader.unread.append((int.from_bytes(report[:2], "little"), int.from_bytes(report[2:6], "little")))
                self._news[reader] = None

    def _on_readable(self) -> None:
        if self._key[0] != os.getpid():
            forks.notice()  # a fork that Python's hooks did not see
            self.abandon()
            return
        self._read()
        self._tell()

    def _tell(self) -> None:
        """In the hub: call those who have news.  A call may run an owner, which may close any reader."""
        self._call_planned = False
        news, self._news = self._news, {}
        for reader in news:
            if reader.unread and reader.key in self._readers:
                reader.on_report()


#: The open sockets, by process, hub and context.
_sockets: dict[tuple[int, Any, Context], _ReportSocket] = {}


def _socket_for(context: Context) -> _ReportSocket:
    """Return the socket for monitors of `context` in this hub; open it if there is none."""
    key = (os.getpid(), gevent.get_hub(), context)
    socket = _sockets.get(key)
    if socket is None:
        socket = _sockets[key] = _ReportSocket(key)
    return socket
