"""What many cost: workers, services, clients, queued requests, large bodies; a broker measured in a process of its own.

``python scale.py NAME...`` measures some of, or all of:

* ``workers``: CPU per request with 10,000 workers on 1,000 services, over that with 16 on one;
* ``idle``: CPU of a broker with 10,000 workers on 100 connections, and 1,000 strict ones, that only heartbeat;
* ``queue``: memory per request of 1,000,000 that wait;
* ``clients``: CPU per request of 5,000 connected clients, over that of 50;
* ``bodies``: requests per second with 1 MiB and 16 MiB, over those that libzmq's own proxy carries.

The peers are plain ``zmq.green``, and share no code with what is measured.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import gevent
import zmq.green as zmq

from gmdp.cli.bench.measuring import PATIENCE, Process

SERVICES = 1_000
WORKERS = 10_000
#: Those that have a connection each, where that is measured.
STRICT = 1_000
QUEUED = 1_000_000
CLIENTS = 5_000
MIB = 1024 * 1024


def call(number: int, service: bytes, body: bytes) -> list[bytes]:
    """A gmdp client's request."""
    frame = b"\x89MDC\x01" + struct.pack(">BBBB16sQI", 0, 0, 1, 1, b"n" * 16, number, 0xFFFFFFFF)
    return [frame, b"", b"MDPC02", b"\x01", service, body]


def session(number: int) -> bytes:
    return b"\x89MDW\x01\x00" + struct.pack(">I", number)


def dealer(endpoint: str) -> Any:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.connect(endpoint)
    return socket


