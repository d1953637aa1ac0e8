"""The stacks that gmdp is compared with: what its users come from, and what they might use instead.

``python bench/peer_stacks.py ROLE ARGUMENT...`` is one of their processes, see `ROLES`.
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

import zmq

from gmdp.cli.bench.load import Measured, Meter, Point, call_in_greenlets, measure_callers, run
from gmdp.cli.bench.stacks import Stack

#: Threads of a majortomo worker: each has one request at a time.
THREADS = 16


class Peer(NamedTuple):
    """A stack, and what must be installed for it."""

    stack: Stack
    module: str
    program: str = sys.executable

    @property
    def installed(self) -> bool:
        """True if the stack can be measured here."""
        return importlib.util.find_spec(self.module) is not None and _find_program(self.program) is not None


def _find_program(name: str) -> str | None:
    """The path of a program of this Python's environment, or of the system."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)


def _command(role: str, *arguments: str) -> list[str]:
    """The command that runs a role of this script."""
    return [sys.executable, __file__, role, *arguments]


# zerorpc: no broker in between


def _zerorpc_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _command("zerorpc-worker")


def _zerorpc_serve() -> None:
    import zerorpc

    class Echo:
        """The service."""

        def echo(self, body: bytes) -> bytes:
            """Return `body`."""
            return body

    server = zerorpc.Server(Echo())
    server.bind("tcp://127.0.0.1:*")
    _print_ready(_endpoint_of(server._events._socket))
    server.run()


def _zerorpc_call(point: Point, endpoint: str, service: str) -> Measured:
    import zerorpc

    client = zerorpc.Client(endpoint, timeout=point.timeout)
    return call_in_greenlets(point, client.echo)


# majortomo: blocking, so each caller is a thread with a client of its own


def _majortomo_broker() -> list[str]:
    return _command("majortomo-broker")


def _majortomo_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _command("majortomo-worker", endpoint, service, str(min(concurrency, THREADS)))


def _majortomo_serve_broker() -> None:
    from majortomo.broker import Broker

    class Announced(Broker):  # type: ignore[misc]
        """Prints its endpoint as soon as it listens."""

        def bind(self) -> None:
            """Bind; `run` calls it."""
            super().bind()
            _print_ready(_endpoint_of(self._socket))

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
    _print_ready()
    threading.Event().wait()


def _majortomo_call(point: Point, endpoint: str, service: str) -> Measured:
    from majortomo.client import Client

    meter = Meter()
    body = b"x" * point.size

    def run_caller() -> None:
        with Client(endpoint) as client:
            while meter.running:
                began = perf_counter()
                try:
                    client.send(service.encode(), body)
                    client.recv_all_as_list(timeout=point.timeout)
                except Exception as error:
                    meter.record_error(error)
                    time.sleep(0.01)
                else:
                    meter.record_reply(began)

    for _ in range(point.concurrency):
        threading.Thread(target=run_caller, daemon=True).start()
    return measure_callers(meter, point, time.sleep)


# NATS: a broker in Go, peers on asyncio


def _nats_broker() -> list[str]:
    return _command("nats-broker")


def _nats_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _command("nats-worker", endpoint, service)


def _nats_serve_broker() -> None:
    with sockets.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    subprocess.Popen(_command("nats-wait", port))
    server = _find_program("nats-server") or "nats-server"
    os.execv(server, [server, "--addr", "127.0.0.1", "--port", port, "--log", os.devnull])


def _nats_wait(port: str) -> None:
    while True:
        try:
            sockets.create_connection(("127.0.0.1", int(port)), 1.0).close()
        except OSError:
            time.sleep(0.01)
        else:
            _print_ready(b"nats://127.0.0.1:" + port.encode())
            return


def _nats_serve_worker(endpoint: str, service: str) -> None:
    import nats

    async def echo(message: Any) -> None:
        await message.respond(message.data)

    async def serve() -> None:
        connection = await nats.connect(endpoint)
        await connection.subscribe(service, cb=echo)
        await connection.flush()
        _print_ready()
        await asyncio.Event().wait()

    asyncio.run(serve())


