"""The HTTP server of ``gmdp gateway``: gevent's server, made stricter."""

from __future__ import annotations

import logging
import re
import resource
import socket
import struct
from http.client import HTTPException
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.pywsgi import Input, LoggingLogAdapter, WSGIHandler, WSGIServer

from ..client.client import Client
from ..exceptions import BindError, MDPError
from ..http.gateway import Gateway

_log = logging.getLogger("gmdp.gateway")

#: A line of a request's header.  Servers and proxies disagree about a space before the colon,
#: a folded line and a lone CR (RFC 9112, 5.1, 5.2 and 2.2): none of them is accepted.
_FIELD = re.compile(rb"[!#-'*+.^-z|~0-9A-Z-]+:[^\r\n\0]*\r?\n")
_HEADER_ENDS = (b"\r\n", b"\n")
_LENGTH = re.compile(r"[ \t]*[0-9]+[ \t]*")
#: The part before the path of a target in absolute form.
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

#: Bytes of an unwanted body that are read and dropped, so that the connection can be used again.
_READ_AWAY = 65536

#: Descriptors that connections leave for everything else.  Each of the client's sockets takes two
#: where the broker speaks the RFCs only.
_DESCRIPTORS_KEPT = 50 + 2 * Client.max_sockets


class _Head:
    """The lines of a request's header, while they are read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.lines: list[bytes] = []

    def readline(self, size: int) -> bytes:
        line: bytes = self._file.readline(size)
        self.lines.append(line)
        return line


class ConnectionHandler(WSGIHandler):  # type: ignore[misc]
    """One connection.  Once the server stops, the connection ends after its present request.

    A request whose end a proxy might see elsewhere is refused: a part of its body could
    become a request of its own here, or the other way round.
    """

    #: Seconds in which a client that still sends a refused body may read the answer.
    linger = 5.0
    #: Seconds that a client has to read an answer, plus one second for each `pace` bytes of it.
    patience = 60.0
    pace = 10_000.0

    server: GatewayServer
    path: str
    response_headers: list[tuple[bytes, bytes]]
    #: True if the rest of the body will not be read, and the connection ends after the answer.
    abandons = False

    def handle(self) -> None:
        """Serve the requests of one connection."""
        try:
            super().handle()
        except OSError as error:  # the client has gone without reading why its request is refused
            _log.info("%s: %s", self.client_address, error)
        finally:
            self.server.idle.discard(self)

    def hang_up(self) -> None:
        """Receive nothing more; the bytes that have arrived can still be read."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def read_requestline(self) -> Any:
        """Wait for the next request; return its first line."""
        # A connection is idle until the whole header of a request has arrived.  Once the server
        # stops, no further request is awaited.
        self.server.idle.add(self)
        if self.server.closed:
            self.hang_up()
        return super().read_requestline()

    def MessageClass(self, rfile: Any, *more: Any) -> Any:
        """Parse the header of a request; ValueError if it is malformed, or leaves the end of the body in doubt."""
        head = _Head(rfile)
        try:
            headers = super().MessageClass(head, *more)
        except (HTTPException, OSError) as error:
            raise ValueError(str(error)) from None
        if head.lines.pop() not in _HEADER_ENDS or not all(map(_FIELD.fullmatch, head.lines)):
            raise ValueError("the header is malformed, or was cut off")
        lengths = headers.get_all("Content-Length", [])
        codings = headers.get_all("Transfer-Encoding", [])
        if codings and (lengths or self.request_version == "HTTP/1.0"):
            raise ValueError("a Transfer-Encoding together with a Content-Length, or in HTTP/1.0")
        if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise ValueError("a Transfer-Encoding that is not chunked")
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise ValueError("a Content-Length that is not one number")
        if headers.get("Expect", "").strip().lower() == "100-continue":
            headers.replace_header("Expect", "100-continue")  # gevent compares with this spelling
        self.server.idle.discard(self)
        return headers

    def read_request(self, raw_requestline: str) -> Any:
        """Parse a request's first line and header; return whether they are valid."""
        valid = super().read_request(raw_requestline)
        origin = _ORIGIN.match(self.path)
        if origin is not None:  # RFC 9112, 3.2.2
            path = self.path[origin.end() :]
            self.path = path if path.startswith("/") else f"/{path}"
        return valid

    def _connection_upgrade_requested(self) -> bool:
        # The gateway upgrades no connection: the body of such a request is an ordinary one.
        return False

    def finalize_headers(self) -> None:
        """Complete the headers of an answer, and decide whether the connection ends after it."""
        # With neither a length nor chunks, a body ends where the connection does.
        endless = self.request_version == "HTTP/1.0" and self.provided_content_length is None
        if self._much_is_unread():
            self.abandons = True
            self.wsgi_input = Input(self.rfile, None)  # an empty body, so that gevent does not read the rest
        if endless or self.abandons or self.server.closed:
            self.close_connection = True
            self.response_headers = [header for header in self.response_headers if header[0].lower() != b"connection"]
            self.response_headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def _much_is_unread(self) -> bool:
        """Return whether closing the connection is better than reading the rest of the body."""
        body = self.wsgi_input
        if body.chunked_input:
            return bool(body.chunk_length)
        rest = (body.content_length or 0) - body.position
        # A client that waits to be told to continue may or may not send its body.
        return bool(rest > (_READ_AWAY if body.socket is None else 0))

    def _sendall(self, data: bytes) -> None:
        # Without a limit, a client that never reads would keep the answer in memory forever.
        limit = self.patience + len(data) / self.pace
        with gevent.Timeout(limit, TimeoutError(f"the client did not read {len(data)} bytes in {limit:.0f} s")):
            super()._sendall(data)

    def handle_one_response(self) -> None:
        """Answer one request, and let its client finish sending."""
        super().handle_one_response()
        if self.abandons:
            self._linger()

    def _linger(self) -> None:
        """Read and drop what still arrives, for a while.

        A connection that is closed with something unread is reset, and the client loses the
        answer (RFC 9112, 9.6).
        """
        self.server.idle.add(self)
        try:
            with gevent.Timeout(self.linger, False):
                self.socket.shutdown(socket.SHUT_WR)
                while self.socket.recv(_READ_AWAY):
                    pass
        except OSError:
            pass

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """End an answer that failed, so that the client does not take it for a whole one."""
        if self.headers_sent and not self.response_use_chunked:
            # Without chunks, a broken-off body looks complete when the connection is closed; a reset shows it.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        if issubclass(t, (OSError, MDPError)):
            # The client has gone, or the answer broke off after its first parts.
            _log.info("%s: %s: %s", self.client_address, t.__name__, v)
            self.close_connection = True
        else:
            super().handle_error(t, v, tb)


