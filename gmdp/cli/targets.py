"""The handlers of ``gmdp worker``: a callable that is imported, or a command."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import sys
from typing import Any

from gevent import subprocess

from ..exceptions import ConfigurationError, MDPError
from ..worker.handlers import Handler
from ..worker.request import Request


class CommandFailed(MDPError):
    """A command ended with a status other than 0."""


def load(target: str) -> Handler:
    """Import the callable that ``package.module:callable`` names; ConfigurationError if that fails."""
    module_name, colon, path = target.partition(":")
    if not (colon and module_name and path):
        raise ConfigurationError(f"{target!r} must look like package.module:callable")
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

    def __call__(self, request: Request) -> bytes:
        """Run the command for `request`; returns its output.  Raises CommandFailed."""
        # The command has a session of its own.  Ctrl-C on the worker's terminal thus reaches the
        # worker alone, which lets the command finish.
        process = subprocess.Popen(
            self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            output, _ = process.communicate(b"".join(request.body))
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise CommandFailed(f"{self.arguments[0]} ended with status {process.returncode}")
        return bytes(output)
