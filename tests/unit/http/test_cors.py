"""Cross-origin requests: who may read answers, and what a browser is told before it sends."""

import pytest
from gateways import FailingClient, RecordingClient, ask, environ_of

from gmdp import ConfigurationError, Overloaded
from gmdp.http.gateway import Gateway

PAGE = "https://app.example"
OTHER = "https://app.example.evil"


def cors_of(answer):
    """The headers of an answer that concern other origins."""
    return {
        name: value for name, value in answer.headers.items() if name.startswith("Access-Control-") or name == "Vary"
    }


def gateway(*origins, **options):
    return Gateway(RecordingClient(), ["*"], cors_origins=origins, **options)


def preflight(gateway, target="/services/x", origin=PAGE, method="POST"):
    return ask(gateway, "OPTIONS", target, headers={"Origin": origin, "Access-Control-Request-Method": method})


EXPOSED = {"Access-Control-Expose-Headers": "Allow, Retry-After"}


def test_without_the_option_no_page_may_read_anything():
    for method in ("POST", "OPTIONS"):
        headers = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        answer = ask(gateway(), method, "/services/x", headers=headers)
        assert answer.status == {"POST": 200, "OPTIONS": 405}[method]
        assert cors_of(answer) == {}


@pytest.mark.parametrize("target", ["/services/x", "/healthz", "/nowhere"])
def test_a_page_of_a_listed_origin_may_read_each_answer(target):
    """The errors, too."""
    answer = ask(gateway("https://y", PAGE), "POST", target, headers={"Origin": PAGE})
    assert cors_of(answer) == {"Vary": "Origin", "Access-Control-Allow-Origin": PAGE, **EXPOSED}


@pytest.mark.parametrize("origin", [OTHER, "http://app.example", "https://app.example:8443", "null", "", "*", None])
def test_no_other_page_may(origin):
    headers = {} if origin is None else {"Origin": origin}
    assert cors_of(ask(gateway(PAGE), "POST", "/services/x", headers=headers)) == {"Vary": "Origin"}


def test_all_pages_may_with_a_star():
    """Credentials are never allowed."""
    answer = ask(gateway("*"), "POST", "/services/x", headers={"Origin": OTHER})
    assert cors_of(answer) == {"Access-Control-Allow-Origin": "*", **EXPOSED}
    assert cors_of(ask(gateway("*"), "POST", "/services/x")) == {}


def test_an_error_s_headers_stay():
    failing = Gateway(FailingClient(Overloaded("full")), ["*"], cors_origins=[PAGE])
    answer = ask(failing, "POST", "/services/x", headers={"Origin": PAGE})
    assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE


@pytest.mark.parametrize(
    ("target", "methods"),
    [("/services/x", "POST"), ("/services/safe.x", "GET, POST"), ("/healthz", "GET, HEAD"), ("/readyz", "GET, HEAD")],
)
@pytest.mark.parametrize("origins", [(PAGE,), ("*",)], ids=str)
def test_a_preflight_tells_what_the_path_takes(target, methods, origins):
    answer = preflight(gateway(*origins, safe=["safe.*"]), target)
    assert (answer.status, answer.body) == (204, b"")
    assert "Content-Type" not in answer.headers
    found = cors_of(answer)
    assert found.pop("Access-Control-Allow-Headers").split(", ") == [
        *("Content-Type", "Last-Event-ID", "Traceparent", "X-Request-Priority", "X-Request-Timeout")
    ]
    assert found.pop("Access-Control-Max-Age") == "600"
    assert found.pop("Access-Control-Allow-Methods") == methods
    assert found.pop("Access-Control-Allow-Origin") == (PAGE if origins == (PAGE,) else "*")


def test_a_preflight_of_another_page_is_refused():
    answer = preflight(gateway(PAGE), origin=OTHER)
    assert (answer.status, cors_of(answer)) == (405, {"Vary": "Origin"})
    assert preflight(gateway(PAGE), "/nowhere").status == 404
    hidden = Gateway(RecordingClient(), ["y"], cors_origins=[PAGE])
    assert preflight(hidden).status == 404


def test_an_options_request_that_is_no_preflight_is_405():
    assert ask(gateway(PAGE), "OPTIONS", "/services/x", headers={"Origin": PAGE}).status == 405


def test_a_preflight_makes_no_call():
    client = RecordingClient()
    started = []
    environ = environ_of("OPTIONS", "/services/x", HTTP_ORIGIN=PAGE, HTTP_ACCESS_CONTROL_REQUEST_METHOD="POST")
    Gateway(client, ["*"], cors_origins=["*"])(environ, lambda *args: started.append(args))
    assert client.options == {}
    assert started[0][0] == "204 No Content"


@pytest.mark.parametrize(
    "origins",
    [
        *("https://app.example", b"*", 5, ["https://app.example/"], ["app.example"], ["https://App.example"]),
        *(["null"], [""], ["https://"], ["https://a b"], ["https://u@x"], ["https://*.example"], [b"https://x"]),
        *(["https://x:443"], ["http://x:80"], ["https://x\n"], [PAGE, "https://x?y"]),
    ],
    ids=repr,
)
def test_an_origin_that_no_browser_sends_is_refused(origins):
    with pytest.raises(ConfigurationError, match="cors_origins must be"):
        Gateway(RecordingClient(), ["*"], cors_origins=origins)


@pytest.mark.parametrize(
    "origin", ["http://localhost:8080", "https://[::1]:1", "capacitor://localhost", "http://x:443"]
)
def test_origins_of_all_kinds_are_accepted(origin):
    assert gateway(origin).cors_origins == (origin,)
