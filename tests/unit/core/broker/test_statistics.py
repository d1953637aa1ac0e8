"""What a broker counts, and under which keys."""

import pytest

from gmdp.core.broker.reasons import DropReason, LossReason
from gmdp.core.broker.statistics import BrokerCounters
from gmdp.core.outcomes import EndReason


@pytest.mark.parametrize(
    ("table", "reasons", "count"),
    [
        ("ended", EndReason, BrokerCounters.count_end),
        ("lost_workers", LossReason, BrokerCounters.count_lost),
        ("drops", DropReason, BrokerCounters.count_drop),
    ],
)
def test_each_reason_is_counted_under_a_key_of_its_own(table, reasons, count):
    counters = BrokerCounters()
    for reason in reasons:
        count(counters, reason)
        count(counters, reason)
    counted = getattr(counters, table)
    assert len(counted) == len(reasons.__members__)
    assert set(counted.values()) == {2}
    assert set(counted) == {reason.value for reason in reasons}


def test_refused_connections_are_counted_several_at_a_time():
    counters = BrokerCounters()
    counters.count_refused_connections("key")
    counters.count_refused_connections("key", 3)
    assert counters.refused_connections == {"key": 4}
