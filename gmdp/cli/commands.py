"""The commands.  Errors are one line on standard error, never a traceback."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import gevent
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import config
from ..broker.broker import Broker
from ..client.client import Client
from ..core.broker.options import BrokerOptions
from ..exceptions import ConfigurationError, MDPError, RequestTimeout
from ..protocol.extension import NORMAL_PRIORITY
from ..security import generate_keys
from ..security.lists import set_password
from ..validation import DEFAULT_ENDPOINT
from ..version import __version__
from ..worker.worker import Worker
from .bench.command import bench
from .gateway import gateway
from .options import (
    F,
    broker_option,
    endpoints,
    mdp_option,
    security_of,
    security_options,
    stop_timeout_option,
    timeout_option,
    verbose_option,
)
from .serving import configure_logging, print_when_registered, serve

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    # What ends with one line need not be warned of before; commands that stay configure logging.
    logging.getLogger("gmdp.connections").addHandler(logging.NullHandler())
    # An interrupt ends the command; the hub need not print a traceback for it.
    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)
    try:
        status = cli.main(args=list(arguments), prog_name="gmdp", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_USAGE
    except click.ClickException as error:
        command = getattr(error, "ctx", None)
        name = command.command_path if command is not None else "gmdp"
        return _fail(name, error.format_message(), EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR
    except RequestTimeout as error:
        return _fail("gmdp", str(error), EXIT_TIMEOUT)
    except ConfigurationError as error:
        return _fail("gmdp", str(error), EXIT_USAGE)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail("gmdp", f"{where}{error.strerror or error}", EXIT_ERROR)
    except MDPError as error:
        return _fail("gmdp", str(error), EXIT_ERROR)


def _fail(name: str, message: str, status: int) -> int:
    # What a handler's error says may have any number of lines.
    click.echo(f"{name}: {' '.join(message.split())}", err=True)
    return status


@click.group(no_args_is_help=True)
@click.version_option(__version__, prog_name="gmdp")
def cli() -> None:
    """Majordomo (MDP/0.1 and 0.2): a broker, workers, clients.

    Start a broker, start workers, send requests:

    \b
      gmdp broker &
      gmdp worker upper --exec 'tr a-z A-Z' &
      gmdp call upper hello
    """


cli.add_command(bench)
cli.add_command(gateway)


def _broker_options(command: F) -> F:
    """An option for each number a broker can be told."""
    for option in reversed(fields(BrokerOptions)):
        if option.name != "services":
            kind = int if option.type == "int" else float
            flag = "--" + option.name.replace("_", "-")
            help_text = f"[default: {option.default:g}]" if kind is float else f"[default: {option.default}]"
            command = click.option(flag, option.name, type=kind, default=None, help=help_text)(command)
    return command


def _alone(keywords: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What a file says that makes sense without the command line: a broker's key may be in
    one, and whose keys are allowed in the other."""
    pair = ("curve_key", "curve_clients")
    halves = [name for name, other in (pair, pair[::-1]) if other not in keywords and options[other] is not None]
    return {name: value for name, value in keywords.items() if name not in halves}


@cli.command()
@click.option(
    "--bind",
    multiple=True,
    metavar="ENDPOINT",
    help=f"Where to listen; may be given several times.  [default: {DEFAULT_ENDPOINT}]",
)
@click.option("--config", "file", metavar="FILE.toml", help="Options from a file; the command line overrides it.")
@click.option("--hwm", type=int, default=None, help="Messages held per peer and direction.  [default: 1000]")
@click.option("--dead-letter", metavar="SERVICE", help="Who gets the requests that workers were lost over.")
@click.option(
    "--curve-key", metavar="KEY", envvar="GMDP_CURVE_KEY", help="Its secret key: a file; else $GMDP_CURVE_KEY."
)
@click.option("--curve-clients", metavar="FOLDER", help="Public keys (NAME.key) that may connect; '*' for any key.")
@click.option("--plain-users", metavar="FILE", help="Instead of keys: users and hashes, as gmdp passwd writes them.")
@click.option("--allow", multiple=True, metavar="ADDRESS", help="Who may connect: an IP address or network, or ipc.")
@click.option("--deny", multiple=True, metavar="ADDRESS", help="Who may not.")
@_broker_options
@stop_timeout_option
@verbose_option
def broker(
    bind: tuple[str, ...],
    file: str | None,
    stop_timeout: float,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    verbose: int,
    **options: Any,
) -> None:
    """Run a broker.

    Prints "listening on ENDPOINT…" when it is ready.  SIGTERM and SIGINT let
    running work end (--stop-timeout), then exit 0; a second signal ends at once.
    Times are seconds, sizes bytes.
    """
    configure_logging(verbose)
    keywords: dict[str, Any] = {}
    if file is not None:
        keywords = config.load(file)
        try:
            if "context" in keywords:
                raise ConfigurationError("unknown option 'context'")
            Broker(**_alone(keywords, options))
        except (ConfigurationError, TypeError) as error:
            raise ConfigurationError(f"{file}: {error}") from None
    keywords.update((name, value) for name, value in options.items() if value is not None)
    keywords.update((name, given) for name, given in (("bind", bind), ("allow", allow), ("deny", deny)) if given)
    made = Broker(**keywords)
    made.stop_timeout = stop_timeout
    serve(made, lambda broker: f"listening on {' '.join(broker.endpoints)}")


