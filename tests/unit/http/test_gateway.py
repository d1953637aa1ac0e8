"""The gateway from HTTP to services: what each request comes to, alone, on pywsgi, and as a command."""

import base64
import http.client
import inspect
import io
import json
import logging
import os
import re
import resource
import signal
import socket
import sys
from time import process_time
from wsgiref.validate import validator

import gevent
import gevent.event
import gevent.lock
import gevent.socket
import pytest
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.threadpool import ThreadPool
from processes import Process, outcomes
from waiting import wait_until

import gmdp.cli.gateway
import gmdp.http.answers
import gmdp.http.bodies
import gmdp.http.multipart
import gmdp.wsgi
from gmdp import Broker, Client, ConfigurationError, MDPError, Worker, exceptions
from gmdp.cli.gateway import _Handler, _Server
from gmdp.core.states import State
from gmdp.http.environment import gateway_from_environment
from gmdp.http.gateway import Gateway
from gmdp.protocol.dialects import MAX_SERVICE_NAME

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# What the tests share


class Answer:
    """What a gateway answered."""

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
        told = json.loads(self.body)
        assert set(told) == {"error", "message"}
        assert told["message"]
        return told["error"]

    @property
    def frames(self):
        """The parts of a multipart reply, taken apart by hand."""
        boundary = re.fullmatch("multipart/mixed; boundary=([0-9a-f]+)", self.headers["Content-Type"])[1].encode()
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
    """One event as the WHATWG's parser reads it."""
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
    """The environment of PEP 3333 for a request."""
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
    """The gateway's answer; that it keeps to PEP 3333 is checked."""
    told = []
    iterable = validator(gateway)(
        environ_of(method, target, body, headers, **more),
        lambda status, headers, exc_info=None: told.extend((status, headers)),
    )
    try:
        said = b"".join(iterable)
    finally:
        iterable.close()
    answer = Answer(*told, said)
    assert answer.headers["Cache-Control"] == "no-store"
    if "Content-Length" in answer.headers and method != "HEAD":
        assert int(answer.headers["Content-Length"]) == len(said)
    return answer


def multipart(boundary, *frames, headers=b""):
    """A multipart body."""
    parts = [b"--%b\r\n%b\r\n%b\r\n" % (boundary, headers, frame) for frame in frames]
    return b"".join(parts) + b"--%b--\r\n" % boundary


def mixed(boundary):
    return {"Content-Type": f"multipart/mixed; boundary={boundary}"}


def work(request):
    """Does what the first frame says."""
    verb, *rest = request.body
    if verb == b"frames":
        return rest
    if verb == b"parts":
        return parts(rest)
    if verb == b"half":
        return half()
    if verb == b"empty":
        return half(b"", b"")
    if verb == b"drip":
        return drip()
    if verb == b"fail":
        raise LookupError("secret")
    if verb == b"about":
        return [request.metadata.get("traceparent", "").encode(), b"%.3f" % request.remaining()]
    if verb == b"wait":
        gevent.sleep(60)
    return request.body


def parts(rest):
    yield from rest
    return [b"last", b"two"]


def half(*parts):
    yield from parts or [b"first"]
    raise LookupError("secret")


def drip():
    """Each part well within the time, all of them never."""
    for _ in range(100):
        yield b"drop"
        gevent.sleep(0.05)


@pytest.fixture(scope="module")
def stack():
    """A broker with a worker for "work", and for "naïve" and "/a b/"."""
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
    with Client(stack.endpoint, timeout=10) as client:
        client.request("work", b"")
        yield client


@pytest.fixture(scope="module")
def gateway(client):
    return Gateway(client, ["*"], max_body=1_000_000, timeout=10)


# Calls


def test_a_body_goes_in_and_the_reply_comes_out(gateway):
    answer = ask(gateway, "POST", "/services/work", b"hello\0\xff\r\n")
    assert (answer.status, answer.type, answer.body) == (200, "application/octet-stream", b"hello\0\xff\r\n")


def test_a_request_without_a_body_is_one_empty_frame(gateway):
    assert ask(gateway, "POST", "/services/work", CONTENT_LENGTH=None).body == b""
    assert ask(gateway, "POST", "/services/work", CONTENT_LENGTH="").body == b""


@pytest.mark.parametrize(
    ("path", "reply"),
    [("/services/naïve", b"diaeresis"), ("/services//a b/", b"slashes"), ("/services/\udcff\udcfe", b"not UTF-8")],
)
def test_a_name_is_bytes(gateway, path, reply):
    """The server has percent-decoded it."""
    as_wsgi_has_it = path.encode("utf-8", "surrogateescape").decode("latin-1")
    assert ask(gateway, "POST", as_wsgi_has_it, b"").body == reply


def test_several_frames_go_both_ways_as_multipart(gateway):
    frames = [b"", b"one", b"--x", b"\r\n", b"\r\n--", b"--x--"[:-1] + b"\xff\0", bytes(range(256))]
    body = multipart(b"bound", b"frames", *frames)
    answer = ask(gateway, "POST", "/services/work", body, mixed("bound"))
    assert (answer.status, answer.frames) == (200, frames)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ('Multipart/Mixed; charset=x; BOUNDARY="a b:c"', multipart(b"a b:c", b"frames", b"1", b"2")),
        ("multipart/mixed;boundary=x", b"preamble\r\n" + multipart(b"x", b"frames", b"1", b"2") + b"epilogue --x"),
        ("multipart/mixed; boundary=x", multipart(b"x", b"frames", b"1", b"2").replace(b"--x\r\n", b"--x \t\r\n")),
        (
            "multipart/mixed; boundary=x",
            multipart(
                b"x",
                b"frames",
                b"1",
                b"2",
                headers=b"Content-Type: a/b;\r\n c=d\r\nContent-Transfer-Encoding: Binary\r\n",
            ),
        ),
    ],
    ids=["quoted", "preamble and epilogue", "white space", "headers"],
)
def test_multipart_is_read_as_the_rfc_has_it(gateway, content_type, body):
    answer = ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type})
    assert answer.frames == [b"1", b"2"]


def test_a_body_has_no_more_parts_than_a_message_may_have_frames(gateway, monkeypatch):
    monkeypatch.setattr(gmdp.http.bodies, "MAX_FRAMES", 4)  # the closing boundary counts
    for count, status in ((3, 200), (4, 413)):
        answer = ask(gateway, "POST", "/services/work", multipart(b"x", *[b"y"] * count), mixed("x"))
        assert answer.status == status
    assert answer.error == "MessageTooLarge"


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "text/multipart", ""])
def test_no_other_content_type_is_split(gateway, content_type):
    body = multipart(b"x", b"frames", b"1", b"2")
    assert ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type}).body == body


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/mixed", multipart(b"x", b"1")),
        ("multipart/mixed; boundary=", multipart(b"", b"1")),
        ("multipart/mixed; boundary=x\xff", multipart(b"x\xff", b"1")),
        (f"multipart/mixed; boundary={'x' * 71}", multipart(b"x" * 71, b"1")),
        ("multipart/mixed; boundary=x", b""),
        ("multipart/mixed; boundary=x", b"--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n1\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n\r\n1\r\n--x\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n1\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--x\r\n: 1\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", b"--xy\r\n\r\n1\r\n--x--\r\n"),
        ("multipart/mixed; boundary=x", multipart(b"x", b"1").replace(b"\r\n", b"\n")),
        ("multipart/mixed; boundary=x", multipart(b"x", b"MQ==", headers=b"content-transfer-encoding: base64\r\n")),
    ],
)
def test_bad_multipart_is_400(gateway, content_type, body):
    answer = ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type})
    assert (answer.status, answer.error) == (400, "BadRequest")


