"""``gmdp broker``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import click

from .. import config
from ..broker.broker import Broker
from ..core.broker.options import BrokerOptions
from ..exceptions import ConfigurationError
from ..validation import DEFAULT_ENDPOINT
from .options import F, check_reach, stop_timeout_option, verbose_option
from .serving import configure_logging, serve


def _broker_options(command: F) -> F:
    """Add an option for each number and switch of `BrokerOptions`."""
    for option in reversed(fields(BrokerOptions)):
        flag = "--" + option.name.replace("_", "-")
        if option.type == "bool":
            switch = f"{flag}/--no-{flag[2:]}"
            command = click.option(switch, option.name, default=None, help=f"[default: {option.default}]")(command)
        elif option.name != "services":
            kind = int if option.type == "int" else float
            help_text = f"[default: {option.default:g}]" if kind is float else f"[default: {option.default}]"
            command = click.option(flag, option.name, type=kind, default=None, help=help_text)(command)
    return command


def _select_checkable(keywords: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return those `keywords` of a file that can be checked without the command line's `options`.

    The file may hold the broker's key and the command line the keys of its clients, or the
    other way round.  The file's half is then left out.
    """
    pair = ("curve_key", "curve_clients")
    halves = [name for name, other in (pair, pair[::-1]) if other not in keywords and options[other] is not None]
    return {name: value for name, value in keywords.items() if name not in halves}


@click.command()
@click.option(
    "--bind",
    multiple=True,
    metavar="ENDPOINT",
    help=f"Where to listen; may be given several times.  [default: {DEFAULT_ENDPOINT}]",
)
@click.option("--config", "file", metavar="FILE.toml", help="Options from a file; the command line overrides it.")
@click.option("--hwm", type=int, default=None, help="Messages held per peer and direction.  [default: 1000]")
@click.option("--dead-letter", metavar="SERVICE", help="The service that gets requests over which workers were lost.")
@click.option(
    "--curve-key", metavar="KEY", envvar="GMDP_CURVE_KEY", help="Its secret key: a file; else $GMDP_CURVE_KEY."
)
@click.option("--curve-clients", metavar="FOLDER", help="Public keys (NAME.key) that may connect; '*' for any key.")
@click.option("--plain-users", metavar="FILE", help="Instead of keys: users and hashes, as gmdp passwd writes them.")
@click.option("--allow", multiple=True, metavar="ADDRESS", help="An IP address or network that may connect, or ipc.")
@click.option("--deny", multiple=True, metavar="ADDRESS", help="An address that may not connect.")
@_broker_options
@stop_timeout_option
@verbose_option
def broker(
    bind: tuple[str, ...],
    file: str | None,
    stop_timeout: float,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    verbose: int,
    **options: Any,
) -> None:
    """Run a broker.

    Prints "listening on ENDPOINT…" when it is ready.  SIGTERM and SIGINT let
    running work end (--stop-timeout), then exit 0; a second signal ends at once.
    Times are seconds, sizes bytes.
    """
    configure_logging(verbose)
    keywords: dict[str, Any] = {}
    if file is not None:
        keywords = config.load(file)
        try:
            if "context" in keywords:
                raise ConfigurationError("unknown option 'context'")
            Broker(**_select_checkable(keywords, options))
        except (ConfigurationError, TypeError) as error:
            raise ConfigurationError(f"{file}: {error}") from None
    keywords.update((name, value) for name, value in options.items() if value is not None)
    lists = {"bind": bind, "allow": allow, "deny": deny}
    keywords.update((name, values) for name, values in lists.items() if values)
    server = Broker(**keywords)
    check_reach(keywords.get("bind", ()))
    server.stop_timeout = stop_timeout
    serve(server, lambda broker: f"listening on {' '.join(broker.endpoints)}")
