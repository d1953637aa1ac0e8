"""``gmdp gateway``: services over HTTP."""

from __future__ import annotations

import os
import re
from importlib import import_module
from types import ModuleType
from typing import Any

import click

from ..exceptions import ConfigurationError
from ..http.environment import make_gateway
from ..http.gateway import MEBIBYTE, Gateway
from ..validation import check_number, check_port
from .options import (
    broker_option,
    security_keywords,
    security_options,
    split_endpoints,
    stop_timeout_option,
    verbose_option,
)
from .serving import configure_logging
from .spelling import Command

#: The oldest gunicorn whose parser leaves no doubt about the end of a request.
_OLDEST_GUNICORN = (27,)

#: Variables that gunicorn would read, though the command's options are all there is: the first while it is imported.
_NOT_FOR_GUNICORN = ("WEB_CONCURRENCY", "SCRIPT_NAME")

_ADDRESS = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>[^\s:/\[\]]+)")


def _parse_address(bind: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(bind)
    wrong = f"bad address {bind!r}: "
    if match is None:
        raise ConfigurationError(wrong + "it must look like HOST:PORT")
    return match["ipv6"] or match["host"], check_port(match["port"], wrong, "HOST:PORT")


def _import_prefork() -> ModuleType:
    """Import what needs gunicorn; ConfigurationError if a package is missing, or gunicorn or gevent is too old."""
    needed = "gmdp gateway needs gunicorn 27 and gevent 24.10.1: pip install 'gmdp[gateway]'"
    for variable in _NOT_FOR_GUNICORN:
        os.environ.pop(variable, None)
    try:
        import gunicorn

        if gunicorn.version_info < _OLDEST_GUNICORN:
            raise ConfigurationError(f"{needed} (gunicorn {gunicorn.__version__} is installed)")
        return import_module(".prefork", __package__)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "gmdp":
            raise
        raise ConfigurationError(needed if package == "gunicorn" else f"{needed} ({error})") from None
    except RuntimeError as error:  # gunicorn raises it for a gevent that is too old
        raise ConfigurationError(f"{needed} ({error})") from None


def _check_access_log(context: click.Context, parameter: click.Parameter, file: str | None) -> str | None:
    """Return the value of --access-log; ConfigurationError if it is a file that cannot be written."""
    if file is not None and file != "-":
        try:
            open(file, "a", encoding="utf-8").close()
        except OSError as error:
            raise ConfigurationError(f"--access-log: cannot write {file}: {error.strerror}") from None
    return file


@click.command(cls=Command)
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
@click.option(
    "--safe",
    multiple=True,
    metavar="PATTERN",
    help="Exposed services that a browser's EventSource may call by GET; may be given several times.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Whose web pages may read answers, like https://app.example; '*': all; may be given several times.",
)
@broker_option
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="Time of a call in all.")
@click.option("--retries", default=0, show_default=True, help="Further tries, each with its share of the time.")
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
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Processes that serve."
)
@click.option(
    "--max-connections",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Connections of each process at a time; further ones wait.",
)
@click.option(
    "--keep-alive",
    default=75.0,
    show_default=True,
    metavar="SECONDS",
    help="Time that a connection may wait for a request and its header.",
)
@click.option(
    "--client-timeout",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for an HTTP client that does not send its body, or does not read.",
)
@click.option(
    "--access-log",
    metavar="FILE",
    callback=_check_access_log,
    help="Log each request to a file; '-': to standard output.",
)
@stop_timeout_option
@security_options
@verbose_option
def gateway(
    bind: str,
    services: tuple[str, ...],
    safe: tuple[str, ...],
    cors_origins: tuple[str, ...],
    endpoint: str,
    timeout: float,
    retries: int,
    max_body: int,
    when_no_worker: str,
    ready_services: tuple[str, ...],
    workers: int,
    max_connections: int,
    keep_alive: float,
    client_timeout: float,
    access_log: str | None,
    stop_timeout: float,
    verbose: int,
    **security: Any,
) -> None:
    """Expose services over HTTP.

    POST /services/NAME sends the body to the service NAME and returns its reply; /healthz and
    /readyz are for load balancers.  The module gmdp.wsgi describes all of it.  gunicorn serves, with
    --workers processes.  Prints "listening on http://HOST:PORT" when it is ready.  SIGTERM and SIGINT
    let running requests end (--stop-timeout), then exit 0; a second signal ends at once.  SIGHUP
    replaces the processes, and reads files with keys and passwords again.  No request is lost that ends
    within --stop-timeout.  If a file cannot be read, nothing is replaced.
    The gateway has no TLS and does not tell users apart: the proxy in front of it does both.
    """
    configure_logging(verbose)
    address = _parse_address(bind)
    check_number("--keep-alive", keep_alive, above=0)
    if not services:
        raise ConfigurationError("name the services to expose with --service PATTERN")

    def make() -> Gateway:
        return make_gateway(
            split_endpoints(endpoint),
            services,
            timeout=timeout,
            retries=retries,
            credentials={"password": None, **security_keywords(dict(security))},
            safe=safe,
            cors_origins=cors_origins,
            max_body=max_body,
            when_no_worker=when_no_worker,
            ready_services=ready_services,
            client_timeout=client_timeout,
        )

    make()  # for its errors
    prefork = _import_prefork()
    prefork.run(
        prefork.listen(*address),
        make,
        workers=workers,
        stop_timeout=stop_timeout,
        keep_alive=keep_alive,
        max_connections=max_connections,
        access_log=access_log,
    )
