"""``gmdp gateway``: services over HTTP."""

from __future__ import annotations

import re
from typing import Any

import click

from ..client.client import Client
from ..exceptions import ConfigurationError
from ..http.gateway import MEBIBYTE, Gateway
from .http_server import GatewayServer
from .options import broker_option, security_keywords, security_options, split_endpoints, verbose_option
from .serving import configure_logging, serve

_ADDRESS = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")


def _parse_address(bind: str) -> tuple[str, int]:
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
    help="A service to expose, or a shell-style pattern; may be given several times.",
)
@broker_option
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="Time of a call in all.")
@click.option(
    "--retries", default=0, show_default=True, help="Further tries, each with its share of the time (at least 0.1 s)."
)
@click.option(
    "--max-body", default=16 * MEBIBYTE, show_default=True, metavar="BYTES", help="Size of a request's body at most."
)
@click.option("--when-no-worker", type=click.Choice(["wait", "fail"]), default="fail", show_default=True)
@click.option(
    "--ready-service",
    "ready_services",
    multiple=True,
    metavar="NAME",
    help="A service that must have a worker for /readyz; may be given several times.",
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
    end (10 seconds), then exit 0; a second signal ends at once.  The gateway has no TLS and does
    not tell users apart: the proxy in front of it does both.
    """
    configure_logging(verbose)
    address = _parse_address(bind)
    if not services:
        raise ConfigurationError("name the services to expose with --service PATTERN")
    client = Client(split_endpoints(endpoint), timeout=timeout, retries=retries, **security_keywords(security))
    application = Gateway(
        client,
        services,
        timeout=timeout,
        max_body=max_body,
        when_no_worker=when_no_worker,
        ready_services=ready_services,
    )
    serve(GatewayServer(address, application), lambda server: f"listening on {server.url}")
