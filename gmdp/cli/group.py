"""The group of all commands, and the ways in which a command line ends.

The rules:

* A command's module is imported when the command runs.  A broker's process loads neither
  the benchmark nor what draws tables.
* An error is one line on standard error, never a traceback.
  It names an option as it is spelt on the command line, or the variable that its value came from.
* Every option has an environment variable: ``GMDP_<COMMAND>_<OPTION>``.  The options of the connection
  have one for all commands besides, like ``GMDP_BROKER``.  The command line wins over both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from typing import NamedTuple

import click
from gevent.hub import Hub

from ..exceptions import ConfigurationError, MDPError, RequestTimeout
from ..version import __version__
from .printing import printable
from .spelling import flag, spelling

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130


class Entry(NamedTuple):
    """A command that is not imported yet."""

    #: The module that has the command, under the command's name.
    module: str
    #: Its line in the help of ``gmdp``: the first sentence of its own help.
    help: str


#: All commands, by name.
COMMANDS = {
    "bench": Entry(".bench.command", "Measure how fast broker, worker and client are on this machine."),
    "broker": Entry(".broker", "Run a broker."),
    "call": Entry(".call", "Send a request to SERVICE and print the reply."),
    "demo": Entry(".demo", "Hash every file of FOLDER through a broker and four worker processes."),
    "gateway": Entry(".gateway", "Expose services over HTTP."),
    "keygen": Entry(".keys", "Make a pair of CURVE keys: NAME.key and NAME.key_secret."),
    "passwd": Entry(".keys", "Set USER's password in FILE, for a broker's --plain-users."),
    "ping": Entry(".services", "Tell whether a broker answers, what it is, and how fast it is."),
    "services": Entry(".services", "List the services a broker knows, their workers and queues."),
    "statistics": Entry(".services", "Show a broker's counters."),
    "worker": Entry(".worker", "Run a worker for SERVICE."),
    "workers": Entry(".services", "List the workers of a broker, what they do and since when."),
}


def import_command(name: str) -> click.Command | None:
    """Import the command `name`; None if there is no such command."""
    entry = COMMANDS.get(name)
    if entry is None:
        return None
    command: click.Command = getattr(import_module(entry.module, __package__), name)
    return with_variables(name, command)


def _split_values(value: str) -> list[str]:
    """Return the values of an option in an environment variable: they have commas or spaces between."""
    return value.replace(",", " ").split()


def with_variables(name: str, command: click.Command) -> click.Command:
    """Give every option of the command `name` an environment variable, before one that all commands share."""
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    for option in options:
        own = f"GMDP_{name}_{flag(option).lstrip('-')}".replace("-", "_").upper()
        shared = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
        option.envvar = [own, *(variable for variable in shared if variable != own)]
        if option.multiple:
            option.type = copy(option.type)
            option.type.split_envvar_value = _split_values  # type: ignore[method-assign, assignment]
    if options and not command.epilog:
        command.epilog = f"Each option may also be given as $GMDP_{name.upper()}_<OPTION>"
        if any(option.multiple for option in options):
            command.epilog += ", several values with commas or spaces between"
        command.epilog += "."
    return command


class LazyGroup(click.Group):
    """The commands of COMMANDS; help lists them without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command `cmd_name`; None if there is no such command."""
        return import_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, no_args_is_help=True)
@click.version_option(__version__, prog_name="gmdp")
def cli() -> None:
    """Majordomo (MDP/0.1 and 0.2): a broker, workers, clients.

    Start a broker, start workers, send requests:

    \b
      gmdp broker &
      gmdp worker upper --exec 'tr a-z A-Z' &
      gmdp call upper hello
    """


def run(arguments: Sequence[str], command: click.Command = cli, program: str = "gmdp") -> int:
    """Run the command line `arguments` of `command`; returns its exit status.

    `program` is its name in usage and errors.
    """
    # An error that ends the command is one line; a warning before it would be another.
    # Commands that keep running configure logging.
    logging.getLogger("gmdp.connections").addHandler(logging.NullHandler())
    # An interrupt ends the command; the hub must not print a traceback for it.
    # A gateway's parent process has no hub, so the class is told.
    if KeyboardInterrupt not in Hub.NOT_ERROR:
        Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)
    try:
        status = command.main(args=list(arguments), prog_name=program, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        return _fail(context.command_path if context is not None else program, _usage_error(error), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR
    except RequestTimeout as error:
        return _fail(program, str(error), EXIT_TIMEOUT)
    except ConfigurationError as error:
        return _fail(program, str(error), EXIT_USAGE)
    except OSError as error:
        file = f"{error.filename}: " if error.filename is not None else ""
        return _fail(program, f"{file}{error.strerror or error}", EXIT_ERROR)
    except MDPError as error:
        return _fail(program, str(error), EXIT_ERROR)


def _usage_error(error: click.ClickException) -> str:
    """The message of an error; it names the environment variable if a wrong value came from one."""
    message = error.format_message()
    if not isinstance(error, click.BadParameter) or error.ctx is None or not isinstance(error.param, click.Option):
        return message
    written = spelling(error.ctx, error.param)
    return f"{written}: {message}" if written.startswith("$") else message


def _fail(program: str, message: str, status: int) -> int:
    # The text of a handler's error may have any number of lines, and any characters.
    click.echo(printable(f"{program}: {' '.join(message.split())}"), err=True)
    return status
