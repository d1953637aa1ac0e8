"""The simulator against gmdp: many seeds find no fault, and planted bugs are found."""

from time import process_time

import mutations
import pytest
import scale
import seeds

from gmdp.testing.__main__ import main
from gmdp.testing.explorer.search import run_seeds

#: How many tests there are, and how many seeds each of them runs.
TESTS, SEEDS = 10, 25


@pytest.mark.parametrize("test", range(TESTS))
def test_25_seeds_nothing_is_lost_and_nothing_answered_wrongly(test):
    """Every fault of rows W, C and B without a process or kernel, drawn by chance, with all invariants checked
    after each step: W1, W2, W3, W5, W8, W9, W10, W11, W12, W13, W15, C1, C2, C3, C6, C9, C10, B1, B2, B3, B4, B6, B11.
    """
    first = seeds.FIRST + test * SEEDS
    assert run_seeds(range(first, first + SEEDS)).failures == []


@pytest.mark.slow
@pytest.mark.deadline(4 * 3600)
def test_100_000_seeds_at_1000_times_real_time(capsys):
    assert main(["--seeds", "100000"]) == 0, capsys.readouterr().out
    began = process_time()
    report = run_seeds(range(200))
    assert report.seconds / (process_time() - began) >= 1000


@pytest.mark.slow
def test_a_simulated_second_costs_what_it_did():
    """Measured in runs of a reference loop: machines differ by more than a factor of two.  A third is for noise."""
    costs = []
    for first in range(0, 100, 10):
        began = process_time()
        scale.reference(100_000)
        middle = process_time()
        report = run_seeds(range(first, first + 10))
        costs.append((process_time() - middle) / report.seconds / ((middle - began) / 100_000))
    assert sorted(costs)[len(costs) // 2] <= 3_450 * 1.33


@pytest.mark.parametrize("name", list(mutations.MUTATIONS))
def test_a_planted_bug_has_its_place_in_the_code(name):
    """The code that the bug changes still exists; the slow set checks that the bug is found."""
    compile(mutations.mutated(mutations.MUTATIONS[name]), name, "exec")


@pytest.mark.slow
@pytest.mark.deadline(mutations.PATIENCE + 60)
@pytest.mark.parametrize("name", list(mutations.MUTATIONS))
def test_a_planted_bug_is_found(name):
    _, found, output = mutations.hunt(name)
    assert found, output


@pytest.mark.parametrize("name", [name for name, mutation in mutations.MUTATIONS.items() if mutation.tests])
def test_the_tests_that_hunt_a_planted_bug_exist(name):
    for test in mutations.MUTATIONS[name].tests.split():
        file, *names = test.split("::")
        source = (mutations.ROOT / "tests" / file).read_text(encoding="utf-8")
        assert all(f"def {name.partition('[')[0]}(" in source or f"class {name}" in source for name in names), test


def test_there_are_enough_planted_bugs():
    assert len(mutations.MUTATIONS) >= 15
    assert {mutation.module for mutation in mutations.MUTATIONS.values()} >= {
        "core.broker.registry",
        "core.broker.delivery",
        "core.peer.worker",
        "core.peer.client",
    }
