"""Scenarios: a few seeds cover all kinds, one seed is one run, and a wrong outcome does not go unseen."""

import math
from types import SimpleNamespace

import pytest
import seeds

from gmdp.core.outcomes import Outcome
from gmdp.core.peer.sessions import SessionState
from gmdp.testing import Crash, SimulationFailed
from gmdp.testing.explorer.scenario import BROKEN, BUSY_TIMEOUT, KINDS, POISON, SERVICES, STREAM, Scenario


def scenario_of(kind):
    """A scenario that has not run."""
    return next(scenario for scenario in map(Scenario, range(1_000)) if scenario.kind == kind)


@pytest.fixture
def quiet():
    """A scenario whose nodes have had time to find each other."""
    scenario = scenario_of("quiet")
    scenario.simulation.run(5)
    return scenario


def calls_of(scenario):
    return [call for client in scenario.simulation.clients for call in client.calls]


def test_every_kind_of_scenario_is_among_a_few_seeds():
    assert {Scenario(seed).kind for seed in range(100)} == set(KINDS)


@pytest.mark.parametrize("number", range(3))
def test_one_seed_is_one_run(number):
    """Step by step, with a trace or without one."""
    seed = seeds.FIRST + number
    traces = []
    for _ in range(2):
        lines = []
        traced = Scenario(seed, trace=lines.append)
        traced.run()
        traces.append(lines)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 100
    plain = Scenario(seed)
    plain.run()
    assert plain.simulation.schedule.steps == traced.simulation.schedule.steps


def test_an_error_of_the_code_under_test_is_a_failure_of_the_seed(quiet, monkeypatch):
    def fail():
        raise ZeroDivisionError("in a core")

    monkeypatch.setattr(quiet, "_run", fail)
    with pytest.raises(SimulationFailed, match=f"seed {quiet.simulation.seed}, .*in a core"):
        quiet.run()


# Faults


def down(scenario):
    return [broker for broker in scenario.brokers if not broker.up]


def broken_wires(scenario):
    return [wire for wire in scenario.simulation.network.wires if wire.broken or wire.silent]


#: What is to be seen after each fault.
SEEN = {
    "cut": broken_wires,
    "silence": broken_wires,
    "kill_broker": down,
    "block_broker": lambda scenario: [broker for broker in scenario.brokers if broker.blocked],
    "freeze_broker": lambda scenario: [broker for broker in scenario.brokers if broker.frozen],
    "crash_worker": lambda scenario: [worker for worker in scenario.simulation.workers if worker.dead],
    "block_worker": lambda scenario: [worker for worker in scenario.simulation.workers if worker.blocked],
    "freeze_worker": lambda scenario: [worker for worker in scenario.simulation.workers if worker.frozen],
    "drain_worker": lambda scenario: [worker for worker in scenario.simulation.workers if worker.core.draining],
    "crash_client": lambda scenario: [client for client in scenario.simulation.clients if client.dead],
    "block_client": lambda scenario: [client for client in scenario.simulation.clients if client.blocked],
    "freeze_client": lambda scenario: [client for client in scenario.simulation.clients if client.frozen],
}


@pytest.mark.parametrize("fault", SEEN)
def test_a_fault_strikes_one_of_its_kind(quiet, fault):
    before = SEEN[fault](quiet)
    getattr(quiet, f"_{fault}")()
    struck = [one for one in SEEN[fault](quiet) if one not in before]
    assert len(struck) == 1


@pytest.mark.parametrize("fault", ["crash_worker", "block_worker", "freeze_worker", "drain_worker", "poison"])
def test_a_fault_finds_nothing_where_all_have_died(quiet, fault):
    for node in [*quiet.simulation.workers, *quiet.simulation.clients]:
        node.crash()
    getattr(quiet, f"_{fault}")()
    quiet._start_call()
    assert calls_of(quiet) == []


@pytest.mark.parametrize("fault", ["kill_broker", "stop_broker"])
def test_a_broker_that_was_ended_comes_back(quiet, fault):
    getattr(quiet, f"_{fault}")()
    quiet.simulation.run(3.0 if fault == "stop_broker" else 0.0)
    assert down(quiet)
    quiet.simulation.run(6)
    assert not down(quiet)


def test_a_call_is_cancelled(quiet):
    quiet._cancel()  # no effect: there is none
    for client in quiet.simulation.clients:
        client.request("nobody", b"x")
    quiet._cancel()
    quiet.simulation.run(1)
    assert [call.outcome for call in calls_of(quiet)].count(Outcome.CANCELLED) == 1


