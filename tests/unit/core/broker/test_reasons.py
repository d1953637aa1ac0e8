"""The closed sets of reasons, and the keys they have in a broker's statistics."""

import re
from pathlib import Path

import pytest

import gmdp.core.broker
from gmdp.core.broker.reasons import DropReason, LossReason
from gmdp.core.broker.statistics import BrokerCounters
from gmdp.core.outcomes import EndReason

SOURCE = "".join(
    path.read_text(encoding="utf-8")
    for path in Path(gmdp.core.broker.__file__).parent.glob("*.py")
    if path.stem != "reasons"
)


@pytest.mark.parametrize("reasons", [DropReason, LossReason])
def test_each_reason_has_a_key_and_a_text(reasons):
    texts = [reason.text for reason in reasons]
    assert all(texts)
    assert len(set(texts)) == len(texts)
    for reason in reasons:
        assert re.fullmatch(r"[a-z_]+", reason.value)
        assert reason.name == reason.value.upper()
        assert reasons(reason.value) is reason


@pytest.mark.parametrize("reasons", [DropReason, LossReason])
def test_each_reason_is_one_that_the_broker_gives(reasons):
    used = set(re.findall(rf"\b{reasons.__name__}\.([A-Z_]+)", SOURCE))
    assert used == {reason.name for reason in reasons}


def test_reasons_are_counted_by_their_keys():
    counters = BrokerCounters()
    for _ in range(2):
        counters.count_drop(DropReason.LATE)
        counters.count_lost(LossReason.EXPIRED)
        counters.count_end(EndReason.CANCELLED)
    counters.count_refused_connections("key", 3)
    assert (counters.drops, counters.lost_workers, counters.ended) == ({"late": 2}, {"expired": 2}, {"cancelled": 2})
    assert counters.refused_connections == {"key": 3}
