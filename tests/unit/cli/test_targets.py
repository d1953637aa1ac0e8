"""The handlers of ``gmdp worker``: callables that are imported, and commands."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from gmdp import ConfigurationError
from gmdp.cli.targets import Execute, load


@pytest.fixture
def importable(folder, monkeypatch):
    """The folder is the current one; its modules are imported afresh."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_callable_of_the_current_folder(importable):
    assert load("handlers:work").__name__ == "work"
    assert load("handlers:Holder.method")(None) == b"method"


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("handlers", "package.module:callable"),
        ("handlers:", "package.module:callable"),
        (":work", "package.module:callable"),
        ("handlerz:work", "handlerz"),
        ("raises:work", "SyntaxError"),
        ("exits:work", "SystemExit"),
        ("handlers:worc", "worc"),
        ("handlers:Holder.function", "Holder.function"),
        ("handlers:number", "int"),
    ],
)
def test_a_target_that_cannot_be_loaded(importable, target, word):
    with pytest.raises(ConfigurationError, match=word):
        load(target)


#: What runs a command for one request.  gevent's subprocesses take every child's status away from the
#: standard library's, so this process, which has children of its own, must not start one.
RUN = """
import json, sys
from types import SimpleNamespace
import gevent
from gmdp.cli.targets import CommandFailed, Execute

command, *frames = json.loads(sys.argv[1])
handler = gevent.spawn(Execute(command), SimpleNamespace(body=[frame.encode() for frame in frames]))
if sys.stdin.read(1):  # until somebody says that the command runs
    handler.kill(timeout=10)
    print("killed" if handler.dead else "runs on")
else:
    try:
        print(handler.get())
    except CommandFailed as error:
        print(error)
"""


def run(command, *frames, stdin=""):
    arguments = [sys.executable, "-c", RUN, json.dumps([command, *frames])]
    return subprocess.run(arguments, input=stdin, capture_output=True, text=True, check=True, timeout=60).stdout


def python(code):
    """A command line that runs `code`."""
    return shlex.join([sys.executable, "-I", "-S", "-c", code])


def test_a_command_gets_the_frames_and_its_output_is_the_reply():
    assert run("tr a-z A-Z", "one ", "two") == "b'ONE TWO'\n"


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 15)"])
def test_a_command_that_fails(code):
    assert run(python(code), "").startswith(sys.executable)


def test_a_command_is_killed_with_its_handler(tmp_path):
    """The command says its number once it runs; then its handler is killed."""
    fifo = tmp_path / "number"
    os.mkfifo(fifo)
    code = f"import os, time; open({str(fifo)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    script = RUN.replace("sys.stdin.read(1)", "gevent.get_hub().threadpool.apply(sys.stdin.read, (1,))")
    with subprocess.Popen(
        [sys.executable, "-c", script, json.dumps([python(code), ""])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        number = int(fifo.read_text())
        out, _ = process.communicate(b"x", timeout=60)
    assert out == b"killed\n"
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.parametrize(
    ("command", "word"), [("", "needs a command"), ("tr 'a", "quotation"), ("no-such-command", "no-such-command")]
)
def test_a_command_that_cannot_be_run(command, word):
    with pytest.raises(ConfigurationError, match=word):
        Execute(command)
