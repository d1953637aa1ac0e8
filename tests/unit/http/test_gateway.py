"""The gateway: calls, what is exposed, streams, readiness and options; alone and on gevent's server."""

import http.client
import json
import re
import socket

import gevent
import gevent.event
import pytest
from gateways import (
    TRACEPARENT,
    FailingClient,
    HeldHandler,
    RecordingClient,
    ask,
    environ_of,
    exchange,
    first_part,
    mixed,
    multipart,
)
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.threadpool import ThreadPool
from waiting import wait_until

import gmdp.http.gateway
from gmdp import Broker, Client, ConfigurationError, Worker, exceptions
from gmdp.core.states import State
from gmdp.http.gateway import Gateway
from gmdp.protocol.dialects import MAX_SERVICE_NAME

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
    """The server decodes the percent signs."""
    latin_1 = path.encode("utf-8", "surrogateescape").decode("latin-1")
    assert ask(gateway, "POST", latin_1, b"").body == reply


def test_a_frame_too_large_for_the_broker_is_413(gateway):
    answer = ask(gateway, "POST", "/services/work", b"x" * 300_000)
    assert (answer.status, answer.error) == (413, "MessageTooLarge")


def test_a_timeout_of_the_caller_passes_through(gateway):
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        ask(gateway, "POST", "/services/work", b"wait")


def test_a_call_without_a_worker_fails_at_once_or_waits(gateway, client):
    answer = ask(gateway, "POST", "/services/nobody", b"")
    assert (answer.status, answer.error) == (503, "NoWorker")
    waiting = Gateway(client, ["*"], timeout=0.05, when_no_worker="wait")
    assert ask(waiting, "POST", "/services/nobody", b"").status == 504


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
def test_only_listed_services_are_exposed(services, exposed, hidden):
    gateway = Gateway(RecordingClient(), services)
    for name in exposed:
        assert ask(gateway, "POST", f"/services/{name}").status == 200
    for name in hidden:
        answer = ask(gateway, "POST", f"/services/{name}")
        assert (answer.status, answer.error) == (404, "NotFound")


@pytest.mark.parametrize("path", ["/", "", "/services", "/healthz/", "/Services/work", "/../healthz"])
def test_unknown_paths_are_404(gateway, path):
    assert ask(gateway, "GET", path, SCRIPT_NAME="" if path else "/x").status == 404


def test_an_error_of_the_servers_input_passes_through(gateway):
    class BrokenInput:
        def read(self, size):
            raise ConnectionResetError("gone")

    environ = environ_of("POST", "/services/work", b"12")
    environ["wsgi.input"] = BrokenInput()
    with pytest.raises(ConnectionResetError):
        gateway(environ, None)


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}], ids=["chunks", "events"])
def test_an_error_before_the_first_part_has_its_status(gateway, headers):
    answer = ask(gateway, "POST", "/services/work?stream=1", b"fail", headers)
    assert (answer.status, answer.error) == (502, "HandlerFailed")


def test_an_error_before_the_first_byte_has_its_status(gateway):
    answer = ask(gateway, "POST", "/services/work?stream=1", b"empty")
    assert (answer.status, answer.error) == (502, "HandlerFailed")
    body = multipart(b"x", b"parts", b"", b"", b"1", b"")
    assert ask(gateway, "POST", "/services/work?stream=1", body, mixed("x")).body == b"1lasttwo"
    # Each part is an event of its own.
    answer = ask(gateway, "POST", "/services/work", body, {**mixed("x"), "Accept": "text/event-stream"})
    assert [data for _, data in answer.events] == ["", "", "1", "", "last", "two"]


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/event-stream"}], ids=["chunks", "events"])
def test_the_time_limit_holds_for_all_parts_of_a_stream(headers):
    recording = RecordingClient()
    ask(Gateway(recording, ["*"]), "POST", "/services/x?stream=1", b"", {**headers, "X-Request-Timeout": "0.4"})
    assert (recording.options["timeout"], recording.options["deadline"]) == (0.4, 0.4)


