"""``gmdp services`` and ``gmdp ping``: a broker's reports."""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..client.client import Client
from ..exceptions import ConfigurationError, MDPError
from .options import broker_option, mdp_option, security_keywords, security_options, split_endpoints, timeout_option

_COLUMNS = ("workers", "idle", "busy", "queued", "requests", "replies")


def _parse_report(reply: list[bytes]) -> dict[str, Any] | None:
    """Return the JSON object in a reply of a gmdp broker's management service; None if the reply holds none."""
    try:
        if reply[0] == b"200" and len(reply) == 2:
            report = json.loads(reply[1])
            return report if isinstance(report, dict) else None
    except ValueError:
        pass
    return None


@click.command()
@broker_option
@timeout_option(5.0)
@security_options
def services(endpoint: str, timeout: float, **security: Any) -> None:
    """List the services a broker knows, their workers and queues."""
    with Client(split_endpoints(endpoint), timeout=timeout, **security_keywords(security)) as client:
        reply = client.request("mmi.services", b"")
        answering = client.endpoint
    table = Table()
    table.add_column("service", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    try:
        report = _parse_report(reply) or {}
        for row in report["services"]:
            table.add_row(Text(str(row["name"])), *(str(row[name]) for name in _COLUMNS))
        more = int(report["total"]) - table.row_count
    except (KeyError, TypeError, ValueError):
        message = f"the broker at {answering} does not know mmi.services (it replied {reply[0][:20]!r})"
        raise MDPError(message) from None
    # Only a terminal has a width that the table must fit.
    Console(width=None if sys.stdout.isatty() else 4000).print(table)
    if more > 0:
        click.echo(f"{more} more")


@click.command()
@broker_option
@timeout_option(5.0)
@click.option("--count", default=5, show_default=True, help="Round trips to make.")
@security_options
@mdp_option
def ping(endpoint: str, timeout: float, count: int, mdp: str, **security: Any) -> None:
    """Tell whether a broker answers, what it is, and how fast it is.

    Any MDP broker that has the management interface of RFC 8 answers.
    """
    if count < 1:
        raise ConfigurationError("--count must be at least 1")
    times = []
    with Client(split_endpoints(endpoint), version=mdp, timeout=timeout, **security_keywords(security)) as client:
        for _ in range(count):
            began = perf_counter()
            reply = client.request("mmi.broker", b"")
            times.append((perf_counter() - began) * 1000)
        answering = client.endpoint
    about = _parse_report(reply) or {}
    try:
        broker = f"{about['name']} {about['version']}, {about['state']}, up {about['uptime']:.0f} s"
    except (KeyError, TypeError, ValueError):
        broker = "an MDP broker"
    click.echo(
        f"{answering}: {broker}; {count} round trips: "
        f"min {min(times):.2f}, mean {sum(times) / count:.2f}, max {max(times):.2f} ms"
    )
