"""TCP forwarders between a peer and its broker: links that are cut, and links that are slow."""

import socket
from contextlib import contextmanager
from time import monotonic

import gevent
import gevent.socket
from gevent.server import StreamServer

#: Bytes that the system may hold for each end of a slow link, and bytes that are forwarded at a time.
_HELD = 8192
#: Seconds by which a slow link may be late and catch up.
_LATE = 0.2


@contextmanager
def _forwarder(endpoint, pump, prepare=lambda connection: None):
    """Forward each connection to `endpoint`; `pump(source, target, direction)` forwards one direction."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")

    def handle(inner, _):
        outer = gevent.socket.socket()
        for connection in (inner, outer):
            prepare(connection)
        outer.connect((host, int(port)))
        pumps = [gevent.spawn(pump, inner, outer, "in"), gevent.spawn(pump, outer, inner, "out")]
        try:
            gevent.joinall(pumps, count=1)
        finally:
            gevent.killall(pumps)
            inner.close()
            outer.close()

    listener = gevent.socket.socket()
    prepare(listener)  # accepted connections inherit its buffers
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = StreamServer(listener, handle)
    server.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        server.stop(timeout=0)


@contextmanager
def cuttable(endpoint):
    """A forwarder that can drop all bytes of either direction silently (W3).

    Yields the endpoint of the forwarder, and a dictionary: does it pass on bytes "in" (to `endpoint`), and "out"?
    """
    passing = {"in": True, "out": True}

    def pump(source, target, direction):
        while data := source.recv(65536):
            if passing[direction]:
                target.sendall(data)

    with _forwarder(endpoint, pump) as forwarder:
        yield forwarder, passing


@contextmanager
def slow(endpoint, rate):
    """A forwarder of `rate` bytes a second in each direction; yields its endpoint."""

    def prepare(connection):
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, _HELD)

    def pump(source, target, direction):
        free_at = monotonic()
        while data := source.recv(_HELD):
            target.sendall(data)
            # It makes up for being late on a busy machine.
            free_at = max(free_at, monotonic() - _LATE) + len(data) / rate
            gevent.sleep(free_at - monotonic())

    with _forwarder(endpoint, pump, prepare) as forwarder:
        yield forwarder
