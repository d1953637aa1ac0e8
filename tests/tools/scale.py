"""The cost of large numbers of workers, services, clients and queued requests, and of large bodies.

The broker has a process of its own.  ``python scale.py NAME...`` measures some or all of:

* ``workers``: CPU per request with 10,000 workers on 1,000 services, over that with 16 on one;
* ``idle``: CPU of a broker with 10,000 workers on 100 connections, and 1,000 strict ones, that only heartbeat;
* ``queue``: memory per request of 1,000,000 that wait;
* ``clients``: CPU per request of 5,000 connected clients, over that of 50;
* ``bodies``: requests per second with 1 MiB and 16 MiB, over those that libzmq's own proxy carries;
* ``pause``: the longest that greenlets beside a flooded broker in their own hub wait for their turn;
* ``core``: what a request costs the broker's core, in runs of a reference loop and in bytecode instructions.

The peers are plain ``zmq.green``, and share no code with the broker.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, process_time, thread_time
from typing import Any

import gevent
import zmq.green as zmq

from gmdp import Broker
from gmdp.cli.bench.measuring import PATIENCE, Process
from gmdp.core.broker.core import BrokerCore
from gmdp.core.broker.options import BrokerOptions

SERVICES = 1_000
WORKERS = 10_000
#: Workers with a connection each, where those are measured.
STRICT = 1_000
QUEUED = 1_000_000
CLIENTS = 5_000
MIB = 1024 * 1024

PEER_STACKS = Path(__file__).parents[2] / "bench" / "peer_stacks.py"


def call(number: int, service: bytes, body: bytes, version: int = 2) -> list[bytes]:
    """The frames of a gmdp client's request; `version` of the extension."""
    frame = b"\x89MDC" + struct.pack(">BBBBB16sQI", version, 0, 0, 1, 1, b"n" * 16, number, 0xFFFFFFFF)
    return [frame + (b"\0\0" if version == 2 else b""), b"", b"MDPC02", b"\x01", service, body]


def session(number: int, version: int = 2) -> bytes:
    return b"\x89MDW" + struct.pack(">BBI", version, 0, number) + (b"\0\0" if version == 2 else b"")


def dealer(endpoint: str) -> Any:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.connect(endpoint)
    return socket


