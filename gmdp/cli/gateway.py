"""The command that exposes services over HTTP."""

from __future__ import annotations

import logging
import re
import resource
import socket
import struct
from http.client import HTTPException
from typing import Any

import click
import gevent
from gevent.pool import Pool
from gevent.pywsgi import Input, LoggingLogAdapter, WSGIHandler, WSGIServer

from ..client.client import Client
from ..exceptions import BindError, ConfigurationError, MDPError
from ..http.gateway import MEBIBYTE, Gateway
from .options import broker_option, endpoints, security_of, security_options, verbose_option
from .serving import configure_logging, serve

_log = logging.getLogger("gmdp.gateway")

_ADDRESS = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")

#: A line of a request's header.  RFC 9112, 5.1, 5.2 and 2.2: a space before the colon, a folded
#: line and a CR by itself are read by everybody in another way.
_FIELD = re.compile(rb"[!#-'*+.^-z|~0-9A-Z-]+:[^\r\n\0]*\r?\n")
_HEADER_ENDS = (b"\r\n", b"\n")
_LENGTH = re.compile(r"[ \t]*[0-9]+[ \t]*")
#: What goes before the path in the absolute form of a target.
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)

#: Bytes of a body nobody wants that are read away, so that the connection can be used on.
_READ_AWAY = 65536

#: Descriptors that connections leave to the rest: a broker that speaks the RFCs only takes two for
#: each of the client's sockets.
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


class _Handler(WSGIHandler):  # type: ignore[misc]
    """A connection.  It ends after the present request once the server stops.

    A request of which others on the way might see another end is refused: what they take for
    its body would be the next request here.
    """

    #: Seconds in which a client that is still sending may read why nobody listens.
    linger = 5.0
    #: Seconds in which it has to take what it is sent, and bytes a second it has to take besides.
    patience = 60.0
    pace = 10_000.0

    server: _Server
    path: str
    response_headers: list[tuple[bytes, bytes]]
    #: True if the body was not read, and will not be.
    abandons = False

    def handle(self) -> None:
        try:
            super().handle()
        except OSError as error:  # the client has gone, and does not read what is wrong with its request
            _log.info("%s: %s", self.client_address, error)
        finally:
            self.server.idle.discard(self)

    def hang_up(self) -> None:
        """Let it read what has come, and no more."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def read_requestline(self) -> Any:
        # It waits for a request until it has all of the header; once the server stops, there is none.
        self.server.idle.add(self)
        if self.server.closed:
            self.hang_up()
        return super().read_requestline()

    def MessageClass(self, rfile: Any, *more: Any) -> Any:
        """The header of a request; ValueError if it is malformed, or tells no end of the body for certain."""
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
        if codings and [one.strip().lower() for one in codings] != ["chunked"]:
            raise ValueError("a Transfer-Encoding that is not chunked")
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise ValueError("a Content-Length that is not one number")
        if headers.get("Expect", "").strip().lower() == "100-continue":
            headers.replace_header("Expect", "100-continue")  # gevent knows no other letters
        self.server.idle.discard(self)
        return headers

    def read_request(self, raw_requestline: str) -> Any:
        done = super().read_request(raw_requestline)
        origin = _ORIGIN.match(self.path)
        if origin is not None:  # RFC 9112, 3.2.2
            path = self.path[origin.end() :]
            self.path = path if path.startswith("/") else f"/{path}"
        return done

    def _connection_upgrade_requested(self) -> bool:
        # Nothing is upgraded here: the body is one like any other.
        return False

    def finalize_headers(self) -> None:
        # With neither a length nor chunks, a body ends where the connection does.
        endless = self.request_version == "HTTP/1.0" and self.provided_content_length is None
        if self._much_is_unread():
            self.abandons = True
            self.wsgi_input = Input(self.rfile, None)  # which is all that gevent reads away
        if endless or self.abandons or self.server.closed:
            self.close_connection = True
            self.response_headers = [one for one in self.response_headers if one[0].lower() != b"connection"]
            self.response_headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def _much_is_unread(self) -> bool:
        """Is it better to close the connection than to read the rest of the body?"""
        body = self.wsgi_input
        if body.chunked_input:
            return bool(body.chunk_length)
        left = (body.content_length or 0) - body.position
        # A client that was not told to continue may send it, or not.
        return bool(left > (_READ_AWAY if body.socket is None else 0))

    def _sendall(self, data: bytes) -> None:
        # Else one that does not read would have for ever what it was to be sent.
        limit = self.patience + len(data) / self.pace
        with gevent.Timeout(limit, TimeoutError(f"the client did not read {len(data)} bytes in {limit:.0f} s")):
            super()._sendall(data)

    def handle_one_response(self) -> None:
        super().handle_one_response()
        if self.abandons:
            self._linger()

    def _linger(self) -> None:
        """Closed with something unread, the connection would be reset, and the answer lost (RFC 9112, 9.6)."""
        self.server.idle.add(self)
        try:
            with gevent.Timeout(self.linger, False):
                self.socket.shutdown(socket.SHUT_WR)
                while self.socket.recv(_READ_AWAY):
                    pass
        except OSError:
            pass

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        if self.headers_sent and not self.response_use_chunked:
            # Its end would look like that of a whole body: the connection is to be reset.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
        if issubclass(t, (OSError, MDPError)):
            # The client has gone, or an answer broke off after its first parts.
            _log.info("%s: %s: %s", self.client_address, t.__name__, v)
            self.close_connection = True
        else:
            super().handle_error(t, v, tb)


class _Server(WSGIServer):  # type: ignore[misc]
    """gevent's server; it lets running requests end before it closes the client."""

    stop_timeout = 10.0
    #: Connections at a time, or as many as there are descriptors for; more wait until they are accepted.
    max_connections = 10_000

    def __init__(self, address: tuple[str, int], gateway: Gateway) -> None:
        super().__init__(
            address,
            gateway,
            spawn=Pool(_possible(self.max_connections)),
            handler_class=_Handler,
            log=LoggingLogAdapter(_log, logging.INFO),
            error_log=LoggingLogAdapter(_log, logging.INFO),
        )
        self._gateway = gateway
        #: Connections that wait for a request, or for their end.
        self.idle: set[_Handler] = set()

    @property
    def url(self) -> str:
        host, port = self.address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def init_socket(self) -> None:
        try:
            super().init_socket()
        except OSError as error:
            host, port = self.address
            # gevent adds the address to it.
            reason = str(error.strerror or error).partition(": (")[0]
            raise BindError(error.errno, f"cannot bind {host}:{port}: {reason}") from None

    def start(self) -> None:
        super().start()
        # Now there are descriptors for it.
        self._gateway.client.start()

    def stop(self, timeout: float | None = None) -> None:
        self.close()
        for handler in list(self.idle):
            handler.hang_up()
        super().stop(timeout)
        self._gateway.client.close()