def _nats_call(point: Point, endpoint: str, service: str) -> Measured:
    import nats

    meter = Meter()
    body = b"x" * point.size

    async def run_caller(connection: Any) -> None:
        while meter.running:
            began = perf_counter()
            try:
                await connection.request(service, body, timeout=point.timeout)
            except Exception as error:
                meter.record_error(error)
                await asyncio.sleep(0.01)
            else:
                meter.record_reply(began)

    async def call() -> None:
        connection = await nats.connect(endpoint)
        await asyncio.gather(*(run_caller(connection) for _ in range(point.concurrency)))

    threading.Thread(target=asyncio.run, args=(call(),), daemon=True).start()
    return measure_callers(meter, point, time.sleep)


# libzmq's proxy: no protocol and no greenlets, the limit


def _proxy_broker() -> list[str]:
    return _command("proxy")


def _proxy_worker(endpoint: str, service: str, mdp: str, concurrency: int) -> list[str]:
    return _command("proxy-worker", endpoint.split(",")[1])


def _proxy_serve() -> None:
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (front, back):
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        socket.bind("tcp://127.0.0.1:*")
    _print_ready(b",".join(map(_endpoint_of, (front, back))))
    zmq.proxy(front, back)


def _proxy_work(endpoint: str) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    _print_ready()
    while True:
        socket.send_multipart(socket.recv_multipart(copy=False), copy=False)


def _proxy_call(point: Point, endpoint: str, service: str) -> Measured:
    meter = Meter()
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint.split(",")[0])
    body = b"x" * point.size

    def run_caller() -> None:
        began = {}
        for number in range(point.concurrency):
            began[number] = perf_counter()
            socket.send_multipart([b"%d" % number, body], copy=False)
        while meter.running:
            number = int(socket.recv_multipart(copy=False)[0].bytes)
            meter.record_reply(began[number])
            began[number] = perf_counter()
            socket.send_multipart([b"%d" % number, body], copy=False)

    threading.Thread(target=run_caller, daemon=True).start()
    return measure_callers(meter, point, time.sleep)


def _endpoint_of(socket: Any) -> bytes:
    endpoint: bytes = socket.get(zmq.LAST_ENDPOINT)
    return endpoint.rstrip(b"\0")


def _print_ready(endpoint: bytes = b"") -> None:
    print("ready", endpoint.decode(), flush=True)


#: By name.
PEERS = {
    "zerorpc": Peer(Stack(("",), None, _zerorpc_worker, _command("zerorpc-client")), "zerorpc"),
    "majortomo": Peer(Stack(("0.2",), _majortomo_broker, _majortomo_worker, _command("majortomo-client")), "majortomo"),
    "NATS": Peer(Stack(("",), _nats_broker, _nats_worker, _command("nats-client")), "nats", "nats-server"),
    "libzmq proxy": Peer(Stack(("",), _proxy_broker, _proxy_worker, _command("proxy-client")), "zmq"),
}


def _client(call: Callable[[Point, str, str], Measured]) -> Callable[[str], None]:
    return lambda argument: run(call, argument)


#: By name, the processes of all stacks; they get the further arguments of the command line.
ROLES: dict[str, Callable[..., None]] = {
    "zerorpc-worker": _zerorpc_serve,
    "zerorpc-client": _client(_zerorpc_call),
    "majortomo-broker": _majortomo_serve_broker,
    "majortomo-worker": _majortomo_serve_worker,
    "majortomo-client": _client(_majortomo_call),
    "nats-broker": _nats_serve_broker,
    "nats-wait": _nats_wait,
    "nats-worker": _nats_serve_worker,
    "nats-client": _client(_nats_call),
    "proxy": _proxy_serve,
    "proxy-worker": _proxy_work,
    "proxy-client": _client(_proxy_call),
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
