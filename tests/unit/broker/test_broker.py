"""Brokers as users hold them: endpoints, options, stopping."""

import contextlib
import dataclasses
import inspect
import json
import math
import socket
import threading
from time import monotonic

import gevent
import pytest
import zmq
import zmq.green
from gevent.event import Event
from peers import Peer
from waiting import wait_until

import gmdp.broker.broker
from gmdp import AsyncClient, BindError, Broker, BrokerOptions, Client, ConfigurationError, NotAllowed, State, Worker
from gmdp.io.link import Link
from gmdp.io.owner import Owner


def echo(request):
    return request.body


# Endpoints


def test_several_endpoints_serve_together(tmp_path):
    endpoints = ["tcp://127.0.0.1:*", f"ipc://{tmp_path}/broker", f"inproc://{tmp_path}", "tcp://127.0.0.1:*"]
    with Broker(endpoints) as broker:
        assert len(set(broker.endpoints)) == 4
        with Worker(broker.endpoints[0], "echo", echo):
            for endpoint in broker.endpoints:
                with Client(endpoint) as client:
                    assert client.request("echo", endpoint.encode()) == [endpoint.encode()]


def test_an_ipv6_endpoint():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with Broker("tcp://[::1]:*") as broker, Worker(broker.endpoint, "echo", echo), Client(broker.endpoint) as client:
        assert client.request("echo", b"x") == [b"x"]


def test_a_context_of_the_embedding_application():
    context = zmq.green.Context()
    worker = Worker("inproc://mine", "echo", echo, context=context)
    client = Client("inproc://mine", context=context)
    with Broker("inproc://mine", context=context), worker, client:
        assert client.request("echo", b"x") == [b"x"]
    context.term()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, gevent.Timeout, MemoryError])
def test_G9_whatever_ends_a_start_frees_the_port(unused_endpoint, monkeypatch, nothing_left, raised):
    bind = gmdp.broker.broker.bind
    broker = Broker(unused_endpoint)

    def fail(*args):
        bind(*args)
        raise raised

    with monkeypatch.context() as patched:
        patched.setattr("gmdp.broker.broker.bind", fail)
        with pytest.raises(raised):
            broker.start()
    assert broker.closed

    def starts():
        with contextlib.suppress(BindError):  # ZeroMQ closes sockets in the background
            broker.start()
        return broker.started

    wait_until(starts)
    broker.stop()
    nothing_left()


