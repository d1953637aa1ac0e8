"""What commands print: names that strangers chose, tables, and JSON.

The rules of this module:

* Nothing that is printed moves a terminal's cursor or changes its colours: a character that is
  not printable is shown escaped.  What a service answers to ``gmdp call`` is the exception.
* A table has lines around it on a terminal only.  For a program there are aligned columns, and JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import click

from ..protocol.text import escape


def printable(text: object, keep: str = "") -> str:
    r"""Return `text` with every character escaped (``\x1b``) that is neither printable nor in `keep`."""
    return escape(str(text), keep)


class PrintableFormatter(logging.Formatter):
    """A formatter of log records whose lines are printable."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return printable(super().format(record), keep="\n\t")


def print_json(value: Any) -> None:
    """Print `value` as one line of JSON, in ASCII."""
    click.echo(json.dumps(value))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], text: Collection[str] = ()) -> None:
    """Print a table; the columns in `text` are text, the others numbers.

    On a terminal it has lines, and long text is folded.  Elsewhere the columns are aligned by spaces.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty() and find_spec("rich") is not None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for column in columns:
            table.add_column(column, justify="left" if column in text else "right", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (list(columns), *cells):
        aligned = (
            cell.ljust(width) if column in text else cell.rjust(width)
            for column, cell, width in zip(columns, row, widths, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())
