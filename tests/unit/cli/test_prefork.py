"""The worker process of ``gmdp gateway`` reads HTTP strictly and ends gently; what the arbiter does."""

import re
import resource
import socket

import gevent
import gevent.event
import gevent.socket
import pytest
from gateways import (
    HeldHandler,
    WorkerHere,
    exchange,
    first_part,
    head,
    needs_gunicorn,
    read_to_end,
)
from waiting import wait_until

from gmdp import Client, Worker
from gmdp.exceptions import BindError
from gmdp.http import slow_clients
from gmdp.http.gateway import Gateway

needs_gunicorn()

from gunicorn.http.message import Request  # noqa: E402

from gmdp.cli import prefork  # noqa: E402


@pytest.fixture
def server(stack):
    """A worker process like the command's, in this process, with a client of its own."""
    server = WorkerHere(lambda: Gateway(Client(stack.endpoint, timeout=10), ["*"], max_body=1_000_000))
    yield server
    server.close()


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
    answer = server.reply_to(head(*header) + CHUNKED + NEXT)
    # RFC 9112, 6.1: 501 for a coding that the server does not know.
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
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
    first, second = server.reply_to(head(*header) + body + NEXT).split(b"HTTP/1.1 200 OK")[1:]
    assert first.endswith(b"\r\n\r\nhello")
    assert second.endswith(b"\r\n\r\nok\n")


HELLO = b"hello\r\n0\r\n\r\n"
LINE = b"GET /healthz HTTP/1.1\r\n"

#: Bodies whose end another server or a proxy may see elsewhere; most are known from the advisories of others.
SMUGGLING = {
    "LF in an extension": b"5;\n" + HELLO,
    "LF in an extension's value": b"5;a=\nb\r\n" + HELLO,
    "LF in a quoted value": b'5;a="\n"\r\n' + HELLO,
    "CR in an extension": b"5;a\rb\r\n" + HELLO,
    "NUL in an extension": b"5;a\0\r\n" + HELLO,
    "a control character in an extension": b"5;a=\x01\r\n" + HELLO,
    "DEL in a quoted value": b'5;a="\x7f"\r\n' + HELLO,
    "an extension without a name": b"5;=b\r\n" + HELLO,
    "an extension without an end": b"5;" + b"a" * 9_000,
    "a size that ends with LF": b"5\n" + HELLO,
    "a size that ends with CR": b"5\r" + HELLO,
    "plus": b"+5\r\n" + HELLO,
    "minus": b"-5\r\n" + HELLO,
    "0x": b"0x5\r\n" + HELLO,
    "a space before the size": b" 5\r\n" + HELLO,
    "a space after the size": b"5 \r\n" + HELLO,
    "a tab after the size": b"5\t\r\n" + HELLO,
    "an underscore in the size": b"0_5\r\n" + HELLO,
    "digits of another script": "٥\r\n".encode() + HELLO,
    "no size": b"\r\n" + HELLO,
    "a chunk longer than its size": b"3\r\n" + HELLO,
    "two bytes in place of a chunk's end": b"5\r\nhelloXX0\r\n\r\n",
    "LF in place of a chunk's end": b"5\r\nhello\n0\r\n\r\n",
    "two bytes in place of the body's end": b"5\r\nhello\r\n0\r\nXX",
    "LF in place of the body's end": b"5\r\nhello\r\n0\r\n\n",
    "LF in a trailer": b"5\r\nhello\r\n0\r\nA: b\n\r\n\r\n",
    "CR in a trailer": b"5\r\nhello\r\n0\r\nA: b\rc\r\n\r\n",
    "a folded trailer": b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
    "a trailer without a colon": b"5\r\nhello\r\n0\r\n" + LINE + b"\r\n",
    "a trailer names Content-Length": b"5\r\nhello\r\n0\r\nContent-Length: 100\r\n\r\n",
    "a trailer names Transfer-Encoding": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer names Host": b"5\r\nhello\r\n0\r\nHost: y\r\n\r\n",
}


@pytest.mark.parametrize("body", SMUGGLING.values(), ids=SMUGGLING)
def test_X3_chunks_whose_end_others_may_see_elsewhere_are_refused(server, body):
    calls = server.gateway.client.statistics()
    answer = server.reply_to(head("Transfer-Encoding: chunked") + body + NEXT)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert server.gateway.client.statistics() == calls
    # The same where nobody reads the body.
    answer = server.reply_to(head("Transfer-Encoding: chunked", target="/healthz", method="GET") + body + NEXT)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "request_",
    [
        head("Content-Length: 0").replace(b"Host: x\r\n", b"Host: x\n") + NEXT,
        head("Content-Length: 0").replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n") + NEXT,
        head("Transfer-Encoding: \x0bchunked") + CHUNKED + NEXT,
        head("Transfer-Encoding: chunked\x0c") + CHUNKED + NEXT,
        head("Transfer-Encoding\0: chunked", "Content-Length: 5") + CHUNKED + NEXT,
        head("Host: y", "Content-Length: 0") + NEXT,
        head("Content-Length: 5\x0b") + CHUNKED + NEXT,
    ],
    ids=["LF after a header", "LF after the first line", "VT", "FF", "NUL in a name", "two hosts", "VT in a length"],
)
def test_X3_a_header_that_others_may_read_otherwise_is_refused(server, request_):
    answer = server.reply_to(request_)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("extension", [b";a", b' ; a = "b c"', b";a=b;c", b""])
