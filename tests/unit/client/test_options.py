"""The options of a call: one object, each value checked once."""

import inspect
import math

import pytest

from gmdp import AsyncClient, Client, ConfigurationError
from gmdp.client.options import FLAGS, CallOptions
from gmdp.interfaces import IAsyncClient, IClient
from gmdp.protocol.extension import FAIL_WITHOUT_WORKER

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DEFAULTS = CallOptions(30.0, 0, "wait")
#: What callers give; the last field says whether they gave a time.
OPTIONS = CallOptions._fields[:-1]


def test_a_call_without_options_shares_the_client_s_object():
    assert DEFAULTS.override() is DEFAULTS
    assert DEFAULTS.override(priority=1) is DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 2.5),
        ("timeout", 1),
        ("retries", 3),
        ("retries", 0),
        ("when_no_worker", "fail"),
        ("priority", 0),
        ("priority", 3),
        ("traceparent", TRACEPARENT),
    ],
)
def test_what_is_given_goes_before_the_default(name, value):
    options = DEFAULTS.override(**{name: value})
    assert options == DEFAULTS._replace(**{name: value}, stated=name == "timeout")
    # The next call does not know of it.
    assert CallOptions(30.0, 0, "wait", 1, None) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", math.nan),
        ("timeout", "1"),
        ("retries", -1),
        ("retries", 1.5),
        ("retries", True),
        ("when_no_worker", "never"),
        ("when_no_worker", 1),
        ("when_no_worker", ["wait"]),
        ("priority", -1),
        ("priority", 4),
        ("priority", True),
        ("priority", 1.0),
        ("priority", None),
        ("traceparent", ""),
        ("traceparent", TRACEPARENT.upper()),
        ("traceparent", TRACEPARENT.encode()),
        ("traceparent", TRACEPARENT + "\n"),
        ("traceparent", "\ud800"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        DEFAULTS.override(**{name: value})


def test_an_options_object_cannot_be_changed():
    with pytest.raises(AttributeError):
        DEFAULTS.timeout = 1.0
    with pytest.raises(AttributeError):
        DEFAULTS.colour = "red"


def test_the_flags_are_those_of_the_wire():
    assert FLAGS == {"wait": 0, "fail": FAIL_WITHOUT_WORKER}


@pytest.mark.parametrize("method", [Client.request, Client.stream, AsyncClient.submit, AsyncClient.map])
def test_each_method_takes_each_option_by_its_name(method):
    parameters = inspect.signature(method).parameters
    for name in OPTIONS:
        default = CallOptions._field_defaults.get(name)
        assert (parameters[name].kind, parameters[name].default) == (inspect.Parameter.KEYWORD_ONLY, default)


@pytest.mark.parametrize(
    ("interface", "name"),
    [(IClient, "request"), (IClient, "stream"), (IAsyncClient, "submit"), (IAsyncClient, "map")],
)
def test_each_contract_names_each_option(interface, name):
    assert all(f"{option}: " in interface[name].getDoc() for option in OPTIONS)
