"""Why a connection was closed, and why nobody waits for an answer."""

import pytest

from gmdp.core.peer.reasons import CloseReason, GoneReason


@pytest.mark.parametrize("reason", list(CloseReason), ids=lambda reason: reason.name)
def test_a_reason_is_one_line_and_may_have_details(reason):
    assert reason.describe() == reason.value
    assert reason.describe("tcp://host:1") == f"{reason.value}: tcp://host:1"
    assert "\n" not in reason.value


@pytest.mark.parametrize("reasons", [CloseReason, GoneReason])
def test_no_two_reasons_have_one_text(reasons):
    assert len({reason.value for reason in reasons}) == len(reasons.__members__)
