"""What tests of the gateway share: requests and answers of WSGI, clients in place of a real one, and fixtures."""

import http.client
import io
import json
import os
import re
import signal
import socket
from typing import Any
from wsgiref.validate import validator

import gevent
import gevent.event
import gevent.lock
import gevent.socket
import pytest
from waiting import wait_until

from gmdp import Broker, Client, Worker
from gmdp.http.gateway import Gateway

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# Requests and answers


class Answer:
    """An answer of a gateway."""

    def __init__(self, status, headers, body):
        self.status = int(status.split()[0])
        self.headers = dict(headers)
        self.body = body

    @property
    def type(self):
        return self.headers["Content-Type"].partition(";")[0]

    @property
    def error(self):
        """The name in the JSON of an error."""
        assert self.type == "application/json"
        content = json.loads(self.body)
        assert set(content) == {"error", "message"}
        assert content["message"]
        return content["error"]

    @property
    def frames(self):
        """The parts of a multipart reply, taken apart by hand."""
        found = re.fullmatch("multipart/mixed; boundary=([0-9a-f]+)", self.headers["Content-Type"])
        assert found is not None
        boundary = found[1].encode()
        pieces = (b"\r\n" + self.body).split(b"\r\n--" + boundary)
        assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
        head = b"\r\nContent-Type: application/octet-stream\r\n\r\n"
        assert all(piece.startswith(head) for piece in pieces[1:-1])
        return [piece[len(head) :] for piece in pieces[1:-1]]

    @property
    def events(self):
        """The server-sent events: (name, data)."""
        assert self.type == "text/event-stream"
        return [read_event(text) for text in self.body.decode().split("\n\n")[:-1]]


def read_event(text):
    """Read one event as the WHATWG's parser does."""
    name, data = "message", []
    for line in re.split("\r\n|\n|\r", text):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
    return name, "\n".join(data)


def environ_of(method, target, body=b"", headers=None, **more):
    """The environment of PEP 3333 for a request; None leaves a variable out."""
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(body)),
    }
    for name, value in (headers or {}).items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    environ.update(more)
    return {name: value for name, value in environ.items() if value is not None}


def ask(gateway, method, target, body=b"", headers=None, **more):
    """The gateway's answer to a request.  Checks that the gateway keeps to PEP 3333."""
    started: list[Any] = []
    iterable: Any = validator(gateway)(
        environ_of(method, target, body, headers, **more),
        lambda status, headers, exc_info=None: started.extend((status, headers)),
    )
    try:
        received = b"".join(iterable)
    finally:
        iterable.close()
    status, fields = started
    answer = Answer(status, fields, received)
    assert answer.headers["Cache-Control"] == "no-store"
    if "Content-Length" in answer.headers and method != "HEAD":
        assert int(answer.headers["Content-Length"]) == len(received)
    return answer


def begin_stream(gateway, target, body=b"", headers=None):
    """A streamed answer that has begun: (status and headers, iterable)."""
    started = []
    environ = environ_of("POST", target, body, headers)
    iterable = gateway(environ, lambda status, headers: started.extend((status, headers)))
    return started, iterable


def multipart(boundary, *frames, headers=b""):
    """A multipart body of these frames."""
    parts = [b"--%b\r\n%b\r\n%b\r\n" % (boundary, headers, frame) for frame in frames]
    return b"".join(parts) + b"--%b--\r\n" % boundary


def mixed(boundary):
    """The headers of a multipart body."""
    return {"Content-Type": f"multipart/mixed; boundary={boundary}"}


def exchange(connection, method, target, body=None, headers=None, **options):
    """Send a request on an HTTP connection, and return (status, body) of the answer."""
    connection.request(method, target, body, headers or {}, **options)
    answer = connection.getresponse()
    return answer.status, answer.read()


def first_part(connection, go):
    """The answer of the service "gated" as a stream, once its first part has come."""
    connection.request("POST", "/services/gated?stream=1", b"")
    go.release()
    answer = connection.getresponse()
    assert answer.read(1) == b"0"
    return answer


