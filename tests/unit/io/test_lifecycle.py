"""Starting, stopping and serving, as the supervisors of gevent's servers know it."""

import contextlib
import gc
import logging
import subprocess
import sys
import weakref

import gevent
import pytest
import zmq
import zmq.green
from gevent.event import Event
from waiting import wait_until

from gmdp import AsyncClient, BindError, Broker, Client, ConfigurationError, OwnerDied, State, StateError, Worker
from gmdp.io import logs


def echo(request):
    return request.body


def test_the_context_must_be_green():
    with pytest.raises(ConfigurationError, match=r"zmq\.green\.Context"):
        Broker(context=zmq.Context.instance())


def test_starting_twice_changes_nothing(broker):
    endpoint = broker.endpoint
    broker.start()
    assert broker.endpoint == endpoint


def test_the_greenlet_that_has_started_something_is_not_kept():
    with contextlib.closing(Broker("tcp://127.0.0.1:*")) as broker:
        starter = gevent.spawn(broker.start)
        starter.get()
        kept = weakref.ref(starter)
        del starter
        gevent.sleep(0)  # the hub lets go of it, too
        gc.collect()
        assert kept() is None


def test_starting_while_stopping_is_an_error(broker):
    hold = Event()
    with Worker(broker.endpoint, "held", lambda r: hold.wait() and b""), AsyncClient(broker.endpoint) as client:
        future = client.submit("held", b"")
        wait_until(lambda: broker.statistics().assigned)
        stopper = gevent.spawn(broker.stop)
        wait_until(lambda: broker.state is State.DRAINING)
        with pytest.raises(StateError, match="still stopping"):
            broker.start()
        hold.set()
        future.get()
        stopper.get()
    broker.start()


def test_close_is_abrupt(broker):
    hold = Event()
    with Worker(broker.endpoint, "held", lambda r: hold.wait() and b""), AsyncClient(broker.endpoint) as client:
        client.submit("held", b"")
        wait_until(lambda: broker.statistics().assigned)
        broker.close()
        assert broker.closed
        hold.set()


def test_serve_forever_starts_waits_and_ends_with_stop(unused_endpoint):
    broker = Broker(unused_endpoint)
    server = gevent.spawn(broker.serve_forever)
    wait_until(lambda: broker.started)
    assert not server.ready()
    broker.stop()
    server.get(timeout=30)


def test_serve_forever_stops_what_it_serves_when_it_is_interrupted(broker):
    server = gevent.spawn(broker.serve_forever, stop_timeout=0)
    gevent.sleep(0)
    server.kill()
    assert broker.closed


def test_a_supervisor_that_knows_gevents_servers_only(broker):
    """start, stop, serve_forever, started, closed and stop_timeout are as StreamServer's."""
    from gevent.server import StreamServer

    things = [StreamServer(("127.0.0.1", 0), lambda *_: None), Worker(broker.endpoint, "echo", echo)]
    for thing in things:
        thing.start()
    assert all(thing.started and not thing.closed for thing in things)
    for thing in things:
        thing.stop(timeout=thing.stop_timeout)
    assert all(thing.closed and not thing.started for thing in things)


def test_subscribers_get_every_change_in_order_with_its_reason():
    broker = Broker("tcp://127.0.0.1:*")
    changes = broker.subscribe()
    for _ in range(3):
        with broker:
            pass
    got = [changes.get() for _ in range(changes.qsize())]
    cycle = [State.STARTING, State.RUNNING, State.DRAINING, State.CLOSED]
    assert [change.new for change in got] == cycle * 3
    assert [change.old for change in got] == [State.NEW, *(cycle * 3)[:-1]]
    assert [change.at for change in got] == sorted(change.at for change in got)
    broker.unsubscribe(changes)
    broker.start()
    broker.stop()
    assert changes.empty()


def test_a_subscriber_that_does_not_read_is_dropped_with_a_warning(caplog):
    from gevent.queue import Queue

    broker = Broker("tcp://127.0.0.1:*")
    full, fine = broker.subscribe(Queue(1)), broker.subscribe()
    with broker:
        pass
    assert (full.qsize(), fine.qsize()) == (1, 4)
    assert "queue of state changes is full" in caplog.text