def test_a_stream_ends_when_its_time_is_up(gateway):
    """Each part comes within the time, but all of them do not."""
    limit = {"X-Request-Timeout": "0.4"}
    *parts, (name, data) = ask(
        gateway, "POST", "/services/work", b"drip", {**limit, "Accept": "text/event-stream"}
    ).events
    assert set(parts) <= {("message", "drop")}
    assert (name, json.loads(data)["error"]) == ("error", "RequestTimeout")
    with pytest.raises(exceptions.RequestTimeout):
        list(gateway(environ_of("POST", "/services/work?stream=1", b"drip", limit), lambda status, headers: None))


@pytest.mark.parametrize("path", ["/services/work", "/services/work?stream=1"])
def test_a_call_ends_when_its_time_is_up(gateway, path):
    answer = ask(gateway, "POST", path, b"wait", {"X-Request-Timeout": "0.05"})
    assert (answer.status, answer.error) == (504, "RequestTimeout")


def test_a_valid_traceparent_is_passed_on_and_others_are_ignored(gateway):

    def received(traceparent):
        return ask(gateway, "POST", "/services/work", b"about", {"traceparent": traceparent}).frames[0].decode()

    assert received(TRACEPARENT) == received(f" {TRACEPARENT} ") == TRACEPARENT
    for bad in ("", "x", TRACEPARENT.upper(), "ff" + TRACEPARENT[2:], TRACEPARENT + "-x", "\xff" * 55):
        assert received(bad) == ""


def test_the_time_limit_reaches_the_handler(gateway):
    for headers, limit in (({}, 10), ({"X-Request-Timeout": "3"}, 3)):
        _, remaining = ask(gateway, "POST", "/services/work", b"about", headers).frames
        assert 0 < float(remaining) <= limit


# Health


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_by_get_and_head(gateway, path):
    got, head = ask(gateway, "GET", path), ask(gateway, "HEAD", path)
    assert (got.status, head.status, head.body) == (200, 200, b"")
    assert got.headers == head.headers
    assert got.body in (b"ok\n", b"ready\n")


