"""What is measured: gmdp, and what its users come from or compare it with.

A stack's servers are processes, each started by a command that prints a line when it
is ready; where that line names an endpoint, the next are told it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket as sockets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import gevent
import zmq

from ...client.async_client import AsyncClient
from ...worker.handlers import Request
from .load import Measured, Meter, Point, drive

#: Threads of a majortomo worker: each has one request at a time.
THREADS = 16


class Stack(NamedTuple):
    """One thing to measure."""

    #: Whether it is the one that others are compared with.
    ours: bool
    #: The module it needs.
    needs: str
    #: The versions of the protocol it speaks; one empty name where there are none.
    versions: tuple[str, ...]
    #: The commands of its servers, the first of which says where it listens.
    #: Given (broker's endpoint or empty, service, version, worker's concurrency).
    broker: Callable[[], list[str]] | None
    worker: Callable[[str, str, str, int], list[str]]
    #: Makes the calls, in a process of its own.
    call: Callable[[Point, str, str], Measured]
    #: A program it needs, besides.
    program: str = sys.executable

    @property
    def installed(self) -> bool:
        """Can it be measured here?"""
        return importlib.util.find_spec(self.needs) is not None and _program(self.program) is not None


def _program(name: str) -> str | None:
    """Where a program is that the environment of this Python, or the system, has."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)


def echo(request: Request) -> list[bytes]:
    """gmdp's handler."""
    return request.body


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _greenlets(point: Point, call: Callable[[bytes], Any]) -> Measured:
    meter = Meter()
    body = b"x" * point.size

    def caller() -> None:
        while meter.running:
            began = perf_counter()
            try:
                call(body)
            except Exception as error:
                meter.failed(error)
                gevent.sleep(0.01)  # so that what fails at once does not spin
            else:
                meter.answered(began)

    callers = [gevent.spawn(caller) for _ in range(point.concurrency)]
    measured = drive(meter, point)
    gevent.killall(callers)
    return measured


# gmdp


def _gmdp_broker() -> list[str]:
    return _python("gmdp", "broker", "--bind", "tcp://127.0.0.1:*")


def _gmdp_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    options = ["--broker", endpoint, "--mdp", mdp, "--concurrency", str(concurrency)]
    return _python("gmdp", "worker", service, f"{__name__}:echo", *options)


def _gmdp_call(point: Point, endpoint: str, service: str) -> Measured:
    in_flight = max(1000, point.concurrency)
    with AsyncClient(endpoint, version=point.mdp, timeout=point.timeout, max_in_flight=in_flight) as client:
        return _greenlets(point, lambda body: client.request(service, body))


# zerorpc: no broker in between


def _zerorpc_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _python(__name__, "zerorpc")


def _zerorpc_serve() -> None:
    import zerorpc

    class Echo:
        """The service."""

        def echo(self, body: bytes) -> bytes:
            """What came."""
            return body

    server = zerorpc.Server(Echo())
    server.bind("tcp://127.0.0.1:*")
    _ready(_listens(server._events._socket))
    server.run()


def _zerorpc_call(point: Point, endpoint: str, service: str) -> Measured:
    import zerorpc

    client = zerorpc.Client(endpoint, timeout=point.timeout)
    return _greenlets(point, client.echo)


# majortomo: blocking, so each caller is a thread with a client of its own


def _majortomo_broker() -> list[str]:
    return _python(__name__, "majortomo-broker")


def _majortomo_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _python(__name__, "majortomo-worker", endpoint, service, str(min(concurrency, THREADS)))


def _majortomo_serve_broker() -> None:
    from majortomo.broker import Broker

    class Announced(Broker):  # type: ignore[misc]
        """Says where it listens as soon as it does."""

        def bind(self) -> None:
            """Called by `run`."""
            super().bind()
            _ready(_listens(self._socket))

    Announced(bind="tcp://127.0.0.1:*").run()


def _majortomo_serve_worker(endpoint: str, service: str, count: str) -> None:
    from majortomo.worker import Worker

    ready = threading.Barrier(int(count) + 1)

    def work() -> None:
        with Worker(endpoint, service.encode()) as worker:
            ready.wait()
            while True:
                client, body = worker.wait_for_request()
                worker.send_reply_final(client, body)

    for _ in range(int(count)):
        threading.Thread(target=work, daemon=True).start()
    ready.wait()
    _ready()
    threading.Event().wait()


def _majortomo_call(point: Point, endpoint: str, service: str) -> Measured:
    from majortomo.client import Client

    meter = Meter()
    body = b"x" * point.size

    def caller() -> None:
        with Client(endpoint) as client:
            while meter.running:
                began = perf_counter()
                try:
                    client.send(service.encode(), body)
                    client.recv_all_as_list(timeout=point.timeout)
                except Exception as error:
                    meter.failed(error)
                    time.sleep(0.01)
                else:
                    meter.answered(began)

    for _ in range(point.concurrency):
        threading.Thread(target=caller, daemon=True).start()
    return drive(meter, point, time.sleep)


