"""The one socket to which all monitors of a hub report."""

import os
import resource
import socket as bare

import gevent
import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, RequestTimeout, Worker
from gmdp.io import contexts, reports
from gmdp.io.monitor import Monitor

ACCEPTED, DISCONNECTED = int(zmq.EVENT_ACCEPTED), int(zmq.EVENT_DISCONNECTED)


@pytest.fixture
def context():
    context = contexts.new_context()
    yield context
    assert not any(key[2] is context for key in reports._sockets)
    contexts.terminate(context, 10)
    assert context.closed


@pytest.fixture
def sockets(context):
    """A function: a ROUTER that is bound, and its endpoint."""
    opened = []

    def bound():
        socket = contexts.open_socket(context, zmq.ROUTER)
        socket.set(zmq.LINGER, 0)
        opened.append(socket)
        socket.bind("tcp://127.0.0.1:*")
        return socket, socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()

    yield bound
    for socket in opened:
        socket.close(0)


def visit(endpoint):
    """Connect once, wait for the broker's greeting, and leave."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    with bare.create_connection((host, int(port))) as visitor:
        visitor.recv(10)


def test_each_monitor_gets_its_own_reports(context, sockets):
    watched = [sockets() for _ in range(5)]
    monitors = [Monitor(socket, ACCEPTED) for socket, _ in watched]
    for number, (_, endpoint) in enumerate(watched):
        for _ in range(number):
            visit(endpoint)
    counts = [0] * 5

    def counted():
        for number, monitor in enumerate(monitors):
            counts[number] += len(monitor.read())
        return counts == [0, 1, 2, 3, 4]

    wait_until(counted)
    for monitor in monitors:
        monitor.close()
    assert [monitor.read() for monitor in monitors] == [[]] * 5


def test_who_has_news_is_called_in_the_hub_even_if_another_has_read_them(context, sockets):
    (first, _), (second, endpoint) = sockets(), sockets()
    hubs = []
    reader = Monitor(first, ACCEPTED)
    monitor = Monitor(second, ACCEPTED, lambda: hubs.append((gevent.getcurrent(), monitor.read())))
    (socket,) = (socket for key, socket in reports._sockets.items() if key[2] is context)
    socket._watcher.stop()  # nothing is read but by `reader`
    visit(endpoint)
    wait_until(lambda: reader.read() or hubs)
    [(hub, [(event, _)])] = hubs
    assert (hub, event) == (gevent.get_hub(), ACCEPTED)
    reader.close()
    monitor.close()


def test_a_monitor_that_is_closed_by_anothers_report_is_not_called(context, sockets):
    (first, one), (second, two) = sockets(), sockets()
    called = []

    def close_both(name):
        called.append(name)
        for monitor in monitors:
            monitor.close()

    monitors = [Monitor(first, ACCEPTED, lambda: close_both(1)), Monitor(second, ACCEPTED, lambda: close_both(2))]
    (socket,) = (socket for key, socket in reports._sockets.items() if key[2] is context)
    visit(one)
    visit(two)
    wait_until(lambda: len(called) == 1)
    assert socket._news == {}


def test_a_report_socket_is_closed_with_its_last_monitor_and_opened_again(context, sockets):
    (first, _), (second, endpoint) = sockets(), sockets()
    one, other = Monitor(first, ACCEPTED), Monitor(second, ACCEPTED)
    one.close()
    assert any(key[2] is context for key in reports._sockets)
    other.close()
    assert not any(key[2] is context for key in reports._sockets)
    third = Monitor(second, ACCEPTED)
    one.close()  # once more: no harm to the new socket
    visit(endpoint)
    wait_until(third.read)
    third.close()


def test_in_a_fork_that_python_did_not_see_the_socket_is_left_alone(context, sockets, monkeypatch):
    watched, endpoint = sockets()
    monitor = Monitor(watched, ACCEPTED)
    ((key, socket),) = ((key, socket) for key, socket in reports._sockets.items() if key[2] is context)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    visit(endpoint)
    wait_until(lambda: key not in reports._sockets)
    assert reports._inherited.pop() is socket._socket
    assert not socket._watcher.active
    monitor.close()
    socket._socket.close(0)


def test_a_monitor_that_cannot_be_opened_leaves_nothing(context, sockets, monkeypatch):
    watched, _ = sockets()

    def fails(*_):
        raise zmq.ZMQError(zmq.ENOTSUP)

    monkeypatch.setattr(type(watched), "monitor", fails)
    with pytest.raises(zmq.ZMQError):
        Monitor(watched, ACCEPTED)
    assert not any(key[2] is context for key in reports._sockets)


def test_G9_a_connection_takes_two_sockets_of_its_context(broker):
    """Of 25 sockets one is for the reports; three were taken by each connection."""
    context = zmq.green.Context()
    context.set(zmq.MAX_SOCKETS, 25)
    clients = [AsyncClient(broker.endpoint, context=context, timeout=30) for _ in range(13)]
    calls = [client.submit("mmi.service", b"x") for client in clients[:-1]]
    assert [call.get() for call in calls] == [[b"404"]] * 12
    with pytest.raises(RequestTimeout, match="MAX_SOCKETS"):
        clients[-1].request("mmi.service", b"x", timeout=0.2)
    for client in clients:
        client.close()
    contexts.terminate(context, 10)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("kind", ["clients", "workers"])
def test_G9_a_process_has_four_hundred_clients_or_workers(kind, many_descriptors):
    with Broker("tcp://127.0.0.1:*", max_workers=1000) as broker:
        if kind == "clients":
            peers = [AsyncClient(broker.endpoint, timeout=60) for _ in range(400)]
            calls = [peer.submit("mmi.service", b"x") for peer in peers]
            assert [call.get() for call in calls] == [[b"404"]] * 400
        else:
            peers = [Worker(broker.endpoint, f"s{number}", lambda r: r.body) for number in range(400)]
            for peer in peers:
                peer.start()
            wait_until(lambda: broker.statistics().workers == 400)
            with Client(broker.endpoint, timeout=60) as client:
                assert client.request("s399", b"x") == [b"x"]
        for peer in peers:
            peer.close()


@pytest.fixture
def many_descriptors():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 4000:
        pytest.skip("4,000 descriptors are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