@cli.command()
@click.argument("service")
@click.argument("target", metavar="[PACKAGE.MODULE:CALLABLE]", required=False)
@click.option("--exec", "command", metavar="COMMAND", help="Run a command for each request instead.")
@broker_option
@click.option("--concurrency", default=1, show_default=True, help="Requests worked on at once.")
@click.option("--heartbeat-interval", default=2.5, show_default=True, metavar="SECONDS", help="Between heartbeats.")
@click.option("--liveness", default=3.0, show_default=True, help="Silent intervals after which a broker is lost.")
@click.option("--reveal-errors", is_flag=True, help="Tell gmdp clients the type and message of a handler's error.")
@click.option("--enforce-deadline", is_flag=True, help="Stop a handler when nobody waits for its answer any more.")
@stop_timeout_option
@click.option("--processes", type=click.IntRange(min=1), metavar="N", help="Run and watch so many worker processes.")
@click.option("--until-eof", "supervised", is_flag=True, hidden=True)  # one of these processes: see supervisor.py
@security_options
@mdp_option
@verbose_option
def worker(
    service: str,
    target: str | None,
    command: str | None,
    endpoint: str,
    concurrency: int,
    heartbeat_interval: float,
    liveness: float,
    reveal_errors: bool,
    enforce_deadline: bool,
    stop_timeout: float,
    processes: int | None,
    supervised: bool,
    mdp: str,
    verbose: int,
    **security: Any,
) -> int:
    """Run a worker for SERVICE.

    Requests go to a Python callable (it gets a gmdp.Request and returns bytes, a
    list of bytes, or an iterator of parts), or with --exec to a command: the
    request is its standard input, its output the reply; an exit status other
    than 0 is a failure, which gmdp clients see as an error and others as the reply
    "500".  The standard library is monkey-patched for gevent.  Prints "serving
    SERVICE…" when it is registered.  SIGTERM and SIGINT finish the present
    request (--stop-timeout) and exit 0; a second signal ends at once.

    With --processes, those that end are started again, and SIGHUP replaces one
    after another: new code is loaded, and no request is lost, for a process that
    was replaced has all the time it needs for what it has.
    """
    if processes is not None and not supervised:
        from .supervisor import supervise

        configure_logging(verbose)
        return supervise(sys.argv[sys.argv.index("worker", 1) + 1 :], processes, stop_timeout)

    from gevent import monkey

    monkey.patch_all()
    from .supervisor import Parent
    from .targets import Execute, load

    parent = Parent() if supervised else None
    if (target is None) is (command is None):
        raise ConfigurationError("name either PACKAGE.MODULE:CALLABLE or --exec COMMAND")
    configure_logging(verbose)
    handler = load(target) if target is not None else Execute(command or "")
    made = Worker(
        endpoints(endpoint),
        os.fsencode(service),
        handler,
        concurrency,
        version=mdp,
        heartbeat_interval=heartbeat_interval,
        liveness=liveness,
        reveal_errors=reveal_errors,
        enforce_deadline=enforce_deadline,
        **security_of(security),
    )
    made.stop_timeout = stop_timeout
    serve(
        made,
        lambda worker: f"serving {worker.service.decode(errors='replace')} for {' '.join(worker.endpoints)}",
        parent.ready if parent is not None else print_when_registered,
    )
    return 0


@cli.command()
@click.argument("service")
@click.argument("frames", nargs=-1, metavar="[FRAME]...")
@broker_option
@timeout_option(30.0)
@click.option("--retries", default=0, show_default=True, help="Further tries, each with its share of the time.")
@click.option("--when-no-worker", type=click.Choice(["wait", "fail"]), default="wait", show_default=True)
@click.option("--priority", default=NORMAL_PRIORITY, show_default=True, help="From 0 to 3, more urgent ones higher.")
@security_options
@mdp_option
def call(
    service: str,
    frames: tuple[str, ...],
    endpoint: str,
    timeout: float,
    retries: int,
    when_no_worker: str,
    priority: int,
    mdp: str,
    **security: Any,
) -> None:
    """Send a request to SERVICE and print the reply.

    Each FRAME is a frame of the request; without any, standard input is the one
    frame.  The reply's frames go to standard output as they are, with nothing
    between them; parts of a streamed reply as soon as they come.  Exit status:
    0, 1 after an error (one line on standard error), 124 on timeout.
    """
    if sys.stdout is None or (sys.stdin is None and not frames):
        raise MDPError("standard input and output are needed, and one of them is closed")
    body = [os.fsencode(frame) for frame in frames] or [sys.stdin.buffer.read()]
    keywords = security_of(security)
    with Client(endpoints(endpoint), version=mdp, timeout=timeout, retries=retries, **keywords) as client:
        options: dict[str, Any] = {"when_no_worker": when_no_worker, "priority": priority}
        try:
            for part in client.stream(os.fsencode(service), body, deadline=timeout, **options):
                _write(b"".join(part))
        except RequestTimeout as error:
            if client.extensions is not None and _has_no_worker(client, service):
                raise RequestTimeout(f"{error}: no worker is registered for it") from None
            raise