def test_a_request_that_kills_its_handler_is_run_by_another_worker_later(quiet):
    before = len(quiet.simulation.workers)
    with pytest.raises(Crash):
        quiet._handler(["one"], SimpleNamespace(body=[POISON + b" 1"], service=SERVICES[0]))
    assert len(quiet.simulation.workers) == before
    quiet.simulation.run(2.1)
    assert [worker.core.service for worker in quiet.simulation.workers[before:]] == [SERVICES[0]]


def test_hostile_messages_reach_a_broker_and_its_peers_stay():
    lines = []
    scenario = next(s for s in (Scenario(seed, lines.append) for seed in range(1_000)) if s.kind == "hostile")
    scenario.simulation.run(5)
    workers = [broker.core.worker_count for broker in scenario.brokers]
    del lines[:]
    for _ in range(20):
        scenario._hostile()
        scenario.simulation.run(0.1)
    assert sum("an attack:" in line for line in lines) > 20
    assert sum(broker.counters.drops["malformed"] for broker in scenario.brokers) > 0
    scenario.simulation.run(10)
    assert [broker.core.worker_count for broker in scenario.brokers] == workers


# Calls


def test_half_of_all_readers_of_streams_are_slow_or_stop():
    scenario = scenario_of("streams")
    for _ in range(200):
        scenario._start_call()
    reads = {call.reads for call in calls_of(scenario)}
    assert reads == {(0.0, 0.0), (0.0, 0.3), (0.2, 0.6), (0.0, math.inf)}


def test_on_slow_links_two_clients_call_for_one_long_stream_each():
    """The grants of those clients do not wait behind large requests."""
    scenario = scenario_of("slow links")
    for _ in range(100):
        scenario._start_call()
    streams = [call for call in calls_of(scenario) if call.call.body[0].startswith(STREAM)]
    assert len(streams) == 2
    for client in scenario.simulation.clients:
        if any(call in client.calls for call in streams):
            assert client.calls[0] in streams
            assert all(len(call.call.body) == 1 for call in client.calls)
    parts = list(scenario._handler(["one"], SimpleNamespace(body=streams[0].call.body)))
    assert (len(parts), len(parts[0][3])) == (40, 10_000)


# Checks

PART = [b"uid 1", b"1", b"part 0", b""]
FINAL = [b"uid 1", b"1", b"final 1", b""]


@pytest.mark.parametrize(
    ("earlier", "body", "message"),
    [
        ([], PART, None),
        ([PART], FINAL, None),
        ([], [*PART, *FINAL], None),
        ([], [b"uid 2", b"1", b"final 0", b""], "a reply to another call"),
        ([PART], [b"uid 1", b"2", b"final 1", b""], "mixes two runs"),
        ([], FINAL, "lacks a part"),
        ([PART], PART, "lacks a part"),
        ([], [*PART, *FINAL][:6], "lacks frames"),
        ([], [b"500"], "whose handler did not fail"),
    ],
)
def test_a_part_belongs_to_its_call_and_run_and_comes_in_its_turn(quiet, earlier, body, message):
    call = quiet.simulation.clients[0].request("it", b"uid 1")
    call.parts = [*earlier, body]
    if message is None:
        quiet._on_part(call, SimpleNamespace(body=body))
    else:
        with pytest.raises(AssertionError, match=message):
            quiet._on_part(call, SimpleNamespace(body=body))


def test_the_error_of_a_handler_that_fails_is_an_answer(quiet):
    call = quiet.simulation.clients[0].request("it", BROKEN + b" 1")
    quiet._on_part(call, SimpleNamespace(body=[b"500"]))
    with pytest.raises(ValueError, match=BROKEN.decode()):
        quiet._handler(["one"], SimpleNamespace(body=call.call.body))


