"""The installation that the plugin's fixtures share."""

import pytest

import gmdp
from gmdp.testing.fixtures import Installation


def test_an_unknown_transport_is_refused():
    with pytest.raises(gmdp.ConfigurationError, match="tcp or inproc, not 'udp'"):
        Installation(transport="udp", options={}, seconds=1)


def test_a_worker_that_cannot_register_is_an_error(monkeypatch):
    monkeypatch.setattr("gmdp.testing.fixtures.REGISTER_TIMEOUT", 0.2)
    installation = Installation(options={"max_workers": 1}, seconds=30)
    installation.begin()
    installation.worker("echo", lambda request: request.body)
    with pytest.raises(AssertionError, match=r"not registered within 0\.2 s: <Worker \w+ 'echo'"):
        installation.worker("echo", lambda request: request.body)
    assert installation.end() == []


def test_a_call_for_a_misspelt_service_ends_before_the_test_s_deadline():
    installation = Installation(options={}, seconds=5)
    installation.begin()
    with pytest.raises(gmdp.RequestTimeout, match=r"'porg', .* no worker was registered"):
        installation.client.request("porg", b"x")
    assert installation.end() == []
