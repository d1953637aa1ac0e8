"""The handlers of ``gmdp worker``: callables that are imported, and commands."""

import shlex
import sys
from types import SimpleNamespace

import gevent
import pytest

from gmdp import ConfigurationError
from gmdp.cli.targets import CommandFailed, Execute, load


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


def request(*frames):
    return SimpleNamespace(body=list(frames))


def python(code):
    """A command line that runs `code`."""
    return shlex.join([sys.executable, "-I", "-S", "-c", code])


def test_a_command_gets_the_frames_and_its_output_is_the_reply():
    assert Execute("tr a-z A-Z")(request(b"one ", b"two")) == b"ONE TWO"


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 15)"])
def test_a_command_that_fails(code):
    with pytest.raises(CommandFailed, match=sys.executable):
        Execute(python(code))(request(b""))


def test_a_command_is_killed_with_its_handler():
    handler = gevent.spawn(Execute("sleep 100"), request(b""))
    handler.join(0.1)
    handler.kill(timeout=10)
    assert handler.dead


@pytest.mark.parametrize(
    ("command", "word"), [("", "needs a command"), ("tr 'a", "quotation"), ("no-such-command", "no-such-command")]
)
def test_a_command_that_cannot_be_run(command, word):
    with pytest.raises(ConfigurationError, match=word):
        Execute(command)
