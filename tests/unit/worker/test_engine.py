"""A worker's engine with real sockets: draining, lost brokers, blocked hubs, and what is logged."""

import logging
from time import monotonic

import gevent
import pytest
from gevent.event import Event
from peers import Relay
from waiting import wait_until

from gmdp import AsyncClient, Broker, BrokerShuttingDown, Client, HandlerFailed, State, Worker
from gmdp.core.peer.sessions import WorkerConnection
from gmdp.io.link import Link
from gmdp.io.owner import Owner


def echo(request):
    return request.body


def block(seconds):
    until = monotonic() + seconds
    while monotonic() < until:
        pass


LOGGED = {
    "handler": "seconds, while a handler ran: the worker of 'sluggish' said nothing",
    "another": "seconds: the worker of 'sluggish' said nothing",
}


@pytest.mark.parametrize("blocked_by", LOGGED)
def test_W7_a_hub_that_was_blocked_for_longer_than_an_interval_is_logged_with_the_service(
    broker, client, caplog, monkeypatch, blocked_by
):
    """The warning comes after an interval, long before the worker counts as lost."""
    monkeypatch.setattr(Owner, "safety_interval", 0.01)

    def handler(request):
        block(0.4)
        return b""

    with Worker(broker.endpoint, "sluggish", handler, heartbeat_interval=0.2) as worker:
        wait_until(lambda: worker.state is State.RUNNING)
        with caplog.at_level(logging.WARNING, "gmdp.worker"):
            if blocked_by == "handler":
                client.request("sluggish", b"")
            else:
                block(0.4)
            wait_until(lambda: LOGGED[blocked_by] in caplog.text)
    assert "the hub did not run for 0." in caplog.text
    assert (LOGGED["handler"] in caplog.text) is (blocked_by == "handler")
    assert "a silent worker gets no request, and the broker gives it up after busy_timeout" in caplog.text
    assert ("spawn=ThreadPool(N) keeps a handler that computes off the hub" in caplog.text) is (blocked_by == "handler")


def test_L1_a_handler_in_a_thread_that_blocks_the_hub_is_not_told_to_use_threads(
    broker, client, caplog, monkeypatch, thread_pool
):
    """A thread that holds the interpreter's lock stops the hub as well."""
    monkeypatch.setattr(Owner, "safety_interval", 0.01)
    hub = gevent.get_hub()

    def handler(request):
        hub.loop.run_callback_threadsafe(block, 0.4)
        block(0.6)
        return b""

    options = {"heartbeat_interval": 0.2, "spawn": thread_pool(1)}
    with Worker(broker.endpoint, "sluggish", handler, **options), caplog.at_level(logging.WARNING, "gmdp.worker"):
        client.request("sluggish", b"")
        wait_until(lambda: "the hub did not run" in caplog.text)
    assert "while it holds Python's interpreter lock" in caplog.text
    assert "ThreadPool" not in caplog.text


def test_heartbeats_do_not_wait_for_a_handler():
    hold = Event()
    with Broker("tcp://127.0.0.1:*", heartbeat_interval=0.2, busy_timeout=0.5) as broker:
        worker = Worker(broker.endpoint, "it", lambda r: hold.wait() and b"done", heartbeat_interval=0.2)
        with worker, AsyncClient(broker.endpoint) as client:
            future = client.submit("it", b"")
            wait_until(lambda: broker.statistics().assigned)
            began = monotonic()
            wait_until(lambda: monotonic() - began > 1.0)
            hold.set()
            assert future.get() == [b"done"]
            assert broker.statistics().lost_workers == {}


# Stopping


def test_W15_stop_finishes_the_running_request(broker, client):
    hold = Event()
    worker = Worker(broker.endpoint, "it", lambda request: hold.wait() and b"done")
    worker.start()
    future = client.submit("it", b"")
    wait_until(lambda: worker.statistics().busy)
    stopper = gevent.spawn(worker.stop)
    wait_until(lambda: worker.state is State.DRAINING)
    assert not worker.started
    assert not worker.closed
    hold.set()
    stopper.get()
    assert worker.closed
    assert future.get() == [b"done"]
    wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})


