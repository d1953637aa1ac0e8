"""Tests wait for conditions: none sleeps for a time and hopes that what it waits for has happened."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TESTS = Path(__file__).parents[1]

#: Seconds from which a sleep is a planted hang, which the test ends.
HANG = 10

#: Sleeps that are what is tested, and why.
ALLOWED = {
    "system/test_forks.py: gevent.sleep(0.1)": "nothing is to happen, however long one waits",
    "unit/client/test_async_client.py: time.sleep(2)": "the hub is blocked for this long",
}

#: A line of a program in a string.
SLEEP = re.compile(r"\s*((?:gevent|time)\.sleep\(([\d.]+)\))")


def sleeps_of(node):
    """The calls of sleep in these statements, for a time, outside of loops and inner functions."""
    if isinstance(node, (ast.For, ast.While, ast.FunctionDef, ast.Lambda, ast.ClassDef)):
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("gevent.sleep", "time.sleep", "sleep"):
        (length,) = node.args
        if isinstance(length, ast.Constant) and 0 < length.value < HANG:
            yield ast.unparse(node)
    for child in ast.iter_child_nodes(node):
        yield from sleeps_of(child)


def sleeps_of_program(text):
    """The same of a program in a string, by its indentation."""
    blocks = []
    for line in text.splitlines():
        if not line.strip():
            continue
        indentation = len(line) - len(line.lstrip())
        while blocks and blocks[-1][0] >= indentation:
            blocks.pop()
        sleep = SLEEP.match(line)
        if (
            sleep
            and 0 < float(sleep[2]) < HANG
            and not any(re.match(r"(async )?(for|while|def|class) ", head) for _, head in blocks)
        ):
            yield sleep[1]
        blocks.append((indentation, line.strip()))


def found():
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                sleeps = [one for statement in node.body for one in sleeps_of(statement)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path != Path(__file__):
                sleeps = sleeps_of_program(node.value)
            else:
                continue
            for sleep in sleeps:
                yield f"{path.relative_to(TESTS).as_posix()}: {sleep}"


def test_no_test_sleeps_and_hopes():
    assert sorted(found()) == sorted(ALLOWED)


def test_a_sleep_is_found():
    source = "gevent.sleep(0.1)\nwith x:\n    time.sleep(2)\nfor i in x:\n    gevent.sleep(1)\ngevent.sleep(0)\n"
    assert [one for statement in ast.parse(source).body for one in sleeps_of(statement)] == [
        "gevent.sleep(0.1)",
        "time.sleep(2)",
    ]
    assert list(sleeps_of_program(source)) == ["gevent.sleep(0.1)", "time.sleep(2)"]
