"""``gmdp call``."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from ..client.client import Client
from ..exceptions import MDPError, RequestTimeout
from ..protocol.extension import NORMAL_PRIORITY
from .options import broker_option, mdp_option, security_keywords, security_options, split_endpoints, timeout_option
from .spelling import Command


@click.command(cls=Command)
@click.argument("service")
@click.argument("frames", nargs=-1, metavar="[FRAME]...")
@broker_option
@timeout_option(30.0)
@click.option(
    "--retries", default=0, show_default=True, help="Further tries, each with its share of the time (at least 0.1 s)."
)
@click.option("--when-no-worker", type=click.Choice(["wait", "fail"]), default="wait", show_default=True)
@click.option("--priority", default=NORMAL_PRIORITY, show_default=True, help="From 0 to 3, more urgent ones higher.")
@click.option(
    "--separator",
    metavar="TEXT",
    default="",
    help=r"Written after each part of the reply; \n, \t, \0 and \\ are understood.",
)
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
    separator: str,
    mdp: str,
    **security: Any,
) -> None:
    """Send a request to SERVICE and print the reply.

    Each FRAME is a frame of the request; without any, standard input is the one
    frame.  The reply's frames go to standard output as they are, with nothing
    between them; parts of a streamed reply go there as soon as they come.  With
    --separator '\\n' each part ends a line.  Exit status: 0, 1 after an error (one line
    on standard error), 124 on timeout.
    """
    ending = _unescape(separator)
    if sys.stdout is None or (sys.stdin is None and not frames):
        raise MDPError("standard input and output are needed, and one of them is closed")
    body = [os.fsencode(frame) for frame in frames] or [sys.stdin.buffer.read()]
    keywords = security_keywords(security)
    with Client(split_endpoints(endpoint), version=mdp, timeout=timeout, retries=retries, **keywords) as client:
        options: dict[str, Any] = {"when_no_worker": when_no_worker, "priority": priority}
        try:
            for part in client.stream(os.fsencode(service), body, deadline=timeout, **options):
                _write(b"".join(part) + ending)
        except RequestTimeout as error:
            if client.extensions is not None and _has_no_worker(client, service):
                raise RequestTimeout(f"{error}: no worker is registered for it") from None
            raise


_ESCAPES = {"\\n": b"\n", "\\t": b"\t", "\\r": b"\r", "\\0": b"\0", "\\\\": b"\\"}


def _unescape(text: str) -> bytes:
    """Return `text` as bytes, with what the escapes in it mean."""
    return b"".join(_ESCAPES.get(piece) or os.fsencode(piece) for piece in re.split(r"(\\[ntr0\\])", text))


def _has_no_worker(client: Client, service: str) -> bool:
    """Return whether the broker says that no worker serves `service`."""
    try:
        return client.request("mmi.service", os.fsencode(service), timeout=1.0, retries=0) == [b"404"]
    except MDPError:
        return False


def _write(data: bytes) -> None:
    """Write all of `data` to standard output now; nothing stays in a buffer."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]
