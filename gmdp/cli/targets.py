"""The handlers of ``gmdp worker``: a callable that is imported, or a command."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
from typing import Any

import gevent

from ..exceptions import ConfigurationError, MDPError
from ..worker.handlers import Handler
from ..worker.request import Request
from .commands import Command, Guard


class CommandFailed(MDPError):
    """A command ended with a status other than 0."""


def load(target: str) -> Handler:
    """Import the callable that ``package.module:callable`` names; ConfigurationError if that fails."""
    module_name, colon, path = target.partition(":")
    if not (colon and module_name and path):
        raise ConfigurationError(f"{target!r} must look like package.module:callable")
    importlib.import_module("gmdp.public")  # here, and not in the handlers' threads
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        value: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"cannot import {module_name}: {type(error).__name__}: {error}") from None
    for name in path.split("."):
        if not hasattr(value, name):
            raise ConfigurationError(f"{module_name} has no {path}")
        value = getattr(value, name)
    if not callable(value):
        raise ConfigurationError(f"{target} is not callable but a {type(value).__name__}")
    return value  # type: ignore[no-any-return]


class Execute:
    """A handler that runs a command for each request.

    The request's frames, one after another, are the command's standard input.  Its standard
    output is the reply.  An exit status other than 0 is a failure of the handler.

    If the handler is killed, or the worker's process ends, the command and all processes of its
    group are killed: see :mod:`gmdp.cli.commands`.
    """

    def __init__(self, command: str) -> None:
        try:
            self.arguments = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--exec {command!r}: {error}") from None
        if not self.arguments:
            raise ConfigurationError("--exec needs a command")
        if shutil.which(self.arguments[0]) is None:
            raise ConfigurationError(f"--exec: no such command: {self.arguments[0]}")
        self._guard = Guard()

    def __call__(self, request: Request) -> bytes:
        """Run the command for `request`; returns its output.  Raises CommandFailed."""
        self._guard.ensure()
        process = Command(self.arguments, self._guard)
        writer = gevent.spawn(_write, process.stdin, b"".join(request.body))
        try:
            with process.stdout:
                output: bytes = process.stdout.read()
            process.wait()
        except BaseException:
            process.kill_group()
            process.wait()
            raise
        finally:
            writer.kill()  # nothing reads any more, or the reader is not part of the command
            self._guard.remove(process.pid)
        if process.returncode:
            raise CommandFailed(f"{self.arguments[0]} ended with status {process.returncode}")
        return output


def _write(pipe: Any, data: bytes) -> None:
    """Write all of `data`, and close `pipe`."""
    try:
        with pipe:
            rest = memoryview(data)
            while rest:
                rest = rest[pipe.write(rest) :]
    except OSError:
        pass  # a command need not read its input