def test_the_headers_of_a_part_have_a_bound(gateway):
    for length, status in ((16_000, 200), (17_000, 400)):
        body = multipart(b"x", b"1", headers=b"a:" + b" " * length + b"\r\n")
        assert ask(gateway, "POST", "/services/work", body, mixed("x")).status == status
    body = multipart(b"x", b"1", headers=b"a:\r\n" * 1_000_000)
    began = process_time()
    answer = ask(Gateway(Recorder(), ["*"]), "POST", "/services/work", body, mixed("x"))
    assert (answer.status, process_time() - began < 1) == (400, True)
    assert b"16 KiB" in answer.body


@pytest.mark.parametrize("spaces", ["{}x", "x{}x"])
def test_to_look_for_an_encoding_takes_no_longer_than_to_read(spaces):
    headers = f"Content-Transfer-Encoding: {spaces.format(' ' * 16_000)}\r\n".encode()
    body = multipart(b"x", b"1", headers=headers)
    began = process_time()
    for _ in range(20):
        assert ask(Gateway(Recorder(), ["*"]), "POST", "/services/work", body, mixed("x")).status == 400
    assert process_time() - began < 1


def test_every_encoding_of_a_part_is_looked_at(gateway):
    headers = b"Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64\r\n"
    body = multipart(b"x", b"MQ==", headers=headers)
    assert ask(gateway, "POST", "/services/work", body, mixed("x")).status == 400


def test_a_long_content_type_is_not_taken_apart(gateway):
    body = multipart(b"x", b"1")
    for length, status in ((1000, 200), (1001, 400), (60_000, 400)):
        content_type = 'multipart/mixed; boundary=x; y="'.ljust(length, ";")
        began = process_time()
        assert ask(gateway, "POST", "/services/work", body, {"Content-Type": content_type}).status == status
        assert process_time() - began < 1


@pytest.mark.parametrize("preamble", [b"", b"preamble\n"])
def test_who_ends_lines_without_cr_is_told(gateway, preamble):
    body = preamble + multipart(b"x", b"1").replace(b"\r\n", b"\n")
    answer = ask(gateway, "POST", "/services/work", body, mixed("x"))
    assert answer.status == 400
    assert b"CRLF" in answer.body


def test_the_boundary_of_a_reply_does_not_occur_in_it(gateway, monkeypatch):
    tokens = iter(["aa", "bb", "cc"])
    monkeypatch.setattr(gmdp.http.multipart.secrets, "token_hex", lambda size: next(tokens))
    answer = ask(gateway, "POST", "/services/work", multipart(b"x", b"frames", b"1aa", b"bb"), mixed("x"))
    assert answer.headers["Content-Type"] == "multipart/mixed; boundary=cc"
    assert answer.frames == [b"1aa", b"bb"]


def test_an_answer_in_parts_is_joined(gateway):
    answer = ask(gateway, "POST", "/services/work", multipart(b"x", b"parts", b"1", b"2"), mixed("x"))
    assert answer.frames == [b"1", b"2", b"last", b"two"]


# Streams


@pytest.fixture
def gated(stack, client):
    """A worker whose parts the test lets go one by one: (event, ended) of it."""
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
    # So that the next one does not take this one for its own.
    wait_until(lambda: client.request("mmi.service", b"gated") != [b"200"])


def begin(gateway, target, **headers):
    """A streamed answer that has begun: what was told, and the iterable."""
    told = []
    iterable = gateway(environ_of("POST", target, b"", headers), lambda status, headers: told.extend((status, headers)))
    return told, iterable


def test_parts_are_written_as_they_come(gateway, gated):
    go, _ = gated
    starting = gevent.spawn(begin, gateway, "/services/gated?stream=1")
    go.release()
    told, parts = starting.get(timeout=10)
    assert told[0] == "200 OK"
    assert "Content-Length" not in dict(told[1])
    assert dict(told[1])["X-Accel-Buffering"] == "no"
    assert next(parts) == b"0"
    go.release()
    assert next(parts) == b"1"
    following = gevent.spawn(next, parts)
    gevent.idle()
    assert not following.ready()
    for _ in range(3):
        go.release()
    assert following.get(timeout=10) == b"2"
    assert list(parts) == [b"3", b"4"]
    parts.close()


def test_the_frames_of_a_part_are_one_chunk(gateway):
    _, parts = begin(gateway, "/services/work?stream=1")
    assert list(parts) == [b""]
    body = multipart(b"x", b"parts", b"1")
    parts = gateway(environ_of("POST", "/services/work?stream=1", body, mixed("x")), lambda status, headers: None)
    assert list(parts) == [b"1", b"lasttwo"]


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}], ids=["chunks", "events"])
def test_a_server_that_closes_a_stream_cancels_the_call(gateway, gated, client, headers):
    go, ended = gated
    go.release()
    _, parts = begin(gateway, "/services/gated?stream=1", **headers)
    next(parts)
    parts.close()
    go.release()
    assert ended.wait(timeout=10)
    wait_until(lambda: client.statistics().in_flight == 0)
    assert list(parts) == []


def test_events_are_the_frames_of_the_parts(gateway):
    frames = [b"plain", "naïve\nlines\n".encode(), b" blank first", b"", b"\xff\0", b"carriage\rreturn"]
    body = multipart(b"x", b"parts", *frames)
    answer = ask(gateway, "POST", "/services/work", body, {**mixed("x"), "Accept": "text/html, Text/Event-Stream;q=1"})
    assert (answer.status, answer.type) == (200, "text/event-stream")
    assert answer.events == [
        *(("message", frame.decode()) for frame in frames[:4]),
        *(("base64", base64.b64encode(frame).decode()) for frame in frames[4:]),
        ("message", "last"),
        ("message", "two"),
    ]


@pytest.mark.parametrize(
    ("accept", "type"),
    [
        ("text/event-stream;q=0", "application/octet-stream"),
        ("text/event-stream ; Q=0.000 , */*", "application/octet-stream"),
        ("text/event-stream; charset=utf-8; q=0; x=1", "application/octet-stream"),
        ("text/event-stream;q=0.001", "text/event-stream"),
        ("text/event-stream;xq=0", "text/event-stream"),
        ("*/*;q=0, text/event-stream", "text/event-stream"),
    ],
)
def test_events_that_are_not_acceptable_are_not_sent(gateway, accept, type):
    assert ask(gateway, "POST", "/services/work", b"1", {"Accept": accept}).type == type


def test_events_go_before_chunks(gateway):
    answer = ask(gateway, "POST", "/services/work?stream=1", b"1", {"Accept": "text/event-stream"})
    assert answer.events == [("message", "1")]


