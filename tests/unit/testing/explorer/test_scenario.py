"""Scenarios: a few seeds cover all kinds, and one seed is one run."""

import pytest
import seeds

from gmdp.testing.explorer.scenario import KINDS, Scenario


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
