"""Workers with real sockets: options, stopping, connecting."""

import threading

import pytest
from gevent.pool import Pool
from gevent.threadpool import ThreadPool
from waiting import wait_until

from gmdp import AsyncClient, Broker, Client, ConfigurationError, RequestTimeout, State, Worker


def echo(request):
    return request.body


@pytest.mark.parametrize("spawn", [None, "thread"])
def test_stop_from_ones_own_handler_returns_at_once(broker, client, thread_pool, spawn):
    def handler(request):
        worker.stop()
        return b"state %s" % worker.state.value.encode()

    pool = thread_pool(1) if spawn else None
    worker = Worker(broker.endpoint, "it", handler, spawn=pool)
    worker.start()
    assert client.request("it", b"") == [b"state draining"]
    wait_until(lambda: worker.closed)


# How many requests at once


@pytest.mark.parametrize(
    ("spawn", "concurrency"),
    [
        (None, 1),
        ("raw", 1),
        (3, 3),
        (Pool(4), 4),
        (Pool(), 1),
        (ThreadPool(5), 5),
        (Pool(4).spawn, 1),
    ],
    ids=["None", "raw", "a size", "Pool", "Pool without a bound", "ThreadPool", "a function"],
)
def test_L5_concurrency_is_the_size_of_the_pool_where_it_is_not_given(spawn, concurrency):
    assert Worker("tcp://127.0.0.1:1", "it", echo, spawn=spawn).concurrency == concurrency
    assert Worker("tcp://127.0.0.1:1", "it", echo, 2, spawn).concurrency == 2


def test_L5_as_many_handlers_run_at_once_as_the_pool_has_threads(broker, thread_pool):
    barrier = threading.Barrier(3)

    def meet(request):
        return b"%d" % barrier.wait(30)

    with (
        Worker(broker.endpoint, "it", meet, spawn=thread_pool(3)),
        AsyncClient(broker.endpoint, timeout=60) as client,
    ):
        assert sorted(part[0] for part in client.map("it", [b""] * 3)) == [b"0", b"1", b"2"]


# What a handler may be


def test_a_worker_without_an_endpoint_finds_its_broker_in_the_environment(broker, client, monkeypatch):
    monkeypatch.setenv("GMDP_BROKER", broker.endpoint)
    with Worker(service="it", handler=echo), Client() as another:
        assert another.request("it", b"x") == [b"x"]


@pytest.mark.parametrize(("keywords", "missing"), [({"service": "it"}, "handler"), ({"handler": echo}, "service")])
def test_a_worker_needs_a_service_and_a_handler(keywords, missing):
    with pytest.raises(TypeError, match=f"a Worker needs a {missing}"):
        Worker("tcp://127.0.0.1:9999", **keywords)


# Connecting


def test_a_worker_started_before_its_broker_registers_when_there_is_one(unused_endpoint):
    with Worker(unused_endpoint, "it", echo, reconnect_interval=0.01) as worker:
        changes = worker.subscribe()
        assert worker.state is State.CONNECTING
        with Broker(unused_endpoint), Client(unused_endpoint) as client:
            assert client.request("it", b"x") == [b"x"]
            assert changes.get().new is State.RUNNING


@pytest.mark.parametrize("transport", ["tcp", "ipc", "inproc"])
def test_B1_a_worker_recovers_when_its_broker_is_started_again(unused_endpoint, tmp_path, transport):
    endpoint = {"tcp": unused_endpoint, "ipc": f"ipc://{tmp_path}/b", "inproc": f"inproc://{tmp_path}"}[transport]
    broker = Broker(endpoint, heartbeat_interval=0.1)
    broker.start()
    with Worker(endpoint, "it", echo, concurrency=2, reconnect_interval=0.01, heartbeat_interval=0.1) as worker:
        wait_until(lambda: worker.statistics().registered == 2)
        for _ in range(3):
            broker.close()
            wait_until(lambda: worker.state is State.CONNECTING)
            broker.start()
            wait_until(lambda: worker.statistics().registered == 2)
            with Client(endpoint) as client:
                assert client.request("it", b"x") == [b"x"]
        assert worker.statistics().reconnects == 3
    broker.close()


def test_several_endpoints_the_first_that_answers_then_the_next(unused_endpoint):
    first = Broker(unused_endpoint)
    first.start()
    with Broker("tcp://127.0.0.1:*") as second:
        endpoints = [first.endpoint, second.endpoint]
        with Worker(endpoints, "it", echo, reconnect_interval=0.01), Client(endpoints) as client:
            assert client.request("it", b"1") == [b"1"]
            assert first.statistics().replies == 1
            first.close()
            assert client.request("it", b"2", retries=1, timeout=60) == [b"2"]
            assert second.statistics().replies == 1


# Wrong arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "nowhere"}, "must begin with tcp://"),
        ({"endpoint": "tcp://127.0.0.1:*"}, "wildcard"),
        ({"endpoint": []}, "at least one endpoint"),
        ({"endpoint": 5}, "must be a str"),
        ({"service": ""}, "1 to 255 bytes"),
        ({"service": b"x" * 256}, "1 to 255 bytes"),
        ({"handler": 3}, "must be callable"),
        ({"concurrency": 0}, "at least 1"),
        ({"concurrency": 1.5}, "whole number"),
        ({"version": "0.3"}, '"0.1" or "0.2"'),
        ({"liveness": 2}, "at least 3"),
        ({"heartbeat_interval": 0}, "greater than 0"),
        ({"heartbeat_interval": float("nan")}, "greater than 0"),
        ({"reconnect_interval": -1}, "greater than 0"),
        ({"spawn": 0}, "spawn must be"),
        ({"spawn": "fork"}, "spawn must be"),
        ({"enforce_deadline": "yes"}, "enforce_deadline must be True or"),
        ({"reveal_errors": 0}, "reveal_errors must be True or False"),
        ({"context": 3}, "zmq.green.Context"),
    ],
)
def test_a_wrong_argument_is_an_error_at_once(change, message):
    arguments = {"endpoint": "tcp://127.0.0.1:5555", "service": "it", "handler": echo, **change}
    with pytest.raises(ConfigurationError, match=message):
        Worker(**arguments)


def test_a_request_for_a_service_without_workers_waits_and_times_out(client):
    with pytest.raises(RequestTimeout) as caught:
        client.request("nobody", b"", timeout=0.01)
    assert caught.value.service == b"nobody"
    assert caught.value.attempt == 1
    assert caught.value.elapsed >= 0.01


@pytest.mark.parametrize("service", ["mmi.service", b"mmi.x"])
def test_a_service_of_the_broker_s_own_is_refused(service):
    with pytest.raises(ConfigurationError, match="begins with mmi"):
        Worker("tcp://127.0.0.1:1", service, echo)
