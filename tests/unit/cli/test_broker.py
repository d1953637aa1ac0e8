"""``gmdp broker``: what it refuses."""

import re
from dataclasses import fields

import click
import pytest
from refusals import Refusal

from gmdp.cli.group import import_command
from gmdp.core.broker.options import BrokerOptions, ServiceOptions

REFUSALS = [
    Refusal("no endpoint", ["broker", "--bind", "nonsense"], "bad endpoint 'nonsense': it must begin with tcp://.*"),
    Refusal("empty endpoint", ["broker", "--bind", ""], "bad endpoint '': it must begin with tcp://.*"),
    Refusal("no port", ["broker", "--bind", "tcp://127.0.0.1"], "bad endpoint 'tcp://127.0.0.1': .* tcp://HOST:PORT"),
    Refusal("large port", ["broker", "--bind", "tcp://127.0.0.1:99999"], ".*99999.*: the port must be at most 65535"),
    Refusal("word for a port", ["broker", "--bind", "tcp://localhost:abc"], r".*: .* the port must be a number or \*"),
    Refusal("inproc", ["broker", "--bind", "inproc://x"], "bad endpoint 'inproc://x': .* in one process; use tcp.*"),
    Refusal("inproc in a file", ["broker", "--config", "inproc.toml"], "bad endpoint 'inproc://x': .* one process.*"),
    Refusal("a file's name", ["broker", "--bind", "ipc://handlers.py"], "cannot bind .* not a socket .* replaced", 1),
    Refusal("unknown option", ["broker", "--liveliness", "3"], ".*[Nn]o such option.*--liveliness.*--liveness.*"),
    Refusal("no number", ["broker", "--liveness", "often"], ".*--liveness.*'often' is not a valid.*"),
    Refusal("not whole", ["broker", "--attempts", "1.5"], ".*--attempts.*'1.5' is not a valid.*"),
    Refusal("no value", ["broker", "--attempts"], ".*--attempts.* requires an argument.*"),
    Refusal("wrong value", ["broker", "--liveness", "2"], "--liveness must be a number of at least 3, not 2.*"),
    Refusal(
        "not a number", ["broker", "--request-ttl", "nan"], "--request-ttl must be a number greater than 0, not nan"
    ),
    Refusal("no messages", ["broker", "--hwm", "0"], "--hwm must be a whole number of at least 1, not 0"),
    Refusal("beyond an int", ["broker", "--hwm", "99999999999", "--bind", "{busy}"], "--hwm must be .*"),
    Refusal(
        "beyond a long", ["broker", "--max-frame-size", "9" * 30, "--bind", "{busy}"], "--max-frame-size must be .*"
    ),
    Refusal(
        "beyond a year",
        ["broker", "--heartbeat-interval", "1e10", "--bind", "{busy}"],
        "--heartbeat-interval must be .*",
    ),
    Refusal("extra argument", ["broker", "extra"], ".*[Gg]ot unexpected extra argument.*extra.*"),
    Refusal(
        "file not there", ["broker", "--config", "nowhere.toml"], "cannot read nowhere.toml: No such file or directory"
    ),
    Refusal("file is a folder", ["broker", "--config", "."], r"cannot read \.: Is a directory"),
    Refusal("file is no TOML", ["broker", "--config", "syntax.toml"], "syntax.toml is not valid TOML: .*line 2.*"),
    Refusal(
        "unknown key",
        ["broker", "--config", "name.toml"],
        "name.toml: unknown option 'heartbeat_intervall'; did you mean 'heartbeat_interval'.*",
    ),
    Refusal(
        "unknown key of a service",
        ["broker", "--config", "service.toml"],
        r"service.toml: services\['a.\*'\]: unknown option 'request_tttl'; did you mean 'request_ttl'.*",
    ),
    Refusal(
        "value of a key", ["broker", "--config", "value.toml"], "value.toml: attempts must be a whole number.*, not 0"
    ),
    Refusal(
        "value of a key of a service",
        ["broker", "--config", "service_value.toml"],
        r"service_value.toml: services\['a.\*'\]: attempts must be a whole number.*, not 'many'",
    ),
    Refusal(
        "endpoint of a file", ["broker", "--config", "bind.toml"], "bind.toml: bad endpoint 'udp://127.0.0.1:1': .*"
    ),
    Refusal(
        "a wrong file is refused though the command line overrides it",
        ["broker", "--config", "value.toml", "--attempts", "3"],
        "value.toml: attempts must be .*",
    ),
    Refusal("key for Python only", ["broker", "--config", "context.toml"], "context.toml: unknown option 'context'.*"),
    Refusal(
        "endless number",
        ["broker", "--config", "endless.toml", "--bind", "{busy}"],
        "endless.toml: max_queue must be .*",
    ),
]


@pytest.mark.parametrize(
    "option",
    [one for one in import_command("broker").params if isinstance(one, click.Option)],
    ids=lambda one: one.name,
)
def test_each_option_says_what_it_does(option):
    """The texts are those of the options' docstrings."""
    text = re.sub(r"\[default: .*\]", "", option.help).strip()
    assert re.fullmatch(r"[A-Z].*[^`]*\.", text), text
    docstring = " ".join(f"{ServiceOptions.__doc__} {BrokerOptions.__doc__}".replace("`", "").split())
    if option.name in {each.name for each in fields(BrokerOptions)}:
        assert f"{option.name}: {text}" in docstring


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_refusal_is_one_line(folder, busy, refusal):
    refusal.filled(busy=busy).check(folder)