@pytest.mark.parametrize(
    ("kind", "uid", "outcome", "message"),
    [
        ("mixed", POISON + b" 1", "reply", "a reply to a request that kills its handler"),
        ("mixed", POISON + b" 1", Outcome.WORKER_LOST, None),
        ("quiet", b"uid 1", Outcome.WORKER_LOST, "without a fault"),
        ("quiet", b"uid 1", Outcome.OVERLOADED, "without a fault"),
        ("quiet", b"uid 1", Outcome.EXPIRED, None),
        ("slow links", STREAM + b" 1", Outcome.STALLED, "a slow link was taken for a reader"),
        ("poison", b"uid 1", Outcome.WORKER_LOST, "a request that kills no worker ended with a lost one"),
        ("poison", POISON + b" 1", Outcome.WORKER_LOST, None),
        ("computing", b"uid 1", Outcome.WORKER_LOST, "a worker that computes was lost"),
        ("streams", b"uid 1", Outcome.STALLED, "in parts: 0"),
    ],
)
def test_a_call_ends_as_its_scenario_allows(kind, uid, outcome, message):
    scenario = scenario_of(kind)
    call = scenario.simulation.clients[0].request("it", uid, timeout=12.0, deadline=math.inf)
    call.outcome = outcome
    if message is None:
        scenario._check_outcomes()
    else:
        with pytest.raises(AssertionError, match=message):
            scenario._check_outcomes()


def test_a_broker_of_a_quiet_scenario_may_lack_room(quiet):
    call = quiet.simulation.clients[0].request("it", b"uid 1", timeout=12.0)
    call.outcome = Outcome.OVERLOADED
    quiet.brokers[0].counters.drops["bytes_full"] = 1
    quiet._check_outcomes()


def test_a_call_ends_in_time(quiet):
    call = quiet.simulation.clients[0].request("it", b"uid 1", timeout=5.0)
    call.outcome, call.ended = "reply", call.began + 29
    quiet._check_outcomes()
    call.ended = call.began + 30
    with pytest.raises(AssertionError, match="ended far too late"):
        quiet._check_outcomes()


@pytest.mark.parametrize(
    ("outcome", "stops", "parts", "full", "fine"),
    [
        ("reply", False, 3, False, True),
        (Outcome.STALLED, False, 3, False, False),
        (Outcome.STALLED, True, 3, False, True),
        (Outcome.TIMEOUT, False, 0, False, True),
        (Outcome.TIMEOUT, False, 3, False, False),
        (Outcome.OVERLOADED, False, 3, False, False),
        (Outcome.OVERLOADED, False, 3, True, True),
    ],
)
def test_a_stream_ends_as_its_reader_and_broker_allow(outcome, stops, parts, full, fine):
    scenario = scenario_of("streams")
    call = scenario.simulation.clients[0].request(
        "it", b"uid 1", timeout=12.0, deadline=math.inf, reads=(0.0, math.inf if stops else 0.3)
    )
    call.outcome, call.parts = outcome, [[b"part"]] * parts
    if full:
        scenario.brokers[0].counters.drops["client_full"] = 1
    if fine:
        scenario._check_outcomes()
    else:
        with pytest.raises(AssertionError, match="in parts"):
            scenario._check_outcomes()


def test_what_a_worker_computes_is_computed_once():
    """A worker may begin while the broker's recall of a request is on its way."""
    scenario = scenario_of("computing")
    client = scenario.simulation.clients[0]
    client.strict = False
    call = client.request("it", b"uid 1", timeout=BUSY_TIMEOUT)
    call.outcome = "reply"
    scenario.begun[b"uid 1"] = [1.0, 4.0]
    with pytest.raises(AssertionError, match="was given to another"):
        scenario._check_outcomes()
    scenario.brokers[0].recalls.append(3.9)
    scenario._check_outcomes()


def wait_for_ever(scenario):
    scenario.simulation.clients[0].request("it", b"uid 1")


def lose_a_session(scenario):
    scenario.simulation.workers[-1].core.sessions[0].become(SessionState.DETACHED)


def count_as_malformed(scenario):
    scenario.brokers[0].counters.drops["malformed"] = 1


def queue(scenario):
    broker = scenario.brokers[0]
    broker.core.inject(b"nobody", [b"x"], scenario.simulation.now)


def die_unseen(scenario):
    scenario.simulation.workers[-1].dead = True


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (wait_for_ever, "waits for ever for"),
        (lose_a_session, "has not registered again"),
        (count_as_malformed, "as malformed"),
        (queue, "keeps requests"),
        (die_unseen, "takes a dead worker for alive"),
    ],
)
def test_what_has_not_healed_is_named(quiet, harm, message):
    quiet._heal()
    quiet.simulation.run(30)
    quiet._check_healed()
    harm(quiet)
    with pytest.raises(AssertionError, match=message):
        quiet._check_healed()
