"""The command that exposes services over HTTP."""

from __future__ import annotations

import logging
import re
import socket
from typing import Any

import click
from gevent.pool import Pool
from gevent.pywsgi import LoggingLogAdapter, WSGIHandler, WSGIServer

from ..client import Client
from ..exceptions import BindError, ConfigurationError, MDPError
from ..wsgi import MEBIBYTE, Gateway
from .options import broker_option, endpoints, security_of, security_options, verbose_option
from .serving import configure_logging, serve

_log = logging.getLogger("gmdp.gateway")

_ADDRESS = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")


class _Handler(WSGIHandler):  # type: ignore[misc]
    """A connection.  It ends after the present request once the server stops."""

    server: _Server

    def read_requestline(self) -> Any:
        self.server.idle.add(self)
        try:
            return super().read_requestline()
        finally:
            self.server.idle.discard(self)

    def finalize_headers(self) -> None:
        if self.server.closed:
            self.response_headers.append((b"Connection", b"close"))
        super().finalize_headers()

    def handle_one_response(self) -> None:
        super().handle_one_response()
        if self.server.closed:
            self.close_connection = True

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        if issubclass(t, (OSError, MDPError)):
            # The client has gone, or an answer broke off after its first parts.
            _log.info("%s: %s: %s", self.client_address, t.__name__, v)
            self.close_connection = True
        else:
            super().handle_error(t, v, tb)


class _Server(WSGIServer):  # type: ignore[misc]
    """gevent's server; it lets running requests end before it closes the client."""

    stop_timeout = 10.0
    #: Connections at a time; more wait until they are accepted.
    max_connections = 10_000

    def __init__(self, address: tuple[str, int], gateway: Gateway) -> None:
        super().__init__(
            address,
            gateway,
            spawn=Pool(self.max_connections),
            handler_class=_Handler,
            log=LoggingLogAdapter(_log, logging.INFO),
            error_log=LoggingLogAdapter(_log, logging.INFO),
        )
        self._gateway = gateway
        #: Connections that wait for a request.
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

    def stop(self, timeout: float | None = None) -> None:
        self.close()
        for handler in list(self.idle):
            try:
                handler.socket.shutdown(socket.SHUT_RD)
            except OSError:
                pass
        super().stop(timeout)
        self._gateway.client.close()


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