# NATS: a broker in Go, peers on asyncio


def _nats_broker() -> list[str]:
    return _python(__name__, "nats-broker")


def _nats_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _python(__name__, "nats-worker", endpoint, service)


def _nats_serve_broker() -> None:
    with sockets.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    subprocess.Popen(_python("gmdp.cli.bench.stacks", "nats-wait", port))
    server = _program("nats-server") or "nats-server"
    os.execv(server, [server, "--addr", "127.0.0.1", "--port", port, "--log", os.devnull])


def _nats_wait(port: str) -> None:
    while True:
        try:
            sockets.create_connection(("127.0.0.1", int(port)), 1.0).close()
        except OSError:
            time.sleep(0.01)
        else:
            _ready(b"nats://127.0.0.1:" + port.encode())
            return


def _nats_serve_worker(endpoint: str, service: str) -> None:
    import nats

    async def echo(message: Any) -> None:
        await message.respond(message.data)

    async def serve() -> None:
        connection = await nats.connect(endpoint)
        await connection.subscribe(service, cb=echo)
        await connection.flush()
        _ready()
        await asyncio.Event().wait()

    asyncio.run(serve())


def _nats_call(point: Point, endpoint: str, service: str) -> Measured:
    import nats

    meter = Meter()
    body = b"x" * point.size

    async def caller(connection: Any) -> None:
        while meter.running:
            began = perf_counter()
            try:
                await connection.request(service, body, timeout=point.timeout)
            except Exception as error:
                meter.failed(error)
                await asyncio.sleep(0.01)
            else:
                meter.answered(began)

    async def call() -> None:
        connection = await nats.connect(endpoint)
        await asyncio.gather(*(caller(connection) for _ in range(point.concurrency)))

    threading.Thread(target=asyncio.run, args=(call(),), daemon=True).start()
    return drive(meter, point, time.sleep)


# libzmq's proxy: no protocol and no greenlets, the limit


def _proxy_broker() -> list[str]:
    return _python(__name__, "proxy")


def _proxy_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _python(__name__, "proxy-worker", endpoint.split(",")[1])


def _proxy_serve() -> None:
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (front, back):
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.bind("tcp://127.0.0.1:*")
    _ready(b",".join(map(_listens, (front, back))))
    zmq.proxy(front, back)


def _proxy_work(endpoint: str) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    _ready()
    while True:
        socket.send_multipart(socket.recv_multipart(copy=False), copy=False)


def _proxy_call(point: Point, endpoint: str, service: str) -> Measured:
    meter = Meter()
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint.split(",")[0])
    body = b"x" * point.size

    def caller() -> None:
        began = {}
        for number in range(point.concurrency):
            began[number] = perf_counter()
            socket.send_multipart([b"%d" % number, body], copy=False)
        while meter.running:
            number = int(socket.recv_multipart(copy=False)[0].bytes)
            meter.answered(began[number])
            began[number] = perf_counter()
            socket.send_multipart([b"%d" % number, body], copy=False)

    threading.Thread(target=caller, daemon=True).start()
    return drive(meter, point, time.sleep)


def _listens(socket: Any) -> bytes:
    endpoint: bytes = socket.get(zmq.LAST_ENDPOINT)
    return endpoint.rstrip(b"\0")


def _ready(endpoint: bytes = b"") -> None:
    print("ready", endpoint.decode(), flush=True)


#: By name, ours first.
STACKS = {
    "gmdp": Stack(True, "gmdp", ("0.1", "0.2"), _gmdp_broker, _gmdp_worker, _gmdp_call),
    "zerorpc": Stack(False, "zerorpc", ("",), None, _zerorpc_worker, _zerorpc_call),
    "majortomo": Stack(False, "majortomo", ("0.2",), _majortomo_broker, _majortomo_worker, _majortomo_call),
    "NATS": Stack(False, "nats", ("",), _nats_broker, _nats_worker, _nats_call, "nats-server"),
    "libzmq proxy": Stack(False, "zmq", ("",), _proxy_broker, _proxy_worker, _proxy_call),
}

_SERVERS: dict[str, Callable[..., None]] = {
    "zerorpc": _zerorpc_serve,
    "majortomo-broker": _majortomo_serve_broker,
    "majortomo-worker": _majortomo_serve_worker,
    "nats-broker": _nats_serve_broker,
    "nats-wait": _nats_wait,
    "nats-worker": _nats_serve_worker,
    "proxy": _proxy_serve,
    "proxy-worker": _proxy_work,
}

if __name__ == "__main__":
    _SERVERS[sys.argv[1]](*sys.argv[2:])
