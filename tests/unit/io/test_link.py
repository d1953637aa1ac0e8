"""Links: bound, connected, closed and abandoned."""

from time import monotonic

import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp.core.peer.reasons import CloseReason
from gmdp.io import link as module
from gmdp.io.link import milliseconds
from gmdp.io.owner import Owner
from gmdp.validation import MAX_INT


@pytest.fixture
def owner():
    owner = Owner(None, "none")
    yield owner
    for link in owner._links[:]:
        link.close()


def add_link(owner, kind):
    return owner.add_link(zmq.green.Context.instance().socket(kind), 100)


@pytest.mark.parametrize(
    ("seconds", "option"), [(0, 1), (0.0001, 1), (0.0011, 2), (2.5, 2500), (86_400, 86_400_000), (1e9, MAX_INT)]
)
def test_seconds_become_a_socket_option_that_is_never_zero_and_always_fits(seconds, option):
    assert milliseconds(seconds) == option


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_a_connection_stands_until_its_peer_closes(owner, tmp_path, transport):
    router, dealer = add_link(owner, zmq.ROUTER), add_link(owner, zmq.DEALER)
    dealer.socket.set(zmq.RECONNECT_IVL, 60_000)
    dealer.connect(router.listen({"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/it"}[transport]))
    wait_until(lambda: dealer.poll_connection(monotonic()) == (True, False))
    assert dealer.loss is None
    router.close()
    wait_until(lambda: dealer.poll_connection(monotonic()) == (False, True))
    assert dealer.loss is CloseReason.CONNECTION_CLOSED


def test_on_inproc_a_socket_without_room_has_no_peer(owner):
    router, dealer = add_link(owner, zmq.ROUTER), add_link(owner, zmq.DEALER)
    dealer.socket.set(zmq.SNDHWM, 0)
    router.listen("inproc://test-link")
    dealer.connect("inproc://test-link")
    assert dealer.poll_connection(monotonic()) == (False, False)
    router.close()
    wait_until(lambda: dealer.poll_connection(monotonic()) == (False, True))
    assert dealer.loss is CloseReason.ENDPOINT_CLOSED


def test_an_ipc_endpoint_in_use_is_not_taken_over(owner, tmp_path):
    endpoint = f"ipc://{tmp_path}/it"
    add_link(owner, zmq.ROUTER).listen(endpoint)
    with pytest.raises(zmq.ZMQError) as caught:
        add_link(owner, zmq.ROUTER).listen(endpoint)
    assert caught.value.errno == zmq.EADDRINUSE


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
def test_an_endpoint_is_free_when_its_socket_was_closed(owner, tmp_path, unused_endpoint, transport):
    endpoint = {"tcp": unused_endpoint, "ipc": f"ipc://{tmp_path}/it", "inproc": "inproc://test-link"}[transport]
    for _ in range(10):
        router = add_link(owner, zmq.ROUTER)
        router.close_bound([router.listen(endpoint)], linger=0)
        assert router.closed


def test_a_closed_link_is_none_of_its_owners_any_more(owner):
    link = add_link(owner, zmq.DEALER)
    assert (owner._links, owner.ready) == ([link], {link})
    link.close()
    link.close()  # no effect
    assert (owner._links, owner.ready, owner.used) == ([], set(), set())
    assert not any(watcher.active for watcher in link._watchers)


def test_an_abandoned_link_keeps_its_socket_and_never_closes_it(owner):
    link = add_link(owner, zmq.DEALER)
    socket = link.socket
    owner.abandon()
    assert (link.closed, socket.closed, owner._links) == (True, False, [])
    assert module._inherited.pop()[0] is socket
    assert not any(watcher.active for watcher in link._watchers)
    socket.close(0)
