"""Who is connected to a bound socket, as its monitor tells it, in virtual time."""

from gmdp.io.census import GRACE, Visitors

TIMEOUT = 5.0


def test_half_open_connections_do_not_count_as_established_however_many_they_are():
    visitors = Visitors(TIMEOUT)
    for descriptor in range(1000):
        visitors.came(descriptor, 0.0)
    assert (len(visitors), visitors.established(0.0)) == (1000, 0)
    for _ in range(3):
        visitors.succeeded(1.0)
    assert visitors.established(1.0) == 3
    # ZeroMQ drops the others.
    for descriptor in range(3, 1000):
        visitors.left(descriptor)
    assert visitors.established(2.0) == 3
    assert visitors.established(TIMEOUT + GRACE) == 3
    visitors.came(5000, 100.0)
    assert visitors.established(100.0) == 3
    visitors.left(0)
    assert (len(visitors), visitors.established(100.0)) == (3, 2)


def test_successes_do_not_count_for_longer_than_a_handshake_may_take():
    """Those who came and went leave no room taken."""
    visitors = Visitors(TIMEOUT)
    for descriptor in range(10):
        visitors.came(descriptor, 0.0)
        visitors.succeeded(0.0)
        visitors.left(descriptor)
    for descriptor in range(100, 150):
        visitors.came(descriptor, 1.0)
    assert visitors.established(1.0) == 10  # at most
    assert visitors.established(TIMEOUT + GRACE) == 0


def test_totals_and_failures_are_counted():
    visitors = Visitors(TIMEOUT)
    visitors.came(1, 0.0)
    visitors.came(2, 0.0)
    visitors.succeeded(0.0)
    visitors.failed("protocol")
    visitors.failed("protocol")
    assert (visitors.accepted, visitors.handshakes, visitors.failures) == (2, 1, {"protocol": 2})


def test_a_routing_id_is_gone_when_its_connection_is():
    visitors = Visitors(TIMEOUT)
    visitors.came(7, 0.0)
    assert not visitors.spoke(7, b"a")
    assert not visitors.spoke(7, b"a")
    assert visitors.gone() == []
    visitors.left(7)
    assert visitors.gone() == [b"a"]
    assert visitors.gone() == []


def test_what_is_read_after_the_end_of_its_connection_is_of_one_that_is_gone():
    """A message may be read after it was told that its connection is closed."""
    visitors = Visitors(TIMEOUT)
    visitors.came(7, 0.0)
    visitors.left(7)
    assert not visitors.spoke(7, b"a")
    assert visitors.gone() == [b"a"]


def test_a_routing_id_on_a_new_connection_voids_the_old_one_first():
    visitors = Visitors(TIMEOUT)
    visitors.came(7, 0.0)
    visitors.spoke(7, b"a")
    visitors.left(7)
    visitors.came(8, 0.0)
    assert visitors.spoke(8, b"a")
    assert not visitors.spoke(8, b"a")
    assert visitors.gone() == []
    visitors.left(8)
    assert visitors.gone() == [b"a"]


def test_a_descriptor_is_used_again():
    visitors = Visitors(TIMEOUT)
    visitors.came(7, 0.0)
    visitors.spoke(7, b"a")
    visitors.left(7)
    visitors.came(7, 0.0)
    assert not visitors.spoke(7, b"b")
    assert visitors.gone() == [b"a"]
    visitors.left(7)
    assert visitors.gone() == [b"b"]


def test_any_number_of_connections_leaves_nothing():
    """Also where nobody ever asks how many are established."""
    visitors = Visitors(TIMEOUT)
    for number in range(10_000):
        visitors.came(7, float(number))
        visitors.succeeded(float(number))
        visitors.spoke(7, b"%d" % number)
        visitors.left(7)
        visitors.gone()
        tables = (
            visitors._young,
            visitors._old,
            visitors._successes,
            visitors._spoke,
            visitors._closed,
            visitors._gone,
        )
        assert sum(map(len, tables)) < 20
