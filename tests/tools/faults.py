"""The table of faults: ``python tests/tools/faults.py`` writes its column of tests anew.

A test plays a fault if its name has the fault's number between underscores, like
``test_W3_a_cable_that_is_pulled``, or its docstring mentions the number.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS / "FAULTS.md"

#: A fault's number.
_NUMBER = re.compile(r"(?<![A-Z0-9a-z])[WCBPSLGXF]\d{1,2}(?![0-9A-Za-z])")


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row: number, fault, outcome, tests."""
    for line in text.splitlines():
        if re.match(r"\| [WCBPSLGXF]\d+ \|", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def played() -> dict[str, list[str]]:
    """The tests, as "file::name", that play each fault."""
    found: dict[str, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                named = node.name.upper().replace("_", " ")
                for number in _NUMBER.findall(f"{named} {ast.get_docstring(node) or ''}"):
                    name = f"{path.relative_to(TESTS).with_suffix('').as_posix()}::{node.name}"
                    found.setdefault(number, set()).add(name)
    return {number: sorted(names) for number, names in found.items()}


def written(text: str) -> str:
    """`text`, the table, with the tests that there are now."""
    tests = played()
    lines = []
    for line in text.splitlines():
        for number, fault, outcome, *_ in rows(line):
            line = f"| {number} | {fault} | {outcome} | {', '.join(f'`{name}`' for name in tests.get(number, ()))} |"
        lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(written(TABLE.read_text(encoding="utf-8")), encoding="utf-8")