@contextmanager
def broker(**options: object) -> Iterator[tuple[Process, str]]:
    """A broker and where it listens."""
    command = [sys.executable, "-m", "gmdp", "broker", "--bind", "tcp://127.0.0.1:*"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with Process("the broker", command) as process:
        yield process, process.line(PATIENCE).split()[-1]


def wait_for(endpoint: str, field: str, least: int) -> None:
    """Until the broker says so."""
    asker = dealer(endpoint)
    until = monotonic() + 300
    while True:
        asker.send_multipart([b"MDPC02", b"\x01", b"mmi.statistics", b""])
        told = json.loads(asker.recv_multipart()[-1])
        if told[field] >= least:
            return
        if monotonic() > until:
            raise SystemExit(f"{field} is {told[field]} after 300 s, not {least}")
        gevent.sleep(0.1)


def echo_sessions(endpoint: str, services: list[bytes]) -> None:
    """A connection with a worker for each of these services, which echoes."""
    socket = dealer(endpoint)
    for number, service in enumerate(services, 1):
        socket.send_multipart([session(number), b"", b"MDPW02", b"\x01", service])

    def work() -> None:
        while True:
            frames = socket.recv_multipart()
            if frames[0][:4] != b"\x89MDW":
                socket.send_multipart([b"MDPW02", b"\x05"])  # a heartbeat
            elif frames[3] == b"\x02":
                socket.send_multipart([*frames[:3], b"\x04", *frames[4:]])

    gevent.spawn(work)


def cost(process: Process, clients: list[Any], services: list[bytes], in_flight: int, count: int) -> float:
    """Microseconds of the broker's CPU per request."""
    number = itertools.count()

    def ask(socket: Any) -> None:
        n = next(number)
        socket.send_multipart(call(n, services[n % len(services)], b"x" * 64))

    def run(total: int) -> None:
        left = total

        def client(socket: Any) -> None:
            nonlocal left
            for _ in range(in_flight):
                ask(socket)
            waiting = in_flight
            while waiting:
                if socket.recv_multipart()[0][5]:
                    raise SystemExit("a request failed")
                waiting -= 1
                left -= 1
                if left > 0:
                    ask(socket)
                    waiting += 1

        gevent.joinall([gevent.spawn(client, socket) for socket in clients], raise_error=True)

    run(2_000)
    before = process.cpu()
    run(count)
    after = process.cpu()
    if before is None or after is None:
        raise SystemExit("the system does not tell a process's CPU")
    return 1e6 * (after - before) / count


def workers() -> float:
    """CPU per request with many workers, over that with few."""
    costs = []
    for services, count in ((1, 16), (SERVICES, WORKERS)):
        names = [b"service %d" % number for number in range(services)]
        with broker(max_workers=2 * WORKERS, max_services=2 * SERVICES) as (process, endpoint):
            all_of_them = [names[number % services] for number in range(count)]
            for first in range(0, count, 100):
                echo_sessions(endpoint, all_of_them[first : first + 100])
            wait_for(endpoint, "workers", count)
            costs.append(min(cost(process, [dealer(endpoint)], names, 128, 20_000) for _ in range(3)))
            print(f"{count:6} workers on {services:5} services: {costs[-1]:.1f} µs of CPU per request", flush=True)
    ratio = costs[1] / costs[0]
    print(f"ratio {ratio:.2f}")
    return ratio


def strict_worker(endpoint: str, service: bytes) -> None:
    """A worker that only heartbeats, on a connection of its own."""
    socket = dealer(endpoint)
    socket.send_multipart([b"MDPW02", b"\x01", service])

    def beat() -> None:
        while True:
            socket.recv_multipart()
            socket.send_multipart([b"MDPW02", b"\x05"])

    gevent.spawn(beat)


def idle() -> float:
    """Cores that a broker takes whose many workers do nothing."""
    shares = []
    names = [b"service %d" % number for number in range(SERVICES)]
    for what, count in (("on 100 connections", WORKERS), ("each on a connection of its own", STRICT)):
        with broker() as (process, endpoint):
            if count == WORKERS:
                for at in range(0, count, 100):
                    echo_sessions(endpoint, [names[number % SERVICES] for number in range(at, at + 100)])
            else:
                for number in range(count):
                    strict_worker(endpoint, names[number % SERVICES])
            wait_for(endpoint, "workers", count)
            began, before = monotonic(), process.cpu()
            gevent.sleep(10)
            shares.append(((process.cpu() or 0) - (before or 0)) / (monotonic() - began))
            wait_for(endpoint, "workers", count)
        print(f"{count} idle workers, {what}: {100 * shares[-1]:.1f} % of a core", flush=True)
    return shares[0]


def memory(process: Process) -> int:
    """Bytes a process holds."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def queue() -> float:
    """Bytes per queued request."""
    options = {"max_queue": 2 * QUEUED, "max_in_flight": 2 * QUEUED, "request_ttl": 3600}
    with broker(**options) as (process, endpoint):
        client = dealer(endpoint)
        wait_for(endpoint, "queued", 0)
        before = memory(process)
        for number in range(QUEUED):
            client.send_multipart(call(number, b"nobody", b"x" * 16))
            if number % 10_000 == 0:
                gevent.sleep(0.001)
        wait_for(endpoint, "queued", QUEUED)
        each = (memory(process) - before) / QUEUED
    print(f"{QUEUED} queued requests of 16 bytes: {each:.0f} bytes of memory each")
    return each


def clients() -> float:
    """CPU per request with many connected clients, over that with few."""
    costs = []
    for count in (50, CLIENTS):
        with broker() as (process, endpoint):
            echo_sessions(endpoint, [b"echo"] * 64)
            wait_for(endpoint, "workers", 64)
            sockets = [dealer(endpoint) for _ in range(count)]
            costs.append(cost(process, sockets, [b"echo"], 1, 20_000))
            for socket in sockets:
                socket.close()
            print(f"{count:6} clients, one request in flight each: {costs[-1]:.1f} µs of CPU per request", flush=True)
    ratio = costs[1] / costs[0]
    print(f"ratio {ratio:.2f}")
    return ratio


def bodies() -> float:
    """The least of the brokers' rates over the proxy's."""
    ratios = []
    for size, count in ((MIB, 400), (16 * MIB, 40)):
        rates: dict[str, list[float]] = {"proxy": [], "gmdp": []}
        for _ in range(3):
            with Process("the proxy", [sys.executable, "-m", "gmdp.cli.bench.stacks", "proxy"]) as process:
                front, back = process.line(PATIENCE).split()[-1].split(",")
                rates["proxy"].append(_rate(front, back, [], [], size, count))
            with broker() as (_, endpoint):
                head = [b"MDPC02", b"\x01", b"echo"]
                rates["gmdp"].append(_rate(endpoint, endpoint, head, [b"MDPW02", b"\x01", b"echo"], size, count))
        middle = {name: sorted(found)[1] for name, found in rates.items()}
        ratios.append(middle["gmdp"] / middle["proxy"])
        told = ", ".join(f"{name} {rate * size / MIB:.0f} MiB/s each way" for name, rate in middle.items())
        print(f"{size // MIB:3} MiB: {told}, ratio {ratios[-1]:.2f}", flush=True)
    return min(ratios)


def _rate(front: str, back: str, head: list[bytes], ready: list[bytes], size: int, count: int) -> float:
    """Requests per second of four clients with four workers, which are in a process of their own."""
    command = [sys.executable, __file__, "--echo", back, "ready" if ready else ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            body = os.urandom(1024) * (size // 1024)
            left = count

            def client() -> None:
                nonlocal left
                socket = dealer(front)
                while left > 0:
                    left -= 1
                    socket.send_multipart([*head, body], copy=False)
                    if len(socket.recv_multipart(copy=False)[-1]) != size:
                        raise SystemExit("not the same body")
                socket.close()

            began = monotonic()
            gevent.joinall([gevent.spawn(client) for _ in range(4)], raise_error=True)
            return count / (monotonic() - began)
        finally:
            child.kill()


def echo(endpoint: str, ready: bool) -> None:
    """In a process of its own: four workers; or what stands behind a proxy."""

    def work() -> None:
        socket = dealer(endpoint)
        if ready:
            socket.send_multipart([b"MDPW02", b"\x01", b"echo"])
        while True:
            frames = socket.recv_multipart(copy=False)
            if not ready:
                socket.send_multipart(frames, copy=False)
            elif frames[1].bytes == b"\x02":
                socket.send_multipart([frames[0], b"\x04", *frames[2:]], copy=False)
            else:
                socket.send_multipart([b"MDPW02", b"\x05"])

    for _ in range(4):
        gevent.spawn(work)
    print("ready", flush=True)
    gevent.get_hub().join()


MEASURES = {"workers": workers, "idle": idle, "queue": queue, "clients": clients, "bodies": bodies}


def main(arguments: list[str]) -> None:
    zmq.Context.instance().set(zmq.MAX_SOCKETS, 2 * CLIENTS)  # before there is any
    if arguments[:1] == ["--echo"]:
        echo(arguments[1], bool(arguments[2]))
    elif unknown := set(arguments) - set(MEASURES):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    else:
        for name in arguments or MEASURES:
            MEASURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
