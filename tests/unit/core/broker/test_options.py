"""The options of a broker."""

import pytest

from gmdp.core.broker.options import BrokerOptions, ServiceOptions


def test_the_first_pattern_that_matches_a_service_counts():
    options = BrokerOptions(attempts=7, services={"report.*": {"attempts": 1}, "*": {"request_ttl": 5.0}})
    assert options.for_service(b"report.daily") == ServiceOptions(attempts=1)
    assert options.for_service(b"echo") == ServiceOptions(request_ttl=5.0, attempts=7)
    assert BrokerOptions(attempts=7).for_service(b"echo") == ServiceOptions(attempts=7)


def test_a_peer_is_lost_after_so_many_intervals():
    assert BrokerOptions(heartbeat_interval=2.0, liveness=4).expiry == 8.0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"attempts": 0}, "attempts"),
        ({"liveness": 2}, "liveness"),
        ({"max_frames": 7}, "max_frames"),
        ({"max_user_rate": 0.5}, "max_user_rate"),
        ({"handshake_timeout": 0}, "handshake_timeout"),
        ({"services": []}, "services"),
        ({"services": {"echo": 3}}, "echo"),
        ({"services": {1: {}}}, "1"),
        ({"services": {"echo": {"atempts": 1}}}, "did you mean 'attempts'"),
        ({"services": {"echo": {"attempts": 0}}}, "echo.*attempts"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(options, named):
    with pytest.raises(ValueError, match=named):
        BrokerOptions(**options)
