"""A gateway from environment variables, for servers that load an application by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..client import Client
from ..exceptions import ConfigurationError
from ..security.credentials import make_credentials
from ..validation import DEFAULT_ENDPOINT, check_endpoints, check_number
from .gateway import MEBIBYTE, Gateway


def make_gateway(
    endpoints: Sequence[str],
    services: Sequence[str],
    *,
    timeout: float,
    retries: int,
    credentials: Mapping[str, Any],
    **options: Any,
) -> Gateway:
    """Make a gateway whose client is made at the first use of :attr:`~.gateway.Gateway.client`.

    Args:
        endpoints: The brokers' endpoints.
        services: The exposed services.
        timeout: Seconds that a call may take in all.
        retries: Further tries of a call.
        credentials: The keywords of :func:`~gmdp.security.credentials.make_credentials`, and perhaps
            ``zmtp_heartbeats``.
        options: Further options of the gateway.

    Raises:
        ConfigurationError: A value is wrong, the client's included.
    """
    check_number("timeout", timeout, above=0)
    check_number("retries", retries, at_least=0, whole=True)
    checked = check_endpoints(endpoints)
    # Raises now, not at the first request.
    make_credentials(checked, **{name: value for name, value in credentials.items() if name != "zmtp_heartbeats"})

    def make_client() -> Client:
        return Client(checked, timeout=timeout, retries=retries, **credentials)

    return Gateway(make_client, services, timeout=timeout, **options)


def gateway_from_environment(environment: Mapping[str, str] | None = None) -> Gateway:
    """Make a :class:`~.gateway.Gateway` with the options in environment variables.

    The client is made at the gateway's first request; wrong values are reported at once.

    =========================  ======================================================================
    variable                   value
    =========================  ======================================================================
    ``GMDP_SERVICES``          names and patterns of services, with commas between; needed
    ``GMDP_SAFE``              those that a browser's ``EventSource`` may call, with commas between
    ``GMDP_CORS_ORIGINS``      origins whose pages may read answers, with commas between; ``*``: all
    ``GMDP_BROKER``            endpoints, with commas between; ``tcp://127.0.0.1:5555`` by default
    ``GMDP_TIMEOUT``           seconds of a call; 30 by default
    ``GMDP_RETRIES``           further tries of a call; 0 by default
    ``GMDP_MAX_BODY``          bytes of a request's body; 16 MiB by default
    ``GMDP_WHEN_NO_WORKER``    ``fail`` (the default) or ``wait``
    ``GMDP_READY_SERVICES``    services that ``/readyz`` looks for, with commas between
    ``GMDP_CLIENT_TIMEOUT``    seconds for an HTTP client that sends or reads nothing; 60 by default
    ``GMDP_SERVER_KEY``        the broker's public key, as the command line takes it
    ``GMDP_CURVE_KEY``         the gateway's secret key, as the command line takes it
    ``GMDP_USERNAME``          a user's name; goes with ``GMDP_PASSWORD``
    ``GMDP_PASSWORD``          the user's password
    =========================  ======================================================================

    Args:
        environment: The variables; None means those of the process.

    Returns:
        The gateway.

    Raises:
        ConfigurationError: A value is wrong, or ``GMDP_SERVICES`` is missing.
    """
    if environment is None:
        environment = os.environ
    services = _read_list(environment, "GMDP_SERVICES")
    if not services:
        raise ConfigurationError("$GMDP_SERVICES must name the services to expose")
    username = environment.get("GMDP_USERNAME") or None
    return make_gateway(
        _read_list(environment, "GMDP_BROKER") or [DEFAULT_ENDPOINT],
        services,
        timeout=_read_number(environment, "GMDP_TIMEOUT", 30.0),
        retries=_read_number(environment, "GMDP_RETRIES", 0),
        credentials={
            "curve_key": environment.get("GMDP_CURVE_KEY") or None,
            "server_key": environment.get("GMDP_SERVER_KEY") or None,
            "username": username,
            "password": None if username is None else environment.get("GMDP_PASSWORD"),
        },
        safe=_read_list(environment, "GMDP_SAFE"),
        cors_origins=_read_list(environment, "GMDP_CORS_ORIGINS"),
        max_body=_read_number(environment, "GMDP_MAX_BODY", 16 * MEBIBYTE),
        when_no_worker=environment.get("GMDP_WHEN_NO_WORKER") or "fail",
        ready_services=_read_list(environment, "GMDP_READY_SERVICES"),
        client_timeout=_read_number(environment, "GMDP_CLIENT_TIMEOUT", 60.0),
    )


def _read_list(environment: Mapping[str, str], variable: str) -> list[str]:
    return [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]


def _read_number(environment: Mapping[str, str], variable: str, default: Any) -> Any:
    """Return the number in a variable, of the type of `default`."""
    text = environment.get(variable) or default
    try:
        return type(default)(text)
    except ValueError:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigurationError(f"${variable} must be {kind}, not {text!r}") from None
