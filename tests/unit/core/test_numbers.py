"""Checks of option values."""

import math

import pytest

from gmdp.core.numbers import MOST_SECONDS, MOST_WHOLE, check_number, unknown_name


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0, {"least": 0}),
        (0.5, {"least": 0, "above": True}),
        (MOST_SECONDS, {"least": 0}),
        (MOST_WHOLE, {"least": 1, "whole": True}),
        (7, {"least": 1, "most": 7}),
    ],
)
def test_a_number_within_its_bounds_passes(value, bounds):
    check_number("it", value, **bounds)


@pytest.mark.parametrize(
    ("value", "bounds", "named"),
    [
        (-1, {"least": 0}, "-1"),
        (0, {"least": 0, "above": True}, "greater than 0"),
        (1.5, {"least": 1, "whole": True}, "whole"),
        (True, {"least": 0}, "True"),
        ("1", {"least": 0}, "'1'"),
        (math.nan, {"least": 0}, "nan"),
        (math.inf, {"least": 0}, "inf"),
        (2 * MOST_SECONDS, {"least": 0}, "at most 1e\\+09"),
        (MOST_WHOLE + 1, {"least": 0, "whole": True}, "at most"),
        (8, {"least": 1, "most": 7}, "from 1 to 7, not 8"),
        (0, {"least": 1, "most": 7}, "from 1 to 7, not 0"),
        (10**400, {"least": 1, "most": 7, "whole": True}, "from 1 to 7$"),
    ],
)
def test_any_other_value_is_refused_by_the_options_name(value, bounds, named):
    with pytest.raises(ValueError, match=f"^it must be .*{named}"):
        check_number("it", value, **bounds)


def test_an_unknown_name_is_told_the_nearest_or_all():
    assert "did you mean 'timeout'" in unknown_name("timeuot", {"timeout", "retries"})
    assert "retries, timeout" in unknown_name("x", {"timeout", "retries"})
    assert unknown_name("x", (), "key").startswith("unknown key 'x'")