@pytest.mark.parametrize("why", ["inproc", "no descriptors are left"])
def test_a_broker_that_has_nothing_to_wait_for_closes_at_once(monkeypatch, tmp_path, why):
    monkeypatch.setattr(Link, "patience", 600.0)
    monkeypatch.setattr(Owner, "safety_interval", 600.0)
    if why != "inproc":
        monkeypatch.setattr(Link, "linger", lambda link, *args: link.close())
    with Broker(f"inproc://{tmp_path}" if why == "inproc" else "tcp://127.0.0.1:*") as broker:
        with gevent.Timeout(30):
            broker.close()
        assert broker.closed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bind": "tcp:127.0.0.1:1"}, "must begin with tcp://"),
        ({"bind": []}, "at least one"),
        ({"hearbeat_interval": 1}, "did you mean 'heartbeat_interval'"),
        ({"heartbeat_interval": 0}, "greater than 0"),
        ({"liveness": 2}, "at least 3"),
        ({"attempts": 0}, "at least 1"),
        ({"max_in_flight": 0}, "at least 1"),
        ({"attempts": True}, "whole number"),
        ({"request_ttl": "1"}, "must be a number"),
        ({"max_queue": 0.5}, "whole number"),
        ({"hwm": 0}, "at least 1"),
        ({"services": {"x": {"atempts": 1}}}, "did you mean 'attempts'"),
        ({"services": {"x": 1}}, "table of options"),
        ({"services": {"x": {"attempts": 0}}}, "at least 1"),
        ({"services": [1]}, "table of patterns"),
        ({"services": {"\udc80": {"attempts": 1}}}, "character 1 is a surrogate"),
        ({"request_ttl": math.inf}, "at most 1e.09, not inf"),
        ({"dead_letter": "mmi.dead"}, "begins with mmi."),
        ({"dead_letter": "\udc80"}, "is a surrogate"),
        ({"bind": "tcp://127.0.0.1:\u0665\u0665\u0665"}, "must look like tcp://HOST:PORT"),
        ({"access": [{"user": "\udc80", "call": "*"}]}, "is a surrogate"),
        ({"access": [{"user": "*", "call": "\udc80"}]}, "is a surrogate"),
    ],
)
def test_B10_G21_a_wrong_option_is_an_error_at_once(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Broker(**arguments)


def test_every_option_is_a_keyword_with_its_default_and_reaches_the_broker():
    keywords = inspect.signature(Broker).parameters
    values = {"services": {"echo": {"attempts": 2}}}
    for option in dataclasses.fields(BrokerOptions):
        if option.name != "services":
            assert keywords[option.name].default == option.default
            values[option.name] = not option.default if option.type == "bool" else option.default + 8
    broker = Broker("tcp://127.0.0.1:*", **values)
    assert dataclasses.asdict(broker.options) == values


def test_B2_a_graceful_stop_finishes_running_work_and_takes_no_new(broker):
    hold = Event()
    worker = Worker(broker.endpoint, "held", lambda r: hold.wait() and r.body, reconnect_interval=60)
    with worker, AsyncClient(broker.endpoint) as client, AsyncClient(broker.endpoint) as other:
        running = client.submit("held", b"running")
        wait_until(lambda: broker.statistics().assigned)
        queued = Peer(zmq.DEALER, broker.endpoint)  # a strict client cannot be told to go elsewhere
        queued.send(b"MDPC02", b"\x01", b"held", b"queued")
        waiting = client.submit("nobody", b"")
        wait_until(lambda: broker.statistics().queued == 2)
        other.request("mmi.broker", b"")
        stopper = gevent.spawn(broker.stop)
        wait_until(lambda: broker.state is State.DRAINING)
        queued.send(b"MDPC02", b"\x01", b"held", b"new")
        wait_until(lambda: broker.statistics().drops == {"draining": 1})
        queued.send(b"MDPC02", b"\x01", b"mmi.broker", b"")
        assert json.loads(queued.recv()[4])["state"] == "draining"
        hold.set()
        assert queued.recv()[3:] == [b"queued"]
        queued.close()
        stopper.get()
        assert running.get() == [b"running"]
        assert not waiting.ready()  # it waits for the broker's return
        now = broker.statistics()
        assert (now.replies, dict(now.ended), dict(now.lost_workers)) == (2, {"stopped": 1}, {"stopped": 1})
        wait_until(lambda: worker.state is State.CONNECTING)  # it was told DISCONNECT


class SlowReader(Peer):
    """A client that has room for little, and whose ZMTP heartbeats go on while it does not read."""

    def prepare(self, socket):
        socket.set(zmq.RCVHWM, 10)
        socket.set(zmq.RCVBUF, 4096)
        socket.set(zmq.HEARTBEAT_IVL, 20)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 60_000)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_L7_a_graceful_stop_waits_until_slow_readers_have_got_their_answers(tmp_path, transport):
    """Some answers wait in the broker's backlog, some in ZeroMQ, some in the system, some at the reader."""
    count, answer = 1_000, b"a" * 8_000
    endpoint = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{tmp_path}/it"}[transport]
    with Broker(endpoint, hwm=200) as broker, Worker(broker.endpoint, "it", lambda r: answer, concurrency=50) as worker:
        with SlowReader(zmq.DEALER, broker.endpoint) as reader:
            reader.send_all([[b"MDPC02", b"\x01", b"it", b""]] * count)
            wait_until(lambda: broker.statistics().replies == count)
            assert broker.statistics().backlogs == 1
            stopper = gevent.spawn(broker.stop, 60)
            wait_until(lambda: broker.state is State.DRAINING)
            owner = broker._engine.owner
            answers = []
            for _ in range(count - 50):
                assert not stopper.ready()
                answers.append(reader.recv())
            # Now slowly, until ZeroMQ has given everything to the system, where the reader has yet to fetch it.
            while not stopper.ready() and not any(lingering._sent for lingering in owner._lingering):
                answers.append(reader.recv())
                gevent.sleep(0.02)
            assert not stopper.ready()
            answers += [reader.recv() for _ in range(count - len(answers))]
            assert answers == [[b"MDPC02", b"\x03", b"it", answer]] * count
            stopper.get(timeout=5)
        assert not broker.statistics().drops
        worker.close()


def test_L7_peers_that_have_everything_are_not_waited_for(broker):
    """A process that is stopped does not close its end; here it is a socket that nobody reads."""
    with socket.create_connection(("127.0.0.1", int(broker.endpoint.rpartition(":")[2]))):
        wait_until(lambda: broker.statistics().connections == 1)
        began = monotonic()
        broker.stop(60)
        assert monotonic() - began < 5


