"""The table of commands, and that each is imported only when it runs."""

import json
import os
import re
import signal
import subprocess
import sys
from unittest import mock

import click
import pytest
from processes import Process, environment, gmdp_here
from refusals import Refusal

from gmdp import Client
from gmdp.cli.group import COMMANDS, cli, import_command

#: Runs a command line, and prints the names of all modules that were loaded for it.
LOADED = """
import contextlib, io, json, sys
from gmdp_command import main

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
    assert {"rich", "matplotlib", "asyncio", "gevent.pywsgi", "gunicorn"} & modules == set()


#: What no command of these uses, and what each of them does not use besides.
UNUSED = {"gmdp.public", "gmdp.http", "gmdp.testing", "gmdp.wsgi", "gmdp.cli.supervisor", "rich", "gunicorn", "asyncio"}
CLIENT = {"gmdp.client", "gmdp.core.peer.client", "gmdp.core.peer.calls"}
WORKER = {"gmdp.worker", "gmdp.core.peer.worker", "gmdp.core.peer.sessions"}
BROKER = {"gmdp.broker", "gmdp.core.broker.core", "gmdp.core.broker.delivery", "gmdp.security.gate", "gmdp.config"}
ALL = {"gmdp.core", "gmdp.io", "gmdp.tracing", "zmq"} | CLIENT | WORKER | BROKER


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["broker", "--bind", "nonsense"], CLIENT | WORKER | {"gmdp.core.peer.connector", "gmdp.io.dealers"}),
        (["worker", "svc", "--exec", "cat", "--broker", "nonsense"], CLIENT | BROKER),
        (["call", "svc", "x", "--broker", "nonsense"], WORKER | BROKER),
        (["ping", "--broker", "nonsense"], WORKER | BROKER),
        (["keygen"], CLIENT | WORKER | BROKER | {"gmdp.io"}),
        (["--help"], ALL),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_F13_a_command_does_not_import_what_it_does_not_use(arguments, unused):
    _, modules = run_and_list_modules(*arguments)
    assert (UNUSED | unused) & modules == set()


#: Seconds of CPU time after which a broker listens at the latest.
CPU_SECONDS = 0.4


def test_F13_a_broker_listens_soon():
    """Of a few processes one is as fast, however busy the machine is: CPU time counts, and the caches may be cold."""

    def seconds():
        command = [sys.executable, "-c", "import gmdp_command; gmdp_command.main()", "broker", "--bind"]
        with subprocess.Popen([*command, "tcp://127.0.0.1:*"], stdout=subprocess.PIPE, env=environment()) as process:
            assert process.stdout.readline().startswith(b"listening on ")
            process.kill()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        return used.ru_utime + used.ru_stime

    assert any(seconds() <= CPU_SECONDS for _ in range(5))


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


# Options from the environment


def options():
    """(command, option) of every option that users may know."""
    for name in COMMANDS:
        for parameter in import_command(name).params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield name, parameter


OPTIONS = list(options())

#: The variables that several commands have in common.
SHARED = {
    "GMDP_BROKER",
    "GMDP_CURVE_KEY",
    "GMDP_MDP",
    "GMDP_PASSWORD_FILE",
    "GMDP_SERVER_KEY",
    "GMDP_USERNAME",
}


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name}{option.opts[-1]}" for name, option in OPTIONS])
def test_every_option_has_a_variable(name, option):
    flag = max(option.opts, key=len)
    own, *others = option.envvar
    assert own == f"GMDP_{name}_{flag[2:]}".replace("-", "_").upper()
    assert len(others) <= 1
    assert set(others) <= SHARED


def value_of(command, option, *arguments, **variables):
    """The value of an option of a command, for a command line and an environment."""
    with mock.patch.dict(os.environ, environment(**variables), clear=True):
        return import_command(command).make_context(command, [*arguments]).params[option]


def test_the_environment_gives_every_kind_of_option():
    assert value_of("broker", "attempts", GMDP_BROKER_ATTEMPTS="5") == 5
    assert value_of("broker", "request_ttl", GMDP_BROKER_REQUEST_TTL="2.5") == 2.5
    assert value_of("broker", "verbose", GMDP_BROKER_VERBOSE="2") == 2
    assert value_of("broker", "file", GMDP_BROKER_CONFIG="broker.toml") == "broker.toml"
    assert value_of("broker", "bind", GMDP_BROKER_BIND="tcp://*:1, ipc:///run/b") == ("tcp://*:1", "ipc:///run/b")
    assert value_of("broker", "allow", GMDP_BROKER_ALLOW="10.0.0.0/8 ipc") == ("10.0.0.0/8", "ipc")
    assert value_of("worker", "reveal_errors", "it", "m:f", GMDP_WORKER_REVEAL_ERRORS="1") is True
    assert value_of("worker", "command", "it", GMDP_WORKER_EXEC="cat") == "cat"
    assert value_of("call", "endpoint", "it", GMDP_BROKER="tcp://b:1") == "tcp://b:1"
    assert value_of("ping", "mdp", GMDP_MDP="0.1") == "0.1"
    assert value_of("bench", "sizes", GMDP_BENCH_SIZE="1 20, 300") == (1, 20, 300)
    assert value_of("bench", "versions", GMDP_BENCH_MDP="0.1,0.2") == ("0.1", "0.2")


def test_an_option_that_commands_share_has_a_variable_for_one_command_as_well():
    assert value_of("call", "endpoint", "it", GMDP_CALL_BROKER="tcp://c:1", GMDP_BROKER="tcp://b:1") == "tcp://c:1"
    assert value_of("broker", "curve_key", GMDP_CURVE_KEY="a", GMDP_BROKER_CURVE_KEY="b") == "b"
    assert value_of("ping", "endpoint", GMDP_CALL_BROKER="tcp://c:1", GMDP_BROKER="tcp://b:1") == "tcp://b:1"


def test_the_command_line_wins_over_the_environment():
    assert value_of("broker", "attempts", "--attempts", "4", GMDP_BROKER_ATTEMPTS="5") == 4
    assert value_of("broker", "bind", "--bind", "tcp://*:2", GMDP_BROKER_BIND="tcp://*:1") == ("tcp://*:2",)
    assert value_of("call", "endpoint", "it", "--broker", "tcp://a:1", GMDP_BROKER="tcp://b:1") == "tcp://a:1"


def test_the_environment_wins_over_the_file(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text('heartbeat_interval = 1\nliveness = 5\nbind = "tcp://127.0.0.1:*"')
    with Process("broker", "--config", str(file), GMDP_BROKER_HEARTBEAT_INTERVAL="2") as process:
        (endpoint,) = process.listening()
        with Client(endpoint) as client:
            report = json.loads(client.request("mmi.broker", b"")[1])
        process.signal(signal.SIGTERM)
        assert process.ended().status == 0
    assert (report["heartbeat_interval"], report["liveness"]) == (2, 5)


def test_a_wrong_value_in_the_environment_names_its_variable():
    ended = gmdp_here("broker", GMDP_BROKER_ATTEMPTS="many")
    assert ended.status == 2
    assert re.fullmatch(r"gmdp broker: \$GMDP_BROKER_ATTEMPTS: .*'many'.*", ended.one_line())


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("broker", "--request-ttl", "0"), {}, "--request-ttl must be a number greater than 0, not 0.0"),
        (("broker",), {"GMDP_BROKER_REQUEST_TTL": "0"}, "$GMDP_BROKER_REQUEST_TTL must be a number .*"),
        (("broker", "--curve-clients", "x"), {}, "--curve-clients needs --curve-key, .*"),
        (("call", "x", "x", "--timeout", "0"), {}, "--timeout must be .*"),
        (("call", "x", "x", "--curve-key", "none"), {"GMDP_SERVER_KEY": "none"}, "(--curve-key|$GMDP_SERVER_KEY): .*"),
        (("broker", "--config", "value.toml"), {}, "value.toml: attempts must be .*"),
        (("broker", "--config", "liveness"), {}, "cannot read liveness: .*"),
    ],
)
def test_an_error_names_options_as_the_user_has_written_them(folder, arguments, variables, message):
    ended = gmdp_here(*arguments, cwd=folder, **variables)
    assert ended.status == 2
    assert re.fullmatch(r"gmdp: " + message.replace("$", r"\$"), ended.one_line())


@pytest.mark.parametrize(("command", "listed"), [("keygen", False), ("broker", True), ("worker", False)])
def test_help_says_how_several_values_are_separated_where_an_option_has_several(command, listed):
    text = " ".join(gmdp_here(command, "--help").out.decode().split())
    assert ("several values with commas or spaces between" in text) == listed


@pytest.mark.parametrize("command", ["passwd", "demo"])
def test_help_names_no_variables_where_there_are_no_options(command):
    assert b"$GMDP_" not in gmdp_here(command, "--help").out


def test_help_names_the_variables():
    assert "$GMDP_KEYGEN_<OPTION>" in " ".join(gmdp_here("keygen", "--help").out.decode().split())