def test_W15_past_the_timeout_the_request_is_delivered_again(broker, client):
    hold, attempts, ended = Event(), [], []

    def stuck(request):
        attempts.append(request.attempt)
        try:
            hold.wait()
        finally:
            ended.append(1)

    worker = Worker(broker.endpoint, "it", stuck)
    worker.start()
    future = client.submit("it", b"x")
    wait_until(lambda: attempts == [1])
    worker.stop(timeout=0.01)
    assert worker.closed
    wait_until(lambda: ended)  # the handler was killed
    with Worker(broker.endpoint, "it", lambda request: b"%d" % request.attempt):
        assert future.get() == [b"2"]
    assert broker.statistics().redeliveries == 1


def test_a_handler_whose_broker_was_lost_runs_on_alone(unused_endpoint):
    """The session registers again when its handler has ended: two never run at once."""
    running, most, hold = [], [], Event()

    def handler(request):
        running.append(request)
        most.append(len(running))
        if request.body == [b"hold"]:
            hold.wait()
        running.remove(request)
        return b"done"

    broker = Broker(unused_endpoint)
    broker.start()
    with Worker(unused_endpoint, "it", handler, reconnect_interval=0.01) as worker:
        with AsyncClient(unused_endpoint) as client:
            future = client.submit("it", b"hold")
            wait_until(lambda: running)
            broker.close()
            with pytest.raises(BrokerShuttingDown):
                future.get()
            broker.start()
            second = client.submit("it", b"go")
            wait_until(lambda: broker.statistics().queued == 1)
            assert worker.statistics().registered == 0
            hold.set()
            assert second.get() == [b"done"]
        assert worker.statistics().late_replies == 1
    assert max(most) == 1
    broker.close()


def test_draining_sends_the_end_of_an_answer_that_found_no_room(broker, client, monkeypatch):
    """Messages for which the socket had no room are sent before it is closed."""
    full, refused = [], []
    real = Link.send

    def send(link, frames):
        if full and isinstance(link.connection, WorkerConnection):
            refused.append(frames)
            return "full"
        return real(link, frames)

    monkeypatch.setattr(Link, "send", send)

    def handler(request):
        yield b"1"
        full.append(True)
        yield b"2"
        return b"the end"

    worker = Worker(broker.endpoint, "it", handler)
    worker.start()
    future = client.submit("it", b"")
    wait_until(lambda: refused and worker.statistics().replies == 1)
    stopper = gevent.spawn(worker.stop)
    wait_until(lambda: worker.state is State.DRAINING)
    gevent.sleep(0)
    assert not worker.closed
    full.clear()
    assert future.get(timeout=60) == [b"1", b"2", b"the end"]
    stopper.get(timeout=60)
    wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})


# A broker that is not there, or does not want it


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_broker_that_cannot_be_reached_is_logged_once_for_as_long_as_that_lasts(caplog, unused_endpoint):
    with Worker(unused_endpoint, "alone", echo, reconnect_interval=0.01, heartbeat_interval=0.1) as worker:
        for _ in range(2):
            wait_until(lambda: warnings(caplog))
            for _ in range(3):
                epoch = worker._core._epoch
                wait_until(lambda epoch=epoch: worker._core._epoch > epoch)
            [told] = warnings(caplog)
            assert "worker 'alone': no broker can be reached" in told
            assert unused_endpoint in told
            assert "connection refused" in told
            with Broker(unused_endpoint):
                wait_until(lambda: worker.state is State.RUNNING)
                caplog.clear()


