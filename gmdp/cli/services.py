"""``gmdp services``, ``workers``, ``statistics`` and ``ping``: a broker's reports."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from time import perf_counter
from typing import Any

import click

from ..client.client import Client
from ..exceptions import ConfigurationError, MDPError, RequestTimeout
from ..protocol.dialects import VERSIONS
from ..protocol.text import show_name
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
from .spelling import Command


def _report_options(command: F) -> F:
    """Add the options of a command that prints a broker's report."""
    for option in (mdp_option, security_options, json_option, timeout_option(5.0), broker_option):
        command = option(command)
    return command


def _parse_report(reply: list[bytes]) -> dict[str, Any] | None:
    """Return the JSON object in a reply of a gmdp broker's management service; None if the reply holds none."""
    try:
        if reply[0] == b"200" and len(reply) == 2:
            report = json.loads(reply[1])
            return report if isinstance(report, dict) else None
    except (ValueError, RecursionError):
        pass
    return None


def _ask(
    report: str, name: str, endpoint: str, timeout: float, mdp: str, security: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Ask the broker for a report, about everything or about `name`; MDPError if it has none.

    Returns the report, and the endpoint of the broker.
    """
    keywords = security_keywords(security)
    with Client(split_endpoints(endpoint), version=mdp, timeout=timeout, **keywords) as client:
        reply = client.request(report, os.fsencode(name))
        answering = client.endpoint
    parsed = _parse_report(reply)
    if parsed is None:
        raise MDPError(f"the broker at {answering} does not know {report} (it replied {show_name(reply[0], 20)})")
    return parsed, answering


#: Columns that a broker of gmdp 0.1.0 does not report.
_ADDED = frozenset({"mute"})


def _cell(row: Mapping[str, Any], column: str) -> object:
    """Return what a row has in a column; nothing is an empty cell."""
    value = row.get(column) if column in _ADDED else row[column]
    return "" if value is None else value


def _print_rows(report: dict[str, Any], table: str, columns: Mapping[str, str], text: Collection[str]) -> None:
    """Print the rows of a report's `table`, and how many there are beyond them.

    `columns`: their keys and titles.  `text`: the titles of those that are not numbers.
    Raises KeyError, TypeError, ValueError or OverflowError if the report is not of gmdp.
    """
    rows = [[_cell(row, column) for column in columns] for row in report[table]]
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
    mdp: str,
    security: dict[str, Any],
    columns: Mapping[str, str],
    text: Collection[str],
    absence: str,
) -> None:
    """Print one of a broker's lists; MDPError with the text `absence` if `service` is not in it."""
    report, answering = _ask(f"mmi.{table}", service, endpoint, timeout, mdp, security)
    if as_json:
        print_json(report)
        return
    try:
        if service and not report[table]:
            raise MDPError(f"the broker at {answering} {absence}")
        _print_rows(report, table, columns, text)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise MDPError(f"the broker at {answering} has another mmi.{table} than gmdp's") from None


_COUNTS = ("workers", "idle", "mute", "busy", "queued", "requests", "replies")


@click.command(cls=Command)
@click.argument("service", default="")
@_report_options
def services(service: str, endpoint: str, timeout: float, as_json: bool, mdp: str, **security: Any) -> None:
    """List the services a broker knows, their workers and queues.

    With SERVICE, that one alone.  Each worker is idle, mute or busy: a mute one has no request, has
    said nothing for two heartbeat intervals, and gets no request until it speaks.
    """
    columns = {"name": "service", **{name: name for name in _COUNTS}}
    absence = f"knows no service {service!r}"
    _list("services", service, endpoint, timeout, as_json, mdp, security, columns, ("service",), absence)


@click.command(cls=Command)
@click.argument("service", default="")
@_report_options
def workers(service: str, endpoint: str, timeout: float, as_json: bool, mdp: str, **security: Any) -> None:
    """List the workers of a broker, what they do and since when.

    With SERVICE, those of that service.  A worker is idle, busy, or mute (silent for two heartbeat
    intervals, so that it gets no request).  Times are seconds: in the present state, since the
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
    text, absence = ("service", "protocol", "state"), f"has no worker for {service!r}"
    _list("workers", service, endpoint, timeout, as_json, mdp, security, columns, text, absence)


@click.command(cls=Command)
@_report_options
def statistics(endpoint: str, timeout: float, as_json: bool, mdp: str, **security: Any) -> None:
    """Show a broker's counters.

    Each comes with what it tells; totals are since the broker's start.
    """
    report, _ = _ask("mmi.statistics", "", endpoint, timeout, mdp, security)
    if as_json:
        print_json(report)
        return
    # Other commands do not need these modules.
    from ..core.broker.reasons import DropReason, LossReason
    from ..core.broker.statistics import BrokerStatistics
    from ..core.outcomes import EndReason

    reasons: dict[str, Iterable[Any]] = {"ended": EndReason, "lost_workers": LossReason, "drops": DropReason}
    rows: list[tuple[str, object, str]] = []
    for name, value in report.items():
        measure = BrokerStatistics.measures.get(name)
        text = measure.text if measure is not None else ""
        if not isinstance(value, dict):
            rows.append((name, round(value, 3) if isinstance(value, float) else value, text))
            continue
        texts = {reason.value: reason.text for reason in reasons.get(name, ())}
        rows += [(f"{name}: {key}", number, texts.get(key, text)) for key, number in value.items()]
    print_table(("counter", "value", "tells"), rows, text=("counter", "tells"))


def _ping(
    endpoints: list[str], mdp: str, timeout: float, count: int, keywords: dict[str, Any]
) -> tuple[list[bytes], list[float], str]:
    """Make `count` round trips: (the last reply, milliseconds of each, the endpoint that answered)."""
    times = []
    with Client(endpoints, version=mdp, timeout=timeout, **keywords) as client:
        for _ in range(count):
            began = perf_counter()
            reply = client.request("mmi.broker", b"")
            times.append((perf_counter() - began) * 1000)
        return reply, times, client.endpoint


@click.command(cls=Command)
@broker_option
@timeout_option(5.0)
@click.option("--count", default=5, show_default=True, help="Round trips to make.")
@json_option
@security_options
@click.option(
    "--mdp",
    envvar="GMDP_MDP",
    default=None,
    type=click.Choice(sorted(VERSIONS)),
    help="The protocol's version; else $GMDP_MDP; else 0.1 and then 0.2, each for half of the time.",
)
def ping(endpoint: str, timeout: float, count: int, as_json: bool, mdp: str | None, **security: Any) -> None:
    """Tell whether a broker answers, what it is, and how fast it is.

    Any MDP broker that has the management interface of RFC 8 answers.
    """
    if count < 1:
        raise ConfigurationError("--count must be at least 1")
    endpoints, keywords = split_endpoints(endpoint), security_keywords(security)
    if mdp is not None:
        reply, times, answering = _ping(endpoints, mdp, timeout, count, keywords)
    else:
        # 0.1 first: a gmdp broker answers both, and the one of ZeroMQ's guide ends at a message of 0.2.
        mdp = "0.1"
        try:
            reply, times, answering = _ping(endpoints, mdp, timeout / 2, count, keywords)
        except RequestTimeout:
            mdp = "0.2"
            try:
                reply, times, answering = _ping(endpoints, mdp, timeout / 2, count, keywords)
            except RequestTimeout as error:
                raise RequestTimeout(f"{error}; MDP/0.1 was tried before, in vain") from None
    about = _parse_report(reply) or {}
    if as_json:
        took = {"min": min(times), "mean": sum(times) / count, "max": max(times)}
        print_json({"endpoint": answering, "broker": about, "round_trips": count, "milliseconds": took})
        return
    try:
        broker = f"{about['name']} {about['version']}, {about['state']}, up {about['uptime']:.0f} s"
    except (KeyError, TypeError, ValueError, OverflowError):
        broker = f"an MDP/{mdp} broker"
    click.echo(
        f"{answering}: {printable(broker)}; {count} round trips: "
        f"min {min(times):.2f}, mean {sum(times) / count:.2f}, max {max(times):.2f} ms"
    )
