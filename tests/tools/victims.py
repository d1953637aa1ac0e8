"""Brokers and workers in processes of their own, which tests kill, freeze and cut off."""

import os
from contextlib import contextmanager
from pathlib import Path

from processes import Process

TOOLS = Path(__file__).parent
INTERVAL = 0.5
LIVENESS = 4


def worker_process(endpoint, handler, *options, service="it", serving=True):
    """``gmdp worker`` with a handler of `faulty`; it has said that it serves, unless there is no broker yet."""
    arguments = ("--broker", endpoint, "--heartbeat-interval", str(INTERVAL), "--liveness", str(LIVENESS))
    process = Process("worker", service, f"faulty:{handler}", *arguments, *options, cwd=TOOLS)
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
    """Bytes of memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
