"""What a broker knows of its peers: the features that their probes named."""

import dataclasses

import pytest
from brokers import GmdpBroker
from cores import MDP02

from gmdp.core.broker import peers
from gmdp.core.broker.access import Access, Rules
from gmdp.core.broker.reports import About
from gmdp.protocol import extension
from gmdp.protocol.extension import Feature

EVERYTHING = sum(Feature)


def broker_with_features(features=EVERYTHING, version=2):
    return GmdpBroker(about=About(extension=version, features=features))


def probe(broker, peer, features, user="", stack=()):
    broker.feed(peer, [*stack, *MDP02.client_request(b"mmi.gmdp", *extension.probe_body(2, features))], user)
    broker.take(peer)


def known(broker):
    """The addresses of the peers whose features are known; the count is right."""
    addresses = [address for feature in Feature for address in broker.state.peers.having(feature)]
    assert broker.state.peers.count == len(set(addresses))
    return list(dict.fromkeys(addresses))


def test_the_features_of_a_peer_are_those_that_both_sides_name():
    broker = broker_with_features(Feature.CREDITS | Feature.BEGUN)
    probe(broker, b"w", Feature.CREDITS | Feature.LEAVING)
    frame, old_frame = extension.session_frame(1), extension.session_frame(1, version=1)
    assert broker.state.peers.features_of((b"w",), frame) == Feature.CREDITS
    # A frame of version 1, or a strict message, comes from a peer without features.
    assert broker.state.peers.features_of((b"w",), old_frame) == 0
    assert broker.state.peers.features_of((b"w",), b"") == 0
    assert broker.state.peers.features_of((b"w", b"hop"), frame) == 0
    # A probe that names none takes the features back.
    probe(broker, b"w", 0)
    assert known(broker) == []


def test_a_broker_of_version_1_has_no_features():
    broker = broker_with_features(version=1)
    probe(broker, b"w", EVERYTHING)
    assert known(broker) == []


@pytest.mark.parametrize(("version", "features"), [(2, Feature.BEGUN), (1, 0)])
def test_a_worker_s_connection_knows_its_features(version, features):
    broker = broker_with_features()
    probe(broker, b"w", Feature.BEGUN)
    broker.feed(b"w", [extension.session_frame(1, version=version), b"", b"MDPW02", b"\x01", b"echo"])
    (worker,) = broker.core.workers
    assert worker.connection.features == features


def test_the_features_go_with_the_connection():
    broker = broker_with_features()
    for peer in (b"one", b"two"):
        probe(broker, peer, EVERYTHING)
    broker.core.on_connection_closed(b"one", broker.now)
    assert known(broker) == [(b"two",)]


def test_the_features_go_with_the_user():
    broker = GmdpBroker(about=About(features=EVERYTHING), access=Access(Rules([]), 1000.0))
    probe(broker, b"one", EVERYTHING, user="ann")
    broker.feed(b"one", MDP02.client_request(b"mmi.service", b"echo"), user="bob")
    assert known(broker) == []


def test_features_are_bounded(monkeypatch):
    """The oldest are forgotten; a peer that probes again is the youngest."""
    monkeypatch.setattr(peers, "MAX_PEERS", 2)
    broker = broker_with_features()
    for peer in (b"one", b"two", b"one", b"three"):
        probe(broker, peer, EVERYTHING)
    assert known(broker) == [(b"one",), (b"three",)]


def test_X2_invented_return_addresses_push_out_no_other_connection_s_features(monkeypatch):
    monkeypatch.setattr(peers, "MAX_PEERS", 5)
    monkeypatch.setattr(peers, "MAX_BEHIND", 3)
    broker = broker_with_features()
    probe(broker, b"honest", EVERYTHING)
    for peer in (b"hostile", b"stranger"):
        for number in range(10):
            probe(broker, peer, EVERYTHING, stack=[b"%d" % number, b""])
        probe(broker, peer, EVERYTHING, stack=[b"8", b""])  # the same peer again
    assert known(broker) == [
        (b"honest",),
        *((b"hostile", number) for number in (b"7", b"9", b"8")),
        (b"stranger", b"8"),
    ]
    # All go with the connection.
    broker.core.on_connection_closed(b"hostile", broker.now)
    assert known(broker) == [(b"honest",), (b"stranger", b"8")]
    probe(broker, b"honest", 0)
    assert known(broker) == [(b"stranger", b"8")]


def test_about_says_what_a_broker_speaks_by_default():
    fields = {field.name: field.default for field in dataclasses.fields(About)}
    assert (fields["extension"], fields["features"]) == (extension.VERSION, extension.SUPPORTED)


@pytest.mark.parametrize("use", ["calls", "waits", "works"])
def test_L8_a_peer_in_use_keeps_its_features_however_many_come_and_go(monkeypatch, use):
    """A broker without security does not learn which connections are closed."""
    monkeypatch.setattr(peers, "MAX_PEERS", 10)
    broker = broker_with_features()
    probe(broker, b"old", EVERYTHING)
    if use == "waits":
        broker.call(b"old", 1)
    elif use == "works":
        broker.register(b"old", 1, service=b"other")
    else:
        broker.register(b"W", 1)
    for number in range(100):
        probe(broker, b"new %d" % number, EVERYTHING)
        if use == "calls" and number % 3 == 0:
            broker.call(b"old", number)
            ((address, _),) = broker.requests(b"W").values()
            broker.session(b"W", 1, b"\x04", address, b"", b"done")
            assert len(broker.answered(b"old")) == 1
    assert (b"old",) in known(broker)
    assert len(known(broker)) == 10


def test_a_peer_gives_way_if_all_are_in_use(monkeypatch):
    monkeypatch.setattr(peers, "MAX_PEERS", 5)
    broker = broker_with_features()
    for number in range(20):
        probe(broker, b"%d" % number, EVERYTHING)
        broker.call(b"%d" % number, 1)
    assert len(known(broker)) == 5
    assert (b"19",) in known(broker)
