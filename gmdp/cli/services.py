"""``gmdp services``, ``workers``, ``statistics`` and ``ping``: a broker's reports."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from time import perf_counter
from typing import Any

import click

from ..client.client import Client
from ..exceptions import ConfigurationError, MDPError
from .options import (
    F,
    broker_option,
    json_option,
    mdp_option,
    security_keywords,
    security_options,
    split_endpoints,
    timeout_option,
)
from .printing import print_json, print_table, printable


def _report_options(command: F) -> F:
    """Add the options of a command that prints a broker's report."""
    for option in (security_options, json_option, timeout_option(5.0), broker_option):
        command = option(command)
    return command


def _parse_report(reply: list[bytes]) -> dict[str, Any] | None:
    """Return the JSON object in a reply of a gmdp broker's management service; None if the reply holds none."""
    try:
        if reply[0] == b"200" and len(reply) == 2:
            report = json.loads(reply[1])
            return report if isinstance(report, dict) else None
    except ValueError:
        pass
    return None


def _ask(report: str, name: str, endpoint: str, timeout: float, security: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Ask the broker for a report, about everything or about `name`; MDPError if it has none.

    Returns the report, and the endpoint of the broker.
    """
    with Client(split_endpoints(endpoint), timeout=timeout, **security_keywords(security)) as client:
        reply = client.request(report, os.fsencode(name))
        answering = client.endpoint
    parsed = _parse_report(reply)
    if parsed is None:
        raise MDPError(f"the broker at {answering} does not know {report} (it replied {reply[0][:20]!r})")
    return parsed, answering


def _print_rows(report: dict[str, Any], table: str, columns: Mapping[str, str], text: Collection[str]) -> None:
    """Print the rows of a report's `table`, and how many there are beyond them.

    `columns`: their keys and titles.  `text`: the titles of those that are no numbers.
    Raises KeyError, TypeError or ValueError if the report is not of gmdp.
    """
    rows = [[row[column] for column in columns] for row in report[table]]
    more = int(report["total"]) - len(rows)
    print_table(tuple(columns.values()), rows, text)
    if more > 0:
        click.echo(f"{more} more")


def _list(
    table: str,
    service: str,
    endpoint: str,
    timeout: float,
    as_json: bool,
    security: dict[str, Any],
    columns: Mapping[str, str],
    text: Collection[str],
) -> None:
    """Print one of a broker's lists."""
    report, answering = _ask(f"mmi.{table}", service, endpoint, timeout, security)
    if as_json:
        print_json(report)
        return
    try:
        _print_rows(report, table, columns, text)
    except (KeyError, TypeError, ValueError):
        raise MDPError(f"the broker at {answering} has another mmi.{table} than gmdp's") from None


_COUNTS = ("workers", "idle", "busy", "queued", "requests", "replies")


@click.command()
@click.argument("service", default="")
@_report_options
def services(service: str, endpoint: str, timeout: float, as_json: bool, **security: Any) -> None:
    """List the services a broker knows, their workers and queues.

    With SERVICE, that one alone.
    """
    columns = {"name": "service", **{name: name for name in _COUNTS}}
    _list("services", service, endpoint, timeout, as_json, security, columns, text=("service",))


@click.command()
@click.argument("service", default="")
@_report_options
def workers(service: str, endpoint: str, timeout: float, as_json: bool, **security: Any) -> None:
    """List the workers of a broker, what they do and since when.

    With SERVICE, those of that service.  Times are seconds: in the present state, since the
    registration, and since the broker last heard of the worker.
    """
    columns = {
        "service": "service",
        "protocol": "protocol",
        "state": "state",
        "state_seconds": "for",
        "registered_seconds": "registered",
        "heard_seconds": "heard",
        "served": "served",
    }
    _list("workers", service, endpoint, timeout, as_json, security, columns, text=("service", "protocol", "state"))


@click.command()
@_report_options
def statistics(endpoint: str, timeout: float, as_json: bool, **security: Any) -> None:
    """Show a broker's counters.

    README.md says what they count; totals are since the broker's start.
    """
    report, _ = _ask("mmi.statistics", "", endpoint, timeout, security)
    if as_json:
        print_json(report)
        return
    rows: list[tuple[str, object]] = []
    for name, value in report.items():
        if isinstance(value, dict):
            rows += [(f"{name}: {key}", number) for key, number in value.items()]
        else:
            rows.append((name, value))
    print_table(("counter", "value"), rows, text=("counter",))


@click.command()
@broker_option
@timeout_option(5.0)
@click.option("--count", default=5, show_default=True, help="Round trips to make.")
@json_option
@security_options
@mdp_option
def ping(endpoint: str, timeout: float, count: int, as_json: bool, mdp: str, **security: Any) -> None:
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
    if as_json:
        took = {"min": min(times), "mean": sum(times) / count, "max": max(times)}
        print_json({"endpoint": answering, "broker": about, "round_trips": count, "milliseconds": took})
        return
    try:
        broker = f"{about['name']} {about['version']}, {about['state']}, up {about['uptime']:.0f} s"
    except (KeyError, TypeError, ValueError):
        broker = "an MDP broker"
    click.echo(
        f"{answering}: {printable(broker)}; {count} round trips: "
        f"min {min(times):.2f}, mean {sum(times) / count:.2f}, max {max(times):.2f} ms"
    )