def test_one_endpoint_of_several_that_cannot_be_reached_is_not_logged(broker, caplog, unused_endpoint):
    with Worker([unused_endpoint, broker.endpoint], "moved", echo) as worker:
        wait_until(lambda: worker.state is State.RUNNING)
    assert warnings(caplog) == []


def test_a_worker_that_the_broker_does_not_keep_logs_it_once(caplog):
    with Broker("tcp://127.0.0.1:*", max_workers=1) as broker, Worker(broker.endpoint, "first", echo):
        wait_until(lambda: broker.statistics().workers == 1)
        with Worker(broker.endpoint, "second", echo, concurrency=2, reconnect_interval=0.01) as second:
            wait_until(lambda: second._engine._brief_registrations > 5)
            [told] = [warning for warning in warnings(caplog) if "does not keep" in warning]
            assert broker.endpoint in told
            assert "'second'" in told


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_that_is_too_large_is_logged_and_counted(caplog, streamed):
    def handler(request):
        return iter([b"x" * 5000, b"end"]) if streamed else b"x" * 5000

    with Broker("tcp://127.0.0.1:*", max_frame_size=4000) as broker, Client(broker.endpoint) as client:
        with Worker(broker.endpoint, "large", handler) as worker:
            with pytest.raises(HandlerFailed):
                client.request("large", b"")
            assert worker.statistics().errors == 1
    [warning] = warnings(caplog)
    assert "'large' is larger than the broker allows" in warning


def test_a_handler_whose_broker_has_gone_may_finish(unused_endpoint):
    """stop() gives that handler its time, and no more."""
    running, go_on, ended = Event(), Event(), []

    def handler(request):
        running.set()
        go_on.wait()
        ended.append(request.body)
        return b""

    with Broker(unused_endpoint) as broker, AsyncClient(unused_endpoint) as client:
        workers = [Worker(unused_endpoint, "held", handler, heartbeat_interval=0.1) for _ in range(2)]
        for worker in workers:
            worker.start()
        wait_until(lambda: broker.statistics().workers == 2)
        for body in (b"1", b"2"):
            running.clear()
            client.submit("held", body)
            running.wait()
        broker.close()
        first, second = workers
        wait_until(lambda: first.state is second.state is State.CONNECTING)
        second.stop(timeout=0.05)
        assert ended == []
        stopping = gevent.spawn(first.stop)
        wait_until(lambda: first.state is State.DRAINING)
        gevent.sleep(0)
        assert not stopping.ready()
        go_on.set()
        stopping.get()
    assert len(ended) == 1


def test_L7_a_stopped_workers_last_answer_arrives_over_a_slow_link():
    """ZMTP heartbeats come meanwhile: on a socket that was closed, they make the system drop what it has."""
    answer, runs = bytes(3_000_000), []
    with (
        Broker("tcp://127.0.0.1:*", heartbeat_interval=0.1, liveness=100) as broker,
        AsyncClient(broker.endpoint) as client,
        Relay(broker.endpoint) as relay,
    ):

        def handler(request):
            runs.append(request.attempt)
            relay.hold()
            return answer

        worker = Worker(relay.endpoint, "it", handler)
        worker.start()
        future = client.submit("it", b"")
        wait_until(lambda: worker.statistics().replies == 1)
        stopper = gevent.spawn(worker.stop, 60)
        wait_until(lambda: worker.statistics().sockets == 0)
        pings = relay.passed_back
        wait_until(lambda: relay.passed_back > pings)
        assert not stopper.ready()
        relay.release()
        assert future.get(timeout=60) == [answer]
        stopper.get(timeout=5)
        assert runs == [1]
        wait_until(lambda: broker.statistics().lost_workers == {"disconnect": 1})


def test_L7_an_idle_worker_stops_at_once(broker):
    worker = Worker(broker.endpoint, "it", echo)
    worker.start()
    wait_until(lambda: worker.state is State.RUNNING)
    began = monotonic()
    worker.stop(60)
    assert monotonic() - began < 0.5
