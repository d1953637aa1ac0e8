"""What requests ask for: methods, headers, queries, and the ends of their bodies."""

import pytest
from gateways import RecordingClient, ask, environ_of

from gmdp.http.gateway import Gateway


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((None, 10), ("3", 3), (" .5 ", 0.5), ("3.", 3), ("3e-0", 3), ("25e-2", 0.25)),
        *(("9" * 400, 10), (" 1E+9 ", 10), ("1e999", 10), ("10.5", 10)),
    ],
)
def test_the_time_limit_is_passed_on_within_the_gateways(value, seconds):
    recording = RecordingClient()
    headers = {} if value is None else {"X-Request-Timeout": value}
    assert ask(Gateway(recording, ["*"], timeout=10), "POST", "/services/x", b"", headers).status == 200
    assert recording.options["timeout"] == seconds


@pytest.mark.parametrize("value", ["", "0", "-1", "0.0", "nan", "inf", "1e", "e3", "1e-999", "1_0", "soon", "٣", "1s"])
def test_a_bad_time_limit_is_400(gateway, value):
    answer = ask(gateway, "POST", "/services/work", b"", {"X-Request-Timeout": value})
    assert (answer.status, answer.error) == (400, "BadRequest")


@pytest.mark.parametrize(("header", "priority"), [(None, 1), ("0", 0), ("3", 3), (" 2 ", 2)])
def test_a_priority_is_passed_on(header, priority):
    recording = RecordingClient()
    headers = {} if header is None else {"X-Request-Priority": header}
    assert ask(Gateway(recording, ["*"]), "POST", "/services/x", b"", headers).status == 200
    assert recording.options["priority"] == priority


@pytest.mark.parametrize("value", ["4", "-1", "", "1.0", "high", "²"])
def test_a_bad_priority_is_400(gateway, value):
    assert ask(gateway, "POST", "/services/work", b"", {"X-Request-Priority": value}).status == 400


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


@pytest.mark.parametrize("query", ["stream=2", "stream=", "stream=1&stream=0"])
def test_another_value_of_stream_is_400(gateway, query):
    assert ask(gateway, "POST", f"/services/work?{query}", b"").status == 400


def test_other_queries_ask_for_no_stream(gateway):
    assert ask(gateway, "POST", "/services/work?stream=0&x=1", b"1").headers["Content-Length"] == "1"


def test_a_body_above_the_bound_is_413_and_not_read(client):
    gateway = Gateway(client, ["*"], max_body=10)
    for stated in ("11", "9" * 30, "9" * 5000):
        environ = environ_of("POST", "/services/work", CONTENT_LENGTH=stated)
        environ["wsgi.input"] = None
        started = []
        gateway(environ, lambda status, headers, started=started: started.append(status))
        assert started == ["413 Request Entity Too Large"] or started == ["413 Content Too Large"]
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
    started = []
    gateway(environ, lambda status, headers: started.append(status))
    assert started == ["400 Bad Request"]


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked,", ""])
@pytest.mark.parametrize("more", [{}, {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}])
def test_another_transfer_encoding_is_400(gateway, coding, more):
    answer = ask(gateway, "POST", "/services/work", b"1", {"Transfer-Encoding": coding}, **more)
    assert (answer.status, answer.error) == (400, "BadRequest")


def test_a_chunked_body_is_read_where_the_server_knows_its_end(gateway):
    more = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}
    assert ask(gateway, "POST", "/services/work", b"1", {"Transfer-Encoding": " Chunked"}, **more).body == b"1"
