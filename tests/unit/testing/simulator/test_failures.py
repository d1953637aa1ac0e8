"""The assertion of the simulator."""

import pytest

from gmdp.testing.simulator.failures import require


def test_a_requirement_that_does_not_hold_says_so():
    require([1], "never")
    with pytest.raises(AssertionError, match=r"^bytes held: 3 of 4$"):
        require(0, "bytes held:", 3, "of", 4)