def head(*header, target="/services/work", version="1.1", method="POST"):
    """The first line and the header of a request."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *header, "", ""]).encode()


# Servers


def needs_gunicorn():
    """Skip the module that calls it if gunicorn refuses this gevent."""
    try:
        import gunicorn.workers.ggevent  # noqa: F401
    except RuntimeError as too_old:
        pytest.skip(str(too_old), allow_module_level=True)


class WorkerHere:
    """The worker process of ``gmdp gateway``, but in this process: a greenlet runs what its main greenlet would."""

    def __init__(self, make_gateway, *, keep_alive=30.0, stop_timeout=10.0, connections=100):
        from gmdp.cli.prefork import Application, GatewayWorker

        settings = {"worker_connections": connections}
        application = Application(settings, make_gateway, stop_timeout, keep_alive)
        logger = application.cfg.logger_class(application.cfg)
        listener = gevent.socket.socket()
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.port = listener.getsockname()[1]
        self.worker = GatewayWorker(1, os.getppid(), [listener], application, 30, application.cfg, logger)
        self.worker.prepare()
        self.worker.wsgi = self.gateway = application.load()
        self._running = gevent.spawn(self.worker.run)

    def begin_stop(self):
        """Do what SIGTERM does."""
        self.worker.handle_exit(signal.SIGTERM, None)

    def ended(self, timeout=10):
        """Wait until the worker has ended."""
        self._running.get(timeout=timeout)

    def close(self):
        """End the worker at once."""
        self.worker.app.stop_timeout = 0
        self.begin_stop()
        self.ended()
        self.worker.tmp.close()

    def dial(self):
        """A connection to the worker."""
        connection = gevent.socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(30)
        return connection

    def reply_to(self, request):
        """Send a request on a new connection, and return all bytes until its end."""
        with self.dial() as connection:
            connection.sendall(request)
            return read_to_end(connection)


def read_to_end(connection):
    """All bytes of a connection until the other side closes it."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


# In place of a client


class RecordingClient:
    """Keeps the options of its last call, and answers every call at once."""

    extensions = None

    def __init__(self):
        self.options = {}

    def request(self, service, body, **options):
        self.options = options
        return [b"200"]

    def stream(self, service, body, **options):
        return iter([self.request(service, body, **options)])


class FailingClient:
    """Raises an error in every call."""

    def __init__(self, error):
        self._error = error

    def request(self, service, body, **options):
        raise self._error

    def stream(self, service, body, **options):
        yield from self.request(service, body)


# Handlers


class HeldHandler:
    """A handler that answers when the test sets `go`."""

    def __init__(self):
        self.arrived, self.go = gevent.event.Event(), gevent.event.Event()

    def __call__(self, request):
        self.arrived.set()
        self.go.wait()
        return b"done"


def work(request):
    """The handler of the service "work": does what the first frame says."""
    verb, *rest = request.body
    if verb == b"frames":
        return rest
    if verb == b"parts":
        return _parts(rest)
    if verb == b"half":
        return _parts_and_error(b"first")
    if verb == b"empty":
        return _parts_and_error(b"", b"")
    if verb == b"drip":
        return _drip()
    if verb == b"fail":
        raise LookupError("secret")
    if verb == b"about":
        return [request.metadata.get("traceparent", "").encode(), b"%.3f" % request.remaining()]
    if verb == b"wait":
        gevent.sleep(60)
    return request.body


def _parts(parts):
    yield from parts
    return [b"last", b"two"]


def _parts_and_error(*parts):
    yield from parts
    raise LookupError("secret")


def _drip():
    """Each part comes well within the time, but the last one does not."""
    for _ in range(1000):
        yield b"drop"
        gevent.sleep(0.05)


# Fixtures, which the conftest files of the packages import


@pytest.fixture(scope="module")
def stack():
    """A broker with workers for "work", and for three services with odd names."""
    with Broker("tcp://127.0.0.1:*", max_frame_size=200_000, heartbeat_interval=0.5) as broker:
        with (
            Worker(broker.endpoint, "work", work, concurrency=10, enforce_deadline=True),
            Worker(broker.endpoint, "naïve", lambda request: b"diaeresis"),
            Worker(broker.endpoint, "/a b/", lambda request: b"slashes"),
            Worker(broker.endpoint, b"\xff\xfe", lambda request: b"not UTF-8"),
        ):
            yield broker


@pytest.fixture(scope="module")
def client(stack):
    """A client of the stack, connected."""
    with Client(stack.endpoint, timeout=10) as client:
        client.request("work", b"")
        yield client


@pytest.fixture(scope="module")
def gateway(client):
    """A gateway that exposes all services."""
    return Gateway(client, ["*"], max_body=1_000_000, timeout=10)


@pytest.fixture
def gated(stack, client):
    """The service "gated", whose parts the test lets go: (go, ended) of its handler."""
    go, ended = gevent.lock.Semaphore(0), gevent.event.Event()

    def handler(request):
        try:
            for number in range(5):
                go.acquire()
                yield b"%d" % number
        finally:
            ended.set()

    with Worker(stack.endpoint, "gated", handler, enforce_deadline=True):
        wait_until(lambda: client.request("mmi.service", b"gated") == [b"200"])
        yield go, ended
    # The next test must not find the worker of this one.
    wait_until(lambda: client.request("mmi.service", b"gated") != [b"200"])


@pytest.fixture
def connect():
    """A function: an HTTP connection to a port, on gevent's sockets, closed at the end."""
    connections = []

    def connect(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection._create_connection = gevent.socket.create_connection  # type: ignore[attr-defined]
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()
