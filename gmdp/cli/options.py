"""Options that several commands share, and the keywords they become."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from ..exceptions import ConfigurationError
from ..io.lifecycle import Lifecycle
from ..protocol.dialects import VERSIONS
from ..validation import DEFAULT_ENDPOINT, check_number

F = TypeVar("F", bound=Callable[..., Any])


def broker_option(command: F) -> F:
    """Add --broker, for a command that connects."""
    return click.option(
        "--broker",
        "endpoint",
        envvar="GMDP_BROKER",
        default=DEFAULT_ENDPOINT,
        show_default=True,
        metavar="ENDPOINT",
        help="The broker; else $GMDP_BROKER.  Of several, separated by commas, the first that answers is used.",
    )(command)


def timeout_option(default: float) -> Callable[[F], F]:
    """Add --timeout; `default` is in seconds."""
    return click.option(
        "--timeout", default=default, show_default=True, metavar="SECONDS", help="Give up after this time (exit 124)."
    )


def stop_timeout_option(command: F) -> F:
    """Add --stop-timeout, for a broker or a worker."""
    return click.option(
        "--stop-timeout",
        default=Lifecycle.stop_timeout,
        show_default=True,
        callback=_check_seconds,
        metavar="SECONDS",
        help="Time that running work gets after a signal to stop.",
    )(command)


def _check_seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    seconds: float = check_number("--stop-timeout", value, at_least=0)
    return seconds


def security_options(command: F) -> F:
    """Add the options of a connection: how a command identifies itself to a secured broker, and ZMTP heartbeats."""
    command = click.option(
        "--zmtp-heartbeats/--no-zmtp-heartbeats",
        default=True,
        help="Whether ZeroMQ asks if the broker's process is alive; brokers of ZMTP 3.0 do not answer.",
    )(command)
    for flag, name, metavar, help_text in reversed(
        (
            ("--server-key", "server_key", "KEY", "The broker's public key: a file, or Z85; else $GMDP_SERVER_KEY."),
            ("--curve-key", "curve_key", "KEY", "Your own secret key: a file; else $GMDP_CURVE_KEY."),
            ("--username", "username", "NAME", "For a broker that wants a password; else $GMDP_USERNAME."),
            (
                "--password-file",
                "password_file",
                "FILE",
                "Its first line is the password; else $GMDP_PASSWORD_FILE, or $GMDP_PASSWORD itself.",
            ),
        )
    ):
        variable = f"GMDP_{name.upper()}"
        command = click.option(flag, name, metavar=metavar, envvar=variable, default=None, help=help_text)(command)
    return command


def security_keywords(options: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a client or worker for the values of `security_options`."""
    file = options.pop("password_file")
    if options["username"] is not None:
        options["password"] = _read_first_line(file) if file is not None else os.environ.get("GMDP_PASSWORD")
        if options["password"] is None:
            raise ConfigurationError("--username needs --password-file, or $GMDP_PASSWORD")
    elif file is not None:
        raise ConfigurationError("--password-file needs --username")
    return options


def _read_first_line(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as lines:
            return lines.readline().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None


mdp_option = click.option(
    "--mdp",
    envvar="GMDP_MDP",
    default="0.2",
    show_default=True,
    type=click.Choice(sorted(VERSIONS)),
    help="The protocol's version; else $GMDP_MDP.",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON, on one line.")
verbose_option: Callable[[F], F] = click.option("-v", "--verbose", count=True, help="Log more; twice: everything.")


def split_endpoints(value: str) -> list[str]:
    """Return the endpoints in the value of --broker."""
    endpoints = [endpoint.strip() for endpoint in value.split(",")]
    check_reach(endpoints)
    return endpoints


def check_reach(endpoints: object) -> None:
    """Raise ConfigurationError for an endpoint, or one of several, that no other process reaches."""
    for endpoint in [endpoints] if isinstance(endpoints, str) else endpoints if isinstance(endpoints, Iterable) else ():
        if isinstance(endpoint, str) and endpoint.startswith("inproc:"):
            raise ConfigurationError(
                f"bad endpoint {endpoint!r}: inproc:// is for brokers and peers in one process; use tcp:// or ipc://"
            )
