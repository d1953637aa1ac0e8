"""The server of ``gmdp gateway`` reads HTTP strictly and ends gently."""

import re
import resource
import socket

import gevent
import gevent.event
import gevent.socket
import pytest
from gateways import HeldHandler, exchange, first_part
from gevent.pywsgi import WSGIHandler
from waiting import wait_until

from gmdp import Client, Worker
from gmdp.cli.http_server import ConnectionHandler, GatewayServer
from gmdp.http.gateway import Gateway


@pytest.fixture
def server(stack):
    """A server like the command's, in this process, with a client of its own."""
    gateway = Gateway(Client(stack.endpoint, timeout=10), ["*"], max_body=1_000_000)
    server = GatewayServer(("127.0.0.1", 0), gateway)
    server.start()
    yield server
    server.stop(0)


def dial(server):
    connection = gevent.socket.create_connection(("127.0.0.1", server.server_port))
    connection.settimeout(30)
    return connection


def read_to_end(connection):
    """All bytes of the server until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def reply_to(server, request):
    """Send a request on a new connection, and return all bytes until its end."""
    with dial(server) as connection:
        connection.sendall(request)
        return read_to_end(connection)


def head(*header, target="/services/work", version="1.1"):
    return "\r\n".join([f"POST {target} HTTP/{version}", "Host: x", *header, "", ""]).encode()


def test_a_client_that_does_not_read_is_waited_for_only_so_long(server, client, stack, monkeypatch, caplog):
    """Then its call is cancelled."""
    monkeypatch.setattr(ConnectionHandler, "patience", 0.1)
    monkeypatch.setattr(ConnectionHandler, "pace", 1e9)
    closed = gevent.event.Event()

    def endless(request):
        try:
            while True:
                yield b"x" * 100_000
                gevent.sleep(0.001)
        finally:
            closed.set()

    with Worker(stack.endpoint, "endless", endless, enforce_deadline=True):
        wait_until(lambda: b"endless" in stack.statistics().services)
        with caplog.at_level("INFO", "gmdp.gateway"), dial(server) as connection:
            connection.sendall(head("Content-Length: 0", target="/services/endless?stream=1"))
            assert closed.wait(30)
            wait_until(lambda: not server._gateway.client.statistics().in_flight)
    assert "the client did not read" in caplog.text


NEXT = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "header",
    [
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: identity, chunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked,"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding:"],
        ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 3"],
        ["Content-Length: 3", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding:", " chunked"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: 3", "Content-Length: 5"],
        ["Content-Length: 5", "content-length: 5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: 0_5"],
        ["Content-Length: -0"],
        ["Content-Length:"],
        ["Content-Length : 5"],
        ["Content-Length: 3", "no colon"],
        ["Content-Length: 3", ": no name"],
        ["X: a\rContent-Length: 3"],
        ["X: a\0", "Content-Length: 3"],
        ["From x", "Content-Length: 3"],
    ],
    ids="|".join,
)
def test_a_request_whose_end_others_may_see_elsewhere_is_refused(server, header):
    answer = reply_to(server, head(*header) + CHUNKED + NEXT)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], CHUNKED),
        (["transfer-encoding:\tChunked "], CHUNKED),
        (["Content-Length: 5", "Connection: upgrade"], b"hello"),
        (["Content-Length: 5", "Connection: Upgrade", "Upgrade: h2c"], b"hello"),
        (["Transfer-Encoding: chunked", "Upgrade: websocket"], CHUNKED),
    ],
    ids=str,
)
def test_any_other_request_is_read_to_its_end_and_no_further(server, header, body):
    first, second = reply_to(server, head(*header) + body + NEXT).split(b"HTTP/1.1 200 OK")[1:]
    assert first.endswith(b"\r\n\r\nhello")
    assert second.endswith(b"\r\n\r\nok\n")


def test_http_1_0_has_no_transfer_encoding(server):
    assert reply_to(server, head("Transfer-Encoding: chunked", version="1.0") + CHUNKED).startswith(b"HTTP/1.1 400 ")


def test_a_truncated_header_is_no_request(server):
    before = server._gateway.client.statistics()
    for request in (head()[:-2], head()[:-4], b"POST /services/work HTTP/1.1\r\n"):
        with dial(server) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection).startswith(b"HTTP/1.1 400 ")
    assert server._gateway.client.statistics() == before


@pytest.mark.parametrize("target", ["http://h/healthz", "HTTPS://h:1/healthz?x=1", "http://h:80/services/%77ork"])
def test_a_target_may_be_absolute(server, target):
    method = "POST" if "services" in target else "GET"
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert reply_to(server, request.encode()).startswith(b"HTTP/1.1 200 ")
    # A target without a path has the path /.
    assert reply_to(server, b"GET http://h?x HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 404 ")


@pytest.fixture
def line_read(monkeypatch):
    """An event: the first line of a request was read."""
    line_read = gevent.event.Event()
    read_request = WSGIHandler.read_request
    monkeypatch.setattr(WSGIHandler, "read_request", lambda *args: line_read.set() or read_request(*args))
    return line_read


def test_a_header_with_too_many_lines_or_a_broken_line_is_no_bug(server, line_read, capsys):
    assert reply_to(server, head(*["a: b"] * 200)).startswith(b"HTTP/1.1 400 ")
    line_read.clear()
    with dial(server) as connection:
        connection.sendall(head()[:-2])
        assert line_read.wait(timeout=10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: not len(server.pool))
    assert capsys.readouterr().err == ""


# Bodies that are not read


@pytest.mark.parametrize(
    "request_",
    [
        head("Content-Length: 99999999", "Expect: 100-continue"),
        head("Content-Length: 5", "Expect: 100-continue", target="/nowhere"),
        head("Content-Length: 99999999"),
        head("Content-Length: 99999", target="/nowhere") + b"x",
        head("Transfer-Encoding: chunked", target="/nowhere") + CHUNKED[:5],
        head("Transfer-Encoding: chunked") + b"100000\r\n" + b"x" * 0x100000,
    ],
    ids=["413 expected", "404 expected", "413", "404", "404 chunked", "413 chunked"],
)
def test_an_answer_before_the_body_closes_the_connection(server, request_):
    answer = reply_to(server, request_ + NEXT)
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 404 "))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_the_rest_of_a_small_body_is_read_away(server):
    answer = reply_to(server, head("Content-Length: 60000", target="/nowhere") + b"x" * 60_000 + NEXT)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\nok\n")


def test_a_client_that_is_still_sending_gets_the_answer(server, connect):
    """A connection that is closed with unread bytes would be reset."""
    connection = connect(server.server_port)
    for _ in range(3):
        assert exchange(connection, "POST", "/services/work", b"x" * 8_000_000)[0] == 413


def test_a_client_that_keeps_sending_is_not_waited_for_forever(server, monkeypatch):
    monkeypatch.setattr(ConnectionHandler, "linger", 0.05)
    with dial(server) as connection:
        connection.sendall(head("Content-Length: 99999999"))
        read_to_end(connection)
        wait_until(lambda: not len(server.pool))
    assert not server.idle


def test_a_client_that_keeps_sending_does_not_delay_the_servers_end(server):
    with dial(server) as connection:
        connection.sendall(head("Content-Length: 99999999"))
        read_to_end(connection)
        with gevent.Timeout(4):
            server.stop()


@pytest.mark.parametrize("letters", ["100-continue", "100-Continue"])
def test_a_client_that_expects_100_continue_gets_it(server, letters):
    with dial(server) as connection:
        connection.sendall(head("Content-Length: 5", f"Expect: {letters}", "Connection: close"))
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(interim)) == interim
        connection.sendall(b"hello")
        assert read_to_end(connection).endswith(b"\r\n\r\nhello")


# HTTP/1.0


def test_a_stream_without_chunks_that_breaks_off_is_not_complete(server):
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            reply_to(server, head("Content-Length: 4", target="/services/work?stream=1", version="1.0") + b"half")


def test_a_bug_breaks_off_like_an_error(server, monkeypatch):
    def broken(*args, **options):
        yield [b"first"]
        raise ZeroDivisionError

    monkeypatch.setattr(WSGIHandler, "_log_error", lambda *args: None)
    monkeypatch.setattr(server._gateway.client, "stream", broken)
    with pytest.raises(ConnectionResetError):
        reply_to(server, head("Content-Length: 0", target="/services/work?stream=1", version="1.0"))


def connection_headers(answer):
    """The values of the Connection headers in an answer."""
    return re.findall(rb"\r\nConnection: ([^\r\n]*)", answer, re.IGNORECASE)


def test_a_stream_without_chunks_ends_with_the_connection(server):
    header = ("Connection: keep-alive", "Content-Length: 2")
    answer = reply_to(server, head(*header, target="/services/work?stream=1", version="1.0") + b"hi")
    assert connection_headers(answer) == [b"close"]
    assert answer.endswith(b"\r\n\r\nhi")


def test_a_complete_answer_does_not_end_the_connection(server):
    answer = reply_to(server, head("Connection: keep-alive", "Content-Length: 2", version="1.0") + b"hi" + NEXT)
    assert answer.endswith(b"\r\n\r\nok\n")
    assert connection_headers(answer) == [b"keep-alive"]


# The end of the server


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_last_answer_of_a_connection_says_close_once(server, stack, client, version):
    held = HeldHandler()
    with Worker(stack.endpoint, "held", held), dial(server) as connection:
        wait_until(lambda: client.request("mmi.service", b"held") == [b"200"])
        header = ("Connection: keep-alive", "Content-Length: 0")
        connection.sendall(head(*header, target="/services/held", version=version))
        assert held.arrived.wait(timeout=10)
        stopping = gevent.spawn(server.stop)
        wait_until(lambda: server.closed)
        held.go.set()
        answer = read_to_end(connection)
        stopping.get(timeout=5)
    assert answer.endswith(b"\r\n\r\ndone")
    assert connection_headers(answer) == [b"close"]


def test_a_stream_that_has_begun_is_the_last_answer_too(server, connect, gated):
    go, _ = gated
    answer = first_part(connect(server.server_port), go)
    stopping = gevent.spawn(server.stop)
    wait_until(lambda: server.closed)
    for _ in range(4):
        go.release()
    assert answer.read() == b"1234"
    stopping.get(timeout=5)


def test_half_a_header_does_not_delay_the_end(server, line_read):
    with dial(server) as connection:
        connection.sendall(head()[:-2])
        assert line_read.wait(timeout=10)
        with gevent.Timeout(5):
            server.stop()
        assert b" 200 " not in read_to_end(connection)


def test_the_body_of_a_request_may_still_come_at_the_end(server, line_read):
    with dial(server) as connection:
        connection.sendall(head("Content-Length: 5") + b"hel")
        assert line_read.wait(timeout=10)
        wait_until(lambda: not server.idle)
        stopping = gevent.spawn(server.stop)
        wait_until(lambda: server.closed)
        connection.sendall(b"lo")
        assert read_to_end(connection).endswith(b"\r\n\r\nhello")
        stopping.get(timeout=5)


def test_a_connection_that_came_last_does_not_delay_the_end(server):
    server.stop()
    for request, answer in ((b"", b""), (NEXT, b"\r\n\r\nok\n")):
        here, there = gevent.socket.socketpair()
        with here, there, gevent.Timeout(5):
            here.sendall(request)
            ConnectionHandler(there, ("", 0), server).handle()
            assert read_to_end(here).endswith(answer)


def test_the_client_starts_and_ends_with_the_server(server):
    client = server._gateway.client
    assert client.started
    server.stop()
    assert client.closed


def test_there_are_no_more_connections_than_descriptors(monkeypatch):
    for limit, most in ((resource.RLIM_INFINITY, 10_000), (1_000_000, 10_000), (1024, 1024 - 178), (10, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        with Client("tcp://127.0.0.1:1") as client:
            assert GatewayServer(("127.0.0.1", 0), Gateway(client)).pool.size == most
