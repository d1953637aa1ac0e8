"""Percentiles of latencies."""

import math

import pytest

from gmdp.cli.bench.load import percentile

pytestmark = pytest.mark.once


def test_a_percentile_is_one_of_the_values():
    assert [percentile([1.0, 2.0, 3.0, 4.0], part) for part in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 4.0, 4.0]
    assert math.isnan(percentile([], 0.5))
