"""Slow readers of large exports through real processes: broker, worker and gateway hold little of them (row X9)."""

import socket
from contextlib import ExitStack
from pathlib import Path

import gevent
import pytest
from gateways import needs_gunicorn
from gevent.pool import Group
from processes import Process
from victims import TOOLS, resident

MIB = 1024 * 1024
READERS = 4
PART = 500_000


@pytest.fixture
def installation():
    """A broker, a worker with a session for each reader, and a gateway, each a process of its own."""
    needs_gunicorn()
    with ExitStack() as stack:
        broker = stack.enter_context(Process("broker", "--bind", "tcp://127.0.0.1:*"))
        (endpoint,) = broker.listening()
        arguments = ("--broker", endpoint, "--concurrency", str(READERS))
        worker = stack.enter_context(Process("worker", "export", "faulty:export", *arguments, cwd=TOOLS))
        worker.line()
        options = ["--broker", endpoint, "--bind", "127.0.0.1:0", "--service", "export", "--timeout", "600"]
        gateway = stack.enter_context(Process("gateway", *options))
        port = int(gateway.line().rsplit(":", 1)[1])
        yield port, {"broker": broker, "worker": worker, "gateway": gateway}


def memory(process):
    """Bytes of memory of a process and of those that it has started: gunicorn has two."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sum(map(resident, [process.pid, *map(int, children)]))


def slow_reader(port, total, pause):
    """Read an export of `total` bytes, in small pieces; returns the bytes that came."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        body = b"%d %d" % (PART, total // PART)
        head = b"POST /services/export?stream=1 HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        size, first = 0, b""
        while data := connection.recv(256 * 1024):
            if b"\r\n\r\n" not in first:
                first += data
            size += len(data)
            gevent.sleep(pause)
    head, _, _ = first.partition(b"\r\n\r\n")
    assert head.split()[1] == b"200", head
    return size - len(head) - 4


def export_slowly(installation, total, pause, most):
    """Four readers get the whole of an export; no process grows by more than `most` bytes meanwhile."""
    port, processes = installation
    slow_reader(port, PART, 0)  # every process has begun, and has what any request takes
    before = {name: memory(process) for name, process in processes.items()}
    peaks = dict.fromkeys(processes, 0)
    readers = Group()
    results = [readers.spawn(slow_reader, port, total, pause) for _ in range(READERS)]
    while not readers.join(timeout=0.05):
        for name, process in processes.items():
            peaks[name] = max(peaks[name], memory(process) - before[name])
    sizes = [result.get() for result in results]
    print({name: f"{peak / MIB:.0f} MiB more" for name, peak in peaks.items()})
    assert sizes == [total // PART * PART] * READERS
    assert max(peaks.values()) <= most, peaks


@pytest.mark.once
def test_X9_four_slow_readers_of_an_export_through_the_gateway(installation):
    export_slowly(installation, 20 * MIB, 0.01, 40 * MIB)


@pytest.mark.slow
@pytest.mark.deadline(600)
def test_X9_four_slow_readers_of_300_megabytes_through_the_gateway(installation):
    export_slowly(installation, 300_000_000, 0.01, 64 * MIB)
