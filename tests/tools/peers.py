"""Bare ZeroMQ peers for tests: they send the frames a test gives them, and wait with a deadline.

The frames are written by hand.  Nothing here knows how gmdp builds or parses a message.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from socket import SHUT_WR, SO_RCVBUF, SOL_SOCKET
from time import monotonic

import gevent
import gevent.socket
import zmq
import zmq.green
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import timeout as socket_timeout
from gevent.socket import wait_read

#: Seconds after which a message that must come counts as missing.
DEADLINE = 20.0

#: The longest wait in seconds before a peer looks at its socket again, in case its descriptor missed an edge.
SAFETY = 0.25

ANYWHERE = "tcp://127.0.0.1:*"

_fences = itertools.count(1)


def _readable(descriptor: int, limit: float) -> None:
    """Wait until `descriptor` may be read, or for a moment."""
    try:
        wait_read(descriptor, timeout=min(SAFETY, max(limit - monotonic(), 0.001)))
    except socket_timeout:
        pass


class Peer:
    """One green socket that waits with a deadline and closes at the end of a ``with``."""

    def __init__(self, kind: int, endpoint: str, *, bind: bool = False, routing_id: bytes = b"") -> None:
        self.socket = zmq.green.Context.instance().socket(kind)
        self._descriptor = self.socket.get(zmq.FD)
        self.socket.set(zmq.LINGER, 0)
        if routing_id:
            self.socket.set(zmq.ROUTING_ID, routing_id)
        self.prepare(self.socket)
        if bind:
            self.socket.bind(endpoint)
        else:
            self.socket.connect(endpoint)

    def prepare(self, socket: zmq.green.Socket[bytes]) -> None:
        """Set options before the socket is bound or connected; for subclasses."""

    @property
    def endpoint(self) -> str:
        """Where a bound peer listens."""
        return self.socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    def send(self, *frames: bytes) -> None:
        """Send one message, without waiting."""
        self.socket.send_multipart(frames, zmq.NOBLOCK)

    def send_all(self, messages: Iterable[Sequence[bytes]]) -> None:
        """Send messages as fast as there is room for them."""
        for message in messages:
            while True:
                try:
                    self.send(*message)
                    break
                except zmq.Again:
                    gevent.sleep(0.001)

    def recv(self, timeout: float = DEADLINE) -> list[bytes]:
        """The next message; AssertionError if none comes within `timeout` seconds."""
        limit = monotonic() + timeout
        # Nothing may read EVENTS between this line and the wait, else the descriptor stays
        # silent; the methods of zmq.green would.
        while not int(zmq.Socket.get(self.socket, zmq.EVENTS)) & zmq.POLLIN:
            if monotonic() > limit:
                raise AssertionError(f"no message within {timeout:g} s")
            _readable(self._descriptor, limit)
        return self.socket.recv_multipart(zmq.NOBLOCK)

    def pending(self) -> list[list[bytes]]:
        """Every message that a broker has sent to this DEALER for the messages it got so far.

        A broker handles the messages of one connection in order: its answer to a request that
        is sent now comes after all of them.
        """
        fence = b"mmi.fence-%d" % next(_fences)
        self.send_all([[b"", b"MDPC01", fence, b""]])
        messages = []
        while (message := self.recv()) != [b"", b"MDPC01", fence, b"501"]:
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close the socket."""
        self.socket.close(0)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class StrictBroker(Peer):
    """A ROUTER that plays a broker of the RFCs: it answers probes for gmdp's extension with the 501 of RFC 8."""

    def recv(self, timeout: float = DEADLINE) -> list[bytes]:
        """The next message that is not a probe."""
        while (message := super().recv(timeout))[-2:-1] == [b"mmi.gmdp"]:
            sender, *question = message
            head = [b"MDPC02", b"\x03"] if question[0] == b"MDPC02" else [b"", b"MDPC01"]
            self.send(sender, *head, b"mmi.gmdp", b"501")
        return message


def dealer(endpoint: str, routing_id: bytes = b"") -> Peer:
    """A DEALER connected to `endpoint`."""
    return Peer(zmq.DEALER, endpoint, routing_id=routing_id)


