"""The table of commands, and that each is imported only when it runs."""

import json
import subprocess
import sys

import click
import pytest
from processes import gmdp_here
from refusals import Refusal

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


def test_without_arguments_it_shows_what_there_is_and_fails():
    ended = gmdp_here()
    assert ended.status == 2
    assert b"Commands:" in ended.out + ended.err


REFUSALS = [
    Refusal("unknown command", ["cal", "x"], ".*[Nn]o such command 'cal'.*"),
    Refusal("unknown option of all", ["--brocker"], ".*[Nn]o such option.*--brocker.*"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(refusal):
    refusal.check()


HELP = {
    (): ["broker", "worker", "call", "services", "ping", "demo", "--version", "gmdp call"],
    ("broker",): [
        *("--bind", "--config", "--hwm", "--heartbeat-interval", "--liveness", "--busy-timeout", "--request-ttl"),
        *("--attempts", "--max-services", "--max-workers", "--max-queue", "--max-queue-bytes", "--max-frames"),
        *("--max-frame-size", "--verbose", "tcp://127.0.0.1:5555", "SIGTERM", "listening on", "seconds"),
    ],
    ("worker",): [
        *("SERVICE", "PACKAGE.MODULE:CALLABLE", "--exec", "--broker", "--concurrency", "--heartbeat-interval"),
        *("--liveness", "--mdp", "--verbose", "GMDP_BROKER", "standard input", "500", "SIGTERM"),
    ],
    ("call",): [
        *("SERVICE", "FRAME", "--broker", "--timeout", "--mdp", "GMDP_BROKER", "standard input", "standard output"),
        *("124", "tcp://127.0.0.1:5555"),
    ],
    ("services",): ["--broker", "--timeout", "GMDP_BROKER", "tcp://127.0.0.1:5555"],
    ("ping",): ["--broker", "--timeout", "--count", "--mdp", "GMDP_BROKER", "tcp://127.0.0.1:5555"],
    ("demo",): ["FOLDER", "four worker processes", "Exit status"],
}


@pytest.mark.parametrize("command", HELP, ids=lambda command: command[0] if command else "gmdp")
def test_help_says_what_a_user_needs(command):
    ended = gmdp_here(*command, "--help")
    assert (ended.status, ended.err) == (0, b"")
    text = " ".join(ended.out.decode().split())
    assert text.startswith(" ".join(["Usage: gmdp", *command]))
    assert [word for word in [*HELP[command], "--help"] if word not in text] == []
    assert max(map(len, ended.out.decode().splitlines())) <= 80