def test_an_error_after_parts_is_the_last_event(gateway):
    [first, (name, data)] = ask(gateway, "POST", "/services/work", b"half", {"Accept": "text/event-stream"}).events
    assert first == ("message", "first")
    assert (name, json.loads(data)["error"]) == ("error", "HandlerFailed")
    assert "secret" not in data


def test_an_error_after_parts_breaks_a_stream_off(gateway):
    _, parts = begin(gateway, "/services/work?stream=1", X_Request_Timeout="5")
    assert list(parts) == [b""]
    parts = gateway(environ_of("POST", "/services/work?stream=1", b"half"), lambda status, headers: None)
    assert next(parts) == b"first"
    with pytest.raises(exceptions.HandlerFailed):
        next(parts)


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}], ids=["chunks", "events"])
def test_an_error_before_the_first_part_has_its_status(gateway, headers):
    answer = ask(gateway, "POST", "/services/work?stream=1", b"fail", headers)
    assert (answer.status, answer.error) == (502, "HandlerFailed")


def test_an_error_before_the_first_byte_has_its_status(gateway):
    answer = ask(gateway, "POST", "/services/work?stream=1", b"empty")
    assert (answer.status, answer.error) == (502, "HandlerFailed")
    body = multipart(b"x", b"parts", b"", b"", b"1", b"")
    assert ask(gateway, "POST", "/services/work?stream=1", body, mixed("x")).body == b"1lasttwo"
    # Of events, each part is one.
    answer = ask(gateway, "POST", "/services/work", body, {**mixed("x"), "Accept": "text/event-stream"})
    assert [data for _, data in answer.events] == ["", "", "1", "", "last", "two"]


def test_the_time_of_a_stream_is_that_of_all_its_parts(gateway):
    limit = {"X-Request-Timeout": "0.4"}
    *parts, (name, data) = ask(
        gateway, "POST", "/services/work", b"drip", {**limit, "Accept": "text/event-stream"}
    ).events
    assert 1 < len(parts) < 20
    assert (name, json.loads(data)["error"]) == ("error", "RequestTimeout")
    drops = gateway(environ_of("POST", "/services/work?stream=1", b"drip", limit), lambda status, headers: None)
    assert next(drops) == b"drop"
    with pytest.raises(exceptions.RequestTimeout):
        list(drops)


@pytest.mark.parametrize("query", ["stream=2", "stream=", "stream=1&stream=0"])
def test_any_other_stream_is_400(gateway, query):
    assert ask(gateway, "POST", f"/services/work?{query}", b"").status == 400


def test_stream_0_and_other_queries_are_no_stream(gateway):
    assert ask(gateway, "POST", "/services/work?stream=0&x=1", b"1").headers["Content-Length"] == "1"


# Headers


def about(gateway, **headers):
    """What the handler hears: the traceparent, and the seconds that remain."""
    traceparent, remaining = ask(gateway, "POST", "/services/work", b"about", headers).frames
    return traceparent.decode(), float(remaining)


def test_the_time_limit_goes_along_and_the_gateways_bounds_it(gateway):
    assert 9 < about(gateway)[1] <= 10
    assert 2 < about(gateway, X_Request_Timeout="3")[1] <= 3
    assert 0.4 < about(gateway, X_Request_Timeout=" .5 ")[1] <= 0.5
    assert 9 < about(gateway, X_Request_Timeout="9" * 400)[1] <= 10
    assert 2 < about(gateway, X_Request_Timeout="3e-0")[1] <= 3
    assert 9 < about(gateway, X_Request_Timeout=" 1E+9 ")[1] <= 10
    assert 9 < about(gateway, X_Request_Timeout="1e999")[1] <= 10


@pytest.mark.parametrize("path", ["/services/work", "/services/work?stream=1"])
def test_a_call_ends_when_its_time_is_up(gateway, path):
    answer = ask(gateway, "POST", path, b"wait", {"X-Request-Timeout": "0.05"})
    assert (answer.status, answer.error) == (504, "RequestTimeout")


@pytest.mark.parametrize("value", ["", "0", "-1", "0.0", "nan", "inf", "1e", "e3", "1e-999", "1_0", "soon", "٣", "1s"])
def test_a_bad_time_limit_is_400(gateway, value):
    answer = ask(gateway, "POST", "/services/work", b"", {"X-Request-Timeout": value})
    assert (answer.status, answer.error) == (400, "BadRequest")


def test_a_valid_traceparent_is_passed_on_and_others_are_ignored(gateway):
    assert about(gateway, traceparent=TRACEPARENT)[0] == TRACEPARENT
    assert about(gateway, traceparent=f" {TRACEPARENT} ")[0] == TRACEPARENT
    for bad in ("", "x", TRACEPARENT.upper(), "ff" + TRACEPARENT[2:], TRACEPARENT + "-x", "\xff" * 55):
        assert about(gateway, traceparent=bad)[0] == ""


class Recorder:
    """In place of a client: keeps the arguments of its calls."""

    extensions = None

    def __init__(self):
        self.options = {}

    def request(self, service, body, **options):
        self.options = options
        return [b"200"]

    def stream(self, service, body, **options):
        return iter([self.request(service, body, **options)])


@pytest.mark.parametrize(("given", "priority"), [(None, 1), ("0", 0), ("3", 3), (" 2 ", 2)])
def test_a_priority_is_passed_on(given, priority):
    recorder = Recorder()
    headers = {} if given is None else {"X-Request-Priority": given}
    assert ask(Gateway(recorder, ["*"]), "POST", "/services/x", b"", headers).status == 200
    assert recorder.options["priority"] == priority


@pytest.mark.parametrize("value", ["4", "-1", "", "1.0", "high", "²"])
def test_a_bad_priority_is_400(gateway, value):
    assert ask(gateway, "POST", "/services/work", b"", {"X-Request-Priority": value}).status == 400


# What is exposed


@pytest.mark.parametrize(
    ("services", "exposed", "hidden"),
    [
        ([], [], ["work", "mmi.service"]),
        (["work"], ["work"], ["Work", "works", "wor", "", "mmi.service"]),
        (["report.*", "a?"], ["report.", "report.x.y", "ab"], ["report", "a", "abc"]),
        (["*"], ["work", "\xff", "x" * MAX_SERVICE_NAME], ["", "x" * (MAX_SERVICE_NAME + 1), "mmi.service", "mmi."]),
        (["?mi.*", "mm*"], ["mmj"], ["mmi.service"]),
        (["mmi.service"], ["mmi.service"], ["mmi.workers"]),
        (["mmi.*"], ["mmi.service", "mmi.x"], ["work"]),
    ],
)
def test_only_what_is_listed_is_exposed(services, exposed, hidden):
    gateway = Gateway(Recorder(), services)
    for name in exposed:
        assert ask(gateway, "POST", f"/services/{name}").status == 200
    for name in hidden:
        answer = ask(gateway, "POST", f"/services/{name}")
        assert (answer.status, answer.error) == (404, "NotFound")


