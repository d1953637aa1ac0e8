"""``gmdp broker``."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any

import click

from .. import config
from ..broker.broker import Broker
from ..core.broker.options import BrokerOptions, ServiceOptions
from ..exceptions import ConfigurationError
from ..validation import DEFAULT_ENDPOINT
from .options import F, check_reach, stop_timeout_option, verbose_option
from .serving import configure_logging, serve
from .spelling import Command, FileRefused


def _read_texts(*classes: type) -> dict[str, str]:
    """Return the first sentence about each option, from the docstrings of the classes that have the options."""
    docstrings = "\n".join(inspect.cleandoc(each.__doc__ or "") for each in classes)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", docstrings, re.M)
    return {
        name: re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].replace("`", "") for name, text in entries
    }


def _broker_options(command: F) -> F:
    """Add an option for each number and switch of `BrokerOptions`."""
    texts = _read_texts(ServiceOptions, BrokerOptions)
    for option in reversed(fields(BrokerOptions)):
        flag, text = "--" + option.name.replace("_", "-"), texts.get(option.name, "")
        if option.type == "bool":
            switch = f"{flag}/--no-{flag[2:]}"
            command = click.option(switch, option.name, default=None, help=f"{text}  [default: on]")(command)
        elif option.name != "services":
            kind = int if option.type == "int" else float
            default = f"{option.default:g}" if kind is float else str(option.default)
            help_text = f"{text}  [default: {default}]"
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


def _load(file: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords in a file of options; FileRefused if one of them is wrong, whatever `options` say."""
    try:
        keywords = config.load(file)
    except ConfigurationError as error:
        raise FileRefused(str(error)) from None
    try:
        if "context" in keywords:
            raise ConfigurationError("unknown option 'context'")
        Broker(**_select_checkable(keywords, options))
    except (ConfigurationError, TypeError) as error:
        raise FileRefused(f"{file}: {error}") from None
    return keywords


@click.command(cls=Command)
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

    Prints "listening on ENDPOINT…" when it is ready.  SIGTERM, SIGINT and SIGHUP let
    running work end (--stop-timeout), then exit 0; a second signal ends at once.
    Times are seconds, sizes bytes.
    """
    configure_logging(verbose)
    keywords: dict[str, Any] = {}
    if file is not None:
        keywords = _load(file, options)
    keywords.update((name, value) for name, value in options.items() if value is not None)
    lists = {"bind": bind, "allow": allow, "deny": deny}
    keywords.update((name, values) for name, values in lists.items() if values)
    server = Broker(**keywords)
    check_reach(keywords.get("bind", ()))
    server.stop_timeout = stop_timeout
    serve(server, lambda broker: f"listening on {' '.join(broker.endpoints)}")