def test_X3_harmless_extensions_and_trailers_are_no_error(server, extension):
    body = b"5" + extension + b"\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    first, second = server.reply_to(head("Transfer-Encoding: chunked") + body + NEXT).split(b"HTTP/1.1 200 OK")[1:]
    assert first.endswith(b"\r\n\r\nhello")
    assert second.endswith(b"\r\n\r\nok\n")


def test_http_1_0_has_no_transfer_encoding(server):
    assert server.reply_to(head("Transfer-Encoding: chunked", version="1.0") + CHUNKED).startswith(b"HTTP/1.1 400 ")


def test_a_truncated_header_is_no_request(server):
    before = server.gateway.client.statistics()
    for request in (head()[:-2], head()[:-4], b"POST /services/work HTTP/1.1\r\n"):
        with server.dial() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == b""
    assert server.gateway.client.statistics() == before


@pytest.mark.parametrize("target", ["http://h/healthz", "HTTPS://h:1/healthz?x=1", "http://h:80/services/%77ork"])
def test_a_target_may_be_absolute(server, target):
    method = "POST" if "services" in target else "GET"
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert server.reply_to(request.encode()).startswith(b"HTTP/1.1 200 ")
    # A target without a path has the path /.
    assert server.reply_to(b"GET http://h?x HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 404 ")


@pytest.fixture
def line_read(monkeypatch):
    """An event: the first line of a request was read."""
    line_read = gevent.event.Event()
    parse = Request.parse_request_line
    monkeypatch.setattr(Request, "parse_request_line", lambda *args: line_read.set() or parse(*args))
    return line_read


def test_a_header_with_too_many_lines_or_a_broken_line_is_no_bug(server, line_read, capsys):
    assert server.reply_to(head(*["a: b"] * 200)).startswith(b"HTTP/1.1 431 ")
    line_read.clear()
    with server.dial() as connection:
        connection.sendall(head()[:-2])
        assert line_read.wait(timeout=10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: not server.worker._connections)
    assert capsys.readouterr().err == ""


# Bodies that are not read


@pytest.mark.parametrize(
    "request_",
    [
        head("Content-Length: 99999999", "Expect: 100-continue"),
        head("Content-Length: 99999", "Expect: 100-continue", target="/nowhere"),
        head("Content-Length: 99999999"),
        head("Content-Length: 99999", target="/nowhere") + b"x",
        head("Transfer-Encoding: chunked", target="/nowhere") + CHUNKED[:5],
        head("Transfer-Encoding: chunked") + b"100000\r\n" + b"x" * 0x100000,
    ],
    ids=["413 expected", "404 expected", "413", "404", "404 chunked", "413 chunked"],
)
def test_an_answer_before_the_body_closes_the_connection(server, request_):
    answer = server.reply_to(request_ + NEXT).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 404 "))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_the_rest_of_a_small_body_is_read_away(server):
    answer = server.reply_to(head("Content-Length: 60000", target="/nowhere") + b"x" * 60_000 + NEXT)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\nok\n")


def test_a_client_that_is_still_sending_gets_the_answer(server, connect):
    """A connection that is closed with unread bytes would be reset."""
    connection = connect(server.port)
    for _ in range(3):
        assert exchange(connection, "POST", "/services/work", b"x" * 8_000_000)[0] == 413


def test_a_client_that_keeps_sending_is_not_waited_for_forever(server, monkeypatch):
    monkeypatch.setattr(slow_clients, "LINGER", 0.05)
    with server.dial() as connection:
        connection.sendall(head("Content-Length: 99999999"))
        read_to_end(connection)
        wait_until(lambda: not server.worker._connections)


def test_a_client_that_keeps_sending_does_not_delay_the_servers_end(server):
    with server.dial() as connection:
        connection.sendall(head("Content-Length: 99999999"))
        read_to_end(connection)
        server.begin_stop()
        server.ended(timeout=4)


@pytest.mark.parametrize("letters", ["100-continue", "100-Continue"])
def test_a_client_that_expects_100_continue_gets_it(server, letters):
    with server.dial() as connection:
        connection.sendall(head("Content-Length: 5", f"Expect: {letters}", "Connection: close"))
        interim = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(interim)) == interim
        connection.sendall(b"hello")
        assert read_to_end(connection).endswith(b"\r\n\r\nhello")


# HTTP/1.0


