"""The results as a table, as JSON and as a picture."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from ...exceptions import ConfigurationError
from ...version import __version__
from ..printing import print_table
from .measuring import Result
from .stacks import GMDP

#: The kinds of files that `--plot` can write.
PICTURES = (".png", ".svg")


def machine() -> dict[str, Any]:
    """Return facts about the machine and the versions with which the results were measured."""
    versions = {name: metadata.version(name) for name in ("gevent", "pyzmq", "zope.interface")}
    return {
        "gmdp": __version__,
        "python": platform.python_version(),
        **versions,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 2)


def as_dict(result: Result, ours: Result | None) -> dict[str, Any]:
    """The result as plain types.

    `ours` is gmdp's result for the same size and number of callers, if the two are compared.
    """
    point, measured = result.point, result.measured
    row = {
        "stack": point.stack,
        "mdp": point.mdp or None,
        "size": point.size,
        "concurrency": point.concurrency,
        "requests": measured.requests,
        "errors": measured.errors,
        "seconds": _rounded(measured.seconds),
        "rate": _rounded(result.rate),
        "p50_ms": _rounded(measured.p50),
        "p99_ms": _rounded(measured.p99),
        "max_ms": _rounded(measured.max),
        "broker_cpu_us": _rounded(result.cpu_per_request(result.broker_cpu)),
        "worker_cpu_us": _rounded(result.cpu_per_request(result.worker_cpu)),
        "client_cpu_us": _rounded(result.cpu_per_request(measured.cpu)),
    }
    if ours is not None:
        row["gmdp_ratio"] = round(ours.rate / result.rate, 4) if result.rate else None
    return row


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """All results as plain types.

    Where others were measured besides gmdp, each result has ``gmdp_ratio``: gmdp's rate divided
    by that of the result.
    """
    compared = any(result.point.stack != GMDP for result in results)
    return [as_dict(result, _find_ours(result, results) if compared else None) for result in results]


def _find_ours(result: Result, results: Sequence[Result]) -> Result | None:
    """gmdp's result for the same size and number of callers: in the same version, else in the last one."""
    point = result.point
    ours = [
        other
        for other in results
        if other.point.stack == GMDP and (other.point.size, other.point.concurrency) == (point.size, point.concurrency)
    ]
    return next((other for other in ours if other.point.mdp == point.mdp), ours[-1] if ours else None)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of the results."""
    columns = {
        "stack": "stack",
        "mdp": "mdp",
        "size": "bytes",
        "concurrency": "callers",
        "rate": "requests/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "max_ms": "max ms",
        "broker_cpu_us": "broker µs",
        "worker_cpu_us": "worker µs",
        "client_cpu_us": "client µs",
        "errors": "errors",
    }
    if any("gmdp_ratio" in row for row in rows):
        columns["gmdp_ratio"] = "gmdp carries"
    texts = [[_text(key, row.get(key)) for key in columns] for row in rows]
    print_table(tuple(columns.values()), texts, text=("stack", "errors"))
    click.echo("µs: CPU per request")


def _text(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "errors":
        return ", ".join(f"{count} {name}" for name, count in value.items())
    if key == "rate":
        return f"{value:,.0f}"
    if key == "gmdp_ratio":
        return f"{value:.2f}×"
    return f"{value:.0f}" if key.endswith("_us") else str(value)


def check_picture(file: Path) -> None:
    """Raise ConfigurationError unless `plot` can write `file`."""
    if file.suffix not in PICTURES:
        raise ConfigurationError(f"--plot writes {' or '.join(PICTURES)}, not {file.name}")
    if not os.access(file.parent, os.W_OK):
        raise ConfigurationError(f"--plot cannot write to the folder {file.parent}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigurationError("--plot needs matplotlib: pip install 'gmdp[plot]'") from None


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw throughput and latency percentiles over the number of callers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        version = f" {row['mdp']}" if row["mdp"] else ""
        series.setdefault(f"{row['stack']}{version}, {row['size']} bytes", []).append(row)
    for index, (name, points) in enumerate(series.items()):
        color = f"C{index % 10}"
        callers = [row["concurrency"] for row in points]
        left.plot(callers, [row["rate"] for row in points], "o-", color=color, label=name)
        for key, style in (("p50_ms", "o-"), ("p99_ms", "o:")):
            right.plot(callers, [row[key] for row in points], style, color=color, label=f"{name}, {key[:3]}")
    for axes, title in ((left, "requests per second"), (right, "latency, milliseconds")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("callers")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    left.legend(fontsize="small")
    right.legend(fontsize="small")
    figure.savefig(file)
