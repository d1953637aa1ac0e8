"""Clients of gunicorn's gevent worker that stop reading, or stop in the middle of their body: real connections."""

import socket
from itertools import pairwise

import gevent
import gevent.event
import pytest
from gateways import WorkerHere, environ_of, head, multipart, needs_gunicorn, read_to_end
from waiting import wait_until

from gmdp import Client, Worker
from gmdp.http import slow_clients
from gmdp.http.gateway import Gateway

needs_gunicorn()

from gunicorn.http.body import Body, ChunkedReader  # noqa: E402
from gunicorn.http.unreader import IterUnreader  # noqa: E402

#: Seconds for a client that does nothing.
PATIENCE = 0.3


@pytest.fixture
def server(stack, monkeypatch):
    """A worker process of gunicorn, in this process, whose gateway has little patience."""
    monkeypatch.setattr(slow_clients, "PACE", 1e9)
    monkeypatch.setattr(slow_clients, "LINGER", 0.05)

    def make_gateway():
        return Gateway(Client(stack.endpoint, timeout=10), ["*"], client_timeout=PATIENCE, max_body=2**24)

    server = WorkerHere(make_gateway)
    yield server
    server.close()


def let_nothing_be_read(connection, most=4096):
    """Make the buffer of a connection small, so that its server waits soon."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, most)


@pytest.fixture
def endless(stack):
    """The service "endless", and an event: its handler was stopped."""
    stopped = gevent.event.Event()

    def handler(request):
        try:
            while True:
                yield b"x" * 100_000
                gevent.sleep(0.001)
        finally:
            stopped.set()

    with Worker(stack.endpoint, "endless", handler, enforce_deadline=True):
        wait_until(lambda: b"endless" in stack.statistics().services)
        yield stopped


def test_X3_a_client_that_does_not_read_a_stream_is_cut_off(server, endless, caplog):
    """Its call is cancelled."""
    with caplog.at_level("INFO", "gmdp.wsgi"), server.dial() as connection:
        let_nothing_be_read(connection)
        connection.sendall(head("Content-Length: 0", target="/services/endless?stream=1"))
        assert endless.wait(30)
        wait_until(lambda: not server.gateway.client.statistics().in_flight)
        wait_until(lambda: not server.worker._connections)
        with pytest.raises(ConnectionResetError):
            read_to_end(connection)
    assert "the client did not read" in caplog.text
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("pace", [slow_clients.PACE, 1e5], ids=["", "as early as a stream"])
def test_X3_a_client_that_does_not_read_a_large_reply_is_cut_off(server, monkeypatch, pace):
    """The reply is one piece, which would have two minutes at the slower pace; its server must not keep it for ever."""
    monkeypatch.setattr(slow_clients, "PACE", pace)
    with server.dial() as connection, gevent.Timeout(20):
        let_nothing_be_read(connection)
        connection.sendall(many_frames(70))
        wait_until(lambda: server.worker._requests)
        wait_until(lambda: not server.worker._connections)
        with pytest.raises(ConnectionResetError):
            read_to_end(connection)


def many_frames(count):
    """A request of `count` large frames, which come back."""
    body = multipart(b"x", b"frames", *[b"y" * 190_000] * count)
    type_ = "Content-Type: multipart/mixed; boundary=x"
    return head(f"Content-Length: {len(body)}", type_, "Connection: close") + body


def test_a_slow_reader_gets_all_of_a_large_reply(server, monkeypatch):
    """The time for a piece grows with its length."""
    monkeypatch.setattr(slow_clients, "PACE", 2e4)
    with server.dial() as connection:
        let_nothing_be_read(connection, 100_000)
        connection.sendall(many_frames(70))
        received = 0
        with gevent.Timeout(4 * PATIENCE, False):
            while True:
                received += len(connection.recv(1000))
                gevent.sleep(PATIENCE / 10)
        rest = read_to_end(connection)
    assert received + len(rest) > 70 * 190_000
    assert rest.endswith(b"--\r\n")


@pytest.mark.parametrize(
    ("header", "begun"),
    [
        (["Content-Length: 5"], b"hel"),
        (["Content-Length: 5"], b""),
        (["Content-Length: 100000"], b"x" * 70_000),
        (["Transfer-Encoding: chunked"], b"5\r\nhel"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n"),
        (["Transfer-Encoding: chunked"], b"5;a"),
        (["Transfer-Encoding: chunked"], b"0\r\nX-Trailer"),
    ],
    ids=["length", "length, nothing sent", "length, two reads", "chunk", "after a chunk", "size", "trailer"],
)
def test_X3_a_client_that_stops_in_its_body_gets_408_and_the_connection_ends(server, header, begun):
    """Later bytes are the rest of the body, and not a request."""
    with server.dial() as connection:
        connection.sendall(head(*header) + begun)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer += read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert b'"BodyTimeout"' in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_body_that_comes_slowly_is_read(server):
    """A body may take as long as it likes, as long as it comes."""
    request = many_frames(10)
    with server.dial() as connection:
        for start in range(0, len(request), 60_000):
            connection.sendall(request[start : start + 60_000])
            gevent.sleep(PATIENCE / 10)
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


def test_the_time_that_a_service_takes_is_nobodys_fault(server, gated):
    go, _ = gated
    with server.dial() as connection:
        connection.sendall(head("Content-Length: 0", "Connection: close", target="/services/gated?stream=1"))
        for _ in range(5):
            gevent.sleep(PATIENCE / 2)
            go.release()
        assert read_to_end(connection).endswith(b"0\r\n\r\n")


def test_a_bug_in_an_answer_is_logged_and_breaks_it_off(server, monkeypatch, caplog):
    def broken(*args, **options):
        yield [b"first"]
        raise ZeroDivisionError

    monkeypatch.setattr(server.gateway.client, "stream", broken)
    answer = server.reply_to(head("Content-Length: 0", target="/services/work?stream=1"))
    assert answer.endswith(b"5\r\nfirst\r\n")
    assert "ZeroDivisionError" in caplog.text


def test_a_failed_handler_breaks_an_answer_off_without_a_traceback(server, caplog):
    with caplog.at_level("INFO"):
        answer = server.reply_to(head("Content-Length: 4", target="/services/work?stream=1") + b"half")
    assert answer.endswith(b"5\r\nfirst\r\n")
    assert "HandlerFailed" in caplog.text
    assert not any(record.exc_info for record in caplog.records if record.name != "gmdp.worker")


def test_under_other_servers_a_request_passes_unchanged():
    seen = []

    def application(environ, start_response):
        seen.append((environ, start_response))
        return [b"body"]

    def start_response(status, headers):
        raise AssertionError

    plain = socket.socket()
    with plain:
        for environ in (environ_of("GET", "/"), environ_of("GET", "/", **{"gunicorn.socket": plain})):
            assert slow_clients.serve(application, environ, start_response, 1) == [b"body"]
            assert seen.pop() == (environ, start_response)


class Flood:
    """A connection whose client sends without a pause."""

    def __init__(self):
        self.received = 0

    def shutdown(self, how):
        """The answer is complete."""

    def recv(self, size):
        self.received += size
        assert self.received < 2**30, "it is read for ever"
        return b"x" * size


@pytest.mark.parametrize("bound", ["bytes", "time"])
def test_X3_a_client_that_never_ends_its_body_is_read_for_a_while_and_others_go_on(monkeypatch, bound):
    monkeypatch.setattr(slow_clients, *(("MOST_TO_LINGER", 1_000_000) if bound == "bytes" else ("LINGER", 0.05)))
    turns = []

    def other():
        while True:
            turns.append(connection.received)
            gevent.sleep(0)

    connection = Flood()
    exchange = slow_clients._Exchange(connection, environ_of("POST", "/"), None, 1)
    neighbour = gevent.spawn(other)
    exchange._linger()
    neighbour.kill()
    assert len(turns) > 10
    assert connection.received <= slow_clients.MOST_TO_LINGER + slow_clients.MOST_TO_DROP
    assert connection.received >= (1_000_000 if bound == "bytes" else 1)


# Clients that send fast


class Neighbour:
    """A greenlet that wants to run all the time: `seen` has what it saw of the others' work, each time it ran."""

    def __init__(self, look):
        self.seen = []
        self._look = look
        self._greenlet = gevent.spawn(self._run)

    def _run(self):
        while True:
            self.seen.append(self._look())
            gevent.sleep(0)

    def __enter__(self):
        gevent.sleep(0)
        return self

    def __exit__(self, *exc_info):
        self._greenlet.kill()


