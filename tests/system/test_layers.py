"""The layout that must stay true: what may import what, and what users import."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import layout
import pytest

import gmdp

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "gmdp"

# Floors


def test_imports_go_down_or_stay_in_their_package():
    assert layout.problems(ROOT) == []


@pytest.fixture
def planted(tmp_path):
    """A function: writes modules of a package ``gmdp`` and returns the problems that the checker finds."""

    def plant(modules):
        for name, source in modules.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return layout.problems(tmp_path)

    return plant


@pytest.mark.parametrize(
    "source",
    [
        "from ..broker.broker import Broker",
        "from .. import broker",
        "import gmdp.broker",
        "from gmdp import Broker",
        "def f():\n    from ..cli import main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..broker.broker import Broker",
    ],
)
def test_an_import_that_goes_up_is_found(planted, source):
    (problem,) = planted({"gmdp/io/link.py": source, "gmdp/broker/broker.py": ""})
    assert problem.startswith("gmdp.io.link:")
    assert problem.endswith("goes up")


def test_an_import_of_a_package_on_the_same_floor_is_found(planted):
    (problem,) = planted({"gmdp/client/client.py": "from ..broker.broker import Broker", "gmdp/broker/broker.py": ""})
    assert problem == "gmdp.client.client:1: the import of gmdp.broker.broker crosses its floor"


def test_a_package_without_a_floor_is_found(planted):
    assert planted({"gmdp/attic/things.py": ""}) == ["gmdp.attic.things has no floor"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gmdp/broker/engine.py", "import zmq.green"),
        ("gmdp/testing/leaks.py", "from zmq import DEALER"),
        ("gmdp/admin/page.py", "import click"),
        ("gmdp/http/gateway.py", "from rich.table import Table"),
        ("gmdp/cli/serving.py", "import gunicorn"),
        ("gmdp/client/calls.py", "import msgspec"),
        ("gmdp/titanic/owner.py", "import psycopg"),
        ("gmdp/io/owner.py", "from .._pump import receive"),
        ("gmdp/io/link.py", "from .. import _pump"),
    ],
)
def test_a_library_outside_its_packages_is_found(planted, module, source):
    (problem,) = planted({module: source})
    assert "belongs to" in problem


@pytest.mark.parametrize("source", ["import time", "import gevent", "import logging", "def f():\n    import random"])
def test_a_pure_floor_that_imports_more_than_the_pure_library_is_found(planted, source):
    for module in ("gmdp/core/timers.py", "gmdp__protocol__wire"):
        assert any("pure" in problem for problem in planted({module: source}))


def test_a_circle_is_found(planted):
    found = planted(
        {
            "gmdp/io/first.py": "from .second import b",
            "gmdp/io/second.py": "def f():\n    from .third import c",
            "gmdp/io/third.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .first import a",
        }
    )
    assert found == ["circle: gmdp.io.first -> gmdp.io.second -> gmdp.io.third -> gmdp.io.first"]


def test_what_the_rules_allow_is_no_problem(planted):
    found = planted(
        {
            "gmdp_pytest.py": "from gmdp import Broker",
            "gmdp/__main__.py": "from .cli import main",
            "gmdp/cli/__init__.py": "import click",
            "gmdp/io/link.py": "import zmq.green\nfrom .frames import send\nfrom ..core.broker.core import BrokerCore",
            "gmdp/io/frames.py": "from .. import _pump",
            "gmdp/core/broker/core.py": "import heapq\nfrom ...protocol import wire\nfrom .records import Call",
            "gmdp/core/broker/records.py": "",
            "gmdp/protocol/wire.py": "from ..exceptions import MDPError",
            "gmdp/exceptions.py": "",
            "gmdp/broker/broker.py": "",
        }
    )
    assert found == []


# The pure floors


def test_the_core_calls_nothing_that_reads_a_clock_prints_or_opens():
    wrong = []
    for path in [*(PACKAGE / "core").rglob("*.py"), *(PACKAGE / "protocol").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("print", "open", "input")
            ):
                wrong.append(f"{path.name}:{node.lineno} calls {node.func.id}")
    assert wrong == []


def test_the_core_needs_neither_gevent_nor_zmq_at_run_time():
    script = (
        "import sys, types\n"
        "package = types.ModuleType('gmdp'); package.__path__ = [sys.argv[1]]; sys.modules['gmdp'] = package\n"
        "import gmdp.core.broker.core, gmdp.core.peer.worker, gmdp.core.peer.client\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'gevent', 'zmq', 'logging', 'random', 'socket'}))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(PACKAGE)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Around the package


def test_only_configuration_files_need_tomli():
    users = {
        one.module
        for name, path in layout.find_modules(ROOT).items()
        for one in layout.imports_of(name, path, {})
        if one.imported == "tomli" and not layout.is_in(name, "gmdp.cli")
    }
    assert users == {"gmdp.config"}


def test_the_library_installs_no_signal_handlers_patches_nothing_and_prints_nothing():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        if "cli" in path.parts or path.stem == "__main__":  # command lines
            continue
        text = path.read_text(encoding="utf-8")
        for forbidden in ("signal_handler(", "signal.signal(", "patch_all(", "basicConfig(", "print("):
            if forbidden in text.replace('"', "") and not (path.stem == "__init__" and forbidden == "print("):
                wrong.append(f"{path.name}: {forbidden}")
    assert wrong == []


def test_importing_the_package_changes_nothing_around_it():
    script = (
        "import logging, signal, socket, threading, sys\n"
        "before = (socket.socket, threading.Lock, signal.getsignal(signal.SIGTERM), logging.root.handlers[:])\n"
        "import gmdp\n"
        "after = (socket.socket, threading.Lock, signal.getsignal(signal.SIGTERM), logging.root.handlers[:])\n"
        "assert before == after, (before, after)\n"
        "assert not {'click', 'rich'} & set(sys.modules)\n"
        "print('unchanged')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("unchanged", "")


# What users import

#: Public names, and the modules that users import them from.  A release may add to them, and removes none.
PUBLIC = {
    "gmdp": """
        AsyncClient AuditRecord AuthenticationFailed BindError Broker BrokerLost BrokerOptions BrokerShuttingDown
        CallCancelled CallError Client ClosedError ConfigurationError DeadLetter ForwardDeadLetters Future
        Handler HandlerFailed HubNotRunning
        LogAudit LogDeadLetters MDPError MessageTooLarge NoWorker NotAllowed Overloaded OwnerDied Request
        RequestCancelled RequestExpired RequestRejected RequestTimeout State StateChange StateError StreamOverflow
        StreamStalled UnsupportedBroker Worker WorkerLost __version__ generate_keys hash_password
    """,
    "gmdp.exceptions": """
        AuthenticationFailed BindError BrokerLost BrokerShuttingDown CallCancelled CallError ClosedError
        ConfigurationError HandlerFailed HubNotRunning MDPError MessageTooLarge NoWorker NotAllowed Overloaded OwnerDied
        RequestCancelled RequestExpired RequestRejected RequestTimeout StateError StreamOverflow
        StreamStalled UnsupportedBroker WorkerLost
    """,
    "gmdp.wsgi": "Gateway gateway_from_environment",
    "gmdp.tracing": "traceparent",
    "gmdp.testing.deadline": "Deadline DeadlinePassed deadline",
    "gmdp.testing.leaks": "Census Leak Leaked no_leaks report",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_stay_where_they_are(module):
    names = set(PUBLIC[module].split())
    assert names - set(dir(importlib.import_module(module))) == set()


def test_every_public_name_is_listed():
    assert set(gmdp.__all__) == set(PUBLIC["gmdp"].split())