def test_without_a_broker_it_is_alive_but_not_ready(unused_endpoint):
    with Client(unused_endpoint) as client:
        gateway = Gateway(client)
        gateway.ready_timeout = 0.1
        assert ask(gateway, "GET", "/healthz").status == 200
        answer = ask(gateway, "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "RequestTimeout")
    answer = ask(Gateway(FailingClient(exceptions.HandlerFailed("no"))), "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "HandlerFailed")


def test_it_is_ready_when_all_ready_services_have_a_worker(client):
    assert ask(Gateway(client, ready_services=["work", "naïve", b"\xff\xfe"]), "GET", "/readyz").status == 200
    answer = ask(Gateway(client, ready_services=["work", "nobody"]), "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "NoWorker")
    assert b"nobody" in answer.body


def test_a_broker_that_drains_is_not_ready():
    held = HeldHandler()
    with Broker("tcp://127.0.0.1:*") as broker, Worker(broker.endpoint, "held", held):
        with Client(broker.endpoint, timeout=10) as client:
            gateway = Gateway(client, ready_services=["held"])
            running = gevent.spawn(client.request, "held", b"")
            assert held.arrived.wait(timeout=10)
            assert ask(gateway, "GET", "/readyz").status == 200
            stopping = gevent.spawn(broker.stop)
            wait_until(lambda: broker.state is State.DRAINING)
            # The broker's greenlet hears of the stop with its next pass.
            answer = wait_until(lambda: (last := ask(gateway, "GET", "/readyz")).status != 200 and last)
            # A call that was refused before it ran waits for the broker's return, until its own time is up.
            assert (answer.status, answer.error) == (503, "RequestTimeout")
            held.go.set()
            assert running.get(timeout=10) == [b"done"]
            stopping.get(timeout=10)


def test_readiness_is_asked_for_without_retries():
    recorder = RecordingClient()
    assert ask(Gateway(recorder), "GET", "/readyz").status == 200
    assert recorder.options["retries"] == 0


def test_all_ready_services_share_the_time(monkeypatch):
    class SlowClient(RecordingClient):
        def request(self, service, body, **options):
            timeouts.append(options["timeout"])
            now[0] += 0.375
            return super().request(service, body, **options)

    now, timeouts = [1000.0], []
    monkeypatch.setattr(gmdp.http.gateway, "monotonic", lambda: now[0])
    assert ask(Gateway(SlowClient(), ready_services=["a", "b", "c", "d"]), "GET", "/readyz").status == 200
    # Once the time is up, a last look takes an answer that has come.
    assert timeouts == [1.0, 0.625, 0.25, 0.001]


def test_a_broker_that_allows_no_question_has_answered():
    forbidden = FailingClient(exceptions.NotAllowed("no"))
    assert ask(Gateway(forbidden), "GET", "/readyz").status == 200
    answer = ask(Gateway(forbidden, ready_services=["x"]), "GET", "/readyz")
    assert (answer.status, answer.error) == (503, "NotAllowed")


# How it is set up


def test_a_client_is_made_once_at_the_first_request():
    made = []

    class Made(RecordingClient):
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
    assert [request.get().status for request in asking] == [200] * 3
    # All requests began before there was a client; the first client that was made stays.
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
        Gateway(RecordingClient(), **options)


@pytest.mark.parametrize("client", ["tcp://127.0.0.1:5555", None, object()])
def test_other_objects_are_no_clients(client):
    with pytest.raises(ConfigurationError, match=r"client must be a gmdp\.Client, or a callable"):
        Gateway(client, ["work"])


def test_its_repr_shows_what_is_exposed(client):
    assert repr(Gateway(client, ["a", "b.*"])) == f"<Gateway services=['a', 'b.*'] client={client!r}>"
    assert "client=None" in repr(Gateway(RecordingClient))


# On gevent's server


@pytest.fixture
def server(gateway):
    with WSGIServer(("127.0.0.1", 0), gateway, log=None) as server:
        server.start()
        yield server


def test_a_flask_application_shares_a_client_and_mounts_the_gateway(client, gateway, connect):
    flask = pytest.importorskip("flask")
    dispatcher = pytest.importorskip("werkzeug.middleware.dispatcher")
    site = flask.Flask(__name__)

    @site.post("/call")
    def call():
        return client.request("work", flask.request.get_data())[0]

    application = dispatcher.DispatcherMiddleware(site, {"/api": gateway})
    with WSGIServer(("127.0.0.1", 0), application, log=None) as server:
        server.start()

        def ask(number):
            connection = connect(server.server_port)
            reply = exchange(connection, "POST", "/call", b"%d" % number)
            return reply, exchange(connection, "POST", "/api/services/work", b"mounted %d" % number)

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


def test_a_client_that_goes_away_cancels_its_stream(server, connect, gated, client):
    go, ended = gated
    connection = connect(server.server_port)
    answer = first_part(connection, go)
    # The connection is reset at once, so that the next part meets a closed connection.
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


# A browser's EventSource


EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def safe_gateway(client):
    """A gateway that exposes all services, of which "work" may be called by GET."""
    return Gateway(client, ["*"], safe=["work"], timeout=10)


def test_F12_an_event_source_gets_a_stream_of_a_safe_service(safe_gateway):
    answer = ask(safe_gateway, "GET", "/services/work?body=parts&body=one&body=two", headers=EVENTS)
    assert answer.status == 200
    assert answer.events == [("message", text) for text in ("one", "two", "last", "two")] + [("end", "")]
    assert answer.body.endswith(b"event: end\nid: end\ndata:\n\n")
    # One frame is a stream, too.
    answer = ask(safe_gateway, "GET", "/services/work?body=hello", headers=EVENTS)
    assert answer.events == [("message", "hello"), ("end", "")]


def test_an_error_is_the_last_event_but_one(safe_gateway):
    answer = ask(safe_gateway, "GET", "/services/work?body=half", headers=EVENTS)
    assert [name for name, _ in answer.events] == ["message", "error", "end"]


def test_an_event_source_that_asks_again_after_the_end_is_told_to_stop():
    """A browser does that 3 seconds after an answer has ended, whatever the reason."""
    client = RecordingClient()
    gateway = Gateway(client, ["*"], safe=["*"])
    answer = ask(gateway, "GET", "/services/x", headers={**EVENTS, "Last-Event-ID": "end"})
    assert (answer.status, answer.body, client.options) == (204, b"", {})
    assert ask(gateway, "GET", "/services/x", headers={**EVENTS, "Last-Event-ID": "5"}).status == 200


@pytest.mark.parametrize(
    ("query", "frames"),
    [
        *(("", [b""]), ("?body", [b""]), ("?body=", [b""]), ("?body=a+b%20c", [b"a b c"])),
        *(("?body=%FF%00%C3%A4", [b"\xff\x00\xc3\xa4"]), ("?body=\xc3\xa4", [b"\xc3\xa4"])),
        *(("?body=1&x=2&body=3", [b"1", b"3"]), ("?stream=7&body=1", [b"1"])),
    ],
)
def test_the_frames_of_a_get_are_in_its_query(query, frames):
    bodies = []

    class Client(RecordingClient):
        def stream(self, service, body, **options):
            bodies.append(body)
            return iter([[b"done"]])

    assert ask(Gateway(Client(), ["*"], safe=["*"]), "GET", f"/services/x{query}", headers=EVENTS).status == 200
    assert bodies == [frames]


@pytest.mark.parametrize("query", ["?bdy=a", "?x", "?stream=1"])
def test_a_query_without_a_body_is_400_and_says_what_would_be_right(query):
    client = RecordingClient()
    answer = ask(Gateway(client, ["*"], safe=["*"]), "GET", f"/services/x{query}", headers=EVENTS)
    assert (answer.status, answer.error, client.options) == (400, "BadRequest", {})
    assert b"?body=hello" in answer.body


@pytest.mark.parametrize(
    ("exposed", "safe", "wrong"),
    [(["a"], ["b"], "b"), (["a"], ["a", "b*"], "b*"), (["*"], ["mmi.service"], "mmi.service"), (["a.*"], ["b"], "b")],
)
def test_a_safe_service_that_is_not_exposed_is_an_error(exposed, safe, wrong):
    with pytest.raises(ConfigurationError, match=f"safe: '{re.escape(wrong)}' is none of the exposed services"):
        Gateway(RecordingClient(), exposed, safe=safe)


@pytest.mark.parametrize(("exposed", "safe"), [(["*.daily"], ["report.*"]), (["report.x"], ["*"]), (["*"], ["r\xe4"])])
def test_a_safe_pattern_that_may_match_an_exposed_name_is_taken(exposed, safe):
    assert Gateway(RecordingClient(), exposed, safe=safe).safe == tuple(safe)


@pytest.mark.parametrize("accept", [None, "*/*", "text/*", "text/event-stream;q=0"])
def test_a_get_that_asks_for_no_events_is_406(accept):
    """An image's or a link's request, for instance."""
    client = RecordingClient()
    headers = {} if accept is None else {"Accept": accept}
    answer = ask(Gateway(client, ["*"], safe=["*"]), "GET", "/services/x", headers=headers)
    assert (answer.status, answer.error, client.options) == (406, "NotAcceptable", {})


@pytest.mark.parametrize(
    ("exposed", "safe", "name", "status"),
    [
        *((["*"], [], "x", 405), (["*"], ["y"], "x", 405), (["*"], ["x*"], "xy", 200), (["x"], ["*"], "y", 404)),
        *((["*", "mmi.*"], ["*"], "mmi.service", 405), (["mmi.*"], ["mmi.s*"], "mmi.service", 200)),
    ],
)
def test_a_get_needs_a_service_that_is_exposed_and_safe(exposed, safe, name, status):
    gateway = Gateway(RecordingClient(), exposed, safe=safe)
    answer = ask(gateway, "GET", f"/services/{name}", headers=EVENTS)
    assert answer.status == status
    if status == 405:
        assert answer.headers["Allow"] == "POST"
