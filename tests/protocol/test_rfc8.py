"""RFC 8 (MMI), over every dialect."""

import pytest
from cores import EXPIRY, MDP01, MDP02, Majortomo, ManualBroker

pytestmark = pytest.mark.parametrize("mdp", [MDP01, MDP02, Majortomo], ids=["0.1", "0.2", "majortomo"])


def manage(mdp, broker, service, *body):
    """The body of the one answer, a FINAL, to a request for `service`."""
    broker.ask(mdp, b"manager", *body, service=service)
    (answer,) = broker.answers(mdp, b"manager", service)
    return answer


@pytest.mark.parametrize("name", [b"mmi.service", b"mmi.nothing", b"mmi.", b"mmi.a.b"])
def test_all_services_that_start_with_mmi_are_handled_internally(mdp, name):
    """RFC 8, Namespace: "An MMI broker implementation MUST handle all services that start with "mmi." internally." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.feed(b"client", mdp.client_request(name, b"echo"))
    assert len(broker.take(b"client")) == 1
    assert broker.take(b"worker") == []
    assert list(broker.core.services) == [b"echo"]
    assert (broker.core.queued, broker.core.counters.requests, broker.core.counters.management) == (0, 0, 1)


@pytest.mark.parametrize("name", [b"mmi", b"mmi_service", b"MMI.service", b" mmi.service", b"my.mmi.service"])
def test_services_that_start_otherwise_are_workers(mdp, name):
    """RFC 8, Namespace: "An MMI broker implementation MUST handle all services that start with "mmi." internally." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker", service=name)
    broker.ask(mdp, b"client", b"question", service=name)
    assert broker.assignment(mdp, b"worker")[1] == [b"question"]


@pytest.mark.parametrize("name", [b"mmi.service", b"mmi.nothing", b"mmi."])
def test_workers_that_register_such_services_are_disconnected(mdp, name):
    """RFC 8, Namespace: "It MUST disconnect any workers that attempt to register services in this namespace." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker", service=name)
    assert broker.take(b"worker") == [mdp.disconnect]
    assert broker.workers == broker.core.services == {}
    assert broker.core.counters.drops == {"reserved_name": 1}
    broker.advance(EXPIRY / 2)
    broker.feed(b"worker", mdp.heartbeat)
    assert broker.take(b"worker") == []


def test_a_registered_worker_that_registers_such_a_service_is_disconnected(mdp):
    """RFC 8, Namespace: "It MUST disconnect any workers that attempt to register services in this namespace." """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.ready(mdp, b"worker", service=b"mmi.service")
    assert broker.take(b"worker") == [mdp.disconnect]
    assert broker.workers == {}


def test_mmi_service_finds_a_service_with_a_worker(mdp):
    """RFC 8, Default services: "responds with "200" (Found) if there is at least one worker registered for the service"
    RFC 8, Default services: "An MMI broker implementation MUST implement these services"
    """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    assert manage(mdp, broker, b"mmi.service", b"echo") == [b"200"]
    broker.ask(mdp, b"client", b"question")
    assert manage(mdp, broker, b"mmi.service", b"echo") == [b"200"]  # a busy worker is one


@pytest.mark.parametrize("loss", ["disconnect", "silence"])
def test_mmi_service_does_not_find_a_service_without_workers(mdp, loss):
    """RFC 8, Default services: ""404" (Not found) if there are no workers registered for the service"
    RFC 8, Default services: "An MMI broker implementation MUST implement these services"
    """
    broker = ManualBroker()
    assert manage(mdp, broker, b"mmi.service", b"echo") == [b"404"]
    broker.ask(mdp, b"client", b"question", service=b"asked for")
    assert manage(mdp, broker, b"mmi.service", b"asked for") == [b"404"]
    broker.ready(mdp, b"worker")
    for other in (b"", b"ech", b"Echo", b"echo ", b"mmi.service"):
        assert manage(mdp, broker, b"mmi.service", other) == [b"404"]
    if loss == "disconnect":
        broker.feed(b"worker", mdp.disconnect)
    else:
        broker.advance(EXPIRY)
    assert manage(mdp, broker, b"mmi.service", b"echo") == [b"404"]


@pytest.mark.parametrize("body", [[b"echo"], [b""], [b"one", b"two"]])
@pytest.mark.parametrize("name", [b"mmi.nothing", b"mmi.", b"mmi.Service", b"mmi.service.", b"mmi.\xff"])
def test_services_not_implemented_result_in_501(mdp, name, body):
    """RFC 8, Default services: "Any unimplemented services in the "mmi." namespace MUST result in a reply "501"" """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    assert manage(mdp, broker, name, *body) == [b"501"]


@pytest.mark.parametrize("name", [b"mmi.service", b"mmi.nothing"])
def test_a_broker_that_drains_still_answers(mdp, name):
    """RFC 8, Default services: "Any unimplemented services in the "mmi." namespace MUST result in a reply "501""
    RFC 8, Default services: "An MMI broker implementation MUST implement these services"
    """
    broker = ManualBroker()
    broker.ready(mdp, b"worker")
    broker.core.drain()
    assert manage(mdp, broker, name, b"echo") == [b"200" if name == b"mmi.service" else b"501"]
