"""Links: bound, connected, closed and abandoned."""

import functools
import socket
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


def test_F7_a_message_sent_ahead_leaves_once_the_connection_is_established(owner):
    """Until then there is room for it alone, and afterwards for a thousand."""
    router, dealer = add_link(owner, zmq.ROUTER), add_link(owner, zmq.DEALER)
    dealer.connect(router.listen("tcp://127.0.0.1:*"), sends_ahead=True)
    assert dealer.send([b"ahead"]) is None
    assert dealer.send([b"no room"]) == "full"
    dealer.awaits_room = True
    wait_until(lambda: dealer.poll_connection(monotonic()) == (True, False))
    assert dealer.handshake_reported
    assert [dealer.send([b"%d" % number]) for number in range(1000)] == [None] * 1000
    received = []
    wait_until(lambda: received.append(router.receive()) or (received[-1] or [b"", b""])[1] == b"999")
    assert [message[1] for message in received if message][:2] == [b"ahead", b"0"]


def test_F7_nothing_waits_for_a_message_sent_ahead_on_a_connection_that_was_never_made(owner, nothing_left):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dealer = add_link(owner, zmq.DEALER)
        dealer.connect(f"tcp://127.0.0.1:{silent.getsockname()[1]}", sends_ahead=True)
        wait_until(lambda: dealer.poll_connection(monotonic()) or dealer.transport_connected)
        dealer.send([b"ahead"])
        dealer.awaits_room = True
        assert dealer.poll_connection(monotonic()) == (False, False)
        began = monotonic()
        dealer.close(linger=60)
    nothing_left()
    assert monotonic() - began < 10


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
        listeners = router.unbind_inproc([router.listen(endpoint)])
        lingering = router.linger(0, monotonic() + 5, listeners, messages=False)
        assert router.closed
        if transport == "inproc":
            assert lingering is None  # it is free at once
        else:
            wait_until(functools.partial(lingering.poll, 0.0), 5)


def test_a_closed_link_is_none_of_its_owners_any_more(owner):
    link = add_link(owner, zmq.DEALER)
    assert (owner._links, owner.ready) == ([link], {link})
    link.close()
    link.close()  # no effect
    assert (owner._links, owner.ready, owner.used) == ([], set(), set())
    assert not link._watcher.active


def test_an_abandoned_link_keeps_its_socket_and_never_closes_it(owner):
    link = add_link(owner, zmq.DEALER)
    socket = link.socket
    owner.abandon()
    assert (link.closed, socket.closed, owner._links) == (True, False, [])
    assert module._inherited.pop() is socket
    assert not link._watcher.active
    socket.close(0)
