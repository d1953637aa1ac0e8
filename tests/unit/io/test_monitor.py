"""What monitors report of real sockets."""

from time import monotonic

import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp.core.peer.reasons import CloseReason
from gmdp.io.census import PeerCensus
from gmdp.io.monitor import LISTENER_CLOSED, ConnectionMonitor, Monitor, PeerMonitor

PATIENCE = 0.2


@pytest.fixture
def make_socket():
    """A function: a green socket of this kind, closed at the end of the test."""
    sockets = []

    def make(kind):
        socket = zmq.green.Context.instance().socket(kind)
        socket.set(zmq.LINGER, 0)
        sockets.append(socket)
        return socket

    yield make
    for socket in sockets:
        socket.close(0)


def bound(make_socket):
    router = make_socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:*")
    return router, router.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()


def connecting(make_socket, endpoint):
    """A DEALER that connects to `endpoint`, and its monitor."""
    dealer = make_socket(zmq.DEALER)
    dealer.set(zmq.RECONNECT_IVL, 60_000)
    monitor = ConnectionMonitor(dealer, PATIENCE)
    dealer.connect(endpoint)
    return dealer, monitor


def test_a_connection_stands_and_is_gone(make_socket):
    router, endpoint = bound(make_socket)
    _, monitor = connecting(make_socket, endpoint)
    assert wait_until(lambda: any(monitor.poll(monotonic())))
    assert monitor.loss is None
    router.close(0)
    wait_until(lambda: monitor.poll(monotonic())[1])
    assert monitor.loss is CloseReason.CONNECTION_CLOSED
    monitor.close()


def test_a_connection_that_nobody_takes_never_stands(make_socket, unused_endpoint):
    _, monitor = connecting(make_socket, unused_endpoint)
    polled = []
    wait_until(lambda: polled.append(monitor.poll(monotonic())) or polled[-1][1])
    assert not any(stands for stands, _ in polled)
    assert monitor.loss is CloseReason.CONNECTION_REFUSED
    monitor.close()


def test_a_loss_after_which_no_attempt_is_reported_is_one_when_patience_is_over(make_socket, monkeypatch):
    monitor = ConnectionMonitor(make_socket(zmq.DEALER), PATIENCE)
    reports = [[(int(zmq.EVENT_DISCONNECTED), 0)], []]
    monkeypatch.setattr(monitor, "read", lambda: iter(reports.pop(0) if reports else ()))
    assert monitor.poll(monotonic()) == (False, False)
    assert monitor.loss is CloseReason.CONNECTION_CLOSED
    began = monotonic()
    wait_until(lambda: monitor.poll(monotonic()) == (False, True))
    assert monotonic() - began >= 0.9 * PATIENCE
    monitor.close()


def test_a_census_learns_of_the_peers_of_a_bound_socket(make_socket):
    router = make_socket(zmq.ROUTER)
    census = PeerCensus(5.0)
    monitor = PeerMonitor(router, census)
    router.bind("tcp://127.0.0.1:*")
    dealer = make_socket(zmq.DEALER)
    dealer.connect(router.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())

    def polled():
        monitor.poll(monotonic())
        return len(census), census.accepted, census.handshakes

    wait_until(lambda: polled() == (1, 1, 1))
    dealer.close(0)
    wait_until(lambda: polled() == (0, 1, 1))
    monitor.close()


def test_a_monitor_may_outlive_what_it_watches(make_socket):
    router, _ = bound(make_socket)
    monitor = Monitor(router, LISTENER_CLOSED)
    router.close(0)
    events = []
    wait_until(lambda: events.extend(monitor.read()) or events)
    assert [event for event, _ in events] == [LISTENER_CLOSED]
    monitor.close()


def test_a_closed_monitor_reports_nothing(make_socket):
    router, _ = bound(make_socket)
    monitor = Monitor(router, LISTENER_CLOSED)
    monitor.close()
    assert list(monitor.read()) == []