class GatewayServer(WSGIServer):  # type: ignore[misc]
    """gevent's server, which closes the gateway's client after the running requests have ended."""

    stop_timeout = 10.0
    #: Connections at a time, if there are as many descriptors; further ones wait to be accepted.
    max_connections = 10_000

    def __init__(self, address: tuple[str, int], gateway: Gateway) -> None:
        super().__init__(
            address,
            gateway,
            spawn=Pool(_limit_to_descriptors(self.max_connections)),
            handler_class=ConnectionHandler,
            log=LoggingLogAdapter(_log, logging.INFO),
            error_log=LoggingLogAdapter(_log, logging.INFO),
        )
        self._gateway = gateway
        #: Connections that wait for a request, or linger.
        self.idle: set[ConnectionHandler] = set()

    @property
    def url(self) -> str:
        """Where the gateway listens, as a URL."""
        host, port = self.address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def init_socket(self) -> None:
        """Bind and listen; BindError if that is impossible."""
        try:
            super().init_socket()
        except OSError as error:
            host, port = self.address
            # gevent appends the address to the text; the message has it already.
            reason = str(error.strerror or error).partition(": (")[0]
            raise BindError(error.errno, f"cannot bind {host}:{port}: {reason}") from None

    def start(self) -> None:
        """Begin to accept connections, and start the gateway's client."""
        super().start()
        # The client starts before connections can take all descriptors.
        self._gateway.client.start()

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more connections, finish what is being answered for `timeout` seconds, close the client."""
        self.close()
        for handler in list(self.idle):
            handler.hang_up()
        super().stop(timeout)
        self._gateway.client.close()


def _limit_to_descriptors(connections: int) -> int:
    """Return `connections`, or as many as there are descriptors for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if limit == resource.RLIM_INFINITY else max(min(connections, limit - _DESCRIPTORS_KEPT), 1)
