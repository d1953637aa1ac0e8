"""The table of commands, and that each is imported only when it runs."""

import json
import subprocess
import sys

import click
import pytest

from gmdp.cli.group import COMMANDS, cli, import_command

#: Runs a command line, and prints the names of all modules that were loaded for it.
LOADED = """
import contextlib, io, json, sys
from gmdp.cli import main

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        main()
    except SystemExit as exit:
        status = exit.code
print(json.dumps([status, list(sys.modules)]))
"""


def run_and_list_modules(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    status, modules = json.loads(done.stdout)
    return status, set(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_of_a_command_is_the_first_sentence_of_its_help(name):
    command = import_command(name)
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(limit=200) == COMMANDS[name].help


def test_the_group_has_the_commands_of_the_table_and_no_others():
    context = click.Context(cli)
    assert cli.list_commands(context) == sorted(COMMANDS)
    assert cli.get_command(context, "call") is import_command("call")
    assert cli.get_command(context, "coll") is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["broker", "--bind", "nonsense"],
        ["worker", "svc", "--exec", "cat", "--broker", "nonsense"],
        ["call", "svc", "x", "--broker", "nonsense"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_loads_nothing_of_the_others(arguments):
    """Neither the benchmark nor what draws tables and pictures: a process starts faster without them."""
    status, modules = run_and_list_modules(*arguments)
    assert status == 2
    assert f"gmdp.cli.{arguments[0]}" in modules
    assert "gmdp.cli.bench" not in modules
    assert {"rich", "matplotlib", "asyncio", "gevent.pywsgi"} & modules == set()


def test_help_imports_no_command():
    status, modules = run_and_list_modules("--help")
    assert status == 0
    assert {f"gmdp.cli{entry.module}" for entry in COMMANDS.values()} & modules == set()