def ask(endpoint: str, service: bytes, *body: bytes) -> list[list[bytes]]:
    """The answer to a client that speaks RFC 18 only: the body of each part, with the FINAL's last."""
    with dealer(endpoint) as client:
        client.send(b"MDPC02", b"\x01", service, *body)
        parts = []
        while True:
            header, command, name, *part = client.recv()
            assert (header, name) == (b"MDPC02", service)
            parts.append(part)
            if command == b"\x03":
                return parts


def req(endpoint: str, routing_id: bytes = b"") -> Peer:
    """A REQ connected to `endpoint`."""
    return Peer(zmq.REQ, endpoint, routing_id=routing_id)


def router() -> StrictBroker:
    """A ROUTER that is bound to a free port, to play the broker."""
    return StrictBroker(zmq.ROUTER, ANYWHERE, bind=True)


class Echo:
    """A bare worker in a greenlet: sends READY, then the messages that `answer` returns for each REQUEST.

    `answer` gets the frames of a REQUEST.
    """

    def __init__(self, peer: Peer, ready: Sequence[bytes], answer: Callable[[list[bytes]], list[list[bytes]]]) -> None:
        self._peer = peer
        self._answer = answer
        peer.send(*ready)
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            for message in self._answer(self._peer.recv(timeout=10 * DEADLINE)):
                self._peer.send(*message)

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._greenlet.kill()
        self._peer.close()


class Proxy:
    """A ``zmq.proxy`` in a thread, with a ROUTER in front and a DEALER that is connected to `backend`."""

    def __init__(self, backend: str) -> None:
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._back = self._context.socket(zmq.DEALER)
        for socket in (self._front, self._back):
            socket.set(zmq.LINGER, 0)
        self._front.bind(ANYWHERE)
        self._back.connect(backend)
        self.endpoint = self._front.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            zmq.proxy(self._front, self._back)
        except zmq.ContextTerminated:
            self._front.close(0)
            self._back.close(0)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._context.term()
        self._thread.join()


class Relay:
    """Forwards TCP connections to the endpoint `backend`, which does not notice; it can hold back what comes.

    It has little room of its own, so that what is held back stays with its sender.
    """

    def __init__(self, backend: str) -> None:
        host, _, port = backend.removeprefix("tcp://").rpartition(":")
        self._backend = (host, int(port))
        self._may_pass = Event()
        self._may_pass.set()
        #: Bytes that came from `backend`.
        self.passed_back = 0
        self._server = StreamServer(self._listener(), self._serve)
        self._server.start()
        self.endpoint = f"tcp://127.0.0.1:{self._server.server_port}"

    @staticmethod
    def _listener() -> gevent.socket.socket:
        listener = gevent.socket.socket()
        listener.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return listener

    def hold(self) -> None:
        """Let nothing pass from a peer to `backend` until :meth:`release`."""
        self._may_pass.clear()

    def release(self) -> None:
        """Let everything pass again."""
        self._may_pass.set()

    def _serve(self, peer: gevent.socket.socket, _: object) -> None:
        with gevent.socket.create_connection(self._backend) as backend:
            other = gevent.spawn(self._forward, backend, peer, back=True)
            self._forward(peer, backend, back=False)
            other.join()

    def _forward(self, source: gevent.socket.socket, target: gevent.socket.socket, back: bool) -> None:
        try:
            while data := source.recv(4096):
                if back:
                    self.passed_back += len(data)
                else:
                    self._may_pass.wait()
                target.sendall(data)
            target.shutdown(SHUT_WR)
        except OSError:
            pass  # one of the two has gone

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
        self._server.stop()


class Script:
    """A Python program in a process of its own, which reads and writes lines."""

    def __init__(self, code: str, *args: str) -> None:
        command = [sys.executable, "-c", code, *args]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._read = b""

    def tell(self, line: str) -> None:
        """Write one line to its standard input."""
        self._stdin.write(line.encode() + b"\n")
        self._stdin.flush()

    def line(self, timeout: float = DEADLINE) -> str:
        """The next line of its standard output, without the line end."""
        limit = monotonic() + timeout
        descriptor = self._stdout.fileno()
        os.set_blocking(descriptor, False)
        while b"\n" not in self._read:
            if monotonic() > limit:
                raise AssertionError(f"the process wrote no line within {timeout:g} s")
            try:
                read = os.read(descriptor, 65536)
            except BlockingIOError:
                _readable(descriptor, limit)
                continue
            if not read:
                raise AssertionError(f"the process ended; unfinished line: {self._read!r}")
            self._read += read
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Kill the process, unless it has ended."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
