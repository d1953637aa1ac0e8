"""The simulator: what it finds nothing against, and what it is for others."""

import os
import subprocess
import sys
from time import process_time

import mutations
import pytest
import scale

from gmdp.core.outcomes import Outcome
from gmdp.protocol.dialects import RFC7
from gmdp.testing import Crash, Simulation, SimulationFailed
from gmdp.testing.__main__ import main
from gmdp.testing.explorer.scenario import KINDS, Scenario
from gmdp.testing.explorer.search import run_seeds


def upper(request):
    return request.body[0].upper()


def run_module(*arguments):
    command = [sys.executable, "-m", "gmdp.testing", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# gmdp itself


def test_1000_seeds_nothing_is_lost_and_nothing_answered_wrongly(capsys):
    """Every fault of rows W, C and B that has no process or kernel in it, drawn by chance, and everything checked
    after each step: W1, W2, W3, W5, W8, W9, W10, W11, W12, W13, W15, C1, C2, C3, C6, C9, C10, B1, B2, B3, B4, B6, B11.
    """
    assert main(["--seeds", "1000", "--jobs", str(os.cpu_count())]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.startswith("1000 seeds, 0 failures")


@pytest.mark.slow
@pytest.mark.deadline(4 * 3600)
def test_100_000_seeds_at_1000_times_real_time(capsys):
    assert main(["--seeds", "100000"]) == 0, capsys.readouterr().out
    began = process_time()
    report = run_seeds(range(200))
    assert report.seconds / (process_time() - began) >= 1000


@pytest.mark.slow
def test_a_simulated_second_costs_what_it_did():
    """In runs of a reference loop: machines differ by more than a factor of two.  A third is for noise."""
    costs = []
    for first in range(0, 100, 10):
        began = process_time()
        scale.reference(100_000)
        middle = process_time()
        report = run_seeds(range(first, first + 10))
        costs.append((process_time() - middle) / report.seconds / ((middle - began) / 100_000))
    assert sorted(costs)[len(costs) // 2] <= 3_450 * 1.33


def test_every_kind_of_scenario_is_among_a_few_seeds():
    assert {Scenario(seed).kind for seed in range(100)} == set(KINDS)


@pytest.mark.parametrize("seed", range(3))
def test_one_seed_is_one_run(seed):
    """Step by step, whether somebody looks or not."""
    told = []
    for _ in range(2):
        lines = []
        traced = Scenario(seed, trace=lines.append)
        traced.run()
        told.append(lines)
    assert told[0] == told[1]
    assert len(told[0]) > 100
    plain = Scenario(seed)
    plain.run()
    assert plain.simulation.schedule.steps == traced.simulation.schedule.steps


@pytest.mark.parametrize("name", list(mutations.MUTATIONS))
def test_a_planted_bug_has_its_place_in_the_code(name):
    """Whether it is found is for the slow set; here, that the code it changes is still there."""
    compile(mutations.mutated(mutations.MUTATIONS[name]), name, "exec")


@pytest.mark.slow
@pytest.mark.deadline(mutations.PATIENCE + 60)
@pytest.mark.parametrize("name", list(mutations.MUTATIONS))
def test_a_planted_bug_is_found_within_1000_seeds(name):
    _, seed, said = mutations.hunt(name)
    assert seed >= 0, said


def test_there_are_enough_planted_bugs():
    assert len(mutations.MUTATIONS) >= 15
    assert {mutation.module for mutation in mutations.MUTATIONS.values()} >= {
        "core.broker.registry",
        "core.broker.delivery",
        "core.peer.worker",
        "core.peer.client",
    }


# A failure


def test_a_failure_tells_its_seed_and_the_seed_replays_it(monkeypatch, capsys):
    monkeypatch.setattr("gmdp.protocol.token.PREFIX_SIZE", 0)  # any token will do
    seed = next(seed for seed in range(1000) if run_seeds([seed]).failures)
    assert main(["--first", str(seed), "--seeds", "1", "--jobs", "1"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"seed {seed}, after ")
    assert "--replay" in told.err
    assert main(["--replay", str(seed)]) == 1
    replayed = capsys.readouterr()
    assert told.out.splitlines()[0].startswith(replayed.err.strip())
    assert "FAILED" in replayed.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["--seeds", "3", "--jobs", "2"], 0, "3 seeds, 0 failures"),
        (["--seeds", "0"], 2, "must be at least 1"),
        (["--seeds", "many"], 2, "invalid int value"),
        (["--replay", "1"], 0, "a scenario of the kind"),
    ],
)
def test_it_is_a_command(arguments, status, line):
    ended = run_module(*arguments)
    assert ended.returncode == status
    assert line in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


# For users


def test_W1_a_worker_that_dies_and_one_that_takes_over():
    """As the documentation has it."""
    simulation = Simulation(seed=7)
    simulation.broker()
    worker = simulation.worker("upper", upper, takes=(0.5, 0.5))
    client = simulation.client()
    call = client.request("upper", b"hello", timeout=10.0)
    simulation.after(0.2, worker.crash)
    simulation.after(1.0, simulation.worker, "upper", upper)
    simulation.run(20)
    assert call.reply == [b"HELLO"]
    assert call.call.deliveries == 2


def test_a_handler_that_kills_its_process_and_what_becomes_of_the_others():
    """W5: among workers with many sessions on one connection; no innocent request ends because of it."""

    def handler(request):
        if request.body == [b"poison"]:
            raise Crash
        return request.body

    simulation = Simulation(seed=1)
    broker = simulation.broker(attempts=3)
    for number in range(6):
        simulation.after(number, simulation.worker, "it", handler, takes=(1.0, 2.0), concurrency=20)
    client = simulation.client()
    innocent = [client.request("it", b"%d" % number, timeout=60.0) for number in range(30)]
    poison = client.request("it", b"poison", timeout=60.0)
    innocent += [client.request("it", b"%d" % number, timeout=60.0) for number in range(30, 60)]
    simulation.run(60)
    assert poison.outcome is Outcome.WORKER_LOST
    assert poison.call.deliveries == 3
    assert [call.reply for call in innocent] == [[b"%d" % number] for number in range(60)]
    (letter,) = broker.letters
    assert (letter.service, letter.body, letter.attempts, letter.reason) == (b"it", [b"poison"], 3, "attempts")


def test_handlers_may_stream_fail_and_look_at_the_time():
    seen = []

    def handler(request):
        seen.append((request.remaining(), request.age, request.metadata))
        if request.body == [b"fail"]:
            raise ValueError("no")
        yield b"one"
        yield b"two"

    simulation = Simulation()
    simulation.broker()
    simulation.worker("it", handler)
    client = simulation.client()
    fine, failed = client.request("it", b"go", timeout=5.0), client.request("it", b"fail", timeout=5.0)
    simulation.run(5)
    assert fine.reply == [b"one", b"two"]
    assert fine.parts == [[b"one"], [b"two"], [b""]]
    assert failed.outcome is Outcome.HANDLER_FAILED
    assert failed.failure == [b"ValueError", b"no"]
    with pytest.raises(AssertionError, match="has no reply"):
        _ = failed.reply
    assert all(4.9 < remaining < 5 and age == 0 for remaining, age, _ in seen)


def test_strict_peers_and_several_brokers():
    simulation = Simulation(seed=3)
    first, second = simulation.broker("one"), simulation.broker("two")
    for endpoint in ("one", "two"):
        simulation.worker("upper", upper, endpoints=[endpoint], strict=True)
    client = simulation.client(version=RFC7, strict=True, endpoints=["one", "two"])
    before = client.request("upper", b"a", timeout=5.0)
    simulation.run(1)
    first.kill()
    after = client.request("upper", b"b", timeout=30.0, retries=3)
    simulation.run(20)
    assert (before.reply, after.reply) == ([b"A"], [b"B"])
    assert client.core.speaks_extension is False
    assert (first.counters.replies, second.counters.replies) == (1, 1)


def test_what_does_not_hold_is_told_with_the_seed():
    simulation = Simulation(seed=42)
    broker = simulation.broker()
    simulation.worker("upper", upper)
    simulation.client().request("upper", b"x")

    def lose_count():
        broker.core.counters.requests += 1

    simulation.after(0.5, lose_count)
    with pytest.raises(SimulationFailed, match=r"seed 42, after \d+\.\d+ s: requests do not add up"):
        simulation.run(10)


def test_the_simulator_needs_no_hub():
    """No greenlet, thread or descriptor is used for it."""
    code = (
        "import gevent._hub_local as local, threading, os, gmdp.testing.explorer.search as s\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "assert not s.run_seeds(range(3)).failures\n"
        "assert local.get_hub_if_exists() is None and threading.active_count() == 1\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
