"""CONFORMANCE.md tells the truth: its rows and the docstrings of the tests it names say the same."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

HERE = Path(__file__).parent
TABLE = HERE / "CONFORMANCE.md"

#: A docstring's quotations: source, section, sentence.
QUOTATION = re.compile(r'^(RFC [\w ]+|The majortomo package), ([^:]+): "(.+)"$')


def quotations(docstring):
    """The (source, section, sentence) of each quotation; one begins on a line of its own and may go on."""
    lines = []
    for line in docstring.strip().splitlines():
        if re.match(r"RFC \d|The majortomo package, ", line.strip()):
            lines.append(line.strip())
        else:
            lines[-1] += " " + line.strip()
    return [found.groups() if (found := QUOTATION.match(line)) else (line, "", "") for line in lines]


def written():
    """Each test of the RFCs, as "file::name", with its quotations."""
    found = {}
    for path in sorted(HERE.glob("test_rfc*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.stem}::{node.name}"] = quotations(ast.get_docstring(node) or "")
    return found


def listed():
    """Each row of the table: (source, section, sentence) and its tests."""
    found = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and "::" in line:
            source, section, sentence, names = cells
            found.append(((source, section, sentence), re.findall(r"`([^`]+)`", names)))
    return found


TESTS = written()
ROWS = listed()


def test_the_table_has_rows_and_there_are_tests():
    assert len(ROWS) > 50
    assert len(TESTS) > 100


@pytest.mark.parametrize("names", [names for _, names in ROWS], ids=[row[2][:60] for row, _ in ROWS])
def test_every_test_a_row_names_exists(names):
    assert names
    assert [name for name in names if name not in TESTS] == []


def test_no_row_is_there_twice():
    sentences = [row for row, _ in ROWS]
    assert [row for row in sentences if sentences.count(row) > 1] == []


@pytest.mark.parametrize("name", list(TESTS))
def test_every_test_is_in_the_rows_of_the_sentences_it_quotes(name):
    assert TESTS[name], "it quotes no sentence"
    assert sorted(row for row, names in ROWS if name in names) == sorted(TESTS[name])
