"""The layout that must stay true: what may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "gmdp"
#: The pure part of the standard library, as far as the cores use it.
PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "difflib",
    "enum",
    "fnmatch",
    "heapq",
    "itertools",
    "json",
    "math",
    "re",
    "struct",
    "types",
    "typing",
}


def imports(path):
    """(module, line) of every import; relative ones as "." names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


@pytest.mark.parametrize(
    "path",
    sorted([*(PACKAGE / "core").rglob("*.py"), *(PACKAGE / "protocol").glob("*.py")]),
    ids=lambda path: path.stem,
)
def test_the_core_imports_the_pure_standard_library_and_itself_only(path):
    wrong = [
        f"{path.name}:{line} imports {name}"
        for name, line in imports(path)
        if not name.startswith(".") and name.split(".")[0] not in PURE
    ]
    assert wrong == []


def test_the_core_calls_nothing_that_reads_a_clock_prints_or_opens():
    wrong = []
    for path in (PACKAGE / "core").rglob("*.py"):
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


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("security/*.py")]), ids=lambda path: path.stem
)
def test_the_library_needs_no_extra(path):
    """Only the command line may import what the extras bring."""
    extras = {"click", "rich", "tomli"} - ({"tomli"} if path.stem == "config" else set())
    assert {name.split(".")[0] for name, _ in imports(path)} & extras == set()


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