def test_P6_the_interpreter_ends_without_close():
    script = """
import gmdp
broker = gmdp.Broker("tcp://127.0.0.1:*"); broker.start()
worker = gmdp.Worker(broker.endpoint, "echo", lambda r: r.body); worker.start()
client = gmdp.Client(broker.endpoint)
print(client.request("echo", b"x"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[b'x']\n", 0), done.stderr


def test_serve_forever_raises_when_its_owner_was_killed(broker):
    """A supervisor must not take the end for a stop."""
    server = gevent.spawn(broker.serve_forever)
    gevent.sleep(0)
    broker._owner.greenlet.kill()
    with pytest.raises(OwnerDied):
        server.get(timeout=30)
    broker.start()
    broker.stop()


def test_serve_forever_does_not_stop_the_next_life(unused_endpoint):
    broker = Broker(unused_endpoint)
    server = gevent.spawn(broker.serve_forever)
    wait_until(lambda: broker.started)
    changes = broker.subscribe()

    def restart():
        while changes.get().new is not State.CLOSED:
            pass
        broker.start()

    supervisor = gevent.spawn(restart)
    gevent.spawn(broker.stop)
    gevent.joinall([server, supervisor], timeout=30, raise_error=True)
    assert broker.started
    broker.stop()


# Stopping from where nobody may wait, and with odd times


@pytest.mark.parametrize("method", ["stop", "close"])
def test_G5_in_the_hub_a_stop_begins_and_returns(broker, method):
    """Brokers, workers and clients; what runs is finished."""
    hold = Event()
    worker = Worker(broker.endpoint, "held", lambda request: hold.wait() and b"done")
    client = AsyncClient(broker.endpoint)
    done = []
    with worker, client:
        future = client.submit("held", b"")
        wait_until(lambda: worker.statistics().busy)

        def stop_in_hub():
            for stopped in (worker, client, broker) if method == "close" else (worker, broker):
                getattr(stopped, method)()
            done.append(True)

        gevent.get_hub().loop.run_callback(stop_in_hub)
        wait_until(lambda: done)
        hold.set()
        wait_until(lambda: worker.closed and broker.closed)
        if method == "stop":
            assert future.get(timeout=30) == [b"done"]


def test_G5_in_the_hub_of_another_thread_a_stop_begins_and_returns(broker):
    client = Client(broker.endpoint, threaded=True)
    assert client.request("mmi.nothing", b"") == [b"501"]
    gevent.get_hub().loop.run_callback(client.close)
    wait_until(lambda: client.closed)
    client.close()
    client._thread.join()


@pytest.mark.parametrize("wrong", ["5", float("nan"), -1, True, b"", [5]])
def test_G13_a_wrong_time_to_stop_is_an_error_before_anything_changes(broker, wrong):
    with Worker(broker.endpoint, "it", echo) as worker, AsyncClient(broker.endpoint) as client:
        for stopped in (broker, worker, client):
            before = stopped.state
            with pytest.raises(ConfigurationError, match="timeout"):
                stopped.stop(wrong)
            with pytest.raises(ConfigurationError, match="stop_timeout"):
                stopped.serve_forever(wrong)
            assert stopped.state is before
        broker.stop_timeout = wrong
        with pytest.raises(ConfigurationError, match="stop_timeout"):
            broker.stop()
        del broker.stop_timeout
        assert client.request("it", b"x") == [b"x"]


# What a log handler of the program raises in the greenlet that starts or stops


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.DRAINING])
def test_G3_a_log_handler_that_raises_its_caller_s_timeout_leaves_nothing_open(unused_endpoint, nothing_left, state):
    """It ends a stop there; a start writes nothing before it has ended."""
    timeout = gevent.Timeout(600)

    class Handler(logging.Handler):
        def emit(self, record):
            if f"-> {state.value}" in record.getMessage():
                raise timeout

    logger, handler = logging.getLogger("gmdp"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    broker = Broker(unused_endpoint)
    try:
        if state is State.DRAINING:
            broker.start()
            logs.flush(30)
            with pytest.raises(gevent.Timeout):
                broker.stop()
            wait_until(lambda: broker.closed)
        else:
            broker.start()
            logs.flush(30)
            broker.stop()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    wait_until(lambda: gevent.spawn(starts, broker).get())
    broker.stop()
    nothing_left()


def test_G5_an_interrupt_at_the_end_of_a_start_leaves_nothing_open(unused_endpoint, nothing_left, monkeypatch):
    broker = Broker(unused_endpoint)
    advance = broker._advance

    def interrupted(state, reason=""):
        advance(state, reason)
        if state is State.RUNNING:
            raise KeyboardInterrupt

    monkeypatch.setattr(broker, "_advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broker.start()
    assert broker.closed
    nothing_left()


@pytest.mark.parametrize("where", ["main greenlet", "greenlet before the first owner"])
def test_G3_a_log_handler_that_waits_shows_nobody_half_a_start(broker, monkeypatch, where):
    class Handler(logging.Handler):
        def emit(self, record):
            gevent.sleep(0)

    logger, handler = logging.getLogger("gmdp"), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with Worker(broker.endpoint, "echo", echo), Client(broker.endpoint, timeout=20) as client:
            client.request("echo", b"")
            logs.flush(30)
            client.close()
            for _ in range(2):  # a restart, too
                client = Client(broker.endpoint, timeout=20) if client.closed else client
                if where == "main greenlet":
                    others = [gevent.spawn(client.request, "echo", b"2")]
                    client.start()
                else:
                    monkeypatch.setattr(logs, "_queues", weakref.WeakKeyDictionary())
                    starter = gevent.spawn(client.start)
                    others = [gevent.spawn(client.request, "echo", b"2")]
                    starter.get()
                assert [other.get() for other in others] == [[b"2"]]
                client.close()
    finally:
        logs.flush(30)
        logger.removeHandler(handler)
        logger.setLevel(level)


def starts(broker):
    with contextlib.suppress(BindError):  # ZeroMQ closes sockets in the background
        broker.start()
    return broker.started


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_start_waits_for_the_first(unused_endpoint, monkeypatch, fails):
    broker, proceed = Broker(unused_endpoint), Event()
    opened = broker._open

    def slowly():
        proceed.wait()
        if fails:
            raise BindError("taken")
        return opened()

    monkeypatch.setattr(broker, "_open", slowly)
    first = gevent.spawn(broker.start)
    wait_until(lambda: broker.state is State.STARTING)
    second = gevent.spawn(broker.start)
    wait_until(lambda: broker._start_waiters)
    proceed.set()
    if fails:
        with pytest.raises(BindError):
            first.get()
        with pytest.raises(StateError, match="the start by another greenlet has failed: taken"):
            second.get()
    else:
        gevent.joinall([first, second], raise_error=True)
        assert broker.state is State.RUNNING
        broker.stop()
    assert broker.closed
