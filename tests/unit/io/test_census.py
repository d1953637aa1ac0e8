"""The connections of a bound socket, from what its monitor reports, in virtual time."""

from gmdp.io.census import GRACE, PeerCensus

TIMEOUT = 5.0


def test_half_open_connections_do_not_count_as_established_however_many_they_are():
    census = PeerCensus(TIMEOUT)
    for descriptor in range(1000):
        census.on_accepted(descriptor, 0.0)
    assert (len(census), census.established(0.0)) == (1000, 0)
    for _ in range(3):
        census.on_handshake(1.0)
    assert census.established(1.0) == 3
    # ZeroMQ drops the others.
    for descriptor in range(3, 1000):
        census.on_closed(descriptor)
    assert census.established(2.0) == 3
    assert census.established(TIMEOUT + GRACE) == 3
    census.on_accepted(5000, 100.0)
    assert census.established(100.0) == 3
    census.on_closed(0)
    assert (len(census), census.established(100.0)) == (3, 2)


def test_successes_do_not_count_for_longer_than_a_handshake_may_take():
    """Connections that were closed take no room."""
    census = PeerCensus(TIMEOUT)
    for descriptor in range(10):
        census.on_accepted(descriptor, 0.0)
        census.on_handshake(0.0)
        census.on_closed(descriptor)
    for descriptor in range(100, 150):
        census.on_accepted(descriptor, 1.0)
    assert census.established(1.0) == 10  # at most
    assert census.established(TIMEOUT + GRACE) == 0


def test_totals_and_failures_are_counted():
    census = PeerCensus(TIMEOUT)
    census.on_accepted(1, 0.0)
    census.on_accepted(2, 0.0)
    census.on_handshake(0.0)
    census.on_handshake_failed("protocol")
    census.on_handshake_failed("protocol")
    assert (census.accepted, census.handshakes, census.failures) == (2, 1, {"protocol": 2})


def test_a_routing_id_is_gone_when_its_connection_is():
    census = PeerCensus(TIMEOUT)
    census.on_accepted(7, 0.0)
    assert not census.on_message(7, b"a")
    assert not census.on_message(7, b"a")
    assert census.take_gone() == []
    census.on_closed(7)
    assert census.take_gone() == [b"a"]
    assert census.take_gone() == []


def test_a_message_read_after_its_connection_was_closed_has_a_routing_id_that_is_gone():
    """The end of a connection may be reported before its last message is read."""
    census = PeerCensus(TIMEOUT)
    census.on_accepted(7, 0.0)
    census.on_closed(7)
    assert not census.on_message(7, b"a")
    assert census.take_gone() == [b"a"]


def test_a_routing_id_on_a_new_connection_voids_the_old_one_first():
    census = PeerCensus(TIMEOUT)
    census.on_accepted(7, 0.0)
    census.on_message(7, b"a")
    census.on_closed(7)
    census.on_accepted(8, 0.0)
    assert census.on_message(8, b"a")
    assert not census.on_message(8, b"a")
    assert census.take_gone() == []
    census.on_closed(8)
    assert census.take_gone() == [b"a"]


def test_a_descriptor_is_used_again():
    census = PeerCensus(TIMEOUT)
    census.on_accepted(7, 0.0)
    census.on_message(7, b"a")
    census.on_closed(7)
    census.on_accepted(7, 0.0)
    assert not census.on_message(7, b"b")
    assert census.take_gone() == [b"a"]
    census.on_closed(7)
    assert census.take_gone() == [b"b"]


def test_closed_connections_leave_nothing_behind():
    """The tables stay small, even if `established` is never called."""
    census = PeerCensus(TIMEOUT)
    for number in range(10_000):
        census.on_accepted(7, float(number))
        census.on_handshake(float(number))
        census.on_message(7, b"%d" % number)
        census.on_closed(7)
        census.take_gone()
        tables = (
            census._young,
            census._old,
            census._successes,
            census._speakers,
            census._closed,
            census._gone,
        )
        assert sum(map(len, tables)) < 20


def test_F7_a_connection_whose_handshake_is_never_reported_is_none_that_failed():
    """Peers of ZMTP 2.0: one has spoken, one has not, and one is older than a handshake may take."""
    census = PeerCensus(TIMEOUT)
    census.on_accepted(1, 0.0)
    census.age(TIMEOUT + GRACE)
    assert (census.unreported, len(census)) == (0, 1)
    now = 100.0
    for descriptor in (2, 3, 4):
        census.on_accepted(descriptor, now)
    census.on_handshake(now)
    assert census.unreported == 2
    for _ in range(3):
        census.on_unreported(b"speaker")
    for descriptor in (1, 2, 3):
        census.on_broken_off()
        census.on_closed(descriptor)
    assert (census.undecided, census.failures) == (2, {})
    census.judge()
    assert (census.undecided, census.failures) == (0, {"handshake": 1})
    # The one with a report is still there; what a peer without one has said is forgotten.
    assert (len(census), census.unreported) == (1, 0)
    census.on_accepted(5, now)
    census.on_broken_off()
    census.on_closed(5)
    census.judge()
    assert census.failures == {"handshake": 2}


def test_F7_no_more_speakers_are_kept_than_connections_that_may_have_spoken():
    census = PeerCensus(TIMEOUT)
    for descriptor in range(3):
        census.on_accepted(descriptor, 0.0)
    for number in range(100):
        census.on_unreported(b"%d" % number)
    assert len(census._unreported_speakers) == 3
    census.age(TIMEOUT + GRACE)
    assert (census.unreported, len(census._unreported_speakers)) == (0, 0)