def test_L7_closing_does_not_wait_for_slow_readers_even_during_a_stop(broker):
    with Worker(broker.endpoint, "it", lambda r: b"a" * 2_000), SlowReader(zmq.DEALER, broker.endpoint) as reader:
        reader.send_all([[b"MDPC02", b"\x01", b"it", b""]] * 300)
        wait_until(lambda: broker.statistics().replies == 300)
        stopper = gevent.spawn(broker.stop, 60)
        wait_until(lambda: broker._engine.link.closed)
        assert not stopper.ready()
        began = monotonic()
        broker.close()
        stopper.get(timeout=1)
        assert monotonic() - began < 1


def test_B2_past_the_timeout_what_runs_is_let_go_and_counted(broker):
    hold = Event()
    with Worker(broker.endpoint, "held", lambda r: hold.wait() and b""), AsyncClient(broker.endpoint) as client:
        client.submit("held", b"")
        wait_until(lambda: broker.statistics().assigned)
        broker.stop(timeout=0.01)
        assert broker.closed
        assert broker.statistics().ended == {"stopped": 1}
        hold.set()


# Security


def test_whether_a_broker_is_secured_shows():
    assert not Broker().secured
    assert Broker(allow="127.0.0.1").secured
    assert Broker(plain_users=lambda name, password: True).secured


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"context": zmq.green.Context.instance()}, "context"),
        ({"bind": ["tcp://127.0.0.1:*", "inproc://it"]}, "inproc"),
        ({"curve_clients": "*"}, "curve_key"),
        ({"audit": 3}, "audit"),
        ({"access": 3}, "access"),
    ],
)
def test_a_wrong_option_of_a_secured_broker_is_an_error_at_once(arguments, option):
    with pytest.raises(ConfigurationError, match=option):
        Broker(**{"bind": "tcp://127.0.0.1:*", "allow": "127.0.0.1", **arguments})


def test_a_policy_that_has_changed_its_mind_is_asked_again():
    allowed = ["it"]
    broker = Broker("tcp://127.0.0.1:*", access=lambda user, action, service: service.decode() in allowed)
    broker.reconsider()  # no effect: it is not started
    with broker, Worker(broker.endpoint, "it", echo) as worker, Client(broker.endpoint, timeout=20) as client:
        assert client.request("it", b"x") == [b"x"]
        allowed.clear()
        assert client.request("it", b"x") == [b"x"]  # the answer is remembered
        broker.reconsider()
        with pytest.raises(NotAllowed):
            client.request("it", b"x")
        wait_until(lambda: worker.statistics().registered == 0)
        allowed.append("it")
        broker.reconsider()
        wait_until(lambda: worker.statistics().registered == 1)
        assert client.request("it", b"x") == [b"x"]


def test_a_policy_is_not_asked_again_for_a_run_that_has_ended(monkeypatch):
    """Another thread asks for it: its call may come after the next start, and the end of the first owner answers it."""
    cores = []
    monkeypatch.setattr("gmdp.core.broker.core.BrokerCore.reconsider", lambda core, now: cores.append(core))
    broker = Broker("tcp://127.0.0.1:*", access=lambda user, action, service: True)
    call = broker._call_in_owner_thread

    def call_after_a_restart(*args):
        monkeypatch.setattr(broker, "_call_in_owner_thread", call)
        broker.stop()
        broker.start()
        return call(*args)

    with broker:
        broker.reconsider()
        assert cores == [broker._core]
        monkeypatch.setattr(broker, "_call_in_owner_thread", call_after_a_restart)
        broker.reconsider()
    assert len(cores) == 1


def test_the_broker_itself_may_have_work_done():
    broker, bodies = Broker("tcp://127.0.0.1:*"), []
    assert not broker.enqueue("it", b"x")
    with broker, Worker(broker.endpoint, "it", lambda request: bodies.append(request.body) or b""):
        assert broker.enqueue("it", b"x")
        assert broker.enqueue(b"it", [b"y", b"z"])
        wait_until(lambda: len(bodies) == 2)
    assert bodies == [[b"x"], [b"y", b"z"]]
    for service, body, error in (("", b"", ConfigurationError), (5, b"", TypeError), ("it", "text", TypeError)):
        with pytest.raises(error):
            broker.enqueue(service, body)


def test_G17_the_broker_has_work_done_for_another_thread(broker, thread_pool):
    """The core is changed between two passes of the owner, and never beside one."""
    injecting = []
    inject = broker._core.inject

    def watched(*arguments):
        injecting.append(threading.get_ident())
        return inject(*arguments)

    broker._core.inject = watched
    bodies = []
    with Worker(broker.endpoint, "it", lambda request: bodies.append(request.body) or b""):
        assert thread_pool(1).apply(broker.enqueue, ("it", b"x"))
        wait_until(lambda: bodies == [[b"x"]])
    assert injecting == [threading.get_ident()]
    broker.close()
    assert not thread_pool(1).apply(broker.enqueue, ("it", b"x"))