@pytest.mark.parametrize("path", ["/", "", "/services", "/healthz/", "/Services/work", "/../healthz"])
def test_unknown_paths_are_404(gateway, path):
    assert ask(gateway, "GET", path, SCRIPT_NAME="" if path else "/x").status == 404


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        *(("/services/work", method, "POST") for method in ("GET", "HEAD", "PUT", "OPTIONS")),
        *((path, method, "GET, HEAD") for path in ("/healthz", "/readyz") for method in ("POST", "DELETE")),
    ],
)
def test_other_methods_are_405(gateway, path, method, allowed):
    answer = ask(gateway, method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


# Bodies


def test_a_body_above_the_bound_is_413_and_not_read(client):
    gateway = Gateway(client, ["*"], max_body=10)
    for stated in ("11", "9" * 30, "9" * 5000):
        environ = environ_of("POST", "/services/work", CONTENT_LENGTH=stated)
        environ["wsgi.input"] = None
        told = []
        gateway(environ, lambda status, headers, told=told: told.append(status))
        assert told == ["413 Request Entity Too Large"] or told == ["413 Content Too Large"]
    assert ask(gateway, "POST", "/services/work", b"x" * 10).status == 200


def test_a_body_without_a_length_is_read_to_its_end_or_to_the_bound(client):
    gateway = Gateway(client, ["*"], max_body=100_000)
    more = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}
    assert ask(gateway, "POST", "/services/work", b"x" * 100_000, **more).body == b"x" * 100_000
    answer = ask(gateway, "POST", "/services/work", b"x" * 100_001, **more)
    assert (answer.status, answer.error) == (413, "MessageTooLarge")


@pytest.mark.parametrize(
    "more",
    [
        {"CONTENT_LENGTH": "-1"},
        {"CONTENT_LENGTH": "+1"},
        {"CONTENT_LENGTH": "1_0"},
        {"CONTENT_LENGTH": "²"},
        {"CONTENT_LENGTH": "6"},
        {"CONTENT_LENGTH": None, "HTTP_TRANSFER_ENCODING": "chunked"},
    ],
)
def test_a_bad_or_unknown_length_is_400(gateway, more):
    environ = environ_of("POST", "/services/work", b"hello", **more)
    told = []
    gateway(environ, lambda status, headers: told.append(status))
    assert told == ["400 Bad Request"]


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked,", ""])
@pytest.mark.parametrize("more", [{}, {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}])
def test_another_transfer_encoding_is_400(gateway, coding, more):
    answer = ask(gateway, "POST", "/services/work", b"1", {"Transfer-Encoding": coding}, **more)
    assert (answer.status, answer.error) == (400, "BadRequest")


def test_chunked_is_read_where_the_server_tells_its_end(gateway):
    more = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}
    assert ask(gateway, "POST", "/services/work", b"1", {"Transfer-Encoding": " Chunked"}, **more).body == b"1"


def test_what_reading_raises_is_the_servers(gateway):
    class Broken:
        def read(self, size):
            raise ConnectionResetError("gone")

    environ = environ_of("POST", "/services/work", b"12")
    environ["wsgi.input"] = Broken()
    with pytest.raises(ConnectionResetError):
        gateway(environ, None)


def test_a_frame_too_large_for_the_broker_is_413(gateway):
    answer = ask(gateway, "POST", "/services/work", b"x" * 300_000)
    assert (answer.status, answer.error) == (413, "MessageTooLarge")


# Errors


class Failing:
    """In place of a client: every call raises."""

    def __init__(self, error):
        self._error = error

    def request(self, service, body, **options):
        raise self._error

    def stream(self, service, body, **options):
        yield from self.request(service, body)


def documented():
    """(status, name of an error) of the table in the documentation."""
    table = re.search(r"^======.*?^======.*?^(.*?)^======", gmdp.wsgi.__doc__, re.M | re.S)[1]
    status = None
    for line in table.splitlines():
        status = line[:6].strip() or status
        for name in re.findall(r"\b[A-Z]\w*[a-z]\w*", re.sub("``.*?``", "", line[8:]).partition(":")[0]):
            yield int(status), name


def all_errors():
    """Every error there is, with the status the table gives it."""
    told = {name: status for status, name in documented()}
    for name, kind in vars(exceptions).items():
        if isinstance(kind, type) and issubclass(kind, MDPError):
            yield kind, told.get(name, 500)


