"""What the parts of a broker's core share."""

import pytest
from brokers import SlowBroker
from cores import EXPIRY, INTERVAL, START

from gmdp.core.broker.options import BrokerOptions
from gmdp.core.broker.state import BrokerState
from gmdp.core.broker.statistics import BrokerCounters


def state(in_process=False, **options):
    return BrokerState(BrokerOptions(heartbeat_interval=INTERVAL, **options), BrokerCounters(), START, None, in_process)


@pytest.mark.parametrize("heartbeats", [True, False])
@pytest.mark.parametrize("in_process", [True, False])
def test_the_end_of_a_process_is_noticed_through_heartbeats_or_where_it_is_the_broker_s_own(heartbeats, in_process):
    assert state(in_process, zmtp_heartbeats=heartbeats).knows_processes is (heartbeats or in_process)


def test_a_new_broker_s_silence_counts_from_its_beginning():
    now = state()
    assert not now.gap.until > START
    now.gap.on_wake(START + INTERVAL, START)
    assert now.gap.until == START + INTERVAL + EXPIRY


def test_warnings_about_peers_are_taken_with_the_refusals():
    now = state()
    now.complaints.complain("unknown", b"peer", "", START, lambda: "what came")
    assert [warning.kind for warning in now.refusals] == ["unknown"]


def test_all_parts_of_a_core_share_one_state():
    """What one of them holds or decides, the others see."""
    broker = SlowBroker()
    now = broker.state
    broker.call(b"client", 1)
    assert now.held_bytes == broker.core.held_bytes > 0
    broker.register(b"W", 1)
    broker.answer_all(b"W")
    assert now.held_bytes == 0
    broker.core.drain(broker.now + 1)
    assert now.draining
    broker.call(b"client", 2)
    assert now.refused_at == broker.now