def _has_no_worker(client: Client, service: str) -> bool:
    """Does the broker say so?"""
    try:
        return client.request("mmi.service", os.fsencode(service), timeout=1.0, retries=0) == [b"404"]
    except MDPError:
        return False


def _write(data: bytes) -> None:
    """Write all of `data` to standard output now; nothing stays in a buffer."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]


def _report(reply: list[bytes]) -> dict[str, Any] | None:
    """The JSON a management service of ours replied with; None if it is something else."""
    try:
        if reply[0] == b"200" and len(reply) == 2:
            report = json.loads(reply[1])
            return report if isinstance(report, dict) else None
    except ValueError:
        pass
    return None


_COLUMNS = ("workers", "idle", "busy", "queued", "requests", "replies")


@cli.command()
@broker_option
@timeout_option(5.0)
@security_options
def services(endpoint: str, timeout: float, **security: Any) -> None:
    """List the services a broker knows, their workers and queues."""
    with Client(endpoints(endpoint), timeout=timeout, **security_of(security)) as client:
        reply = client.request("mmi.services", b"")
        where = client.endpoint
    table = Table()
    table.add_column("service", overflow="fold")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    try:
        report = _report(reply) or {}
        for row in report["services"]:
            table.add_row(Text(str(row["name"])), *(str(row[name]) for name in _COLUMNS))
        more = int(report["total"]) - table.row_count
    except (KeyError, TypeError, ValueError):
        raise MDPError(f"the broker at {where} does not know mmi.services (it replied {reply[0][:20]!r})") from None
    # Only a terminal has a width to fit into.
    Console(width=None if sys.stdout.isatty() else 4000).print(table)
    if more > 0:
        click.echo(f"{more} more")


@cli.command()
@broker_option
@timeout_option(5.0)
@click.option("--count", default=5, show_default=True, help="How often to ask.")
@security_options
@mdp_option
def ping(endpoint: str, timeout: float, count: int, mdp: str, **security: Any) -> None:
    """Tell whether a broker answers, what it is, and how fast it is.

    Any MDP broker that has the management interface of RFC 8 answers.
    """
    if count < 1:
        raise ConfigurationError("--count must be at least 1")
    times = []
    with Client(endpoints(endpoint), version=mdp, timeout=timeout, **security_of(security)) as client:
        for _ in range(count):
            began = perf_counter()
            reply = client.request("mmi.broker", b"")
            times.append((perf_counter() - began) * 1000)
        where = client.endpoint
    about = _report(reply) or {}
    try:
        what = f"{about['name']} {about['version']}, {about['state']}, up {about['uptime']:.0f} s"
    except (KeyError, TypeError, ValueError):
        what = "an MDP broker"
    click.echo(
        f"{where}: {what}; {count} round trips: "
        f"min {min(times):.2f}, mean {sum(times) / count:.2f}, max {max(times):.2f} ms"
    )


@cli.command()
@click.argument("name")
@click.option("--folder", default=".", show_default=True, help="Where to write them.")
def keygen(name: str, folder: str) -> None:
    """Make a pair of CURVE keys: NAME.key and NAME.key_secret.

    NAME.key is public: it belongs into the broker's folder of those who may connect, or,
    if it is the broker's, to all who connect.  NAME.key_secret is for its owner alone.
    """
    public, secret = generate_keys(name, folder)
    click.echo(f"{public} (public), {secret} (keep it secret)")


@cli.command()
@click.argument("file", metavar="FILE")
@click.argument("user", metavar="USER")
def passwd(file: str, user: str) -> None:
    """Set USER's password in FILE, for a broker's --plain-users.

    The password is asked for, or is the first line of standard input.
    """
    if sys.stdin is None:
        raise MDPError("a password is needed, and standard input is closed")
    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape").rstrip("\r\n")
    set_password(file, user, password)


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def demo(folder: Path | None) -> int:
    """Hash every file of FOLDER through a broker and four worker processes.

    Half way, one worker process is killed; no request is lost.  Every digest is
    compared with one computed directly.  FOLDER is the installed package's own
    unless given.  Exit status 0 if all are right.
    """
    from .demo import demonstrate

    return demonstrate(folder if folder is not None else Path(__file__).parent.parent)