def _possible(connections: int) -> int:
    """So many, or as many as there are descriptors for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if limit == resource.RLIM_INFINITY else max(min(connections, limit - _DESCRIPTORS_KEPT), 1)


def _address(bind: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(bind)
    if match is None or int(match["port"]) > 65535:
        raise ConfigurationError(f"bad address {bind!r}: it must look like HOST:PORT")
    return match["ipv6"] or match["host"], int(match["port"])


@click.command()
@click.option(
    "--bind", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to listen; port 0: any."
)
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="PATTERN",
    help="What is exposed: a name or a shell-style pattern; may be given several times.",
)
@broker_option
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="What a call may take in all.")
@click.option("--retries", default=0, show_default=True, help="Further tries, each with its share of the time.")
@click.option("--max-body", default=16 * MEBIBYTE, show_default=True, metavar="BYTES", help="Of a request's body.")
@click.option("--when-no-worker", type=click.Choice(["wait", "fail"]), default="fail", show_default=True)
@click.option(
    "--ready-service",
    "ready_services",
    multiple=True,
    metavar="NAME",
    help="What must have a worker for /readyz; may be given several times.",
)
@security_options
@verbose_option
def gateway(
    bind: str,
    services: tuple[str, ...],
    endpoint: str,
    timeout: float,
    retries: int,
    max_body: int,
    when_no_worker: str,
    ready_services: tuple[str, ...],
    verbose: int,
    **security: Any,
) -> None:
    """Expose services over HTTP.

    POST /services/NAME sends the body to the service NAME and returns its reply; /healthz and
    /readyz are for load balancers.  The module gmdp.wsgi describes all of it.  Prints
    "listening on http://HOST:PORT" when it is ready.  SIGTERM and SIGINT let running requests
    end (10 seconds), then exit 0; a second signal ends at once.  There is no TLS and nothing
    that tells users apart: both are the business of the proxy in front of it.
    """
    configure_logging(verbose)
    address = _address(bind)
    if not services:
        raise ConfigurationError("name what is exposed with --service PATTERN")
    client = Client(endpoints(endpoint), timeout=timeout, retries=retries, **security_of(security))
    application = Gateway(
        client,
        services,
        timeout=timeout,
        max_body=max_body,
        when_no_worker=when_no_worker,
        ready_services=ready_services,
    )
    serve(_Server(address, application), lambda server: f"listening on {server.url}")
