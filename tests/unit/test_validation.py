"""Arguments as users give them: what is accepted, and that errors name the option and the value."""

import math

import pytest

from gmdp.exceptions import ConfigurationError
from gmdp.protocol.dialects import MAX_SERVICE_NAME, VERSIONS
from gmdp.validation import (
    check_body,
    check_endpoint,
    check_endpoints,
    check_flag,
    check_number,
    check_service,
    check_version,
)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0, {}),
        (0.5, {"above": 0}),
        (3, {"at_least": 3, "whole": True}),
        (2.5, {"at_most": 2.5}),
    ],
)
def test_a_number_within_its_bounds_is_returned(value, bounds):
    assert check_number("option", value, **bounds) is value


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (-1, {}),
        (0, {"above": 0}),
        (2.999, {"at_least": 3}),
        (2.5, {"whole": True}),
        (5, {"at_most": 4}),
        (True, {}),
        ("1", {}),
        (None, {}),
        (math.inf, {}),
        (math.nan, {}),
    ],
)
def test_any_other_number_is_an_error_that_names_the_option(value, bounds):
    with pytest.raises(ConfigurationError) as caught:
        check_number("an_option", value, **bounds)
    assert "an_option" in str(caught.value)


def test_a_flag_is_a_bool_and_nothing_that_is_only_true():
    assert check_flag("flag", True) is True
    assert check_flag("flag", False) is False
    for value in (1, 0, None, "yes"):
        with pytest.raises(ConfigurationError, match="flag"):
            check_flag("flag", value)


def test_a_version_gives_its_dialect():
    for version, dialect in VERSIONS.items():
        assert check_version(version) is dialect
    for value in ("0.3", 0.2, b"0.2", None):
        with pytest.raises(ConfigurationError, match="version"):
            check_version(value)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:5555", "tcp://[::1]:1", "tcp://a.example:65535", "ipc:///tmp/x", "inproc://name"]
)
def test_endpoints_that_can_be_connected_to(endpoint):
    assert check_endpoint(endpoint, bind=False) == endpoint
    assert check_endpoint(endpoint, bind=True) == endpoint


@pytest.mark.parametrize("endpoint", ["tcp://*:5555", "tcp://127.0.0.1:*", "tcp://127.0.0.1:0"])
def test_a_wildcard_is_for_binding_only(endpoint):
    assert check_endpoint(endpoint, bind=True) == endpoint
    with pytest.raises(ConfigurationError) as caught:
        check_endpoint(endpoint, bind=False)
    assert repr(endpoint) in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "udp://127.0.0.1:1",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:65536",
        "ipc://",
        "ipc://" + 108 * "x",
        5,
        "ipc:///tmp/a\0b",
        "ipc://@a\0b",
        "inproc://a\0b",
        "tcp://127.0.0.1\0:5",
    ],
)
def test_what_is_no_endpoint_is_an_error_that_shows_it(endpoint):
    with pytest.raises(ConfigurationError) as caught:
        check_endpoint(endpoint, bind=True)
    assert repr(endpoint) in str(caught.value)


def test_one_endpoint_or_several_but_not_none():
    assert check_endpoints("tcp://127.0.0.1:1") == ("tcp://127.0.0.1:1",)
    assert check_endpoints(["tcp://127.0.0.1:1", "inproc://b"]) == ("tcp://127.0.0.1:1", "inproc://b")
    for nothing in ([], 7):
        with pytest.raises(ConfigurationError):
            check_endpoints(nothing)


def test_a_service_name_becomes_bytes():
    assert check_service("größe") == "größe".encode()
    assert check_service(MAX_SERVICE_NAME * b"x") == MAX_SERVICE_NAME * b"x"
    for wrong in ("", (MAX_SERVICE_NAME + 1) * b"x"):
        with pytest.raises(ConfigurationError):
            check_service(wrong)
    with pytest.raises(TypeError):
        check_service(5)


def test_a_body_becomes_a_list_of_bytes():
    assert check_body(b"one") == [b"one"]
    assert check_body(bytearray(b"one")) == [b"one"]
    assert check_body([b"one", memoryview(b"two")]) == [b"one", b"two"]
    assert check_body(()) == [b""]
    for wrong in ("text", None, [b"one", "text"]):
        with pytest.raises(TypeError):
            check_body(wrong)


def test_G21_a_service_name_with_a_surrogate_is_an_error():
    with pytest.raises(ConfigurationError, match=r"a service name must be text .* not 'a.udc80': character 2"):
        check_service("a\udc80")
    with pytest.raises(ConfigurationError, match="an endpoint must be text"):
        check_endpoint("ipc:///run/\udc80", bind=True)


@pytest.mark.parametrize("port", ["\u0665", "\uff15", "5\u0665"])
def test_G21_a_port_has_ascii_digits(port):
    with pytest.raises(ConfigurationError, match=r"must look like tcp://HOST:PORT, .* must be a number or \*"):
        check_endpoint(f"tcp://127.0.0.1:{port}", bind=True)
    with pytest.raises(ConfigurationError, match=r"must look like tcp://HOST:PORT, .* must be a number$"):
        check_endpoint(f"tcp://127.0.0.1:{port}", bind=False)


def test_no_endpoint_stands_for_those_in_the_environment(monkeypatch):
    monkeypatch.setenv("GMDP_BROKER", "tcp://a:1, tcp://b:2")
    assert check_endpoints(None) == ("tcp://a:1", "tcp://b:2")
    monkeypatch.setenv("GMDP_BROKER", "a:1")
    with pytest.raises(ConfigurationError, match="'a:1': it must begin with tcp://"):
        check_endpoints(None)
    monkeypatch.delenv("GMDP_BROKER")
    with pytest.raises(ConfigurationError, match=r"no endpoint is given, and \$GMDP_BROKER is not set"):
        check_endpoints(None)
