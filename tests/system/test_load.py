"""A broker in its own process under load; the load generator shares no code with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

COUNT = int(os.environ.get("GMDP_LOAD_COUNT", "100000"))
#: Seconds a process has to print that it is ready.
START = 60.0
#: Seconds all requests may take: 500 requests a second would be very slow.
LIMIT = 60.0 + COUNT / 500

LOAD = str(Path(__file__).parent.parent / "tools" / "load.py")


@contextmanager
def process(*command: str, announce: str) -> Iterator[str]:
    """Run `command` until the block ends; yields its first line that begins with `announce`."""
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    # A process that prints nothing in time is killed, which ends its output.
    impatience = threading.Timer(START, started.kill)
    impatience.start()
    try:
        for line in started.stdout:
            if line.startswith(announce):
                break
        else:
            raise AssertionError(f"{command} ended, or was not ready after {START:g} s")
        impatience.cancel()
        # Its further output must not fill the pipe.
        threading.Thread(target=started.stdout.read, daemon=True).start()
        yield line
        assert started.poll() is None, f"{command} ended by itself"
    finally:
        impatience.cancel()
        started.terminate()
        try:
            started.wait(START)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("client", "worker"),
    [("0.1", "0.1"), ("0.2", "0.2"), ("majortomo", "majortomo"), ("0.1", "0.2"), ("0.2", "0.1")],
)
def test_every_request_gets_its_own_reply(client: str, worker: str) -> None:
    with process("-m", "gmdp", "broker", "--bind", "tcp://127.0.0.1:*", announce="listening on") as line:
        found = re.search(r"tcp://127\.0\.0\.1:\d+", line)
        assert found, line
        endpoint = found[0]
        with process(LOAD, "worker", endpoint, worker, "echo", "16", announce="ready"):
            command = [sys.executable, LOAD, "client", endpoint, client, "echo", "8", "16", str(COUNT)]
            output = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT, check=True, text=True).stdout
    result = json.loads(output)
    print(f"client {client}, worker {worker}: {COUNT / result['seconds']:,.0f} requests/s")
    assert (result["sent"], result["replies"]) == (COUNT, COUNT)
    assert (result["lost"], result["bad"]) == (0, 0)
    # Every eighth answer of a worker that speaks 0.2 came in parts.
    assert result["parts"] == (0 if worker == "0.1" else (COUNT + 7) // 8)
