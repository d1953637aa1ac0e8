"""``gmdp worker``."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..exceptions import ConfigurationError
from ..protocol.text import plain_name
from ..worker.worker import Worker
from .options import (
    broker_option,
    mdp_option,
    security_keywords,
    security_options,
    split_endpoints,
    stop_timeout_option,
    verbose_option,
)
from .serving import configure_logging, print_when_registered, serve
from .spelling import Command


@click.command(cls=Command)
@click.argument("service")
@click.argument("target", metavar="[PACKAGE.MODULE:CALLABLE]", required=False)
@click.option("--exec", "command", metavar="COMMAND", help="Run a command, without a shell, for each request instead.")
@broker_option
@click.option("--concurrency", type=int, metavar="N", help="Requests worked on at once.  [default: 1, or --threads]")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Run a callable that computes in N threads.")
@click.option("--heartbeat-interval", default=2.5, show_default=True, metavar="SECONDS", help="Between heartbeats.")
@click.option("--liveness", default=3.0, show_default=True, help="Silent intervals after which a broker is lost.")
@click.option("--reveal-errors", is_flag=True, help="Send gmdp clients the type and message of a handler's error.")
@click.option("--enforce-deadline", is_flag=True, help="Stop a handler when nobody waits for its answer any more.")
@stop_timeout_option
@click.option("--processes", type=click.IntRange(min=1), metavar="N", help="Run and watch N worker processes.")
@click.option("--until-eof", "supervised", is_flag=True, hidden=True)  # for one of these processes: see supervisor.py
@security_options
@mdp_option
@verbose_option
def worker(
    service: str,
    target: str | None,
    command: str | None,
    endpoint: str,
    concurrency: int | None,
    threads: int | None,
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
    request is its standard input, its output the reply.  No shell reads the
    command: for pipes and variables write sh -c '...'.  An exit status other
    than 0 is a failure: gmdp clients get an error, others the reply "500".  If the
    handler is stopped, or the worker ends in any way, the command's process group
    is killed; a process that has left the group lives on.  The
    standard library is monkey-patched for gevent.  Prints "serving SERVICE…" when
    it is registered.  SIGTERM, SIGINT and SIGHUP finish the present request
    (--stop-timeout) and exit 0; a second signal ends at once.

    A callable that computes, and does not wait, blocks the worker's heartbeats; with
    --threads it does not.

    With --processes, a process that ends is started again.  SIGHUP replaces one
    process after another: new code is loaded and no request is lost, for a process
    that is replaced has all the time it needs for its requests.
    """
    if processes is not None and not supervised:
        from .supervisor import supervise

        configure_logging(verbose)
        return supervise(sys.argv[sys.argv.index("worker", 1) + 1 :], processes, stop_timeout)

    from gevent import monkey

    monkey.patch_all()
    from gevent.threadpool import ThreadPool

    from .targets import Execute, load

    announce = print_when_registered
    if supervised:
        from .supervisor import Parent

        announce = Parent().announce
    if (target is None) is (command is None):
        raise ConfigurationError("name either PACKAGE.MODULE:CALLABLE or --exec COMMAND")
    if threads is not None and command is not None:
        raise ConfigurationError("--threads is for a callable: each command of --exec has a process of its own")
    configure_logging(verbose)
    handler = load(target) if target is not None else Execute(command or "")
    server = Worker(
        split_endpoints(endpoint),
        os.fsencode(service),
        handler,
        concurrency,
        ThreadPool(threads) if threads is not None else None,
        version=mdp,
        heartbeat_interval=heartbeat_interval,
        liveness=liveness,
        reveal_errors=reveal_errors,
        enforce_deadline=enforce_deadline,
        **security_keywords(security),
    )
    server.threads_option = "gmdp worker --threads N"
    server.stop_timeout = stop_timeout
    serve(
        server,
        lambda worker: f"serving {plain_name(worker.service)} for {' '.join(worker.endpoints)}",
        announce,
    )
    return 0