@pytest.mark.parametrize(("kind", "status"), list(all_errors()), ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("path", ["/services/x", "/services/x?stream=1"])
def test_each_error_has_the_status_of_the_table(kind, status, path):
    answer = ask(Gateway(Failing(kind("tcp://192.0.2.1:5555")), ["*"]), "POST", path)
    assert (answer.status, answer.error) == (status, kind.__name__)
    assert ("Retry-After", "1") in answer.headers.items() or status != 429
    # What the broker says is told; what is inside is not.
    rejected = issubclass(kind, exceptions.RequestRejected) and kind is not exceptions.RequestRejected
    assert (b"192.0.2.1" in answer.body) is rejected


def test_the_table_names_every_error_but_those_that_are_500():
    assert {status for _, status in all_errors()} == {403, 413, 429, 500, 502, 503, 504}
    named = {name for _, name in documented()}
    ours = {name for name in named if hasattr(exceptions, name)}
    assert named - ours == {"BadRequest", "NotFound", "MethodNotAllowed", "InternalError"}
    other = {kind.__name__ for kind, (status, _) in gmdp.http.answers.STATUS.items() if status != 500}
    assert ours == other | {"MDPError", "HubNotRunning"}


def test_a_defect_is_500_logged_and_not_told(caplog):
    with caplog.at_level(logging.ERROR, "gmdp.wsgi"):
        answer = ask(Gateway(Failing(ZeroDivisionError("inside")), ["*"]), "POST", "/services/x")
    assert (answer.status, answer.error) == (500, "InternalError")
    assert b"inside" not in answer.body
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_a_hub_that_does_not_run_is_told_to_the_log_as_an_error(caplog):
    with caplog.at_level(logging.ERROR, "gmdp.wsgi"):
        answer = ask(Gateway(Failing(exceptions.HubNotRunning("use threaded=True")), ["*"]), "POST", "/services/x")
    assert (answer.status, answer.error) == (500, "HubNotRunning")
    assert b"threaded" not in answer.body
    assert "use threaded=True" in caplog.text


def test_what_is_inside_is_told_to_the_log(caplog):
    with caplog.at_level(logging.INFO, "gmdp.wsgi"):
        ask(Gateway(Failing(exceptions.BrokerLost("tcp://192.0.2.1:5555")), ["*"]), "POST", "/services/x")
    assert [record.getMessage() for record in caplog.records] == ["BrokerLost: tcp://192.0.2.1:5555"]


def test_a_timeout_of_the_callers_own_passes_through(gateway):
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        ask(gateway, "POST", "/services/work", b"wait")


def test_no_worker_is_told_at_once_or_waited_for(gateway, client):
    answer = ask(gateway, "POST", "/services/nobody", b"")
    assert (answer.status, answer.error) == (503, "NoWorker")
    waiting = Gateway(client, ["*"], timeout=0.05, when_no_worker="wait")
    assert ask(waiting, "POST", "/services/nobody", b"").status == 504


# Health


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_by_get_and_head(gateway, path):
    got, head = ask(gateway, "GET", path), ask(gateway, "HEAD", path)
    assert (got.status, head.status, head.body) == (200, 200, b"")
    assert got.headers == head.headers
    assert got.body in (b"ok\n", b"ready\n")


def test_it_is_alive_without_a_broker_but_not_ready(unused_endpoint):
    with Client(unused_endpoint) as lonely:
        gateway = Gateway(lonely)
        gateway.ready_timeout = 0.1
        assert ask(gateway, "GET", "/healthz").status == 200
        answer = ask(gateway, "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "RequestTimeout")
    answer = ask(Gateway(Failing(exceptions.HandlerFailed("no"))), "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "HandlerFailed")


def test_it_is_ready_when_all_that_must_have_a_worker_have_one(client):
    assert ask(Gateway(client, ready_services=["work", "naïve", b"\xff\xfe"]), "GET", "/readyz").status == 200
    answer = ask(Gateway(client, ready_services=["work", "nobody"]), "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "NoWorker")
    assert b"nobody" in answer.body


def test_a_broker_that_drains_is_not_ready():
    held = Slow()
    with Broker("tcp://127.0.0.1:*") as broker, Worker(broker.endpoint, "held", held):
        with Client(broker.endpoint, timeout=10) as client:
            gateway = Gateway(client, ready_services=["held"])
            running = gevent.spawn(client.request, "held", b"")
            assert held.arrived.wait(timeout=10)
            assert ask(gateway, "GET", "/readyz").status == 200
            stopping = gevent.spawn(broker.stop)
            wait_until(lambda: broker.state is State.DRAINING)
            answer = ask(gateway, "GET", "/readyz")
            assert (answer.status, answer.error) == (503, "BrokerShuttingDown")
            held.go.set()
            assert running.get(timeout=10) == [b"done"]
            stopping.get(timeout=10)


def test_readiness_is_asked_for_once():
    recorder = Recorder()
    assert ask(Gateway(recorder), "GET", "/readyz").status == 200
    assert recorder.options["retries"] == 0


def test_all_that_must_be_ready_share_the_time():
    class Late(Recorder):
        def request(self, service, body, **options):
            asked.append(options["timeout"])
            gevent.sleep(0.05)
            return super().request(service, body, **options)

    asked = []
    assert ask(Gateway(Late(), ready_services=["a", "b", "c"]), "GET", "/readyz").status == 200
    assert asked[0] <= Gateway.ready_timeout
    assert asked[1] < asked[0] - 0.04
    assert asked[2] < asked[1] - 0.04


def test_a_broker_that_tells_nothing_has_answered():
    forbidden = Failing(exceptions.NotAllowed("no"))
    assert ask(Gateway(forbidden), "GET", "/readyz").status == 200
    answer = ask(Gateway(forbidden, ready_services=["x"]), "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "NotAllowed")


# How it is set up


def test_a_client_is_made_once_at_the_first_request():
    made = []

    class Made(Recorder):
        def close(self):
            made.append("closed")

    def make():
        made.append("made")
        gevent.sleep(0)
        return Made()

    gateway = Gateway(make, ["*"])
    assert ask(gateway, "GET", "/healthz").status == 200
    assert made == []
    asking = [gevent.spawn(ask, gateway, "POST", "/services/x") for _ in range(3)]
    assert [one.get().status for one in asking] == [200] * 3
    # All began before there was one; the first that was done stays.
    assert sorted(made) == ["closed"] * 2 + ["made"] * 3
    assert isinstance(gateway.client, Made)


def test_a_client_that_cannot_be_made_is_500_each_time():
    def make():
        raise ConfigurationError("no key")

    answer = ask(Gateway(make, ["*"]), "POST", "/services/x")
    assert (answer.status, answer.error) == (500, "ConfigurationError")
    assert b"no key" not in answer.body


@pytest.mark.parametrize(
    "options",
    [
        {"services": "work"},
        {"services": b"work"},
        {"services": 5},
        {"services": [b"work"]},
        {"services": [""]},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_body": -1},
        {"max_body": 1.5},
        {"when_no_worker": "never"},
        {"ready_services": "work"},
        {"ready_services": ["x" * 256]},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigurationError):
        Gateway(Recorder(), **options)


@pytest.mark.parametrize("client", ["tcp://127.0.0.1:5555", None, object()])
def test_what_is_no_client_is_refused(client):
    with pytest.raises(ConfigurationError, match=r"client must be a gmdp\.Client, or a callable"):
        Gateway(client, ["work"])


def test_its_repr_tells_what_is_exposed(client):
    assert repr(Gateway(client, ["a", "b.*"])) == f"<Gateway services=['a', 'b.*'] client={client!r}>"
    assert "client=None" in repr(Gateway(Recorder))


def test_the_environment_sets_it_up(stack, unused_endpoint):
    gateway = gateway_from_environment(
        {
            "GMDP_BROKER": f"{unused_endpoint}, {stack.endpoint}",
            "GMDP_SERVICES": "work , naïve,",
            "GMDP_TIMEOUT": "7.5",
            "GMDP_RETRIES": "3",
            "GMDP_MAX_BODY": "5",
            "GMDP_WHEN_NO_WORKER": "wait",
            "GMDP_READY_SERVICES": "work",
        }
    )
    assert (gateway.services, gateway.timeout, gateway.max_body) == (("work", "naïve"), 7.5, 5)
    assert (gateway.when_no_worker, gateway.ready_services) == ("wait", (b"work",))
    assert "client=None" in repr(gateway)
    with gateway.client as client:
        assert (client.endpoints[1], client.timeout, client.retries) == (stack.endpoint, 7.5, 3)
        assert ask(gateway, "POST", "/services/work", b"hello").body == b"hello"
        assert ask(gateway, "POST", "/services/work", b"hello!").status == 413


def test_the_environment_is_that_of_the_process_and_not_in_the_signature(monkeypatch):
    monkeypatch.setenv("GMDP_SERVICES", "upper")
    assert gateway_from_environment().services == ("upper",)
    assert "environ(" not in repr(inspect.signature(gateway_from_environment))


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"GMDP_SERVICES": " , "}, r"\$GMDP_SERVICES"),
        ({"GMDP_TIMEOUT": "soon"}, r"\$GMDP_TIMEOUT must be a number, not 'soon'"),
        ({"GMDP_TIMEOUT": "0"}, "timeout must be"),
        ({"GMDP_RETRIES": "1.5"}, r"\$GMDP_RETRIES must be a whole number"),
        ({"GMDP_MAX_BODY": "16M"}, r"\$GMDP_MAX_BODY must be a whole number"),
        ({"GMDP_WHEN_NO_WORKER": "never"}, "when_no_worker"),
        ({"GMDP_BROKER": "localhost"}, "bad endpoint"),
        ({"GMDP_SERVER_KEY": "/no/such/file"}, "server_key: neither"),
        ({"GMDP_USERNAME": "me"}, "password"),
    ],
)
def test_a_wrong_environment_is_refused_at_once(variables, says):
    with pytest.raises(ConfigurationError, match=says):
        gateway_from_environment({"GMDP_SERVICES": "work", **variables})


# On gevent's server


@pytest.fixture
def connect():
    """A function: an HTTP connection on gevent's sockets, closed at the end."""
    connections = []

    def connect(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection._create_connection = gevent.socket.create_connection
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def server(gateway):
    with WSGIServer(("127.0.0.1", 0), gateway, log=None) as server:
        server.start()
        yield server


def exchange(connection, method, target, body=None, headers=None, **options):
    connection.request(method, target, body, headers or {}, **options)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_flask_application_shares_a_client_and_mounts_the_gateway(client, gateway, connect):
    flask = pytest.importorskip("flask")
    dispatcher = pytest.importorskip("werkzeug.middleware.dispatcher")
    site = flask.Flask(__name__)

    @site.post("/say")
    def say():
        return client.request("work", flask.request.get_data())[0]

    application = dispatcher.DispatcherMiddleware(site, {"/api": gateway})
    with WSGIServer(("127.0.0.1", 0), application, log=None) as server:
        server.start()

        def ask(number):
            connection = connect(server.server_port)
            said = exchange(connection, "POST", "/say", b"%d" % number)
            return said, exchange(connection, "POST", "/api/services/work", b"mounted %d" % number)

        calls = [gevent.spawn(ask, number) for number in range(20)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [
            ((200, b"%d" % number), (200, b"mounted %d" % number)) for number in range(20)
        ]


def test_one_connection_serves_many_requests_of_all_kinds(server, connect):
    connection = connect(server.server_port)
    for _ in range(3):
        assert exchange(connection, "POST", "/services/work", b"hello") == (200, b"hello")
        assert exchange(connection, "POST", "/services/na%C3%AFve") == (200, b"diaeresis")
        assert exchange(connection, "POST", "/services/%2Fa%20b%2F") == (200, b"slashes")
        assert exchange(connection, "POST", "/services/%FF%FE") == (200, b"not UTF-8")
        assert exchange(connection, "POST", "/services/mmi.service", b"unread")[0] == 404
        assert exchange(connection, "HEAD", "/readyz") == (200, b"")
        pieces = iter([b"in ", b"chunks"])
        assert exchange(connection, "POST", "/services/work", pieces, encode_chunked=True) == (200, b"in chunks")
        assert exchange(connection, "POST", "/services/work?stream=1", b"1") == (200, b"1")
    assert exchange(connection, "POST", "/services/work", b"x" * 2_000_000)[0] == 413
    assert exchange(connection, "POST", "/services/work", b"again") == (200, b"again")


def first_part(connection, go):
    """The answer of "gated" as a stream, of which the first part has come."""
    connection.request("POST", "/services/gated?stream=1", b"")
    go.release()
    answer = connection.getresponse()
    assert answer.read(1) == b"0"
    return answer


def test_a_client_that_goes_away_cancels_its_stream(server, connect, gated, client):
    go, ended = gated
    connection = connect(server.server_port)
    answer = first_part(connection, go)
    # Without waiting for what is under way: the next part meets a closed connection.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    answer.close()
    connection.close()
    go.release()
    go.release()
    assert ended.wait(timeout=10)
    wait_until(lambda: client.statistics().in_flight == 0)


def test_a_stream_that_breaks_off_has_no_end(server, connect, monkeypatch):
    monkeypatch.setattr(WSGIHandler, "_log_error", lambda *args: None)
    connection = connect(server.server_port)
    connection.request("POST", "/services/work?stream=1", b"half")
    answer = connection.getresponse()
    with pytest.raises(http.client.IncompleteRead) as broken:
        answer.read()
    assert broken.value.partial == b"first"


def test_any_number_of_greenlets(server, connect):
    def many(number):
        connection = connect(server.server_port)
        for count in range(10):
            body = b"%d %d" % (number, count)
            assert exchange(connection, "POST", "/services/work", body) == (200, body)

    gevent.joinall([gevent.spawn(many, number) for number in range(30)], raise_error=True)


def test_any_number_of_threads_with_a_client_for_threads(stack):
    def many(number):
        body = b"%d" % number
        for path in ("/services/work", "/services/work?stream=1"):
            answer = ask(gateway, "POST", path, body)
            assert (answer.status, answer.body) == (200, body)
        return True

    with Client(stack.endpoint, timeout=10, threaded=True) as client:
        gateway = Gateway(client, ["work"])
        pool = ThreadPool(8)
        try:
            assert pool.map(many, range(40)) == [True] * 40
        finally:
            pool.kill()


# On the server of the command


@pytest.fixture
def serve(stack):
    """A function: a server of the command's kind in this process, with a client of its own."""
    servers = []

    def serve(**options):
        client = Client(stack.endpoint, timeout=10)
        server = _Server(("127.0.0.1", 0), Gateway(client, ["*"], max_body=1_000_000, **options))
        server.start()
        servers.append(server)
        return server

    yield serve
    for server in servers:
        server.stop(0)


@pytest.fixture
def own(serve):
    return serve()


def dial(server):
    connection = gevent.socket.create_connection(("127.0.0.1", server.server_port))
    connection.settimeout(30)
    return connection


def rest(connection):
    """All that the server says until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def said(server, request):
    with dial(server) as connection:
        connection.sendall(request)
        return rest(connection)


def lines(*header, target="/services/work", version="1.1"):
    return "\r\n".join([f"POST {target} HTTP/{version}", "Host: x", *header, "", ""]).encode()


def test_a_client_that_does_not_read_has_its_time_for_that_and_no_more(own, client, stack, monkeypatch, caplog):
    """Then its call is cancelled, and what it did not read is gone."""
    monkeypatch.setattr(_Handler, "patience", 0.1)
    monkeypatch.setattr(_Handler, "pace", 1e9)
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
        with caplog.at_level("INFO", "gmdp.gateway"), dial(own) as connection:
            connection.sendall(lines("Content-Length: 0", target="/services/endless?stream=1"))
            assert closed.wait(30)
            wait_until(lambda: not own._gateway.client.statistics().in_flight)
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
def test_a_request_that_others_may_end_elsewhere_is_refused(own, header):
    answer = said(own, lines(*header) + CHUNKED + NEXT)
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
def test_any_other_is_read_to_its_end_and_no_further(own, header, body):
    first, second = said(own, lines(*header) + body + NEXT).split(b"HTTP/1.1 200 OK")[1:]
    assert first.endswith(b"\r\n\r\nhello")
    assert second.endswith(b"\r\n\r\nok\n")


def test_http_1_0_has_no_transfer_encoding(own):
    assert said(own, lines("Transfer-Encoding: chunked", version="1.0") + CHUNKED).startswith(b"HTTP/1.1 400 ")


def test_a_header_that_is_cut_off_is_no_request(own):
    before = own._gateway.client.statistics()
    for request in (lines()[:-2], lines()[:-4], b"POST /services/work HTTP/1.1\r\n"):
        with dial(own) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            assert rest(connection).startswith(b"HTTP/1.1 400 ")
    assert own._gateway.client.statistics() == before


@pytest.mark.parametrize("target", ["http://h/healthz", "HTTPS://h:1/healthz?x=1", "http://h:80/services/%77ork"])
def test_a_target_may_be_absolute(own, target):
    method = "POST" if "services" in target else "GET"
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert said(own, request.encode()).startswith(b"HTTP/1.1 200 ")
    # What has no path has the path /.
    assert said(own, b"GET http://h?x HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 404 ")


@pytest.fixture
def begun(monkeypatch):
    """Set when the first line of a request was read."""
    begun = gevent.event.Event()
    read_request = WSGIHandler.read_request
    monkeypatch.setattr(WSGIHandler, "read_request", lambda *args: begun.set() or read_request(*args))
    return begun


def test_a_header_of_too_many_lines_or_a_broken_one_is_no_defect(own, begun, capsys):
    assert said(own, lines(*["a: b"] * 200)).startswith(b"HTTP/1.1 400 ")
    begun.clear()
    with dial(own) as connection:
        connection.sendall(lines()[:-2])
        assert begun.wait(timeout=10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: not len(own.pool))
    assert capsys.readouterr().err == ""


# Bodies that are not read


@pytest.mark.parametrize(
    "request_",
    [
        lines("Content-Length: 99999999", "Expect: 100-continue"),
        lines("Content-Length: 5", "Expect: 100-continue", target="/nowhere"),
        lines("Content-Length: 99999999"),
        lines("Content-Length: 99999", target="/nowhere") + b"x",
        lines("Transfer-Encoding: chunked", target="/nowhere") + CHUNKED[:5],
        lines("Transfer-Encoding: chunked") + b"100000\r\n" + b"x" * 0x100000,
    ],
    ids=["413 expected", "404 expected", "413", "404", "404 chunked", "413 chunked"],
)
def test_an_answer_before_the_body_closes_the_connection(own, request_):
    answer = said(own, request_ + NEXT)
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 404 "))
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_the_rest_of_a_small_body_is_read_away(own):
    answer = said(own, lines("Content-Length: 60000", target="/nowhere") + b"x" * 60_000 + NEXT)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\nok\n")


def test_who_is_still_sending_gets_the_answer(own, connect):
    """A connection closed with something unread would be reset."""
    connection = connect(own.server_port)
    for _ in range(3):
        assert exchange(connection, "POST", "/services/work", b"x" * 8_000_000)[0] == 413


def test_who_does_not_end_is_not_waited_for_forever(own, monkeypatch):
    monkeypatch.setattr(_Handler, "linger", 0.05)
    with dial(own) as connection:
        connection.sendall(lines("Content-Length: 99999999"))
        rest(connection)
        wait_until(lambda: not len(own.pool))
    assert not own.idle


def test_who_does_not_end_keeps_no_server_from_its(own):
    with dial(own) as connection:
        connection.sendall(lines("Content-Length: 99999999"))
        rest(connection)
        with gevent.Timeout(4):
            own.stop()


@pytest.mark.parametrize("letters", ["100-continue", "100-Continue"])
def test_who_waits_to_be_told_to_continue_is_told(own, letters):
    with dial(own) as connection:
        connection.sendall(lines("Content-Length: 5", f"Expect: {letters}", "Connection: close"))
        told = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(told)) == told
        connection.sendall(b"hello")
        assert rest(connection).endswith(b"\r\n\r\nhello")


# HTTP/1.0


def test_what_breaks_off_is_not_complete_without_chunks_either(own):
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            said(own, lines("Content-Length: 4", target="/services/work?stream=1", version="1.0") + b"half")


def test_a_defect_breaks_off_like_an_error(own, monkeypatch):
    def broken(*args, **options):
        yield [b"first"]
        raise ZeroDivisionError

    monkeypatch.setattr(WSGIHandler, "_log_error", lambda *args: None)
    monkeypatch.setattr(own._gateway.client, "stream", broken)
    with pytest.raises(ConnectionResetError):
        said(own, lines("Content-Length: 0", target="/services/work?stream=1", version="1.0"))


def connections(answer):
    """The values of its Connection headers."""
    return re.findall(rb"\r\nConnection: ([^\r\n]*)", answer, re.IGNORECASE)


def test_a_stream_without_chunks_ends_with_the_connection(own):
    header = ("Connection: keep-alive", "Content-Length: 2")
    answer = said(own, lines(*header, target="/services/work?stream=1", version="1.0") + b"hi")
    assert connections(answer) == [b"close"]
    assert answer.endswith(b"\r\n\r\nhi")


def test_a_whole_answer_does_not(own):
    answer = said(own, lines("Connection: keep-alive", "Content-Length: 2", version="1.0") + b"hi" + NEXT)
    assert answer.endswith(b"\r\n\r\nok\n")
    assert connections(answer) == [b"keep-alive"]


# The end of the server


class Slow:
    """A worker that answers when the test says so."""

    def __init__(self):
        self.arrived, self.go = gevent.event.Event(), gevent.event.Event()

    def __call__(self, request):
        self.arrived.set()
        self.go.wait()
        return b"done"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_last_answer_of_a_connection_says_so_once(own, stack, client, version):
    held = Slow()
    with Worker(stack.endpoint, "held", held), dial(own) as connection:
        wait_until(lambda: client.request("mmi.service", b"held") == [b"200"])
        header = ("Connection: keep-alive", "Content-Length: 0")
        connection.sendall(lines(*header, target="/services/held", version=version))
        assert held.arrived.wait(timeout=10)
        stopping = gevent.spawn(own.stop)
        wait_until(lambda: own.closed)
        held.go.set()
        answer = rest(connection)
        stopping.get(timeout=5)
    assert answer.endswith(b"\r\n\r\ndone")
    assert connections(answer) == [b"close"]


def test_a_stream_that_has_begun_is_the_last_answer_too(own, connect, gated):
    go, _ = gated
    answer = first_part(connect(own.server_port), go)
    stopping = gevent.spawn(own.stop)
    wait_until(lambda: own.closed)
    for _ in range(4):
        go.release()
    assert answer.read() == b"1234"
    stopping.get(timeout=5)


def test_half_a_header_does_not_keep_it(own, begun):
    with dial(own) as connection:
        connection.sendall(lines()[:-2])
        assert begun.wait(timeout=10)
        with gevent.Timeout(5):
            own.stop()
        assert b" 200 " not in rest(connection)


def test_the_body_of_a_request_may_still_come(own, begun):
    with dial(own) as connection:
        connection.sendall(lines("Content-Length: 5") + b"hel")
        assert begun.wait(timeout=10)
        wait_until(lambda: not own.idle)
        stopping = gevent.spawn(own.stop)
        wait_until(lambda: own.closed)
        connection.sendall(b"lo")
        assert rest(connection).endswith(b"\r\n\r\nhello")
        stopping.get(timeout=5)


def test_a_connection_that_came_last_does_not_keep_it(own):
    own.stop()
    for request, answer in ((b"", b""), (NEXT, b"\r\n\r\nok\n")):
        here, there = gevent.socket.socketpair()
        with here, there, gevent.Timeout(5):
            here.sendall(request)
            _Handler(there, ("", 0), own).handle()
            assert rest(here).endswith(answer)


def test_its_client_begins_and_ends_with_it(own):
    client = own._gateway.client
    assert client.started
    own.stop()
    assert client.closed


def test_there_are_no_more_connections_than_descriptors(monkeypatch):
    for limit, most in ((resource.RLIM_INFINITY, 10_000), (1_000_000, 10_000), (1024, 1024 - 178), (10, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        with Client("tcp://127.0.0.1:1") as client:
            assert _Server(("127.0.0.1", 0), Gateway(client)).pool.size == most


# As a command


def test_the_command_hands_its_options_on(monkeypatch):
    served = []
    monkeypatch.setattr(gmdp.cli.gateway, "serve", lambda server, *more: served.append(server))
    options = ["--service", "a", "--service", "b", "--timeout", "7.5", "--retries", "3", "--max-body", "5"]
    options += ["--when-no-worker", "wait", "--ready-service", "r", "--broker", "tcp://127.0.0.1:1"]
    gmdp.cli.gateway.gateway.main(options, standalone_mode=False)
    [server] = served
    application = server.application
    assert (application.services, application.ready_services) == (("a", "b"), (b"r",))
    assert (application.timeout, application.max_body, application.when_no_worker) == (7.5, 5, "wait")
    client = application.client
    assert (client.endpoints, client.timeout, client.retries) == (("tcp://127.0.0.1:1",), 7.5, 3)
    assert server.stop_timeout == 10
    assert f"({server.stop_timeout:g} seconds)" in gmdp.cli.gateway.gateway.help


def test_more_connections_than_descriptors_wait(stack, connect):
    program = (sys.executable, "-m", "gmdp")
    command = ("sh", "-c", 'ulimit -n 60; exec "$@"', "sh", *program)
    arguments = ("gateway", "--bind", "127.0.0.1:0", "--service", "work", "--broker", stack.endpoint)
    with Process(*arguments, command=command) as process:
        port = int(process.line().rpartition(":")[2])
        served = connect(port)
        assert exchange(served, "GET", "/healthz")[0] == 200
        # As many as the system keeps until they are accepted.
        crowd = [gevent.socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        assert exchange(served, "POST", "/services/work", b"hello") == (200, b"hello")
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 50
        for one in (served, *crowd):
            one.close()
        assert exchange(connect(port), "POST", "/services/work", b"hello") == (200, b"hello")
        process.signal(signal.SIGTERM)
        assert process.ended(timeout=8).err == b""


@pytest.fixture
def command(stack):
    """``gmdp gateway`` in a process of its own, and its port."""
    arguments = ("gateway", "--bind", "127.0.0.1:0", "--service", "wor*", "--ready-service", "work", "--max-body", "99")
    with Process(*arguments, "--broker", stack.endpoint, "-v") as process:
        url = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)", process.line())
        process.port = int(url[1])
        yield process


def test_the_command_serves_and_ends_with_idle_connections(command, connect):
    connection = connect(command.port)
    assert exchange(connection, "GET", "/readyz")[0] == 200
    assert exchange(connection, "POST", "/services/work", b"hello") == (200, b"hello")
    assert exchange(connection, "POST", "/services/other")[0] == 404
    assert exchange(connection, "POST", "/services/work", b"x" * 100)[0] == 413
    assert exchange(connection, "POST", "/services/work", b"half", {"Accept": "text/event-stream"})[0] == 200
    with pytest.raises(http.client.IncompleteRead):
        exchange(connection, "POST", "/services/work?stream=1", b"half")
    connection.close()
    assert exchange(connection, "GET", "/healthz")[0] == 200
    command.signal(signal.SIGTERM)
    # The connection that is kept does not keep it.
    ended = command.ended(timeout=8)
    assert (ended.status, ended.out) == (0, b"")
    assert b'"POST /services/work HTTP/1.1" 200' in ended.err
    assert b"Traceback" not in ended.err, ended.err.decode()


@pytest.fixture
def slow(stack, client, command, connect):
    """A worker for "works", and a connection with a request it is at."""
    handler = Slow()
    with Worker(stack.endpoint, "works", handler):
        wait_until(lambda: client.request("mmi.service", b"works") == [b"200"])
        handler.connection = connect(command.port)
        handler.connection.request("POST", "/services/works", b"")
        assert handler.arrived.wait(timeout=30)
        yield handler
        handler.go.set()


def test_a_signal_lets_running_requests_end(command, slow):
    command.signal(signal.SIGINT)

    def refused():
        try:
            gevent.socket.create_connection(("127.0.0.1", command.port)).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused)
    slow.go.set()
    answer = slow.connection.getresponse()
    assert (answer.status, answer.read(), answer.getheader("Connection")) == (200, b"done", "close")
    assert command.ended(timeout=8).status == 0


def test_a_second_signal_ends_it_at_once(command, slow):
    command.signal(signal.SIGTERM)
    command.signal_until_ended(signal.SIGTERM, timeout=5)
    assert command.ended().status in (128 + signal.SIGTERM, -signal.SIGTERM)


REFUSALS = [
    (["--bind", "127.0.0.1"], "bad address '127.0.0.1': it must look like HOST:PORT", 2),
    (["--bind", ":8080"], "bad address ':8080': it must look like HOST:PORT", 2),
    (["--bind", "[::1:80"], r"bad address '\[::1:80': .*", 2),
    (["--bind", "localhost:65536"], "bad address 'localhost:65536': .*", 2),
    (["--bind", "{busy}"], "cannot bind {busy}: Address already in use", 1),
    (["--bind", "no.such.host.invalid:1"], r"cannot bind no\.such\.host\.invalid:1: .+", 1),
    (["--broker", "localhost"], "bad endpoint 'localhost': .*", 2),
    (["--timeout", "0"], "timeout must be a number greater than 0, not 0.*", 2),
    (["--max-body", "-1"], "max_body must be a whole number of at least 0, not -1.*", 2),
    (["--retries", "x"], ".*--retries.*'x' is not a valid integer.*", 2),
    (["--when-no-worker", "never"], ".*--when-no-worker.*never.*", 2),
    (["--ready-service", ""], "ready_services must be names, not ''", 2),
    (["--service", ""], "services must be names, not ''", 2),
    (["--server-key", "nowhere.key"], r"server_key: cannot read nowhere\.key: .*", 2),
    (["--username", "me"], "--username needs --password-file.*", 2),
    (["--servce", "x"], ".*[Nn]o such option.*--servce.*", 2),
]


def test_what_is_refused_says_why_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        commands = [["gateway"]]
        for arguments, _, _ in REFUSALS:
            commands.append(["gateway", "--service", "x", *(one.format(busy=busy) for one in arguments)])
        nothing, *ended = outcomes(commands, tmp_path)
    assert (nothing.one_line(), nothing.status) == ("gmdp: name what is exposed with --service PATTERN", 2)
    for one, (arguments, says, status) in zip(ended, REFUSALS, strict=True):
        program, _, message = one.one_line().partition(": ")
        assert program.split()[0] == "gmdp"
        assert re.fullmatch(says.format(busy=busy), message), (arguments, message)
        assert one.status == status
