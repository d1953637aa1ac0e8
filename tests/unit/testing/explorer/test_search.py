"""The search for a seed that fails."""

import subprocess
import sys

from gmdp.testing.explorer.search import run_in_processes, run_seeds


def test_the_simulator_needs_no_hub():
    """The simulator uses no greenlet, thread or descriptor."""
    code = (
        "import gevent._hub_local as local, threading, os, gmdp.testing.explorer.search as s\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "assert not s.run_seeds(range(3)).failures\n"
        "assert local.get_hub_if_exists() is None and threading.active_count() == 1\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_with_one_job_the_seeds_are_run_in_this_process():
    seeds = range(7, 10)
    assert list(run_in_processes(seeds, jobs=1)) == [run_seeds(seeds)]


def test_a_seed_that_fails_is_reported_with_its_kind(monkeypatch):
    monkeypatch.setattr("gmdp.testing.explorer.scenario.PROOF", 0.0)  # no time for any call
    report = run_seeds([1])
    (failure,) = report.failures
    assert failure.startswith("seed 1, after ")
    assert "of the kind" in failure


def test_a_check_that_fails_between_two_steps_is_a_failure_of_its_seed(monkeypatch):
    """A node that is unblocked runs at once, outside all steps."""

    def fail(node):
        raise AssertionError("as the node was unblocked")

    monkeypatch.setattr("gmdp.testing.simulator.node.Node.unblock", fail)
    report = run_seeds([1, 2])
    assert ["as the node was unblocked" in failure for failure in report.failures] == [True, True]
    assert report.failures[1].startswith("seed 2, after 20.0")
