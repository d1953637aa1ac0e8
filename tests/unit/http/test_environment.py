"""A gateway from environment variables."""

import inspect

import pytest
from gateways import ask

from gmdp import ConfigurationError
from gmdp.http.environment import gateway_from_environment


def test_variables_set_up_a_gateway(stack, unused_endpoint):
    gateway = gateway_from_environment(
        {
            "GMDP_BROKER": f"{unused_endpoint}, {stack.endpoint}",
            "GMDP_SERVICES": "work , naïve,",
            "GMDP_TIMEOUT": "7.5",
            "GMDP_RETRIES": "3",
            "GMDP_MAX_BODY": "5",
            "GMDP_WHEN_NO_WORKER": "wait",
            "GMDP_READY_SERVICES": "work",
            "GMDP_CLIENT_TIMEOUT": "2.5",
            "GMDP_SAFE": "work",
            "GMDP_CORS_ORIGINS": "https://x,https://y",
        }
    )
    assert (gateway.services, gateway.timeout, gateway.max_body) == (("work", "naïve"), 7.5, 5)
    assert (gateway.when_no_worker, gateway.ready_services) == ("wait", (b"work",))
    assert (gateway.client_timeout, gateway.safe) == (2.5, ("work",))
    assert gateway.cors_origins == ("https://x", "https://y")
    assert "client=None" in repr(gateway)
    with gateway.client as client:
        assert (client.endpoints[1], client.timeout, client.retries) == (stack.endpoint, 7.5, 3)
        assert ask(gateway, "POST", "/services/work", b"hello").body == b"hello"
        assert ask(gateway, "POST", "/services/work", b"hello!").status == 413


def test_the_variables_of_the_process_are_the_default_and_not_in_the_signature(monkeypatch):
    monkeypatch.setenv("GMDP_SERVICES", "upper")
    assert gateway_from_environment().services == ("upper",)
    assert "environ(" not in repr(inspect.signature(gateway_from_environment))


@pytest.mark.parametrize(
    ("variables", "fact"),
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
def test_wrong_variables_are_refused_at_once(variables, fact):
    with pytest.raises(ConfigurationError, match=fact):
        gateway_from_environment({"GMDP_SERVICES": "work", **variables})