def test_a_stream_without_chunks_that_breaks_off_is_not_complete(server):
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            server.reply_to(head("Content-Length: 4", target="/services/work?stream=1", version="1.0") + b"half")


def test_a_stream_without_chunks_that_the_servers_end_cuts_is_not_complete(server, gated):
    go, _ = gated
    server.worker.app.stop_timeout = 0
    with server.dial() as connection:
        connection.sendall(head("Content-Length: 0", target="/services/gated?stream=1", version="1.0"))
        go.release()
        received = b""
        while not received.endswith(b"0"):
            received += connection.recv(65_536)
        server.begin_stop()
        server.ended(timeout=5)
        with pytest.raises(ConnectionResetError):
            read_to_end(connection)


def test_a_bug_breaks_off_like_an_error(server, monkeypatch):
    def broken(*args, **options):
        yield [b"first"]
        raise ZeroDivisionError

    monkeypatch.setattr(server.gateway.client, "stream", broken)
    with pytest.raises(ConnectionResetError):
        server.reply_to(head("Content-Length: 0", target="/services/work?stream=1", version="1.0"))


def connection_headers(answer):
    """The values of the Connection headers in an answer."""
    return re.findall(rb"\r\nConnection: ([^\r\n]*)", answer, re.IGNORECASE)


def test_a_stream_without_chunks_ends_with_the_connection(server):
    header = ("Connection: keep-alive", "Content-Length: 2")
    answer = server.reply_to(head(*header, target="/services/work?stream=1", version="1.0") + b"hi")
    assert connection_headers(answer) == [b"close"]
    assert answer.endswith(b"\r\n\r\nhi")


def test_a_complete_answer_does_not_end_the_connection(server):
    answer = server.reply_to(head("Connection: keep-alive", "Content-Length: 2", version="1.0") + b"hi" + NEXT)
    assert answer.endswith(b"\r\n\r\nok\n")
    assert connection_headers(answer) == [b"keep-alive", b"close"]  # the second one ends the connection


# The end of the server


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_last_answer_of_a_connection_says_close_once(server, stack, client, version):
    held = HeldHandler()
    with Worker(stack.endpoint, "held", held), server.dial() as connection:
        wait_until(lambda: client.request("mmi.service", b"held") == [b"200"])
        header = ("Connection: keep-alive", "Content-Length: 0")
        connection.sendall(head(*header, target="/services/held", version=version))
        assert held.arrived.wait(timeout=10)
        server.begin_stop()
        wait_until(lambda: server.worker._stopping.is_set())
        held.go.set()
        answer = read_to_end(connection)
        server.ended(timeout=5)
    assert answer.endswith(b"\r\n\r\ndone")
    assert connection_headers(answer) == [b"close"]


def test_a_stream_that_has_begun_is_the_last_answer_too(server, connect, gated):
    go, _ = gated
    answer = first_part(connect(server.port), go)
    server.begin_stop()
    wait_until(lambda: server.worker._stopping.is_set())
    for _ in range(4):
        go.release()
    assert answer.read() == b"1234"
    server.ended(timeout=5)


def test_half_a_header_does_not_delay_the_end(server, line_read):
    with server.dial() as connection:
        connection.sendall(head()[:-2])
        assert line_read.wait(timeout=10)
        server.begin_stop()
        server.ended(timeout=5)
        assert b" 200 " not in read_to_end(connection)


def test_the_body_of_a_request_may_still_come_at_the_end(server, line_read):
    with server.dial() as connection:
        connection.sendall(head("Content-Length: 5") + b"hel")
        assert line_read.wait(timeout=10)
        wait_until(lambda: not server.worker._waiting)
        server.begin_stop()
        wait_until(lambda: server.worker._stopping.is_set())
        connection.sendall(b"lo")
        assert read_to_end(connection).endswith(b"\r\n\r\nhello")
        server.ended(timeout=5)


def test_a_connection_that_came_last_does_not_delay_the_end(server):
    server.begin_stop()
    server.ended()
    for request, answer in ((b"", b""), (NEXT, b"\r\n\r\nok\n")):
        here, there = gevent.socket.socketpair()
        with here, there, gevent.Timeout(5):
            here.sendall(request)
            server.worker.handle(there, there, ("", 0))
            assert read_to_end(here).endswith(answer)


def test_the_client_starts_and_ends_with_the_server(server):
    client = server.gateway.client
    assert client.started
    server.begin_stop()
    server.ended()
    assert client.closed


@pytest.mark.parametrize("host", ["127.0.0..1", "x" * 64])
def test_what_can_be_no_host_cannot_be_bound(host):
    with pytest.raises(BindError, match=f"cannot bind {re.escape(host)}:1: "):
        prefork.listen(host, 1)


def test_there_are_no_more_connections_than_descriptors(monkeypatch):
    for limit, most in ((resource.RLIM_INFINITY, 10_000), (1_000_000, 10_000), (1024, 1024 - 178), (10, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert prefork._limit_to_descriptors(10_000) == most
