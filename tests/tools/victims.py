"""Broker and worker processes that tests kill, freeze and cut off."""

import os
from contextlib import contextmanager
from pathlib import Path

from processes import Process

TOOLS = Path(__file__).parent
INTERVAL = 0.5
LIVENESS = 4


def worker_process(endpoint, handler, *options, service="it", serving=True, times=True):
    """Start ``gmdp worker`` with a handler of `faulty`.

    Returns once the worker serves; with ``serving=False``, because there is no broker yet, at once.
    With ``times=False``, its heartbeats are the default ones.
    """
    arguments = ("--heartbeat-interval", str(INTERVAL), "--liveness", str(LIVENESS)) if times else ()
    process = Process("worker", service, f"faulty:{handler}", "--broker", endpoint, *arguments, *options, cwd=TOOLS)
    if serving:
        try:
            process.line()
        except BaseException:
            process.__exit__()
            raise
    return process


@contextmanager
def broker_process(endpoint, *options):
    arguments = ("--heartbeat-interval", str(INTERVAL), "--liveness", str(LIVENESS))
    with Process("broker", "--bind", endpoint, *arguments, *options) as process:
        process.listening()
        yield process


def resident(pid):
    """The bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
