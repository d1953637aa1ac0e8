"""A load generator for any Majordomo broker, in plain blocking pyzmq.

``python load.py worker ENDPOINT DIALECT SERVICE SOCKETS`` echoes until it is
terminated.  It prints ``ready`` when all sockets are registered; requests must not come earlier.
``python load.py client ENDPOINT DIALECT SERVICE SOCKETS IN_FLIGHT COUNT`` sends
COUNT requests, IN_FLIGHT at a time on each socket, compares every reply
with its request, and prints a line of JSON.  DIALECT is
``0.1``, ``0.2`` or ``majortomo``.

A request's body is its number and a payload.  A worker sends the body back.  A worker that
speaks 0.2 sends every eighth answer in parts: a PARTIAL and a FINAL, each with the number
and half of the payload.
"""

from __future__ import annotations

import json
import struct
import sys
from time import monotonic

import zmq

#: The frames before the service name of a request, and before that of a reply.
CLIENTS = {
    "0.1": ([b"", b"MDPC01"], [b"", b"MDPC01"]),
    "0.2": ([b"MDPC02", b"\x01"], [b"MDPC02"]),
    "majortomo": ([b"", b"MDPC02", b"\x02"], [b"", b"MDPC02"]),
}
PARTIALS = {"0.1": None, "0.2": b"\x02", "majortomo": b"\x03"}
FINALS = {"0.1": None, "0.2": b"\x03", "majortomo": b"\x04"}
#: The frames before a worker's command; then FINAL (or REPLY) and HEARTBEAT.
WORKERS = {
    "0.1": ([b"", b"MDPW01"], b"\x03", b"\x04"),
    "0.2": ([b"MDPW02"], b"\x04", b"\x05"),
    "majortomo": ([b"", b"MDPW02"], b"\x04", b"\x05"),
}
READY, REQUEST, PARTIAL = b"\x01", b"\x02", b"\x03"

#: Seconds without any reply after which the open requests are lost.
PATIENCE = 20.0


def payload(number: int) -> bytes:
    """The payload of a request: its number again and again, 0 to 198 bytes."""
    return (b"%d;" % number * 33)[: number % 199]


def worker(endpoint: str, dialect: str, service: str, sockets: int) -> None:
    context = zmq.Context()
    poller = zmq.Poller()
    head, final, heartbeat = WORKERS[dialect]
    for _ in range(sockets):
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(endpoint)
        # The answer to the second message shows that the broker has read the first.
        socket.send_multipart([*head, READY, service.encode()])
        socket.send_multipart([b"", b"MDPC01", b"mmi.service", service.encode()])
        if socket.recv_multipart() != [b"", b"MDPC01", b"mmi.service", b"200"]:
            raise SystemExit("not registered")
        poller.register(socket, zmq.POLLIN)
    print("ready", flush=True)
    at = len(head)
    beat = monotonic()
    while True:
        for socket, _ in poller.poll(500):
            message = socket.recv_multipart()
            if message[:at] != head:
                raise SystemExit(f"not a command: {message!r}")
            if message[at] == REQUEST:
                address, empty, number, body = message[at + 1 :]
                if empty:
                    raise SystemExit(f"no empty frame: {message!r}")
                if dialect != "0.1" and number[-1] % 8 == 0:
                    half = len(body) // 2
                    socket.send_multipart([*head, PARTIAL, address, b"", number, body[:half]])
                    body = body[half:]
                socket.send_multipart([*head, final, address, b"", number, body])
            elif message[at:] != [heartbeat]:
                raise SystemExit(f"unexpected: {message!r}")
        if monotonic() > beat + 1:
            beat = monotonic()
            for socket, _ in poller.sockets:
                socket.send_multipart([*head, heartbeat])


def client(endpoint: str, dialect: str, service: str, sockets: int, in_flight: int, count: int) -> None:
    context = zmq.Context()
    poller = zmq.Poller()
    request_head, reply_head = CLIENTS[dialect]
    request_head = [*request_head, service.encode()]
    at = len(reply_head)
    name = [] if dialect == "majortomo" else [service.encode()]
    # The payloads received so far, by number, per socket.
    open_requests: dict[zmq.Socket[bytes], dict[bytes, bytes]] = {}
    sent = replies = parts = bad = 0

    def ask(socket: zmq.Socket[bytes]) -> None:
        nonlocal sent
        number = struct.pack(">Q", sent)
        socket.send_multipart([*request_head, number, payload(sent)])
        open_requests[socket][number] = b""
        sent += 1

    for _ in range(sockets):
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(endpoint)
        poller.register(socket, zmq.POLLIN)
        open_requests[socket] = {}
    began = monotonic()
    for _ in range(in_flight):
        for socket in open_requests:
            if sent < count:
                ask(socket)
    while any(open_requests.values()):
        ready = poller.poll(PATIENCE * 1000)
        if not ready:
            break
        for socket, _ in ready:
            message = socket.recv_multipart()
            final = True
            body = message[at:]
            if FINALS[dialect] is not None:
                command = body.pop(0)
                final = command == FINALS[dialect]
                if not final and command != PARTIALS[dialect]:
                    bad += 1
                    continue
            waiting = open_requests[socket]
            number = body[len(name)] if len(body) > len(name) else b""
            if message[:at] != reply_head or body[: len(name)] != name or number not in waiting:
                bad += 1
                continue
            # Number and payload; or, joined from two parts, both twice.
            body = body[len(name) :]
            if set(body[::2]) != {number} or len(body) not in ((2, 4) if dialect == "0.1" else (2,)):
                bad += 1
                continue
            waiting[number] += b"".join(body[1::2])
            parts += not final or len(body) == 4
            if final:
                if waiting.pop(number) != payload(struct.unpack(">Q", number)[0]):
                    bad += 1
                replies += 1
                if sent < count:
                    ask(socket)
    seconds = monotonic() - began
    lost = sum(map(len, open_requests.values()))
    result = {"sent": sent, "replies": replies, "parts": parts, "lost": lost, "bad": bad, "seconds": seconds}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    role, endpoint, dialect, service, *numbers = sys.argv[1:]
    if role == "worker":
        worker(endpoint, dialect, service, *map(int, numbers))
    else:
        client(endpoint, dialect, service, *map(int, numbers))
