"""The socket of a broker."""

import errno

import pytest
import zmq

from gmdp.io import contexts, router
from gmdp.io.census import PeerCensus
from gmdp.io.owner import Owner

OPTIONS = {
    "max_frames": 8,
    "max_frame_size": 1000,
    "hwm": 7,
    "zmtp_heartbeat": (1.25, 5.625),
    "handshake_timeout": 5.0,
}


@pytest.fixture
def owner():
    owner = Owner(None, "of a test")
    yield owner
    for link in list(owner._links):
        link.close()


def opened(owner):
    return router.open_router(owner, contexts.shared_context(), PeerCensus(5.0), **OPTIONS)


def test_the_socket_is_a_router_with_the_options_it_was_given(owner):
    link = opened(owner)
    options = (zmq.LINGER, zmq.SNDHWM, zmq.RCVHWM, zmq.MAXMSGSIZE, zmq.HEARTBEAT_IVL, zmq.HEARTBEAT_TIMEOUT)
    assert link.socket.type == zmq.ROUTER
    assert [link.socket.get(option) for option in options] == [0, 7, 7, 2000, 1250, 5625]
    assert link.socket.get(zmq.HANDSHAKE_IVL) == 5000
    assert (link.socket.get(zmq.BACKLOG), link.socket.get(zmq.IPV6)) == (1024, 0)
    assert link.large == 1001


def test_ipv6_is_for_ipv6_addresses_alone(owner):
    link = opened(owner)
    for endpoint, ipv6 in (("tcp://[::1]:*", 1), ("tcp://127.0.0.1:*", 0)):
        link.listen(endpoint)
        assert link.socket.get(zmq.IPV6) == ipv6


def test_a_socket_that_cannot_be_watched_is_closed(owner, monkeypatch):
    def fails(link, census):
        raise contexts.SocketError(errno.EMFILE)

    monkeypatch.setattr("gmdp.io.link.Link.watch_peers", fails)
    with pytest.raises(contexts.SocketError):
        opened(owner)
    assert owner._links == []