@contextmanager
def broker(**options: object) -> Iterator[tuple[Process, str]]:
    """A broker process and its endpoint."""
    command = [sys.executable, "-m", "gmdp", "broker", "--bind", "tcp://127.0.0.1:*"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    with Process("the broker", command) as process:
        yield process, process.line(PATIENCE).split()[-1]


def wait_for(endpoint: str, field: str, least: int) -> None:
    """Wait until the broker reports at least `least` for `field`."""
    asker = dealer(endpoint)
    until = monotonic() + 300
    while True:
        asker.send_multipart([b"MDPC02", b"\x01", b"mmi.statistics", b""])
        statistics = json.loads(asker.recv_multipart()[-1])
        if statistics[field] >= least:
            return
        if monotonic() > until:
            raise SystemExit(f"{field} is {statistics[field]} after 300 s, not {least}")
        gevent.sleep(0.1)


def echo_sessions(endpoint: str, services: list[bytes]) -> None:
    """Open a connection with an echoing worker for each of these services."""
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
    options = {"max_queue": 2 * QUEUED, "max_in_flight": 2 * QUEUED, "max_queue_bytes": 2**32, "request_ttl": 3600}
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
            with Process("the proxy", [sys.executable, str(PEER_STACKS), "proxy"]) as process:
                front, back = process.line(PATIENCE).split()[-1].split(",")
                rates["proxy"].append(_rate(front, back, [], [], size, count))
            with broker() as (_, endpoint):
                head = [b"MDPC02", b"\x01", b"echo"]
                rates["gmdp"].append(_rate(endpoint, endpoint, head, [b"MDPW02", b"\x01", b"echo"], size, count))
        middle = {name: sorted(found)[1] for name, found in rates.items()}
        ratios.append(middle["gmdp"] / middle["proxy"])
        rates_text = ", ".join(f"{name} {rate * size / MIB:.0f} MiB/s each way" for name, rate in middle.items())
        print(f"{size // MIB:3} MiB: {rates_text}, ratio {ratios[-1]:.2f}", flush=True)
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
    """Run four workers, or four echoing sockets behind a proxy, in this process."""

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


def pause() -> tuple[float, float]:
    """Seconds: the longest pause of a greenlet beside a flooded broker, by this thread's CPU and by the clock.

    Two processes make honest calls, as many as are answered.  A third sends requests for a
    service without workers as fast as it can, and reads nothing.  All older objects are frozen,
    as in a program that counts milliseconds: otherwise Python's garbage collector looks
    through all modules now and then, which takes some 20 ms.
    """
    gc.freeze()
    with Broker("tcp://127.0.0.1:*", max_queue=1_000) as broker:
        module = [sys.executable, "-m", "gmdp"]
        endpoint = broker.endpoint
        worker = [*module, "worker", "echo", "gmdp.cli.bench.stacks:echo", "--broker", endpoint, "--concurrency", "64"]
        load = [sys.executable, "-m", "gmdp.cli.bench.stacks"]
        load.append(json.dumps(["gmdp", "0.2", 64, 64, 3600.0, 1.0, 60.0, endpoint, "echo"]))
        flood = [sys.executable, __file__, "--flood", endpoint]
        children = [subprocess.Popen(each, stdout=subprocess.DEVNULL) for each in (worker, load, load, flood)]
        try:
            while broker.statistics().replies < 1_000 or broker.statistics().requests < 20_000:
                gevent.sleep(0.05)
            before, until = broker.statistics(), monotonic() + 15
            turns = []
            while monotonic() < until:
                began, spent = monotonic(), thread_time()
                gevent.sleep(0)
                turns.append((thread_time() - spent, monotonic() - began))
            after = broker.statistics()
        finally:
            for child in children:
                child.kill()
                child.wait()
    cpu, clock = (sorted(column) for column in zip(*turns, strict=True))
    rate = (after.requests - before.requests) / 15
    pauses = ", ".join(
        f"{name} p50 {_middle(times):.2f} ms, p99 {1e3 * times[len(times) * 99 // 100]:.2f}, max {1e3 * times[-1]:.2f}"
        for name, times in (("CPU", cpu), ("clock", clock))
    )
    print(f"{len(turns)} turns beside a broker that gets {rate:.0f} requests/s: {pauses}")
    return cpu[-1], clock[-1]


def _middle(ordered: list[float]) -> float:
    return 1e3 * ordered[len(ordered) // 2]


def flood(endpoint: str) -> None:
    """Send requests for a service without workers, without end."""
    socket = dealer(endpoint)
    socket.set(zmq.SNDHWM, 1000)
    for number in itertools.count():
        socket.send_multipart(call(number, b"nobody", b"x" * 64))


def core() -> dict[str, tuple[float, float]]:
    """By version: runs of a reference loop, and bytecode instructions, per request."""
    found = {}
    for name, bench in (
        ("0.1", CoreBench(1)),
        ("0.2", CoreBench(2)),
        ("extension 1", CoreBench(3)),
        ("extension", CoreBench(4)),
    ):
        bench.run(2_000)
        pairs = []
        for _ in range(40):
            began = process_time()
            reference(2_000)
            middle = process_time()
            done = bench.run(1_000)
            pairs.append(((process_time() - middle) / done) / ((middle - began) / 2_000))
        ratio = sorted(pairs)[len(pairs) // 4]
        count = 0

        def local(frame: Any, event: str, arg: object) -> Any:
            nonlocal count
            count += event == "opcode"
            return local

        def trace(frame: Any, event: str, arg: object) -> Any:
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
            pure = "/gmdp/core/" in frame.f_code.co_filename or "/gmdp/protocol/" in frame.f_code.co_filename
            return local if pure else None

        tracing = sys.gettrace()
        sys.settrace(trace)
        done = bench.run(400)
        sys.settrace(tracing)
        found[name] = (ratio, count / done)
        print(f"{name}: {ratio:.1f} runs of the reference loop, {count / done:.0f} bytecode instructions a request")
    return found


def reference(count: int) -> int:
    """The core's most frequent operations: small bytes, lists, look-ups."""
    table: dict[bytes, list[bytes]] = {}
    total = 0
    for number in range(count):
        key = b"%d" % number
        table[key] = frames = [key, b"", b"x"]
        total += len(frames)
        if table.get(key) is not None:
            table.pop(key)
    return total


class CoreBench:
    """A broker's core with 128 requests in flight, whose peers answer at once."""

    def __init__(self, kind: int) -> None:
        self.now = 0.0
        self.core = BrokerCore(BrokerOptions(), b"12345678", 0.0, socket_checks_size=True)
        self.numbers = itertools.count()
        self.extension = max(0, kind - 2)
        empty, version = ([b""], b"01") if kind == 1 else ([], b"02")
        self.worker, self.client = [*empty, b"MDPW" + version], [*empty, b"MDPC" + version]
        self.client += [] if kind == 1 else [b"\x01"]
        self.final = b"\x03" if kind == 1 else b"\x04"
        for number in range(64 if self.extension else 16):
            head = [b"\0w000", session(number + 1, self.extension), b""] if self.extension else [b"\0w%03d" % number]
            self.core.feed([*head, *self.worker, b"\x01", b"echo"], 0.0)
        self._sent()
        self.waiting = [self._request(client % 8) for client in range(128)]

    def _request(self, client: int) -> list[bytes]:
        number = next(self.numbers)
        if self.extension:
            return [b"\0c000", *call(number, b"echo", b"x" * 64, self.extension)]
        return [b"\0c%03d" % client, *self.client, b"echo", b"x" * 64]

    def _sent(self) -> list[list[bytes]]:
        core = self.core
        outbox, _ = core.take()
        return [outgoing.frames for outgoing in outbox if not core.backlogs.hold_back(outgoing, self.now)]

    def run(self, least: int) -> int:
        """Answer at least `least` requests; returns how many."""
        core, done = self.core, 0
        while done < least:
            self.now += 0.0001
            core.on_wake(self.now)
            for frames in self.waiting:
                core.feed(frames, self.now)
            core.on_caught_up(self.now)
            core.deadline()
            self.waiting = []
            for frames in self._sent():
                if frames[0][1:2] == b"c":
                    done += 1
                    self.waiting.append(self._request(int(frames[0][2:])))
                else:
                    at = frames.index(b"\x02") + 1  # REQUEST, and the address after it
                    answer = [*self.worker, self.final, *frames[at:]]
                    self.waiting.append([*frames[: 3 if self.extension else 1], *answer])
        return done


MEASURES = {
    "workers": workers,
    "idle": idle,
    "queue": queue,
    "clients": clients,
    "bodies": bodies,
    "pause": pause,
    "core": core,
}


def main(arguments: list[str]) -> None:
    zmq.Context.instance().set(zmq.MAX_SOCKETS, 2 * CLIENTS)  # before the first socket
    if arguments[:1] == ["--echo"]:
        echo(arguments[1], bool(arguments[2]))
    elif arguments[:1] == ["--flood"]:
        flood(arguments[1])
    elif unknown := set(arguments) - set(MEASURES):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    else:
        for name in arguments or MEASURES:
            MEASURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
