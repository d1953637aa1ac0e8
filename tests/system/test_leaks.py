"""Objects that were stopped leave nothing behind."""

import gevent
import pytest
import zmq
import zmq.green
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, RequestTimeout, Worker

#: The row asks for 1,000; the quick suite does a tenth of them.
CYCLES = [100, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.deadline(1200)])]


def echo(request):
    return request.body


def cycle(endpoint, timeouts=True):
    """Do everything once: calls, streams, timeouts, a caller that is killed, a worker that starts again."""
    with Broker(endpoint) as broker, Worker(broker.endpoint, "echo", echo, concurrency=2) as worker:
        with AsyncClient(broker.endpoint) as client:
            assert client.request("echo", b"x") == [b"x"]
            assert list(client.stream("echo", b"y")) == [[b"y"]]
            assert list(client.map("echo", [b"1", b"2", b"3"])) == [[b"1"], [b"2"], [b"3"]]
            if timeouts:
                with pytest.raises(RequestTimeout):
                    client.request("nobody", b"", timeout=0.001)
            caller = gevent.spawn(client.request, "nobody", b"")
            gevent.sleep(0)
            caller.kill()
            worker.stop()
            worker.start()


@pytest.mark.parametrize("cycles", CYCLES)
@pytest.mark.parametrize("transport", ["tcp", "inproc"])
def test_P7_start_and_stop_many_times_leaves_nothing(transport, cycles, tmp_path, request):
    """No greenlet, descriptor or thread."""
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://{tmp_path}"
    cycle(endpoint)  # some things are made only once: the context's threads, the hub's descriptors
    nothing_left = request.getfixturevalue("nothing_left")
    for _ in range(cycles):
        cycle(endpoint)
    nothing_left()


def test_objects_that_are_never_started_hold_nothing(nothing_left):
    for _ in range(100):
        Broker("tcp://127.0.0.1:*")
        Worker("tcp://127.0.0.1:1", "echo", echo)
        AsyncClient("tcp://127.0.0.1:1")
    nothing_left()


def test_a_worker_and_a_client_without_a_broker_leave_nothing(nothing_left, unused_endpoint):
    for _ in range(20):
        with Worker(unused_endpoint, "echo", echo, reconnect_interval=0.001), AsyncClient(unused_endpoint) as client:
            with pytest.raises(RequestTimeout):
                client.request("echo", b"", timeout=0.02)
    nothing_left()


def test_W16_many_register_and_leave(nothing_left):
    with Broker("tcp://127.0.0.1:*") as broker:
        with Worker(broker.endpoint, "echo", echo, concurrency=8) as worker:
            for _ in range(100):
                worker.stop()
                worker.start()
        assert broker.statistics().workers <= 8
    nothing_left()
    assert broker.statistics().workers == 0
    assert len(broker.statistics().services) == 0


def test_peers_that_leave_while_a_broker_closes_do_not_stop_their_context():
    """The monitor is stopped before the end: with events that nobody reads, ZeroMQ's thread would wait for ever."""
    other_context = zmq.green.Context()
    try:
        for _ in range(60):
            with Broker("tcp://127.0.0.1:*") as broker:
                peers = [other_context.socket(zmq.DEALER) for _ in range(20)]
                for socket in peers:
                    socket.connect(broker.endpoint)
                wait_until(lambda broker=broker: broker.statistics().handshakes == 20)
                closing = gevent.spawn(broker.stop)
                for socket in peers:
                    socket.close(0)
                closing.get()
        with Broker("tcp://127.0.0.1:*") as broker, Client(broker.endpoint, timeout=30) as client:
            assert client.request("mmi.broker", b"")[0] == b"200"
    finally:
        other_context.term()
