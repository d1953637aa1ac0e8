"""The README, the packaging files and the code say the same."""

import ast
import configparser
import importlib.metadata
import importlib.util
import os
import re
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gmdp
from gmdp.core.broker.options import BrokerOptions

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def parsed(name):
    parser = configparser.ConfigParser()
    parser.read(ROOT / name)
    return parser


def requirements(text):
    return dict(re.findall(r"^([\w.-]+)[>=]=([\w.]+)$", text, re.M))


def test_the_oldest_dependencies_are_stated_and_tested_exactly():
    stated = requirements(parsed("setup.cfg")["options"]["install_requires"])
    tested = requirements(parsed("tox.ini")["testenv:oldest"]["deps"])
    assert set(stated) == {"gevent", "pyzmq", "zope.interface"}
    assert tested == stated


def test_every_python_that_is_claimed_has_an_environment():
    claimed = re.findall(r"Python :: 3\.(\d+)", parsed("setup.cfg")["metadata"]["classifiers"])
    environments = re.findall(r"py3(\d+)", parsed("tox.ini")["tox"]["env_list"])
    assert claimed == environments
    assert claimed[0] == "10"


def closure(requirements, extra=""):
    """The distributions that requirements bring along, as they are installed here."""
    found = set()
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        found.add(name)
        theirs = importlib.metadata.requires(name) or []
        for each in ["", *requirement.extras]:
            found |= closure([one for one in theirs if name != "gmdp"], each)
    return found


def test_the_extra_of_the_gateway_brings_what_gunicorns_worker_imports():
    stated = parsed("setup.cfg")["options.extras_require"]["gateway"].splitlines()
    brought = closure([line for line in stated if line and not line.startswith(("#", "gmdp"))])
    source = Path(importlib.util.find_spec("gunicorn").origin).parent / "workers" / "ggevent.py"
    imports = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.ImportFrom)]
    modules = {node.module.partition(".")[0] for node in imports}
    distributions = importlib.metadata.packages_distributions()
    needed = {canonicalize_name(name) for module in modules for name in distributions.get(module, ())}
    assert {"gunicorn", "gevent", "packaging"} <= needed <= brought


def test_the_package_is_typed_and_has_a_command():
    assert (ROOT / "gmdp" / "py.typed").exists()
    (script,) = [one for one in importlib.metadata.entry_points(group="console_scripts") if one.name == "gmdp"]
    assert script.value == "gmdp_command:main"
    assert importlib.metadata.version("gmdp") == gmdp.__version__


def test_the_python_of_the_readme_runs_and_prints_what_it_says():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    said = re.findall(r"print\(.*\)\s+# (\[.*\])$", code, re.M)
    assert (done.stderr, done.stdout.splitlines()) == ("", said)
    assert len(said) == 4


def test_the_toml_of_the_readme_is_a_brokers_configuration(tmp_path):
    from gmdp import Broker, config

    (text,) = re.findall(r"```toml\n(.*?)```", README, re.S)
    (tmp_path / "broker.toml").write_text(text)
    broker = Broker(**config.load(tmp_path / "broker.toml"))
    assert broker.options.for_service(b"report.daily").request_ttl == 600
    assert broker.options.for_service(b"other").request_ttl == broker.options.request_ttl == 30


def test_the_readmes_table_of_options_has_the_defaults_of_the_code():
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", README, re.M)
    told = {}
    for names, defaults in rows:
        values = re.split(r", (?=\d)", defaults)
        for name, value in zip(re.findall(r"`(\w+)`", names), values, strict=True):
            told[name] = value
    factors = {"s": 1, "MiB": 1024 * 1024}
    for option in fields(BrokerOptions):
        if option.name == "services":
            continue
        if isinstance(option.default, bool):
            assert told[option.name] == ("on" if option.default else "off"), option.name
            continue
        number, _, unit = told[option.name].partition(" ")
        assert float(number.replace(",", "")) * factors.get(unit, 1) == option.default, option.name


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^    (python3 -m venv .*)$", README, re.M)
    assert len(commands) == 2
    assert commands[1].endswith("install --quiet tox && .venv/bin/tox")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^python \.ci/environments\.py", ci, re.M)
    assert re.search(r"-m venv", ci)


def test_the_commands_of_the_readme_exist():
    from gmdp.cli.group import COMMANDS

    block = re.search(r"## The command line.*?## What the broker", README, re.S)[0]
    named = set(re.findall(r"^    gmdp (\w+)", block, re.M))
    assert named == set(COMMANDS)


def test_the_errors_in_the_tree_are_the_errors_there_are():
    from gmdp import exceptions

    drawn = re.findall(r"[├└]── (\w+)", exceptions.__doc__)
    there = [name for name, kind in vars(exceptions).items() if isinstance(kind, type) and name != "MDPError"]
    assert sorted(drawn) == sorted(there)
    assert set(there) <= set(gmdp.__all__)


def test_the_lines_of_the_readme_about_security_do_what_they_say(tmp_path):
    """As a user copies them, on another port."""
    (lines,) = re.findall(r"Seven lines of shell:\n\n((?:    .*\n)+)", README)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = 'set -e; trap "kill 0" EXIT\ngmdp() { python -m gmdp "$@"; }\n' + lines.replace("5555", port)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env=environment,
        start_new_session=True,
    )
    assert done.stdout.endswith("HELLO"), done
    assert {path.name for path in tmp_path.iterdir()} >= {"broker.key", "broker.key_secret", "allowed"}
    assert len(lines.splitlines()) == 7


def test_the_rules_of_the_readme_are_rules(tmp_path):
    from gmdp import Broker, config

    (text,) = re.findall(r"reconsider\(\)`:\n\n((?:      .*\n|\n)+)", README)
    (tmp_path / "broker.toml").write_text(text)
    broker = Broker(**config.load(tmp_path / "broker.toml"))
    assert broker._policy("worker7", "serve", b"report.daily")
    assert broker._policy("bob", "call", b"upper")
    assert not broker._policy("bob", "serve", b"upper")
