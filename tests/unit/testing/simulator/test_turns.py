"""Whether clients are served in turn."""

from collections import Counter
from types import SimpleNamespace

import pytest

from gmdp.testing import Simulation
from gmdp.testing.simulator.turns import Turns

PATIENT = "patient"


class Broker:
    """As much of a broker as the check reads: one service, and workers that were assigned requests just now."""

    def __init__(self):
        self.schedule = SimpleNamespace(now=0.0)
        self.service = SimpleNamespace(name=b"it", queue=[self.request(PATIENT)])
        self.core = SimpleNamespace(workers=[], services={b"it": self.service})
        self.given = 0

    def request(self, lane, attempts=1, suspect=False):
        return SimpleNamespace(lane=lane, priority=1, attempts=attempts, suspect=suspect, worker=None, service=None)

    def assign(self, lane, **options):
        self.schedule.now += 1.0
        self.given += 1
        request = self.request(lane, **options)
        worker = SimpleNamespace(request=request, assigned_at=self.schedule.now, token=b"%d" % self.given)
        request.worker, request.service = worker, self.service
        self.core.workers.append(worker)


def test_a_client_that_is_passed_over_too_often_is_noticed():
    broker, turns = Broker(), Turns(1)
    turns.check(broker)
    for _ in range(Turns.MOST):
        broker.assign("greedy")
        turns.check(broker)
    broker.assign("greedy")
    with pytest.raises(AssertionError, match="over and over"):
        turns.check(broker)


def test_a_client_that_had_its_turn_begins_anew():
    broker, turns = Broker(), Turns(1)
    for _ in range(Turns.MOST * 3):
        turns.check(broker)
        broker.assign("greedy")
        turns.check(broker)
        broker.assign(PATIENT)
        turns.check(broker)


@pytest.mark.parametrize("options", [{"attempts": 2}])
def test_further_attempts_do_not_count(options):
    broker, turns = Broker(), Turns(1)
    for _ in range(Turns.MOST * 3):
        turns.check(broker)
        broker.assign("greedy", **options)
        turns.check(broker)


def test_clients_of_a_simulation_are_served_in_turn():
    simulation = Simulation()
    simulation.broker()
    simulation.worker("it", lambda request: request.body, takes=(0.1, 0.1))
    clients = [simulation.client() for _ in range(3)]
    simulation.run(1)
    calls = [client.request("it", b"x") for client in clients for _ in range(5)]
    simulation.run(30)
    assert Counter(call.outcome for call in calls) == {"reply": 15}