def test_a_client_that_sends_requests_in_a_row_leaves_others_their_turn(server):
    """200 requests arrive at once, and are answered without a wait."""
    requests = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 200
    with server.dial() as connection, Neighbour(lambda: server.worker.nr) as neighbour:
        connection.sendall(requests)
        wait_until(lambda: server.worker.nr == 200)
    assert max(later - earlier for earlier, later in pairwise(neighbour.seen)) < 5


@pytest.mark.parametrize("chunk", [b"1\r\na\r\n", b"8000\r\n" + b"a" * 0x8000 + b"\r\n"], ids=["small", "large"])
def test_a_client_that_sends_chunks_without_a_pause_leaves_others_their_turn(chunk):
    """gunicorn reads from memory here, and never waits."""
    count = 20_000 if len(chunk) < 100 else 400
    source = IterUnreader([*[chunk * 20] * (count // 20), b"0\r\n\r\n"])
    environ = environ_of("POST", "/", HTTP_TRANSFER_ENCODING="chunked")
    environ["wsgi.input"] = Body(ChunkedReader(None, source))
    body = slow_clients._RequestBody(environ, 60)
    with Neighbour(lambda: None) as neighbour:
        while body.read(65_536):
            pass
    assert len(neighbour.seen) >= count // 100


def test_a_client_that_sends_a_large_body_without_a_pause_leaves_others_their_turn():
    size = 100 * 65_536
    body = slow_clients._RequestBody(environ_of("POST", "/", bytes(size)), 60)
    with Neighbour(lambda: None) as neighbour:
        assert sum(len(body.read(65_536)) for _ in range(100)) == size
    assert len(neighbour.seen) >= 99
