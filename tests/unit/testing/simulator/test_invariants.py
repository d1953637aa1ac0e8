"""The invariants: a state that breaks one of them is noticed after the next step."""

import pytest

from gmdp.core.broker.records import Place
from gmdp.core.peer.calls import CallState
from gmdp.core.peer.connector import Send
from gmdp.protocol.extension import FAIL_WITHOUT_WORKER, Status, answer_frame, call_frame, request_id
from gmdp.testing import Crash, Simulation, SimulationFailed
from gmdp.testing.simulator import internals
from gmdp.testing.simulator.invariants import on_client_traffic


class Installation(Simulation):
    """A broker with one request at a worker, and one more in the queue."""

    def __init__(self):
        super().__init__(seed=1)
        self.one = self.broker()
        self.worker_node = self.worker("it", lambda request: request.body, takes=(5.0, 5.0))
        self.client_node = self.client()
        self.run(1)
        self.first = self.client_node.request("it", b"first")
        self.run(0.5)
        self.second = self.client_node.request("it", b"second")
        self.run(0.5)
        self.core = self.one.core
        (self.record,) = self.core.workers
        self.service = self.core.services[b"it"]
        (self.queued,) = self.service.queue
        self.assigned = self.record.request

    def check_all(self):
        for node in self.nodes:
            self.invariants.check(node)


def break_requests(it):
    it.core.counters.requests += 1


def break_place(it):
    it.queued.place = Place.ASSIGNED


def break_queue(it):
    it.service.queue.suspects += 1


def break_idle(it):
    it.service.idle[it.record] = 0.0


def break_timer(it):
    it.queued.timer = None


def break_failing(it):
    it.service.failing_without_worker += 1


def break_attempts(it):
    it.assigned.attempts = 100


def break_connection(it):
    it.record.registered = False


def break_suspect(it):
    it.record.connection.suspect = it.queued


def break_account(it):
    it.queued.client.open += 1


def break_client(it):
    it.queued.client = None


def break_session(it):
    it.worker_node.core.sessions[0].work = None


def break_running(it):
    it.worker_node.running.update({"a", "b"})


def break_calls(it):
    it.client_node.counters.requests += 1


def break_call(it):
    it.first.call.state = CallState.DONE


def break_line(it):
    it.first.call.connection.calls.clear()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_requests, "requests do not add up"),
        (break_place, "a queued request is"),
        (break_queue, "suspects"),
        (break_idle, "an idle worker is lost, busy"),
        (break_timer, "no timer"),
        (break_failing, "fail without a worker"),
        (break_attempts, "more attempts"),
        (break_connection, "a connection has a worker that is lost"),
        (break_suspect, "suspect"),
        (break_account, "open requests of a client"),
        (break_client, "account"),
        (break_session, "busy without work"),
        (break_running, "more handlers"),
        (break_calls, "calls do not add up"),
        (break_call, "ended"),
        (break_line, "does not know the call|do not add up"),
    ],
)
def test_a_broken_state_is_noticed(damage, message):
    it = Installation()
    it.check_all()
    damage(it)
    with pytest.raises(AssertionError, match=message):
        it.check_all()


def test_a_silent_worker_must_be_lost():
    it = Installation()
    it.schedule.now += 2.0 * it.one.options.heartbeat_interval
    with pytest.raises(AssertionError, match="a silent worker is not mute"):
        it.invariants.check(it.one)
    it.one.core.tick(it.schedule.now)
    it.invariants.check(it.one)
    it.schedule.now += 1000.0
    with pytest.raises(AssertionError, match="a silent worker is not lost"):
        it.invariants.check(it.one)


def test_L1_a_worker_whose_process_has_ended_must_be_lost():
    it = Installation()
    it.one.peers.clear()
    it.invariants.check(it.one)
    it.schedule.now += 1.5 * it.one.options.heartbeat_interval
    for connection in internals.worker_connections(it.one.core).values():
        connection.pulse.heard_at = it.schedule.now  # another peer may have taken its routing id
    with pytest.raises(AssertionError, match="a worker whose process has ended is not lost"):
        it.invariants.check(it.one)


def test_a_silent_broker_must_not_be_used():
    it = Installation()
    it.schedule.now += 1000.0
    with pytest.raises(AssertionError, match="silent"):
        it.invariants.check(it.worker_node)


def test_nodes_that_are_down_are_not_checked():
    it = Installation()
    it.one.kill()
    it.worker_node.crash()
    it.client_node.crash()
    it.schedule.now += 1000.0
    it.check_all()


def test_a_worker_whose_message_waits_must_not_be_lost():
    it = Installation()
    with pytest.raises(AssertionError, match="waited unread"):
        it.one.on_traffic(it.one, "lost", [it.record.head[0]])


def test_no_call_is_sent_to_a_broker_that_stops():
    it = Installation()
    (wire,) = it.client_node.wires
    node = it.client_node
    call, decided = [call_frame(request_id(b"n" * 16, 1))], [call_frame(request_id(b"n" * 16, 2))]
    on_client_traffic(node, "received", wire, [b"no call"])
    on_client_traffic(node, "sent", wire, call)
    node.core.actions.append(Send(wire.connection, decided))
    on_client_traffic(node, "received", wire, [answer_frame(call[0], Status.SHUTTING_DOWN, 1, 1)])
    # The client had decided on this one before it heard that the broker stops.
    on_client_traffic(node, "sent", wire, decided)
    on_client_traffic(node, "received", wire, [answer_frame(call[0], Status.SHUTTING_DOWN, 1, 1)])
    with pytest.raises(AssertionError, match="a broker that stops"):
        on_client_traffic(node, "sent", wire, call)
    with pytest.raises(AssertionError, match="a broker that stops"):
        on_client_traffic(node, "sent", wire, list(decided))


def test_every_state_of_an_honest_run_passes():
    """Suspects, backlogs, requests that fail without a worker, and a broker that is killed."""

    def handler(request):
        if request.body == [b"deadly"]:
            raise Crash
        return request.body

    simulation = Simulation(seed=3)
    broker = simulation.broker(hwm=2)
    for _ in range(3):
        simulation.worker("it", handler, takes=(0.1, 1.0), concurrency=2)
    client, slow = simulation.client(), simulation.client()
    simulation.run(1)
    calls = [node.request("it", body) for node in (client, slow) for body in (b"a", b"deadly", b"b", b"c")]
    client.request("nobody", b"x", flags=FAIL_WITHOUT_WORKER)
    simulation.after(0.05, slow.block, 5.0)
    simulation.after(8.0, broker.kill)
    simulation.after(9.0, broker.start)
    simulation.run(60)
    assert all(call.outcome is not None for call in calls)
    assert internals.backlogs(broker.core) == 0


def test_a_failure_ends_the_run():
    it = Installation()
    it.after(0.1, break_requests, it)
    with pytest.raises(SimulationFailed):
        it.run(20)
