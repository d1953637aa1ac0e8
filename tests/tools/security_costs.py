"""Measures what security costs, and how strangers affect honest traffic, with processes of their own.

``python security_costs.py curve`` compares a broker and a worker without keys and with keys,
in turns: calls a second of one client with 32 greenlets, and the CPU that each process
spends on a call, for bodies of 64 bytes and of 64 KiB.

``python security_costs.py half-open`` measures the latency of honest calls without and with
1,000 connections that never complete their handshake: silent, half a greeting, or no ZMTP.
A second after a connection is dropped, another takes its place.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, perf_counter

import gevent
import gevent.pool
import gevent.socket

import gmdp

GREENLETS = 32
SECONDS = 4.0
ROUNDS = 3
STRANGERS = 1_000

#: The bytes that strangers send before they fall silent; the last two are no ZMTP.
HALF = (b"", b"\xff", b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15), b"GET / HTTP/1.1\r\n\r\n", os.urandom(200))

_HANDLERS = "def echo(request):\n    return request.body\n"


@contextmanager
def process(*arguments: str, cwd: str) -> Iterator[tuple[int, str]]:
    """Run ``gmdp`` with `arguments`.  Yields its process id, and the last word of its first line."""
    command = [sys.executable, "-m", "gmdp", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as started:
        assert started.stdout is not None
        try:
            yield started.pid, started.stdout.readline().split()[-1]
        finally:
            started.terminate()


@contextmanager
def stack(secured: bool) -> Iterator[tuple[gmdp.Client, list[int]]]:
    """Run a broker and a worker in processes of their own.  Yields a client, and the two process ids."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        Path(folder, "handlers.py").write_text(_HANDLERS)
        broker_options, worker_options, keywords = [], [], {}
        if secured:
            allowed = Path(folder, "allowed")
            allowed.mkdir()
            for name in ("broker", "worker", "client"):
                public, _ = gmdp.generate_keys(name, folder)
                if name != "broker":
                    public.rename(allowed / public.name)
            broker_options = [
                "--curve-key",
                "broker.key_secret",
                "--curve-clients",
                "allowed",
                "--max-user-rate",
                "1e6",
            ]
            worker_options = ["--curve-key", "worker.key_secret", "--server-key", "broker.key"]
            keywords = {"curve_key": f"{folder}/client.key_secret", "server_key": f"{folder}/broker.key"}
        broker, endpoint = running.enter_context(
            process("broker", "--bind", "tcp://127.0.0.1:*", *broker_options, cwd=folder)
        )
        arguments = ("worker", "echo", "handlers:echo", "--broker", endpoint, "--concurrency", str(GREENLETS))
        worker, _ = running.enter_context(process(*arguments, *worker_options, cwd=folder))
        client = running.enter_context(gmdp.Client(endpoint, timeout=30, **keywords))
        client.request("echo", b"warm")
        yield client, [broker, worker]


def cpu(process_id: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def latencies(client: gmdp.Client, body: bytes, greenlets: int, seconds: float) -> list[float]:
    """The seconds of each call, of so many greenlets that call again and again."""
    until = monotonic() + seconds
    durations: list[float] = []

    def calls() -> None:
        while monotonic() < until:
            began = perf_counter()
            assert client.request("echo", body) == [body]
            durations.append(perf_counter() - began)

    gevent.joinall([gevent.spawn(calls) for _ in range(greenlets)], raise_error=True)
    return durations


def curve(seconds: float = SECONDS) -> None:
    """Print what CURVE costs."""
    for size in (64, 65_536):
        figures: dict[bool, list[list[float]]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for secured in (False, True):
                with stack(secured) as (client, ids):
                    latencies(client, bytes(size), GREENLETS, 0.5)
                    before = [cpu(ids[0]), cpu(ids[1]), own_cpu()]
                    count = len(latencies(client, bytes(size), GREENLETS, seconds))
                    after = [cpu(ids[0]), cpu(ids[1]), own_cpu()]
                    spent = [1e6 * (b - a) / count for a, b in zip(before, after, strict=True)]
                    figures[secured].append([count / seconds, *spent])
        plain, with_keys = (
            [statistics.median(column) for column in zip(*figures[s], strict=True)] for s in (False, True)
        )
        print(f"{size} bytes:  calls/s, CPU us/call of broker, worker, client")
        for name, row in (("without", plain), ("CURVE", with_keys)):
            print(f"  {name:8}" + "".join(f"{value:10.0f}" for value in row))
        print("  ratio   " + "".join(f"{b / a:10.2f}" for a, b in zip(plain, with_keys, strict=True)), flush=True)


def strangers(endpoint: str, count: int) -> None:
    """Keep so many connections that never complete their handshake, until the process is killed."""
    host, _, port = endpoint.removeprefix("tcp://").partition(":")

    def keep_connecting(sent: bytes) -> None:
        while True:
            try:
                connection = gevent.socket.create_connection((host, int(port)))
                connection.sendall(sent)
                while connection.recv(4096):
                    pass
            except OSError:
                pass
            gevent.sleep(1.0)

    for number in range(count):
        gevent.spawn(keep_connecting, HALF[number % len(HALF)])
    print("ready", flush=True)
    gevent.get_hub().join()


def accepted(client: gmdp.Client) -> int:
    """The number of connections that the broker has accepted so far."""
    return int(json.loads(client.request("mmi.statistics", b"")[1])["connections_accepted"])


def half_open(seconds: float = SECONDS, rounds: int = ROUNDS, count: int = STRANGERS) -> tuple[float, float]:
    """Print and return the 99th percentile of honest calls, without and with strangers (seconds)."""
    percentiles: dict[bool, list[float]] = {False: [], True: []}
    with stack(True) as (client, _):
        latencies(client, b"warm", 8, 1.0)
        for _ in range(rounds):
            for attacked in (False, True):
                with ExitStack() as attack:
                    if attacked:
                        command = [sys.executable, __file__, "strangers", client.endpoint, str(count)]
                        attacker = attack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
                        attack.callback(attacker.kill)
                        assert attacker.stdout is not None
                        before = accepted(client)
                        attacker.stdout.readline()
                        while accepted(client) < before + count:
                            gevent.sleep(0.01)
                    percentiles[attacked].append(
                        statistics.quantiles(latencies(client, b"x" * 64, 8, seconds), n=100)[98]
                    )
        report = client.request("mmi.statistics", b"")[1]
    without, attacked_p99 = (statistics.median(percentiles[attacked]) for attacked in (False, True))
    print(
        f"p99 of honest calls: {without * 1000:.2f} ms; with {count} half-open handshakes "
        f"{attacked_p99 * 1000:.2f} ms ({attacked_p99 / without:.2f} times)\n{report.decode()}",
        flush=True,
    )
    return without, attacked_p99


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "strangers":
        strangers(arguments[0], int(arguments[1]))
    elif command == "curve":
        curve(*map(float, arguments))
    elif command == "half-open":
        half_open(*map(float, arguments))
    else:
        raise SystemExit(__doc__)
