"""The broker's offer, sent again unasked: to whom, when, and what becomes of it."""

import json

import pytest
from brokers import GmdpBroker, SlowBroker
from cores import INTERVAL

FEATURES = b'{"extension":2,"features":["not-run","leaving"]}'


def probe(broker, *peers):
    """Each of these peers names the feature `leaving`."""
    for peer in peers:
        broker.feed(peer, [b"MDPC02", b"\x01", b"mmi.gmdp", FEATURES])
        broker.take(peer)


def offers(broker, peer):
    """What the offers say that `peer` was sent since the last time: whether the broker leaves."""
    offers = [frames for frames in broker.take(peer) if frames[:3] == [b"MDPC02", b"\x03", b"mmi.gmdp"]]
    return [json.loads(frames[4]).get("leaving", False) for frames in offers]


def test_a_client_that_waits_gets_the_offer_at_each_interval_but_the_first():
    broker = GmdpBroker()
    probe(broker, b"client", b"idle")
    broker.call(b"client", 1)
    broker.advance(1.9 * INTERVAL)
    assert offers(broker, b"client") == []
    broker.advance(2 * INTERVAL)
    assert offers(broker, b"client") == [False, False]
    assert offers(broker, b"idle") == []


def test_requests_that_are_answered_within_an_interval_cost_no_message():
    broker = SlowBroker()
    probe(broker, b"client")
    broker.register(b"W", 1)
    for number in range(10):
        broker.call(b"client", number)
        broker.answer_all(b"W")
        broker.advance(0.5 * INTERVAL)
    assert offers(broker, b"client") == []


def test_a_client_that_does_not_read_gets_no_offer_on_top():
    broker = SlowBroker()
    probe(broker, b"client")
    broker.register(b"W", 1, 2)
    broker.socket.room[b"client"] = 0
    broker.call(b"client", 1)
    broker.call(b"client", 2)
    broker.session(b"W", 1, b"\x04", *broker.requests(b"W")[1][:1], b"", b"answer")
    waiting = broker.core.backlogs.count
    assert waiting == 1
    held = broker.core.held_bytes
    broker.advance(3 * INTERVAL)
    assert broker.core.held_bytes == held


@pytest.mark.parametrize("leaves", ["client", "worker"])
def test_a_peer_that_has_gone_is_told_nothing_when_the_broker_drains(leaves):
    broker = GmdpBroker()
    probe(broker, b"W", b"client", b"other")
    broker.register(b"W", 1)
    for peer in (b"client", b"other"):
        broker.call(peer, 1)
    gone = b"client" if leaves == "client" else b"W"
    broker.core.on_connection_closed(gone, broker.now)
    broker.take(gone)
    broker.core.connections = 3
    broker.core.drain(broker.now + 60)
    broker.advance(0.1)
    assert offers(broker, gone) == []
    assert offers(broker, b"other") == [True]


def test_a_peer_that_goes_while_others_are_told_is_left_out(monkeypatch):
    monkeypatch.setattr("gmdp.core.broker.draining.BURST", 1)
    broker = GmdpBroker()
    peers = [b"first", b"second", b"third"]
    probe(broker, *peers)
    broker.core.connections = 3
    broker.core.drain(broker.now + 60)
    broker.core.tick(broker.now)
    broker.collect()
    assert [offers(broker, peer) for peer in peers] == [[True], [], []]
    broker.core.on_connection_closed(b"second", broker.now)
    for _ in range(3):
        broker.core.tick(broker.now)
    broker.collect()
    assert [offers(broker, peer) for peer in peers] == [[], [], [True]]


def test_a_client_that_has_not_named_the_feature_is_told_nothing():
    broker = GmdpBroker()
    broker.feed(b"client", [b"MDPC02", b"\x01", b"mmi.gmdp", FEATURES.replace(b',"leaving"', b"")])
    broker.take(b"client")
    broker.call(b"client", 1)
    broker.advance(3 * INTERVAL)
    broker.core.drain(broker.now + 60)
    broker.core.tick(broker.now)
    broker.collect()
    assert offers(broker, b"client") == []
